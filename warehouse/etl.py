#!/usr/bin/env python
"""Loads the lake into the warehouse: replaces all rows in one transaction, so that a rerun never doubles any.

    python -m warehouse.etl                  COPY the lake's staging tables, then make the star schema of them
    python -m warehouse.etl --from-catalog   read the lake's tables through the Glue Data Catalog instead (Spectrum)
    python -m warehouse.etl --dry-run        say what would be done

Exit codes: 0 done; 2 wrong usage or environment, or a check failed: the tables are as they were.
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import Mapping, Sequence

import etl
from catalog import aws, schema
from warehouse import config as settings
from warehouse import sql_queries, staging
from warehouse.data_api import Warehouse


def stage(warehouse: Warehouse, manifests: staging.Manifests, found: staging.Staged, role: str) -> None:
    """Load the staging tables."""
    for name, entries in found.entries.items():
        copy = sql_queries.copy(name, manifests.write(name + ".manifest", entries), role)
        warehouse.run([*sql_queries.renew_staging(name), copy])


def load_staged(clients: aws.Clients, config: settings.Config, warehouse: Warehouse, role: str) -> None:
    """The star schema from the lake's staging tables."""
    found = staging.read(clients, config.lake)
    manifests = staging.Manifests(clients, config.lake, uuid.uuid4().hex[:12])
    try:
        stage(warehouse, manifests, found, role)
        warehouse.run(sql_queries.fill_tables(found.rows))
    finally:
        manifests.remove()
    report(found.rows, found.run_id, config.lake.dry_run)


def load_catalog(clients: aws.Clients, config: settings.Config, warehouse: Warehouse, role: str, database: str) -> None:
    """The star schema from the catalog's tables."""
    ledger = staging.read_ledger(clients, config.lake)
    rows = staging.rows_of(ledger)
    warehouse.run([sql_queries.create_lake_schema(database, role)])  # outside of a transaction, as Redshift wants it
    warehouse.run(sql_queries.fill_tables_from_lake(rows))
    report(rows, ledger.report["run_id"], config.lake.dry_run)


def report(rows: Mapping[str, int], run_id: str, dry_run: bool) -> None:
    """Say what the warehouse holds now."""
    for name in sql_queries.CREATE_TABLES:
        aws.say("%-10s %12s rows" % (name, etl.group_digits(rows[name])))
    aws.say("%s the lake of run %s" % ("would hold" if dry_run else "holds", run_id))


def command(argv: Sequence[str]) -> None:
    """Do what the flags ask for; raises UsageError and whatever boto3 raises."""
    parser = settings.parser("warehouse.etl", "Load the lake into the warehouse.")
    parser.add_argument(
        "--from-catalog", action="store_true", help="through the Glue Data Catalog (Spectrum), not by COPY"
    )
    parser.add_argument(
        "--database", metavar="NAME", default=schema.DATABASE, help="of the catalog (default: sparkify)"
    )
    flags = aws.parse(parser, argv)
    config = settings.read(flags, os.environ)
    clients = aws.Clients(config.lake)
    warehouse, role = Warehouse(clients, config), settings.role_arn(config, clients)
    if flags.from_catalog:
        load_catalog(clients, config, warehouse, role, flags.database)
    else:
        load_staged(clients, config, warehouse, role)


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    return aws.run("warehouse.etl", command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
