"""Every statement that the warehouse runs, in Redshift's SQL.

Two staging tables take what the job has staged; the star schema is made of them by the rules of the lake (DESIGN,
docs/data-dictionary.md). What PostgreSQL has too is preferred, so that a test can run it all on a real server.
"""

from __future__ import annotations

from typing import List, Mapping, NamedTuple, Sequence

import etl


class Statement(NamedTuple):
    """A statement and what it does, for progress and errors."""

    what: str
    sql: str


# ------------------------------------------------------------------------------------ tables

# The columns of the job's staging in the order of its Parquet files, since COPY goes by that order, not by names.
STAGING_TABLES = {
    "song_data": """
CREATE TABLE staging_songs (
    song_id VARCHAR(65535),
    title VARCHAR(65535),
    duration DOUBLE PRECISION,
    year BIGINT,
    artist_id VARCHAR(65535),
    artist_name VARCHAR(65535),
    artist_location VARCHAR(65535),
    artist_latitude DOUBLE PRECISION,
    artist_longitude DOUBLE PRECISION,
    reason VARCHAR(65535),
    "raw" VARCHAR(65535),
    raw_base64 VARCHAR(65535),
    file VARCHAR(65535)
) DISTSTYLE EVEN
""",
    "log_data": """
CREATE TABLE staging_events (
    artist VARCHAR(65535),
    first_name VARCHAR(65535),
    gender VARCHAR(65535),
    item_in_session BIGINT,
    last_name VARCHAR(65535),
    length DOUBLE PRECISION,
    level VARCHAR(65535),
    location VARCHAR(65535),
    page VARCHAR(65535),
    session_id BIGINT,
    song VARCHAR(65535),
    ts BIGINT,
    user_agent VARCHAR(65535),
    user_id BIGINT,
    reason VARCHAR(65535),
    "raw" VARCHAR(65535),
    raw_base64 VARCHAR(65535),
    file VARCHAR(65535)
) DISTSTYLE EVEN
""",
}
STAGING_NAMES = {"song_data": "staging_songs", "log_data": "staging_events"}

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
DROP_TABLES = ["DROP TABLE IF EXISTS " + name for name in (*reversed(list(CREATE_TABLES)), *STAGING_NAMES.values())]

# ------------------------------------------------------------------------------------ loading what the job has staged


def renew_staging(kind: str) -> List[Statement]:
    """Begin with an empty staging table. Dropping leaves nothing to vacuum, and TRUNCATE would end the transaction."""
    name = STAGING_NAMES[kind]
    drop = Statement("drop " + name, "DROP TABLE IF EXISTS " + name)
    return [drop, Statement("create " + name, STAGING_TABLES[kind])]


def copy(kind: str, manifest: str, role: str) -> Statement:
    """Load the files of a manifest into a staging table. For Parquet, COPY needs each file's length in it."""
    sql = "COPY %s FROM %s IAM_ROLE %s FORMAT AS PARQUET MANIFEST"
    return Statement("copy into " + STAGING_NAMES[kind], sql % (STAGING_NAMES[kind], literal(manifest), literal(role)))


def drop_records(kind: str, files: Sequence[str]) -> Statement:
    """Remove what has been loaded of files that have changed since, or gone."""
    name = STAGING_NAMES[kind]
    sql = "DELETE FROM %s WHERE file IN (%s)" % (name, ", ".join(map(literal, files)))
    return Statement("remove what has changed from " + name, sql)


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


# ------------------------------------------------------------------------------------ preparing


PLAYS = """
CREATE TEMPORARY TABLE plays AS
SELECT user_id, session_id, item_in_session, ts, level, song, artist, length, location,
    BTRIM(user_agent, '"') AS user_agent
FROM staging_events
WHERE reason IS NULL AND page = 'NextSong'
"""

# Texts that are to be trimmed or compared, each once. ASCII needs no more than trimming. Others are taken apart into
# code points, since Redshift has no function that decodes UTF-8 and its BTRIM is described for single bytes. Those of
# more than 10,000 characters are not: LISTAGG could not put them together again.
TEXTS = """
CREATE TEMPORARY TABLE texts AS
SELECT written, OCTET_LENGTH(written) > LEN(written) AND LEN(written) <= 10000 AS apart
FROM (
    SELECT song AS written FROM plays
    UNION SELECT artist FROM plays
    UNION SELECT user_agent FROM plays
    UNION SELECT title FROM staging_songs WHERE reason IS NULL
    UNION SELECT artist_name FROM staging_songs WHERE reason IS NULL
) AS every
WHERE written IS NOT NULL
"""

CHARACTERS = """
CREATE TEMPORARY TABLE characters AS
WITH digits AS (
    SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
    UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9
), positions AS (
    SELECT 1000 * thousands.d + 100 * hundreds.d + 10 * tens.d + ones.d + 1 AS place
    FROM digits AS thousands CROSS JOIN digits AS hundreds CROSS JOIN digits AS tens CROSS JOIN digits AS ones
    WHERE 1000 * thousands.d + 100 * hundreds.d + 10 * tens.d + ones.d
        < (SELECT MAX(LEN(written)) FROM texts WHERE apart)
)
SELECT texts.written, positions.place, ASCII(SUBSTRING(texts.written, positions.place, 1)) AS code
FROM texts
JOIN positions ON positions.place <= LEN(texts.written)
WHERE texts.apart
"""

# UTF-8 that was taken for Latin-1 and encoded again: text that is valid UTF-8 when its characters are taken as bytes
# (RFC 3629, section 4). Each sequence claims as many characters as it is long and those within claim none, so that in
# such a text the claims add up to its length. In: characters as written, place, code. Out: the same, decoded.
DECODED = """
CREATE TEMPORARY TABLE {target} AS
WITH neighbours AS (
    SELECT written, place, code,
        LEAD(code, 1) OVER (PARTITION BY written ORDER BY place) AS code_2,
        LEAD(code, 2) OVER (PARTITION BY written ORDER BY place) AS code_3,
        LEAD(code, 3) OVER (PARTITION BY written ORDER BY place) AS code_4
    FROM {source}
), sequences AS (
    SELECT written, place, code, code_2, code_3, code_4,
        CASE
            WHEN code < 128 THEN 1
            WHEN code BETWEEN 128 AND 191 THEN 0
            WHEN code BETWEEN 194 AND 223 AND code_2 BETWEEN 128 AND 191 THEN 2
            WHEN code BETWEEN 224 AND 239
                AND code_2 BETWEEN CASE code WHEN 224 THEN 160 ELSE 128 END AND CASE code WHEN 237 THEN 159 ELSE 191 END
                AND code_3 BETWEEN 128 AND 191 THEN 3
            WHEN code BETWEEN 240 AND 244
                AND code_2 BETWEEN CASE code WHEN 240 THEN 144 ELSE 128 END AND CASE code WHEN 244 THEN 143 ELSE 191 END
                AND code_3 BETWEEN 128 AND 191 AND code_4 BETWEEN 128 AND 191 THEN 4
        END AS claimed
    FROM neighbours
), mistaken AS (
    SELECT written
    FROM sequences
    GROUP BY written
    HAVING COUNT(claimed) = COUNT(*) AND SUM(claimed) = COUNT(*) AND MAX(code) > 127
)
SELECT sequences.written, sequences.place,
    CASE
        WHEN mistaken.written IS NULL OR claimed = 1 THEN code
        WHEN claimed = 2 THEN (code - 192) * 64 + code_2 - 128
        WHEN claimed = 3 THEN (code - 224) * 4096 + (code_2 - 128) * 64 + code_3 - 128
        ELSE (code - 240) * 262144 + (code_2 - 128) * 4096 + (code_3 - 128) * 64 + code_4 - 128
    END AS code
FROM sequences
LEFT JOIN mistaken ON mistaken.written = sequences.written
WHERE mistaken.written IS NULL OR claimed > 0
"""

# Each text without white space around it, and what it is compared by: of text beyond ASCII its code points after a
# mark that no ASCII text has, since Redshift's CHR makes no other characters than ASCII's.
PREPARED = """
CREATE TEMPORARY TABLE prepared AS
WITH ends AS (
    SELECT written, MIN(place) AS first_place, MAX(place) AS last_place
    FROM characters
    WHERE code NOT IN ({white})
    GROUP BY written
), decoded_ends AS (
    SELECT written, MIN(place) AS first_place, MAX(place) AS last_place
    FROM decoded_twice
    WHERE code NOT IN ({white})
    GROUP BY written
), decoded AS (
    SELECT decoded_twice.written, MAX(decoded_twice.code) AS greatest,
        LISTAGG(CAST(decoded_twice.code AS VARCHAR(7)), ' ') WITHIN GROUP (ORDER BY decoded_twice.place) AS codes,
        LISTAGG(CASE WHEN decoded_twice.code BETWEEN 1 AND 127 THEN CHR(decoded_twice.code) END, '')
            WITHIN GROUP (ORDER BY decoded_twice.place) AS letters
    FROM decoded_twice
    JOIN decoded_ends ON decoded_ends.written = decoded_twice.written
    WHERE decoded_twice.place BETWEEN decoded_ends.first_place AND decoded_ends.last_place
    GROUP BY decoded_twice.written
), trimmed_texts AS (
    SELECT written, NULLIF(BTRIM(written, ' ' || CHR(9) || CHR(10) || CHR(11) || CHR(12) || CHR(13)), '') AS trimmed
    FROM texts
    WHERE NOT apart
)
SELECT written, trimmed, trimmed AS compared
FROM trimmed_texts
UNION ALL
SELECT texts.written, SUBSTRING(texts.written, ends.first_place, ends.last_place - ends.first_place + 1),
    CASE WHEN decoded.greatest > 127 THEN '§' || decoded.codes ELSE decoded.letters END
FROM texts
LEFT JOIN ends ON ends.written = texts.written
LEFT JOIN decoded ON decoded.written = texts.written
WHERE texts.apart
"""

CANDIDATES = """
CREATE TEMPORARY TABLE candidates AS
SELECT DISTINCT titles.compared AS title, names.compared AS artist, records.song_id, records.artist_id, records.duration
FROM staging_songs AS records
JOIN prepared AS titles ON titles.written = records.title
JOIN prepared AS names ON names.written = records.artist_name
WHERE records.reason IS NULL
"""

WHITE = ", ".join(str(ord(character)) for character in etl.WHITE)
PREPARE = {
    "plays": PLAYS,
    "texts": TEXTS,
    "characters": CHARACTERS,
    "decoded_once": DECODED.format(source="characters", target="decoded_once"),
    "decoded_twice": DECODED.format(source="decoded_once", target="decoded_twice"),
    "prepared": PREPARED.format(white=WHITE),
    "candidates": CANDIDATES,
}

# ------------------------------------------------------------------------------------ the star schema

EMPTY_TABLES = [Statement("empty " + name, "DELETE FROM " + name) for name in reversed(list(CREATE_TABLES))]

ARTISTS = """
INSERT INTO artists (artist_id, name, location, latitude, longitude)
WITH records AS (
    SELECT staging_songs.song_id, staging_songs.artist_id, prepared.trimmed AS name,
        staging_songs.artist_location AS location, staging_songs.artist_latitude AS latitude,
        staging_songs.artist_longitude AS longitude
    FROM staging_songs
    JOIN prepared ON prepared.written = staging_songs.artist_name
    WHERE staging_songs.reason IS NULL
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
    SELECT records.song_id, prepared.trimmed AS title, records.artist_id, COALESCE(records.year, 0) AS year,
        records.duration,
        ROW_NUMBER() OVER (
            PARTITION BY records.song_id
            ORDER BY COALESCE(records.year, 0) DESC, records.duration DESC NULLS LAST, prepared.trimmed DESC,
                records.artist_id DESC
        ) AS place
    FROM staging_songs AS records
    JOIN prepared ON prepared.written = records.title
    WHERE records.reason IS NULL
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
    WHERE reason IS NULL AND user_id IS NOT NULL
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
    FROM plays
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
    SELECT plays.user_id, plays.session_id, plays.item_in_session, plays.ts, plays.level, plays.song, plays.artist,
        plays.length, plays.location, agents.trimmed AS user_agent,
        ROW_NUMBER() OVER (
            PARTITION BY plays.user_id, plays.session_id, plays.item_in_session, plays.ts
            ORDER BY plays.level DESC NULLS LAST, plays.song DESC NULLS LAST, plays.artist DESC NULLS LAST,
                plays.length DESC NULLS LAST, plays.location DESC NULLS LAST, agents.trimmed DESC NULLS LAST
        ) AS copy_number
    FROM plays
    LEFT JOIN prepared AS agents ON agents.written = plays.user_agent
), unique_plays AS (
    SELECT copies.*, titles.compared AS title_compared, names.compared AS artist_compared,
        MD5(
            COALESCE(CAST(copies.user_id AS VARCHAR(20)), '') || '/' || CAST(copies.session_id AS VARCHAR(20))
            || '/' || CAST(copies.item_in_session AS VARCHAR(20)) || '/' || CAST(copies.ts AS VARCHAR(20))
        ) AS songplay_id,
        {START_TIME} AS start_time
    FROM copies
    LEFT JOIN prepared AS titles ON titles.written = copies.song
    LEFT JOIN prepared AS names ON names.written = copies.artist
    WHERE copies.copy_number = 1
), matched AS (
    SELECT unique_plays.*, candidates.song_id, candidates.artist_id,
        ROW_NUMBER() OVER (
            PARTITION BY unique_plays.songplay_id
            ORDER BY ABS(candidates.duration - unique_plays.length) NULLS LAST, candidates.song_id,
                candidates.artist_id
        ) AS place
    FROM unique_plays
    LEFT JOIN candidates
        ON candidates.title = unique_plays.title_compared AND candidates.artist = unique_plays.artist_compared
)
SELECT songplay_id, start_time, user_id, level, song_id, artist_id, session_id, location, user_agent,
    EXTRACT(year FROM start_time), EXTRACT(month FROM start_time)
FROM matched
WHERE place = 1
"""

INSERT_TABLES = {"artists": ARTISTS, "songs": SONGS, "users": USERS, "time": TIME, "songplays": SONGPLAYS}


def prepare(records: Mapping[str, int]) -> List[Statement]:
    """Make sure that staging holds what the job has counted, and make the temporary tables."""
    checks = [check_rows(STAGING_NAMES[kind] + " WHERE reason IS NULL", count) for kind, count in records.items()]
    return checks + [Statement("prepare " + name, sql) for name, sql in PREPARE.items()]


def fill_tables(records: Mapping[str, int], rows: Mapping[str, int]) -> List[Statement]:
    """The star schema anew from staging: statements for one transaction.

    In: the good records by input and the rows by table, both as the job has counted them.
    """
    inserts = [Statement("insert into " + name, sql) for name, sql in INSERT_TABLES.items()]
    # Not before they are made: such a table could be somebody else's
    tidy = Statement("drop what was temporary", "DROP TABLE " + ", ".join(PREPARE))
    return [*prepare(records), *EMPTY_TABLES, *inserts, *check_tables(rows), tidy]


def check_tables(rows: Mapping[str, int]) -> List[Statement]:
    """Make sure that each table has as many rows as the lake's, and as many plays a song."""
    return [check_rows(where, count) for where, count in rows.items()]


# ------------------------------------------------------------------------------------ straight from the catalog

LAKE_SCHEMA = "lake"


def create_lake_schema(database: str, role: str) -> Statement:
    """Let Redshift see the tables of the Glue Data Catalog as they are (Spectrum)."""
    sql = "CREATE EXTERNAL SCHEMA IF NOT EXISTS %s FROM DATA CATALOG DATABASE %s IAM_ROLE %s"
    return Statement("create schema lake", sql % (LAKE_SCHEMA, literal(database), literal(role)))


def columns(table: str) -> List[str]:
    """The columns of a table of the warehouse in order: those of the lake.

    >>> columns("users")
    ['user_id', 'first_name', 'last_name', 'gender', 'level']
    """
    return [name for name, _ in etl.columns_of(table)]


def copy_from_lake(table: str) -> Statement:
    """Fill a table from the lake's table in the catalog."""
    names = ", ".join(columns(table))
    sql = "INSERT INTO %s (%s) SELECT %s FROM %s.%s" % (table, names, names, LAKE_SCHEMA, table)
    return Statement("insert into " + table, sql)


def fill_tables_from_lake(rows: Mapping[str, int]) -> List[Statement]:
    """The star schema anew from the catalog's tables: statements for one transaction."""
    return [*EMPTY_TABLES, *map(copy_from_lake, CREATE_TABLES), *check_tables(rows)]
