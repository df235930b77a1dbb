"""The five tables: a test for every rule that turns staged records into rows.

Plays are told apart by their session_id, which a test chooses as it likes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import pytest
from conftest import rows, song_record, staged_events, staged_songs, write_files
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import etl

SURROGATES: Any = ("Cs",)  # no text of UTF-8 holds one

Row = Dict[str, Any]


def plays(spark: SparkSession, events: Sequence[Mapping[str, Any]], songs: Sequence[Row] = ({},)) -> Dict[int, Row]:
    """The rows of songplays by session_id; each session may have one only."""
    found = rows(etl.songplays(staged_events(spark, *events), staged_songs(spark, *songs)))
    by_session = {row["session_id"]: row for row in found}
    assert len(by_session) == len(found), "a session has several plays"
    return by_session


def matches(spark: SparkSession, events: Sequence[Row], songs: Sequence[Row]) -> List[Optional[str]]:
    """The song_id that each event's play gets, in the order of the events."""
    found = plays(spark, [{**event, "session_id": place} for place, event in enumerate(events)], songs)
    assert sorted(found) == list(range(len(events))), "a play is missing"
    return [found[place]["song_id"] for place in range(len(events))]


def misread(text: str, times: int = 1) -> str:
    """Text whose UTF-8 was taken for Latin-1 and encoded again."""
    for _ in range(times):
        text = text.encode("utf-8").decode("latin-1")
    return text


# ------------------------------------------------------------------------------------ songplays: which plays


def test_only_a_next_song_event_is_a_play(spark: SparkSession) -> None:
    pages = ["NextSong", "Home", "nextsong", "NextSongs", "Logout"]
    found = plays(spark, [{"page": page, "session_id": place} for place, page in enumerate(pages)])
    assert list(found) == [0]


def test_an_event_delivered_twice_is_one_play(spark: SparkSession) -> None:
    key = {"user_id": 39, "session_id": 38, "item_in_session": 3, "ts": 1541105830796}
    others = [{**key, name: value} for name, value in (("item_in_session", 4), ("ts", 1541105830797), ("user_id", 40))]
    logged_out = {**key, "user_id": None}
    events = staged_events(spark, key, logged_out, *others, key, {**key, "session_id": 39}, logged_out, key)
    found = rows(etl.songplays(events, staged_songs(spark, {})))
    assert len(found) == 6
    assert len({row["songplay_id"] for row in found}) == 6


def test_duplicates_that_differ_give_the_same_row_in_any_order(spark: SparkSession) -> None:
    copies: List[Row] = [
        {"level": "paid", "location": None, "user_agent": "b", "song": "Morning Tide"},
        {"level": "free", "location": "Lund, Sweden", "user_agent": None, "song": None},
        {"level": None, "location": "Oslo, Norway", "user_agent": "a", "song": "Morning Tide"},
    ]
    orders = list(itertools.permutations(copies))
    events = [{**copy, "session_id": place} for place, order in enumerate(orders) for copy in order]
    found = rows(etl.songplays(staged_events(spark, *events).coalesce(1), staged_songs(spark, {})))
    assert len(found) == len(orders)
    kept = {(row["level"], row["location"], row["user_agent"], row["song_id"] is not None) for row in found}
    assert len(kept) == 1
    assert kept < {(c["level"], c["location"], c["user_agent"], c["song"] is not None) for c in copies}, "mixed"


def test_songplay_id_is_the_md5_of_the_natural_key(spark: SparkSession) -> None:
    keys: List[Row] = [
        {"user_id": 39, "session_id": 38, "item_in_session": 3, "ts": 1541105830796},
        {"user_id": None, "session_id": 39, "item_in_session": 0, "ts": 0},
    ]
    found = plays(spark, keys)
    assert found[38]["songplay_id"] == hashlib.md5(b"39/38/3/1541105830796").hexdigest()
    assert found[38]["songplay_id"] == "1f6da2033dfb4dc4d69f874faa059def"  # as it was in every release
    assert found[39]["songplay_id"] == hashlib.md5(b"/39/0/0").hexdigest()


def test_songplay_ids_of_distinct_keys_are_distinct(spark: SparkSession) -> None:
    names = ("user_id", "session_id", "item_in_session", "ts")
    keys = set(itertools.product((None, 0, 1, 11), (0, 1, 11), (0, 1, 11), (0, 1, 11)))
    found = rows(etl.songplays(staged_events(spark, *[dict(zip(names, key)) for key in keys]), staged_songs(spark, {})))
    assert len({row["songplay_id"] for row in found}) == len(found) == len(keys)


def test_a_play_is_stored_as_its_event_says(spark: SparkSession) -> None:
    assert plays(spark, [{}]) == {
        38: {
            "songplay_id": hashlib.md5(b"39/38/3/1541105830796").hexdigest(),
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


def test_quotes_around_a_user_agent_go(spark: SparkSession) -> None:
    agents = {
        '"Mozilla/5.0"': "Mozilla/5.0",
        "Mozilla/5.0": "Mozilla/5.0",
        '""Mozilla/5.0""': "Mozilla/5.0",
        '" Mozilla/5.0 "': "Mozilla/5.0",
        'Mozilla "beta" 5': 'Mozilla "beta" 5',
        '"Mozilla/5.0': "Mozilla/5.0",
        '""': None,
        '" "': None,
        None: None,
    }
    found = plays(spark, [{"session_id": place, "user_agent": agent} for place, agent in enumerate(agents)])
    assert [found[place]["user_agent"] for place in range(len(agents))] == list(agents.values())


# ------------------------------------------------------------------------------------ songplays: which song

DUET = [
    {"song_id": "SO1", "title": "Tide", "artist_id": "AR1", "artist_name": "Anchors"},
    {"song_id": "SO2", "title": "Ember", "artist_id": "AR2", "artist_name": "Beacons"},
]


def test_a_match_needs_title_and_artist_of_the_same_record(spark: SparkSession) -> None:
    texts = [
        ("Tide", "Anchors", "SO1"),
        ("Ember", "Beacons", "SO2"),
        ("Tide", "Beacons", None),
        ("Ember", "Anchors", None),
        ("Tide", None, None),
        (None, "Anchors", None),
        (None, None, None),
        ("Tid", "eAnchors", None),
    ]
    found = matches(spark, [{"song": song, "artist": artist} for song, artist, _ in texts], DUET)
    assert found == [expected for _, _, expected in texts]


def test_a_play_without_a_match_stays_with_nulls(spark: SparkSession) -> None:
    found = plays(spark, [{"song": "Unheard", "session_id": 1}, {"song": "Tide", "artist": "Anchors"}], DUET)
    assert (found[1]["song_id"], found[1]["artist_id"], found[1]["user_id"]) == (None, None, 39)
    assert (found[38]["song_id"], found[38]["artist_id"]) == ("SO1", "AR1")


def test_a_match_survives_text_encoded_twice_or_thrice_on_either_side(spark: SparkSession) -> None:
    rounds = list(itertools.product((0, 1, 2), (0, 1, 2)))
    titles = ["Jóga ’%d’" % place for place in range(9)]
    songs = [
        {"song_id": "SO%d" % place, "title": misread(titles[place], theirs), "artist_name": misread("Björk", theirs)}
        for place, (_, theirs) in enumerate(rounds)
    ]
    events = [
        {"song": misread(titles[place], ours), "artist": misread("Björk", ours)}
        for place, (ours, _) in enumerate(rounds)
    ]
    assert matches(spark, events, songs) == ["SO%d" % place for place in range(9)]


def test_text_matches_whatever_blanks_surround_it(spark: SparkSession) -> None:
    blank = " \t\n\r\x0b\x0c\x85\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000"
    events = [
        {"song": " Tide", "artist": "Anchors  "},
        {"song": blank + "Tide" + blank, "artist": blank + "Anchors" + blank},
        {"song": "Ti de", "artist": "Anchors"},  # a blank inside counts
        {"song": "\u200bTide", "artist": "Anchors"},  # not white space
        {"song": blank, "artist": "Anchors"},
    ]
    assert matches(spark, events, DUET) == ["SO1", "SO1", None, None, None]


def test_text_is_repaired_before_it_is_trimmed(spark: SparkSession) -> None:
    # Encoded again, à and Å end in U+00A0 and U+0085, which are white space.
    assert (misread("Voilà"), misread("TÅ")) == ("VoilÃ\u00a0", "TÃ\u0085")
    songs = [{"song_id": "SO1", "title": "Voilà", "artist_name": "TÅ"}]
    events = [{"song": misread("Voilà", times), "artist": misread("TÅ", times)} for times in (0, 1, 2)]
    events += [{"song": " " + misread("Voilà ", times), "artist": misread(" TÅ") + " "} for times in (1, 2)]
    assert matches(spark, events, songs) == ["SO1"] * 5


def test_a_song_whose_text_is_encoded_again_keeps_its_last_byte_for_the_match(
    spark: SparkSession, tmp_path: Path
) -> None:
    record = song_record(title=misread("Voilà"), artist_name=misread("TÅ") + " ")
    folder = write_files(tmp_path, {"a.json": [record]})
    staged = etl.staging(etl.read_documents(spark, str(folder)), etl.SONG_FIELDS)
    songs = spark.createDataFrame(staged.collect(), staged.schema)  # as the job reads them back from staging
    plays = etl.songplays(staged_events(spark, {"song": "Voilà", "artist": "TÅ"}), songs)
    assert [row["song_id"] for row in rows(plays)] == [record["song_id"]]
    # What is stored is trimmed, not repaired
    assert [row["title"] for row in rows(etl.songs(songs))] == ["VoilÃ"]
    assert [row["name"] for row in rows(etl.artists(songs))] == ["TÃ"]


def test_of_several_songs_the_closest_duration_then_the_smallest_id_counts(spark: SparkSession) -> None:
    durations = {"SO0": None, "SO1": 210.0, "SO2": 210.0, "SO3": 200.0, "SO4": 190.5}
    songs = [{"song_id": song_id, "duration": duration} for song_id, duration in durations.items()]
    songs += [{"song_id": "SO9", "title": "Alone", "duration": None}, {"song_id": "SO3", "duration": 600.0}]
    expected = {
        199.0: "SO3",
        205.0: "SO1",  # as far from 200 as from 210
        211.0: "SO1",
        10000.0: "SO3",  # by its other record
        300.0: "SO1",
        0.0: "SO4",
        195.25: "SO3",  # as far from 190.5
        None: "SO0",
    }
    events: List[Row] = [{"length": length} for length in expected]
    events += [{"song": "Alone"}, {"song": "Alone", "length": None}]
    assert matches(spark, events, songs) == list(expected.values()) + ["SO9", "SO9"]


def test_the_artist_of_a_play_is_the_artist_of_its_song(spark: SparkSession) -> None:
    songs = [{"song_id": "SO2", "artist_id": "AR1"}, {"song_id": "SO1", "artist_id": "AR2"}]
    found = plays(spark, [{}], songs)[38]
    assert (found["song_id"], found["artist_id"]) == ("SO1", "AR2")


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
    found = etl.time(events).select(seconds, "hour", "day", "week", "weekday", "year", "month")
    assert sorted(map(tuple, found.collect())) == [(ts / 1000, *fields) for ts, fields in INSTANTS.items()]
    found = etl.songplays(events, staged_songs(spark, {})).select(seconds, "year", "month")
    assert sorted(map(tuple, found.collect())) == [(ts / 1000, *fields[-2:]) for ts, fields in INSTANTS.items()]


def test_time_holds_each_start_of_a_play_once(spark: SparkSession) -> None:
    events = [{"ts": 1}, {"ts": 1, "user_id": 2}, {"ts": 1, "user_id": None}, {"ts": 2, "page": "Home"}, {"ts": 3}]
    found = [row["start_time"] for row in rows(etl.time(staged_events(spark, *events)))]
    assert found == ["1970-01-01 00:00:00.001", "1970-01-01 00:00:00.003"]


# ------------------------------------------------------------------------------------ users


@pytest.fixture(scope="module")
def all_users(spark: SparkSession) -> Dict[Optional[int], Row]:
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
    found = rows(etl.users(staged_events(spark, *events).coalesce(1)))
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
    found = rows(etl.songs(staged_songs(spark, *shuffled).coalesce(1)))
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
def all_artists(spark: SparkSession) -> Dict[str, Row]:
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
    found = rows(etl.artists(staged_songs(spark, *records)))
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


# ------------------------------------------------------------------------------------ repair

# What must stay as it is: no text of these is UTF-8 when its characters are taken for bytes.
CLEAN = [
    "Björk", "日本", "🎵", "’", "Ã", "Ãa", "aÃ", "é", "à la carte", "\u00a0x\u0085y", "naïve ©", "â€™", "Ã©日",
    "\u0100", "À\u0080", "Á¿", "à\u0080\u0080", "í\u00a0\u0080", "ð\u0080\u0080\u0080", "ô\u0090\u0080\u0080",
    "õ\u0080\u0080\u0080", "Ã©©", "Ã©Ã", "©Ã©", "â\u0080", "ð\u009f\u008e", "ÿþ", "plain",
]  # fmt: skip
REPAIRS: Dict[Optional[str], Optional[str]] = {
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
    None: None,
    misread(" \u00a0é\u3000 "): "é",
    misread("\u00a0"): None,
}


def test_repair_of_literal_texts(spark: SparkSession) -> None:
    found = dict(zip(REPAIRS, repair(spark, list(REPAIRS))))
    assert {text: value for text, value in found.items() if value != REPAIRS[text]} == {}


def repair(spark: SparkSession, texts: Sequence[Optional[str]]) -> List[Optional[str]]:
    frame = spark.createDataFrame(list(enumerate(texts)), "place int, text string")
    found = frame.select("place", etl.repaired(F.col("text")).alias("text")).collect()
    return [row["text"] for row in sorted(found)]


BLANKS = " \t\n\r\x0b\x0c\x85\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
TEXTS = st.one_of(
    st.text(st.sampled_from("aàÅÃÂ©¶ðŸâ€™日🎵\u0080\u0085\u009f\u00a0\u00bf\u3000 "), max_size=6),
    st.text(st.characters(blacklist_categories=SURROGATES, min_codepoint=1), max_size=8),
    st.binary(max_size=6).map(lambda data: data.decode("latin-1").replace("\0", "0")),
)


def repaired_in_python(text: str) -> Optional[str]:
    return reread(reread(text)).strip(BLANKS) or None


def reread(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


@given(st.lists(st.tuples(TEXTS, st.integers(0, 3)), min_size=1, max_size=80))
def test_repair_does_to_any_text_what_python_would(spark: SparkSession, cases: List[Tuple[str, int]]) -> None:
    texts = [misread(text, times) for text, times in cases]
    assert repair(spark, texts) == [repaired_in_python(text) for text in texts]


@given(st.lists(TEXTS, min_size=1, max_size=80))
def test_repair_undoes_misreading(spark: SparkSession, texts: List[str]) -> None:
    sound = [text for text in texts if misreads_nothing(text)]
    expected = [text.strip(BLANKS) or None for text in sound]
    assert repair(spark, sound + [misread(text) for text in sound] + ["x"]) == expected * 2 + ["x"]


def misreads_nothing(text: str) -> bool:
    """Whether text is no UTF-8 when its characters are taken for bytes, ASCII left aside."""
    return reread(text) == text


# ------------------------------------------------------------------------------------ the five tables together

FEW = st.sampled_from


def record(**values: Any) -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries(values)


SONGS = st.lists(
    record(
        song_id=FEW(["SO1", "SO2", "SO3"]),
        title=FEW(["Tide", "Jóga", misread("Jóga")]),
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
        song=FEW([None, "Tide", "Jóga", misread("Jóga", 2)]),
        artist=FEW([None, "Anchors", misread("Björk")]),
        length=FEW([None, 200.0, 205.0]),
        user_agent=FEW([None, "Mozilla", '"Mozilla"']),
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def few_stages(spark: SparkSession) -> Iterator[SparkSession]:
    """A session that runs five tables as one plan fast: newer Sparks would plan each stage again."""
    spark.conf.set("spark.sql.adaptive.enabled", "false")
    yield spark
    spark.conf.unset("spark.sql.adaptive.enabled")


def tables(events: DataFrame, songs: DataFrame) -> Dict[str, List[str]]:
    """The rows of all five tables as sorted text, in one Spark job."""
    frames = {
        "songs": etl.songs(songs),
        "artists": etl.artists(songs),
        "users": etl.users(events),
        "time": etl.time(events),
        "songplays": etl.songplays(events, songs),
    }
    as_text = [frame.select(F.lit(name).alias("name"), F.to_json(F.struct("*"))) for name, frame in frames.items()]
    union = as_text[0]
    for frame in as_text[1:]:
        union = union.union(frame)
    found: Dict[str, List[str]] = {name: [] for name in frames}
    for name, row in union.collect():
        found[name].append(row)
    return {name: sorted(rows) for name, rows in found.items()}


@settings(max_examples=3)
@given(EVENTS, SONGS, st.integers(0, 99), st.integers(1, 4))
def test_order_duplicates_and_partitions_change_no_table(
    few_stages: SparkSession, events: List[Row], songs: List[Row], seed: int, partitions: int
) -> None:
    choose = random.Random(seed)

    def shuffled(records: List[Row]) -> List[Row]:
        twice = records + [row for row in records if choose.random() < 0.4]
        return choose.sample(twice, len(twice))

    once = tables(staged_events(few_stages, *events).coalesce(1), staged_songs(few_stages, *songs).coalesce(1))
    again = tables(
        staged_events(few_stages, *shuffled(events)).repartition(partitions),
        staged_songs(few_stages, *shuffled(songs)).repartition(partitions),
    )
    assert again == once


@settings(max_examples=3)
@given(EVENTS, SONGS)
def test_every_play_is_there_once_and_its_keys_are_in_their_tables(
    few_stages: SparkSession, events: List[Row], songs: List[Row]
) -> None:
    text = tables(staged_events(few_stages, *events), staged_songs(few_stages, *songs))
    found = {name: [json.loads(row) for row in rows] for name, rows in text.items()}
    keys = {(e["user_id"], e["session_id"], e["item_in_session"], e["ts"]) for e in events if e["page"] == "NextSong"}
    assert len(found["songplays"]) == len(values(found["songplays"], "songplay_id")) == len(keys)
    assert values(found["users"], "user_id") == values(events, "user_id")
    assert values(found["songs"], "song_id") == values(songs, "song_id")
    assert values(found["artists"], "artist_id") == values(songs, "artist_id")
    assert len(found["time"]) == len({ts for _, _, _, ts in keys})
    for child, column, parent in REFERENCES:
        assert values(found[child], column) <= values(found[parent], column), "%s of %s" % (column, child)


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
