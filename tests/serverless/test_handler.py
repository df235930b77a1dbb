"""The function: real notifications of moto's S3, the template's queue, the job and the launcher of clusters."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List
from urllib.parse import unquote_plus

import boto3
import compare_lakes
import pytest
from aws import Server, set_environment, with_cli
from botocore.exceptions import ClientError
from conftest import ROOT, SAMPLE, said_until
from lakes import local_lake, same_rows, small_sample
from road import LAKE, LANDING, Context, Road
from test_iam import enforcing, person

import etl
from serverless import handler

__all__ = ["enforcing"]  # a fixture

OUTPUT = "sparkify-data"
ANOTHER_DAY = sorted((SAMPLE / "log_data").rglob("*.json"))[1]
OF_MOTO = {  # it asks whether many objects may be deleted of the bucket, AWS of each object
    "Effect": "Allow",
    "Action": "s3:DeleteObject",
    "Resource": "arn:aws:s3:::" + LAKE,
}


@pytest.fixture
def road(enforcing: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Road]:
    """A fresh stack; the environment of this process is the function's, with root's credentials."""
    enforcing.reset()
    road = Road(enforcing)
    set_environment(monkeypatch, {**enforcing.environment(tmp_path), **road.stack.environment})
    monkeypatch.setenv("MAX_BAD_PERCENT", "50")
    monkeypatch.setenv("PATH", with_cli(tmp_path / "tools"))
    for name in [name for name in os.environ if name.startswith("PYSPARK_GATEWAY")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    return road


@contextmanager
def as_the_function(road: Road, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """With all the permissions of the template's role and no other: the server refuses the rest."""
    if not road.credentials:
        policy = [part for document in road.policies() for part in document["Statement"]]
        road.credentials = person(road.server, [*policy, OF_MOTO])
    with patch.context() as inside:
        inside.setattr(boto3, "DEFAULT_SESSION", None)
        for name, value in road.credentials.items():
            inside.setenv(name.upper(), value)
        road.server.post("/moto-api/reset-auth", "0")
        yield
        road.server.post("/moto-api/reset-auth", "inf")


def put_sample(road: Road, folder: Path) -> Path:
    """Some of the sample comes: six song files and a day of events."""
    sample = small_sample(folder / "input")
    for name, prefix in (("songs", "song_data"), ("logs", "log_data")):
        road.server.upload(sample / name, LANDING, prefix)
    return sample


def put_another_day(road: Road, sample: Path) -> None:
    shutil.copy(str(ANOTHER_DAY), str(sample / "logs/2018/11"))
    road.put(ANOTHER_DAY, "log_data/2018/11/" + ANOTHER_DAY.name)


def objects(road: Road) -> List[Any]:
    """The objects of the tables as they are."""
    entries = [entry for name in etl.TABLES for entry in road.server.entries(LAKE, "%s/%s/" % (OUTPUT, name))]
    return [(entry["Key"], entry["ETag"], entry["LastModified"]) for entry in entries]


def keys_of(message: Dict[str, Any]) -> List[str]:
    """The keys that a notification tells of."""
    return [unquote_plus(record["s3"]["object"]["key"]) for record in json.loads(message["Body"]).get("Records", [])]


def metrics(out: str) -> Dict[str, Any]:
    """The metrics of the last run, in CloudWatch's embedded format."""
    (*_, line) = [line for line in out.splitlines() if '"_aws"' in line]
    found: Dict[str, Any] = json.loads(line)
    named = [metric["Name"] for metric in found["_aws"]["CloudWatchMetrics"][0]["Metrics"]]
    assert found["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Sparkify"
    return {name: found[name] for name in named}


def run_beside_another(road: Road, messages: List[Dict[str, Any]]) -> None:
    """A run that is refused while another, which succeeds, is at work."""
    busy = road.server.answer("PUT", "/songplays/", 503, "SlowDown")  # lest the first ends too early
    first = subprocess.Popen([sys.executable, str(ROOT / "etl.py")], stderr=subprocess.PIPE, encoding="utf-8")
    said_until(first.stderr, "build time")
    with pytest.raises(handler.RunFailedError, match="exit code 75"):
        handler.handler(road.event(messages), Context())
    road.server.answers.remove(busy)
    first.communicate(timeout=900)
    assert first.returncode == 0


@pytest.mark.slow
def test_the_lake_is_a_local_run_s_however_often_and_in_whatever_order_messages_come(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sample = put_sample(road, tmp_path)
    messages = road.messages()
    assert "log_data/2018/11/events.json" in [key for message in messages for key in keys_of(message)]

    with as_the_function(road, monkeypatch):
        run_beside_another(road, messages)
    assert "another run writes into s3://%s/%s" % (LAKE, OUTPUT) in capfd.readouterr().err
    expected = local_lake(sample, tmp_path / "local")
    assert same_rows(road.server.download(LAKE, OUTPUT + "/", tmp_path / "lake"), expected)

    # All come again, twice each, the last ones first
    before = objects(road)
    assert road.deliver(messages[::-1] + messages) == 0
    assert objects(road) == before
    plays = compare_lakes.read(expected, "songplays").rows
    assert metrics(capfd.readouterr().out) == {"Plays": len(plays), "Quarantined": 2, "QuarantineGrowth": 0}

    # Another day, whose message comes before older ones that come once more
    put_another_day(road, sample)
    (message,) = road.messages()
    with as_the_function(road, monkeypatch):
        assert handler.handler(road.event([message, *messages]), Context()) == {"batchItemFailures": []}
    expected = local_lake(sample, tmp_path / "local")
    assert same_rows(road.server.download(LAKE, OUTPUT + "/", tmp_path / "later"), expected)
    assert metrics(capfd.readouterr().out)["QuarantineGrowth"] == 0
    assert road.clusters() == []


def test_the_quarantine_grows_by_what_is_bad_in_new_files(capsys: pytest.CaptureFixture[str]) -> None:
    def report(*quarantined: int) -> Dict[str, Any]:
        account = {name: {"quarantined": count} for name, count in zip(etl.INPUTS, quarantined)}
        return {"tables": {"songplays": {"rows": 7}}, "account": account}

    for before, growth in (({}, 5), (report(2, 1), 2), (report(4, 4), 0)):
        handler.say_metrics(report(2, 3), before)
        assert metrics(capsys.readouterr().out) == {"Plays": 7, "Quarantined": 5, "QuarantineGrowth": growth}


def launches(road: Road) -> List[bytes]:
    """The requests for a cluster, as the server got them."""
    return [call.body for call in road.server.calls if b'"Steps"' in call.body and b'"Instances"' in call.body]


def test_too_much_for_a_function_goes_to_one_cluster_by_the_call_of_etl_job(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    put_sample(road, tmp_path)
    monkeypatch.setenv("MAX_FILES", "6")
    messages = road.messages()
    assert road.deliver(messages) == len(messages)
    assert re.search(r"7 files of [0-9]+ bytes are too much for Lambda: launched  j-", capfd.readouterr().out)

    again = road.messages()
    assert sorted(map(keys_of, again)) == sorted(map(keys_of, messages))
    assert road.deliver(again) == len(messages)
    assert "an EMR cluster is running" in capfd.readouterr().out
    (by_function,) = launches(road)

    road.server.client("emr").terminate_job_flows(JobFlowIds=[road.clusters()[0]["Id"]])
    assert not handler.cluster_at_work()
    settings = [
        "%s = %s\n" % (name, os.environ[name]) for name in ("BUCKET", "SCRIPT", "SONG_DATA", "LOG_DATA", "OUTPUT")
    ]
    (tmp_path / "dl.cfg").write_text("[S3]\n" + "".join(settings))
    subprocess.run([str(ROOT / "etl_job.sh")], cwd=str(tmp_path), check=True)  # by hand, with the same settings
    assert launches(road) == [by_function, by_function]


def test_what_a_run_would_read_is_what_has_come_or_changed_since_the_last_one(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, config = road.server.client("s3"), etl.configure([], os.environ)
    for key, size in (("song_data/A/a.json", 5), ("song_data/_b.json", 7), ("log_data/c.json", 11)):
        s3.put_object(Bucket=LANDING, Key=key, Body=b" " * size)
    assert handler.to_read(config, handler.read_ledger(config)) == (2, 16)

    files = {name: handler.list_files(getattr(config, name)) for name in etl.INPUTS}
    ledger = etl.Ledger(
        inputs={name: getattr(config, name) for name in etl.INPUTS},
        files={n: {file: etl.Entry(*about, months=[]) for file, about in files[n].items()} for n in files},
        tables=dict.fromkeys(etl.PUBLISHED, (etl.digest({}), etl.Size())),
        reasons={name: Counter() for name in etl.INPUTS},
        report={"run_id": "run"},
        code=etl.code_version(),
    )
    store_ledger(road, ledger)
    assert handler.to_read(config, handler.read_ledger(config)) == (0, 0)
    s3.put_object(Bucket=LANDING, Key="log_data/c.json", Body=b" " * 13)
    assert handler.to_read(config, handler.read_ledger(config)) == (1, 13)
    store_ledger(road, ledger._replace(code="another"))
    assert handler.to_read(config, handler.read_ledger(config)) == (2, 18)
    store_ledger(road, ledger)
    s3.put_object(Bucket=LAKE, Key=OUTPUT + "/users/part-0.parquet", Body=b"PAR1")  # not of that run
    assert handler.to_read(config, handler.read_ledger(config)) == (2, 18)


def store_ledger(road: Road, ledger: etl.Ledger) -> None:
    """What a run leaves to the next one."""
    key = "%s/%s" % (OUTPUT, etl.LEDGER)
    road.server.client("s3").put_object(Bucket=LAKE, Key=key, Body=etl.ledger_text(ledger).encode())


@pytest.mark.parametrize(
    ("files", "size", "fits"), [(2000, 0, True), (2001, 0, False), (1, 2000000000, True), (1, 2000000001, False)]
)
def test_a_function_reads_so_many_files_and_bytes(road: Road, files: int, size: int, fits: bool) -> None:
    assert handler.Load(files, size).fits() == fits


def test_a_run_that_takes_too_long_is_ended_and_a_cluster_takes_over(
    road: Road, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put_sample(road, tmp_path)
    messages = road.messages()
    assert road.deliver(messages, seconds=handler.LAST_SECONDS + 1) == len(messages)
    assert "the run did not end within the function's time: launched  j-" in capfd.readouterr().out
    assert len(road.clusters()) == 1
    assert objects(road) == []


TEST_EVENT = {
    "Service": "Amazon S3",
    "Event": "s3:TestEvent",
    "Time": "2026-11-28T07:00:00.000Z",
    "Bucket": LANDING,
    "RequestId": "5582815E1AEA5ADF",
    "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR",
}


def test_what_s3_sends_when_notifications_are_set_up_is_no_failure(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing in the input, and not even the job in the bucket, there is nothing to do and nothing wrong."""
    road.put_job(b"an older one")
    messages = [{"MessageId": "1", "ReceiptHandle": "1", "Body": json.dumps(TEST_EVENT)}]
    assert handler.handler(road.event(messages), Context()) == {"batchItemFailures": []}
    assert "there is no input yet" in capsys.readouterr().out
    put_sample(road, tmp_path)  # files that were there before
    with pytest.raises(handler.RunFailedError, match="another etl.py"):
        handler.handler(road.event(messages), Context())


def test_what_fails_eight_times_is_a_dead_letter(road: Road, tmp_path: Path) -> None:
    put_another_day(road, small_sample(tmp_path / "input"))
    road.put_job(b"an older one")
    for _ in range(8):
        (message,) = road.messages()
        with pytest.raises(handler.RunFailedError, match="another etl.py than s3://sparkify-dl-sp/sparkify-scripts"):
            road.deliver([message])
    assert road.messages() == []
    (dead,) = road.messages("DeadLettersUrl")
    assert keys_of(dead) == keys_of(message)


def test_a_cluster_that_cannot_be_launched_is_a_failure(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    road.put(ANOTHER_DAY, "log_data/" + ANOTHER_DAY.name)
    monkeypatch.setenv("MAX_BYTES", "0")
    with pytest.raises(handler.RunFailedError, match="no EMR cluster: etl_job.sh: the input s3://"):
        road.deliver(road.messages())


def test_the_crawler_starts_unless_it_runs(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    glue = road.server.client("glue")
    targets = {"S3Targets": [{"Path": "s3://%s/%s/songplays" % (LAKE, OUTPUT)}]}
    glue.create_crawler(Name="sparkify", Role="crawler", DatabaseName="sparkify", Targets=targets)
    handler.start_crawler()
    assert glue.get_crawler(Name="sparkify")["Crawler"]["State"] == "READY"
    monkeypatch.setenv("CRAWLER", "sparkify")
    handler.start_crawler()
    handler.start_crawler()
    assert glue.get_crawler(Name="sparkify")["Crawler"]["State"] == "RUNNING"
    monkeypatch.setenv("CRAWLER", "another")
    with pytest.raises(ClientError, match="EntityNotFoundException"):
        handler.start_crawler()
