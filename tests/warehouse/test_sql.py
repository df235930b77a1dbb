"""Every statement of the warehouse as text: Redshift's dialect, its reserved words, and the contracts of etl.py."""

from __future__ import annotations

from typing import List, Tuple

import pytest
import sqlglot
from sqlglot import exp

import etl
from warehouse import create_table, sql_queries

ROLE = "arn:aws:iam::123456789012:role/SparkifyRedshift"
ROWS = {
    **dict.fromkeys(etl.TABLES, 1),
    **{"songplays WHERE %s IS NOT NULL" % name: 1 for name in etl.TABLES["songplays"].counted},
}
STATEMENTS = [
    *create_table.statements(replace=True),
    *(part for name in sql_queries.STAGING_TABLES for part in sql_queries.renew_staging(name)),
    sql_queries.copy("staging_songs", "s3://a/b's.manifest", ROLE),
    *(sql_queries.copy_raw(name, "s3://a/b's", "s3://a/p.jsonpaths", ROLE) for name in sql_queries.STAGING_TABLES),
    sql_queries.FINISH_RAW_EVENTS,
    *sql_queries.fill_tables(ROWS),
    *sql_queries.fill_tables_from_lake(ROWS),
]
# docs.aws.amazon.com/redshift/latest/dg/r_pg_keywords.html
RESERVED_WORDS = """
    AES128 AES256 ALL ALLOWOVERWRITE ANALYSE ANALYZE AND ANY ARRAY AS ASC AUTHORIZATION AZ64 BACKUP BETWEEN BINARY
    BLANKSASNULL BOTH BYTEDICT BZIP2 CASE CAST CHECK COLLATE COLUMN CONSTRAINT CREATE CREDENTIALS CROSS CURRENT_DATE
    CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER CURRENT_USER_ID DEFAULT DEFERRABLE DEFLATE DEFRAG DELTA DELTA32K DESC
    DISABLE DISTINCT DO ELSE EMPTYASNULL ENABLE ENCODE ENCRYPT ENCRYPTION END EXCEPT EXPLICIT FALSE FOR FOREIGN FREEZE
    FROM FULL GLOBALDICT256 GLOBALDICT64K GRANT GROUP GZIP HAVING IDENTITY IGNORE ILIKE IN INITIALLY INNER INTERSECT
    INTERVAL INTO IS ISNULL JOIN LEADING LEFT LIKE LIMIT LOCALTIME LOCALTIMESTAMP LUN LUNS LZO LZOP MINUS MOSTLY16
    MOSTLY32 MOSTLY8 NATURAL NEW NOT NOTNULL NULL NULLS OFF OFFLINE OFFSET OID OLD ON ONLY OPEN OR ORDER OUTER OVERLAPS
    PARALLEL PARTITION PERCENT PERMISSIONS PIVOT PLACING PRIMARY RAW READRATIO RECOVER REFERENCES REJECTLOG RESORT
    RESPECT RESTORE RIGHT SELECT SESSION_USER SIMILAR SNAPSHOT SOME SYSDATE SYSTEM TABLE TAG TDES TEXT255 TEXT32K THEN
    TIMESTAMP TO TOP TRAILING TRUE TRUNCATECOLUMNS UNION UNIQUE UNNEST UNPIVOT USER USING VERBOSE WALLET WHEN WHERE
    WITH WITHOUT START CONNECT"""
RESERVED = set(RESERVED_WORDS.split())
TYPES = {
    "string": "VARCHAR",
    "int": "INTEGER",
    "bigint": "BIGINT",
    "double": "DOUBLE PRECISION",
    "timestamp": "TIMESTAMP",
}


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.what)
def test_a_statement_parses_as_redshift_and_uses_no_reserved_word_as_a_name(statement: sql_queries.Statement) -> None:
    trees = sqlglot.parse(statement.sql, read="redshift")
    assert len(trees) == 1
    assert trees[0]
    assert not isinstance(trees[0], exp.Command)
    names = [name for name in trees[0].find_all(exp.Identifier) if not name.args.get("quoted")]
    assert {name.name.upper() for name in names} & RESERVED == set()


def test_the_external_schema_is_the_only_statement_that_no_parser_knows() -> None:
    made = sql_queries.create_lake_schema("sparkify", ROLE).sql
    expected = "CREATE EXTERNAL SCHEMA IF NOT EXISTS lake FROM DATA CATALOG DATABASE 'sparkify' IAM_ROLE '%s'"
    assert made == expected % ROLE


def columns(statement: str) -> List[Tuple[str, str]]:
    """The columns of a CREATE TABLE and their types, without lengths."""
    tree = sqlglot.parse_one(statement, read="redshift")
    found = tree.find_all(exp.ColumnDef)
    return [(column.name, column.args["kind"].sql("redshift").partition("(")[0]) for column in found]


@pytest.mark.parametrize("table", list(sql_queries.STAGING_TABLES))
def test_staging_has_the_columns_of_the_lakes_files_in_their_order(table: str) -> None:
    in_paths = etl.TABLES[table].partitions
    expected = [(name, TYPES[kind]) for name, kind in etl.columns_of(table) if name not in in_paths]
    assert columns(sql_queries.STAGING_TABLES[table]) == expected


def test_every_table_of_the_lake_is_there() -> None:
    assert {*sql_queries.CREATE_TABLES, *sql_queries.STAGING_TABLES} == set(etl.TABLES)


@pytest.mark.parametrize("table", list(sql_queries.CREATE_TABLES))
def test_a_table_has_the_columns_of_the_lakes(table: str) -> None:
    expected = [(name, TYPES[kind]) for name, kind in etl.columns_of(table)]
    assert sorted(columns(sql_queries.CREATE_TABLES[table])) == sorted(expected)


def test_rows_are_laid_out_among_nodes_as_the_documentation_says() -> None:
    layouts = {name: sql.rpartition(")\n")[2] or sql for name, sql in sql_queries.CREATE_TABLES.items()}
    assert {name: sql.strip().rpartition("\n")[2] for name, sql in layouts.items()} == {
        "artists": ") DISTSTYLE ALL SORTKEY (artist_id)",
        "songs": ") DISTKEY (song_id) SORTKEY (song_id)",
        "users": ") DISTSTYLE ALL SORTKEY (user_id)",
        "time": ") DISTSTYLE ALL SORTKEY (start_time)",
        "songplays": ") DISTKEY (song_id) SORTKEY (start_time)",
    }


def test_what_fills_the_tables_fits_into_one_batch_of_the_data_api() -> None:
    assert len(sql_queries.fill_tables(ROWS)) <= 40
