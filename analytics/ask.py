"""Ask the lake one of the analysts' questions, such as `python -m analytics.ask top-artists --limit 10`."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from typing import Any, Dict, Sequence

import pandas as pd

from analytics import questions
from analytics.lake import LakeError, default_lake, open_lake

DIALECTS = ("athena", "trino", "spark", "duckdb")
FORMATS = ("table", "csv")


def parser() -> argparse.ArgumentParser:
    """The command line: a subcommand for each question, with a flag for each of its parameters."""
    top = argparse.ArgumentParser(
        prog="python -m analytics.ask", description="Ask the lake a question.", epilog="All times are UTC."
    )
    commands = top.add_subparsers(dest="question", metavar="QUESTION", required=True)
    for name in questions.names():
        command = commands.add_parser(name, help=questions.title(name), description=questions.title(name))
        for parameter in questions.parameters(name):
            add_flag(command, parameter)
        command.add_argument("--lake", help="folder or s3:// URI (default: $LAKE, $OUTPUT, dl.cfg)")
        command.add_argument("--format", choices=FORMATS, default="table", help="default: table")
        command.add_argument("--sql", choices=DIALECTS, help="print the question in this SQL instead of asking it")
    return top


def add_flag(command: argparse.ArgumentParser, name: str) -> None:
    """A flag for a parameter of a question."""
    parameter = questions.PARAMETERS[name]
    command.add_argument(
        "--" + name,
        type={dt.date: day, int: positive}.get(parameter.kind, str),
        default=parameter.default,
        required=name in questions.REQUIRED,
        help=parameter.help,
    )


def day(text: str) -> dt.date:
    """A day as 2018-11-01; raises argparse's error for anything else."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("%r is no day such as 2018-11-01" % text) from None


def positive(text: str) -> int:
    """A whole number of 1 or more; raises argparse's error for anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("%r is no number of 1 or more" % text)
    return int(text)


def table(frame: pd.DataFrame) -> str:
    """A frame as aligned text: numbers to the right, two decimals, nothing where there is no value."""
    cells = [list(frame.columns), *(([shown(value) for value in row]) for row in frame.itertuples(index=False))]
    widths = [max(map(len, column)) for column in zip(*cells)]
    right = [kind.kind in "iuf" for kind in frame.dtypes]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(row, widths, right)
        ).rstrip()
        for row in cells
    )


def shown(value: Any) -> str:
    """A value as a table shows it."""
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return "%.2f" % value
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return value.date().isoformat()
    return str(value)


def run(arguments: argparse.Namespace) -> str:
    """What is printed; raises LakeError and QuestionError."""
    given: Dict[str, Any] = vars(arguments)
    if arguments.sql:
        return questions.self_contained(arguments.question, arguments.sql, given)
    lake = open_lake(arguments.lake or default_lake(os.environ), os.environ)
    frame = lake.ask(arguments.question, given)
    return frame.to_csv(index=False).rstrip("\n") if arguments.format == "csv" else table(frame)


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    try:
        print(run(parser().parse_args(argv)))
        return 0
    except (LakeError, questions.QuestionError) as error:
        print("ask: %s" % error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
