"""Runs that go on from what the last one has left: what they take for changed, and that they give what a run over
everything gives.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import pytest
from conftest import DECEMBER, NOVEMBER, OCTOBER, event_record, rows, song_record, write_files
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pyspark.sql import SparkSession

import etl

LONG_AGO = 1_000_000_000  # seconds
FOLDERS = ("song_data", "log_data", *etl.KEPT, "_state/staged/log_data/run=first")
REPORT = {"run_id": "first", "max_bad_percent": 5.0}


def config_of(folder: Path, **changes: Any) -> etl.Config:
    return etl.Config("LOCAL", str(folder / "song_data"), str(folder / "log_data"), str(folder), 5.0)._replace(
        **changes
    )


def age(folder: Path) -> None:
    """Let all files be old."""
    for path in folder.rglob("*"):
        os.utime(str(path), (LONG_AGO, LONG_AGO))


def ledger(spark: SparkSession, folder: Path, **changes: Any) -> etl.Ledger:
    return etl.Ledger(etl.LocalStore(spark, str(folder)), config_of(folder, **changes))


def keep(found: etl.Ledger) -> None:
    found.keep({name: [found.batch(name, "first", None)] for name in etl.INPUTS}, "first", {}, REPORT)


@pytest.fixture
def kept(spark: SparkSession, tmp_path: Path) -> Path:
    """An input, a lake and the ledger of the run that built it."""
    write_files(tmp_path, {"%s/a/%s" % (folder, name): "text" for folder in FOLDERS for name in ("1 é", "2")})
    age(tmp_path)
    keep(ledger(spark, tmp_path))
    return tmp_path


def test_the_same_input_and_lake_are_unchanged(spark: SparkSession, kept: Path) -> None:
    past = ledger(spark, kept).past()
    assert past.same
    assert past.report == REPORT
    assert [sorted(batch.files) for name in etl.INPUTS for batch in past.batches[name]] == [["a/1 é", "a/2"]] * 2


def write(name: str, text: str, seconds: int = LONG_AGO) -> Callable[[Path], None]:
    """A change that writes a file."""

    def change(folder: Path) -> None:
        write_files(folder, {name: text})
        os.utime(str(folder / name), (seconds, seconds))

    return change


def edit_ledger(**changes: Any) -> Callable[[Path], None]:
    """A change of the ledger."""

    def change(folder: Path) -> None:
        path = folder.joinpath(*etl.LEDGER)
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


class Case(NamedTuple):
    """A change of the input, and which files are then to be read and which are not what they were."""

    change: Callable[[Path], Any]
    new: List[str] = []
    old: List[str] = []
    name: str = "log_data"


CASES = {
    "a song comes": Case(write("song_data/b/3", "text"), ["b/3"], [], "song_data"),
    "a log comes": Case(write("log_data/b/3", "text"), ["b/3"]),
    "a log grows": Case(write("log_data/a/2", "longer text"), ["a/2"], ["a/2"]),
    "a log is corrected at the same size": Case(write("log_data/a/2", "TEXT", LONG_AGO + 1), ["a/2"], ["a/2"]),
    "a song goes": Case(lambda folder: (folder / "song_data/a/2").unlink(), [], ["a/2"], "song_data"),
    "all logs go": Case(lambda folder: shutil.rmtree(str(folder / "log_data")), [], ["a/1 é", "a/2"]),
    "a song is renamed": Case(
        lambda folder: os.rename(str(folder / "song_data/a/2"), str(folder / "song_data/a/3")),
        ["a/3"],
        ["a/2"],
        "song_data",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_change_of_the_input_is_seen(spark: SparkSession, kept: Path, case: str) -> None:
    change, new, old, name = CASES[case]
    change(kept)
    past = ledger(spark, kept).past()
    assert past.changes == {
        name: etl.Changes(new, [old]),
        ({*etl.INPUTS} - {name}).pop(): etl.Changes([], [[]]),
    }
    assert not past.same


@pytest.mark.parametrize("name", ["a/_b/3", "a/.3", "_3", "a/3._COPYING_"])
def test_a_hidden_file_is_no_change(spark: SparkSession, kept: Path, name: str) -> None:
    write_files(kept, {"log_data/" + name: "text"})
    assert ledger(spark, kept).past().same


def test_an_input_that_is_one_file_may_change(spark: SparkSession, kept: Path) -> None:
    one = {"log_data": str(kept / "log_data/a/2")}
    keep(ledger(spark, kept, **one))
    assert ledger(spark, kept, **one).past().same
    write("log_data/a/2", "TEXT", LONG_AGO + 1)(kept)
    assert ledger(spark, kept, **one).past().changes["log_data"] == etl.Changes([""], [[""]])


USELESS = {
    "a table has gone": (lambda folder: shutil.rmtree(str(folder / "songplays")), "the lake is not as"),
    "a file of a table has gone": (lambda folder: (folder / "users/a/2").unlink(), "the lake is not as"),
    "a table has another file": (write("time/a/3", "text"), "the lake is not as"),
    "there is no ledger": (lambda folder: folder.joinpath(*etl.LEDGER).unlink(), "no run has left a ledger"),
    "the ledger is cut off": (write("/".join(etl.LEDGER), '{"version": '), "the ledger is damaged"),
    "the ledger is something else": (write("/".join(etl.LEDGER), "[1]"), "the ledger is damaged"),
    "the ledger is another job's": (edit_ledger(version="0"), "another version of etl.py"),
    "the ledger lacks the batches": (edit_ledger(batches={}), "the ledger is damaged"),
    "the ledger lacks the report": (edit_ledger(report={}), "the ledger is damaged"),
    "a file of staging has gone": (lambda folder: (folder / FOLDERS[-1] / "a/2").unlink(), "staging is not as"),
    "a file of staging is cut off": (write(FOLDERS[-1] + "/a/2", ""), "staging is not as"),
}


@pytest.mark.parametrize("case", list(USELESS))
def test_what_is_not_as_it_was_left_is_of_no_use(spark: SparkSession, kept: Path, case: str) -> None:
    change, sentence = USELESS[case]
    change(kept)
    with pytest.raises(etl.ForgottenError, match=sentence):
        ledger(spark, kept).past()


def test_another_input_is_a_change_though_its_files_are_called_alike(spark: SparkSession, kept: Path) -> None:
    shutil.copytree(str(kept / "log_data"), str(kept / "other logs"))
    with pytest.raises(etl.ForgottenError, match="log_data was .*/log_data$"):
        ledger(spark, kept, log_data=str(kept / "other logs")).past()


def test_a_lake_whose_input_has_mostly_changed_is_built_anew(
    spark: SparkSession, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl, "MOST_NEW_FILES", 1)
    write("log_data/b/3", "text")(kept)
    assert ledger(spark, kept).past().changes["log_data"].new == ["b/3"]
    write("log_data/b/4", "text")(kept)
    with pytest.raises(etl.ForgottenError, match="too many files of log_data"):
        ledger(spark, kept).past()


def test_a_quarantine_that_a_failed_run_has_replaced_is_a_change(spark: SparkSession, kept: Path) -> None:
    write("_quarantine/a/2", "TEXT", LONG_AGO + 1)(kept)
    past = ledger(spark, kept).past()
    assert not any(found.some() for found in past.changes.values())
    assert not past.same


def test_a_lower_limit_on_bad_records_is_a_change(spark: SparkSession, kept: Path) -> None:
    assert not ledger(spark, kept, max_bad_percent=4.9).past().same
    assert ledger(spark, kept, max_bad_percent=5.1).past().same


def test_a_file_that_was_written_just_before_it_was_listed_is_read_again(spark: SparkSession, kept: Path) -> None:
    found = ledger(spark, kept)
    young = found.listed - 1
    os.utime(str(kept / "log_data/a/2"), (young, young))
    found = ledger(spark, kept)
    found.listed = young + 1  # as if the listing had been in the same moment
    keep(found)
    assert ledger(spark, kept).past().changes["log_data"] == etl.Changes(["a/2"], [["a/2"]])


@pytest.mark.parametrize("change", ["a log comes", "a log grows"])
def test_a_file_that_changes_while_it_is_read_is_read_again(spark: SparkSession, kept: Path, change: str) -> None:
    found = ledger(spark, kept)
    CASES[change].change(kept)
    keep(found)
    new = CASES[change].new
    assert ledger(spark, kept).past().changes["log_data"] == etl.Changes(new, [new])


def test_a_file_that_came_and_went_while_others_were_read_does_not_count(spark: SparkSession, kept: Path) -> None:
    found = ledger(spark, kept)
    CASES["a log comes"].change(kept)
    batches = {name: [found.batch(name, "first", None)] for name in etl.INPUTS}
    (kept / "log_data/b/3").unlink()
    found.keep(batches, "first", {}, REPORT)
    assert ledger(spark, kept).past().changes["log_data"] == etl.Changes([], [["b/3"]])


def test_a_listing_by_hadoop_is_that_of_the_folder(spark: SparkSession, kept: Path) -> None:
    assert etl.list_stored_files(spark, "file://%s" % (kept / "log_data")) == {
        "a/1 é": (4, LONG_AGO * 1000),
        "a/2": (4, LONG_AGO * 1000),
    }
    for path in ("log_data", "none", "log_data/a/2"):
        assert etl.list_local_files(str(kept / path)) == etl.list_stored_files(spark, "file://%s" % (kept / path))


def counted(reason: Any, month: int, count: int) -> Dict[str, Any]:
    return {"reason": reason, "play": not reason, "year": 2018, "month": month, "count": count}


def test_a_file_that_goes_is_taken_from_the_profile_once() -> None:
    """Though ordinary records and others, and batches that were merged, are counted in rows of their own."""
    counts = [counted(None, 11, 50), counted(None, 12, 7), counted(None, 11, 3), counted("broken JSON", 11, 2)]
    batch = etl.Batch("first", ["ordinary", "others"], {"a": (1, 1), "b": (1, 1)}, ["c"], ["d"], counts)
    left = batch.without(["a", "c"], [counted(None, 11, 9), counted("broken JSON", 11, 2)])
    assert (left.files, left.doubtful, left.dropped) == ({"b": (1, 1)}, [], ["a", "c", "d"])
    assert sorted(left.counts, key=str) == sorted([counted(None, 11, 44), counted(None, 12, 7)], key=str)


# ------------------------------------------------------------------------------------ months


def test_months_limit_which_logs_are_read(spark: SparkSession, tmp_path: Path) -> None:
    names = ["2018/10/a", "2018/11/a", "2018/11/b", "2018/12/a", "2019/1/a", "elsewhere/a"]
    write_files(tmp_path, {"log_data/" + name: "text" for name in names})
    write_files(tmp_path, {"song_data/a": "text", **{"%s/a" % folder: "text" for folder in etl.KEPT}})
    age(tmp_path)
    winter = ledger(spark, tmp_path, months=((2018, 12), (2019, 1)))
    assert winter.names("log_data") == ["2018/12/a", "2019/1/a"]
    assert winter.names("song_data") is None
    batch = winter.batch("log_data", "first", winter.names("log_data"))
    winter.keep({"song_data": [winter.batch("song_data", "first", None)], "log_data": [batch]}, "first", {}, REPORT)

    assert ledger(spark, tmp_path).past().changes["log_data"].new == [
        "2018/10/a",
        "2018/11/a",
        "2018/11/b",
        "elsewhere/a",
    ]
    shutil.rmtree(str(tmp_path / "log_data/2018/12"))  # no business of November's
    november = ledger(spark, tmp_path, months=((2018, 11), (2018, 11))).past()
    assert november.changes["log_data"] == etl.Changes(["2018/11/a", "2018/11/b"], [[]])


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
        try:
            report = etl.Run(self.spark, config, etl.Progress(said)).execute()
        finally:
            self.spark.conf.set("spark.sql.shuffle.partitions", "2")
        stored = json.loads((self.folder / lake / "_runs" / (report["run_id"] + ".json")).read_text())
        assert stored == json.loads(json.dumps(report))
        return {**report, "said": said.getvalue()}

    def content(self, report: Dict[str, Any], lake: str = "lake") -> Dict[str, Any]:
        """What a lake holds, and what the report tells of it."""
        found: Dict[str, Any] = {
            name: rows(self.spark.read.parquet(str(self.folder / lake / name))) for name in etl.KEPT
        }
        counts = {name: (table["rows"], table["files"]) for name, table in report["tables"].items()}
        return {**found, "counts": counts, **{key: report[key] for key in ("account", "reasons", "matched")}}

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
        files = [path for name in etl.KEPT for path in (lake / name).rglob("*.parquet")]
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
    """What changes before a run, and which partitions that run writes anew."""

    put: Dict[str, Any]
    written: List[str]
    delete: List[str] = []


def months_of(*numbers: int) -> List[str]:
    return ["%s/year=2018/month=%d" % (table, month) for table in ("songplays", "time") for month in numbers]


SONGS = {
    "song_data/%d.json" % n: [song_record(song_id="SO%d" % n, title="Song %d" % n, artist_id="AR/%d" % n)]
    for n in range(5)
}
LATE_SONG = {"song_data/9.json": [song_record(song_id="SO9", title="Song 9", artist_id="AR9")]}
CORRECTED_SONG = {"song_data/2.json": [song_record(song_id="SO2", title="Song 2", artist_id="AR/2", year=2001)]}
WEEK = {
    "a day comes": Step(
        {"log_data/2018/11/2.json": [play(NOVEMBER + 10, 2, level="free", title="Song 1")]}, ["users", *months_of(11)]
    ),
    "a song comes after its plays and one is corrected": Step(
        {**LATE_SONG, **CORRECTED_SONG},
        [
            "_quarantine",
            "artists",
            "songs/year=1999/artist_id=AR%2F2",
            "songs/year=1999/artist_id=AR9",
            "songs/year=2001/artist_id=AR%2F2",
            *months_of(11),
        ],
    ),
    "a day is corrected, a month comes late, another goes": Step(
        {"log_data/2018/11/1.json": [play(NOVEMBER, 4)], "log_data/2018/12/1.json": [play(DECEMBER, 1, "Song 4")]},
        ["_quarantine", "users", *months_of(10, 11, 12)],
        ["log_data/2018/10/a b%.json"],
    ),
}


@pytest.mark.slow
def test_a_run_writes_the_partitions_that_change_and_the_lake_is_like_one_built_at_once(site: Site) -> None:
    site.put({**SONGS, "log_data/2018/10/a b%.json": [play(OCTOBER), play(OCTOBER + 1, 2)]})
    site.put({"log_data/2018/11/1.json": [play(NOVEMBER), play(NOVEMBER), play(NOVEMBER + 5, 3, "Song 9"), "{"]})
    report, matched = site.run(), []
    for name, step in WEEK.items():
        before, last = site.partitions(), report["run_id"]
        site.put(step.put)
        for file in step.delete:
            site.delete(file)
        report = site.run()
        assert folders(before, site.partitions()) == sorted(step.written), name
        assert "  since run %s: " % last in report["said"]
        matched.append(report["matched"])
    assert matched == [1, 2, 2]
    site.assert_like_a_rebuild(report)


@pytest.mark.once
@pytest.mark.slow
def test_a_run_that_finds_nothing_new_says_so_and_one_that_cannot_go_on_builds_all_anew(site: Site) -> None:
    site.put({"song_data/1.json": [song_record()], "log_data/1.json": [event_record(), event_record()]})
    first, before = site.run(), site.partitions()
    second, third = site.run(), site.run()
    assert site.partitions() == before
    for report in (second, third):
        assert report["status"] == "unchanged"
        assert report["unchanged_since"] == first["run_id"]
        assert report["account"] == first["account"]
        assert report["tables"] == first["tables"]
    assert len({report["run_id"] for report in (first, second, third)}) == 3
    assert second["said"] == "  nothing has changed since run %s (--full builds the lake anew)\n" % first["run_id"]
    assert "log_data   2 records = 1 plays + 1 duplicates" in etl.summary(second)
    for path in (site.folder / "lake/_state/staged").rglob("*.parquet"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(str(path), ns=(status.st_atime_ns, status.st_mtime_ns))
    site.put({"log_data/2.json": [play(NOVEMBER)]})
    fourth = site.run()
    assert "  all is built anew: " in fourth["said"]
    assert fourth["account"]["log_data"]["records"] == 3
    assert site.partitions().keys().isdisjoint(before)
    before = site.partitions()
    fifth = site.run(full=True)
    assert fifth["said"].startswith("  stage song_data ")
    assert site.partitions().keys().isdisjoint(before)
    staged = {path.name for kind in (site.folder / "lake/_state/staged").iterdir() for path in kind.iterdir()}
    assert staged == {"run=" + fifth["run_id"]}


@pytest.mark.once
@pytest.mark.slow
def test_a_backfill_takes_a_month_at_a_time_and_batches_are_merged(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etl, "MOST_BATCHES", 2)
    months = {9: OCTOBER - 40 * 86400000, 10: OCTOBER, 11: NOVEMBER, 12: DECEMBER}
    site.put({"song_data/1.json": [song_record()]})
    site.put({"log_data/2018/%02d/1.json" % month: [play(ts), "{"] for month, ts in months.items()})
    for taken in (12, 11, 10):
        report = site.run(months=((2018, taken), (2018, taken)))
    folders = (site.folder / "lake/songplays/year=2018").iterdir()
    assert {path.name for path in folders} == {"month=10", "month=11", "month=12"}
    assert report["tables"]["songplays"]["rows"] == 3
    assert len(site.content(report)["_quarantine"]) == 3

    state = site.folder / "lake/_state"
    state.rename(site.folder / "put aside")
    with pytest.raises(etl.UsageError, match="built anew, so leave out --months this time: no run has left a ledger"):
        site.run(months=((2018, 9), (2018, 9)))
    (site.folder / "put aside").rename(state)

    site.delete("log_data/2018/11/1.json")  # of a batch that is merged
    report = site.run()
    batches = json.loads((state / "ledger.json").read_text())["batches"]["log_data"]
    files = [["2018/%02d/1.json" % month for month in found] for found in ([12], [10], [9])]
    assert [sorted(batch["files"]) for batch in batches] == files
    site.assert_like_a_rebuild(report)


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
