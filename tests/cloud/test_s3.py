"""The job with input and lake in S3: Hadoop's S3A, as Spark brings it, against moto's server on loopback.

Most tests share the session and differ in their buckets, since Hadoop keeps a client for each.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple
from urllib.parse import unquote

import pytest
from aws import KEY_ID, REGION, SECRET, Call, Server
from conftest import DECEMBER, Done, event_record, run_here, said_until, song_record, write_files
from lakes import find_java_home, run_job, same_rows, small_sample
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

import etl

Rows = Dict[str, Any]
EMRFS = "com.amazon.ws.emr.hadoop.fs.EmrFileSystem"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def new_bucket(server: Server) -> str:
    """A bucket that no client of another test knows."""
    name = "lake-" + uuid.uuid4().hex[:12]
    server.make_bucket(name)
    return name


@pytest.fixture
def bucket(server: Server) -> str:
    return new_bucket(server)


@pytest.fixture(autouse=True)
def playing_along(server: Server) -> None:
    """S3 is as it should be, and has been asked nothing."""
    server.answers.clear()
    server.calls.clear()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sample(tmp_path_factory.mktemp("input"))


Main = Callable[..., Done]


@pytest.fixture(scope="module")
def main(interpreted_plans: SparkSession, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Main]:
    """etl.main() in this session, which it must not stop, with the server's address and dl.cfg's credentials."""
    spark = interpreted_plans
    cfg = tmp_path_factory.mktemp("settings") / "dl.cfg"
    cfg.write_text("[AWS]\nAWS_ACCESS_KEY_ID = %s\nAWS_SECRET_ACCESS_KEY = %s\n" % (KEY_ID, SECRET))
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()

    def start_session(config: etl.Config, small: bool) -> SparkSession:
        for name in ("fs.s3a.endpoint", "fs.s3a.access.key", "fs.s3a.secret.key"):
            hadoop.unset(name)  # a run's settings are not the next one's
        etl.connect_s3(spark, config)
        return spark

    def run(*argv: str, endpoint: str = server.endpoint) -> Done:
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = etl.main(["--mode=S3", "--config=%s" % cfg, "--max-bad-percent=50", *argv])
        assert SECRET not in out.getvalue() + err.getvalue()
        return Done(code, out.getvalue(), err.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.setattr(type(spark), "stop", lambda self: None)
        patch.setattr(etl, "take_signals", lambda: None)
        patch.setattr(etl, "start_session", start_session)
        yield run


class FirstRun(NamedTuple):
    """The first run into a bucket, which had dl.cfg's credentials, and what it has asked."""

    bucket: str
    calls: List[Call]


@pytest.fixture(scope="module")
def first_run(main: Main, server: Server, sample: Path) -> FirstRun:
    bucket = new_bucket(server)
    server.upload(sample, bucket, "raw")
    server.calls.clear()
    done = main(*uris(bucket))
    assert done.code == 0, done.err
    assert {call.key_id for call in server.calls} == {KEY_ID}
    return FirstRun(bucket, list(server.calls))


@pytest.fixture(scope="module")
def published(first_run: FirstRun) -> str:
    """A bucket with the input and a lake."""
    return first_run.bucket


@pytest.fixture(scope="module")
def expected(interpreted_plans: SparkSession, tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """The lake of a LOCAL run."""
    lake = tmp_path_factory.mktemp("local") / "lake"
    paths = ["--song-data=%s" % (sample / "songs"), "--log-data=%s" % (sample / "logs"), "--output=%s" % lake]
    done = run_here(interpreted_plans, "--mode=LOCAL", "--max-bad-percent=50", *paths)
    assert done.code == 0, done.err
    return lake


def uris(bucket: str) -> List[str]:
    return ["--%s=%s" % place for place in zip(FLAGS, uris_of(bucket))]


def uris_of(bucket: str) -> List[str]:
    return ["s3://%s/%s" % (bucket, name) for name in FLAGS.values()]


KEPT = {"_ledger", "_quarantine", "_runs"}
FLAGS = {"song-data": "raw/songs", "log-data": "raw/logs", "output": "the lake"}


def tables_of(server: Server, bucket: str) -> Dict[str, str]:
    """The files of the tables with their ETags."""
    entries = server.entries(bucket, "the lake/")
    return {entry["Key"]: entry["ETag"] for entry in entries if not entry["Key"].startswith("the lake/_")}


# ------------------------------------------------------------------------------------ the job


@pytest.mark.slow
def test_a_laptop_builds_the_same_lake_in_s3(server: Server, bucket: str, sample: Path, expected: Path) -> None:
    """A process of its own: S3A comes by itself, the credentials of the environment reach it and nothing else."""
    server.upload(sample, bucket, "raw")
    folder = expected.parent / "laptop"
    (folder / "java/bin").mkdir(parents=True)
    java = folder / "java/bin/java"
    java.write_text(
        '#!/bin/sh\nprintf "%%s\\n" "$@" >>"%s"\nexec "%s/bin/java" "$@"\n' % (folder / "seen", find_java_home())
    )
    java.chmod(0o755)
    server.calls.clear()
    roots = ["s3a://%s/raw/songs" % bucket, "s3://%s/raw/logs/" % bucket, "s3a://%s/the lake" % bucket]
    done = run_job("S3", *roots, cwd=folder, env={**server.environment(folder), "JAVA_HOME": str(folder / "java")})
    assert done.returncode == 0, done.stderr
    assert {call.key_id for call in server.calls} == {KEY_ID}
    assert same_rows(server.download(bucket, "the lake/", folder / "lake"), expected)
    assert [key for key in server.keys(bucket, "the lake/_") if key.split("/")[1] not in KEPT] == []
    printed = done.stdout + done.stderr
    assert SECRET not in printed
    command_line = (folder / "seen").read_text("utf-8")
    assert "hadoop-aws" in command_line
    assert not any(secret in command_line for secret in (SECRET, KEY_ID))
    assert not any(SECRET.encode() in path.read_bytes() for path in (folder / "lake").rglob("*") if path.is_file())
    noise = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    assert [line for line in noise if "incubator" not in line] == []
    assert done.stdout.startswith("\ntable ")
    assert "s3://%s/the lake/_runs/" % bucket in done.stdout


def test_the_credentials_of_dl_cfg_are_used_where_there_are_no_others(
    server: Server, published: str, expected: Path, tmp_path: Path
) -> None:
    assert same_rows(server.download(published, "the lake/", tmp_path), expected)


def test_a_profile_comes_before_dl_cfg(server: Server, bucket: str, tmp_path: Path) -> None:
    """A process of its own, since the AWS client reads profiles once."""
    profile = "[mine]\naws_access_key_id = AKIAPROFILEPROFILE00\naws_secret_access_key = %s\n" % SECRET
    (tmp_path / "credentials").write_text(profile)
    (tmp_path / "dl.cfg").write_text("[AWS]\nAWS_ACCESS_KEY_ID = %s\nAWS_SECRET_ACCESS_KEY = %s\n" % (KEY_ID, SECRET))
    env = {name: value for name, value in server.environment(tmp_path).items() if "ACCESS_KEY" not in name}
    server.calls.clear()
    done = run_job("S3", *uris_of(bucket), cwd=tmp_path, env={**env, "AWS_PROFILE": "mine"})
    assert done.returncode == 2
    assert "etl.py: song_data: there is no folder s3://%s/raw/songs\n" % bucket in done.stderr
    assert {call.key_id for call in server.calls} == {"AKIAPROFILEPROFILE00"}


def test_public_buckets_are_read_without_a_signature_on_request(
    main: Main, server: Server, bucket: str, sample: Path, tmp_path: Path
) -> None:
    server.upload(sample, bucket, "raw")
    server.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(everybody_may(bucket)))
    server.calls.clear()
    done = main(*uris(bucket)[:2], "--anonymous=yes", "--output=%s" % (tmp_path / "lake"))
    assert done.code == 0, done.err
    assert {call.key_id for call in server.calls if bucket in call.path} == {""}


def everybody_may(bucket: str) -> Rows:
    arn = "arn:aws:s3:::" + bucket
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": [arn, arn + "/*"]}
    return {"Version": "2012-10-17", "Statement": [statement]}


def test_a_file_of_a_table_takes_few_requests(first_run: FirstRun) -> None:
    """On one machine; a cluster's workers must write to the bucket themselves."""
    counts: Counter[str] = Counter()
    for call in first_run.calls:
        about = unquote(call.path) + (call.body.decode() if call.method == "POST" else "")  # which deletes many
        if re.search("the lake/(_work/[^/]+/)?(%s)/.*part-" % "|".join(etl.TABLES), about):
            assert "_temporary" not in call.path
            counts[call.method] += 1
    files = counts["PUT"] // 2  # to the work, and to the lake
    assert files > 5
    assert counts["HEAD"] + counts["GET"] <= 4 * files  # among them two that ask whether a folder has the name
    assert counts["POST"] == 1  # the work is removed at once
    assert counts["DELETE"] == 0


@pytest.mark.once
@pytest.mark.slow
def test_requests_grow_with_the_change_and_not_with_the_lake(
    main: Main, server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer than 300 each, also on a lake of 3,000 songs, and some more for each month whose plays a song matches."""
    monkeypatch.setattr(etl, "SETTLED_MS", -10000)  # the input is seconds old
    songs, day = [song_of(number) for number in range(60)], 24 * 60 * 60 * 1000
    put(server, bucket, {"songs/%s.json" % song["song_id"]: [song] for song in songs})
    logs = {"logs/%d.json" % month: [event_record(ts=DECEMBER - 31 * day * month)] for month in range(4)}
    put(server, bucket, logs)
    assert main(*uris(bucket)).code == 0

    def changed_by(files: Dict[str, List[Rows]], most: int = 300) -> List[str]:
        """The objects of tables that a run with new files asks for by name."""
        put(server, bucket, files)
        server.calls.clear()
        done = main(*uris(bucket))
        assert done.code == 0, done.err
        kinds = Counter(
            "%s %s" % (call.method, re.sub("[0-9]{8}T[^/]+", "RUN", unquote(call.path))) for call in server.calls
        )
        assert sum(kinds.values()) < most, "\n".join("%3d %s" % (n, kind) for kind, n in kinds.most_common())
        paths = {unquote(call.path).partition("?")[0] for call in server.calls}
        return sorted(path for path in paths if re.search("the lake/.*/part-", path))

    asked = changed_by({"songs/new.json": [song_of(99)]})
    assert {path for path in asked if "/songs/" in path and "artist_id=AR99/" not in path} == set()
    assert not [path for path in asked if re.search("/(users|time|songplays)/", path)]
    asked = changed_by({"songs/played.json": [song_record()]}, most=300 + 4 * 15)
    assert len([path for path in asked if "/songplays/" in path and "/_work/" not in path]) == 4
    asked = changed_by({"logs/new.json": [event_record(ts=DECEMBER + day)]})
    assert {path for path in asked if "/songs/" in path} == set()
    assert {path for path in asked if "month=" in path and "year=2018/month=12/" not in path} == set()


def song_of(number: int) -> Rows:
    """A song of an artist of its own."""
    names = {"song_id": "SO%d" % number, "artist_id": "AR%d" % number, "artist_name": "Artist %d" % number}
    return song_record(title="Song %d" % number, **names)


def put(server: Server, bucket: str, files: Dict[str, List[Rows]]) -> None:
    """Put files of JSON lines into the input."""
    for name, records in files.items():
        body = "".join(json.dumps(record) + "\n" for record in records).encode()
        server.client("s3").put_object(Bucket=bucket, Key="raw/" + name, Body=body)


@pytest.mark.once
def test_the_root_of_a_bucket_can_be_input_and_lake(main: Main, server: Server, bucket: str, sample: Path) -> None:
    server.upload(sample / "songs", bucket, "")
    server.make_bucket(bucket + "-2")
    logs = "--log-data=%s" % (sample / "logs")
    done = main("--song-data=s3://%s" % bucket, logs, "--output=s3://%s-2/" % bucket)
    assert done.code == 0, done.err
    assert any(key.startswith("songplays/year=2018/month=11/") for key in server.keys(bucket + "-2"))


@pytest.mark.once
def test_tables_that_lose_all_rows_stay_readable_in_s3(
    main: Main, server: Server, spark: SparkSession, bucket: str, tmp_path: Path
) -> None:
    write_files(tmp_path, {"songs/1.json": [song_record()], "logs/1.json": [event_record()]})
    output = "s3://%s/the lake" % bucket
    paths = ["--song-data=%s" % (tmp_path / "songs"), "--log-data=%s" % (tmp_path / "logs"), "--output=" + output]
    for page, rows in (("NextSong", 1), ("Home", 0), ("Home", 0), ("NextSong", 1)):
        write_files(tmp_path, {"logs/1.json": [event_record(page=page, itemInSession=len(server.calls))]})
        done = main(*paths)
        assert done.code == 0, done.err
        for name in ("songplays", "time"):
            found = spark.read.parquet("%s/%s" % (output, name))
            assert sorted(found.dtypes) == sorted(etl.columns_of(name))
            assert found.count() == rows
            keys = [key for key in server.keys(bucket, "the lake/%s/" % name) if key.endswith(".parquet")]
            assert keys == ["the lake/%s/%s/part-00000.parquet" % (name, MONTHS[rows])]


MONTHS = ["year=0/month=0", "year=2018/month=11"]


@pytest.mark.once
@pytest.mark.slow
def test_what_a_killed_run_has_built_on_the_disk_is_removed_by_the_next_one_but_not_what_a_living_one_has(
    main: Main, server: Server, bucket: str, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.upload(sample, bucket, "raw")
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    command = [sys.executable, str(etl.__file__), "--mode=S3", "--max-bad-percent=50", *uris(bucket)[:2]]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK_GATEWAY")}
    process = subprocess.Popen(
        [*command, "--output=s3://%s/other" % bucket],
        cwd=str(tmp_path),
        env={**env, **server.environment(tmp_path), "PYSPARK_PYTHON": sys.executable},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        said_until(process.stderr, "build artists")
        process.send_signal(signal.SIGSTOP)
        (folder,) = [path for path in tmp_path.glob("sparkify-*") if path.is_dir()]
        assert main(*uris(bucket)).code == 0
        assert folder.is_dir()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert folder.is_dir()
    assert main(*uris(bucket)).code == 0
    assert list(tmp_path.glob("sparkify-*")) == []


# ------------------------------------------------------------------------------------ when S3 does not play along


def test_a_busy_s3_is_asked_again(main: Main, server: Server, published: str, expected: Path, tmp_path: Path) -> None:
    busy = [server.answer(method, published, 503, "SlowDown", times=3) for method in ("HEAD", "GET", "PUT", "POST")]
    before = tables_of(server, published)
    done = main("--full", *uris(published))
    assert [answer.times for answer in busy] == [0, 0, 0, 0]
    assert done.code == 0, done.err
    assert tables_of(server, published).keys() == before.keys()  # an object is written over by its successor
    assert same_rows(server.download(published, "the lake/", tmp_path), expected)
    assert len([key for key in server.keys(published, "the lake/_runs/") if key.endswith(".json")]) >= 2


@pytest.mark.parametrize("denied", ["/songs/year", "/songplays/year"])
def test_access_denied_midway_keeps_the_old_lake(
    denied: str, main: Main, server: Server, published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    bucket = published
    before = tables_of(server, bucket)
    server.answer("PUT", denied, 403, "AccessDenied")
    done = main("--full", *uris(bucket))
    assert done.code == 2
    (sentence,) = [line for line in done.err.splitlines() if line.startswith("etl.py:")]
    told = "etl.py: publish failed, the lake is as it was: no permission: the credentials in use may not do this"
    assert sentence.startswith(told)
    assert "the lake/_work/" in sentence.split("(")[1]
    assert tables_of(server, bucket) == before
    assert [key for key in server.keys(bucket, "the lake/_work/") if key.endswith(".parquet")] == []
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_cannot_be_read_to_its_end_is_not_copied(
    spark: SparkSession, server: Server, published: str
) -> None:
    store = etl.open_store(spark, "s3://%s/copies" % published)
    assert isinstance(store, etl.ObjectStore)
    store.write("target", "old")
    store.write("source", "new")
    server.answer("GET", "copies/source", 403, "AccessDenied")
    with pytest.raises(Py4JJavaError):
        store.copy(store.root + "/source", "target")
    server.answers.clear()
    assert store.read("target") == "old"
    store.copy(store.root + "/source", "target")
    assert store.read("target") == "new"


def test_an_object_is_not_stored_when_the_time_of_the_run_is_over(
    spark: SparkSession, server: Server, published: str
) -> None:
    """S3's client retries for minutes, in which another run may have taken over."""
    store = etl.open_store(spark, "s3://%s/late" % published)
    assert isinstance(store, etl.ObjectStore)
    store.write("target", "old")
    store.write("source", "new")
    store.until.set(store.jvm.System.nanoTime() - 1)
    with pytest.raises(Py4JJavaError, match="the lock expired"):
        store.copy(store.root + "/source", "target")
    with pytest.raises(Py4JJavaError, match="the lock expired"):
        store.write("target", "new")
    assert store.read("target") == "old"


@pytest.mark.once
def test_a_run_that_finds_nothing_new_writes_its_report_alone(
    main: Main, server: Server, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl, "SETTLED_MS", -10000)  # the input is seconds old
    assert main("--full", *uris(published)).code == 0
    server.calls.clear()
    done = main(*uris(published))
    assert done.code == 0, done.err
    assert "  nothing has changed since run " in done.err
    written = {call.path.split("?")[0].split("/")[3] for call in server.changes() if call.method == "PUT"}
    assert written == {"_runs", "_locks"}
    assert len(server.calls) < 100


@pytest.mark.once
def test_a_publication_that_is_cut_off_is_finished_by_the_next_run(
    main: Main, server: Server, bucket: str, sample: Path, expected: Path, tmp_path: Path
) -> None:
    server.upload(sample, bucket, "raw")
    denied = server.answer("PUT", "lake/songplays/", 403, "AccessDenied")
    done = main(*uris(bucket))
    assert done.code == 2
    assert "etl.py: publish failed, the next run finishes publishing it: no permission" in done.err
    tables = {key.split("/")[1] for key in tables_of(server, bucket)}
    assert tables == {"artists", "songs", "users", "time"}
    denied.times = 0
    again = main(*uris(bucket))
    assert again.code == 0, again.err
    assert "  finished the publishing of run" in again.err
    assert same_rows(server.download(bucket, "the lake/", tmp_path), expected)
    assert [key for key in server.keys(bucket, "the lake/_") if "_work" in key or "_locks" in key] == []
    assert len([key for key in server.keys(bucket, "the lake/_runs/") if key.endswith(".json")]) == 2


@pytest.mark.once
def test_two_runs_into_one_lake_are_refused(
    main: Main, server: Server, spark: SparkSession, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl, "BEAT_SECONDS", 0.2)
    before = tables_of(server, published)
    with etl.open_store(spark, uris_of(published)[2]).locked("first", lambda _: None):
        done = main(*uris(published))
    assert done.code == 75
    assert "etl.py: another run writes into %s: run first, process " % uris_of(published)[2] in done.err
    assert tables_of(server, published) == before
    assert [key for key in server.keys(published, "the lake/_") if "_work" in key or "_locks" in key] == []


NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("InvalidAccessKeyId", etl.S3_REFUSALS["InvalidAccessKeyId"]),
        ("SignatureDoesNotMatch", etl.S3_REFUSALS["SignatureDoesNotMatch"]),
        ("ExpiredToken", "the credentials have expired: get new ones"),
        ("AccessDenied", "no permission: the credentials in use may not do this"),
        ("NoSuchBucket", "there is no such bucket"),
    ],
)
def test_a_refusal_is_one_sentence(code: str, sentence: str, main: Main, server: Server, bucket: str) -> None:
    status = 404 if code == "NoSuchBucket" else 403
    server.answer("GET", bucket, status, code)
    before = len(server.changes())
    done = main(*uris(bucket))
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("etl.py: song_data s3://%s/raw/songs: %s" % (bucket, sentence))
    assert len(server.changes()) == before


def test_a_bucket_that_is_not_there_is_said(main: Main, bucket: str) -> None:
    done = main(*uris(bucket)[:2], "--output=s3://no-%s/lake" % bucket)
    assert done.code == 2
    assert "song_data: there is no folder s3://%s/raw/songs" % bucket in done.err


def test_an_output_bucket_that_is_not_there_is_said(main: Main, server: Server, bucket: str, sample: Path) -> None:
    server.upload(sample, bucket, "raw")
    done = main(*uris(bucket)[:2], "--output=s3://no-%s/lake" % bucket)
    assert done.code == 2
    assert done.err.endswith("etl.py: output s3://no-%s/lake: there is no such bucket\n" % bucket)


def test_a_store_that_does_not_answer_is_said_soon(main: Main, bucket: str) -> None:
    done = main(*uris(bucket), endpoint=NOWHERE)
    assert done.code == 75
    told = "etl.py: song_data s3://%s/raw/songs: S3 cannot be reached, check the network and AWS_ENDPOINT_URL\n"
    assert done.err.endswith(told % bucket)


def test_no_credentials_anywhere_is_said(main: Main, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "dl.cfg").write_text("")
    done = main(*uris(bucket), "--config=%s" % (tmp_path / "dl.cfg"))
    assert done.code == 2
    assert done.err.endswith("etl.py: song_data s3://%s/raw/songs: %s\n" % (bucket, etl.NO_CREDENTIALS))


def test_others_files_are_never_replaced(main: Main, server: Server, bucket: str, sample: Path) -> None:
    server.upload(sample, bucket, "raw")
    server.client("s3").put_object(Bucket=bucket, Key="the lake/songs/mine.txt", Body=b"mine")
    done = main(*uris(bucket))
    assert done.code == 2
    told = "etl.py: output: s3://%s/the lake holds 'songs', which this job did not make\n"
    assert done.err.endswith(told % bucket)
    assert server.keys(bucket, "the lake/") == ["the lake/songs/mine.txt"]


# ------------------------------------------------------------------------------------ how S3's client is fetched

IVY_SETTINGS = """\
<ivysettings>
  <settings defaultResolver="nowhere"/>
  <caches defaultCacheDir="%s"/>
  <resolvers><ibiblio name="nowhere" m2compatible="true" root="http://127.0.0.1:1/"/></resolvers>
</ivysettings>
"""


@pytest.mark.slow
def test_a_client_that_cannot_be_downloaded_is_said_in_a_sentence(tmp_path: Path) -> None:
    """A process of its own, which looks for it at an address where nobody answers."""
    settings = tmp_path / "ivysettings.xml"
    settings.write_text(IVY_SETTINGS % (tmp_path / "cache"))
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "spark-defaults.conf").write_text("spark.jars.ivySettings %s\nspark.jars.ivy %s\n" % (settings, tmp_path))
    done = run_job("S3", *uris_of("none"), cwd=tmp_path, env={"SPARK_CONF_DIR": str(conf)})
    assert done.returncode == 2
    told = r"etl\.py: Spark did not start: its S3 client, org\.apache\.hadoop:hadoop-aws:\S+, could not be downloaded: "
    (sentence,) = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    assert re.match(told, sentence)


# ------------------------------------------------------------------------------------ how S3 is reached


def s3a(**changes: Any) -> Dict[str, str]:
    """The configuration for a config with some differences, where Spark has found no credentials."""
    config = etl.Config("S3", "s3://in/songs", "s3://in/logs", "s3://out/lake", 5.0)
    return etl.s3a_conf(config._replace(**changes), signed=False, chain="the.Chain")


def test_the_chain_of_aws_comes_before_dl_cfg() -> None:
    conf = s3a(aws=etl.Secrets({"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION}))
    providers = conf["fs.s3a.aws.credentials.provider"].split(",")
    assert providers[0] == "the.Chain"
    assert providers[-1].endswith(".SimpleAWSCredentialsProvider")
    assert (conf["fs.s3a.access.key"], conf["fs.s3a.secret.key"]) == (KEY_ID, SECRET)
    assert "fs.s3a.session.token" not in conf


def test_credentials_of_the_environment_are_never_mixed_with_those_of_dl_cfg() -> None:
    config = etl.Config("S3", "s3://in/songs", "s3://in/logs", "s3://out/lake", 5.0)
    aws = etl.Secrets({"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": "t"})
    conf = etl.s3a_conf(config._replace(aws=aws), signed=True, chain="the.Chain")
    assert not any(name in key for key in conf for name in ("access.key", "secret.key", "session.token", "provider"))


@pytest.mark.parametrize(("endpoint", "tls"), [("http://127.0.0.1:9000", "false"), ("https://minio.example", "true")])
def test_a_store_of_ones_own_has_its_buckets_in_the_path(endpoint: str, tls: str) -> None:
    conf = s3a(endpoint=endpoint, region="eu-north-1")
    assert conf["fs.s3a.endpoint"] == endpoint
    assert conf["fs.s3a.path.style.access"] == "true"
    assert conf["fs.s3a.connection.ssl.enabled"] == tls
    assert conf["fs.s3a.endpoint.region"] == "eu-north-1"
    assert not any("endpoint" in key or "path.style" in key for key in s3a())


def test_only_the_buckets_of_the_input_are_anonymous() -> None:
    anonymous = [key for key, value in s3a(anonymous=True).items() if "Anonymous" in value]
    assert anonymous == ["fs.s3a.bucket.in.aws.credentials.provider"]
    assert not any("Anonymous" in value for value in s3a(anonymous=True, output="s3://in/lake").values())
    assert not any("Anonymous" in value for value in s3a().values())


@pytest.mark.parametrize(
    ("key", "value"), [("fs.s3.impl", EMRFS), ("mapreduce.fileoutputcommitter.algorithm.version", "1")]
)
def test_a_cluster_keeps_what_it_has_chosen(key: str, value: str, spark: SparkSession) -> None:
    """EMR's own file system stays, and with it everything; elsewhere the user's Spark settings do."""
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    config = etl.Config("S3", "s3://in/songs", "s3://in/logs", "s3://out/lake", 5.0, endpoint=NOWHERE)
    before = hadoop.get(key)
    hadoop.set(key, value)
    hadoop.unset("fs.s3a.endpoint")
    if key != "fs.s3.impl":
        spark.sparkContext._conf.set("spark.hadoop." + key, value)
    try:
        etl.connect_s3(spark, config)
        assert hadoop.get(key) == value
        assert (hadoop.get("fs.s3a.endpoint") == NOWHERE) == (key != "fs.s3.impl")
    finally:
        hadoop.set(key, before)


def test_what_a_site_has_configured_stays(spark: SparkSession, tmp_path: Path) -> None:
    jvm: Any = spark.sparkContext._jvm
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    site = "<configuration><property><name>fs.s3a.endpoint</name><value>of-the-site</value></property></configuration>"
    (tmp_path / "core-site.xml").write_text(site)
    before = hadoop.get("fs.s3a.endpoint") or ""
    hadoop.unset("fs.s3a.endpoint")
    hadoop.addResource(jvm.org.apache.hadoop.fs.Path((tmp_path / "core-site.xml").as_uri()))
    try:
        etl.connect_s3(spark, etl.Config("S3", "s3://in/s", "s3://in/l", "s3://out/lake", 5.0, endpoint=NOWHERE))
        assert hadoop.get("fs.s3a.endpoint") == "of-the-site"
    finally:
        hadoop.set("fs.s3a.endpoint", before)
