#!/usr/bin/env python3
"""Runs the commands of README.md and docs/getting-started.md in a fresh clone of the last commit, with the environment
that `make test` has made, and compares what they print with the block that follows.

    .ci/docs.py

A block of commands begins with ```sh, one of output with ```text, where … stands for anything. Blocks without a
language need AWS or Docker: they are listed, and other tests run them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CLONE = ROOT / "build" / "docs"
PAGES = ("README.md", "docs/getting-started.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
OURS = ("MODE", "SONG_DATA", "LOG_DATA", "OUTPUT", "LAKE", "BUCKET", "MAX_BAD_PERCENT", "ANONYMOUS", "Q", "MAKEFLAGS")


class Block(NamedTuple):
    """Commands of a page, and what they should print."""

    runs: bool
    commands: str
    output: str


def blocks(text: str) -> Iterator[Block]:
    r"""The blocks of commands of a page.

    >>> list(blocks("```sh\nmake\n```\n\n```text\ndone\n```\n\n```python\n1\n```\n\n```\naws\n```\n"))
    [Block(runs=True, commands='make\n', output='done\n'), Block(runs=False, commands='aws\n', output='')]
    """
    for language, commands, output in BLOCK.findall(text):
        if language in ("sh", ""):
            yield Block(language == "sh", commands, output)


def missing(expected: str, printed: str) -> List[str]:
    r"""The expected lines that are not among the printed ones, in this order.

    >>> missing("a  …\n…\nc\n", "a 17 s\nb\nc\n"), missing("c\na\n", "a\nc\n")
    ([], ['a'])
    """
    lines, lost = iter(spaced(printed).splitlines()), []
    for line in spaced(expected).splitlines():
        pattern = re.escape(line).replace("…", ".*")
        if line.strip("… ") and not any(re.fullmatch(pattern, each) for each in lines):
            lost.append(line)
    return lost


def spaced(text: str) -> str:
    """A text whose columns are one space apart."""
    return re.sub(r" +", " ", text)


def fresh_clone() -> None:
    """A clone of the last commit that uses this checkout's environment."""
    shutil.rmtree(CLONE, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(CLONE)], check=True)
    (CLONE / ".venv").symlink_to(ROOT / ".venv")
    for path in CLONE.rglob("requirements*.txt"):
        os.utime(path, (0, 0))  # older than the environment, which make would else make again


def environment() -> Dict[str, str]:
    """Without settings of the project, with the environment's Python and a Java that fits."""
    kept = {key: value for key, value in os.environ.items() if key not in OURS}
    java = subprocess.run([".ci/java.sh", "17", "11", "8"], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
    path = "%s%s%s" % (CLONE / ".venv" / "bin", os.pathsep, kept["PATH"])
    return {**kept, "PATH": path, **({"JAVA_HOME": java.stdout.strip()} if java.returncode == 0 else {})}


def run(block: Block, env: Dict[str, str]) -> str:
    """Runs a block. Returns what is wrong, "" if nothing."""
    shell = ["bash", "-euo", "pipefail", "-c", block.commands]
    done = subprocess.run(
        shell, cwd=CLONE, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=900
    )
    if done.returncode:
        return "exit code %d\n%s" % (done.returncode, done.stdout)
    lost = missing(block.output, done.stdout)
    return "not printed:\n%s\nbut:\n%s" % ("\n".join(lost), done.stdout) if lost else ""


def main() -> int:
    """The command: returns the exit code."""
    fresh_clone()
    env, failures = environment(), 0
    for page in PAGES:
        for block in blocks((CLONE / page).read_text("utf-8")):
            first = block.commands.strip().splitlines()[0]
            if not block.runs:
                print("%s: not run, needs AWS or Docker: %s" % (page, first), flush=True)
                continue
            start = time.monotonic()
            wrong = run(block, env)
            failures += bool(wrong)
            said = "FAILED with " + wrong if wrong else "%.0f s" % (time.monotonic() - start)
            print("%s: %s: %s" % (page, first, said), flush=True)
    shutil.rmtree(CLONE)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
