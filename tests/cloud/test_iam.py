"""The IAM policies of docs/iam: what a linter says, what they mean, and what a server that enforces them lets pass.

moto enforces IAM with three differences. It ignores conditions, so those are judged here. It has names of its own for
some of S3's permissions and is told AWS's. It knows no resources of other services than S3, so what EMR and IAM would
say is judged here too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Sequence, Set, Tuple
from urllib.parse import parse_qs

import boto3
import parliament
import pytest
from aws import REGION, Server, prepare, set_environment
from botocore.exceptions import ClientError
from conftest import ROOT
from moto.iam.access_control import IAMRequestBase
from moto.s3 import responses

import create_s3
import etl

FOLDER = ROOT / "docs" / "iam"
FILES = sorted(path.name for path in FOLDER.glob("*.json"))
TRUST = "cluster-trust.json"
SERVICES = {TRUST: "ec2", "crawler-trust.json": "glue", "redshift-trust.json": "redshift"}  # that may take a role
ACCOUNT = "111122223333"
BUCKET, INPUT, OTHER = "sparkify-dl-sp", "udacity-dend", "somebody-elses"
LANDING = BUCKET + "-landing"  # of the stack of serverless/template.yaml
SCRIPT, LAKE, LOGS = "sparkify-scripts/spark-etl.py", "sparkify-data", "emr-logs/j-1/steps/s-1/stderr.gz"
LARGEST = 6144  # characters of a managed policy, without white space

Record = Dict[str, Any]


def statements(*names: str) -> List[Record]:
    """The statements of some files."""
    return [statement for name in names for statement in json.loads((FOLDER / name).read_text("utf-8"))["Statement"]]


def as_list(value: Any) -> List[str]:
    return value if isinstance(value, list) else [value]


def without(policy: Iterable[Record], sid: str, action: str) -> List[Record]:
    """A policy that lacks one action of one statement."""
    less = [
        {**part, "Action": [name for name in as_list(part["Action"]) if (part["Sid"], name) != (sid, action)]}
        for part in policy
    ]
    return [part for part in less if part["Action"]]


def each_action(*names: str, service: str = "s3") -> List[Tuple[str, str]]:
    """Every statement and action of some files."""
    parts = statements(*names)
    return [(part["Sid"], name) for part in parts for name in as_list(part["Action"]) if name.startswith(service + ":")]


# ------------------------------------------------------------------------------------ the linter

# What it finds and we want. Nothing else may be found, however small.
AGREED = {
    # Who may set the bucket's policy and lifecycle may give himself the rest: it is his bucket.
    ("engineer.json", "RESOURCE_POLICY_PRIVILEGE_ESCALATION"): "sparkify-dl-sp",
    # The account of AWS's own policies is called aws, which the linter does not know.
    ("roles-once.json", "INVALID_ARN"): "arn:aws:iam::aws:policy/service-role/AmazonElasticMapReduce",
}


def findings(document: Record) -> List[Tuple[str, str]]:
    """What the linter says of a policy: kind and text."""
    found = parliament.analyze_policy_string(json.dumps(document)).findings
    return [(finding.issue, "%s %s" % (finding.detail, finding.location)) for finding in found]


@pytest.mark.parametrize("name", FILES)
def test_the_linter_has_nothing_to_say(name: str) -> None:
    document = json.loads((FOLDER / name).read_text("utf-8"))
    if name in SERVICES:  # it belongs to a role, which the linter wants to have named
        document["Statement"][0]["Resource"] = "arn:aws:iam::%s:role/SparkifyCluster" % ACCOUNT
    found = findings(document)
    assert [one for one in found if AGREED.get((name, one[0]), "\0") not in one[1]] == []


@pytest.mark.parametrize(
    ("change", "issue"),
    [
        ({"Action": "s3:GetObjekt"}, "UNKNOWN_ACTION"),
        ({"Action": "s4:GetObject"}, "UNKNOWN_PREFIX"),
        ({"Resource": "arn:aws:s3:::sparkify-dl-sp"}, "RESOURCE_MISMATCH"),
        ({"Resource": "*"}, "RESOURCE_STAR"),
        ({"Resource": "sparkify-dl-sp"}, "INVALID_ARN"),
        ({"Condition": {"StringLike": {"s3:perfix": "a"}}}, "UNKNOWN_CONDITION_FOR_ACTION"),
        ({"Condition": {"StringLyke": {"s3:prefix": "a"}}}, "UNKNOWN_OPERATOR"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_linter_sees_mistakes(change: Record, issue: str) -> None:
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::sparkify-dl-sp/a/*", **change}
    assert issue in [found for found, _ in findings({"Version": "2012-10-17", "Statement": [statement]})]


# ------------------------------------------------------------------------------------ how they are written


def without_resources() -> Set[str]:
    """The actions of which AWS's reference says that they concern no resource in particular."""
    return {
        "%s:%s" % (service["prefix"], action["privilege"])
        for service in parliament.iam_definition
        for action in service["privileges"]
        if not any(kind["resource_type"] for kind in action["resource_types"])
    }


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_allowed_wholesale(name: str) -> None:
    free = without_resources()
    for part in statements(name):
        actions = as_list(part["Action"])
        assert not any("*" in action for action in actions)
        assert {"NotAction", "NotResource", "NotPrincipal"}.isdisjoint(part)
        for resource in as_list(part.get("Resource", [])):
            assert "*" not in resource.split(":")[-1].split("/")[0] or set(actions) <= free, (part["Sid"], resource)


@pytest.mark.parametrize("name", FILES)
def test_a_statement_only_allows_and_says_what_for(name: str) -> None:
    parts = statements(name)
    assert all(part["Effect"] == "Allow" for part in parts)
    assert len({part["Sid"] for part in parts}) == len(parts)


@pytest.mark.parametrize("name", FILES)
def test_aws_takes_a_policy_of_this_size(name: str) -> None:
    assert len(re.sub(r"\s", "", (FOLDER / name).read_text("utf-8"))) <= LARGEST


def test_the_names_are_those_of_the_settings() -> None:
    values = etl.read_config_file(str(ROOT / "dl.cfg"))
    bucket = values["S3", "BUCKET"]
    text = "".join((FOLDER / name).read_text("utf-8") for name in FILES)
    named = set(re.findall(r'"arn:aws:s3:::([^/"]+)', text))
    inputs = {values["S3", name].split("/")[2] for name in ("SONG_DATA", "LOG_DATA")}
    assert named == {bucket, LANDING, *inputs}
    assert set(re.findall(r"\d{12}", text)) == {ACCOUNT}
    assert (create_s3.lake_of(bucket, values), values["S3", "SCRIPT"]) == ("s3://%s/%s" % (bucket, LAKE), SCRIPT)
    assert LOGS.startswith(create_s3.LOGS)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_only_one_service_may_take_a_role(name: str) -> None:
    (statement,) = statements(name)
    assert statement["Principal"] == {"Service": SERVICES[name] + ".amazonaws.com"}
    assert statement["Action"] == "sts:AssumeRole"


# ------------------------------------------------------------------------------------ what they mean


def allowed(policy: Iterable[Record], action: str, resource: str, **context: str) -> bool:
    """Whether a policy that only allows would allow a request."""
    return any(
        action in as_list(part["Action"])
        and any(fnmatchcase(resource, pattern) for pattern in as_list(part["Resource"]))
        and all(holds(operator, expected, context) for operator, expected in part.get("Condition", {}).items())
        for part in policy
    )


def holds(operator: str, expected: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    """Whether a condition of the three kinds that our policies have is true."""
    (key, values) = next(iter(expected.items()))
    value = {"ResourceAccount": ACCOUNT, **context}.get(key.split(":")[1])
    if value is None:
        return operator == "StringLikeIfExists"
    if operator in ("StringLike", "StringLikeIfExists"):
        return any(fnmatchcase(value, pattern) for pattern in as_list(values))
    assert operator in ("StringEquals", "ArnEquals")
    return value in as_list(values)


def s3_arn(bucket: str, key: str = "") -> str:
    return "arn:aws:s3:::" + bucket + ("/" + key if key else "")


def iam_arn(name: str, kind: str = "role") -> str:
    return "arn:aws:iam::%s:%s/%s" % (ACCOUNT, kind, name)


def resource_of(action: str) -> str:
    """What create_s3.py uses a permission on."""
    return s3_arn(BUCKET, SCRIPT if action.endswith("Object") else "")


SETTINGS = ("BucketPolicy", "BucketPublicAccessBlock", "EncryptionConfiguration", "LifecycleConfiguration")
MAKE = [
    *("s3:ListBucket", "s3:CreateBucket", "s3:GetObject", "s3:PutObject"),
    *("s3:%s%s" % (verb, setting) for setting in SETTINGS for verb in ("Get", "Put")),
]
REMOVE = ("s3:ListBucket", "s3:DeleteObject", "s3:DeleteBucket")


def test_what_making_and_removing_the_bucket_need_is_allowed() -> None:
    for action in MAKE:
        assert allowed(statements("engineer.json"), action, resource_of(action)), action
    for action in REMOVE:
        assert allowed(statements("engineer.json", "engineer-delete.json"), action, resource_of(action)), action
    assert not any(
        allowed(statements("engineer.json"), "s3:Delete" + what, resource_of(what)) for what in ("Bucket", "Object")
    )


def test_the_script_is_read_and_written_in_a_bucket_of_the_account_only() -> None:
    for name, action in (("cluster.json", "s3:GetObject"), ("engineer.json", "s3:PutObject")):
        assert allowed(statements(name), action, s3_arn(BUCKET, SCRIPT))
        assert not allowed(statements(name), action, s3_arn(BUCKET, SCRIPT), ResourceAccount="444455556666")


def test_a_key_of_kms_is_used_by_way_of_s3_only() -> None:
    key = "arn:aws:kms:us-west-2:%s:key/1234" % ACCOUNT
    for name in ("cluster.json", "laptop.json", "engineer.json", "warehouse.json"):
        for action in ("kms:Decrypt", "kms:GenerateDataKey"):
            assert allowed(statements(name), action, key, ViaService="s3.us-west-2.amazonaws.com")
            assert not allowed(statements(name), action, key, ViaService="ec2.us-west-2.amazonaws.com")
    for name in ("analyst.json", "crawler.json", "redshift.json"):
        assert allowed(statements(name), "kms:Decrypt", key, ViaService="s3.us-west-2.amazonaws.com")
        assert not allowed(statements(name), "kms:GenerateDataKey", key, ViaService="s3.us-west-2.amazonaws.com")


WORKGROUP = "arn:aws:redshift-serverless:us-west-2:%s:workgroup/1234" % ACCOUNT


@pytest.mark.parametrize(
    ("name", "action", "resource"),
    [
        ("warehouse.json", "redshift-serverless:GetCredentials", WORKGROUP),
        ("warehouse.json", "redshift-data:BatchExecuteStatement", WORKGROUP),
        (
            "warehouse.json",
            "secretsmanager:GetSecretValue",
            "arn:aws:secretsmanager:us-west-2:%s:secret:redshift!sparkify-dwh-sparkify_admin-AbCdEf" % ACCOUNT,
        ),
        ("analyst.json", "athena:StartQueryExecution", "arn:aws:athena:us-west-2:%s:workgroup/primary" % ACCOUNT),
        ("analyst.json", "glue:GetPartitions", "arn:aws:glue:us-west-2:%s:table/sparkify/songplays" % ACCOUNT),
        ("cluster.json", "s3:GetObject", "arn:aws:s3:::sparkify-dl-sp-landing/log_data/2018/11/a.json"),
    ],
)
def test_optional_statements_allow_what_they_are_for(name: str, action: str, resource: str) -> None:
    policy = statements(name)
    assert allowed(policy, action, resource)
    required = [part for part in policy if not part["Sid"].startswith("Optional")]
    assert not allowed(required, action, resource)


CLUSTER = "arn:aws:elasticmapreduce:us-west-2:%s:cluster/j-1ABCDEFGHIJKL" % ACCOUNT
APPLICATION = "arn:aws:emr-serverless:us-west-2:%s:/applications/00f1r7b1abcd2345" % ACCOUNT
EMR, EC2 = "elasticmapreduce.amazonaws.com", "ec2.amazonaws.com"
SERVERLESS = "emr-serverless.amazonaws.com"

# What the commands of the aws CLI ask for. Some ask for more than their name says.
COMMANDS: Dict[str, List[Tuple[str, str]]] = {
    "sts get-caller-identity": [],  # needs no permission
    "s3api head-object": [("s3:GetObject", s3_arn(BUCKET, SCRIPT))],
    "s3api get-object": [("s3:GetObject", s3_arn(BUCKET, SCRIPT))],
    "s3api list-objects-v2": [("s3:ListBucket", s3_arn(INPUT))],
    "s3api list-objects": [("s3:ListBucket", s3_arn(INPUT))],
    "s3 ls": [("s3:ListBucket", s3_arn(BUCKET)), ("s3:ListBucket", s3_arn(INPUT))],
    "s3 cp": [("s3:GetObject", s3_arn(BUCKET, LOGS)), ("s3:GetObject", s3_arn(BUCKET, LAKE + "/users/a"))],
    "iam get-role": [("iam:GetRole", iam_arn("EMR_DefaultRole")), ("iam:GetRole", iam_arn("EMR_EC2_DefaultRole"))],
    "iam get-instance-profile": [("iam:GetInstanceProfile", iam_arn("EMR_EC2_DefaultRole", "instance-profile"))],
    "emr create-cluster": [("elasticmapreduce:RunJobFlow", "*"), ("elasticmapreduce:AddTags", CLUSTER)],
    "emr describe-cluster": [
        ("elasticmapreduce:" + action, CLUSTER)
        for action in ("DescribeCluster", "ListBootstrapActions", "ListInstanceFleets", "ListInstanceGroups")
    ],
    "emr describe-step": [("elasticmapreduce:DescribeStep", CLUSTER)],
    "emr list-steps": [("elasticmapreduce:ListSteps", CLUSTER)],
    "emr list-instances": [("elasticmapreduce:ListInstances", CLUSTER)],
    "emr list-clusters": [("elasticmapreduce:ListClusters", "*")],
    "emr terminate-clusters": [("elasticmapreduce:TerminateJobFlows", CLUSTER)],
    "emr-serverless start-job-run": [
        ("emr-serverless:StartJobRun", APPLICATION),
        ("emr-serverless:TagResource", APPLICATION + "/jobruns/1"),
    ],
    "emr-serverless get-job-run": [("emr-serverless:GetJobRun", APPLICATION + "/jobruns/1")],
    "emr-serverless cancel-job-run": [("emr-serverless:CancelJobRun", APPLICATION + "/jobruns/1")],
    "emr wait": [("elasticmapreduce:DescribeCluster", CLUSTER), ("elasticmapreduce:DescribeStep", CLUSTER)],
}


def test_the_commands_of_etl_job_are_known() -> None:
    text = (ROOT / "etl_job.sh").read_text("utf-8")
    text += (ROOT / "serverless" / "emr_serverless.sh").read_text("utf-8")
    called = {
        " ".join(words) for words in re.findall(r"\baws (sts|s3api|s3|emr|emr-serverless) ([a-z][a-z0-9-]+)", text)
    }
    called |= {"iam " + word for word in re.findall(r"check_role (get-[a-z-]+)", text)}
    assert {"emr create-cluster", "iam get-role", "emr-serverless start-job-run"} <= called
    assert called - {"emr create-default-roles"} <= set(COMMANDS)  # which is for who makes the roles


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_what_the_commands_of_the_engineer_need_is_allowed(command: str) -> None:
    for action, resource in COMMANDS[command]:
        assert allowed(statements("engineer.json"), action, resource), action


def test_the_engineer_passes_roles_to_whom_they_are_for_and_no_other() -> None:
    policy = statements("engineer.json")
    passed = {
        (role, service)
        for role in (
            "EMR_DefaultRole",
            "EMR_EC2_DefaultRole",
            "EMR_AutoScaling_DefaultRole",
            "Admin",
            "SparkifyCluster",
            "sparkify-emr-serverless-Role-AbC",
        )
        for service in (EMR, EC2, SERVERLESS, "lambda.amazonaws.com")
        if allowed(policy, "iam:PassRole", iam_arn(role), PassedToService=service)
    }
    of_run = ("sparkify-emr-serverless-Role-AbC", SERVERLESS)
    assert passed == {("EMR_DefaultRole", EMR), ("EMR_EC2_DefaultRole", EC2), of_run}
    assert not allowed(policy, "iam:PassRole", iam_arn("EMR_DefaultRole"))


def test_who_makes_the_roles_attaches_only_policies_of_emr() -> None:
    policy, role, managed = statements("roles-once.json"), iam_arn("EMR_DefaultRole"), "arn:aws:iam::aws:policy/"
    emr = managed + "service-role/AmazonElasticMapReduceRole"
    assert allowed(policy, "iam:AttachRolePolicy", role, PolicyARN=emr)
    assert not allowed(policy, "iam:AttachRolePolicy", role, PolicyARN=managed + "AdministratorAccess")
    assert not allowed(policy, "iam:AttachRolePolicy", iam_arn("Admin"), PolicyARN=emr)


def test_emrfs_may_mark_the_folder_of_the_lake() -> None:
    policy = statements("cluster.json")
    assert allowed(policy, "s3:PutObject", s3_arn(BUCKET, "sparkify-data_$folder$"))
    assert not allowed(policy, "s3:PutObject", s3_arn(BUCKET, "sparkify-data2/a"))


def reads(table: str, *policies: str) -> List[bool]:
    """Whether these policies let somebody list a table, and read a file of it."""
    policy, folder = statements(*policies), LAKE + "/" + table
    return [
        allowed(policy, "s3:ListBucket", s3_arn(BUCKET), prefix=folder + "/"),
        allowed(policy, "s3:GetObject", s3_arn(BUCKET, folder + "/year=2018/part-0.parquet")),
    ]


@pytest.mark.parametrize("table", list(etl.TABLES))
def test_the_analyst_reads_every_table_but_staging_events_which_take_a_policy_of_their_own(table: str) -> None:
    """They hold names and places."""
    assert reads(table, "analyst.json") == [table != "staging_events"] * 2
    assert reads(table, "analyst-staging-events.json") == [table == "staging_events"] * 2


@pytest.mark.parametrize("name", ["crawler.json", "redshift.json"])
def test_what_serves_every_table_may_read_every_table(name: str) -> None:
    assert [table for table in etl.TABLES if not all(reads(table, name))] == []


@pytest.mark.parametrize(
    "prefix", ["", "emr-logs/", "sparkify-data/", "sparkify-data/_quarantine/", "sparkify-data/usersX"]
)
def test_the_analyst_lists_nothing_else(prefix: str) -> None:
    assert not allowed(statements("analyst.json"), "s3:ListBucket", s3_arn(BUCKET), prefix=prefix)


def test_s3_tells_an_analyst_that_an_object_is_missing() -> None:
    """Without ListBucket it would answer 403 in place of 404, to a request that has no prefix."""
    assert allowed(statements("analyst.json"), "s3:ListBucket", s3_arn(BUCKET))


# ------------------------------------------------------------------------------------ a server that enforces them

AWS_NAMES = {
    "HEAD": {"DEFAULT": "ListBucket"},
    "GET": {"publicAccessBlock": "GetBucketPublicAccessBlock", "encryption": "GetEncryptionConfiguration"},
    "PUT": {"publicAccessBlock": "PutBucketPublicAccessBlock", "encryption": "PutEncryptionConfiguration"},
}
SERVICE_LINKED = {EMR: "aws-service-role/%s/AWSServiceRoleForEMRCleanup" % EMR}
CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key")


@pytest.fixture(scope="module")
def enforcing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that calls permissions what AWS calls them."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        patch.setattr(IAMRequestBase, "check_signature", lambda self: None)  # wrong for a / or = in a query or key
        for method, names in AWS_NAMES.items():
            for part, name in names.items():
                patch.setitem(responses.ACTION_MAP["BUCKET"][method], part, name)
        server = Server(tls=tmp_path_factory.mktemp("tls"))
        yield server
        server.close()


@pytest.fixture
def store(enforcing: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty S3, and an environment that names nothing but it."""
    tls = {"AWS_ENDPOINT_URL": enforcing.tls_endpoint, "AWS_CA_BUNDLE": enforcing.certificate}
    set_environment(monkeypatch, {**enforcing.environment(tmp_path), **tls})
    monkeypatch.chdir(tmp_path)
    enforcing.reset()
    return enforcing


def person(store: Server, policy: Sequence[Record]) -> Dict[str, str]:
    """The credentials of a user who has this policy; every request is judged from now on."""
    iam = store.client("iam")
    iam.create_user(UserName="person")
    document = json.dumps({"Version": "2012-10-17", "Statement": list(policy)})
    arn = iam.create_policy(PolicyName="policy", PolicyDocument=document)["Policy"]["Arn"]
    iam.attach_user_policy(UserName="person", PolicyArn=arn)
    key = iam.create_access_key(UserName="person")["AccessKey"]
    store.post("/moto-api/reset-auth", "0")
    return dict(zip(CREDENTIALS, (key["AccessKeyId"], key["SecretAccessKey"])))


def life_of_a_bucket(store: Server, monkeypatch: pytest.MonkeyPatch, policy: Sequence[Record]) -> Iterator[int]:
    """The exit codes of create_s3.py, which makes it twice, and of who empties and removes it."""
    for name, value in person(store, policy).items():
        monkeypatch.setenv(name.upper(), value)
    yield create_s3.main([])
    yield create_s3.main([])
    yield remove(boto3.client("s3", region_name=REGION))


def remove(s3: Any) -> int:
    """What aws s3 rb --force does."""
    try:
        for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            s3.delete_object(Bucket=BUCKET, Key=entry["Key"])
        s3.delete_bucket(Bucket=BUCKET)
    except ClientError:
        return 2
    return 0


def test_the_engineer_makes_and_removes_the_bucket(store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = statements("engineer.json", "engineer-delete.json")
    assert list(life_of_a_bucket(store, monkeypatch, policy)) == [0, 0, 0]


def test_without_the_permissions_to_remove_it_the_bucket_stays(store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(life_of_a_bucket(store, monkeypatch, statements("engineer.json"))) == [0, 0, 2]


# Not of create_s3.py: to see whether there is input
ELSEWHERE = {"SeeInput"}


@pytest.mark.parametrize(
    ("sid", "action"),
    [pair for pair in each_action("engineer.json", "engineer-delete.json") if pair[0] not in ELSEWHERE],
    ids=lambda value: value,
)
def test_the_engineer_needs_every_permission(
    sid: str, action: str, store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = without(statements("engineer.json", "engineer-delete.json"), sid, action)
    assert 2 in life_of_a_bucket(store, monkeypatch, policy)


# ------------------------------------------------------------------------------------ one request after the other


def upload_in_parts(s3: Any, **where: str) -> None:
    upload = {**where, "UploadId": s3.create_multipart_upload(**where)["UploadId"]}
    part = s3.upload_part(**upload, PartNumber=1, Body=b"a")
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})


def list_parts(s3: Any, **where: str) -> None:
    s3.list_parts(**where, UploadId=s3.create_multipart_upload(**where)["UploadId"])


def abort_upload(s3: Any, **where: str) -> None:
    s3.abort_multipart_upload(**where, UploadId=s3.create_multipart_upload(**where)["UploadId"])


OPERATIONS: Dict[str, Callable[..., Any]] = {
    "head": lambda s3, **where: s3.head_object(**where),
    "get": lambda s3, **where: s3.get_object(**where),
    "put": lambda s3, **where: s3.put_object(**where, Body=b"a"),
    "delete": lambda s3, **where: s3.delete_object(**where),
    "upload in parts": upload_in_parts,
    "list parts": list_parts,
    "abort": abort_upload,
    "list": lambda s3, Bucket, Key: s3.list_objects_v2(Bucket=Bucket, Prefix=Key),  # noqa: N803
    "list uploads": lambda s3, Bucket, Key: s3.list_multipart_uploads(Bucket=Bucket),  # noqa: N803
    "where": lambda s3, Bucket, Key: s3.get_bucket_location(Bucket=Bucket),  # noqa: N803
    "remove bucket": lambda s3, Bucket, Key: s3.delete_bucket(Bucket=Bucket),  # noqa: N803
    "open bucket": lambda s3, Bucket, Key: s3.delete_public_access_block(Bucket=Bucket),  # noqa: N803
}
READING = ["head", "get", "list"]
WRITING = ["put", "upload in parts", "delete"]
PLAY, QUARANTINED = LAKE + "/songplays/year=2018/part-0.parquet", LAKE + "/_quarantine/part-0.json"
SONG = "song_data/A/B/C/TRABCAJ12903CDFCC2.json"

# bucket, key and what is done with it: everything that a policy is for, and what it is not for
Requests = List[Tuple[str, str, List[str]]]
JOB: Requests = [
    (INPUT, SONG, [*READING, "where"]),
    (INPUT, SONG.replace("song", "log"), READING),
    (BUCKET, PLAY, [*READING, *WRITING, "list parts", "abort", "list uploads", "where"]),
    (BUCKET, QUARANTINED, [*READING, *WRITING]),
]
NO_JOB: Requests = [
    (INPUT, SONG, WRITING),
    (BUCKET, SCRIPT, WRITING),
    (BUCKET, "sparkify-data-2/a", ["get", *WRITING]),
    (BUCKET, "", ["remove bucket", "open bucket"]),
    (OTHER, "a", [*READING, *WRITING, "list uploads", "where"]),
]
DONE: Dict[str, Requests] = {
    "engineer.json": [(INPUT, SONG, ["list"]), (BUCKET, PLAY, READING), (BUCKET, LOGS, READING)],
    "laptop.json": JOB,
    "cluster.json": [
        *JOB,
        (BUCKET, SCRIPT, ["get"]),
        (BUCKET, LOGS, ["put", "upload in parts", "abort"]),
        (LANDING, SONG, [*READING, "where"]),
        (LANDING, SONG.replace("song", "log"), READING),
    ],
    "analyst.json": [
        (BUCKET, PLAY, [*READING, "where"]),
        (BUCKET, LAKE + "/users/part-0.parquet", READING),
        (BUCKET, "athena-results/a.csv", [*READING, "put", "upload in parts", "list parts", "abort", "list uploads"]),
    ],
}
REFUSED: Dict[str, Requests] = {
    "engineer.json": [
        (INPUT, SONG, WRITING),
        (BUCKET, PLAY, WRITING),
        (BUCKET, "", ["remove bucket", "open bucket"]),
        (OTHER, "a", [*READING, *WRITING, "where"]),
    ],
    "laptop.json": [*NO_JOB, (BUCKET, SCRIPT, ["get"]), (BUCKET, LOGS, ["get", *WRITING])],
    "cluster.json": [*NO_JOB, (BUCKET, LOGS, ["get", "delete"])],
    "analyst.json": [
        (BUCKET, PLAY, WRITING),
        (BUCKET, QUARANTINED, ["head", "get", *WRITING]),
        (BUCKET, LAKE + "/_runs/a.json", ["get"]),
        (BUCKET, LAKE + "/_staging/a", ["get"]),
        (BUCKET, LOGS, ["get"]),
        (BUCKET, "", ["remove bucket", "open bucket"]),
        (INPUT, SONG, READING),
        (OTHER, "a", [*READING, *WRITING]),
    ],
}


def fill(store: Server, requests: Requests) -> None:
    """Put an object wherever something will be asked for."""
    s3 = store.client("s3")
    for bucket in (BUCKET, INPUT, LANDING, OTHER):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    for bucket, key, _ in requests:
        if key:
            s3.put_object(Bucket=bucket, Key=key, Body=b"a")


def answers(s3: Any, requests: Requests) -> Iterator[Tuple[str, str, str, str]]:
    """The requests, one after the other, with what is answered: "" or why it is refused."""
    for bucket, key, names in requests:
        for name in names:
            yield bucket, key, name, answer(s3, OPERATIONS[name], Bucket=bucket, Key=key)


def answer(s3: Any, operation: Callable[..., Any], **where: str) -> str:
    try:
        operation(s3, **where)
        return ""
    except ClientError as error:
        return str(error.response["Error"]["Code"]).replace("AccessDenied", "403")


@pytest.mark.parametrize("name", sorted(DONE))
def test_what_a_policy_is_for_is_done_and_the_rest_is_refused(name: str, store: Server) -> None:
    fill(store, DONE[name] + REFUSED[name])
    s3 = store.client("s3", **person(store, statements(name)))
    assert [one for one in answers(s3, REFUSED[name]) if one[-1] != "403"] == []
    assert [one for one in answers(s3, DONE[name]) if one[-1]] == []


@pytest.mark.parametrize(
    ("name", "sid", "action"),
    [(name, *pair) for name in ("laptop.json", "cluster.json", "analyst.json") for pair in each_action(name)]
    + [("engineer.json", *pair) for pair in each_action("engineer.json") if pair[0] in ELSEWHERE],
    ids=lambda value: value,
)
def test_a_policy_holds_nothing_that_is_not_needed(name: str, sid: str, action: str, store: Server) -> None:
    fill(store, DONE[name])
    s3 = store.client("s3", **person(store, without(statements(name), sid, action)))
    assert any(one[-1] == "403" for one in answers(s3, DONE[name]))


# ------------------------------------------------------------------------------------ the tutorial


def tutorial() -> str:
    return (ROOT / "docs" / "aws-tutorial.md").read_text("utf-8")


def commands(beginning: str) -> str:
    """The block of the tutorial that begins so, which may be indented."""
    found = re.search(r"^( *)```\n( *%s.*?)^\1```" % re.escape(beginning), tutorial(), re.DOTALL | re.MULTILINE)
    assert found, beginning
    return found.group(2)


def type_in(folder: Path, *blocks: str, **env: str) -> None:
    """Type blocks of the tutorial into a shell, in a copy of what they need."""
    (folder / "docs" / "iam").mkdir(parents=True, exist_ok=True)
    for name in ["dl.cfg", *("docs/iam/" + name for name in FILES)]:
        (folder / name).write_bytes((ROOT / name).read_bytes())
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]  # the aws CLI of this environment
    environment = {**os.environ, "PATH": path, **env}
    subprocess.run(["bash", "-euc", "\n".join(blocks)], cwd=str(folder), env=environment, check=True, timeout=120)


def test_the_tutorial_puts_your_names_everywhere(store: Server, tmp_path: Path) -> None:
    type_in(tmp_path, commands("BUCKET="), AWS_ENDPOINT_URL=store.endpoint)
    texts = [path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(texts) == len(FILES) + 1
    assert not any(name in text for text in texts for name in (BUCKET, ACCOUNT))
    assert sum("arn:aws:s3:::sparkify-lake-of-jane" in text for text in texts) == 10


def asked_of_iam(store: Server) -> Iterator[Tuple[str, str, Dict[str, str]]]:
    """The actions that IAM was asked for, on what, and what a condition may look at; lists are this test's own."""
    for call in store.calls:
        asked = {key: values[0] for key, values in parse_qs(call.body.decode()).items()}
        action, role = asked.get("Action", "List"), asked.get("RoleName", "")
        if action.startswith("List"):
            continue
        context = {"PolicyARN": asked.get("PolicyArn", ""), "AWSServiceName": asked.get("AWSServiceName", "")}
        if "InstanceProfileName" in asked:
            resource = iam_arn(asked["InstanceProfileName"], "instance-profile")
        elif role:
            resource = iam_arn(role)
        else:
            resource = asked.get("PolicyArn") or iam_arn(SERVICE_LINKED[asked["AWSServiceName"]])
        yield "iam:" + action, resource, context
        if action == "AddRoleToInstanceProfile":
            yield "iam:PassRole", iam_arn(role), {"PassedToService": EC2}


@pytest.fixture
def with_policies_of_aws(store: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that has AWS's own policies, until the next reset."""
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    store.reset()
    return store


def test_who_makes_the_roles_may_do_what_the_tutorial_says(with_policies_of_aws: Server, tmp_path: Path) -> None:
    """Both blocks run as they stand there; what they ask for is what roles-once.json allows, and all of it."""
    store, iam = with_policies_of_aws, with_policies_of_aws.client("iam")
    type_in(tmp_path, commands("ROLE=EMR_EC2_DefaultRole\naws iam create"), AWS_ENDPOINT_URL=store.endpoint)
    made = {role["RoleName"] for role in iam.list_roles()["Roles"]}
    assert {"EMR_DefaultRole", "EMR_EC2_DefaultRole"} <= made
    assert iam.list_attached_role_policies(RoleName="EMR_EC2_DefaultRole")["AttachedPolicies"] == []
    type_in(tmp_path, commands("   ROLE=EMR_EC2_DefaultRole\n   aws iam remove"), AWS_ENDPOINT_URL=store.endpoint)
    left = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    assert [name.startswith("AWSServiceRoleFor") for name in left] == [True]
    policy, asked = statements("roles-once.json"), list(asked_of_iam(store))
    assert [(action, on) for action, on, context in asked if not allowed(policy, action, on, **context)] == []
    assert {action for _, action in each_action("roles-once.json", service="iam")} == {action for action, _, _ in asked}


def test_the_other_commands_of_the_tutorial_run(with_policies_of_aws: Server, tmp_path: Path) -> None:
    account = "BUCKET=mine ACCOUNT=123456789012"
    user = commands("aws iam create-policy").replace("aws configure --profile sparkify\n", "")
    successor = commands("aws iam create-role --role-name EMR_DefaultRole").partition("aws ec2 create-tags")[0]
    blocks = [account, commands("aws budgets"), user, successor, "aws iam get-user --user-name sparkify-engineer"]
    type_in(tmp_path, *blocks, AWS_ENDPOINT_URL=with_policies_of_aws.endpoint)


def test_the_page_on_security_names_every_policy() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    assert {name for name in FILES if "(iam/%s)" % name not in page} == set()
