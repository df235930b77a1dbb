#!/usr/bin/env python
"""Makes the tables of the warehouse, those that are not there yet.

    python -m warehouse.create_table             make them
    python -m warehouse.create_table --replace   drop them with all their rows first, as after a change of their columns

Exit codes: 0 done; 2 wrong usage or environment.
"""

from __future__ import annotations

import os
import sys
from typing import List, Sequence

from catalog import aws
from warehouse import config as settings
from warehouse.data_api import Warehouse
from warehouse.sql_queries import CREATE_TABLES, DROP_TABLES, Statement


def statements(replace: bool) -> List[Statement]:
    """What makes the tables, in one transaction."""
    drops = [Statement(sql.lower(), sql) for sql in DROP_TABLES if replace]
    return drops + [Statement("create table " + name, sql) for name, sql in CREATE_TABLES.items()]


def command(argv: Sequence[str]) -> None:
    """Do what the flags ask for; raises UsageError and whatever boto3 raises."""
    parser = settings.parser("warehouse.create_table", "Make the five tables of the warehouse.")
    parser.add_argument("--replace", action="store_true", help="drop them with all their rows first")
    flags = aws.parse(parser, argv)
    config = settings.read(flags, os.environ)
    Warehouse(aws.Clients(config.lake), config).run(statements(flags.replace))


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    return aws.run("warehouse.create_table", command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
