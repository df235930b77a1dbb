"""Runs that go on from what the last one has left: the plan, and that they give what a run over everything gives."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple, Union

import pytest
from conftest import DECEMBER, NOVEMBER, OCTOBER, event_record, rows, song_record, write_files
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pyspark.sql import SparkSession

import etl

# ------------------------------------------------------------------------------------ the plan

OCT, NOV, DEC = (2018, 10), (2018, 11), (2018, 12)
LATE = 10**12
CONFIG = etl.Config("LOCAL", "/songs", "/logs", "/lake", 5.0)
LISTING: Dict[str, etl.Files] = {
    "song_data": {"A/1.json": (10, 1000), "A/2.json": (10, 1000)},
    "log_data": {"oct.json": (20, 1000), "nov.json": (20, 1000), "both.json": (30, 1000), "none.json": (5, 1000)},
}
MONTHS = {"oct.json": [OCT], "nov.json": [NOV], "both.json": [OCT, NOV]}
LAKE: Dict[str, etl.Files] = {name: {"a/part-0.parquet": (7, 1), "b/part-0.parquet": (8, 1)} for name in etl.PUBLISHED}


def ledger(**changes: Any) -> etl.Ledger:
    """What a run over LISTING leaves."""
    files = {
        name: {file: etl.Entry(*about, MONTHS.get(file, [])) for file, about in found.items()}
        for name, found in LISTING.items()
    }
    return etl.Ledger(
        inputs={"song_data": "/songs", "log_data": "/logs"},
        files=files,
        tables={name: (etl.digest(found), etl.Size(3, 2, 15, {"song_id": 3})) for name, found in LAKE.items()},
        reasons={"song_data": Counter(), "log_data": Counter({"broken JSON": 1})},
        report={"run_id": "first"},
        code=etl.code_version(),
    )._replace(**changes)


def planned(
    left: Union[etl.Ledger, str, None] = None,
    listing: Mapping[str, etl.Files] = LISTING,
    lake: Mapping[str, etl.Files] = LAKE,
    **changes: Any,
) -> etl.Plan:
    return etl.plan(CONFIG._replace(**changes), ledger() if left is None else left, listing, lake)


def with_files(name: str, files: Mapping[str, Any]) -> Dict[str, etl.Files]:
    """The listing with other files; a file that is None has gone."""
    found = {**LISTING[name], **files}
    return {**LISTING, name: {file: about for file, about in found.items() if about is not None}}


class Case(NamedTuple):
    """A change of the input, the files that are then read, those whose rows go, and the months that lose events."""

    files: Mapping[str, Any]
    read: Sequence[str] = ()
    gone: Sequence[str] = ()
    months: Sequence[etl.Month] = ()
    name: str = "log_data"


CASES = {
    "nothing": Case({}),
    "a song comes": Case({"B/3.json": (10, 2000)}, ["B/3.json"], name="song_data"),
    "a song is corrected": Case({"A/2.json": (11, 1000)}, ["A/2.json"], ["A/2.json"], name="song_data"),
    "a song goes": Case({"A/2.json": None}, gone=["A/2.json"], name="song_data"),
    "a song is renamed": Case({"A/2.json": None, "C.json": (10, 1000)}, ["C.json"], ["A/2.json"], name="song_data"),
    "a log comes": Case({"dec.json": (20, 1000)}, ["dec.json"]),
    "an older log comes": Case({"dec.json": (20, 1)}, ["dec.json"]),
    "logs come": Case({"z.json": (1, 1), "a.json": (1, 1)}, ["a.json", "z.json"]),
    "a log grows": Case({"nov.json": (21, 1000)}, ["nov.json"], ["nov.json"], [NOV]),
    "a log is corrected at the same size": Case({"nov.json": (20, 1001)}, ["nov.json"], ["nov.json"], [NOV]),
    "an older copy of a log comes back": Case({"nov.json": (20, 999)}, ["nov.json"], ["nov.json"], [NOV]),
    "a log of two months is corrected": Case({"both.json": (31, 1000)}, ["both.json"], ["both.json"], [OCT, NOV]),
    "a log goes": Case({"oct.json": None}, gone=["oct.json"], months=[OCT]),
    "a log without events goes": Case({"none.json": None}, gone=["none.json"]),
    "all logs go": Case(dict.fromkeys(LISTING["log_data"]), (), sorted(LISTING["log_data"]), [OCT, NOV]),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_plan_reads_what_has_changed(case: str) -> None:
    files, read, gone, months, name = CASES[case]
    found = planned(listing=with_files(name, files))
    (other,) = {*etl.INPUTS} - {name}
    assert {key: list(value) for key, value in found.read.items()} == {name: list(read), other: []}
    assert {key: list(value) for key, value in found.gone.items()} == {name: list(gone), other: []}
    assert (found.why, list(found.months)) == ("", list(months))
    assert found.idle() == (case == "nothing")
    assert [found.changes(of) for of in (name, other)] == [case != "nothing", False]


def without_file(table: str) -> Dict[str, etl.Files]:
    return {**LAKE, table: {"a/part-0.parquet": (7, 1)}}


EVERYTHING: Dict[str, Tuple[Dict[str, Any], str]] = {
    "--full": ({"full": True}, "--full"),
    "no ledger": ({"left": "no earlier run has left a ledger"}, "no earlier run has left a ledger"),
    "another script": ({"left": ledger(code="0")}, "another version of etl.py has built the lake"),
    "another input": ({"log_data": "/other"}, "log_data was /logs"),
    "a table has gone": ({"lake": {**LAKE, "songplays": {}}}, "songplays is not as the last run has left it"),
    "another file": ({"lake": {**LAKE, "time": {**LAKE["time"], "c": (1, 1)}}}, "time is not as the last run"),
    "a file is cut off": (
        {"lake": {**LAKE, "users": {**LAKE["users"], "b/part-0.parquet": (0, 1)}}},
        "users is not as",
    ),
    **{
        "a file of %s has gone" % table: ({"lake": without_file(table)}, "%s is not as the last run" % table)
        for table in etl.PUBLISHED
    },
}


@pytest.mark.parametrize("case", list(EVERYTHING))
def test_a_plan_is_everything_where_a_run_cannot_go_on(case: str) -> None:
    changes, why = EVERYTHING[case]
    found = planned(**changes)
    assert found.why.startswith(why)
    assert {name: list(files) for name, files in found.read.items()} == {n: sorted(f) for n, f in LISTING.items()}
    assert not any(found.gone.values())
    assert not found.months
    assert not found.idle()


WORK: Dict[str, Tuple[Dict[str, Any], List[etl.Month], int]] = {
    "everything": ({"full": True}, [], 20 + 75),
    "a day of a month that is not known yet": (
        {"listing": with_files("log_data", {"dec.json": (40, 1)})},
        [],
        40 + 3 + 100,
    ),
    "a day": ({"listing": with_files("log_data", {"dec.json": (40, 1)})}, [DEC], 40 + 3 + 7),
    "a late day": ({"listing": with_files("log_data", {"late.json": (40, 1)})}, [NOV], 40 + 3 + 50 + 7),
    "a song": ({"listing": with_files("song_data", {"new.json": (60, 1)})}, [], 60 + 3 + 157),
    "a song and a day": (
        {
            "listing": {
                **with_files("song_data", {"new.json": (60, 1)}),
                "log_data": {**LISTING["log_data"], "dec.json": (40, 1)},
            }
        },
        [DEC],
        60 + 40 + 3 + 157,
    ),
    "a day goes": ({"listing": with_files("log_data", {"nov.json": None})}, [NOV], 3 + 157),
}


@pytest.mark.parametrize("case", list(WORK))
def test_what_a_run_reads_grows_with_the_events_that_it_may_match_or_build_anew(case: str) -> None:
    changes, months, expected = WORK[case]
    sizes = {"10/part-0": 100, "11/part-0": 20, "11/part-1": 30, "12/part-0": 7}
    events = {"year=2018/month=" + name: (size, 1) for name, size in sizes.items()}
    lake = {**LAKE, "staging_songs": {"part-0": (3, 1)}, "staging_events": events}
    found = etl.Survey(changes.get("listing", LISTING), lake, "", ledger(), planned(**changes))
    assert etl.work_bytes(found, months) == expected


@pytest.mark.parametrize(("name", "most"), [("log_data", 128 * 2**20), ("song_data", 32 * 2**20)])
def test_java_is_started_for_a_short_run_by_what_there_is_to_read(name: str, most: int) -> None:
    for size, soon in ((most - 1, True), (most, False)):
        listing: Dict[str, etl.Files] = {"song_data": {}, "log_data": {}, name: {"1.json": (size, 1)}}
        found = etl.Survey(listing, LAKE, "", "no ledger", planned("no ledger", listing))
        assert etl.ends_soon(found) == soon


def test_a_lake_that_was_copied_is_the_same() -> None:
    copied = {name: {file: (size, 999) for file, (size, _) in files.items()} for name, files in LAKE.items()}
    assert planned(lake=copied).idle()


@pytest.mark.parametrize(("age", "again"), [(0, True), (1999, True), (2001, False), (-5000, True)])
def test_a_file_that_may_have_been_amid_writing_is_read_again(age: int, again: bool) -> None:
    """In ms before it was read; of a clock that is behind, too."""
    nothing: Any = None
    files = etl.entries({"a": (1, LATE - age)}, etl.Parsed(nothing, nothing, {}, {"a": [NOV]}, began_ms=LATE))
    left = ledger(files={"song_data": ledger().files["song_data"], "log_data": files})
    found = planned(left, {**LISTING, "log_data": {"a": (1, LATE - age)}})
    assert list(found.read["log_data"]) == (["a"] if again else [])
    assert list(found.months) == ([NOV] if again else [])


def test_a_plan_in_words() -> None:
    assert etl.plan_text(planned("because")) == (
        "everything is built from 2 files of song_data, 4 files of log_data: because"
    )
    assert etl.plan_text(planned()) == "nothing is to be done"
    files = {"oct.json": None, "nov.json": (1, 1), **{"%d.json" % n: (1, 1) for n in range(1200)}}
    assert etl.plan_text(planned(listing=with_files("log_data", files))) == (
        "song_data: as it was; log_data: 1,200 new, 1 changed, 1 gone"
    )


# ------------------------------------------------------------------------------------ the ledger


def test_a_ledger_is_read_as_it_was_stored() -> None:
    odd = {"a \u00e9 \udcf6.json": etl.Entry(1, 2, [NOV])}
    left = ledger(files={"song_data": {}, "log_data": odd})
    found = etl.ledger_of(etl.ledger_text(left))
    assert isinstance(found, etl.Ledger)
    assert found.files == left.files
    assert found == left
    assert planned(etl.ledger_of(etl.ledger_text(ledger()))).idle()


def edited(**changes: Any) -> str:
    found = {**json.loads(etl.ledger_text(ledger())), **changes}
    return json.dumps({key: value for key, value in found.items() if value is not ...})


DAMAGED = [
    "",
    "[1]",
    "null",
    "{}",
    '{"format": 1',
    edited(files=...),
    edited(files={}),
    edited(tables={}),
    edited(report={}),
]
DAMAGED += [edited(report=None), edited(inputs={"log_data": "x"}), edited(code=...), edited(new=1), edited(reasons=...)]
DAMAGED += [
    edited(files={"song_data": {"a": [1]}, "log_data": {}}),
    edited(files={"song_data": {}, "log_data": {"a": 1}}),
]
DAMAGED += [etl.ledger_text(ledger())[:-1], edited(tables=dict.fromkeys(etl.PUBLISHED, 1))]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_ledger_that_is_damaged_is_none(text: str) -> None:
    assert etl.ledger_of(text) == "the ledger is damaged"


def test_a_ledger_of_another_time_is_none() -> None:
    assert etl.ledger_of(None) == "no earlier run has left a ledger"
    assert etl.ledger_of(edited(format=2)) == "another version of etl.py has built the lake"


def test_another_script_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(text: str) -> str:
        (tmp_path / "etl.py").write_text(text, encoding="utf-8")
        monkeypatch.setattr(etl, "__file__", str(tmp_path / "etl.py"))
        etl.code_version.cache_clear()
        try:
            return etl.code_version()
        finally:
            etl.code_version.cache_clear()

    assert version("x = 1\n") == version("x = 1\n") != version("x = 2\n")


# ------------------------------------------------------------------------------------ the listing

LONG_AGO = 1_000_000_000  # seconds


def surveyed(folder: Path) -> etl.Survey:
    """What a run finds there, without Spark."""
    return etl.survey(config_of(folder), etl.LocalStore(str(folder / "lake")), etl.list_local_files)


def config_of(folder: Path, **changes: Any) -> etl.Config:
    lake = str(folder / "lake")
    return etl.Config("LOCAL", str(folder / "song_data"), str(folder / "log_data"), lake, 5.0)._replace(**changes)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """An input of few files."""
    write_files(tmp_path, {"%s/a/%s" % (name, file): "text" for name in etl.INPUTS for file in ("1 \u00e9", "2")})
    for path in tmp_path.rglob("*"):
        os.utime(str(path), (LONG_AGO, LONG_AGO))
    return tmp_path


def test_a_listing_has_size_and_time_of_each_file(inputs: Path) -> None:
    write_files(inputs, {"log_data/%s" % name: "text" for name in ("a/_b/3", "a/.3", "_3", "a/3._COPYING_")})
    write_files(inputs, {"log_data/empty": ""})
    expected = {"a/1 \u00e9": (4, LONG_AGO * 1000), "a/2": (4, LONG_AGO * 1000)}
    assert surveyed(inputs).listing == {"song_data": expected, "log_data": expected}


def link(folder: Path, name: str, target: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


LINKS = [
    {"2018/all": "..", "2019/all": ".."},
    {"self": "."},
    {"2018/up": ".."},
    {"2018/x": "../2019/y", "2019/y": "../2018/x"},
    {"twice": "2018", "2018/once more": "../2019", "c.json": "2018/a.json", "d.json": "c.json"},
    {"nowhere": "nothing", "nowhere.json": "nothing.json"},
]


@pytest.mark.parametrize("links", LINKS, ids=range(len(LINKS)))
def test_links_end_and_each_file_is_listed_once(tmp_path: Path, links: Mapping[str, str]) -> None:
    folder = write_files(tmp_path, {"2018/a.json": "text", "2019/b.json": "text"})
    for name, target in links.items():
        link(folder, name, target)
    found = [os.path.realpath(str(folder / name)) for name in etl.list_local_files(str(folder))]
    assert sorted(found) == sorted(os.path.realpath(str(folder / name)) for name in ("2018/a.json", "2019/b.json"))


def test_links_to_elsewhere_are_followed(tmp_path: Path) -> None:
    files = ["input/a.json", "elsewhere/x/b.json", "elsewhere/.hidden/c.json", "elsewhere/d.json"]
    write_files(tmp_path, dict.fromkeys(files, "text"))
    link(tmp_path, "elsewhere/x/back", "..")
    link(tmp_path, "input/more", str(tmp_path / "elsewhere" / "x"))
    link(tmp_path, "input/seen.json", str(tmp_path / "elsewhere" / ".hidden" / "c.json"))
    assert len(etl.list_local_files(str(tmp_path / "input"))) == len(files)


@pytest.mark.parametrize("target", ["..", "../..", "/"])
def test_a_link_to_a_folder_above_the_input_is_told(tmp_path: Path, target: str) -> None:
    folder = write_files(tmp_path / "input" / "logs", {"a.json": "text"})
    link(folder, "up", target)
    with pytest.raises(etl.UsageError, match=re.escape("%s/up " % folder)):
        etl.list_local_files(str(folder))


def test_a_listing_by_hadoop_is_that_of_the_folder(spark: SparkSession, inputs: Path) -> None:
    for path in ("log_data", "none", "log_data/a/2"):
        own = etl.list_local_files(str(inputs / path))
        assert own == etl.list_stored_files(spark, "file://%s" % (inputs / path))
        assert bool(own) == (path != "none")


def test_a_first_run_and_a_lake_of_the_version_before_are_told_apart(inputs: Path) -> None:
    assert surveyed(inputs).plan.why == "this is the first run"
    write_files(inputs, {"lake/songs/a.parquet": "x"})
    assert surveyed(inputs).plan.why == "no earlier run has left a ledger"
    write_files(inputs, {"lake/_state/ledger.json": "{}"})
    assert surveyed(inputs).plan.why == "an earlier version of etl.py has built the lake"
    write_files(inputs, {"lake/_ledger/ledger.json": "{"})
    assert surveyed(inputs).plan.why == "the ledger is damaged"


# ------------------------------------------------------------------------------------ whole runs


class Site:
    """An input that changes, and the lake that runs build from it."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder, self.writes = spark, folder, 0

    def put(self, files: Dict[str, Any], young: bool = False) -> None:
        """Write files, young ones as if just now."""
        write_files(self.folder, files)
        for name in files:
            self.writes += 1
            if not young:
                os.utime(str(self.folder / name), (LONG_AGO + self.writes, LONG_AGO + self.writes))

    def delete(self, name: str) -> None:
        (self.folder / name).unlink()

    def run(self, lake: str = "lake", **changes: Any) -> Dict[str, Any]:
        """Run the job; returns the report and what it said."""
        said = io.StringIO()
        config = config_of(self.folder, **{"output": str(self.folder / lake), "max_bad_percent": 100.0, **changes})
        etl.check_local_paths(config)
        report = etl.build_lake(self.spark, config, etl.Progress(said))
        stored = json.loads((self.folder / lake / "_runs" / (report["run_id"] + ".json")).read_text())
        assert stored == json.loads(json.dumps(report))
        return {**report, "said": said.getvalue()}

    def content(self, report: Dict[str, Any], lake: str = "lake") -> Dict[str, Any]:
        """What a lake holds, and what the report tells of it."""
        found: Dict[str, Any] = {
            name: rows(self.spark.read.parquet(str(self.folder / lake / name))) for name in etl.PUBLISHED
        }
        counts = {name: (table["rows"], table["files"]) for name, table in report["tables"].items()}
        return {
            **found,
            "counts": counts,
            **{key: report[key] for key in ("account", "reasons", "matched", "artists_known")},
        }

    def assert_like_a_rebuild(self, report: Dict[str, Any]) -> None:
        """The lake is what a first run makes of the same input."""
        shutil.rmtree(str(self.folder / "rebuilt"), ignore_errors=True)
        assert self.content(report) == self.content(self.run("rebuilt"), "rebuilt")
        sizes = {
            name: sum(file.stat().st_size for file in (self.folder / "lake" / name).rglob("*.parquet"))
            for name in etl.TABLES
        }
        assert {name: table["bytes"] for name, table in report["tables"].items()} == sizes

    def partitions(self) -> Dict[str, int]:
        """The inode of each file of the lake."""
        lake = self.folder / "lake"
        files = [path for name in etl.PUBLISHED for path in (lake / name).rglob("*.parquet")]
        return {path.relative_to(lake).as_posix(): path.stat().st_ino for path in files}


@pytest.fixture
def site(interpreted_plans: SparkSession, tmp_path: Path) -> Site:
    return Site(interpreted_plans, tmp_path)


def play(ts: int, user: int = 1, title: str = "Morning Tide", **changes: Any) -> Dict[str, Any]:
    return event_record(ts=ts, userId=str(user), song=title, itemInSession=ts % 97, **changes)


def folders(before: Dict[str, int], after: Dict[str, int]) -> List[str]:
    """The partitions, or tables without, that have other files."""
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return sorted({path.rpartition("/")[0] for path in changed})


class Step(NamedTuple):
    """What changes before a run, what that run says, and which partitions it writes anew."""

    put: Dict[str, Any]
    said: str
    written: List[str]
    delete: List[str] = []


def months_of(*numbers: int) -> List[str]:
    tables = ("songplays", "staging_events", "time")
    return ["%s/year=2018/month=%d" % (table, month) for table in tables for month in numbers]


SONGS = {
    "song_data/%d.json" % n: [song_record(song_id="SO%d" % n, title="Song %d" % n, artist_id="AR/%d" % n)]
    for n in range(8)
}
LATE_SONG = {"song_data/9.json": [song_record(song_id="SO9", title="Song 9", artist_id="AR9")]}
CORRECTED_SONG = {"song_data/2.json": [song_record(song_id="SO2", title="Song 2", artist_id="AR/2", year=2001)]}
WEEK = {
    "a day comes": Step(
        {"log_data/2018/11/2.json": [play(NOVEMBER + 10, 2, level="free", title="Song 1")]},
        "song_data: as it was; log_data: 1 new",
        ["users", *months_of(11)],
    ),
    "a song comes after its plays and one is corrected": Step(
        {**LATE_SONG, **CORRECTED_SONG},
        "song_data: 1 new, 1 changed; log_data: as it was",
        [
            "_quarantine",
            "artists",
            "songplays/year=2018/month=11",
            "songs/year=1999/artist_id=AR%2F2",
            "songs/year=1999/artist_id=AR9",
            "songs/year=2001/artist_id=AR%2F2",
            "staging_songs",
        ],
    ),
    "a day is corrected, a month comes late, another goes": Step(
        {"log_data/2018/11/1.json": [play(NOVEMBER, 4)], "log_data/2018/12/1.json": [play(DECEMBER, 1, "Song 4")]},
        "song_data: as it was; log_data: 1 new, 1 changed, 1 gone",
        ["_quarantine", "users", *months_of(10, 11, 12)],
        ["log_data/2018/10/a b%.json"],
    ),
    "a bad day comes": Step(
        {"log_data/2018/12/2.json": ["{", play(DECEMBER + 7, 1)]},
        "song_data: as it was; log_data: 1 new",
        ["_quarantine", "users", *months_of(12)],
    ),
}


@pytest.mark.slow
def test_a_run_writes_the_partitions_that_change_and_the_lake_is_like_one_built_at_once(site: Site) -> None:
    site.put({**SONGS, "log_data/2018/10/a b%.json": [play(OCTOBER), play(OCTOBER + 1, 2)]})
    site.put({"log_data/2018/11/1.json": [play(NOVEMBER), play(NOVEMBER), play(NOVEMBER + 5, 3, "Song 9"), "{"]})
    report, matched = site.run(), []
    for name, step in WEEK.items():
        before = site.partitions()
        site.put(step.put)
        for file in step.delete:
            site.delete(file)
        report = site.run()
        assert folders(before, site.partitions()) == sorted(step.written), name
        assert report["said"].startswith("  %s\n" % step.said)
        matched.append(report["matched"])
    assert matched == [1, 2, 2, 2]
    site.assert_like_a_rebuild(report)


@pytest.mark.once
@pytest.mark.slow
def test_tasks_share_the_events_of_a_month_whether_they_are_new_or_of_the_lake(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> List[int]:
        return [path.stat().st_size for path in site.folder.glob("lake/staging_events/year=2018/month=11/*")]

    site.put({**SONGS, "log_data/1.json": [play(NOVEMBER)]})
    site.run()
    monkeypatch.setattr(etl, "TASK_BYTES", 5 * sum(files()))
    site.put({"log_data/2.json": [play(NOVEMBER + n, n) for n in range(1, 200)]})
    site.run()
    assert len(files()) > 1
    monkeypatch.setattr(etl, "TASK_BYTES", max(files()) + 1000)  # one is the work of a single task
    site.put({"log_data/3.json": [play(NOVEMBER + 300)]})
    report = site.run()
    assert len(files()) > 1
    assert [report["tables"][name]["rows"] for name in ("staging_events", "songplays")] == [201, 201]


@pytest.mark.once
@pytest.mark.slow
def test_a_run_that_finds_nothing_new_says_so_and_one_that_cannot_go_on_builds_all_anew(site: Site) -> None:
    site.put({"song_data/1.json": [song_record()], "log_data/1.json": [event_record(), event_record(), "{"]})
    first, before = site.run(), site.partitions()
    second, third = site.run(), site.run(max_bad_percent=34.0)
    with pytest.raises(
        etl.DataError, match=r"33\.3 % of the 3 records of log_data are bad, more than the 33 % allowed"
    ):
        site.run(max_bad_percent=33.0)
    assert site.partitions() == before
    for report in (second, third):
        assert report["status"] == "unchanged"
        assert report["unchanged_since"] == first["run_id"]
        assert report["account"] == first["account"]
        assert report["tables"] == first["tables"]
    assert len({report["run_id"] for report in (first, second, third)}) == 3
    assert second["said"] == (
        "  nothing has changed since run %s (--full builds the lake from the input)\n" % first["run_id"]
    )
    assert "log_data   3 records = 1 plays + 1 duplicates" in etl.summary(second)
    with pytest.raises(etl.UsageError, match="song_data: there is no folder"):
        etl.run(config_of(site.folder, song_data="/nowhere"), etl.Progress(io.StringIO()))
    fourth = site.run(full=True)
    assert "everything is built from 1 files of song_data, 1 files of log_data: --full" in fourth["said"]
    assert site.partitions().keys().isdisjoint(before)


@pytest.mark.once
@pytest.mark.slow
def test_a_run_goes_on_from_the_lake_after_one_that_failed(site: Site) -> None:
    site.put({"song_data/1.json": [song_record()], "log_data/1.json": [play(NOVEMBER), "{"]})
    site.run()
    before = site.partitions()
    site.put({"log_data/2.json": ["{", "[", play(DECEMBER)]})
    with pytest.raises(etl.DataError, match="60.0 % of the 5 records of log_data are bad"):
        site.run(max_bad_percent=50.0)
    assert folders(before, site.partitions()) == ["_quarantine"]
    site.put({"log_data/2.json": [play(DECEMBER)]})
    report = site.run(max_bad_percent=50.0)
    assert report["said"].startswith("  song_data: as it was; log_data: 1 changed\n")
    assert report["account"]["log_data"] == {
        "records": 3, "rows": 2, "duplicates": 0, "other": 0, "quarantined": 1,
    }  # fmt: skip


@pytest.mark.once
@pytest.mark.slow
def test_a_lake_of_the_version_before_is_built_anew_and_its_state_removed(site: Site) -> None:
    """Also where it died amid publishing."""
    site.put({"song_data/1.json": [song_record()], "log_data/1.json": [event_record()]})
    report, lake = site.run(), site.folder / "lake"
    for name in ("_ledger", "staging_songs", "staging_events"):
        shutil.rmtree(str(lake / name))
    old = {"_state/ledger.json": '{"version": 3}', "_state/staged/log_data/run=1/a.parquet": "x"}
    died = {"_staging/20261101T000000Z-abcdef/journal.json": "{}", "songs/_new/year=0/artist_id=A/a.parquet": "x"}
    write_files(lake, {**old, **died})
    (lake / "users").rename(lake / "_staging" / "users")
    bad = site.folder / "log_data" / "2.json"
    bad.write_text("{\n{\n")
    with pytest.raises(etl.DataError):
        site.run(max_bad_percent=5.0)
    assert (lake / "_state" / "ledger.json").exists()
    bad.unlink()
    report = site.run()
    assert "everything is built from 1 files of song_data, 1 files of log_data: an earlier version" in report["said"]
    ours = {"_ledger", "_lock", "_quarantine", "_runs", *etl.TABLES}
    assert {path.name for path in lake.iterdir()} == ours
    assert not list(lake.rglob("_new"))
    assert {name: table["rows"] for name, table in report["tables"].items()} == dict.fromkeys(etl.TABLES, 1)
    assert site.run()["status"] == "unchanged"


# ------------------------------------------------------------------------------------ any sequence of changes

SONG_FILES = ("song_data/A/1.json", "song_data/A/2 ä.json", "song_data/B/[3].json")
LOG_FILES = (
    "log_data/2018/10/a.json",
    "log_data/2018/11/b%20.json",
    "log_data/2018/11/c.json",
    "log_data/2018/12/d.json",
)
few = st.integers(0, 2)
a_song = st.builds(
    lambda song, title, artist, name, year, duration: song_record(
        song_id="SO%d" % song,
        title="Title %d" % title,
        artist_id="AR%d" % artist,
        artist_name="Artist %d" % name,
        year=(0, 1999, 2001)[year],
        duration=float(duration),
    ),
    *[few] * 6,
)
an_event = st.builds(
    lambda user, title, name, moment, page, level: event_record(
        userId=("", "1", "2")[user],
        song="Title %d" % title,
        artist="Artist %d" % name,
        ts=(OCTOBER, NOVEMBER, DECEMBER)[moment],
        page=("NextSong", "NextSong", "Home")[page],
        level=("free", "paid", "paid")[level],
    ),
    *[few] * 6,
)


def some(record: Any) -> Any:
    """The records of a file, and sometimes a bad one."""
    return st.lists(st.one_of(record, record, record, st.just({"page": 1})), min_size=1, max_size=4)


class Sequences(RuleBasedStateMachine):
    """Files come, change and go, and runs happen in between."""

    site: Site  # the class is made anew for each test

    @initialize(songs=some(a_song), events=some(an_event))
    def begin(self, songs: Any, events: Any) -> None:
        for name in ("song_data", "log_data", "lake"):
            shutil.rmtree(str(self.site.folder / name), ignore_errors=True)
        self.site.put({"song_data/0.json": [song_record(), *songs], "log_data/0.json": [event_record(), *events]})
        self.begun = True
        self.site.run()

    @rule(name=st.sampled_from(SONG_FILES), content=some(a_song), young=st.booleans())
    def put_songs(self, name: str, content: Any, young: bool) -> None:
        self.site.put({name: content}, young)

    @rule(name=st.sampled_from(LOG_FILES), content=some(an_event), young=st.booleans())
    def put_events(self, name: str, content: Any, young: bool) -> None:
        self.site.put({name: content}, young)

    @rule(name=st.sampled_from(SONG_FILES + LOG_FILES))
    def delete(self, name: str) -> None:
        if (self.site.folder / name).exists():
            self.site.delete(name)

    @rule()
    def run_amid(self) -> None:
        self.site.run()

    def teardown(self) -> None:
        if hasattr(self, "begun"):
            self.site.assert_like_a_rebuild(self.site.run())


@pytest.mark.once
@pytest.mark.slow
def test_any_sequence_of_changes_and_runs_gives_what_one_run_over_the_last_input_gives(site: Site) -> None:
    machine = type("Machine", (Sequences,), {"site": site})
    examples = max(1, settings().max_examples // 6)  # each takes several runs
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=6))
