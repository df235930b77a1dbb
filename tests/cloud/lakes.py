"""What tests of the job with S3 share: a small input, the job as a process, and whether two lakes are alike."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict

import compare_lakes
from conftest import ROOT, SAMPLE


def small_sample(folder: Path) -> Path:
    """Put some of the sample into a folder: six song files, one of them damaged, and a day of logs with a bad line."""
    songs = sorted((SAMPLE / "song_data").rglob("*.json"))
    damaged = [path for path in songs if not is_json(path)]
    for path in songs[:5] + damaged[:1]:
        copy = folder / "songs" / path.relative_to(SAMPLE / "song_data")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(path), str(copy))
    (folder / "logs/2018/11").mkdir(parents=True)
    log = sorted((SAMPLE / "log_data").rglob("*.json"))[0]
    (folder / "logs/2018/11/events.json").write_bytes(log.read_bytes() + b'{"page": "NextSong", \n')
    return folder


def is_json(path: Path) -> bool:
    with suppress(ValueError):
        return isinstance(json.loads(path.read_bytes()), dict)
    return False


def run_job(mode: str, songs: object, logs: object, output: object, cwd: Path, env: Dict[str, str]) -> Any:
    """Run etl.py to its end, as a user does, with some more of the environment."""
    paths = ["--song-data", str(songs), "--log-data", str(logs), "--output", str(output)]
    command = [sys.executable, str(ROOT / "etl.py"), "--mode", mode, "--max-bad-percent", "50", *paths]
    others = ("PYSPARK_GATEWAY", "AWS_")  # of this process's session, of whoever runs the tests
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return subprocess.run(
        command, cwd=str(cwd), env={**kept, **env}, capture_output=True, encoding="utf-8", timeout=300, check=False
    )


def local_lake(sample: Path, lake: Path) -> Path:
    """The lake of a LOCAL run on such an input."""
    done = run_job("LOCAL", sample / "songs", sample / "logs", lake, sample, {})
    assert done.returncode == 0, done.stderr
    return lake


def same_rows(lake: Path, expected: Path) -> bool:
    """Whether two lakes hold the same rows and columns, the quarantine included, and some in each table."""
    tables = compare_lakes.TABLES
    assert all(compare_lakes.read(expected, table).rows for table in tables)
    return all(compare_lakes.read(lake, table) == compare_lakes.read(expected, table) for table in tables)


def find_java_home() -> Path:
    """The folder of the Java that spark-submit would take."""
    if os.environ.get("JAVA_HOME"):
        return Path(os.environ["JAVA_HOME"])
    java = shutil.which("java")
    if not java:
        raise RuntimeError("there is no Java")
    return Path(java).resolve().parents[1]
