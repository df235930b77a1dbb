#!/usr/bin/env python
"""Draws the star schema from the tables of etl.py, and the way of a run, each for GitHub's light and dark theme.

    python -m docs.images.draw    write docs/images/*.svg, after a change of etl.TABLES

A test fails where the files are not what this draws.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple
from xml.sax.saxutils import escape

import etl

FOLDER = Path(__file__).resolve().parent
THEMES = {
    "": {
        "ink": "#1f2328",
        "muted": "#59636e",
        "edge": "#818b98",
        "border": "#d1d9e0",
        "card": "#ffffff",
        "fact": "#0969da",
        "fact-tint": "#ddf4ff",
        "dimension": "#1a7f37",
        "dimension-tint": "#dafbe1",
        "staging": "#9a6700",
        "staging-tint": "#fff8c5",
    },
    "-dark": {
        "ink": "#e6edf3",
        "muted": "#9198a1",
        "edge": "#768390",
        "border": "#3d444d",
        "card": "#151b23",
        "fact": "#4493f8",
        "fact-tint": "#16263f",
        "dimension": "#3fb950",
        "dimension-tint": "#14291e",
        "staging": "#d29922",
        "staging-tint": "#2f2815",
    },
}
STYLE = """\
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: %(ink)s }
.says { font: 12px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif }
.small { font: 11px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif }
.name { font-size: 13px; font-weight: 600 }
.key { font-weight: 600 }
.muted { fill: %(muted)s }
.mark { font: 600 9px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; text-anchor: middle }
.right { text-anchor: end }
.middle { text-anchor: middle }
.card { fill: %(card)s; stroke: %(border)s }
.line { fill: none; stroke: %(border)s }
.edge { fill: none; stroke: %(edge)s; stroke-width: 1.5 }
.tip { fill: %(edge)s }
.dashed { stroke-dasharray: 4 3 }
"""
KIND_STYLE = """\
.{0} {{ fill: %({0})s }}
.{0}-tint {{ fill: %({0}-tint)s }}
.{0}-line {{ fill: none; stroke: %({0})s }}
"""
KINDS = ("fact", "dimension", "staging")

# ------------------------------------------------------------------------------------ shapes


def text(x: float, y: float, words: str, style: str = "") -> str:
    return '<text x="%g" y="%g" class="%s">%s</text>' % (x, y, style, escape(words))


def box(x: float, y: float, width: float, height: float, style: str, radius: float = 6) -> str:
    shape = '<rect x="%g" y="%g" width="%g" height="%g" rx="%g" class="%s"/>'
    return shape % (x, y, width, height, radius, style)


def mark(x: float, y: float, words: str, kind: str) -> str:
    """A small label left of a column: PK filled, FK outlined."""
    filled = words == "PK"
    frame = box(x, y - 7, 22, 14, kind if filled else kind + "-line", 4)
    inside = '<text x="%g" y="%g" class="mark" style="fill: var(--card)">%s</text>'
    return frame + (inside % (x + 11, y + 3.2, words) if filled else text(x + 11, y + 3.2, words, "mark " + kind))


def header(x: float, y: float, width: float, kind: str) -> str:
    """The tinted upper part of a card."""
    shape = "M%g,%g v-%g a6,6 0 0 1 6,-6 h%g a6,6 0 0 1 6,6 v%g z"
    return '<path d="%s" class="%s-tint"/>' % (shape % (x, y + HEAD, HEAD - 6, width - 12, HEAD - 6), kind)


def route(start: Tuple[float, float], lane: float, end: Tuple[float, float], style: str) -> str:
    """A line by way of a vertical lane, with round corners, from a dot to an arrow."""
    (x, y), (to_x, to_y) = start, end
    out, back, down = (1 if lane > x else -1), (1 if to_x > lane else -1), (1 if to_y > y else -1)
    bend = min(8.0, abs(to_y - y) / 2)
    points = (x, y, lane - out * bend, lane, y, lane, y + down * bend, to_y - down * bend)
    path = "M%g,%g H%g Q%g,%g %g,%g V%g " % points
    path += "Q%g,%g %g,%g H%g" % (lane, to_y, lane + back * bend, to_y, to_x - back * 6)
    tip = "M%g,%g l%g,-4 v8 z" % (to_x, to_y, -back * 8)
    dot = '<circle cx="%g" cy="%g" r="2.5" class="tip"/>' % (x, y)
    return '<path d="%s" class="edge %s"/>%s<path d="%s" class="tip"/>' % (path, style, dot, tip)


def picture(width: float, height: float, title: str, shapes: Sequence[str], theme: Dict[str, str]) -> str:
    """A whole file."""
    style = STYLE + "".join(KIND_STYLE.format(kind) for kind in KINDS)
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img">\n'
    rest = "<title>%s</title>\n<style>\n%s</style>\n%s\n</svg>\n" % (escape(title), style % theme, "\n".join(shapes))
    return head % (width, height, width, height) + rest.replace("var(--card)", theme["card"])


# ------------------------------------------------------------------------------------ the star schema

COLUMNS = (("time", "users"), ("songplays", "staging_events"), ("songs", "artists", "staging_songs"))
WIDTH, HEAD, ROW, GAP, GUTTER, MARGIN = 236, 30, 20, 26, 76, 12
LANE = 13  # between two lines side by side
STEM = 18  # from a card to its first lane


class Card(NamedTuple):
    """A table in the picture."""

    name: str
    column: int
    x: float
    y: float

    def row(self, name: str) -> float:
        """The middle of a column's row."""
        names = [column for column, _ in etl.columns_of(self.name)]
        return self.y + HEAD + ROW * (names.index(name) + 0.5) + 2

    def bottom(self) -> float:
        return self.y + HEAD + ROW * len(etl.columns_of(self.name)) + 6

    def kind(self) -> str:
        return "staging" if self.name.startswith("staging_") else "fact" if self.name == "songplays" else "dimension"


class Reference(NamedTuple):
    """A column that refers to the key of a table."""

    card: Card
    column: str
    target: Card

    def span(self) -> Tuple[float, float]:
        """The rows that its line passes, from top to bottom."""
        ends = sorted((self.card.row(self.column), self.target.row(etl.TABLES[self.target.name].key)))
        return ends[0], ends[1]

    def loops(self) -> bool:
        """Whether both tables stand in one column."""
        return self.card.column == self.target.column

    def gutter(self) -> int:
        """Which space its line passes: right of the column of this number."""
        return min(self.card.column, self.target.column)


def cards() -> Dict[str, Card]:
    """Every table at its place."""
    found = {}
    for number, names in enumerate(COLUMNS):
        y = float(MARGIN)
        for name in names:
            found[name] = Card(name, number, MARGIN + number * (WIDTH + GUTTER), y)
            y = found[name].bottom() + GAP
    return found


def table(card: Card) -> List[str]:
    """A table with its columns; those of partitions below a dashed line."""
    contract, kind, right = etl.TABLES[card.name], card.kind(), card.x + WIDTH
    shapes = [
        box(card.x, card.y, WIDTH, card.bottom() - card.y, "card"),
        header(card.x + 0.5, card.y + 0.5, WIDTH - 1, kind),
        text(card.x + 12, card.y + 20, card.name, "name"),
        text(right - 12, card.y + 20, kind, "says right " + kind),
    ]
    for name, type_ in etl.columns_of(card.name):
        y, is_key = card.row(name), name == contract.key
        if name in contract.partitions[:1]:
            shapes.append('<path d="M%g,%g H%g" class="line dashed"/>' % (card.x + 12, y - ROW / 2, right - 12))
        if is_key or name in contract.references:
            shapes.append(mark(card.x + 10, y, "PK" if is_key else "FK", kind))
        shapes.append(text(card.x + 40, y + 4, name, "key" if is_key else ""))
        shapes.append(text(right - 12, y + 4, type_, "right muted"))
    return shapes


def lanes(references: Sequence[Reference]) -> Dict[Reference, int]:
    """A lane for each line of a gutter, loops near their tables, others in the middle: the first in which no other one
    is beside it.
    """
    found: Dict[Reference, int] = {}
    for one in sorted(references, key=lambda one: one.span()[1] - one.span()[0]):
        top, bottom = one.span()
        near = [two for two in found if two.loops() == one.loops()]
        taken = {found[two] for two in near if top < two.span()[1] and two.span()[0] < bottom}
        found[one] = next(lane for lane in range(len(references)) if lane not in taken)
    return found


def line(one: Reference, lane: int) -> str:
    """A reference as a line."""
    right = one.loops() or one.card.column < one.target.column  # it leaves its table there
    start = one.card.x + (WIDTH if right else 0), one.card.row(one.column)
    end = (
        one.target.x + (WIDTH if one.loops() or not right else 0),
        one.target.row(etl.TABLES[one.target.name].key),
    )
    stem = STEM if one.loops() else GUTTER / 2
    x = MARGIN + one.gutter() * (WIDTH + GUTTER) + WIDTH + stem + lane * LANE
    return route(start, x, end, "dashed" if one.card.kind() == "staging" else "")


def legend(x: float, y: float) -> List[str]:
    """What the marks mean."""
    rows = [
        ("key: unique, never null", mark(x, y, "PK", "dimension")),
        ("refers to the key of another table", mark(x, y + 24, "FK", "dimension")),
        ("partition columns stand below", '<path d="M%g,%g h22" class="line dashed"/>' % (x, y + 48)),
        ("reference in the star", '<path d="M%g,%g h22" class="edge"/>' % (x, y + 72)),
        ("reference of a staging table", '<path d="M%g,%g h22" class="edge dashed"/>' % (x, y + 96)),
    ]
    return [
        part for n, (says, sign) in enumerate(rows) for part in (sign, text(x + 34, y + 4 + 24 * n, says, "says muted"))
    ]


def schema(theme: Dict[str, str]) -> str:
    """The tables with columns, keys and references."""
    placed = cards()
    every = [
        Reference(card, column, placed[target])
        for card in placed.values()
        for column, target in etl.TABLES[card.name].references.items()
    ]
    shapes = [part for card in placed.values() for part in table(card)]
    for gutter in range(len(COLUMNS)):
        found = lanes([one for one in every if one.gutter() == gutter])
        shapes += [line(one, lane) for one, lane in found.items()]
    shapes += legend(MARGIN + 10, placed["users"].bottom() + 60)
    width = MARGIN + len(COLUMNS) * (WIDTH + GUTTER) - GUTTER + STEM + 2 * LANE + MARGIN
    height = max(card.bottom() for card in placed.values()) + MARGIN
    return picture(width, height, "The tables of the lake: %s" % ", ".join(etl.TABLES), shapes, theme)


# ------------------------------------------------------------------------------------ the way of a run

STEPS = {
    "list": ("all files of", "the input"),
    "plan": ("what has", "changed"),
    "parse": ("rows and", "bad records"),
    "build": ("months that", "change"),
    "check": ("keys, nulls,", "references"),
    "publish": ("all of it", "or nothing"),
}
READERS = ("Spark", "DuckDB", "pandas", "Athena", "Redshift", "dashboard")
STEP, POINT, PITCH, TOP, TALL = 76, 9, 82, 60, 62  # of the steps: width, point, distance, place and height


def panel(x: float, width: float, title: str, kind: str, lines: Sequence[str]) -> List[str]:
    """A card with a few lines, beside the steps."""
    height = HEAD + 18 * len(lines) + 14
    y = TOP + (TALL - height) / 2
    return [
        box(x, y, width, height, "card"),
        header(x + 0.5, y + 0.5, width - 1, kind),
        text(x + 12, y + 20, title, "name"),
        *(text(x + 12, y + HEAD + 20 + 18 * n, words, "says") for n, words in enumerate(lines)),
    ]


def step(x: float, name: str, says: Sequence[str]) -> List[str]:
    """A step as an arrow to the right."""
    shape = "M%g,%g h%g l%g,%g l-%g,%g h-%g l%g,-%g z"
    half = TALL / 2
    middle = x + (STEP + POINT) / 2 + 3
    return [
        '<path d="%s" class="fact-tint"/>' % (shape % (x, TOP, STEP, POINT, half, POINT, half, STEP, POINT, half)),
        text(middle, TOP + 20, name, "name middle"),
        *(text(middle, TOP + 37 + 14 * n, words, "small muted middle") for n, words in enumerate(says)),
    ]


def arrow(x: float, to_x: float) -> str:
    """An arrow between two cards."""
    line = '<path d="M%g,%g H%g" class="edge"/><path d="M%g,%g l-8,-4 v8 z" class="tip"/>'
    return line % (x, TOP + TALL / 2, to_x - 6, to_x, TOP + TALL / 2)


def pipeline(theme: Dict[str, str]) -> str:
    """JSON in S3, the six steps of etl.py, the lake, its readers."""
    staging = sum(name.startswith("staging_") for name in etl.TABLES)
    held = "%d star tables" % (len(etl.TABLES) - staging), "%d staging tables" % staging, "quarantine", "run reports"
    left, right = 142, 665
    starts = {name: left + 14 + PITCH * n for n, name in enumerate(STEPS)}
    plan, publish, below = starts["plan"] + STEP / 2, starts["publish"] + STEP / 2, TOP + TALL
    memory = "M%g,%g v12 q0,8 -8,8 H%g q-8,0 -8,-8 v-6" % (publish, below + 4, plan + 8)
    shapes = [
        *panel(12, 106, "JSON in S3", "staging", ["%s/" % name for name in etl.INPUTS]),
        box(left, 14, right - left, 156, "card"),
        text(left + 14, 40, "etl.py", "name"),
        text(right - 14, 40, "one PySpark script", "says right muted"),
        *(part for name, says in STEPS.items() for part in step(starts[name], name, says)),
        '<path d="%s" class="edge dashed"/><path d="M%g,%g l-4,8 h8 z" class="tip"/>' % (memory, plan, below + 4),
        text((plan + publish) / 2, below + 38, "ledger: what was read, and what it became", "small muted middle"),
        *panel(687, 116, "lake", "dimension", held),
        *panel(825, 103, "readers", "fact", READERS),
        *(arrow(*ends) for ends in ((118, left), (right, 687), (803, 825))),
    ]
    return picture(940, 184, "A run: JSON in S3, %s, the lake, its readers" % ", ".join(STEPS), shapes, theme)


# ------------------------------------------------------------------------------------ main


def files() -> Dict[str, str]:
    """Every picture by the name of its file."""
    drawings = {"schema": schema, "pipeline": pipeline}
    return {name + end + ".svg": draw(theme) for name, draw in drawings.items() for end, theme in THEMES.items()}


if __name__ == "__main__":
    for name, drawing in files().items():
        (FOLDER / name).write_text(drawing, encoding="utf-8")
