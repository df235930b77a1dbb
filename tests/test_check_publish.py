"""Before and while a lake is published: the checks, the account, and a publication that may die at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest
from conftest import NOVEMBER, OCTOBER, event_record, rows, song_record, write_files
from pyspark.sql import DataFrame, SparkSession

import etl

Row = Dict[str, Any]
ORDER = ["artists", "songs", "users", "time", "songplays"]

# ------------------------------------------------------------------------------------ every rule of every table

GOOD: Dict[str, Row] = {
    "artists": {"artist_id": "AR1", "name": "Anchors", "location": None, "latitude": 90.0, "longitude": -180.0},
    "songs": {"song_id": "SO1", "title": "Tide", "duration": 0.0, "year": 0, "artist_id": "AR1"},
    "users": {"user_id": 1, "first_name": None, "last_name": None, "gender": None, "level": None},
    "time": {"start_time": 0, "hour": 0, "day": 1, "week": 1, "weekday": 4, "year": 1970, "month": 1},
    "songplays": {
        "songplay_id": "P1",
        "start_time": 0,
        "user_id": 1,
        "level": "paid",
        "song_id": "SO1",
        "artist_id": "AR1",
        "session_id": 1,
        "location": None,
        "user_agent": None,
        "year": 1970,
        "month": 1,
    },
}
# For each condition of TABLES, values that break it and nothing else. A rule that is new there wants a line here.
BREAKING: Dict[str, List[Row]] = {
    "latitude is null or latitude between -90 and 90": [{"latitude": -90.5}, {"latitude": 91.0}],
    "longitude is null or longitude between -180 and 180": [{"longitude": 180.001}],
    "duration is null or duration >= 0": [{"duration": -0.1}, {"duration": -9.0}, {"duration": -1e9}],
    "year = 0 or year between 1000 and 9999": [{"year": 999}, {"year": 10000}, {"year": -1}],
    "gender is null or gender in ('F', 'M')": [{"gender": "f"}, {"gender": ""}],
    "level is null or level in ('free', 'paid')": [{"level": "gold"}, {"level": "Free"}, {"level": ""}],
    "hour between 0 and 23": [{"hour": 24}, {"hour": -1}],
    "day between 1 and 31": [{"day": 0}],
    "week between 1 and 53": [{"week": 54}, {"week": 0}],
    "weekday between 1 and 7": [{"weekday": 0}, {"weekday": 8}],
    "month between 1 and 12": [{"month": 13}],
    "(song_id is null) = (artist_id is null)": [{"song_id": None}, {"artist_id": None}],
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
            return {**GOOD[name], **key_of(name, next(numbers)), **changes}

        key = table.key
        yield Case("%s: %s is not null" % (name, key), name, [broken(name, {key: None})], 1, {None})
        repeated = broken(name, {})
        rule = "%s: %s is unique" % (name, key)
        yield Case(rule, name, [repeated] * 2, 1, {shown(repeated[key], name, key)})
        nulls = {column: [broken(name, {column: None}) for _ in range(2)] for column in table.required}
        for column, bad in nulls.items():
            yield Case("%s: %s is not null" % (name, column), name, bad, 2, {shown(row[key], name, key) for row in bad})
        for condition in table.accepted:
            bad = [broken(name, changes) for changes in BREAKING[condition]]
            also = nulls.get(condition.split()[0], [])  # null is not accepted either, where a value is required
            keys = sorted(shown(row[key], name, key) for row in bad + also)
            yield Case("%s: %s" % (name, condition), name, bad, len(keys), {keys[0], keys[-1]})
        for column, other, _ in table.references:
            values = [key_of(other, next(numbers))[etl.TABLES[other].key] for _ in range(3)]
            keys = sorted(shown(value, name, column) for value in values)
            bad = [broken(name, {column: value}) for value in values]
            yield Case("%s: %s is in %s" % (name, column, other), name, bad, 3, {keys[0], keys[-1]})


def key_of(name: str, number: int) -> Row:
    """A key that no other row has."""
    kinds = dict(etl.columns_of(name))
    key = etl.TABLES[name].key
    return {key: "K%d" % number if kinds[key] == "string" else number}


def shown(value: Any, name: str, column: str) -> str:
    """A value as the check shows it: a number in the column start_time stands for seconds after 1970."""
    if column != "start_time":
        return str(value)
    return "1970-01-01 00:%02d:%02d" % divmod(value, 60)


def frames(spark: SparkSession, extra: Sequence[Case] = ()) -> Dict[str, DataFrame]:
    """Five tables in which all is well, and the rows of some cases."""
    return {
        name: frame(spark, name, [GOOD[name]] + [row for case in extra if case.table == name for row in case.rows])
        for name in ORDER
    }


def frame(spark: SparkSession, name: str, records: Sequence[Row]) -> DataFrame:
    """Rows in the types of a table."""
    columns = etl.columns_of(name)
    raw = ", ".join("%s %s" % (column, "bigint" if kind == "timestamp" else kind) for column, kind in columns)
    values = [tuple(record[column] for column, _ in columns) for record in records]
    return spark.createDataFrame(values, raw).selectExpr(*["cast(%s as %s) as %s" % (c, k, c) for c, k in columns])


@pytest.fixture(scope="module")
def found(plain_plans: SparkSession) -> Dict[str, Tuple[int, Set[Optional[str]]]]:
    """What the check says of tables that break every rule: failures and examples by rule."""
    broken = rows(etl.violations(frames(plain_plans, list(cases()))))
    assert len({row["rule"] for row in broken}) == len(broken)
    return {row["rule"]: (row["failures"], set(row["examples"])) for row in broken}


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.rule)
def test_a_broken_rule_is_named_counted_and_shown(case: Case, found: Dict[str, Any]) -> None:
    assert found[case.rule] == (case.failures, case.examples)


def test_each_broken_rule_breaks_no_other(found: Dict[str, Any]) -> None:
    assert set(found) == {case.rule for case in cases()}
    assert len(found) == etl.number_of_rules()


def test_only_rules_of_tables_that_change_are_checked(plain_plans: SparkSession, found: Dict[str, Any]) -> None:
    broken = rows(etl.violations(frames(plain_plans, list(cases())), ["users"]))
    assert {row["rule"] for row in broken} == {rule for rule in found if re.search(r"^users:|is in users$", rule)}
    assert len(broken) == etl.number_of_rules(["users"])


def test_good_tables_break_no_rule(plain_plans: SparkSession) -> None:
    tables = frames(plain_plans)
    tables["songplays"] = frame(plain_plans, "songplays", [GOOD["songplays"], {**GOOD["songplays"], **UNMATCHED}])
    assert rows(etl.violations(tables)) == []
    counted = {row["name"]: (row["rows"], row["matched"]) for row in etl.totals(tables).collect()}
    assert counted == {"artists": (1, 0), "songs": (1, 0), "users": (1, 0), "time": (1, 0), "songplays": (2, 1)}


UNMATCHED = {"songplay_id": "P2", "song_id": None, "artist_id": None, "user_id": None, "level": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"latitude": None, "longitude": None},
        {"latitude": -90.0, "longitude": 180.0},
    ],
)
def test_places_at_the_edge_of_the_map_are_accepted(spark: SparkSession, changes: Row) -> None:
    artists = frame(spark, "artists", [{**GOOD["artists"], **changes}])
    assert rows(etl.broken_rows("artists", {"artists": artists})) == []


# ------------------------------------------------------------------------------------ the account


@pytest.mark.parametrize(
    ("account", "difference"),
    [
        (etl.Account(100, 60, 10, 25, 5), 0),
        (etl.Account(101, 60, 10, 25, 5), 1),
        (etl.Account(100, 61, 10, 25, 5), -1),
        (etl.Account(100, 60, 11, 25, 5), -1),
        (etl.Account(100, 60, 10, 26, 5), -1),
        (etl.Account(100, 60, 10, 25, 6), -1),
        (etl.Account(0, 0, 0, 0, 0), 0),
    ],
)
def test_an_account_says_what_it_cannot_explain(account: etl.Account, difference: int) -> None:
    assert account.difference() == difference


def counted(bad: int, good: int) -> List[Row]:
    return [{"reason": None, "count": good}, {"reason": "broken JSON", "count": bad}]


@pytest.mark.parametrize(("bad", "good", "limit"), [(5, 95, 5), (0, 100, 0), (100, 0, 100), (0, 0, 5), (1, 199, 0.5)])
def test_as_many_bad_records_as_allowed_pass(bad: int, good: int, limit: float) -> None:
    etl.refuse_too_many_bad("log_data", counted(bad, good), limit)


@pytest.mark.parametrize(("bad", "good", "limit"), [(6, 94, 5), (1, 999999, 0), (51, 949, 5)])
def test_one_bad_record_too_many_fails(bad: int, good: int, limit: float) -> None:
    with pytest.raises(etl.DataError):
        etl.refuse_too_many_bad("log_data", counted(bad, good), limit)


def test_too_many_bad_records_are_counted_by_reason() -> None:
    counts: List[etl.Row] = [
        {"reason": "missing: ts", "count": 1000, "play": True},
        {"reason": None, "count": 8000, "play": True},
        {"reason": "broken JSON", "count": 800, "play": True},
        {"reason": "broken JSON", "count": 700, "play": False},
    ]
    with pytest.raises(etl.DataError) as error:
        etl.refuse_too_many_bad("log_data", counts, 5)
    sentence = "23.8 % of the 10,500 records of log_data are bad, more than the 5 % allowed"
    assert str(error.value) == sentence + " (broken JSON: 1,500, missing: ts: 1,000)"


# ------------------------------------------------------------------------------------ publishing, and dying meanwhile


class DeathError(Exception):
    """The process was killed."""


class Mortal(etl.Store):
    """A store whose process may die after some calls that change something."""

    calls_left = 10**6

    def change(self, action: Callable[..., Any], *args: Any) -> Any:
        if self.calls_left <= 0:
            raise DeathError
        self.calls_left -= 1
        return action(*args)

    def move(self, source: Sequence[str], target: Sequence[str]) -> None:
        self.change(super().move, source, target)

    def delete(self, *parts: str) -> None:
        self.change(super().delete, *parts)

    def write_directly(self, text: str, *parts: str) -> None:
        self.change(super().write_directly, text, *parts)


class OfThisMachine(Mortal, etl.LocalStore):
    def exchange(self, old: Sequence[str], new: Sequence[str]) -> bool:
        return bool(self.change(super().exchange, old, new))


class OfObjects(Mortal, etl.ObjectStore):
    def objects(self, *parts: str) -> List[str]:
        """Hadoop's list of local files starts a process for each, to learn its owner."""
        folder = Path(self.root, *parts)
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def copy(self, source: str, *target: str) -> None:
        self.change(super().copy, source, *target)


KINDS = {"this machine": OfThisMachine, "renames": Mortal, "objects": OfObjects}


# Which differ little from one Spark to the next, and take long
EVERY_KIND = ["this machine", *[pytest.param(kind, marks=pytest.mark.once) for kind in ("renames", "objects")]]


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps each time."""
    monkeypatch.setattr(etl, "REQUESTS_AT_ONCE", 1)


GENERATIONS = {"old": ["1", "2"], "new": ["2", "3", "4"]}
FILE = "part-00000-%s.c000.snappy.parquet"  # as Spark names them, each run by other ids
REPORT = json.dumps({"run_id": "now", "status": "published"})
WHOLE: etl.Changed = dict.fromkeys(ORDER)
PARTS: etl.Changed = dict.fromkeys(ORDER, etl.Part(["month=2", "month=3", "month=4"], ["month=1"]))


def fill(folder: Path, generation: str) -> None:
    """Put a generation's files into a table folder."""
    folder.mkdir(parents=True)
    for name in GENERATIONS[generation]:
        write_files(folder / ("month=" + name), {FILE % generation: generation})


def partitions(folder: Path) -> Dict[str, List[str]]:
    """What a reader finds in each partition of a table."""
    found: Dict[str, List[str]] = {}
    for path in folder.glob("month=*/[!_.]*"):
        found.setdefault(path.parent.name[len("month=") :], []).append(path.read_text())
    return found


def generation(folder: Path, part: bool = False) -> Optional[str]:
    """Which generation a table folder holds, beside a partition that stays where only a part is published; None where
    there is none, "mixed" where it is not whole.
    """
    if not folder.exists():
        return None
    found, stays = partitions(folder), {"0": ["kept"]} if part else {}
    for name, months in GENERATIONS.items():
        if found == {**stays, **{month: [name] for month in months}}:
            return name
    return "mixed"


def ready_to_publish(lake: Path, with_old: bool, part: bool = False) -> Path:
    """A lake whose run `now` has checked its tables, or parts of them."""
    for name in ORDER:
        fill(lake / "_staging" / "now" / "tables" / name, "new")
        if with_old:
            fill(lake / name, "old")
        if part:
            write_files(lake / name / "month=0", {FILE % "old": "kept"})
    write_files(lake / "_staging" / "now" / "log_data", {"part": "staged"})
    return lake


def lake_of(lake: Path, part: bool = False) -> List[Optional[str]]:
    return [generation(lake / name, part) for name in ORDER]


def leftovers(lake: Path) -> List[Path]:
    """What a run must not leave."""
    return [path for path in lake.rglob("*") if path.name in ("_staging", "_locks", "_new")]


def publish_and_die(store: Mortal, calls: int, changed: etl.Changed = WHOLE) -> None:
    """Publish, and die after so many steps."""
    store.calls_left = calls
    with pytest.raises(DeathError):
        etl.publish(store, "now", REPORT, changed)


def steps(store: Mortal, changed: etl.Changed = WHOLE) -> int:
    """How many calls change something while a lake is published."""
    before = store.calls_left
    etl.publish(store, "now", REPORT, changed)
    return before - store.calls_left


def deaths(kind: str, spark: SparkSession, folder: Path, with_old: bool, part: bool = False) -> Iterator[Path]:
    """Lakes whose publication has died after each of its steps."""
    changed = PARTS if part else WHOLE
    counted = ready_to_publish(folder / "counted", with_old, part)
    total = steps(KINDS[kind](spark, str(counted)), changed)
    assert lake_of(counted, part) == ["new"] * 5
    assert total >= 15
    for calls in range(total):
        lake = ready_to_publish(folder / str(calls), with_old, part)
        publish_and_die(KINDS[kind](spark, str(lake)), calls, changed)
        yield lake


@pytest.mark.parametrize(
    ("with_old", "part"),
    [(True, False), (False, False), (True, True)],
    ids=["over a lake", "first lake", "a part of a lake"],
)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_publication_that_dies_is_finished_by_the_next_run_or_has_not_begun(
    spark: SparkSession, tmp_path: Path, one_thread: None, kind: str, with_old: bool, part: bool
) -> None:
    old, seen = "old" if with_old else None, []
    for lake in deaths(kind, spark, tmp_path, with_old, part):
        begun = (lake / "_staging" / "now" / "publishing").exists()
        if not begun:
            assert lake_of(lake, part) == [old] * 5
        sentences = etl.recover(KINDS[kind](spark, str(lake)))
        assert lake_of(lake, part) == ["new" if begun else old] * 5
        assert leftovers(lake) == []
        report = lake / "_runs" / "now.json"
        if begun:
            assert sentences == ["finished the publishing of run now, which had died"]
            assert report.read_text() == REPORT
        else:
            assert sentences == ["removed what run now had left"]
            assert not report.exists()
        seen.append(begun)
    assert True in seen
    assert False in seen


@pytest.mark.parametrize("part", [False, True])
def test_on_this_machine_each_table_is_whole_at_every_moment(spark: SparkSession, tmp_path: Path, part: bool) -> None:
    seen = []
    for lake in deaths("this machine", spark, tmp_path, with_old=True, part=part):
        found = lake_of(lake, part)
        if found not in seen:
            seen.append(found)
    assert seen == [["new"] * number + ["old"] * (5 - number) for number in range(6)]  # dimensions before facts


@pytest.mark.once
def test_with_renames_a_table_is_whole_or_put_aside_at_every_moment(spark: SparkSession, tmp_path: Path) -> None:
    missing = set()
    for lake in deaths("renames", spark, tmp_path, with_old=True):
        found = lake_of(lake)
        assert set(found) <= {"old", "new", None}
        if None in found:
            (name,) = [name for name, state in zip(ORDER, found) if state is None]
            assert generation(lake / "_staging" / "now" / "old" / name) == "old"
            assert generation(lake / "_staging" / "now" / "tables" / name) == "new"
            missing.add(name)
    assert missing == set(ORDER)


@pytest.mark.once
def test_with_objects_each_partition_is_whole_at_every_moment(
    spark: SparkSession, tmp_path: Path, one_thread: None
) -> None:
    for calls in range(steps(OfObjects(spark, str(second_run(spark, tmp_path / "counted"))))):
        lake = second_run(spark, tmp_path / str(calls))
        publish_and_die(OfObjects(spark, str(lake)), calls)
        for name in ORDER:
            found = partitions(lake / name)
            assert all(len(files) == 1 for files in found.values())
            assert set(found) >= {"2"}
            assert found["2"][0] in ("old", "new")


def second_run(spark: SparkSession, lake: Path) -> Path:
    """A lake that one run has published, so that its objects have lasting names, and another one is about to."""
    for name in ORDER:
        fill(lake / "_staging" / "now" / "tables" / name, "old")
    etl.publish(OfObjects(spark, str(lake)), "now", REPORT, WHOLE)
    shutil.rmtree(str(lake / "_staging"))
    assert lake_of(lake) == ["old"] * 5
    return ready_to_publish(lake, with_old=False)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_recovery_that_dies_too_is_finished_by_the_run_after(
    spark: SparkSession, tmp_path: Path, one_thread: None, kind: str
) -> None:
    for calls in range(10**6):
        lake = ready_to_publish(tmp_path / str(calls), with_old=True)
        publish_and_die(KINDS[kind](spark, str(lake)), 13)  # amid the tables
        store = KINDS[kind](spark, str(lake))
        store.calls_left = calls
        with contextlib.suppress(DeathError):
            etl.recover(store)
        died = store.calls_left == 0
        etl.recover(KINDS[kind](spark, str(lake)))
        assert lake_of(lake) == ["new"] * 5
        assert leftovers(lake) == []
        assert (lake / "_runs" / "now.json").read_text() == REPORT
        if not died:
            break
    assert calls > 10


def test_a_run_that_dies_before_publishing_leaves_the_lake_as_it_was(spark: SparkSession, tmp_path: Path) -> None:
    ready_to_publish(tmp_path, with_old=True)
    write_files(tmp_path / "_staging" / "earlier" / "song_data" / "_temporary", {"0": "half"})
    assert etl.recover(etl.LocalStore(spark, str(tmp_path))) == [
        "removed what run earlier had left",
        "removed what run now had left",
    ]
    assert lake_of(tmp_path) == ["old"] * 5
    assert leftovers(tmp_path) == []


def test_nothing_to_recover_is_no_news(spark: SparkSession, tmp_path: Path) -> None:
    assert etl.recover(etl.LocalStore(spark, str(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []


def test_folders_are_exchanged_in_one_step_where_the_system_can(tmp_path: Path) -> None:
    write_files(tmp_path, {"one/a": "1", "other/b": "2"})
    if not etl.exchange_folders(str(tmp_path / "one"), str(tmp_path / "other")):
        pytest.skip("neither renameat2 nor renamex_np on this file system")
    assert (tmp_path / "one" / "b").read_text() == "2"
    assert (tmp_path / "other" / "a").read_text() == "1"


@pytest.mark.parametrize("missing", ["one", "other"])
def test_folders_that_cannot_be_exchanged_stay(tmp_path: Path, missing: str) -> None:
    (tmp_path / {"one": "other", "other": "one"}[missing]).mkdir()
    assert not etl.exchange_folders(str(tmp_path / "one"), str(tmp_path / "other"))
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


def test_a_lake_that_another_process_writes_into_is_refused_until_that_is_dead(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl, "ENDING_SECONDS", 0)
    store = etl.LocalStore(spark, str(tmp_path))
    with locked_by_another_process(tmp_path):
        with pytest.raises(etl.UsageError) as error, store.locked("second", silent):
            pass
        assert str(error.value) == "another run writes into %s: run first, process 1" % tmp_path
    with store.locked("second", silent):
        assert "run second, process %d" % os.getpid() in (tmp_path / "_lock").read_text()


def test_a_run_waits_for_the_java_of_a_killed_one_to_end(spark: SparkSession, tmp_path: Path) -> None:
    store = etl.LocalStore(spark, str(tmp_path))
    first = store.locked("first", silent)
    first.__enter__()
    waited = []

    def acquire() -> None:
        with store.locked("second", silent):
            waited.append("acquired")

    thread = threading.Thread(target=acquire)
    thread.start()
    waited.append("released")
    first.__exit__(None, None, None)
    thread.join()
    assert waited == ["released", "acquired"]


def test_a_second_run_in_the_same_session_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl, "ENDING_SECONDS", 0)
    store = etl.LocalStore(spark, str(tmp_path))
    with store.locked("first", silent), pytest.raises(etl.UsageError, match=": run first, process"):
        store.locked("second", silent).__enter__()


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life in milliseconds."""
    monkeypatch.setattr(etl, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(etl, "LEASE_SECONDS", 2)


def test_where_there_are_no_locks_a_living_run_is_seen_by_its_beats(
    spark: SparkSession, tmp_path: Path, quick_beats: None
) -> None:
    store = etl.Store(spark, str(tmp_path))
    said: List[str] = []
    with store.locked("1", silent) as lease:
        with pytest.raises(etl.UsageError, match="another run writes into .*: run 1, process %d on " % os.getpid()):
            store.locked("2", said.append).__enter__()
        lease.assure()
    assert said == ["  waiting to see whether run 1 is alive"]
    with store.locked("3", silent):
        assert [path.name for path in (tmp_path / "_locks").iterdir()] == ["3"]
    assert leftovers(tmp_path) == []


def test_where_there_are_no_locks_a_dead_run_is_seen_by_its_silence(
    spark: SparkSession, tmp_path: Path, quick_beats: None
) -> None:
    write_files(tmp_path / "_locks", {"9": "working 7: run 9, process 1"})
    with etl.Store(spark, str(tmp_path)).locked("1", silent):
        assert [path.name for path in (tmp_path / "_locks").iterdir()] == ["1"]


def test_a_run_that_dies_while_it_is_watched_is_seen_by_its_silence(
    spark: SparkSession, tmp_path: Path, quick_beats: None
) -> None:
    write_files(tmp_path / "_locks", {"9": "waiting 1: run 9, process 1"})

    def beat_once_more(_: str) -> None:
        write_files(tmp_path / "_locks", {"9": "waiting 2: run 9, process 1"})

    class Impatient(etl.Store):
        reads = 0

        def read(self, *parts: str) -> Optional[str]:
            self.reads += 1
            assert self.reads < 3000, "it watches forever"
            return super().read(*parts)

    with Impatient(spark, str(tmp_path)).locked("1", beat_once_more):
        assert [path.name for path in (tmp_path / "_locks").iterdir()] == ["1"]


def test_a_run_that_was_taken_for_dead_publishes_nothing(
    spark: SparkSession, tmp_path: Path, quick_beats: None
) -> None:
    store = etl.Store(spark, str(tmp_path))
    with store.locked("1", silent) as lease:
        assert lease.thread
        with lease.beating:
            etl.Store(spark, str(tmp_path)).delete("_locks", "1")
        lease.thread.join(60)  # it does not come back to life
        with pytest.raises(etl.UsageError, match="another run took this one for dead"):
            lease.assure()


@pytest.mark.parametrize(("other", "lives"), [("2", False), (None, True)])
def test_a_run_that_was_silent_for_too_long_lives_on_where_there_is_no_other(
    spark: SparkSession, tmp_path: Path, quick_beats: None, other: Optional[str], lives: bool
) -> None:
    store = etl.Store(spark, str(tmp_path))
    with store.locked("1", silent) as lease:
        assert lease.thread
        with lease.beating:  # as long as nobody can beat
            if other:
                store.write("working 1: run 2, process 1", "_locks", other)
            lease.shown -= 3
            beats = lease.beats
        lease.thread.join(60 if other else 1)
        assert lease.thread.is_alive() == lives
        if lives:
            assert lease.beats > beats
            lease.assure()
        else:
            with pytest.raises(etl.UsageError, match="another run took this one for dead"):
                lease.assure()


def test_of_runs_that_begin_at_once_one_goes_on(spark: SparkSession, tmp_path: Path, quick_beats: None) -> None:
    begin, done = threading.Barrier(3, timeout=60), threading.Barrier(3, timeout=60)

    def run(run_id: str) -> str:
        store = etl.Store(spark, str(tmp_path))
        begin.wait()
        try:
            with store.locked(run_id, silent):
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
    """2 songs; plays of 29 users, 5 of them in October, one delivered twice; a play of nobody; 3 other events."""
    moments = [OCTOBER + second * 1000 for second in range(5)] + [NOVEMBER + second * 1000 for second in range(24)]
    played = [event_record(ts=ts, userId=str(place), itemInSession=place) for place, ts in enumerate(moments)]
    unheard = event_record(ts=NOVEMBER + 25000, song="Unheard", userId="")
    other = [event_record(page=page, userId="7", ts=NOVEMBER) for page in ("Home", "About", "Logout")]
    events = [*played, played[3], *other, unheard]
    songs = [song_record(), song_record(song_id="SO2", title="Ember", year=0)]
    return write_files(
        folder, {"songs/A/1.json": songs[:1], "songs/B/2.json": songs[1:], "logs/1.json": events, "dl.cfg": ""}
    )


@pytest.fixture(scope="module")
def etl_main(interpreted_plans: SparkSession) -> Iterator[Callable[..., int]]:
    """etl.main() for the input in a folder, in this session, which it must not stop."""

    def main(folder: Path, *options: str) -> int:
        flags = ["--mode=LOCAL", "--max-bad-percent=5", "--config=%s" % (folder / "dl.cfg"), *options]
        flags += ["--%s=%s" % (flag, folder / name) for flag, name in INPUTS.items()]
        before = signal.getsignal(signal.SIGTERM)
        try:
            return etl.main(flags)
        finally:
            signal.signal(signal.SIGTERM, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etl, "start_session", lambda config: interpreted_plans)
        patch.setattr(type(interpreted_plans), "stop", lambda self: None)
        yield main


class Published(NamedTuple):
    folder: Path  # of songs, logs and lake
    printed: str
    report: Row

    @property
    def lake(self) -> Path:
        return self.folder / "lake"


@pytest.fixture(scope="module")
def published(etl_main: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The lake of the small input."""
    folder = small_input(tmp_path_factory.mktemp("published"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert etl_main(folder) == 0
    (report,) = reports(folder / "lake")
    return Published(folder, printed.getvalue(), report)


def reports(lake: Path) -> List[Row]:
    return [json.loads(path.read_text("utf-8")) for path in sorted((lake / "_runs").iterdir())]


def table_files(lake: Path) -> Dict[str, str]:
    """A digest of every file of the five tables."""
    files = [path for name in ORDER for path in (lake / name).rglob("*") if path.is_file()]
    return {path.relative_to(lake).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def files_in(folder: Path) -> int:
    return len(list(folder.glob("*.parquet")))


def test_a_run_prints_its_account(published: Published) -> None:
    lines = published.printed.splitlines()
    assert "song_data  2 records = 2 songs + 0 duplicates + 0 quarantined" in lines
    assert "log_data   34 records = 30 plays + 1 duplicates + 3 other events + 0 quarantined" in lines
    assert "matched    29 of 30 plays (96.67 %)" in lines
    assert "quarantine" not in published.printed.replace("quarantined", "")


def test_a_run_stores_its_report(published: Published) -> None:
    report = published.report
    assert report["status"] == "published"
    assert report["account"] == {
        "song_data": {"records": 2, "rows": 2, "duplicates": 0, "other": 0, "quarantined": 0},
        "log_data": {"records": 34, "rows": 30, "duplicates": 1, "other": 3, "quarantined": 0},
    }
    assert {name: (table["rows"], table["files"]) for name, table in report["tables"].items()} == {
        "artists": (1, 1), "songs": (2, 2), "users": (29, 1), "time": (30, 2), "songplays": (30, 2),
    }  # fmt: skip
    sizes = {name: sum(file.stat().st_size for file in (published.lake / name).rglob("*.parquet")) for name in ORDER}
    assert {name: table["bytes"] for name, table in report["tables"].items()} == sizes
    assert (report["matched"], report["match_rate"], report["reasons"]) == (29, 29 / 30, {})
    assert report["output"] == str(published.lake)
    assert report["run_id"].startswith(report["started"][:10].replace("-", "") + "T")
    assert report["started"].endswith("+00:00")


def test_a_lake_holds_its_tables_and_no_leftovers(published: Published) -> None:
    assert {path.name for path in published.lake.iterdir()} == {"_lock", "_quarantine", "_runs", "_state", *ORDER}


def test_a_small_partition_is_one_file(published: Published) -> None:
    folders = [published.lake / name for name in ("users", "artists")]
    for table in ("songplays", "time"):
        folders += [published.lake / table / "year=2018" / month for month in ("month=10", "month=11")]
    assert [files_in(folder) for folder in folders] == [1] * 6


def test_an_empty_quarantine_can_be_read(spark: SparkSession, published: Published) -> None:
    quarantine = spark.read.parquet(str(published.lake / "_quarantine"))
    assert quarantine.columns == ["input", "file", "reason", "raw", "raw_base64"]
    assert quarantine.count() == 0


def test_a_failed_check_leaves_the_lake_as_it_was(
    published: Published,
    etl_main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, time = table_files(published.lake), etl.time
    monkeypatch.setattr(etl, "time", lambda *inputs: time(*inputs).where("day <> 31"))
    assert etl_main(published.folder, "--full") == 1
    rule = (
        "rule broken: songplays: start_time is in time (5 failures, such as 2018-10-31 00:00:00, 2018-10-31 00:00:04)"
    )
    assert capsys.readouterr().err.splitlines()[-1] == "etl.py: failed, the lake is as it was: " + rule
    assert table_files(published.lake) == before
    assert list(published.lake.glob("_staging/*")) == []
    assert "failed: " + rule in [report["status"] for report in reports(published.lake)]


def test_records_that_no_table_explains_fail_the_run(
    published: Published,
    etl_main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, unique_plays = table_files(published.lake), etl.unique_plays
    monkeypatch.setattr(etl, "unique_plays", lambda events: unique_plays(events).where("user_id is not null"))
    assert etl_main(published.folder, "--full") == 1
    assert "log_data: 1 records are not accounted for" in capsys.readouterr().err.splitlines()[-1]
    assert table_files(published.lake) == before
    assert list(published.lake.glob("_staging/*")) == []


def test_a_run_that_lost_its_place_publishes_nothing(
    etl_main: Callable[..., int], published: Published, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    before = table_files(published.lake)
    check = etl.Run.check

    def lose(run: etl.Run, *counts: Any) -> None:
        check(run, *counts)
        run.store.delete("_locks", run.run_id)

    monkeypatch.setattr(etl, "open_store", etl.Store)
    monkeypatch.setattr(etl.Run, "check", lose)
    assert etl_main(published.folder, "--full") == 2
    assert "another run took this one for dead" in capsys.readouterr().err
    assert table_files(published.lake) == before
    assert leftovers(published.lake) == []


def test_too_many_bad_records_leave_the_lake_as_it_was_and_can_be_read(
    spark: SparkSession, published: Published, etl_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before, logs = table_files(published.lake), published.folder / "logs"
    write_files(logs, {"2.json": '{"page": \n' * 2})
    try:
        assert etl_main(published.folder) == 1
    finally:
        (logs / "2.json").unlink()
    said = capsys.readouterr().err.splitlines()[-1]
    sentence = "5.6 % of the 36 records of log_data are bad, more than the 5 % allowed (broken JSON: 2)"
    assert said == "etl.py: failed, the lake is as it was: " + sentence
    assert table_files(published.lake) == before
    assert list(published.lake.glob("_staging/*")) == []
    bad = rows(spark.read.parquet(str(published.lake / "_quarantine")).drop("file"))
    assert bad == [{"input": "log_data", "reason": "broken JSON", "raw": '{"page": ', "raw_base64": None}] * 2


# ------------------------------------------------------------------------------------ many rows


def test_a_partition_of_many_rows_is_several_files(
    plain_plans: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl, "ROWS_PER_FILE", 20)
    records = [
        {**GOOD["songplays"], "songplay_id": "P%d" % place, "month": 2 if place < 100 else 1} for place in range(110)
    ]
    sizes = {(1970, 1): 10, (1970, 2): 100, (1971, 1): 10**3}
    plays = etl.spread(frame(plain_plans, "songplays", records), ["songplay_id"], sizes).drop("chunk")
    etl.load(etl.arranged(plays, "songplays"), "songplays", str(tmp_path / "plays"))
    assert files_in(tmp_path / "plays" / "year=1970" / "month=1") == 1
    large = tmp_path / "plays" / "year=1970" / "month=2"
    assert 3 <= files_in(large) <= 5
    assert len({path.name[: len("part-00000")] for path in large.glob("part-*")}) >= 3  # tasks, which share the work
    assert plain_plans.read.parquet(str(tmp_path / "plays")).distinct().count() == 110

    users = [{**GOOD["users"], "user_id": place} for place in range(41)]
    etl.load(etl.arranged(frame(plain_plans, "users", users), "users"), "users", str(tmp_path / "users"))
    assert files_in(tmp_path / "users") == 3
    assert plain_plans.read.parquet(str(tmp_path / "users")).count() == 41
