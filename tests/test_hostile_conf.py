"""What a site configures must not change the answer: the sample as a process under a spark-defaults.conf that sets
whatever could change rows, types or which files are read.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import pyspark
import pytest
from conftest import ROOT, SAMPLE, event_record, rows, song_record, write_files
from pyspark.sql import SparkSession
from test_cli import Done, environment, failed, job, reports_of

TABLES = ("artists", "songs", "users", "time", "songplays")
# Settings that are neither true nor false, and those that Spark does not list
HOSTILE = {
    "spark.sql.session.timeZone": "Asia/Kolkata",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.caseSensitive": "true",
    "spark.sql.columnNameOfCorruptRecord": "witness",
    "spark.sql.mapKeyDedupPolicy": "LAST_WIN",
    "spark.sql.storeAssignmentPolicy": "STRICT",
    "spark.sql.files.ignoredPathSegmentRegex": "json|parquet",
    "spark.sql.files.maxRecordsPerFile": "7",
    "spark.sql.files.maxPartitionBytes": "1000000",
    "spark.sql.sources.default": "json",
    "spark.sql.sources.useV1SourceList": "",
    "spark.sql.sources.partitionOverwriteMode": "dynamic",
    "spark.sql.sources.outputCommitterClass": "org.apache.hadoop.mapreduce.lib.output.PartialFileOutputCommitter",
    "spark.sql.sources.commitProtocolClass": "org.apache.spark.internal.io.HadoopMapReduceCommitProtocol",
    "spark.sql.parquet.output.committer.class": "org.apache.hadoop.mapreduce.lib.output.PartialFileOutputCommitter",
    "spark.sql.sources.validatePartitionColumns": "false",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "0",
    "spark.sql.parquet.compression.codec": "gzip",
    "spark.sql.parquet.outputTimestampType": "INT96",
    "spark.sql.parquet.datetimeRebaseModeInRead": "LEGACY",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "LEGACY",
    "spark.sql.parquet.int96RebaseModeInRead": "LEGACY",
    "spark.sql.parquet.int96RebaseModeInWrite": "LEGACY",
    "spark.sql.legacy.parquet.datetimeRebaseModeInRead": "LEGACY",
    "spark.sql.legacy.parquet.datetimeRebaseModeInWrite": "LEGACY",
    "spark.sql.legacy.timeParserPolicy": "LEGACY",
    "spark.sql.legacy.setopsPrecedence.enabled": "true",
    "spark.sql.legacy.charVarcharAsString": "true",
    "spark.sql.legacy.sizeOfNull": "false",
    "spark.sql.legacy.codingErrorAction": "false",
    "spark.sql.legacy.javaCharsets": "true",
    "spark.sql.legacy.json.allowEmptyString.enabled": "true",
    "spark.sql.legacy.castComplexTypesToString.enabled": "true",
    "spark.sql.legacy.followThreeValuedLogicInArrayExists": "false",
    "spark.sql.legacy.statisticalAggregate": "true",
    "spark.sql.legacy.truncateForEmptyRegexSplit": "true",
    "spark.sql.legacy.duplicateBetweenInput": "true",
    "spark.sql.legacy.doLooseUpcast": "true",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    "spark.sql.json.enablePartialResults": "false",
    "spark.sql.json.enableExactStringParsing": "false",
    "spark.sql.parser.escapedStringLiterals": "true",
    "spark.sql.decimalOperations.allowPrecisionLoss": "false",
    "spark.sql.retainGroupColumns": "false",
    "spark.sql.selfJoinAutoResolveAmbiguity": "false",
    "spark.sql.analyzer.failAmbiguousSelfJoin": "false",
    "spark.sql.crossJoin.enabled": "false",
    "spark.sql.runSQLOnFiles": "false",
    "spark.sql.shuffle.partitions": "3",
    "spark.sql.autoBroadcastJoinThreshold": "-1",
    "spark.sql.defaultCatalog": "nowhere",
    "spark.sql.adaptive.optimizer.excludedRules": "org.apache.spark.sql.execution.adaptive.AQEPropagateEmptyRelation",
    "spark.sql.optimizer.excludedRules": "org.apache.spark.sql.catalyst.optimizer.ColumnPruning",
    "spark.files.ignoreCorruptFiles": "true",
    "spark.files.ignoreMissingFiles": "true",
    "spark.speculation": "true",
    "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    "spark.kryo.registrationRequired": "true",
    "spark.submit.deployMode": "cluster",
    "spark.driver.extraJavaOptions": "-Duser.language=tr -Duser.country=TR -Duser.timezone=Asia/Kolkata",
    "spark.hadoop.mapreduce.input.linerecordreader.line.maxlength": "300",
    "spark.hadoop.mapreduce.input.pathFilter.class": "org.apache.hadoop.mapred.Utils$OutputFileUtils$OutputLogFilter",
    "spark.hadoop.mapreduce.input.fileinputformat.input.dir.recursive": "false",
    "spark.hadoop.mapreduce.input.fileinputformat.split.maxsize": "100",
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "true",
    "spark.hadoop.mapreduce.fileoutputcommitter.cleanup.skipped": "true",
    "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "1",
    "spark.hadoop.textinputformat.record.delimiter": ",",
    "spark.hadoop.parquet.summary.metadata.level": "ALL",
    "spark.hadoop.parquet.enable.summary-metadata": "true",
    "spark.hadoop.parquet.writer.version": "PARQUET_2_0",
    "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    "spark.hadoop.fs.file.impl.disable.cache": "true",
    "spark.hadoop.fs.defaultFS": "hdfs://nowhere:8020",
}
# Of a site's own plug-ins, which must be there
KEPT = ("spark.sql.streaming", "spark.sql.hive", "spark.sql.thriftServer", "spark.sql.ui", "spark.sql.repl")


class Lake(NamedTuple):
    """What a run leaves."""

    done: Done
    tables: Dict[str, List[Dict[str, Any]]]
    types: Dict[str, Any]
    files: List[str]


def all_hostile(spark: SparkSession) -> Dict[str, str]:
    """HOSTILE, and the opposite of whatever this Spark lists as true or false."""
    flipped = {"true": "false", "false": "true"}
    listed = {row[0]: row[1] for row in spark.newSession().sql("SET -v").collect()}
    found = {key: flipped[value] for key, value in listed.items() if value in flipped and not key.startswith(KEPT)}
    return {**found, **{key: value for key, value in HOSTILE.items() if is_taken(spark, key, value)}}


def is_taken(spark: SparkSession, key: str, value: str) -> bool:
    """Whether a session starts with a setting at all: newer Sparks refuse some that older ones had."""
    try:
        spark.newSession().conf.set(key, value)
    except Exception as error:
        return "annot modify" in str(error)  # static ones may be set before the start only
    return True


def configured(folder: Path, settings: Dict[str, str]) -> str:
    """A folder of configuration, for SPARK_CONF_DIR."""
    lines = ["%s %s\n" % setting for setting in settings.items()]
    return str(write_files(folder, {"spark-defaults.conf": "".join(lines)}))


def lake_of(spark: SparkSession, done: Done, lake: Path) -> Lake:
    assert done.code == 0, done.err + done.out
    frames = {name: spark.read.parquet("file://%s/%s" % (lake, name)) for name in TABLES}
    # Their names hold an id of the job
    files = [
        str(path.parent.relative_to(lake)) for name in TABLES for path in (lake / name).rglob("*") if path.is_file()
    ]
    types = {name: frame.dtypes for name, frame in frames.items()}
    return Lake(done, {name: rows(frame) for name, frame in frames.items()}, types, sorted(files))


def sample(cwd: Path, **changes: str) -> Done:
    argv = ["--song-data=%s" % (SAMPLE / "song_data"), "--log-data=%s" % (SAMPLE / "log_data"), "--output=lake"]
    return job(*argv, cwd=cwd, env=environment(**changes))


def submitted(*argv: str, cwd: Path, **changes: str) -> Done:
    home = Path(pyspark.__file__).parent
    command = ["sh", str(home / "bin" / "spark-submit"), "--master", "local[2]", "--deploy-mode", "client"]
    return job(
        *argv, cwd=cwd, env=environment(SPARK_HOME=str(home), **changes), command=[*command, str(ROOT / "etl.py")]
    )


@pytest.fixture(scope="module")
def plain(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The sample's lake where nothing is configured."""
    folder = tmp_path_factory.mktemp("plain")
    return lake_of(spark, sample(folder), folder / "lake")


def assert_same(found: Lake, plain: Lake) -> None:
    for name in TABLES:
        assert found.types[name] == plain.types[name]
        assert found.tables[name] == plain.tables[name]
    assert found.files == plain.files


def test_a_laptop_under_hostile_settings_builds_the_same_lake(spark: SparkSession, plain: Lake, tmp_path: Path) -> None:
    conf = configured(tmp_path / "conf", all_hostile(spark))
    found = lake_of(spark, sample(tmp_path, SPARK_CONF_DIR=conf, LC_ALL="C", TZ="Asia/Kolkata"), tmp_path / "lake")
    assert_same(found, plain)
    again = sample(tmp_path, SPARK_CONF_DIR=conf)
    assert "nothing has changed" in again.err


def test_spark_submit_under_hostile_settings_builds_the_same_lake(
    spark: SparkSession, plain: Lake, tmp_path: Path
) -> None:
    conf = configured(tmp_path / "conf", all_hostile(spark))
    argv = ["--song-data=%s" % (SAMPLE / "song_data"), "--log-data=%s" % (SAMPLE / "log_data"), "--output=lake"]
    done = submitted(*argv, cwd=tmp_path, SPARK_CONF_DIR=conf)
    assert_same(lake_of(spark, done, tmp_path / "lake"), plain)


@pytest.mark.parametrize("key", ["spark.sql.files.ignoreCorruptFiles", "spark.files.ignoreCorruptFiles"])
def test_half_a_file_is_not_published_whatever_is_configured(tmp_path: Path, key: str) -> None:
    events = b"".join(json.dumps(event_record(sessionId=n)).encode() + b"\n" for n in range(2000))
    packed = gzip.compress(events)
    logs = {"logs/a.json": [event_record()], "logs/b.json.gz": packed[: len(packed) // 2]}
    write_files(tmp_path, {"songs/a.json": [song_record()], **logs})
    conf = configured(tmp_path / "conf", {key: "true"})
    argv = ["--song-data=songs", "--log-data=logs", "--output=lake"]
    done = job(*argv, cwd=tmp_path, env=environment(SPARK_CONF_DIR=conf))
    assert done.code == 2
    assert "/b.json.gz: " in failed(done)
    assert not (tmp_path / "lake" / "songplays").exists()


def test_long_lines_are_read_whatever_is_configured(tmp_path: Path) -> None:
    events = [event_record(sessionId=n, location="x" * 2000 * n) for n in range(3)]
    write_files(tmp_path, {"songs/a.json": [song_record(artist_location="x" * 2000)], "logs/a.json": events})
    conf = configured(tmp_path / "conf", {"spark.hadoop.mapreduce.input.linerecordreader.line.maxlength": "1000"})
    argv = ["--song-data=songs", "--log-data=logs", "--output=lake"]
    done = job(*argv, cwd=tmp_path, env=environment(SPARK_CONF_DIR=conf))
    assert done.code == 0, done.err
    (report,) = reports_of(tmp_path / "lake")
    assert [report["account"][name]["records"] for name in ("song_data", "log_data")] == [1, 3]
