"""A plugin of pytest for the tests of analytics/: a tiny lake with answers counted by hand, and lakes of the job."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from aws import Server
from pyspark.sql import SparkSession

from analytics.lake import DIMENSIONS, FACTS, PARTITIONS

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT / "tests" / "cloud"))  # aws.py: S3 on this machine

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:31.0) Gecko/20100101 Firefox/31.0"
CHROME = "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/36.0.1985.143 Safari/537.36"
NEW_YORK, ITHACA = "New York-Newark-Jersey City, NY-NJ-PA", "Ithaca, NY"

# songplay_id, start_time, user_id, level, song_id, artist_id, session_id, location, user_agent
PLAYS: List[Tuple[Any, ...]] = [
    ("p01", "2018-11-05 08:00:00.000", 1, "free", "S1", "A1", 10, ITHACA, FIREFOX),
    ("p02", "2018-11-05 08:40:00.000", 1, "free", None, "A2", 10, ITHACA, FIREFOX),  # known by name alone
    ("p03", "2018-11-05 23:59:59.999", 2, "free", "S1", "A1", 20, NEW_YORK, CHROME),
    ("p04", "2018-11-06 00:10:00.000", 2, "free", "S2", "A1", 20, NEW_YORK, CHROME),
    ("p05", "2018-11-13 08:05:00.000", 1, "paid", "S3", "A2", 11, ITHACA, FIREFOX),
    ("p06", "2018-11-13 09:20:00.000", 1, "paid", None, None, 11, ITHACA, FIREFOX),
    ("p07", "2018-12-03 10:00:00.000", 1, "free", "S1", "A1", 12, ITHACA, FIREFOX),
    ("p08", "2018-12-03 10:00:00.000", 3, "paid", None, None, 10, None, None),
    ("p09", "2018-12-04 11:00:00.000", 3, "paid", "S1", "A1", 10, None, None),
    ("p10", "2018-12-04 12:00:00.000", None, None, None, None, 30, "Lund, Sweden", None),
]
# What the log calls them; p10 names nothing
NAMES: Dict[str, Tuple[Optional[str], Optional[str]]] = {
    **dict.fromkeys(("p01", "p03", "p07", "p09"), ("The Waves", "Tide")),
    "p02": ("Heath", "Loam"),
    "p04": ("The Waves", "Ebb"),
    "p05": ("Heath", "Moor"),
    **dict.fromkeys(("p06", "p08"), ("Kern", "Silt")),
}
# Plays of December that were delivered once more, one of them with other names, of which the job takes the others
COPIES = {"p08": ("Zinc", "Silk"), "p09": ("The Waves", "Tide")}
PLAY_COLUMNS = (
    ("songplay_id", pa.string()),
    ("start_time", pa.timestamp("us", "UTC")),
    ("user_id", pa.int64()),
    ("level", pa.string()),
    ("song_id", pa.string()),
    ("artist_id", pa.string()),
    ("session_id", pa.int64()),
    ("location", pa.string()),
    ("user_agent", pa.string()),
    ("year", pa.int32()),
    ("month", pa.int32()),
)
ROWS: Dict[str, List[Tuple[Any, ...]]] = {
    "songs": [
        ("S1", "Tide", 200.5, 1999, "A1"),
        ("S2", "Ebb", 180.0, 0, "A1"),
        ("S3", "Moor", 240.0, 2001, "A2"),
    ],
    "artists": [("A1", "The Waves", "Hull", None, None), ("A2", "Heath", None, 52.1, -1.5)],
    "staging_songs": [
        ("S1", "Tide", 200.5, 1999, "A1", "The Waves", "Hull", None, None, "file:///1.json"),
        ("S2", "Ebb", 180.0, 0, "A1", "The Waves", None, None, None, "file:///2.json"),
        ("S3", "Moor", 240.0, 2001, "A2", "Heath", None, 52.1, -1.5, "file:///3.json"),
    ],
    "users": [(1, "Ada", "Moss", "F", "free"), (2, "Bo", "Lind", "M", "free"), (3, "Cy", "Noll", None, "paid")],
}


def instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc)


def play_rows(plays: Sequence[Tuple[Any, ...]]) -> List[Tuple[Any, ...]]:
    """Plays with their instant and their partition."""
    times = [instant(play[1]) for play in plays]
    return [(play[0], time, *play[2:], time.year, time.month) for play, time in zip(plays, times)]


def event_rows(plays: Sequence[Tuple[Any, ...]]) -> List[Tuple[Any, ...]]:
    """The events of plays, as staging_events has them, and one that is no play."""
    rows = []
    for key, time, user, level, _, _, session, location, agent in plays:
        start = instant(time)
        ts = round(start.timestamp() * 1000)
        for artist, song in [NAMES.get(key, (None, None)), *([COPIES[key]] if key in COPIES else [])]:
            heard = (key, artist, None, None, 0, None, 200.0, level, location, "NextSong", session, song)
            rows.append((*heard, ts, agent, user, "file:///log.json", start.year, start.month))
    home = (None, None, None, None, 0, None, None, "free", None, "Home", 10, None)
    return [*rows, (*home, 1541404700000, None, 1, "file:///log.json", 2018, 11)] if rows else rows


def write_table(folder: Path, columns: Sequence[Tuple[str, Any]], rows: Sequence[Any], keys: Sequence[str]) -> None:
    """A table as the job lays it out: hive partitions, which are in the path only."""
    schema = pa.schema(list(columns))
    values = zip(*rows) if rows else [[] for _ in columns]
    data = pa.table([pa.array(list(column), kind) for column, (_, kind) in zip(values, columns)], schema=schema)
    partitioning = ds.partitioning(pa.schema([schema.field(key) for key in keys]), flavor="hive") if keys else None
    ds.write_dataset(
        data, folder, format="parquet", partitioning=partitioning, existing_data_behavior="delete_matching"
    )


def write_lake(folder: Path, plays: Sequence[Tuple[Any, ...]] = PLAYS) -> Path:
    """The tiny lake, or one with other plays."""
    for table in ("songplays", "staging_events"):
        (folder / table).mkdir(parents=True, exist_ok=True)
    write_table(folder / "songplays", PLAY_COLUMNS, play_rows(plays), ["year", "month"])
    kinds = {"varchar": pa.string(), "bigint": pa.int64(), "double": pa.float64(), "integer": pa.int32()}
    events = [(name, kinds[kind]) for name, kind in map(str.split, FACTS["staging_events"].split(", "))]
    write_table(folder / "staging_events", events, event_rows(plays), ["year", "month"])
    for table, columns in DIMENSIONS.items():
        write_table(folder / table, columns, ROWS[table], PARTITIONS.get(table, []))
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny lake; not to be changed."""
    return write_lake(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """S3 on this machine, with a bucket."""
    found = Server()
    for name, value in found.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    found.make_bucket("bucket")
    yield found
    found.close()


@pytest.fixture(scope="session")
def utc_spark() -> Iterator[SparkSession]:
    """A session that speaks UTC, on one machine and without S3."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").appName("analytics").config("spark.ui.enabled", "false")
    session = (
        builder.config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "2").getOrCreate()
    )
    yield session
    session.stop()


def build(output: Path, source: Path) -> Path:
    """The lake that the job builds from a folder of inputs."""
    places = ["--song-data", source / "song_data", "--log-data", source / "log_data", "--output", output]
    environment = {**os.environ, "MODE": "LOCAL"}
    subprocess.run([sys.executable, str(ROOT / "etl.py"), *map(str, places)], env=environment, check=True)
    return output


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of the made-up sample."""
    return build(tmp_path_factory.mktemp("sample"), ROOT / "data")


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of the public sample, where that is beside the project."""
    if not REAL.is_dir():
        pytest.skip("the public sample is not in %s" % REAL)
    return build(tmp_path_factory.mktemp("real"), REAL)
