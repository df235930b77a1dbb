"""The same lake built by Polars: how fast one machine can be without Spark.

The rules of the star's tables are etl.py's. What is left out: the staging tables, validation, quarantine, account and
checks.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path
from typing import Dict, List, Mapping, Type

os.environ.setdefault("POLARS_MAX_THREADS", "2")  # read when Polars is imported
import polars as pl
from repair import repaired

SONG_SCHEMA = {
    "song_id": pl.String,
    "title": pl.String,
    "duration": pl.Float64,
    "year": pl.Int32,
    "artist_id": pl.String,
    "artist_name": pl.String,
    "artist_location": pl.String,
    "artist_latitude": pl.Float64,
    "artist_longitude": pl.Float64,
}
EVENT_SCHEMA = {
    "artist": pl.String,
    "firstName": pl.String,
    "gender": pl.String,
    "itemInSession": pl.Int64,
    "lastName": pl.String,
    "length": pl.Float64,
    "level": pl.String,
    "location": pl.String,
    "page": pl.String,
    "sessionId": pl.Int64,
    "song": pl.String,
    "ts": pl.Int64,
    "userAgent": pl.String,
    "userId": pl.String,
}
PARTITIONS: Mapping[str, List[str]] = {
    "songs": ["year", "artist_id"],
    "time": ["year", "month"],
    "songplays": ["year", "month"],
}
PLAY_KEY = ["user_id", "session_id", "item_in_session", "ts"]


# ------------------------------------------------------------------------------------ input


def read(folder: str, schema: Mapping[str, Type[pl.DataType]]) -> pl.LazyFrame:
    """The records of all JSON files below a folder."""
    return pl.scan_ndjson(folder + "/**/*.json", schema=dict(schema), ignore_errors=True)


def read_records(folder: str) -> pl.DataFrame:
    """The song records, text cleaned."""
    records = read(folder, SONG_SCHEMA).with_columns(pl.col("year").fill_null(0)).collect()
    return cleaned(records, "title", "artist_name", "artist_location")


def read_events(folder: str) -> pl.DataFrame:
    """The events, text cleaned, with etl.py's names of columns."""
    names = {"firstName": "first_name", "lastName": "last_name", "sessionId": "session_id"}
    names.update({"itemInSession": "item_in_session", "userAgent": "user_agent", "userId": "user_id"})
    events = read(folder, EVENT_SCHEMA).rename(names)
    agent = pl.col("user_agent").str.strip_chars('"')
    typed = events.with_columns(agent, pl.col("user_id").cast(pl.Int64, strict=False)).collect()
    return cleaned(typed, "artist", "first_name", "last_name", "location", "song", "user_agent")


def cleaned(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """A frame with some columns of text repaired and trimmed."""
    return frame.with_columns(clean(pl.col(name).replace(repairs(frame[name]))) for name in columns)


def clean(text: pl.Expr) -> pl.Expr:
    """Text without surrounding white space; null where nothing is left."""
    trimmed = text.str.strip_chars()
    return pl.when(trimmed != "").then(trimmed)


def repairs(column: pl.Series) -> Dict[str, str]:
    """For text that is double-encoded what it was meant to be."""
    texts = column.unique()
    suspects = texts.filter(texts.str.contains("[\u0080-\u00ff]"))
    return {text: repaired(text) for text in suspects if repaired(text) != text}


# ------------------------------------------------------------------------------------ tables


def artists(records: pl.DataFrame) -> pl.DataFrame:
    """One row per artist_id: the most frequent name, location and pair of coordinates."""
    names = most_frequent(records, ["artist_name"], [pl.col("artist_name").str.len_chars()])
    locations = most_frequent(records, ["artist_location"], [pl.col("artist_location").str.len_chars()])
    places = most_frequent(records, ["artist_latitude", "artist_longitude"], [])
    joined = names.join(locations, "artist_id", how="left").join(places, "artist_id", how="left")
    return joined.rename(lambda name: name if name == "artist_id" else name.replace("artist_", "")).sort("artist_id")


def most_frequent(records: pl.DataFrame, attributes: List[str], ties: List[pl.Expr]) -> pl.DataFrame:
    """Each artist's most frequent values, counted once per song; of several by `ties`, then the smallest."""
    songs = pl.col("song_id").n_unique().cast(pl.Int64).neg().alias("songs")
    counted = records.drop_nulls(attributes).group_by("artist_id", *attributes).agg(songs)
    ordered = counted.sort("artist_id", "songs", *ties, *attributes)
    return ordered.unique("artist_id", keep="first", maintain_order=True).select("artist_id", *attributes)


def songs(records: pl.DataFrame) -> pl.DataFrame:
    """One row per song_id: the latest year, the longest duration, the last title and artist."""
    best = ["year", "duration", "title", "artist_id"]
    ordered = records.sort("song_id", *best, descending=[False, True, True, True, True], nulls_last=True)
    unique = ordered.unique("song_id", keep="first", maintain_order=True)
    return unique.select("song_id", "title", "duration", "year", "artist_id").sort("year", "artist_id", "song_id")


def users(events: pl.DataFrame) -> pl.DataFrame:
    """One row per user_id: as in the latest event."""
    row = ["first_name", "last_name", "gender", "level"]
    latest = pl.col(row).sort_by("ts", "item_in_session", "session_id").last()
    return events.drop_nulls("user_id").group_by("user_id").agg(latest).sort("user_id")


def time(plays: pl.DataFrame) -> pl.DataFrame:
    """One row per start time of a play."""
    start = pl.col("start_time").dt
    parts = {
        "hour": start.hour(),
        "day": start.day(),
        "week": start.week(),
        "weekday": start.weekday(),
        "year": start.year(),
        "month": start.month(),
    }
    times = plays.select(start_time()).unique().sort("start_time")
    return times.with_columns(**{name: part.cast(pl.Int32) for name, part in parts.items()})


def start_time() -> pl.Expr:
    """The instant of `ts`."""
    return pl.from_epoch("ts", "ms").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("start_time")


def songplays(plays: pl.DataFrame, records: pl.DataFrame) -> pl.DataFrame:
    """One row per play, with the song of its title and artist name whose duration is closest, else the artist of that
    name.
    """
    plays, key = plays.unique(PLAY_KEY, keep="any"), ["song", "artist"]
    named = records.rename({"title": "song", "artist_name": "artist"})
    known = named.select(*key, "song_id", "artist_id", "duration").unique()
    shared = pl.len().over(key) > 1
    matched = pl.concat(
        [
            plays.join(known.filter(~shared), key),
            closest(plays.join(known.filter(shared), key)),
            plays.join(known, key, how="anti"),
        ],
        how="diagonal",
    ).join(artists_by_name(named), "artist", how="left")
    return matched.select(
        songplay_id(),
        start_time(),
        "user_id",
        "level",
        "song_id",
        pl.coalesce("artist_id", "artist_of_name").alias("artist_id"),
        "session_id",
        "location",
        "user_agent",
        start_time().dt.year().cast(pl.Int32).alias("year"),
        start_time().dt.month().cast(pl.Int32).alias("month"),
    ).sort("start_time", "songplay_id")


def artists_by_name(named: pl.DataFrame) -> pl.DataFrame:
    """The artist of each name: the one with the most songs under it, then the smallest artist_id."""
    counted = named.group_by("artist", "artist_id").agg(
        pl.col("song_id").n_unique().cast(pl.Int64).neg().alias("songs")
    )
    best = counted.sort("artist", "songs", "artist_id").unique("artist", keep="first", maintain_order=True)
    return best.select("artist", artist_of_name="artist_id")


def closest(candidates: pl.DataFrame) -> pl.DataFrame:
    """Of each play's rows the one with the closest duration, then the smallest song_id and artist_id."""
    gap = (pl.col("duration") - pl.col("length")).abs()
    ordered = candidates.sort(gap, "song_id", "artist_id", nulls_last=True)
    return ordered.unique(PLAY_KEY, keep="first", maintain_order=True)


def songplay_id() -> pl.Expr:
    """The MD5 of a play's key, in Python, since Polars has none."""
    text = pl.concat_str([pl.col(name).cast(pl.String).fill_null("") for name in PLAY_KEY], separator="/")
    return text.map_batches(hashes, return_dtype=pl.String).alias("songplay_id")


def hashes(texts: pl.Series) -> pl.Series:
    """The MD5 of each text."""
    return pl.Series([hashlib.md5(text.encode()).hexdigest() for text in texts], dtype=pl.String)


# ------------------------------------------------------------------------------------ output


def write(table: pl.DataFrame, name: str, output: Path) -> None:
    """Write a table into a new folder, a file for each partition."""
    if name not in PARTITIONS:
        table.write_parquet(output / name / "data.parquet", compression="snappy", mkdir=True)
        return
    target = pl.PartitionParted(output / name, by=PARTITIONS[name], include_key=False)
    parted = table.sort(PARTITIONS[name], maintain_order=True)
    parted.lazy().sink_parquet(target, compression="snappy", mkdir=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("--song-data", "--log-data", "--output"):
        parser.add_argument(name, required=True, metavar="FOLDER")
    options = parser.parse_args()
    output = Path(options.output)
    records, events = read_records(options.song_data), read_events(options.log_data)
    write(artists(records), "artists", output)
    write(songs(records), "songs", output)
    write(users(events), "users", output)
    plays = events.filter(pl.col("page") == "NextSong")
    write(time(plays), "time", output)
    write(songplays(plays, records), "songplays", output)


if __name__ == "__main__":
    main()
