"""The analysts' questions: SQL in `queries/`, one a file, which this module finds, describes and translates.

The files are in Trino's dialect, which is Athena's too; sqlglot turns them into that of DuckDB or Spark. A parameter is
written `:name`. What many questions begin with stands in `queries/steps/`: a question, or another step, that reads a
table of a step's name gets the step as a common table expression. Who keeps the rows of one, such as `listening`, in a
table of that name leaves it out of the question (`without=`), and the question reads the table.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Set, Tuple

import sqlglot
from sqlglot import exp

QUERIES = Path(__file__).resolve().parent / "queries"
STEPS = QUERIES / "steps"
DIALECT = "trino"

# Questions that are another one, with its user agents parsed: which one, and the column of the parsed name
PARSED = {"browsers": ("user-agents", "browser"), "operating-systems": ("user-agents", "operating_system")}


class Parameter(NamedTuple):
    """What a `:name` in the SQL stands for."""

    kind: type
    default: Any  # None: no restriction, where the question allows that
    help: str


PARAMETERS: Dict[str, Parameter] = {
    "since": Parameter(dt.date, dt.date(1970, 1, 1), "first day (UTC), such as 2018-11-01"),
    "until": Parameter(dt.date, dt.date(9999, 12, 31), "last day (UTC), which is included"),
    "level": Parameter(str, None, "only plays at this level: free or paid"),
    "state": Parameter(str, None, "only plays in this US state, such as CA, or unknown"),
    "limit": Parameter(int, 10, "so many rows at most"),
    "user": Parameter(str, None, "a user: the id, or first and last name (find-users: a part of the name)"),
    "artist": Parameter(str, None, "only songs of this artist, as the log spells the name"),
    "song": Parameter(str, None, "a song: its title, as the log spells it, or its id"),
}
REQUIRED = {"user", "song"}


class QuestionError(Exception):
    """A question, or a value for it, that is not known; the text is a sentence for people."""


def names() -> List[str]:
    """The names of all questions, sorted."""
    return sorted([path.stem for path in QUERIES.glob("*.sql")] + list(PARSED))


def text(name: str) -> str:
    """A question's file, with its comment. Raises QuestionError for a name that is not known."""
    if name not in names():
        raise QuestionError("there is no question %s; there are: %s" % (name, ", ".join(names())))
    return (QUERIES / (PARSED.get(name, (name,))[0] + ".sql")).read_text(encoding="utf-8")


def title(name: str) -> str:
    """What a question asks, in a line."""
    if name in PARSED:
        return "Which %s do users listen with most?" % name.replace("-", " ")
    return text(name).partition("\n")[0].lstrip("- ")


def parameters(name: str) -> List[str]:
    """The names of the parameters in a question's SQL, in the order of PARAMETERS."""
    used = {node.name for node in parsed(name).find_all(exp.Placeholder)}
    return [parameter for parameter in PARAMETERS if parameter in used]


def values(name: str, given: Mapping[str, Any]) -> Dict[str, Any]:
    """A value for each parameter of a question: the given one, else the default. Raises QuestionError where none is."""
    chosen = {key: given.get(key, PARAMETERS[key].default) for key in parameters(name)}
    missing = [key for key, value in chosen.items() if value is None and key in REQUIRED]
    if missing:
        raise QuestionError("the question %s needs --%s: %s" % (name, missing[0], PARAMETERS[missing[0]].help))
    return chosen


@lru_cache(maxsize=None)
def parsed(name: str) -> exp.Query:
    """A question's SQL with the steps that it begins with, as a tree, which is shared: copy it before changing it."""
    tree = sqlglot.parse_one(text(name), read=DIALECT)
    assert isinstance(tree, exp.Query)
    return after(tree, steps(tree))


def after(tree: exp.Query, queries: Mapping[str, exp.Expr]) -> exp.Query:
    """A query that begins with others, as common table expressions of these names."""
    for name, query in reversed(list(queries.items())):
        tree = tree.with_(name, as_=query)
        expressions = tree.args["with_"].expressions
        expressions.insert(0, expressions.pop())  # what follows reads it
    return tree


def tables(name: str) -> Set[str]:
    """The names of all that a question reads: tables, steps and its own common table expressions."""
    return {table.name for table in parsed(name).find_all(exp.Table)}


def steps(tree: exp.Expr) -> Dict[str, exp.Expr]:
    """The steps that a query reads, itself or through others; each after those that it reads."""
    found: Dict[str, exp.Expr] = {}
    for table in tree.find_all(exp.Table):
        path = STEPS / (table.name + ".sql")
        if path.exists():
            step = sqlglot.parse_one(path.read_text(encoding="utf-8"), read=DIALECT)
            found = {**steps(step), **found, table.name: step}
    return found


@lru_cache(maxsize=None)
def sql(name: str, dialect: str, without: Tuple[str, ...] = ()) -> str:
    """A question in another dialect, with its parameters as that dialect writes them.

    `without` names common table expressions to leave out. Raises sqlglot's error where the dialect lacks something.
    """
    tree = parsed(name).copy()
    for expression in list(tree.find_all(exp.CTE)):
        if expression.alias in without:
            expression.pop()
    if tree.args.get("with_") and not tree.args["with_"].expressions:
        tree.set("with_", None)
    return generated(tree, dialect)


def months(name: str, chosen: Mapping[str, Any]) -> Tuple[int, int]:
    """The first and the last month, as 201811, whose partitions a question reads with these values.

    A question that restricts its partitions does so by year(:since) and year(:until); what it does not name is open.
    """
    named = {node.this.name for node in parsed(name).find_all(exp.Year) if isinstance(node.this, exp.Placeholder)}
    days = [chosen[key] if key in named else PARAMETERS[key].default for key in ("since", "until")]
    return days[0].year * 100 + days[0].month, days[1].year * 100 + days[1].month


def expression(name: str, alias: str, dialect: str, without: Tuple[str, ...] = ()) -> str:
    """A question's common table expression of this name as a query, with those before it but for the ones `without`."""
    tree = parsed(name).copy()
    before: Dict[str, exp.Expr] = {}
    for found in tree.args["with_"].expressions:
        if found.alias == alias:
            return generated(after(found.this, before), dialect)
        if found.alias not in without:
            before[found.alias] = found.this
    raise LookupError(alias)


def self_contained(name: str, dialect: str, given: Mapping[str, Any]) -> str:
    """A question with its values written into it, to paste where nothing can be bound (Athena's console)."""
    chosen = {key: literal(value) for key, value in values(name, given).items()}
    return generated(
        parsed(name).transform(lambda node: chosen[node.name].copy() if isinstance(node, exp.Placeholder) else node),
        dialect,
    )


def literal(value: Any) -> exp.Expr:
    """A value as SQL writes it."""
    if isinstance(value, dt.date):
        return exp.cast(exp.Literal.string(value.isoformat()), "date")
    return exp.convert(value)


def generated(tree: exp.Expr, dialect: str) -> str:
    return tree.sql(dialect, pretty=True, comments=False, unsupported_level=sqlglot.ErrorLevel.RAISE)
