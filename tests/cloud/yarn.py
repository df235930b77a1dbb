"""YARN on loopback: a ResourceManager and two NodeManagers in one Java process, with no Hadoop installed.

What spark-submit starts there are containers as on a real cluster: own processes that YARN launches, watches and kills.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, List, Mapping, NamedTuple

import pyspark
from lakes import find_java_home
from py4j.java_gateway import GatewayParameters, JavaGateway

NODES = 2
OPEN_FILES = 4096  # that a process may have, containers among them: as on the nodes of EMR 5.30.0
# 93 MB; all but the first three are what these forgot to bundle.
JARS = [
    "org.apache.hadoop:hadoop-client-minicluster:3.3.4",
    "org.apache.hadoop:hadoop-client-api:3.3.4",
    "org.apache.hadoop:hadoop-client-runtime:3.3.4",
    "org.bouncycastle:bcprov-jdk15on:1.60",
    "org.bouncycastle:bcpkix-jdk15on:1.60",
    "org.slf4j:slf4j-api:1.7.36",
    "org.slf4j:slf4j-simple:1.7.36",
    "org.slf4j:log4j-over-slf4j:1.7.36",
    "commons-logging:commons-logging:1.1.3",
    "jakarta.xml.bind:jakarta.xml.bind-api:2.3.2",
    "org.glassfish.jaxb:jaxb-runtime:2.3.2",
    "com.sun.istack:istack-commons-runtime:3.0.8",
    "javax.activation:activation:1.1.1",
]
SPARK_JARS = Path(pyspark.__file__).resolve().parent / "jars"

# What clients need to know too; every port is one that is free.
ADDRESSES = ["yarn.resourcemanager.%saddress" % part for part in ("", "scheduler.", "resource-tracker.", "admin.")]
CLUSTER = {
    "fs.defaultFS": "file:///",
    "yarn.resourcemanager.webapp.address": "localhost:0",
    **dict.fromkeys(ADDRESSES, "localhost:0"),
    "yarn.resourcemanager.connect.max-wait.ms": "10000",  # clients give up soon after the cluster's end
    "yarn.resourcemanager.connect.retry-interval.ms": "1000",
    "yarn.resourcemanager.nodemanagers.heartbeat-interval-ms": "100",
    "yarn.scheduler.minimum-allocation-mb": "128",
    "yarn.scheduler.capacity.root.queues": "default",
    "yarn.scheduler.capacity.root.default.capacity": "100",
}
NODE = {
    "yarn.nodemanager.address": "localhost:0",
    "yarn.nodemanager.localizer.address": "localhost:0",
    "yarn.nodemanager.webapp.address": "localhost:0",
    "yarn.nodemanager.vmem-check-enabled": "false",
    "yarn.nodemanager.pmem-check-enabled": "false",
    "yarn.nodemanager.disk-health-checker.enable": "false",  # it wants a tenth of the disk free
    "yarn.nodemanager.delete.debug-delay-sec": "-1",  # never: keep what containers printed
    "yarn.nodemanager.log.retain-seconds": "0",  # so that there is no deletion to come that the end would wait for
}
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


class Container(NamedTuple):
    """A process that YARN has launched on a node; the first one of an application is the driver or its stand-in."""

    node: int
    folder: Path

    def printed(self, stream: str) -> str:
        """What is in its stdout or stderr. In cluster mode Spark puts both of the driver's Python into stdout."""
        path = self.folder / stream
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


class Application(NamedTuple):
    """What has become of an application: state FINISHED with final state SUCCEEDED or FAILED, or else."""

    id: str
    state: str
    final_state: str
    diagnostics: str
    containers: List[Container]  # of all attempts


class Yarn:
    """A running cluster, with its files in a folder and its jars in another one that outlives it."""

    def __init__(self, folder: Path, cache: Path, properties: Mapping[str, str]) -> None:
        self.folder, self.properties = folder, dict(properties)  # of yarn-site.xml
        self.folder.mkdir(parents=True)
        self.java_home = find_java_home()
        self.process = self.launch(classpath(cache, self.java_home))
        try:
            self.gateway = self.connect()
            self.start()
        except BaseException:
            self.close()
            raise

    # -------------------------------------------------------------------------------- its process

    def launch(self, jars: str) -> subprocess.Popen[bytes]:
        """Start a Java that does what py4j asks for, and ends when its stdin does: with this process, if not before."""
        # YARN's web pages need access to java.lang, of which Java 8 has to ignore that it may need a permission
        java = [str(self.java_home / "bin" / "java"), "-XX:+IgnoreUnrecognizedVMOptions"]
        java += ["--add-opens=java.base/java.lang=ALL-UNNAMED", "-Djava.net.preferIPv4Stack=true"]
        java += ["-Xmx256m", *QUICK.split(), "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", jars]
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [*java, "py4j.GatewayServer", "--enable-auth", "--die-on-broken-pipe", "0"],
                cwd=str(self.folder),
                env={"PATH": os.environ["PATH"], "JAVA_HOME": str(self.java_home)},  # containers get these
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=limit_open_files,
            )

    def connect(self) -> Any:
        assert self.process.stdout
        port, token = (self.process.stdout.readline().decode().strip() for _ in range(2))
        if not token:
            raise RuntimeError("Java did not start:\n" + (self.folder / "log").read_text())
        return JavaGateway(gateway_parameters=GatewayParameters(port=int(port), auth_token=token))

    def close(self) -> None:
        """Kill what still runs in containers and end."""
        with suppress(AttributeError):  # not connected
            self.gateway.close()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()

    # -------------------------------------------------------------------------------- the cluster

    def start(self) -> None:
        """Start the services; returns when the nodes are ready."""
        hadoop = self.gateway.jvm.org.apache.hadoop
        hadoop.metrics2.lib.DefaultMetricsSystem.setMiniClusterMode(True)  # else two nodes have too many metrics
        self.settings = hadoop.yarn.conf.YarnConfiguration()
        put(self.settings, {**CLUSTER, **self.properties, "hadoop.tmp.dir": str(self.folder / "tmp")})
        hadoop.yarn.util.resource.ResourceUtils.resetResourceTypes(self.settings)  # else limits come from yarn-site.xml
        self.manager = hadoop.yarn.server.resourcemanager.ResourceManager()
        self.manager.init(self.settings)
        self.manager.start()  # puts its ports into the settings
        for number in range(NODES):
            settings = hadoop.yarn.conf.YarnConfiguration(self.settings)
            folders = {"yarn.nodemanager.%s-dirs" % kind: str(self.node(number) / kind) for kind in ("local", "log")}
            put(settings, {**NODE, **folders})
            node = hadoop.yarn.server.nodemanager.NodeManager()
            node.init(settings)
            stop = hadoop.service.CompositeService.CompositeServiceShutdownHook(node)  # kills its containers
            hadoop.util.ShutdownHookManager.get().addShutdownHook(stop, 30)
            node.start()
        wait_for(lambda: self.manager.getResourceScheduler().getNumClusterNodes() == NODES)

    def node(self, number: int) -> Path:
        """The folder of a node."""
        return self.folder / ("node%d" % number)

    def configure(self, conf: Path, spark: Path, core: Mapping[str, str], defaults: Mapping[str, str]) -> Path:
        """Write what points a spark-submit to this cluster into a folder: Hadoop's configuration, with some properties
        more, and Spark's defaults, with some more, for a Spark that is on all nodes.
        """
        conf.mkdir()
        found = {name: self.settings.get(name) for name in [*CLUSTER, *self.properties]}
        both = {**found, **core}.items()
        properties = "".join("<property><name>%s</name><value>%s</value></property>" % each for each in both)
        for name in ("core-site.xml", "yarn-site.xml"):
            (conf / name).write_text("<configuration>%s</configuration>" % properties)
        settings = {
            "spark.master": "yarn",
            "spark.yarn.jars": "local:%s/jars/*" % spark,
            "spark.yarn.stagingDir": (self.folder / "staging").as_uri(),
            **{"spark.%s.extraJavaOptions" % part: QUICK for part in ("driver", "executor")},
            **defaults,
        }
        (conf / "spark-defaults.conf").write_text("".join("%s %s\n" % each for each in settings.items()))
        return conf

    # -------------------------------------------------------------------------------- its applications

    def applications(self) -> List[Application]:
        """All applications so far, the oldest first; waits for those that only have to close their files."""
        found = list(self.manager.getRMContext().getRMApps().values())
        closing = {"FINAL_SAVING", "FINISHING", "KILLING"}
        wait_for(lambda: closing.isdisjoint(app.getState().toString() for app in found))
        return sorted((self.application(app) for app in found), key=lambda app: app.id)

    def application(self, app: Any) -> Application:
        name = str(app.getApplicationId().toString())
        state, final_state, diagnostics = (
            str(value.toString()) for value in (app.getState(), app.getFinalApplicationStatus(), app.getDiagnostics())
        )
        containers = [
            Container(number, folder)
            for number in range(NODES)
            for folder in (self.node(number) / "log").glob(name + "/container_*")
        ]
        containers.sort(key=lambda container: container.folder.name)
        return Application(name, state, final_state, diagnostics, containers)


def limit_open_files() -> None:
    """Let this process and those that it starts open no more files than on EMR 5.30.0."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


def put(settings: Any, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        settings.set(name, value)


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until a condition holds; fails when it takes too long."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "still not so after %d seconds" % seconds
        time.sleep(0.05)


def classpath(cache: Path, java_home: Path) -> str:
    """What the cluster's Java runs, fetched into a folder by the Ivy that comes with Spark."""
    wanted = [
        '<dependency org="%s" name="%s" rev="%s" conf="default->master"/>' % tuple(jar.split(":")) for jar in JARS
    ]
    module = '<info organisation="sparkify" module="yarn"/><configurations><conf name="default"/></configurations>'
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "ivy.xml").write_text(
        '<ivy-module version="2.0">%s<dependencies>%s</dependencies></ivy-module>' % (module, "".join(wanted))
    )
    (ivy,) = SPARK_JARS.glob("ivy-*.jar")
    command = [str(java_home / "bin" / "java"), "-jar", str(ivy), "-warn"]
    command += ["-ivy", str(cache / "ivy.xml"), "-cache", str(cache / "ivy")]
    command += ["-retrieve", str(cache / "jars/[artifact]-[revision].[ext]")]
    subprocess.run(command, check=True, timeout=600)
    return os.pathsep.join(map(str, [*SPARK_JARS.glob("py4j-*.jar"), *sorted((cache / "jars").iterdir())]))
