"""create_s3.py against S3 on loopback: boto3 as users have it, moto's server, TLS.

What is not as in AWS: moto ignores the conditions of a bucket policy, so it is told what its TLS means for ours. It has
one region's address for all and knows few errors: `Server.answer` gives the others as S3 words them. That a request
names another owner than the bucket's is for aws.py to refuse.
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
UPLOADED = ["sparkify-scripts/open-files.sh", SCRIPT]
ACCOUNT = "123456789012"  # moto's
OTHER_SECRET = "kQ2pZs81mVtYw5cXh9LbNdRfUeJgTaOi3v6B0yCx"
CONFIGURATION = "[AWS]\nAWS_ACCESS_KEY_ID = %s\nAWS_SECRET_ACCESS_KEY = %s\n"

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
        "public access block: blocked",
        "encryption: set to SSE-S3",
        "lifecycle configuration: set to abort uploads after 7 days and remove emr-logs/ after 30",
        r"%s: uploaded, %d bytes, sha256 \S{44}" % (place, (ROOT / "etl.py").stat().st_size),
        r"s3://sparkify-dl-sp/sparkify-scripts/open-files.sh: uploaded, \d+ bytes, sha256 \S{44}",
        "next: ./etl_job.sh",
    ]
    assert len(done.out.splitlines()) == len(patterns)
    for line, pattern in zip(done.out.splitlines(), patterns):
        assert re.fullmatch(pattern, line)


def test_nothing_but_the_job_and_what_its_nodes_need_is_uploaded(create: Create, store: Server, s3: Any) -> None:
    write_config(CONFIGURATION % (KEY_ID, SECRET))
    assert create(env={"AWS_SESSION_TOKEN": OTHER_SECRET}).code == 0
    assert keys(s3) == UPLOADED
    assert not any(secret.encode() in call.body for call in store.calls for secret in (SECRET, OTHER_SECRET, KEY_ID))


def test_a_second_run_changes_nothing(create: Create, store: Server) -> None:
    create()
    assert len(store.changes()) == 7
    done = create()
    assert store.changes() == []
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "bucket sparkify-dl-sp: exists, in us-west-2"
    assert [line.split(": ")[-1] for line in lines[1:-1]] == ["unchanged"] * 6


def test_a_second_run_uploads_a_script_that_differs(create: Create, store: Server, s3: Any) -> None:
    create()
    s3.put_object(Bucket=BUCKET, Key=SCRIPT, Body=b"of last year")
    done = create()
    assert [(call.method, call.path.split("?")[0]) for call in store.changes()] == [
        ("PUT", "/%s/%s" % (BUCKET, SCRIPT))
    ]
    assert s3.get_object(Bucket=BUCKET, Key=SCRIPT)["Body"].read() == (ROOT / "etl.py").read_bytes()
    assert "spark-etl.py: uploaded, " in done.out


def test_a_second_run_finishes_what_an_interrupted_one_began(create: Create, s3: Any) -> None:
    make_bucket(s3)
    assert create().code == 0
    assert len(settings(s3)["rules"]) == 2
    assert keys(s3) == UPLOADED


def test_s3_is_told_the_checksum_of_what_is_to_arrive(create: Create, store: Server) -> None:
    create()
    sent = [call for call in store.changes() if call.path.split("?")[0].endswith(tuple(UPLOADED))]
    assert [call.checksum for call in sent] == [create_s3.checksum(call.body) for call in sent]
    assert len(sent) == 2


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_the_region_may_be_any(region: str, create: Create, store: Server) -> None:
    assert "made in %s\n" % region in create("--region", region).out
    assert store.client("s3", region).get_bucket_location(Bucket=BUCKET)["LocationConstraint"] in (region, None)
    made = next(call for call in store.changes() if call.path == "/%s?" % BUCKET)
    assert (b"LocationConstraint" in made.body) == (region != "us-east-1")


def test_in_china_the_policy_names_chinese_resources(create: Create, store: Server) -> None:
    assert create("--region", "cn-north-1").code == 0
    written = next(call.body for call in store.changes() if "?policy" in call.path)
    assert b"arn:aws-cn:s3:::sparkify-dl-sp/*" in written


# ------------------------------------------------------------------------------------ what the user has set already

MINE = {"Sid": "Mine", "Effect": "Deny", "Principal": "*", "Action": "s3:PutObjectAcl", "Resource": "arn:aws:s3:::x/*"}
MY_RULE = {"ID": "mine", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 3}}


@pytest.mark.parametrize("statement", [[MINE], MINE], ids=["list", "alone"])
def test_the_statements_of_the_users_policy_stay(statement: Any, create: Create, store: Server, s3: Any) -> None:
    make_bucket(s3)
    document = {"Version": "2008-10-17", "Id": "my policy", "Statement": statement}
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(document).replace("::x/", "::%s/" % BUCKET))
    assert "policy: changed to refuse requests without TLS\n" in create().out
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
    assert "lifecycle configuration: set to abort uploads" in create().out
    assert [rule["ID"] for rule in lifecycle(s3)] == ["mine", "sparkify-abort-uploads", "sparkify-expire-logs"]
    assert lifecycle(s3)[0] == MY_RULE
    create()
    assert store.changes() == []


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
    assert again == ["bucket sparkify-dl-sp: exists, in us-west-2", *lines[1:]]


# ------------------------------------------------------------------------------------ refused


def someone_elses(store: Server) -> None:
    """Make the bucket in another account."""
    role = "arn:aws:iam::210987654321:role/somebody"
    key = store.client("sts").assume_role(RoleArn=role, RoleSessionName="somebody")["Credentials"]
    names = {"aws_access_key_id": "AccessKeyId", "aws_secret_access_key": "SecretAccessKey"}
    credentials = {name: key[theirs] for name, theirs in names.items()}
    make_bucket(store.client("s3", aws_session_token=key["SessionToken"], **credentials))


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_somebody_elses_bucket_is_refused_even_if_it_is_open(
    flags: Tuple[str, ...], create: Create, store: Server
) -> None:
    """To moto every bucket is open; the owner that each request expects is what refuses."""
    someone_elses(store)
    done = create(*flags)
    assert done.code == 2
    own = "for instance sparkify-dl-sp-123456789012-us-west-2-an, which only your account can have\n"
    assert (
        "the bucket sparkify-dl-sp belongs to another account, or the credentials in use lack s3:ListBucket: "
        in done.err
    )
    assert done.err.endswith(own)
    assert store.changes() == []


def test_every_request_for_a_bucket_names_its_owner(create: Create, store: Server) -> None:
    create()
    create()
    asked = [call for call in store.calls if call.path.startswith("/" + BUCKET)]
    assert {call.owner for call in asked if call.path != "/%s?" % BUCKET or call.method != "PUT"} == {ACCOUNT}


def test_a_name_of_the_account_s_own_is_asked_for_as_such(create: Create, store: Server) -> None:
    name = "lake-123456789012-us-west-2-an"
    assert create("--bucket", name).code == 0
    (made,) = [call for call in store.changes() if call.path == "/%s?" % name]
    assert made.namespace == "account-regional"
    create("--bucket", "lake-an")
    (made,) = [call for call in store.changes() if call.path == "/lake-an?"]
    assert made.namespace == ""


def test_a_bucket_in_another_region_is_used_where_it_is(create: Create, store: Server, s3: Any) -> None:
    make_bucket(store.client("s3", "eu-central-1"), "eu-central-1")
    done = create("--region", "us-west-2")
    assert done.code == 0
    assert "exists, in eu-central-1\n" in done.out
    assert {call.region for call in store.changes()} == {"eu-central-1"}
    assert settings(s3)["encrypted"] == ["AES256"]


def test_a_missing_permission_is_said_in_aws_s_words(create: Create, store: Server) -> None:
    done = create(env=store.user("s3:PutBucketPolicy"))
    assert done.code == 2
    assert done.err == "create_s3.py: AWS refused PutBucketPolicy: Access Denied (AccessDenied)\n"  # AWS says more


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


@pytest.mark.parametrize(
    ("code", "status", "sentence"),
    [
        ("ExpiredToken", 400, "the credentials have expired: get new ones"),
        ("InvalidToken", 400, "the session token is not valid"),
        ("RequestTimeTooSkewed", 403, "the clock of this machine is wrong"),
        ("BucketAlreadyExists", 409, "AWS refused CreateBucket: as S3 words it (BucketAlreadyExists)"),
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


@pytest.mark.parametrize("argv", [["--nonsense"], ["bucket"], ["--delete"], ["--aws-secret-access-key=" + SECRET]])
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
    assert done.err == "create_s3.py: etl.py contains a credential in line 2: nothing was uploaded\n"


# ------------------------------------------------------------------------------------ S3-compatible stores


def test_without_tls_no_policy_locks_the_user_out(create: Create, store: Server, s3: Any) -> None:
    done = create(env={"AWS_ENDPOINT_URL": store.endpoint})
    assert done.code == 0
    assert "policy: skipped, since it would lock everybody out of a store without TLS\n" in done.out
    with pytest.raises(s3.exceptions.ClientError, match="NoSuchBucketPolicy"):
        s3.get_bucket_policy(Bucket=BUCKET)
    assert keys(s3) == UPLOADED


@pytest.mark.parametrize("methods", [["PUT"], ["GET", "PUT"]])
def test_a_setting_that_the_store_lacks_is_left_out(methods: List[str], create: Create, store: Server) -> None:
    for method in methods:
        store.answer(method, "?publicAccessBlock", 501, "NotImplemented")
    done = create()
    assert done.code == 0
    assert "public access block: skipped, since this store does not support it\n" in done.out
    assert "spark-etl.py: uploaded, " in done.out


# ------------------------------------------------------------------------------------ settings


def configured(*argv: str, **env: str) -> create_s3.Config:
    return create_s3.configure(create_s3.arguments(argv), env)


def test_a_flag_beats_the_environment_which_beats_the_file() -> None:
    write_config("[S3]\nBUCKET = file\nSCRIPT = jobs/file.py\n")
    assert configured("--bucket=flag", BUCKET="env").bucket == "flag"
    assert configured(BUCKET="env").bucket == "env"
    assert configured().bucket == configured(BUCKET=" ").bucket == "file"
    assert configured("--config", os.devnull).bucket == BUCKET


def test_a_script_that_others_have_exported_does_not_count() -> None:
    assert configured(SCRIPT="theirs.py").script == SCRIPT
    write_config("[S3]\nSCRIPT = jobs/file.py\n")
    assert configured(SCRIPT="theirs.py").script == "jobs/file.py"


def test_a_script_that_spark_would_not_run_is_refused(create: Create, store: Server) -> None:
    write_config("[S3]\nSCRIPT = typescript\n")
    done = create()
    assert (done.code, store.calls) == (2, [])
    assert "[S3] SCRIPT is typescript; its name must end in .py, for spark-submit" in done.err


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


def test_the_next_command_finds_what_was_made(create: Create) -> None:
    assert create().out.endswith("\nnext: ./etl_job.sh\n")
    assert create("--bucket=mine").out.endswith("\nnext: BUCKET=mine ./etl_job.sh\n")


def test_an_endpoint_has_buckets_in_its_paths_and_aws_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create_s3.Bucket, "find_account", lambda self: "")
    session = create_s3.open_session({})
    for env in ({"AWS_ENDPOINT_URL": "http://minio"}, {"AWS_ENDPOINT_URL_S3": "http://a"}):
        client = create_s3.Bucket(session, configured(**env)).client
        assert client.meta.config.s3["addressing_style"] == "path"
    assert "addressing_style" not in (create_s3.Bucket(session, configured()).client.meta.config.s3 or {})


def test_a_store_without_accounts_is_asked_for_none(create: Create, store: Server) -> None:
    store.answer("POST", "/?", 501, "NotImplemented")
    assert create().code == 0
    assert not any(call.owner for call in store.calls)


def printed(create: Create, *argv: str, **env: str) -> Dict[str, str]:
    """What a shell makes of --print-settings."""
    done = create("--print-settings", *argv, env=env)
    assert done.code == 0
    shell = [
        "bash",
        "-euc",
        'eval "$1"; declare -p BUCKET SCRIPT CHECKSUM SONG_DATA LOG_DATA OUTPUT MAX_BAD_PERCENT REGION',
    ]
    told = subprocess.run([*shell, "-", done.out], stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    return dict(re.findall(r'^declare -\S+ (\w+)="(.*)"$', told, re.MULTILINE))


def test_etl_job_is_told_what_dl_cfg_says(create: Create) -> None:
    write_config(
        "[AWS]\nAWS_REGION = eu-west-1\n[PROJECT]\nMAX_BAD_PERCENT = 2.50\n"
        "[S3]\nBUCKET = mine\nSONG_DATA = s3a://in/a b's#%%c/\nSCRIPT = jobs/etl.py\n".replace("%%", "%")
    )
    assert printed(create) == {
        "BUCKET": "mine",
        "SCRIPT": "jobs/etl.py",
        "CHECKSUM": create_s3.checksum((ROOT / "etl.py").read_bytes()),
        "SONG_DATA": "s3://in/a b's#%c",
        "LOG_DATA": "s3://udacity-dend/log_data",
        "OUTPUT": "s3://mine/sparkify-data",
        "MAX_BAD_PERCENT": "2.5",
        "REGION": "eu-west-1",
    }


def test_the_lake_follows_the_bucket_unless_dl_cfg_puts_it_elsewhere(create: Create) -> None:
    assert printed(create)["OUTPUT"] == "s3://sparkify-dl-sp/sparkify-data"
    assert printed(create, "--bucket=mine", OUTPUT="s3://theirs/lake")["OUTPUT"] == "s3://mine/sparkify-data"
    write_config("[S3]\nBUCKET = mine\n")
    assert printed(create)["OUTPUT"] == "s3://mine/sparkify-data"
    write_config("[S3]\nBUCKET = mine\nOUTPUT = s3://third/lake\n")
    assert printed(create)["OUTPUT"] == "s3://third/lake"


def test_no_secret_is_told_but_where_it_is(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(CONFIGURATION % (KEY_ID, OTHER_SECRET))
    assert "dl.cfg" not in create("--print-settings").out
    for name in create_s3.SECRET_KEYS[:2]:
        monkeypatch.delenv(name)
    line = "export AWS_SHARED_CREDENTIALS_FILE=%s AWS_PROFILE=AWS\n" % os.path.abspath("dl.cfg")
    assert create("--print-settings").out.endswith(line)
    write_config("[AWS]\nAWS_ACCESS_KEY_ID = %s\n" % KEY_ID)
    assert "AWS_PROFILE" not in create("--print-settings").out


# ------------------------------------------------------------------------------------ as a user starts it


def process(*argv: str, **env: Optional[str]) -> Done:
    """Run create_s3.py as a program; None drops a variable."""
    changed = {name: value for name, value in {**os.environ, **env}.items() if value is not None}
    done = subprocess.run(
        [sys.executable, str(ROOT / "create_s3.py"), *argv],
        env=changed,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
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
    done = process(BUCKET="Not Valid")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith('create_s3.py: Parameter validation failed: Invalid bucket name "Not Valid"')


def test_a_closed_port_is_said_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    done = process(AWS_ENDPOINT_URL="https://127.0.0.1:%d" % port)
    assert time.monotonic() - start < 15
    assert done.code == 2
    assert "Could not connect to the endpoint URL: " in done.err
    assert "127.0.0.1:%d" % port in done.err


def test_the_program_says_which_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise ImportError(\"No module named 'boto3'\")\n")
    done = process(PYTHONPATH=str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert done.err == "create_s3.py: No module named 'boto3'; try: pip install -r requirements.txt\n"
