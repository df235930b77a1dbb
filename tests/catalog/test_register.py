"""catalog.register against moto's Glue and S3: what is made, changed and removed, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from aws import Server, enter, served
from moto.iam.access_control import IAMRequestBase

import etl
from catalog import register, schema

BUCKET, DATABASE = "sparkify-dl-sp", "sparkify"
LAKE = {
    "artists": ["part-0.parquet"],
    "songs": ["year=0/artist_id=AR%3A1/part-0.parquet", "year=1999/artist_id=AR2/part-0.parquet"],
    "users": ["part-0.parquet"],
    "time": ["year=2018/month=11/part-0.parquet"],
    "songplays": ["year=2018/month=11/part-0.parquet"],
    "staging_songs": ["part-0.parquet"],
    "staging_events": ["year=2018/month=11/part-0.parquet", "year=2018/month=12/part-0.parquet"],
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served(Server) as server:
        yield server


@pytest.fixture
def glue(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An AWS with a lake and an empty catalog."""
    enter(server, tmp_path, monkeypatch, ["GLUE_DATABASE"])
    server.make_bucket(BUCKET)
    for table, names in LAKE.items():
        put(server, *("%s/%s" % (table, name) for name in names))
    return server.client("glue")


def put(server: Server, *names: str) -> None:
    for name in names:
        server.client("s3").put_object(Bucket=BUCKET, Key="sparkify-data/" + name, Body=b"")


def partitions(glue: Any, table: str) -> Dict[Any, str]:
    """The registered partitions and where they are."""
    pages = glue.get_paginator("get_partitions").paginate(DatabaseName=DATABASE, TableName=table)
    found = [one for page in pages for one in page["Partitions"]]
    return {tuple(one["Values"]): one["StorageDescriptor"]["Location"] for one in found}


def asked(server: Server) -> List[str]:
    """What Glue was asked to change."""
    bodies = [call.body.decode() for call in server.changes() if call.body.startswith(b"{")]
    return [body for body in bodies if any(part in body for part in ("Input", "ToDelete", "Entries"))]


def everything(glue: Any) -> Any:
    """The whole catalog, without the times of its changes."""
    tables = glue.get_tables(DatabaseName=DATABASE)["TableList"]
    kept = ("Name", "Parameters", "PartitionKeys", "StorageDescriptor", "Description", "TableType")
    return [{key: table[key] for key in kept} for table in tables], [partitions(glue, name) for name in LAKE]


@pytest.mark.parametrize("table", sorted(etl.TABLES))
def test_a_table_has_the_columns_of_its_contract(table: str, glue: Any) -> None:
    assert register.main([]) == 0
    made = glue.get_table(DatabaseName=DATABASE, Name=table)["Table"]
    columns = made["StorageDescriptor"]["Columns"] + made["PartitionKeys"]
    expected = {tuple(column.split()) for column in etl.TABLES[table].columns.split(", ")}
    assert {(column["Name"], column["Type"]) for column in columns} == expected
    assert tuple(column["Name"] for column in made["PartitionKeys"]) == etl.TABLES[table].partitions
    assert all(column["Comment"] == schema.COLUMN_COMMENTS[table][column["Name"]] for column in columns)
    assert made["StorageDescriptor"]["Location"] == "s3://%s/sparkify-data/%s/" % (BUCKET, table)
    assert made["Parameters"]["classification"] == "parquet"


def test_partitions_have_unescaped_values_and_the_path_as_it_is(glue: Any) -> None:
    assert register.main([]) == 0
    root = "s3://%s/sparkify-data/songs/" % BUCKET
    assert partitions(glue, "songs") == {
        ("0", "AR:1"): root + "year=0/artist_id=AR%3A1/",
        ("1999", "AR2"): root + "year=1999/artist_id=AR2/",
    }


def test_months_are_projected_for_athena_to_the_end_of_the_next_year(glue: Any) -> None:
    assert register.main([]) == 0
    parameters = glue.get_table(DatabaseName=DATABASE, Name="songplays")["Table"]["Parameters"]
    assert parameters["projection.enabled"] == "true"
    assert parameters["projection.year.range"] == "2018,2019"
    assert parameters["projection.month.range"] == "1,12"
    assert "projection.enabled" not in glue.get_table(DatabaseName=DATABASE, Name="songs")["Table"]["Parameters"]
    assert list(partitions(glue, "songplays")) == [("2018", "11")]  # for all other engines


def test_running_again_changes_nothing(glue: Any, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert register.main([]) == 0
    before = everything(glue)
    capsys.readouterr()
    server.calls.clear()
    assert register.main([]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if not line.endswith(": unchanged")] == []
    assert asked(server) == []
    assert everything(glue) == before


def test_only_partitions_that_have_come_or_gone_or_moved_are_written(glue: Any, server: Server) -> None:
    assert register.main([]) == 0
    server.client("s3").delete_object(Bucket=BUCKET, Key="sparkify-data/songs/year=1999/artist_id=AR2/part-0.parquet")
    put(server, "songs/year=2001/artist_id=AR4/part-0.parquet")
    moved = register.partition_input("songs", ("0", "AR:1"), "s3://elsewhere/a")
    glue.update_partition(
        DatabaseName=DATABASE, TableName="songs", PartitionValueList=["0", "AR:1"], PartitionInput=moved
    )
    server.calls.clear()
    assert register.main([]) == 0
    assert [(body.count('"Values"'), body.count("songs/")) for body in asked(server)] == [(1, 1), (1, 1), (1, 0)]
    root = "s3://%s/sparkify-data/songs/" % BUCKET
    assert partitions(glue, "songs") == {
        ("0", "AR:1"): root + "year=0/artist_id=AR%3A1/",
        ("2001", "AR4"): root + "year=2001/artist_id=AR4/",
    }


def test_partitions_are_written_in_batches(glue: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("CREATED_AT_ONCE", "UPDATED_AT_ONCE", "DELETED_AT_ONCE"):
        monkeypatch.setattr(register, size, 2)
    names = ["songs/year=%d/artist_id=AR3/part-0.parquet" % year for year in (1001, 1002, 1003)]
    put(server, *names)
    assert register.main([]) == 0
    assert len([body for body in asked(server) if "PartitionInputList" in body and '"songs"' in body]) == 3
    for name in names:
        server.client("s3").delete_object(Bucket=BUCKET, Key="sparkify-data/" + name)
    assert register.main([]) == 0
    assert len([body for body in asked(server) if "PartitionsToDelete" in body]) == 2
    assert len(partitions(glue, "songs")) == 2


def test_a_table_that_was_changed_by_hand_is_mended_and_keeps_other_parameters(glue: Any) -> None:
    assert register.main([]) == 0
    table = glue.get_table(DatabaseName=DATABASE, Name="users")["Table"]
    spoilt = {key: table[key] for key in ("Name", "TableType", "StorageDescriptor")}
    spoilt["StorageDescriptor"]["Columns"][0]["Type"] = "string"
    spoilt["Parameters"] = {**table["Parameters"], "owner": "me"}
    glue.update_table(DatabaseName=DATABASE, TableInput=spoilt)
    assert register.main([]) == 0
    mended = glue.get_table(DatabaseName=DATABASE, Name="users")["Table"]
    assert mended["StorageDescriptor"]["Columns"][0]["Type"] == "bigint"
    assert mended["Parameters"]["owner"] == "me"


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    glue: Any, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert register.main(["--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "table sparkify.songs: would be made" in said
    assert "table sparkify.songs: 2 partitions: would be 2 added" in said
    assert asked(server) == []
    assert glue.get_databases()["DatabaseList"] == []


def test_another_database_and_folder(glue: Any, server: Server) -> None:
    for table, names in LAKE.items():
        for name in names:
            server.client("s3").put_object(Bucket=BUCKET, Key="%s/%s" % (table, name), Body=b"")
    assert register.main(["--database", "mine", "--output", "s3://%s/" % BUCKET]) == 0
    table = glue.get_table(DatabaseName="mine", Name="users")["Table"]
    assert table["StorageDescriptor"]["Location"] == "s3://%s/users/" % BUCKET


def test_removing_leaves_the_tables_of_others(glue: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert register.main([]) == 0
    glue.create_table(DatabaseName=DATABASE, TableInput={"Name": "mine"})
    assert register.main(["--delete"]) == 0
    assert [table["Name"] for table in glue.get_tables(DatabaseName=DATABASE)["TableList"]] == ["mine"]
    assert "kept, it holds other tables, for instance mine" in capsys.readouterr().out
    glue.delete_table(DatabaseName=DATABASE, Name="mine")
    assert [register.main(["--delete"]) for _ in range(2)] == [0, 0]
    assert glue.get_databases()["DatabaseList"] == []


def test_a_table_of_somebody_else_is_refused(glue: Any, capsys: pytest.CaptureFixture[str]) -> None:
    glue.create_database(DatabaseInput={"Name": DATABASE})
    glue.create_table(DatabaseName=DATABASE, TableInput={"Name": "songs", "Parameters": {"UPDATED_BY_CRAWLER": "x"}})
    assert register.main([]) == 2
    assert "a table sparkify.songs which this command did not make" in capsys.readouterr().err


def test_a_lake_without_a_table_is_refused(glue: Any, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert register.main(["--output", "s3://%s/other" % BUCKET]) == 2
    assert "there is no table artists in s3://sparkify-dl-sp/other: run the job first" in capsys.readouterr().err
    assert asked(server) == []


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--output", "lake"], "the lake must be in S3"),
        (["--output", "s3://no-such-bucket/lake"], "there is no such bucket"),
        (["--region", "us west"], "us west"),
        (["--config", "missing.cfg"], "cannot read the configuration file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_settings_are_refused_with_a_sentence(
    argv: List[str], sentence: str, glue: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert register.main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("catalog.register: ")
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_access_denied_names_what_is_lacking(
    glue: Any, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(IAMRequestBase, "check_signature", lambda self: None)  # wrong for a / in a query
    for name, value in server.user().items():  # who may do everything with S3 and nothing else
        monkeypatch.setenv(name, value)
    assert register.main([]) == 2
    assert "no permission: the credentials in use may not do GetDatabase" in capsys.readouterr().err


def test_no_credentials(glue: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert register.main([]) == 2
    assert etl.NO_CREDENTIALS in capsys.readouterr().err


def test_no_network(glue: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert register.main([]) == 2
    assert "AWS cannot be reached at http://127.0.0.1:9" in capsys.readouterr().err
