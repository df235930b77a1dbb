"""catalog.crawler against moto's Glue and IAM: made, changed, started, removed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import pytest
from aws import Server, actions_of, enter, recorded, served
from conftest import ROOT

import etl
from catalog import crawler, register


class Site(NamedTuple):
    """An empty AWS."""

    server: Server
    glue: Any
    iam: Any

    def crawler(self) -> Any:
        return self.glue.get_crawler(Name=crawler.CRAWLER)["Crawler"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served(Server) as server:
        yield server


@pytest.fixture
def site(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    enter(server, tmp_path, monkeypatch)
    return Site(server, server.client("glue"), server.client("iam"))


def test_it_crawls_the_tables_and_nothing_beside_them(site: Site) -> None:
    assert crawler.main([]) == 0
    made = site.crawler()
    root = "s3://sparkify-dl-sp/sparkify-data/"
    assert [target["Path"] for target in made["Targets"]["S3Targets"]] == [root + name + "/" for name in etl.TABLES]
    assert made["SchemaChangePolicy"] == crawler.CHANGES
    assert made["DatabaseName"] == "sparkify_crawled"
    assert site.glue.get_database(Name="sparkify_crawled")
    assert "Schedule" not in made


def test_its_role_is_glues_and_holds_the_policy_of_docs_iam_for_this_lake(site: Site) -> None:
    assert crawler.main(["--output", "s3://mine/lake"]) == 0
    trust = site.iam.get_role(RoleName=crawler.ROLE)["Role"]["AssumeRolePolicyDocument"]
    assert trust["Statement"][0]["Principal"] == {"Service": "glue.amazonaws.com"}
    assert trust["Statement"][0]["Condition"]["StringEquals"] == {"aws:SourceAccount": "123456789012"}
    policy = site.iam.get_role_policy(RoleName=crawler.ROLE, PolicyName="sparkify")["PolicyDocument"]
    text = json.dumps(policy)
    assert "arn:aws:s3:::mine/lake/songs/*" in text
    assert '"lake/songs*"' in text
    assert not any(name in text for name in ("sparkify-dl-sp", "sparkify-data", "111122223333"))


def test_the_policy_is_for_this_lake_also_where_the_guide_has_put_other_names_into_the_files(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "docs" / "iam"
    folder.mkdir(parents=True)
    for name in (crawler.POLICY, crawler.TRUST):
        text = (ROOT / "docs" / "iam" / name).read_text("utf-8")
        named = text.replace("sparkify-dl-sp", "of-jane").replace("111122223333", "444455556666")
        (folder / name).write_text(named, "utf-8")
    monkeypatch.setattr(etl, "__file__", str(tmp_path / "etl.py"))
    assert crawler.main(["--output", "s3://mine"]) == 0
    text = json.dumps(site.iam.get_role_policy(RoleName=crawler.ROLE, PolicyName="sparkify")["PolicyDocument"])
    assert "arn:aws:s3:::mine/songs/*" in text
    assert '"songs*"' in text
    assert not any(name in text for name in ("of-jane", "sparkify-data", "444455556666"))


def test_running_again_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert crawler.main(["--schedule", "cron(0 4 * * ? *)"]) == 0
    before = site.crawler()
    capsys.readouterr()
    assert crawler.main([]) == 0
    assert all(line.endswith(": unchanged") for line in capsys.readouterr().out.splitlines())
    assert site.crawler() == before


def test_a_schedule_is_set_kept_and_taken_away(site: Site) -> None:
    assert crawler.main(["--schedule", "cron(0 4 * * ? *)"]) == 0
    assert crawler.main(["--output", "s3://mine/lake"]) == 0
    made = site.crawler()
    assert made["Schedule"]["ScheduleExpression"] == "cron(0 4 * * ? *)"
    assert made["Targets"]["S3Targets"][0]["Path"].startswith("s3://mine/lake/")
    assert crawler.main(["--schedule", ""]) == 0
    assert "Schedule" not in site.crawler()


def test_it_is_started_once_and_left_alone_while_it_runs(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert crawler.main(["--start"]) == 0
    assert site.crawler()["State"] == "RUNNING"
    assert crawler.main(["--start"]) == 0
    assert "crawler sparkify: is running" in capsys.readouterr().out
    for argv in (["--output", "s3://mine/lake"], ["--delete"]):
        assert crawler.main(argv) == 2
        assert "the crawler sparkify is running: wait until it has ended" in capsys.readouterr().err
    assert site.crawler()["Targets"]["S3Targets"][0]["Path"].startswith("s3://sparkify-dl-sp/")


def test_it_is_removed_with_its_role_and_what_it_has_found_stays(site: Site) -> None:
    assert crawler.main([]) == 0
    assert [crawler.main(["--delete"]) for _ in range(2)] == [0, 0]
    assert site.glue.get_crawlers()["Crawlers"] == []
    assert site.iam.list_roles()["Roles"] == []
    assert [one["Name"] for one in site.glue.get_databases()["DatabaseList"]] == ["sparkify_crawled"]


def test_a_dry_run_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert crawler.main(["--dry-run", "--start"]) == 0
    assert "crawler sparkify: would be made" in capsys.readouterr().out
    assert site.glue.get_crawlers()["Crawlers"] == []
    assert site.iam.list_roles()["Roles"] == []
    assert crawler.main([]) == 0
    assert crawler.main(["--dry-run", "--delete"]) == 0
    assert site.crawler()["State"] == "READY"


def test_the_policy_allows_what_both_commands_ask_for_and_nothing_else(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.server.make_bucket("sparkify-dl-sp")
    keys = ["%s/%s" % (name, "/".join(part + "=1" for part in etl.TABLES[name].partitions)) for name in etl.TABLES]
    for key in keys:
        site.server.client("s3").put_object(Bucket="sparkify-dl-sp", Key="sparkify-data/%s/a.parquet" % key)
    asked = recorded(monkeypatch)
    assert register.main([]) == 0
    monkeypatch.setattr(register, "PARQUET", {**register.PARQUET, "Compressed": True})
    site.server.client("s3").delete_object(Bucket="sparkify-dl-sp", Key="sparkify-data/%s/a.parquet" % keys[1])
    site.server.client("s3").put_object(Bucket="sparkify-dl-sp", Key="sparkify-data/songs/year=2/artist_id=2/a.parquet")
    assert register.main([]) == 0
    assert register.main(["--delete"]) == 0
    assert crawler.main([]) == 0
    assert crawler.main(["--start"]) == 0
    site.server.reset()
    assert [crawler.main([]), crawler.main(["--delete"])] == [0, 0]
    policy = ROOT / "docs" / "iam" / "catalog.json"
    asked -= {"sts:GetCallerIdentity", "s3:PutObject", "s3:DeleteObject"}  # which all may, and this test's own
    assert asked == actions_of(policy, "iam:PassRole")
