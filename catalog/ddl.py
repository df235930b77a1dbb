#!/usr/bin/env python
"""The seven tables as DDL for Athena, for people who may not call Glue and use no crawler.

    python -m catalog.ddl                          write catalog/athena/*.sql for the lake of dl.cfg
    python -m catalog.ddl --output s3://mine/lake  the same for another lake

Run them in Athena's editor in the order of their names, and 3_partitions.sql again after each run of the job.
"""

from __future__ import annotations

import os
import sys
from typing import Dict, Sequence

import etl
from catalog import aws, schema

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "athena")


def create_database() -> str:
    """The statement that makes the database."""
    return "CREATE DATABASE IF NOT EXISTS `%s` COMMENT 'Sparkify data lake';\n" % schema.DATABASE


def create_table(table: str, location: str) -> str:
    """The statement that makes a table over the files at a location."""
    columns = ",\n".join(map(column_text, schema.stored_columns(table)))
    partitions = ",\n".join(map(column_text, schema.partition_columns(table)))
    return "".join(
        [
            "CREATE EXTERNAL TABLE IF NOT EXISTS `%s`.`%s` (\n%s\n)\n" % (schema.DATABASE, table, columns),
            "COMMENT '%s'\n" % schema.TABLE_COMMENTS[table],
            "PARTITIONED BY (\n%s\n)\n" % partitions if partitions else "",
            "STORED AS PARQUET\nLOCATION '%s/'\n" % location,
            "TBLPROPERTIES ('classification' = 'parquet', 'project' = 'sparkify');\n",
        ]
    )


def column_text(column: schema.Column) -> str:
    """A column as the statement has it."""
    return "  `%s` %s COMMENT '%s'" % column


def find_partitions() -> str:
    """The statements that look for partitions; they add new ones and leave those that have gone."""
    tables = [table for table in etl.TABLES if etl.TABLES[table].partitions]
    return "".join("MSCK REPAIR TABLE `%s`.`%s`;\n" % (schema.DATABASE, table) for table in tables)


def files(lake: aws.Lake) -> Dict[str, str]:
    """Every file by its name."""
    tables = {"2_%s.sql" % table: create_table(table, lake.uri(table)) for table in etl.TABLES}
    return {"1_database.sql": create_database(), **tables, "3_partitions.sql": find_partitions()}


def command(argv: Sequence[str]) -> None:
    """Write the files; raises UsageError for a lake that is not in S3."""
    flags = aws.parse(aws.parser("catalog.ddl", "Write the seven tables as DDL for Athena."), argv)
    for name, text in files(aws.lake_of(flags, os.environ)).items():
        path = os.path.join(FOLDER, name)
        if not flags.dry_run:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        aws.say("%s: %s" % (os.path.relpath(path), "would be written" if flags.dry_run else "written"))


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    return aws.run("catalog.ddl", command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
