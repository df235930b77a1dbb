"""A run over what has not changed since the last one, and everything that counts as a change."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from conftest import event_record, song_record, write_files
from pyspark.sql import SparkSession

import etl

LONG_AGO = 1_000_000_000  # seconds
FOLDERS = ("songs", "logs", *etl.KEPT)


def config_of(folder: Path, **changes: Any) -> etl.Config:
    return etl.Config("LOCAL", str(folder / "songs"), str(folder / "logs"), str(folder), 5.0)._replace(**changes)


def age(folder: Path) -> None:
    """Let all files be old."""
    for path in folder.rglob("*"):
        os.utime(str(path), (LONG_AGO, LONG_AGO))


def ledger(spark: SparkSession, folder: Path, **changes: Any) -> etl.Ledger:
    return etl.Ledger(etl.LocalStore(spark, str(folder)), config_of(folder, **changes))


@pytest.fixture
def kept(spark: SparkSession, tmp_path: Path) -> Path:
    """An input, a lake and the ledger of the run that built it."""
    write_files(tmp_path, {"%s/a/%s" % (folder, name): "text" for folder in FOLDERS for name in ("1 é", "2")})
    age(tmp_path)
    ledger(spark, tmp_path).keep({"run_id": "first", "max_bad_percent": 5.0})
    return tmp_path


def test_the_same_input_and_lake_are_unchanged(spark: SparkSession, kept: Path) -> None:
    assert ledger(spark, kept).unchanged() == {"run_id": "first", "max_bad_percent": 5.0}


def write(name: str, text: str, seconds: int = LONG_AGO) -> Callable[[Path], None]:
    """A change that writes a file."""

    def change(folder: Path) -> None:
        write_files(folder, {name: text})
        os.utime(str(folder / name), (seconds, seconds))

    return change


def replace_ledger(text: str) -> Callable[[Path], None]:
    """A change that writes another ledger."""

    def change(folder: Path) -> None:
        write_files(folder, {"/".join(etl.LEDGER): text})

    return change


def edit_ledger(**changes: Any) -> Callable[[Path], None]:
    """A change of the ledger."""

    def change(folder: Path) -> None:
        path = folder.joinpath(*etl.LEDGER)
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


CHANGES: Dict[str, Callable[[Path], None]] = {
    "a song comes": write("songs/b/3", "text"),
    "a log comes": write("logs/b/3", "text"),
    "a log grows": write("logs/a/2", "longer text"),
    "a log is corrected at the same size": write("logs/a/2", "TEXT", LONG_AGO + 1),
    "a song goes": lambda folder: (folder / "songs/a/2").unlink(),
    "all logs go": lambda folder: shutil.rmtree(str(folder / "logs")),
    "a song is renamed": lambda folder: os.rename(str(folder / "songs/a/2"), str(folder / "songs/a/3")),
    "a table has gone": lambda folder: shutil.rmtree(str(folder / "songs")),
    "a file of a table has gone": lambda folder: (folder / "users/a/2").unlink(),
    "a table has another file": write("time/a/3", "text"),
    "a failed run has replaced the quarantine": write("_quarantine/a/2", "TEXT", LONG_AGO + 1),
    "there is no ledger": lambda folder: folder.joinpath(*etl.LEDGER).unlink(),
    "the ledger is damaged": replace_ledger('{"version": '),
    "the ledger is something else": replace_ledger("[1]"),
    "the ledger is another job's": edit_ledger(version="0"),
    "the ledger lacks the report": edit_ledger(report={}),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_is_seen(spark: SparkSession, kept: Path, change: str) -> None:
    CHANGES[change](kept)
    assert ledger(spark, kept).unchanged() is None


def test_another_input_is_a_change_though_its_files_are_called_alike(spark: SparkSession, kept: Path) -> None:
    shutil.copytree(str(kept / "logs"), str(kept / "other logs"))
    assert ledger(spark, kept, log_data=str(kept / "other logs")).unchanged() is None


def test_a_lower_limit_on_bad_records_is_a_change(spark: SparkSession, kept: Path) -> None:
    assert ledger(spark, kept, max_bad_percent=4.9).unchanged() is None
    assert ledger(spark, kept, max_bad_percent=5.1).unchanged()


def test_a_file_that_was_written_just_before_it_was_listed_counts_as_changed(spark: SparkSession, kept: Path) -> None:
    found = ledger(spark, kept)
    young = found.listed - 1
    os.utime(str(kept / "logs/a/2"), (young, young))
    found = ledger(spark, kept)
    found.listed = young + 1  # as if the listing had been in the same moment
    found.keep({"run_id": "second", "max_bad_percent": 5.0})
    assert ledger(spark, kept).unchanged() is None


def test_a_listing_by_hadoop_is_that_of_the_folder(spark: SparkSession, kept: Path) -> None:
    assert etl.list_stored_files(spark, "file://%s" % (kept / "logs")) == {
        "a/1 é": (4, LONG_AGO * 1000),
        "a/2": (4, LONG_AGO * 1000),
    }
    assert etl.list_local_files(str(kept / "logs")) == etl.list_stored_files(spark, "file://%s" % (kept / "logs"))
    assert etl.list_stored_files(spark, "file://%s" % (kept / "none")) == {}
    assert etl.list_local_files(str(kept / "none")) == {}


@pytest.mark.once
def test_a_run_that_finds_nothing_new_leaves_the_lake_and_reports(spark: SparkSession, tmp_path: Path) -> None:
    write_files(tmp_path / "in", {"songs/1.json": [song_record()], "logs/1.json": [event_record(), event_record()]})
    age(tmp_path / "in")
    lake = tmp_path / "lake"
    config = config_of(tmp_path / "in", output=str(lake))

    def run(**changes: Any) -> Dict[str, Any]:
        said = io.StringIO()
        report = etl.Run(spark, config._replace(**changes), etl.Progress(said)).execute()
        spark.conf.set("spark.sql.shuffle.partitions", "2")
        stored = json.loads((lake / "_runs" / (report["run_id"] + ".json")).read_text())
        assert stored == json.loads(json.dumps(report))
        return {**report, "said": said.getvalue()}

    def inodes() -> Dict[str, int]:
        return {str(path): path.stat().st_ino for table in etl.TABLES for path in (lake / table).rglob("*.parquet")}

    first, before = run(), inodes()
    second, third = run(), run()
    assert inodes() == before
    for report in (second, third):
        assert report["status"] == "unchanged"
        assert report["unchanged_since"] == first["run_id"]
        assert report["account"] == first["account"]
        assert report["tables"] == first["tables"]
    assert len({report["run_id"] for report in (first, second, third)}) == 3
    assert second["said"] == "  nothing has changed since run %s (--full builds the lake anew)\n" % first["run_id"]
    assert "log_data   2 records = 1 plays + 1 duplicates" in etl.summary(second)
    assert run(full=True)["status"] == "published"
    assert inodes().keys().isdisjoint(before)
