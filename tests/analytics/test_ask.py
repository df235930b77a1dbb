"""The command, and lakes that are in S3, empty, missing, or being published."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from aws import Server
from tiny import PLAYS, write_lake

from analytics import ask
from analytics.lake import LakeError, default_lake, open_lake
from analytics.prepared import Prepared

pytest_plugins = ["tiny"]


def test_a_table(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["top-artists", "--limit", "1", "--lake", str(tiny)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "artist     plays  percent_of_plays  in_catalogue  artist_id  covered_percent",
        "The Waves      5             50.00  True          A1                   90.00",
    ]


def test_csv(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["active-users-by-week", "--format", "csv", "--until", "2018-11-13", "--lake", str(tiny)]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [["week", "users", "plays"], ["2018-11-05", "2", "4"], ["2018-11-12", "1", "2"]]


def test_sql_for_athena(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["find-users", "--user", "O'Brien", "--sql", "athena"]) == 0
    assert "LOWER('O''Brien')" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no-such-question"], "invalid choice"),
        (["songs-of-user"], "--user"),
        (["summary", "--since", "yesterday"], "'yesterday' is no day such as 2018-11-01"),
        (["top-songs", "--limit", "0"], "'0' is no number of 1 or more"),
    ],
)
def test_wrong_usage(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        ask.main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_missing_lake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["summary", "--lake", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ask: there is no lake in %s" % tmp_path)
    assert said.count("\n") == 1


def test_a_lake_of_an_older_version_of_the_job_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(write_lake(tmp_path) / "staging_events")
    assert ask.main(["summary", "--lake", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "ask: the lake %s is of an older version of the job and lacks staging_events: run the job again\n" % tmp_path
    )


def test_an_empty_lake_answers_with_nothing(tmp_path: Path) -> None:
    lake = open_lake(str(write_lake(tmp_path, [])), {})
    assert lake.ask("plays-by-hour", {}).empty
    assert lake.ask("summary", {})["plays"].tolist() == [0]
    with pytest.raises(LookupError):
        Prepared(lake).days()


def test_a_lake_that_is_published_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = write_lake(tmp_path / "lake"), write_lake(tmp_path / "new", PLAYS[:4])
    lake = open_lake(str(old), {})
    really = lake.connect

    def connect_then_publish(*asked: Any) -> object:
        connection = really(*asked)
        if new.exists():
            shutil.rmtree(old / "songplays")
            shutil.move(str(new / "songplays"), str(old / "songplays"))
            for path in (old / "songplays").rglob("*.parquet"):
                path.rename(path.with_name("another.parquet"))
            shutil.rmtree(new)
        return connection

    monkeypatch.setattr(lake, "connect", connect_then_publish)
    assert lake.ask("summary", {})["plays"].tolist() == [4]


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    lake = open_lake(str(write_lake(tmp_path)), {})
    Path(lake.files("songplays")[0].path).write_bytes(b"PAR1")
    with pytest.raises(LakeError, match=r"ask again in a moment"):
        lake.ask("summary", {})


def test_the_version_changes_when_the_lake_does(tmp_path: Path) -> None:
    lake = open_lake(str(write_lake(tmp_path)), {})
    before = lake.version()
    assert lake.version() == before
    write_lake(tmp_path, PLAYS[:4])
    assert lake.version() != before


def test_which_lake(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(default_lake({})).name == "lake"
    assert default_lake({"MODE": "S3"}) == "s3://sparkify-dl-sp/sparkify-data"
    assert default_lake({"MODE": "S3", "BUCKET": "mine"}) == "s3://mine/sparkify-data"
    assert default_lake({"MODE": "S3", "OUTPUT": "elsewhere"}) == "elsewhere"
    assert default_lake({"OUTPUT": "elsewhere", "LAKE": "s3://here/lake"}) == "s3://here/lake"
    with pytest.raises(LakeError, match="neither a folder nor in S3"):
        open_lake("gs://bucket/lake", {})


def test_a_lake_in_s3(tiny: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.upload(tiny, "bucket", "lake")
    assert ask.main(["top-songs", "--limit", "1", "--lake", "s3://bucket/lake", "--since", "2018-12-01"]) == 0
    assert (
        "Tide   The Waves      2             50.00  True          S1                 75.00" in capsys.readouterr().out
    )
    read = [call.path for call in server.calls if call.method == "GET" and ".parquet" in call.path]
    assert any("songplays/year%3D2018/month%3D12" in path or "songplays/year=2018/month=12" in path for path in read)
    assert not any("month=11" in path or "month%3D11" in path for path in read)


def test_who_may_not_read_staging_events_gets_what_needs_no_names(
    tiny: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.upload(tiny, "bucket", "lake")
    server.answer("*", "staging_events", 403, "AccessDenied")
    prepared = Prepared(open_lake("s3://bucket/lake", os.environ))
    assert prepared.ask("summary", {})["plays"].tolist() == [10]
    assert ask.main(["plays-by-hour", "--lake", "s3://bucket/lake"]) == 0
    assert ask.main(["top-artists", "--lake", "s3://bucket/lake"]) == 2
    assert "staging_events of the lake s3://bucket/lake cannot be listed" in capsys.readouterr().err
    with pytest.raises(LakeError, match="staging_events"):
        prepared.ask("top-artists", {})


def test_s3_that_refuses_is_one_sentence(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["summary", "--lake", "s3://bucket/lake"]) == 2
    assert "there is no lake in s3://bucket/lake" in capsys.readouterr().err
    server.answer("*", "bucket", 403, "AccessDenied")
    assert ask.main(["summary", "--lake", "s3://bucket/lake"]) == 2
    said = capsys.readouterr().err
    assert "cannot be reached" in said
    assert said.count("\n") == 1
