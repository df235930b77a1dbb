"""What the tests share: one Spark session, input files, and rows built from a base row plus what a test is about.

Test modules import the functions: `from conftest import rows, staged_songs`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Union

import pytest
from hypothesis import HealthCheck, Phase, settings
from pyspark.sql import DataFrame, SparkSession

import etl

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data"

# No tests: a command of its own, which only the default environment has the packages for.
collect_ignore = ["compare_lakes.py"]

# Tests pay for Java's start and compiler, not for its peak: the quick compiler alone makes them twice as fast. And a
# Java 8 that was unpacked, not installed, takes seconds to find random numbers.
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -Djava.security.egd=file:/dev/urandom")

# The same examples on every machine and Spark, and few of them: each one that needs Spark takes half a second, so that
# making a failing one smaller would take minutes.
settings.register_profile(
    "project",
    deadline=None,
    derandomize=True,
    max_examples=int(os.environ.get("EXAMPLES", "12")),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("project")


@pytest.fixture(scope="session")
def spark(request: pytest.FixtureRequest) -> Iterator[SparkSession]:
    """The one session of this process: as the job starts it on a laptop for small input, with one shuffle partition,
    and what it compiles is kept; ready for S3 only where tests of that are run, too.
    """
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    of_s3 = any("tests/cloud" in item.nodeid for item in request.session.items)
    place = "s3://no" if of_s3 else "/no"
    config = etl.Config("S3", place + "/songs", place + "/logs", place + "/lake", 5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_SUBMIT_ARGS", "--conf spark.sql.codegen.cache.maxEntries=5000 pyspark-shell")
        session = etl.start_session(config, small=True)
    session.conf.set(SHUFFLE_PARTITIONS, "1")
    session.sparkContext._conf.set(SHUFFLE_PARTITIONS, "1")  # so that runs leave it
    yield session
    session.stop()


SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions"


class Done(NamedTuple):
    """A finished run: its exit code, and what it has said."""

    code: int
    out: str
    err: str

    def last(self) -> str:
        return self.err.splitlines()[-1]


def run_here(spark: SparkSession, *argv: str, err: Optional[io.StringIO] = None) -> Done:
    """etl.py's command in this process and session, which it must not stop."""
    out, err = io.StringIO(), err or io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etl, "start_session", lambda config, small: spark)
        patch.setattr(etl, "take_signals", lambda: None)
        patch.setattr(type(spark), "stop", lambda self: None)
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = etl.main(argv)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def plain_plans(spark: SparkSession) -> Iterator[SparkSession]:
    """A session without the newer Sparks' adaptive plans, which take seconds to plan and merge what is small."""
    spark.conf.set("spark.sql.adaptive.enabled", "false")
    yield spark
    spark.conf.unset("spark.sql.adaptive.enabled")


@pytest.fixture(scope="module")
def interpreted_plans(plain_plans: SparkSession) -> Iterator[SparkSession]:
    """Such a session that compiles no plans either, which takes longer than running them on a few rows. For tests of
    what becomes of whole runs, not of expressions.
    """
    settings = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
    for key, value in settings.items():
        plain_plans.conf.set(key, value)
    yield plain_plans
    for key in settings:
        plain_plans.conf.unset(key)


def said_until(output: Optional[IO[str]], text: str) -> str:
    """What a process says until it has said a text; fails where it ends before."""
    assert output
    said = ""
    while text not in said:
        line = output.readline()
        assert line, said
        said += line
    return said


@pytest.fixture(scope="session")
def place(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where the lake of an input goes: with KEEP_LAKES=DIR into DIR/<Spark version>/, where it stays."""
    kept = os.environ.get("KEEP_LAKES")
    if not kept:
        return lambda name: tmp_path_factory.mktemp(name) / "lake"
    folder = Path(kept).resolve() / spark.version
    shutil.rmtree(str(folder), ignore_errors=True)
    return lambda name: folder / name


# ------------------------------------------------------------------------------------ input files

# 2018-10-31, 2018-11-11 and 2018-12-12, 00:00 UTC, in milliseconds
OCTOBER, NOVEMBER, DECEMBER = 1540944000000, 1541894400000, 1544572800000

DELETE: Any = object()  # song_record(title=DELETE) has no title at all
Record = Dict[str, Any]
Content = Union[bytes, str, Sequence[Mapping[str, Any]]]

BASE_SONG: Record = {
    "num_songs": 1,
    "song_id": "SOAAAAA12AB0000001",
    "title": "Morning Tide",
    "duration": 218.93179,
    "year": 1999,
    "artist_id": "ARAAAAA1187B000001",
    "artist_name": "The Placeholders",
    "artist_location": "Lund, Sweden",
    "artist_latitude": 55.70584,
    "artist_longitude": 13.19321,
}
BASE_EVENT: Record = {
    "artist": "The Placeholders",
    "auth": "Logged In",
    "firstName": "Ada",
    "gender": "F",
    "itemInSession": 3,
    "lastName": "Moss",
    "length": 218.93179,
    "level": "paid",
    "location": "Lund, Sweden",
    "method": "PUT",
    "page": "NextSong",
    "registration": 1540919166796.0,
    "sessionId": 38,
    "song": "Morning Tide",
    "status": 200,
    "ts": 1541105830796,  # 2018-11-01 20:57:10.796 UTC, a Thursday
    "userAgent": "Mozilla/5.0 (X11; Linux x86_64)",
    "userId": "39",
}


def song_record(**changes: Any) -> Record:
    """A good song record as it is in the JSON, with changes; DELETE drops a key."""
    return changed(BASE_SONG, changes)


def event_record(**changes: Any) -> Record:
    """A good event, a play, as it is in the JSON, with changes; DELETE drops a key."""
    return changed(BASE_EVENT, changes)


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Record:
    return {key: value for key, value in {**base, **changes}.items() if value is not DELETE}


def write_files(folder: Path, files: Mapping[str, Content]) -> Path:
    """Write files by relative name: bytes as they are, text as UTF-8, a list as JSON lines. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (bytes, str)):
            content = "".join(json.dumps(record) + "\n" for record in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return folder


# ------------------------------------------------------------------------------------ staged rows

BASE_STAGED_SONG: Record = {field.column: BASE_SONG[field.key] for field in etl.SONG_FIELDS if field.column}
BASE_STAGED_EVENT: Record = {
    **{field.column: BASE_EVENT[field.key] for field in etl.EVENT_FIELDS if field.column},
    "user_id": int(BASE_EVENT["userId"]),
}


def staged_songs(spark: SparkSession, *changes: Mapping[str, Any]) -> DataFrame:
    """Rows of staging_songs: one for each dict of what differs from the base row."""
    return staged(spark, "staging_songs", BASE_STAGED_SONG, changes)


def staged_events(spark: SparkSession, *changes: Mapping[str, Any]) -> DataFrame:
    """Rows of staging_events: one for each dict of what differs from the base row, a play. The columns that staging
    adds follow from the others.
    """
    return staged(spark, "staging_events", BASE_STAGED_EVENT, changes)


def staged(spark: SparkSession, table: str, base: Mapping[str, Any], changes: Iterable[Mapping[str, Any]]) -> DataFrame:
    unknown = {name for change in changes for name in change} - {*base, "file"}
    assert not unknown, "no such staged column: %s" % unknown
    records = [{"file": "file:///in.json", **base, **change} for change in changes]
    values = [etl.staged(record, record["file"], table) for record in records]
    return frame(spark, table, [dict(zip([column for column, _ in etl.columns_of(table)], row)) for row in values])


def frame(spark: SparkSession, table: str, records: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Rows in the types of a table, in one partition, which spares tests most shuffles. A timestamp is given as seconds
    after 1970.
    """
    columns = etl.columns_of(table)
    given = ", ".join("%s %s" % (column, "bigint" if kind == "timestamp" else kind) for column, kind in columns)
    values = [tuple(record[column] for column, _ in columns) for record in records]
    found = spark.createDataFrame(values, given).coalesce(1)
    return found.select([found[column].cast(kind).alias(column) for column, kind in columns])


def rows(found: DataFrame) -> List[Record]:
    """The rows of a frame as sorted dicts; timestamps as text in UTC, whatever this machine's zone is."""
    columns = [
        found[name].cast("string").alias(name) if kind == "timestamp" else found[name] for name, kind in found.dtypes
    ]
    return sorted((row.asDict(recursive=True) for row in found.select(*columns).collect()), key=repr)
