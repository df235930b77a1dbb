"""Faults that once lost data in silence or ended a run badly: names in a poor locale, damaged archives, launchers that
fail, memory. A process of its own where it is about the process.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import pyspark
import pytest
from conftest import ROOT, Content, Done, event_record, run_here, song_record, write_files
from pyspark.sql import SparkSession
from test_cli import environment, failed, job

import etl

ARGUMENTS = ["--song-data=songs", "--log-data=logs", "--output=lake"]


def arguments(folder: Path) -> List[str]:
    """The same from anywhere."""
    return ["--%s=%s/%s" % (name, folder, path) for name, path in (text[2:].split("=") for text in ARGUMENTS)]


ODD_NAMES = [
    "12:00:00Z.json",
    "12:00 [x].json",
    "10:30/a.json",
    "11:30 {x}/[y]*.json",
    "a b.json",
    " a.json ",
    "50%.json",
    "%41.json",
    "a#b.json",
    "what?.json",
    "[x].json",
    "{y}.json",
    "st*r.json",
    "back\\slash.json",
    "new\nline.json",
    "tab\t.json",
    "a,b;c&d|e.json",
    "'q'.json",
    '"dq".json',
    "-dash.json",
    "~.json",
    "$x.json",
    "http://x/a.json",
    "a..json",
    "year=2018/a.json",
    "month=11/b.json",
    "a=b.json",
    "x_y/_z/not read.json",
    "Björk.json",
    "中文/歌.json",
    "🎵.json",
    "e\u0301.json",
    "\u2028.json",
    os.fsdecode(b"Mot\xf6r.json"),  # which is not UTF-8
    os.fsdecode(b"\xff\n/a.json"),
]


def input_of(folder: Path, logs: Mapping[str, Content]) -> Path:
    """Songs of an artist whose id is no ASCII, and logs."""
    songs = [song_record(), song_record(song_id="SO2", artist_id="Björk", artist_name="Björk", title="Jóga")]
    write_files(folder / "songs", {"a.json": songs})
    write_files(folder / "logs", logs)
    return folder


def play(session: int) -> List[Dict[str, Any]]:
    return [event_record(sessionId=session)]


def run(folder: Path, *argv: str, **changes: Optional[str]) -> Done:
    return job(*ARGUMENTS, *argv, cwd=folder, env=environment(**changes))


def good(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


def sessions(spark: SparkSession, folder: Path) -> List[int]:
    """The sessions of the plays in a lake."""
    plays = spark.read.parquet("file://%s/lake/songplays" % folder).select("session_id").collect()
    return sorted(row.session_id for row in plays)


# ------------------------------------------------------------------------------------ names

BLANK = {"ä.json": " \n", "empty.json": "", "é.json.gz": gzip.compress(b""), "ö.json.gz": gzip.compress(b"\n")}
NO_LOCALE = dict.fromkeys(("LANG", "LC_CTYPE", "LANGUAGE"))


def test_every_name_is_read_in_a_locale_of_ascii(spark: SparkSession, tmp_path: Path) -> None:
    folder = input_of(tmp_path / "Möwe", {name: play(number) for number, name in enumerate(ODD_NAMES)})
    write_files(folder / "logs", BLANK)
    read = [number for number, name in enumerate(ODD_NAMES) if "not read" not in name]
    good(run(folder, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", **NO_LOCALE))  # nor does Python speak UTF-8
    assert sessions(spark, folder) == read
    artists = sorted(path.name for path in folder.glob("lake/songs/year=*/artist_id=*"))
    assert artists == ["artist_id=ARAAAAA1187B000001", "artist_id=Björk"]
    # The next run finds nothing new, one after it what is new, changed and gone
    assert "nothing has changed" in good(run(folder, LC_ALL=None, **NO_LOCALE)).err
    write_files(folder / "logs", {"13:00 [new].json": play(100), "[x].json": play(101)})
    (folder / "logs" / "Björk.json").unlink()
    (folder / "logs" / "11:30 {x}" / "[y]*.json").unlink()
    good(run_here(spark, "--mode=LOCAL", *arguments(folder)))
    gone = {ODD_NAMES.index(name) for name in ("[x].json", "Björk.json", "11:30 {x}/[y]*.json")}
    assert sessions(spark, folder) == sorted({*read, 100, 101} - gone)


def refused(done: Done, named: str, folder: Path) -> None:
    """A run has said in a sentence which name it cannot use, and built no songs."""
    assert done.code == 2
    (sentence,) = [line for line in (done.err + done.out).splitlines() if line.startswith("etl.py: ")]
    assert named in sentence
    assert "LC_ALL=C.UTF-8" in sentence
    assert not (folder / "lake" / "songs").exists()


def test_spark_submit_in_a_locale_without_the_name_of_a_folder_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "Möwe"
    write_files(folder, {"songs/a.json": [song_record()], "logs/a.json": play(1)})
    home = Path(pyspark.__file__).parent
    command = ["sh", str(home / "bin" / "spark-submit"), "--master", "local[2]", str(ROOT / "etl.py")]
    env = environment(LC_ALL="C", SPARK_HOME=str(home))
    refused(job(*arguments(folder), cwd=tmp_path, env=env, command=command), "song_data", folder)


def test_a_locale_without_the_name_of_a_partition_says_so(spark: SparkSession, tmp_path: Path) -> None:
    input_of(tmp_path, {"a.json": play(1)})
    system: Any = spark.sparkContext._jvm.System  # type: ignore[union-attr]
    was = system.setProperty("sun.jnu.encoding", "ANSI_X3.4-1968")  # as in the locale C
    try:
        refused(run_here(spark, "--mode=LOCAL", *arguments(tmp_path)), "artist_id=Björk", tmp_path)
    finally:
        system.setProperty("sun.jnu.encoding", was)


# ------------------------------------------------------------------------------------ read errors


def events(count: int) -> bytes:
    return b"".join(json.dumps(event_record(sessionId=n)).encode() + b"\n" for n in range(count))


WHOLE = gzip.compress(events(2000))
DAMAGED = {
    "garbage.json.gz": b"{}\n",
    "padded.json.gz": WHOLE + b"\0" * 100,
    "torn.json.gz": WHOLE[: len(WHOLE) // 2],
    "tail.json.gz": WHOLE + b"garbage\n",
    "flipped.json.gz": WHOLE[:500] + bytes([WHOLE[500] ^ 255]) + WHOLE[501:],
    "a [1]: é.json.bz2": b"BZh91AY&SY" + b"x" * 50,
    "frame.json.zst": b"\x28\xb5\x2f\xfd\x04\x00",
}


@pytest.mark.parametrize("name", list(DAMAGED))
@pytest.mark.parametrize("input_name", ["songs", "logs"])
def test_a_read_error_names_its_file(spark: SparkSession, tmp_path: Path, name: str, input_name: str) -> None:
    assert_named(spark, tmp_path, input_name, name)


@pytest.mark.parametrize("name", ["torn.json.gz", "frame.json.zst"])
def test_a_read_error_of_a_large_input_names_its_file(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(etl, "SMALL_BYTES", 1)
    assert_named(spark, tmp_path, "logs", name)


def test_a_worker_without_the_same_python_says_so(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl, "SMALL_BYTES", 1)
    monkeypatch.setattr(spark.sparkContext, "pythonVer", "3.1")
    input_of(tmp_path, {"a.json": events(1)})
    done = run_here(spark, "--mode=LOCAL", *arguments(tmp_path))
    assert done.code == 2
    assert "Python" in done.last()
    assert "3.1" in done.last()
    assert "Traceback" not in done.last()


def assert_named(spark: SparkSession, folder: Path, input_name: str, name: str) -> None:
    """A run over a damaged file says so in a sentence and builds nothing."""
    input_of(folder, {"%d.json.gz" % n: gzip.compress(events(n + 1)) for n in range(5)})
    write_files(folder / input_name, {name: DAMAGED[name]})
    done = run_here(spark, "--mode=LOCAL", *arguments(folder))
    assert (done.code, done.out) == (2, "")
    assert name in done.last()
    assert len(done.last()) < 400
    assert not (folder / "lake" / "songplays").exists()


# ------------------------------------------------------------------------------------ starting Spark

LAUNCHES = {
    "--master local[2]": "Missing application resource.",
    "--nonsense pyspark-shell": "Unrecognized option: --nonsense",
    "--conf x pyspark-shell": "Invalid argument to --conf: x",
    "--conf spark.driver.memory=much pyspark-shell": "Invalid maximum heap size: -Xmxmuch",
}


@pytest.mark.once
@pytest.mark.parametrize("arguments", list(LAUNCHES))
def test_a_launcher_that_fails_gives_its_reason_in_a_sentence(tmp_path: Path, arguments: str) -> None:
    done = run(input_of(tmp_path, {"a.json": play(1)}), PYSPARK_SUBMIT_ARGS=arguments)
    assert done.code == 2
    assert LAUNCHES[arguments] in failed(done)


@pytest.mark.once
def test_java_that_does_not_start_gives_its_reason_in_a_sentence(tmp_path: Path) -> None:
    done = run(input_of(tmp_path, {"a.json": play(1)}), JAVA_TOOL_OPTIONS="-XX:+Nonsense")
    assert done.code == 2
    assert "Unrecognized VM option 'Nonsense'" in failed(done)


@pytest.mark.once
def test_a_user_id_without_a_name_is_told(tmp_path: Path) -> None:
    nameless = ["unshare", "--user", "--map-user=12345"]
    if not shutil.which("unshare") or subprocess.run([*nameless, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this machine cannot pretend to be another user")
    folder = input_of(tmp_path, {"a.json": play(1)})
    done = job(*ARGUMENTS, cwd=folder, command=[*nameless, sys.executable, str(ROOT / "etl.py")])
    assert done.code == 2
    assert "user id 12345 has no name" in failed(done)


# ------------------------------------------------------------------------------------ memory


@pytest.mark.once
def test_a_large_file_of_song_lines_is_read_in_bounded_memory(tmp_path: Path) -> None:
    folder = input_of(tmp_path, {"a.json": play(1)})
    line = json.dumps(song_record(song_id="SO-", artist_id="AR-", artist_location="x" * 45000))
    with (folder / "songs" / "large.json").open("w") as file:
        for number in range(3000):
            file.write(line.replace("SO-", "SO-%d" % number).replace("AR-", "AR-%d" % (number % 30)) + "\n")
    done = good(run(folder, PYSPARK_SUBMIT_ARGS="--driver-memory 600m pyspark-shell"))
    assert "song_data  3,002 records = 3,002 songs" in done.out
