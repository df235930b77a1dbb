"""Run a command with a standalone cluster of its own.

Arguments: how many workers, the memory of each, the command. MASTER among the command's words becomes the cluster's
address. The exit code is the command's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cloud"))
import standalone

MASTER = "MASTER"


def main(workers: str, memory: str, *command: str) -> int:
    """The command: returns the exit code."""
    with tempfile.TemporaryDirectory() as folder, standalone.running(Path(folder), int(workers), memory) as cluster:
        words = [cluster.url if word == MASTER else word for word in command]
        return subprocess.run(words, env={**cluster.env, "MODE": "LOCAL"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
