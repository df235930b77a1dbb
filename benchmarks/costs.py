"""docs/costs.md: what a run takes and costs on each platform, by a model of what was measured here and of AWS's prices.

    python benchmarks/costs.py

What was measured is in RESULTS.md and CONFIGURATIONS.md: CPU seconds for each event and song, seconds that do not
depend on size, bytes of logs and shuffles. The rest are prices and assumptions, which the page states.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple

import report

HERE = Path(__file__).resolve().parent
EVENTS = (10_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
SONGS, FOLDERS, PARTITIONS = 15_000, 12_700, 12_465  # of the public bucket, rounded: files, and what they become
LAPTOP_CORES = 4


class Instance(NamedTuple):
    """A type of EC2 instance as EMR uses it."""

    vcpus: int
    memory: int  # GiB
    ec2: float  # dollars an hour
    emr: float
    disk: int  # GiB, EMR's default

    def price(self) -> float:
        return self.ec2 + self.emr


# List prices of us-west-2 in dollars, on demand
YEAR = 2024
INSTANCES = {
    "m5.xlarge": Instance(4, 16, 0.192, 0.048, 64),
    "m5.2xlarge": Instance(8, 32, 0.384, 0.096, 128),
    "m5.4xlarge": Instance(16, 64, 0.768, 0.192, 256),
    "r5.xlarge": Instance(4, 32, 0.252, 0.063, 64),
}
CLUSTERS = ((3, "m5.xlarge"), (5, "m5.xlarge"), (5, "m5.2xlarge"), (11, "m5.2xlarge"), (11, "m5.4xlarge"))
ROOT_DISK, DISK_MONTH, ADDRESS = 10, 0.10, 0.005  # GB of a node; a GB and month; a public IPv4 address and hour
WRITE, READ = 0.005 / 1000, 0.0004 / 1000  # a request to S3: PUT, COPY and LIST; GET and HEAD
KEPT, SENT = 0.023, 0.09  # a GB and month in S3; a GB to the internet
LAMBDA, LAMBDA_MEMORY, LAMBDA_VCPUS = 0.0000166667, 10, 6  # a GB and second; GB; at that memory
VCPU, GIGABYTE = 0.052624, 0.0057785  # EMR Serverless, an hour
WORKER_VCPUS, WORKER_MEMORY, WORKER_DISK = 4, 16, 20  # GB of one of its workers; the disk by default

# Assumptions
EFFICIENCY = 0.5  # of a vCPU, against a core of the machine that was measured, when all are at work
START = {"cluster": 480, "serverless": 60}  # seconds until the job begins, which are paid
DISK_SHARE = 0.5  # of a disk that shuffles may take
FIRST_RUN = 0.5  # hours, for the public bucket: 15,000 objects read and as many written, one by one
LARGEST = 2e9  # bytes of input that the Lambda function takes
# To S3 for a file of the lake, by S3A, where workers of a cluster write it (NOTES.md)
WRITES_PER_FILE, READS_PER_FILE = 18.1, 17.3  # LIST 12.9, PUT 4.2, copies 1.0; HEAD 15.2, GET 2.1
PATIENCE = 3600  # seconds: the cheapest cluster that is done by then is recommended

PAGE = """\
# Costs

Written by `python benchmarks/costs.py`. **A model, not a measurement**: nothing was run on AWS. Prices are list
prices of us-west-2 of {year} in dollars, on demand, without tax; AWS's pages have today's
([EMR](https://aws.amazon.com/emr/pricing/), [EC2](https://aws.amazon.com/ec2/pricing/on-demand/),
[Lambda](https://aws.amazon.com/lambda/pricing/), [S3](https://aws.amazon.com/s3/pricing/)).

## A first run over the public data

With `./etl_job.sh`, three nodes of m5.xlarge, **about {first} cents**:

| what | how computed | dollars |
|---|---|--:|
{first_run}

Keeping it costs {kept} a GB and month; copying it home is free up to 100 GB a month, then {sent} a GB. Later runs
read and write only what is new. A cluster forgotten for a month costs about {forgotten} dollars, so `etl_job.sh`
passes `--auto-terminate` and the [tutorial](aws-tutorial.md#3-your-names) sets a budget.

## Which platform

Time and cost of one run over so much new input, without requests to S3:

{platforms}

- **Lambda** with {lambda_memory} GB. {daily} runs a day over small batches cost {daily_cents} cents.
- **EMR Serverless** with 3 executors up to a million events, else 10, which takes `MaxCores=44` and `EXECUTORS=10`.
- **EMR**: the cluster in bold below.
- Requests come on top everywhere: a run that changes 100 partitions of `songs` makes some 3,000, about a cent.

## Which cluster

One primary node, the rest core nodes (`NODES` and `INSTANCE_TYPE` of `etl_job.sh`). **Bold:** the cheapest that is
done within an hour; if there is none, the fastest.

{clusters}

- Below a million events most of the time is the cluster's start: take a laptop, Lambda or a running cluster.
- For large inputs more nodes cost little more: twice the nodes need about half the time.
- More songs cost requests, not computing: `songs` has a partition for each year and artist, and S3A sends about 40
  requests for each if a cluster's workers write it ({catalogue} dollars for {songs} songs), 6 from the disk of one
  machine. EMR's own committer sends fewer; how many could not be measured. Partitioned by year only, they would be
  a hundredth.

A node is billed by the second from its start to its end; an hour of three nodes:

| type | vCPU | GiB | EC2 | EMR | three nodes |
|---|--:|--:|--:|--:|--:|
{instances}



`SPOT=yes` lowers EC2's part for core nodes. If AWS takes a spot node back, its tasks run again elsewhere; if the
driver was on it, the run fails. Prices of the [Glue catalog](catalog.md) and [Redshift](warehouse.md) are on their
pages.

## What the model rests on

Measured on {machine}:

| what | value |
|---|--:|
| seconds of a run that do not depend on its size | {fixed} |
| CPU µs for each event | {per_event} |
| CPU ms for each song | {per_song} |
| bytes of logs for each event | {log} |
| bytes of shuffles for each event (before the redesign of the job) | {shuffle} |

Assumed:

- CPU seconds grow with the input ([shown](../benchmarks/RESULTS.md#growth) up to two million events) and spread
  over all cores. A laptop has {laptop} cores like that machine's; a vCPU does {efficiency} of such a core. Laptop
  and EMR also read {songs} songs.
- A cluster's step begins after {cluster_start} minutes, EMR Serverless after {serverless_start}; both are counted
  as paid.
- Shuffles may take {share} % of the disks: EMR's
  [defaults](https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-storage.html) of 64 GiB for an xlarge,
  128 for a 2xlarge, 256 for a 4xlarge; {worker_disk} GB for each [worker of EMR
  Serverless](https://docs.aws.amazon.com/emr/latest/EMR-Serverless-UserGuide/app-behavior.html).
- EMR Serverless: {vcpu} dollars for a vCPU and hour, {gigabyte} for a GB and hour; workers of {worker_vcpus} vCPUs
  and {worker_memory} GB, one of them the driver. Lambda: {lambda_price} for a GB and second; {lambda_memory} GB
  have {lambda_vcpus} vCPUs.
- S3: {write} for a thousand requests that write or list, {read} for a thousand that read.
"""


class Measured(NamedTuple):
    """What the model takes from measurements."""

    fixed: float  # seconds of a run without data
    per_event: float  # CPU seconds
    per_song: float
    log: float  # bytes of an event
    shuffle: float


def measured(results: str, configurations: str) -> Measured:
    """The model's numbers from the texts of RESULTS.md and CONFIGURATIONS.md."""
    series = {}
    for name in ("events", "songs"):
        rows = re.findall(r"(?m)^\| ([\d,]+) %s \| ([\d.]+) \| [^|]+ \| ([\d.]+) \|" % name, results)
        series[name] = [(int(size.replace(",", "")), float(wall), float(cpu)) for size, wall, cpu in rows]
    sizes, walls, cpus = zip(*series["events"])
    fixed = walls[0] - slope(walls, sizes) * sizes[0]
    song_sizes, _, song_cpus = zip(*series["songs"])
    (volumes,) = re.findall(r"An event is ([\d,]+) bytes\s+of logs and ([\d,]+) of shuffles", configurations)
    log, shuffle = (float(number.replace(",", "")) for number in volumes)
    return Measured(fixed, slope(cpus, sizes), slope(song_cpus, song_sizes), log, shuffle)


def slope(values: Sequence[float], sizes: Sequence[float]) -> float:
    """By how much values grow for each unit of size, from the first to the last.

    >>> slope([3, 5, 9, 17], [2, 4, 8, 16])
    1.0
    """
    return (values[-1] - values[0]) / (sizes[-1] - sizes[0])


class Estimate(NamedTuple):
    """What a run takes."""

    seconds: float
    dollars: float
    fits: bool = True  # whether its shuffles fit the disks


def on_cluster(basis: Measured, events: int, nodes: int, kind: str) -> Estimate:
    """A run on a cluster of one primary node, which computes nothing, and core nodes."""
    workers, instance = nodes - 1, INSTANCES[kind]
    cpu = basis.per_event * events + basis.per_song * SONGS
    seconds = START["cluster"] + basis.fixed + cpu / (workers * instance.vcpus * EFFICIENCY)
    room = workers * instance.disk * 2**30 * DISK_SHARE
    return Estimate(seconds, seconds / 3600 * nodes * instance.price(), basis.shuffle * events <= room)


def serverless(basis: Measured, events: int) -> Estimate:
    """A run on EMR Serverless: executors and a driver."""
    executors = 3 if events <= 1_000_000 else 10
    seconds = START["serverless"] + basis.fixed + basis.per_event * events / (executors * WORKER_VCPUS * EFFICIENCY)
    worker = WORKER_VCPUS * VCPU + WORKER_MEMORY * GIGABYTE
    room = executors * WORKER_DISK * 1e9 * DISK_SHARE
    return Estimate(seconds, seconds / 3600 * (executors + 1) * worker, basis.shuffle * events <= room)


def on_lambda(basis: Measured, events: int) -> Estimate:
    """A run in the Lambda function."""
    seconds = basis.fixed + basis.per_event * events / (LAMBDA_VCPUS * EFFICIENCY)
    return Estimate(seconds, seconds * LAMBDA_MEMORY * LAMBDA, basis.log * events <= LARGEST)


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


def size(count: float) -> str:
    """Bytes for people.

    >>> size(4640000), size(46.4e9)
    ('5 MB', '46 GB')
    """
    if count < 1e9:
        return "%.0f MB" % (count / 1e6)
    return "%.1f GB" % (count / 1e9) if count < 1e10 else "%.0f GB" % (count / 1e9)


def cell(estimate: Estimate, otherwise: str) -> str:
    """An estimate in a table."""
    if not estimate.fits:
        return otherwise
    dollars = "$%.3f" if estimate.dollars < 0.05 else "$%.2f"
    return "%s, %s" % (duration(estimate.seconds), dollars % estimate.dollars)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are all right-aligned."""
    lines = [" | ".join(head), *(" | ".join(row) for row in rows)]
    texts = ["| %s |" % line for line in lines]
    texts.insert(1, "|" + "--:|" * len(head))
    return "\n".join(texts)


def platforms(basis: Measured) -> str:
    """The table of platforms."""
    rows = []
    for events in EVENTS:
        cpu = basis.per_event * events + basis.per_song * SONGS
        clusters = [on_cluster(basis, events, *each) for each in CLUSTERS]
        rows.append(
            [
                report.digits(events),
                size(basis.log * events),
                duration(basis.fixed + cpu / LAPTOP_CORES),
                cell(on_lambda(basis, events), "too large"),
                cell(serverless(basis, events), "disks too small"),
                cell(clusters[recommended(clusters)], "disks too small"),
            ]
        )
    return table(["events", "logs", "laptop", "Lambda", "EMR Serverless", "EMR"], rows)


def clusters(basis: Measured) -> str:
    """The table of clusters."""
    rows = []
    for events in EVENTS:
        found = [on_cluster(basis, events, *each) for each in CLUSTERS]
        cells = [cell(each, "disks too small") for each in found]
        best = recommended(found)
        cells[best] = "**%s**" % cells[best]
        rows.append([report.digits(events), *cells])
    return table(["events", *("%d × %s" % each for each in CLUSTERS)], rows)


def first_run() -> List[Tuple[str, str, float]]:
    """What a first run over the public data costs: what, how it is computed, dollars."""
    node, hours, nodes = INSTANCES["m5.xlarge"], FIRST_RUN, 3
    disk = node.disk + ROOT_DISK
    gigabytes = disk * DISK_MONTH / 730
    return [
        (
            "half an hour of the cluster",
            "%d nodes × (%g EC2 + %g EMR) × %g h" % (nodes, node.ec2, node.emr, hours),
            nodes * node.price() * hours,
        ),
        (
            "its disks and addresses",
            "%d × (%d GB × %g a month ÷ 730 h + %g for an IPv4 address) × %g h"
            % (nodes, disk, DISK_MONTH, ADDRESS, hours),
            nodes * (gigabytes + ADDRESS) * hours,
        ),
        (
            "listing and reading the input",
            "%s folders × %s a thousand + %s files × %s a thousand"
            % (report.digits(FOLDERS), "%g" % (WRITE * 1000), report.digits(SONGS), "%g" % (READ * 1000)),
            FOLDERS * WRITE + SONGS * READ,
        ),
        (
            "writing the lake",
            "at most %s partitions of `songs`, written once and copied once when published, × %g a thousand"
            % (report.digits(SONGS), WRITE * 1000),
            2 * SONGS * WRITE,
        ),
    ]


def page(results: str, configurations: str) -> str:
    """docs/costs.md from the texts of RESULTS.md and CONFIGURATIONS.md."""
    basis, first = measured(results, configurations), first_run()
    total = sum(dollars for _, _, dollars in first)
    machines = dict.fromkeys(re.findall(r"(?m)^- (.+ cores, [^;]+)", results))
    rows = [
        "| %s | %d | %d | %.3f | %.3f | %.2f |" % (name, one.vcpus, one.memory, one.ec2, one.emr, 3 * one.price())
        for name, one in INSTANCES.items()
    ]
    month = 3 * (INSTANCES["m5.xlarge"].price() + ADDRESS) * 730 + 3 * (INSTANCES["m5.xlarge"].disk + 10) * DISK_MONTH
    daily = 24
    return PAGE.format(
        year=YEAR,
        first="%d" % (round(total * 100, -1)),
        first_run="\n".join("| %s | %s | %.2f |" % row for row in first),
        kept="%g" % KEPT,
        sent="%g" % SENT,
        forgotten="%d" % round(month, -1),
        platforms=platforms(basis),
        lambda_memory=LAMBDA_MEMORY,
        daily=daily,
        daily_cents="%.0f" % (100 * daily * on_lambda(basis, EVENTS[0]).dollars),
        clusters=clusters(basis),
        catalogue="%.2f" % ((WRITES_PER_FILE * WRITE + READS_PER_FILE * READ) * PARTITIONS),
        songs=report.digits(SONGS),
        instances="\n".join(rows),
        machine="; ".join(machines),
        fixed="%.0f" % basis.fixed,
        per_event="%.0f" % (basis.per_event * 1e6),
        per_song="%.1f" % (basis.per_song * 1e3),
        log="%.0f" % basis.log,
        shuffle="%.0f" % basis.shuffle,
        laptop=LAPTOP_CORES,
        efficiency="%g" % EFFICIENCY,
        cluster_start=START["cluster"] // 60,
        serverless_start="one",
        share="%d" % (100 * DISK_SHARE),
        worker_disk=WORKER_DISK,
        vcpu=VCPU,
        gigabyte=GIGABYTE,
        worker_vcpus=WORKER_VCPUS,
        worker_memory=WORKER_MEMORY,
        lambda_price="%.10f" % LAMBDA,
        lambda_vcpus=LAMBDA_VCPUS,
        write="%g" % (WRITE * 1000),
        read="%g" % (READ * 1000),
    )


def written() -> str:
    """The page as the project's measurements say."""
    return page(*((HERE / name).read_text("utf-8") for name in ("RESULTS.md", "CONFIGURATIONS.md")))


if __name__ == "__main__":
    (HERE.parent / "docs" / "costs.md").write_text(written(), "utf-8")
