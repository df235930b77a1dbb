"""Every question, on DuckDB, on Spark and from prepared tables, against answers that were counted by hand."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Tuple

import duckdb
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from sqlglot import exp
from tiny import CHROME, FIREFOX, ITHACA, NEW_YORK, write_lake

from analytics import agents, questions
from analytics.lake import DIMENSIONS, LakeError, open_lake
from analytics.prepared import KEPT, Prepared

pytest_plugins = ["tiny"]

Rows = List[Tuple[Any, ...]]
Engine = Callable[[str, Mapping[str, Any]], Rows]

LAST = "2018-12-04"
ANSWERS: Dict[str, Rows] = {
    "summary": [(10, 3, 6, 6, 7, 60.0, 70.0)],
    "listening-by-month": [(2018, 11, 6, 2), (2018, 12, 4, 2)],
    "plays-by-hour": [(0, 1, 1), (8, 3, 1), (9, 1, 1), (10, 2, 2), (11, 1, 1), (12, 1, 0), (23, 1, 1)],
    "plays-by-weekday": [
        *[(1, 8, 2), (1, 10, 2), (1, 23, 1)],
        *[(2, 0, 1), (2, 8, 1), (2, 9, 1), (2, 11, 1), (2, 12, 1)],
    ],
    "plays-by-state": [("NY", 7, 2, 70.0), ("unknown", 3, 1, 30.0)],
    "user-agents": [(FIREFOX, 5), (None, 3), (CHROME, 2)],
    "browsers": [("Firefox", 5, 50.0), ("unknown", 3, 30.0), ("Chrome", 2, 20.0)],
    "operating-systems": [("Linux", 5, 50.0), ("unknown", 3, 30.0), ("Windows", 2, 20.0)],
    "free-and-paid": [
        ("2018-11-05", "free", 4, 2),
        ("2018-11-12", "paid", 2, 1),
        ("2018-12-03", "free", 1, 1),
        ("2018-12-03", "paid", 2, 1),
        ("2018-12-03", None, 1, 0),
    ],
    "level-changes": [("2018-11-13", 1, 0), ("2018-12-03", 0, 1)],
    "active-users-by-day": [
        ("2018-11-05", 2, 3),
        ("2018-11-06", 1, 1),
        ("2018-11-13", 1, 2),
        ("2018-12-03", 2, 2),
        (LAST, 1, 2),
    ],
    "active-users-by-week": [("2018-11-05", 2, 4), ("2018-11-12", 1, 2), ("2018-12-03", 2, 4)],
    "sessions": [
        ("2018-11-05", 2, 2.0, 25.000008, 40.0),
        ("2018-11-12", 1, 2.0, 75.0, 75.0),
        ("2018-12-03", 3, 1.333333, 500.0, 1500.0),
    ],
    "session-lengths": [(0, 3, 4), (30, 1, 2), (60, 1, 2), (1500, 1, 2)],
    "retention": [
        ("2018-11-05", 0, 2, 2, 100.0),
        ("2018-11-05", 1, 1, 2, 50.0),
        ("2018-11-05", 4, 1, 2, 50.0),
        ("2018-12-03", 0, 1, 1, 100.0),
    ],
    "match-rate": [
        ("2018-11-05", 4, 3, 4, 75.0, 100.0),
        ("2018-11-12", 2, 1, 1, 50.0, 50.0),
        ("2018-12-03", 4, 2, 2, 50.0, 50.0),
    ],
    "top-artists": [
        ("The Waves", 5, 50.0, True, "A1", 90.0),
        ("Heath", 2, 20.0, True, "A2", 90.0),
        ("Kern", 2, 20.0, False, None, 90.0),
    ],
    "top-songs": [
        ("Tide", "The Waves", 4, 40.0, True, "S1", 90.0),
        ("Silt", "Kern", 2, 20.0, False, None, 90.0),
        ("Ebb", "The Waves", 1, 10.0, True, "S2", 90.0),
        ("Loam", "Heath", 1, 10.0, False, None, 90.0),
        ("Moor", "Heath", 1, 10.0, True, "S3", 90.0),
    ],
    "missing-artists": [("Kern", 2, 1)],
    "missing-songs": [("Silt", "Kern", 2, False), ("Loam", "Heath", 1, True)],
    "plays-of-song": [
        ("2018-12-04 11:00:00", "Tide", "The Waves", 3, "Cy", "Noll", "paid", None, 10),
        ("2018-12-03 10:00:00", "Tide", "The Waves", 1, "Ada", "Moss", "free", ITHACA, 12),
        ("2018-11-05 23:59:59.999000", "Tide", "The Waves", 2, "Bo", "Lind", "free", NEW_YORK, 20),
        ("2018-11-05 08:00:00", "Tide", "The Waves", 1, "Ada", "Moss", "free", ITHACA, 10),
    ],
    "songs-of-user": [
        (1, "Ada", "Moss", "Tide", "The Waves", 2, 40.0, True, "2018-11-05 08:00:00", "2018-12-03 10:00:00"),
        (1, "Ada", "Moss", "Loam", "Heath", 1, 20.0, False, *["2018-11-05 08:40:00"] * 2),
        (1, "Ada", "Moss", "Moor", "Heath", 1, 20.0, True, *["2018-11-13 08:05:00"] * 2),
        (1, "Ada", "Moss", "Silt", "Kern", 1, 20.0, False, *["2018-11-13 09:20:00"] * 2),
    ],
    "find-users": [(2, "Bo", "Lind", "M", "free"), (1, "Ada", "Moss", "F", "free"), (3, "Cy", "Noll", None, "paid")],
}
GIVEN: Dict[str, Dict[str, Any]] = {
    "songs-of-user": {"user": "ada MOSS"},
    "find-users": {"user": "O"},
    "plays-of-song": {"song": "Tide"},
}


def plain(value: Any) -> Any:
    """A value as the expectations write it, whatever engine gave it."""
    if value is None or value is pd.NaT or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return value.date().isoformat()
    if isinstance(value, (dt.date, dt.datetime)):
        return str(value)
    return round(value, 6) if isinstance(value, float) else value


def plain_rows(frame: pd.DataFrame) -> Rows:
    return [tuple(plain(value) for value in row) for row in frame.astype(object).itertuples(index=False)]


@pytest.fixture(scope="module")
def engines(tiny: Path, utc_spark: SparkSession) -> Dict[str, Engine]:
    """Ways to ask the tiny lake."""
    lake = open_lake(str(tiny), {})
    prepared = Prepared(lake)
    for table in ("songplays", "staging_events", *DIMENSIONS):
        utc_spark.read.parquet(str(tiny / table)).createOrReplaceTempView(table)

    def on_spark(name: str, given: Mapping[str, Any]) -> Rows:
        found = utc_spark.sql(questions.sql(name, "spark"), args=questions.values(name, given))
        rows = [tuple(plain(value) for value in row) for row in found.collect()]
        if name not in questions.PARSED:
            return rows
        return plain_rows(agents.grouped(pd.DataFrame(rows, columns=found.columns), questions.PARSED[name][1]))

    return {
        "duckdb": lambda name, given: plain_rows(lake.ask(name, given)),
        "prepared": lambda name, given: plain_rows(prepared.ask(name, given)),
        "spark": on_spark,
    }


ENGINES = pytest.mark.parametrize("engine", ["duckdb", "prepared", "spark"])


@ENGINES
@pytest.mark.parametrize("name", questions.names())
def test_answers_are_those_counted_by_hand(engines: Dict[str, Engine], engine: str, name: str) -> None:
    assert engines[engine](name, GIVEN.get(name, {})) == ANSWERS[name]


@ENGINES
@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("summary", {"until": dt.date(2018, 11, 5)}, [(3, 2, 2, 2, 3, 66.666667, 100.0)]),
        ("summary", {"since": dt.date(2018, 12, 4)}, [(2, 1, 2, 1, 1, 50.0, 50.0)]),
        ("summary", {"level": "paid"}, [(4, 2, 2, 2, 2, 50.0, 50.0)]),
        ("summary", {"state": "unknown"}, [(3, 1, 2, 1, 1, 33.333333, 33.333333)]),
        ("summary", {"state": "NJ"}, [(0, 0, 0, 0, 0, None, None)]),
        ("plays-by-hour", {"since": dt.date(2018, 11, 6), "until": dt.date(2018, 11, 6)}, [(0, 1, 1)]),
        (
            "top-songs",
            {"artist": "Heath"},
            [("Loam", "Heath", 1, 10.0, False, None, 90.0), ("Moor", "Heath", 1, 10.0, True, "S3", 90.0)],
        ),
        ("top-artists", {"limit": 1}, [("The Waves", 5, 50.0, True, "A1", 90.0)]),
        ("top-artists", {"level": "paid", "limit": 1}, [("Kern", 2, 50.0, False, None, 100.0)]),
        ("missing-artists", {"level": "free"}, []),
        # A play delivered twice with different names is one play, with the names that the job took
        ("top-artists", {"state": "unknown", "limit": 1}, [("Kern", 1, 33.333333, False, None, 66.666667)]),
        ("plays-of-song", {"song": "Silk"}, []),
        (
            "plays-of-song",
            {"song": "S2", "artist": "The Waves"},
            [("2018-11-06 00:10:00", "Ebb", "The Waves", 2, "Bo", "Lind", "free", NEW_YORK, 20)],
        ),
        ("plays-of-song", {"song": "S2", "artist": "Heath"}, []),
        # The play before the change is not in the period
        ("level-changes", {"since": dt.date(2018, 12, 1)}, [("2018-12-03", 0, 1)]),
        ("level-changes", {"since": dt.date(2018, 12, 1), "state": "unknown"}, []),
        # Neither is the first week of user 1, who is no new user in December
        ("retention", {"since": dt.date(2018, 12, 1)}, [("2018-12-03", 0, 1, 1, 100.0)]),
        ("retention", {"until": dt.date(2018, 11, 11)}, [("2018-11-05", 0, 2, 2, 100.0)]),
        (
            "songs-of-user",
            {"user": "2", "until": dt.date(2018, 11, 5)},
            [(2, "Bo", "Lind", "Tide", "The Waves", 1, 100.0, True, *["2018-11-05 23:59:59.999000"] * 2)],
        ),
        ("find-users", {"user": "nobody"}, []),
    ],
)
def test_filters(engines: Dict[str, Engine], engine: str, name: str, given: Dict[str, Any], expected: Rows) -> None:
    assert engines[engine](name, given) == expected


@pytest.mark.parametrize("name", questions.names())
def test_questions_can_be_pasted_into_athena(name: str) -> None:
    given = {"user": "Conan O'Brien", "song": "S1", "since": dt.date(2018, 11, 1)}
    text = questions.self_contained(name, "athena", given)
    assert not re.search(r"[:?@$]\w", text)
    assert "O'B" not in text


def test_kept_tables_are_the_same_step_in_every_question() -> None:
    for alias in KEPT:
        found = {
            questions.expression(name, alias, "trino")
            for name in questions.names()
            if any(cte.alias == alias for cte in questions.parsed(name).find_all(exp.CTE))
        }
        assert len(found) == 1, alias


def test_every_file_says_what_it_answers() -> None:
    for path in questions.QUERIES.glob("*.sql"):
        assert re.match(r"-- [A-Z].*[?.]\n-- |-- [A-Z].*[?.]\nselect", path.read_text(encoding="utf-8")), path.name


def test_other_months_are_not_read(tmp_path: Path) -> None:
    lake = open_lake(str(write_lake(tmp_path)), {})
    november = next(file for file in lake.files("songplays") if file.month() == 201811)
    Path(november.path).write_bytes(b"whoever reads this fails")
    december = {"since": dt.date(2018, 12, 1), "until": dt.date(2018, 12, 31)}
    assert plain_rows(lake.ask("plays-by-hour", december)) == [(10, 2, 2), (11, 1, 1), (12, 1, 0)]
    with pytest.raises(LakeError, match="damaged"):
        lake.ask("level-changes", december)  # looks back
    assert len(lake.ask("top-artists", december)) == 2


def test_a_question_about_a_table_that_is_not_kept(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "songs-by-year.sql").write_text("-- Of which years?\nselect year from songs order by year", "utf-8")
    monkeypatch.setattr(questions, "QUERIES", tmp_path)
    assert plain_rows(Prepared(open_lake(str(tiny), {})).ask("songs-by-year", {})) == [(0,), (1999,), (2001,)]


def test_changes_of_level_within_minutes_are_all_seen(tmp_path: Path) -> None:
    levels = ("free", "paid", "free", "paid", "paid")
    plays = [
        ("q%d" % number, "2018-11-21 11:%02d:00" % number, 1, level, None, None, 10, ITHACA, FIREFOX)
        for number, level in enumerate(levels)
    ]
    lake = open_lake(str(write_lake(tmp_path, plays)), {})
    assert plain_rows(lake.ask("level-changes", {})) == [("2018-11-21", 2, 1)]
    assert plain_rows(Prepared(lake).ask("level-changes", {})) == [("2018-11-21", 2, 1)]


def test_hours_and_weekdays_are_those_of_the_table_time(sample: Path) -> None:
    lake = open_lake(str(sample), {})
    found = lake.ask("plays-by-weekday", {})
    independent = lake.connect().execute(
        "select weekday, hour, count(*) from songplays join time using (start_time) group by all order by all"
    )
    assert plain_rows(found) == independent.fetchall()


class TestThePublicSample:
    """Facts that were counted from the files themselves: ../shared/data/README.md."""

    @pytest.fixture(scope="class")
    def ask(self, real: Path) -> Engine:
        return lambda name, given: plain_rows(open_lake(str(real), {}).ask(name, given))

    def test_plays_users_and_matches(self, ask: Engine) -> None:
        ((plays, users, _, songs, artists, _, _),) = ask("summary", {})
        assert (plays, users, songs, artists) == (6820, 96, 1, 21)

    def test_most_played_artists(self, ask: Engine) -> None:
        assert [row[:2] for row in ask("top-artists", {"limit": 7})] == [
            *[("Coldplay", 58), ("Kings Of Leon", 55), ("Dwight Yoakam", 38), ("The Black Keys", 36)],
            *[("Florence + The Machine", 35), ("Jack Johnson", 35), ("Muse", 35)],
        ]

    def test_lily_koch(self, ask: Engine) -> None:
        songs = ask("songs-of-user", {"user": "Lily Koch"})
        assert sum(row[5] for row in songs) == 463
        assert all(title for _, _, _, title, *_ in songs)
        assert [row[3:6] for row in songs if row[7]] == [("Setanta matins", "Elena", 1)]

    def test_lily_koch_stopped_paying_and_began_again_on_one_day(self, ask: Engine) -> None:
        changes = {day: counts for day, *counts in ask("level-changes", {})}
        assert changes["2018-11-21"] == [1, 1]
        assert sum(cancelled for _, cancelled in changes.values()) == 1
        assert sum(converted for converted, _ in changes.values()) == 8

    def test_all_listening_was_in_november(self, ask: Engine) -> None:
        assert ask("listening-by-month", {}) == [(2018, 11, 6820, 96)]


def test_the_zone_of_this_machine_changes_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = open_lake(str(tiny), {}).connect()
    try:
        connection.execute("set timezone = 'America/New_York'")
    except duckdb.Error as error:
        pytest.fail("DuckDB lacks its time zones: %s" % error)
    hours = connection.execute(questions.sql("plays-by-hour", "duckdb"), questions.values("plays-by-hour", {}))
    assert [row[:2] for row in hours.fetchall()] == [row[:2] for row in ANSWERS["plays-by-hour"]]
