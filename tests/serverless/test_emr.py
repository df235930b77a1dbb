"""emr_serverless.sh by the real aws CLI against moto's server, which runs nothing."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from aws import REGION, Server, with_cli
from cfnlint.decode import cfn_yaml
from conftest import ROOT, said_until
from moto.emrserverless.models import emrserverless_backends

ACCOUNT, BUCKET, INPUT = "123456789012", "sparkify-dl-sp", "udacity-dend"
ROLE = "arn:aws:iam::%s:role/sparkify-job" % ACCOUNT
JOB = "s3://sparkify-dl-sp/sparkify-scripts/spark-etl.py"
ARGUMENTS = [
    *("--mode", "S3", "--song-data", "s3://udacity-dend/song_data", "--log-data", "s3://udacity-dend/log_data"),
    *("--output", "s3://sparkify-dl-sp/sparkify-data", "--max-bad-percent", "5"),
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
    """Start a copy of the script in a project that has no dl.cfg."""
    (folder / "serverless").mkdir()
    for name in ("serverless/emr_serverless.sh", "create_s3.py", "etl.py"):
        shutil.copy(str(ROOT / name), str(folder / name))
    env = {**server.environment(folder), "PATH": with_cli(folder / "tools"), "POLL_SECONDS": "0", **settings}
    command = [str(folder / "serverless/emr_serverless.sh"), *argv]
    output = subprocess.PIPE
    return subprocess.Popen(command, cwd=str(folder), env=env, stdout=output, stderr=output, encoding="utf-8")


def runs(application: str) -> List[Any]:
    """The runs that moto has taken."""
    found: Dict[str, List[Any]] = emrserverless_backends[ACCOUNT][REGION].job_runs
    return found.get(application, [])


@pytest.mark.parametrize(("state", "code"), [("SUCCESS", 0), ("FAILED", 1)])
def test_a_run_is_the_step_of_a_cluster(
    server: Server, application: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, code: int
) -> None:
    monkeypatch.setattr("moto.emrserverless.models.JOB_STATUS", "RUNNING")  # moto's own ends a run as it begins
    process = start(server, tmp_path, "--wait", "--", "--full", APPLICATION=application, JOB_ROLE=ROLE)
    said = said_until(process.stdout, "\nstop ")
    (run,) = runs(application)
    put_log(server, application, run.id, "stdout", "etl.py: too many bad records")
    put_log(server, application, run.id, "stderr", "Spark's own words")
    run.state, run.state_details = state, "as EMR words it"
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert ("The job has succeeded." in out) == (code == 0)
    told = "as EMR words it\netl.py: too many bad records\nSpark's own words\n"
    assert err == "" if code == 0 else err.endswith(told)
    assert said.startswith("started   run %s\n" % run.id)
    assert run.job_driver == {
        "sparkSubmit": {
            "entryPoint": JOB,
            "entryPointArguments": [*ARGUMENTS, "--full"],
            "sparkSubmitParameters": "--conf spark.dynamicAllocation.maxExecutors=3",
        }
    }
    assert run.execution_role_arn == ROLE
    assert run.tags == {"project": "sparkify"}
    assert run.execution_timeout_minutes == 180
    logs = run.configuration_overrides["monitoringConfiguration"]["s3MonitoringConfiguration"]["logUri"]
    assert logs == "s3://sparkify-dl-sp/emr-logs/"


def put_log(server: Server, application: str, run: str, name: str, text: str) -> None:
    """What EMR Serverless stores of the driver."""
    key = "emr-logs/applications/%s/jobs/%s/SPARK_DRIVER/%s.gz" % (application, run, name)
    server.client("s3").put_object(Bucket=BUCKET, Key=key, Body=gzip.compress(text.encode() + b"\n"))


def test_driver_and_executors_fit_what_the_template_allows() -> None:
    parameters = cfn_yaml.load(str(ROOT / "serverless/emr-serverless.yaml"))["Parameters"]
    script = (ROOT / "serverless/emr_serverless.sh").read_text("utf-8")
    executors = int(re.findall(r"EXECUTORS:=(\d+)", script)[0])
    assert parameters["MaxCores"]["Default"] == 4 * (1 + executors) == 16  # a new account's quota


def test_a_dry_run_starts_nothing(server: Server, application: str, tmp_path: Path) -> None:
    process = start(server, tmp_path, "--dry-run", APPLICATION=application, JOB_ROLE=ROLE)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err, runs(application)) == (0, "", [])
    assert out.startswith("aws emr-serverless start-job-run")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "emr_serverless.sh: APPLICATION is empty; it is an output of the stack"),
        ({"APPLICATION": "00f1r7b1abcd2345"}, "emr_serverless.sh: JOB_ROLE is empty; it is an output of the stack"),
        ({"APPLICATION": "00f1r7b1abcd2345", "JOB_ROLE": ROLE}, "(ResourceNotFoundException)"),
        (
            {"APPLICATION": "0", "JOB_ROLE": ROLE, "BUCKET": "nobodys"},
            "s3://nobodys/sparkify-scripts/spark-etl.py does not exist",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(
    server: Server, tmp_path: Path, settings: Dict[str, str], sentence: str
) -> None:
    process = start(server, tmp_path, **settings)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert sentence in err
