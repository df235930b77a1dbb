"""What a site configures must not change the answer: the sample as a process under a spark-defaults.conf that sets
whatever could change rows, types or which files are read.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import pyspark
import pytest
from conftest import ROOT, SAMPLE, Done, event_record, rows, run_here, song_record, write_files
from pyspark.sql import SparkSession
from test_cli import environment, failed, job

import etl

TABLES = tuple(etl.TABLES)
STAR = ("artists", "songs", "users", "time", "songplays")  # in whose partitions nothing but the rows decides on files
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


@pytest.fixture(scope="module")
def hostile(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of such a configuration, for SPARK_CONF_DIR."""
    lines = ["%s %s\n" % setting for setting in all_hostile(spark).items()]
    folder = tmp_path_factory.mktemp("conf")
    return str(write_files(folder, {"spark-defaults.conf": "".join(lines)}))


OF_SAMPLE = ["--song-data=%s" % (SAMPLE / "song_data"), "--log-data=%s" % (SAMPLE / "log_data")]


def lake_of(spark: SparkSession, done: Done, lake: Path) -> Lake:
    assert done.code == 0, done.err + done.out
    frames = {name: spark.read.parquet("file://%s/%s" % (lake, name)) for name in TABLES}
    # Their names hold an id of the job
    files = [str(path.parent.relative_to(lake)) for name in STAR for path in (lake / name).rglob("*") if path.is_file()]
    types = {name: frame.dtypes for name, frame in frames.items()}
    return Lake({name: rows(frame) for name, frame in frames.items()}, types, sorted(files))


@pytest.fixture(scope="module")
def plain(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The sample's lake where nothing is configured."""
    lake = tmp_path_factory.mktemp("plain") / "lake"
    return lake_of(spark, run_here(spark, "--mode=LOCAL", *OF_SAMPLE, "--output=%s" % lake), lake)


def assert_same(found: Lake, plain: Lake) -> None:
    for name in TABLES:
        assert found.types[name] == plain.types[name]
        assert found.tables[name] == plain.tables[name]
    assert found.files == plain.files


def as_large(folder: Path) -> str:
    """A copy of the script that lets Spark parse all input, however small: its settings matter most then. It is not
    imported, so that Spark's Python gets its functions by value, as on a cluster.
    """
    size, text = "SMALL_BYTES = %d * 1024 * 1024" % (etl.SMALL_BYTES >> 20), (ROOT / "etl.py").read_text("utf-8")
    assert size in text
    return str(write_files(folder / "script", {"etl.py": text.replace(size, "SMALL_BYTES = 1")}) / "etl.py")


def test_a_laptop_under_hostile_settings_builds_the_same_lake(
    spark: SparkSession, plain: Lake, hostile: str, tmp_path: Path
) -> None:
    env = environment(SPARK_CONF_DIR=hostile, LC_ALL="C", TZ="Asia/Kolkata")
    argv = [*OF_SAMPLE, "--output=lake"]
    done = job(*argv, cwd=tmp_path, env=env)
    assert_same(lake_of(spark, done, tmp_path / "lake"), plain)
    assert "nothing has changed" in job(*argv, cwd=tmp_path, env=env).err


def test_spark_submit_needs_flags_alone_and_builds_the_same_lake_under_hostile_settings(
    spark: SparkSession, plain: Lake, hostile: str, tmp_path: Path
) -> None:
    home, cwd = Path(pyspark.__file__).parent, tmp_path / "empty"
    cwd.mkdir()
    submit = ["sh", str(home / "bin" / "spark-submit"), "--master", "local[2]", "--deploy-mode", "client"]
    env = environment(SPARK_CONF_DIR=hostile, SPARK_HOME=str(home), HOME=None)
    argv = ["--mode=LOCAL", *OF_SAMPLE, "--output=../lake", "--max-bad-percent=1"]
    done = job(*argv, cwd=cwd, env=env, command=[*submit, as_large(tmp_path)])
    assert_same(lake_of(spark, done, tmp_path / "lake"), plain)
    assert "songplays" in done.out
    assert not list(cwd.iterdir())


def test_half_a_file_is_not_published_whatever_is_configured(hostile: str, tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(json.dumps(event_record(sessionId=n)).encode() + b"\n" for n in range(2000)))
    logs = {"logs/a.json": [event_record()], "logs/b.json.gz": packed[: len(packed) // 2]}
    write_files(tmp_path, {"songs/a.json": [song_record()], **logs})
    env = environment(SPARK_CONF_DIR=hostile)
    argv = ["--song-data=songs", "--log-data=logs", "--output=lake"]
    done = job(*argv, cwd=tmp_path, env=env, command=[sys.executable, as_large(tmp_path)])
    assert done.code == 2
    assert "/b.json.gz: " in failed(done)
    assert not (tmp_path / "lake" / "songplays").exists()
