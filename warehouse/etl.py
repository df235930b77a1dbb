#!/usr/bin/env python
"""Loads the lake into the warehouse: replaces all rows in one transaction, so that a rerun never doubles any.

    python -m warehouse.etl                  COPY the lake's staging tables, then make the star schema of them
    python -m warehouse.etl --from-json      COPY the raw JSON instead, without a lake
    python -m warehouse.etl --from-catalog   read the lake's tables through the Glue Data Catalog instead (Spectrum)
    python -m warehouse.etl --dry-run        say what would be done

Exit codes: 0 done; 2 wrong usage or environment, or a check failed: the tables are as they were.
"""

from __future__ import annotations

import os
import sys
from typing import Mapping, Sequence

import etl
from catalog import aws, schema
from warehouse import config as settings
from warehouse import sql_queries, staging
from warehouse.data_api import Warehouse


def load_published(clients: aws.Clients, config: settings.Config, warehouse: Warehouse, role: str) -> None:
    """The star schema from the lake's staging tables."""
    lake = config.lake
    found = staging.published(clients, lake)
    entries = {name: staging.entries(clients, lake, name, found.tables[name]) for name in sql_queries.STAGING_TABLES}
    with staging.helpers(clients, lake) as write:
        for name in entries:
            copy = sql_queries.copy(name, write(name + ".manifest", {"entries": entries[name]}), role)
            warehouse.run([*sql_queries.renew_staging(name), copy])
        warehouse.run(sql_queries.fill_tables(found.rows))
    report(found, lake.dry_run)


def load_raw(
    clients: aws.Clients, config: settings.Config, warehouse: Warehouse, role: str, inputs: Mapping[str, str]
) -> None:
    """The star schema from raw JSON, without a lake: all in one transaction."""
    statements = []
    with staging.helpers(clients, config.lake) as write:
        for name, folder in inputs.items():
            paths = write(name + ".jsonpaths", sql_queries.jsonpaths(name))
            statements += [*sql_queries.renew_staging(name), sql_queries.copy_raw(name, folder, paths, role)]
        warehouse.run([*statements, sql_queries.FINISH_RAW_EVENTS, *sql_queries.fill_tables({})])
    aws.say("%s %s" % ("would hold" if config.lake.dry_run else "holds", " and ".join(inputs.values())))


def load_catalog(clients: aws.Clients, config: settings.Config, warehouse: Warehouse, role: str, database: str) -> None:
    """The star schema from the catalog's tables."""
    found = staging.published(clients, config.lake)
    warehouse.run([sql_queries.create_lake_schema(database, role)])  # outside of a transaction, as Redshift wants it
    warehouse.run(sql_queries.fill_tables_from_lake(found.rows))
    report(found, config.lake.dry_run)


def report(found: staging.Published, dry_run: bool) -> None:
    """Say what the warehouse holds now."""
    for name in sql_queries.CREATE_TABLES:
        aws.say("%-10s %12s rows" % (name, etl.group_digits(found.rows[name])))
    aws.say("%s the lake of run %s" % ("would hold" if dry_run else "holds", found.run_id))


def command(argv: Sequence[str]) -> None:
    """Do what the flags ask for; raises UsageError and whatever boto3 raises."""
    parser = settings.parser("warehouse.etl", "Load the lake into the warehouse.")
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument(
        "--from-json", action="store_true", help="from the raw JSON (SONG_DATA, LOG_DATA), not from the lake"
    )
    sources.add_argument(
        "--from-catalog", action="store_true", help="through the Glue Data Catalog (Spectrum), not by COPY"
    )
    parser.add_argument(
        "--database", metavar="NAME", default=schema.DATABASE, help="of the catalog (default: sparkify)"
    )
    flags = aws.parse(parser, argv)
    config = settings.read(flags, os.environ)
    clients = aws.Clients(config.lake)
    warehouse, role = Warehouse(clients, config), settings.role_arn(config, clients)
    if flags.from_json:
        load_raw(clients, config, warehouse, role, settings.raw_inputs(flags, os.environ))
    elif flags.from_catalog:
        load_catalog(clients, config, warehouse, role, flags.database)
    else:
        load_published(clients, config, warehouse, role)


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    return aws.run("warehouse.etl", command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
