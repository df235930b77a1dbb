"""Athena's DDL, run by a real Hive metastore and read by Spark: every row as the job has written it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Iterator

import pytest
from conftest import event_record, rows, song_record, write_files
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

import etl
from catalog import ddl

SONGS = [
    song_record(),
    song_record(song_id="SOB", artist_id="AR:1 é/%=", year=0),
    song_record(song_id="SOC", artist_id="AR'2", artist_location=None),
]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session with a metastore of its own, in a folder of the test."""
    folder = tmp_path_factory.mktemp("metastore")
    url = "jdbc:derby:;databaseName=%s/metastore;create=true" % folder
    hive = {
        "spark.sql.catalogImplementation": "hive",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.hadoop.javax.jdo.option.ConnectionURL": url,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etl, "FIXED_CONF", {**etl.FIXED_CONF, **hive})
        patch.setenv("JAVA_TOOL_OPTIONS", "-Dderby.system.home=%s" % folder)
        session = etl.start_session(etl.Config("LOCAL", "", "", "", 0.0))
    session.conf.set("spark.sql.shuffle.partitions", "2")
    yield session
    session.stop()


def make_lake(spark: SparkSession, tmp_path: Path) -> None:
    """Build a lake and register it by Athena's DDL."""
    write_files(tmp_path / "songs", {"a.json": SONGS})
    write_files(tmp_path / "logs", {"a.json": [event_record(), event_record(ts=1577836800001, userId="")]})
    (tmp_path / "lake").mkdir()
    config = etl.Config("LOCAL", str(tmp_path / "songs"), str(tmp_path / "logs"), str(tmp_path / "lake"), 5.0)
    etl.build_lake(spark, config, etl.Progress(io.StringIO()))
    tables = [ddl.create_table(name, "file://%s/lake/%s" % (tmp_path, name)) for name in etl.TABLES]
    for statement in "".join([ddl.create_database(), *tables, ddl.find_partitions()]).split(";\n"):
        if statement:
            spark.sql(statement)


def test_spark_reads_the_lake_by_the_ddl_of_athena(interpreted_plans: SparkSession, tmp_path: Path) -> None:
    spark = interpreted_plans
    make_lake(spark, tmp_path)
    for name in etl.TABLES:
        written = spark.read.schema(etl.TABLES[name].columns).parquet(str(tmp_path / "lake" / name))
        found = spark.sql("SELECT * FROM sparkify.%s" % name)
        assert dict(found.dtypes) == dict(etl.columns_of(name))
        assert rows(found) == rows(written)
        assert written.count() > 0
    comments = {row["col_name"]: row["comment"] for row in spark.sql("DESCRIBE sparkify.songs").collect()}
    assert comments["duration"] == "Seconds"
    # Hive's own reader of Parquet, here that of Hive 2.3 as on EMR 5.30, knows no INT64 timestamps (docs/catalog.md)
    spark.conf.set("spark.sql.hive.convertMetastoreParquet", "false")
    assert rows(spark.table("sparkify.users")) != []
    assert spark.table("sparkify.songplays").select("songplay_id", "user_agent").count() > 0
    with pytest.raises(Py4JJavaError, match="LongWritable cannot be cast to .*Timestamp"):
        spark.table("sparkify.songplays").select("start_time").collect()
