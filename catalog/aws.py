"""What the commands of catalog/ and warehouse/ share: settings, clients of AWS, and errors as sentences."""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import sys
import time as clock
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

try:
    from botocore.config import Config as ClientConfig
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        CredentialRetrievalError,
        EndpointConnectionError,
        HTTPClientError,
    )

    import create_s3
    import etl
except ImportError as missing:
    sys.stderr.write("%s; in the project's folder, try: pip install -r requirements.txt\n" % missing)
    sys.exit(2)

Record = Dict[str, Any]
POLICY_NAME = "sparkify"  # of the policy in a role
OUTPUT = etl.Setting("output", "MODE", "folder of the lake, in S3", {})
CODES = {
    **etl.S3_REFUSALS,
    "UnrecognizedClientException": etl.S3_REFUSALS["InvalidAccessKeyId"],
    "InvalidClientTokenId": etl.S3_REFUSALS["InvalidAccessKeyId"],
    "InvalidSignatureException": etl.S3_REFUSALS["SignatureDoesNotMatch"],
    "ExpiredTokenException": etl.S3_REFUSALS["ExpiredToken"],
    "NoSuchBucket": "there is no such bucket",
}
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403")


class Lake(NamedTuple):
    """Where the lake is and how AWS is asked."""

    output: str  # s3://bucket/folder
    region: str
    endpoint: str = ""  # of an AWS in a test
    aws: etl.Secrets = etl.Secrets()  # of dl.cfg
    dry_run: bool = False

    @property
    def bucket(self) -> str:
        """The bucket of the lake."""
        return etl.bucket_of(self.output)

    @property
    def prefix(self) -> str:
        """The folder of the lake in its bucket, with a slash at its end; "" for the bucket's root."""
        folder = self.output[len("s3://" + self.bucket) :].strip("/")
        return folder + "/" if folder else ""

    def key(self, *parts: str) -> str:
        """The key of something in the lake."""
        return self.prefix + "/".join(parts)

    def uri(self, *parts: str) -> str:
        """The URI of the same."""
        return "s3://%s/%s" % (self.bucket, self.key(*parts))

    def apply(self, what: str, text: str, change: Callable[[], Any]) -> None:
        """Make a change, or with --dry-run say that it would be made."""
        if not self.dry_run:
            change()
        say("%s: %s%s" % (what, "would be " if self.dry_run else "", text))


class Clients:
    """Clients of AWS's services, made when they are needed, which give up within seconds."""

    def __init__(self, lake: Lake) -> None:
        self.lake, self.session = lake, create_s3.open_session(lake.aws)
        self.made: Dict[str, Any] = {}

    def __getitem__(self, service: str) -> Any:
        """The client of a service; raises UsageError for a region that cannot be one."""
        if service not in self.made:
            path_style = {"addressing_style": "path"} if self.lake.endpoint else {}
            retries = {"mode": "standard", "total_max_attempts": 4}
            config = ClientConfig(connect_timeout=5, read_timeout=60, retries=retries, s3=path_style)
            try:
                self.made[service] = self.session.client(service, region_name=self.lake.region, config=config)
            except ValueError as error:
                raise etl.UsageError("%s" % error) from None
        return self.made[service]

    def account(self) -> str:
        """The number of the account; asking for it also tells whether the credentials are good."""
        return str(self["sts"].get_caller_identity()["Account"])


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that all commands have."""
    made = argparse.ArgumentParser(
        prog="python -m %s" % name,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=description,
        epilog=HELP_EPILOG,
    )
    made.add_argument("--config", metavar="FILE", help="configuration file (default: dl.cfg here or beside etl.py)")
    made.add_argument("--output", metavar="FOLDER", help=OUTPUT.help + " (default: s3://BUCKET/sparkify-data)")
    made.add_argument("--region", metavar="NAME", help="AWS region (default: %s)" % etl.DEFAULT_REGION)
    made.add_argument("--dry-run", action="store_true", help="say what would be done and change nothing")
    return made


HELP_EPILOG = """\
A flag beats the environment (OUTPUT, AWS_REGION or AWS_DEFAULT_REGION), which beats dl.cfg ([S3] OUTPUT,
[AWS] AWS_REGION), which beats the default. BUCKET is the environment's, else [S3] BUCKET of dl.cfg.
Credentials come from the environment, a profile or a role, else from [AWS] in dl.cfg.

exit codes:
  0  done
  2  wrong usage or environment, or AWS refused; nothing is half done that running it again does not finish
"""


def parse(made: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The flags of a command line; an unknown one is named without its value, which may be a secret."""
    options, unknown = made.parse_known_args(argv)
    if unknown:
        made.error("unknown option: %s" % unknown[0].split("=")[0])
    return options


def lake_of(flags: argparse.Namespace, env: Mapping[str, str]) -> Lake:
    """The lake that flags, environment and dl.cfg mean. Raises UsageError where it is not in S3."""
    values = etl.read_config_file(etl.config_file(flags.config))
    bucket = etl.lookup(create_s3.BUCKET, argparse.Namespace(bucket=None), env, values, "")
    output = etl.lookup(OUTPUT, flags, env, values, "S3") or create_s3.lake_of(bucket, values)
    output = etl.absolute(output, os.getcwd())
    if not etl.bucket_of(output):
        raise etl.UsageError("the lake must be in S3, and output is %s: give --output s3://bucket/folder" % output)
    region = (flags.region or "").strip() or etl.region_name(env, values)
    return Lake(output, region or etl.DEFAULT_REGION, etl.endpoint_url(env), etl.secrets_of_file(values), flags.dry_run)


def chunks(items: Sequence[Any], size: int) -> List[Sequence[Any]]:
    """A list cut into pieces of some size.

    >>> chunks([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]


def code_of(error: ClientError) -> str:
    """The code of an error of AWS's."""
    return str(error.response["Error"]["Code"])


def found(ask: Callable[..., Any], absent: str, **arguments: Any) -> Optional[Record]:
    """The answer to a question; None where AWS says by this code that there is no such thing."""
    try:
        answer: Record = ask(**arguments)
        return answer
    except ClientError as error:
        if code_of(error) != absent:
            raise
        return None


def patiently(action: Callable[[], Any], code: str, part: str) -> Any:
    """Do something that AWS refuses by this code, with these words, as long as another change is not known everywhere:
    tries for a minute.
    """
    for _ in range(12):
        try:
            return action()
        except ClientError as error:
            if code_of(error) != code or part not in str(error):
                raise
        clock.sleep(5)
    return action()


def explain(error: Exception) -> str:
    """An error of AWS or of the road there as one sentence."""
    if isinstance(error, ClientError):
        code, message = code_of(error), str(error.response["Error"].get("Message", ""))
        if code in DENIED:
            return "no permission: the credentials in use may not do %s: %s" % (error.operation_name, message)
        return CODES.get(code) or "AWS refused %s: %s (%s)" % (error.operation_name, message, code)
    if isinstance(error, EndpointConnectionError):
        return "AWS cannot be reached at %s: check the network and the region" % error.kwargs.get("endpoint_url")
    if isinstance(error, (HTTPClientError, CredentialRetrievalError)):
        return "AWS cannot be reached, check the network and the region: %s" % error
    return str(error)


def run(name: str, command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run a command; returns its exit code, after a sentence where it has failed."""
    forbidden: List[str] = []
    try:
        forbidden = create_s3.long_enough(os.environ.get(key, "") for key in create_s3.SECRET_KEYS)
        command(argv)
        return 0
    except (etl.UsageError, BotoCoreError, ClientError, OSError) as error:
        return complain(name, create_s3.redacted(explain(error), forbidden), 2)
    except KeyboardInterrupt:
        return complain(name, "interrupted; run it again to finish", 130)


def complain(name: str, sentence: str, code: int) -> int:
    """Print one sentence to stderr and return the exit code."""
    sys.stderr.write("%s: %s\n" % (name, sentence))
    return code


def say(line: str) -> None:
    """Print what was done."""
    print(line, flush=True)


def policy_of(name: str, lake: Lake, account: str) -> str:
    """The text of a policy of docs/iam for this lake and account, whatever bucket and account it was written for. What
    it says of the input (…Input) stays as it is written.
    """
    project = os.path.dirname(os.path.abspath(etl.__file__))
    with open(os.path.join(project, "docs", "iam", name), encoding="utf-8") as file:
        policy = json.load(file)
    parts = policy["Statement"]
    policy["Statement"] = [part if part["Sid"].endswith("Input") else for_lake(part, lake) for part in parts]
    return re.sub(r"\b\d{12}\b", account, json.dumps(policy))


def for_lake(part: Record, lake: Lake) -> Any:
    """A statement of a policy for this lake."""
    text = re.sub(r'(arn:aws:s3:::)[^/"]+', lambda found: found[1] + lake.bucket, json.dumps(part))
    return json.loads(re.sub(r'([/"])sparkify-data/', lambda found: found[1] + lake.prefix, text))


class Role:
    """A role that a service acts as, with one policy of docs/iam."""

    def __init__(self, clients: Clients, lake: Lake, name: str, trust: str, policy: str) -> None:
        self.iam, self.lake, self.name, self.trust, self.policy = clients["iam"], lake, name, trust, policy
        self.account = clients.account()

    def find(self) -> Optional[Record]:
        """The role; None where there is none."""
        return found(self.iam.get_role, "NoSuchEntity", RoleName=self.name)

    def find_policy(self) -> Optional[Record]:
        """Its policy; None where there is none."""
        return found(self.iam.get_role_policy, "NoSuchEntity", RoleName=self.name, PolicyName=POLICY_NAME)

    def make(self) -> str:
        """Make it with its policy, as far as it is not there; returns its ARN, or its name with --dry-run."""
        role, policy = self.find(), policy_of(self.policy, self.lake, self.account)
        if role is None:
            trust = policy_of(self.trust, self.lake, self.account)
            create = functools.partial(self.iam.create_role, RoleName=self.name, AssumeRolePolicyDocument=trust)
            self.lake.apply("role " + self.name, "made", create)
        known = self.find_policy()
        if known and known["PolicyDocument"] == json.loads(policy):
            say("role %s: unchanged" % self.name)
        else:
            about = {"RoleName": self.name, "PolicyName": POLICY_NAME, "PolicyDocument": policy}
            given = "given %s of docs/iam" % self.policy
            self.lake.apply("role " + self.name, given, functools.partial(self.iam.put_role_policy, **about))
        role = role or self.find()
        return str(role["Role"]["Arn"]) if role else self.name

    def remove(self) -> None:
        """Remove it with its policy."""
        self.lake.apply("role " + self.name, "removed", self.delete)

    def delete(self) -> None:
        """The same, whatever the flags say."""
        if self.find_policy():
            self.iam.delete_role_policy(RoleName=self.name, PolicyName=POLICY_NAME)
        self.iam.delete_role(RoleName=self.name)
