"""The notebook runs from top to bottom, and is committed with its plots."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, List

from tiny import ROOT

NOTEBOOK = ROOT / "analytics" / "proof_of_concept.ipynb"


def outputs(path: Path) -> List[Any]:
    """The outputs of a notebook's cells in order."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def plots(path: Path) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(path))


# Seconds; names of reports; whether there was a lake before; sizes, since a lake holds the names of its input files
DIFFERS = r" +\d+\.\d s| +[\d.]+ k?B|[\w-]+\.json|Spark +\d\S+|--full|this is the first run"


def texts(path: Path) -> List[Any]:
    """What the notebook prints, but for what differs from run to run."""
    printed = [output["text"] for output in outputs(path) if output["output_type"] == "stream"]
    return [re.sub(DIFFERS, "", "".join(text)) for text in printed]


def test_the_notebook_says_what_is_committed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", str(tmp_path)]
    subprocess.run([*command, str(NOTEBOOK)], check=True)
    again = tmp_path / NOTEBOOK.name
    assert plots(again) == plots(NOTEBOOK) == 4
    assert texts(again) == texts(NOTEBOOK)


def test_the_committed_notebook_tells_nothing_about_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert "/home/" not in text
    assert "/tmp/" not in text
