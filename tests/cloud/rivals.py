"""What tests of two runs into one lake share: an input that changes, lakes, and runs that are held or die at a step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

import compare_lakes
import pytest
from aws import Server
from conftest import ROOT, event_record, song_record, write_files
from pyspark.sql import SparkSession

import etl

Rows = Dict[str, Any]
STEPS = ROOT / "tests/crash/steps.py"
SETTINGS = {"BEAT_SECONDS": 0.5, "ACT_SECONDS": 8, "LEASE_SECONDS": 16, "REQUESTS_AT_ONCE": 1}
GIVEN_UP = (
    "etl.py: the lock on %s expired, since this run gave no sign of life for 16 s: another run may have taken over, and"
    " this one changes nothing more"
)

# In the second input partitions of every table have gone that the third one has again.
EVENTS = [event_record(userId=str(user), itemInSession=user, ts=1541105830796 + user) for user in range(20)]
DECEMBER = [event_record(userId="3", level="free", ts=1543968000000), event_record(page="Home", userId="77")]
SONG, OTHER = song_record(), song_record(song_id="SO2", artist_id="AR2", title="Ember", year=0)
INPUTS: Dict[str, Dict[str, Any]] = {
    "first": {"songs/1.json": [SONG], "songs/2.json": [OTHER], "logs/a.json": EVENTS[:12], "logs/b.json": DECEMBER},
    "second": {"songs/2.json": [{**OTHER, "year": 1980}], "logs/b.json": DECEMBER[:1]},
    "third": {"songs/1.json": [SONG], "songs/2.json": [OTHER], "logs/a.json": EVENTS[1:], "logs/c.json": DECEMBER},
}


class Source(NamedTuple):
    """The folder of the input, with the rows of the lake that each input makes."""

    folder: Path
    rows: Dict[str, Rows]

    def put(self, name: str) -> None:
        """Let the input be this one."""
        put(self.folder, name)

    def options(self, lake: str) -> List[str]:
        songs, logs = self.folder / "songs", self.folder / "logs"
        return ["--mode=LOCAL", "--song-data=%s" % songs, "--log-data=%s" % logs, "--output=%s" % lake]


def put(folder: Path, name: str) -> None:
    for kind in ("songs", "logs"):
        shutil.rmtree(str(folder / kind), ignore_errors=True)
    write_files(folder, INPUTS[name])


def rows_of(lake: Path) -> Rows:
    """The rows of each table, whatever the files are called."""
    return {table: compare_lakes.read(lake, table).rows for table in compare_lakes.TABLES}


class Lake:
    """A lake in a store that has neither locks nor a way to swap folders, as HDFS: a folder of this machine, which
    Hadoop has under another name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = "viewfs://lakes/lake"

    def restore(self, first: Path) -> None:
        """Let it be a copy."""
        shutil.copytree(str(first), str(self.folder / "lakes/lake"))

    def environment(self) -> Dict[str, str]:
        conf = self.folder / "conf"
        link = "spark.hadoop.fs.viewfs.mounttable.lakes.link./lake %s\n" % (self.folder / "lakes/lake").as_uri()
        write_files(conf, {"spark-defaults.conf": link})
        return {"SPARK_CONF_DIR": str(conf)}

    def content(self) -> Dict[str, str]:
        """A digest of everything in it."""
        lake = self.folder / "lakes/lake"
        files = [path for path in lake.rglob("*") if path.is_file()]
        return {path.relative_to(lake).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() for path in files}

    def rows(self) -> Rows:
        return rows_of(self.folder / "lakes/lake")


class LakeInS3(Lake):
    """A lake in a new bucket."""

    def __init__(self, folder: Path, server: Server) -> None:
        super().__init__(folder)
        self.server, self.bucket = server, "lake-" + uuid.uuid4().hex[:12]
        server.make_bucket(self.bucket)
        self.uri = "s3://%s/lake" % self.bucket

    def restore(self, first: Path) -> None:
        self.server.upload(first, self.bucket, "lake")

    def environment(self) -> Dict[str, str]:
        return self.server.environment(self.folder)

    def content(self) -> Dict[str, str]:
        return {entry["Key"]: entry["ETag"] for entry in self.server.entries(self.bucket, "lake/")}

    def rows(self) -> Rows:
        return rows_of(self.server.download(self.bucket, "lake/", self.folder / uuid.uuid4().hex))


class Rival:
    """A run into a lake that others run into, too. It sends itself a signal at a step: see STEPS."""

    def __init__(self, source: Source, lake: Lake, action: str = "none", step: str = "") -> None:
        self.action, self.step, self.steps = action, step, lake.folder / (uuid.uuid4().hex + ".steps")
        names = ("PYSPARK_GATEWAY", "AWS_")  # of this process's session, of whoever runs the tests
        env = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        env.update(lake.environment(), SETTINGS=json.dumps(SETTINGS), PYSPARK_PYTHON=sys.executable)
        command = [sys.executable, str(STEPS), action, step, str(self.steps), *source.options(lake.uri)]
        self.process = subprocess.Popen(
            command, cwd=str(lake.folder), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
        )

    def wait_until_held(self) -> None:
        """Fails where it ends without reaching its step."""
        state = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert state
        if state.si_code != os.CLD_STOPPED:
            raise AssertionError("no %s: %s%s" % (self.step, self.steps.read_text("utf-8"), self.end()))

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> str:
        """What it has said when it ends."""
        return self.process.communicate(timeout=300)[1]

    def succeed(self) -> str:
        said = self.end()
        assert self.process.returncode == 0, said
        return said

    def die(self) -> None:
        """Fails where it ends otherwise."""
        said = self.end()
        assert self.process.returncode == -signal.SIGKILL, self.steps.read_text("utf-8") + said

    def give_up(self, lake: Lake) -> None:
        """Let it go on: it finds out that the lake is another run's, says so, and changes nothing more."""
        before = lake.content()
        self.go_on()
        said = self.end()
        assert self.process.returncode == 75, said
        assert said.splitlines()[-1] == GIVEN_UP % lake.uri, said
        after = lake.content()
        assert after == before, (said, sorted(after.items() ^ before.items()))

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def make_source(folder: Path, spark: SparkSession) -> Source:
    """An input, and what becomes of it. The lake of the first one is in the folder first."""
    rows = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etl, "start_session", lambda config, small: spark)
        patch.setattr(etl, "take_signals", lambda: None)
        patch.setattr(type(spark), "stop", lambda self: None)
        for name in INPUTS:
            put(folder, name)
            assert etl.main(Source(folder, {}).options(str(folder / name))) == 0
            rows[name] = rows_of(folder / name)
    assert all(rows["second"][table] != rows["third"][table] for table in etl.TABLES)
    return Source(folder, rows)


@contextlib.contextmanager
def held_at(step: str, source: Source, lake: Lake) -> Iterator[Rival]:
    """A run over the second input, held at a step; from then on the input is the third one."""
    lake.restore(source.folder / "first")
    source.put("second")
    held = Rival(source, lake, "stop", step)
    try:
        held.wait_until_held()
        source.put("third")
        yield held
    finally:
        held.kill()


def overtake(source: Source, lake: Lake, step: str) -> None:
    """A run is held at a step until another one has taken over and finished: the lake is the other one's."""
    with held_at(step, source, lake) as held:
        said = Rival(source, lake).succeed()
        assert "  waiting to see whether run " in said
        assert lake.rows() == source.rows["third"]
        held.give_up(lake)
        assert lake.rows() == source.rows["third"]


def overtake_and_die(source: Source, lake: Lake, step: str, dies: str) -> None:
    """The same where the other one dies at a step, and a third one finishes."""
    with held_at(step, source, lake) as held:
        Rival(source, lake, "kill", dies).die()
        held.give_up(lake)
        Rival(source, lake).succeed()
        assert lake.rows() == source.rows["third"]
        assert not any(re.search("(^|/)_(work|locks)/", name) for name in lake.content())
