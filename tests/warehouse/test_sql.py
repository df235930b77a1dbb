"""Every statement of the warehouse as text: Redshift's dialect, its reserved words, and the contracts of etl.py."""

from __future__ import annotations

from typing import Dict, List, Tuple

import pytest
import sqlglot
from sqlglot import exp

import etl
from warehouse import create_table, sql_queries, staging

ROLE = "arn:aws:iam::123456789012:role/SparkifyRedshift"
ROWS = {"songs": 1, "songplays WHERE song_id IS NOT NULL": 1}
STATEMENTS = [
    *create_table.statements(replace=True),
    *(part for kind in etl.INPUTS for part in sql_queries.renew_staging(kind)),
    sql_queries.copy("song_data", "s3://a/b.manifest", ROLE),
    sql_queries.drop_records("log_data", ["s3://a/b's.json"]),
    *sql_queries.fill_tables({"song_data": 1, "log_data": 1}, ROWS),
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
TYPES = {"text": "VARCHAR", "encoded": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE PRECISION"}
TYPES_OF_LAKE = {"string": "VARCHAR", "int": "INTEGER", "bigint": "BIGINT", "double": "DOUBLE PRECISION"}


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


@pytest.mark.parametrize("kind", list(etl.INPUTS))
def test_staging_has_the_columns_of_the_jobs_staging_in_their_order(kind: str) -> None:
    fields = [(field.name, TYPES[field.kind]) for field in etl.INPUTS[kind].fields if field.name]
    others = [(name, "VARCHAR") for name in etl.OF_EVERY_RECORD]
    assert columns(sql_queries.STAGING_TABLES[kind]) == fields + others


@pytest.mark.parametrize("table", list(etl.TABLES))
def test_a_table_has_the_columns_of_the_lakes(table: str) -> None:
    types: Dict[str, str] = {**TYPES_OF_LAKE, "timestamp": "TIMESTAMP"}
    expected = [(name, types[kind]) for name, kind in etl.columns_of(table)]
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
    assert len(sql_queries.fill_tables({"song_data": 1, "log_data": 1}, dict.fromkeys("abcdef", 1))) <= 40


def test_names_of_files_are_cut_into_statements_that_the_data_api_takes() -> None:
    names = ["s3://bucket/%05d-%s.json" % (number, "'" * 100) for number in range(5000)]
    statements = [sql_queries.drop_records("log_data", part) for part in staging.chunks_of_names(names)]
    assert len(statements) > 1
    assert max(len(statement.sql.encode()) for statement in statements) <= 100000
    assert sum(statement.sql.count(".json") for statement in statements) == 5000
