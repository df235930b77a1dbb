"""spark-submit on a standalone cluster: a master and two workers on loopback, processes as on any machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Set

import pytest
from conftest import ROOT, SAMPLE
from standalone import SPARK, Cluster, running

JAVA_OPTIONS = "-XX:TieredStopAtLevel=1"  # as in conftest.py


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster"), workers=2) as cluster:
        yield cluster


class Submitted(NamedTuple):
    """A finished spark-submit."""

    done: Any
    events: List[Dict[str, Any]]  # of Spark's event log


def submit(cluster: Cluster, folder: Path, *argv: str) -> Submitted:
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
    }
    settings = [word for item in conf.items() for word in ("--conf", "%s=%s" % item)]
    command = [str(SPARK / "bin/spark-submit"), "--master", cluster.url, *settings, str(script), *argv]
    done = subprocess.run(
        command, cwd=str(cwd), env=cluster.env, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    files = [path for path in sorted(log.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return Submitted(done, [json.loads(line) for path in files for line in path.read_bytes().splitlines()])


def hosts_of_tasks(events: List[Dict[str, Any]]) -> Set[str]:
    """The executors that finished a task."""
    ended = [event for event in events if event["Event"] == "SparkListenerTaskEnd"]
    return {event["Task Info"]["Executor ID"] for event in ended if not event["Task Info"]["Failed"]}


@pytest.mark.slow
def test_spark_submit_builds_the_lake_on_two_workers(cluster: Cluster, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    paths = ["--song-data", str(SAMPLE / "song_data"), "--log-data", str(SAMPLE / "log_data"), "--output", str(lake)]
    submitted = submit(cluster, tmp_path, *paths)
    assert submitted.done.returncode == 0, submitted.done.stdout
    assert hosts_of_tasks(submitted.events) == {"0", "1"}
    (report,) = [json.loads(path.read_text("utf-8")) for path in (lake / "_runs").iterdir()]
    rows = {name: table["rows"] for name, table in report["tables"].items()}
    assert rows == {"songplays": 2023, "songs": 148, "artists": 105, "users": 41, "time": 2021}  # as data/README.md
    assert report["matched"] == 706
    assert sorted(path.name for path in lake.iterdir()) == ["_quarantine", "_runs", *sorted(rows)]
    assert list((tmp_path / "somewhere else").iterdir()) == []


def test_a_run_that_fails_on_a_cluster_says_why_and_returns_its_code(cluster: Cluster, tmp_path: Path) -> None:
    paths = ["--song-data", str(tmp_path / "none"), "--log-data", str(SAMPLE / "log_data"), "--output", "lake"]
    done = submit(cluster, tmp_path, *paths).done
    assert done.returncode == 2
    # spark-submit joins what its Python prints
    assert "etl.py: song_data: there is no folder %s\n" % (tmp_path / "none") in done.stdout


def test_without_an_s3_client_the_run_says_how_to_get_one(cluster: Cluster, tmp_path: Path) -> None:
    if list((SPARK / "jars").glob("hadoop-aws-*")):
        pytest.skip("this Spark has an S3 client among its jars, as EMR's has its own")
    done = submit(cluster, tmp_path, "--mode", "S3").done
    assert done.returncode == 2
    hint = r"start it with: spark-submit --packages org\.apache\.hadoop:hadoop-aws:\d+\.\d+\.\d+\n"
    assert re.search(r"etl\.py: there is no S3 client on Spark's class path; " + hint, done.stdout)
