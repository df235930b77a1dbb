"""A standalone cluster on loopback: a master and workers, processes as on any machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

import pyspark

SPARK = Path(pyspark.__file__).parent
# Of two executors with one core each, both have a share in each stage of two tasks, however late one of them comes.
ON_TWO_EXECUTORS = {
    "spark.cores.max": "2",
    "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    "spark.scheduler.maxRegisteredResourcesWaitingTime": "300s",
    "spark.locality.wait": "0s",
}


class Cluster(NamedTuple):
    """A running cluster."""

    url: str
    env: Dict[str, str]


def environment(folder: Path) -> Dict[str, str]:
    """The environment of a user who has Spark on this machine and nothing of ours."""
    ours = re.compile("PYSPARK_GATEWAY|SPARK_|PYTHONPATH|MODE$|SONG_DATA$|LOG_DATA$|OUTPUT$")
    env = {name: value for name, value in os.environ.items() if not ours.match(name)}
    env.update(PYSPARK_PYTHON=sys.executable, SPARK_HOME=str(SPARK), SPARK_LOCAL_IP="127.0.0.1")
    env.update(SPARK_WORKER_DIR=str(folder / "work"), SPARK_NO_DAEMONIZE="1", SPARK_DAEMON_MEMORY="256m")
    return env


def start(role: str, arguments: List[str], env: Dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a daemon in a process group of its own, its output in a file."""
    command = [str(SPARK / "bin/spark-class"), "org.apache.spark.deploy." + role, "--host", "127.0.0.1", *arguments]
    with log.open("wb") as output:
        return subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)


def wait_for(pattern: str, log: Path, daemon: subprocess.Popen[bytes]) -> str:
    """The first match of a pattern in a daemon's log; fails when the daemon ends before."""
    said = ""
    with log.open(encoding="utf-8") as lines:
        while daemon.poll() is None:
            said += lines.readline()  # which may be half of one
            found = re.search(pattern + ".*\n", said)
            if found:
                return found.group(1)
    raise AssertionError(log.read_text("utf-8"))


@contextmanager
def running(folder: Path, workers: int, memory: str = "1g") -> Iterator[Cluster]:
    """A cluster of workers with one core each; its logs and files in a folder."""
    env = environment(folder)
    daemons = []
    try:
        log = folder / "master.log"
        daemons.append(start("master.Master", ["--port", "0", "--webui-port", "0"], env, log))
        url = wait_for(r"Starting Spark master at (spark://\S+)", log, daemons[0])
        for number in range(workers):
            log = folder / ("worker-%d.log" % number)
            size = ["--cores", "1", "--memory", memory, "--webui-port", "0", url]
            daemons.append(start("worker.Worker", size, env, log))
            wait_for("(Successfully registered) with master", log, daemons[-1])
        yield Cluster(url, env)
    finally:
        for daemon in daemons:
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()
