"""Run SQL on the tables of a lake, with DuckDB: `make query Q="select …"`.

The lake is that of $LAKE, else of $OUTPUT, else the sample's. A lake on this machine needs nothing but DuckDB; one in
S3 is read as the dashboard reads it.
"""

from __future__ import annotations

import os
import sys
from typing import Mapping

import duckdb

TABLES = ("songplays", "users", "songs", "artists", "time", "staging_songs", "staging_events")
DEFAULT = "from songplays limit 10"


class QueryError(Exception):
    """The query cannot be run; the text is a sentence for people."""


def local(lake: str) -> duckdb.DuckDBPyConnection:
    """A connection with the tables of a lake in a folder."""
    if not os.path.isdir(os.path.join(lake, "songplays")):
        raise QueryError("there is no lake in %s: make run builds one in lake" % lake)
    connection = duckdb.connect()
    for table in filter(os.listdir(lake).__contains__, TABLES):
        files = os.path.join(lake, table, "**", "*.parquet").replace("'", "''")
        connection.execute("create view %s as from read_parquet('%s', hive_partitioning = true)" % (table, files))
    return connection


def remote(lake: str, environ: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    """A connection with the tables of a lake in S3."""
    from analytics.lake import LakeError, open_lake

    try:
        return open_lake(lake, environ).connect()
    except LakeError as error:
        raise QueryError(str(error)) from error


def main(environ: Mapping[str, str]) -> int:
    """The command: returns the exit code."""
    lake = environ.get("LAKE") or environ.get("OUTPUT") or "lake"
    try:
        connection = remote(lake, environ) if "://" in lake else local(lake)
        connection.execute("set timezone = 'UTC'")
        connection.sql(environ.get("Q") or DEFAULT).show()
        return 0
    except (QueryError, duckdb.Error) as error:
        print("query: %s" % error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(os.environ))
