"""The templates: what linters say, what the role of the function allows, and what alarms look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from aws import Server
from cfnlint.decode import cfn_yaml
from conftest import ROOT
from road import LAKE, LANDING, TEMPLATE, Road
from test_iam import allowed, as_list, findings, s3_arn, without_resources

from serverless import handler

FOLDER = ROOT / "serverless"
ACCOUNT = "123456789012"
RESOURCES = cfn_yaml.load(str(TEMPLATE))["Resources"]


@pytest.fixture(scope="module")
def road() -> Iterator[Road]:
    """The stack as moto has made it, with a crawler."""
    server = Server()
    yield Road(server, Crawler="sparkify")
    server.close()


@pytest.fixture(scope="module")
def policy(road: Road) -> List[Dict[str, Any]]:
    """The statements of the function's role."""
    return [statement for document in road.policies() for statement in document["Statement"]]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_cfn_lint_has_nothing_to_say(path: Path) -> None:
    command = [str(Path(sys.executable).parent / "cfn-lint"), str(path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_of_policies_has_nothing_to_say(road: Road) -> None:
    assert [found for document in road.policies() for found in findings(document)] == []


def test_nothing_is_allowed_wholesale(policy: List[Dict[str, Any]]) -> None:
    free = without_resources()
    for part in policy:
        actions = as_list(part["Action"])
        assert not any("*" in action for action in actions)
        assert part["Resource"] != "*" or set(actions) <= free | {"elasticmapreduce:RunJobFlow"}, part


@pytest.mark.parametrize(
    ("action", "resource", "expected"),
    [
        ("s3:GetObject", s3_arn(LANDING, "log_data/2018/11/a.json"), True),
        ("s3:PutObject", s3_arn(LANDING, "log_data/2018/11/a.json"), False),
        ("s3:GetObject", s3_arn(LANDING, "others/a"), False),
        ("s3:PutObject", s3_arn(LAKE, "sparkify-data/_locks/run"), True),
        ("s3:PutObject", s3_arn(LAKE, "sparkify-scripts/spark-etl.py"), False),
        ("s3:GetObject", s3_arn(LAKE, "sparkify-scripts/spark-etl.py"), True),
        ("s3:DeleteBucket", s3_arn(LAKE), False),
        ("elasticmapreduce:RunJobFlow", "*", True),
        ("elasticmapreduce:TerminateJobFlows", "*", False),
        ("glue:StartCrawler", "arn:aws:glue:us-west-2:%s:crawler/sparkify" % ACCOUNT, True),
        ("glue:StartCrawler", "arn:aws:glue:us-west-2:%s:crawler/another" % ACCOUNT, False),
    ],
)
def test_the_function_may_do_what_it_is_for(
    policy: List[Dict[str, Any]], action: str, resource: str, expected: bool
) -> None:
    assert allowed(policy, action, resource, ResourceAccount=ACCOUNT) == expected
    assert not allowed(policy, action, resource, ResourceAccount="210987654321") or LAKE not in resource


def test_the_function_passes_emr_s_roles_to_whom_they_are_for_and_no_other(policy: List[Dict[str, Any]]) -> None:
    passed = {
        (role, service)
        for role in ("EMR_DefaultRole", "EMR_EC2_DefaultRole", "Admin")
        for service in ("elasticmapreduce.amazonaws.com", "ec2.amazonaws.com", "lambda.amazonaws.com")
        if allowed(policy, "iam:PassRole", "arn:aws:iam::%s:role/%s" % (ACCOUNT, role), PassedToService=service)
    }
    expected = {"EMR_DefaultRole": "elasticmapreduce.amazonaws.com", "EMR_EC2_DefaultRole": "ec2.amazonaws.com"}
    assert passed == set(expected.items())


def test_without_a_crawler_none_may_be_started() -> None:
    server = Server()
    policy = [statement for document in Road(server).policies() for statement in document["Statement"]]
    server.close()
    assert not [part for part in policy if "glue:StartCrawler" in as_list(part["Action"])]


def test_a_message_stays_away_longer_than_batching_and_a_run_take() -> None:
    trigger, function = RESOURCES["Trigger"]["Properties"], RESOURCES["Function"]["Properties"]
    away = RESOURCES["Queue"]["Properties"]["VisibilityTimeout"]
    assert away > trigger["MaximumBatchingWindowInSeconds"] + function["Timeout"]
    assert trigger["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    # Reserved only by those whose quota allows it: the job's lock keeps runs apart
    assert function["ReservedConcurrentExecutions"] == {"Fn::If": ["IsReserved", 1, {"Ref": "AWS::NoValue"}]}
    assert cfn_yaml.load(str(TEMPLATE))["Parameters"]["ReservedConcurrency"]["Default"] == "no"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_the_bucket_has_no_default_and_must_be_of_the_account(path: Path) -> None:
    template = cfn_yaml.load(str(path))
    assert "Default" not in template["Parameters"]["Bucket"]
    policies = template["Resources"]["Role"]["Properties"]["Policies"]
    parts = [part for policy in policies for part in policy["PolicyDocument"]["Statement"] if "Sid" in part]
    checked = {
        part["Sid"] for part in parts if part.get("Condition", {}).get("StringEquals", {}).get("aws:ResourceAccount")
    }
    assert checked == {"ListLake", "WriteLake", "ReadScript"}


def test_the_alarm_of_the_quarantine_looks_at_the_metric_of_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    alarm = RESOURCES["QuarantineGrows"]["Properties"]
    handler.say_metrics({"tables": {"songplays": {"rows": 0}}}, {})
    said = capsys.readouterr().out
    assert '"Namespace": "%s"' % alarm["Namespace"] in said
    assert '{"Name": "%s", "Unit": "Count"}' % alarm["MetricName"] in said
    assert "Dimensions" not in alarm
    assert '"Dimensions": [[]]' in said


def test_only_the_landing_bucket_of_this_account_sends_messages() -> None:
    (statement,) = RESOURCES["QueuePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert statement["Condition"] == {
        "ArnEquals": {"aws:SourceArn": {"Fn::Sub": "arn:${AWS::Partition}:s3:::${InputBucket}"}},
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
    }
