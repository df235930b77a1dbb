"""Which cluster for which size: a model of EMR from what was measured here. `configurations.py --report` writes it.

The measured part is CPU seconds for each event and song, seconds that do not depend on size, and bytes of shuffles; the
rest are assumptions, which the page states.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import bench
import report

sys.path.insert(0, str(bench.ROOT))
import etl

EVENTS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
SONGS, PARTITIONS = 15_000, 12_465  # of the input bucket, and what its songs are partitioned into
CLUSTERS = ((3, "m5.xlarge"), (5, "m5.xlarge"), (5, "m5.2xlarge"), (11, "m5.2xlarge"), (11, "m5.4xlarge"))
LAPTOP_CORES = 4

# Assumptions
EFFICIENCY = 0.5  # of a vCPU, against a core of the machine that was measured, when all are at work
START_SECONDS = 480  # until the step begins
DISK = {"m5.xlarge": 64, "m5.2xlarge": 128, "m5.4xlarge": 256}  # GiB by EMR's default
DISK_SHARE = 0.5  # of it that shuffles may take
DOLLARS_PER_REQUEST = {"write": 0.005 / 1000, "read": 0.0004 / 1000}  # S3 Standard in us-west-2
# To S3 for a file of the lake, by S3A, where workers of a cluster write it (NOTES.md)
REQUESTS_PER_FILE = {"write": 18.1, "read": 17.3}  # LIST 12.9, PUT 4.2, copies 1.0; HEAD 15.2, GET 2.1
PATIENCE = 3600  # seconds: the smallest cluster that is done by then is recommended


TEMPLATE = """\
# Which cluster for which size

Written by `make bench-conf ARGS=--report`. **A model, not a measurement**: nothing was run on EMR. It says in which
order of magnitude to begin; the first run's report (`_runs/*.json`) then says where the time went.

Time and on-demand cost of one run over all input, with {songs} songs; nodes are one primary and the rest core.
**Bold:** the cheapest cluster of those here that is done within an hour; where none is, the fastest. Set it with
`NODES` and `INSTANCE_TYPE` of `etl_job.sh` ([emr.md](emr.md)).

{table}

- Below a million events nearly all of the cluster's time is its start: take a laptop, or a cluster that already runs.
- More nodes cost little more where the work is large, since twice the nodes need about half the time.
- A larger catalog of songs costs requests, not computing: `songs` has a partition for each year and artist, as the
  exercise asks for, and S3A takes about 40 requests for each where a cluster's workers write it ({catalog} dollars for
  {songs} songs; from the disk of one machine it takes 6). Partitioned by year
  only, they would be a hundredth: see [CONFIGURATIONS.md](../benchmarks/CONFIGURATIONS.md). EMR's own committer takes
  fewer; how many could not be measured.

## What was measured

By `make bench` and `make bench-conf`, on {date}:

{machine}

| what | value |
|---|--:|
| seconds of a run that do not depend on its size | {fixed} |
| CPU µs for each event | {per_event} |
| CPU ms for each song | {per_song} |
| bytes of shuffles for each event | {shuffle} |
| dollars of requests for a million files of the lake, by S3A on a cluster | {requests} |

## What is assumed

- The CPU seconds grow with the input and spread over all cores: [RESULTS.md](../benchmarks/RESULTS.md) shows the first
  up to two million events.
- A vCPU of a core node does {efficiency} of what a core of the machine above does. The primary node does none.
- {start} minutes pass until the step begins, and are paid.
- Shuffles may take {share} % of the disks that EMR gives a node by default
  ([64 GiB for an xlarge, 128 for a 2xlarge, 256 for a 4xlarge](https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-storage.html)).
- Prices of instances are those of [emr.md](emr.md#costs); of requests, 0.005 dollars for a thousand that write or list
  and 0.0004 for a thousand that read ([S3](https://aws.amazon.com/s3/pricing/), us-west-2). The table's
  costs are without requests.
- A laptop has {laptop} cores like that of the machine above.
"""


class Measured(NamedTuple):
    """What the model takes from measurements."""

    fixed_seconds: float  # of a run without data
    cpu_per_event: float
    cpu_per_song: float
    shuffle_per_event: float  # bytes
    input_per_event: float  # bytes


def measured(results: Path) -> Measured:
    """The model's numbers from the results of bench.py and configurations.py."""
    numbers = report.Numbers(report.load(results / "results.json"))
    per_event = slope([numbers.of("events-%d" % step, what="cpu") for step in report.STEPS], 250_000)
    per_song = slope([numbers.of("songs-%d" % step, what="cpu") for step in report.STEPS], 12_500)
    seconds = [numbers.of("events-%d" % step) for step in report.STEPS]
    fixed = seconds[0] - slope(seconds, 250_000) * 250_000
    volumes = report.load(results / "configurations.json")["volumes"]
    return Measured(fixed, per_event, per_song, volumes["shuffle"], volumes["input"])


def slope(values: Sequence[float], step: float) -> float:
    """By how much values of a series that doubles thrice grow for each unit, from the first to the last.

    >>> slope([3, 5, 9, 17], 2)
    1.0
    """
    return (values[-1] - values[0]) / (7 * step)


class Instance(NamedTuple):
    """A type of instance."""

    vcpus: int
    price: float  # dollars an hour, EC2 and EMR


def instances(page: str) -> Dict[str, Instance]:
    """The types and prices of docs/emr.md.

    >>> instances("| m5.xlarge | 4 | 16 | 0.192 | 0.048 | 0.72 |")
    {'m5.xlarge': Instance(vcpus=4, price=0.24)}
    """
    rows = re.findall(r"(?m)^\| (\w+\.\w+) \| (\d+) \| \d+ \| ([\d.]+) \| ([\d.]+) \|", page)
    return {name: Instance(int(vcpus), float(ec2) + float(emr)) for name, vcpus, ec2, emr in rows}


class Estimate(NamedTuple):
    """What a run takes on a cluster."""

    seconds: float
    dollars: float
    fits: bool  # whether its shuffles fit the disks


def estimate(basis: Measured, events: int, nodes: int, kind: str, known: Dict[str, Instance]) -> Estimate:
    """A run on a cluster of one primary node and core nodes."""
    workers = nodes - 1
    cpu = basis.cpu_per_event * events + basis.cpu_per_song * SONGS
    seconds = START_SECONDS + basis.fixed_seconds + cpu / (workers * known[kind].vcpus * EFFICIENCY)
    room = workers * DISK[kind] * 2**30 * DISK_SHARE
    return Estimate(seconds, seconds / 3600 * nodes * known[kind].price, basis.shuffle_per_event * events <= room)


def laptop(basis: Measured, events: int) -> float:
    """The seconds of a run on a laptop."""
    cpu = basis.cpu_per_event * events + basis.cpu_per_song * SONGS
    return basis.fixed_seconds + cpu / LAPTOP_CORES


def recommended(estimates: Sequence[Estimate]) -> int:
    """The place of the cheapest estimate in time and on its disks; else of the fastest that fits, else the last."""
    fitting = [place for place, each in enumerate(estimates) if each.fits]
    quick = [place for place in fitting if estimates[place].seconds <= PATIENCE]
    if quick:
        return min(quick, key=lambda place: estimates[place].dollars)
    return min(fitting, key=lambda place: estimates[place].seconds, default=len(estimates) - 1)


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(50), duration(540), duration(9000)
    ('50 s', '9 min', '2.5 h')
    """
    if seconds < 90:
        return "%d s" % round(seconds)
    return "%d min" % round(seconds / 60) if seconds < 5400 else "%.1f h" % (seconds / 3600)


def row(basis: Measured, events: int, known: Dict[str, Instance]) -> str:
    """A line of the table."""
    found = [estimate(basis, events, nodes, kind, known) for nodes, kind in CLUSTERS]
    best = recommended(found)
    cells = [report.digits(events), etl.size_text(basis.input_per_event * events), duration(laptop(basis, events))]
    for place, each in enumerate(found):
        text = "%s, $%.2f" % (duration(each.seconds), each.dollars) if each.fits else "disks too small"
        cells.append("**%s**" % text if place == best else text)
    return "| %s |" % " | ".join(cells)


def page(basis: Measured, known: Dict[str, Instance], stamp: Dict[str, Any]) -> str:
    """docs/clusters.md."""
    head = ["events", "logs", "laptop, %d cores" % LAPTOP_CORES] + ["%d × %s" % cluster for cluster in CLUSTERS]
    lines: List[str] = ["| %s |" % " | ".join(head), "|%s" % ("--:|" * len(head))]
    lines += [row(basis, events, known) for events in EVENTS]
    dollars = sum(DOLLARS_PER_REQUEST[kind] * number for kind, number in REQUESTS_PER_FILE.items())
    return TEMPLATE.format(
        table="\n".join(lines),
        date=stamp["date"][:10],
        machine=report.machines([stamp]),
        songs=report.digits(SONGS),
        fixed="%.0f" % basis.fixed_seconds,
        per_event="%.0f" % (basis.cpu_per_event * 1e6),
        per_song="%.1f" % (basis.cpu_per_song * 1e3),
        shuffle="%.0f" % basis.shuffle_per_event,
        requests="%.0f" % (dollars * 1e6),
        catalog="%.2f" % (dollars * PARTITIONS),
        start=START_SECONDS // 60,
        efficiency="%g" % EFFICIENCY,
        laptop=LAPTOP_CORES,
        share="%d" % (100 * DISK_SHARE),
    )


def write(results: Path) -> None:
    """Write docs/clusters.md from the results in a folder."""
    stamp = report.load(results / "results.json")["events-8"]["ours"]
    known = instances((bench.ROOT / "docs" / "emr.md").read_text("utf-8"))
    (bench.ROOT / "docs" / "clusters.md").write_text(page(measured(results), known, stamp), "utf-8")
