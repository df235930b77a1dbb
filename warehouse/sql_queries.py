"""Every statement that the warehouse runs, in Redshift's SQL.

Two staging tables take the lake's own, or the raw JSON; the star schema is made of them by the rules of the lake
(docs/data-dictionary.md). What PostgreSQL has too is preferred, so that a test can run it all on a real server.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, NamedTuple, Sequence

import etl


class Statement(NamedTuple):
    """A statement and what it does, for progress and errors."""

    what: str
    sql: str


# ------------------------------------------------------------------------------------ tables

# The columns of the lake's files in their order, since COPY goes by that order, not by names. Partition columns are in
# paths alone, which COPY does not read.
STAGING_TABLES = {
    "staging_songs": """
CREATE TABLE staging_songs (
    song_id VARCHAR(240),
    title VARCHAR(65535),
    duration DOUBLE PRECISION,
    year INTEGER,
    artist_id VARCHAR(240),
    artist_name VARCHAR(65535),
    artist_location VARCHAR(65535),
    artist_latitude DOUBLE PRECISION,
    artist_longitude DOUBLE PRECISION,
    file VARCHAR(65535)
) DISTSTYLE EVEN
""",
    "staging_events": """
CREATE TABLE staging_events (
    songplay_id VARCHAR(32),
    artist VARCHAR(65535),
    first_name VARCHAR(65535),
    gender VARCHAR(1),
    item_in_session BIGINT,
    last_name VARCHAR(65535),
    length DOUBLE PRECISION,
    level VARCHAR(4),
    location VARCHAR(65535),
    page VARCHAR(65535),
    session_id BIGINT,
    song VARCHAR(65535),
    ts BIGINT,
    user_agent VARCHAR(65535),
    user_id BIGINT,
    file VARCHAR(65535)
) DISTSTYLE EVEN
""",
}

# Dimensions before facts. Redshift does not enforce keys, its planner relies on them: the job has checked them all.
# Ids have at most 60 characters of at most 4 bytes; other text has no limit in the lake but Redshift's.
CREATE_TABLES = {
    "artists": """
CREATE TABLE IF NOT EXISTS artists (
    artist_id VARCHAR(240) NOT NULL PRIMARY KEY,
    name VARCHAR(65535) NOT NULL,
    location VARCHAR(65535),
    latitude DOUBLE PRECISION,
    longitude DOUBLE PRECISION
) DISTSTYLE ALL SORTKEY (artist_id)
""",
    "songs": """
CREATE TABLE IF NOT EXISTS songs (
    song_id VARCHAR(240) NOT NULL PRIMARY KEY,
    title VARCHAR(65535) NOT NULL,
    artist_id VARCHAR(240) NOT NULL REFERENCES artists (artist_id),
    year INTEGER NOT NULL,
    duration DOUBLE PRECISION
) DISTKEY (song_id) SORTKEY (song_id)
""",
    "users": """
CREATE TABLE IF NOT EXISTS users (
    user_id BIGINT NOT NULL PRIMARY KEY,
    first_name VARCHAR(65535),
    last_name VARCHAR(65535),
    gender VARCHAR(1),
    level VARCHAR(4)
) DISTSTYLE ALL SORTKEY (user_id)
""",
    "time": """
CREATE TABLE IF NOT EXISTS time (
    start_time TIMESTAMP NOT NULL PRIMARY KEY,
    hour INTEGER NOT NULL,
    day INTEGER NOT NULL,
    week INTEGER NOT NULL,
    weekday INTEGER NOT NULL,
    year INTEGER NOT NULL,
    month INTEGER NOT NULL
) DISTSTYLE ALL SORTKEY (start_time)
""",
    "songplays": """
CREATE TABLE IF NOT EXISTS songplays (
    songplay_id VARCHAR(32) NOT NULL PRIMARY KEY,
    start_time TIMESTAMP NOT NULL REFERENCES time (start_time),
    user_id BIGINT REFERENCES users (user_id),
    level VARCHAR(4),
    song_id VARCHAR(240) REFERENCES songs (song_id),
    artist_id VARCHAR(240) REFERENCES artists (artist_id),
    session_id BIGINT NOT NULL,
    location VARCHAR(65535),
    user_agent VARCHAR(65535),
    year INTEGER NOT NULL,
    month INTEGER NOT NULL
) DISTKEY (song_id) SORTKEY (start_time)
""",
}
DROP_TABLES = ["DROP TABLE IF EXISTS " + name for name in (*reversed(list(CREATE_TABLES)), *STAGING_TABLES)]

# ------------------------------------------------------------------------------------ loading the staging tables


def renew_staging(name: str) -> List[Statement]:
    """Begin with an empty staging table. Dropping leaves nothing to vacuum, and TRUNCATE would end the transaction."""
    drop = Statement("drop " + name, "DROP TABLE IF EXISTS " + name)
    return [drop, Statement("create " + name, STAGING_TABLES[name])]


def copy(name: str, manifest: str, role: str) -> Statement:
    """Load the files of a manifest into a staging table. For Parquet, COPY needs each file's length in it."""
    sql = "COPY %s FROM %s IAM_ROLE %s FORMAT AS PARQUET MANIFEST"
    return Statement("copy into " + name, sql % (name, literal(manifest), literal(role)))


def raw_fields(name: str) -> Sequence[etl.Field]:
    """The keys of the raw JSON that a staging table has columns for."""
    fields = next(one.fields for one in etl.INPUTS.values() if one.table == name)
    return [field for field in fields if field.column]


def jsonpaths(name: str) -> Dict[str, List[str]]:
    """The JSONPaths file of a staging table, since COPY finds a column by itself only where the key has its name.

    >>> jsonpaths("staging_events")["jsonpaths"][:2]
    ["$['artist']", "$['firstName']"]
    """
    return {"jsonpaths": ["$['%s']" % field.key for field in raw_fields(name)]}


def copy_raw(name: str, folder: str, paths: str, role: str) -> Statement:
    """Load the raw JSON of a folder into a staging table by a JSONPaths file. Its column `file` stays null."""
    names = ", ".join(field.column for field in raw_fields(name))
    sql = "COPY %s (%s) FROM %s IAM_ROLE %s FORMAT AS JSON %s BLANKSASNULL EMPTYASNULL"
    places = literal(folder + "/"), literal(role), literal(paths)
    return Statement("copy %s into %s" % (folder, name), sql % (name, names, *places))


PLAY_KEY = " || '/' || ".join("COALESCE(CAST(%s AS VARCHAR), '')" % name for name in etl.PLAY_KEY)
# What raw events lack: the key of plays, and a user agent without quotes around it
FINISH_RAW_EVENTS = Statement(
    "finish staging_events",
    f"""
UPDATE staging_events
SET user_agent = BTRIM(user_agent, '"'), songplay_id = CASE WHEN page = '{etl.PLAY_PAGE}' THEN MD5({PLAY_KEY}) END
""",
)


def check_rows(rows: str, expected: int) -> Statement:
    """Fail, and so undo the transaction, unless the job has counted as many rows. In: what follows FROM."""
    sql = "SELECT 1 / CASE WHEN (SELECT COUNT(*) FROM %s) = %d THEN 1 ELSE 0 END AS as_counted" % (rows, expected)
    return Statement("check that the rows of %s are the %d that the job has counted" % (rows, expected), sql)


def literal(text: str) -> str:
    """Text as SQL has it; Redshift takes a backslash for an escape.

    >>> print(literal("it's"))
    'it''s'
    """
    return "'%s'" % text.replace("\\", "\\\\").replace("'", "''")


# ------------------------------------------------------------------------------------ the star schema

EMPTY_TABLES = [Statement("empty " + name, "DELETE FROM " + name) for name in reversed(list(CREATE_TABLES))]

ARTISTS = """
INSERT INTO artists (artist_id, name, location, latitude, longitude)
WITH records AS (
    SELECT song_id, artist_id, artist_name AS name, artist_location AS location, artist_latitude AS latitude,
        artist_longitude AS longitude
    FROM staging_songs
), counted_names AS (
    SELECT artist_id, name, COUNT(DISTINCT song_id) AS songs
    FROM records
    GROUP BY artist_id, name
), names AS (
    SELECT artist_id, name,
        ROW_NUMBER() OVER (PARTITION BY artist_id ORDER BY songs DESC, LEN(name), name) AS place
    FROM counted_names
), counted_locations AS (
    SELECT artist_id, location, COUNT(DISTINCT song_id) AS songs
    FROM records
    WHERE location IS NOT NULL
    GROUP BY artist_id, location
), locations AS (
    SELECT artist_id, location,
        ROW_NUMBER() OVER (PARTITION BY artist_id ORDER BY songs DESC, LEN(location), location) AS place
    FROM counted_locations
), counted_pairs AS (
    SELECT artist_id, latitude, longitude, COUNT(DISTINCT song_id) AS songs
    FROM records
    WHERE latitude IS NOT NULL AND longitude IS NOT NULL
    GROUP BY artist_id, latitude, longitude
), pairs AS (
    SELECT artist_id, latitude, longitude,
        ROW_NUMBER() OVER (PARTITION BY artist_id ORDER BY songs DESC, latitude, longitude) AS place
    FROM counted_pairs
)
SELECT names.artist_id, names.name, locations.location, pairs.latitude, pairs.longitude
FROM names
LEFT JOIN locations ON locations.artist_id = names.artist_id AND locations.place = 1
LEFT JOIN pairs ON pairs.artist_id = names.artist_id AND pairs.place = 1
WHERE names.place = 1
"""

SONGS = """
INSERT INTO songs (song_id, title, artist_id, year, duration)
WITH ranked AS (
    SELECT song_id, title, artist_id, COALESCE(year, 0) AS year, duration,
        ROW_NUMBER() OVER (
            PARTITION BY song_id
            ORDER BY COALESCE(year, 0) DESC, duration DESC NULLS LAST, title DESC, artist_id DESC
        ) AS place
    FROM staging_songs
)
SELECT song_id, title, artist_id, year, duration
FROM ranked
WHERE place = 1
"""

USERS = """
INSERT INTO users (user_id, first_name, last_name, gender, level)
WITH ranked AS (
    SELECT user_id, first_name, last_name, gender, level,
        ROW_NUMBER() OVER (
            PARTITION BY user_id
            ORDER BY ts DESC, item_in_session DESC, session_id DESC, level DESC NULLS LAST,
                first_name DESC NULLS LAST, last_name DESC NULLS LAST, gender DESC NULLS LAST
        ) AS place
    FROM staging_events
    WHERE user_id IS NOT NULL
)
SELECT user_id, first_name, last_name, gender, level
FROM ranked
WHERE place = 1
"""

# Epoch milliseconds as a timestamp: seconds and the rest apart, so that no engine has to round
START_TIME = "TIMESTAMP 'epoch' + (ts / 1000) * INTERVAL '1 second' + (ts % 1000) * INTERVAL '1 millisecond'"

TIME = f"""
INSERT INTO time (start_time, hour, day, week, weekday, year, month)
WITH starts AS (
    SELECT DISTINCT {START_TIME} AS start_time
    FROM staging_events
    WHERE songplay_id IS NOT NULL
)
SELECT start_time, EXTRACT(hour FROM start_time), EXTRACT(day FROM start_time), EXTRACT(week FROM start_time),
    (CAST(EXTRACT(dow FROM start_time) AS INTEGER) + 6) % 7 + 1, EXTRACT(year FROM start_time),
    EXTRACT(month FROM start_time)
FROM starts
"""

SONGPLAYS = f"""
INSERT INTO songplays (
    songplay_id, start_time, user_id, level, song_id, artist_id, session_id, location, user_agent, year, month
)
WITH copies AS (
    SELECT songplay_id, user_id, session_id, level, song, artist, length, location, user_agent,
        {START_TIME} AS start_time,
        ROW_NUMBER() OVER (
            PARTITION BY songplay_id
            ORDER BY level DESC NULLS LAST, song DESC NULLS LAST, artist DESC NULLS LAST, length DESC NULLS LAST,
                location DESC NULLS LAST, user_agent DESC NULLS LAST
        ) AS copy_number
    FROM staging_events
    WHERE songplay_id IS NOT NULL
), candidates AS (
    SELECT DISTINCT title, artist_name, song_id, artist_id, duration
    FROM staging_songs
), matched AS (
    SELECT copies.*, candidates.song_id, candidates.artist_id,
        ROW_NUMBER() OVER (
            PARTITION BY copies.songplay_id
            ORDER BY ABS(candidates.duration - copies.length) NULLS LAST, candidates.song_id, candidates.artist_id
        ) AS place
    FROM copies
    LEFT JOIN candidates ON candidates.title = copies.song AND candidates.artist_name = copies.artist
    WHERE copies.copy_number = 1
), counted_names AS (
    SELECT artist_name, artist_id, COUNT(DISTINCT song_id) AS songs
    FROM staging_songs
    GROUP BY artist_name, artist_id
), names AS (
    SELECT artist_name, artist_id,
        ROW_NUMBER() OVER (PARTITION BY artist_name ORDER BY songs DESC, artist_id) AS place
    FROM counted_names
)
SELECT matched.songplay_id, matched.start_time, matched.user_id, matched.level, matched.song_id,
    COALESCE(matched.artist_id, names.artist_id), matched.session_id, matched.location, matched.user_agent,
    EXTRACT(year FROM matched.start_time), EXTRACT(month FROM matched.start_time)
FROM matched
LEFT JOIN names ON names.artist_name = matched.artist AND names.place = 1
WHERE matched.place = 1
"""

INSERT_TABLES = {"artists": ARTISTS, "songs": SONGS, "users": USERS, "time": TIME, "songplays": SONGPLAYS}


def fill_tables(rows: Mapping[str, int]) -> List[Statement]:
    """The star schema anew from staging: statements for one transaction.

    In: the rows of every table as the job has counted them, of staging too; none where it has not seen the input.
    """
    inserts = [Statement("insert into " + name, sql) for name, sql in INSERT_TABLES.items()]
    return [*check_tables(rows, STAGING_TABLES), *EMPTY_TABLES, *inserts, *check_tables(rows, CREATE_TABLES)]


def check_tables(rows: Mapping[str, int], tables: Iterable[str]) -> List[Statement]:
    """Make sure that tables have as many rows as the lake's, and as many plays a song and an artist."""
    return [check_rows(where, count) for where, count in rows.items() if where.partition(" ")[0] in tables]


# ------------------------------------------------------------------------------------ straight from the catalog

LAKE_SCHEMA = "lake"


def create_lake_schema(database: str, role: str) -> Statement:
    """Let Redshift see the tables of the Glue Data Catalog as they are (Spectrum)."""
    sql = "CREATE EXTERNAL SCHEMA IF NOT EXISTS %s FROM DATA CATALOG DATABASE %s IAM_ROLE %s"
    return Statement("create schema lake", sql % (LAKE_SCHEMA, literal(database), literal(role)))


def columns(table: str) -> List[str]:
    """The columns of a table of the warehouse in order: those of the lake, of staging those that its files hold.

    >>> columns("users")
    ['user_id', 'first_name', 'last_name', 'gender', 'level']
    """
    paths = etl.TABLES[table].partitions if table in STAGING_TABLES else ()
    return [name for name, _ in etl.columns_of(table) if name not in paths]


def copy_from_lake(table: str) -> Statement:
    """Fill a table from the lake's table in the catalog."""
    names = ", ".join(columns(table))
    sql = "INSERT INTO %s (%s) SELECT %s FROM %s.%s" % (table, names, names, LAKE_SCHEMA, table)
    return Statement("insert into " + table, sql)


def fill_tables_from_lake(rows: Mapping[str, int]) -> List[Statement]:
    """The star schema anew from the catalog's tables: statements for one transaction."""
    return [*EMPTY_TABLES, *map(copy_from_lake, CREATE_TABLES), *check_tables(rows, CREATE_TABLES)]
