"""Before and while a lake is published: the checks, the account, and a publication that may die at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest
from conftest import NOVEMBER, OCTOBER, Done, event_record, frame, rows, run_here, song_record, write_files
from pyspark.sql import DataFrame, SparkSession

import etl

Row = Dict[str, Any]
STAR = ["artists", "songs", "users", "time", "songplays"]


# ------------------------------------------------------------------------------------ every rule of every table

VALUES: Dict[str, Row] = {
    "artists": {"artist_id": "AR1", "name": "Anchors", "latitude": 90.0, "longitude": -180.0},
    "songs": {"song_id": "SO1", "title": "Tide", "duration": 0.0, "year": 0, "artist_id": "AR1"},
    "users": {"user_id": 1},
    "time": {"start_time": 0, "hour": 0, "day": 1, "week": 1, "weekday": 4, "year": 1970, "month": 1},
    "songplays": {
        "songplay_id": "P1",
        "start_time": 0,
        "user_id": 1,
        "level": "paid",
        "song_id": "SO1",
        "artist_id": "AR1",
        "session_id": 1,
        "year": 1970,
        "month": 1,
    },
    "staging_songs": {"song_id": "SO1", "artist_id": "AR1"},
    "staging_events": {"songplay_id": "P1", "user_id": 1, "year": 1970, "month": 1},
}
# A row of each table, null where no value is given
GOOD = {name: {**dict.fromkeys([column for column, _ in etl.columns_of(name)]), **VALUES[name]} for name in VALUES}
# Rows that break no rule: of nulls where they may be, and of values at the edge of what is accepted
ALSO_GOOD: Dict[str, List[Row]] = {
    "artists": [{"artist_id": "AR2", "latitude": -90.0, "longitude": 180.0}, {"artist_id": "AR3", "latitude": None}],
    "songs": [{"song_id": "SO2", "year": 1000}, {"song_id": "SO3", "year": 9999, "duration": None}],
    "users": [{"user_id": 2, "gender": "F", "level": "free"}, {"user_id": 3, "gender": "M", "level": "paid"}],
    "time": [{"start_time": 1, "hour": 23, "day": 31, "week": 53, "weekday": 7, "month": 12}],
    "songplays": [
        {"songplay_id": "P2", "song_id": None, "artist_id": None, "user_id": None, "level": None},
        {"songplay_id": "P3", "song_id": None, "artist_id": "AR2"},
    ],
    "staging_events": [{"songplay_id": None, "user_id": None}, {}],
    "staging_songs": [{}],
}


class Case(NamedTuple):
    """A rule, rows that break nothing else, and what the check must say of it."""

    rule: str
    table: str
    rows: List[Row]
    failures: int
    examples: Set[Optional[str]]


def cases() -> Iterator[Case]:
    """A case for every rule that TABLES holds."""
    numbers = iter(range(1000, 10000))
    for name, table in etl.TABLES.items():

        def broken(name: str, changes: Row) -> Row:
            return {**GOOD[name], **(key_of(name, next(numbers)) if etl.TABLES[name].key else {}), **changes}

        key = table.key
        if key:
            repeated = broken(name, {})
            rule = "%s: %s is unique" % (name, key)
            yield Case(rule, name, [repeated] * 2, 1, {shown(repeated[key], name, key)})
        for column, accepted in table.accepted.items():
            bad = [broken(name, {column: value}) for value in beyond(accepted, dict(etl.columns_of(name))[column])]
            keys = sorted(shown(row[key], name, key) for row in bad)
            yield Case("%s: %s is accepted" % (name, column), name, bad, len(keys), {keys[0], keys[-1]})
        for column, other in table.references.items():
            values = [key_of(other, next(numbers))[etl.TABLES[other].key] for _ in range(3)]
            keys = sorted(shown(value, name, column) for value in values)
            bad = [broken(name, {column: value}) for value in values]
            yield Case("%s: %s is in %s" % (name, column, other), name, bad, 3, {keys[0], keys[-1]})


def beyond(accepted: etl.Accepted, kind: str) -> List[Any]:
    """Values that are just not accepted."""
    if accepted.values:
        return ["", "x", accepted.values[0].swapcase()]
    step = 0.001 if kind == "double" else 1
    edges = [edge for low, high in accepted.ranges for edge in (low - step, high + step) if abs(edge) < 1e300]
    return [edge for edge in edges if not any(low <= edge <= high for low, high in accepted.ranges)]


def key_of(name: str, number: int) -> Row:
    """A key that no other row has."""
    key = etl.TABLES[name].key
    return {key: "K%d" % number if dict(etl.columns_of(name))[key] == "string" else number}


def shown(value: Any, name: str, column: str) -> str:
    """A value as the check shows it: a number in the column start_time stands for seconds after 1970."""
    if column != "start_time":
        return str(value)
    hour, second = divmod(value, 3600)
    return "1970-01-01 %02d:%02d:%02d" % (hour, *divmod(second, 60))


def frames(spark: SparkSession, extra: Sequence[Case] = ()) -> Dict[str, DataFrame]:
    """All tables, in which all is well, and the rows of some cases."""
    good = {name: [GOOD[name], *[{**GOOD[name], **more} for more in ALSO_GOOD[name]]] for name in etl.TABLES}
    return {
        name: frame(spark, name, good[name] + [row for case in extra if case.table == name for row in case.rows])
        for name in etl.TABLES
    }


@pytest.fixture(scope="module")
def found(interpreted_plans: SparkSession) -> Dict[str, Tuple[int, Set[Optional[str]]]]:
    """What the check says of tables that break every rule: failures and examples by rule."""
    broken = rows(etl.violations(frames(interpreted_plans, list(cases())), list(etl.TABLES)))
    assert len({row["rule"] for row in broken}) == len(broken)
    return {row["rule"]: (row["failures"], set(row["examples"])) for row in broken}


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.rule)
def test_a_broken_rule_is_named_counted_and_shown(case: Case, found: Dict[str, Any]) -> None:
    assert found[case.rule] == (case.failures, case.examples)


def test_each_broken_rule_breaks_no_other(found: Dict[str, Any]) -> None:
    assert set(found) == {case.rule for case in cases()}


def test_only_rules_between_the_tables_at_hand_are_checked(interpreted_plans: SparkSession) -> None:
    tables = frames(interpreted_plans, list(cases()))
    broken = rows(
        etl.violations({name: tables[name] for name in ("users", "staging_events")}, ["users", "staging_events"])
    )
    assert {row["rule"] for row in broken} == {
        "users: user_id is unique",
        "users: gender is accepted",
        "users: level is accepted",
        "staging_events: user_id is in users",
    }


def test_of_tables_that_stay_only_the_keys_are_looked_at(interpreted_plans: SparkSession) -> None:
    broken = rows(etl.violations(frames(interpreted_plans, list(cases())), ["staging_events"]))
    assert {row["rule"] for row in broken} == {
        "users: user_id is unique",
        "staging_events: user_id is in users",
        "songplays: songplay_id is unique",
        "staging_events: songplay_id is in songplays",
    }


def test_the_rules_are_those_that_people_were_promised() -> None:
    assert {case.rule for case in cases()} >= {
        "songplays: songplay_id is unique",
        "songplays: user_id is in users",
        "songplays: song_id is in songs",
        "songplays: artist_id is in artists",
        "songplays: start_time is in time",
        "songs: artist_id is in artists",
        "staging_songs: song_id is in songs",
        "staging_events: songplay_id is in songplays",
        "users: gender is accepted",
        "songplays: level is accepted",
    }


def test_a_broken_rule_is_a_sentence() -> None:
    row = {"rule": "users: user_id is unique", "failures": 1234, "examples": ["7", "3"]}
    assert etl.violation_text(row) == "rule broken: users: user_id is unique (1,234 failures, such as 3, 7)"
    assert etl.violation_text({**row, "examples": [None, "3"]}).endswith("such as 3)")
    assert etl.violation_text({**row, "examples": [None, None]}).endswith("such as null)")


NEVER_NULL = [(name, column) for name, t in etl.TABLES.items() for column in (t.key, *t.required) if column]


@pytest.mark.parametrize(("name", "column"), NEVER_NULL)
def test_nulls_are_refused_where_a_value_must_be(name: str, column: str) -> None:
    full = dict.fromkeys(etl.counted_columns(name), 1000)
    assert column in full, "it is not counted"
    etl.refuse_nulls({name: etl.Size(1000, 1, 1, full)})
    with pytest.raises(etl.DataError) as error:
        etl.refuse_nulls({name: etl.Size(1000, 1, 1, {**full, column: 998})})
    assert str(error.value) == "rule broken: %s: %s is not null (2 failures)" % (name, column)


def test_a_play_may_know_no_song_and_an_event_may_be_no_play() -> None:
    for name, columns in {"songplays": ("song_id", "artist_id"), "staging_events": ("songplay_id",)}.items():
        full = dict.fromkeys(etl.counted_columns(name), 10)
        assert set(columns) <= set(full), "they are counted"
        etl.refuse_nulls({name: etl.Size(10, 1, 1, {**full, **dict.fromkeys(columns, 0)})})


# ------------------------------------------------------------------------------------ the account


def test_an_account_explains_all_records() -> None:
    sizes = {
        "staging_songs": etl.Size(rows=5),
        "songs": etl.Size(rows=3),
        "staging_events": etl.Size(rows=10, values={"songplay_id": 7}),
        "songplays": etl.Size(rows=6),
    }
    reasons = {"song_data": Counter({"broken JSON": 1}), "log_data": Counter({"missing: ts": 1, "broken JSON": 1})}
    assert etl.accounts_of(sizes, reasons) == {
        "song_data": {"records": 6, "rows": 3, "duplicates": 2, "other": 0, "quarantined": 1},
        "log_data": {"records": 12, "rows": 6, "duplicates": 1, "other": 3, "quarantined": 2},
    }


def refuse(bad: int, good: int, limit: float) -> None:
    etl.refuse_too_many_bad({"log_data": {"records": bad + good, "quarantined": bad}}, {"broken JSON": bad}, limit)


@pytest.mark.parametrize(("bad", "good", "limit"), [(5, 95, 5), (0, 100, 0), (100, 0, 100), (0, 0, 5), (1, 199, 0.5)])
def test_as_many_bad_records_as_allowed_pass(bad: int, good: int, limit: float) -> None:
    refuse(bad, good, limit)


@pytest.mark.parametrize(("bad", "good", "limit"), [(6, 94, 5), (1, 999999, 0), (51, 949, 5)])
def test_one_bad_record_too_many_fails(bad: int, good: int, limit: float) -> None:
    with pytest.raises(etl.DataError):
        refuse(bad, good, limit)


def test_too_many_bad_records_are_counted_by_reason() -> None:
    accounts = {"log_data": {"records": 10500, "quarantined": 2500}}
    with pytest.raises(etl.DataError) as error:
        etl.refuse_too_many_bad(accounts, {"missing: ts": 1000, "broken JSON": 1500}, 5)
    sentence = "23.8 % of the 10,500 records of log_data are bad, more than the 5 % allowed"
    assert str(error.value) == sentence + " (broken JSON: 1,500, missing: ts: 1,000)"


# ------------------------------------------------------------------------------------ publishing, and dying meanwhile


class DeathError(Exception):
    """The process was killed."""


class Mortal(etl.Store):
    """A store whose process may die after some steps that change something."""

    steps_left = 10**6

    def step(self, action: Callable[..., Any], *args: Any) -> Any:
        if self.steps_left <= 0:
            raise DeathError
        self.steps_left -= 1
        return action(*args)

    def move(self, source: str, target: str) -> None:
        self.step(super().move, source, target)

    def remove(self, name: str) -> None:
        """Which a process may not survive where it is a run's work: then what matters most has stayed."""
        if name.startswith(etl.WORK):
            self.step(self.remove_half, name)
        self.step(super().remove, name)

    def remove_half(self, name: str) -> None:
        for path in Path(self.root.replace("file://", ""), name).rglob("*"):
            if path.is_file() and path.name != etl.JOURNAL:
                path.unlink()

    def remove_empty(self, folder: str) -> None:
        self.step(super().remove_empty, folder)

    def put(self, name: str, text: str, until: Any = None) -> None:
        self.step(super().put, name, text, until)


class OfThisMachine(Mortal, etl.LocalStore):
    def write(self, name: str, text: str) -> None:
        self.step(super().write, name, text)

    def exchange(self, one: str, other: str) -> bool:
        return bool(self.step(super().exchange, one, other))


class WithoutExchange(OfThisMachine):
    """As where the system cannot exchange folders in one step."""

    def exchange(self, one: str, other: str) -> bool:
        return False


class OfObjects(Mortal, etl.ObjectStore):
    def copy(self, source: str, target: str) -> None:
        self.step(super().copy, source, target)


Make = Callable[[Path], Any]
# Those that differ little from one Spark to the next take long
LOCAL = {"this machine": OfThisMachine, "this machine, no exchange": WithoutExchange}
BY_HADOOP = {"renames": Mortal, "objects": OfObjects}
EVERY_KIND = [*LOCAL, *[pytest.param(kind, marks=pytest.mark.once) for kind in BY_HADOOP]]


def maker(kind: str, request: pytest.FixtureRequest) -> Make:
    """What opens the store of a lake; Spark is started for Hadoop's alone."""
    if kind in LOCAL:
        return lambda lake: LOCAL[kind](str(lake))
    spark = request.getfixturevalue("spark")
    return lambda lake: BY_HADOOP[kind](spark, lake.as_uri())


@pytest.fixture(params=EVERY_KIND)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A kind of store, which does one thing at a time: the same steps each time."""
    monkeypatch.setattr(etl, "REQUESTS_AT_ONCE", 1)
    return maker(request.param, request)


ORDER = ["artists", "songs", "songplays"]  # as many as it takes to see an order
GENERATIONS = {"old": ["1", "2"], "new": ["2", "3"]}
FILE = "part-00000-%s.c000.snappy.parquet"  # as Spark names them, each run by other ids
REPORT, LEDGER = json.dumps({"run_id": "now"}), json.dumps({"ledger": "now"})
SOME = {"month=1", "month=2", "month=3"}
OVER, FIRST, PART = (True, False), (False, False), (True, True)  # whether there is a lake, whether part of it stays


def fill(folder: Path, generation: str) -> None:
    """Put a generation's files into a table folder."""
    for name in GENERATIONS[generation]:
        write_files(folder / ("month=" + name), {FILE % generation: generation})


def partitions(folder: Path) -> Dict[str, List[str]]:
    """What a reader finds in each partition of a table."""
    found: Dict[str, List[str]] = {}
    for path in folder.glob("month=*/[!_.]*"):
        found.setdefault(path.parent.name[len("month=") :], []).append(path.read_text())
    return found


def generation(folder: Path) -> Optional[str]:
    """Which generation a table folder holds, beside a partition that stays; None where there is none, "mixed" where it
    is not whole.
    """
    found = partitions(folder)
    if found.pop("0", ["kept"]) != ["kept"]:
        return "mixed"
    for name, months in GENERATIONS.items():
        if found == {month: [name] for month in months}:
            return name
    return "mixed" if found else None


def ready_to_publish(lake: Path, with_old: bool = True, part: bool = False) -> Path:
    """A lake whose run `now` has checked its tables, or parts of them."""
    for name in ORDER:
        fill(lake / "_work" / "now" / name, "new")
        if with_old:
            fill(lake / name, "old")
        if part:
            write_files(lake / name / "month=0", {FILE % "kept": "kept"})
    write_files(lake / "_work" / "now" / "log_data", {"part": "parsed"})
    return lake


def publication(store: etl.Store, part: bool = False) -> etl.Publication:
    """What the run is about to publish, once its journal is written."""
    tables = {}
    for name in ORDER:
        folder = "_work/now/" + name
        tables[name] = store.changes(name, folder, store.list(folder), store.list(name), SOME if part else None)
    found = etl.Publication("now", tables, {"_runs/now.json": REPORT, etl.LEDGER: LEDGER})
    store.write("_work/now/" + etl.JOURNAL, etl.journal_text(found))
    return found


def finish(store: etl.Store, begun: etl.Publication) -> None:
    etl.publish(store, etl.unfinished(store, begun, {name: store.list(name) for name in ORDER}))
    etl.discard(store, "now")


def publish(store: Any, part: bool = False) -> int:
    """Publish; returns in how many steps."""
    before = store.steps_left
    finish(store, publication(store, part))
    return int(before - store.steps_left)


def publish_and_die(store: Any, steps: int, part: bool = False) -> None:
    """Publish, and die after so many steps."""
    store.steps_left = steps
    with pytest.raises(DeathError):
        publish(store, part)


def recovered(store: etl.Store, full: bool = False) -> List[str]:
    """Finish or remove what dead runs have left; returns what is said of it."""
    said = io.StringIO()
    etl.recover(store, full, etl.Progress(said))
    return [line.strip() for line in said.getvalue().splitlines()]


def deaths(make: Make, folder: Path, with_old: bool = True, part: bool = False) -> Iterator[Path]:
    """Lakes whose publication has died after each of its steps."""
    counted = ready_to_publish(folder / "counted", with_old, part)
    total = publish(make(counted), part)
    assert lake_of(counted) == ["new"] * 3
    assert total >= 9
    for steps in range(total):
        lake = ready_to_publish(folder / str(steps), with_old, part)
        publish_and_die(make(lake), steps, part)
        yield lake


def lake_of(lake: Path) -> List[Optional[str]]:
    return [generation(lake / name) for name in ORDER]


def text_of(path: Path) -> Optional[str]:
    return path.read_text() if path.exists() else None


def leftovers(lake: Path) -> List[Path]:
    """What a run must not leave."""
    return [path for path in lake.rglob("*") if path.is_file() and {"_work", "_locks"} & set(path.parts)]


@pytest.mark.parametrize(("with_old", "part"), [OVER, FIRST, PART], ids=["over a lake", "first lake", "a part of one"])
def test_a_publication_that_dies_is_finished_by_the_next_run_or_has_not_begun(
    tmp_path: Path, make: Make, with_old: bool, part: bool
) -> None:
    seen = []
    for lake in deaths(make, tmp_path, with_old, part):
        journal, ledger = lake / "_work" / "now" / etl.JOURNAL, lake / etl.LEDGER
        state = "begun" if journal.exists() else "ended" if ledger.exists() else "not begun"
        if state == "not begun":
            assert lake_of(lake) == ["old" if with_old else None] * 3
        assert lake_of(lake) == ["new"] * 3 or not ledger.exists(), "it is published last"
        sentences = recovered(make(lake))
        assert lake_of(lake) == (["old" if with_old else None] if state == "not begun" else ["new"]) * 3
        assert all(("0" in partitions(lake / name)) == part for name in ORDER)
        assert leftovers(lake) == []
        if state == "begun":
            assert sentences == ["finished the publishing of run now, which had died"]
        else:
            assert set(sentences) <= {"removed what run now had left"}
        published: List[Optional[str]] = [None, None] if state == "not begun" else [REPORT, LEDGER]
        assert [text_of(lake / "_runs" / "now.json"), text_of(ledger)] == published
        if state not in seen:
            seen.append(state)
    assert seen[:2] == ["not begun", "begun"]


@pytest.mark.parametrize("part", [False, True])
def test_on_this_machine_each_table_is_whole_at_every_moment(tmp_path: Path, part: bool) -> None:
    seen = []
    for lake in deaths(lambda lake: OfThisMachine(str(lake)), tmp_path, part=part):
        found = lake_of(lake)
        if found not in seen:
            seen.append(found)
    assert seen == [["new"] * number + ["old"] * (3 - number) for number in range(4)]  # dimensions before facts


@pytest.mark.parametrize("kind", ["this machine, no exchange", pytest.param("renames", marks=pytest.mark.once)])
def test_with_renames_a_table_is_whole_or_put_aside_at_every_moment(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    missing = set()
    for lake in deaths(maker(kind, request), tmp_path):
        found = lake_of(lake)
        assert set(found) <= {"old", "new", None}
        if None in found:
            (name,) = [name for name, state in zip(ORDER, found) if state is None]
            assert generation(lake / "_work" / "now" / (name + ".old")) == "old"
            assert generation(lake / "_work" / "now" / name) == "new"
            missing.add(name)
    assert missing == set(ORDER)


@pytest.fixture
def objects(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A store of objects, which does one thing at a time."""
    monkeypatch.setattr(etl, "REQUESTS_AT_ONCE", 1)
    return maker("objects", request)


def second_run(objects: Make, lake: Path) -> Path:
    """A lake that one run has published, so that its objects have lasting names, and another one is about to."""
    for name in ORDER:
        fill(lake / "_work" / "now" / name, "old")
    publish(objects(lake))
    assert lake_of(lake) == ["old"] * 3
    return ready_to_publish(lake, with_old=False)


@pytest.mark.once
def test_with_objects_each_partition_is_whole_at_every_moment(tmp_path: Path, objects: Make) -> None:
    for steps in range(publish(objects(second_run(objects, tmp_path / "counted")))):
        lake = second_run(objects, tmp_path / str(steps))
        publish_and_die(objects(lake), steps)
        for name in ORDER:
            found = partitions(lake / name)
            assert all(len(files) == 1 for files in found.values())
            assert "2" in found


@pytest.mark.once
def test_objects_keep_their_names_from_run_to_run(tmp_path: Path, objects: Make) -> None:
    lake = second_run(objects, tmp_path)
    before = {path.name for path in (lake / "songs" / "month=2").iterdir()}
    publish(objects(lake))
    assert {path.name for path in (lake / "songs" / "month=2").iterdir()} == before == {"part-00000.parquet"}


@pytest.mark.once
def test_only_what_the_journal_names_comes_and_goes(tmp_path: Path, objects: Make) -> None:
    lake = ready_to_publish(tmp_path)
    store = objects(lake)
    begun = publication(store)
    strangers = {"songs/month=1/stranger": "mine", "_work/now/songs/month=3/part-00001-stranger.parquet": "no"}
    write_files(lake, strangers)
    finish(store, begun)
    assert (lake / "songs" / "month=1" / "stranger").read_text() == "mine"
    assert partitions(lake / "songs") == {"1": ["mine"], "2": ["new"], "3": ["new"]}


def test_a_recovery_that_dies_too_is_finished_by_the_run_after(tmp_path: Path, make: Make) -> None:
    middle = publish(make(ready_to_publish(tmp_path / "counted"))) // 2  # amid the tables
    for steps in range(10**6):
        lake = ready_to_publish(tmp_path / str(steps))
        publish_and_die(make(lake), middle)
        store = make(lake)
        store.steps_left = steps
        with contextlib.suppress(DeathError):
            recovered(store)
        died = store.steps_left == 0
        recovered(make(lake))
        assert lake_of(lake) == ["new"] * 3
        assert leftovers(lake) == []
        assert text_of(lake / etl.LEDGER) == LEDGER
        if not died:
            break
    assert steps > 4


def test_a_run_that_dies_before_publishing_leaves_the_lake_as_it_was(tmp_path: Path) -> None:
    ready_to_publish(tmp_path)
    write_files(tmp_path / "_work" / "earlier" / "song_data" / "_temporary", {"0": "half"})
    assert recovered(etl.LocalStore(str(tmp_path))) == [
        "removed what run earlier had left",
        "removed what run now had left",
    ]
    assert lake_of(tmp_path) == ["old"] * 3
    assert leftovers(tmp_path) == []


def test_nothing_to_recover_is_no_news(tmp_path: Path) -> None:
    assert recovered(etl.LocalStore(str(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []


A_FILE = "songs/month=3/" + FILE % "new"


@pytest.mark.parametrize("half", [False, True], ids=["a file has gone", "half of a file"])
def test_a_publication_whose_files_are_missing_changes_nothing(tmp_path: Path, make: Make, half: bool) -> None:
    store = make(ready_to_publish(tmp_path))
    begun = publication(store)
    lost = tmp_path / "_work" / "now" / A_FILE
    if half:
        lost.write_text(lost.read_text()[:1])
    else:
        lost.unlink()
    with pytest.raises(etl.PublishError, match="_work/now/%s is missing" % A_FILE):
        finish(store, begun)
    with pytest.raises(etl.UsageError) as error:
        recovered(make(tmp_path))
    said = "run now died while publishing and cannot be finished, since _work/now/%s is missing" % A_FILE
    assert str(error.value) == said + ": build the lake from the input with --full"
    assert lake_of(tmp_path) == ["old"] * 3, "those that come before it, too"
    assert text_of(tmp_path / etl.LEDGER) is None
    # A run that builds all goes on; what is left stays until that has been published
    assert recovered(make(tmp_path), full=True) == [said]
    assert (tmp_path / "_work" / "now" / etl.JOURNAL).exists()


ANOTHER = '{"format": %s, "run_id": "now", "tables": {}, "texts": {}}'


@pytest.mark.parametrize("journal", [ANOTHER % 1, ANOTHER % 3, '{"format": 2, "run_id": "now"}', '{"form', "[]", "7"])
def test_a_journal_that_nobody_can_read_is_an_error_and_stays(tmp_path: Path, journal: str) -> None:
    ready_to_publish(tmp_path)
    write_files(tmp_path / "_work" / "now", {etl.JOURNAL: journal})
    with pytest.raises(etl.UsageError, match="since its journal is damaged or of another version") as error:
        recovered(etl.LocalStore(str(tmp_path)))
    assert (tmp_path / "_work" / "now" / etl.JOURNAL).read_text() == journal
    assert lake_of(tmp_path) == ["old"] * 3
    (said,) = recovered(etl.LocalStore(str(tmp_path)), full=True)
    assert said == str(error.value).partition(": build")[0]


def test_a_journal_names_every_file_that_comes_and_goes(tmp_path: Path) -> None:
    store = etl.LocalStore(str(ready_to_publish(tmp_path)))
    publication(store)
    text = (tmp_path / "_work" / "now" / etl.JOURNAL).read_text()
    found = json.loads(text)
    new = ["month=%s/%s" % (month, FILE % "new") for month in GENERATIONS["new"]]
    old = ["month=%s/%s" % (month, FILE % "old") for month in GENERATIONS["old"]]
    change = ["", "_work/now/songs", {path: [path, len("new")] for path in new}, old]
    assert found["format"] == 2
    assert found["run_id"] == "now"
    assert list(found["tables"]) == ORDER
    assert found["tables"]["songs"] == [change]
    assert found["texts"] == {"_runs/now.json": REPORT, etl.LEDGER: LEDGER}
    assert etl.journal_text(etl.publication_of(text)) == text


@pytest.mark.once
@pytest.mark.parametrize("kind", BY_HADOOP)
def test_a_store_changes_nothing_once_the_lock_is_lost(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    def lost() -> None:
        raise etl.LostLockError

    lake = write_files(tmp_path, {"a/1": "one", "b/2": "two"})
    (lake / "empty").mkdir()
    store = maker(kind, request)(lake)
    store.assure = lost
    changes = {"write": ("a/1", "x"), "put": ("c", "x"), "move": ("a", "d"), "remove": ("b",)}
    for name, args in {**changes, "remove_empty": ("empty",), "copy": ((lake / "a/1").as_uri(), "e")}.items():
        if hasattr(store, name):
            with pytest.raises(etl.LostLockError):
                getattr(store, name)(*args)
    assert etl.list_local_files(str(lake)).keys() == {"a/1", "b/2"}
    assert text_of(lake / "a" / "1") == "one"
    assert (lake / "empty").is_dir()


@pytest.mark.once
def test_a_text_that_is_written_when_the_lease_has_ended_is_not_stored(tmp_path: Path, objects: Make) -> None:
    store = objects(tmp_path)
    store.until.set(-(2**63))
    with pytest.raises(Exception, match="the lock expired"):
        store.put("a", "text")
    with pytest.raises(Exception, match="the lock expired"):
        store.copy(write_files(tmp_path, {"b": "text"}).joinpath("b").as_uri(), "c")


def test_a_full_run_too_finishes_what_can_be_finished(tmp_path: Path, make: Make) -> None:
    publication(make(ready_to_publish(tmp_path)))
    assert recovered(make(tmp_path), full=True) == ["finished the publishing of run now, which had died"]
    assert lake_of(tmp_path) == ["new"] * 3


def test_folders_are_exchanged_in_one_step_where_the_system_can(tmp_path: Path) -> None:
    write_files(tmp_path, {"one/a": "1", "other/b": "2"})
    if not etl.LocalStore(str(tmp_path)).exchange("one", "other"):
        pytest.skip("neither renameat2 nor renamex_np on this file system")
    assert (tmp_path / "one" / "b").read_text() == "2"
    assert (tmp_path / "other" / "a").read_text() == "1"


@pytest.mark.parametrize("missing", ["one", "other"])
def test_folders_that_cannot_be_exchanged_stay(tmp_path: Path, missing: str) -> None:
    (tmp_path / {"one": "other", "other": "one"}[missing]).mkdir()
    assert not etl.LocalStore(str(tmp_path)).exchange("one", "other")
    assert not (tmp_path / missing).exists()


# ------------------------------------------------------------------------------------ one run at a time

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("run first, process 1")
file.flush()
print("locked", flush=True)
sys.stdin.read()
"""


def silent(_: str) -> None:
    """Say nothing."""


@contextlib.contextmanager
def locked_by_another_process(lake: Path) -> Iterator[None]:
    """A lake into which another process writes, until it is killed."""
    write_files(lake, {"_lock": ""})
    command = [sys.executable, "-c", HOLDER, str(lake / "_lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline() == b"locked\n"
    yield
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("java", [False, True], ids=["before Java", "by Java"])
def test_a_lake_that_another_process_writes_into_is_refused_until_that_is_dead(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, java: bool
) -> None:
    monkeypatch.setattr(etl, "ENDING_SECONDS", 0)
    jvm = request.getfixturevalue("spark").sparkContext._jvm if java else None
    store = etl.LocalStore(str(tmp_path), jvm)
    with locked_by_another_process(tmp_path):
        with pytest.raises(etl.UsageError) as error, store.locked("second", silent):
            pass
        assert str(error.value) == "another run writes into %s: run first, process 1" % tmp_path
    with store.locked("second", silent):
        if java:
            assert "run second, process %d" % os.getpid() in (tmp_path / "_lock").read_text()


def test_a_run_waits_for_the_java_of_a_killed_one_to_end(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_lock = etl.lock_file
    end_java = try_lock(str(tmp_path / "_lock"), spark.sparkContext._jvm)
    assert end_java
    tries = []

    def try_and_end_java(path: str, jvm: Any) -> Any:
        release = try_lock(path, jvm)
        tries.append(release is not None)
        end_java()
        return release

    monkeypatch.setattr(etl, "lock_file", try_and_end_java)
    with etl.LocalStore(str(tmp_path)).locked("second", silent):
        assert tries == [False, True]


class Unlocked(etl.LocalStore):
    """A store that has no locks, as HDFS and S3 have none, on this machine."""

    locked = etl.Store.locked

    def __init__(self, root: str) -> None:
        clock = SimpleNamespace(nanoTime=time.monotonic_ns)
        super().__init__(root, SimpleNamespace(System=clock))
        self.until = self.forever = SimpleNamespace(set=lambda _: None)

    def put(self, name: str, text: str, until: Any = None) -> None:
        self.write(name, text)


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life in milliseconds."""
    monkeypatch.setattr(etl, "BEAT_SECONDS", 0.02)


@pytest.fixture
def short_lease(quick_beats: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that wait until a lease has expired."""
    monkeypatch.setattr(etl, "ACT_SECONDS", 1)
    monkeypatch.setattr(etl, "LEASE_SECONDS", 2)


@contextlib.contextmanager
def lease_on(lake: Path, run_id: str = "1") -> Iterator[etl.Lease]:
    """A lease that a run has got."""
    lease = etl.Lease(Unlocked(str(lake)), run_id)
    lease.acquire(silent)
    try:
        yield lease
    finally:
        lease.end()


def holders(lake: Path) -> List[str]:
    return sorted(path.name for path in (lake / "_locks").iterdir() if not path.name.startswith("_"))


def test_where_there_are_no_locks_a_living_run_is_seen_by_its_beats(tmp_path: Path, quick_beats: None) -> None:
    store = Unlocked(str(tmp_path))
    said: List[str] = []
    with store.locked("1", silent):
        with pytest.raises(etl.UsageError, match="another run writes into .*: run 1, process %d on " % os.getpid()):
            Unlocked(str(tmp_path)).locked("2", said.append).__enter__()
        store.assure()
    assert said == ["  waiting to see whether run 1 is alive"]
    with store.locked("3", silent):
        assert holders(tmp_path) == ["3"]
    assert leftovers(tmp_path) == []


def test_where_there_are_no_locks_a_dead_run_is_seen_by_its_silence(tmp_path: Path, short_lease: None) -> None:
    write_files(tmp_path / "_locks", {"9": "working 7: run 9, process 1"})
    with Unlocked(str(tmp_path)).locked("1", silent):
        assert holders(tmp_path) == ["1"]


def test_a_run_that_dies_while_it_is_watched_is_seen_by_its_silence(tmp_path: Path, short_lease: None) -> None:
    write_files(tmp_path / "_locks", {"9": "waiting 1: run 9, process 1"})

    def beat_once_more(_: str) -> None:
        write_files(tmp_path / "_locks", {"9": "waiting 2: run 9, process 1"})

    class Impatient(Unlocked):
        reads = 0

        def read(self, name: str) -> Optional[str]:
            self.reads += 1
            assert self.reads < 2000, "it watches forever"
            return super().read(name)

    with Impatient(str(tmp_path)).locked("1", beat_once_more):
        assert holders(tmp_path) == ["1"]


def test_a_run_whose_lock_was_taken_changes_nothing_more(tmp_path: Path, quick_beats: None) -> None:
    with lease_on(tmp_path) as lease:
        with lease.beating:
            Unlocked(str(tmp_path)).remove("_locks/1")
        lease.thread.join(20)  # it does not come back to life
        assert holders(tmp_path) == []
        with pytest.raises(etl.LostLockError, match="the lock on .* expired"):
            lease.assure()


def test_a_run_that_was_silent_for_longer_than_its_lease_has_lost_the_lock(tmp_path: Path, quick_beats: None) -> None:
    with lease_on(tmp_path) as lease:
        with lease.beating:  # as long as nobody can beat
            lease.shown -= etl.LEASE_SECONDS + 1
        lease.thread.join(20)
        assert not lease.thread.is_alive()
        with pytest.raises(etl.LostLockError, match="another run may have taken over"):
            lease.assure()


def test_a_beat_that_comes_after_the_lease_gives_nothing_back(tmp_path: Path) -> None:
    with lease_on(tmp_path) as lease:  # whose thread does not beat within this test
        lease.shown -= etl.LEASE_SECONDS + 1
        lease.beat()
        with pytest.raises(etl.LostLockError):
            lease.assure()


def test_a_run_that_was_silent_for_a_while_waits_for_its_next_beat(tmp_path: Path, quick_beats: None) -> None:
    with lease_on(tmp_path) as lease:
        with lease.beating:
            lease.shown -= etl.ACT_SECONDS + 1
            silent_since = lease.shown
        lease.assure()
        assert lease.shown > silent_since


def test_of_runs_that_begin_at_once_one_goes_on(tmp_path: Path, quick_beats: None) -> None:
    begin, done = threading.Barrier(3, timeout=300), threading.Barrier(3, timeout=300)

    def run(run_id: str) -> str:
        begin.wait()
        try:
            with Unlocked(str(tmp_path)).locked(run_id, silent):
                done.wait()
                return "went on"
        except etl.UsageError:
            done.wait()
            return "refused"

    with ThreadPoolExecutor(3) as pool:
        for _ in range(4):
            assert sorted(pool.map(run, ["1", "2", "3"])) == ["refused", "refused", "went on"]
    assert leftovers(tmp_path) == []


# ------------------------------------------------------------------------------------ whole runs on a small input


INPUTS = {"song-data": "songs", "log-data": "logs", "output": "lake"}


def small_input(folder: Path) -> Path:
    """2 songs; plays of 29 users, 5 of them in October, one delivered twice; a play of nobody; 3 other events. In no
    order.
    """
    moments = [OCTOBER + second * 1000 for second in range(5)] + [NOVEMBER + second * 1000 for second in range(24)]
    played = [event_record(ts=ts, userId=str(place), itemInSession=place) for place, ts in enumerate(moments)]
    unheard = event_record(ts=NOVEMBER + 25000, song="Unheard", userId="")
    other = [event_record(page=page, userId="7", ts=NOVEMBER) for page in ("Home", "About", "Logout")]
    events = [unheard, *played[::-2], *other, *played[-2::-2], played[3]]
    songs = [song_record(), song_record(song_id="SO2", title="Ember", year=0)]
    return write_files(
        folder, {"songs/A/1.json": songs[:1], "songs/B/2.json": songs[1:], "logs/1.json": events, "dl.cfg": ""}
    )


Main = Callable[..., Done]


@pytest.fixture(scope="module")
def etl_main(interpreted_plans: SparkSession) -> Main:
    """etl.main() for the input in a folder, in this session."""

    def main(folder: Path, *options: str) -> Done:
        flags = ["--mode=LOCAL", "--max-bad-percent=5", "--config=%s" % (folder / "dl.cfg"), *options]
        flags += ["--%s=%s" % (flag, folder / name) for flag, name in INPUTS.items()]
        return run_here(interpreted_plans, *flags)

    return main


class Published(NamedTuple):
    folder: Path  # of songs, logs and lake
    printed: str
    report: Row

    @property
    def lake(self) -> Path:
        return self.folder / "lake"


@pytest.fixture(scope="module")
def published(etl_main: Main, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The lake of the small input, in which a file has 20 rows at most."""
    folder = small_input(tmp_path_factory.mktemp("published"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etl, "ROWS_PER_FILE", 20)
        done = etl_main(folder)
    assert done.code == 0, done.err
    (report,) = reports(folder / "lake")
    return Published(folder, done.out, report)


def reports(lake: Path) -> List[Row]:
    return [json.loads(path.read_text("utf-8")) for path in sorted((lake / "_runs").iterdir())]


def table_files(lake: Path) -> Dict[str, str]:
    """A digest of every file of the tables."""
    files = [path for name in etl.TABLES for path in (lake / name).rglob("*") if path.is_file()]
    return {path.relative_to(lake).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def files_in(folder: Path) -> int:
    return len(list(folder.glob("*.parquet")))


def test_a_run_prints_its_account(published: Published) -> None:
    lines = published.printed.splitlines()
    assert "song_data  2 records = 2 songs + 0 duplicates + 0 quarantined" in lines
    assert "log_data   34 records = 30 plays + 1 duplicates + 3 other events + 0 quarantined" in lines
    assert "matched    songs known 29, artists known 30 of 30 plays" in lines
    assert "quarantine" not in published.printed.replace("quarantined", "")


def test_a_run_stores_its_report(published: Published) -> None:
    report = published.report
    assert report["status"] == "published"
    assert report["account"] == {
        "song_data": {"records": 2, "rows": 2, "duplicates": 0, "other": 0, "quarantined": 0},
        "log_data": {"records": 34, "rows": 30, "duplicates": 1, "other": 3, "quarantined": 0},
    }
    assert {name: (table["rows"], table["files"]) for name, table in report["tables"].items()} == {
        "artists": (1, 1), "songs": (2, 2), "users": (29, 2), "time": (30, 3), "songplays": (30, 3),
        "staging_songs": (2, 1), "staging_events": (34, 3),
    }  # fmt: skip
    sizes = {
        name: sum(file.stat().st_size for file in (published.lake / name).rglob("*.parquet")) for name in etl.TABLES
    }
    assert {name: table["bytes"] for name, table in report["tables"].items()} == sizes
    assert (report["matched"], report["match_rate"]) == (29, 29 / 30)
    assert (report["artists_known"], report["artist_match_rate"], report["reasons"]) == (30, 1.0, {})
    assert report["output"] == str(published.lake)
    assert report["run_id"].startswith(report["started"][:10].replace("-", "") + "T")
    assert report["started"].endswith("+00:00")


def test_a_lake_holds_its_tables_and_no_leftovers(published: Published) -> None:
    kept = {"_ledger", "_lock", "_quarantine", "_runs"}
    assert {path.name for path in published.lake.iterdir()} == {*kept, *etl.TABLES}


def test_a_partition_of_many_rows_is_several_files_and_a_small_one_is_one(published: Published) -> None:
    for name in ("songplays", "time", "staging_events"):
        months = [published.lake / name / "year=2018" / month for month in ("month=10", "month=11")]
        assert list(map(files_in, months)) == [1, 2], name
    assert [files_in(published.lake / name) for name in ("artists", "users", "staging_songs")] == [1, 2, 1]


def test_plays_and_times_are_sorted_in_each_file(spark: SparkSession, published: Published) -> None:
    for name in ("songplays", "time"):
        files = list((published.lake / name).rglob("*.parquet"))
        for file in files:
            starts = [row["start_time"] for row in spark.read.parquet(str(file)).coalesce(1).collect()]
            assert starts == sorted(starts), name
            assert starts


def test_an_empty_quarantine_can_be_read(spark: SparkSession, published: Published) -> None:
    quarantine = spark.read.parquet(str(published.lake / "_quarantine"))
    assert quarantine.columns == ["input", "file", "reason", "raw", "raw_base64"]
    assert quarantine.count() == 0


def test_a_failed_check_leaves_the_lake_as_it_was(
    published: Published, etl_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, time, once = table_files(published.lake), etl.time, etl.once
    monkeypatch.setattr(etl, "time", lambda *inputs: time(*inputs).where("day <> 31"))
    monkeypatch.setattr(etl, "once", lambda *inputs: once(*inputs).where("user_id is not null"))
    done = etl_main(published.folder, "--full")
    rules = [
        "rule broken: songplays: start_time is in time (5 failures, such as 2018-10-31 00:00:00, 2018-10-31 00:00:04)",
        # A play that was lost on the way
        "rule broken: staging_events: songplay_id is in songplays (1 failures, such as %s)"
        % hashlib.md5(b"/38/3/%d" % (NOVEMBER + 25000)).hexdigest(),
    ]
    assert (done.code, done.last()) == (1, "etl.py: failed, the lake is as it was: " + "; ".join(rules))
    assert table_files(published.lake) == before
    assert leftovers(published.lake) == []
    assert "failed: " + "; ".join(rules) in [report["status"] for report in reports(published.lake)]


def test_a_run_that_lost_its_lock_publishes_and_deletes_nothing_more(
    etl_main: Main, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, known, check, leases = table_files(published.lake), reports(published.lake), etl.check, []

    class Seen(etl.Lease):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            leases.append(self)

    def lose(*inputs: Any) -> None:
        check(*inputs)
        leases[0].lost.set()

    monkeypatch.setattr(etl, "open_store", etl.Store)
    monkeypatch.setattr(etl, "Lease", Seen)
    monkeypatch.setattr(etl, "check", lose)
    done = etl_main(published.folder, "--full")
    assert done.code == 75
    assert "the lock on %s expired" % published.lake in done.err
    assert (table_files(published.lake), reports(published.lake)) == (before, known)
    (left,) = (published.lake / "_work").iterdir()
    assert (left / "songplays").is_dir()
    assert recovered(etl.LocalStore(str(published.lake))) == ["removed what run %s had left" % left.name]


def test_too_many_bad_records_leave_the_lake_as_it_was_and_can_be_read(
    spark: SparkSession, published: Published, etl_main: Main
) -> None:
    before, logs = table_files(published.lake), published.folder / "logs"
    write_files(logs, {"2.json": '{"page": \n' * 2})
    done = etl_main(published.folder)
    (logs / "2.json").unlink()
    sentence = "5.6 % of the 36 records of log_data are bad, more than the 5 % allowed (broken JSON: 2)"
    assert (done.code, done.last()) == (1, "etl.py: failed, the lake is as it was: " + sentence)
    assert "failed: " + sentence in [report["status"] for report in reports(published.lake)]
    assert table_files(published.lake) == before
    assert leftovers(published.lake) == []
    bad = rows(spark.read.parquet(str(published.lake / "_quarantine")).drop("file"))
    assert bad == [{"input": "log_data", "reason": "broken JSON", "raw": '{"page": ', "raw_base64": None}] * 2


# ------------------------------------------------------------------------------------ tables without rows


@pytest.fixture(scope="module")
def without_rows(etl_main: Main, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input of bad records alone, and its lake."""
    folder = tmp_path_factory.mktemp("without_rows")
    write_files(folder, {"songs/1.json": "{}", "logs/1.json": "{}\n{}", "dl.cfg": ""})
    assert etl_main(folder, "--max-bad-percent=100").code == 0
    return folder


def read_by_spark(spark: Any, folder: Path) -> Tuple[List[str], int]:
    found = spark.read.parquet(str(folder))
    return found.columns, found.count()


def read_by_duckdb(_: Any, folder: Path) -> Tuple[List[str], int]:
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql("from read_parquet('%s/**/*.parquet', hive_partitioning = true)" % folder)
    return found.columns, len(found)


def read_by_pyarrow(_: Any, folder: Path) -> Tuple[List[str], int]:
    dataset = pytest.importorskip("pyarrow.dataset")
    found = dataset.dataset(str(folder), partitioning="hive")
    return found.schema.names, found.count_rows()


@pytest.mark.parametrize("read", [read_by_spark, read_by_duckdb, read_by_pyarrow])
def test_tables_without_rows_have_all_their_columns(
    spark: SparkSession, without_rows: Path, read: Callable[[Any, Path], Tuple[List[str], int]]
) -> None:
    assert reports(without_rows / "lake")[0]["account"]["log_data"]["quarantined"] == 2
    for name in etl.TABLES:
        columns, count = read(spark, without_rows / "lake" / name)
        assert (sorted(columns), count) == (sorted(column for column, _ in etl.columns_of(name)), 0), name


def test_what_keeps_a_table_without_rows_readable_goes_when_rows_come(etl_main: Main, without_rows: Path) -> None:
    write_files(without_rows, {"songs/2.json": [song_record()], "logs/2.json": [event_record()]})
    assert etl_main(without_rows, "--max-bad-percent=100").code == 0
    lake = without_rows / "lake"
    assert {name: table["rows"] for name, table in reports(lake)[-1]["tables"].items()} == dict.fromkeys(etl.TABLES, 1)
    folders = {
        path.parent.relative_to(lake).as_posix() for name in etl.TABLES for path in (lake / name).rglob("*.parquet")
    }
    month, song = "year=2018/month=11", "songs/year=1999/artist_id=ARAAAAA1187B000001"
    by_month = {"%s/%s" % (name, month) for name in ("time", "songplays", "staging_events")}
    assert folders == {"artists", "users", "staging_songs", song, *by_month}
