"""What the catalog says of the seven tables: names and types as etl.py writes them, and a comment for each.

The types are those of etl.TABLES, which Spark, Hive and Glue spell alike. docs/data-dictionary.md has the whole story
of every column; a test holds the two against each other.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple

import etl

DATABASE = "sparkify"

TABLE_COMMENTS = {
    "songplays": "One row per song played; all times are UTC.",
    "users": "One row per user id in any event, with the attributes of the latest one.",
    "songs": "One row per song.",
    "artists": "One row per artist.",
    "time": "One row per distinct start time of a play, in UTC.",
    "staging_songs": "Every valid song record once per delivery, typed and cleaned.",
    "staging_events": "Every valid event once per delivery, typed and cleaned.",
}

COLUMN_COMMENTS: Dict[str, Dict[str, str]] = {
    "songplays": {
        "songplay_id": "Key: MD5 of userId, sessionId, itemInSession and ts, joined by /",
        "start_time": "UTC, to the millisecond; key of time",
        "user_id": "Key of users; null if the event names no user",
        "level": "free or paid, at the time of the play",
        "song_id": "Key of songs; null if no song matches",
        "artist_id": "Key of artists, by the song or else by the artist name; null if neither matches",
        "session_id": "Session of the player",
        "location": "Metropolitan area, as the event gives it",
        "user_agent": "User agent, without quotes around it",
        "year": "Partition: year of start_time",
        "month": "Partition: month of start_time, 1 to 12",
    },
    "users": {
        "user_id": "Key",
        "first_name": "From the latest event of the user",
        "last_name": "From the latest event of the user",
        "gender": "F, M or null, from the latest event of the user",
        "level": "free or paid, from the latest event of the user",
    },
    "songs": {
        "song_id": "Key",
        "title": "Title of the song",
        "duration": "Seconds",
        "year": "Partition: year of the song; 0 means unknown",
        "artist_id": "Partition: key of artists",
    },
    "artists": {
        "artist_id": "Key",
        "name": "The most frequent spelling",
        "location": "The most frequent one given; free text",
        "latitude": "Degrees north",
        "longitude": "Degrees east",
    },
    "time": {
        "start_time": "Key: UTC, to the millisecond",
        "hour": "0 to 23",
        "day": "Day of the month, 1 to 31",
        "week": "ISO 8601 week, 1 to 53",
        "weekday": "ISO 8601 day of the week: 1 is Monday, 7 is Sunday",
        "year": "Partition: calendar year",
        "month": "Partition: 1 to 12",
    },
    "staging_songs": {
        "song_id": "Key of songs, which has one row of several records",
        "title": "Title of the song",
        "duration": "Seconds",
        "year": "Year of the song; 0 or null means unknown",
        "artist_id": "Key of artists, which has one row of several records",
        "artist_name": "As spelled in this record",
        "artist_location": "Free text",
        "artist_latitude": "Degrees north",
        "artist_longitude": "Degrees east",
        "file": "URI of the file that the record came in",
    },
    "staging_events": {
        "songplay_id": "Key of songplays, which has copies once; null if the event is no play",
        "artist": "Artist name as the player shows it, known to the song data or not",
        "first_name": "First name of the user",
        "gender": "F, M or null",
        "item_in_session": "Number of the event in its session",
        "last_name": "Last name of the user",
        "length": "Seconds, of the song",
        "level": "free or paid, at the time of the event",
        "location": "Metropolitan area",
        "page": "What the user did; NextSong is a play",
        "session_id": "Session of the player",
        "song": "Title as the player shows it, known to the song data or not",
        "ts": "Time of the event in UTC: milliseconds since 1970",
        "user_agent": "User agent, without quotes around it",
        "user_id": "Key of users; null if the event names no user",
        "file": "URI of the file that the event came in",
        "year": "Partition: year of ts, in UTC",
        "month": "Partition: month of ts, 1 to 12",
    },
}


class Column(NamedTuple):
    """A column as the catalog has it."""

    name: str
    type: str
    comment: str


def columns(table: str) -> List[Column]:
    """Every column of a table, partition columns last.

    >>> columns("users")[0]
    Column(name='user_id', type='bigint', comment='Key')
    """
    return [Column(name, kind, COLUMN_COMMENTS[table][name]) for name, kind in etl.columns_of(table)]


def stored_columns(table: str) -> List[Column]:
    """The columns that the Parquet files hold."""
    return [column for column in columns(table) if column.name not in etl.TABLES[table].partitions]


def partition_columns(table: str) -> List[Column]:
    """The columns that only the paths hold, in the order of the folders.

    >>> [column.name for column in partition_columns("songs")]
    ['year', 'artist_id']
    """
    by_name = {column.name: column for column in columns(table)}
    return [by_name[name] for name in etl.TABLES[table].partitions]


def by_month(table: str) -> bool:
    """Whether a table is partitioned by year and month."""
    return etl.TABLES[table].partitions == ("year", "month")
