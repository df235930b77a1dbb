"""Compare the lakes that the tests kept: every Spark must have written the same rows.

KEEP_LAKES=DIR makes the tests keep theirs, in DIR/<Spark version>/<input>/. Prints a line for each table of each input;
the exit code is 1 where rows, columns or types differ, an input is missing, or there are fewer Sparks than expected.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Sequence

import duckdb

NAMING_FILES = ("staging_songs", "staging_events", "_quarantine")
TABLES = ("artists", "songs", "users", "time", "songplays", *NAMING_FILES)


class Content(NamedTuple):
    """What a table holds, as text: each column with its type, and the rows in order."""

    columns: List[Any]
    rows: List[Any]


def read(lake: Path, table: str) -> Content:
    """A table of a lake. The names of input files are made relative to the input, wherever that was."""
    if not any((lake / table).rglob("*.parquet")):
        return Content([], [])
    partitions = "hive_partitioning = true, hive_types_autocast = false"
    source = "read_parquet('%s/**/*.parquet', %s)" % (lake / table, partitions)
    columns = duckdb.sql("select column_name, column_type from (describe from %s)" % source).fetchall()
    if ("start_time", "TIMESTAMP WITH TIME ZONE") in columns:
        # The same as what Spark 2.4 writes without a word of UTC, which DuckDB then does not assume.
        source = "(select * replace (start_time at time zone 'UTC' as start_time) from %s)" % source
        columns = [(name, kind.replace(" WITH TIME ZONE", "")) for name, kind in columns]
    query = duckdb.sql("select columns(*)::varchar from %s" % source)
    rows = [dict(zip(query.columns, row)) for row in query.fetchall()]
    if table in NAMING_FILES:
        folders = input_folders(lake)
        for row in rows:
            row["file"] = relative(row["file"], folders)
    return Content(columns, sorted(map(json.dumps, rows)))


def input_folders(lake: Path) -> Mapping[str, str]:
    """The URIs of the inputs' folders, which the report of the run tells."""
    report = json.loads(max((lake / "_runs").iterdir()).read_text("utf-8"))
    places = {name: report[name] for name in ("song_data", "log_data")}
    return {name: "%s%s/" % ("" if "://" in place else "file://", place) for name, place in places.items()}


def relative(file: str, folders: Mapping[str, str]) -> str:
    """The name of an input file without the folder of the input."""
    for name, folder in folders.items():
        if file.startswith(folder):
            return "%s/%s" % (name, file[len(folder) :])
    return file


def difference(contents: Mapping[str, Content]) -> str:
    """How the first lake that is unlike the first one differs; empty where all are alike."""
    (first, expected), *others = contents.items()
    for version, content in others:
        if content.columns != expected.columns:
            return "columns of %s and %s differ: %s, %s" % (first, version, expected.columns, content.columns)
        if content.rows != expected.rows:
            alone = [Counter(a.rows) - Counter(b.rows) for a, b in ((expected, content), (content, expected))]
            shown = ["only in %s: %s" % (name, min(rows)) for name, rows in zip((first, version), alone) if rows]
            counts = [len(rows) for rows in (expected.rows, content.rows, *alone)]
            return "%d and %d rows, %d and %d of them alone" % tuple(counts) + "".join("\n  " + text for text in shown)
    return ""


def compare(folder: Path, versions: Sequence[str]) -> List[str]:
    """Compare all inputs; prints a line for each table. Returns what is wrong."""
    wrong = []
    inputs = sorted({path.name for version in versions for path in (folder / version).iterdir()})
    for name in inputs:
        missing = [version for version in versions if not (folder / version / name).is_dir()]
        if missing:
            wrong.append("%s: no lake of Spark %s" % (name, ", ".join(missing)))
            continue
        for table in TABLES:
            contents = {version: read(folder / version / name, table) for version in versions}
            found = difference(contents)
            rows = len(contents[versions[0]].rows)
            print("%-8s %-12s %7s rows  %s" % (name, table, format(rows, ",d"), found or "the same"))
            if found:
                wrong.append("%s: %s differs" % (name, table))
    return wrong if inputs else ["no lakes in %s" % folder]


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="what KEEP_LAKES was")
    parser.add_argument("--expect", type=int, default=2, metavar="N", help="how many Sparks there must be (default: 2)")
    options = parser.parse_args(argv)
    folder: Path = options.folder
    versions = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    print("Spark %s" % ", ".join(versions or ["nowhere"]))
    wrong = [] if len(versions) >= options.expect else ["%d of %d Sparks" % (len(versions), options.expect)]
    if versions:
        wrong += compare(folder, versions)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
