"""The pictures of docs/images that docs/images/draw.py draws: they are there as it draws them now."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

import etl
from docs.images import draw


def test_the_stored_pictures_are_what_is_drawn_now() -> None:
    stored = {path.name: path.read_text("utf-8") for path in draw.FOLDER.glob("*.svg")}
    assert stored == draw.files(), "python -m docs.images.draw draws them anew"


@pytest.mark.parametrize("name", ["schema.svg", "schema-dark.svg"])
def test_the_schema_shows_every_table_with_its_columns_keys_and_references(name: str) -> None:
    words = [
        node.text or "" for node in ElementTree.fromstring(draw.files()[name]).iter() if node.tag.endswith("}text")
    ]
    for table in etl.TABLES:
        place = words.index(table)
        shown = [word for word in words[place + 2 :] if word not in ("PK", "FK")]
        assert shown[: 2 * len(etl.columns_of(table))] == [part for pair in etl.columns_of(table) for part in pair]
    in_legend = 1
    assert words.count("PK") == sum(bool(table.key) for table in etl.TABLES.values()) + in_legend
    assert words.count("FK") == sum(len(table.references) for table in etl.TABLES.values()) + in_legend


def test_a_picture_changes_with_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw.files()
    users = etl.TABLES["users"]._replace(columns=etl.TABLES["users"].columns + ", born date")
    monkeypatch.setitem(etl.PUBLISHED, "users", users)
    changed = {name for name, drawing in draw.files().items() if drawing != before[name]}
    assert changed == {"schema.svg", "schema-dark.svg"}


@pytest.mark.parametrize("name", sorted(draw.files()))
def test_nothing_is_drawn_outside_of_the_picture(name: str) -> None:
    drawing = draw.files()[name]
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)[0])
    places = re.findall(r'<(?:rect|text) x="([\d.-]+)" y="([\d.-]+)"', drawing)
    assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in places)
