"""The commands of docs/deploy.md, typed into a shell: no bucket but the reader's is in what they make."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from aws import Server
from conftest import ROOT

MINE, STRANGERS = "sparkify-lake-of-jane", "sparkify-dl-sp"
DIGEST = "111122223333.dkr.ecr.us-west-2.amazonaws.com/sparkify-etl@sha256:" + "0" * 64


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    server.make_bucket(MINE)
    server.client("s3").upload_file(str(ROOT / "etl.py"), MINE, "sparkify-scripts/spark-etl.py")
    server.make_roles()
    yield server
    server.close()


def block(beginning: str) -> str:
    """The commands of the page that begin so."""
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    found = re.search(r"^```\n(%s.*?)^```" % re.escape(beginning), page, re.DOTALL | re.MULTILINE)
    assert found, beginning
    return found.group(1)


def type_in(server: Server, folder: Path, commands: str, **env: str) -> str:
    """Type commands into a shell in the project's folder, with a Docker that does nothing; returns what they say."""
    docker = folder / "docker"
    docker.write_text("#!/bin/sh\ncat >/dev/null\n[ $1 != inspect ] || echo %s\n" % DIGEST)
    docker.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**server.environment(folder), "PATH": path, **env}
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=str(ROOT),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
        timeout=300,
    )
    return done.stdout


def policies(server: Server) -> str:
    """Every policy in every role that the stacks have made."""
    iam, found = server.client("iam"), []
    for role in iam.list_roles()["Roles"]:
        for name in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]:
            document: Any = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
            found.append(json.dumps(ast.literal_eval(document) if isinstance(document, str) else document))
    return "".join(found)


@pytest.mark.slow
def test_the_stacks_of_the_page_know_no_bucket_but_the_reader_s(server: Server, tmp_path: Path) -> None:
    type_in(server, tmp_path, block("BUCKET="))
    type_in(
        server,
        tmp_path,
        block("aws cloudformation deploy --stack-name sparkify-emr-serverless").split("APPLICATION=")[0],
        BUCKET=MINE,
    )
    stacks = server.client("cloudformation").describe_stacks()["Stacks"]
    assert {stack["StackName"] for stack in stacks} == {"sparkify-lambda", "sparkify-emr-serverless"}
    (function,) = server.client("lambda").list_functions()["Functions"]
    environment = function["Environment"]["Variables"]
    assert environment["OUTPUT"] == "s3://%s/sparkify-data" % MINE
    assert environment["LOG_DATA"] == "s3://%s-landing/log_data" % MINE
    made = json.dumps([environment, [stack["Parameters"] for stack in stacks]]) + policies(server)
    assert STRANGERS not in made
    named = set(re.findall(r"(?:arn:aws:s3:::|s3://)([a-z0-9.-]+)", made))
    assert named == {MINE, MINE + "-landing", "udacity-dend"}


def test_the_landing_bucket_is_one_that_the_cluster_may_read(tmp_path: Path) -> None:
    """Else a load that is too large for the function could not be read by the cluster that takes over."""
    landing = re.findall(r'InputBucket="\$BUCKET(\S+)"', block("BUCKET="))
    policy = (ROOT / "docs/iam/cluster.json").read_text("utf-8")
    assert landing == ["-landing"]
    assert '"arn:aws:s3:::sparkify-dl-sp-landing/log_data/*"' in policy
