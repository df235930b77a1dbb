"""Large and lopsided inputs with 1 GB for the driver, and 1 GB and one core for the only executor of a cluster.

Writes a line for each input: events, files, the largest file, seconds, the peak of resident memory of all processes
together (the cluster's own among them), the account. The exit code is 1 where a run fails or an event is lost.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import bench
import measure
import on_cluster
import pyspark

FILES = 3000  # of the input that has many


class Log(NamedTuple):
    """A file of an input."""

    name: str
    lines: Iterator[bytes]


def skewed(logs: Sequence[Path]) -> Iterator[Log]:
    """Four times the events; a tenth of them are one user's, and a tenth of the plays are of one song."""
    for copy in range(1, 5):
        for path in logs:
            yield Log("%d-%s" % (copy, path.name), skew(path, copy))


def skew(path: Path, copy: int) -> Iterator[bytes]:
    """The lines of a file, every tenth of one user, every next one of one song, all in sessions of another number."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if number % 10 == 0:
                line = re.sub(rb'"userId":"\d+"', b'"userId":"1"', line)
            elif number % 10 == 1 and b'"page":"NextSong"' in line:
                line = re.sub(rb'"song":"[^"]*"', b'"song":"Everywhere"', line)
                line = re.sub(rb'"artist":"[^"]*"', b'"artist":"Everybody"', line)
            yield line.replace(b'"sessionId":', b'"sessionId":%d' % copy)


def in_one_file(logs: Sequence[Path]) -> Iterator[Log]:
    """All events in one file."""
    yield Log("all.json", (line.rstrip(b"\n") + b"\n" for path in logs for line in path.open("rb")))


def in_many_files(logs: Sequence[Path]) -> Iterator[Log]:
    """All events in thousands of files."""
    pieces = -(-FILES // len(logs))
    for path in logs:
        lines = path.read_bytes().splitlines(keepends=True)
        for piece in range(pieces):
            yield Log("%d-%s" % (piece, path.name), iter(lines[piece::pieces]))


INPUTS: Dict[str, Callable[[Sequence[Path]], Iterator[Log]]] = {
    "skewed": skewed,
    "one-file": in_one_file,
    "many-files": in_many_files,
}


def write(name: str, base: Path, folder: Path) -> Tuple[int, int, int]:
    """Write an input from what the generator has made. Returns its events, files and the bytes of the largest."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "log_data").mkdir(parents=True)
    shutil.copytree(base / "song_data", folder / "song_data")
    if name == "skewed":
        song = json.loads(min((base / "song_data").rglob("*.json")).read_text().splitlines()[0])
        song.update(song_id="SOEVERYWHERE", title="Everywhere", artist_name="Everybody", artist_id="AREVERYBODY")
        (folder / "song_data/everywhere.json").write_text(json.dumps(song))
    events, sizes = 0, []
    for log in INPUTS[name](sorted((base / "log_data").rglob("*.json"))):
        with (folder / "log_data" / log.name).open("wb") as file:
            for line in log.lines:
                events += file.write(line) > 0
            sizes.append(file.tell())
    return events, len(sizes), max(sizes)


def command(folder: Path, lake: Path) -> List[str]:
    """The job on a cluster of one executor."""
    submit = str(Path(pyspark.__file__).parent / "bin" / "spark-submit")
    words = [sys.executable, str(bench.HERE / "on_cluster.py"), "1", "2g", submit, "--master", on_cluster.MASTER]
    words += ["--driver-memory", "1g", "--executor-memory", "1g", "--conf", "spark.ui.enabled=false"]
    paths = ["--song-data", str(folder / "song_data"), "--log-data", str(folder / "log_data"), "--output", str(lake)]
    return [*words, str(bench.ROOT / "etl.py"), "--mode", "LOCAL", *paths]


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", type=Path, help="what generate.py has made, with five million events or so")
    parser.add_argument("work", type=Path, help="where inputs and lakes go, which are removed at the end (30 GB)")
    parser.add_argument("--inputs", default=",".join(INPUTS), help="of %s" % ", ".join(INPUTS))
    options = parser.parse_args(argv)
    measure.adopt_orphans()
    work, wrong = options.work.resolve(), 0  # the job runs in another folder
    for name in options.inputs.split(","):
        folder, lake = work / name, work / (name + "-lake")
        events, files, largest = write(name, options.base, folder)
        shutil.rmtree(lake, ignore_errors=True)
        cost = measure.run(command(folder, lake), {**os.environ}, work, 7200)
        if cost.code:
            print("%s failed:\n%s" % (name, cost.tail()))
            return 1
        report = json.loads(max((lake / "_runs").iterdir()).read_text())
        account = report["account"]["log_data"]
        print(
            "%-10s %d events in %d files of up to %.2f GB: %.0f s, peak %.2f GB; %s, %.1f %% matched"
            % (name, events, files, largest / 1e9, cost.seconds, cost.peak / 1e9, account, 100 * report["match_rate"]),
            flush=True,
        )
        wrong += account["records"] != events
        shutil.rmtree(folder)
        shutil.rmtree(lake)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
