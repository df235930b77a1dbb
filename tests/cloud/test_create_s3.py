"""create_s3.py against S3 on loopback: boto3 as users have it, moto's server, TLS.

Three things are not as in AWS. moto ignores the conditions of a bucket policy, so it is told what its TLS means for
ours. It has one region's address for all and knows few errors: `Server.answer` gives the others as S3 words them.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest
from aws import KEY_ID, SECRET, Server, prepare, set_environment
from conftest import ROOT

import create_s3
import etl

BUCKET, SCRIPT = "sparkify-dl-sp", "sparkify-scripts/spark-etl.py"
OTHER_SECRET = "kQ2pZs81mVtYw5cXh9LbNdRfUeJgTaOi3v6B0yCx"
CONFIGURATION = "[AWS]\nAWS_ACCESS_KEY_ID = %s\nAWS_SECRET_ACCESS_KEY = %s\n"
LIST_OF_BUCKETS = (
    "<ListAllMyBucketsResult><Buckets><Bucket><Name>%s</Name><BucketRegion>%s</BucketRegion></Bucket></Buckets>"
    "</ListAllMyBucketsResult>"
)

Record = Dict[str, Any]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)
        server = Server(tls=tmp_path_factory.mktemp("tls"))
        yield server
        server.close()


@pytest.fixture(autouse=True)
def store(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty S3, a working folder without dl.cfg, and an environment that names nothing but this S3 and its key."""
    variables = {
        "AWS_ENDPOINT_URL": server.tls_endpoint,
        "AWS_CA_BUNDLE": server.certificate,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    set_environment(monkeypatch, variables)
    monkeypatch.chdir(tmp_path)
    server.reset()
    return server


@pytest.fixture
def s3(store: Server) -> Any:
    """The test's own look at the store."""
    return store.client("s3")


class Done(NamedTuple):
    """A finished run."""

    code: int
    out: str
    err: str


Create = Callable[..., Done]


@pytest.fixture
def create(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, store: Server) -> Create:
    """Run create_s3.py in this process; whatever it does, it shows no secret, and one sentence where it fails."""

    def run(*argv: str, typed: str = "", env: Optional[Dict[str, str]] = None) -> Done:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        store.calls.clear()
        capsys.readouterr()
        code = create_s3.main(list(argv))
        done = Done(code, *capsys.readouterr())
        assert not any(secret in done.out + done.err for secret in (SECRET, OTHER_SECRET, KEY_ID))
        assert done.err.count("\n") == (1 if code else 0), done.err
        assert not code or done.err.startswith("create_s3.py: ")
        return done

    return run


def settings(s3: Any, bucket: str = BUCKET) -> Record:
    """Every setting that create_s3.py makes, as boto3 reads it."""
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    return {
        "blocked": block,
        "encrypted": [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules],
        "statements": policy(s3, bucket)["Statement"],
        "rules": lifecycle(s3, bucket),
    }


def policy(s3: Any, bucket: str = BUCKET) -> Record:
    found: Record = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    return found


def lifecycle(s3: Any, bucket: str = BUCKET) -> List[Record]:
    found: List[Record] = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    return found


def put_lifecycle(s3: Any, *rules: Record) -> None:
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": list(rules)})


def make_bucket(s3: Any, region: str = "us-west-2", bucket: str = BUCKET) -> None:
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})


def keys(s3: Any) -> List[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def write_config(text: str) -> None:
    Path("dl.cfg").write_text(text, encoding="utf-8")


def buckets(s3: Any) -> List[str]:
    return [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]


# ------------------------------------------------------------------------------------ making it


def test_a_bucket_is_made_with_every_setting_and_the_script(create: Create, s3: Any) -> None:
    done = create()
    assert done.code == 0
    arn = "arn:aws:s3:::" + BUCKET
    assert settings(s3) == {
        "blocked": {
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
        "encrypted": ["AES256"],
        "statements": [
            {
                "Sid": "SparkifyTlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, arn + "/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
        "rules": [
            {
                "ID": "sparkify-abort-uploads",
                "Status": "Enabled",
                "Filter": {"Prefix": ""},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
            },
            {
                "ID": "sparkify-expire-logs",
                "Status": "Enabled",
                "Filter": {"Prefix": "emr-logs/"},
                "Expiration": {"Days": 30},
            },
        ],
    }
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == "us-west-2"
    assert s3.get_object(Bucket=BUCKET, Key=SCRIPT)["Body"].read() == (ROOT / "etl.py").read_bytes()
    place = "s3://%s/%s" % (BUCKET, SCRIPT)
    patterns = [
        "bucket sparkify-dl-sp: made in us-west-2",
        "policy: changed to refuse requests without TLS",
        "public access: blocked",
        "encryption: set to SSE-S3",
        "lifecycle: set to abort uploads after 7 days and remove emr-logs/ after 30",
        "script %s: uploaded" % place,
        "script %s: verified, %d bytes, sha256 [0-9a-f]{64}" % (place, (ROOT / "etl.py").stat().st_size),
        "next: ./etl_job.sh",
    ]
    assert len(done.out.splitlines()) == len(patterns)
    for line, pattern in zip(done.out.splitlines(), patterns):
        assert re.fullmatch(pattern, line)


def test_nothing_but_the_script_is_uploaded(create: Create, store: Server, s3: Any) -> None:
    write_config(CONFIGURATION % (KEY_ID, SECRET))
    assert create(env={"AWS_SESSION_TOKEN": OTHER_SECRET}).code == 0
    assert keys(s3) == [SCRIPT]
    assert not any(secret.encode() in call.body for call in store.calls for secret in (SECRET, OTHER_SECRET, KEY_ID))


def test_a_second_run_changes_nothing(create: Create, store: Server) -> None:
    create()
    assert len(store.changes()) == 6
    done = create()
    assert store.changes() == []
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "bucket sparkify-dl-sp: already yours, in us-west-2"
    assert [line.split(": ")[-1] for line in lines[1:-1]] == ["unchanged"] * 5


def test_a_second_run_uploads_a_script_that_differs(create: Create, store: Server, s3: Any) -> None:
    create()
    s3.put_object(Bucket=BUCKET, Key=SCRIPT, Body=b"of last year")
    done = create()
    assert [(call.method, call.path.split("?")[0]) for call in store.changes()] == [
        ("PUT", "/%s/%s" % (BUCKET, SCRIPT))
    ]
    assert s3.get_object(Bucket=BUCKET, Key=SCRIPT)["Body"].read() == (ROOT / "etl.py").read_bytes()
    assert "spark-etl.py: verified" in done.out


def test_a_second_run_finishes_what_an_interrupted_one_began(create: Create, s3: Any) -> None:
    make_bucket(s3)
    assert create().code == 0
    assert len(settings(s3)["rules"]) == 2
    assert keys(s3) == [SCRIPT]


def test_what_arrives_must_be_what_was_sent(create: Create, store: Server) -> None:
    store.answer("GET", SCRIPT, 200, "import pyspark")
    done = create()
    assert done.code == 2
    assert re.search(r"sent \d+ bytes, sha256 \w{64}, but arrived 14 bytes, sha256 \w{64}$", done.err)


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_the_region_may_be_any(region: str, create: Create, store: Server) -> None:
    assert "made in %s\n" % region in create("--region", region).out
    assert store.client("s3", region).get_bucket_location(Bucket=BUCKET)["LocationConstraint"] in (region, None)
    made = next(call for call in store.changes() if call.path == "/%s?" % BUCKET)
    assert (b"LocationConstraint" in made.body) == (region != "us-east-1")


def test_a_bucket_of_ours_whose_name_goes_on_is_another_one(create: Create, s3: Any) -> None:
    make_bucket(s3, bucket=BUCKET + "-2")
    assert "bucket sparkify-dl-sp: made in us-west-2\n" in create().out
    assert buckets(s3) == [BUCKET + "-2", BUCKET]


def test_in_china_the_policy_names_chinese_resources(create: Create, store: Server) -> None:
    assert create("--region", "cn-north-1").code == 0
    written = next(call.body for call in store.changes() if "?policy" in call.path)
    assert b"arn:aws-cn:s3:::sparkify-dl-sp/*" in written


@pytest.mark.parametrize("told_by_the_list", [False, True])
def test_a_bucket_in_another_region_is_used_where_it_is(
    told_by_the_list: bool, create: Create, store: Server, s3: Any
) -> None:
    make_bucket(store.client("s3", "eu-central-1"), "eu-central-1")
    if told_by_the_list:  # as AWS does, and moto does not
        store.answer("GET", "/?prefix=", 200, LIST_OF_BUCKETS % (BUCKET, "eu-central-1"))
    done = create("--region", "us-west-2")
    assert done.code == 0
    assert "already yours, in eu-central-1, not in us-west-2 as the settings say\n" in done.out
    assert any("?location" in call.path for call in store.calls) != told_by_the_list
    assert {call.region for call in store.changes()} == {"eu-central-1"}
    assert settings(s3)["encrypted"] == ["AES256"]


# ------------------------------------------------------------------------------------ what the user has set already

MINE = {"Sid": "Mine", "Effect": "Deny", "Principal": "*", "Action": "s3:PutObjectAcl", "Resource": "arn:aws:s3:::x/*"}
MY_RULE = {"ID": "mine", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 3}}


@pytest.mark.parametrize("statement", [[MINE], MINE], ids=["list", "alone"])
def test_the_statements_of_the_users_policy_stay(statement: Any, create: Create, store: Server, s3: Any) -> None:
    make_bucket(s3)
    document = {"Version": "2008-10-17", "Id": "my policy", "Statement": statement}
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(document).replace("::x/", "::%s/" % BUCKET))
    assert "policy: changed to refuse requests without TLS, beside your own 1 statement\n" in create().out
    found = policy(s3)
    assert (found["Version"], found["Id"]) == ("2008-10-17", "my policy")
    assert [part["Sid"] for part in found["Statement"]] == ["Mine", "SparkifyTlsOnly"]
    create()
    assert store.changes() == []


def test_a_statement_or_rule_of_ours_that_was_changed_is_put_right(create: Create, s3: Any) -> None:
    create()
    before = settings(s3)
    weak = dict(before["statements"][0], Action="s3:GetObject")
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [weak]}))
    put_lifecycle(s3, dict(before["rules"][0], Status="Disabled"), before["rules"][1])
    create()
    assert settings(s3) == before


def test_the_same_policy_in_another_notation_is_no_change(create: Create, store: Server, s3: Any) -> None:
    create()
    ours = policy(s3)["Statement"][0]
    ours["Resource"].reverse()
    ours["Action"] = [ours["Action"]]
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": ours}))
    create()
    assert store.changes() == []


def test_the_users_lifecycle_rules_stay(create: Create, store: Server, s3: Any) -> None:
    make_bucket(s3)
    put_lifecycle(s3, MY_RULE)
    assert ", beside your own 1 rule\n" in create().out
    assert [rule["ID"] for rule in lifecycle(s3)] == ["mine", "sparkify-abort-uploads", "sparkify-expire-logs"]
    assert lifecycle(s3)[0] == MY_RULE
    create()
    assert store.changes() == []


def test_a_rule_in_the_older_notation_is_kept_in_the_newer() -> None:
    old = {"ID": "mine", "Status": "Enabled", "Prefix": "tmp/", "Expiration": {"Days": 3}}
    found = {"Rules": [old], "TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
    change = create_s3.lifecycle_change("", found, [old, *create_s3.RULES])
    assert change.arguments["LifecycleConfiguration"]["Rules"][0] == MY_RULE
    assert change.arguments["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"


def test_an_encryption_of_the_users_own_stays(create: Create, s3: Any) -> None:
    make_bucket(s3)
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "mine"}}
    s3.put_bucket_encryption(Bucket=BUCKET, ServerSideEncryptionConfiguration={"Rules": [rule]})
    assert "encryption: unchanged\n" in create().out
    assert settings(s3)["encrypted"] == ["aws:kms"]


def test_public_access_is_blocked_where_it_was_open_in_part(create: Create, s3: Any) -> None:
    make_bucket(s3)
    s3.put_public_access_block(Bucket=BUCKET, PublicAccessBlockConfiguration={"BlockPublicAcls": True})
    create()
    assert set(settings(s3)["blocked"].values()) == {True}


# ------------------------------------------------------------------------------------ dry run


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(create: Create, store: Server, s3: Any) -> None:
    done = create("--dry-run")
    assert done.code == 0
    assert store.changes() == []
    lines = done.out.splitlines()
    assert lines[0] == "bucket sparkify-dl-sp: would be made in us-west-2"
    assert all(": would be " in line for line in lines[:-1])
    make_bucket(s3)
    again = create("--dry-run").out.splitlines()
    assert store.changes() == []
    assert again == ["bucket sparkify-dl-sp: already yours, in us-west-2", *lines[1:]]


def test_a_dry_run_of_a_removal_asks_and_removes_nothing(create: Create, store: Server) -> None:
    create()
    done = create("--delete", "--dry-run")
    assert done.code == 0
    assert store.changes() == []
    assert "bucket sparkify-dl-sp: would be removed\n" in done.out


# ------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "a" * 64,
        "Sparkify",
        "my_bucket",
        "-a-b",
        "a-b-",
        "a..b",
        "a.-b",
        "192.168.0.1",
        "xn--abc",
        "s3://abc",
        "a b",
        "abc\n",
    ],
)
def test_an_invalid_name_is_refused_before_any_call(name: str, create: Create, store: Server) -> None:
    done = create("--bucket=" + name)
    assert (done.code, store.calls) == (2, [])
    assert done.err.startswith("create_s3.py: the bucket name %s is not valid: " % name.strip())


@pytest.mark.parametrize("name", ["abc", "a" * 63, "my.bucket-2", "123"])
def test_a_valid_name_is_taken(name: str) -> None:
    assert create_s3.configure(["--bucket", name], {}).bucket == name


@pytest.mark.parametrize("key", ["typescript", "/a.py", "a//b.py", "s3://b/a.py", "a b.py", "emr-logs/a.py", "a.py\n"])
def test_an_invalid_script_is_refused_before_any_call(key: str, create: Create, store: Server) -> None:
    done = create("--script=" + key)
    assert (done.code, store.calls) == (2, [])
    assert done.err.startswith("create_s3.py: the script ")


def someone_elses(store: Server) -> None:
    """Make the bucket in another account."""
    role = "arn:aws:iam::210987654321:role/somebody"
    key = store.client("sts").assume_role(RoleArn=role, RoleSessionName="somebody")["Credentials"]
    names = {"aws_access_key_id": "AccessKeyId", "aws_secret_access_key": "SecretAccessKey"}
    credentials = {name: key[theirs] for name, theirs in names.items()}
    make_bucket(store.client("s3", aws_session_token=key["SessionToken"], **credentials))


@pytest.mark.parametrize("open_to_all", [True, False])
@pytest.mark.parametrize("flags", [(), ("--dry-run",), ("--delete", "--yes")])
def test_somebody_elses_bucket_is_refused_even_if_it_is_open(
    open_to_all: bool, flags: Tuple[str, ...], create: Create, store: Server
) -> None:
    someone_elses(store)
    if not open_to_all:  # to moto every bucket is
        store.answer("HEAD", "/%s?" % BUCKET, 403, "")
    done = create(*flags)
    assert done.code == 2
    assert "the bucket sparkify-dl-sp belongs to somebody else: choose another name with --bucket" in done.err
    assert store.changes() == []


def test_missing_credentials_are_said_before_any_call(
    create: Create, store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in create_s3.SECRET_KEYS[:2]:
        monkeypatch.delenv(name)
    write_config("[AWS]\nAWS_ACCESS_KEY_ID = %s\n" % KEY_ID)
    done = create()
    assert (done.code, store.calls) == (2, [])
    assert "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in done.err


def test_half_of_the_credentials_are_not_enough(create: Create, store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    done = create()
    assert (done.code, store.calls) == (2, [])
    assert "Partial credentials found in env" in done.err


def test_an_unknown_profile_is_named(create: Create) -> None:
    done = create(env={"AWS_PROFILE": "nobody"})
    assert done.code == 2
    assert "nobody" in done.err


def test_an_unknown_key_id_is_said(create: Create, store: Server) -> None:
    store.user()
    done = create()
    assert done.code == 2
    assert "AWS does not know the access key id" in done.err
    assert store.changes() == []


def test_a_wrong_secret_is_said(create: Create, store: Server) -> None:
    done = create(env={**store.user(), "AWS_SECRET_ACCESS_KEY": OTHER_SECRET})
    assert done.code == 2
    assert "the secret access key does not belong to the access key id" in done.err


def test_a_key_that_ends_in_a_line_break_is_not_shown(create: Create) -> None:
    done = create(env={"AWS_ACCESS_KEY_ID": KEY_ID + "\n"})
    assert done.code == 2
    assert "***" in done.err


def test_with_permission_for_everything_it_works(create: Create, store: Server) -> None:
    env = store.user()
    assert create(env=env).code == 0
    assert create("--delete", "--yes").code == 0


@pytest.mark.parametrize(
    "permission", ["ListAllMyBuckets", "CreateBucket", "PutBucketPolicy", "PutLifecycleConfiguration", "PutObject"]
)
def test_a_missing_permission_is_named(permission: str, create: Create, store: Server) -> None:
    done = create(env=store.user("s3:" + permission))
    assert done.code == 2
    assert "no permission: the credentials in use lack s3:%s (docs/s3.md" % permission in done.err


@pytest.mark.parametrize(
    ("method", "part", "permission"),
    [
        ("GET", "?location", "GetBucketLocation"),
        ("GET", "?policy", "GetBucketPolicy"),
        ("GET", "?publicAccessBlock", "GetBucketPublicAccessBlock"),
        ("PUT", "?publicAccessBlock", "PutBucketPublicAccessBlock"),
        ("GET", "?encryption", "GetEncryptionConfiguration"),
        ("PUT", "?encryption", "PutEncryptionConfiguration"),
        ("GET", "?lifecycle", "GetLifecycleConfiguration"),
        ("GET", SCRIPT, "GetObject"),
    ],
)
def test_a_missing_permission_that_moto_does_not_know_is_named(
    method: str, part: str, permission: str, create: Create, store: Server, s3: Any
) -> None:
    make_bucket(s3)
    store.answer(method, part, 403, "AccessDenied")
    done = create()
    assert done.code == 2
    assert "no permission: the credentials in use lack s3:%s (" % permission in done.err


@pytest.mark.parametrize(
    ("code", "status", "sentence"),
    [
        ("ExpiredToken", 400, "the credentials have expired: get new ones"),
        ("InvalidToken", 400, "the session token is not valid"),
        ("RequestTimeTooSkewed", 403, "the clock of this machine is wrong"),
        ("BucketAlreadyExists", 409, "belongs to somebody else"),
        ("OperationAborted", 409, "try again later"),
        ("TooManyBuckets", 400, "S3 refused CreateBucket: as S3 words it (TooManyBuckets)"),
    ],
)
def test_other_refusals_of_s3_are_sentences(
    code: str, status: int, sentence: str, create: Create, store: Server
) -> None:
    store.answer("PUT", "/%s?" % BUCKET, status, code)
    done = create()
    assert done.code == 2
    assert sentence in done.err


def test_a_certificate_that_nobody_knows_is_refused(
    create: Create, store: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    done = create()
    assert done.code == 2
    assert "S3 cannot be reached" in done.err
    assert "SSL validation failed" in done.err
    assert store.calls == []


@pytest.mark.parametrize(
    ("flags", "env"), [(["--region", "us west"], {}), ([], {"AWS_ENDPOINT_URL": "localhost"}), (["--config", "no"], {})]
)
def test_nonsense_for_region_endpoint_or_file_is_a_sentence(
    flags: List[str], env: Dict[str, str], create: Create, store: Server
) -> None:
    assert create(*flags, env=env).code == 2
    assert store.calls == []


def test_unknown_keys_of_dl_cfg_are_refused(create: Create, store: Server) -> None:
    write_config("[S3]\nBUKET = x\n")
    done = create()
    assert (done.code, store.calls) == (2, [])
    assert "dl.cfg: unknown key BUKET in [S3]; known: " in done.err


@pytest.mark.parametrize("argv", [["--nonsense"], ["bucket"], ["--yes"], ["--aws-secret-access-key=" + SECRET]])
def test_wrong_flags_exit_with_2_and_show_no_value(argv: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        create_s3.main(argv)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "create_s3.py: error: " in err
    assert SECRET not in err


@pytest.mark.parametrize(
    "line",
    [
        "key = '%s'" % SECRET,
        "token = '%s'" % OTHER_SECRET,
        "# of a profile: PROFILESPROFILESPROFILES",
        "key = 'ASIA%s'" % ("Z" * 16),
        "aws_secret_access_key = '%s'" % ("x" * 40),
    ],
    ids=["environment", "dl.cfg", "profile", "key id", "secret"],
)
def test_a_script_that_holds_a_credential_is_not_uploaded(
    line: str, create: Create, store: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(CONFIGURATION % ("x" * 16, OTHER_SECRET))
    if "PROFILE" in line:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        profile = "[default]\naws_access_key_id = x\naws_secret_access_key = PROFILESPROFILESPROFILES\n"
        (tmp_path / "credentials").write_text(profile)
    script = tmp_path / "etl.py"
    script.write_text("import pyspark\n%s\n" % line)
    monkeypatch.setattr(etl, "__file__", str(script))
    done = create()
    assert (done.code, store.calls) == (2, [])
    assert done.err == "create_s3.py: etl.py holds a credential in line 2: nothing was uploaded\n"


# ------------------------------------------------------------------------------------ S3-compatible stores


def test_without_tls_no_policy_locks_the_user_out(create: Create, store: Server, s3: Any) -> None:
    done = create(env={"AWS_ENDPOINT_URL": store.endpoint})
    assert done.code == 0
    assert "policy: left out, %s has no TLS" % store.endpoint in done.out
    with pytest.raises(s3.exceptions.ClientError, match="NoSuchBucketPolicy"):
        s3.get_bucket_policy(Bucket=BUCKET)
    assert keys(s3) == [SCRIPT]


@pytest.mark.parametrize("methods", [["PUT"], ["GET", "PUT"]])
def test_a_setting_that_the_store_lacks_is_left_out(methods: List[str], create: Create, store: Server) -> None:
    for method in methods:
        store.answer(method, "?publicAccessBlock", 501, "NotImplemented")
    done = create()
    assert done.code == 0
    assert "public access: left out, this store has no such setting\n" in done.out
    assert "spark-etl.py: verified" in done.out


# ------------------------------------------------------------------------------------ removing it


def test_the_typed_name_removes_script_and_bucket(create: Create, s3: Any) -> None:
    create()
    done = create("--delete", typed=BUCKET + "\n")
    assert done.code == 0
    assert "spark-etl.py: removed\nbucket sparkify-dl-sp: removed\n" in done.out
    assert buckets(s3) == []
    assert "bucket sparkify-dl-sp: is not there\n" in create("--delete").out


def test_anything_else_typed_removes_nothing(create: Create, store: Server) -> None:
    create()
    for typed in ("", "\n", "y\n", "yes\n", "sparkify\n"):
        done = create("--delete", typed=typed)
        assert done.code == 2
        assert "not confirmed: nothing was removed" in done.err
        assert store.changes() == []


def test_yes_does_not_ask(create: Create, s3: Any) -> None:
    create()
    done = create("--delete", "--yes")
    assert done.code == 0
    assert "Type the name" not in done.out
    assert buckets(s3) == []


def test_a_bucket_with_a_lake_stays_as_it_is(create: Create, store: Server, s3: Any) -> None:
    create()
    for key in ("zzz", "sparkify-data/users/part-0.parquet", "emr-logs/j-1/stderr.gz"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
        done = create("--delete", "--yes")
        assert done.code == 2
        assert "is not empty, it holds for instance %s: nothing was removed; " % key in done.err
        assert "aws s3 rm --recursive s3://sparkify-dl-sp" in done.err
        assert store.changes() == []


def test_a_bucket_with_old_versions_stays_as_it_is(create: Create, store: Server, s3: Any) -> None:
    make_bucket(s3)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=BUCKET, Key=SCRIPT, Body=b"x")
    assert create("--delete", "--yes").code == 2
    s3.delete_object(Bucket=BUCKET, Key=SCRIPT)
    assert create("--delete", "--yes").code == 2
    assert store.changes() == []


def test_a_bucket_with_settings_of_the_user_stays_with_them(create: Create, s3: Any) -> None:
    make_bucket(s3)
    put_lifecycle(s3, MY_RULE)
    create()
    done = create("--delete", "--yes")
    assert done.code == 0
    assert "bucket sparkify-dl-sp: kept, with public access blocked, since it has" in done.out
    assert keys(s3) == []
    assert lifecycle(s3) == [MY_RULE]
    with pytest.raises(s3.exceptions.ClientError, match="NoSuchBucketPolicy"):
        policy(s3)
    assert set(s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values()) == {True}


def test_a_bucket_with_a_policy_of_the_user_stays_with_it(create: Create, s3: Any) -> None:
    make_bucket(s3)
    mine = dict(MINE, Resource="arn:aws:s3:::%s/*" % BUCKET)
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [mine]}))
    create()
    assert create("--delete", "--yes").code == 0
    assert policy(s3)["Statement"] == [mine]
    with pytest.raises(s3.exceptions.ClientError, match="NoSuchLifecycleConfiguration"):
        lifecycle(s3)


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [("bucket", "BUCKET", ["flag", "env", "file"]), ("script", "SCRIPT", ["flag.py", "env.py", "file.py"])],
)
def test_a_flag_beats_the_environment_which_beats_the_file(name: str, key: str, values: List[str]) -> None:
    def value(*argv: str, env: Optional[Dict[str, str]] = None) -> str:
        return str(getattr(create_s3.configure(argv, env or {}), name))

    write_config("[S3]\n%s = %s\n" % (key, values[2]))
    assert value("--" + name, values[0], env={key: values[1]}) == values[0]
    assert value(env={key: values[1]}) == values[1]
    assert value() == value(env={key: " "}) == values[2]
    assert value("--config", os.devnull) == {"bucket": BUCKET, "script": SCRIPT}[name]


def test_the_region_is_the_flag_or_either_variable_or_the_file_or_the_profile_or_oregon(
    create: Create, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def region(*argv: str) -> str:
        return re.findall(r"would be made in (\S+)", create("--dry-run", *argv).out)[0]

    empty = ["--config", os.devnull]
    assert region(*empty) == "us-west-2"
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")
    assert region(*empty) == "eu-west-1"
    write_config("[AWS]\nAWS_REGION = eu-west-2\n")
    assert region() == "eu-west-2"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert region() == "eu-west-3"
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert region() == "eu-north-1"
    assert region("--region", "us-east-2") == "us-east-2"


def test_boto3_finds_credentials_before_dl_cfg_does(
    store: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    aws = {"AWS_ACCESS_KEY_ID": "of dl.cfg", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": "token"}

    def found() -> Tuple[str, Optional[str]]:
        credentials = create_s3.open_session(aws).get_credentials()
        return credentials.access_key, credentials.token

    assert found() == (KEY_ID, None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = of a profile\naws_secret_access_key = x\n")
    assert found() == ("of a profile", None)
    (tmp_path / "credentials").unlink()
    assert found() == ("of dl.cfg", "token")


def test_the_next_command_finds_what_was_made() -> None:
    def command(*argv: str) -> str:
        return create_s3.next_command(create_s3.configure(argv, {}))

    assert command() == "next: ./etl_job.sh"
    assert command("--bucket=mine") == "next: BUCKET=mine ./etl_job.sh"
    both = "next: BUCKET=mine SCRIPT=jobs/etl.py ./etl_job.sh"
    assert command("--bucket=mine", "--script=jobs/etl.py") == both


def test_an_endpoint_has_buckets_in_its_paths_and_aws_does_not() -> None:
    session = create_s3.open_session({})
    for env, style in (({"AWS_ENDPOINT_URL": "http://minio"}, "path"), ({"AWS_ENDPOINT_URL_S3": "http://a"}, "path")):
        client = create_s3.connect(session, create_s3.configure([], env), "us-west-2")
        assert client.meta.config.s3["addressing_style"] == style
    assert "addressing_style" not in (create_s3.connect(session, create_s3.configure([], {}), "x").meta.config.s3 or {})


def test_the_settings_are_those_of_dl_cfg() -> None:
    of_file = create_s3.configure(["--config", str(ROOT / "dl.cfg")], {})
    without = create_s3.configure(["--config", os.devnull], {})
    assert of_file._replace(region="", aws=etl.Secrets()) == without
    assert of_file.region == etl.DEFAULT_REGION
    assert sorted(setting.name.upper() for setting in create_s3.SETTINGS) == sorted(etl.HELPER_KEYS["S3"])


def test_every_permission_is_documented() -> None:
    text = (ROOT / "docs" / "s3.md").read_text(encoding="utf-8")
    assert set(re.findall(r"s3:[A-Z]\w+", text)) == set(create_s3.PERMISSIONS.values())


# ------------------------------------------------------------------------------------ as a user starts it


def process(*argv: str, **env: Optional[str]) -> Done:
    """Run create_s3.py as a program; None drops a variable."""
    changed = {name: value for name, value in {**os.environ, **env}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, str(ROOT / "create_s3.py"), *argv],
        env=changed,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    shown = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert not any(secret in shown.out + shown.err for secret in (SECRET, OTHER_SECRET, KEY_ID))
    assert "Traceback" not in shown.err
    return shown


def test_the_program_makes_a_bucket_with_the_credentials_of_dl_cfg(s3: Any) -> None:
    write_config(CONFIGURATION % (KEY_ID, OTHER_SECRET) + "[S3]\nBUCKET = my-lake\n")
    done = process(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("bucket my-lake: made in us-west-2\n")
    assert buckets(s3) == ["my-lake"]


def test_the_program_exits_with_2_and_a_sentence() -> None:
    done = process("--delete", BUCKET="Not Valid")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("create_s3.py: the bucket name Not Valid is not valid: ")


def test_a_closed_port_is_said_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    done = process(AWS_ENDPOINT_URL="https://127.0.0.1:%d" % port)
    assert time.monotonic() - start < 15
    assert done.code == 2
    assert "S3 cannot be reached, check the network, the region and AWS_ENDPOINT_URL: " in done.err
    assert "127.0.0.1:%d" % port in done.err


def test_the_program_says_which_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise ImportError(\"No module named 'boto3'\")\n")
    done = process(PYTHONPATH=str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert done.err == "create_s3.py: No module named 'boto3'; try: pip install -r requirements.txt\n"
