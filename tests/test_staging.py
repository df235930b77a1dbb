"""Reading and validating: every record is read right or quarantined with its text, file and reason.

The expectations are literal, so that every Spark is held to the same ones. The cases of a topic share one file and one
Spark job; a file below 128 KiB is read in order.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import random
import re
import unicodedata
from pathlib import Path
from typing import Any, List, Sequence, Tuple, Union
from urllib.parse import unquote

import pytest
from conftest import BASE_EVENT, BASE_SONG, DELETE, Record, event_record, rows, song_record, write_files
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import etl

SURROGATES: Any = ("Cs",)  # no text of UTF-8 holds one

Line = Union[bytes, str]


def stage(spark: SparkSession, path: Path, name: str = "log_data") -> List[Record]:
    """The staged rows of an input, in the order of reading: quickly where that can be, else with care. Good ones
    without their file.
    """
    staged = stage_with_files(spark, path, name)
    return [{**row, "file": row["file"] if row["reason"] else None} for row in staged]


def stage_with_files(spark: SparkSession, path: Path, name: str = "log_data") -> List[Record]:
    read, fields = etl.INPUTS[name].read, etl.INPUTS[name].fields
    quick = etl.quick_staging(read(spark, str(path), None), fields)
    unread = quick.where(F.col("reason") == etl.UNREAD).select("raw", "file")
    others = etl.staging(unread, fields).collect()
    staged = [others.pop(0) if row["reason"] == etl.UNREAD else row for row in quick.collect()]
    assert others == []
    return [{**row.asDict(), "file": re.sub("^file:/+", "file:///", row["file"])} for row in staged]


def stage_lines(spark: SparkSession, folder: Path, lines: Sequence[Line], end: bytes = b"\n") -> List[Record]:
    """The staged rows of one log file; there must be a row for each line."""
    encoded = [line if isinstance(line, bytes) else line.encode("utf-8") for line in lines]
    content = b"".join(line + end for line in encoded)
    assert len(content) < 128 * 1024
    staged = stage(spark, write_files(folder / "logs", {"2018/11/2018-11-01-events.json": content}))
    assert len(staged) == len(lines)
    return staged


def event(**changes: Any) -> str:
    return json.dumps(event_record(**changes))


def song(**changes: Any) -> str:
    return json.dumps(song_record(**changes))


def with_token(key: str, token: str, base: Record = BASE_EVENT) -> str:
    """A record in which the value of a key is written as given."""
    members = ["%s: %s" % (json.dumps(k), token if k == key else json.dumps(v)) for k, v in base.items()]
    return "{%s}" % ", ".join(members)


def pretty(record: Record, end: str = "\n") -> str:
    return json.dumps(record, indent=4).replace("\n", end) + end


def assert_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Assert that lists are equal; shows only where they are not."""
    assert len(found) == len(expected)
    assert [pair for pair in zip(found, expected) if pair[0] != pair[1]] == []


def reasons(staged: Sequence[Record]) -> List[str]:
    return [row["reason"] for row in staged]


# ------------------------------------------------------------------------------------ records as a whole


def test_a_good_event_has_the_types_of_its_fields(spark: SparkSession, tmp_path: Path) -> None:
    assert stage_lines(spark, tmp_path, [event()]) == [
        {
            "artist": "The Placeholders",
            "first_name": "Ada",
            "gender": "F",
            "item_in_session": 3,
            "last_name": "Moss",
            "length": 218.93179,
            "level": "paid",
            "location": "Lund, Sweden",
            "page": "NextSong",
            "session_id": 38,
            "song": "Morning Tide",
            "ts": 1541105830796,
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
            "user_id": 39,
            "reason": None,
            "raw": None,
            "raw_base64": None,
            "file": None,
        }
    ]


def test_a_good_song_has_the_types_of_its_fields(spark: SparkSession, tmp_path: Path) -> None:
    assert stage(spark, write_files(tmp_path / "songs", {"A/B/C/TR.json": song(year=0)}), "song_data") == [
        {
            "song_id": "SOAAAAA12AB0000001",
            "title": "Morning Tide",
            "duration": 218.93179,
            "year": 0,
            "artist_id": "ARAAAAA1187B000001",
            "artist_name": "The Placeholders",
            "artist_location": "Lund, Sweden",
            "artist_latitude": 55.70584,
            "artist_longitude": 13.19321,
            "reason": None,
            "raw": None,
            "raw_base64": None,
            "file": None,
        }
    ]


GOOD = event()
NOT_AN_OBJECT = "not a JSON object"
BROKEN = "broken JSON"
EXTREME = "nested too deep or a number too long"
NOT_UTF8 = "not valid UTF-8"

BAD_LINES: List[Tuple[Line, str]] = [
    # no object
    ("[%s]" % event(sessionId=1), NOT_AN_OBJECT),
    ("[]", NOT_AN_OBJECT),
    ("null", NOT_AN_OBJECT),
    ("42", NOT_AN_OBJECT),
    ("true", NOT_AN_OBJECT),
    ('"text"', NOT_AN_OBJECT),
    ("plain text", NOT_AN_OBJECT),
    ("NaN", NOT_AN_OBJECT),
    (",", NOT_AN_OBJECT),
    ("}", NOT_AN_OBJECT),
    (GOOD[1:], NOT_AN_OBJECT),
    ("/* comment */ " + GOOD, NOT_AN_OBJECT),
    ("\u00a0" + GOOD, NOT_AN_OBJECT),
    # broken
    ("{", BROKEN),
    (GOOD[: len(GOOD) // 2], BROKEN),
    (GOOD[:-1], BROKEN),
    (GOOD[:-2], BROKEN),
    (GOOD[:-2] + "}", BROKEN),  # an open string that ends in a brace
    (GOOD[:-1] + ",}", BROKEN),
    (GOOD[:-1] + ', "x": {"y": 1}', BROKEN),
    (GOOD[:-1] + ', "x": {"y": 1}}}', BROKEN),
    (GOOD.replace(", ", " ", 1), BROKEN),
    (GOOD.replace(": ", " ", 1), BROKEN),
    (GOOD.replace('"', "'"), BROKEN),
    (GOOD.replace('"page"', "page"), BROKEN),
    (GOOD.replace('"NextSong"', "NextSong"), BROKEN),
    (GOOD.replace("NextSong", "Next\tSong"), BROKEN),
    (GOOD.replace("NextSong", "Next\x00Song"), BROKEN),
    (GOOD.replace("NextSong", "Next\\Song"), BROKEN),
    (GOOD.replace("NextSong", "Next\\x53ong"), BROKEN),
    (GOOD.replace("NextSong", "Next\\u00G3ong"), BROKEN),
    # A quote that is no more, after which a parser that goes on in the middle of the string finds a key and its value
    *[(GOOD[:-1] + ', "userId": "5%s, "new": "key"}' % junk, BROKEN) for junk in ("\x02", "\t", "\\x41")],
    (GOOD.replace('"NextSong"', '"NextSong\x02'), BROKEN),
    (GOOD.replace('"NextSong"', '"NextSong" /* comment */'), BROKEN),
    # more than one object: none of them is read
    (GOOD + " x", BROKEN),
    (GOOD + "}", BROKEN),
    (GOOD + "]", BROKEN),
    (GOOD + ",", BROKEN),
    (GOOD + " // comment", BROKEN),
    (GOOD + "null", BROKEN),
    (GOOD + "\x00", BROKEN),
    (GOOD + event(sessionId=2), BROKEN),
    (GOOD + " " + event(sessionId=2), BROKEN),
    (GOOD + ", " + event(sessionId=2), BROKEN),
    (GOOD + event(sessionId=2)[:40], BROKEN),
    (event(song="a}b") + " " + event(sessionId=2), BROKEN),
    ("{} " + GOOD, BROKEN),
    # bytes that are no UTF-8
    (event(song="caf?").encode().replace(b"?", b"\xe9"), NOT_UTF8),
    (event(song="a?").encode().replace(b"?", b"\xc0\x80"), NOT_UTF8),  # overlong
    (event(song="a?").encode().replace(b"?", b"\xed\xa0\xbd"), NOT_UTF8),  # a surrogate
    (event(song="a?").encode().replace(b"?", b"\xf4\x90\x80\x80"), NOT_UTF8),  # beyond Unicode
    (event(song="a?").encode().replace(b"?", b"\xe2\x82"), NOT_UTF8),  # cut off
    (event(song="\ufffd ?").encode().replace(b"?", b"\xff"), NOT_UTF8),
    (b"\xff\xfe{\x00}\x00", NOT_UTF8),
    # missing
    ("{}", "missing: itemInSession"),
    ('{"x": 1}', "missing: itemInSession"),
    ("{ }", "missing: itemInSession"),
    (event(itemInSession=DELETE), "missing: itemInSession"),
    (event(page=DELETE), "missing: page"),
    (event(sessionId=DELETE), "missing: sessionId"),
    (event(ts=DELETE), "missing: ts"),
    (event(ts=DELETE, TS=1541105830796), "missing: ts"),
    (event(page=None), "missing: page"),
    (event(page=""), "missing: page"),
    (event(page=" \u3000"), "missing: page"),
    (event(ts=None), "missing: ts"),
    (event(ts=""), "missing: ts"),
    # the first of several
    (event(page=None, ts="x", gender="?"), "value not accepted: gender"),
]


def test_bad_lines_are_quarantined_as_they_are_with_file_and_reason(spark: SparkSession, tmp_path: Path) -> None:
    lines = [line for line, _ in BAD_LINES]
    staged = stage_lines(spark, tmp_path, lines)
    assert_same([(line, row["reason"]) for line, row in zip(lines, staged)], BAD_LINES)
    file = "file://%s/logs/2018/11/2018-11-01-events.json" % tmp_path
    for line, row in zip(lines, staged):
        text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
        if row["reason"] == NOT_UTF8:
            assert isinstance(line, bytes)
            assert "".join(row["raw"].split("\ufffd")) == "".join(text.split("\ufffd"))
            assert base64.b64decode(row["raw_base64"]) == line
        else:
            assert (row["raw"], row["raw_base64"]) == (text, None)
        assert row["file"] == file


def test_the_quarantine_holds_bad_records_only(spark: SparkSession, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "logs", {"a b.json": [event_record(), event_record(ts="x")]})
    staged = etl.staging(etl.read_lines(spark, str(folder)), etl.EVENT_FIELDS)
    assert rows(etl.quarantine(staged, "log_data")) == [
        {
            "input": "log_data",
            "file": "file://%s/logs/a%%20b.json" % tmp_path,
            "reason": "wrong type: ts",
            "raw": event(ts="x"),
            "raw_base64": None,
        }
    ]


def test_extreme_lines_are_refused_before_parsers_differ(spark: SparkSession, tmp_path: Path) -> None:
    deep = '{"x": %s1%s}'
    expected = {
        "a": (event(song="a" * 49000), None),
        "b": (event(song="a" * 100000), "longer than 50000 characters"),
        "c": ("x" * 100000, "longer than 50000 characters"),
        "d": (event(x=DELETE)[:-1] + ', "%s": 1}' % ("k" * 60000), "longer than 50000 characters"),
        "e": (deep % ("[" * 5000, "]" * 5000), EXTREME),
        "f": (deep % ('{"x":' * 5000, "}" * 5000), EXTREME),
        "g": ("{" * 2000, EXTREME),
        "h": (with_token("artist", "1" * 5000), EXTREME),
        "i": (with_token("length", "0." + "1" * 5000), EXTREME),
        "j": (with_token("length", "1e" + "1" * 5000), EXTREME),
        "k": (GOOD[:-1] + ', "x": %s1%s}' % ("[" * 400, "]" * 400), None),
        "l": (with_token("artist", "1" * 900), None),
        "m": (with_token("artist", "0." + "1" * 900), None),
        "n": (with_token("ts", "1" * 900), "wrong type: ts"),
        "o": (with_token("length", "1" * 900), "wrong type: length"),
        "p": (with_token("length", "0." + "1" * 900), None),
    }
    folder = write_files(tmp_path / "logs", {name + ".json": line + "\n" for name, (line, _) in expected.items()})
    staged = stage(spark, folder)
    found = {row["file"][-6:-5]: row["reason"] for row in staged if row["reason"]}
    assert found == {name: reason for name, (_, reason) in expected.items() if reason}
    assert len(staged) == len(expected)
    for row in staged:
        if row["reason"]:
            assert row["raw"] == expected[row["file"][-6:-5]][0]
    artists = sorted(row["artist"] for row in staged if not row["reason"])
    assert artists == sorted(["1" * 900, "0." + "1" * 900] + ["The Placeholders"] * 3)


# ------------------------------------------------------------------------------------ values

WRONG, UNACCEPTED, MISSING = "wrong type: %s", "value not accepted: %s", "missing: %s"

# key, value as the file writes it, staged value or reason
TOKENS: List[Tuple[str, str, Any]] = [
    # integers
    ("ts", "1541105830796", 1541105830796),
    ("ts", " \t1541105830796 ", 1541105830796),
    ("ts", "1.541105830796E12", 1541105830796),
    ("ts", "1.541105830796e+12", 1541105830796),
    ("ts", "1541105830796.0", 1541105830796),
    ("ts", "15411058307960e-1", 1541105830796),
    ("ts", '"1541105830796"', 1541105830796),
    ("ts", '"1.541105830796E12"', 1541105830796),
    ("ts", "0", 0),
    ("ts", "-0", 0),
    ("ts", "253402300799999", 253402300799999),
    ("ts", "253402300800000", UNACCEPTED),
    ("ts", "-1", UNACCEPTED),
    ("ts", "1541105830796.5", WRONG),
    ("ts", "1e400", WRONG),
    ("ts", "-1e400", WRONG),
    ("ts", "99999999999999999999", WRONG),
    ("ts", '"abc"', WRONG),
    ("ts", '"2018-11-01"', WRONG),
    ("ts", '"1541105830796 ms"', WRONG),
    ("ts", '"NaN"', WRONG),
    ("ts", '"Infinity"', WRONG),
    ("ts", '"0x10"', WRONG),
    ("ts", '"1541105830796d"', WRONG),
    ("ts", '"\u0661\u0662"', WRONG),
    ("ts", "true", WRONG),
    ("ts", "{}", WRONG),
    ("ts", "[1541105830796]", WRONG),
    ("ts", '{"$numberLong": "1541105830796"}', WRONG),
    ("ts", "null", MISSING),
    ("ts", '""', MISSING),
    ("ts", "NaN", BROKEN),
    ("ts", "Infinity", BROKEN),
    ("ts", "-Infinity", BROKEN),
    ("ts", "+1", BROKEN),
    ("ts", "01", BROKEN),
    ("ts", ".5", BROKEN),
    ("ts", "1.", BROKEN),
    ("ts", "1e", BROKEN),
    ("ts", "0x10", BROKEN),
    ("ts", "TRUE", BROKEN),
    ("ts", "undefined", BROKEN),
    ("ts", "", BROKEN),
    ("sessionId", "999999999999999999", 999999999999999999),
    ("sessionId", "123456789012345678", 123456789012345678),
    ("sessionId", "9007199254740993", 9007199254740993),
    ("sessionId", "9007199254740991.0", 9007199254740991),
    ("sessionId", "9007199254740993.0", WRONG),  # no double holds it
    ("sessionId", "9223372036854775807", WRONG),
    ("sessionId", "9223372036854775808", WRONG),
    ("sessionId", "-1", UNACCEPTED),
    ("itemInSession", "0", 0),
    ("itemInSession", "-1", UNACCEPTED),
    ("itemInSession", "false", WRONG),
    ("userId", '"39"', 39),
    ("userId", "39", 39),
    ("userId", '""', None),
    ("userId", "null", None),
    ("userId", '"abc"', WRONG),
    ("userId", "39.5", WRONG),
    ("userId", "[39]", WRONG),
    ("userId", '"-39"', UNACCEPTED),
    ("status", '"abc"', WRONG),  # only its type is checked
    # numbers
    ("length", "218.93179", 218.93179),
    ("length", "218", 218.0),
    ("length", "2.1893179E2", 218.93179),
    ("length", '"218.93179"', 218.93179),
    ("length", "0", 0.0),
    ("length", "1e-400", 0.0),
    ("length", "5e-324", 5e-324),
    ("length", "1.7976931348623157e308", 1.7976931348623157e308),
    ("length", "100000000000000000000", 1e20),
    ("length", "0.1", 0.1),
    ("length", "null", None),
    ("length", '""', None),
    ("length", "1e400", WRONG),
    ("length", '"1e400"', WRONG),
    ("length", '"-1e400"', WRONG),
    ("length", '"218,93"', WRONG),
    ("length", '"3:38"', WRONG),
    ("length", '"218.93179f"', WRONG),
    ("length", "true", WRONG),
    ("length", "-0.1", UNACCEPTED),
    ("length", "NaN", BROKEN),
    ("registration", "1.540919166796E12", None),
    ("registration", '"yesterday"', WRONG),
    # text: a bare number as the file writes it, other types are wrong
    ("artist", "112", "112"),
    ("artist", "1.10", "1.10"),
    ("artist", "1.0", "1.0"),
    ("artist", "1e5", "1e5"),
    ("artist", "1E+2", "1E+2"),
    ("artist", "-0", "-0"),
    ("artist", "-0.0", "-0.0"),
    ("artist", "0.00000010", "0.00000010"),
    ("artist", "1e400", "1e400"),
    ("artist", "12345678901234567890123", "12345678901234567890123"),
    ("artist", "1.234567890123456789", "1.234567890123456789"),
    ("artist", '"112"', "112"),
    ("artist", '"1.10"', "1.10"),
    ("artist", '"-1.50"', "-1.50"),
    ("artist", '"007"', "007"),
    ("artist", '"\\"112\\""', '"112"'),
    ("artist", '"Infinity"', "Infinity"),
    ("artist", '"NaN"', "NaN"),
    ("artist", '"true"', "true"),
    ("artist", '"null"', "null"),
    ("artist", '"[untitled]"', "[untitled]"),
    ("artist", '"[1, 2]"', "[1, 2]"),
    ("artist", '"{x}"', "{x}"),
    ("artist", '"{\\"a\\": 1}"', '{"a": 1}'),
    ("artist", "null", None),
    ("artist", "true", WRONG),
    ("artist", "false", WRONG),
    ("artist", "[]", WRONG),
    ("artist", '["a"]', WRONG),
    ("artist", "{}", WRONG),
    ("artist", '{"name": "a"}', WRONG),
    ("location", "112", "112"),
    ("location", "1.10", "1.10"),
    ("location", "true", WRONG),
    ("auth", "[]", WRONG),
    ("auth", '"[]"', None),
    # text: escapes and blanks
    ("song", '"a\\u0000b"', "a\x00b"),
    ("song", '"\\u0041\\/\\b\\f\\n\\r\\t\\\\\\""', 'A/\b\f\n\r\t\\"'),
    ("song", '"Bj\\u00f6rk"', "Bj\u00f6rk"),
    ("song", '"Bj\u00f6rk"', "Bj\u00f6rk"),
    ("song", '"\\ud83d"', "?"),  # half a character
    ("song", '"\\ud83d\\ude00"', "\U0001f600"),
    ("song", '"\U0001f600"', "\U0001f600"),
    ("song", '"\ufffd"', "\ufffd"),
    ("song", '"\\ufffd"', "\ufffd"),
    ("song", '"a\u2028b\u2029c\x85d"', "a\u2028b\u2029c\x85d"),
    ("song", '"a\x7fb"', "a\x7fb"),
    ("song", '"} {"', "} {"),
    ("song", '"\\"artist\\": 5"', '"artist": 5'),
    ("song", '"artist"', "artist"),
    ("song", '"  a  "', "  a  "),  # double encoding has to be undone before it is trimmed
    ("location", '" \\t\\n Lund \\r "', "Lund"),
    ("location", '"\\u00a0\\u2003\u3000Lund, Sweden\u2028\x85"', "Lund, Sweden"),
    ("location", '"Lund \\t"', "Lund"),
    ("location", '"Lund\\u2003\u3000"', "Lund"),
    ("location", '"\\u200bLund\\u001f"', "\u200bLund\x1f"),
    ("location", '" a  b "', "a  b"),
    ("location", '""', None),
    ("location", '"  \\u00a0 "', None),
    ("userAgent", '"\\"Mozilla/5.0 (X11)\\""', '"Mozilla/5.0 (X11)"'),
    # accepted values
    ("gender", '"M"', "M"),
    ("gender", '" F "', "F"),
    ("gender", "null", None),
    ("gender", '""', None),
    ("gender", '"f"', UNACCEPTED),
    ("gender", '"X"', UNACCEPTED),
    ("gender", "1", UNACCEPTED),
    ("level", '"free"', "free"),
    ("level", '"FREE"', UNACCEPTED),
    ("level", '"gold"', UNACCEPTED),
    ("level", "null", None),
    ("page", "404", "404"),
]
SONG_TOKENS: List[Tuple[str, str, Any]] = [
    ("title", "742", "742"),
    ("title", "1.10", "1.10"),
    ("title", '" Morning Tide "', " Morning Tide "),  # trimmed where it is stored, after its repair for the match
    ("title", '""', MISSING),
    ("title", "null", MISSING),
    ("title", "[]", WRONG),
    ("song_id", "null", MISSING),
    ("song_id", '"%s"' % ("S" * 60), "S" * 60),
    ("song_id", '"%s"' % ("S" * 61), UNACCEPTED),
    ("song_id", "1.10", "1.10"),
    ("artist_id", '" "', MISSING),
    ("artist_id", '"a/b=c %"', "a/b=c %"),
    ("artist_id", '"a\\u0000"', UNACCEPTED),
    ("artist_id", '"a\\nb"', UNACCEPTED),
    ("artist_name", "112", "112"),
    ("artist_name", '""', MISSING),
    ("artist_name", "true", WRONG),
    ("artist_location", '"<a href=\\"x\\">Lund</a>"', '<a href="x">Lund</a>'),
    ("artist_location", '""', None),
    ("year", "0", 0),
    ("year", "1000", 1000),
    ("year", "9999", 9999),
    ("year", '"1999"', 1999),
    ("year", "1999.0", 1999),
    ("year", "null", None),
    ("year", "1", UNACCEPTED),
    ("year", "999", UNACCEPTED),
    ("year", "10000", UNACCEPTED),
    ("year", "-1999", UNACCEPTED),
    ("year", "1999.5", WRONG),
    ("year", '"MCMXCIX"', WRONG),
    ("duration", "0", 0.0),
    ("duration", "null", None),
    ("duration", "-1", UNACCEPTED),
    ("duration", '"long"', WRONG),
    ("artist_latitude", "-90", -90.0),
    ("artist_latitude", "90.0", 90.0),
    ("artist_latitude", "90.00001", UNACCEPTED),
    ("artist_latitude", "null", None),
    ("artist_longitude", "-180", -180.0),
    ("artist_longitude", "180.00001", UNACCEPTED),
    ("artist_longitude", '"13.2 E"', WRONG),
    ("num_songs", "1", None),
    ("num_songs", '"one"', WRONG),
]


def outcome(row: Record, key: str) -> Any:
    """The reason of a bad record, else the staged value of a key."""
    columns = {field.key: field.name for field in etl.EVENT_FIELDS + etl.SONG_FIELDS}
    return row["reason"] or row.get(columns[key])


def expected_of(key: str, expected: Any) -> Any:
    return expected % key if expected in (WRONG, UNACCEPTED, MISSING) else expected


def test_values_of_events(spark: SparkSession, tmp_path: Path) -> None:
    staged = stage_lines(spark, tmp_path, [with_token(key, token) for key, token, _ in TOKENS])
    found = [(key, token, outcome(row, key)) for (key, token, _), row in zip(TOKENS, staged)]
    assert_same(found, [(key, token, expected_of(key, expected)) for key, token, expected in TOKENS])
    assert_same([type(value) for *_, value in found], [type(expected) for *_, expected in TOKENS])


def test_values_of_songs(spark: SparkSession, tmp_path: Path) -> None:
    lines = [with_token(key, token, BASE_SONG) for key, token, _ in SONG_TOKENS]
    staged = stage(spark, write_files(tmp_path, {"songs.json": "\n".join(lines)}), "song_data")
    found = [(key, token, outcome(row, key)) for (key, token, _), row in zip(SONG_TOKENS, staged)]
    assert len(staged) == len(lines)
    assert_same(found, [(key, token, expected_of(key, expected)) for key, token, expected in SONG_TOKENS])


def test_a_bare_number_is_found_wherever_its_key_stands(spark: SparkSession, tmp_path: Path) -> None:
    def last(text: str) -> str:
        return event(artist=DELETE)[:-1] + "," + text + "}"

    lines = {
        '{"artist":1.10,%s' % event(artist=DELETE)[1:]: "1.10",
        last('"artist":1.10'): "1.10",
        last('"artist" \t: \t1.10 '): "1.10",
        last('"x":"\\\\","artist":1.10'): "1.10",
        last('"x":"\\"artist\\": 7","artist":1.10'): "1.10",
        last('"x":{"artist":7}'): None,
        last('"x":{"artist":7},"artist":"1.10"'): "1.10",
        last('"x":{"artist":7},"artist":1.50'): "1.5",  # which of the keys is whose is not searched for
        last('"x artist":7'): None,
        last('"Artist":7'): None,
        last('"artist":"a","artist":"b"'): "b",
    }
    staged = stage_lines(spark, tmp_path, list(lines))
    found = [(line, row["reason"] or row["artist"]) for line, row in zip(lines, staged)]
    assert_same(found, list(lines.items()))


def test_further_keys_and_their_order_do_not_matter(spark: SparkSession, tmp_path: Path) -> None:
    backwards = dict(sorted(event_record(extra={"ts": [1, {"page": None}]}, more="}").items(), reverse=True))
    plain, other = stage_lines(spark, tmp_path, [GOOD, json.dumps(backwards)])
    assert plain == other


# ------------------------------------------------------------------------------------ files


def sessions(staged: Sequence[Record]) -> List[int]:
    """The session ids of rows that must all be good."""
    assert reasons(staged) == [None] * len(staged)
    return sorted(row["session_id"] for row in staged)


def numbered(*numbers: int) -> List[Record]:
    return [event_record(sessionId=number) for number in numbers]


def text_of(*numbers: int, end: str = "\n") -> bytes:
    return "".join(json.dumps(record) + end for record in numbered(*numbers)).encode()


@pytest.mark.parametrize("name", ["log_data", "song_data"])
def test_line_ends_marks_blanks_and_compression(spark: SparkSession, tmp_path: Path, name: str) -> None:
    make = event if name == "log_data" else song
    good = [make(), make(), make()]
    mark = b"\xef\xbb\xbf"
    files = {
        "lines.json": "\n".join(good),
        "lines, end.json": "\n".join(good) + "\n",
        "crlf.json": "\r\n".join(good) + "\r\n",
        "cr.json": "\r".join(good),
        "mark.json": mark + "\n".join(good).encode(),
        "mark, crlf.json": mark + "\r\n".join(good).encode(),
        "blank lines.json": "\n \n\t\n%s\n\n\r\n%s\n%s\n   " % tuple(good),
        "blanks.json": "".join("  %s \t\n" % line for line in good),
        "zipped.json.gz": gzip.compress("\n".join(good).encode()),
        "zipped, mark.json.gz": gzip.compress(mark + "\r\n".join(good).encode()),
        "zipped twice.json.gz": gzip.compress(good[0].encode() + b"\n") + gzip.compress("\n".join(good[1:]).encode()),
        "empty.json": b"",
        "blank.json": b" \n\t\r\n\n",
        "only a mark.json": mark,
        "empty.json.gz": gzip.compress(b""),
    }
    staged = stage(spark, write_files(tmp_path, files), name)
    assert [(row["reason"], row["file"]) for row in staged if row["reason"]] == []
    assert len(staged) == 3 * 11


def test_the_raw_text_of_a_marked_or_windows_file_is_that_of_the_line(spark: SparkSession, tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.json": b"\xef\xbb\xbf{bad\r\n \t{worse \r\n"})
    assert [row["raw"] for row in stage(spark, folder)] == ["{bad", " \t{worse "]


def test_files_at_any_depth_are_read_and_hidden_ones_are_not(spark: SparkSession, tmp_path: Path) -> None:
    root = tmp_path / "_hidden" / ".parents" / "logs"
    write_files(
        root,
        {
            "root.json": numbered(1),
            "2018/11/a.json": numbered(2, 3),
            "2018/11/b.json": numbered(4),
            "2018/12/deeper/still/c.json": numbered(5),
            "2019/d.json": numbered(6),
            "no extension": numbered(7),
            "_hidden.json": numbered(100),
            ".hidden.json": numbered(101),
            "_hidden/a.json": numbered(102),
            ".hidden/a.json": numbered(103),
            "2018/_SUCCESS": b"bad",
            "2018/11/.a.json.crc": b"bad",
            "2018/_hidden/11/a.json": numbered(104),
            "2018/11/.hidden/still/a.json": numbered(105),
        },
    )
    (root / "empty folder" / "below").mkdir(parents=True)
    assert sessions(stage(spark, root)) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "files",
    [["a.json"], ["2018/11/a.json", "2018/12/b.json"], ["A/B/C/a.json", "A/B/D/b.json", "B/B/C/c.json"]],
    ids=["flat", "two levels", "three levels"],
)
def test_files_at_one_depth_are_read(spark: SparkSession, tmp_path: Path, files: List[str]) -> None:
    write_files(tmp_path, {name: numbered(number) for number, name in enumerate(files)})
    write_files(tmp_path, {"_x/a.json": b"bad", ".x": b"bad"})
    assert sessions(stage(spark, tmp_path)) == list(range(len(files)))


ODD_NAMES = [
    "with space",
    "[brackets]",
    "[a-z]",
    "{braces,more}",
    "comma,comma",
    "caf\u00e9 \u6771\u4eac",
    "100%",
    "%20",
    "hash#1",
    "plus+equals=1",
    "year=2018",
    "quote'quote",
    "semi;and&",
    "star*",
    "question?",
    "back\\slash",
    "tilde~",
    "a^b!",
]


def test_odd_names_inside_an_input(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    for number, name in enumerate(ODD_NAMES):
        write_files(folder, {"%s/%s.json" % (name, name): [event_record(sessionId=number), {"x": name}]})
        write_files(folder, {"deeper/%s/deeper/%s.json" % (name, name): [event_record(sessionId=100 + number)]})
    staged = stage(spark, folder)
    good = [row for row in staged if not row["reason"]]
    assert sessions(good) == list(range(len(ODD_NAMES))) + list(range(100, 100 + len(ODD_NAMES)))
    bad = {json.loads(row["raw"])["x"]: unquote(row["file"]) for row in staged if row["reason"]}
    assert bad == {name: "file://%s/%s/%s.json" % (folder, name, name) for name in ODD_NAMES}


def test_files_are_read_by_their_names_and_each_record_tells_its_own(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    for number, name in enumerate(ODD_NAMES):
        write_files(
            folder, {"%s/%s.json" % (name, name): [event_record(sessionId=number)], name + ".json": ["no record"]}
        )
    names = ["%s/%s.json" % (name, name) for name in ODD_NAMES]
    staged = etl.staging(etl.read_lines(spark, str(folder), names), etl.EVENT_FIELDS)
    run = etl.Run(
        spark, etl.Config("LOCAL", "/", str(folder), str(tmp_path / "lake"), 5.0), etl.Progress(io.StringIO())
    )
    for number, name in enumerate(names):
        found = staged.where(run.is_from("log_data", [name])).select("session_id").collect()
        assert [row["session_id"] for row in found] == [number], name
    assert staged.count() == len(names)


@pytest.mark.parametrize("name", ["log_data", "song_data"])
def test_odd_names_of_an_input(spark: SparkSession, tmp_path: Path, name: str) -> None:
    odd = tmp_path / " ".join(ODD_NAMES)
    record = event_record() if name == "log_data" else song_record()
    write_files(odd, {"a/b.json": [record], "c.json": [record]})
    assert reasons(stage(spark, odd, name)) == [None, None]


def test_a_single_file_is_an_input_too(spark: SparkSession, tmp_path: Path) -> None:
    write_files(tmp_path, {"a [1].json": numbered(1, 2), "b.json": numbered(3)})
    assert sessions(stage(spark, tmp_path / "a [1].json")) == [1, 2]


# ------------------------------------------------------------------------------------ song files


def ids(staged: Sequence[Record]) -> List[str]:
    return sorted(row["song_id"] for row in staged if not row["reason"])


def bad_of(staged: Sequence[Record]) -> List[Tuple[str, str]]:
    return [(row["reason"], row["raw"]) for row in staged if row["reason"]]


def songs_numbered(*numbers: int) -> List[Record]:
    return [song_record(song_id="S%d" % number, title="{ } [%d] \u00e9" % number) for number in numbers]


def test_song_files_of_every_form(spark: SparkSession, tmp_path: Path) -> None:
    records = songs_numbered(*range(1, 16))
    text = [json.dumps(record) for record in records]
    folder = write_files(
        tmp_path,
        {
            "A/one.json": text[0],
            "A/B/lines.json": "\n".join(text[1:3]),
            "A/B/C/one pretty.json": pretty(records[3]),
            "pretty.json": "".join(pretty(record) for record in records[4:7]),
            "pretty, crlf.json": "".join(pretty(record, "\r\n") for record in records[7:10]),
            "pretty, blank lines.json": "\n\n  \n".join(pretty(record) for record in records[10:12]),
            "pretty, indented.json": "".join(pretty(record) for record in records[12:14]).replace("{\n", "  {\n"),
            "pretty, zipped.json.gz": gzip.compress(pretty(records[14]).encode()),
        },
    )
    staged = stage(spark, folder, "song_data")
    assert bad_of(staged) == []
    assert sorted(row["title"] for row in staged) == sorted(record["title"] for record in records)
    assert ids(staged) == sorted(record["song_id"] for record in records)
    assert etl.read_documents(spark, str(folder), ["pretty.json", "pretty, crlf.json"]).count() == 6


def test_a_song_file_is_one_text_however_many_tasks_share_its_bytes(spark: SparkSession, tmp_path: Path) -> None:
    def songs(letter: str) -> bytes:
        return "".join(pretty(song_record(song_id=letter + str(number))) for number in range(20)).encode()

    folder = write_files(
        tmp_path, {"a.json": songs("A"), "b.json.gz": gzip.compress(songs("B")), "c.json.bz2": bz2.compress(songs("C"))}
    )
    size = 300  # bytes of a task
    spark.conf.set("spark.sql.files.maxPartitionBytes", str(size))
    try:
        assert etl.read_documents(spark, str(folder)).rdd.getNumPartitions() > len(songs("A")) // size
        staged = stage(spark, folder, "song_data")
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
    assert bad_of(staged) == []
    assert ids(staged) == sorted(letter + str(number) for letter in "ABC" for number in range(20))


def test_a_song_file_may_hold_nearly_what_would_end_it(spark: SparkSession, tmp_path: Path) -> None:
    nearly = [etl.NO_LINE_END[:-1], etl.NO_LINE_END[1:], etl.NO_LINE_END[:5] + etl.NO_LINE_END[:-1]]
    folder = write_files(tmp_path, {"%d.json" % at: "%s\n%s" % (text, song()) for at, text in enumerate(nearly)})
    staged = stage(spark, folder, "song_data")
    assert sorted(bad_of(staged)) == sorted((NOT_AN_OBJECT, text) for text in nearly)
    assert len(ids(staged)) == 3


def test_only_the_damaged_object_of_a_song_file_is_quarantined(spark: SparkSession, tmp_path: Path) -> None:
    good = [pretty(record) for record in songs_numbered(*range(20))]
    cut_off = pretty(song_record())[:100]
    wrong = pretty(song_record(year="MCM"))
    two = pretty(song_record()).rstrip() + pretty(song_record())
    garbage = pretty(song_record()).rstrip() + " x\n"
    folder = write_files(
        tmp_path,
        {
            "a.json": good[0] + cut_off + "\n" + good[1],
            "b.json": cut_off + "\n" + good[2],
            "c.json": good[3] + cut_off,
            "d.json": good[4] + wrong + good[5],
            "e.json": good[6] + two + good[7],
            "f.json": good[8] + garbage + good[9],
            "g.json": good[10] + "garbage\n" + good[11],
            "h.json": (good[12] + wrong + good[13]).replace("\n", "\r\n"),
            "i.json": json.dumps(songs_numbered(90, 91)),
            "j.json": song(song_id="S92") + song(song_id="S93"),
            "k.json": "null",
        },
    )
    staged = stage(spark, folder, "song_data")
    assert ids(staged) == sorted("S%d" % number for number in range(14))
    found = {row["file"][-6:-5]: (row["reason"], row["raw"].rstrip()) for row in staged if row["reason"]}
    assert found == {
        "a": (BROKEN, cut_off.rstrip()),
        "b": (BROKEN, cut_off.rstrip()),
        "c": (BROKEN, cut_off.rstrip()),
        "d": ("wrong type: year", wrong.rstrip()),
        "e": (BROKEN, two.rstrip()),
        "f": (BROKEN, garbage.rstrip()),
        "g": (NOT_AN_OBJECT, "garbage"),
        "h": ("wrong type: year", wrong.rstrip().replace("\n", "\r\n")),
        "i": (NOT_AN_OBJECT, json.dumps(songs_numbered(90, 91))),
        "j": (BROKEN, song(song_id="S92") + song(song_id="S93")),
        "k": (NOT_AN_OBJECT, "null"),
    }


@pytest.mark.parametrize("form", ["lines", "pretty"])
def test_only_the_song_that_is_not_utf8_is_quarantined_with_its_bytes(
    spark: SparkSession, tmp_path: Path, form: str
) -> None:
    def write(record: Record) -> str:
        return json.dumps(record, ensure_ascii=False, indent=4 if form == "pretty" else None) + "\n"

    good = [write(record).encode() for record in songs_numbered(1, 2)]
    bad = write(song_record(title="caf?")).encode().replace(b"?", b"\xe9\xff")
    (row,) = [
        r for r in stage(spark, write_files(tmp_path, {"a.json": good[0] + bad + good[1]}), "song_data") if r["reason"]
    ]
    assert row["reason"] == NOT_UTF8
    assert base64.b64decode(row["raw_base64"]).rstrip() == bad.rstrip()
    assert row["raw"].rstrip() == bad.decode("utf-8", "replace").rstrip()
    assert [r["title"] for r in stage(spark, tmp_path, "song_data") if not r["reason"]] == [
        "{ } [1] \u00e9",
        "{ } [2] \u00e9",
    ]


# ------------------------------------------------------------------------------------ against Python's json

LOOK_ALIKES = ["112", "1.10", "-0", "true", "null", "[untitled]", "{x}", '"7"', "\\", "}", "\ufeff", "\ufffd"]
LOOK_ALIKES += ["", " ", "\u3000a\x85"]
given_texts = st.sampled_from(LOOK_ALIKES) | st.text(st.characters(blacklist_categories=SURROGATES), max_size=12)
texts = st.none() | given_texts
required_texts = given_texts.map(lambda text: text if trimmed(text) else "x")
whole = st.integers(0, 10**18 - 1)
events = st.fixed_dictionaries(
    {
        "artist": texts,
        "song": texts,
        "location": texts,
        "userAgent": texts,
        "page": st.sampled_from(["NextSong", "Home", "NextSong "]),
        "gender": st.sampled_from(["F", "M", None, ""]),
        "level": st.sampled_from(["free", "paid", None]),
        "length": st.none() | st.floats(0, 1e308) | st.integers(0, 10**20),
        "itemInSession": whole,
        "sessionId": whole,
        "ts": st.integers(0, 253402300799999),
        "userId": st.none() | st.just("") | whole | whole.map(str),
    }
)
songs = st.fixed_dictionaries(
    {
        "song_id": st.sampled_from(["S1", "S2"]),
        "title": required_texts,
        "artist_id": st.sampled_from(["A1", "112"]),
        "artist_name": required_texts,
        "artist_location": texts,
        "artist_latitude": st.none() | st.floats(-90, 90),
        "year": st.none() | st.just(0) | st.integers(1000, 9999),
    }
)
# Bytes that mean something to JSON or UTF-8 are likelier than others to do damage.
damage = st.one_of(
    st.sampled_from(list(b'{}[]",:\\/-+.eEntfu0123456789 \x00\xef\xbb\xbf\xc3\xff')), st.integers(0, 255)
)


def trimmed(text: Any) -> Any:
    """Text without surrounding characters of Unicode's White_Space; null where nothing is left."""
    if text is None:
        return None
    places = [
        place
        for place, character in enumerate(text)
        if not (character in "\t\n\x0b\x0c\r\x85" or unicodedata.category(character) in ("Zs", "Zl", "Zp"))
    ]
    return text[places[0] : places[-1] + 1] if places else None


def staged_by_python(record: Record, fields: Sequence[etl.Field]) -> Record:
    """What staging makes of a good record, by another road."""
    row: Record = {"reason": None, "raw": None, "raw_base64": None, "file": None}
    for field in fields:
        value = record.get(field.key)
        if field.kind == "text":
            value = trimmed(value)
        elif field.kind == "integer" and value is not None:
            value = int(value) if value != "" else None
        elif field.kind == "number" and value is not None:
            value = float(value)
        if field.name:
            row[field.name] = value
    return row


def is_object(line: bytes) -> bool:
    """Whether Python reads a line as one JSON object."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return isinstance(json.loads(line.decode("utf-8"), parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        return False


@st.composite
def lines_of_events(draw: Any) -> List[Tuple[bytes, Any]]:
    """Lines with the record that each holds, None where it was damaged."""
    lines: List[Tuple[bytes, Any]] = []
    for record in draw(st.lists(events, min_size=20, max_size=50)):
        line = json.dumps(record, ensure_ascii=draw(st.booleans())).encode("utf-8")
        if draw(st.booleans()):
            lines.append((line, record))
            continue
        start = draw(st.integers(0, len(line)))
        end = draw(st.integers(start, min(len(line), start + 5)))
        patch = bytes(draw(st.lists(damage, max_size=3)))
        damaged = (line[:start] + patch + line[end:]).replace(b"\n", b"").replace(b"\r", b"")
        lines.append((damaged, None))
    return lines


@given(lines=lines_of_events())
@settings(max_examples=settings().max_examples // 2)
def test_any_mix_of_good_and_damaged_lines(spark: SparkSession, tmp_path: Path, lines: List[Tuple[bytes, Any]]) -> None:
    staged = stage_lines(spark, tmp_path, [line for line, _ in lines])
    for (line, record), row in zip(lines, staged):
        if record is not None:
            assert row == staged_by_python(record, etl.EVENT_FIELDS), line
        elif not is_object(line):
            assert row["reason"], line
        if row["reason"] and row["raw_base64"]:
            assert base64.b64decode(row["raw_base64"]) == line
        elif row["reason"]:
            assert row["raw"].encode("utf-8") == line


@given(lines=lines_of_events())
@settings(max_examples=3)
def test_the_quick_way_gives_what_the_careful_one_does(
    spark: SparkSession, tmp_path: Path, lines: List[Tuple[bytes, Any]]
) -> None:
    texts = [line for line, _ in lines] + [with_token(key, token).encode("utf-8") for key, token, _ in TOKENS]
    folder = write_files(tmp_path / "both", {"a.json": b"".join(line + b"\n" for line in texts)})
    records = etl.read_lines(spark, str(folder))
    quick = etl.quick_staging(records, etl.EVENT_FIELDS).collect()
    careful = etl.staging(records, etl.EVENT_FIELDS).collect()
    pairs = [pair for pair in zip(quick, careful) if pair[0]["reason"] != etl.UNREAD]
    assert len(texts) > len(pairs) > 30  # both ways were taken
    assert_same([row for row, _ in pairs], [row for _, row in pairs])


@given(records=st.lists(songs, min_size=10, max_size=30), seed=st.integers(0, 999))
@settings(max_examples=3)
def test_any_mix_of_songs_and_ways_to_print_them(
    spark: SparkSession, tmp_path: Path, records: List[Record], seed: int
) -> None:
    chance = random.Random(seed)
    printed = ""
    for record in records:
        text = json.dumps(record, indent=chance.choice([None, 1, 4]), ensure_ascii=chance.random() < 0.5)
        end = chance.choice(["\n", "\r\n"])
        printed += text.replace("\n", end) + end + chance.choice(["", end, " " + end])
    folder = write_files(tmp_path / "songs", {"songs.json": printed})
    expected = [staged_by_python(record, etl.SONG_FIELDS) for record in records]
    assert stage(spark, folder, "song_data") == expected
