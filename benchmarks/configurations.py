"""What the settings of Spark and the layout of the lake cost: one changed at a time, all by spark-submit.

Runs the variants in turn, round by round, and stores what they took beside the results of bench.py, of which
--report makes CONFIGURATIONS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import bench
import costs
import measure
import on_cluster
import report

INPUT = bench.one_input("--songs 3000 --song-files 4 --artists 2500 --events 250000", "ours")
DRIVER_MEMORY, WORKER_MEMORY, EXECUTOR_MEMORY = "2g", "2g", "1500m"
PLAIN = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1"}
BY_YEAR = {"songs": ["year"]}
VERSION = "import pyspark; print(pyspark.__version__, pyspark.__path__[0])"


class Variant(NamedTuple):
    """A way to run the job: what differs from SHIPPED."""

    group: str
    name: str
    conf: Mapping[str, str] = {}
    changes: Mapping[str, Any] = {}  # of etl.py, see changed.py
    cores: int = 2
    workers: int = 0  # of a standalone cluster; 0: local
    spark: str = ""  # a version that is not this Python's


SHIPPED = "as shipped"
SHUFFLE, CODEC = "spark.sql.shuffle.partitions", "spark.sql.parquet.compression.codec"
OVERWRITE = "spark.sql.sources.partitionOverwriteMode"
COMMITTER = "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version"
VARIANTS = (
    Variant("", SHIPPED),
    *(Variant("nodes", "local[%d]" % cores, changes=BY_YEAR, cores=cores) for cores in (1, 2)),
    *(Variant("nodes", "workers: %d" % workers, changes=BY_YEAR, workers=workers) for workers in (1, 2, 3)),
    *(Variant("shuffle partitions", number, {SHUFFLE: number}) for number in ("32", "200")),
    Variant("rows per file", "25000", changes={"rows": 25000}),
    Variant("songs partitioned by", "year", changes=BY_YEAR),
    Variant("songs partitioned by", "nothing", changes={"songs": []}),
    Variant("committer", "algorithm 2", {COMMITTER: "2"}),
    *(Variant("overwrite mode", mode, {OVERWRITE: mode}, {"mode": "overwrite"}) for mode in ("static", "dynamic")),
    *(Variant("codec", codec, {CODEC: codec}) for codec in ("uncompressed", "gzip", "zstd")),
)


# ------------------------------------------------------------------------------------ the runs


class Spark(NamedTuple):
    """An installed Spark."""

    version: str
    home: Path
    python: str
    java_home: Optional[str]

    def environment(self) -> Dict[str, str]:
        """What spark-submit sees."""
        given = {"SPARK_HOME": str(self.home), "PYSPARK_PYTHON": self.python, "SPARK_LOCAL_IP": "127.0.0.1"}
        if self.java_home:
            given["JAVA_HOME"] = self.java_home
        return {**bench.environment(), **given}


def installed(python: str, java_home: Optional[str] = None) -> Spark:
    """The Spark of a Python; ends the program where it has none."""
    asked = subprocess.run([python, "-c", VERSION], capture_output=True, encoding="utf-8")
    if asked.returncode:
        sys.exit("configurations.py: %s has no PySpark" % python)
    version, home = asked.stdout.strip().split(" ", 1)
    return Spark(version, Path(home), python, java_home)


def command(variant: Variant, spark: Spark, data: Path, output: Path) -> List[str]:
    """What is run."""
    conf, cluster, master = {**PLAIN, **variant.conf}, [], "local[%d]" % variant.cores
    if variant.workers:
        conf["spark.executor.memory"] = EXECUTOR_MEMORY
        script, master = str(bench.HERE / "on_cluster.py"), on_cluster.MASTER
        cluster = [sys.executable, script, str(variant.workers), WORKER_MEMORY]
    settings = [word for item in conf.items() for word in ("--conf", "%s=%s" % item)]
    submit = [str(spark.home / "bin" / "spark-submit"), "--master", master, "--driver-memory", DRIVER_MEMORY, *settings]
    paths = ["--song-data", str(data / "song_data"), "--log-data", str(data / "log_data"), "--output", str(output)]
    return [*cluster, *submit, str(bench.HERE / "changed.py"), json.dumps(variant.changes), *paths]


def run(variant: Variant, spark: Spark, data: Path, output: Path, timeout: float) -> Dict[str, Any]:
    """Run a variant once. Returns what it took."""
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    os.sync()
    cost = measure.run(command(variant, spark, data, output), spark.environment(), bench.ROOT, timeout)
    if cost.code:
        return {"failure": "exit code %d\n%s" % (cost.code, cost.tail())}
    found = [path for path in output.glob("[a-z]*/**/*.parquet") if path.is_file()]
    size = sum(path.stat().st_size for path in found)
    return {"seconds": cost.seconds, "cpu": cost.cpu, "peak": cost.peak, "files": len(found), "bytes": size}


def measure_all(options: argparse.Namespace) -> bool:
    """Measure the variants that are asked for. Returns whether all went well."""
    measure.adopt_orphans()
    ours = installed(sys.executable)
    others = {spark.version: spark for spark in options.spark}
    variants = [*VARIANTS, *(Variant("Spark", version, spark=version) for version in sorted(others))]
    variants = [each for each in variants if each.group in ("", *options.groups)] if options.groups else variants
    folder = bench.BUILD / ("quick" if options.quick else "")
    given, data = INPUT.quick() if options.quick else INPUT, folder / "inputs" / "configurations"
    bench.prepare("configurations", given, data)
    stamp: Dict[str, Any] = {"date": bench.now(), "machine": bench.machine(), "versions": bench.versions()}
    lake = folder / "lakes" / "configurations"
    stored = report.load(options.out / "configurations.json")
    if stored.get("arguments") != list(given.arguments):
        stored = {"variants": [], "volumes": volumes(ours, data, lake, options.timeout)}
    stamp.update(arguments=given.arguments, volumes=stored["volumes"])
    runs: List[Tuple[Variant, List[Dict[str, Any]]]] = [(variant, []) for variant in variants]
    for number in range(options.runs):
        for variant, taken in runs:
            spark = others.get(variant.spark, ours)
            taken.append(run(variant, spark, data, lake, options.timeout))
            bench.say(
                "%d/%d  %-22s %-14s %s" % (number + 1, options.runs, variant.group, variant.name, told(taken[-1]))
            )
            store(options.out, stamp, stored["variants"], runs)
    return not any("failure" in each for _, taken in runs for each in taken)


def volumes(spark: Spark, data: Path, lake: Path, timeout: float) -> Dict[str, float]:
    """Bytes of input and of shuffles for each event, from Spark's event log of a run."""
    with tempfile.TemporaryDirectory() as folder:
        log = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": Path(folder).as_uri()}
        taken = run(
            Variant("", "with its log", {**log, "spark.eventLog.compress": "false"}), spark, data, lake, timeout
        )
        if "failure" in taken:
            sys.exit("configurations.py: %s" % told(taken))
        texts = [path.read_text("utf-8") for path in Path(folder).rglob("*") if path.is_file()]
    shuffled = sum(int(size) for text in texts for size in re.findall(r'"Shuffle Bytes Written":(\d+)', text))
    logs = [path for path in (data / "log_data").rglob("*") if path.is_file()]
    events = sum(path.read_bytes().count(b"\n") for path in logs)
    return {"shuffle": shuffled / events, "input": sum(path.stat().st_size for path in logs) / events}


def told(taken: Mapping[str, Any]) -> str:
    """What a run took, for people."""
    failure: str = taken.get("failure", "")
    return "FAILED with " + failure if failure else "%(seconds)7.1f s %(cpu)7.1f CPU s %(files)6d files" % taken


def store(
    folder: Path,
    stamp: Mapping[str, Any],
    earlier: Sequence[Mapping[str, Any]],
    runs: Sequence[Tuple[Variant, List[Any]]],
) -> None:
    """Store what was measured so far; what an earlier session has measured stays until it is measured again."""
    known = {(row["group"], row["name"]): row for row in earlier}
    for variant, taken in runs:
        if taken:
            known[variant.group, variant.name] = {"group": variant.group, "name": variant.name, "runs": taken}
    order = [*dict.fromkeys(variant.group for variant in VARIANTS), "Spark"]
    rows = sorted(known.values(), key=lambda row: order.index(row["group"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configurations.json").write_text(json.dumps({**stamp, "variants": rows}, indent=1) + "\n", "utf-8")


# ------------------------------------------------------------------------------------ the page

PAGE = """\
# Configurations

Written by `make bench-conf ARGS=--report` from what `make bench-conf` has measured, on {date}.
Input: `generate.py {arguments}`.

Runs of each: {runs}, all variants in turn; the medians are shown. Every run is by `spark-submit` in new processes;
CPU and memory of a cluster include its master and workers. The first two columns say what differs from "as shipped",
which is `local[2]`. *Time* is the ratio to as shipped; for nodes, to `local[2]` with
songs partitioned by year only, as all of them have it. (Off one machine, Hadoop's local file system starts a process
for each of thousands of folders, which no cluster with HDFS or S3 does.)

{machine}

{table}

Workers share this machine's cores, and each executor warms up a Java of its own: their rows show what a small job pays
for a cluster, not how a large one gains. The same variant differed by 5 to 15 % between runs.
An event is {log} bytes of logs and {shuffle} of shuffles.

## What is shipped, and why

- **`songs` partitioned by year and artist** is the layout that the exercise asks for and that readers of the lake
  expect. It costs a file, and on S3 6 to 40 requests, for each of them; by year only is the cheapest layout to write.
- **Shuffle partitions** are as many as the staged bytes want, at least one for each core, unless you set
  `spark.sql.shuffle.partitions`: it is not a number that suits both a day and a year of logs.
- **Overwrite mode and committer** do not matter to readers: each run writes into a new folder, so nothing is
  overwritten in place ([design.md](../docs/design.md)).
- **snappy**, Spark's own default, is what every reader of Parquet has had for longest. gzip, which all know too, and
  zstd make the lake a quarter to a third smaller in no more time: `--conf spark.sql.parquet.compression.codec=zstd`.
- **A file for each partition**, and more only from some million rows on, since readers and S3 pay for each file.
- A variant that is missing in the table has not been measured yet; rows stay until they are measured again.
"""


def page(measured: Mapping[str, Any]) -> str:
    """CONFIGURATIONS.md from what is stored."""
    rows = [row for row in measured["variants"] if not any("failure" in run for run in row["runs"])]
    seconds = {(row["group"], row["name"]): median(row, "seconds") for row in rows}
    lines = [
        "| what | value | seconds | time | CPU s | peak memory | files | lake |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        base = seconds.get(("nodes", "local[2]") if row["group"] == "nodes" else ("", SHIPPED), float("nan"))
        took = median(row, "seconds")
        cells = [row["group"] or "**all**", row["name"], "%.1f" % took, "%.2f" % (took / base)]
        cells += ["%.0f" % median(row, "cpu"), "%.1f GB" % (median(row, "peak") / 1e9)]
        cells += [report.digits(round(median(row, "files"))), "%.1f MB" % (median(row, "bytes") / 1e6)]
        lines.append("| %s |" % " | ".join(cells))
    return PAGE.format(
        date=measured["date"][:10],
        arguments=" ".join(measured["arguments"]),
        runs=report.counts(len(row["runs"]) for row in rows),
        machine=report.machines([dict(measured)]),
        table="\n".join(lines),
        log=report.digits(measured["volumes"]["input"]),
        shuffle=report.digits(measured["volumes"]["shuffle"]),
    )


def median(row: Mapping[str, Any], what: str) -> float:
    """The median of a variant's runs."""
    return statistics.median(run[what] for run in row["runs"])


# ------------------------------------------------------------------------------------ the command


def another_spark(text: str) -> Spark:
    """PYTHON=JAVA_HOME as a Spark."""
    python, _, java_home = text.partition("=")
    return installed(os.path.abspath(python), java_home or None)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    groups = ", ".join(dict.fromkeys(variant.group for variant in VARIANTS if variant.group))
    add = parser.add_argument
    add("--runs", type=int, default=3, help="runs of each variant (default: %(default)s)")
    add("--groups", type=lambda text: text.split(","), help="only these: %s, Spark" % groups)
    add("--spark", type=another_spark, action="append", default=[], metavar="PYTHON=JAVA_HOME", help="one more Spark")
    add("--timeout", type=float, default=1800, help="seconds after which a run has failed (default: %(default)s)")
    add("--quick", action="store_true", help="try this program out: a tiny input, results apart")
    add("--report", action="store_true", help="write CONFIGURATIONS.md and docs/costs.md from the stored results")
    options = parser.parse_args(argv)
    options.out = bench.BUILD / ("quick" if options.quick else "") / "results"
    return options


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    options = arguments(argv)
    if options.report:
        measured = report.load(options.out / "configurations.json")
        target = options.out if options.quick else bench.HERE
        (target / "CONFIGURATIONS.md").write_text(page(measured), "utf-8")
        if not options.quick:
            (bench.ROOT / "docs" / "costs.md").write_text(costs.written(), "utf-8")
        return 0
    return 0 if measure_all(options) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
