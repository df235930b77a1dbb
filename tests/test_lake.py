"""Whole lakes, end to end: the sample, the public sample where it is at hand, and an input with every kind of damage.

With KEEP_LAKES=DIR the lakes stay in DIR/<Spark version>/<input>/, for compare_lakes.py.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest
from conftest import ROOT, SAMPLE, rows
from py4j.java_gateway import GatewayClient
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import etl

Row = Dict[str, Any]
TABLES = ("artists", "songs", "users", "time", "songplays", "staging_songs", "staging_events")
PUBLIC = ROOT.parent / "shared" / "data"


class Lake(NamedTuple):
    folder: Path
    report: Row
    tables: Dict[str, List[Row]]  # as an analyst reads them: without a schema


Build = Callable[[Path, Path], Lake]


@pytest.fixture(scope="module")
def build(spark: SparkSession) -> Build:
    """Build a lake from a folder that holds song_data and log_data."""

    def build(source: Path, output: Path) -> Lake:
        config = etl.Config("LOCAL", str(source / "song_data"), str(source / "log_data"), str(output), 20.0)
        etl.check_local_paths(config)
        report = etl.build_lake(spark, config, etl.Progress(io.StringIO()))
        return Lake(output, dict(report), tables_of(spark, output))

    return build


def tables_of(spark: SparkSession, folder: Path) -> Dict[str, List[Row]]:
    return {name: rows(spark.read.parquet(str(folder / name))) for name in TABLES}


@pytest.fixture(scope="module")
def sample(build: Build, place: Callable[[str], Path]) -> Lake:
    return build(SAMPLE, place("sample"))


@pytest.fixture(scope="module")
def public(build: Build, place: Callable[[str], Path]) -> Lake:
    if not (PUBLIC / "song_data").is_dir():
        pytest.skip("the public sample is not at hand: ../shared/data holds no song_data")
    return build(PUBLIC, place("public"))


def test_java_is_not_asked_for_the_same_class_at_each_expression(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: List[str] = []
    send = GatewayClient.send_command

    def send_command(client: GatewayClient, command: str, *others: Any) -> Any:
        said.append(command)
        return send(client, command, *others)

    F.col("title").cast("string")
    monkeypatch.setattr(GatewayClient, "send_command", send_command)
    F.col("title").cast("string")
    assert said
    assert [command for command in said if command.startswith("r\nu\n")] == []  # reflection, unknown name


# ------------------------------------------------------------------------------------ the same by plain Python


class Bare(str):
    """A number as the file writes it."""


class Source(NamedTuple):
    """The good records of an input, as staging rows; by code that shares none with the job."""

    songs: List[Row]
    events: List[Row]

    def once(self) -> List[Row]:
        """The events, each once: of copies that differ the one whose values sort last."""
        found: Dict[Any, Row] = {}
        for event in self.events:
            key = tuple(event[name] for name in KEY)
            if key not in found or order_of(event, COPIES) > order_of(found[key], COPIES):
                found[key] = event
        return list(found.values())

    def plays(self) -> List[Row]:
        return [event for event in self.once() if event["page"] == "NextSong"]


KEY = ("user_id", "session_id", "item_in_session", "ts")
COPIES = ("level", "song", "artist", "length", "location", "user_agent")
LATEST = ("ts", "item_in_session", "session_id", "level", "first_name", "last_name", "gender")


def order_of(row: Row, names: Sequence[str]) -> Tuple[Any, ...]:
    """What rows are sorted by: the values of some columns, null first."""
    return tuple((row[name] is not None, row[name]) if row[name] is not None else (False,) for name in names)


def read(folder: Path) -> Source:
    songs = [staged_song(record, file) for file, record in records(folder / "song_data") if record]
    events = [staged_event(record, file) for file, record in records(folder / "log_data") if record]
    return Source(songs, [event for event in events if event])


def records(folder: Path) -> Iterator[Tuple[str, Optional[Row]]]:
    """The file and record of each line; None where the line is broken."""
    for path in sorted(folder.rglob("*.json")):
        for line in path.read_text("utf-8").splitlines():
            yield "file://%s" % path, parsed(line)


def parsed(line: str) -> Optional[Row]:
    try:
        record: Row = json.loads(line, parse_int=Bare, parse_float=Bare)
    except ValueError:
        return None
    return record


def reread(value: Any) -> str:
    """Text after undoing UTF-8 that was taken for Latin-1, twice at most; trimmed."""
    text = "" if value is None else str(value)
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
        text = text.encode("latin-1").decode("utf-8")
    return text.strip()


def text(value: Any) -> Optional[str]:
    return reread(value) or None


def whole(value: Any) -> Optional[int]:
    return None if value in (None, "") else int(float(value)) if "." in value else int(value)


def real(value: Any) -> Optional[float]:
    return None if value is None else float(value)


def staged_song(record: Row, file: str) -> Row:
    row: Row = {
        name: text(record[name]) for name in ("song_id", "title", "artist_id", "artist_name", "artist_location")
    }
    row.update({name: real(record[name]) for name in ("duration", "artist_latitude", "artist_longitude")})
    return {**row, "year": whole(record["year"]), "file": file}


def staged_event(record: Row, file: str) -> Row:
    """An event; nothing where its time is no number."""
    if not isinstance(record["ts"], Bare):
        return {}
    names = {"firstName": "first_name", "lastName": "last_name", "userAgent": "user_agent"}
    names.update({name: name for name in ("artist", "gender", "level", "location", "page", "song")})
    row: Row = {column: text(record[name]) for name, column in names.items()}
    row["user_agent"] = text((row["user_agent"] or "").strip('"'))
    integers = {"itemInSession": "item_in_session", "sessionId": "session_id", "ts": "ts", "userId": "user_id"}
    row.update({column: whole(record[name]) for name, column in integers.items()})
    start = instant(row["ts"])
    row.update(length=real(record["length"]), file=file, year=start.year, month=start.month)
    row["songplay_id"] = play_id(record) if row["page"] == "NextSong" else None
    return row


def play_id(record: Row) -> str:
    """The id of a play, from the record of the input."""
    key = (record[name] for name in ("userId", "sessionId", "itemInSession", "ts"))
    return hashlib.md5("/".join(map(str, key)).encode()).hexdigest()


def instant(ts: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ts // 1000, datetime.timezone.utc).replace(microsecond=ts % 1000 * 1000)


def stamp(ts: int) -> str:
    """A time as Spark writes it."""
    found = instant(ts).strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0")
    return found.rstrip(".")


def commonest(pairs: Sequence[Tuple[str, Any]], size: Callable[[Any], int]) -> Any:
    """The value that most songs have; of several the smallest, then the first in order. None where none is given."""
    counts = Counter(value for _, value in set(pairs) if value is not None)
    return min(counts, key=lambda value: (-counts[value], size(value), value)) if counts else None


def songs_by_python(source: Source) -> List[Row]:
    found = []
    for song_id, group in grouped(source.songs, "song_id").items():
        best = max(group, key=lambda row: (row["year"] or 0, order_of(row, ("duration", "title", "artist_id"))))
        row = {name: best[name] for name in ("title", "duration", "artist_id")}
        found.append({"song_id": song_id, "year": best["year"] or 0, **row})
    return found


def artists_by_python(source: Source) -> List[Row]:
    found = []
    for artist_id, group in grouped(source.songs, "artist_id").items():
        names = [(row["song_id"], row["artist_name"]) for row in group]
        locations = [(row["song_id"], row["artist_location"]) for row in group]
        places = [(row["song_id"], (row["artist_latitude"], row["artist_longitude"])) for row in group]
        place = commonest([p for p in places if None not in p[1]], lambda value: 0) or (None, None)
        name, location = commonest(names, len), commonest(locations, len)
        row = {"artist_id": artist_id, "name": name, "location": location}
        found.append({**row, "latitude": place[0], "longitude": place[1]})
    return found


def users_by_python(source: Source) -> List[Row]:
    found = []
    for user_id, group in grouped(source.events, "user_id").items():
        latest = max(group, key=lambda row: order_of(row, LATEST))
        found.append({name: latest[name] for name in ("user_id", "first_name", "last_name", "gender", "level")})
        assert user_id == latest["user_id"]
    return found


def time_by_python(source: Source) -> List[Row]:
    found = []
    for ts in {play["ts"] for play in source.plays()}:
        start = instant(ts)
        _, week, weekday = start.isocalendar()[:3]
        row = {"start_time": stamp(ts), "hour": start.hour, "day": start.day, "week": week, "weekday": weekday}
        found.append({**row, "year": start.year, "month": start.month})
    return found


def songplays_by_python(source: Source) -> List[Row]:
    by_title: Dict[Tuple[str, str], List[Row]] = defaultdict(list)
    by_name: Dict[str, Dict[str, Set[str]]] = defaultdict(lambda: defaultdict(set))
    for song in source.songs:
        by_title[song["title"], song["artist_name"]].append(song)
        by_name[song["artist_name"]][song["artist_id"]].add(song["song_id"])
    found = []
    for play in source.plays():
        rivals = by_title.get((play["song"], play["artist"]), [])
        artists = by_name.get(play["artist"], {})
        song = min(rivals, key=lambda s: (gap(s, play), s["song_id"], s["artist_id"])) if rivals else {}
        artist = min(artists, key=lambda artist_id: (-len(artists[artist_id]), artist_id)) if artists else None
        names = ("songplay_id", "user_id", "level", "session_id", "location", "user_agent", "year", "month")
        row = {name: play[name] for name in names}
        known = {"song_id": song.get("song_id"), "artist_id": song.get("artist_id") or artist}
        found.append({**row, **known, "start_time": stamp(play["ts"])})
    return found


def gap(song: Row, play: Row) -> float:
    return abs(song["duration"] - play["length"]) if None not in (song["duration"], play["length"]) else math.inf


def grouped(found: Sequence[Row], name: str) -> Dict[Any, List[Row]]:
    groups: Dict[Any, List[Row]] = defaultdict(list)
    for row in found:
        if row[name] is not None:
            groups[row[name]].append(row)
    return groups


BY_PYTHON: Dict[str, Callable[[Source], List[Row]]] = {
    "artists": artists_by_python,
    "songs": songs_by_python,
    "users": users_by_python,
    "time": time_by_python,
    "songplays": songplays_by_python,
    "staging_songs": lambda source: source.songs,
    "staging_events": lambda source: source.events,
}


def assert_by_python(lake: Lake, source: Source, table: str) -> None:
    """A table holds what plain Python makes of the input."""
    found, expected = (
        Counter(repr(sorted(row.items())) for row in some) for some in (lake.tables[table], BY_PYTHON[table](source))
    )
    differences = (table, sorted((expected - found).elements())[:1], sorted((found - expected).elements())[:1])
    assert differences == (table, [], [])


@pytest.fixture(scope="module")
def sample_source() -> Source:
    return read(SAMPLE)


@pytest.fixture(scope="module")
def public_source() -> Source:
    return read(PUBLIC)


def test_the_sample_by_plain_python(sample: Lake, sample_source: Source) -> None:
    for table in TABLES:
        assert_by_python(sample, sample_source, table)


def test_the_public_sample_by_plain_python(public: Lake, public_source: Source) -> None:
    for table in TABLES:
        assert_by_python(public, public_source, table)


def trimmed(value: Any) -> str:
    return "" if value is None else str(value).strip()


def is_double_encoded(record: Row) -> bool:
    return any(reread(record[name]) != trimmed(record[name]) for name in ("song", "artist"))


def raw_plays(folder: Path) -> Dict[str, Row]:
    """The plays as the input has them, by id."""
    found = [record for _, record in records(folder / "log_data") if record and isinstance(record["ts"], Bare)]
    return {play_id(record): record for record in found if record["page"] == "NextSong"}


def levels(lake: Lake) -> Dict[int, List[Tuple[str, str]]]:
    """Each user's changes of level over the plays, as (minute, new level)."""
    changes: Dict[int, List[Tuple[str, str]]] = defaultdict(list)
    for play in sorted(lake.tables["songplays"], key=lambda play: str(play["start_time"])):
        seen = changes[play["user_id"]]
        if play["user_id"] is not None and (not seen or seen[-1][1] != play["level"]):
            seen.append((play["start_time"][:16], play["level"]))
    return {user: seen for user, seen in changes.items() if user is not None}


def distinct(records: Sequence[Row], column: str) -> int:
    return len({record[column] for record in records} - {None})


# ------------------------------------------------------------------------------------ the sample of the project

SAMPLE_COUNTS = {  # the table of data/README.md
    "song_lines": 150,
    "song_records": 149,
    "song_records_year_0": 84,
    "songs": 148,
    "artists": 105,
    "log_lines": 2603,
    "events": 2598,
    "duplicate_events": 3,
    "logged_out_events": 129,
    "plays": 2023,
    "duplicate_plays": 2,
    "play_start_times": 2021,
    "double_encoded_plays": 126,
    "matched_plays": 706,
    "plays_matched_only_after_repair": 90,
    "songs_played": 133,
    "users": 41,
    "users_with_plays": 38,
    "users_playing_at_both_levels": 8,
    "users_latest_free": 24,
    "users_latest_paid": 17,
}


@pytest.fixture(scope="module")
def sample_counts(sample: Lake) -> Dict[str, int]:
    """The same counts, of the lake and its report as far as they tell, else of the files."""
    songs, logs = sample.report["account"]["song_data"], sample.report["account"]["log_data"]
    plays, tables, by_id = sample.tables["songplays"], sample.tables, raw_plays(SAMPLE)
    raw_songs = [record for _, record in records(SAMPLE / "song_data") if record]
    events = read(SAMPLE).once()
    names = {(str(song["title"]), str(song["artist_name"])) for song in raw_songs}
    matched = [by_id[play["songplay_id"]] for play in plays if play["song_id"]]
    latest = Counter(user["level"] for user in tables["users"])
    return {
        "song_lines": songs["records"],
        "song_records": songs["rows"] + songs["duplicates"],
        "song_records_year_0": sum(song["year"] == 0 for song in tables["staging_songs"]),
        "songs": len(tables["songs"]),
        "artists": len(tables["artists"]),
        "log_lines": logs["records"],
        "events": len(events),
        "duplicate_events": len(tables["staging_events"]) - len(events),
        "logged_out_events": sum(event["user_id"] is None for event in events),
        "plays": len(plays),
        "duplicate_plays": logs["duplicates"],
        "play_start_times": len(tables["time"]),
        "double_encoded_plays": sum(map(is_double_encoded, by_id.values())),
        "matched_plays": len(matched),
        "plays_matched_only_after_repair": sum((str(e["song"]), str(e["artist"])) not in names for e in matched),
        "songs_played": distinct(plays, "song_id"),
        "users": len(tables["users"]),
        "users_with_plays": distinct(plays, "user_id"),
        "users_playing_at_both_levels": sum(len({level for _, level in seen}) == 2 for seen in levels(sample).values()),
        "users_latest_free": latest["free"],
        "users_latest_paid": latest["paid"],
    }


def test_the_lake_of_the_sample_counts_what_the_generator_planted(sample_counts: Dict[str, int]) -> None:
    assert sample_counts == SAMPLE_COUNTS


def test_every_play_of_the_sample_is_there_by_its_own_key(sample: Lake) -> None:
    assert {play["songplay_id"] for play in sample.tables["songplays"]} == set(raw_plays(SAMPLE))


def test_first_and_last_play_of_the_sample(sample: Lake) -> None:
    starts = sorted(play["start_time"] for play in sample.tables["songplays"])
    assert (starts[0], starts[-1]) == ("2018-11-01 06:40:43.962", "2018-11-30 22:20:27.529")


def test_the_account_of_the_sample_balances(sample: Lake) -> None:
    assert sample.report["account"] == {
        "song_data": {"records": 150, "rows": 148, "duplicates": 1, "other": 0, "quarantined": 1},
        "log_data": {"records": 2603, "rows": 2023, "duplicates": 2, "other": 576, "quarantined": 2},
    }
    assert sample.report["reasons"] == {"broken JSON": 2, "wrong type: ts": 1}
    assert (sample.report["matched"], sample.report["match_rate"]) == (706, 706 / 2023)
    assert (sample.report["artists_known"], sample.report["artist_match_rate"]) == (749, 749 / 2023)


def test_damage_of_the_sample_is_in_the_quarantine_as_it_was(spark: SparkSession, sample: Lake) -> None:
    assert quarantined(spark, sample.folder) == sorted(sample_damage())


Bad = Tuple[str, str, str, str, str]  # input, file name, reason, raw, raw_base64


def quarantined(spark: SparkSession, folder: Path) -> List[Bad]:
    found = spark.read.parquet(str(folder / "_quarantine")).collect()
    return sorted(
        (row["input"], row["file"].rpartition("/")[2], row["reason"], row["raw"].rstrip("\n"), row["raw_base64"] or "")
        for row in found
    )


def sample_damage() -> List[Bad]:
    """The damage that data/README.md lists: input, file, line, reason."""
    places = [
        ("song_data", "A/A/F/TRAAFCM128FA678CA1.json", 1, "broken JSON"),
        ("log_data", "2018/11/2018-11-05-events.json", 11, "broken JSON"),
        ("log_data", "2018/11/2018-11-27-events.json", 72, "wrong type: ts"),
    ]
    lines = {(name, file): (SAMPLE / name / file).read_text("utf-8").splitlines() for name, file, _, _ in places}
    return [(name, file.rpartition("/")[2], why, lines[name, file][line - 1], "") for name, file, line, why in places]


# ------------------------------------------------------------------------------------ the public sample


def test_rows_of_the_public_sample(public: Lake) -> None:
    assert {name: len(found) for name, found in public.tables.items()} == {
        "artists": 69, "songs": 71, "users": 97, "time": 6813, "songplays": 6820,
        "staging_songs": 71, "staging_events": 8056,
    }  # fmt: skip


def test_the_account_of_the_public_sample_balances(public: Lake) -> None:
    assert public.report["account"] == {
        "song_data": {"records": 71, "rows": 71, "duplicates": 0, "other": 0, "quarantined": 0},
        "log_data": {"records": 8056, "rows": 6820, "duplicates": 0, "other": 1236, "quarantined": 0},
    }


def test_songs_of_unknown_year_in_the_public_sample(public: Lake) -> None:
    assert sum(song["year"] == 0 for song in public.tables["songs"]) == 43


def test_users_of_the_public_sample_come_from_any_event(public: Lake) -> None:
    assert distinct(public.tables["songplays"], "user_id") == 96
    assert distinct(public.tables["users"], "user_id") == 97


def test_first_and_last_play_of_the_public_sample(public: Lake) -> None:
    starts = sorted(row["start_time"] for row in public.tables["time"])
    assert (starts[0], starts[-1]) == ("2018-11-01 21:01:46.796", "2018-11-30 19:54:24.796")


def test_events_of_nobody_in_the_public_sample_are_no_users(public: Lake) -> None:
    assert sum(event["user_id"] is None for event in public.tables["staging_events"]) == 286
    assert None not in {user["user_id"] for user in public.tables["users"]}


def test_plays_of_the_public_sample_whose_song_or_artist_is_known(public: Lake) -> None:
    plays = public.tables["songplays"]
    counts = [sum(play[name] is not None for play in plays) for name in ("song_id", "artist_id")]
    assert counts == [public.report["matched"], public.report["artists_known"]] == [1, 21]
    assert public.report["artist_match_rate"] == 21 / 6820
    summary = etl.summary(public.report)
    assert "songs known 1, artists known 21 of 6,820 plays" in summary


def test_users_of_the_public_sample_whose_level_changes(public: Lake) -> None:
    changing = {user: seen for user, seen in levels(public).items() if len(seen) > 1}
    assert len(changing) == 8
    assert [level for _, level in changing[15]] == ["paid", "free", "paid"]
    assert [minute for minute, _ in changing[15]][1:] == ["2018-11-21 11:11", "2018-11-21 11:16"]
    (lily,) = [user for user in public.tables["users"] if user["user_id"] == 15]
    assert (lily["first_name"], lily["last_name"], lily["level"]) == ("Lily", "Koch", "paid")


def test_latest_levels_over_the_plays_of_the_public_sample(public: Lake) -> None:
    assert Counter(seen[-1][1] for seen in levels(public).values()) == {"free": 74, "paid": 22}


def test_the_one_match_of_the_public_sample(public: Lake) -> None:
    (play,) = [play for play in public.tables["songplays"] if play["song_id"]]
    names = ("user_id", "session_id", "song_id", "artist_id")
    assert tuple(play[name] for name in names) == (15, 818, "SOZCTXZ12AB0182364", "AR5KOSW1187FB35FF4")


def test_a_title_alone_is_no_match_in_the_public_sample(public: Lake) -> None:
    titles = {song["title"] for song in public.tables["staging_songs"]}
    plays_of_titles = [event for event in public.tables["staging_events"] if event["song"] in titles]
    by_title = {event["songplay_id"] for event in plays_of_titles if event["songplay_id"]}
    plays = [play for play in public.tables["songplays"] if play["songplay_id"] in by_title]
    assert sorted(play["song_id"] is None for play in plays) == [False, True, True, True]
    assert sum(map(is_double_encoded, raw_plays(PUBLIC).values())) == 326


# ------------------------------------------------------------------------------------ what readers find

STRING, BIGINT, INT, DOUBLE = "binary STRING", "int64", "int32", "double"
COLUMNS = {
    "songplays": {
        "songplay_id": STRING,
        "start_time": "int64 TIMESTAMP(MICROS,true)",
        "user_id": BIGINT,
        "level": STRING,
        "song_id": STRING,
        "artist_id": STRING,
        "session_id": BIGINT,
        "location": STRING,
        "user_agent": STRING,
    },
    "users": {"user_id": BIGINT, "first_name": STRING, "last_name": STRING, "gender": STRING, "level": STRING},
    "songs": {"song_id": STRING, "title": STRING, "duration": DOUBLE},
    "artists": {"artist_id": STRING, "name": STRING, "location": STRING, "latitude": DOUBLE, "longitude": DOUBLE},
    "time": {"start_time": "int64 TIMESTAMP(MICROS,true)", "hour": INT, "day": INT, "week": INT, "weekday": INT},
    "staging_songs": {
        "song_id": STRING,
        "title": STRING,
        "duration": DOUBLE,
        "year": INT,
        "artist_id": STRING,
        "artist_name": STRING,
        "artist_location": STRING,
        "artist_latitude": DOUBLE,
        "artist_longitude": DOUBLE,
        "file": STRING,
    },
    "staging_events": {
        "songplay_id": STRING,
        "artist": STRING,
        "first_name": STRING,
        "gender": STRING,
        "item_in_session": BIGINT,
        "last_name": STRING,
        "length": DOUBLE,
        "level": STRING,
        "location": STRING,
        "page": STRING,
        "session_id": BIGINT,
        "song": STRING,
        "ts": BIGINT,
        "user_agent": STRING,
        "user_id": BIGINT,
        "file": STRING,
    },
}
FILES = {
    "songplays": r"year=\d{4}/month=\d{1,2}/part-[^/]+\.parquet",
    "users": r"part-[^/]+\.parquet",
    "songs": r"year=\d{1,4}/artist_id=AR[A-Z0-9]{16}/part-[^/]+\.parquet",
    "artists": r"part-[^/]+\.parquet",
    "time": r"year=\d{4}/month=\d{1,2}/part-[^/]+\.parquet",
    "staging_songs": r"part-[^/]+\.parquet",
    "staging_events": r"year=\d{4}/month=\d{1,2}/part-[^/]+\.parquet",
}


def test_columns_order_and_types_of_the_files(spark: SparkSession, sample: Lake) -> None:
    for table in TABLES:
        for path in list((sample.folder / table).rglob("*.parquet"))[:3]:
            assert list(footer(spark, path).items()) == list(COLUMNS[table].items()), table


def footer(spark: SparkSession, path: Path) -> Dict[str, str]:
    """The columns of a parquet file and their types, in its order."""
    jvm: Any = spark.sparkContext._jvm
    java: Any = spark.sparkContext._jsc
    reader = jvm.org.apache.parquet.hadoop.ParquetFileReader
    schema = reader.readFooter(java.hadoopConfiguration(), jvm.org.apache.hadoop.fs.Path(str(path))).getFileMetaData()
    found = re.findall(r"(?:optional|required) (\S+) (\w+)(?: \((.*)\))?;", schema.getSchema().toString())
    # Spark 2.4 writes the older names of the same types.
    newer = {"UTF8": "STRING", "TIMESTAMP_MICROS": "TIMESTAMP(MICROS,true)"}
    return {name: " ".join([kind, newer.get(logical, logical)]).strip() for kind, name, logical in found}


def test_a_table_holds_parquet_files_and_nothing_else(sample: Lake) -> None:
    for table in TABLES:
        folder = sample.folder / table
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        assert files
        assert [file for file in files if not re.match(FILES[table] + "$", file)] == []


BY_MONTH = ("time", "songplays", "staging_events")


def test_tables_can_be_read_without_a_schema(spark: SparkSession, sample: Lake) -> None:
    types = {name: dict(spark.read.parquet(str(sample.folder / name)).dtypes) for name in TABLES}
    assert types["songs"] == {
        "song_id": "string", "title": "string", "duration": "double", "year": "int", "artist_id": "string",
    }  # fmt: skip
    assert [types[name][column] for name in BY_MONTH for column in ("year", "month")] == ["int"] * 6
    assert types["time"]["start_time"] == types["songplays"]["start_time"] == "timestamp"


READERS = {
    "pandas": """
        import pandas
        plays = pandas.read_parquet(lake + "/songplays")
        found = [len(plays), plays.start_time.min(), plays.start_time.max(), int(plays.month.astype(int).sum())]""",
    "pyarrow": """
        import pyarrow.parquet
        plays = pyarrow.parquet.read_table(lake + "/songplays").to_pydict()
        starts, months = plays["start_time"], list(map(int, plays["month"]))
        found = [len(months), min(starts), max(starts), sum(months)]""",
    "polars": """
        import polars
        plays = polars.read_parquet(lake + "/songplays/**/*.parquet", hive_partitioning=True)
        found = [len(plays), plays["start_time"].min(), plays["start_time"].max(), plays["month"].cast(int).sum()]""",
    "duckdb": """
        import datetime, duckdb
        source = "read_parquet('%s/songplays/**/*.parquet', hive_partitioning = true)" % lake
        query = "select count(*), epoch_ms(min(start_time)), epoch_ms(max(start_time)), sum(month), %s from " + source
        found = list(duckdb.sql(query % "any_value(typeof(start_time))").fetchall()[0])
        assert found.pop() == "TIMESTAMP WITH TIME ZONE"
        utc = datetime.timezone.utc
        found[1:3] = [datetime.datetime.fromtimestamp(ms // 1000, utc).replace(microsecond=ms % 1000 * 1000)
                      for ms in found[1:3]]""",
}


NOTE = "seen[%r] = [int(found[0]), found[1].isoformat(), found[2].isoformat(), int(found[3])]\n"


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles"])
def test_every_reader_finds_the_same_instants_in_any_time_zone(sample: Lake, zone: str) -> None:
    pytest.importorskip("pyarrow")
    code = "".join(textwrap.dedent(text) + "\n" + NOTE % reader for reader, text in READERS.items())
    done = subprocess.run(
        [sys.executable, "-c", "import json, sys\nlake, seen = sys.argv[1], {}\n%sprint(json.dumps(seen))" % code]
        + [str(sample.folder)],
        env={**os.environ, "TZ": zone},
        stdout=subprocess.PIPE,
        check=True,
    )
    first, last = "2018-11-01T06:40:43.962000+00:00", "2018-11-30T22:20:27.529000+00:00"
    assert json.loads(done.stdout.decode()) == dict.fromkeys(READERS, [2023, first, last, 2023 * 11])


# ------------------------------------------------------------------------------------ damage


def changed(**changes: Any) -> Callable[[bytes], bytes]:
    """Damage that changes values; `...` drops a key."""

    def damage(line: bytes) -> bytes:
        record = {**json.loads(line.decode("utf-8")), **changes}
        kept = {key: value for key, value in record.items() if value is not ...}
        return json.dumps(kept, ensure_ascii=False).encode("utf-8")

    return damage


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Damage that replaces the first such bytes."""

    def damage(line: bytes) -> bytes:
        assert old in line, line
        return line.replace(old, new, 1)

    return damage


class Kind(NamedTuple):
    """A kind of damage and the reason that the quarantine must give."""

    reason: str
    damage: Callable[[bytes], bytes]


SAME = [  # in songs and events alike
    Kind("broken JSON", lambda line: line[: len(line) // 2]),
    Kind("broken JSON", lambda line: line + b" " + line),
    Kind("broken JSON", lambda line: line + b"x"),
    Kind("broken JSON", lambda line: line.replace(b'"', b"'")),
    Kind("not valid UTF-8", replaced(b'"', b'"\xff')),
    Kind("not valid UTF-8", lambda line: line[:-1] + b',"extra":"caf\xc3"}'),
    Kind("not a JSON object", lambda line: b"[" + line + b"]"),
    Kind("longer than 50000 characters", lambda line: line[:-1] + b',"extra":"' + b"x" * 50000 + b'"}'),
    Kind(
        "nested too deep or a number too long", lambda line: line[:-1] + b',"extra":' + b"[" * 900 + b"]" * 900 + b"}"
    ),
]
SONG_DAMAGE = [
    *SAME,
    Kind("missing: song_id", changed(song_id=...)),
    Kind("missing: artist_id", changed(artist_id=" ")),
    Kind("missing: title", changed(title=None)),
    Kind("missing: artist_name", changed(artist_name="\u00a0")),
    Kind("wrong type: title", changed(title={"is": "an object"})),
    Kind("wrong type: duration", changed(duration="long")),
    Kind("value not accepted: year", changed(year=12)),
    Kind("value not accepted: artist_latitude", changed(artist_latitude=91)),
    Kind("value not accepted: artist_id", changed(artist_id="A" * 61)),
]
EVENT_DAMAGE = [
    *SAME,
    Kind("broken JSON", replaced(b'"page":"NextSong"', b'"page":"Next\tSong"')),
    Kind("broken JSON", replaced(b'"length":', b'"length":NaN,"extra":')),
    Kind("not a JSON object", lambda line: b"null"),
    Kind("missing: itemInSession", lambda line: b"{}"),
    Kind("missing: ts", changed(ts=None)),
    Kind("missing: sessionId", changed(sessionId=...)),
    Kind("missing: page", changed(page="")),
    Kind("wrong type: ts", changed(ts="yesterday")),
    Kind("wrong type: ts", changed(ts=1541105830796.5)),
    Kind("wrong type: userId", changed(userId="Ada")),
    Kind("wrong type: sessionId", changed(sessionId=[1])),
    Kind("wrong type: artist", changed(artist={"name": "Ada"})),
    Kind("wrong type: song", changed(song=True)),
    Kind("wrong type: length", changed(length="long")),
    Kind("value not accepted: ts", changed(ts=-1)),
    Kind("value not accepted: ts", changed(ts=1541105830)),
    Kind("value not accepted: ts", changed(ts=253402300800000)),
    Kind("value not accepted: itemInSession", changed(itemInSession=-1)),
    Kind("value not accepted: level", changed(level="gold")),
    Kind("value not accepted: gender", changed(gender="x")),
    Kind("value not accepted: length", changed(length=-0.5)),
]


def bad(name: str, file: str, reason: str, raw: bytes) -> Bad:
    """A damaged record as the quarantine must show it."""
    text = raw.decode("utf-8", "replace")
    return name, file, reason, text, base64.b64encode(raw).decode() if "\ufffd" in text else ""


def damage_sample(folder: Path) -> List[Bad]:
    """Copy the sample into a folder and add a damaged copy of a play or a song for each kind, over 1 % of the lines.

    Returns what the quarantine must hold.
    """
    choose, planted = random.Random(2018), sample_damage()
    shutil.copytree(str(SAMPLE), str(folder))
    logs = sorted((folder / "log_data").rglob("*.json"))
    plays = [line for path in logs for line in path.read_bytes().splitlines() if b'"page":"NextSong"' in line]
    songs = [path.read_bytes().strip() for path in sorted((folder / "song_data").rglob("*.json"))]
    for kind in EVENT_DAMAGE:
        path = choose.choice(logs)
        raw = kind.damage(choose.choice(list(filter(is_sound, plays))))
        lines = path.read_bytes().split(b"\n")
        lines[choose.randrange(len(lines)) : 0] = [raw, b" \t"]
        path.write_bytes(b"\n".join(lines))
        planted.append(bad("log_data", path.name, kind.reason, raw))
    for number, kind in enumerate(SONG_DAMAGE):
        path = folder / "song_data" / "A" / ("TRBAD%02d.json" % number)
        raw = kind.damage(choose.choice(list(filter(is_sound, songs))))
        path.write_bytes(raw + b"\n")
        planted.append(bad("song_data", path.name, kind.reason, raw))
    return sorted(planted)


def is_sound(line: bytes) -> bool:
    record = parsed(line.decode("utf-8"))
    return record is not None and isinstance(record.get("ts", Bare()), Bare)


@pytest.fixture(scope="module")
def damaged(
    build: Build, place: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Tuple[Lake, List[Bad]]:
    folder = tmp_path_factory.mktemp("damaged") / "input"
    planted = damage_sample(folder)
    return build(folder, place("damaged")), planted


def test_every_damaged_record_is_in_the_quarantine_with_file_reason_and_text(
    spark: SparkSession, damaged: Tuple[Lake, List[Bad]]
) -> None:
    lake, planted = damaged
    found = quarantined(spark, lake.folder)
    assert found == planted
    assert len(planted) >= 0.01 * (2603 + 150)


def test_the_account_of_a_damaged_input_balances(damaged: Tuple[Lake, List[Bad]]) -> None:
    events, songs = len(EVENT_DAMAGE), len(SONG_DAMAGE)
    assert damaged[0].report["account"] == {
        "song_data": {"records": 150 + songs, "rows": 148, "duplicates": 1, "other": 0, "quarantined": 1 + songs},
        "log_data": {"records": 2603 + events, "rows": 2023, "duplicates": 2, "other": 576, "quarantined": 2 + events},
    }
    assert damaged[0].report["reasons"] == Counter(reason for _, _, reason, _, _ in damaged[1])


def test_damage_beside_sound_records_changes_no_row(sample: Lake, damaged: Tuple[Lake, List[Bad]]) -> None:
    for table in TABLES:
        lakes = [lake.tables[table] for lake in (damaged[0], sample)]
        found, expected = ([{**row, "file": None} for row in some] for some in lakes)  # of another folder
        assert sorted(map(repr, found)) == sorted(map(repr, expected)), table


@pytest.fixture(scope="module")
def damaged_by_spark(
    build: Build, damaged: Tuple[Lake, List[Bad]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lake]:
    """The same input as if it were large."""
    source, small = Path(damaged[0].report["song_data"]).parent, etl.SMALL_BYTES
    etl.SMALL_BYTES = 1
    try:
        yield build(source, tmp_path_factory.mktemp("by Spark") / "lake")
    finally:
        etl.SMALL_BYTES = small


def test_an_input_is_judged_by_spark_as_by_python(
    spark: SparkSession, damaged: Tuple[Lake, List[Bad]], damaged_by_spark: Lake
) -> None:
    lake = damaged[0]
    assert quarantined(spark, damaged_by_spark.folder) == quarantined(spark, lake.folder)
    for name in ("account", "reasons", "matched", "artists_known"):
        assert damaged_by_spark.report[name] == lake.report[name]
    for table in TABLES:
        assert damaged_by_spark.tables[table] == lake.tables[table], table
