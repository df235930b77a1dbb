"""etl_job.sh on EMR Serverless and EMR 7, by the real aws CLI against moto's server, which runs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from aws import REGION, Server
from conftest import ROOT, said_until
from moto.emrserverless.models import emrserverless_backends

ACCOUNT, BUCKET, INPUT = "123456789012", "sparkify-dl-sp", "udacity-dend"
ROLE = "arn:aws:iam::%s:role/sparkify-job" % ACCOUNT
JOB = "s3://sparkify-dl-sp/sparkify-scripts/spark-etl.py"
ARGUMENTS = [
    *("--mode", "S3", "--song-data", "s3://udacity-dend/song_data", "--log-data", "s3://udacity-dend/log_data"),
    *("--output", "s3://sparkify-dl-sp/sparkify-data"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with input, script and an application."""
    server = Server()
    for bucket in (BUCKET, INPUT):
        server.make_bucket(bucket)
    server.make_roles()
    server.upload(ROOT / "docs", INPUT, "song_data")
    server.upload(ROOT / "docs", INPUT, "log_data")
    server.client("s3").upload_file(str(ROOT / "etl.py"), BUCKET, "sparkify-scripts/spark-etl.py")
    yield server
    server.close()


@pytest.fixture
def application(server: Server) -> str:
    about = {"name": "sparkify-etl", "releaseLabel": "emr-7.12.0", "type": "SPARK"}
    made = server.client("emr-serverless").create_application(**about)
    return str(made["applicationId"])


def start(server: Server, folder: Path, *argv: str, **settings: str) -> subprocess.Popen[str]:
    """Start a copy of etl_job.sh that has no dl.cfg beside it."""
    for name in ("etl_job.sh", "etl.py"):
        shutil.copy(str(ROOT / name), str(folder))
    path = "%s:%s" % (Path(sys.executable).parent, os.environ["PATH"])
    env = {**server.environment(folder), "PATH": path, "POLL_SECONDS": "0", **settings}
    command = [str(folder / "etl_job.sh"), *argv]
    output = subprocess.PIPE
    return subprocess.Popen(command, cwd=str(folder), env=env, stdout=output, stderr=output, encoding="utf-8")


def runs(application: str) -> List[Any]:
    """The runs that moto has taken."""
    found: Dict[str, List[Any]] = emrserverless_backends[ACCOUNT][REGION].job_runs
    return found.get(application, [])


@pytest.mark.parametrize(("state", "code"), [("SUCCESS", 0), ("FAILED", 1)])
def test_a_run_on_emr_serverless_is_the_step_of_a_cluster(
    server: Server, application: str, tmp_path: Path, state: str, code: int
) -> None:
    process = start(server, tmp_path, "--wait", APPLICATION=application, JOB_ROLE=ROLE, TAGS="team=data")
    said = said_until(process.stdout, "\nstop ")
    (run,) = runs(application)
    run.state, run.state_details = state, "as EMR words it"
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert ("The job has succeeded." in out) == (code == 0)
    assert ("the job has not succeeded: run %s FAILED (as EMR words it)" % run.id in err) == (code == 1)
    assert said.startswith("started   run %s\n" % run.id)
    assert run.job_driver == {"sparkSubmit": {"entryPoint": JOB, "entryPointArguments": ARGUMENTS}}
    assert run.execution_role_arn == ROLE
    assert run.tags == {"project": "sparkify", "team": "data"}
    assert run.execution_timeout_minutes == 180
    logs = run.configuration_overrides["monitoringConfiguration"]["s3MonitoringConfiguration"]["logUri"]
    assert logs == "s3://sparkify-dl-sp/emr-logs/"


def test_a_dry_run_starts_nothing(server: Server, application: str, tmp_path: Path) -> None:
    process = start(server, tmp_path, "--dry-run", APPLICATION=application, JOB_ROLE=ROLE)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err, runs(application)) == (0, "", [])
    assert "# runs on   EMR Serverless, application %s, us-west-2" % application in out
    assert "aws emr-serverless start-job-run" in out


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"APPLICATION": "no such thing"}, "APPLICATION is no such thing; it takes the id of an EMR Serverless"),
        ({"APPLICATION": "00f1r7b1abcd2345"}, "JOB_ROLE is empty; it takes the ARN of a role"),
        ({"APPLICATION": "00f1r7b1abcd2345", "JOB_ROLE": "job"}, "JOB_ROLE is job; it takes the ARN of a role"),
        ({"APPLICATION": "00f1r7b1abcd2345", "JOB_ROLE": ROLE}, "there is no application 00f1r7b1abcd2345"),
    ],
)
def test_what_cannot_be_right_is_refused(
    server: Server, tmp_path: Path, settings: Dict[str, str], sentence: str
) -> None:
    process = start(server, tmp_path, **settings)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("etl_job.sh: " + sentence)
    assert err.count("\n") == 1


def test_emr_7_takes_the_same_step(server: Server, tmp_path: Path) -> None:
    process = start(server, tmp_path, RELEASE="emr-7.12.0")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    emr = server.client("emr")
    (cluster,) = emr.list_clusters()["Clusters"]
    assert emr.describe_cluster(ClusterId=cluster["Id"])["Cluster"]["ReleaseLabel"] == "emr-7.12.0"
    (step,) = emr.list_steps(ClusterId=cluster["Id"])["Steps"]
    assert step["Config"]["Args"][-len(ARGUMENTS) - 1 :] == [JOB, *ARGUMENTS]
