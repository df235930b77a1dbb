"""RESULTS.md and its images, from what bench.py has stored."""

from __future__ import annotations

import json
import operator
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

Record = Dict[str, Any]
Records = Dict[str, Dict[str, Record]]  # {input: {contender: record}}

CONTENDERS = {
    "ours": "`etl.py`, as a user runs it",
    "baseline": "a plain job: schema inference, Python UDFs, Spark's defaults (`baseline.py`)",
    "duckdb": "the same tables by DuckDB, two threads, no validation (`peer_duckdb.py`)",
    "polars": "the same tables by Polars, two threads, no validation (`peer_polars.py`)",
    "limit": "the least that Spark needs: start, parse with its JSON source, write the finished tables (`limit.py`)",
    "session": "starting and stopping Spark, nothing else",
}
COLOURS = {
    "ours": "#1b6ca8",
    "baseline": "#b0b7bf",
    "duckdb": "#e0a526",
    "polars": "#7a9e48",
    "limit": "#8fb8de",
    "session": "#d5dbe1",
}
SERIES = {"events": "--events", "songs": "--songs"}  # what grows
STEPS = (1, 2, 4, 8)

TEMPLATE = """\
# Results

Written by `make bench ARGS=--report` from what `make bench` has measured; [README.md](README.md) says how to repeat it.

{machines}

Seconds are wall time from the start of the command to its end: the median of {runs}, in turn with the other contenders,
every run in new processes with an empty output folder and the input in the page cache.
CPU seconds, memory (resident, sampled ten times a second) and processes are sums over all processes of a run.

{contenders}

## Targets

{targets}
{inputs}{growth}{s3}"""
INPUT = """
## {name}

`generate.py {arguments}`, measured {dates}.

{table}
{parts}
![Seconds of each contender on {name}](images/{name}.png)
"""
GROWTH = """
## Growth

Only `ours`, measured {dates}. Dashed in the image: time that grows like the input.

{table}

![Seconds against size, both axes logarithmic](images/growth.png)
"""
S3 = """
## Requests to S3

`ours` with `MODE=S3` and `local[*]` on {inputs} input objects, against a server on loopback; the lake has {outputs}
objects. Some 1,000 of the requests do not depend on their number. Measured {date}. "Copy" is a PUT that copies, which
is how S3 renames; "delete" may be of many objects at once.

{table}
"""


class Target(NamedTuple):
    """A ratio that the project aims at."""

    input: str
    text: str
    value: Callable[[Numbers], float]
    relation: str
    limit: float


class Numbers:
    """The measured medians; KeyError where something was not measured or has failed."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def of(self, name: str, contender: str = "ours", what: str = "seconds") -> float:
        """The median of a contender on an input."""
        record = self.records[name][contender]
        if record["failure"] or not record["runs"]:
            raise KeyError(name)
        return statistics.median(run[what] for run in record["runs"])

    def processes(self, name: str) -> float:
        """The processes that ours starts."""
        count = self.records[name]["ours"].get("processes")
        if count is None:
            raise KeyError(name)
        return float(count)

    def worst_doubling(self, series: str) -> float:
        """The largest factor by which time grows when a series' input doubles."""
        seconds = [self.of("%s-%d" % (series, step)) for step in STEPS]
        return max(after / before for before, after in zip(seconds, seconds[1:]))


TARGETS = (
    Target("bucket", "baseline / ours", lambda n: n.of("bucket", "baseline") / n.of("bucket"), "≥", 8),
    Target(
        "bucket",
        "ours / (1.3 × duckdb + session)",
        lambda n: n.of("bucket") / (1.3 * n.of("bucket", "duckdb") + n.of("bucket", "session")),
        "≤",
        1,
    ),
    Target("bucket", "processes of ours", lambda n: n.processes("bucket"), "<", 200),
    Target("logs", "ours / limit", lambda n: n.of("logs") / n.of("logs", "limit"), "≤", 1.25),
    Target(
        "logs",
        "(ours − session) / duckdb",
        lambda n: (n.of("logs") - n.of("logs", "session")) / n.of("logs", "duckdb"),
        "≤",
        2,
    ),
    Target("logs", "baseline / ours", lambda n: n.of("logs", "baseline") / n.of("logs"), "≥", 3),
    Target("events-1 … 8", "time per doubling, at most", lambda n: n.worst_doubling("events"), "≤", 2.1),
    Target("songs-1 … 8", "time per doubling, at most", lambda n: n.worst_doubling("songs"), "≤", 2.1),
    Target(
        "events-1 … 8",
        "peak memory with 8 times the events / with 1",
        lambda n: n.of("events-8", what="peak") / n.of("events-1", what="peak"),
        "≤",
        1.25,
    ),
)
RELATIONS: Dict[str, Callable[[float, float], bool]] = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


# ------------------------------------------------------------------------------------ tables


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all columns but those of text, which come first, are right-aligned.

    >>> print(markdown(["a", "b"], [["x", "1.0"]]))
    | a | b |
    |---|--:|
    | x | 1.0 |
    """
    lines = [header, *rows]
    texts = ["| %s |" % " | ".join(line) for line in lines]
    texts.insert(1, "|---|%s" % ("--:|" * (len(header) - 1)))
    return "\n".join(texts)


def targets_table(numbers: Numbers) -> str:
    """Every target next to what was measured."""
    rows = []
    for target in TARGETS:
        measured = verdict = ""
        with suppress(KeyError):
            value = target.value(numbers)
            measured = "%.0f" % value if target.limit > 100 else "%.2f" % value
            verdict = "met" if RELATIONS[target.relation](value, target.limit) else "**missed**"
        limit = "%s %g" % (target.relation, target.limit)
        rows.append(["%s: %s" % (target.input, target.text), limit, measured or "not measured", verdict])
    return markdown(["ratio", "target", "measured", ""], rows)


def input_table(records: Dict[str, Record]) -> str:
    """A row for each contender on an input."""
    header = ["contender", "median s", "min–max s", "CPU s", "peak memory", "files", "processes", "× ours"]
    ours = median(records.get("ours"), "seconds")
    return markdown(header, [[name, *cells(records[name], ours)] for name in CONTENDERS if name in records])


def limit_parts(record: Optional[Record]) -> str:
    """What the limit is the sum of, a sentence on a line of its own; empty where there is no limit."""
    if not record or median(record, "seconds") is None:
        return ""
    names = [name for name in record["runs"][0]["parts"] if name != "sum"]
    medians = ["%s %.1f" % (name, statistics.median(run["parts"][name] for run in record["runs"])) for name in names]
    return "\nThe limit's parts, in seconds: %s.\n" % ", ".join(medians)


def cells(record: Record, ours: Optional[float]) -> List[str]:
    """What is told of a contender on an input."""
    seconds = median(record, "seconds")
    if seconds is None:
        return ["failed" if record["failure"] else "not run"] + [""] * 6
    cpu, peak = median(record, "cpu"), median(record, "peak")
    return [
        "%.1f" % seconds,
        "%.1f–%.1f" % spread(record),
        "–" if cpu is None else "%.1f" % cpu,
        "–" if peak is None else "%s MB" % digits(peak / 1e6),
        digits(record["files"]),
        "not measured" if record.get("processes") is None else digits(record["processes"]),
        "–" if ours is None else "%.2f" % (seconds / ours),
    ]


def median(record: Optional[Record], what: str) -> Optional[float]:
    """The median over the runs, None where there is none."""
    if not record or record["failure"] or not record["runs"] or what not in record["runs"][0]:
        return None
    return statistics.median(run[what] for run in record["runs"])


def spread(record: Record) -> Tuple[float, float]:
    """The fastest and the slowest run."""
    seconds = [run["seconds"] for run in record["runs"]]
    return min(seconds), max(seconds)


def digits(number: float) -> str:
    """A whole number with its thousands separated."""
    return format(round(number), ",d")


def size(record: Record, flag: str) -> int:
    """How large an argument of generate.py was."""
    return int(record["arguments"][record["arguments"].index(flag) + 1])


def growth_points(records: Records, series: str) -> List[Tuple[int, Record]]:
    """The measured sizes of a series with ours' records."""
    found = [records.get("%s-%d" % (series, step), {}).get("ours") for step in STEPS]
    return [
        (size(record, SERIES[series]), record) for record in found if median(record, "seconds") is not None and record
    ]


def growth_table(records: Records) -> str:
    """A row for each size of each series, with the factor against the size before."""
    rows = []
    for series in SERIES:
        before = None
        for count, record in growth_points(records, series):
            seconds, *others = cells(record, before)
            rows.append(["%s %s" % (digits(count), series), seconds, *others[:3], others[-1]])
            before = median(record, "seconds")
    return markdown(["input", "median s", "min–max s", "CPU s", "peak memory", "× the size before"], rows)


def s3_table(counted: Record) -> str:
    """Requests by kind, for each object of input and output."""
    rows = []
    for kind in sorted({kind for side in ("input", "output") for kind in counted[side]["requests"]}):
        row = [kind]
        for side in ("input", "output"):
            requests = counted[side]["requests"].get(kind, 0)
            row += [digits(requests), "%.2f" % (requests / counted[side]["objects"])]
        rows.append(row)
    return markdown(["request", "to the input", "per input object", "to the lake", "per object of the lake"], rows)


def dates(records: Iterable[Record]) -> str:
    """When records were measured; says so where they were not measured side by side."""
    sessions = sorted({record["date"] for record in records})
    days = sorted({session[:10] for session in sessions})
    apart = ", in %d sessions" % len(sessions) if len(sessions) > 1 else ""
    return " and ".join(days) + apart


def machines(records: Iterable[Record]) -> str:
    """What was measured on, a line for each machine with its versions."""
    lines = []
    for record in records:
        machine = record["machine"]
        memory = "%.0f GB of memory" % (machine["memory"] / 1e9) if machine["memory"] else "memory unknown"
        versions = ", ".join("%s %s" % item for item in record["versions"].items())
        lines.append("- %s, %d cores, %s, %s; %s" % (machine["cpu"], machine["cores"], memory, machine["os"], versions))
    return "\n".join(dict.fromkeys(lines))


# ------------------------------------------------------------------------------------ images


def plot_bars(records: Dict[str, Record], path: Path) -> None:
    """A bar for each contender: the median, with the spread of its runs."""
    from matplotlib.figure import Figure

    names = [name for name in CONTENDERS if name in records and median(records[name], "seconds") is not None][::-1]
    if not names:
        return
    medians = [median(records[name], "seconds") or 0 for name in names]
    spreads = [spread(records[name]) for name in names]
    figure = Figure(figsize=(7, 0.9 + 0.42 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    errors = [[m - low for m, (low, _) in zip(medians, spreads)], [high - m for m, (_, high) in zip(medians, spreads)]]
    axes.barh(names, medians, xerr=errors, color=[COLOURS[name] for name in names], error_kw={"capsize": 3})
    for place, (value, (_, high)) in enumerate(zip(medians, spreads)):
        axes.annotate("%.1f" % value, (high, place), (6, 0), textcoords="offset points", va="center")
    axes.set_xlabel("seconds")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def plot_growth(records: Records, path: Path) -> None:
    """Seconds against size for each series, beside a line of time that grows like the input."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for place, series in enumerate(SERIES):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.set(xscale="log", yscale="log", xlabel=series, ylabel="seconds")
        points = growth_points(records, series)
        if points:
            sizes, medians = [count for count, _ in points], [median(record, "seconds") or 0 for _, record in points]
            spreads = [spread(record) for _, record in points]
            errors = [
                [m - low for m, (low, _) in zip(medians, spreads)],
                [h - m for m, (_, h) in zip(medians, spreads)],
            ]
            axes.errorbar(sizes, medians, yerr=errors, marker="o", capsize=3, color=COLOURS["ours"])
            axes.plot(sizes, [medians[-1] * count / sizes[-1] for count in sizes], "--", color="#888888")
            high = max(high for _, high in spreads)
            axes.set(xlim=(sizes[0] / 1.3, sizes[-1] * 1.3), ylim=(min(medians) / 3, high * 1.5))
            axes.set_xticks(sizes, [short(count) for count in sizes])
            axes.set_yticks(ticks(medians), ["%g" % tick for tick in ticks(medians)])
            axes.minorticks_off()
    save(figure, path)


def short(count: float) -> str:
    """A count in few characters.

    >>> short(12500), short(250000), short(2000000)
    ('12.5k', '250k', '2M')
    """
    return "%gM" % (count / 1e6) if count >= 1e6 else "%gk" % (count / 1e3)


def ticks(values: Sequence[float]) -> List[float]:
    """Round numbers around some values."""
    rounds = [base * 10**power for power in range(-1, 6) for base in (1, 2, 5)]
    return [tick for tick in rounds if min(values) / 3 <= tick <= max(values) * 1.5]


def save(figure: Any, path: Path) -> None:
    """Store an image, the same bytes for the same numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


# ------------------------------------------------------------------------------------ all


def write(results: Path, target: Path) -> None:
    """Write RESULTS.md and images/ into a folder from the results in another."""
    records: Records = load(results / "results.json")
    counted = load(results / "s3.json")
    everything = [record for by_contender in records.values() for record in by_contender.values()]
    single = {name: found for name, found in records.items() if name.partition("-")[0] not in SERIES}
    growing = {name: found for name, found in records.items() if name not in single}
    text = TEMPLATE.format(
        machines=machines(everything),
        runs=runs_text(everything),
        contenders="\n".join("- **%s**: %s" % item for item in CONTENDERS.items()),
        targets=targets_table(Numbers(records)),
        inputs="".join(input_section(name, found) for name, found in single.items()),
        growth=growth_section(growing) if growing else "",
        s3=s3_section(counted) if counted else "",
    )
    (target / "RESULTS.md").write_text(text, "utf-8")
    for name, found in single.items():
        plot_bars(found, target / "images" / (name + ".png"))
    if growing:
        plot_growth(growing, target / "images" / "growth.png")


def load(path: Path) -> Dict[str, Any]:
    """A stored file, {} where there is none."""
    found: Dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def counts(numbers: Iterable[int]) -> str:
    """A number, or the range of several.

    >>> counts([5, 5]), counts([5, 3])
    ('5', '3 to 5')
    """
    found = sorted(set(numbers)) or [0]
    return "%d" % found[0] if len(found) == 1 else "%d to %d" % (found[0], found[-1])


def runs_text(records: Sequence[Record]) -> str:
    """How many runs the medians are of; a contender that has failed has none.

    >>> runs_text([{"runs": [{}], "warmups": 0}, {"runs": [{}, {}], "warmups": 0}, {"runs": [], "warmups": 0}])
    '1 to 2 runs without warm-up'
    >>> runs_text([{"runs": [{}], "warmups": 2}])
    '1 run after 2 of warm-up'
    """
    done = [record for record in records if record["runs"]]
    runs, warmups = counts(len(record["runs"]) for record in done), counts(record["warmups"] for record in done)
    return "%s run%s %s" % (
        runs,
        "" if runs == "1" else "s",
        "without warm-up" if warmups == "0" else "after %s of warm-up" % warmups,
    )


def input_section(name: str, records: Dict[str, Record]) -> str:
    """What is told of an input."""
    return INPUT.format(
        name=name,
        arguments=" ".join(next(iter(records.values()))["arguments"]),
        dates=dates(records.values()),
        table=input_table(records),
        parts=limit_parts(records.get("limit")),
    )


def growth_section(records: Records) -> str:
    """What is told of the series."""
    all_dates = dates(record for by_contender in records.values() for record in by_contender.values())
    return GROWTH.format(dates=all_dates, table=growth_table(records))


def s3_section(counted: Record) -> str:
    """What is told of S3."""
    return S3.format(
        inputs=digits(counted["input"]["objects"]),
        outputs=digits(counted["output"]["objects"]),
        date=counted["date"][:10],
        table=s3_table(counted),
    )
