"""The settings of the warehouse: dwh.cfg, and environment variables of the same names that beat it."""

from __future__ import annotations

import argparse
import configparser
import os
import re
from typing import Any, Dict, Mapping, NamedTuple

import etl
from catalog import aws
from catalog.aws import Lake

SECTIONS = {
    "CLUSTER": (
        "CLUSTER_IDENTIFIER",
        "NODE_TYPE",
        "NODES",
        "ENDPOINT",
        "PORT",
        "DATABASE",
        "DB_USER",
        "DB_PASSWORD",
        "SECRET_ARN",
    ),
    "IAM_ROLE": ("ARN", "NAME"),
}
FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dwh.cfg")
ENDPOINT = re.compile(
    r"([a-z0-9-]+)\.[a-z0-9]+\.[a-z0-9-]+\.(redshift|redshift-serverless)\.amazonaws\.com(\.cn)?(:\d+.*)?"
)


class Config(NamedTuple):
    """The settings of one run."""

    lake: Lake
    identifier: str  # of the cluster, "" for a workgroup
    workgroup: str
    node_type: str
    nodes: int
    port: int
    database: str
    user: str
    password: etl.Secrets  # nothing, or DB_PASSWORD
    secret_arn: str
    role_arn: str
    role_name: str

    def target(self) -> Dict[str, str]:
        """What the Data API wants to know: which database, and as whom."""
        where = {"ClusterIdentifier": self.identifier} if self.identifier else {"WorkgroupName": self.workgroup}
        if self.secret_arn:
            return {**where, "Database": self.database, "SecretArn": self.secret_arn}
        # A workgroup knows its user by the IAM identity
        user = {"DbUser": self.user} if self.identifier else {}
        return {**where, "Database": self.database, **user}


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that all commands of the warehouse have."""
    made = aws.parser(name, description)
    made.add_argument(
        "--dwh", metavar="FILE", help="settings of the warehouse (default: warehouse/dwh.cfg)", default=FILE
    )
    return made


def read(flags: argparse.Namespace, env: Mapping[str, str]) -> Config:
    """The settings that flags, environment, dwh.cfg and dl.cfg mean. Raises UsageError for what cannot be right."""
    values = {name: env.get(name, "").strip() or value for name, value in read_file(flags.dwh).items()}
    cluster, workgroup = target_of(values)
    return Config(
        lake=aws.lake_of(flags, env),
        identifier=cluster,
        workgroup=workgroup,
        node_type=values["NODE_TYPE"],
        nodes=whole_number(values, "NODES", 1, 128),
        port=whole_number(values, "PORT", 1150, 65535),
        database=name_of(values, "DATABASE"),
        user=name_of(values, "DB_USER"),
        password=etl.Secrets({"DB_PASSWORD": values["DB_PASSWORD"]} if values["DB_PASSWORD"] else {}),
        secret_arn=values["SECRET_ARN"],
        role_arn=values["ARN"],
        role_name=values["NAME"],
    )


def raw_inputs(flags: argparse.Namespace, env: Mapping[str, str]) -> Dict[str, str]:
    """The folders of raw JSON that the job's settings name, by staging table. Raises UsageError for one not in S3."""
    values, found = etl.read_config_file(etl.config_file(flags.config)), {}
    for setting in etl.SETTINGS:
        if setting.name in etl.INPUTS:
            folder = etl.absolute(etl.lookup(setting, flags, env, values, "S3"), os.getcwd())
            if not etl.bucket_of(folder):
                raise etl.UsageError("%s is %s: COPY reads from S3 only" % (setting.name, folder))
            found[etl.INPUTS[setting.name].table] = folder
    return found


def read_file(path: str) -> Dict[str, str]:
    """Every setting of a dwh.cfg by its name, "" where it is blank or missing."""
    found = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        with open(path, encoding="utf-8-sig") as file:
            found.read_file(file)
    except OSError as error:
        raise etl.UsageError("cannot read %s: %s" % (path, error.strerror)) from None
    except (configparser.Error, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", None)  # the message quotes the line, which may be a password
        raise etl.UsageError("%s is no configuration file%s" % (path, " (line %d)" % line if line else "")) from None
    refuse_unknown(found, path)
    return {key: found.get(s, key, fallback="").strip() for s, keys in SECTIONS.items() for key in keys}


def refuse_unknown(found: configparser.ConfigParser, path: str) -> None:
    """Raise UsageError for a section or key that nobody knows."""
    for section in found.sections():
        if section not in SECTIONS:
            raise etl.UsageError("%s: unknown section [%s]; known: %s" % (path, section, ", ".join(SECTIONS)))
        for key in found.options(section):
            if key.upper() not in SECTIONS[section]:
                known = ", ".join(SECTIONS[section])
                raise etl.UsageError("%s: unknown key in [%s]; known: %s" % (path, section, known))


def target_of(values: Mapping[str, str]) -> Any:
    """The cluster and the workgroup that the settings mean, one of them ""."""
    endpoint = values["ENDPOINT"]
    if endpoint:
        found = ENDPOINT.fullmatch(endpoint)
        if not found:
            example = "name.abc123.us-west-2.redshift.amazonaws.com"
            raise etl.UsageError("ENDPOINT is %s; it must be like %s" % (endpoint, example))
        return (found[1], "") if found[2] == "redshift" else ("", found[1])
    identifier = values["CLUSTER_IDENTIFIER"]
    if not re.fullmatch(r"(?=.{1,63}$)[a-z][a-z0-9]*(-[a-z0-9]+)*", identifier):
        rule = "lower-case letters, digits and single hyphens, a letter first, 63 at most"
        raise etl.UsageError("CLUSTER_IDENTIFIER is %s; it takes %s" % (identifier or "blank", rule))
    return identifier, ""


def name_of(values: Mapping[str, str], key: str) -> str:
    """A name of a database or user, or a UsageError."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", values[key]):
        raise etl.UsageError("%s is %s; it takes lower-case letters, digits and _" % (key, values[key] or "blank"))
    return values[key]


def whole_number(values: Mapping[str, str], key: str, low: int, high: int) -> int:
    """A whole number in a range, or a UsageError."""
    text = values[key]
    if not text.isdigit() or not low <= int(text) <= high:
        raise etl.UsageError("%s is %s; it must be a whole number from %d to %d" % (key, text or "blank", low, high))
    return int(text)


def role_arn(config: Config, clients: aws.Clients) -> str:
    """The role that COPY and Spectrum act as. Raises UsageError where there is none."""
    if config.role_arn:
        return config.role_arn
    found = aws.found(clients["iam"].get_role, "NoSuchEntity", RoleName=config.role_name)
    if not found:
        advice = "python -m warehouse.cluster launch makes it, or name another in dwh.cfg ([IAM_ROLE] ARN)"
        raise etl.UsageError("there is no role %s in this account: %s" % (config.role_name, advice))
    return str(found["Role"]["Arn"])
