#!/usr/bin/env python
"""Launches and removes a Redshift cluster with its role and security group.

    python -m warehouse.cluster launch             make what is not there and wait until it is ready
    python -m warehouse.cluster launch --dry-run   say what would be made and what it would cost
    python -m warehouse.cluster status             say what is there
    python -m warehouse.cluster delete             remove it all; the lake stays, of which it can be made again

Exit codes: 0 done; 2 wrong usage or environment.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import sys
from time import monotonic, sleep
from typing import Any, Dict, List, Optional, Sequence

import etl
from catalog import aws
from catalog.aws import Clients, Record, say
from warehouse import config as settings
from warehouse.config import Config

OURS = {"Key": "project", "Value": "sparkify"}  # a tag of our cluster: others are left alone
GROUP = "sparkify-redshift"
POLICY, TRUST = "redshift.json", "redshift-trust.json"
POLL_SECONDS = 15
LONGEST_WAIT_SECONDS = 1800
# Dollars an hour and node, on demand, us-west-2, as of 2025; storage comes on top
PRICES = {"ra3.large": 0.543, "ra3.xlplus": 1.086, "ra3.4xlarge": 3.26, "ra3.16xlarge": 13.04}
STORAGE_PRICE = 0.024  # dollars a month and GB


class Cluster:
    """The cluster, its role and its security group: every question and every change goes through here."""

    def __init__(self, clients: Clients, config: Config) -> None:
        self.config, self.lake, self.name = config, config.lake, config.identifier
        self.redshift, self.ec2 = clients["redshift"], clients["ec2"]
        self.role = aws.Role(clients, config.lake, config.role_name, TRUST, POLICY)

    def find(self) -> Optional[Record]:
        """The cluster; None where there is none."""
        answer = aws.found(self.redshift.describe_clusters, "ClusterNotFound", ClusterIdentifier=self.name)
        return answer["Clusters"][0] if answer else None

    # -------------------------------------------------------------------------------- launch

    def launch(self, allowed: Optional[str]) -> None:
        """Make what is not there; `allowed` are the addresses that may connect, None for nobody."""
        role = self.config.role_arn or self.role.make()
        found = self.find()
        if found:
            refuse_other(found)
            self.refuse_without_role(found, role)
        group = self.make_group(allowed)
        if found:
            say("cluster %s: %s" % (self.name, found["ClusterStatus"]))
            if allowed and not found.get("PubliclyAccessible"):
                command = "aws redshift modify-cluster --cluster-identifier %s --publicly-accessible" % self.name
                say(
                    "cluster %s: stays private, so %s gets in from its network only; else: %s"
                    % (self.name, allowed, command)
                )
        else:
            call = self.creation(role, group, bool(allowed))
            create = functools.partial(self.redshift.create_cluster, **call)
            # A role that has just been made is not known everywhere yet
            self.lake.apply(
                "cluster " + self.name,
                "launched",
                lambda: aws.patiently(create, "InvalidParameterValue", "IAM role"),
            )
        say("costs   %s" % cost_text(self.config))
        if not self.lake.dry_run:
            self.wait_until_ready()
            self.status()

    def creation(self, role: str, group: str, public: bool) -> Dict[str, Any]:
        """The cluster as Redshift takes it."""
        config = self.config
        nodes = {"ClusterType": "single-node"}
        if config.nodes > 1:
            nodes = {"ClusterType": "multi-node", "NumberOfNodes": config.nodes}  # type: ignore[dict-item]
        password = {"MasterUserPassword": config.password["DB_PASSWORD"]} if config.password else {}
        return {
            "ClusterIdentifier": self.name,
            "NodeType": config.node_type,
            **nodes,
            "DBName": config.database,
            "MasterUsername": config.user,
            **(password or {"ManageMasterPassword": True}),
            "Port": config.port,
            "IamRoles": [role],
            "VpcSecurityGroupIds": [group],
            "PubliclyAccessible": public,
            "Encrypted": True,
            "Tags": [OURS],
        }

    def make_group(self, allowed: Optional[str]) -> str:
        """Make the security group, which lets nobody in but who is allowed; returns its id."""
        found = self.find_group()
        group = str(found["GroupId"]) if found else ""
        if found:
            say("security group %s: unchanged" % GROUP)
        else:
            about = {"GroupName": GROUP, "Description": "Redshift of the Sparkify data lake", "VpcId": self.find_vpc()}
            tags = [{"ResourceType": "security-group", "Tags": [OURS]}]
            made: List[str] = []
            self.lake.apply(
                "security group " + GROUP,
                "made",
                lambda: made.append(self.ec2.create_security_group(**about, TagSpecifications=tags)["GroupId"]),
            )
            group = made[0] if made else GROUP
        if allowed and not (found and allowed in opened_to(found)):
            port = {"IpProtocol": "tcp", "FromPort": self.config.port, "ToPort": self.config.port}
            rule = {**port, "IpRanges": [{"CidrIp": allowed}]}
            self.lake.apply(
                "security group " + GROUP,
                "opened to %s" % allowed,
                lambda: self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule]),
            )
        return group

    def find_group(self) -> Optional[Record]:
        """The security group; None where there is none."""
        groups = self.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [GROUP]}])
        found: List[Record] = groups["SecurityGroups"]
        return found[0] if found else None

    def find_vpc(self) -> str:
        """The default network. Raises UsageError where there is none."""
        vpcs = self.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not vpcs:
            advice = "aws ec2 create-default-vpc makes one"
            raise etl.UsageError("there is no default VPC in %s: %s" % (self.config.lake.region, advice))
        return str(vpcs[0]["VpcId"])

    def refuse_without_role(self, found: Record, role: str) -> None:
        """Raise UsageError where the cluster, which is there, may not act as the role."""
        if role not in [one["IamRoleArn"] for one in found.get("IamRoles", [])]:
            command = "aws redshift modify-cluster-iam-roles --cluster-identifier %s --add-iam-roles %s"
            raise etl.UsageError("the cluster %s does not have the role: %s" % (self.name, command % (self.name, role)))

    def wait_until_ready(self) -> None:
        """Wait until the cluster is available, saying how it goes. Raises UsageError where it will not be."""
        for found in self.watch():
            if found is None:
                raise etl.UsageError("the cluster %s has gone" % self.name)
            status = found["ClusterStatus"]
            if status == "available":
                return
            if status in ("paused", "pausing"):
                resume = "aws redshift resume-cluster --cluster-identifier %s" % self.name
                raise etl.UsageError("the cluster %s is %s: %s" % (self.name, status, resume))
            if status in ("deleting", "final-snapshot"):
                raise etl.UsageError("the cluster %s is being deleted: try again when it has gone" % self.name)
            if status.startswith(("incompatible", "hardware-failure", "storage-full")):
                raise etl.UsageError("the cluster %s is %s: the console says more" % (self.name, status))

    def watch(self) -> Any:
        """The cluster again and again, None when it has gone; says each new status. Raises UsageError after half an
        hour.
        """
        started, last = monotonic(), ""
        while True:
            found = self.find()
            status = found["ClusterStatus"] if found else "gone"
            if status != last:
                say("  %-30s after %4.0f s" % (status, monotonic() - started))
            last = status
            yield found
            if monotonic() - started > LONGEST_WAIT_SECONDS:
                raise etl.UsageError(
                    "the cluster %s is still %s: run this again to go on waiting" % (self.name, status)
                )
            sleep(POLL_SECONDS)

    # -------------------------------------------------------------------------------- status and removal

    def status(self) -> None:
        """Say what is there."""
        found = self.find()
        if not found:
            say("cluster %s: is not there" % self.name)
            return
        say("cluster %s: %s, %d × %s" % (self.name, found["ClusterStatus"], found["NumberOfNodes"], found["NodeType"]))
        endpoint = found.get("Endpoint") or {}
        if endpoint.get("Address"):
            say("endpoint %s:%s/%s" % (endpoint["Address"], endpoint["Port"], found["DBName"]))
        if found.get("MasterPasswordSecretArn"):
            say("password %s" % found["MasterPasswordSecretArn"])
        say("next     python -m warehouse.create_table && python -m warehouse.etl")
        say("stop     python -m warehouse.cluster delete")

    def delete(self, yes: bool) -> None:
        """Remove cluster, security group and role. Raises UsageError where it is not ours or not confirmed."""
        found = self.find()
        if found:
            refuse_other(found)
            if not (yes or self.lake.dry_run):
                confirm(self.name)
            if found["ClusterStatus"] != "deleting":
                call = {"ClusterIdentifier": self.name, "SkipFinalClusterSnapshot": True}
                self.lake.apply("cluster " + self.name, "removed", lambda: self.redshift.delete_cluster(**call))
            if not self.lake.dry_run:
                next(one for one in self.watch() if one is None)
        else:
            say("cluster %s: is not there" % self.name)
        self.delete_rest()

    def delete_rest(self) -> None:
        """Remove security group and role."""
        group = self.find_group()
        if group:
            delete = functools.partial(self.ec2.delete_security_group, GroupId=group["GroupId"])
            # The cluster's network interface goes some time after the cluster
            self.lake.apply(
                "security group " + GROUP,
                "removed",
                lambda: aws.patiently(delete, "DependencyViolation", "dependent"),
            )
        if self.role.find_policy() and not self.config.role_arn:
            self.role.remove()


def refuse_other(found: Record) -> None:
    """Raise UsageError for a cluster that this command has not launched."""
    if OURS not in found.get("Tags", []):
        name = found["ClusterIdentifier"]
        raise etl.UsageError(
            "the cluster %s was not launched by this command: choose another CLUSTER_IDENTIFIER" % name
        )


def opened_to(group: Record) -> List[str]:
    """The addresses that a security group lets in."""
    return [one["CidrIp"] for rule in group.get("IpPermissions", []) for one in rule.get("IpRanges", [])]


def cost_text(config: Config) -> str:
    """What the cluster costs, for people."""
    price = PRICES.get(config.node_type)
    if price is None:
        return "see https://aws.amazon.com/redshift/pricing/ for %d × %s" % (config.nodes, config.node_type)
    nodes = "about $%.2f an hour for %d × %s while it runs" % (price * config.nodes, config.nodes, config.node_type)
    return "%s, $%.3f a month for each GB (an estimate: on demand, us-west-2, 2025)" % (nodes, STORAGE_PRICE)


def address_range(text: str) -> str:
    """Addresses in the notation of AWS, or a UsageError.

    >>> address_range("203.0.113.7")
    '203.0.113.7/32'
    """
    try:
        return str(ipaddress.IPv4Network(text))
    except ValueError:
        raise etl.UsageError("--allow is %s; it must be like 203.0.113.7 or 203.0.113.0/24" % text) from None


def confirm(name: str) -> None:
    """Raise UsageError unless the user types the cluster's name."""
    try:
        answer = input("Type the name of the cluster to remove it with all that is in it: ")
    except EOFError:
        answer = ""
    if answer.strip() != name:
        raise etl.UsageError("not confirmed: nothing was removed (--yes does not ask)")


def command(argv: Sequence[str]) -> None:
    """Do what the flags ask for; raises UsageError and whatever boto3 raises."""
    parser = settings.parser(
        "warehouse.cluster", "Launch or remove a Redshift cluster with its role and security group."
    )
    parser.add_argument("action", choices=["launch", "status", "delete"])
    parser.add_argument("--allow", metavar="CIDR", help="launch: who may connect with a SQL client (default: nobody)")
    parser.add_argument("--yes", action="store_true", help="delete: do not ask for the cluster's name")
    flags = aws.parse(parser, argv)
    config = settings.read(flags, os.environ)
    if config.workgroup:
        raise etl.UsageError("ENDPOINT is of a serverless workgroup, which is not launched or removed here")
    allowed = address_range(flags.allow) if flags.allow else None
    cluster = Cluster(Clients(config.lake), config)
    if flags.action == "launch":
        cluster.launch(allowed)
    elif flags.action == "delete":
        cluster.delete(flags.yes)
    else:
        cluster.status()


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    return aws.run("warehouse.cluster", command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
