"""What the job has staged and counts now, as manifests for COPY.

The job's ledger names the batches that it goes on from: folders of Parquet below _state/staged, and the files whose
records in them no longer count because they have changed since, or gone.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple
from urllib.parse import quote

import etl
from catalog import aws
from catalog.aws import Clients, Lake, Record
from warehouse.data_api import LARGEST_STATEMENT

STAGED = "/".join(etl.STAGED)
BAD_EVENTS = "in_month=__HIVE_DEFAULT_PARTITION__"  # the folder of events that are not valid
MANIFESTS = "_warehouse"


class Part(NamedTuple):
    """Some of the staged files of an input, and the input files whose records in them do not count."""

    entries: List[Record]  # of a manifest
    dropped: List[str]  # URIs


class Staged(NamedTuple):
    """All that counts now."""

    run_id: str
    parts: Dict[str, List[Part]]  # by input, in the order in which they are to be loaded
    records: Dict[str, int]  # good ones, by input
    rows: Dict[str, int]  # of the lake: by table, and of plays with a song


def read(clients: Clients, lake: Lake) -> Staged:
    """What the last run of the job has left. Raises UsageError where it has left nothing, or is at work."""
    text = read_ledger(clients, lake)
    listed = list_staged(clients, lake)
    try:
        ledger = json.loads(text)
        batches = {kind: [etl.batch_of(found) for found in ledger["batches"][kind]] for kind in etl.INPUTS}
        refuse_missing(batches, listed)
        return Staged(
            run_id=str(ledger["report"]["run_id"]),
            parts={kind: parts_of(lake, kind, ledger[kind], batches[kind], listed) for kind in batches},
            records={kind: good_records(batches[kind]) for kind in batches},
            rows=rows_of(ledger["report"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise etl.UsageError("the ledger of %s is damaged: run the job again" % lake.output) from None


def read_ledger(clients: Clients, lake: Lake) -> bytes:
    """The job's ledger as it is."""
    answer = aws.found(clients["s3"].get_object, "NoSuchKey", Bucket=lake.bucket, Key=lake.key(*etl.LEDGER))
    if answer is None:
        raise etl.UsageError("no run of the job has left a ledger in %s: run the job first" % lake.output)
    return bytes(answer["Body"].read())


def list_staged(clients: Clients, lake: Lake) -> etl.Files:
    """Everything that is staged, as the job lists it: size and time of modification by name."""
    prefix = lake.key(STAGED) + "/"
    pages = clients["s3"].get_paginator("list_objects_v2").paginate(Bucket=lake.bucket, Prefix=prefix)
    entries = [entry for page in pages for entry in page.get("Contents", [])]
    found = {one["Key"][len(prefix) :]: (one["Size"], int(one["LastModified"].timestamp()) * 1000) for one in entries}
    return {name: about for name, about in found.items() if name and not name.endswith("/")}


def refuse_missing(batches: Mapping[str, Sequence[etl.Batch]], listed: etl.Files) -> None:
    """Raise UsageError where the folder of a batch is gone: somebody has been there, or a run is at work."""
    there = {"/".join(name.split("/")[:2]) for name in listed}
    needed = {"%s/run=%s" % (kind, batch.run_id) for kind in batches for batch in batches[kind]}
    if needed - there:
        missing = min(needed - there)
        raise etl.UsageError(
            "staging is not as the last run of the job has left it, %s is missing: run it again" % missing
        )


def parts_of(lake: Lake, kind: str, root: str, batches: Sequence[etl.Batch], listed: etl.Files) -> List[Part]:
    """The parts of an input. Batches with records that do not count come first, each alone: what is removed after one
    has been loaded must not be what a later batch has of the same file.
    """
    doubtless = [batch for batch in batches if not batch.dropped]
    parts = [
        Part(entries_of(lake, kind, [batch], listed), uris(root, batch.dropped)) for batch in batches if batch.dropped
    ]
    return [part for part in [*parts, Part(entries_of(lake, kind, doubtless, listed), [])] if part.entries]


def entries_of(lake: Lake, kind: str, batches: Sequence[etl.Batch], listed: etl.Files) -> List[Record]:
    """The staged files of batches as entries of a manifest, but for those with nothing but bad events."""
    folders = tuple("%s/run=%s/part=%s/" % (kind, batch.run_id, part) for batch in batches for part in batch.parts)
    names = [name for name in sorted(listed) if name.startswith(folders) and name.endswith(".parquet")]
    return [
        {"url": lake.uri(STAGED, name), "mandatory": True, "meta": {"content_length": listed[name][0]}}
        for name in names
        if BAD_EVENTS not in name
    ]


def uris(root: str, names: Sequence[str]) -> List[str]:
    """Input files as the column `file` of staging calls them: Java's notation of a URI."""
    return [java_uri(etl.joined(root, name)) for name in names]


def java_uri(path: str) -> str:
    """A path as Java writes it as a URI: what may not stand there escaped, letters of all scripts not.

    >>> java_uri("s3://logs/a b/ü%.json"), java_uri("/logs/a.json")
    ('s3://logs/a%20b/ü%25.json', 'file:///logs/a.json')
    """
    escaped = re.sub(r"[\x00-\x7f]+", lambda found: quote(found[0], safe="/:_-!.~'()*,;$&+=@"), path)
    return escaped if etl.is_uri(path) else "file://" + escaped


def good_records(batches: Sequence[etl.Batch]) -> int:
    """How many records of batches count and are valid."""
    return int(sum(row["count"] for batch in batches for row in batch.counts if not row["reason"]))


def rows_of(report: Mapping[str, Any]) -> Dict[str, int]:
    """The rows of the lake's tables as the job has counted them, and of the plays that have a song."""
    rows = {name: int(report["tables"][name]["rows"]) for name in etl.TABLES}
    return {**rows, "songplays WHERE song_id IS NOT NULL": int(report["matched"])}


def chunks_of_names(names: Sequence[str]) -> List[Sequence[str]]:
    """Names in pieces that fit into a statement."""
    longest = max(len(name.encode()) for name in names) + 8
    return aws.chunks(names, max(1, LARGEST_STATEMENT // 2 // longest))


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
