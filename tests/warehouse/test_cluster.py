"""warehouse.cluster against moto's Redshift, IAM and EC2: launched, waited for, removed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple

import pytest
from aws import REGION, Server, actions_of, enter, recorded, served
from conftest import ROOT
from moto.redshift.models import redshift_backends

from warehouse import cluster
from warehouse import config as settings

NAME, ROLE = "sparkify-dwh", "SparkifyRedshift"


class Site(NamedTuple):
    """An empty AWS."""

    server: Server
    redshift: Any
    iam: Any
    ec2: Any

    def cluster(self) -> Any:
        return self.redshift.describe_clusters(ClusterIdentifier=NAME)["Clusters"][0]

    def groups(self) -> List[Any]:
        found: List[Any] = self.ec2.describe_security_groups(
            Filters=[{"Name": "group-name", "Values": [cluster.GROUP]}]
        )["SecurityGroups"]
        return found

    def left(self) -> List[Any]:
        """All that launch makes."""
        return self.redshift.describe_clusters()["Clusters"] + self.iam.list_roles()["Roles"] + self.groups()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served(Server, MOTO_EC2_LOAD_DEFAULT_AMIS="false") as server:  # which take most of a reset's time
        yield server


@pytest.fixture
def site(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    enter(server, tmp_path, monkeypatch, (name for names in settings.SECTIONS.values() for name in names))
    return Site(server, *(server.client(service) for service in ("redshift", "iam", "ec2")))


def test_a_cluster_is_launched_with_its_role_and_a_group_that_lets_nobody_in(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["launch"]) == 0
    made = site.cluster()
    assert (made["NodeType"], made["NumberOfNodes"], made["DBName"]) == ("ra3.large", 1, "sparkify")
    assert (made["MasterUsername"], made["PubliclyAccessible"], made["Encrypted"]) == ("sparkify_admin", False, True)
    role = site.iam.get_role(RoleName=ROLE)["Role"]
    assert [one["IamRoleArn"] for one in made["IamRoles"]] == [role["Arn"]]
    assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "redshift.amazonaws.com"}
    (group,) = site.groups()
    assert [one["VpcSecurityGroupId"] for one in made["VpcSecurityGroups"]] == [group["GroupId"]]
    assert group["IpPermissions"] == []
    said = capsys.readouterr().out
    assert "costs   about $0.54 an hour for 1 × ra3.large" in said
    assert "endpoint sparkify-dwh." in said
    call = next(call.body.decode() for call in site.server.calls if b"Action=CreateCluster" in call.body)
    assert "ManageMasterPassword=true" in call
    assert "MasterUserPassword" not in call


def test_the_role_reads_this_lake_and_the_input_alone(site: Site) -> None:
    assert cluster.main(["launch", "--output", "s3://mine/lake"]) == 0
    text = json.dumps(site.iam.get_role_policy(RoleName=ROLE, PolicyName="sparkify")["PolicyDocument"])
    assert "arn:aws:s3:::mine/lake/staging_events/*" in text
    assert "arn:aws:s3:::udacity-dend/log_data/*" in text
    assert not any(name in text for name in ("sparkify-dl-sp", "sparkify-data", "111122223333"))


def test_launching_again_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.main(["launch"]) == 0
    before = site.left()
    site.server.calls.clear()
    assert cluster.main(["launch"]) == 0
    asked = [call.body.decode() for call in site.server.calls]
    assert not [body for body in asked if any(verb in body for verb in ("=Create", "=Put", "=Modify", "=Authorize"))]
    assert site.left() == before
    assert "cluster sparkify-dwh: available" in capsys.readouterr().out


def test_who_is_allowed_may_connect(site: Site) -> None:
    for _ in range(2):
        assert cluster.main(["launch", "--allow", "203.0.113.7"]) == 0
    (group,) = site.groups()
    assert [(rule["FromPort"], rule["IpRanges"][0]["CidrIp"]) for rule in group["IpPermissions"]] == [
        (5439, "203.0.113.7/32")
    ]
    assert site.cluster()["PubliclyAccessible"] is True


def test_who_is_allowed_into_a_private_cluster_is_told_that_it_stays_private(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["launch"]) == 0
    assert "private" not in capsys.readouterr().out
    assert cluster.main(["launch", "--allow", "203.0.113.7"]) == 0
    told = "cluster sparkify-dwh: stays private, so 203.0.113.7/32 gets in from its network only; else: aws redshift "
    assert told + "modify-cluster --cluster-identifier sparkify-dwh --publicly-accessible\n" in capsys.readouterr().out
    assert site.cluster()["PubliclyAccessible"] is False


def test_a_password_of_the_users_is_used_and_not_printed(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "S3cretS3cret")
    assert cluster.main(["launch"]) == 0
    call = next(call.body.decode() for call in site.server.calls if b"Action=CreateCluster" in call.body)
    assert "MasterUserPassword=S3cretS3cret" in call
    said = capsys.readouterr()
    assert "S3cret" not in said.out + said.err


def test_several_nodes_and_settings_of_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NODES": "2", "NODE_TYPE": "ra3.4xlarge", "PORT": "8192"}.items():
        monkeypatch.setenv(name, value)
    assert cluster.main(["launch"]) == 0
    made = site.cluster()
    assert (made["NodeType"], made["NumberOfNodes"], made["Endpoint"]["Port"]) == ("ra3.4xlarge", 2, 8192)


def becoming(*states: str) -> Any:
    """What stands for a pause: the cluster goes on to its next state, "" is gone."""
    left = list(states)

    def sleep(seconds: float) -> None:
        clusters = redshift_backends["123456789012"][REGION].clusters
        state = left.pop(0)
        if state:
            clusters[NAME].status = state
        else:
            del clusters[NAME]

    return sleep


def set_status(status: str) -> None:
    redshift_backends["123456789012"][REGION].clusters[NAME].status = status


def test_it_is_waited_for_with_progress(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["launch"]) == 0
    set_status("creating")
    monkeypatch.setattr("warehouse.cluster.sleep", becoming("creating", "modifying", "available"))
    capsys.readouterr()
    assert cluster.main(["launch"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if " after " in line] == [
        "creating",
        "modifying",
        "available",
    ]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("paused", "is paused: aws redshift resume-cluster --cluster-identifier sparkify-dwh"),
        ("deleting", "is being deleted"),
        ("incompatible-network", "is incompatible-network: the console says more"),
    ],
)
def test_a_cluster_that_will_not_be_ready_is_not_waited_for(
    status: str, sentence: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["launch"]) == 0
    set_status(status)
    assert cluster.main(["launch"]) == 2
    assert sentence in capsys.readouterr().err


def test_waiting_ends_after_a_while(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["launch"]) == 0
    set_status("creating")
    monkeypatch.setattr(cluster, "LONGEST_WAIT_SECONDS", -1)
    assert cluster.main(["launch"]) == 2
    assert "is still creating: run this again to go on waiting" in capsys.readouterr().err


def test_all_is_removed_and_removed_again(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.main(["launch"]) == 0
    assert [cluster.main(["delete", "--yes"]) for _ in range(2)] == [0, 0]
    assert site.left() == []
    assert "cluster sparkify-dwh: is not there" in capsys.readouterr().out


def test_removing_waits_until_it_has_gone(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["launch"]) == 0
    set_status("deleting")
    monkeypatch.setattr("warehouse.cluster.sleep", becoming("deleting", ""))
    assert cluster.main(["delete", "--yes"]) == 0
    assert site.left() == []


@pytest.mark.parametrize("answer", ["", "no", "sparkify"])
def test_without_its_name_typed_nothing_is_removed(
    answer: str, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["launch"]) == 0
    before = site.left()
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    assert cluster.main(["delete"]) == 2
    assert "not confirmed: nothing was removed" in capsys.readouterr().err
    assert site.left() == before
    monkeypatch.setattr("builtins.input", lambda prompt: NAME)
    assert cluster.main(["delete"]) == 0


def test_a_dry_run_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.main(["launch", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "cluster sparkify-dwh: would be launched" in said
    assert "costs   about $0.54" in said
    assert site.left() == []
    assert cluster.main(["launch"]) == 0
    before = site.left()
    assert cluster.main(["delete", "--dry-run"]) == 0
    assert site.left() == before


def test_a_cluster_of_somebody_else_is_left_alone(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.redshift.create_cluster(
        ClusterIdentifier=NAME, NodeType="ra3.large", MasterUsername="me", MasterUserPassword="S3cretS3cret"
    )
    for argv in (["launch"], ["delete", "--yes"]):
        assert cluster.main(argv) == 2
        assert "was not launched by this command" in capsys.readouterr().err
    assert site.cluster()["MasterUsername"] == "me"


def test_a_role_of_the_users_is_given_to_the_cluster_and_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = site.iam.create_role(RoleName="mine", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    monkeypatch.setenv("ARN", arn)
    assert cluster.main(["launch"]) == 0
    assert [one["IamRoleArn"] for one in site.cluster()["IamRoles"]] == [arn]
    assert cluster.main(["delete", "--yes"]) == 0
    assert [role["RoleName"] for role in site.iam.list_roles()["Roles"]] == ["mine"]


def test_a_cluster_without_the_role_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["launch"]) == 0
    monkeypatch.setenv("ARN", "arn:aws:iam::123456789012:role/other")
    assert cluster.main(["launch"]) == 2
    assert "does not have the role: aws redshift modify-cluster-iam-roles" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["launch", "--allow", "everybody"], "--allow is everybody; it must be like 203.0.113.7"),
        (["launch", "--region", "us west"], "us west"),
        (["launch", "--output", "lake"], "the lake must be in S3"),
    ],
)
def test_wrong_flags_are_refused(
    argv: List[str], sentence: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(argv) == 2
    assert sentence in capsys.readouterr().err
    assert site.left() == []


def test_a_workgroup_is_neither_launched_nor_removed(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENDPOINT", "wg.123456789012.us-west-2.redshift-serverless.amazonaws.com")
    assert cluster.main(["launch"]) == 2
    assert "serverless workgroup" in capsys.readouterr().err


def test_without_a_default_network_the_sentence_says_what_to_do(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for subnet in site.ec2.describe_subnets()["Subnets"]:
        site.ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for vpc in site.ec2.describe_vpcs()["Vpcs"]:
        site.ec2.delete_vpc(VpcId=vpc["VpcId"])
    assert cluster.main(["launch"]) == 2
    assert "there is no default VPC in us-west-2" in capsys.readouterr().err


def test_the_policy_allows_what_is_asked_for_and_nothing_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recorded(monkeypatch)
    assert [cluster.main(["launch", "--allow", "203.0.113.7"]), cluster.main(["delete", "--yes"])] == [0, 0]
    secrets = ["CreateSecret", "DeleteSecret", "DescribeSecret", "RotateSecret", "TagResource"]
    by_itself = ["iam:PassRole", "iam:CreateServiceLinkedRole", "ec2:CreateTags", "redshift:CreateTags"]
    policy = ROOT / "docs" / "iam" / "warehouse-launch.json"
    expected = actions_of(policy, *by_itself, *("secretsmanager:" + name for name in secrets))
    assert asked - {"sts:GetCallerIdentity"} == expected
