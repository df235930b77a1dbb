"""What COPY loads into the staging tables: the lake's own, or the raw JSON.

The report that the job's last run has left in the lake says how many rows, files and bytes each table has.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple

import etl
from catalog.aws import Clients, Lake, Record

REPORTS = "_runs"
OURS = "_warehouse"  # what a load writes into the lake's bucket for COPY


class Published(NamedTuple):
    """What the last run of the job has published."""

    run_id: str
    tables: Mapping[str, Record]  # rows, files and bytes
    rows: Dict[str, int]  # by table, and of plays with a song or an artist


def published(clients: Clients, lake: Lake) -> Published:
    """What the newest report of a run that has not failed says. Raises UsageError where there is none."""
    for one in reversed(list_objects(clients, lake, REPORTS)):
        report = json.load(clients["s3"].get_object(Bucket=lake.bucket, Key=one["Key"])["Body"])
        if not str(report.get("status")).startswith("failed"):
            return published_by(report, lake)
    raise etl.UsageError("no run of the job has left a report in %s: run the job first" % lake.output)


def published_by(report: Record, lake: Lake) -> Published:
    """The same of one report. Raises UsageError where the job had other tables then."""
    try:
        rows = {name: int(report["tables"][name]["rows"]) for name in etl.TABLES}
        known = {"song_id": int(report["matched"]), "artist_id": int(report["artists_known"])}
    except KeyError:
        raise etl.UsageError("an earlier version of etl.py has built %s: run the job again" % lake.output) from None
    rows.update({"songplays WHERE %s IS NOT NULL" % name: count for name, count in known.items()})
    return Published(report["run_id"], report["tables"], rows)


def entries(clients: Clients, lake: Lake, table: str, about: Record) -> List[Record]:
    """The files of a table as entries of a manifest. Raises UsageError unless the report counts as many, as large."""
    files = list_objects(clients, lake, table)
    if (len(files), sum(one["Size"] for one in files)) != (about["files"], about["bytes"]):
        raise etl.UsageError(
            "%s in %s is not as the last run of the job has left it: another one is at work, or run it again"
            % (table, lake.output)
        )
    return [
        {"url": "s3://%s/%s" % (lake.bucket, one["Key"]), "mandatory": True, "meta": {"content_length": one["Size"]}}
        for one in files
    ]


def list_objects(clients: Clients, lake: Lake, folder: str) -> List[Record]:
    """The objects in a folder of the lake, sorted by key."""
    pages = clients["s3"].get_paginator("list_objects_v2").paginate(Bucket=lake.bucket, Prefix=lake.key(folder, ""))
    return [one for page in pages for one in page.get("Contents", []) if not one["Key"].endswith("/")]


@contextlib.contextmanager
def helpers(clients: Clients, lake: Lake) -> Iterator[Callable[[str, Record], str]]:
    """A function that writes an object for COPY and returns its URI. What it has written is removed in the end."""
    folder, keys = lake.key(OURS, uuid.uuid4().hex[:12], ""), []

    def write(name: str, content: Record) -> str:
        if not lake.dry_run:
            keys.append(folder + name)
            clients["s3"].put_object(Bucket=lake.bucket, Key=folder + name, Body=json.dumps(content, indent=1).encode())
        return "s3://%s/%s%s" % (lake.bucket, folder, name)

    try:
        yield write
    finally:
        for key in keys:
            clients["s3"].delete_object(Bucket=lake.bucket, Key=key)
