#!/usr/bin/env python
"""Registers the seven tables of the lake in the Glue Data Catalog, with types, comments and partitions.

    python -m catalog.register             after a run of the job; run again, it changes only what differs
    python -m catalog.register --dry-run   say what would be done
    python -m catalog.register --delete    remove the tables from the catalog; the lake stays

Exit codes: 0 done; 2 wrong usage or environment.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple
from urllib.parse import unquote

import etl
from catalog import aws, schema
from catalog.aws import Clients, Lake, Record, say

DATABASE = etl.Setting("glue_database", "", "database in the catalog", {"": schema.DATABASE})
OURS = {"project": "sparkify"}  # a parameter of our tables: others are left alone
PARQUET = {
    "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
    "SerdeInfo": {
        "SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
        "Parameters": {"serialization.format": "1"},
    },
}
# What Glue takes in one call
CREATED_AT_ONCE, UPDATED_AT_ONCE, DELETED_AT_ONCE = 100, 100, 25

Values = Tuple[str, ...]  # of a partition, in the order of its columns
Locations = Dict[Values, str]

# ------------------------------------------------------------------------------------ what the lake holds


def partitions_of(clients: Clients, lake: Lake, table: str) -> Locations:
    """The partitions of a table, from the listing of its objects; () for one without. Raises UsageError where the lake
    has no such table.
    """
    prefix = lake.key(table) + "/"
    pages = clients["s3"].get_paginator("list_objects_v2").paginate(Bucket=lake.bucket, Prefix=prefix)
    keys = (entry["Key"] for page in pages for entry in page.get("Contents", []))
    folders = {key[len(prefix) :].rpartition("/")[0] for key in keys if key.endswith(".parquet")}
    if not folders:
        raise etl.UsageError("there is no table %s in %s: run the job first (etl_job.sh)" % (table, lake.output))
    return {values_of(folder): "s3://%s/%s%s" % (lake.bucket, prefix, folder) for folder in folders}


def values_of(folder: str) -> Values:
    """The values of a partition from the names of its folders, which Spark has escaped.

    >>> values_of("year=0/artist_id=AR%3A1"), values_of("")
    (('0', 'AR:1'), ())
    """
    return tuple(unquote(name.partition("=")[2]) for name in folder.split("/") if name)


# ------------------------------------------------------------------------------------ what the catalog should hold


def table_input(lake: Lake, table: str, partitions: Locations) -> Record:
    """A table as Glue takes it."""
    return {
        "Name": table,
        "Description": schema.TABLE_COMMENTS[table],
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", "classification": "parquet", **OURS, **projection(table, partitions)},
        "PartitionKeys": [described(column) for column in schema.partition_columns(table)],
        "StorageDescriptor": storage(table, lake.uri(table)),
    }


def described(column: schema.Column) -> Record:
    """A column as Glue takes it."""
    return {"Name": column.name, "Type": column.type, "Comment": column.comment}


def storage(table: str, location: str) -> Record:
    """How a table or a partition is stored."""
    columns = [described(column) for column in schema.stored_columns(table)]
    return {"Columns": columns, "Location": location.rstrip("/") + "/", **PARQUET}


def projection(table: str, partitions: Locations) -> Dict[str, str]:
    """The parameters that let Athena find months by counting, in place of asking the catalog; other engines take the
    registered partitions. Reaches to the end of the next year, so that a new month is seen before it is registered.
    """
    if not schema.by_month(table):
        return {}
    years = [int(values[0]) for values in partitions]
    return {
        "projection.enabled": "true",
        "projection.year.type": "integer",
        "projection.year.range": "%d,%d" % (min(years), max(years) + 1),
        "projection.month.type": "integer",
        "projection.month.range": "1,12",
    }


def holds(found: Any, wanted: Any) -> bool:
    """Whether a description holds all that is wanted; Glue adds what we do not say."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(holds(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(holds, found, wanted))
    return bool(found == wanted)


# ------------------------------------------------------------------------------------ the catalog


class Difference(NamedTuple):
    """How the partitions of a table must change."""

    added: Locations
    changed: Locations
    dropped: Set[Values]

    def text(self) -> str:
        """The same for people; "" for none."""
        counts = (len(self.added), "added"), (len(self.changed), "changed"), (len(self.dropped), "dropped")
        return ", ".join("%d %s" % count for count in counts if count[0])


class Catalog:
    """A database of the Glue Data Catalog: every question and every change goes through here."""

    def __init__(self, clients: Clients, lake: Lake, database: str) -> None:
        self.glue, self.lake, self.database = clients["glue"], lake, database

    def has_database(self) -> bool:
        """Whether the database is there."""
        return aws.found(self.glue.get_database, "EntityNotFoundException", Name=self.database) is not None

    def table(self, name: str) -> Optional[Record]:
        """A table of ours; None where there is none. Raises UsageError where somebody else's has its name."""
        answer = aws.found(self.glue.get_table, "EntityNotFoundException", DatabaseName=self.database, Name=name)
        if answer is None:
            return None
        table: Record = answer["Table"]
        if not holds(table.get("Parameters"), OURS):
            raise etl.UsageError(
                "the catalog has a table %s.%s which this command did not make (a crawler?): choose another database"
                " with --database, or remove that table" % (self.database, name)
            )
        return table

    def partitions(self, table: str) -> Dict[Values, Record]:
        """The registered partitions of a table."""
        pages = self.glue.get_paginator("get_partitions").paginate(DatabaseName=self.database, TableName=table)
        return {tuple(found["Values"]): found for page in pages for found in page["Partitions"]}

    def register(self, table: str, partitions: Locations) -> None:
        """Bring a table and its partitions to what the lake holds."""
        wanted, found = table_input(self.lake, table, partitions), self.table(table)
        what = "table %s.%s" % (self.database, table)
        if found is None:
            self.lake.apply(what, "made", lambda: self.glue.create_table(DatabaseName=self.database, TableInput=wanted))
        elif not holds(found, wanted):
            wanted["Parameters"] = {**found.get("Parameters", {}), **wanted["Parameters"]}
            self.lake.apply(
                what,
                "changed",
                lambda: self.glue.update_table(DatabaseName=self.database, TableInput=wanted),
            )
        else:
            say("%s: unchanged" % what)
        if wanted["PartitionKeys"]:
            self.register_partitions(table, partitions, self.partitions(table) if found else {})

    def register_partitions(self, table: str, wanted: Locations, found: Mapping[Values, Record]) -> None:
        """Add, change and drop the partitions that differ."""
        here = {values: partition_input(table, values, location) for values, location in wanted.items()}
        moved = {values for values in wanted if values in found and not holds(found[values], here[values])}
        difference = Difference(
            added={values: wanted[values] for values in wanted if values not in found},
            changed={values: wanted[values] for values in moved},
            dropped=set(found) - set(wanted),
        )
        what = "table %s.%s: %d partitions" % (self.database, table, len(wanted))
        if difference.text():
            self.lake.apply(what, difference.text(), lambda: self.change_partitions(table, difference))
        else:
            say("%s: unchanged" % what)

    def change_partitions(self, table: str, difference: Difference) -> None:
        """Make these changes, in calls as large as Glue takes them."""
        where = {"DatabaseName": self.database, "TableName": table}
        for inputs in aws.chunks(inputs_of(table, difference.added), CREATED_AT_ONCE):
            refuse_errors(self.glue.batch_create_partition(**where, PartitionInputList=inputs))
        for inputs in aws.chunks(inputs_of(table, difference.changed), UPDATED_AT_ONCE):
            entries = [{"PartitionValueList": one["Values"], "PartitionInput": one} for one in inputs]
            refuse_errors(self.glue.batch_update_partition(**where, Entries=entries))
        for values in aws.chunks([{"Values": list(one)} for one in sorted(difference.dropped)], DELETED_AT_ONCE):
            refuse_errors(self.glue.batch_delete_partition(**where, PartitionsToDelete=values))

    def make(self, partitions: Mapping[str, Locations]) -> None:
        """Register every table."""
        if self.has_database():
            say("database %s: unchanged" % self.database)
        else:
            details = {"Name": self.database, "Description": "Sparkify data lake", "LocationUri": self.lake.uri()}
            self.lake.apply(
                "database " + self.database, "made", lambda: self.glue.create_database(DatabaseInput=details)
            )
        for table, locations in partitions.items():
            self.register(table, locations)

    def remove(self) -> None:
        """Remove our tables with their partitions, and the database when nothing else is in it."""
        if not self.has_database():
            say("database %s: is not there" % self.database)
            return
        ours = [name for name in etl.TABLES if self.table(name)]
        for name in ours:
            delete = functools.partial(self.glue.delete_table, DatabaseName=self.database, Name=name)
            self.lake.apply("table %s.%s" % (self.database, name), "removed", delete)
        left = [name for name in self.names() if name not in ours]
        if left:
            say("database %s: kept, it holds other tables, for instance %s" % (self.database, left[0]))
        else:
            self.lake.apply(
                "database " + self.database, "removed", lambda: self.glue.delete_database(Name=self.database)
            )

    def names(self) -> List[str]:
        """The tables of the database, ours and others'."""
        pages = self.glue.get_paginator("get_tables").paginate(DatabaseName=self.database)
        return [table["Name"] for page in pages for table in page["TableList"]]


def partition_input(table: str, values: Values, location: str) -> Record:
    """A partition as Glue takes it."""
    return {"Values": list(values), "StorageDescriptor": storage(table, location)}


def inputs_of(table: str, locations: Locations) -> List[Record]:
    """Partitions as Glue takes them, in order."""
    return [partition_input(table, values, location) for values, location in sorted(locations.items())]


def refuse_errors(answer: Record) -> None:
    """Raise UsageError where Glue has taken only some of a batch. One that somebody else has made or dropped meanwhile
    is as it should be.
    """
    done_already = ("AlreadyExistsException", "EntityNotFoundException")
    for error in answer.get("Errors", []):
        detail = error["ErrorDetail"]
        if detail["ErrorCode"] not in done_already:
            values = error.get("PartitionValues") or error.get("PartitionValueList")
            raise etl.UsageError("Glue refused the partition %s: %s" % (values, detail["ErrorMessage"]))


# ------------------------------------------------------------------------------------ main


def command(argv: Sequence[str]) -> None:
    """Do what the flags ask for; raises UsageError and whatever boto3 raises."""
    parser = aws.parser("catalog.register", "Register the seven tables of the lake in the Glue Data Catalog.")
    parser.add_argument(
        "--database", metavar="NAME", dest="glue_database", help=DATABASE.help + etl.default_text(DATABASE)
    )
    parser.add_argument("--delete", action="store_true", help="remove the tables from the catalog; the lake stays")
    flags = aws.parse(parser, argv)
    lake = aws.lake_of(flags, os.environ)
    clients = Clients(lake)
    catalog = Catalog(clients, lake, etl.lookup(DATABASE, flags, os.environ, {}, ""))
    if flags.delete:
        catalog.remove()
    else:
        catalog.make({table: partitions_of(clients, lake, table) for table in etl.TABLES})


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    return aws.run("catalog.register", command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
