"""Runs that end early, or find what others have left: what they say of the lake, which is true, and what becomes of it.
Tables that have no rows.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from conftest import DECEMBER, NOVEMBER, OCTOBER, ROOT, Done, event_record, rows, run_here, song_record, write_files
from pyspark.sql import SparkSession

import etl

SONGS = [song_record(song_id="SO%d" % n, title="Song %d" % n, artist_id="AR%d" % n, year=2000 + n) for n in range(4)]
AS_IT_WAS = "failed, the lake is as it was: "


def play(ts: int, user: int = 1, **changes: Any) -> Dict[str, Any]:
    return event_record(ts=ts, userId=str(user), **changes)


class Words(io.StringIO):
    """What a run says, where something happens as soon as it has said a text."""

    def __init__(self, text: str, action: Callable[[], Any]) -> None:
        super().__init__()
        self.text, self.action = text, action

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.text and self.text in text:
            self.text = ""
            self.action()
        return written


class Site:
    """An input and its lake, and the command, run in this process."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder, self.lake = spark, folder, folder / "lake"

    def put(self, files: Dict[str, Any]) -> None:
        write_files(self.folder, files)

    def flags(self) -> List[str]:
        paths = {"song-data": "songs", "log-data": "logs", "output": "lake"}
        return ["--mode=LOCAL", *["--%s=%s" % (flag, self.folder / name) for flag, name in paths.items()]]

    def run(self, *options: str, after: str = "", action: Callable[[], Any] = lambda: None) -> Done:
        """Run the job; what is given happens after it has said a text."""
        return run_here(self.spark, "--max-bad-percent=100", *self.flags(), *options, err=Words(after, action))

    def succeed(self, *options: str) -> str:
        done = self.run(*options)
        assert done.code == 0, done.err
        assert not [name for name in ("_work", "_locks") if (self.lake / name).exists()]
        return done.err

    def content(self) -> Dict[str, Any]:
        return {name: rows(self.spark.read.parquet(str(self.lake / name))) for name in etl.TABLES}

    def files(self) -> Dict[str, bytes]:
        paths = [path for name in etl.TABLES for path in (self.lake / name).rglob("*") if path.is_file()]
        return {path.relative_to(self.lake).as_posix(): path.read_bytes() for path in paths}

    def staged(self) -> List[Path]:
        """The files of songs that a run has built and not published."""
        return sorted(self.lake.glob("_work/*/songs/**/*.parquet"))

    def run_id(self) -> str:
        """The run that has left something."""
        (folder,) = (self.lake / "_work").iterdir()
        return folder.name


class Scenes:
    """What tests begin with, each made once: "input", of which there is no lake; "built", with its lake; "cut off",
    where one more file has come and a run has died after the first table of the next lake.
    """

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.site, self.kept = Site(spark, folder / "site"), folder / "kept"
        self.site.put({"songs/%d.json" % n: [song] for n, song in enumerate(SONGS)})
        self.site.put({"logs/1.json": [play(NOVEMBER), play(DECEMBER, 2)]})
        for path in self.site.folder.rglob("*.json"):
            os.utime(str(path), (1, 1))  # so that no run takes it for being written
        self.keep("input")
        self.site.succeed()
        self.keep("built")
        self.site.put({"logs/2.json": [play(OCTOBER)]})
        os.utime(str(self.site.folder / "logs/2.json"), (1, 1))
        with pytest.MonkeyPatch.context() as patch:
            fail_at_table(patch, 1, FULL)
            assert "the next run finishes publishing it" in self.site.run("--full").last()
        self.keep("cut off")

    def keep(self, name: str) -> None:
        shutil.copytree(str(self.site.folder), str(self.kept / name))

    def restore(self, name: str) -> Site:
        """The site as it was then, where it was then."""
        shutil.rmtree(str(self.site.folder))
        shutil.copytree(str(self.kept / name), str(self.site.folder))
        return self.site


@pytest.fixture(scope="module")
def scenes(interpreted_plans: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return Scenes(interpreted_plans, tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def unbuilt(scenes: Scenes) -> Site:
    return scenes.restore("input")


@pytest.fixture
def site(scenes: Scenes) -> Site:
    return scenes.restore("built")


@pytest.fixture
def cut_off(scenes: Scenes) -> Site:
    return scenes.restore("cut off")


def fail(error: BaseException) -> Callable[..., Any]:
    def failing(*_: Any) -> Any:
        raise error

    return failing


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail_at_table(patch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Let publishing fail at one of the tables that it replaces."""
    really, calls = etl.LocalStore.exchange, []

    def exchange(store: Any, new: str, old: str) -> Any:
        if old in etl.TABLES:
            calls.append(old)
        if len(calls) > number:
            raise error
        return really(store, new, old)

    patch.setattr(etl.LocalStore, "exchange", exchange)


# ------------------------------------------------------------------------------------ what was written is checked


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [lose, cut])
def test_files_of_songs_that_are_lost_or_short_after_writing_are_noticed(
    unbuilt: Site, damage: Callable[[Path], None]
) -> None:
    site = unbuilt
    done = site.run(after="build songs", action=lambda: damage(site.staged()[1]))
    assert done.code == 2, done.err
    assert done.last().startswith("etl.py: publish " + AS_IT_WAS)
    assert "songs/year=2001/artist_id=AR1/part-" in done.last()
    assert site.files() == {}
    if damage is lose:
        assert "finished the publishing" not in site.succeed()


@pytest.mark.parametrize("full", [False, True])
def test_files_of_songs_that_never_came_are_noticed(site: Site, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    write = etl.write

    def write_less(job: Any, frame: Any, name: str, *partitions: Any) -> Any:
        return write(job, frame.where("song_id <> 'SO2'") if name == "songs" else frame, name, *partitions)

    before = site.files()
    site.put({"songs/2.json": [{**SONGS[2], "title": "Another"}]})
    monkeypatch.setattr(etl, "write", write_less)
    done = site.run(*(["--full"] if full else []))
    assert done.code == 1, done.err
    assert done.last() == "etl.py: %ssongs: 3 rows were written, not those that were built" % AS_IT_WAS
    assert site.files() == before


@pytest.mark.parametrize(
    "come",
    [{"logs/2.json": [play(NOVEMBER + 1)]}, {"songs/4.json": [song_record(song_id="SO4")]}],
    ids=["a day", "a song"],
)
def test_plays_that_never_came_are_noticed_whatever_has_changed(
    site: Site, monkeypatch: pytest.MonkeyPatch, come: Dict[str, Any]
) -> None:
    write = etl.write

    def write_less(job: Any, frame: Any, name: str, *partitions: Any) -> Any:
        return write(job, frame.where("user_id <> 1") if name == "songplays" else frame, name, *partitions)

    before = site.files()
    site.put(come)
    monkeypatch.setattr(etl, "write", write_less)
    done = site.run()
    assert done.code == 1, done.err
    assert "rule broken: staging_events: songplay_id is in songplays" in done.last()
    assert site.files() == before


def test_files_of_a_table_that_are_lost_before_publishing_are_noticed(site: Site) -> None:
    def lose_table() -> None:
        (folder,) = site.lake.glob("_work/*/staging_events")
        shutil.rmtree(str(folder))

    before = site.files()
    site.put({"logs/2.json": [play(OCTOBER)]})
    done = site.run(after="  check ", action=lose_table)
    assert done.code == 2
    assert done.last().startswith("etl.py: publish " + AS_IT_WAS)
    assert " is missing" in done.last()
    assert site.files() == before


# ------------------------------------------------------------------------------------ what is said of the lake


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of signals are as before when a test ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_tidily(unbuilt: Site, handlers: None, number: signal.Signals, code: int) -> None:
    site = unbuilt
    signal.signal(number, signal.SIG_IGN)
    etl.take_signals()
    done = site.run(after="build songs", action=lambda: os.kill(os.getpid(), number))
    assert done.code == code
    assert done.last() == "etl.py: interrupted, the lake is as it was"
    assert site.files() == {}
    assert not (site.lake / "_work").exists()


@pytest.mark.once
@pytest.mark.parametrize("step", ["changes", "write"])
def test_a_run_that_fails_before_the_journal_promises_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = site.files()
    site.put({"logs/2.json": [play(OCTOBER)]})
    with monkeypatch.context() as patch:
        really = getattr(etl.LocalStore, step)

        def full(store: Any, name: str, *others: Any) -> Any:
            if step == "changes" or name.endswith("/journal.json"):
                raise FULL
            return really(store, name, *others)

        patch.setattr(etl.LocalStore, step, full)
        done = site.run()
    assert done.code == 2
    assert done.last().startswith("etl.py: publish " + AS_IT_WAS + "[Errno 28] No space left on device")
    assert site.files() == before
    (site.folder / "logs/2.json").unlink()
    assert "finished the publishing" not in site.succeed()


@pytest.mark.once
@pytest.mark.parametrize(
    ("error", "code", "words"), [(KeyboardInterrupt(), 130, "interrupted"), (FULL, 2, "start failed")]
)
def test_while_the_publishing_of_an_earlier_run_is_finished_the_sentence_tells_of_that(
    cut_off: Site, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    first = cut_off.run_id()
    with monkeypatch.context() as patch:
        fail_at_table(patch, 0, error)
        done = cut_off.run()
    assert done.code == code
    told = "etl.py: %s, the publishing of run %s is half done, and the next run finishes it"
    assert done.last().startswith(told % (words, first))
    cut_off.put({"logs/3.json": "{\n" * 9})
    done = cut_off.run("--max-bad-percent=5")  # fails after it has finished the earlier one
    assert done.code == 1
    assert "  finished the publishing of run %s, which had died" % first in done.err
    assert done.last().startswith("etl.py: failed, the lake is as run %s has built it: " % first)
    assert len(cut_off.content()["songplays"]) == 3


@pytest.mark.once
def test_a_run_that_is_interrupted_after_publishing_says_that_the_lake_is_new(
    unbuilt: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = unbuilt
    with monkeypatch.context() as patch:
        patch.setattr(etl, "discard", fail(KeyboardInterrupt()))
        done = site.run()
    assert done.code == 130
    assert done.last() == "etl.py: interrupted, the lake is published"
    assert len(site.content()["songplays"]) == 2
    site.succeed()


@pytest.mark.once
def test_the_empty_folder_of_a_run_that_died_at_its_very_end_goes(site: Site) -> None:
    (site.lake / "_work").mkdir()
    assert "nothing has changed" in site.succeed()


@pytest.mark.once
@pytest.mark.parametrize("error", [KeyboardInterrupt(), FULL])
def test_while_what_a_dead_run_has_left_is_removed_the_lake_is_as_it_was(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A run that had not begun to publish, or none at all."""
    for left in (True, False):
        if left:
            write_files(site.lake / "_work/20181101T000000Z-abcdef/songs", {"part": "built"})
        with monkeypatch.context() as patch:
            patch.setattr(etl, "discard" if left else "recover", fail(error))
            done = site.run()
        assert done.code == (130 if isinstance(error, KeyboardInterrupt) else 2)
        assert ", the lake is as it was" in done.last()
        site.succeed()


# ------------------------------------------------------------------------------------ what dead runs have left


def of_another_version(journal: Path) -> None:
    journal.write_text(json.dumps({"report": "{}", "changed": dict.fromkeys(etl.TABLES)}))


def of_a_later_format(journal: Path) -> None:
    journal.write_text(json.dumps({**json.loads(journal.read_text()), "format": 99}))


def without_a_table(journal: Path) -> None:
    shutil.rmtree(str(journal.parent / "songs"))


def with_a_short_file(journal: Path) -> None:
    cut(next((journal.parent / "songplays").rglob("*.parquet")))


@pytest.mark.once
@pytest.mark.parametrize(
    "damage", [of_another_version, of_a_later_format, cut, empty, without_a_table, with_a_short_file]
)
def test_a_publication_that_cannot_be_finished_is_said_and_what_to_do(
    cut_off: Site, damage: Callable[[Path], None]
) -> None:
    dead, before = cut_off.run_id(), cut_off.files()
    damage(cut_off.lake / "_work" / dead / "journal.json")
    for _ in range(2):
        refused = cut_off.run()
        assert refused.code == 2
        assert refused.last().startswith("etl.py: run %s died while publishing and cannot be finished, since " % dead)
        assert refused.last().endswith(": build the lake from the input with --full")
    assert {name.split("/")[0] for name in cut_off.files()} == {name.split("/")[0] for name in before}


@pytest.mark.once
def test_what_a_dead_run_has_left_stays_until_a_full_run_has_published(cut_off: Site) -> None:
    dead, site = cut_off.run_id(), cut_off
    without_a_table(site.lake / "_work" / dead / "journal.json")
    assert site.run().code == 2
    left = site.files()
    site.put({"logs/3.json": "{\n" * 9})
    failed = site.run("--full", "--max-bad-percent=5")
    assert failed.code == 1
    assert "  run %s died while publishing and cannot be finished, since " % dead in failed.err
    assert failed.last().startswith("etl.py: failed, the lake is as run %s, which had died, has left it: " % dead)
    assert site.files() == left
    assert (site.lake / "_work" / dead).exists()  # what it left may be all that is left of the old lake
    (site.folder / "logs/3.json").unlink()
    site.succeed("--full")
    assert len(site.content()["songplays"]) == 3
    assert "publishing" not in site.succeed()


@pytest.mark.once
def test_a_journal_that_came_after_its_run_was_cleared_away_deletes_nothing(cut_off: Site) -> None:
    """As from a run that was cut off while it wrote its journal."""
    dead, site = cut_off.run_id(), cut_off
    folder = site.lake / "_work" / dead
    journal = (folder / "journal.json").read_text()
    site.succeed()
    before = site.content()
    write_files(folder, {"journal.json": journal})
    done = site.run()
    assert done.code == 0 or done.last().endswith(": build the lake from the input with --full")
    assert site.content() == before
    site.succeed("--full")
    assert site.content() == before


# ------------------------------------------------------------------------------------ tables without rows

TYPES = {"bigint": "int64", "int": "int32", "double": "double", "string": "string"}


def assert_readable(site: Site, *without_rows: str) -> None:
    """Spark, DuckDB and PyArrow find all columns of all tables, and no rows in some."""
    for name in etl.TABLES:
        folder, columns = site.lake / name, etl.columns_of(name)
        found = site.spark.read.parquet(str(folder))
        assert sorted(found.dtypes) == sorted(columns), name
        counts = {found.count()}
        with suppress(ImportError):
            import duckdb
            import pyarrow.dataset

            read = duckdb.sql("from read_parquet('%s/**/*.parquet', hive_partitioning = true)" % folder)
            assert sorted(read.columns) == sorted(column for column, _ in columns)
            arrow = pyarrow.dataset.dataset(str(folder), partitioning="hive")
            kinds = {column: str(kind) for column, kind in zip(arrow.schema.names, arrow.schema.types)}
            assert kinds.keys() == dict(columns).keys()
            assert all(kinds[column] == TYPES[kind] for column, kind in columns if kind in TYPES)
            counts |= {len(read.fetchall()), arrow.count_rows()}
        assert counts == ({0} if name in without_rows else counts - {0}), name
        assert len(counts) == 1, name


def test_tables_that_lose_all_rows_and_get_new_ones_stay_readable(site: Site) -> None:
    site.put({"logs/1.json": [event_record(page="Home", ts=NOVEMBER + 7)]})
    assert "everything is built" not in site.succeed()
    assert_readable(site, "songplays", "time")
    site.put({"logs/2.json": [event_record(page="Home", ts=NOVEMBER + 9)]})
    site.succeed()
    assert_readable(site, "songplays", "time")
    site.put({"logs/3.json": [play(DECEMBER)]})
    assert "everything is built" not in site.succeed()
    assert_readable(site)
    assert [path.name for path in site.lake.glob("songplays/*/*")] == ["month=12"]


# ------------------------------------------------------------------------------------ readers that have left


@pytest.mark.once
@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_has_left_is_no_failure(site: Site, both: bool) -> None:
    """A process, of a run that finds nothing new and needs no Spark."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, str(ROOT / "etl.py"), *site.flags()],
        stdout=writer,
        stderr=writer if both else subprocess.PIPE,
        timeout=300,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert both or b"etl.py" not in done.stderr
    reports = [json.loads(path.read_text()) for path in (site.lake / "_runs").iterdir()]
    assert sorted(report["status"] for report in reports) == ["published", "unchanged"]
