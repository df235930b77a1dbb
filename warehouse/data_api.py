"""Redshift through its Data API: statements go in over HTTPS, signed by AWS's credentials.

Chosen over a driver (redshift_connector) because boto3 is there already, no port of the cluster needs to be open, no
password exists on this side, and a batch is one transaction. What it cannot: statements of more than 100 kB, batches of
more than 40, results of more than 500 MB; none is needed here.
"""

from __future__ import annotations

import re
import time as clock
from typing import Any, Callable, Dict, List, Sequence

from botocore.exceptions import ClientError

import etl
from catalog import aws
from catalog.aws import Record
from warehouse.config import Config
from warehouse.sql_queries import Statement

MOST_STATEMENTS = 40  # of a batch
LARGEST_STATEMENT = 100000  # bytes
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0  # seconds between two looks
ENDED = ("FINISHED", "FAILED", "ABORTED")
# What Redshift's and PostgreSQL's words mean to people
FAILURES = {
    "(?i)divi[a-z]* by zero": "it does not hold: another load or a run of the job is at work; try again later",
    "(?i)length of the data column|exceeds ddl length|value too long": "a text is longer than the 65,535 bytes that"
    " Redshift's columns take (docs/warehouse.md tells what to do)",
    "(?i)access ?denied|S3ServiceException.*403|not authorized to assume": "the role of the cluster may not read the"
    " lake (docs/iam/redshift.json), or is not attached to it",
    "(?i)does not exist": "is not there: python -m warehouse.create_table makes the tables",
}


class Warehouse:
    """A database of Redshift: every statement goes through here."""

    def __init__(self, clients: aws.Clients, config: Config, say: Callable[[str], None] = aws.say) -> None:
        self.client, self.config, self.say = clients["redshift-data"], config, say

    def run(self, statements: Sequence[Statement]) -> None:
        """Run statements in one transaction, which leaves nothing when one fails: raises UsageError with the reason."""
        assert len(statements) <= MOST_STATEMENTS
        if self.config.lake.dry_run:
            for statement in statements:
                self.say("would %s" % statement.what)
            return
        started = clock.monotonic()
        running = self.submit([statement.sql for statement in statements])
        try:
            ended = self.wait(running)
        except KeyboardInterrupt:
            self.client.cancel_statement(Id=running)
            raise
        if ended["Status"] != "FINISHED":
            raise etl.UsageError(failure(statements, ended))
        self.say("%-58s %6.1f s" % (summary(statements), clock.monotonic() - started))

    def submit(self, statements: List[str]) -> str:
        """Hand over statements; returns their id. Raises UsageError where there is no such cluster."""
        target = self.config.target()
        try:
            if len(statements) == 1:
                return str(self.client.execute_statement(**target, Sql=statements[0])["Id"])
            return str(self.client.batch_execute_statement(**target, Sqls=statements)["Id"])
        except ClientError as error:
            raise explained(error, self.config) from error

    def wait(self, running: str) -> Record:
        """How a batch has ended."""
        pause = FIRST_WAIT
        while True:
            state: Dict[str, Any] = self.client.describe_statement(Id=running)
            if state["Status"] in ENDED:
                return state
            clock.sleep(pause)
            pause = min(2 * pause, LONGEST_WAIT)


def explained(error: ClientError, config: Config) -> Exception:
    """A refusal of the Data API as a UsageError where it is known, else as it is."""
    name = config.identifier or config.workgroup
    message = str(error.response["Error"].get("Message", ""))
    if aws.code_of(error) in ("ValidationException", "ResourceNotFoundException"):
        if "paused" in message:
            resume = "aws redshift resume-cluster --cluster-identifier %s" % name
            return etl.UsageError("the cluster %s is paused: %s" % (name, resume))
        if re.search("(?i)not found|n.t exist|cannot find|could not find", message):
            advice = "launch one (python -m warehouse.cluster launch), or correct region, identifier or endpoint"
            return etl.UsageError("there is no %s in %s: %s" % (name, config.lake.region, advice))
    return error


def failure(statements: Sequence[Statement], ended: Record) -> str:
    """Which statement has failed and why, as one sentence."""
    states = [part["Status"] for part in ended.get("SubStatements", [])]
    which = next((number for number, state in enumerate(states) if state == "FAILED"), 0)
    reason = str(ended.get("Error") or "no reason is given")
    known = next((text for pattern, text in FAILURES.items() if re.search(pattern, reason)), "")
    words = " ".join(reason.split())
    return "could not %s: %s; the tables are as they were" % (
        statements[which].what,
        "%s (%s)" % (known, words) if known else words,
    )


def summary(statements: Sequence[Statement]) -> str:
    """What a batch has done, in a few words."""
    first, last = statements[0].what, statements[-1].what
    return first if len(statements) == 1 else "%s … %s" % (first, last)
