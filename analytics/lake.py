"""The lake as analysts read it: its tables in DuckDB, from a folder or from S3, the quarantine and the runs' reports.

DuckDB reads the facts itself, and of these only the months and columns that a question asks for. The other tables, of
which `songs` may be ten thousand files, are read by PyArrow with many requests at once. Both use one file system,
PyArrow's, so that S3 needs no extension of DuckDB.
"""

from __future__ import annotations

import configparser
import datetime as dt
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Tuple, TypeVar

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from analytics import agents, questions

ROOT = Path(__file__).resolve().parents[1]
Result = TypeVar("Result")

# Columns as docs/data-dictionary.md lists them, partition columns last. Times have no zone here: all are UTC, and of
# such times DuckDB takes dates and hours many times faster than of times with a zone.
FACTS: Dict[str, str] = {
    "songplays": "songplay_id varchar, start_time timestamp, user_id bigint, level varchar, song_id varchar,"
    " artist_id varchar, session_id bigint, location varchar, user_agent varchar, year integer, month integer",
    "time": "start_time timestamp, hour integer, day integer, week integer, weekday integer, year integer,"
    " month integer",
    "staging_events": "songplay_id varchar, artist varchar, first_name varchar, gender varchar, item_in_session bigint,"
    " last_name varchar, length double, level varchar, location varchar, page varchar, session_id bigint, song varchar,"
    " ts bigint, user_agent varchar, user_id bigint, file varchar, year integer, month integer",
}
DIMENSIONS: Dict[str, List[Tuple[str, pa.DataType]]] = {
    "songs": [
        ("song_id", pa.string()),
        ("title", pa.string()),
        ("duration", pa.float64()),
        ("year", pa.int32()),
        ("artist_id", pa.string()),
    ],
    "artists": [
        ("artist_id", pa.string()),
        ("name", pa.string()),
        ("location", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
    ],
    "staging_songs": [
        ("song_id", pa.string()),
        ("title", pa.string()),
        ("duration", pa.float64()),
        ("year", pa.int32()),
        ("artist_id", pa.string()),
        ("artist_name", pa.string()),
        ("artist_location", pa.string()),
        ("artist_latitude", pa.float64()),
        ("artist_longitude", pa.float64()),
        ("file", pa.string()),
    ],
    "users": [
        ("user_id", pa.int64()),
        ("first_name", pa.string()),
        ("last_name", pa.string()),
        ("gender", pa.string()),
        ("level", pa.string()),
    ],
}
PARTITIONS = {"songs": ["year", "artist_id"]}
TABLES = (*FACTS, *DIMENSIONS)

ALWAYS = (0, 999912)  # all months

# What a reader meets when a file has gone, or is only half there
VANISHED = (duckdb.IOException, duckdb.InvalidInputException, pa.ArrowInvalid, OSError)


class LakeError(Exception):
    """The lake cannot be read; the text is a sentence for people."""


class LakeFileSystem(ArrowFSWrapper):
    """A file system of PyArrow as DuckDB takes it, for paths that begin with lake://."""

    protocol = "lake"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path[len("lake://") :] if path.startswith("lake://") else path


class File(NamedTuple):
    """A file of a table."""

    path: str
    size: int
    modified: int  # nanoseconds since 1970

    def month(self) -> int:
        """The month of its partition, as 201811."""
        year, month = re.search(r"/year=(\d+)/month=(\d+)/", self.path).groups()  # type: ignore[union-attr]
        return int(year) * 100 + int(month)


class Lake:
    """A lake in a folder of this machine or in S3. Makes no request until it is asked."""

    def __init__(self, uri: str, files: fs.FileSystem, path: str) -> None:
        self.uri, self.fs, self.path = uri, files, path.rstrip("/")

    def files(self, table: str) -> List[File]:
        """The parquet files of a table, in the order of their paths; none where it is missing. Raises LakeError."""
        selector = fs.FileSelector("%s/%s" % (self.path, table), allow_not_found=True, recursive=True)
        try:
            found = [info for info in self.fs.get_file_info(selector) if info.path.endswith(".parquet")]
        except OSError as error:
            raise LakeError("%s of the lake %s cannot be listed: %s" % (table, self.uri, first_line(error))) from error
        return sorted(File(info.path, info.size, info.mtime_ns) for info in found)

    def version(self) -> str:
        """A text that changes whenever the lake is published anew. Raises LakeError where there is no lake."""
        self.require()
        runs = sorted(info.path for info in self.listed("_runs"))[-1:]
        return hashlib.sha256(repr((self.uri, self.files("songplays"), runs)).encode()).hexdigest()[:16]

    def require(self) -> None:
        """Raise LakeError unless there is a lake, and of this version of the job."""
        try:
            missing = [table for table in (*FACTS, *DIMENSIONS) if self.lacks(table)]
        except OSError as error:
            raise LakeError("the lake %s cannot be reached: %s" % (self.uri, first_line(error))) from error
        if set(missing) == set(TABLES):
            raise LakeError("there is no lake in %s: none of its tables (make run builds one in lake)" % self.uri)
        if "staging_events" in missing:
            raise LakeError(
                "the lake %s is of an older version of the job and lacks staging_events: run the job again" % self.uri
            )

    def lacks(self, table: str) -> bool:
        """Whether a table is not there. One that may not be looked at is; staging_events is closed to many."""
        try:
            (found,) = self.fs.get_file_info(["%s/%s" % (self.path, table)])
        except OSError:
            if table == "staging_events":
                return False
            raise
        return bool(found.type == fs.FileType.NotFound)

    def updated(self) -> dt.datetime:
        """When the plays were last published."""
        newest = max((file.modified for file in self.files("songplays")), default=0)
        return dt.datetime.fromtimestamp(newest / 1e9, dt.timezone.utc)

    def listed(self, folder: str) -> List[fs.FileInfo]:
        """What is in a folder of the lake; nothing where it is missing or may not be read."""
        try:
            return list(self.fs.get_file_info(fs.FileSelector("%s/%s" % (self.path, folder), allow_not_found=True)))
        except OSError:
            return []

    def runs(self) -> List[Dict[str, Any]]:
        """The reports of all runs that can be read, oldest first, as `_runs/` has them."""
        reports = [self.report(path) for path in sorted(info.path for info in self.listed("_runs"))]
        return [report for report in reports if report]

    def report(self, path: str) -> Dict[str, Any]:
        """The report of a run; empty where it may not be read or is being written."""
        try:
            with self.fs.open_input_stream(path) as stream:
                return dict(json.loads(stream.read()))
        except (OSError, ValueError):
            return {}

    def connect(self, months: Tuple[int, int] = ALWAYS, tables: Iterable[str] = TABLES) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with tables of the lake as views, of facts those months (201811) only.

        Reads no more than the schemas of files.
        """
        self.require()
        connection = duckdb.connect(config={"temp_directory": tempfile.gettempdir()})
        connection.register_filesystem(LakeFileSystem(self.fs))
        for table in tables:
            if table in FACTS:
                connection.execute("create view %s as %s" % (table, self.facts(table, FACTS[table], months)))
            else:
                connection.register(table, self.dimension(table, DIMENSIONS[table]))
        return connection

    def facts(self, table: str, columns: str, months: Tuple[int, int]) -> str:
        """SQL that reads a table of facts, or has no rows where there are no files."""
        wanted = [column.split() for column in columns.split(", ")]
        files = [file for file in self.files(table) if months[0] <= file.month() <= months[1]]
        if not files:
            return "select %s where false" % ", ".join("null::%s as %s" % (kind, name) for name, kind in wanted)
        # The instant, whatever zone the file or this machine has
        utc = {"start_time": "make_timestamp(epoch_us(start_time))"}
        select = ", ".join("%s::%s as %s" % (utc.get(name, name), kind, name) for name, kind in wanted)
        paths = ", ".join(quoted(self.readable(file.path)) for file in files)
        return "select %s from read_parquet([%s], hive_partitioning = true)" % (select, paths)

    def readable(self, path: str) -> str:
        """A path as DuckDB reads it: by itself from this machine, else through PyArrow."""
        escaped = path.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
        return escaped if isinstance(self.fs, fs.LocalFileSystem) else "lake://" + escaped

    def dimension(self, table: str, schema: List[Tuple[str, pa.DataType]]) -> ds.Dataset:
        """A dimension, which has no rows where there are no files."""
        keys = pa.schema([(name, kind) for name, kind in schema if name in PARTITIONS.get(table, ())])
        return ds.dataset(
            [file.path for file in self.files(table)],
            schema=pa.schema(schema),
            filesystem=self.fs,
            format="parquet",
            partitioning=ds.partitioning(keys, flavor="hive") if len(keys) else None,
            partition_base_dir="%s/%s" % (self.path, table),
        )

    def ask(self, name: str, given: Mapping[str, Any]) -> pd.DataFrame:
        """The answer to a question. Raises LakeError, and QuestionError for values that are missing."""
        months, tables = questions.months(name, questions.values(name, given)), questions.tables(name) & {*TABLES}
        return retried(lambda: answer(self.connect(months, tables), name, given))

    def quarantine(self) -> pd.DataFrame:
        """How many records are in the quarantine, by input and reason, with the last file of each. Raises LakeError."""
        files = ", ".join(quoted(self.readable(info.path)) for info in self.listed("_quarantine") if info.size)
        if not files:
            return pd.DataFrame()
        query = (
            "select input, reason, count(*) as records, max(file) as file from read_parquet([%s]) group by all"
            " order by records desc, input, reason" % files
        )
        return retried(lambda: self.connect(tables=()).execute(query).df())


def open_lake(uri: str, environ: Mapping[str, str]) -> Lake:
    """The lake in a folder or at an s3:// URI; raises LakeError where the URI is no such thing."""
    if "://" not in uri:
        return Lake(uri, fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri)))
    scheme, _, path = uri.partition("://")
    if scheme not in ("s3", "s3a"):
        raise LakeError("the lake %s is neither a folder nor in S3 (s3://…)" % uri)
    return Lake(uri, s3(environ), path)


def s3(environ: Mapping[str, str]) -> fs.S3FileSystem:
    """S3 with the credentials of the environment, a profile or a role, else those of dl.cfg."""
    settings = configured("AWS")
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    scheme, _, host = endpoint.rpartition("://")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or settings.get("aws_region")
    options: Dict[str, Any] = {"region": region, "connect_timeout": 10, "request_timeout": 60}
    if endpoint:
        options.update(endpoint_override=host, scheme=scheme or "https")
    if not (environ.get("AWS_ACCESS_KEY_ID") or environ.get("AWS_PROFILE")) and settings.get("aws_access_key_id"):
        keys = {"access_key": "aws_access_key_id", "secret_key": "aws_secret_access_key"}
        options.update({option: settings[key] for option, key in keys.items()})
        options["session_token"] = settings.get("aws_session_token") or None
    return fs.S3FileSystem(**options)


def configured(section: str) -> Dict[str, str]:
    """A section of dl.cfg, keys in lower case; empty where there is none."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "dl.cfg", encoding="utf-8")
    return dict(parser[section]) if section in parser else {}


def default_lake(environ: Mapping[str, str]) -> str:
    """Where the lake is: $LAKE, else $OUTPUT, else that of dl.cfg for its MODE, which $MODE overrides. As for the job,
    the one in S3 follows the bucket where nothing else is said.
    """
    mode = (environ.get("MODE") or configured("PROJECT").get("mode") or "LOCAL").upper()
    section = configured(mode)
    bucket = environ.get("BUCKET") or section.get("bucket") or "sparkify-dl-sp"
    output = section.get("output") or ("s3://%s/sparkify-data" % bucket if mode == "S3" else "lake")
    found = environ.get("LAKE") or environ.get("OUTPUT")
    return found or (output if "://" in output else str(ROOT / output))


def answer(
    connection: duckdb.DuckDBPyConnection, name: str, given: Mapping[str, Any], without: Tuple[str, ...] = ()
) -> pd.DataFrame:
    """The answer to a question from a connection that has its tables; `without` as in questions.sql."""
    frame = connection.execute(questions.sql(name, "duckdb", without), questions.values(name, given)).df()
    for column in frame.select_dtypes("category"):  # an enum of Prepared; as text, as it is anywhere else
        frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    return agents.grouped(frame, questions.PARSED[name][1]) if name in questions.PARSED else frame


def retried(read: Callable[[], Result]) -> Result:
    """What a function reads. A lake that is being published may miss a file for a moment: then it reads once more,
    from new listings. Raises LakeError where that fails, too.
    """
    try:
        return read()
    except VANISHED:
        try:
            return read()
        except VANISHED as error:
            raise LakeError(
                "the lake is being published just now, or a file of it is damaged; ask again in a moment (%s)"
                % first_line(error)
            ) from error


def quoted(text: str) -> str:
    return "'%s'" % text.replace("'", "''")


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300]
