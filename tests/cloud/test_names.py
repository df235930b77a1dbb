"""One name in one place: [S3] BUCKET of dl.cfg moves script, lake and logs for every command."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from aws import Server, enter, served, with_cli
from conftest import ROOT

import create_s3
import etl
from catalog import crawler, ddl, register
from warehouse import cluster
from warehouse import config as warehouse_config

MINE, STRANGERS = "sparkify-lake-of-jane", "sparkify-dl-sp"
LAKE = "s3://%s/sparkify-data" % MINE
COMMANDS: Dict[str, Any] = {
    "create_s3": create_s3.main,
    "catalog.register": register.main,
    "catalog.crawler": crawler.main,
    "catalog.ddl": ddl.main,
    "warehouse.cluster": lambda argv: cluster.main(["launch", *argv]),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served(Server, MOTO_EC2_LOAD_DEFAULT_AMIS="false") as server:
        yield server


@pytest.fixture
def site(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The project's dl.cfg with nothing but another BUCKET, and an AWS that has the bucket, a lake and input in it."""
    enter(server, tmp_path, monkeypatch, ("SONG_DATA", "LOG_DATA", "MODE"))
    text = re.sub("(?m)^BUCKET = .*$", "BUCKET = " + MINE, (ROOT / "dl.cfg").read_text("utf-8"))
    assert STRANGERS not in text
    Path("dl.cfg").write_text(text)
    server.make_bucket(MINE)
    server.make_bucket("udacity-dend")
    s3 = server.client("s3")
    for table in etl.TABLES:
        folders = "/".join("%s=1" % name for name in etl.TABLES[table].partitions)
        s3.put_object(Bucket=MINE, Key="sparkify-data/%s/%s/a.parquet" % (table, folders), Body=b"")
    for key in (create_s3.SCRIPT.default[""], "sparkify-scripts/open-files.sh"):
        s3.put_object(Bucket=MINE, Key=key, Body=b"")
    for key in ("song_data/a", "log_data/a"):
        s3.put_object(Bucket="udacity-dend", Key=key, Body=b"")
    server.make_roles()
    server.calls.clear()
    return server


def refuse_the_strangers(server: Server, text: str) -> None:
    """The bucket that the project's defaults name is neither said nor asked for."""
    assert STRANGERS not in text
    assert [call.path for call in server.calls if STRANGERS in call.path + call.body.decode("latin-1")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_asks_for_the_bucket_of_dl_cfg(name: str, site: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[name](["--dry-run"]) == 0
    refuse_the_strangers(site, capsys.readouterr().out)
    if name in ("create_s3", "catalog.register"):
        assert any(MINE in call.path for call in site.calls)


@pytest.mark.parametrize("script", ["etl_job.sh", "serverless/emr_serverless.sh"])
def test_a_dry_run_of_a_launch_names_the_bucket_of_dl_cfg(script: str, site: Server) -> None:
    env = {**os.environ, "PATH": with_cli(Path("tools").resolve()), "APPLICATION": "0", "JOB_ROLE": "role"}
    command = [str(ROOT / script), "--dry-run"]
    out = subprocess.run(command, env=env, stdout=subprocess.PIPE, encoding="utf-8", check=True, timeout=300).stdout
    refuse_the_strangers(site, out)
    for place in (LAKE, "s3://%s/sparkify-scripts/spark-etl.py" % MINE, "s3://%s/emr-logs/" % MINE):
        assert place in out


def test_the_job_and_the_warehouse_have_the_same_lake(site: Server) -> None:
    flags = warehouse_config.parser("warehouse.etl", "").parse_args([])
    assert warehouse_config.read(flags, os.environ).lake.output == LAKE
    assert etl.configure(["--mode", "S3"], os.environ).output == LAKE


@pytest.mark.parametrize(
    ("section", "env", "expected"),
    [
        ("", {}, "s3://sparkify-dl-sp/sparkify-data"),
        ("BUCKET = mine", {}, "s3://mine/sparkify-data"),
        ("BUCKET = mine", {"BUCKET": "other"}, "s3://other/sparkify-data"),
        ("BUCKET = mine\nOUTPUT = s3://third/lake", {}, "s3://third/lake"),
        ("OUTPUT = s3://third/lake", {"BUCKET": "other"}, "s3://third/lake"),
    ],
)
def test_there_is_one_rule_for_the_lake(section: str, env: Dict[str, str], expected: str, site: Server) -> None:
    Path("dl.cfg").write_text("[S3]\n%s\n" % section)
    flags: List[str] = []
    of_catalog = warehouse_config.read(warehouse_config.parser("warehouse.etl", "").parse_args(flags), env).lake.output
    of_launch = create_s3.configure(create_s3.arguments(flags), env).lake
    of_job = etl.configure(["--mode", "S3"], env).output
    assert (of_catalog, of_launch, of_job) == (expected, expected, expected)


def test_no_dl_cfg_but_the_project_s_names_the_default_bucket() -> None:
    """Else a change of BUCKET would leave something behind."""
    settings = etl.read_config_file(str(ROOT / "dl.cfg"))
    assert [place for place, value in settings.items() if STRANGERS in value] == [("S3", "BUCKET")]
