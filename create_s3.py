#!/usr/bin/env python
"""Makes the S3 bucket of the data lake, protects it and uploads the job.

    python create_s3.py             make the bucket, or change what differs
    python create_s3.py --dry-run   print what would be done

Exit codes: 0 done; 2 wrong usage or environment.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import shlex
import sys
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

try:
    import boto3
    from botocore.config import Config as ClientConfig
    from botocore.exceptions import BotoCoreError, ClientError

    import etl  # the script to upload, and how dl.cfg is read
except ImportError as missing:
    sys.stderr.write("create_s3.py: %s; try: pip install -r requirements.txt\n" % missing)
    sys.exit(2)

BUCKET = etl.Setting("bucket", "S3", "the bucket", {"": "sparkify-dl-sp"})
SCRIPT = etl.Setting("script", "S3", "the job's name in the bucket", {"": "sparkify-scripts/spark-etl.py"})
START = os.path.join(os.path.dirname(os.path.abspath(__file__)), "emr", "open-files.sh")  # etl_job.sh says who runs it
LOGS = "emr-logs/"  # of clusters; not logs/, where somebody may keep the input

# ------------------------------------------------------------------------------------ settings


class Config(NamedTuple):
    """The settings of one run."""

    bucket: str
    script: str
    lake: str
    region: str
    file: str  # dl.cfg, "" for none
    aws: etl.Secrets  # of it
    endpoint: str  # of an S3-compatible store
    dry_run: bool


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; argparse itself exits with 2 and a sentence on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="create_s3.py",
        allow_abbrev=False,
        description="Make the S3 bucket of the Sparkify data lake, protect it and upload the job.",
        epilog="A flag beats the environment variable (BUCKET, AWS_REGION or AWS_DEFAULT_REGION), which beats dl.cfg,"
        " which beats the default. Credentials come from the environment, a profile or an instance's role, else from"
        " [AWS] in dl.cfg. AWS_ENDPOINT_URL points to an S3-compatible store.",
    )
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: dl.cfg here or beside etl.py)")
    parser.add_argument("--bucket", metavar="NAME", help=BUCKET.help + etl.default_text(BUCKET))
    parser.add_argument("--region", metavar="NAME", help="region of a new bucket (default: %s)" % etl.DEFAULT_REGION)
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and change nothing")
    parser.add_argument("--print-settings", action="store_true", help="print dl.cfg's settings for etl_job.sh")
    options, unknown = parser.parse_known_args(argv)
    if unknown:  # names only: a value may be a secret that was given in good faith
        parser.error("unknown option: %s" % unknown[0].split("=")[0])
    return options


def configure(flags: argparse.Namespace, env: Mapping[str, str]) -> Config:
    """Merge flags, environment, dl.cfg and defaults, in this order. SCRIPT and OUTPUT are read from dl.cfg only, since
    other programs export such variables too.
    """
    path = etl.config_file(flags.config)
    values = etl.read_config_file(path)
    bucket = etl.lookup(BUCKET, flags, env, values, "")
    script = etl.lookup(SCRIPT, argparse.Namespace(script=None), {}, values, "")
    if not script.endswith(".py"):
        raise etl.UsageError("[S3] SCRIPT is %s; its name must end in .py, for spark-submit" % script)
    return Config(
        bucket=bucket,
        script=script,
        lake=lake_of(bucket, values),
        region=flags.region or etl.region_name(env, values) or boto3.Session().region_name or etl.DEFAULT_REGION,
        file=os.path.abspath(path) if path else "",
        aws=etl.secrets_of_file(values),
        endpoint=etl.endpoint_url(env),
        dry_run=flags.dry_run,
    )


def lake_of(bucket: str, values: Mapping[Tuple[str, str], str]) -> str:
    """Where the lake is: in the bucket, unless [S3] OUTPUT of dl.cfg says otherwise."""
    return values.get(("S3", "OUTPUT")) or "s3://%s/sparkify-data" % bucket


def print_settings(config: Config, env: Mapping[str, str]) -> None:
    """Print the settings for etl_job.sh as shell assignments, without secrets."""
    job = etl.configure(["--mode=S3", "--output", config.lake, "--config", config.file or os.devnull], env)
    for name in ("song_data", "log_data", "output"):
        if not etl.bucket_of(getattr(job, name)):
            raise etl.UsageError("%s is %s; for a cluster it must be in S3" % (name, getattr(job, name)))
    settings = {
        "BUCKET": config.bucket,
        "SCRIPT": config.script,
        "CHECKSUM": checksum(read(etl.__file__, [])),
        "SONG_DATA": job.song_data,
        "LOG_DATA": job.log_data,
        "OUTPUT": job.output,
        "MAX_BAD_PERCENT": "%g" % job.max_bad_percent,
        "REGION": config.region,
    }
    for name, value in settings.items():
        say("%s=%s" % (name, shlex.quote(value)))
    if all(config.aws.get(key) for key in SECRET_KEYS[:2]) and boto3.Session().get_credentials() is None:
        # To the aws CLI dl.cfg is a file of profiles, of which one is called AWS
        say("export AWS_SHARED_CREDENTIALS_FILE=%s AWS_PROFILE=AWS" % shlex.quote(config.file))


# ------------------------------------------------------------------------------------ credentials

SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CREDENTIAL = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|(?i:aws_secret_access_key|aws_session_token)\W{1,6}[\w/+]{40}")
SHORTEST_SECRET = 12  # an S3-compatible store on a laptop may have the secret "test", which every text holds


def open_session(aws: Mapping[str, str]) -> boto3.Session:
    """A session with the credentials of boto3's own chain, else with dl.cfg's; raises UsageError without any."""
    session = boto3.Session()
    if session.get_credentials() is not None:
        return session
    if not all(aws.get(key) for key in SECRET_KEYS[:2]):
        raise etl.UsageError(etl.NO_CREDENTIALS)
    return boto3.Session(*(aws.get(key) for key in SECRET_KEYS))


def secrets_of(session: boto3.Session) -> List[str]:
    """The credentials in use, which may come from a profile or a role."""
    used = session.get_credentials().get_frozen_credentials()
    return long_enough([used.access_key, used.secret_key, used.token or ""])


def long_enough(values: Iterable[str]) -> List[str]:
    """The values that are long enough to be a secret."""
    stripped = (value.strip() for value in values)
    return [value for value in stripped if len(value) >= SHORTEST_SECRET]


def redacted(sentence: str, forbidden: Iterable[str]) -> str:
    """A message on one line, without secrets: an error may quote its request."""
    for secret in forbidden:
        sentence = sentence.replace(secret, "***")
    return re.sub(r"//[^/@\s]*@", "//***@", " ".join(sentence.split()))


# ------------------------------------------------------------------------------------ the bucket


class Bucket:
    """The bucket, or a free name for it: all requests about it go through here."""

    def __init__(self, session: boto3.Session, config: Config) -> None:
        self.session, self.config, self.name = session, config, config.bucket
        self.client = self.connect("s3", config.region)
        self.account = self.find_account()
        # S3 then refuses every request to another account's bucket, even one that is open to everybody
        self.owner = {"ExpectedBucketOwner": self.account} if self.account else {}

    def connect(self, service: str, region: str) -> Any:
        """A client that gives up within seconds; raises UsageError for a region or endpoint that cannot be one."""
        settings = ClientConfig(
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": 3},
            s3={"addressing_style": "path"} if self.config.endpoint else {},  # <bucket>.<host> has no address there
        )
        try:
            return self.session.client(service, region_name=region, config=settings)
        except ValueError as error:
            raise etl.UsageError("%s" % error) from None

    def find_account(self) -> str:
        """The number of the account, "" for a store that knows none."""
        try:
            return str(self.connect("sts", self.config.region).get_caller_identity()["Account"])
        except (ClientError, BotoCoreError):
            if self.config.endpoint:
                return ""
            raise

    def ask(self, operation: str, **arguments: Any) -> Dict[str, Any]:
        """The answer to a read request, {} if the resource does not exist."""
        try:
            answer: Dict[str, Any] = getattr(self.client, operation)(Bucket=self.name, **self.owner, **arguments)
            return answer
        except ClientError as error:
            if re.match("404|NoSuch|ServerSideEncryptionConfigurationNotFound", code_of(error)):
                return {}
            raise

    def apply(self, what: str, text: str, operation: str, **arguments: Any) -> None:
        """Make a change, or with --dry-run print that it would be made; `text` is a participle: "blocked"."""
        if not self.config.dry_run:
            getattr(self.client, operation)(Bucket=self.name, **arguments)
        say("%s: %s%s" % (what, "would be " if self.config.dry_run else "", text))

    def find(self) -> bool:
        """Whether it exists; later requests go to its region. Raises UsageError if it belongs to another account."""
        wanted = self.config.region
        try:
            answer = self.ask("head_bucket")
        except ClientError as error:
            if code_of(error) not in ("403", "301"):
                raise
            if not self.account:
                self.client.get_bucket_location(Bucket=self.name)  # its refusal, unlike that of a HEAD, has a reason
            own = "%s-%s-%s-an" % (self.name, self.account or "<account>", wanted)
            raise etl.UsageError(
                "the bucket %s belongs to another account, or the credentials in use lack s3:ListBucket: choose another"
                " name ([S3] BUCKET of dl.cfg), for instance %s, which only your account can have" % (self.name, own)
            ) from None
        if not answer:
            return False
        region = answer.get("BucketRegion") or wanted
        say("bucket %s: exists, in %s" % (self.name, region))
        self.client = self.connect("s3", region)
        return True

    def make(self) -> None:
        """Make it. us-east-1 must not be named: it is the default when there is no constraint."""
        region = self.config.region
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        own = {"BucketNamespace": "account-regional"} if re.search(r"-\d{12}-[a-z0-9-]+-an$", self.name) else {}
        self.apply("bucket %s" % self.name, "made in %s" % region, "create_bucket", **place, **own)
        if not self.config.dry_run:
            wait = {"Delay": 1, "MaxAttempts": 20}
            self.client.get_waiter("bucket_exists").wait(Bucket=self.name, **self.owner, WaiterConfig=wait)

    def upload(self, key: str, body: bytes) -> None:
        """Upload a file that differs from the one in the bucket. S3 refuses one that does not match its checksum."""
        what, wanted = "s3://%s/%s" % (self.name, key), checksum(body)
        if self.ask("head_object", Key=key, ChecksumMode="ENABLED").get("ChecksumSHA256") == wanted:
            say("%s: unchanged" % what)
            return
        text = "uploaded, %d bytes, sha256 %s" % (len(body), wanted)
        proof = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": wanted}
        self.apply(what, text, "put_object", Key=key, Body=body, **proof, **self.owner)


# ------------------------------------------------------------------------------------ how it is protected

Record = Dict[str, Any]
# Of a setting: the value found, the wanted value, the request that sets it, and a description of the change
State = Tuple[Any, Any, Record, str]


def bucket_policy(answer: Record, arn: str) -> State:
    """Refuse requests without TLS; the user's own statements stay."""
    sid, everything = "SparkifyTlsOnly", {"Principal": "*", "Action": "s3:*", "Resource": [arn, arn + "/*"]}
    statement = {"Sid": sid, "Effect": "Deny", **everything, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    found = json.loads(answer.get("Policy", "{}"))
    parts = found.get("Statement", [])
    kept = [part for part in (parts if isinstance(parts, list) else [parts]) if part.get("Sid") != sid]
    wanted = {"Version": "2012-10-17", **found, "Statement": [*kept, statement]}
    return found, wanted, {"Policy": json.dumps(wanted)}, "changed to refuse requests without TLS"


def public_access_block(answer: Record, arn: str) -> State:
    """Block all public access."""
    ways = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    key, wanted = "PublicAccessBlockConfiguration", dict.fromkeys(ways, True)
    return answer.get(key), wanted, {key: wanted}, "blocked"


def bucket_encryption(answer: Record, arn: str) -> State:
    """Encrypt by default with S3's keys, unless the user has chosen another encryption (a KMS key)."""
    ours = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    found = answer.get("ServerSideEncryptionConfiguration")
    return found, found or ours, {"ServerSideEncryptionConfiguration": ours}, "set to SSE-S3"


def bucket_lifecycle_configuration(answer: Record, arn: str) -> State:
    """Abort unfinished uploads of killed jobs, invisible but billed, and expire old logs; other rules stay."""
    abort = {"Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}
    expire = {"Filter": {"Prefix": LOGS}, "Expiration": {"Days": 30}}
    ours = {"sparkify-abort-uploads": abort, "sparkify-expire-logs": expire}
    wanted = [dict(rule) for rule in answer.get("Rules", []) if rule.get("ID") not in ours]
    for rule in wanted:
        if "Prefix" in rule:  # the older of S3's two notations, which must not be mixed
            rule["Filter"] = {"Prefix": rule.pop("Prefix")}
    wanted += [{"ID": name, "Status": "Enabled", **rule} for name, rule in ours.items()]
    sent: Record = {"LifecycleConfiguration": {"Rules": wanted}}
    size = "TransitionDefaultMinimumObjectSize"  # unless it is sent back, S3 resets it
    sent.update({key: answer[key] for key in [size] if key in answer})
    return answer.get("Rules"), wanted, sent, "set to abort uploads after 7 days and remove %s after 30" % LOGS


# Named as S3's operations are
PROTECTION = (bucket_policy, public_access_block, bucket_encryption, bucket_lifecycle_configuration)


def protect(bucket: Bucket) -> None:
    """Bring every setting to its wanted value. An S3-compatible store may lack one."""
    arn = "arn:%s:s3:::%s" % (bucket.client.meta.partition, bucket.name)
    for setting in PROTECTION:
        name = setting.__name__
        what = name.replace("bucket_", "").replace("_", " ")
        if setting is bucket_policy and bucket.config.endpoint.startswith("http://"):
            say("policy: skipped, since it would lock everybody out of a store without TLS")
            continue
        try:
            found, wanted, sent, text = setting(bucket.ask("get_" + name), arn)
            if plain(found) == plain(wanted):
                say("%s: unchanged" % what)
            else:
                bucket.apply(what, text, "put_" + name, **sent, **bucket.owner)
        except ClientError as error:
            if code_of(error) not in ("NotImplemented", "MethodNotAllowed"):
                raise
            say("%s: skipped, since this store does not support it" % what)


def plain(value: Any) -> Any:
    """A setting in canonical form: S3 may reorder lists, unpack those of one value and drop empty values."""
    if isinstance(value, dict):
        items = {key: plain(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item not in ("", {}, [])}
    if isinstance(value, list):
        several = sorted((plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
        return several[0] if len(several) == 1 else several
    return value


# ------------------------------------------------------------------------------------ main


def read(path: str, forbidden: Sequence[str]) -> bytes:
    """A file's content; raises UsageError if it contains a credential, which every reader of the bucket would see."""
    with open(path, "rb") as file:
        body = file.read()
    for number, line in enumerate(body.decode("utf-8", "replace").splitlines(), 1):
        if CREDENTIAL.search(line) or any(secret in line for secret in forbidden):
            name = os.path.basename(path)
            raise etl.UsageError("%s contains a credential in line %d: nothing was uploaded" % (name, number))
    return body


def checksum(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def code_of(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


def explain(error: Exception) -> str:
    """An error of AWS or of the network as one sentence."""
    if not isinstance(error, ClientError):
        return str(error)
    code, message = code_of(error), error.response["Error"].get("Message", "")
    known = {**etl.S3_REFUSALS, "InvalidClientTokenId": etl.S3_REFUSALS["InvalidAccessKeyId"]}
    return known.get(code) or "AWS refused %s: %s (%s)" % (error.operation_name, message, code)


def make(config: Config, forbidden: Sequence[str]) -> None:
    """Find or make the bucket, protect it, upload the job. Raises UsageError and what boto3 raises."""
    session = open_session(config.aws)
    hidden = [*forbidden, *secrets_of(session)]
    bodies = {
        config.script: read(etl.__file__, hidden),
        os.path.join(os.path.dirname(config.script), os.path.basename(START)): read(START, hidden),
    }
    bucket = Bucket(session, config)
    if not bucket.find():
        bucket.make()
    protect(bucket)
    for key, body in bodies.items():
        bucket.upload(key, body)


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    flags = arguments(argv)
    forbidden = long_enough(os.environ.get(key, "") for key in SECRET_KEYS)
    try:
        config = configure(flags, os.environ)
        forbidden += long_enough(config.aws.get(key, "") for key in SECRET_KEYS)
        if flags.print_settings:
            print_settings(config, os.environ)
        else:
            make(config, forbidden)
            say("next: %s./etl_job.sh" % ("BUCKET=%s " % shlex.quote(config.bucket) if flags.bucket else ""))
        return 0
    except (etl.UsageError, BotoCoreError, ClientError, OSError) as error:
        return complain(redacted(explain(error), forbidden), 2)
    except KeyboardInterrupt:
        return complain("interrupted; run it again to finish", 130)


def say(line: str) -> None:
    print(line, flush=True)


def complain(sentence: str, code: int) -> int:
    sys.stderr.write("create_s3.py: %s\n" % sentence)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
