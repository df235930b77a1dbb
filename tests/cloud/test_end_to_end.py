"""From a laptop to the lake: create_s3.py, etl_job.sh with the real aws CLI, and the step that the server got, run as
it is: spark-submit --deploy-mode cluster on a YARN, with EMR 5.30.0's Spark, Python and Java. AWS is moto's server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

import pytest
from aws import KEY_ID, SECRET, Server
from conftest import ROOT
from lakes import local_lake, same_rows, small_sample
from yarn import Yarn

BUCKET, RAW = "sparkify-dl-sp", "raw-music-data"
CACHE = ROOT / "build/yarn"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laptop")


class Launched(NamedTuple):
    """What the server knows of the cluster."""

    printed: str
    cluster: Dict[str, Any]
    groups: List[Dict[str, Any]]
    step: Dict[str, Any]


@pytest.fixture(scope="module")
def launched(server: Server, folder: Path) -> Launched:
    """The two commands of the README, from a folder without dl.cfg, once the input and the roles are there."""
    (folder / "cwd").mkdir()
    env = {**os.environ, **server.environment(folder), "SONG_DATA": "s3://%s/songs" % RAW}
    env.update(LOG_DATA="s3://%s/logs" % RAW, MAX_BAD_PERCENT="50")
    env["PATH"] = "%s:%s" % (Path(sys.executable).parent, env["PATH"])
    server.make_bucket(RAW)
    server.upload(small_sample(folder / "input"), RAW, "")
    server.make_roles()
    out = ""
    for command in ([sys.executable, str(ROOT / "create_s3.py")], [str(ROOT / "etl_job.sh")]):
        done = subprocess.run(
            command, cwd=str(folder / "cwd"), env=env, capture_output=True, encoding="utf-8", timeout=120, check=False
        )
        out += done.stdout + done.stderr
        assert done.returncode == 0, out
    emr = server.client("emr")
    (found,) = emr.list_clusters()["Clusters"]
    (step,) = emr.list_steps(ClusterId=found["Id"])["Steps"]
    cluster = emr.describe_cluster(ClusterId=found["Id"])["Cluster"]
    groups = emr.list_instance_groups(ClusterId=found["Id"])["InstanceGroups"]
    return Launched(out, cluster, groups, step)


def test_the_cluster_is_as_promised(launched: Launched) -> None:
    cluster = launched.cluster
    assert cluster["ReleaseLabel"] == "emr-5.30.0"
    assert [app["Name"] for app in cluster["Applications"]] == ["Spark"]
    assert cluster["AutoTerminate"]
    assert cluster["LogUri"] == "s3://%s/emr-logs/" % BUCKET
    assert cluster["ServiceRole"] == "EMR_DefaultRole"
    assert cluster["Ec2InstanceAttributes"]["IamInstanceProfile"] == "EMR_EC2_DefaultRole"
    assert {"Key": "project", "Value": "sparkify"} in cluster["Tags"]
    sizes = {group["InstanceGroupType"]: group["RequestedInstanceCount"] for group in launched.groups}
    assert sizes == {"MASTER": 1, "CORE": 2}
    assert {group["InstanceType"] for group in launched.groups} == {"m5.xlarge"}


def test_the_step_is_as_promised(launched: Launched) -> None:
    step = launched.step
    assert step["ActionOnFailure"] == "TERMINATE_CLUSTER"
    assert step["Config"]["Jar"] == "command-runner.jar"
    arguments = step["Config"]["Args"]
    assert arguments[:3] == ["spark-submit", "--deploy-mode", "cluster"]
    script = arguments.index("s3://%s/sparkify-scripts/spark-etl.py" % BUCKET)
    assert arguments[script + 1 :] == [
        *["--mode", "S3", "--song-data", "s3://%s/songs" % RAW, "--log-data", "s3://%s/logs" % RAW],
        *["--output", "s3://%s/sparkify-data" % BUCKET, "--max-bad-percent", "50"],
    ]
    assert not any(secret in str(step) + launched.printed for secret in (SECRET, KEY_ID))
    assert launched.cluster["Id"] in launched.printed


@pytest.fixture(scope="module")
def yarn(launched: Launched, folder: Path) -> Iterator[Yarn]:
    """Two core nodes with the memory that etl_job.sh has asked for."""
    (wanted,) = [each for each in launched.cluster["Configurations"] if each["Classification"] == "yarn-site"]
    yarn = Yarn(folder / "yarn", CACHE, wanted["Properties"])
    yield yarn
    yarn.close()


EMR_PYTHON, EMR_JAVA_HOME = os.environ.get("EMR_PYTHON", ""), os.environ.get("EMR_JAVA_HOME", "")


@pytest.mark.slow
@pytest.mark.skipif(not EMR_PYTHON, reason="EMR_PYTHON names no runtime of EMR 5.30.0")
def test_the_step_builds_the_lake(launched: Launched, server: Server, yarn: Yarn, folder: Path) -> None:
    """Exactly the step's arguments; the same rows as from a LOCAL run on the same input."""
    find_spark = "import pyspark; print(pyspark.__path__[0], end='')"
    spark = Path(subprocess.check_output([EMR_PYTHON, "-c", find_spark], encoding="utf-8"))
    conf = on_emr(yarn, server, spark, folder / "emr")
    env = {"PATH": os.environ["PATH"], "JAVA_HOME": EMR_JAVA_HOME, "SPARK_HOME": str(spark)}
    env.update(HADOOP_CONF_DIR=str(conf), SPARK_CONF_DIR=str(conf), SPARK_LOCAL_IP="127.0.0.1")
    command = [str(spark / "bin/spark-submit"), *launched.step["Config"]["Args"][1:]]
    submitted = subprocess.run(command, cwd=str(folder), env=env, capture_output=True, encoding="utf-8", timeout=900)
    assert yarn.applications(), submitted.stderr
    (application,) = yarn.applications()
    driver = application.containers[0].printed("stdout")
    assert submitted.returncode == 0, driver + submitted.stderr
    assert (application.state, application.final_state) == ("FINISHED", "SUCCEEDED")
    assert {container.node for container in application.containers} == {0, 1}
    assert "start Spark                2.4.5" in driver
    expected = local_lake(folder / "input", folder / "expected")
    assert same_rows(server.download(BUCKET, "sparkify-data/", folder / "lake"), expected)
    left = [key for key in server.keys(BUCKET, "sparkify-data/") if "_staging" in key or "_temporary" in key]
    assert left == []


def on_emr(yarn: Yarn, server: Server, spark: Path, conf: Path) -> Path:
    """The configuration of a node where spark-submit runs: python3 is 3.7, Java is 8, s3:// is set up."""
    s3a = {
        "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",  # EMR has EMRFS there
        "fs.s3a.endpoint": server.endpoint,
        "fs.s3a.connection.ssl.enabled": "false",
        "fs.s3a.access.key": KEY_ID,  # where EMR has the role of the node
        "fs.s3a.secret.key": SECRET,
    }
    path = "%s:%s" % (Path(EMR_PYTHON).parent, os.environ["PATH"])
    environments = {
        "spark.%sEnv.%s" % (part, name): value
        for part in ("yarn.appMaster", "executor")
        for name, value in {"JAVA_HOME": EMR_JAVA_HOME, "PATH": path, "SPARK_LOCAL_IP": "127.0.0.1"}.items()
    }
    return yarn.configure(conf, spark, s3a, environments)
