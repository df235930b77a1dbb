"""The one definition of the schema: held against the contracts of etl.py, the data dictionary and the DDL files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List

import pytest
import sqlglot
from conftest import ROOT
from sqlglot import exp

import etl
from catalog import aws, ddl, schema

LARGEST_COMMENT = 255  # bytes, of a column in Glue
FILES = sorted((ROOT / "catalog" / "athena").glob("*.sql"))


def dictionary(table: str) -> List[str]:
    """The columns of a table in docs/data-dictionary.md."""
    text = (ROOT / "docs" / "data-dictionary.md").read_text("utf-8")
    section = re.split(r"^## ", text.partition("\n## %s\n" % table)[2], maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(cells))


@pytest.mark.parametrize("table", sorted(etl.TABLES))
def test_the_data_dictionary_names_the_same_columns(table: str) -> None:
    assert sorted(dictionary(table)) == sorted(column.name for column in schema.columns(table))


@pytest.mark.parametrize("table", sorted(etl.TABLES))
def test_every_column_and_no_other_has_a_comment_that_glue_takes(table: str) -> None:
    assert list(schema.COLUMN_COMMENTS[table]) == [name for name, _ in etl.columns_of(table)]
    assert set(schema.TABLE_COMMENTS) == set(etl.TABLES)
    for comment in schema.COLUMN_COMMENTS[table].values():
        assert 0 < len(comment.encode()) <= LARGEST_COMMENT
        assert "'" not in comment  # which DDL would need escaped


def test_the_ddl_files_are_those_of_the_schema() -> None:
    bucket = etl.read_config_file(str(ROOT / "dl.cfg"))["S3", "BUCKET"]
    lake = aws.Lake("s3://%s/sparkify-data" % bucket, "")
    assert {path.name: path.read_text("utf-8") for path in FILES} == ddl.files(lake)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_ddl_file_parses_as_athena(path: Path) -> None:
    statements = sqlglot.parse(path.read_text("utf-8"), read="athena")
    assert statements
    if path.name == "3_partitions.sql":  # MSCK is no statement of sqlglot's
        assert [str(statement.expression).split("`")[3] for statement in statements if statement] == [
            name for name in etl.TABLES if etl.TABLES[name].partitions
        ]
    else:
        assert all(isinstance(statement, exp.Create) for statement in statements)


def test_the_ddl_of_another_lake_is_written_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ddl, "FOLDER", str(tmp_path))
    assert ddl.main(["--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert ddl.main(["--output", "s3://mine/lake"]) == 0
    assert "LOCATION 's3://mine/lake/songs/'" in (tmp_path / "2_songs.sql").read_text("utf-8")
    assert ddl.main(["--output", "/mine/lake"]) == 2
    assert "the lake must be in S3" in capsys.readouterr().err
