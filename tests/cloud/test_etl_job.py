"""etl_job.sh against EMR, S3, IAM and STS on loopback: the real aws CLI, moto's server.

moto's clusters do nothing by themselves: `Story` tells the server what becomes of one. What needs no answer of AWS's,
reading settings above all, has a CLI that agrees to everything and takes no time.
"""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import pytest
from aws import KEY_ID, REGION, SECRET, Server
from conftest import ROOT
from moto.core.exceptions import JsonRESTError
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.emr.responses import ElasticMapReduceResponse

import etl

AWS = Path(sys.executable).parent / "aws"
BUCKET, SCRIPT, INPUT = "sparkify-dl-sp", "sparkify-scripts/spark-etl.py", "udacity-dend"
JOB = b"print('as if it were etl.py')\n"
OTHER_ID, OTHER_SECRET = "AKIAI44QH8DHBEXAMPLE", "je7MtGbClwBF/2Zp9Utk/h3yCo8nvb=%EXAMPLEK"
CREDENTIALS = "[AWS]\nAWS_ACCESS_KEY_ID = %s\nAWS_SECRET_ACCESS_KEY = %s\n" % (OTHER_ID, OTHER_SECRET)
NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}

# All that etl_job.sh may start, so that it needs nothing that macOS has not.
TOOLS = ["aws", "awk", "cat", "cmp", "dirname", "gzip", "mktemp", "rm", "sed", "sleep", "tail", "tr"]
RECORDING = '#!/bin/sh\nprintf "%%s\\n" "$0" "$@" >>"%s"\n%s\n'

Record = Dict[str, Any]
Variables = Dict[str, Optional[str]]


class Done(NamedTuple):
    """A finished run."""

    code: int
    out: str
    err: str


class OurServer(Server):
    """Makes a client only once, since that takes longer than most tests."""

    made: Dict[Tuple[str, str], Any] = {}

    def client(self, service: str, region: str = REGION, **credentials: str) -> Any:
        if (service, region) not in self.made:
            self.made[service, region] = super().client(service, region, **credentials)
        return self.made[service, region]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = OurServer()
    yield server
    server.close()


@pytest.fixture
def aws(server: Server) -> Server:
    """AWS with all that the job needs."""
    server.reset()
    server.make_bucket(BUCKET)
    server.make_bucket(INPUT)
    s3 = server.client("s3")
    s3.put_object(Bucket=BUCKET, Key=SCRIPT, Body=JOB)
    for key in ("song_data/A/B/C/song.json", "log_data/2018/11/events.json"):
        s3.put_object(Bucket=INPUT, Key=key, Body=b"{}")
    server.make_roles()
    return server


@pytest.fixture
def emr(aws: Server) -> Any:
    """The test's own look at EMR."""
    return aws.client("emr")


def hear_ctrl_c() -> None:
    """Tests that run in the background ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Project:
    """A copy of the project without dl.cfg, in a folder with a space in its name, and a user somewhere else."""

    def __init__(self, folder: Path, environment: Dict[str, str]) -> None:
        self.folder, self.home, self.tools = folder / "my project", folder / "home", folder / "tools"
        self.started = folder / "started"  # every command line
        for path in (self.folder, self.home, self.tools):
            path.mkdir()
        shutil.copy(str(ROOT / "etl_job.sh"), str(self.folder))
        for path in (self.folder / "etl.py", folder / "uploaded"):
            path.write_bytes(JOB)
        for name in TOOLS:
            self.tool(name, 'exec "%s" "$@"' % (AWS if name == "aws" else shutil.which(name)))
        (self.tools / "bash").symlink_to(str(shutil.which("bash")))
        self.environment = {
            **environment,
            "PATH": str(self.tools),
            "HOME": str(self.home),
            "TMPDIR": str(folder),
            "AWS_MAX_ATTEMPTS": "1",  # the CLI itself would try again for seconds
            "POLL_SECONDS": "0",
        }

    def tool(self, name: str, script: str) -> None:
        """A command that notes how it was called."""
        (self.tools / name).write_text(RECORDING % (self.started, script))
        (self.tools / name).chmod(0o755)

    def pretend(self, real: str = "none", **complaints: str) -> None:
        """A CLI that agrees to everything at once, complains about an operation (get_role="…"), or is the real one."""
        cases = [
            "*' %s '*) echo %s >&2; exit 254 ;;" % (k.replace("_", "-"), shlex.quote(v)) for k, v in complaints.items()
        ]
        copy = '*" get-object "*) %s "%s" "$7" ;;' % (shutil.which("cp"), self.home.parent / "uploaded")
        commands = '%s) exec "%s" "$@" ;;\n configure) exit 1 ;;' % (real, AWS)
        script = ['case " $* " in', *cases, copy, "esac", "case $1 in", commands, "esac", "echo 1"]
        self.tool("aws", "\n".join(script))

    def start(self, *argv: str, env: Optional[Variables] = None, **kwargs: Any) -> subprocess.Popen[bytes]:
        """Run etl_job.sh in the user's folder; None drops a variable."""
        variables = {k: v for k, v in {**self.environment, **(env or {})}.items() if v is not None}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        command = [str(self.folder / "etl_job.sh"), *argv]
        return subprocess.Popen(command, env=variables, cwd=str(self.home), preexec_fn=hear_ctrl_c, **pipes)

    def finish(self, process: subprocess.Popen[bytes]) -> Done:
        """Whatever it has done: neither output nor a command line shows a secret, and complaints have their form."""
        out, err = process.communicate(timeout=60)
        done = Done(process.returncode, out.decode(), err.decode())
        started = self.started.read_text() if self.started.exists() else ""
        assert not any(secret in text for secret in (SECRET, OTHER_SECRET) for text in (done.out, done.err, started))
        assert all(line.startswith(("etl_job.sh: ", "  ")) for line in done.err.splitlines()), done.err
        assert list(self.folder.parent.glob("etl_job.*")) == [], "temporary files were left"
        return done

    def run(self, *argv: str, env: Optional[Variables] = None) -> Done:
        return self.finish(self.start(*argv, env=env))

    def configure(self, text: str, encoding: str = "utf-8") -> None:
        (self.folder / "dl.cfg").write_bytes(text.encode(encoding))


@pytest.fixture
def project(tmp_path: Path, server: Server) -> Project:
    return Project(tmp_path, server.environment(tmp_path))


Plan = Callable[..., Dict[str, List[str]]]


@pytest.fixture
def plan(project: Project) -> Plan:
    """The options of the call that --dry-run prints, where AWS has nothing against it."""

    def run(env: Optional[Variables] = None) -> Dict[str, List[str]]:
        project.pretend()
        done = project.run("--dry-run", env=env)
        assert done.code == 0, done.err
        options: Dict[str, List[str]] = {}
        for word in shlex.split(done.out.replace("\\\n", ""), comments=True)[3:]:
            if word.startswith("--"):
                values = options[word[2:]] = []
            else:
                values.append(word)
        return options

    return run


def arguments(options: Dict[str, List[str]]) -> Dict[str, str]:
    """The job's own flags in a call."""
    args = json.loads(options["steps"][0])[0]["Args"]
    job = args[next(i for i, word in enumerate(args) if word.endswith(".py")) + 1 :]
    return dict(zip(job[::2], job[1::2]))


def spark_settings(options: Dict[str, List[str]]) -> Dict[str, str]:
    args = json.loads(options["steps"][0])[0]["Args"]
    return dict(value.split("=", 1) for flag, value in zip(args, args[1:]) if flag == "--conf")


def clusters(server: Server) -> List[str]:
    return [cluster["Id"] for cluster in server.client("emr").list_clusters()["Clusters"]]


def tags(cluster: Record) -> Dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in cluster["Tags"]}


def groups(emr: Any, cluster: str) -> Dict[str, Tuple[int, str, str]]:
    found = emr.list_instance_groups(ClusterId=cluster)["InstanceGroups"]
    return {g["InstanceGroupType"]: (g["RequestedInstanceCount"], g["InstanceType"], g["Market"]) for g in found}


def only_step(emr: Any, cluster: str) -> Record:
    (step,) = emr.list_steps(ClusterId=cluster)["Steps"]
    return dict(step)


# ------------------------------------------------------------------------------------ the cluster


def check_default_cluster(emr: Any, cluster: str) -> None:
    """The cluster is the one that somebody without any setting of their own gets."""
    found = emr.describe_cluster(ClusterId=cluster)["Cluster"]
    assert found["Name"] == "sparkify-etl"
    assert found["ReleaseLabel"] == "emr-5.30.0"
    assert found["AutoTerminate"] is True
    assert found["TerminationProtected"] is False
    assert found["LogUri"] == "s3://sparkify-dl-sp/emr-logs/"
    assert found["ServiceRole"] == "EMR_DefaultRole"
    assert found["Ec2InstanceAttributes"]["IamInstanceProfile"] == "EMR_EC2_DefaultRole"
    assert [application["Name"] for application in found["Applications"]] == ["Spark"]
    assert tags(found) == {"project": "sparkify"}
    assert groups(emr, cluster) == {"MASTER": (1, "m5.xlarge", "ON_DEMAND"), "CORE": (2, "m5.xlarge", "ON_DEMAND")}
    (configuration,) = found["Configurations"]
    assert configuration["Classification"] == "yarn-site"
    assert configuration["Properties"] == {
        "yarn.nodemanager.resource.memory-mb": "12288",
        "yarn.scheduler.maximum-allocation-mb": "12288",
    }
    step = only_step(emr, cluster)
    assert step["ActionOnFailure"] == "TERMINATE_CLUSTER"
    assert step["Config"]["Jar"] == "command-runner.jar"
    assert step["Config"]["Args"] == [
        *["spark-submit", "--deploy-mode", "cluster"],
        *["--conf", "spark.yarn.maxAppAttempts=1"],
        *["--conf", "spark.yarn.appMasterEnv.PYSPARK_PYTHON=python3"],
        *["--conf", "spark.driver.memory=2g"],
        *["--conf", "spark.driver.memoryOverhead=1g"],
        *["--conf", "spark.executor.cores=4"],
        *["--conf", "spark.executor.memory=8g"],
        *["--conf", "spark.executor.memoryOverhead=1g"],
        *["--conf", "spark.executor.instances=2"],
        *["--conf", "spark.dynamicAllocation.enabled=false"],
        *["s3://sparkify-dl-sp/sparkify-scripts/spark-etl.py", "--mode", "S3"],
        *["--song-data", "s3://udacity-dend/song_data", "--log-data", "s3://udacity-dend/log_data"],
        *["--output", "s3://sparkify-dl-sp/sparkify-data"],
    ]


def test_without_any_setting_the_default_cluster_is_launched(project: Project, aws: Server, emr: Any) -> None:
    done = project.run()
    assert (done.code, done.err) == (0, "")
    (cluster,) = clusters(aws)
    check_default_cluster(emr, cluster)
    lines = dict(line.split(None, 1) for line in done.out.splitlines())
    assert lines["launched"] == cluster + ", which ends by itself when the job has ended"
    assert lines["costs"].startswith("about $0.72 an hour for 3 × m5.xlarge, billed by the second (an estimate: ")
    assert lines["writes"] == "s3://sparkify-dl-sp/sparkify-data"
    assert lines["logs"].startswith("s3://sparkify-dl-sp/emr-logs/%s/" % cluster)
    assert lines["console"].endswith("?region=us-west-2#/clusterDetails/" + cluster)
    assert "/my project/etl_job.sh' --follow " + cluster in lines["wait"]
    path = {**project.environment, "PATH": str(AWS.parent) + ":" + os.environ["PATH"]}
    shown = subprocess.run(["bash", "-c", lines["watch"]], env=path, stdout=subprocess.PIPE, timeout=60, check=True)
    assert json.loads(shown.stdout)[0]["State"] == "RUNNING"
    subprocess.run(["bash", "-c", lines["stop"]], env=path, timeout=60, check=True)
    assert emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"] == "TERMINATED"


def test_a_dry_run_launches_nothing_and_its_command_launches_that_cluster(
    project: Project, aws: Server, emr: Any
) -> None:
    project.pretend(real="emr")
    done = project.run("--dry-run")
    assert (done.code, done.err) == (0, "")
    assert clusters(aws) == []
    command = subprocess.run(
        ["bash"], input=done.out.encode(), env=project.environment, stdout=subprocess.PIPE, timeout=60, check=True
    )
    cluster = command.stdout.decode().strip()
    assert clusters(aws) == [cluster]
    check_default_cluster(emr, cluster)


OF_SERVERLESS = {"APPLICATION", "JOB_ROLE"}  # tests/serverless/test_emr.py


def test_every_setting_can_be_overridden_by_the_environment(project: Project, aws: Server, emr: Any) -> None:
    aws.client("iam").create_role(RoleName="my-role", AssumeRolePolicyDocument="{}")
    aws.client("iam").create_instance_profile(InstanceProfileName="my-profile")
    aws.make_bucket("my-bucket")
    aws.client("s3").put_object(Bucket="my-bucket", Key="jobs/my-etl.py", Body=JOB)
    aws.client("s3").put_object(Bucket="my-bucket", Key="my songs/a.json", Body=b"{}")
    settings = {
        "BUCKET": "my-bucket",
        "SCRIPT": "jobs/my-etl.py",
        "SONG_DATA": "s3a://my-bucket/my songs/",
        "LOG_DATA": "s3://my-bucket",
        "OUTPUT": "s3://udacity-dend/lake/",
        "MAX_BAD_PERCENT": "2.5",
        "RELEASE": "emr-5.36.2",
        "NODES": "12",
        "INSTANCE_TYPE": "r5.2xlarge",
        "SPOT": "yes",
        "SUBNET": "subnet-0123456789abcdef0",
        "KEY": "my key's",
        "SERVICE_ROLE": "arn:aws:iam::123456789012:role/my-role",
        "INSTANCE_PROFILE": "my-profile",
        "LOG_URI": "s3://my-bucket/logs",
        "NAME": "nightly (test)",
        "TAGS": "team=data engineers, project=lake=1",
        "REGION": "eu-west-1",
    }
    assert set(settings) | {"POLL_SECONDS", "POLL_FAILURES", *OF_SERVERLESS} == set(names_of_settings())
    done = project.run(env=dict(settings))
    assert (done.code, done.err) == (0, "")
    assert "at most about $7.56 an hour for 12 × r5.2xlarge, less with core nodes on spot" in done.out
    emr = aws.client("emr", region="eu-west-1")
    (cluster,) = [cluster["Id"] for cluster in emr.list_clusters()["Clusters"]]
    found = emr.describe_cluster(ClusterId=cluster)["Cluster"]
    assert found["Name"] == "nightly (test)"
    assert found["ReleaseLabel"] == "emr-5.36.2"
    assert found["LogUri"] == "s3://my-bucket/logs/"
    assert found["ServiceRole"] == "arn:aws:iam::123456789012:role/my-role"
    attributes = found["Ec2InstanceAttributes"]
    assert attributes["IamInstanceProfile"] == "my-profile"
    assert attributes["Ec2SubnetId"] == "subnet-0123456789abcdef0"
    assert attributes["Ec2KeyName"] == "my key's"
    assert tags(found) == {"team": "data engineers", "project": "lake=1"}
    assert groups(emr, cluster) == {"MASTER": (1, "r5.2xlarge", "ON_DEMAND"), "CORE": (11, "r5.2xlarge", "SPOT")}
    args = only_step(emr, cluster)["Config"]["Args"]
    assert args[args.index("s3://my-bucket/jobs/my-etl.py") :] == [
        *["s3://my-bucket/jobs/my-etl.py", "--mode", "S3", "--song-data", "s3://my-bucket/my songs"],
        *["--log-data", "s3://my-bucket", "--output", "s3://udacity-dend/lake", "--max-bad-percent", "2.5"],
    ]


def names_of_settings() -> List[str]:
    text = (ROOT / "etl_job.sh").read_text(encoding="utf-8")
    return re.findall(r"^([A-Z_]+) +\|", text, re.MULTILINE)


# ------------------------------------------------------------------------------------ Spark's settings


def instance_types() -> List[str]:
    text = (ROOT / "etl_job.sh").read_text(encoding="utf-8")
    return re.findall(r"^([a-z0-9]+\.[a-z0-9]+) +\d", text, re.MULTILINE)


def gigabytes(text: str) -> int:
    assert re.fullmatch(r"\d+g", text)
    return int(text[:-1])


@pytest.mark.parametrize("instance_type", instance_types())
def test_driver_and_executors_fill_the_core_nodes_and_fit(instance_type: str, plan: Plan) -> None:
    options = plan({"INSTANCE_TYPE": instance_type, "NODES": "4"})
    conf = spark_settings(options)
    properties = json.loads(options["configurations"][0])[0]["Properties"]
    yarn = int(properties["yarn.nodemanager.resource.memory-mb"]) // 1024
    node = INSTANCE_TYPES[instance_type]
    assert yarn == node["MemoryInfo"]["SizeInMiB"] / 1024 * 3 / 4
    on_each, rest = divmod(int(conf["spark.executor.instances"]), 3)
    assert rest == 0
    assert on_each * int(conf["spark.executor.cores"]) == node["VCpuInfo"]["DefaultVCpus"]
    overhead = gigabytes(conf["spark.executor.memoryOverhead"])
    executor = gigabytes(conf["spark.executor.memory"])
    driver = gigabytes(conf["spark.driver.memory"]) + gigabytes(conf["spark.driver.memoryOverhead"])
    assert yarn - on_each < driver + on_each * (executor + overhead) <= yarn
    assert overhead >= executor / 10


def test_an_unknown_instance_type_gets_the_settings_of_emr(plan: Plan, project: Project) -> None:
    options = plan({"INSTANCE_TYPE": "m6i.xlarge"})
    assert "configurations" not in options
    conf = {"spark.yarn.maxAppAttempts": "1", "spark.yarn.appMasterEnv.PYSPARK_PYTHON": "python3"}
    assert spark_settings(options) == conf
    assert "# costs     not known for m6i.xlarge" in project.run("--dry-run", env={"INSTANCE_TYPE": "m6i.xlarge"}).out


# ------------------------------------------------------------------------------------ settings


def test_the_environment_beats_dl_cfg_which_beats_the_default(plan: Plan, project: Project) -> None:
    assert arguments(plan())["--song-data"] == "s3://udacity-dend/song_data"
    project.configure("[S3]\nSONG_DATA = s3://file/songs\n")
    assert arguments(plan())["--song-data"] == arguments(plan({"SONG_DATA": "  "}))["--song-data"] == "s3://file/songs"
    assert arguments(plan({"SONG_DATA": "s3://env/songs"}))["--song-data"] == "s3://env/songs"


def test_dl_cfg_of_the_working_directory_comes_first(plan: Plan, project: Project) -> None:
    project.configure("[S3]\nSONG_DATA = s3://beside/songs\nLOG_DATA = s3://beside/logs\n")
    (project.home / "dl.cfg").write_text("[S3]\nSONG_DATA = s3://here/songs\n")
    found = arguments(plan())
    assert (found["--song-data"], found["--log-data"]) == ("s3://here/songs", "s3://udacity-dend/log_data")


@pytest.mark.parametrize(
    "text",
    [
        "[S3]\r\nLOG_DATA = s3://logs/a=b%20#c;\r\n",
        "\ufeff[S3]\nlog_data=s3://logs/a=b%20#c;\n",
        "[S3]\n# LOG_DATA = s3://no\n ; LOG_DATA = s3://no\n\n\tLOG_DATA : s3://logs/a=b%20#c;  \n",
        "[PROJECT]\nMODE = S3\n[S3]\nLOG_DATA = s3://logs/a=b%20#c;\n[LOCAL]\nLOG_DATA = no",
    ],
    ids=["windows", "byte order mark", "comments", "sections"],
)
def test_dl_cfg_is_read_as_etl_py_reads_it(text: str, plan: Plan, project: Project) -> None:
    project.configure(text)
    expected = "s3://logs/a=b%20#c;"
    assert arguments(plan())["--log-data"] == expected
    assert etl.read_config_file(str(project.folder / "dl.cfg"))["S3", "LOG_DATA"] == expected


def test_the_project_s_own_dl_cfg_gives_the_defaults(plan: Plan, project: Project) -> None:
    without = plan()
    shutil.copy(str(ROOT / "dl.cfg"), str(project.folder))
    own = plan()
    assert arguments(own) == {**arguments(without), "--max-bad-percent": "5"}
    assert {**own, "steps": []} == {**without, "steps": []}


@pytest.mark.parametrize(
    ("config", "env", "expected"),
    [
        ("BUCKET = mine", {}, "s3://mine/sparkify-data"),
        ("BUCKET = mine\nOUTPUT = s3://mine/lake", {}, "s3://mine/lake"),
        ("BUCKET = mine\nOUTPUT = s3://sparkify-dl-sp/sparkify-data", {}, "s3://mine/sparkify-data"),
        ("BUCKET = mine\nOUTPUT = s3://third/lake", {}, "s3://third/lake"),
        ("BUCKET = mine\nOUTPUT = s3://mine/lake", {"BUCKET": "other"}, "s3://other/sparkify-data"),
        ("BUCKET = mine\nOUTPUT = s3://third/lake", {"BUCKET": "other"}, "s3://third/lake"),
        ("BUCKET = mine", {"OUTPUT": "s3://sparkify-dl-sp/lake"}, "s3://sparkify-dl-sp/lake"),
    ],
)
def test_the_lake_of_dl_cfg_moves_with_its_bucket(
    config: str, env: Variables, expected: str, plan: Plan, project: Project
) -> None:
    project.configure("[S3]\n%s\n" % config)
    assert arguments(plan(env))["--output"] == expected


@pytest.mark.parametrize(
    ("config", "env", "expected"),
    [
        ("", {}, "us-west-2"),
        ("[AWS]\nAWS_REGION = eu-west-1", {}, "eu-west-1"),
        ("[AWS]\nAWS_REGION = eu-west-1", {"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ("", {"AWS_DEFAULT_REGION": "eu-west-2", "AWS_REGION": "eu-west-3"}, "eu-west-3"),
        ("", {"AWS_REGION": "eu-west-3", "REGION": "eu-north-1"}, "eu-north-1"),
    ],
)
def test_where_the_region_comes_from(config: str, env: Variables, expected: str, plan: Plan, project: Project) -> None:
    project.configure(config)
    assert plan({"AWS_REGION": None, "AWS_DEFAULT_REGION": None, **env})["region"] == [expected]


def test_without_a_region_anywhere_the_profile_s_counts(project: Project, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nregion = ap-south-1\n")
    env: Variables = {"AWS_REGION": None, "AWS_DEFAULT_REGION": None, "AWS_ENDPOINT_URL_STS": closed_port()}
    project.run(env=env)
    assert "--region\nap-south-1\n" in project.started.read_text()


@pytest.mark.parametrize(
    ("endpoint", "expected"), [("AWS_ENDPOINT_URL", "https://a"), ("AWS_ENDPOINT_URL_EMR", "https://b")]
)
def test_the_endpoint_is_handed_to_emr(endpoint: str, expected: str, plan: Plan) -> None:
    env: Variables = {"AWS_ENDPOINT_URL": "https://a", endpoint: expected}
    assert plan(env)["endpoint-url"] == [expected]
    assert "endpoint-url" not in plan({"AWS_ENDPOINT_URL": None})


def test_own_tags_come_beside_or_in_place_of_the_project_s(plan: Plan) -> None:
    assert plan({"TAGS": "team=data engineers, env="})["tags"] == ["project=sparkify", "team=data engineers", "env="]
    assert plan({"TAGS": "project=mine"})["tags"] == ["project=mine"]


def test_the_printed_call_quotes_what_a_shell_would_take_apart(plan: Plan) -> None:
    options = plan({"KEY": "it's $HOME `key`", "NAME": "my (own) job"})
    assert json.loads(options["ec2-attributes"][0])["KeyName"] == "it's $HOME `key`"
    assert options["name"] == ["my (own) job"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUCKET", "Not Valid"),
        ("SCRIPT", "etl.txt"),
        ("SONG_DATA", "data/song_data"),
        ("LOG_DATA", 's3://b/a","--verbose'),
        ("OUTPUT", "hdfs:///lake"),
        ("OUTPUT", "s3://b/back\\slash"),
        ("LOG_URI", "logs"),
        ("RELEASE", "5.30.0"),
        ("NODES", "1"),
        ("NODES", "three"),
        ("NODES", "03"),
        ("INSTANCE_TYPE", "large"),
        ("SPOT", "maybe"),
        ("SUBNET", "vpc-1"),
        ("KEY", 'a"b'),
        ("SERVICE_ROLE", "a role"),
        ("INSTANCE_PROFILE", '"'),
        ("NAME", "file://name"),
        ("TAGS", "team"),
        ("TAGS", "team=a&b"),
        ("REGION", "us west"),
        ("POLL_SECONDS", "-1"),
        ("POLL_FAILURES", "0"),
        ("MAX_BAD_PERCENT", "five"),
        ("MAX_BAD_PERCENT", "101"),
    ],
)
def test_what_a_setting_cannot_be_is_refused_before_anything_is_asked(name: str, value: str, project: Project) -> None:
    done = project.run(env={name: value})
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("etl_job.sh: %s is %s; it takes " % (name, value))
    assert done.err.count("\n") == 1
    assert str(project.tools / "aws") not in project.started.read_text()


@pytest.mark.parametrize("argv", [["--nonsense"], ["cluster"], ["--key=" + SECRET], ["--follow"], ["--follow", "x"]])
def test_wrong_options_exit_with_2_and_show_no_value(argv: List[str], project: Project) -> None:
    done = project.run(*argv)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert argv[0].split("=")[0] in done.err


def test_help_and_documentation_name_every_setting(project: Project) -> None:
    done = project.run("--help")
    assert (done.code, done.err) == (0, "")
    text = (ROOT / "docs" / "emr.md").read_text(encoding="utf-8")
    for name in names_of_settings():
        assert re.search("^  %s " % name, done.out, re.MULTILINE)
        assert re.search(r"^\| `%s` \|" % name, text, re.MULTILINE)
    assert all(len(line) <= 120 for line in done.out.splitlines())


# ------------------------------------------------------------------------------------ credentials


def test_credentials_of_dl_cfg_are_used_where_there_are_no_others(project: Project, aws: Server) -> None:
    project.configure(CREDENTIALS + "[S3]\nBUCKET = no-such-bucket\n")
    aws.calls.clear()
    done = project.run(env={**NO_KEYS, "AWS_SESSION_TOKEN": "a token of something else"})
    assert "the job is not at s3://no-such-bucket/" in done.err
    assert [call.key_id for call in aws.calls] == [OTHER_ID, OTHER_ID]


@pytest.mark.parametrize(("line", "expected"), [("", ""), ("AWS_SESSION_TOKEN = of dl.cfg\n", "of dl.cfg")])
def test_a_session_token_comes_from_where_its_key_does(line: str, expected: str, project: Project) -> None:
    project.configure(CREDENTIALS + line)
    seen = project.home / "seen"
    missing = 'case ${AWS_ACCESS_KEY_ID-} in "") echo Unable to locate credentials >&2; exit 255 ;; esac'
    project.tool("aws", '%s\nprintf "%%s" "${AWS_SESSION_TOKEN-}" >"%s"\nexit 255' % (missing, seen))
    project.run(env={**NO_KEYS, "AWS_SESSION_TOKEN": "of something else"})
    assert seen.read_text() == expected


def test_the_cli_s_own_credentials_come_first(project: Project, aws: Server) -> None:
    project.configure(CREDENTIALS + "[S3]\nBUCKET = no-such-bucket\n")
    aws.calls.clear()
    assert "the job is not at s3://no-such-bucket/" in project.run().err
    assert [call.key_id for call in aws.calls] == [KEY_ID, KEY_ID]


@pytest.mark.parametrize(
    ("config", "env", "sentence"),
    [
        ("", NO_KEYS, "there are no AWS credentials: set "),
        ("", {"AWS_SECRET_ACCESS_KEY": None}, "half of the credentials is missing: "),
        (CREDENTIALS, {"AWS_SECRET_ACCESS_KEY": None}, "half of the credentials is missing: "),
        ("[AWS]\nAWS_ACCESS_KEY_ID = %s\n" % OTHER_ID, {"AWS_ACCESS_KEY_ID": None}, "there are no AWS credentials: "),
        ("[AWS]\nAWS_SECRET_ACCESS_KEY = x\n", NO_KEYS, "there are no AWS credentials: "),
        (CREDENTIALS, {**NO_KEYS, "AWS_PROFILE": "nobody"}, "the aws CLI says: The config profile (nobody) could not"),
    ],
    ids=["none", "half", "half and dl.cfg", "halves of two places", "half in dl.cfg", "profile"],
)
def test_missing_credentials_are_refused_and_halves_never_joined(
    config: str, env: Variables, sentence: str, project: Project, aws: Server
) -> None:
    project.configure(config)
    aws.calls.clear()
    done = project.run(env=env)
    assert (done.code, done.out, aws.calls) == (2, "", [])
    assert done.err.startswith("etl_job.sh: " + sentence)


COMPLAINT = "An error occurred (%s) when calling the X operation: for " + KEY_ID


@pytest.mark.parametrize(
    ("complaint", "sentence"),
    [
        (COMPLAINT % "InvalidClientTokenId", "AWS does not know the access key id"),
        ("aws: [ERROR]: " + COMPLAINT % "SignatureDoesNotMatch", "the secret access key does not belong to"),
        (COMPLAINT % "ExpiredToken", "the credentials have expired: get new ones"),
        (COMPLAINT % "InvalidToken", "the session token is not valid"),
        (COMPLAINT % "RequestTimeTooSkewed", "the clock of this machine is wrong"),
        (COMPLAINT % "AccessDenied", "no permission: the credentials in use lack sts:GetCallerIdentity ("),
        (COMPLAINT % "Throttling", "AWS refused: An error occurred (Throttling) when calling the "),
        ('Could not connect to the endpoint URL: "https://sts"', "AWS cannot be reached, check the network"),
        ("SSL validation failed for https://sts", "AWS cannot be reached, check the network"),
    ],
)
def test_what_is_wrong_with_credentials_or_network_is_a_sentence(
    complaint: str, sentence: str, project: Project
) -> None:
    project.pretend(get_caller_identity="\n%s\n" % complaint)
    done = project.run()
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("etl_job.sh: " + sentence)
    assert KEY_ID not in done.err


def test_a_missing_cli_is_said(project: Project) -> None:
    (project.tools / "aws").unlink()
    done = project.run()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("etl_job.sh: the aws CLI is missing: https://")


# ------------------------------------------------------------------------------------ refusals


def refused(project: Project, aws: Server, sentence: str, env: Optional[Variables] = None) -> None:
    done = project.run(env=env)
    assert (done.code, done.out) == (2, "")
    assert done.err == "etl_job.sh: %s\n" % sentence
    assert clusters(aws) == []


@pytest.mark.parametrize("bucket", [BUCKET, "no-such-bucket"])
def test_without_the_script_nothing_is_launched(bucket: str, project: Project, aws: Server) -> None:
    aws.client("s3").delete_object(Bucket=BUCKET, Key=SCRIPT)
    sentence = "the job is not at s3://%s/%s; run: python create_s3.py" % (bucket, SCRIPT)
    refused(project, aws, sentence, {"BUCKET": bucket})


def test_an_older_script_is_launched_with_a_warning(project: Project) -> None:
    project.pretend()
    assert project.run("--dry-run").err == ""
    (project.folder / "etl.py").write_text("# newer\n")
    done = project.run("--dry-run")
    assert done.code == 0
    assert done.err.startswith("etl_job.sh: etl.py has changed since it was uploaded, and the old one runs; ")
    (project.folder / "etl.py").unlink()
    assert project.run("--dry-run").err == ""


@pytest.mark.parametrize("name", ["SONG_DATA", "LOG_DATA"])
def test_an_empty_input_is_refused(name: str, project: Project, aws: Server) -> None:
    s3, folder = aws.client("s3"), name.lower()
    for entry in s3.list_objects_v2(Bucket=INPUT, Prefix=folder)["Contents"]:
        s3.delete_object(Bucket=INPUT, Key=entry["Key"])
    for key in (folder + "/", folder + "_old/a.json", "a/%s/a.json" % folder, folder + ".json"):
        s3.put_object(Bucket=INPUT, Key=key, Body=b"")
    refused(project, aws, "%s: there is nothing in s3://udacity-dend/%s/" % (name, folder))


@pytest.mark.parametrize("name", ["SONG_DATA", "LOG_DATA", "OUTPUT", "LOG_URI"])
def test_a_bucket_that_is_not_there_is_refused(name: str, project: Project) -> None:
    project.pretend(nobodys=COMPLAINT % "NoSuchBucket")
    done = project.run(env={name: "s3://nobodys/folder"})
    assert (done.code, done.out) == (2, "")
    assert done.err == "etl_job.sh: %s: there is no bucket nobodys\n" % name


def test_whether_the_caller_may_see_the_output_does_not_matter(project: Project) -> None:
    project.pretend(theirs=COMPLAINT % "AccessDenied")
    assert project.run("--dry-run", env={"OUTPUT": "s3://theirs/lake"}).code == 0


LACKING = "no permission: the credentials in use lack %s (docs/emr.md lists all that is needed)"


def test_denied_access_is_refused_and_names_the_permission(project: Project, aws: Server) -> None:
    aws.answer("GET", "/udacity-dend?list-type=2", 403, "AccessDenied")
    refused(project, aws, "SONG_DATA: cannot look into s3://udacity-dend/song_data: " + LACKING % "s3:ListBucket")
    aws.answer("GET", SCRIPT, 403, "AccessDenied")
    refused(project, aws, "cannot read s3://%s/%s: %s" % (BUCKET, SCRIPT, LACKING % "s3:GetObject"))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("SERVICE_ROLE", "arn:aws:iam::123456789012:role/a/nobody", "role arn:aws:iam::123456789012:role/a/nobody"),
        ("INSTANCE_PROFILE", "nobody", "instance profile nobody"),
    ],
)
def test_missing_roles_are_refused_with_the_command_that_makes_them(
    name: str, value: str, text: str, project: Project, aws: Server
) -> None:
    project.pretend(real="iam")
    sentence = "the %s is not there; the default ones are made by: aws emr create-default-roles" % text
    refused(project, aws, sentence, {name: value})


def test_who_may_not_read_roles_is_told_so_and_goes_on(project: Project) -> None:
    denied = COMPLAINT % "AccessDenied"
    project.pretend(get_role=denied, get_instance_profile=denied)
    done = project.run("--dry-run")
    assert done.code == 0
    assert done.err.splitlines() == [
        "etl_job.sh: could not check that the role EMR_DefaultRole is there: " + LACKING % "iam:GetRole",
        "etl_job.sh: could not check that the instance profile EMR_EC2_DefaultRole is there: "
        + LACKING % "iam:GetInstanceProfile",
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("AccessDeniedException", LACKING % "elasticmapreduce:RunJobFlow"),
        ("ValidationException", "AWS refused: An error occurred (ValidationException) when calling the X "),
    ],
)
def test_what_emr_refuses_is_a_sentence(code: str, reason: str, project: Project) -> None:
    project.pretend(create_cluster=COMPLAINT % code)
    done = project.run("--wait")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("etl_job.sh: no cluster was launched: " + reason)


def test_a_lost_answer_is_no_reason_to_launch_again(project: Project, aws: Server) -> None:
    project.pretend(real="emr")
    with socket.socket() as deaf:  # takes the request and never answers: the CLI hears it close
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        env: Variables = {
            "AWS_ENDPOINT_URL_EMR": "http://127.0.0.1:%d" % deaf.getsockname()[1],
            "AWS_MAX_ATTEMPTS": "4",
        }
        process = project.start(env=env)
        connection, _ = deaf.accept()
        connection.close()
        done = project.finish(process)
        deaf.setblocking(False)
        with pytest.raises(BlockingIOError):
            deaf.accept()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("etl_job.sh: no answer from EMR: AWS cannot be reached, ")
    assert "whether there is a cluster, says: aws emr list-clusters --active --region us-west-2 " in done.err


# ------------------------------------------------------------------------------------ waiting


class Story:
    """What becomes of a cluster, told to whoever looks: states of cluster and step, or an error to answer with."""

    def __init__(self, *chapters: Any) -> None:
        self.chapters, self.looks, self.reached = list(chapters), 0, Event()

    def look(self, response: ElasticMapReduceResponse) -> None:
        chapter = self.chapters[min(self.looks, len(self.chapters) - 1)]
        self.looks += 1
        if self.looks >= len(self.chapters):
            self.reached.set()
        if isinstance(chapter, JsonRESTError):
            raise chapter
        cluster = response.backend.describe_cluster(response._get_param("ClusterId"))
        cluster.state, cluster.steps[0].state = chapter


Tell = Callable[..., Story]


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Begin a story."""

    def begin(*chapters: Any) -> Story:
        story, really = Story(*chapters), ElasticMapReduceResponse.describe_cluster

        def describe_cluster(self: ElasticMapReduceResponse) -> Any:
            story.look(self)
            return really(self)

        monkeypatch.setattr(ElasticMapReduceResponse, "describe_cluster", describe_cluster)
        return story

    return begin


def launch(emr: Any) -> str:
    """A cluster that was launched before."""
    step = {"Name": "x", "ActionOnFailure": "TERMINATE_CLUSTER", "HadoopJarStep": {"Jar": "command-runner.jar"}}
    group = {"InstanceRole": "MASTER", "InstanceCount": 1, "InstanceType": "m5.xlarge"}
    flow = emr.run_job_flow(
        Name="x",
        ReleaseLabel="emr-5.30.0",
        LogUri="s3n://sparkify-dl-sp/emr-logs/",  # as EMR gives it back
        Instances={"InstanceGroups": [group], "KeepJobFlowAliveWhenNoSteps": False},
        Steps=[step],
    )
    return str(flow["JobFlowId"])


def put_log(aws: Server, key: str, lines: Sequence[str]) -> str:
    body = gzip.compress("".join(line + "\n" for line in lines).encode())
    aws.client("s3").put_object(Bucket=BUCKET, Key="emr-logs/" + key, Body=body)
    return "s3://%s/emr-logs/%s" % (BUCKET, key)


BEGINNING = [("STARTING", "PENDING"), ("STARTING", "PENDING"), ("RUNNING", "RUNNING")]


def test_waiting_tells_each_change_once_and_ends_with_success(project: Project, aws: Server, tell: Tell) -> None:
    project.pretend(real="emr")
    tell(*BEGINNING, ("TERMINATING", "COMPLETED"), ("TERMINATED", "COMPLETED"))
    done = project.run("--wait")
    assert (done.code, done.err) == (0, "")
    told = re.findall(r"^\d:\d\d:\d\d  (.*)$", done.out, re.MULTILINE)
    assert told == [
        "cluster STARTING, step PENDING",
        "cluster RUNNING, step RUNNING",
        "cluster TERMINATING, step COMPLETED",
        "cluster TERMINATED, step COMPLETED",
    ]
    assert done.out.endswith("The job has succeeded and the cluster has ended.\n")


def test_on_a_terminal_one_line_changes(project: Project, emr: Any, tell: Tell) -> None:
    cluster = launch(emr)
    project.pretend(real="emr")
    tell(*BEGINNING, ("TERMINATED", "COMPLETED"))
    ours, theirs = pty.openpty()
    process = project.start("--follow", cluster, stdout=theirs)
    os.close(theirs)
    shown = b""
    try:
        while True:
            shown += os.read(ours, 65536)
    except OSError:  # Linux's way to say that the other end is closed
        os.close(ours)
    assert process.wait(timeout=60) == 0
    line, success, end = shown.decode().split("\r\n")
    assert re.sub(r"\d:\d\d:\d\d", "", line).split("\r\x1b[K")[1:] == [
        "  cluster STARTING, step PENDING",
        "  cluster STARTING, step PENDING",
        "  cluster RUNNING, step RUNNING",
        "  cluster TERMINATED, step COMPLETED",
    ]
    assert (success, end) == ("The job has succeeded and the cluster has ended.", "")
    process.communicate()


def test_a_failed_step_exits_with_1_and_shows_the_end_of_both_logs(
    project: Project, aws: Server, emr: Any, tell: Tell
) -> None:
    cluster = launch(emr)
    step = only_step(emr, cluster)["Id"]
    of_step = put_log(aws, "%s/steps/%s/stderr.gz" % (cluster, step), ["client %d" % n for n in range(1, 31)])
    containers = cluster + "/containers/application_1_0001/container_1_0001_01_%06d/%s.gz"
    of_job = put_log(aws, containers % (1, "stdout"), ["etl.py: too many bad records"])
    put_log(aws, containers % (1, "stderr"), ["Spark's own words"])
    put_log(aws, containers % (2, "stdout"), ["an executor"])
    tell(("TERMINATED_WITH_ERRORS", "FAILED"))
    done = project.run("--follow", cluster)
    assert done.code == 1
    assert "succeeded" not in done.out
    lines = done.err.splitlines()
    assert lines[0].startswith("etl_job.sh: the job has not succeeded: step FAILED, cluster TERMINATED_WITH_ERRORS (")
    assert lines[1] == "etl_job.sh: the end of the log of the step, %s:" % of_step
    assert lines[2:22] == ["  client %d" % n for n in range(11, 31)]
    assert lines[22:] == ["etl_job.sh: the end of the log of the job, %s:" % of_job, "  etl.py: too many bad records"]


def test_whatever_is_not_completed_has_failed_and_late_logs_are_announced(
    project: Project, emr: Any, tell: Tell
) -> None:
    cluster = launch(emr)
    tell(("TERMINATED", "CANCELLED"))
    done = project.run("--follow", cluster)
    assert done.code == 1
    logs, step = "s3://%s/emr-logs/%s" % (BUCKET, cluster), only_step(emr, cluster)["Id"]
    assert done.err.splitlines()[1:] == [
        "etl_job.sh: no log of the step yet; it may come within some minutes: %s/steps/%s/stderr.gz" % (logs, step),
        "etl_job.sh: no log of the job yet; it may come within some minutes: %s/containers/*/*_000001/stdout.gz" % logs,
    ]


def test_failed_looks_are_said_once_and_waiting_goes_on(project: Project, emr: Any, tell: Tell) -> None:
    cluster = launch(emr)
    project.pretend(real="emr")
    broken = JsonRESTError("ThrottlingException", "too many")
    tell(broken, broken, BEGINNING[0], broken, ("TERMINATED", "COMPLETED"))
    done = project.run("--follow", cluster, env={"POLL_FAILURES": "3"})
    assert done.code == 0
    start = "etl_job.sh: cannot see the cluster, trying again: AWS refused: An error occurred (Throttling"
    assert [line[: len(start)] for line in done.err.splitlines()] == [start, start]


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "http://127.0.0.1:%d" % free.getsockname()[1]


def test_waiting_ends_after_too_many_failed_looks_in_a_row(project: Project, aws: Server) -> None:
    project.pretend(real="emr")
    env: Variables = {"POLL_FAILURES": "3", "AWS_ENDPOINT_URL_EMR": closed_port()}
    done = project.run("--follow", "j-1ABCDEFGHIJKL", env=env)
    assert (done.code, done.out) == (2, "")
    first, last, follow, stop = done.err.splitlines()
    assert first.startswith("etl_job.sh: cannot see the cluster, trying again: AWS cannot be reached, ")
    assert last == "etl_job.sh: 3 looks in a row have failed; the cluster j-1ABCDEFGHIJKL goes on and ends by itself"
    check_ways_out(project, follow, stop, "j-1ABCDEFGHIJKL")


def check_ways_out(project: Project, follow: str, stop: str, cluster: str) -> None:
    words = shlex.split(follow)
    assert words[:2] == ["follow", "it"]
    assert words[2:] == ["REGION=" + REGION, str(project.folder / "etl_job.sh"), "--follow", cluster]
    assert stop.startswith("  end it     aws emr terminate-clusters --cluster-ids %s --region us-west-2 " % cluster)


def test_credentials_that_expire_while_waiting_end_it_with_a_sentence(project: Project, emr: Any, tell: Tell) -> None:
    cluster = launch(emr)
    project.pretend(real="emr")
    story = tell(BEGINNING[0], JsonRESTError("ExpiredTokenException", "expired"))
    done = project.run("--follow", cluster)
    assert done.code == 2
    sentence = "the credentials have expired: get new ones; the cluster %s goes on and ends by itself" % cluster
    assert done.err.startswith("etl_job.sh: " + sentence)
    assert story.looks == 2


def test_a_cluster_that_never_was_is_said(project: Project, aws: Server) -> None:
    project.pretend(real="emr")
    done = project.run("--follow", "j-1ABCDEFGHIJKL")
    assert (done.code, done.out) == (2, "")
    assert done.err == "etl_job.sh: there is no cluster j-1ABCDEFGHIJKL in us-west-2\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_while_waiting_leaves_the_cluster(
    number: signal.Signals, code: int, project: Project, emr: Any, tell: Tell
) -> None:
    cluster = launch(emr)
    project.pretend(real="emr")
    story = tell(BEGINNING[0], BEGINNING[2])
    process = project.start("--follow", cluster, start_new_session=True)
    assert story.reached.wait(timeout=60)
    os.killpg(process.pid, number)
    done = project.finish(process)
    assert done.code == code
    sentence, follow, stop = done.err.splitlines()[-3:]
    assert sentence == "etl_job.sh: interrupted; the cluster %s goes on and ends by itself" % cluster
    check_ways_out(project, follow, stop, cluster)
    assert emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"] == "RUNNING"


def test_ctrl_c_before_launching_launches_nothing(project: Project, aws: Server) -> None:
    project.pretend(real="iam")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        endpoint = "http://127.0.0.1:%d" % deaf.getsockname()[1]
        process = project.start(env={"AWS_ENDPOINT_URL_IAM": endpoint}, start_new_session=True)
        connection, _ = deaf.accept()
        os.killpg(process.pid, signal.SIGINT)
        done = project.finish(process)
        connection.close()
    assert (done.code, done.out, done.err) == (130, "", "etl_job.sh: interrupted; nothing was launched\n")
    assert clusters(aws) == []


# ------------------------------------------------------------------------------------ the script itself


def test_it_uses_no_feature_of_a_bash_newer_than_3_2() -> None:
    text = (ROOT / "etl_job.sh").read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    newer = [
        r"\b(declare|local|typeset) -[a-zA-Z]*[Angu]",
        r"\b(mapfile|readarray|coproc)\b",
        r"\$\{[^}]*(\^|,,|@[A-Za-z]\})",
        r"&>>|\|&|;;&|;&",
        r"\[\[? -[vR] ",
        r"\$\{\w+\[-",
        r"printf [^|]*%\(",
        r"\bEPOCH|BASHPID|\bwait -[nf]|read [^|]*-[iN]\b",
        r"(?<!\+)\"\$\{(given|configurations)\[@\]\}\"",
    ]
    assert [pattern for pattern in newer if re.search(pattern, code)] == []
