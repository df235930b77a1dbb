"""`make query`: SQL on a lake in a folder or in S3."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from aws import Server

import etl
from analytics import query

pytest_plugins = ["tiny"]

NAMES = "select first_name from songplays join users using (user_id) group by all order by all limit 1"


def test_the_tables_are_those_of_the_job() -> None:
    assert set(query.TABLES) == set(etl.TABLES)


def test_a_lake_in_a_folder(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert query.main({"LAKE": str(tiny), "Q": "select count(*) as plays, max(month) as month from songplays"}) == 0
    assert "│    10 │    12 │" in capsys.readouterr().out


def test_the_lake_of_the_job_is_the_default(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert query.main({"OUTPUT": str(tiny)}) == 0
    assert "songplay_id" in capsys.readouterr().out


@pytest.mark.parametrize(
    "sql", [NAMES, "select artist, count(*) from staging_events where month = 11 group by all order by all"]
)
def test_a_lake_in_s3_gives_the_same(sql: str, tiny: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.upload(tiny, "bucket", "lake")
    assert query.main({"LAKE": str(tiny), "Q": sql}) == 0
    expected = capsys.readouterr().out
    assert query.main({**os.environ, "LAKE": "s3://bucket/lake", "Q": sql}) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(("sql", "sentence"), [("select", "Parser Error"), ("from nowhere", "nowhere does not exist")])
def test_wrong_sql_is_refused(sql: str, sentence: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert query.main({"LAKE": str(tiny), "Q": sql}) == 2
    said = capsys.readouterr().err
    assert said.startswith("query: ")
    assert sentence in said


def test_a_missing_lake_is_one_sentence(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert query.main({"LAKE": str(tmp_path / "none")}) == 2
    assert capsys.readouterr().err == "query: there is no lake in %s/none: make run builds one in lake\n" % tmp_path
    assert query.main({**os.environ, "LAKE": "s3://bucket/none"}) == 2
    said = capsys.readouterr().err
    assert said.startswith("query: there is no lake in s3://bucket/none")
    assert said.count("\n") == 1
