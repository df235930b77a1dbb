"""AWS on loopback: moto's server, what it was asked, and answers that it would not give by itself."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple, TypeVar
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.client import BaseClient
from botocore.loaders import create_loader
from moto.iam.access_control import IAMPolicyStatement, PermissionResult
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server, make_ssl_devcert

KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
REGION = "us-west-2"

# The CLI, whose own commands for EMR do not look at AWS_ENDPOINT_URL
CLI = """#!/bin/sh
[ "$1" != emr ] || set -- "$@" --endpoint-url "${AWS_ENDPOINT_URL_EMR-$AWS_ENDPOINT_URL}"
exec "%s" "$@"
"""
HEADERS = ("EXPECTED_BUCKET_OWNER", "CHECKSUM_SHA256", "BUCKET_NAMESPACE")

Record = Dict[str, Any]


class Call(NamedTuple):
    """A request as the server got it."""

    method: str
    path: str  # with the query
    body: bytes
    key_id: str  # that it was signed with, "" without a signature
    region: str  # that it was signed for
    owner: str = ""  # that the bucket is expected to have
    checksum: str = ""  # SHA-256 of the body, as S3 writes it
    namespace: str = ""  # of a bucket that is to be made


def signer(environ: Record) -> Tuple[str, str]:
    """Key id and region of a request's signature."""
    signature = environ.get("HTTP_AUTHORIZATION", "")
    if signature.startswith("AWS "):  # Hadoop 2.7; moto trips over one that happens to hold four slashes
        environ["HTTP_AUTHORIZATION"] = signature.replace("/", "-")
        return signature[4:].partition(":")[0], ""
    parts = signature.partition("Credential=")[2].split("/") + [""] * 3
    return parts[0], parts[2]


def is_strangers(environ: Record) -> bool:
    """Whether a request is for a bucket of another owner than it expects, which moto does not look at."""
    expected = environ.get("HTTP_X_AMZ_EXPECTED_BUCKET_OWNER")
    _, owner = s3_backends.bucket_accounts.get(environ["PATH_INFO"].split("/")[1], ("", expected))
    return expected is not None and owner != expected


class Answer:
    """What is answered to some requests in moto's place."""

    def __init__(self, method: str, part: str, status: int, body: bytes, times: Optional[int]) -> None:
        self.method, self.part, self.status, self.body, self.times = method, part, status, body, times

    def take(self, call: Call) -> bool:
        """Whether this is the answer to a request; counts."""
        if self.times == 0 or self.method not in (call.method, "*") or self.part not in call.path:
            return False
        self.times = None if self.times is None else self.times - 1
        return True


class Server:
    """moto's server without TLS and, given a folder for a certificate, also with it."""

    def __init__(self, tls: Optional[Path] = None) -> None:
        self.calls: List[Call] = []
        self.answers: List[Answer] = []
        self.lock = Lock()
        self.moto = DomainDispatcherApplication(create_backend_app)
        # By number: Hadoop 2.7 would look for <bucket>.<host>
        self.servers = [make_server("127.0.0.1", 0, self.serve, True)]
        self.endpoint = "http://127.0.0.1:%d" % self.servers[0].port
        if tls:
            self.certificate, key = make_ssl_devcert(str(tls / "tls"), cn="localhost")
            self.servers.append(make_server("localhost", 0, self.serve, True, ssl_context=(self.certificate, key)))
            self.tls_endpoint = "https://localhost:%d" % self.servers[1].port
        for server in self.servers:
            Thread(target=server.serve_forever, daemon=True).start()
        self.reset()  # moto keeps one state a process: what another test's server had made

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()

    def serve(self, environ: Record, start_response: Callable[..., Any]) -> Any:
        """A WSGI application around moto's."""
        body = b"" if environ.get("HTTP_TRANSFER_ENCODING") else self.body(environ)
        path = environ["PATH_INFO"] + "?" + environ["QUERY_STRING"]
        headers = (environ.get("HTTP_X_AMZ_" + name, "") for name in HEADERS)
        call = Call(environ["REQUEST_METHOD"], path, body, *signer(environ), *headers)
        with self.lock:
            self.calls.append(call)
            taken = next((answer for answer in self.answers if answer.take(call)), None)
        if not taken and is_strangers(environ):
            taken = Answer("*", "", 403, b"<Error><Code>AccessDenied</Code></Error>", None)
        if taken:
            start_response("%d Status" % taken.status, [("Content-Type", "application/xml")])
            return [b"" if call.method == "HEAD" else taken.body]
        return self.moto(environ, start_response)

    def body(self, environ: Record) -> bytes:
        body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        return body

    def answer(self, method: str, part: str, status: int, code_or_body: str, times: Optional[int] = None) -> Answer:
        """From now on, or so many times, answer so to requests whose path and query hold a text ("*": any method)."""
        error = "<Error><Code>%s</Code><Message>as S3 words it</Message></Error>" % code_or_body
        body = code_or_body if status == 200 else error
        answer = Answer(method, part, status, body.encode(), times)
        self.answers.insert(0, answer)
        return answer

    def changes(self) -> List[Call]:
        """The requests that change something."""
        asking = b"Action=GetCallerIdentity"
        return [call for call in self.calls if call.method not in ("GET", "HEAD") and asking not in call.body]

    def post(self, path: str, body: str) -> None:
        headers = {"Content-Type": "text/plain"}
        urlopen(Request(self.endpoint + path, body.encode(), headers, method="POST"), timeout=60).close()

    def reset(self) -> None:
        self.answers.clear()
        self.post("/moto-api/reset", "")
        self.post("/moto-api/reset-auth", "inf")
        self.calls.clear()

    def client(self, service: str, region: str = REGION, **credentials: str) -> Any:
        """A client of the test's own, on the road without TLS."""
        keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET, **credentials}
        return boto3.Session(**keys).client(service, region_name=region, endpoint_url=self.endpoint)

    def user(self, *denied: str) -> Dict[str, str]:
        """The environment of a user who may do everything with S3 but this; moto checks every request from now on."""
        iam = self.client("iam")
        iam.create_user(UserName="engineer")
        allow = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        deny = [{"Effect": "Deny", "Action": list(denied), "Resource": "*"}] if denied else []
        document = json.dumps({"Version": "2012-10-17", "Statement": [allow, *deny]})
        iam.put_user_policy(UserName="engineer", PolicyName="s3", PolicyDocument=document)
        key = iam.create_access_key(UserName="engineer")["AccessKey"]
        self.post("/moto-api/reset-auth", "0")
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def environment(self, folder: Path) -> Dict[str, str]:
        """What points boto3, the aws CLI and etl.py to this server, with its key and no file of this machine's user."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
            "AWS_PAGER": "",
        }

    def make_bucket(self, bucket: str) -> None:
        place = {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
        self.client("s3").create_bucket(Bucket=bucket, **place)

    def make_roles(self) -> None:
        """What aws emr create-default-roles makes, without AWS's policies, which this server does not have."""
        iam = self.client("iam")
        for role in ("EMR_DefaultRole", "EMR_EC2_DefaultRole"):
            iam.create_role(RoleName=role, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="EMR_EC2_DefaultRole")

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Put every file below a folder into a bucket that is there."""
        s3 = self.client("s3")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                s3.upload_file(str(path), bucket, ("%s/%s" % (prefix, path.relative_to(folder).as_posix())).lstrip("/"))

    def keys(self, bucket: str, prefix: str = "") -> List[str]:
        """The keys in a bucket that begin with a prefix."""
        return sorted(entry["Key"] for entry in self.entries(bucket, prefix))

    def entries(self, bucket: str, prefix: str) -> Iterator[Record]:
        pages = self.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return (entry for page in pages for entry in page.get("Contents", []))

    def download(self, bucket: str, prefix: str, folder: Path) -> Path:
        """Put every object below a prefix into a folder; returns the folder."""
        s3 = self.client("s3")
        for key in self.keys(bucket, prefix):
            if not key.endswith("/"):
                path = folder / key[len(prefix) :].lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, key, str(path))
        return folder


def with_cli(folder: Path) -> str:
    """PATH with the aws CLI of the tests, in a folder that is made, and their Python before all else."""
    folder.mkdir(exist_ok=True)
    (folder / "aws").write_text(CLI % (Path(sys.executable).parent / "aws"))
    (folder / "aws").chmod(0o755)
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])


def recorded(patch: pytest.MonkeyPatch) -> Set[str]:
    """What AWS is asked for from now on, as its policies call it; it grows."""
    asked: Set[str] = set()
    really = BaseClient._make_api_call

    def record(self: Any, operation: str, arguments: Record) -> Any:
        asked.add("%s:%s" % (self.meta.service_model.signing_name, operation.replace("ListObjectsV2", "ListBucket")))
        return really(self, operation, arguments)

    patch.setattr(BaseClient, "_make_api_call", record)
    return asked


def actions_of(policy: Path, *without: str) -> Set[str]:
    """The actions that a policy allows, without the optional ones and those that AWS asks for by itself."""
    every = json.loads(policy.read_text("utf-8"))["Statement"]
    parts = [part for part in every if not part["Sid"].startswith("Optional")]
    found = [part["Action"] if isinstance(part["Action"], list) else [part["Action"]] for part in parts]
    actions = {action for some in found for action in some}
    assert set(without) <= actions
    return actions - set(without)


def set_environment(patch: pytest.MonkeyPatch, variables: Dict[str, str]) -> None:
    """These variables and no other that create_s3.py or boto3 would look at."""
    looked_at = re.compile(r"AWS_|BUCKET$|SCRIPT$|OUTPUT$|.*_proxy$", re.IGNORECASE)
    for name in [name for name in os.environ if looked_at.match(name)]:
        patch.delenv(name)
    for name, value in variables.items():
        patch.setenv(name, value)


def prepare(patch: pytest.MonkeyPatch) -> None:
    """For scripts that run in this process: moto, which ignores the conditions of a policy, knows what TLS means for
    the one of our bucket; boto3 reads its descriptions once, which takes longer than all that is asked of S3.
    """
    really = IAMPolicyStatement.is_action_permitted

    def with_tls(self: Any, *args: Any, **kwargs: Any) -> PermissionResult:
        if self._statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}:
            return PermissionResult.NEUTRAL
        return really(self, *args, **kwargs)

    patch.setattr(IAMPolicyStatement, "is_action_permitted", with_tls)
    patch.setattr("botocore.session.create_loader", shared_loader(create_loader))


Kind = TypeVar("Kind", bound=Server)


@contextmanager
def served(make: Callable[[], Kind], **variables: str) -> Iterator[Kind]:
    """A server for scripts that run in this process, made with these variables in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        for name, value in variables.items():
            patch.setenv(name, value)
        server = make()
        yield server
        server.close()


def enter(server: Server, folder: Path, patch: pytest.MonkeyPatch, without: Iterable[str] = ()) -> None:
    """Work in a folder, with a server that is empty again, its environment, and none of these variables."""
    set_environment(patch, server.environment(folder))
    for name in without:
        patch.delenv(name, raising=False)
    patch.chdir(folder)
    server.reset()


def shared_loader(create_loader: Callable[..., Any]) -> Callable[..., Any]:
    """boto3's way to make a loader of its descriptions, with what the others have read."""
    read: Record = {}

    def create(*args: Any) -> Any:
        loader = create_loader(*args)
        loader._cache = read
        return loader

    return create
