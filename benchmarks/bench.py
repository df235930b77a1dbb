"""Side-by-side benchmark: etl.py, a plain job, DuckDB, Polars and the least that Spark needs, on the same inputs.

Makes the inputs once, then runs the contenders in turn (A B C A B C …), each run in processes of its own, and stores
what they took. --report turns what is stored into RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import measure
import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "bench"

SESSION = "import etl; etl.start_session(etl.configure(['--mode', 'LOCAL'], dict())).stop()"
PATHS = ("--song-data", "{songs}", "--log-data", "{logs}", "--output", "{output}")
CONTENDERS = {  # what Python is given; run with MODE=LOCAL
    "ours": (str(ROOT / "etl.py"), *PATHS),
    "baseline": (str(HERE / "baseline.py"), *PATHS),
    "duckdb": (str(HERE / "peer_duckdb.py"), *PATHS),
    "polars": (str(HERE / "peer_polars.py"), *PATHS),
    "limit": (str(HERE / "limit.py"), *PATHS, "--lake", "{lake}"),
    "session": ("-c", SESSION),
}
OF_OTHER_PYTHONS = ("SPARK_HOME", "SPARK_CONF_DIR", "PYTHONPATH", "PYTHONHOME", "PYSPARK_DRIVER_PYTHON")
SMALLEST = {"--songs": 60, "--artists": 30, "--events": 200, "--users": 5}  # for --quick


class Input(NamedTuple):
    """An input: the arguments of generate.py, and who is measured on it."""

    arguments: Tuple[str, ...]
    contenders: Tuple[str, ...]

    def quick(self) -> Input:
        """The same shape, a hundredth of the size."""
        smaller = list(self.arguments)
        for place, flag in enumerate(self.arguments):
            if flag in SMALLEST:
                smaller[place + 1] = str(max(SMALLEST[flag], int(smaller[place + 1]) // 100))
        return self._replace(arguments=tuple(smaller))


def one_input(arguments: str, *contenders: str) -> Input:
    """An input from its arguments as text; without contenders for all of them."""
    return Input((*arguments.split(), "--days", "30", "--seed", "7"), contenders or tuple(CONTENDERS))


INPUTS = {
    "bucket": one_input("--songs 15000 --artists 10200 --events 8056 --users 100"),
    "logs": one_input("--songs 15000 --song-files 4 --artists 10200 --events 4000000"),
    "wide": one_input("--songs 200000 --song-files 8 --events 8056 --users 100"),
    **{
        "events-%d" % times: one_input("--songs 2000 --song-files 2 --events %d" % (times * 250000), "ours")
        for times in (1, 2, 4, 8)
    },
    **{
        "songs-%d" % times: one_input("--songs %d --song-files 8 --events 8056 --users 100" % (times * 12500), "ours")
        for times in (1, 2, 4, 8)
    },
}
S3_INPUT = one_input("--songs 3000 --events 8056 --users 100", "ours")  # the bucket's shape


# ------------------------------------------------------------------------------------ the inputs


def prepare(name: str, given: Input, folder: Path) -> None:
    """Make an input, unless it is there and was made in the same way."""
    generator = HERE / "generate.py"
    made_by = {"arguments": given.arguments, "generator": hashlib.sha256(generator.read_bytes()).hexdigest()}
    stamp, text = folder / "made.json", json.dumps(made_by)
    if stamp.is_file() and stamp.read_text() == text:
        return
    say("%s: generating %s" % (name, " ".join(given.arguments)))
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(generator), str(folder), *given.arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    stamp.write_text(text)


# ------------------------------------------------------------------------------------ the runs


class Job(NamedTuple):
    """One contender on one input."""

    input: str
    contender: str
    data: Path
    lakes: Path

    def output(self) -> Path:
        """Where its lake goes."""
        return self.lakes / self.contender

    def command(self) -> List[str]:
        """What is run."""
        places = {
            "songs": self.data / "song_data",
            "logs": self.data / "log_data",
            "output": self.output(),
            "lake": self.lakes / "ours",
        }
        return [sys.executable, *(part.format(**places) for part in CONTENDERS[self.contender])]

    def start_afresh(self) -> None:
        """Delete the last run's lake, and wait until the disk is idle."""
        shutil.rmtree(self.output(), ignore_errors=True)
        self.lakes.mkdir(parents=True, exist_ok=True)
        os.sync()


def environment() -> Dict[str, str]:
    """What the contenders see: this Python for Spark's workers and nothing of another Spark."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_OTHER_PYTHONS}
    return {**kept, "MODE": "LOCAL", "PYSPARK_PYTHON": sys.executable}


def run_all(jobs: Sequence[Job], options: argparse.Namespace, results: Results) -> None:
    """Run all jobs in turn, round by round; a job that has failed is left out from then on."""
    rounds = options.warmup + options.runs
    for number in range(rounds):
        for job in jobs:
            if not results.failed(job):
                warm_up = number < options.warmup
                cost = run(job, options.timeout)
                label = "%d/%d%s" % (number + 1, rounds, " warm-up" if warm_up else "")
                say("%-10s %-12s %-10s %s" % (job.input, label, job.contender, cost_text(cost)))
                results.add(job, cost, warm_up)
    for job in jobs:
        if options.processes and not results.failed(job):
            job.start_afresh()
            count = measure.count_processes(job.command(), environment(), ROOT, 10 * options.timeout)
            say("%-10s %-12s %-10s %s" % (job.input, "processes", job.contender, count or "not measured"))
            results.count(job, count)


def run(job: Job, timeout: float) -> measure.Cost:
    """Run a job once. The limit says itself how long its parts took; the rest of that process is no part."""
    job.start_afresh()
    cost = measure.run(job.command(), environment(), ROOT, timeout)
    return cost if cost.code or job.contender != "limit" else cost._replace(seconds=limit_parts(cost)["sum"])


def limit_parts(cost: measure.Cost) -> Dict[str, float]:
    """The seconds of the limit's parts and their sum."""
    parts: Dict[str, float] = json.loads(cost.out.splitlines()[-1])
    return parts


def cost_text(cost: measure.Cost) -> str:
    """A run's cost, for people; of a failed one the last lines that it has said."""
    if cost.code:
        return "FAILED with exit code %d\n%s" % (cost.code, cost.tail())
    return "%7.1f s %7.1f CPU s %6d MB" % (cost.seconds, cost.cpu, cost.peak / 1e6)


def say(sentence: str) -> None:
    """Print a line of progress."""
    print(sentence, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------ the results


class Results:
    """What is stored of all runs: {input: {contender: record}}. A new session replaces the records it has measured."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "results.json"
        self.records: Dict[str, Any] = json.loads(self.path.read_text("utf-8")) if self.path.is_file() else {}
        self.session = {"date": now(), "machine": machine(), "versions": versions()}

    def start(self, job: Job, given: Input) -> None:
        """Forget what an earlier session has measured of a job."""
        record = {**self.session, "arguments": given.arguments, "warmups": 0, "runs": [], "failure": None}
        self.records.setdefault(job.input, {})[job.contender] = record

    def record(self, job: Job) -> Dict[str, Any]:
        """The record of a job."""
        found: Dict[str, Any] = self.records[job.input][job.contender]
        return found

    def failed(self, job: Job) -> bool:
        """Whether a run of a job has failed."""
        return bool(self.record(job)["failure"])

    def add(self, job: Job, cost: measure.Cost, warm_up: bool) -> None:
        """Add a run."""
        record = self.record(job)
        if cost.code:
            record["failure"] = "exit code %d\n%s" % (cost.code, cost.tail())
        elif warm_up:
            record["warmups"] += 1
        else:
            record["runs"].append(run_record(job, cost))
            record["files"] = count_files(job.output())
        self.save()

    def count(self, job: Job, processes: Optional[int]) -> None:
        """Add the number of processes that a job starts."""
        if job.contender != "limit":  # most of which would be for reading the lake
            self.record(job)["processes"] = processes
            self.save()

    def save(self) -> None:
        """Store all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(self.records, indent=1, ensure_ascii=False) + "\n", "utf-8")
        draft.replace(self.path)


def run_record(job: Job, cost: measure.Cost) -> Dict[str, Any]:
    """What is stored of a run."""
    if job.contender == "limit":  # CPU and memory of reading the lake would be among its own
        return {"seconds": cost.seconds, "parts": limit_parts(cost)}
    return {"seconds": cost.seconds, "cpu": cost.cpu, "peak": cost.peak}


def count_files(folder: Path) -> int:
    """The files below a folder."""
    return sum(len(files) for _, _, files in os.walk(folder))


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def machine() -> Dict[str, Any]:
    """What the contenders run on."""
    cpu = re.search(r"(?m)^(?:model name|Model)\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal: *(\d+) kB", Path("/proc/meminfo").read_text())
    system = re.search(r'(?m)^PRETTY_NAME="?(.*?)"?$', Path("/etc/os-release").read_text())
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": int(memory.group(1)) * 1024 if memory else None,
        "os": system.group(1) if system else platform.system(),
    }


def versions() -> Dict[str, str]:
    """The versions of what the contenders are made of."""
    packages = {"Spark": "pyspark", "DuckDB": "duckdb", "Polars": "polars"}
    found = {name: metadata.version(package) for name, package in packages.items()}
    return {"Python": platform.python_version(), "Java": java_version(), **found}


def java_version() -> str:
    """The version of the Java that Spark will take; ends the program where there is none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(os.path.join(home, "bin", "java") if home else "java")
    if not java:
        sys.exit("bench.py: there is no Java; make bench finds or installs one")
    said = subprocess.run([java, "-version"], capture_output=True, encoding="utf-8").stderr
    found = re.search(r'version "([^"]+)"', said)
    return found.group(1) if found else "unknown"


# ------------------------------------------------------------------------------------ the command


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--inputs", type=chosen_inputs, default="bucket,logs", help="of --list; events and songs are the whole series")
    add("--contenders", type=chosen_contenders, default=",".join(CONTENDERS), help="of --list (default: all)")
    add("--runs", type=int, help="timed runs of each (default: 5)")
    add("--warmup", type=int, help="runs before them (default: 1)")
    add("--timeout", type=float, default=3600, help="seconds after which a run has failed (default: %(default)s)")
    add("--out", type=Path, help="folder of the results (default: build/bench/results)")
    add("--no-processes", dest="processes", action="store_false", help="leave out the run that counts processes")
    add("--list", action="store_true", help="list inputs and contenders")
    add("--quick", action="store_true", help="try this program out: tiny inputs, results apart, one run and no warm-up")
    add("--s3", action="store_true", help="count the requests to S3 instead, of ours on a small input")
    add("--report", action="store_true", help="write RESULTS.md and its images from the stored results")
    options = parser.parse_args(argv)
    options.runs = (1 if options.quick else 5) if options.runs is None else options.runs
    options.warmup = (0 if options.quick else 1) if options.warmup is None else options.warmup
    options.out = options.out or BUILD / ("quick" if options.quick else "") / "results"
    return options


def chosen_inputs(text: str) -> List[str]:
    """The inputs that are named, or whose series is."""
    found = [[name for name in INPUTS if chosen in (name, name.partition("-")[0])] for chosen in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError("there is no such input; known: %s" % ", ".join(INPUTS))
    return [name for names in found for name in names]


def chosen_contenders(text: str) -> List[str]:
    """The contenders that are named, in their usual order: the limit needs the lake that ours has just built."""
    unknown = set(text.split(",")) - set(CONTENDERS)
    if unknown:
        raise argparse.ArgumentTypeError("there is no such contender; known: %s" % ", ".join(CONTENDERS))
    return [name for name in CONTENDERS if name in text.split(",")]


def series(names: Sequence[str]) -> Iterator[List[str]]:
    """Inputs that are measured in turn: those of a series."""
    for first in dict.fromkeys(name.partition("-")[0] for name in names):
        yield [name for name in names if name.partition("-")[0] == first]


def bench(options: argparse.Namespace) -> bool:
    """Measure what is asked for. Returns whether all went well."""
    measure.adopt_orphans()
    folder = BUILD / ("quick" if options.quick else "")
    results = Results(options.out)
    measured: List[Job] = []
    for names in series(options.inputs):
        jobs = []
        for name in names:
            given = INPUTS[name].quick() if options.quick else INPUTS[name]
            prepare(name, given, folder / "inputs" / name)
            for contender in options.contenders:
                if contender in given.contenders:
                    jobs.append(Job(name, contender, folder / "inputs" / name, folder / "lakes" / name))
                    results.start(jobs[-1], given)
        run_all(jobs, options, results)
        measured += jobs
    print(summary(results, measured))
    return not any(results.failed(job) for job in measured)


def count_s3_requests(options: argparse.Namespace) -> bool:
    """Count what ours asks of S3. Returns whether it went well."""
    import s3_requests  # which brings AWS

    folder = BUILD / ("quick" if options.quick else "") / "inputs" / "s3"
    given = S3_INPUT.quick() if options.quick else S3_INPUT
    prepare("s3", given, folder)
    say("s3: running ours; the first time Spark downloads its S3 client (280 MB)")
    counted = s3_requests.count([sys.executable, CONTENDERS["ours"][0]], folder, environment(), options.timeout)
    if isinstance(counted, str):
        say("FAILED\n" + counted)
        return False
    stamp = {"date": now(), "machine": machine(), "versions": versions(), "arguments": given.arguments}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "s3.json").write_text(json.dumps({**stamp, **counted}, indent=1) + "\n", "utf-8")
    print(report.s3_table(counted))
    return True


def summary(results: Results, jobs: Sequence[Job]) -> str:
    """Medians and spreads as a table."""
    lines = ["%-10s %-10s %9s %17s" % ("input", "contender", "median s", "min-max s")]
    for job in jobs:
        record = results.record(job)
        times = [run["seconds"] for run in record["runs"]]
        spread = "failed" if record["failure"] else "not run"
        if times and not record["failure"]:
            spread = "%9.1f %8.1f-%.1f" % (statistics.median(times), min(times), max(times))
        lines.append("%-10s %-10s %s" % (job.input, job.contender, spread))
    return "\n".join(lines)


def listing() -> str:
    """The inputs with their contenders as text."""
    lines = []
    for name, given in INPUTS.items():
        lines += ["%-10s %s" % (name, " ".join(given.arguments)), "%10s %s" % ("", ", ".join(given.contenders))]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    options = arguments(argv)
    if options.list:
        print(listing())
        return 0
    if options.s3:
        return 0 if count_s3_requests(options) else 1
    if options.report:
        report.write(options.out, options.out if options.quick else HERE)
        return 0
    return 0 if bench(options) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
