"""AWS Lambda: brings the lake up to date after new files have arrived, with the etl.py that clusters run.

Messages are only a trigger. The job finds what is new in its input, so duplicate, late or reordered messages change
nothing. An input that is too large for a Lambda function goes to an EMR cluster instead, launched by etl_job.sh. A
message leaves the queue only when the lake holds everything that was in the input by then.

Settings are environment variables, those of etl.py and etl_job.sh and these:
  BUCKET, SCRIPT        where create_s3.py has uploaded the job
  MAX_BYTES, MAX_FILES  limits of new input, above which the job runs on EMR
  CRAWLER               a Glue crawler to start afterwards; none by default
"""

from __future__ import annotations

import datetime
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Tuple, Union

import boto3
from botocore.exceptions import ClientError

import etl

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES, MAX_FILES = "2000000000", "2000"  # docs/deploy.md has the reasons
NAME = "sparkify-etl"  # as in etl_job.sh
HEAP = 0.7  # of the function's memory; the rest is for Java's own needs, both Pythons and the aws CLI
LAST_SECONDS = 90  # of the function's time, in which a run is ended tidily and a cluster launched
TIDY_SECONDS = 30
NAMESPACE = "Sparkify"  # of the metrics

Event = Dict[str, Any]


class RunFailedError(Exception):
    """The lake is not up to date: the messages return to the queue, and finally become dead letters."""


class Load(NamedTuple):
    """What a run would read."""

    files: int
    bytes: int

    def fits(self) -> bool:
        """Whether a Lambda function can read it within its time and memory."""
        most = os.environ.get("MAX_BYTES", MAX_BYTES), os.environ.get("MAX_FILES", MAX_FILES)
        return self.bytes <= int(most[0]) and self.files <= int(most[1])


def handler(event: Event, context: Any) -> Event:
    """Lambda's entry point, for a batch of SQS messages. Returns the messages that must be delivered again.

    Raises RunFailedError where the job or the launch of a cluster fails, etl.UsageError for wrong settings.
    """
    config = etl.configure([], os.environ)
    if is_only_a_test(event) and not all(list_files(getattr(config, name)) for name in etl.INPUTS):
        print("S3 has sent its test notification, and there is no input yet")
        return {"batchItemFailures": []}
    refuse_another_job()
    if cluster_at_work():
        return postponed(event, "an EMR cluster is running; the messages return when it may have terminated")
    ledger = read_ledger(config)
    load = to_read(config, ledger)
    if not load.fits():
        return postponed(event, "%d files of %d bytes are too much for Lambda: %s" % (*load, launch_cluster(config)))
    started = datetime.datetime.now(datetime.timezone.utc)
    if not run_job(context):
        return postponed(event, "the run did not end within the function's time: %s" % launch_cluster(config))
    before = ledger.report if isinstance(ledger, etl.Ledger) else {}
    say_metrics(latest_report(config, started), before)
    start_crawler()
    return {"batchItemFailures": []}


def postponed(event: Event, reason: str) -> Event:
    """The response that returns all messages of a batch to the queue; prints the reason."""
    print(reason)
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in event.get("Records", [])]}


def is_only_a_test(event: Event) -> bool:
    """Whether all messages are those that S3 sends when notifications are set up."""
    return all(json.loads(record["body"]).get("Event") == "s3:TestEvent" for record in event.get("Records", []))


# ------------------------------------------------------------------------------------ the plan


def refuse_another_job() -> None:
    """Fail if the script in the bucket differs: two versions in turn would rebuild the whole lake each time."""
    bucket, key = os.environ["BUCKET"], os.environ["SCRIPT"]
    deployed = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    if deployed != Path(etl.__file__).read_bytes():
        raise RunFailedError(
            "this function has another etl.py than s3://%s/%s: deploy the function again, or run create_s3.py"
            % (bucket, key)
        )


def place(uri: str, *parts: str) -> Tuple[str, str]:
    """The bucket and key of a name in a folder of S3.

    >>> place("s3://mine/lake", "_runs", ""), place("s3://mine", "")
    (('mine', 'lake/_runs/'), ('mine', ''))
    """
    bucket, _, folder = uri.partition("://")[2].rstrip("/").partition("/")
    return bucket, "/".join([folder, *parts] if folder else parts)


def read_ledger(config: etl.Config) -> Union[etl.Ledger, str]:
    """The ledger of the last run, or why there is no usable one."""
    bucket, key = place(config.output, etl.LEDGER)
    try:
        text = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode("utf-8", "replace")
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchKey":
            raise
        text = None
    return etl.ledger_of(text)


def to_read(config: etl.Config, ledger: Union[etl.Ledger, str]) -> Load:
    """What a run would read, by the job's own plan."""
    listing = {name: list_files(getattr(config, name)) for name in etl.INPUTS}
    lake = {name: list_objects(etl.joined(config.output, name)) for name in etl.PUBLISHED}
    plan = etl.plan(config, ledger, listing, lake)
    sizes = [listing[name][path][0] for name in etl.INPUTS for path in plan.read[name]]
    return Load(len(sizes), sum(sizes))


def list_files(uri: str) -> etl.Files:
    """The files of an input in S3, as the job lists them."""
    return {name: about for name, about in list_objects(uri).items() if about[0] and not etl.is_hidden(name)}


def list_objects(uri: str) -> etl.Files:
    """The objects in a folder of S3, by relative name: bytes and time of modification in ms."""
    bucket, prefix = place(uri, "")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    found = [entry for page in pages for entry in page.get("Contents", []) if not entry["Key"].endswith("/")]
    return {e["Key"][len(prefix) :]: (e["Size"], int(e["LastModified"].timestamp()) * 1000) for e in found}


# ------------------------------------------------------------------------------------ the two roads


def run_job(context: Any) -> bool:
    """Run etl.py; False where it is not done in the time that the function has. In a process of its own, so that a
    function that is kept warm begins each run with a fresh Java.
    """
    heap = "--driver-memory %dm pyspark-shell" % (int(context.memory_limit_in_mb) * HEAP)
    environment = {**os.environ, **named_user(Path(tempfile.gettempdir())), "PYSPARK_SUBMIT_ARGS": heap}
    seconds = context.get_remaining_time_in_millis() / 1000 - LAST_SECONDS
    with subprocess.Popen([sys.executable, str(ROOT / "etl.py")], env=environment) as process:
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            end(process)
            return False
    if code:
        raise RunFailedError("etl.py failed with exit code %d; its message is in the log" % code)
    return True


def named_user(folder: Path) -> Dict[str, str]:
    """An environment in which the user has a name, which Hadoop needs; Lambda's user is not in /etc/passwd."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        (folder / "passwd").write_text("lambda:x:%d:%d::%s:/bin/sh\n" % (os.getuid(), os.getgid(), folder))
        (folder / "group").write_text("lambda:x:%d:\n" % os.getgid())
        names = {"NSS_WRAPPER_PASSWD": str(folder / "passwd"), "NSS_WRAPPER_GROUP": str(folder / "group")}
        return {"LD_PRELOAD": "libnss_wrapper.so", **names}
    return {}


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a run cleanly, if it can."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=TIDY_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def cluster_at_work() -> bool:
    """Whether a cluster of etl_job.sh is running."""
    states = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
    pages = boto3.client("emr").get_paginator("list_clusters").paginate(ClusterStates=states)
    return os.environ.get("CLUSTER_NAME", NAME) in {cluster["Name"] for page in pages for cluster in page["Clusters"]}


def launch_cluster(config: etl.Config) -> str:
    """Launch the EMR job with the settings of this function, in a dl.cfg; returns the output of etl_job.sh."""
    places = {name: os.environ[name] for name in ("BUCKET", "SCRIPT")}
    places.update(SONG_DATA=config.song_data, LOG_DATA=config.log_data, OUTPUT=config.output)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "dl.cfg").write_text("[S3]\n" + "".join("%s = %s\n" % place for place in places.items()))
        done = subprocess.run(
            [str(ROOT / "etl_job.sh")], cwd=folder, capture_output=True, encoding="utf-8", check=False
        )
    if done.returncode:
        raise RunFailedError("no EMR cluster: " + done.stderr.strip())
    return done.stdout.strip()


# ------------------------------------------------------------------------------------ afterwards


def latest_report(config: etl.Config, since: datetime.datetime) -> Dict[str, Any]:
    """The report of the run that began after a time."""
    bucket, folder = place(config.output, "_runs", "")
    after = folder + since.strftime("%Y%m%dT%H%M%SZ")
    s3 = boto3.client("s3")
    found = s3.list_objects_v2(Bucket=bucket, Prefix=folder, StartAfter=after)["Contents"]
    report: Dict[str, Any] = json.load(s3.get_object(Bucket=bucket, Key=found[-1]["Key"])["Body"])
    return report


def quarantined(report: Mapping[str, Any]) -> int:
    """The bad records of both inputs."""
    return sum(account["quarantined"] for account in report.get("account", {}).values())


def say_metrics(report: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Log a line in CloudWatch's embedded metric format."""
    values = {
        "Plays": report["tables"]["songplays"]["rows"],
        "Quarantined": quarantined(report),
        "QuarantineGrowth": max(0, quarantined(report) - quarantined(before)),
    }
    metrics = [{"Name": name, "Unit": "Count"} for name in values]
    about = {"Namespace": NAMESPACE, "Dimensions": [[]], "Metrics": metrics}
    print(json.dumps({"_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [about]}, **values}))


def start_crawler() -> None:
    """Start the Glue crawler, if one is set and not running."""
    crawler = os.environ.get("CRAWLER")
    if not crawler:
        return
    try:
        boto3.client("glue").start_crawler(Name=crawler)
    except ClientError as error:
        if error.response["Error"]["Code"] != "CrawlerRunningException":
            raise
