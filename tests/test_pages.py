"""The docs agree with the project: links lead somewhere, tables hold what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest
from conftest import ROOT

import etl

sys.path.insert(0, str(ROOT / "benchmarks"))
import costs

pytestmark = pytest.mark.once

FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
TEXTS = {".md", ".py", ".sh", ".yaml", ".cfg", ".ipynb", ".toml", ".sql", ".json"}


def tracked() -> List[Path]:
    """The files of the project."""
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(asked, cwd=str(ROOT), stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout
    return [path for path in (ROOT / name for name in names.split("\0") if name) if path.is_file()]


PAGES = [path for path in tracked() if path.suffix == ".md"]


def anchors(text: str) -> Set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def dead_links(page: Path) -> Iterator[str]:
    """The relative links of a page that lead nowhere."""
    for found in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        link = "".join(found)
        name, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            yield link


def test_anchors_are_github_s() -> None:
    assert anchors("# The `A-b` & [c](d.md), e\n```\n# no heading\n```\n## Two words\n") == {
        "the-a-b--c-e",
        "two-words",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert list(dead_links(page)) == []


def test_every_page_that_the_code_names_is_there() -> None:
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in tracked()
        if path.suffix in TEXTS and path.name != Path(__file__).name
        for name in re.findall(r"\bdocs/[\w-]+\.md\b", path.read_text("utf-8"))
    }
    assert {(path, name) for path, name in named if not (ROOT / name).is_file()} == set()


# ------------------------------------------------------------------------------------ settings and columns


def rows(page: str, beginning: str) -> List[List[str]]:
    """The cells of the rows of a page's table below the heading that begins so."""
    text = (ROOT / "docs" / page).read_text("utf-8").partition("\n## %s\n" % beginning)[2]
    section = re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0]
    return [[cell.strip() for cell in line.split("|")] for line in re.findall(r"^\|(.*)\|$", section, re.MULTILINE)]


def code(cell: str) -> List[str]:
    """What a cell shows as code."""
    return re.findall(r"`([^`]+)`", cell)


def settings() -> Dict[str, List[str]]:
    """The rows of the job's settings, by flag or, without one, by variable."""
    return {
        (code(row[0]) or code(row[1]))[0]: row for row in rows("configuration.md", "The job") if "`" in row[0] + row[1]
    }


def test_the_settings_of_the_job_are_documented_with_variable_section_and_defaults() -> None:
    documented = settings()
    for setting in (*etl.SETTINGS, etl.BUCKET):
        flag = "--" + setting.name.replace("_", "-")
        row = documented[flag if setting is not etl.BUCKET else "BUCKET"]
        sections = ["[%s]" % mode for mode in etl.MODES] if setting.section == "MODE" else ["[%s]" % setting.section]
        assert (code(row[1]), code(row[2])) == ([setting.name.upper()], sections)
        assert code(row[3]) == list(setting.default.values())


def test_every_flag_of_the_job_is_documented_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        etl.arguments(["--help"])
    told = set(re.findall(r"^  (?:-h, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    assert {name for name in settings() if name.startswith("--")} == told


def columns(table: str) -> Iterator[Tuple[str, str]]:
    """The columns and types of a table in the data dictionary; a row may have several."""
    for cells in rows("data-dictionary.md", table):
        for name in code(cells[0]):
            yield name, cells[1]


@pytest.mark.parametrize("table", sorted(etl.TABLES))
def test_the_data_dictionary_has_the_columns_and_types_of_a_table(table: str) -> None:
    assert sorted(columns(table)) == sorted(etl.columns_of(table))


def test_the_data_dictionary_has_the_columns_of_the_quarantine() -> None:
    found = [(name, kind) for name, kind in columns("Quarantine") if kind == "string"]
    assert found == etl.columns_of(etl.QUARANTINE)


@pytest.mark.parametrize("table", sorted(etl.TABLES))
def test_the_data_dictionary_has_the_key_and_partitions_of_a_table(table: str) -> None:
    text = (ROOT / "docs" / "data-dictionary.md").read_text("utf-8").partition("\n## %s\n" % table)[2]
    about = " ".join(text.partition("\n|")[0].split())
    key, partitions = etl.TABLES[table].key, etl.TABLES[table].partitions
    assert ("Key: `%s`." % key if key else "No key") in about
    assert not partitions or "Partitions: %s." % ", ".join("`%s`" % name for name in partitions) in about


def test_the_page_of_costs_is_what_the_model_writes() -> None:
    assert (ROOT / "docs" / "costs.md").read_text("utf-8") == costs.written()
