"""The same lake built by DuckDB: how fast one machine can be without Spark.

The rules of the star's tables are etl.py's. What is left out: the staging tables, validation, quarantine, account and
checks. Text is trimmed of plain spaces only, and a line that is no JSON object is skipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb
from repair import repaired

THREADS = 2

SONG_COLUMNS = {
    "song_id": "VARCHAR",
    "title": "VARCHAR",
    "duration": "DOUBLE",
    "year": "INTEGER",
    "artist_id": "VARCHAR",
    "artist_name": "VARCHAR",
    "artist_location": "VARCHAR",
    "artist_latitude": "DOUBLE",
    "artist_longitude": "DOUBLE",
}
EVENT_COLUMNS = {
    "artist": "VARCHAR",
    "firstName": "VARCHAR",
    "gender": "VARCHAR",
    "itemInSession": "BIGINT",
    "lastName": "VARCHAR",
    "length": "DOUBLE",
    "level": "VARCHAR",
    "location": "VARCHAR",
    "page": "VARCHAR",
    "sessionId": "BIGINT",
    "song": "VARCHAR",
    "ts": "BIGINT",
    "userAgent": "VARCHAR",
    "userId": "VARCHAR",
}

# A limit on open files would split the partitions of songs, which has one for each artist and year.
SETUP = """
set threads = {threads};
set timezone = 'UTC';
set preserve_insertion_order = false;
set partitioned_write_max_open_files = 1000000;
create macro clean(value) as nullif(trim(value), '');
"""

READ = """
create table records as
select song_id, clean(title) as title, duration, coalesce(year, 0) as year, artist_id,
  clean(artist_name) as artist_name, clean(artist_location) as artist_location, artist_latitude, artist_longitude
from read_json($songs, columns = $song_columns, format = 'newline_delimited', ignore_errors = true);

create table events as
select clean(artist) as artist, clean(firstName) as first_name, gender, itemInSession as item_in_session,
  clean(lastName) as last_name, length, level, clean(location) as location, page, sessionId as session_id,
  clean(song) as song, ts,
  clean(trim(userAgent, '"')) as user_agent, try_cast(userId as bigint) as user_id
from read_json($logs, columns = $event_columns, format = 'newline_delimited', ignore_errors = true);
"""

TEXTS = {
    "records": ("title", "artist_name", "artist_location"),
    "events": ("artist", "first_name", "last_name", "location", "song", "user_agent"),
}
# Text that may be double-encoded: every character is a byte, and one at least is none of ASCII's.
SUSPECTS = r"""
select distinct {column} from {table}
where regexp_matches({column}, '[\x80-\xff]') and not regexp_matches({column}, '[^\x00-\xff]')
"""

ARTISTS = """
with names as (
  select artist_id, artist_name as name, count(distinct song_id) as songs
  from records where artist_name is not null group by all
), locations as (
  select artist_id, artist_location as location, count(distinct song_id) as songs
  from records where artist_location is not null group by all
), places as (
  select artist_id, artist_latitude as latitude, artist_longitude as longitude, count(distinct song_id) as songs
  from records where artist_latitude is not null and artist_longitude is not null group by all
), best_name as (
  select distinct on (artist_id) artist_id, name from names order by artist_id, songs desc, length(name), name
), best_location as (
  select distinct on (artist_id) artist_id, location
  from locations order by artist_id, songs desc, length(location), location
), best_place as (
  select distinct on (artist_id) artist_id, latitude, longitude
  from places order by artist_id, songs desc, latitude, longitude
)
select artist_id, name, location, latitude, longitude
from best_name left join best_location using (artist_id) left join best_place using (artist_id)
order by artist_id
"""

SONGS = """
select distinct on (song_id) song_id, title, duration, year, artist_id
from records
order by song_id, year desc, duration desc nulls last, title desc, artist_id desc
"""

USERS = """
select user_id, latest.first_name, latest.last_name, latest.gender, latest.level
from (
  select user_id, arg_max(
    struct_pack(first_name := first_name, last_name := last_name, gender := gender, level := level),
    row(ts, item_in_session, session_id)
  ) as latest
  from events where user_id is not null group by user_id
)
order by user_id
"""

TIME = """
select start_time, hour(start_time)::int as hour, day(start_time)::int as day, week(start_time)::int as week,
  isodow(start_time)::int as weekday, year(start_time)::int as year, month(start_time)::int as month
from (select distinct epoch_ms(ts)::timestamptz as start_time from events where page = 'NextSong')
order by start_time
"""

SONGPLAYS = """
with plays as (
  select distinct on (user_id, session_id, item_in_session, ts) * from events where page = 'NextSong'
), candidates as (
  select title as song, artist_name as artist,
    list(distinct struct_pack(duration := duration, song_id := song_id, artist_id := artist_id)) as songs
  from records group by all
), names as (
  select distinct on (artist) artist, artist_id
  from (select artist_name as artist, artist_id, count(distinct song_id) as songs from records group by all)
  order by artist, songs desc, artist_id
), matched as (
  select plays.*, list_sort(list_transform(songs, lambda s: struct_pack(
    gap := coalesce(abs(s.duration - length), 'infinity'::double), song_id := s.song_id, artist_id := s.artist_id
  )))[1] as match
  from plays left join candidates using (song, artist)
)
select
  md5(concat(user_id, '/', session_id, '/', item_in_session, '/', ts)) as songplay_id,
  epoch_ms(ts)::timestamptz as start_time, user_id, level, match.song_id as song_id,
  coalesce(match.artist_id, names.artist_id) as artist_id, session_id, location, user_agent,
  year(epoch_ms(ts))::int as year, month(epoch_ms(ts))::int as month
from matched left join names using (artist)
order by start_time, songplay_id
"""

TABLES = {
    "artists": (ARTISTS, ""),
    "songs": (SONGS, "year, artist_id"),
    "users": (USERS, ""),
    "time": (TIME, "year, month"),
    "songplays": (SONGPLAYS, "year, month"),
}


def read(db: duckdb.DuckDBPyConnection, song_data: str, log_data: str) -> None:
    """Read both inputs into the tables records and events, and repair their text."""
    sources = {
        "songs": song_data + "/**/*.json",
        "song_columns": SONG_COLUMNS,
        "logs": log_data + "/**/*.json",
        "event_columns": EVENT_COLUMNS,
    }
    for statement in READ.strip().split(";\n"):
        named = {name: value for name, value in sources.items() if "$" + name in statement}
        db.execute(statement, named)
    for table, columns in TEXTS.items():
        for column in columns:
            repair(db, table, column)


def repair(db: duckdb.DuckDBPyConnection, table: str, column: str) -> None:
    """Undo double encoding in a column."""
    found = [value for (value,) in db.execute(SUSPECTS.format(table=table, column=column)).fetchall()]
    broken = [text for text in found if repaired(text) != text]
    if broken:
        pairs = {"value": broken, "repaired": [repaired(text) for text in broken]}
        repairs = "select unnest($value::varchar[]) as value, unnest($repaired::varchar[]) as repaired"
        update = "update {0} set {1} = clean(repaired) from ({2}) as repairs where value = {1}"
        db.execute(update.format(table, column, repairs), pairs)


def write(db: duckdb.DuckDBPyConnection, output: Path) -> None:
    """Write the five tables into a new folder, partitioned as etl.py's."""
    for name, (query, partitions) in TABLES.items():
        folder = output / name
        folder.mkdir(parents=True)
        target, options = (folder, ", partition_by (%s)" % partitions) if partitions else (folder / "data.parquet", "")
        db.execute("copy (%s) to '%s' (format parquet, compression snappy%s)" % (query, target, options))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("--song-data", "--log-data", "--output"):
        parser.add_argument(name, required=True, metavar="FOLDER")
    options = parser.parse_args()
    with duckdb.connect() as db:
        db.execute(SETUP.format(threads=THREADS))
        read(db, options.song_data, options.log_data)
        write(db, Path(options.output))


if __name__ == "__main__":
    main()
