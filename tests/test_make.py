"""The Makefile: its help, and which lake its commands build and read. No environment is made and no job runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import List

import pytest
from conftest import ROOT

pytestmark = pytest.mark.once

# Writes what it is asked for into a file; the job makes a lake
PYTHON = """#!/bin/sh
[ "$1" != -c ] || exit 0
echo "$MODE $OUTPUT $LAKE $*" >>said
[ "$1" != etl.py ] || mkdir -p "$OUTPUT/songplays"
"""


class Project:
    """A copy of the Makefile with an environment that does nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("requirements.txt", "analytics/requirements.txt"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
            os.utime(str(folder / name), (0, 0))
        shutil.copy(str(ROOT / "Makefile"), str(folder))
        self.program(".venv/bin/python", PYTHON)
        self.program(".ci/java.sh", "#!/bin/sh\necho /java\n")
        for name in (".run", ".query", ".analytics"):
            (folder / ".venv" / name).touch()

    def program(self, name: str, text: str) -> None:
        """A program of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def make(self, *words: str, **env: str) -> List[str]:
        """Run make; returns what was run: mode, output and lake, then the arguments of Python."""
        said = self.folder / "said"
        said.write_text("")
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        subprocess.run(["make", *words], cwd=str(self.folder), env={**kept, **env}, check=True)
        return [line.strip() for line in said.read_text().splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_help_fits_a_screen_and_every_command_is_phony() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert len(commands) > 15
    assert set(commands) <= set(phony.replace("\\", "").split())
    command = ["make", "--no-print-directory", "help"]  # make test is a make already
    told = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout
    assert sorted(re.findall(r"^  make (\S+)", told, re.MULTILINE)) == sorted(commands)
    assert len(told.splitlines()) <= 24
    assert max(map(len, told.splitlines())) < 80


@pytest.mark.parametrize(
    ("command", "asked"), [("query", "-m analytics.query"), ("dashboard", "-m streamlit run analytics/dashboard.py")]
)
def test_who_asks_before_there_is_a_lake_gets_that_of_the_sample(command: str, asked: str, project: Project) -> None:
    assert project.make(command) == ["LOCAL lake lake etl.py", "lake " + asked]
    assert project.make(command) == ["lake " + asked]


@pytest.mark.parametrize("lake", ["elsewhere", "s3://bucket/lake"])
def test_another_lake_is_read_and_not_built(lake: str, project: Project) -> None:
    assert project.make("query", "LAKE=" + lake) == [lake + " -m analytics.query"]


def test_one_name_serves_all_commands(project: Project) -> None:
    assert project.make("run", "LAKE=mine") == ["LOCAL mine mine etl.py"]
    assert project.make("run", OUTPUT="mine") == ["LOCAL mine mine etl.py"]
    assert project.make("query", OUTPUT="mine") == ["mine mine -m analytics.query"]
    assert project.make("run", "ARGS=--full --dry-run") == ["LOCAL lake lake etl.py --full --dry-run"]
