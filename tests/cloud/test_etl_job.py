"""etl_job.sh against EMR, S3, IAM and STS on loopback: the real aws CLI, moto's server.

moto's clusters do nothing by themselves: `tell` says what becomes of one. What needs no answer of AWS's, reading
settings above all, has a CLI that agrees to everything and takes no time.
"""

from __future__ import annotations

import gzip
import json
import os
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
from aws import CLI, KEY_ID, REGION, SECRET, Server
from conftest import ROOT
from moto.emr.responses import ElasticMapReduceResponse

import create_s3

BUCKET, SCRIPT, INPUT = "sparkify-dl-sp", "sparkify-scripts/spark-etl.py", "udacity-dend"
START = "sparkify-scripts/open-files.sh"
ACCOUNT = "123456789012"
OTHER_ID, OTHER_SECRET = "AKIAI44QH8DHBEXAMPLE", "je7MtGbClwBF/2Zp9Utk/h3yCo8nvb=%EXAMPLEK"
CREDENTIALS = "[AWS]\nAWS_ACCESS_KEY_ID = %s\nAWS_SECRET_ACCESS_KEY = %s\n" % (OTHER_ID, OTHER_SECRET)
NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
JOB = (ROOT / "etl.py").read_bytes()

# All that etl_job.sh may start, so that it needs nothing that macOS has not.
TOOLS = ["aws", "cat", "dirname", "gzip", "python3", "sed", "tail"]
RECORDING = '#!/bin/sh\nprintf "%%s\\n" "$*" >>"%s"\n%s'  # how the CLI was called

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
    put_job(server, JOB)
    put_job(server, b"", key=START)
    for key in ("song_data/A/B/C/song.json", "log_data/2018/11/events.json"):
        server.client("s3").put_object(Bucket=INPUT, Key=key, Body=b"{}")
    server.make_roles()
    return server


def put_job(server: Server, body: bytes, bucket: str = BUCKET, key: str = SCRIPT) -> None:
    proof = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": create_s3.checksum(body)}
    server.client("s3").put_object(Bucket=bucket, Key=key, Body=body, **proof)


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
        self.started = folder / "started"  # every command line of the aws CLI
        for path in (self.folder, self.home, self.tools):
            path.mkdir()
        for name in ("etl_job.sh", "create_s3.py", "etl.py"):
            shutil.copy(str(ROOT / name), str(self.folder))
        for name in TOOLS[1:]:
            (self.tools / name).symlink_to(sys.executable if name == "python3" else str(shutil.which(name)))
        (self.tools / "python3").unlink()
        self.tool("python3", '#!/bin/sh\nexec "%s" "$@"\n' % sys.executable)
        (self.tools / "bash").symlink_to(str(shutil.which("bash")))
        self.tool("aws", RECORDING % (self.started, CLI % (Path(sys.executable).parent / "aws")))
        self.environment = {
            **environment,
            "PATH": str(self.tools),
            "HOME": str(self.home),
            "AWS_MAX_ATTEMPTS": "1",  # the CLI itself would try again for seconds
            "AWS_DATA_PATH": str(hasty_waiters(folder / "models")),
        }

    def tool(self, name: str, script: str) -> None:
        (self.tools / name).write_text(script)
        (self.tools / name).chmod(0o755)

    def pretend(self, **complaints: str) -> None:
        """A CLI that agrees to everything at once, or complains about an operation (get_role="…")."""
        cases = [
            "*' %s '*) echo %s >&2; exit 254 ;;" % (k.replace("_", "-"), shlex.quote(v)) for k, v in complaints.items()
        ]
        cases += ["*' head-object '*) echo '%s' ;;" % create_s3.checksum(JOB), "*' get-caller-identity '*) echo 1 ;;"]
        self.tool("aws", "\n".join(['#!/bin/sh\ncase " $* " in', *cases, "*) echo 1 ;; esac"]))

    def start(self, *argv: str, env: Optional[Variables] = None, **kwargs: Any) -> subprocess.Popen[bytes]:
        """Run etl_job.sh in the user's folder; None drops a variable."""
        variables = {k: v for k, v in {**self.environment, **(env or {})}.items() if v is not None}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        command = [str(self.folder / "etl_job.sh"), *argv]
        return subprocess.Popen(command, env=variables, cwd=str(self.home), preexec_fn=hear_ctrl_c, **pipes)

    def finish(self, process: subprocess.Popen[bytes]) -> Done:
        """Whatever it has done: neither output nor a command line shows a secret."""
        out, err = process.communicate(timeout=60)
        done = Done(process.returncode, out.decode(), err.decode())
        started = self.started.read_text() if self.started.exists() else ""
        assert not any(secret in text for secret in (SECRET, OTHER_SECRET) for text in (done.out, done.err, started))
        return done

    def run(self, *argv: str, env: Optional[Variables] = None) -> Done:
        return self.finish(self.start(*argv, env=env))

    def configure(self, text: str) -> None:
        (self.folder / "dl.cfg").write_text(text, "utf-8")


def hasty_waiters(folder: Path) -> Path:
    """A folder from which the CLI learns to wait for a cluster without pausing, and to give up after two looks."""
    states = {"TERMINATED": "success", "TERMINATED_WITH_ERRORS": "failure"}
    acceptors = [
        {"state": state, "matcher": "path", "argument": "Cluster.Status.State", "expected": expected}
        for expected, state in states.items()
    ]
    waiter = {"operation": "DescribeCluster", "delay": 0, "maxAttempts": 2, "acceptors": acceptors}
    path = folder / "emr" / "2009-03-31" / "waiters-2.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"version": 2, "waiters": {"ClusterTerminated": waiter}}))
    return folder


@pytest.fixture
def project(tmp_path: Path, server: Server) -> Project:
    return Project(tmp_path, server.environment(tmp_path))


Plan = Callable[..., Dict[str, List[str]]]


@pytest.fixture
def plan(project: Project) -> Plan:
    """The options of the call that --dry-run prints, where AWS has nothing against it."""

    def run(env: Optional[Variables] = None, *job: str) -> Dict[str, List[str]]:
        project.pretend()
        done = project.run("--dry-run", "--", *job, env=env)
        assert (done.code, done.err) == (0, "")
        options: Dict[str, List[str]] = {}
        for word in shlex.split(done.out.replace("\\\n", ""))[3:]:
            if word.startswith("--"):
                values = options[word[2:]] = []
            else:
                values.append(word)
        return options

    return run


def job_of(options: Dict[str, List[str]]) -> List[str]:
    """The job and its arguments in a call."""
    args: List[str] = json.loads(options["steps"][0])[0]["Args"]
    return args[next(i for i, word in enumerate(args) if word.endswith(".py")) :]


def arguments(options: Dict[str, List[str]]) -> Dict[str, str]:
    """The job's own flags in a call."""
    job = job_of(options)[1:]
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
    (action,) = emr.list_bootstrap_actions(ClusterId=cluster)["BootstrapActions"]
    assert action["ScriptPath"] == "s3://sparkify-dl-sp/sparkify-scripts/open-files.sh"
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
        *["--output", "s3://sparkify-dl-sp/sparkify-data", "--max-bad-percent", "5"],
    ]


def test_without_any_setting_the_default_cluster_is_launched(project: Project, aws: Server, emr: Any) -> None:
    done = project.run()
    assert (done.code, done.err) == (0, "")
    (cluster,) = clusters(aws)
    check_default_cluster(emr, cluster)
    lines = dict(line.split(None, 1) for line in done.out.splitlines())
    assert lines["launched"] == cluster + ", which terminates when the job has ended"
    assert lines["writes"] == "s3://sparkify-dl-sp/sparkify-data"
    assert lines["logs"].startswith("s3://sparkify-dl-sp/emr-logs/%s/" % cluster)
    watch = subprocess.run(["bash", "-c", lines["watch"]], env=project.environment, stdout=subprocess.PIPE, check=True)
    assert json.loads(watch.stdout)[0]["State"] == "RUNNING"
    subprocess.run(["bash", "-c", lines["stop"]], env=project.environment, check=True)
    assert emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"] == "TERMINATED"


def test_a_dry_run_launches_nothing_and_its_command_launches_that_cluster(
    project: Project, aws: Server, emr: Any
) -> None:
    done = project.run("--dry-run")
    assert (done.code, done.err) == (0, "")
    assert clusters(aws) == []
    command = subprocess.run(
        ["bash"], input=done.out.encode(), env=project.environment, stdout=subprocess.PIPE, check=True
    )
    cluster = command.stdout.decode().strip()
    assert clusters(aws) == [cluster]
    check_default_cluster(emr, cluster)


def test_every_setting_can_be_overridden_by_the_environment(project: Project, aws: Server) -> None:
    aws.client("iam").create_role(RoleName="my-role", AssumeRolePolicyDocument="{}")
    aws.client("iam").create_instance_profile(InstanceProfileName="my-profile")
    settings = {
        "CLUSTER_NAME": "nightly (test)",
        "EMR_RELEASE": "emr-7.12.0",
        "NODES": "12",
        "INSTANCE_TYPE": "r5.2xlarge",
        "SPOT": "yes",
        "SUBNET": "subnet-0123456789abcdef0",
        "KEY_PAIR": "my key",
        "SERVICE_ROLE": "arn:aws:iam::123456789012:role/my-role",
        "INSTANCE_PROFILE": "my-profile",
        "CLUSTER_TAGS": "project=mine team=data",
    }
    assert set(settings) == set(names_of_settings())
    done = project.run(env=dict(settings))
    assert (done.code, done.err) == (0, "")
    emr = aws.client("emr")
    (cluster,) = clusters(aws)
    found = emr.describe_cluster(ClusterId=cluster)["Cluster"]
    assert found["Name"] == "nightly (test)"
    assert found["ReleaseLabel"] == "emr-7.12.0"
    assert found["ServiceRole"] == "arn:aws:iam::123456789012:role/my-role"
    attributes = found["Ec2InstanceAttributes"]
    assert attributes["IamInstanceProfile"] == "my-profile"
    assert attributes["Ec2SubnetId"] == "subnet-0123456789abcdef0"
    assert attributes["Ec2KeyName"] == "my key"
    assert tags(found) == {"project": "mine", "team": "data"}
    assert groups(emr, cluster) == {"MASTER": (1, "r5.2xlarge", "ON_DEMAND"), "CORE": (11, "r5.2xlarge", "SPOT")}
    assert emr.list_bootstrap_actions(ClusterId=cluster)["BootstrapActions"] == []


def names_of_settings() -> List[str]:
    text = (ROOT / "etl_job.sh").read_text(encoding="utf-8")
    return re.findall(r'^: "\$\{([A-Z_]+):=', text, re.MULTILINE)


@pytest.mark.parametrize(
    ("release", "low"),
    [("emr-5.30.1", True), ("emr-5.31.0", True), ("emr-5.32.0", True), ("emr-5.33.0", False), ("emr-7.12.0", False)],
)
def test_nodes_that_may_open_few_files_get_more_when_they_start(release: str, low: bool, plan: Plan) -> None:
    assert ("bootstrap-actions" in plan({"EMR_RELEASE": release})) == low


def test_driver_and_executors_fit_the_core_nodes(plan: Plan) -> None:
    conf = spark_settings(plan({"NODES": "4"}))
    size = {name: int(value[:-1]) for name, value in conf.items() if "emory" in name}
    executor = size["spark.executor.memory"] + size["spark.executor.memoryOverhead"]
    driver = size["spark.driver.memory"] + size["spark.driver.memoryOverhead"]
    assert (conf["spark.executor.instances"], conf["spark.executor.cores"]) == ("3", "4")
    assert driver + executor == 12  # GiB that EMR gives YARN on an m5.xlarge
    assert size["spark.executor.memoryOverhead"] >= size["spark.executor.memory"] / 10


def test_another_instance_type_gets_the_settings_of_emr(plan: Plan) -> None:
    conf = {"spark.yarn.maxAppAttempts": "1", "spark.yarn.appMasterEnv.PYSPARK_PYTHON": "python3"}
    assert spark_settings(plan({"INSTANCE_TYPE": "m6i.xlarge"})) == conf


# ------------------------------------------------------------------------------------ settings


def test_dl_cfg_says_what_runs_where(plan: Plan, project: Project) -> None:
    text = "[AWS]\nAWS_REGION = eu-west-1\n[PROJECT]\nMAX_BAD_PERCENT = 2.5\n[S3]\nBUCKET = mine\nSCRIPT = jobs/my.py\n"
    project.configure(text + "SONG_DATA = s3a://mine/my songs/\nLOG_DATA = s3://logs\n")
    found = plan({"AWS_REGION": None, "AWS_DEFAULT_REGION": None})
    assert job_of(found) == [
        *["s3://mine/jobs/my.py", "--mode", "S3", "--song-data", "s3://mine/my songs", "--log-data", "s3://logs"],
        *["--output", "s3://mine/sparkify-data", "--max-bad-percent", "2.5"],
    ]
    assert (found["region"], found["log-uri"]) == (["eu-west-1"], ["s3://mine/emr-logs/"])
    assert found["bootstrap-actions"] == ["Name=open-files,Path=s3://mine/jobs/open-files.sh"]


def test_dl_cfg_of_the_working_directory_comes_first_and_the_environment_before_it(
    plan: Plan, project: Project
) -> None:
    project.configure("[S3]\nSONG_DATA = s3://beside/songs\nLOG_DATA = s3://beside/logs\n")
    (project.home / "dl.cfg").write_text("[S3]\nBUCKET = here\n")
    found = arguments(plan({"LOG_DATA": "s3://env/logs"}))
    assert (found["--song-data"], found["--log-data"]) == ("s3://udacity-dend/song_data", "s3://env/logs")
    assert found["--output"] == "s3://here/sparkify-data"
    assert arguments(plan({"BUCKET": "of-the-environment"}))["--output"] == "s3://of-the-environment/sparkify-data"


def test_the_project_s_own_dl_cfg_gives_the_defaults(plan: Plan, project: Project) -> None:
    without = plan()
    shutil.copy(str(ROOT / "dl.cfg"), str(project.folder))
    assert plan() == without


def test_what_others_export_for_ends_of_their_own_is_no_setting(plan: Plan) -> None:
    """WSL exports NAME, continuous integration much else."""
    names = ["NAME", "KEY", "OUTPUT", "SCRIPT", "REGION", "RELEASE", "TAGS", "LOG_URI", "CHECKSUM", "account", "start"]
    assert plan(dict.fromkeys(names, "of-others")) == plan()


def test_what_follows_two_dashes_is_handed_to_the_job(plan: Plan) -> None:
    assert job_of(plan({}, "--full", "--output", "s3://other/the lake's $HOME"))[-3:] == [
        *["--full", "--output", "s3://other/the lake's $HOME"]
    ]


def test_an_input_on_this_machine_is_refused(project: Project) -> None:
    project.pretend()
    done = project.run(env={"SONG_DATA": "data/song_data"})
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch("create_s3.py: song_data is /.*data/song_data; for a cluster it must be in S3\n", done.err)


@pytest.mark.parametrize("nodes", ["1", "three", "0x3", "-4"])
def test_a_cluster_has_two_nodes_at_least(nodes: str, project: Project) -> None:
    done = project.run(env={"NODES": nodes})
    assert (done.code, done.out) == (2, "")
    assert (
        done.err == "etl_job.sh: NODES is %s; it must be a number, at least 2: a primary node and core nodes\n" % nodes
    )


def test_spot_is_yes_or_no(project: Project) -> None:
    done = project.run(env={"SPOT": "true"})
    assert (done.code, done.out, done.err) == (2, "", "etl_job.sh: SPOT is true; it must be yes or no\n")


@pytest.mark.parametrize("argv", [["--nonsense"], ["cluster"], ["--key=" + SECRET]])
def test_wrong_options_exit_with_2_and_show_no_value(argv: List[str], project: Project) -> None:
    done = project.run(*argv)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert argv[0].split("=")[0] in done.err


def test_help_and_documentation_name_every_setting(project: Project) -> None:
    done = project.run("--help")
    assert (done.code, done.err) == (0, "")
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name in names_of_settings():
        assert "${%s:=" % name in done.out
        assert re.search(r"^\| `%s` \|" % name, text, re.MULTILINE)
    assert "--dry-run" in done.out
    assert "set -" not in done.out


# ------------------------------------------------------------------------------------ credentials


def test_credentials_of_dl_cfg_are_used_where_there_are_no_others(project: Project, aws: Server) -> None:
    project.configure(CREDENTIALS + "AWS_SESSION_TOKEN =\n[S3]\nBUCKET = no-such-bucket\n")
    aws.calls.clear()
    done = project.run(env=dict(NO_KEYS))
    assert "s3://no-such-bucket/sparkify-scripts/spark-etl.py does not exist" in done.err
    assert [call.key_id for call in aws.calls] == [OTHER_ID, OTHER_ID]


def test_the_cli_s_own_credentials_come_first(project: Project, aws: Server) -> None:
    project.configure(CREDENTIALS + "[S3]\nBUCKET = no-such-bucket\n")
    aws.calls.clear()
    assert "s3://no-such-bucket/sparkify-scripts/spark-etl.py does not exist" in project.run().err
    assert [call.key_id for call in aws.calls] == [KEY_ID, KEY_ID]


@pytest.mark.parametrize(
    ("config", "env", "sentence"),
    [
        ("", NO_KEYS, "Unable to locate credentials"),
        (CREDENTIALS, {"AWS_SECRET_ACCESS_KEY": None}, "Partial credentials found in env"),
        ("[AWS]\nAWS_ACCESS_KEY_ID = %s\n" % OTHER_ID, NO_KEYS, "Unable to locate credentials"),
        (CREDENTIALS, {**NO_KEYS, "AWS_PROFILE": "nobody"}, "The config profile (nobody) could not be found"),
    ],
    ids=["none", "half and dl.cfg", "half in dl.cfg", "profile"],
)
def test_missing_credentials_are_refused_and_halves_never_joined(
    config: str, env: Variables, sentence: str, project: Project, aws: Server
) -> None:
    project.configure(config)
    aws.calls.clear()
    done = project.run(env=env)
    assert (done.code, done.out, aws.calls) == (2, "", [])
    assert sentence in done.err


def test_a_missing_cli_is_said(project: Project) -> None:
    (project.tools / "aws").unlink()
    done = project.run()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("etl_job.sh: the aws CLI is missing: https://")


# ------------------------------------------------------------------------------------ refusals

COMPLAINT = "An error occurred (%s) when calling the X operation: as AWS words it"


def refused(project: Project, aws: Server, sentence: str, env: Optional[Variables] = None) -> None:
    """Nothing was launched; AWS's own words, if any, come before the sentence."""
    done = project.run(env=env)
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("etl_job.sh: %s\n" % sentence)
    assert clusters(aws) == []


NOT_THERE = "s3://%s/%s does not exist, or the bucket belongs to another account; run: python create_s3.py"


@pytest.mark.parametrize(("bucket", "key"), [(BUCKET, SCRIPT), (BUCKET, START), ("no-such-bucket", SCRIPT)])
def test_without_the_script_nothing_is_launched(bucket: str, key: str, project: Project, aws: Server) -> None:
    aws.client("s3").delete_object(Bucket=BUCKET, Key=key)
    refused(project, aws, NOT_THERE % (bucket, key), {"BUCKET": bucket})


def test_the_script_is_taken_from_a_bucket_of_ones_own(project: Project, aws: Server) -> None:
    """S3 compares the owner that every question for the script names."""
    project.run("--dry-run")
    asked = [line for line in project.started.read_text().splitlines() if line.startswith("s3api head-object")]
    assert len(asked) == 2
    assert all("--expected-bucket-owner %s " % ACCOUNT in line for line in asked)
    aws.answer("HEAD", SCRIPT, 403, "")
    refused(project, aws, NOT_THERE % (BUCKET, SCRIPT))


def test_an_older_script_is_launched_with_a_warning(project: Project, aws: Server) -> None:
    assert project.run("--dry-run").err == ""
    put_job(aws, b"# older")
    done = project.run("--dry-run")
    assert done.code == 0
    assert done.err.startswith(
        "etl_job.sh: the etl.py in the bucket, which will run, is not the local one; to upload that: python "
    )


@pytest.mark.parametrize("name", ["song_data", "log_data"])
def test_an_empty_input_is_refused(name: str, project: Project, aws: Server) -> None:
    s3 = aws.client("s3")
    for entry in s3.list_objects_v2(Bucket=INPUT, Prefix=name)["Contents"]:
        s3.delete_object(Bucket=INPUT, Key=entry["Key"])
    for key in (name + "/", name + "_old/a.json", "a/%s/a.json" % name, name + ".json"):
        s3.put_object(Bucket=INPUT, Key=key, Body=b"")
    refused(project, aws, "the input s3://udacity-dend/%s/ is empty" % name)


def test_the_root_of_a_bucket_may_be_an_input(project: Project, aws: Server) -> None:
    aws.make_bucket("logs")
    aws.client("s3").put_object(Bucket="logs", Key="a.json", Body=b"")
    assert project.run("--dry-run", env={"LOG_DATA": "s3://logs"}).code == 0


def test_an_input_that_may_not_be_read_is_refused_with_aws_s_words(project: Project, aws: Server) -> None:
    project.pretend(udacity_dend=COMPLAINT % "AccessDenied")
    refused(project, aws, "cannot list the input s3://udacity-dend/song_data")
    assert (COMPLAINT % "AccessDenied") in project.run().err


@pytest.mark.parametrize(
    ("name", "value"),
    [("SERVICE_ROLE", "arn:aws:iam::123456789012:role/a/nobody"), ("INSTANCE_PROFILE", "nobody")],
)
def test_missing_roles_are_refused_with_where_they_are_made(
    name: str, value: str, project: Project, aws: Server
) -> None:
    done = project.run(env={name: value})
    assert (done.code, done.out) == (2, "")
    assert "(NoSuchEntity)" in done.err
    assert "step 4" in done.err
    assert clusters(aws) == []


def test_who_may_not_look_at_roles_goes_on(project: Project) -> None:
    project.pretend(get_role=COMPLAINT % "AccessDenied", get_instance_profile=COMPLAINT % "AccessDenied")
    done = project.run("--dry-run")
    assert (done.code, done.err) == (0, "")


def test_what_emr_refuses_is_shown(project: Project) -> None:
    project.pretend(create_cluster=COMPLAINT % "ValidationException")
    done = project.run("--wait")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(COMPLAINT % "ValidationException" + "\netl_job.sh: no cluster was launched, unless ")


def test_a_lost_answer_is_no_reason_to_launch_again(project: Project, aws: Server) -> None:
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
    assert "unless AWS's answer was lost; check: aws emr list-clusters --active --region us-west-2\n" in done.err


# ------------------------------------------------------------------------------------ waiting

GOES_ON = "goes on and terminates when the job has ended"


class Story:
    """What becomes of a cluster, told to whoever looks: states of cluster and step."""

    def __init__(self, *chapters: Tuple[str, str]) -> None:
        self.chapters, self.looks, self.reached = list(chapters), 0, Event()

    def look(self, response: ElasticMapReduceResponse) -> None:
        chapter = self.chapters[min(self.looks, len(self.chapters) - 1)]
        self.looks += 1
        if self.looks >= len(self.chapters):
            self.reached.set()
        cluster = response.backend.describe_cluster(response._get_param("ClusterId"))
        cluster.state, cluster.steps[0].state = chapter


Tell = Callable[..., Story]


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Begin a story."""

    def begin(*chapters: Tuple[str, str]) -> Story:
        story, really = Story(*chapters), ElasticMapReduceResponse.describe_cluster

        def describe_cluster(self: ElasticMapReduceResponse) -> Any:
            story.look(self)
            return really(self)

        monkeypatch.setattr(ElasticMapReduceResponse, "describe_cluster", describe_cluster)
        return story

    return begin


RUNNING, DONE = ("RUNNING", "RUNNING"), ("TERMINATED", "COMPLETED")


def test_waiting_outlasts_the_waiter_and_ends_with_success(project: Project, aws: Server, tell: Tell) -> None:
    story = tell(RUNNING, RUNNING, RUNNING, ("STARTING", "PENDING"), RUNNING, ("TERMINATING", "COMPLETED"), DONE)
    done = project.run("--wait")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("The job has succeeded and the cluster has terminated.\n")
    assert story.looks >= 7


def put_log(aws: Server, key: str, lines: Sequence[str]) -> None:
    body = gzip.compress("".join(line + "\n" for line in lines).encode())
    aws.client("s3").put_object(Bucket=BUCKET, Key="emr-logs/" + key, Body=body)


def test_a_failed_job_exits_with_1_and_shows_the_end_of_its_log(
    project: Project, aws: Server, emr: Any, tell: Tell
) -> None:
    story = tell(RUNNING, RUNNING, RUNNING, ("TERMINATED_WITH_ERRORS", "FAILED"))
    process = project.start("--wait")
    assert process.stdout
    cluster = process.stdout.readline().decode().split()[1].rstrip(",")
    containers = cluster + "/containers/application_1_0001/container_1_0001_01_%06d/%s.gz"
    put_log(aws, containers % (1, "stdout"), ["line %d" % n for n in range(30)] + ["etl.py: too many bad records"])
    put_log(aws, containers % (1, "stderr"), ["Spark's own words"])
    put_log(aws, containers % (2, "stdout"), ["an executor"])
    done = project.finish(process)
    assert (done.code, story.reached.is_set()) == (1, True)
    assert "succeeded" not in done.out
    lines = done.err.splitlines()
    assert lines[0].startswith("etl_job.sh: the job has not succeeded: its step is FAILED; ")
    assert lines[2:] == ["line %d" % n for n in range(11, 30)] + ["etl.py: too many bad records"]


def test_whatever_is_not_completed_has_failed_and_late_logs_are_announced(
    project: Project, aws: Server, tell: Tell
) -> None:
    tell(("TERMINATED", "CANCELLED"))
    done = project.run("--wait")
    assert done.code == 1
    assert "its step is CANCELLED; " in done.err
    assert re.search(r"^the log has not arrived yet: s3://sparkify-dl-sp/emr-logs/j-\w+/$", done.err, re.MULTILINE)


def test_who_cannot_see_the_cluster_any_more_is_told_that_it_goes_on(project: Project) -> None:
    project.pretend(wait=COMPLAINT % "ExpiredToken", describe_cluster=COMPLAINT % "ExpiredToken")
    done = project.run("--wait")
    assert done.code == 2
    assert "(ExpiredToken)" in done.err
    assert done.err.endswith("etl_job.sh: cannot read the state of the cluster; the cluster 1 %s\n" % GOES_ON)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_while_waiting_leaves_the_cluster(
    project: Project, emr: Any, tell: Tell, number: signal.Signals, code: int
) -> None:
    story = tell(RUNNING, RUNNING, RUNNING)
    process = project.start("--wait", start_new_session=True)
    assert story.reached.wait(timeout=60)
    os.killpg(process.pid, number)
    done = project.finish(process)
    assert done.code == code
    (cluster,) = re.findall(r"^launched  (j-\w+),", done.out)
    assert done.err.endswith("etl_job.sh: interrupted; the cluster %s %s\n" % (cluster, GOES_ON))
    assert emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"] == "RUNNING"


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
        r"(?<!\+)\"\$\{start\[@\]\}\"",
    ]
    assert [pattern for pattern in newer if re.search(pattern, code)] == []


def test_it_is_a_page_that_people_read() -> None:
    assert len((ROOT / "etl_job.sh").read_text(encoding="utf-8").splitlines()) <= 250
