#!/usr/bin/env python
"""Makes the S3 bucket of the data lake, protects it and uploads the job.

    python create_s3.py             make it; run again, it changes only what differs
    python create_s3.py --dry-run   say what would be done
    python create_s3.py --delete    remove it, when the lake is no longer in it

Exit codes: 0 done; 2 wrong usage or environment.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import sys
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

try:
    import boto3
    from botocore.config import Config as ClientConfig
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as NoConnectionError

    import etl  # the script to upload, and how dl.cfg is read
except ImportError as missing:
    sys.stderr.write("create_s3.py: %s; try: pip install -r requirements.txt\n" % missing)
    sys.exit(2)

# ------------------------------------------------------------------------------------ what is made, as data

SETTINGS = (
    etl.Setting("bucket", "S3", "the bucket", {"": "sparkify-dl-sp"}),
    etl.Setting("script", "S3", "where the job goes in it", {"": "sparkify-scripts/spark-etl.py"}),
)

LOGS = "emr-logs/"  # of clusters; not logs/, where somebody may keep the input
TLS_ONLY = "SparkifyTlsOnly"
BLOCKED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
ENCRYPTED = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
RULES: List[Dict[str, Any]] = [
    {
        "ID": "sparkify-abort-uploads",  # a killed Spark job leaves some, invisible and paid for
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    },
    {"ID": "sparkify-expire-logs", "Status": "Enabled", "Filter": {"Prefix": LOGS}, "Expiration": {"Days": 30}},
]

# What each question and change needs. AWS names them unlike its operations.
PERMISSIONS = {
    "ListBuckets": "s3:ListAllMyBuckets",
    "HeadBucket": "s3:ListBucket",
    "GetBucketLocation": "s3:GetBucketLocation",
    "CreateBucket": "s3:CreateBucket",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "GetBucketPolicy": "s3:GetBucketPolicy",
    "PutBucketPolicy": "s3:PutBucketPolicy",
    "DeleteBucketPolicy": "s3:DeleteBucketPolicy",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "s3:PutLifecycleConfiguration",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "ListObjectVersions": "s3:ListBucketVersions",
    "DeleteObject": "s3:DeleteObject",
    "DeleteBucket": "s3:DeleteBucket",
}
ABSENT = {
    "NoSuchBucket",
    "NoSuchKey",
    "NoSuchPublicAccessBlockConfiguration",
    "ServerSideEncryptionConfigurationNotFoundError",
    "NoSuchBucketPolicy",
    "NoSuchLifecycleConfiguration",
}
UNSUPPORTED = {"NotImplemented", "MethodNotAllowed"}  # how S3-compatible stores say that they lack a setting

# ------------------------------------------------------------------------------------ settings


class Config(NamedTuple):
    """The settings of one run."""

    bucket: str
    script: str
    region: str  # "" is the profile's or the default
    dry_run: bool = False
    delete: bool = False
    yes: bool = False
    aws: etl.Secrets = etl.Secrets()  # of dl.cfg
    endpoint: str = ""  # of an S3-compatible store


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; argparse itself exits with 2 and a sentence on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="create_s3.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make the S3 bucket of the Sparkify data lake, protect it and upload the job.",
        epilog=HELP_EPILOG,
    )
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: dl.cfg here or beside etl.py)")
    for setting in SETTINGS:
        help_text = setting.help + etl.default_text(setting)
        parser.add_argument("--" + setting.name, metavar="NAME" if setting.name == "bucket" else "KEY", help=help_text)
    parser.add_argument(
        "--region", metavar="NAME", help="where a new bucket is made (default: %s)" % etl.DEFAULT_REGION
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and change nothing")
    parser.add_argument("--delete", action="store_true", help="remove script and bucket, unless anything else is in it")
    parser.add_argument("--yes", action="store_true", help="with --delete: do not ask for the bucket's name")
    options, unknown = parser.parse_known_args(argv)
    if unknown:  # names only: a value may be a secret that was given in good faith
        parser.error("unknown option: %s" % unknown[0].split("=")[0])
    if options.yes and not options.delete:
        parser.error("--yes goes with --delete")
    return options


HELP_EPILOG = """\
A flag beats the environment variable (BUCKET, SCRIPT, AWS_REGION or AWS_DEFAULT_REGION), which beats
dl.cfg, which beats the default. Credentials come from the environment, a profile or an instance's
role, else from [AWS] in dl.cfg. AWS_ENDPOINT_URL points to an S3-compatible store.

exit codes:
  0  done
  2  wrong usage or environment
"""


def configure(argv: Sequence[str], env: Mapping[str, str]) -> Config:
    """Merge flags, environment, dl.cfg and defaults, in this order, into a Config.

    Raises UsageError for names that S3 would not take and whatever etl.read_config_file refuses.
    """
    flags = arguments(argv)
    values = etl.read_config_file(etl.config_file(flags.config))
    bucket, script = (etl.lookup(setting, flags, env, values, "") for setting in SETTINGS)
    config = Config(
        bucket=bucket,
        script=script,
        region=(flags.region or "").strip() or etl.region_name(env, values),
        dry_run=flags.dry_run,
        delete=flags.delete,
        yes=flags.yes,
        aws=etl.secrets_of_file(values),
        endpoint=etl.endpoint_url(env),
    )
    refuse_names(config)
    return config


def refuse_names(config: Config) -> None:
    """Raise UsageError for a bucket or script name that S3 or Spark would refuse later, and less clearly."""
    if not re.fullmatch(r"(?=.{3,63}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", config.bucket):
        rule = "it takes 3 to 63 lower-case letters, digits, hyphens and single dots, a letter or digit at both ends"
        raise etl.UsageError("the bucket name %s is not valid: %s" % (config.bucket, rule))
    if re.match(r"[\d.]+$|xn--|sthree-|amzn-s3-demo-", config.bucket) and not config.bucket.isdigit():
        raise etl.UsageError("the bucket name %s is not valid: S3 keeps such names for itself" % config.bucket)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.py", config.script, re.ASCII):
        rule = "folders and a name that ends in .py, of letters, digits, dots, hyphens and underscores"
        raise etl.UsageError("the script %s is not valid: it takes %s" % (config.script, rule))
    if config.script.startswith(LOGS):
        raise etl.UsageError("the script %s lies in %s, where logs are removed after a while" % (config.script, LOGS))


# ------------------------------------------------------------------------------------ credentials and client

SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CREDENTIAL = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|(?i:aws_secret_access_key|aws_session_token)\W{1,6}[\w/+]{40}")
SHORTEST_SECRET = 12  # an S3-compatible store on a laptop may have the secret "test", which every text holds


def open_session(aws: Mapping[str, str]) -> boto3.Session:
    """A session with the credentials of boto3's own chain, else with dl.cfg's; raises UsageError without any."""
    session = boto3.Session()
    if session.get_credentials() is not None:
        return session
    if not aws.get("AWS_ACCESS_KEY_ID") or not aws.get("AWS_SECRET_ACCESS_KEY"):
        raise etl.UsageError(etl.NO_CREDENTIALS)
    return boto3.Session(*(aws.get(key) for key in SECRET_KEYS))


def secrets(config: Config, env: Mapping[str, str]) -> List[str]:
    """What may neither be printed nor uploaded: the credentials of dl.cfg and of the environment."""
    places: Sequence[Mapping[str, str]] = (config.aws, env)
    return long_enough(place.get(key, "") for place in places for key in SECRET_KEYS)


def secrets_of(session: boto3.Session) -> List[str]:
    """The credentials in use, which may come from a profile or a role."""
    used = session.get_credentials().get_frozen_credentials()
    return long_enough([used.access_key, used.secret_key, used.token or ""])


def long_enough(values: Iterable[str]) -> List[str]:
    """The values that are nothing but a secret."""
    stripped = (value.strip() for value in values)
    return [value for value in stripped if len(value) >= SHORTEST_SECRET]


def connect(session: boto3.Session, config: Config, region: str) -> Any:
    """An S3 client that gives up within seconds; raises UsageError for a region or endpoint that cannot be one."""
    settings = ClientConfig(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 3},
        s3={"addressing_style": "path"} if config.endpoint else {},  # <bucket>.<host> has no address there
    )
    try:
        return session.client("s3", region_name=region, config=settings)
    except ValueError as error:
        raise etl.UsageError("%s" % error) from None


# ------------------------------------------------------------------------------------ the bucket


class LeftOutError(Exception):
    """A setting that this store cannot have; the message says why."""


class Change(NamedTuple):
    """A call that is yet to be made."""

    text: str  # what it does, as a participle: "blocked"
    operation: str
    arguments: Dict[str, Any]


class Bucket:
    """A bucket of ours, or a name that is free: every question and every change goes through here."""

    def __init__(self, client: Any, config: Config) -> None:
        self.client, self.name, self.dry_run = client, config.bucket, config.dry_run

    def ask(self, operation: str, **arguments: Any) -> Dict[str, Any]:
        """The answer to a question, {} where what is asked for is not there or cannot be there."""
        try:
            answer: Dict[str, Any] = getattr(self.client, operation)(Bucket=self.name, **arguments)
            return answer
        except ClientError as error:
            if code_of(error) in ABSENT | UNSUPPORTED:
                return {}
            raise

    def apply(self, what: str, change: Optional[Change]) -> None:
        """Make a change, or with --dry-run say that it would be made."""
        if change is None:
            say("%s: unchanged" % what)
        elif self.dry_run:
            say("%s: would be %s" % (what, change.text))
        else:
            getattr(self.client, change.operation)(Bucket=self.name, **change.arguments)
            say("%s: %s" % (what, change.text))

    def region(self) -> Optional[str]:
        """The region of a bucket of ours, None for any other name.

        Only the list of one's own buckets tells: somebody else's may be open to everybody. It is also the first
        call, and the answer to a HEAD request would not say what is wrong with the credentials.
        """
        pages = self.client.get_paginator("list_buckets").paginate(Prefix=self.name)
        found = next((b for page in pages for b in page.get("Buckets", []) if b["Name"] == self.name), None)
        if found is None:
            return None
        return found.get("BucketRegion") or self.ask("get_bucket_location").get("LocationConstraint") or "us-east-1"

    def refuse_if_taken(self) -> None:
        """Raise UsageError where the name, which is not ours, is somebody else's."""
        try:
            self.client.head_bucket(Bucket=self.name)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 404:
                return
            if status not in (301, 403):
                raise
        advice = "choose another name with --bucket or [S3] BUCKET of dl.cfg"
        raise etl.UsageError("the bucket %s belongs to somebody else: %s" % (self.name, advice))


def find_bucket(session: boto3.Session, config: Config) -> Tuple[Bucket, bool]:
    """The bucket and whether it is there, seen from its own region whatever the settings say.

    Raises UsageError where it is somebody else's.
    """
    wanted = config.region or session.region_name or etl.DEFAULT_REGION
    bucket = Bucket(connect(session, config, wanted), config)
    region = bucket.region()
    if region is None:
        bucket.refuse_if_taken()
        return bucket, False
    if region == wanted:
        say("bucket %s: already yours, in %s" % (config.bucket, region))
        return bucket, True
    say("bucket %s: already yours, in %s, not in %s as the settings say" % (config.bucket, region, wanted))
    return Bucket(connect(session, config, region), config), True


# ------------------------------------------------------------------------------------ what to change, not yet done


def creation(region: str) -> Change:
    """Make the bucket. Only us-east-1 may not be named: it is what no constraint means."""
    place = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    return Change("made in %s" % region, "create_bucket", {} if region == "us-east-1" else place)


def tls_only(bucket: Bucket) -> Optional[Change]:
    """Refuse requests without TLS, beside the statements of the user's policy."""
    if bucket.client.meta.endpoint_url.startswith("http://"):
        raise LeftOutError("%s has no TLS and the policy would lock everybody out" % bucket.client.meta.endpoint_url)
    arn = "arn:%s:s3:::%s" % (bucket.client.meta.partition, bucket.name)
    statement = {
        "Sid": TLS_ONLY,
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, arn + "/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    policy = read_policy(bucket)
    kept = without(policy["Statement"], "Sid", [TLS_ONLY])
    if same(policy["Statement"], [*kept, statement]):
        return None
    text = "changed to refuse requests without TLS" + kept_text(kept, "statement")
    return policy_change(text, policy, [*kept, statement])


def public_access_block(bucket: Bucket) -> Optional[Change]:
    """Close every way in which the bucket could become public."""
    found = bucket.ask("get_public_access_block").get("PublicAccessBlockConfiguration")
    if found == BLOCKED:
        return None
    return Change("blocked", "put_public_access_block", {"PublicAccessBlockConfiguration": BLOCKED})


def encryption(bucket: Bucket) -> Optional[Change]:
    """Encrypt by default with S3's keys, unless the user has chosen a way (a KMS key)."""
    if bucket.ask("get_bucket_encryption"):
        return None
    return Change("set to SSE-S3", "put_bucket_encryption", {"ServerSideEncryptionConfiguration": ENCRYPTED})


def lifecycle(bucket: Bucket) -> Optional[Change]:
    """Abort what dead jobs have begun to upload and remove old cluster logs, beside the user's rules."""
    found = bucket.ask("get_bucket_lifecycle_configuration")
    rules = found.get("Rules", [])
    kept = without(rules, "ID", [rule["ID"] for rule in RULES])
    if same(rules, kept + RULES):
        return None
    text = "set to abort uploads after 7 days and remove %s after 30" % LOGS + kept_text(kept, "rule")
    return lifecycle_change(text, found, kept + RULES)


PROTECTION: Dict[str, Callable[[Bucket], Optional[Change]]] = {
    "policy": tls_only,
    "public access": public_access_block,
    "encryption": encryption,
    "lifecycle": lifecycle,
}


def read_policy(bucket: Bucket) -> Dict[str, Any]:
    """The bucket's policy, its statements a list; without one, an empty one."""
    policy: Dict[str, Any] = json.loads(bucket.ask("get_bucket_policy").get("Policy", "{}"))
    found = policy.get("Statement", [])
    return {"Version": "2012-10-17", **policy, "Statement": found if isinstance(found, list) else [found]}


def policy_change(text: str, policy: Mapping[str, Any], statements: Sequence[Any]) -> Change:
    """Replace the statements of a policy; without any, there is none."""
    if not statements:
        return Change(text, "delete_bucket_policy", {})
    return Change(text, "put_bucket_policy", {"Policy": json.dumps({**policy, "Statement": statements})})


def lifecycle_change(text: str, found: Mapping[str, Any], rules: Sequence[Dict[str, Any]]) -> Change:
    """Replace the rules of a lifecycle configuration; without any, there is none."""
    if not rules:
        return Change(text, "delete_bucket_lifecycle", {})
    arguments: Dict[str, Any] = {"LifecycleConfiguration": {"Rules": [with_filter(rule) for rule in rules]}}
    size = "TransitionDefaultMinimumObjectSize"  # unless it is sent back, S3 resets it
    return Change(
        text, "put_bucket_lifecycle_configuration", {**arguments, **{k: found[k] for k in [size] if k in found}}
    )


def with_filter(rule: Mapping[str, Any]) -> Dict[str, Any]:
    """A rule in the newer of S3's two notations, which cannot be mixed."""
    rest = {key: value for key, value in rule.items() if key != "Prefix"}
    return {**rest, "Filter": {"Prefix": rule["Prefix"]}} if "Prefix" in rule else rest


def without(items: Iterable[Dict[str, Any]], key: str, names: Sequence[str]) -> List[Dict[str, Any]]:
    """The items that are not ours."""
    return [item for item in items if item.get(key) not in names]


def same(found: Any, wanted: Any) -> bool:
    """Whether two settings mean the same: S3 may reorder lists, unpack those of one value and drop what is empty."""
    return bool(plain(found) == plain(wanted))


def plain(value: Any) -> Any:
    """A setting in the one notation that can be compared."""
    if isinstance(value, dict):
        items = {key: plain(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item not in ("", {}, [])}
    if isinstance(value, list):
        several = sorted((plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
        return several[0] if len(several) == 1 else several
    return value


def kept_text(kept: Sequence[Any], noun: str) -> str:
    """What is said about the user's own settings."""
    return ", beside your own %s%s" % ("%d %s" % (len(kept), noun), "s" * (len(kept) > 1)) if kept else ""


# ------------------------------------------------------------------------------------ making it


def make(bucket: Bucket, there: bool, config: Config, body: bytes) -> None:
    """Everything in order; what is as it should be is left alone."""
    if not there:
        bucket.apply("bucket %s" % bucket.name, creation(bucket.client.meta.region_name))
        if not config.dry_run:
            wait = {"Delay": 1, "MaxAttempts": 20}
            bucket.client.get_waiter("bucket_exists").wait(Bucket=bucket.name, WaiterConfig=wait)
    protect(bucket)
    upload(bucket, config.script, body)
    say(next_command(config))


def protect(bucket: Bucket) -> None:
    """Bring every setting to what it should be."""
    for what, wanted in PROTECTION.items():
        try_to_apply(bucket, what, wanted)


def try_to_apply(bucket: Bucket, what: str, wanted: Callable[[Bucket], Optional[Change]]) -> None:
    """Bring a setting to what it should be; an S3-compatible store may lack it."""
    try:
        bucket.apply(what, wanted(bucket))
    except LeftOutError as reason:
        say("%s: left out, %s" % (what, reason))
    except ClientError as error:
        if code_of(error) not in UNSUPPORTED:
            raise
        say("%s: left out, this store has no such setting" % what)


def upload(bucket: Bucket, key: str, body: bytes) -> None:
    """Upload the script unless it is there; then read it back. Raises UsageError where something else has arrived."""
    what = "script s3://%s/%s" % (bucket.name, key)
    if download(bucket, key) == body:
        bucket.apply(what, None)
        return
    checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()  # S3 refuses what does not arrive whole
    arguments = {"Key": key, "Body": body, "ContentType": "text/x-python", "ChecksumSHA256": checksum}
    bucket.apply(what, Change("uploaded", "put_object", arguments))
    if not bucket.dry_run:
        arrived = download(bucket, key)
        if arrived != body:
            raise etl.UsageError(
                "%s: sent %s, but arrived %s" % (what, size_and_checksum(body), size_and_checksum(arrived))
            )
        say("%s: verified, %s" % (what, size_and_checksum(arrived)))


def download(bucket: Bucket, key: str) -> bytes:
    """An object's content, empty where it is not there."""
    found = bucket.ask("get_object", Key=key)
    return bytes(found["Body"].read()) if found else b""


def size_and_checksum(body: bytes) -> str:
    """What identifies a content to people."""
    return "%d bytes, sha256 %s" % (len(body), hashlib.sha256(body).hexdigest())


def read_script(path: str, forbidden: Sequence[str]) -> bytes:
    """The script's content; raises UsageError where it holds a credential, which anybody with the bucket could read."""
    with open(path, "rb") as file:
        body = file.read()
    for number, line in enumerate(body.decode("utf-8", "replace").splitlines(), 1):
        if CREDENTIAL.search(line) or any(secret in line for secret in forbidden):
            raise etl.UsageError(
                "%s holds a credential in line %d: nothing was uploaded" % (os.path.basename(path), number)
            )
    return body


def next_command(config: Config) -> str:
    """What to do with it; etl_job.sh does not know this command's flags."""
    places = zip(SETTINGS, (config.bucket, config.script))
    named = ["%s=%s " % (setting.name.upper(), place) for setting, place in places if place != setting.default[""]]
    return "next: %s./etl_job.sh" % "".join(named)


# ------------------------------------------------------------------------------------ removing it


def remove(bucket: Bucket, there: bool, config: Config) -> None:
    """Remove the script and our settings, and the bucket unless it has settings of the user's.

    Raises UsageError, and removes nothing, where there is more in it or the user does not confirm.
    """
    if not there:
        say("bucket %s: is not there" % bucket.name)
        return
    refuse_contents(bucket, config.script)
    if not (config.yes or config.dry_run):
        confirm(bucket.name)
    if download(bucket, config.script):
        bucket.apply("script s3://%s/%s" % (bucket.name, config.script), removal("delete_object", Key=config.script))
    policy, found = read_policy(bucket), bucket.ask("get_bucket_lifecycle_configuration")
    statements = without(policy["Statement"], "Sid", [TLS_ONLY])
    rules = without(found.get("Rules", []), "ID", [rule["ID"] for rule in RULES])
    if not statements and not rules:
        bucket.apply("bucket %s" % bucket.name, removal("delete_bucket"))
        return
    if len(statements) < len(policy["Statement"]):
        bucket.apply("policy", policy_change("rid of our statement", policy, statements))
    if len(rules) < len(found.get("Rules", [])):
        bucket.apply("lifecycle", lifecycle_change("rid of our rules", found, rules))
    say("bucket %s: kept, with public access blocked, since it has a policy or lifecycle rules of yours" % bucket.name)


def removal(operation: str, **arguments: Any) -> Change:
    """A change that removes something."""
    return Change("removed", operation, arguments)


def refuse_contents(bucket: Bucket, script: str) -> None:
    """Raise UsageError where the bucket holds more than the script: a lake, logs, older versions of anything."""
    found = bucket.ask("list_object_versions", MaxKeys=2)
    entries = found.get("Versions", []) + found.get("DeleteMarkers", [])
    others = [entry for entry in entries if (entry["Key"], entry["VersionId"]) != (script, "null")]
    if others:
        raise etl.UsageError(
            "the bucket %s is not empty, it holds for instance %s: nothing was removed; if nobody needs that any more,"
            " empty it first: aws s3 rm --recursive s3://%s (old versions: with the S3 console's Empty button)"
            % (bucket.name, others[0]["Key"], bucket.name)
        )


def confirm(name: str) -> None:
    """Raise UsageError unless the user types the bucket's name."""
    try:
        answer = input("Type the name of the bucket to remove it: ")
    except EOFError:
        answer = ""
    if answer.strip() != name:
        raise etl.UsageError("not confirmed: nothing was removed (--yes does not ask)")


# ------------------------------------------------------------------------------------ main

EXPLANATIONS = {
    **etl.S3_REFUSALS,
    "BucketAlreadyExists": "the bucket belongs to somebody else: choose another name with --bucket",
    "BucketNotEmpty": "the bucket is no longer empty and was kept",
    "OperationAborted": "S3 is still busy with this bucket's name: try again later (after a removal, up to an hour)",
}


def code_of(error: ClientError) -> str:
    """The code of an error of S3's; the answer to a HEAD request has only a status."""
    return str(error.response["Error"]["Code"])


def explain(error: Exception) -> str:
    """An error of S3 or of the road there as one sentence."""
    if isinstance(error, ClientError):
        code = code_of(error)
        if code in ("AccessDenied", "403"):
            needed = PERMISSIONS.get(error.operation_name, error.operation_name)
            return "no permission: the credentials in use lack %s (docs/s3.md lists all that is needed)" % needed
        message = error.response["Error"].get("Message", "")
        return EXPLANATIONS.get(code) or "S3 refused %s: %s (%s)" % (error.operation_name, message, code)
    if isinstance(error, (HTTPClientError, NoConnectionError)):
        return "S3 cannot be reached, check the network, the region and AWS_ENDPOINT_URL: %s" % error
    return str(error)


def redacted(sentence: str, forbidden: Iterable[str]) -> str:
    """A sentence on one line, without secrets: an error may quote the request that it is about."""
    for secret in forbidden:
        sentence = sentence.replace(secret, "***")
    return re.sub(r"//[^/@\s]*@", "//***@", " ".join(sentence.split()))


def run(config: Config, forbidden: Sequence[str]) -> None:
    """Do what the flags ask for; raises UsageError and whatever boto3 raises."""
    session = open_session(config.aws)
    body = b"" if config.delete else read_script(etl.__file__, [*forbidden, *secrets_of(session)])
    bucket, there = find_bucket(session, config)
    if config.delete:
        remove(bucket, there, config)
    else:
        make(bucket, there, config, body)


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    forbidden: List[str] = []
    try:
        config = configure(argv, os.environ)
        forbidden = secrets(config, os.environ)
        run(config, forbidden)
        return 0
    except (etl.UsageError, BotoCoreError, ClientError, OSError) as error:
        return complain(redacted(explain(error), forbidden), 2)
    except KeyboardInterrupt:
        return complain("interrupted; run it again to finish", 130)


def say(line: str) -> None:
    """Print what was done."""
    print(line, flush=True)


def complain(sentence: str, code: int) -> int:
    """Print one sentence to stderr and return the exit code."""
    sys.stderr.write("create_s3.py: %s\n" % sentence)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
