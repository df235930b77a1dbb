"""Faults that once lost data in silence or ended a run badly, each by a process as a user starts it: names, links,
checksum files, damaged archives, launchers that fail.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import pyspark
import pytest
from conftest import ROOT, Content, event_record, song_record, write_files
from pyspark.sql import SparkSession
from test_cli import Done, environment, failed, job, reports_of

ARGUMENTS = ["--song-data=songs", "--log-data=logs", "--output=lake"]
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


def last_line(done: Done) -> str:
    return done.err.splitlines()[-1]


def sessions(spark: SparkSession, folder: Path) -> List[int]:
    """The sessions of the plays in a lake."""
    plays = spark.read.parquet("file://%s/lake/songplays" % folder).select("session_id").collect()
    return sorted(row.session_id for row in plays)


def artists_of_songs(folder: Path) -> List[str]:
    """The artists that partitions of songs are named by."""
    return sorted(path.name for path in folder.glob("lake/songs/year=*/artist_id=*"))


# ------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("locale", ["C", "POSIX", None])
def test_every_name_is_read_in_every_locale(spark: SparkSession, tmp_path: Path, locale: Optional[str]) -> None:
    folder = input_of(tmp_path, {name: play(number) for number, name in enumerate(ODD_NAMES)})
    read = [number for number, name in enumerate(ODD_NAMES) if "not read" not in name]
    unset = dict.fromkeys(("LANG", "LC_CTYPE", "LANGUAGE"))
    good(run(folder, LC_ALL=locale, **unset))
    assert sessions(spark, folder) == read
    assert artists_of_songs(folder) == ["artist_id=ARAAAAA1187B000001", "artist_id=Björk"]
    # The next run finds nothing new, one after it what is new, changed and gone
    assert "nothing has changed" in good(run(folder, LC_ALL=locale, **unset)).err
    write_files(folder / "logs", {"13:00 [new].json": play(100), "[x].json": play(101)})
    (folder / "logs" / "Björk.json").unlink()
    (folder / "logs" / "11:30 {x}" / "[y]*.json").unlink()
    good(run(folder, LC_ALL=locale, **unset))
    gone = {ODD_NAMES.index(name) for name in ("[x].json", "Björk.json", "11:30 {x}/[y]*.json")}
    assert sessions(spark, folder) == sorted({*read, 100, 101} - gone)


@pytest.mark.once
def test_every_name_is_read_where_python_does_not_speak_utf8(spark: SparkSession, tmp_path: Path) -> None:
    folder = input_of(tmp_path / "Möwe", {"Björk.json": play(1)})
    good(run(folder, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"))
    assert sessions(spark, folder) == [1]
    assert artists_of_songs(folder) == ["artist_id=ARAAAAA1187B000001", "artist_id=Björk"]


@pytest.mark.once
@pytest.mark.parametrize("name", [b"Mot\xf6r.json", b"\xff\n/a.json"])
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_a_name_that_is_not_utf8_is_read(spark: SparkSession, tmp_path: Path, name: bytes, locale: str) -> None:
    folder = input_of(tmp_path, {"a.json": play(1)})
    path = os.path.join(os.fsencode(str(folder / "logs")), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).write_text(json.dumps(event_record(sessionId=2)))
    good(run(folder, LC_ALL=locale))
    assert sessions(spark, folder) == [1, 2]


@pytest.mark.parametrize("what", ["artist", "folder"])
def test_spark_submit_in_a_locale_without_the_name_says_so(tmp_path: Path, what: str) -> None:
    folder = tmp_path / ("Möwe" if what == "folder" else "plain")
    if what == "artist":
        input_of(folder, {"a.json": play(1)})
    else:
        write_files(folder, {"songs/a.json": [song_record()], "logs/a.json": play(1)})
    home = Path(pyspark.__file__).parent
    command = ["sh", str(home / "bin" / "spark-submit"), "--master", "local[2]", str(ROOT / "etl.py")]
    paths = ["--song-data=%s/songs" % folder, "--log-data=%s/logs" % folder, "--output=%s/lake" % folder]
    done = job(*paths, cwd=tmp_path, env=environment(LC_ALL="C", SPARK_HOME=str(home)), command=command)
    assert done.code == 2
    named = {"artist": "artist_id=Björk", "folder": "song_data"}[what]
    said = done.err + done.out
    (sentence,) = [line for line in said.splitlines() if line.startswith("etl.py: ")]
    assert named in sentence
    assert "LC_ALL=C.UTF-8" in sentence
    assert not (folder / "lake" / "songs").exists()


@pytest.mark.once
def test_blank_files_are_no_fault(spark: SparkSession, tmp_path: Path) -> None:
    blank = {"ä.json": " \n", "empty.json": "", "é.json.gz": gzip.compress(b""), "ö.json.gz": gzip.compress(b"\n")}
    folder = input_of(tmp_path, {"a.json": play(1), **blank})
    good(run(folder, LC_ALL="C"))
    assert sessions(spark, folder) == [1]
    assert "nothing has changed" in good(run(folder)).err


@pytest.mark.once
def test_hidden_names_and_what_is_no_file_are_passed_over(spark: SparkSession, tmp_path: Path) -> None:
    hidden = dict.fromkeys((".a.json", "_a.json", "_a=b.json", "_b/a.json", "_metadata", "x._COPYING_"), "{")
    folder = input_of(tmp_path, {"a.json": play(1), **hidden})
    os.mkfifo(str(folder / "logs" / "pipe.json.gz"))
    good(run(folder))
    assert sessions(spark, folder) == [1]


# ------------------------------------------------------------------------------------ checksum files


def write_checksum(path: Path, content: bytes) -> None:
    """The checksum file that Hadoop keeps beside a file of this content."""
    checksum = struct.pack(">I", zlib.crc32(content))
    (path.parent / (".%s.crc" % path.name)).write_bytes(b"crc\0" + struct.pack(">i", 512) + checksum)


def test_a_stale_checksum_file_is_not_believed(spark: SparkSession, tmp_path: Path) -> None:
    folder = input_of(tmp_path, {"a.json": play(1), "b.json.gz": gzip.compress(json.dumps(play(2)[0]).encode())})
    for path in [*folder.glob("songs/*"), *folder.glob("logs/*")]:
        write_checksum(path, b"what it was")
    good(run(folder))
    assert sessions(spark, folder) == [1, 2]


# ------------------------------------------------------------------------------------ links


def link(folder: Path, name: str, target: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def account(folder: Path) -> Any:
    return reports_of(folder / "lake")[-1]["account"]["log_data"]


@pytest.mark.once
@pytest.mark.parametrize(
    "links",
    [
        {"2018/all": "..", "2019/all": ".."},
        {"self": "."},
        {"2018/up": ".."},
        {"2018/x": "../2019/y", "2019/y": "../2018/x"},
        {"twice": "2018", "2018/once more": "../2019", "c.json": "2018/a.json", "d.json": "c.json"},
        {"nowhere": "nothing", "nowhere.json": "nothing.json"},
    ],
)
def test_links_end_and_each_file_is_read_once(spark: SparkSession, tmp_path: Path, links: Mapping[str, str]) -> None:
    folder = input_of(tmp_path, {"2018/a.json": play(1), "2019/b.json": play(2)})
    for name, target in links.items():
        link(folder / "logs", name, target)
        link(folder / "songs", name, target)
    good(run(folder))
    assert sessions(spark, folder) == [1, 2]
    assert account(folder)["records"] == 2


@pytest.mark.once
def test_links_to_elsewhere_are_followed(spark: SparkSession, tmp_path: Path) -> None:
    folder = input_of(tmp_path / "input", {"a.json": play(1)})
    elsewhere = write_files(tmp_path / "elsewhere", {"x/b.json": play(2), ".hidden/c.json": play(3), "d.json": play(4)})
    link(elsewhere, "x/back", "..")
    link(folder, "logs/more", str(elsewhere / "x"))
    link(folder, "logs/seen.json", str(elsewhere / ".hidden" / "c.json"))
    good(run(folder))
    assert sessions(spark, folder) == [1, 2, 3, 4]
    assert account(folder)["records"] == 4


@pytest.mark.once
@pytest.mark.parametrize("target", ["..", "../..", "/"])
def test_a_link_to_a_folder_above_the_input_is_told(tmp_path: Path, target: str) -> None:
    folder = input_of(tmp_path / "input", {"a.json": play(1)})
    link(folder, "logs/up", target)
    done = run(folder)
    assert done.code == 2
    assert "%s/logs/up " % folder in failed(done)


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
def test_a_read_error_names_its_file(tmp_path: Path, name: str, input_name: str) -> None:
    folder = input_of(tmp_path, {"%d.json.gz" % n: gzip.compress(events(n + 1)) for n in range(5)})
    write_files(folder / input_name, {name: DAMAGED[name]})
    done = run(folder)
    assert done.code == 2
    assert name in failed(done)
    assert len(failed(done)) < 400
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


# ------------------------------------------------------------------------------------ values, versions, sizes


@pytest.mark.once
def test_seconds_are_quarantined(spark: SparkSession, tmp_path: Path) -> None:
    times = [1541105830, 99999999999, 100000000000, 1541105830796]
    logs = [event_record(sessionId=number, ts=ts) for number, ts in enumerate(times)]
    folder = input_of(tmp_path, {"a.json": logs})
    good(run(folder, "--max-bad-percent=60"))
    assert sessions(spark, folder) == [2, 3]
    assert reports_of(folder / "lake")[-1]["reasons"] == {"value not accepted: ts": 2}


@pytest.mark.once
def test_words_do_not_build_the_lake_anew_and_code_does(tmp_path: Path) -> None:
    folder = input_of(tmp_path, {"a.json": play(1)})
    script = folder / "etl.py"
    source = (ROOT / "etl.py").read_text("utf-8")

    def next_run(text: str) -> str:
        script.write_text(text, "utf-8")
        return good(job(*ARGUMENTS, cwd=folder, command=[sys.executable, str(script)])).err

    begin = "from __future__ import annotations\n"
    reworded = '"""Another docstring."""\n' + re.sub("(?m)^( *)# ", r"\1#  ", source[source.index(begin) :])
    next_run(source)
    assert "nothing has changed" in next_run(reworded)
    assert "another version of etl.py has built the lake" in next_run(source.replace(begin, begin + "changed = 1\n"))


@pytest.mark.once
def test_a_large_file_of_song_lines_is_read_in_bounded_memory(tmp_path: Path) -> None:
    folder = input_of(tmp_path, {"a.json": play(1)})
    line = json.dumps(song_record(song_id="SO-", artist_id="AR-", artist_location="x" * 45000))
    with (folder / "songs" / "large.json").open("w") as file:
        for number in range(3000):
            file.write(line.replace("SO-", "SO-%d" % number).replace("AR-", "AR-%d" % number) + "\n")
    done = good(run(folder, PYSPARK_SUBMIT_ARGS="--driver-memory 600m pyspark-shell"))
    assert "song_data  3,002 records = 3,002 songs" in done.out
