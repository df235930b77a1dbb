"""The five tables of the star: a test for every rule that turns staged records into rows.

Plays are told apart by their session_id, which a test chooses as it likes.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections import Counter
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import pytest
from conftest import NOVEMBER, OCTOBER, rows, staged_events, staged_songs
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import etl

SURROGATES: Any = ("Cs",)  # no text of UTF-8 holds one
PLAY = {"page": "NextSong", "ts": 1541105830796}

Row = Dict[str, Any]


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest) -> None:
    """Plans as they are, since a frame here is a few rows; and no Spark for tests that use none."""
    if "spark" in request.fixturenames:
        request.getfixturevalue("plain_plans")


def shared(events: Sequence[Mapping[str, Any]]) -> int:
    """How many plays begin at another one's start time."""
    starts = [{**PLAY, **event}["ts"] for event in events if {**PLAY, **event}["page"] == "NextSong"]
    return len(starts) - len(set(starts))


def songplays(spark: SparkSession, events: Sequence[Mapping[str, Any]], songs: Sequence[Row] = ({},)) -> DataFrame:
    return etl.songplays(staged_events(spark, *events), staged_songs(spark, *songs), shared(events))


def plays(spark: SparkSession, events: Sequence[Mapping[str, Any]], songs: Sequence[Row] = ({},)) -> Dict[int, Row]:
    """The rows of songplays by session_id; each session may have one only."""
    found = rows(songplays(spark, events, songs))
    by_session = {row["session_id"]: row for row in found}
    assert len(by_session) == len(found), "a session has several plays"
    return by_session


def misread(text: str, times: int = 1) -> str:
    """Text whose UTF-8 was taken for Latin-1 and encoded again."""
    for _ in range(times):
        text = text.encode("utf-8").decode("latin-1")
    return text


# ------------------------------------------------------------------------------------ songplays: which plays


def test_only_a_next_song_event_is_a_play(spark: SparkSession) -> None:
    pages = ["NextSong", "Home", "nextsong", "NextSongs", "Logout"]
    events = [{"page": page, "session_id": place, "ts": NOVEMBER + place} for place, page in enumerate(pages)]
    found = plays(spark, events)
    assert list(found) == [0]


COPIES: List[Row] = [
    {"level": "paid", "location": None, "user_agent": "b", "song": "Morning Tide"},
    {"level": "free", "location": "Lund, Sweden", "user_agent": None, "song": None},
    {"level": None, "location": "Oslo, Norway", "user_agent": "a", "song": "Morning Tide"},
]
MANY = pytest.mark.parametrize("many", [False, True], ids=["few start times are shared", "many are"])


@MANY
def test_an_event_delivered_twice_is_one_play(spark: SparkSession, monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    if many:
        monkeypatch.setattr(etl, "MOST_SHARED", 1)
    key: Row = {"user_id": 39, "session_id": 38, "item_in_session": 3, "ts": 1541105830796}
    others = [{**key, name: value} for name, value in (("item_in_session", 4), ("ts", 1541105830797), ("user_id", 40))]
    logged_out = {**key, "user_id": None}
    events = [key, logged_out, *others, key, {**key, "session_id": 39}, logged_out, key]
    expected = {(39, 38, 796), (None, 38, 796), (39, 38, 797), (40, 38, 796), (39, 39, 796)}
    found = rows(songplays(spark, events))
    assert {(row["user_id"], row["session_id"], int(row["start_time"][-3:])) for row in found} == expected
    assert len({row["songplay_id"] for row in found}) == len(found) == 6


@MANY
def test_duplicates_that_differ_give_the_same_row_in_any_order(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    if many:
        monkeypatch.setattr(etl, "MOST_SHARED", 1)
    orders = list(itertools.permutations(COPIES))
    events: List[Row] = [{**copy, "session_id": place} for place, order in enumerate(orders) for copy in order]
    found = rows(songplays(spark, events))
    assert len(found) == len(orders)
    kept = {(row["level"], row["location"], row["user_agent"], row["song_id"] is not None) for row in found}
    assert len(kept) == 1
    assert kept < {(c["level"], c["location"], c["user_agent"], c["song"] is not None) for c in COPIES}, "mixed"


def test_plays_that_share_no_start_time_are_taken_as_they_are(spark: SparkSession) -> None:
    events = [{"ts": NOVEMBER + place, "session_id": place} for place in range(3)]
    assert shared(events) == 0
    assert sorted(plays(spark, events)) == [0, 1, 2]


def test_songplay_ids_of_distinct_keys_are_distinct() -> None:
    numbers = ((None, 0, 1, 11), (0, 1, 11), (0, 1, 11), (0, 1, 11))
    names = ("user_id", "session_id", "item_in_session", "ts")
    event = dict.fromkeys([column for column, _ in etl.columns_of("staging_events")])
    keys = [dict(zip(names, key)) for key in itertools.product(*numbers)]
    found = {etl.staged({**event, **key, "page": "NextSong"}, "", "staging_events")[0] for key in keys}
    assert len(found) == len(keys)


def test_a_play_is_stored_as_its_event_says(spark: SparkSession) -> None:
    assert plays(spark, [{}]) == {
        38: {
            "songplay_id": "1f6da2033dfb4dc4d69f874faa059def",  # as it was in every release
            "start_time": "2018-11-01 20:57:10.796",
            "user_id": 39,
            "level": "paid",
            "song_id": "SOAAAAA12AB0000001",
            "artist_id": "ARAAAAA1187B000001",
            "session_id": 38,
            "location": "Lund, Sweden",
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
            "year": 2018,
            "month": 11,
        }
    }


# ------------------------------------------------------------------------------------ songplays: which song and artist


class Match(NamedTuple):
    """Song records, events, and the (song_id, artist_id) that each event's play must find."""

    songs: Sequence[Row]
    events: Sequence[Row]
    expected: Sequence[Tuple[Optional[str], Optional[str]]]


def song(song_id: str, title: str, artist_id: str, name: str, duration: Optional[float] = 200.0) -> Row:
    record = {"song_id": song_id, "title": title, "artist_id": artist_id, "artist_name": name}
    return {**record, "duration": duration}


def heard(title: Optional[str], artist: Optional[str], length: Optional[float] = 200.0) -> Row:
    return {"song": title, "artist": artist, "length": length}


DUET = [song("SO1", "Tide", "AR1", "Anchors"), song("SO2", "Ember", "AR2", "Beacons")]
DURATIONS = {"SO0": None, "SO1": 210.0, "SO2": 210.0, "SO3": 200.0, "SO4": 190.5}
CLOSEST = {
    199.0: "SO3",
    205.0: "SO1",  # as far from 200 as from 210
    211.0: "SO1",
    10000.0: "SO3",  # by its other record
    300.0: "SO1",
    0.0: "SO4",
    195.25: "SO3",  # as far from 190.5
    None: "SO0",
}
MATCHES = {
    "title and artist of the same record": Match(
        DUET,
        [heard("Tide", "Anchors"), heard("Ember", "Beacons"), heard("Tid", "eAnchors"), heard("tide", "anchors")],
        [("SO1", "AR1"), ("SO2", "AR2"), (None, None), (None, None)],
    ),
    "no song, but an artist": Match(
        DUET,
        [heard("Tide", "Beacons"), heard("Ember", "Anchors"), heard(None, "Anchors"), heard("Unheard", "Beacons")],
        [(None, "AR2"), (None, "AR1"), (None, "AR1"), (None, "AR2")],
    ),
    "neither": Match(
        DUET,
        [heard("Tide", None), heard(None, None), heard("Tide", "Strangers")],
        [(None, None)] * 3,
    ),
    "closest duration, then smallest song_id": Match(
        [
            *[song(song_id, "Tide", "AR1", "Anchors", duration) for song_id, duration in DURATIONS.items()],
            song("SO9", "Alone", "AR1", "Anchors", None),
            song("SO3", "Tide", "AR1", "Anchors", 600.0),
        ],
        [
            *[heard("Tide", "Anchors", length) for length in CLOSEST],
            heard("Alone", "Anchors"),
            heard("Alone", "Anchors", None),
        ],
        [(song_id, "AR1") for song_id in [*CLOSEST.values(), "SO9", "SO9"]],
    ),
    # AR2 is the artist by name, with two songs
    "the artist of the song first": Match(
        [song("SO1", "Tide", "AR1", "Twins"), song("SO2", "A", "AR2", "Twins"), song("SO3", "B", "AR2", "Twins")],
        [heard("Tide", "Twins"), heard("Unheard", "Twins")],
        [("SO1", "AR1"), (None, "AR2")],
    ),
    "the song decides, not the smallest artist_id": Match(
        [song("SO2", "Tide", "AR1", "Anchors"), song("SO1", "Tide", "AR2", "Anchors")],
        [heard("Tide", "Anchors")],
        [("SO1", "AR2")],
    ),
    # A song counts once, however many records it has
    "artist by name: most songs under it": Match(
        [song("SO1", "A", "AR1", "Trio")] * 3
        + [song("SO2", "A", "AR2", "Trio"), song("SO3", "B", "AR2", "Trio")]
        # songs under another name do not count
        + [song("SO%d" % number, "C", "AR3", "Solo") for number in range(4, 9)]
        + [song("SO9", "A", "AR3", "Trio")],
        [heard("Unheard", "Trio"), heard("Unheard", "Solo")],
        [(None, "AR2"), (None, "AR3")],
    ),
    "artist by name: then smallest artist_id": Match(
        [song("SO1", "A", "AR3", "Duo"), song("SO2", "A", "AR1", "Duo"), song("SO3", "A", "AR2", "Duo")],
        [heard("Unheard", "Duo")],
        [(None, "AR1")],
    ),
}


@pytest.fixture(scope="module")
def found_by_name(plain_plans: SparkSession) -> Dict[str, List[Tuple[Optional[str], Optional[str]]]]:
    """What the plays of all MATCHES find, in one job: the name of a match goes before its artists' names, which keeps
    them apart.
    """
    songs: List[Row] = []
    events: List[Row] = []
    owner: List[str] = []
    for name, match in MATCHES.items():
        songs += [{**record, "artist_name": name + record["artist_name"]} for record in match.songs]
        for event in match.events:
            artist = event["artist"] and name + event["artist"]
            events.append({**event, "artist": artist, "session_id": len(events), "ts": NOVEMBER + len(events)})
            owner.append(name)
    found = plays(plain_plans, events, songs)
    assert sorted(found) == list(range(len(events))), "a play is missing"
    by_name: Dict[str, List[Tuple[Optional[str], Optional[str]]]] = {name: [] for name in MATCHES}
    for place, name in enumerate(owner):
        by_name[name].append((found[place]["song_id"], found[place]["artist_id"]))
    return by_name


@pytest.mark.parametrize("name", list(MATCHES))
def test_a_play_finds_its_song_and_artist(
    found_by_name: Mapping[str, List[Tuple[Optional[str], Optional[str]]]], name: str
) -> None:
    assert found_by_name[name] == list(MATCHES[name].expected)


# ------------------------------------------------------------------------------------ what song data changes


def test_months_are_matched_again_whose_plays_may_find_something_else(interpreted_plans: SparkSession) -> None:
    before = [
        song("SO1", "Tide", "AR1", "Anchors"),
        song("SO2", "Ember", "AR2", "Beacons"),
        song("SO3", "Ash", "AR3", "Cedars"),
    ]
    after = [
        song("SO1", "Tide", "AR1", "Anchors"),
        song("SO2", "Ember", "AR2", "Beacons", 300.0),  # another duration
        song("SO9", "Ash", "AR4", "Cedars"),  # gone, and another one's
        song("SO4", "Dune", "AR5", "Drums"),  # new
        song("SO1", "Tide", "AR1", "Anchors"),  # once more
    ]
    texts = [("Tide", "Anchors"), ("Ember", "Beacons"), ("Unheard", "Beacons"), ("Ash", "Cedars"), ("X", "Drums")]
    months = {(2018, place + 1): text for place, text in enumerate(texts)}
    starts = [1514764800000 + 31 * 86400000 * place for place in range(len(texts))]  # 2018-01-01 and so on
    events = [{**heard(*text), "ts": start} for text, start in zip(texts, starts)]
    events.append({**heard("Ember", "Beacons"), "ts": OCTOBER, "page": "Home"})  # no play
    found = etl.months_to_match(
        staged_songs(interpreted_plans, *before),
        staged_songs(interpreted_plans, *after),
        staged_events(interpreted_plans, *events),
    ).collect()
    matched = {months[tuple(row)] for row in found}
    assert matched == {("Ember", "Beacons"), ("Ash", "Cedars"), ("X", "Drums")}


def test_partitions_of_songs_change_where_their_rows_do(interpreted_plans: SparkSession) -> None:
    def of(artist_id: str, year: int, title: str, number: int) -> Row:
        return {"song_id": "SO%d" % number, "artist_id": artist_id, "year": year, "title": title}

    same, other = of("AR1", 1999, "Same", 1), of("AR1", 2000, "Other", 2)
    before = [same, other, of("AR2", 0, "Goes", 3), of("AR3", 0, "Moves", 4)]
    after = [same, {**other, "title": "Otherwise"}, of("AR3", 1985, "Moves", 4), of("AR4", 0, "New", 5)]
    changed = etl.changed_songs(
        etl.songs(staged_songs(interpreted_plans, *before)), etl.songs(staged_songs(interpreted_plans, *after))
    )
    found = {(row["artist_id"], row["year"]): row["there"] for row in rows(changed)}
    assert found == {
        ("AR1", 2000): True, ("AR2", 0): None, ("AR3", 0): None, ("AR3", 1985): True, ("AR4", 0): True,
    }  # fmt: skip


# ------------------------------------------------------------------------------------ time

INSTANTS = {  # ts: (hour, day, week, weekday, year, month)
    0: (0, 1, 1, 4, 1970, 1),  # 1970-01-01 00:00:00
    1: (0, 1, 1, 4, 1970, 1),  # 1970-01-01 00:00:00.001
    1451606400000: (0, 1, 53, 5, 2016, 1),  # 2016-01-01 00:00:00
    1541030399999: (23, 31, 44, 3, 2018, 10),  # 2018-10-31 23:59:59.999
    1541030400000: (0, 1, 44, 4, 2018, 11),  # 2018-11-01 00:00:00
    1541105830796: (20, 1, 44, 4, 2018, 11),  # 2018-11-01 20:57:10.796
    1541314800001: (7, 4, 44, 7, 2018, 11),  # 2018-11-04 07:00:00.001, a Sunday
    1543622399999: (23, 30, 48, 5, 2018, 11),  # 2018-11-30 23:59:59.999
    1543622400000: (0, 1, 48, 6, 2018, 12),  # 2018-12-01 00:00:00
    1546214400000: (0, 31, 1, 1, 2018, 12),  # 2018-12-31 00:00:00, a Monday, week 1 of 2019
    1546300799999: (23, 31, 1, 1, 2018, 12),  # 2018-12-31 23:59:59.999
    1546300800000: (0, 1, 1, 2, 2019, 1),  # 2019-01-01 00:00:00
    1583020799999: (23, 29, 9, 6, 2020, 2),  # 2020-02-29 23:59:59.999
    1609459199999: (23, 31, 53, 4, 2020, 12),  # 2020-12-31 23:59:59.999
    1609459200000: (0, 1, 53, 5, 2021, 1),  # 2021-01-01 00:00:00, week 53 of 2020
    1640995200000: (0, 1, 52, 6, 2022, 1),  # 2022-01-01 00:00:00
    253402300799999: (23, 31, 52, 5, 9999, 12),  # 9999-12-31 23:59:59.999
}


@pytest.fixture(params=["UTC", "America/Los_Angeles", "Asia/Kathmandu"])
def machine_zone(request: pytest.FixtureRequest, spark: SparkSession) -> Iterator[str]:
    """The time zone that the machine, its Python and its Java are in."""
    jvm: Any = spark.sparkContext._jvm
    zones = jvm.java.util.TimeZone
    was, env = zones.getDefault(), os.environ.get("TZ")
    zones.setDefault(zones.getTimeZone(request.param))
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    zones.setDefault(was)
    os.environ.pop("TZ")
    if env is not None:
        os.environ["TZ"] = env
    time.tzset()


def test_start_times_are_exact_and_in_utc_in_any_time_zone(spark: SparkSession, machine_zone: str) -> None:
    events = staged_events(spark, *[{"ts": ts} for ts in INSTANTS])
    # As seconds: Spark 2.4 garbles the text of a time in the year 10000 of the machine's zone.
    seconds = F.col("start_time").cast("double").alias("seconds")
    found = etl.time(events, {(1970, 1): 17}).select(seconds, "hour", "day", "week", "weekday", "year", "month")
    assert sorted(map(tuple, found.collect())) == [(ts / 1000, *fields) for ts, fields in INSTANTS.items()]
    found = etl.songplays(events, staged_songs(spark, {}), 0).select(seconds, "year", "month")
    assert sorted(map(tuple, found.collect())) == [(ts / 1000, *fields[-2:]) for ts, fields in INSTANTS.items()]


def test_every_millisecond_is_exact(spark: SparkSession) -> None:
    near = [2**32 * 1000 + delta for delta in range(-5000, 5000)]  # where doubles become too coarse
    chance = random.Random(1)
    instants = near + [chance.randrange(*bounds) for bounds in ((10**11, 2**42), (2**42, 10**14)) for _ in range(20000)]
    frame = spark.createDataFrame([(ts,) for ts in instants], "ts bigint")
    exact = (F.col("ts").cast("decimal(20, 3)") / 1000).cast("timestamp")
    assert frame.where(etl.timestamp("ts") != exact).count() == 0
    assert frame.where(F.unix_timestamp(etl.timestamp("ts")) != F.floor(F.col("ts") / 1000)).count() == 0


def test_time_holds_each_start_of_a_play_once(spark: SparkSession) -> None:
    events = [{"ts": 1}, {"ts": 1, "user_id": 2}, {"ts": 1, "user_id": None}, {"ts": 2, "page": "Home"}, {"ts": 3}]
    found = [row["start_time"] for row in rows(etl.time(staged_events(spark, *events), {(1970, 1): 4}))]
    assert found == ["1970-01-01 00:00:00.001", "1970-01-01 00:00:00.003"]


def test_a_large_month_is_several_tasks_and_a_small_one_is_one(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl, "ROWS_PER_FILE", 20)
    starts = [OCTOBER + place for place in range(10)] + [NOVEMBER + place for place in range(100)]
    events = staged_events(spark, *[{"ts": start} for start in starts * 2])
    found = etl.time(events, {(2018, 10): 10, (2018, 11): 100}).withColumn("task", F.spark_partition_id()).collect()
    assert len({row["start_time"] for row in found}) == len(found) == 110
    tasks = {month: Counter(row["task"] for row in found if row["month"] == month) for month in (10, 11)}
    assert len(tasks[10]) == 1
    assert len(tasks[11]) >= 3


# ------------------------------------------------------------------------------------ users


@pytest.fixture(scope="module")
def all_users(plain_plans: SparkSession) -> Dict[Optional[int], Row]:
    """The users of one frame of events that breaks every rule that a wrong job could have."""
    ann: Row = {"first_name": "Ann", "last_name": None}
    bob: Row = {"first_name": "Bob", "last_name": "Moss"}
    tied = [{**ann, "level": "free"}, {**bob, "level": "free"}, {**ann, "level": None}]
    events: List[Row] = [
        {"user_id": 1, "page": "Home"},
        {"user_id": 2, "ts": 2, "level": "free"},
        {"user_id": 2, "ts": 1, "level": "paid", "item_in_session": 9},
        {"user_id": 3, "ts": 5, "item_in_session": 1, "level": "paid"},
        {"user_id": 3, "ts": 5, "item_in_session": 2, "level": "free", "page": "Downgrade"},
        {"user_id": 4, "ts": 1, "level": "paid"},
        {"user_id": 4, "ts": 3, "level": "paid"},
        {"user_id": 4, "ts": 2, "level": "free"},
        {"user_id": None, "ts": 9, "page": "Login"},
        {"user_id": 5, "ts": 1, **bob, "gender": "M", "level": "paid"},
        {"user_id": 5, "ts": 2, **ann, "gender": None, "level": None},
    ]
    for place, order in enumerate(itertools.permutations(tied)):
        events += [{**row, "user_id": 10 + place, "ts": 7, "item_in_session": 0} for row in order]
    found = rows(etl.users(staged_events(plain_plans, *events)))
    assert len({row["user_id"] for row in found}) == len(found)
    return {row["user_id"]: row for row in found}


def test_users_come_from_any_event_not_only_plays(all_users: Dict[Optional[int], Row]) -> None:
    assert all_users[1] == {"user_id": 1, "first_name": "Ada", "last_name": "Moss", "gender": "F", "level": "paid"}


def test_events_of_nobody_make_no_user(all_users: Dict[Optional[int], Row]) -> None:
    assert sorted(map(str, all_users)) == sorted(map(str, [*range(1, 6), *range(10, 16)]))


def test_a_user_is_as_in_the_latest_event(all_users: Dict[Optional[int], Row]) -> None:
    assert all_users[2]["level"] == "free"


def test_of_events_at_the_same_time_the_last_of_the_session_counts(all_users: Dict[Optional[int], Row]) -> None:
    assert all_users[3]["level"] == "free"


def test_a_user_who_goes_paid_free_and_paid_again_is_paid(all_users: Dict[Optional[int], Row]) -> None:
    assert all_users[4]["level"] == "paid"


def test_attributes_of_two_events_are_never_mixed(all_users: Dict[Optional[int], Row]) -> None:
    assert all_users[5] == {"user_id": 5, "first_name": "Ann", "last_name": None, "gender": None, "level": None}


def test_the_order_of_events_never_decides_what_a_user_is(all_users: Dict[Optional[int], Row]) -> None:
    seen = {tuple(all_users[user][name] for name in ("first_name", "last_name", "level")) for user in range(10, 16)}
    assert len(seen) == 1
    assert seen < {("Ann", None, "free"), ("Bob", "Moss", "free"), ("Ann", None, None)}


# ------------------------------------------------------------------------------------ songs and artists


def test_songs_are_one_row_for_each_id_in_any_order(spark: SparkSession) -> None:
    records: List[Row] = [
        {"title": "Tide", "year": 0, "duration": 300.0, "artist_id": "AR1"},
        {"title": "Ember", "year": 1999, "duration": None, "artist_id": "AR2"},
        {"title": "Ember (Live)", "year": 1999, "duration": None, "artist_id": "AR3"},
        {"title": "Tide", "year": None, "duration": 301.0, "artist_id": "AR4"},
    ]
    orders = list(itertools.permutations(records))
    shuffled = [{**row, "song_id": "SO%02d" % place} for place, order in enumerate(orders) for row in order]
    found = rows(etl.songs(staged_songs(spark, *shuffled)))
    assert [row["song_id"] for row in found] == ["SO%02d" % place for place in range(24)]
    assert len({tuple(sorted((k, v) for k, v in row.items() if k != "song_id" and v)) for row in found}) == 1
    assert found[0]["year"] == 1999, "a known year beats an unknown one"
    assert (found[0]["title"], found[0]["artist_id"]) in {("Ember", "AR2"), ("Ember (Live)", "AR3")}, "mixed"


def test_a_song_is_stored_as_its_record_says(spark: SparkSession) -> None:
    assert rows(etl.songs(staged_songs(spark, {}))) == [
        {
            "song_id": "SOAAAAA12AB0000001",
            "title": "Morning Tide",
            "duration": 218.93179,
            "year": 1999,
            "artist_id": "ARAAAAA1187B000001",
        }
    ]


def test_an_unknown_year_is_0(spark: SparkSession) -> None:
    found = rows(etl.songs(staged_songs(spark, {"song_id": "SO1", "year": None}, {"song_id": "SO2", "year": 0})))
    assert [row["year"] for row in found] == [0, 0]


@pytest.fixture(scope="module")
def all_artists(plain_plans: SparkSession) -> Dict[str, Row]:
    """The artists of one frame of records, by id; the artist of a record without an id is the one of its test."""
    number = itertools.count()

    def of(artist: str, *records: Row) -> List[Row]:
        return [{"artist_id": artist, "song_id": "SO%d" % next(number), **record} for record in records]

    def at(latitude: Optional[float], longitude: Optional[float]) -> Row:
        return {"artist_latitude": latitude, "artist_longitude": longitude}

    def named(*names: str) -> List[Row]:
        return [{"artist_name": name} for name in names]

    records = of("frequent", *named("Mae feat. Bo", "Mae & the Long Name", "Mae & the Long Name"))
    records += of("short", *named("Aleph", "Beta", "Gamma"))
    records += of("alphabetical", *named("Cc", "Bb", "Éa", "Dd"))
    records += of("twice", *named("Z"), *[{"song_id": "SOX", "artist_name": "Zed Long"}] * 3)
    records += of("located", {"artist_location": None}, {"artist_location": "Oslo"}, {"artist_location": None})
    records += of("placed", at(None, None), at(1.5, -2.5), at(None, None))
    records += of("halves", at(10.0, None), at(None, 20.0), at(10.0, None))
    records += of("pairs", at(30.0, -5.0), at(10.0, 20.0))
    records += of("usual pair", at(-1.0, -1.0), at(10.0, 20.0), at(10.0, 20.0), at(-3.0, 50.0))
    records += of("usual location", *[{"artist_location": place} for place in ("A", "Lund, Sweden", "Lund, Sweden")])
    records += of("nowhere", {"artist_location": None, **at(None, None)})
    found = rows(etl.artists(staged_songs(plain_plans, *records)))
    assert len({row["artist_id"] for row in found}) == len(found) == 11
    return {row["artist_id"]: row for row in found}


@pytest.mark.parametrize(
    ("artist", "name"),
    [("frequent", "Mae & the Long Name"), ("short", "Beta"), ("alphabetical", "Bb"), ("twice", "Z")],
)
def test_an_artist_has_the_name_of_most_songs_then_the_shortest_then_the_first(
    all_artists: Dict[str, Row], artist: str, name: str
) -> None:
    assert all_artists[artist]["name"] == name


def test_locations_come_from_records_that_have_one(all_artists: Dict[str, Row]) -> None:
    assert all_artists["located"]["location"] == "Oslo"
    assert all_artists["usual location"]["location"] == "Lund, Sweden"


def test_coordinates_come_from_records_that_have_both(all_artists: Dict[str, Row]) -> None:
    places = {name: (row["latitude"], row["longitude"]) for name, row in all_artists.items()}
    assert places["placed"] == (1.5, -2.5)
    assert places["halves"] == (None, None)
    assert places["usual pair"] == (10.0, 20.0)


def test_coordinates_of_two_records_are_never_mixed(all_artists: Dict[str, Row]) -> None:
    place = (all_artists["pairs"]["latitude"], all_artists["pairs"]["longitude"])
    assert place in {(30.0, -5.0), (10.0, 20.0)}


def test_an_artist_of_unknown_place_stays_with_nulls(all_artists: Dict[str, Row]) -> None:
    assert all_artists["nowhere"] == {
        "artist_id": "nowhere", "name": "The Placeholders", "location": None, "latitude": None, "longitude": None,
    }  # fmt: skip


# ------------------------------------------------------------------------------------ repair of text

# What must stay as it is: no text of these is UTF-8 when its characters are taken for bytes.
CLEAN = [
    "Björk", "日本", "🎵", "’", "Ã", "Ãa", "aÃ", "é", "à la carte", "\u00a0x\u0085y", "naïve ©", "â€™", "Ã©日",
    "\u0100", "À\u0080", "Á¿", "à\u0080\u0080", "í\u00a0\u0080", "ð\u0080\u0080\u0080", "ô\u0090\u0080\u0080",
    "õ\u0080\u0080\u0080", "Ã©©", "Ã©Ã", "©Ã©", "â\u0080", "ð\u009f\u008e", "ÿþ", "plain",
]  # fmt: skip
BLANKS = " \t\n\r\x0b\x0c\x85\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
REPAIRS: Dict[str, Optional[str]] = {
    **{text: text.strip() for text in CLEAN},
    **{misread(text): text.strip() for text in CLEAN},
    **{misread(text, 2): text.strip() for text in CLEAN},
    misread("Björk", 3): "BjÃ¶rk",
    "BjÃ\u0083Â¶rk": "Björk",
    "Ã©": "é",
    "Â©": "©",
    "ì\u0097\u0084": "엄",
    " \u00a0": None,
    "": None,
    BLANKS: None,
    BLANKS + "Ti de" + BLANKS: "Ti de",
    "\u200bTide": "\u200bTide",  # not white space
    misread(" \u00a0é\u3000 "): "é",
    misread("\u00a0"): None,
    # Encoded again, à and Å end in U+00A0 and U+0085, which are white space: first repaired, then trimmed
    "VoilÃ\u00a0": "Voilà",
    "TÃ\u0085": "TÅ",
    "half \ud800": "half ?",
}


@pytest.mark.parametrize("text", list(REPAIRS), ids=ascii)
def test_text_is_repaired_twice_and_trimmed(text: str) -> None:
    assert etl.clean(text) == REPAIRS[text]


TEXTS = st.one_of(
    st.text(st.sampled_from("aàÅÃÂ©¶ðŸâ€™日🎵\u0080\u0085\u009f\u00a0\u00bf\u3000 "), max_size=6),
    st.text(st.characters(blacklist_categories=SURROGATES, min_codepoint=1), max_size=8),
    st.binary(max_size=6).map(lambda data: data.decode("latin-1").replace("\0", "0")),
)


@settings(max_examples=500)
@given(TEXTS)
def test_repair_undoes_misreading(text: str) -> None:
    if misread_again(text) == text:  # no UTF-8 when its characters are taken for bytes
        expected = text.strip(BLANKS) or None
        assert [etl.clean(text), etl.clean(misread(text)), etl.clean(misread(text, 2))] == [expected] * 3


def misread_again(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


# ------------------------------------------------------------------------------------ the five tables together

FEW = st.sampled_from


def record(**values: Any) -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries(values)


SONGS = st.lists(
    record(
        song_id=FEW(["SO1", "SO2", "SO3"]),
        title=FEW(["Tide", "Jóga"]),
        artist_id=FEW(["AR1", "AR2"]),
        artist_name=FEW(["Anchors", "Björk"]),
        artist_location=FEW([None, "Lund", "Oslo"]),
        artist_latitude=FEW([None, 1.0]),
        artist_longitude=FEW([None, 2.0, 3.0]),
        year=FEW([None, 0, 1999]),
        duration=FEW([None, 200.0, 210.0]),
    ),
    min_size=1,
    max_size=12,
)
EVENTS = st.lists(
    record(
        page=FEW(["NextSong", "NextSong", "Home"]),
        user_id=FEW([None, 1, 2]),
        session_id=FEW([1, 2]),
        item_in_session=FEW([0, 1]),
        ts=FEW([0, 1541030399999, 1541030400000]),
        level=FEW([None, "free", "paid"]),
        first_name=FEW([None, "Ann", "Bob"]),
        song=FEW([None, "Tide", "Jóga"]),
        artist=FEW([None, "Anchors", "Björk"]),
        length=FEW([None, 200.0, 205.0]),
        user_agent=FEW([None, "Mozilla"]),
    ),
    max_size=40,
)


def tables(events: DataFrame, songs: DataFrame) -> Dict[str, List[str]]:
    """The rows of all five tables as sorted text, in one Spark job."""
    frames = {
        "songs": etl.songs(songs),
        "artists": etl.artists(songs),
        "users": etl.users(events),
        "time": etl.time(events, {(2018, 10): 40}),
        "songplays": etl.songplays(events, songs, 40),
    }
    as_text = [frame.select(F.lit(name).alias("name"), F.to_json(F.struct("*"))) for name, frame in frames.items()]
    found: Dict[str, List[str]] = {name: [] for name in frames}
    for name, row in etl.union_all(as_text).collect():
        found[name].append(row)
    return {name: sorted(rows) for name, rows in found.items()}


@settings(max_examples=3)
@given(EVENTS, SONGS, st.integers(0, 99), st.integers(1, 4))
def test_every_play_is_there_once_with_its_keys_whatever_the_order_duplicates_and_partitions(
    interpreted_plans: SparkSession, events: List[Row], songs: List[Row], seed: int, partitions: int
) -> None:
    choose = random.Random(seed)

    def shuffled(records: List[Row]) -> List[Row]:
        twice = records + [row for row in records if choose.random() < 0.4]
        return choose.sample(twice, len(twice))

    once = tables(staged_events(interpreted_plans, *events), staged_songs(interpreted_plans, *songs))
    again = tables(
        staged_events(interpreted_plans, *shuffled(events)).repartition(partitions),
        staged_songs(interpreted_plans, *shuffled(songs)).repartition(partitions),
    )
    assert again == once
    found = {name: [json.loads(row) for row in rows] for name, rows in once.items()}
    keys = {(e["user_id"], e["session_id"], e["item_in_session"], e["ts"]) for e in events if e["page"] == "NextSong"}
    assert len(found["songplays"]) == len(values(found["songplays"], "songplay_id")) == len(keys)
    assert values(found["users"], "user_id") == values(events, "user_id")
    assert values(found["songs"], "song_id") == values(songs, "song_id")
    assert values(found["artists"], "artist_id") == values(songs, "artist_id")
    assert len(found["time"]) == len({ts for _, _, _, ts in keys})
    for child, column, parent in REFERENCES:
        assert values(found[child], column) <= values(found[parent], column), "%s of %s" % (column, child)
    assert [play for play in found["songplays"] if play.get("song_id") and not play.get("artist_id")] == []


def values(records: Sequence[Row], column: str) -> Set[Any]:
    """The distinct values of a column, null left out."""
    return {row[column] for row in records if row.get(column) is not None}


REFERENCES = [
    ("songplays", "user_id", "users"),
    ("songplays", "song_id", "songs"),
    ("songplays", "artist_id", "artists"),
    ("songplays", "start_time", "time"),
    ("songs", "artist_id", "artists"),
]
