"""Thousands of input files, each damaged at random, and a large input of which a third is bad, through the whole job.

INPUTS is how many files are damaged: always the same ones, on every machine and Spark.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set

import pytest
from conftest import Content, event_record, song_record, write_files
from pyspark.sql import SparkSession
from test_lake import play_id

import etl

INPUTS = int(os.environ.get("INPUTS", "2000"))
BATCHES = 4
EVENTS = 300000  # of the large input
LINES = re.compile(rb"\r\n|\r|\n")

Damage = Callable[[random.Random, bytes], bytes]


# ------------------------------------------------------------------------------------ damage


def flipped(chosen: random.Random, text: bytes) -> bytes:
    """With a few bits changed."""
    changed = bytearray(text)
    for _ in range(chosen.randint(1, 8)):
        changed[chosen.randrange(len(changed))] ^= 1 << chosen.randrange(8)
    return bytes(changed)


def cut(chosen: random.Random, text: bytes) -> bytes:
    """Without its end, its begin or something between."""
    begin, end = sorted(chosen.randint(0, len(text)) for _ in range(2))
    return chosen.choice([text[:begin], text[end:], text[:begin] + text[end:]])


def repeated(chosen: random.Random, text: bytes) -> bytes:
    """With a piece of it somewhere else, too."""
    begin, end = sorted(chosen.randint(0, len(text)) for _ in range(2))
    place = chosen.randint(0, len(text))
    return text[:place] + text[begin:end] + text[place:]


def spattered(chosen: random.Random, text: bytes) -> bytes:
    """With bytes, or characters that mean something to JSON, here and there."""
    for _ in range(chosen.randint(1, 4)):
        place = chosen.randint(0, len(text))
        anything = bytes(chosen.randrange(256) for _ in range(chosen.randint(1, 6)))
        meaning = [
            b'"',
            b"\\",
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"}{",
            b"\\u",
            b"\xef\xbb\xbf",
            b"\xed\xa0\x80",
            b"\0",
        ]
        text = text[:place] + chosen.choice([anything, *meaning]) + text[place:]
    return text


def other_value(chosen: random.Random, text: bytes) -> bytes:
    """With another value for one of its keys."""
    values = list(re.finditer(rb'": ?("[^"]*"|[^,{}"]+)', text))
    value = chosen.choice(values)
    return text[: value.start(1)] + chosen.choice(VALUES)(chosen) + text[value.end(1) :]


def other_key(chosen: random.Random, text: bytes) -> bytes:
    """With a key twice, spelled otherwise, or missing."""
    key = chosen.choice(list(re.finditer(rb'"(\w+)": ?', text)))
    name = key.group(1)
    escaped = b"\\u%04x" % name[0] + name[1:]
    other = chosen.choice([name.upper(), b" " + name, name + b"2", escaped, b"", b"ts", b"song_id", name + b"\\u0000"])
    return text[: key.start(1)] + other + text[key.end(1) :]


def deep(chosen: random.Random) -> bytes:
    depth = chosen.choice([1, 5, 50, 400, 600, 1100, 5000])
    opened, closed = chosen.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"ts":', b"}]")])
    return opened * depth + b"1" + closed * chosen.choice([depth, depth, depth - 1])


def long(chosen: random.Random) -> bytes:
    """Text or a number of many characters, now and then of 10 MB."""
    size = chosen.choice([100, 999, 1001, 30000, 49000, 60000]) if chosen.random() < 0.95 else 10000000
    return chosen.choice(
        [b'"%s"' % (b"x" * size), b"7" * size, b"0." + b"3" * size, b'"%s"' % (b"\xc3\xa9" * (size // 2))]
    )


def escapes(chosen: random.Random) -> bytes:
    """Text of escapes, with halves of surrogate pairs, in any order."""
    known = [
        b"\\ud83d",
        b"\\ude00",
        b"\\ud83d\\ude00",
        b"\\u0000",
        b"\\uffff",
        b"\\ufffd",
        b"\\n",
        b"\\/",
        b"\\x41",
        b"a",
    ]
    return b'"%s"' % b"".join(chosen.choice(known) for _ in range(chosen.randint(1, 6)))


def odd_number(chosen: random.Random) -> bytes:
    digits = b"".join(b"%d" % chosen.randrange(10) for _ in range(chosen.randint(1, 25)))
    forms = [
        b"%s",
        b"-%s",
        b"%s.0",
        b"%s.5",
        b"%se3",
        b"1e%s",
        b"1e-%s",
        b"0%s",
        b"+%s",
        b".%s",
        b"0x%s",
        b"%s.",
        b'"%s"',
    ]
    return chosen.choice(forms) % digits


def word(chosen: random.Random) -> bytes:
    words = [
        b"NaN",
        b"-Infinity",
        b"-0",
        b"1e400",
        b"true",
        b"null",
        b"None",
        b"[]",
        b"{}",
        b'""',
        b'" "',
        b"'x'",
        b"1,2",
    ]
    blanks = [
        b'"\xc2\xa0x\xe2\x80\x83"',
        b'"\\t x \\n"',
        b'"\xe2\x80\xa8"',
        b'"\xc3\x83\xc2\xb6"',
        b'"\xc3\x83\xc2\x83\xc3\x82\xc2\xb6"',
    ]
    names = [b'"__HIVE_DEFAULT_PARTITION__"', b'"../x"', b'"a/b=c%"', b'"' + b"n" * 61 + b'"', b'"\xf0\x9f\x8e\xb5"']
    return chosen.choice(words + blanks + names)


VALUES: List[Callable[[random.Random], bytes]] = [deep, long, escapes, odd_number, odd_number, word, word]
DAMAGES: List[Damage] = [flipped, cut, repeated, spattered, other_value, other_value, other_value, other_key]


def damaged(chosen: random.Random, text: bytes) -> bytes:
    """Damaged once, or a few times over."""
    for _ in range(chosen.choice([1, 1, 1, 2, 3])):
        if len(text) > 100:
            text = chosen.choice(DAMAGES)(chosen, text)
    return text


# ------------------------------------------------------------------------------------ an input


class Batch(NamedTuple):
    """An input of damaged files beside sound records, and what must come out."""

    folder: Path
    lines: int  # of the logs, without blank ones
    plays: Set[str]  # ids of the sound plays
    songs: Set[str]  # ids of the sound songs


def write_batch(folder: Path, number: int) -> Batch:
    """Half the files are logs, of a damaged event between two sound ones; half are songs, a sound one for each."""
    chosen = random.Random(number)
    files: Dict[str, Content] = {}
    lines, plays, songs = 0, set(), set()
    for file in range(INPUTS // BATCHES // 2):
        sound = [event_record(userId=user, sessionId=file, song=text) for user, text in (("1", "Ü"), ("2", "x"))]
        plays |= {play_id(event) for event in sound}
        event = {
            **event_record(userId=str(chosen.randint(3, 9)), sessionId=file, ts=1541105830796 + file),
            "new": "key",
        }
        text = json.dumps(event, ensure_ascii=chosen.random() < 0.5)
        first, last = (json.dumps(event).encode() for event in sound)
        log = b"\n".join([first, damaged(chosen, text.encode()), last])
        lines += sum(1 for line in LINES.split(log) if line.replace(b"\xef\xbb\xbf", b"").strip(b" \t\n\x0b\f\r"))
        files["log_data/2018/11/%04d-events.json" % file] = log
        songs.add("SO%d" % file)
        files["song_data/%04d-sound.json" % file] = [song_record(song_id="SO%d" % file, artist_id="AR%d" % (file % 50))]
        song = song_record(song_id="SOX%d" % file, artist_id="AR%d" % chosen.randrange(50), title="Björk")
        pretty = json.dumps(song, indent=chosen.choice([None, None, 0, 4]), ensure_ascii=False)
        files["song_data/%04d.json" % file] = damaged(chosen, pretty.encode())
    write_files(folder, files)
    return Batch(folder, lines, plays, songs)


# ------------------------------------------------------------------------------------ tests


SAME = ("account", "reasons", "matched", "artists_known")


def run(spark: SparkSession, source: Path, lake: Path, most_bad: float) -> Dict[str, Any]:
    config = etl.Config("LOCAL", str(source / "song_data"), str(source / "log_data"), str(lake), most_bad)
    etl.check_local_paths(config)
    return dict(etl.build_lake(spark, config, etl.Progress(io.StringIO())))


def quarantined(spark: SparkSession, lake: Path) -> Iterator[Dict[str, Any]]:
    for row in spark.read.parquet(str(lake / "_quarantine")).toLocalIterator():
        yield row.asDict()


@pytest.mark.parametrize("number", range(BATCHES))
def test_damaged_files(
    spark: SparkSession,
    place: Callable[[str], Path],
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = write_batch(tmp_path / "input", number)
    lake = place("damaged-%d" % number)
    report = run(spark, batch.folder, lake, 100.0)
    for account in report["account"].values():
        assert account["records"] == sum(account[part] for part in ("rows", "duplicates", "other", "quarantined"))
    assert report["account"]["log_data"]["records"] == batch.lines
    plays = Counter(row.songplay_id for row in spark.read.parquet(str(lake / "songplays")).collect())
    assert all(plays[play] == 1 for play in batch.plays)
    songs = Counter(row.song_id for row in spark.read.parquet(str(lake / "songs")).select("song_id").collect())
    assert all(songs[song] == 1 for song in batch.songs)
    bad = list(quarantined(spark, lake))
    assert len(bad) == sum(account["quarantined"] for account in report["account"].values()) > INPUTS / BATCHES / 4
    for row in bad:
        raw = base64.b64decode(row["raw_base64"]) if row["raw_base64"] else row["raw"].encode()
        assert raw in Path(row["file"].replace("file://", "")).read_bytes(), row["file"]
    monkeypatch.setattr(etl, "SMALL_BYTES", 1)  # and once more, as if it were a large input
    by_spark = run(spark, batch.folder, tmp_path / "by Spark", 100.0)
    assert [by_spark[name] for name in SAME] == [report[name] for name in SAME]
    for table in etl.PUBLISHED:
        lakes = [spark.read.parquet(str(folder / table)).collect() for folder in (tmp_path / "by Spark", lake)]
        found, expected = (Counter(map(repr, rows)) for rows in lakes)
        assert (found - expected, expected - found) == (Counter(), Counter()), table


def test_a_third_of_a_large_input_is_bad(spark: SparkSession, place: Callable[[str], Path], tmp_path: Path) -> None:
    bad: List[str] = []
    files: Dict[str, Content] = {"song_data/a.json": [song_record()]}
    for file in range(3):
        lines = []
        for item in range(EVENTS // 3):
            line = json.dumps(event_record(sessionId=file, itemInSession=item, userId=str(item % 1000)))
            if item % 3 == 0:
                line = line[: -1 - item % 200]
                bad.append(line)
            lines.append(line)
        files["log_data/%d.json" % file] = "\n".join(lines)
    write_files(tmp_path / "input", files)
    lake = place("third")
    with pytest.raises(etl.DataError, match=r"33\.3 % of the 300,000 records of log_data are bad"):
        run(spark, tmp_path / "input", lake, 5.0)
    assert not (lake / "songplays").exists()
    assert sorted(row["raw"] for row in quarantined(spark, lake)) == sorted(bad)
    report = run(spark, tmp_path / "input", lake, 40.0)
    assert report["account"]["log_data"]["quarantined"] == len(bad)
    assert spark.read.parquet(str(lake / "songplays")).count() == EVENTS - len(bad)
