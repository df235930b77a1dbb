"""The cluster of docker/compose.yaml without Docker: what it says is started as processes, each with an address of its
own on loopback. Commands, environment, order and health checks are read from it; only names of hosts and paths change.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Set
from urllib.request import urlopen

import boto3
import pytest
import yaml  # type: ignore[import-untyped]
from conftest import ROOT
from lakes import run_job, same_rows, small_sample
from standalone import ON_TWO_EXECUTORS, SPARK, environment

FOLDER = ROOT / "docker"
COMPOSE: Dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
SERVICES: Dict[str, Dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (FOLDER / "Dockerfile").read_text("utf-8")
S3_CLIENT = sorted((Path.home() / ".ivy2/jars").glob("*.jar"))  # fetched by make; the image has it inside


class Service(NamedTuple):
    """A process that runs as a service of compose.yaml does."""

    name: str
    address: str
    process: subprocess.Popen[str]
    log: Path


class Machine:
    """A folder for the volumes, and the addresses of services."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.running = folder, []  # type: Path, List[Service]
        self.network = "127.%d.%d." % (os.getpid() % 250 + 1, os.getpid() // 250 % 250)  # of this test process alone
        self.paths = {"/opt/sparkify": ROOT, "/data": data}
        for name in ("lake", "events", "work", "conf"):
            self.paths["/" + name] = folder / name
            (folder / name).mkdir()
        defaults = self.translated((FOLDER / "spark-defaults.conf").read_text("utf-8"))
        jars = "spark.jars %s\n" % ",".join(map(str, S3_CLIENT))
        quick = "spark.executor.extraJavaOptions -XX:TieredStopAtLevel=1\n"  # as in conftest.py
        both = "".join("%s %s\n" % setting for setting in ON_TWO_EXECUTORS.items())
        (folder / "conf/spark-defaults.conf").write_text(defaults + jars + quick + both)
        shutil.copy(str(FOLDER / "log4j2.properties"), str(folder / "conf"))

    def address(self, name: str) -> str:
        """Where a service is; a second one of a name is elsewhere."""
        alike = sum(service.name == name for service in self.running)
        return self.network + str(1 + 10 * list(SERVICES).index(name) + alike)

    def translated(self, text: str) -> str:
        """A text of compose.yaml for this machine: hosts by number, paths of containers in the folder."""
        for name in ("master", "s3"):
            host = r"(?<=//)%s(?=:\d)|(?<=--host )%s\b" % (name, name)
            text = re.sub(host, self.network + str(1 + 10 * list(SERVICES).index(name)), text)
        # All at once: what a path has become may begin with another one
        paths = r"(?<![\w./-])((?:file://)?)(%s)\b" % "|".join(self.paths)
        return re.sub(paths, lambda found: "%s%s" % (found[1], self.paths[found[2]]), text)

    def environment(self, service: Dict[str, Any], address: str) -> Dict[str, str]:
        """What a container of a service has in its environment."""
        given = {
            name: self.translated(os.environ.get(name, "") if value is None else value)  # as compose passes them on
            for name, value in service.get("environment", {}).items()
        }
        path = "%s:%s:%s" % (SPARK / "bin", Path(sys.executable).parent, os.environ["PATH"])
        conf = {"SPARK_CONF_DIR": str(self.folder / "conf"), "PATH": path, "SPARK_LOCAL_IP": address}
        return {**environment(self.folder), **conf, **given}

    def start(self, name: str) -> Service:
        """Start a service."""
        address, log = self.address(name), self.folder / ("%s-%d.log" % (name, len(self.running)))
        command = shlex.split(self.translated(SERVICES[name]["command"]).replace("0.0.0.0", address))
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                env=self.environment(SERVICES[name], address),
                cwd=str(self.folder),
                stdout=output,
                stderr=output,
                encoding="utf-8",
                start_new_session=True,
            )
        self.running.append(Service(name, address, process, log))
        return self.running[-1]

    def wait_until_healthy(self, service: Service) -> None:
        """Repeat a service's own check until it passes; fails where the service ends before."""
        check = SERVICES[service.name]["healthcheck"]["test"]
        command = [self.translated(word).replace("localhost", service.address) for word in check[1:]]
        path = {"PATH": "%s:%s" % (Path(sys.executable).parent, os.environ["PATH"])}
        while subprocess.run(command, env=path, stderr=subprocess.DEVNULL, check=False).returncode:
            assert service.process.poll() is None, service.log.read_text("utf-8")

    def up(self, name: str) -> None:
        """What docker compose up does for a service: first what it depends on, then as many as there are to be."""
        if any(service.name == name for service in self.running):
            return
        for other in SERVICES[name].get("depends_on", {}):
            self.up(other)
        for _ in range(SERVICES[name].get("deploy", {}).get("replicas", 1)):
            service = self.start(name)
            if "healthcheck" in SERVICES[name]:
                self.wait_until_healthy(service)
            else:
                code = service.process.wait(timeout=900)
                assert code == 0, service.log.read_text("utf-8")

    def down(self) -> None:
        for service in self.running:
            with suppress(ProcessLookupError):
                os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()

    def said(self, name: str) -> str:
        """The log of a service."""
        (service,) = [service for service in self.running if service.name == name]
        return service.log.read_text("utf-8")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with some of the sample."""
    small_sample(tmp_path / "small")
    for name, folder in (("songs", "song_data"), ("logs", "log_data")):
        (tmp_path / "small" / name).rename(tmp_path / "small" / folder)
    machine = Machine(tmp_path, tmp_path / "small")
    yield machine
    machine.down()


def events(folder: Path) -> List[Dict[str, Any]]:
    """Spark's event log of the only application."""
    (log,) = [path for path in folder.iterdir() if path.name.startswith("app-")]
    with log.open(encoding="utf-8") as lines:  # not splitlines(), which takes white space in plans for ends of lines
        return [json.loads(line) for line in lines]


def workers_with_tasks(found: List[Dict[str, Any]]) -> Set[str]:
    """The hosts where tasks have succeeded."""
    ended = [event["Task Info"] for event in found if event["Event"] == "SparkListenerTaskEnd"]
    return {task["Host"] for task in ended if not task["Failed"]}


@pytest.mark.slow
def test_the_job_runs_on_both_workers_with_files_and_with_s3_and_the_history_server_reads_of_it(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_BAD_PERCENT", "50")
    machine.up("etl")
    data, local_lake = tmp_path / "small", tmp_path / "local"
    local = run_job("LOCAL", data / "song_data", data / "log_data", local_lake, tmp_path, {})
    assert local.returncode == 0, local.stderr
    assert same_rows(tmp_path / "lake", local_lake)

    addresses = {service.address for service in machine.running if service.name == "worker"}
    assert len(addresses) == 2
    assert workers_with_tasks(events(tmp_path / "events")) == addresses

    machine.up("history")
    with urlopen("http://%s:18080/api/v1/applications" % machine.running[-1].address, timeout=300) as answer:
        (application,) = json.load(answer)
    assert application["name"] == "sparkify-etl"
    assert application["attempts"][0]["completed"]

    machine.up("etl-s3")
    assert "7 files are in s3://sparkify\n" in machine.said("s3-sample")
    lake = download(machine.translated(SERVICES["etl-s3"]["environment"]["AWS_ENDPOINT_URL"]), tmp_path / "copy")
    assert same_rows(lake, local_lake)


def download(endpoint: str, folder: Path) -> Path:
    """The lake in the bucket of an S3, as files."""
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-west-2", **keys)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="sparkify", Prefix="lake/"):
        for entry in (one for one in page["Contents"] if not one["Key"].endswith("/")):  # no markers of folders
            path = folder / entry["Key"][len("lake/") :]
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file("sparkify", entry["Key"], str(path))
    return folder


# ------------------------------------------------------------------------------------ what compose.yaml promises


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nothing_runs_as_root_or_may_become_it(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert not {"user", "privileged", "cap_add"} & set(SERVICES[name])
    users = re.findall(r"^(?:FROM .* AS (\w+)|USER (\d+))$", DOCKERFILE, re.MULTILINE)
    assert users == [("spark", ""), ("lambda", ""), ("", "65534"), ("cluster", ""), ("", "1000")]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_the_one_image_and_waits_for_what_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["image"] == "sparkify-cluster:" + version_of("pyspark", "requirements.txt")
    for other, how in service.get("depends_on", {}).items():
        healthy = "healthcheck" in SERVICES[other]
        assert how["condition"] == ("service_healthy" if healthy else "service_completed_successfully")
    assert ("healthcheck" in service) == (name not in ("etl", "etl-s3", "s3-sample"))  # which end


def test_no_token_and_no_secret_is_in_the_project() -> None:
    assert SERVICES["jupyter"]["environment"]["JUPYTER_TOKEN"] is None  # the user's, else a random one
    assert "token" not in SERVICES["jupyter"]["command"].lower()


def version_of(package: str, file: str) -> str:
    """The version that a requirements file pins, whatever its extras."""
    found = re.search(
        r"^%s(?:\[[^]]*\])?==([^\s;]+)" % re.escape(package), (ROOT / file).read_text("utf-8"), re.MULTILINE
    )
    assert found, (package, file)
    return found.group(1)


def test_images_are_made_of_pinned_parts() -> None:
    assert re.findall("^FROM (\\S+)", DOCKERFILE, re.MULTILINE) == ["python:3.11.14-slim-bookworm", "spark", "spark"]
    for file in ("docker/requirements.txt", "serverless/requirements.txt"):
        lines = (ROOT / file).read_text("utf-8").splitlines()
        assert all("==" in line for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("package", ["moto", "flask", "flask-cors", "pandas", "pyarrow", "duckdb", "awscli"])
def test_images_hold_the_versions_that_the_tests_have(package: str) -> None:
    file = "serverless/requirements.txt" if package == "awscli" else "docker/requirements.txt"
    assert version_of(package, file) == version_of(package, "tests/requirements.txt")


def test_jars_are_those_that_the_tests_have() -> None:
    found = {hashlib.sha256(jar.read_bytes()).hexdigest() for jar in S3_CLIENT}
    lines = [line.split() for line in (FOLDER / "jars.sha256").read_text("utf-8").splitlines()]
    assert {digest for digest, _ in lines} <= found
    assert len(lines) == 3


def test_hadolint_has_nothing_to_say() -> None:
    command = [str(Path(sys.executable).parent / "hadolint"), str(FOLDER / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, "")
