"""The road from S3 to the function, on loopback: the template's stack, S3's notifications, the queue, and what Lambda
does with its messages.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

from aws import REGION, Server
from cfnlint.decode import cfn_yaml
from conftest import ROOT
from moto.sqs.models import sqs_backends

import create_s3
from serverless import handler

TEMPLATE = ROOT / "serverless" / "template.yaml"
LAKE, LANDING = "sparkify-dl-sp", "sparkify-landing"
IMAGE = "111122223333.dkr.ecr.us-west-2.amazonaws.com/sparkify-etl@sha256:" + "0" * 64

Record = Dict[str, Any]


class Context:
    """What Lambda tells a function about its invocation."""

    memory_limit_in_mb = "2048"

    def __init__(self, seconds: float = 600) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


class Stack(NamedTuple):
    """The template as moto's CloudFormation has made it."""

    outputs: Dict[str, str]
    environment: Dict[str, str]  # of the function
    role: str  # its name


def deploy(server: Server, **parameters: str) -> Stack:
    """Make a stack of the template. What moto leaves out is done here: the bucket's notifications."""
    given = {"ImageUri": IMAGE, "Bucket": LAKE, "InputBucket": LANDING, **parameters}
    formation = server.client("cloudformation")
    pairs = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
    formation.create_stack(StackName="sparkify", TemplateBody=TEMPLATE.read_text("utf-8"), Parameters=pairs)
    (stack,) = formation.describe_stacks(StackName="sparkify")["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    function = server.client("lambda").get_function_configuration(FunctionName=outputs["FunctionName"])
    notify(server, outputs["QueueArn"])
    take_over(outputs["QueueArn"])
    environment = {name: str(value) for name, value in function["Environment"]["Variables"].items()}
    return Stack(outputs, environment, function["Role"].rpartition("/")[2])


def take_over(queue: str) -> None:
    """Let the tests have a queue's messages, with which moto would run the image in Docker."""
    _, _, _, region, account, name = queue.split(":")
    sqs_backends[account][region].get_queue(name).lambda_event_source_mappings.clear()


def notify(server: Server, queue: str) -> None:
    """Let the bucket send what the template says, with folders as they are by default."""
    template = cfn_yaml.load(str(TEMPLATE))
    declared = template["Resources"]["Landing"]["Properties"]["NotificationConfiguration"]["QueueConfigurations"]
    folders = {"${%s}/" % name: template["Parameters"][name]["Default"] + "/" for name in ("SongFolder", "LogFolder")}
    rules = [one["Filter"]["S3Key"]["Rules"][0]["Value"]["Fn::Sub"] for one in declared]
    configurations = [
        {
            "QueueArn": queue,
            "Events": [one["Event"]],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": folders[rule]}]}},
        }
        for one, rule in zip(declared, rules)
    ]
    server.client("s3").put_bucket_notification_configuration(
        Bucket=LANDING, NotificationConfiguration={"QueueConfigurations": configurations}
    )


class Road:
    """A server with a stack, the uploaded job, and EMR's roles."""

    def __init__(self, server: Server, **parameters: str) -> None:
        self.server = server
        server.make_bucket(LAKE)
        server.make_roles()
        self.stack = deploy(server, **parameters)
        self.put_job((ROOT / "etl.py").read_bytes())
        self.credentials: Dict[str, str] = {}

    def policies(self) -> List[Record]:
        """What the role of the function allows."""
        iam = self.server.client("iam")
        names = iam.list_role_policies(RoleName=self.stack.role)["PolicyNames"]
        found = [iam.get_role_policy(RoleName=self.stack.role, PolicyName=name)["PolicyDocument"] for name in names]
        documents = [ast.literal_eval(text) for text in found]  # moto's CloudFormation stores them as Python writes
        # and keeps a gap where the template has AWS::NoValue
        return [{**document, "Statement": list(filter(None, document["Statement"]))} for document in documents]

    def put_job(self, script: bytes) -> None:
        """What create_s3.py uploads."""
        key = self.stack.environment["SCRIPT"]
        for name, body in ((key, script), (key.rpartition("/")[0] + "/open-files.sh", b"")):
            proof = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": create_s3.checksum(body)}
            self.server.client("s3").put_object(Bucket=LAKE, Key=name, Body=body, **proof)

    def put(self, path: Path, key: str) -> None:
        """A file comes."""
        self.server.client("s3").upload_file(str(path), LANDING, key)

    def messages(self, queue: str = "QueueUrl") -> List[Record]:
        """Take up to ten messages, as they come."""
        url = self.stack.outputs[queue]
        found = self.server.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)
        return list(found.get("Messages", []))

    def event(self, messages: List[Record]) -> Record:
        """What Lambda makes of messages."""
        arn = self.stack.outputs["QueueArn"]
        about = {"eventSource": "aws:sqs", "eventSourceARN": arn, "awsRegion": REGION}
        return {
            "Records": [
                {"messageId": m["MessageId"], "receiptHandle": m["ReceiptHandle"], "body": m["Body"], **about}
                for m in messages
            ]
        }

    def deliver(self, messages: List[Record], seconds: float = 600) -> int:
        """Invoke the function as Lambda does: what it has done with leaves the queue, the rest comes again at once,
        all where it raises. Returns how many messages are left.
        """
        event, left = self.event(messages), {message["MessageId"] for message in messages}
        try:
            answer = handler.handler(event, Context(seconds))
            left = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        finally:
            for message in messages:
                self.settle(message, message["MessageId"] in left)
        return len(left)

    def settle(self, message: Record, again: bool) -> None:
        sqs, about = self.server.client("sqs"), {"ReceiptHandle": message["ReceiptHandle"]}
        about["QueueUrl"] = self.stack.outputs["QueueUrl"]
        if again:
            sqs.change_message_visibility(VisibilityTimeout=0, **about)
        else:
            sqs.delete_message(**about)

    def clusters(self) -> List[Record]:
        """All clusters that were launched, the latest first."""
        found = self.server.client("emr").list_clusters()["Clusters"]
        return list(found)
