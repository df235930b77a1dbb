"""Measure the dashboard on a large lake: python benchmarks/dashboard.py FOLDER [--plays 20000000].

Writes the lake's tables with DuckDB, not with the job, where the folder does not have them yet, in the job's layout:
sessions of 20 plays over the year 2018, of which 40 % have a known song. Then reads it as the dashboard does and prints
how long each page's questions take, each with filters that nobody has chosen before. Needs analytics/requirements.txt.
"""

from __future__ import annotations

import argparse
import datetime as dt
import resource
import sys
import time
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

import duckdb

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from analytics.lake import open_lake  # noqa: E402
from analytics.prepared import Prepared  # noqa: E402

PLAYS_EACH = 20  # in a session
USERS, SONGS, ARTISTS, OTHERS, OTHER_ARTISTS = 200_000, 15_000, 5_000, 300_000, 30_000

# Plays as the logs have them. Of 40 % the song is in the catalogue; the names of the others are skewed alike.
PLAYS = """
    with sessions as (
      select
        i as session_id, (hash(i) %% %(users)d)::bigint as user_id,
        timestamptz '2018-01-01 00:00:00+00' + to_seconds((hash(i * 7) %% (365 * 86400))::bigint) as begin
      from range(%(sessions)d) as r(i)
    ),
    drawn as (
      select
        *, md5(session_id || '/' || k) as songplay_id, hash(session_id, k) %% 10 < 4 as known,
        hash(k, session_id, 1) %% (1 + hash(k, session_id, 2) %% if(known, %(songs)d, %(others)d)) as song_number
      from sessions, range(%(each)d) as r(k)
    )
    select
      songplay_id, begin + to_milliseconds((k * 230000 + hash(k, session_id) %% 1000)::bigint) as start_time, user_id,
      case when hash(user_id, date_trunc('month', begin)) %% 4 = 0 then 'paid' else 'free' end as level,
      case when known then 'SO' || lpad(song_number::varchar, 16, '0') end as song_id,
      case when known then 'AR' || (song_number %% %(artists)d) end as artist_id, session_id,
      'City ' || (user_id %% 300) || ', ' || ['CA', 'NY-NJ-PA', 'TX', 'WA', 'MN-WI'][1 + user_id %% 5] as location,
      'Mozilla/5.0 agent ' || (user_id %% 80) as user_agent, k as item_in_session,
      if(known, 'Song ', 'Other song ') || song_number as song,
      if(known, 'Artist ' || song_number %% %(artists)d, 'Other artist ' || song_number %% %(other_artists)d) as artist,
      year(start_time)::int as year, month(start_time)::int as month
    from drawn"""
TABLES = {
    "songplays": "select * exclude (item_in_session, song, artist) from (" + PLAYS + ")",
    # With an event that is no play for every five that are
    "staging_events": """
        with events as (
          select *, 'NextSong' as page from ("""
    + PLAYS
    + """)
          union all by name
          select * replace (null as songplay_id, null as song, null as artist), 'Home' as page from ("""
    + PLAYS
    + """)
          where item_in_session %% 5 = 0
        )
        select
          songplay_id, artist, 'First' || user_id as first_name, 'F' as gender, item_in_session,
          'Last' || user_id as last_name, 200.0::double as length, level, location, page, session_id, song,
          epoch_ms(start_time) as ts, user_agent, user_id, 's3://logs/' || start_time::date || '.json' as file, year,
          month
        from events""",
    "songs": """
        select 'SO' || lpad(i::varchar, 16, '0') as song_id, 'Song ' || i as title, 200.0::double as duration,
          'AR' || (i %% %(artists)d) as artist_id, 2000 + i %% 20 as year
        from range(%(songs)d) as r(i)""",
    "artists": """
        select 'AR' || i as artist_id, 'Artist ' || i as name, null::varchar as location, null::double as latitude,
          null::double as longitude
        from range(%(artists)d) as r(i)""",
    "users": """
        select i as user_id, 'First' || i as first_name, 'Last' || i as last_name, 'F' as gender, 'free' as level
        from range(%(users)d) as r(i)""",
}
PARTITIONS = {
    **dict.fromkeys(("songplays", "staging_events"), ", partition_by (year, month)"),
    "songs": ", partition_by (year, artist_id)",
}

PAGES: Dict[str, Dict[str, Mapping[str, Any]]] = {
    "Overview": {"summary": {}, "active-users-by-day": {}, "listening-by-month": {}},
    "Listening": {"plays-by-hour": {}, "plays-by-weekday": {}, "top-artists": {}, "top-songs": {}},
    "Users": dict.fromkeys(
        ("free-and-paid", "active-users-by-week", "level-changes", "sessions", "session-lengths", "retention"), {}
    ),
    "Places and devices": dict.fromkeys(("plays-by-state", "browsers", "operating-systems"), {}),
    "Drill to the plays of a song": {"top-songs": {"artist": "Artist 42"}, "plays-of-song": {"song": "Song 42"}},
    "Find a user": {"songs-of-user": {"user": "4711"}},
    "Data quality": {"match-rate": {}, "missing-artists": {}, "missing-songs": {}},
}
FILTERS: Dict[str, Mapping[str, Any]] = {
    "all": {},
    "paid": {"level": "paid"},
    "NY": {"state": "NY"},
    "28 days": {"since": dt.date(2018, 11, 1), "until": dt.date(2018, 11, 28)},
}


def write(folder: Path, plays: int) -> None:
    """The tables that are not there yet."""
    numbers = {"sessions": plays // PLAYS_EACH, "each": PLAYS_EACH, "users": USERS, "songs": SONGS, "artists": ARTISTS}
    numbers.update(others=OTHERS, other_artists=OTHER_ARTISTS)
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for table, query in TABLES.items():
        if not (folder / table).exists():
            target = folder / table
            target.mkdir(parents=True)
            place = target if table in PARTITIONS else target / "part-0.parquet"
            options = "format parquet" + PARTITIONS.get(table, "")
            connection.execute("copy (%s) to '%s' (%s)" % (query % numbers, place, options))


def measure(folder: Path) -> None:
    """Print the seconds."""
    begin = time.perf_counter(), time.process_time()
    lake = Prepared(open_lake(str(folder), {}))
    print("the first page has what it needs after %s seconds" % since(begin), flush=True)
    for made in lake.made.values():
        made.result()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print("all is read after %s seconds; %.1f GB of memory at most" % (since(begin), memory))
    print("%-30s%s" % ("seconds (of processors)", "".join("%16s" % name for name in FILTERS)))
    for page, asked in PAGES.items():
        print(
            "%-30s%s" % (page, "".join("%16s" % seconds(lake, asked, given) for given in FILTERS.values())), flush=True
        )


def seconds(lake: Prepared, asked: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> str:
    begin = time.perf_counter(), time.process_time()
    for name, more in asked.items():
        lake.ask(name, {**given, **more})
    return since(begin)


def since(begin: Tuple[float, float]) -> str:
    """Seconds that have passed, and those that all processors together have worked for this process: on a machine with
    other work the former tell little, and the latter divided by the processors tell what to expect without it.
    """
    return "%.2f (%.2f)" % (time.perf_counter() - begin[0], time.process_time() - begin[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the dashboard on a large lake.")
    parser.add_argument("folder", type=Path, help="where the lake is, or is to be written")
    parser.add_argument("--plays", type=int, default=20_000_000, help="default: %(default)s")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.plays)
    measure(arguments.folder)


if __name__ == "__main__":
    main()
