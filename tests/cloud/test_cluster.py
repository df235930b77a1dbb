"""spark-submit on a standalone cluster: a master and two workers on loopback, processes as on any machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Set

import pytest
from conftest import ROOT, SAMPLE, said_until
from standalone import ON_TWO_EXECUTORS, SPARK, Cluster, running

JAVA_OPTIONS = "-XX:TieredStopAtLevel=1"  # as in conftest.py


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster"), workers=2) as cluster:
        yield cluster


class Submitted(NamedTuple):
    """A finished spark-submit."""

    code: int
    out: str
    err: str
    events: List[Dict[str, Any]]  # of Spark's event log


def submission(cluster: Cluster, folder: Path, *argv: str) -> subprocess.Popen[str]:
    """spark-submit a copy of etl.py that has no other file of the project beside it, from an empty folder."""
    script, cwd, log = folder / "scripts/spark-etl.py", folder / "somewhere else", folder / "events"
    for each in (script.parent, cwd, log):
        each.mkdir(exist_ok=True)
    shutil.copy(str(ROOT / "etl.py"), str(script))
    conf = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": log.as_uri(),
        "spark.eventLog.compress": "false",
        "spark.executor.memory": "512m",
        "spark.executor.extraJavaOptions": JAVA_OPTIONS,
        "spark.driver.extraJavaOptions": JAVA_OPTIONS,
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        **ON_TWO_EXECUTORS,
    }
    settings = [word for item in conf.items() for word in ("--conf", "%s=%s" % item)]
    command = [str(SPARK / "bin/spark-submit"), "--master", cluster.url, *settings, str(script), *argv]
    output = subprocess.PIPE
    return subprocess.Popen(command, cwd=str(cwd), env=cluster.env, stdout=output, stderr=output, encoding="utf-8")


def ended(submitted: subprocess.Popen[str], folder: Path) -> Submitted:
    """Wait for its end."""
    out, err = submitted.communicate(timeout=300)
    files = [path for path in sorted((folder / "events").rglob("*")) if path.is_file() and path.name[0] != "."]
    events = [json.loads(line) for path in files for line in path.read_bytes().splitlines()]
    return Submitted(submitted.returncode, out, err, events)


def submit(cluster: Cluster, folder: Path, *argv: str) -> Submitted:
    """spark-submit the job and wait for its end."""
    return ended(submission(cluster, folder, *argv), folder)


def hosts_of_tasks(events: List[Dict[str, Any]]) -> Set[str]:
    """The executors that finished a task."""
    ended = [event for event in events if event["Event"] == "SparkListenerTaskEnd"]
    return {event["Task Info"]["Executor ID"] for event in ended if not event["Task Info"]["Failed"]}


def executors(cluster: Cluster) -> List[int]:
    """The processes of a cluster's executors, which work in folders below the workers'."""
    found, work = [], os.path.realpath(cluster.env["SPARK_WORKER_DIR"])
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            is_executor = b"CoarseGrainedExecutorBackend" in (process / "cmdline").read_bytes()
            if is_executor and os.readlink(str(process / "cwd")).startswith(work):
                found.append(int(process.name))
    return found


@pytest.mark.slow
def test_spark_submit_builds_the_lake_on_two_workers_of_which_one_loses_its_executor(
    cluster: Cluster, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    paths = ["--song-data", str(SAMPLE / "song_data"), "--log-data", str(SAMPLE / "log_data"), "--output", str(lake)]
    process = submission(cluster, tmp_path, *paths)
    said = said_until(process.stdout, "build songs")  # in two tasks; spark-submit joins what its Python prints
    first, _ = executors(cluster)
    os.kill(first, signal.SIGKILL)
    submitted = ended(process, tmp_path)
    assert submitted.code == 0, said + submitted.out
    assert hosts_of_tasks(submitted.events) >= {"0", "1"}
    assert "SparkListenerExecutorRemoved" in {event["Event"] for event in submitted.events}
    (report,) = [json.loads(path.read_text("utf-8")) for path in (lake / "_runs").iterdir()]
    rows = {name: table["rows"] for name, table in report["tables"].items()}
    dimensions = {"songs": 148, "artists": 105, "users": 41, "time": 2021}  # as data/README.md
    assert rows == {**dimensions, "songplays": 2023, "staging_songs": 149, "staging_events": 2601}
    assert (report["matched"], report["artists_known"]) == (706, 749)
    assert sorted(path.name for path in lake.iterdir()) == ["_ledger", "_lock", "_quarantine", "_runs", *sorted(rows)]
    assert list((tmp_path / "somewhere else").iterdir()) == []


def test_a_run_that_fails_on_a_cluster_says_why_and_returns_its_code(cluster: Cluster, tmp_path: Path) -> None:
    paths = ["--song-data", str(tmp_path / "none"), "--log-data", str(SAMPLE / "log_data"), "--output", "lake"]
    done = submit(cluster, tmp_path, *paths)
    assert done.code == 2
    assert "etl.py: song_data: there is no folder %s\n" % (tmp_path / "none") in done.out


def test_without_an_s3_client_the_run_says_how_to_get_one(cluster: Cluster, tmp_path: Path) -> None:
    if list((SPARK / "jars").glob("hadoop-aws-*")):
        pytest.skip("this Spark has an S3 client among its jars, as EMR's has its own")
    done = submit(cluster, tmp_path, "--mode", "S3")
    assert done.code == 2
    hint = r"start it with: spark-submit --packages org\.apache\.hadoop:hadoop-aws:\d+\.\d+\.\d+\n"
    assert re.search(r"etl\.py: there is no S3 client on Spark's class path; " + hint, done.out)
