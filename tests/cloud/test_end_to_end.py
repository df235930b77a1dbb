"""From a laptop to the lake: create_s3.py, etl_job.sh with the real aws CLI, and the step that the server got, run as
it is: spark-submit --deploy-mode cluster on a YARN, with EMR 5.30.0's Spark, Python and Java. AWS is moto's server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import pyspark
import pytest
from aws import KEY_ID, SECRET, Server, with_cli
from conftest import ROOT
from lakes import find_java_home, local_lake, same_rows, small_sample
from yarn import Application, Yarn

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
    env["PATH"] = with_cli(folder / "tools")
    server.make_bucket(RAW)
    server.upload(small_sample(folder / "input"), RAW, "")
    server.make_roles()
    out = ""
    for command in ([sys.executable, str(ROOT / "create_s3.py")], [str(ROOT / "etl_job.sh")]):
        done = subprocess.run(
            command, cwd=str(folder / "cwd"), env=env, capture_output=True, encoding="utf-8", timeout=300, check=False
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


# What EMR gives YARN on an m5.xlarge, of which etl_job.sh shares out all
YARN = {"yarn.nodemanager.resource.memory-mb": "12288", "yarn.scheduler.maximum-allocation-mb": "12288"}


@pytest.fixture(scope="module")
def yarn(folder: Path) -> Iterator[Yarn]:
    """Two core nodes of that memory."""
    yarn = Yarn(folder / "yarn", CACHE, YARN)
    yield yarn
    yarn.close()


class Release(NamedTuple):
    """A release of EMR as far as it can be had here: its Spark, Python and Java, what its core-site.xml says of S3, and
    what is to be left at Hadoop's default.
    """

    python: str
    java_home: str
    spark: str  # the version
    core_site: Dict[str, str]
    defaults: Dict[str, Optional[str]]


S3A = "org.apache.hadoop.fs.s3a.S3AFileSystem"
RELEASES = {
    "emr-5.30.0": Release(os.environ.get("EMR_PYTHON", ""), os.environ.get("EMR_JAVA_HOME", ""), "2.4.5", {}, {}),
    # From 7.10 s3:// is S3A, which EMR tunes, here with a limit that is lower than the job's own
    "emr-7.12.0": Release(
        sys.executable,
        str(find_java_home()),
        pyspark.__version__,
        {"fs.s3a.connection.maximum": "40"},
        {"fs.s3a.directory.marker.retention": None, "mapreduce.fileoutputcommitter.algorithm.version": "1"},
    ),
}
PROBE = """
import json
from pyspark.sql import SparkSession

stop = SparkSession.stop

def tell_and_stop(self):
    hadoop = self.sparkContext._jsc.hadoopConfiguration()
    print("CONF " + json.dumps({name: hadoop.get(name) for name in %r}))
    stop(self)

SparkSession.stop = tell_and_stop
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASES)
def test_the_step_builds_the_lake(name: str, launched: Launched, server: Server, yarn: Yarn, folder: Path) -> None:
    """Exactly the step's arguments; the rows of a LOCAL run on the same input; what the site has set up stays."""
    release, home = RELEASES[name], folder / name
    if not release.python:
        pytest.skip("EMR_PYTHON names no runtime of EMR 5.30.0")
    home.mkdir()
    for key in server.keys(BUCKET, "sparkify-data/"):
        server.client("s3").delete_object(Bucket=BUCKET, Key=key)
    application = submit(launched, server, yarn, release, home)
    assert (application.state, application.final_state) == ("FINISHED", "SUCCEEDED")
    driver = application.containers[0].printed("stdout")
    assert {container.node for container in application.containers} == {0, 1}
    assert re.search(r"start Spark +%s " % re.escape(release.spark), driver)
    expected = local_lake(folder / "input", home / "expected")
    assert same_rows(server.download(BUCKET, "sparkify-data/", home / "lake"), expected)
    left = [key for key in server.keys(BUCKET, "sparkify-data/") if "_work" in key or "_temporary" in key]
    assert left == []
    (told,) = re.findall(r"CONF (\{.*\})", driver)
    assert json.loads(told) == {**core_site(server, release), **release.defaults}


def submit(launched: Launched, server: Server, yarn: Yarn, release: Release, home: Path) -> Application:
    """Run the step as the primary node does."""
    find_spark = "import pyspark; print(pyspark.__path__[0], end='')"
    spark = Path(subprocess.check_output([release.python, "-c", find_spark], encoding="utf-8"))
    conf = on_emr(yarn, server, spark, release, home)
    env = {"PATH": os.environ["PATH"], "JAVA_HOME": release.java_home, "SPARK_HOME": str(spark)}
    env.update(HADOOP_CONF_DIR=str(conf), SPARK_CONF_DIR=str(conf), SPARK_LOCAL_IP="127.0.0.1")
    env.update(SPARK_DIST_CLASSPATH=s3_client(spark))
    before = len(yarn.applications())
    command = [str(spark / "bin/spark-submit"), *launched.step["Config"]["Args"][1:]]
    submitted = subprocess.run(command, cwd=str(home), env=env, capture_output=True, encoding="utf-8", timeout=900)
    found = yarn.applications()[before:]
    assert len(found) == 1, submitted.stderr
    assert submitted.returncode == 0, found[0].containers[0].printed("stdout") + submitted.stderr
    return found[0]


def core_site(server: Server, release: Release) -> Dict[str, str]:
    """What core-site.xml says of S3."""
    return {
        "fs.s3.impl": S3A,  # EMR before 7.10 has EMRFS there
        "fs.s3a.endpoint": server.endpoint,
        "fs.s3a.connection.ssl.enabled": "false",
        "fs.s3a.path.style.access": "true",
        "fs.s3a.access.key": KEY_ID,  # where EMR has the role of the node
        "fs.s3a.secret.key": SECRET,
        **release.core_site,
    }


def on_emr(yarn: Yarn, server: Server, spark: Path, release: Release, home: Path) -> Path:
    """The configuration of a node where spark-submit runs: python3 and Java are the release's, s3:// is set up."""
    site = core_site(server, release)
    (home / "probe").mkdir()
    (home / "probe/sitecustomize.py").write_text(PROBE % sorted({**site, **release.defaults}))
    path = "%s:%s" % (Path(release.python).parent, os.environ["PATH"])
    environments = {
        "spark.%sEnv.%s" % (part, name): value
        for part in ("yarn.appMaster", "executor")
        for name, value in {"JAVA_HOME": release.java_home, "PATH": path, "SPARK_LOCAL_IP": "127.0.0.1"}.items()
    }
    environments["spark.yarn.appMasterEnv.PYTHONPATH"] = str(home / "probe")
    if s3_client(spark):
        environments.update(
            dict.fromkeys(["spark.driver.extraClassPath", "spark.executor.extraClassPath"], s3_client(spark))
        )
    return yarn.configure(home / "conf", spark, site, environments)


def s3_client(spark: Path) -> str:
    """The S3 client for a Spark that has none among its jars, as `make` has fetched it for the tests."""
    if list((spark / "jars").glob("hadoop-aws-*")):
        return ""
    (version,) = (path.stem.rpartition("-")[2] for path in (spark / "jars").glob("hadoop-client-api-*"))
    jars = Path.home() / ".ivy2/jars"
    names = ["org.apache.hadoop_hadoop-aws-%s.jar" % version, "com.amazonaws_aws-java-sdk-bundle-*.jar"]
    names.append("org.wildfly.openssl_wildfly-openssl-*.jar")
    return os.pathsep.join(str(path) for name in names for path in jars.glob(name))
