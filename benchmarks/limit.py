"""The least that Spark needs for this job: start, parse the input with its own JSON source, write the finished tables.

No validation, no joins, no aggregation. The tables come from a lake that etl.py has built; each is read into memory and
laid out as its files are before the clock of its writing runs. Prints the seconds of each part and their sum as JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Callable

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import etl

SONG_SCHEMA = """
num_songs bigint, song_id string, title string, duration double, year bigint, artist_id string, artist_name string,
artist_location string, artist_latitude double, artist_longitude double
"""
EVENT_SCHEMA = """
artist string, auth string, firstName string, gender string, itemInSession bigint, lastName string, length double,
level string, location string, method string, page string, registration double, sessionId bigint, song string,
status bigint, ts bigint, userAgent string, userId string
"""


def age() -> float:
    """Seconds since this process was started, Python's own start included."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # in ticks since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def parse(spark: SparkSession, folder: str, schema: str) -> None:
    """Parse every JSON file below a folder and drop the rows."""
    frame = spark.read.schema(schema).option("recursiveFileLookup", "true").json(folder)
    frame.write.format("noop").mode("overwrite").save()


def laid_out(spark: SparkSession, lake: Path, name: str) -> DataFrame:
    """A table of a lake in memory, its rows where they are when they are written, in as many files."""
    frame = spark.read.schema(etl.TABLES[name].columns).parquet(str(lake / name))
    partitions, files = etl.TABLES[name].partitions, files_in_a_partition(lake / name)
    if partitions:
        frame = frame.repartition(*partitions, F.abs(F.hash(*frame.columns) % files))
    else:
        frame = frame.repartition(files) if files > 1 else frame.coalesce(1)
    frame = frame.sortWithinPartitions(*etl.SORTED_BY[name]) if name in etl.SORTED_BY else frame
    frame = frame.persist(StorageLevel.MEMORY_AND_DISK)
    frame.count()
    return frame


def files_in_a_partition(table: Path) -> int:
    """How many files the fullest partition of a stored table has."""
    return max(len(files) for _, _, files in os.walk(table))


def write(frame: DataFrame, name: str, folder: str) -> None:
    """Write a table as etl.write() does."""
    small = {"compression": "none", "parquet.enable.dictionary": "false"} if name == "songs" else {}
    frame.write.options(**small).partitionBy(*etl.TABLES[name].partitions).parquet(folder)


def write_tables(spark: SparkSession, lake: Path, output: str) -> float:
    """Write the tables of a lake again. Returns the seconds without those that reading takes."""
    spark.conf.set("spark.sql.shuffle.partitions", str(spark.sparkContext.defaultParallelism))
    total = 0.0
    for name in etl.TABLES:
        frame = laid_out(spark, lake, name)
        total += seconds(functools.partial(write, frame, name, "%s/%s" % (output, name)))
        frame.unpersist()
    return total


def seconds(work: Callable[[], None]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("--song-data", "--log-data", "--output"):
        parser.add_argument(name, required=True, metavar="FOLDER")
    parser.add_argument("--lake", required=True, type=Path, metavar="FOLDER", help="a lake of the same input by etl.py")
    options = parser.parse_args()
    flags = ["--song-data", options.song_data, "--log-data", options.log_data, "--output", options.output]
    config = etl.configure(["--mode", "LOCAL", *flags], {})
    found = etl.survey(config, etl.LocalStore(config.output), etl.list_local_files)
    spark = etl.start_session(config, etl.ends_soon(found))
    parts = {"session": age()}
    parts["parse songs"] = seconds(lambda: parse(spark, options.song_data, SONG_SCHEMA))
    parts["parse logs"] = seconds(lambda: parse(spark, options.log_data, EVENT_SCHEMA))
    parts["write"] = write_tables(spark, options.lake, options.output)
    spark.stop()
    print(json.dumps({**parts, "sum": sum(parts.values())}))


if __name__ == "__main__":
    main()
