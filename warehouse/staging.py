"""The lake's staging tables as manifests for COPY, and how many rows each table of the lake has.

The job's ledger says how many rows it has published, and by a digest of each table which files hold them.
"""

from __future__ import annotations

import json
from typing import Dict, List, NamedTuple, Sequence, Tuple

import etl
from catalog import aws
from catalog.aws import Clients, Lake, Record
from warehouse.sql_queries import STAGING_TABLES

MANIFESTS = "_warehouse"


class Staged(NamedTuple):
    """What is to be loaded."""

    run_id: str
    entries: Dict[str, List[Record]]  # of a manifest, by staging table
    rows: Dict[str, int]  # of the lake: by table, and of plays with a song or an artist


def read(clients: Clients, lake: Lake) -> Staged:
    """What the last run of the job has published. Raises UsageError where it has left nothing, or is at work."""
    ledger = read_ledger(clients, lake)
    entries = {}
    for table in STAGING_TABLES:
        files = list_table(clients, lake, table)
        if etl.digest(files) != ledger.tables[table][0]:
            raise etl.UsageError(
                "%s in %s is not as the last run of the job has left it: another one is at work, or run it again"
                % (table, lake.output)
            )
        entries[table] = entries_of(lake, table, files)
    return Staged(str(ledger.report["run_id"]), entries, rows_of(ledger))


def read_ledger(clients: Clients, lake: Lake) -> etl.Ledger:
    """The job's ledger."""
    answer = aws.found(clients["s3"].get_object, "NoSuchKey", Bucket=lake.bucket, Key=lake.key(etl.LEDGER))
    if answer is None:
        raise etl.UsageError("no run of the job has left a ledger in %s: run the job first" % lake.output)
    ledger = etl.ledger_of(answer["Body"].read().decode("utf-8", "replace"))
    if isinstance(ledger, str):
        raise etl.UsageError("%s: %s, run the job again" % (lake.output, ledger))
    return ledger


def list_table(clients: Clients, lake: Lake, table: str) -> etl.Files:
    """The files of a table as the job lists them: size and time of modification by name."""
    prefix = lake.key(table) + "/"
    pages = clients["s3"].get_paginator("list_objects_v2").paginate(Bucket=lake.bucket, Prefix=prefix)
    entries = [entry for page in pages for entry in page.get("Contents", []) if not entry["Key"].endswith("/")]
    return {one["Key"][len(prefix) :]: (one["Size"], int(one["LastModified"].timestamp()) * 1000) for one in entries}


def entries_of(lake: Lake, table: str, files: etl.Files) -> List[Record]:
    """The files of a table as entries of a manifest."""
    return [
        {"url": lake.uri(table, name), "mandatory": True, "meta": {"content_length": files[name][0]}}
        for name in sorted(files)
    ]


def rows_of(ledger: etl.Ledger) -> Dict[str, int]:
    """The rows of the lake's tables as the job has counted them, and of the plays that have a song or an artist."""
    rows = {name: ledger.tables[name][1].rows for name in etl.TABLES}
    known = ledger.tables["songplays"][1].values
    return {
        **rows,
        **{"songplays WHERE %s IS NOT NULL" % name: known[name] for name in etl.TABLES["songplays"].counted},
    }


class Manifests:
    """The manifests of one load, objects of the lake's bucket that are removed when it has ended."""

    def __init__(self, clients: Clients, lake: Lake, load_id: str) -> None:
        self.s3, self.lake, self.load_id = clients["s3"], lake, load_id
        self.keys: List[str] = []

    def write(self, name: str, entries: Sequence[Record]) -> str:
        """Write a manifest; returns its URI."""
        place: Tuple[str, ...] = (MANIFESTS, self.load_id, name)
        if not self.lake.dry_run:
            self.keys.append(self.lake.key(*place))
            body = json.dumps({"entries": list(entries)}, indent=1).encode()
            self.s3.put_object(Bucket=self.lake.bucket, Key=self.keys[-1], Body=body)
        return self.lake.uri(*place)

    def remove(self) -> None:
        """Remove what was written."""
        for key in self.keys:
            self.s3.delete_object(Bucket=self.lake.bucket, Key=key)
