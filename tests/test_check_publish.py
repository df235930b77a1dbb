"""Before and while a lake is published: the checks, the account, and a publication that may die at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import signal
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest
from conftest import event_record, rows, song_record, write_files
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
def plain_plans(spark: SparkSession) -> Iterator[SparkSession]:
    """A session without the newer Sparks' adaptive plans, which take seconds to plan and merge what is small."""
    spark.conf.set("spark.sql.adaptive.enabled", "false")
    yield spark
    spark.conf.unset("spark.sql.adaptive.enabled")


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
    counts = [
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


class Dying(etl.Store):
    """A store whose process dies at the k-th call that changes anything: just before it, or just after."""

    calls_left = 10**6
    after = False

    def die_at(self, call: int, after: bool) -> Dying:
        self.calls_left, self.after = call, after
        return self

    def change(self, action: Callable[[], None]) -> None:
        self.calls_left -= 1
        if self.calls_left or self.after:
            action()
        if not self.calls_left:
            raise DeathError

    def move(self, source: Sequence[str], target: Sequence[str]) -> None:
        self.change(lambda: etl.Store.move(self, source, target))

    def delete(self, *parts: str) -> None:
        self.change(lambda: etl.Store.delete(self, *parts))

    def write(self, text: str, *parts: str) -> None:
        self.change(lambda: etl.Store.write(self, text, *parts))


STEPS = {"over a lake": 13, "first lake": 8}  # one mark, one or two moves for each table, two removals
GENERATIONS = {"old": ["1", "2"], "new": ["2", "3", "4"]}


def fill(folder: Path, generation: str) -> None:
    """Put a generation's files into a table folder."""
    for name in GENERATIONS[generation]:
        write_files(folder / ("month=" + name), {"part": generation})


def generation(folder: Path) -> Optional[str]:
    """Which generation a table folder holds; None where there is none, an error where it is not whole."""
    if not folder.exists():
        return None
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    for name, months in GENERATIONS.items():
        if files == {"month=%s/part" % month: name for month in months}:
            return name
    raise AssertionError("%s is not whole: %s" % (folder, files))


def ready_to_publish(lake: Path, with_old: bool) -> None:
    """A lake whose run `now` has checked its tables."""
    for name in ORDER:
        fill(lake / "_staging" / "now" / "tables" / name, "new")
        if with_old:
            fill(lake / name, "old")
    write_files(lake / "_staging" / "now" / "log_data", {"part": "staged"})


def lake_of(lake: Path) -> List[Optional[str]]:
    return [generation(lake / name) for name in ORDER]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("lake", "call"), [(lake, call) for lake in STEPS for call in range(1, STEPS[lake] + 1)])
def test_a_publication_that_dies_loses_nothing_and_is_finished_by_the_next_run(
    spark: SparkSession, tmp_path: Path, lake: str, call: int, after: bool
) -> None:
    with_old = lake == "over a lake"
    ready_to_publish(tmp_path, with_old)
    with pytest.raises(DeathError):
        etl.publish(Dying(spark, str(tmp_path)).die_at(call, after), "now")
    for name in ORDER:
        here = generation(tmp_path / name)
        put_aside = generation(tmp_path / "_staging" / "now" / "old" / name)
        waiting = generation(tmp_path / "_staging" / "now" / "tables" / name)
        assert here == "new" or waiting == "new", "the new %s is lost" % name
        assert here or put_aside or not with_old, "the old %s is lost" % name

    begun, done = call > 1 or after, call + after >= STEPS[lake]
    sentences = etl.recover(etl.Store(spark, str(tmp_path)))
    old = "old" if with_old else None
    assert lake_of(tmp_path) == ["new" if begun else old] * 5
    assert list((tmp_path / "_staging").glob("*")) == []
    finished = ["finished the publishing of run now, which had died"]
    assert sentences == ([] if done else finished if begun else ["removed what run now had left"])


@pytest.mark.parametrize("call", range(1, 12))
def test_a_recovery_that_dies_too_is_finished_by_the_run_after(spark: SparkSession, tmp_path: Path, call: int) -> None:
    ready_to_publish(tmp_path, with_old=True)
    with pytest.raises(DeathError):
        etl.publish(Dying(spark, str(tmp_path)).die_at(3, after=True), "now")  # the mark and the artists
    with pytest.raises(DeathError):
        etl.recover(Dying(spark, str(tmp_path)).die_at(call, after=False))
    etl.recover(etl.Store(spark, str(tmp_path)))
    assert lake_of(tmp_path) == ["new"] * 5
    assert list((tmp_path / "_staging").glob("*")) == []


def test_a_run_that_dies_before_publishing_leaves_the_lake_as_it_was(spark: SparkSession, tmp_path: Path) -> None:
    ready_to_publish(tmp_path, with_old=True)
    write_files(tmp_path / "_staging" / "earlier" / "song_data" / "_temporary", {"0": "half"})
    assert etl.recover(etl.Store(spark, str(tmp_path))) == [
        "removed what run earlier had left",
        "removed what run now had left",
    ]
    assert lake_of(tmp_path) == ["old"] * 5
    assert list((tmp_path / "_staging").glob("*")) == []


def test_nothing_to_recover_is_no_news(spark: SparkSession, tmp_path: Path) -> None:
    assert etl.recover(etl.Store(spark, str(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []


def test_dimensions_are_published_before_facts(spark: SparkSession, tmp_path: Path) -> None:
    for call in range(1, STEPS["over a lake"] + 1):
        lake = tmp_path / str(call)
        ready_to_publish(lake, with_old=True)
        with pytest.raises(DeathError):
            etl.publish(Dying(spark, str(lake)).die_at(call, after=True), "now")
        if generation(lake / "songplays") == "new":
            assert lake_of(lake) == ["new"] * 5
        if generation(lake / "songs") == "new":
            assert generation(lake / "artists") == "new"


# ------------------------------------------------------------------------------------ whole runs on a small input


INPUTS = {"song-data": "songs", "log-data": "logs", "output": "lake"}
OCTOBER, NOVEMBER = 1540944000000, 1541894400000  # 2018-10-31 and 2018-11-11, 00:00 UTC


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
def etl_main(spark: SparkSession) -> Iterator[Callable[[Path], int]]:
    """etl.main() for the input in a folder, in this session, which it must not stop."""

    def main(folder: Path) -> int:
        paths = ["--%s=%s" % (flag, folder / name) for flag, name in INPUTS.items()]
        before = signal.getsignal(signal.SIGTERM)
        try:
            return etl.main(["--mode=LOCAL", "--max-bad-percent=5", "--config=%s" % (folder / "dl.cfg"), *paths])
        finally:
            signal.signal(signal.SIGTERM, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etl, "start_session", lambda config: spark)
        patch.setattr(type(spark), "stop", lambda self: None)
        yield main


class Published(NamedTuple):
    folder: Path  # of songs, logs and lake
    printed: str
    report: Row

    @property
    def lake(self) -> Path:
        return self.folder / "lake"


@pytest.fixture(scope="module")
def published(etl_main: Callable[[Path], int], tmp_path_factory: pytest.TempPathFactory) -> Published:
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
    assert {path.name for path in published.lake.iterdir()} == {"_quarantine", "_runs", *ORDER}


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
    etl_main: Callable[[Path], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, time = table_files(published.lake), etl.time
    monkeypatch.setattr(etl, "time", lambda *inputs: time(*inputs).where("day <> 31"))
    assert etl_main(published.folder) == 1
    rule = (
        "rule broken: songplays: start_time is in time (5 failures, such as 2018-10-31 00:00:00, 2018-10-31 00:00:04)"
    )
    assert capsys.readouterr().err.splitlines()[-1] == "etl.py: failed, the lake is as it was: " + rule
    assert table_files(published.lake) == before
    assert list(published.lake.glob("_staging/*")) == []
    assert "failed: " + rule in [report["status"] for report in reports(published.lake)]


def test_records_that_no_table_explains_fail_the_run(
    published: Published,
    etl_main: Callable[[Path], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, unique_plays = table_files(published.lake), etl.unique_plays
    monkeypatch.setattr(etl, "unique_plays", lambda events: unique_plays(events).where("user_id is not null"))
    assert etl_main(published.folder) == 1
    assert "log_data: 1 records are not accounted for" in capsys.readouterr().err.splitlines()[-1]
    assert table_files(published.lake) == before
    assert list(published.lake.glob("_staging/*")) == []


def test_too_many_bad_records_leave_the_lake_as_it_was_and_can_be_read(
    spark: SparkSession, published: Published, etl_main: Callable[[Path], int], capsys: pytest.CaptureFixture[str]
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
    assert 3 <= files_in(tmp_path / "plays" / "year=1970" / "month=2") <= 5
    assert plain_plans.read.parquet(str(tmp_path / "plays")).distinct().count() == 110

    users = [{**GOOD["users"], "user_id": place} for place in range(41)]
    etl.load(etl.arranged(frame(plain_plans, "users", users), "users"), "users", str(tmp_path / "users"))
    assert files_in(tmp_path / "users") == 3
    assert plain_plans.read.parquet(str(tmp_path / "users")).count() == 41
