"""What a good record is: every record is read right or quarantined with its text, file and reason.

The expectations are literal. judge() is the definition and needs no Spark, so that most cases need none; then the same
cases go through Spark, which takes ordinary records by itself, and must come out the same.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import json
import os
import random
import struct
import unicodedata
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple, Union
from urllib.parse import unquote

import pytest
from conftest import BASE_EVENT, BASE_SONG, DELETE, Record, event_record, song_record, write_files
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

import etl

SURROGATES: Any = ("Cs",)  # no text of UTF-8 holds one
EXAMPLES = settings().max_examples  # of properties that need Spark; others are a thousand times quicker
FIELDS = {"song_data": etl.SONG_FIELDS, "log_data": etl.EVENT_FIELDS}

Line = Union[bytes, str]


def encoded(line: Line) -> bytes:
    return line if isinstance(line, bytes) else line.encode("utf-8")


def judged(line: Line, name: str = "log_data") -> Tuple[Record, str]:
    """The values of a good record, or the reason of a bad one."""
    values, reason = etl.judge(encoded(line), FIELDS[name])
    assert not (values and reason)
    return values, reason


def reason_of(line: Line, name: str = "log_data") -> str:
    return judged(line, name)[1]


def records_of(content: Line, name: str = "log_data") -> List[bytes]:
    """The records that an input's file holds."""
    return list(etl.INPUTS[name].split(encoded(content).splitlines(keepends=True)))


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
    """Assert that lists are equal, -0.0 not to 0.0; shows only where they are not."""
    assert len(found) == len(expected)
    assert [pair for pair in zip(found, expected) if repr(pair[0]) != repr(pair[1])] == []


# ------------------------------------------------------------------------------------ records as a whole


def test_a_good_event_has_the_types_of_its_fields() -> None:
    assert judged(event())[0] == {
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
    }


def test_a_good_song_has_the_types_of_its_fields() -> None:
    assert judged(song(year=0), "song_data")[0] == {
        "song_id": "SOAAAAA12AB0000001",
        "title": "Morning Tide",
        "duration": 218.93179,
        "year": 0,
        "artist_id": "ARAAAAA1187B000001",
        "artist_name": "The Placeholders",
        "artist_location": "Lund, Sweden",
        "artist_latitude": 55.70584,
        "artist_longitude": 13.19321,
    }


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


def test_bad_lines_have_a_reason() -> None:
    assert_same([(line, reason_of(line)) for line, _ in BAD_LINES], BAD_LINES)


def test_a_quarantined_record_is_kept_as_it_is() -> None:
    for line, reason in BAD_LINES:
        name, file, why, raw, exact = etl.quarantined("log_data", encoded(line), reason, "file:///a.json")
        assert (name, file, why) == ("log_data", "file:///a.json", reason)
        if reason == NOT_UTF8:
            assert base64.b64decode(exact) == line
            assert raw == encoded(line).decode("utf-8", "replace")
        else:
            assert (raw, exact) == (line, None)


DEEP = '{"x": %s1%s}'
EXTREMES = [
    (event(song="a" * 49000), ""),
    (json.dumps(event_record(song="\u00e9" * 49000), ensure_ascii=False), ""),  # characters, not bytes
    (event(song="a" * 100000), "longer than 50000 characters"),
    ("x" * 100000, "longer than 50000 characters"),
    (event(x=DELETE)[:-1] + ', "%s": 1}' % ("k" * 60000), "longer than 50000 characters"),
    (DEEP % ("[" * 5000, "]" * 5000), EXTREME),
    (DEEP % ('{"x":' * 5000, "}" * 5000), EXTREME),
    ("{" * 2000, EXTREME),
    (with_token("artist", "1" * 5000), EXTREME),
    (with_token("length", "0." + "1" * 5000), EXTREME),
    (with_token("length", "1e" + "1" * 5000), EXTREME),
    (GOOD[:-1] + ', "x": %s1%s}' % ("[" * 400, "]" * 400), ""),
    (with_token("artist", "1" * 900), ""),
    (with_token("artist", "0." + "1" * 900), ""),
    (with_token("ts", "1" * 900), "wrong type: ts"),
    (with_token("length", "1" * 900), "wrong type: length"),
    (with_token("length", "0." + "1" * 900), ""),
    ('{"x":' + "[" * 994, EXTREME),  # short, and yet nested deeper than Python's parser goes
    ('{"x":' + "[" * 400, BROKEN),
    ('{"x":' * 200, BROKEN),
]


def test_extreme_records_are_refused_before_they_reach_a_parser() -> None:
    assert_same([(line, reason_of(line)) for line, _ in EXTREMES], EXTREMES)
    for number in ("1" * 900, "0." + "1" * 900):
        assert judged(with_token("artist", number))[0]["artist"] == number


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
    ("ts", "100000000000", 100000000000),
    ("ts", "99999999999", UNACCEPTED),
    ("ts", "1541105830", UNACCEPTED),  # seconds
    ("ts", "0", UNACCEPTED),
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
    ("itemInSession", "-0", 0),
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
    *[("length", token, 0.0) for token in ("0", "-0", "-0.0", '"-0"', "1e-400", "-1e-400")],
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
    ("song", '"  a  "', "a"),
    # text: UTF-8 that was taken for Latin-1, once or twice; undone before it is trimmed
    ("song", '"Bj\\u00c3\\u00b6rk"', "Bj\u00f6rk"),
    ("song", '"Bj\u00c3\u00b6rk"', "Bj\u00f6rk"),
    ("artist", '"Bj\u00c3\x83\u00c2\u00b6rk"', "Bj\u00f6rk"),
    ("artist", '"Bj\u00c3\x83\u00c2\x83\u00c3\x82\u00c2\u00b6rk"', "Bj\u00c3\u00b6rk"),  # twice, not thrice
    ("song", '" \u00e2\x80\x8b\u00c3\xa9 \u00c2\xa0"', "\u200b\u00e9"),
    ("location", '"M\u00c3\xa1laga"', "M\u00e1laga"),
    ("firstName", '"Zo\u00c3\xab "', "Zo\u00eb"),
    ("lastName", '"\u00c3\xa9\u0107"', "\u00c3\xa9\u0107"),  # beyond Latin-1, so it was not taken for it
    ("song", '"\u00c3("', "\u00c3("),  # no UTF-8
    ("page", '" NextSong\u00a0"', "NextSong"),
    ("location", '" \\t\\n Lund \\r "', "Lund"),
    ("location", '"\\u00a0\\u2003\u3000Lund, Sweden\u2028\x85"', "Lund, Sweden"),
    ("location", '"Lund \\t"', "Lund"),
    ("location", '"Lund\\u2003\u3000"', "Lund"),
    ("location", '"\\u200bLund\\u001f"', "\u200bLund\x1f"),
    ("location", '" a  b "', "a  b"),
    ("location", '""', None),
    ("location", '"  \\u00a0 "', None),
    ("userAgent", '"\\"Mozilla/5.0 (X11)\\""', "Mozilla/5.0 (X11)"),
    ("userAgent", '" \\"Mozilla/5.0 \\" "', "Mozilla/5.0"),
    ("userAgent", '"a \\"b\\" c"', 'a "b" c'),
    ("userAgent", '"\\"\\""', None),
    ("userAgent", '"\\"112\\""', "112"),
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
    ("title", '" Morning Tide "', "Morning Tide"),
    ("title", '"Morg\u00c3\xb6n\u00c2\xa0"', "Morg\u00f6n"),
    ("artist_location", '"M\u00c3\xa1laga "', "M\u00e1laga"),
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
    ("artist_id", '"AR1\\n"', "AR1"),
    ("song_id", '"SO1\\u2028"', "SO1"),
    ("song_id", '" SO1 "', "SO1"),
    ("song_id", '"__HIVE_DEFAULT_PARTITION__"', UNACCEPTED),
    ("song_id", '"true"', "true"),
    ("song_id", "true", WRONG),
    ("song_id", '"\u00c3\xa9"', "\u00e9"),
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


COLUMNS = {field.key: field.column for field in etl.EVENT_FIELDS + etl.SONG_FIELDS}


def outcome(values: Mapping[str, Any], reason: str, key: str) -> Any:
    """The reason of a bad record, else the staged value of a key."""
    return reason or values.get(COLUMNS[key])


def expected_of(key: str, expected: Any) -> Any:
    return expected % key if expected in (WRONG, UNACCEPTED, MISSING) else expected


def assert_values(tokens: Sequence[Tuple[str, str, Any]], name: str, base: Record) -> None:
    found = [(key, token, outcome(*judged(with_token(key, token, base), name), key)) for key, token, _ in tokens]
    assert_same(found, [(key, token, expected_of(key, expected)) for key, token, expected in tokens])
    assert_same([type(value) for *_, value in found], [type(expected) for *_, expected in tokens])


def test_values_of_events() -> None:
    assert_values(TOKENS, "log_data", BASE_EVENT)


def test_values_of_songs() -> None:
    assert_values(SONG_TOKENS, "song_data", BASE_SONG)


@pytest.mark.parametrize("name", list(FIELDS))
def test_every_text_field_is_repaired_and_trimmed_and_empty_is_null(name: str) -> None:
    make, base = (event, BASE_EVENT) if name == "log_data" else (song, BASE_SONG)
    free = [f for f in FIELDS[name] if f.kind in ("text", "name", "quoted") and f.column and not f.accepted.values]
    assert len(free) == {"log_data": 7, "song_data": 5}[name]
    for field in free:
        assert judged(make(**{field.key: " \u00c3\u00a9t\u00c3\u00a9 \t"}), name)[0][field.column] == "\u00e9t\u00e9"
        found = outcome(*judged(make(**{field.key: " \u00a0 "}), name), field.key)
        assert found == ("missing: " + field.key if field.required else None)
        assert isinstance(base[field.key], str)


def test_a_bare_number_is_found_wherever_its_key_stands() -> None:
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
        last('"x":{"artist":7},"artist":1.50'): "1.50",
        last('"x artist":7'): None,
        last('"Artist":7'): None,
        last('"artist":"a","artist":"b"'): "b",
    }
    assert_same([(line, outcome(*judged(line), "artist")) for line in lines], list(lines.items()))


def test_further_keys_and_their_order_do_not_matter() -> None:
    backwards = dict(sorted(event_record(extra={"ts": [1, {"page": None}]}, more="}").items(), reverse=True))
    assert judged(json.dumps(backwards)) == judged(GOOD)


# ------------------------------------------------------------------------------------ staged rows


def staged_event(**changes: Any) -> Record:
    """An event as a row of staging_events."""
    row = etl.staged(judged(event(**changes))[0], "file:///a.json", "staging_events")
    return dict(zip([name for name, _ in etl.columns_of("staging_events")], row))


def test_a_play_has_the_hash_of_its_natural_key_and_no_other_event_has_one() -> None:
    play = staged_event(userId="39", sessionId=38, itemInSession=3, ts=1541105830796)
    assert (
        play["songplay_id"] == hashlib.md5(b"39/38/3/1541105830796").hexdigest() == "1f6da2033dfb4dc4d69f874faa059def"
    )
    assert staged_event(userId="", sessionId=38)["songplay_id"] == hashlib.md5(b"/38/3/1541105830796").hexdigest()
    assert staged_event(page="Home")["songplay_id"] is None
    assert staged_event(page=" NextSong ")["songplay_id"] == play["songplay_id"]
    others = ({"userId": "40"}, {"sessionId": 39}, {"itemInSession": 4}, {"ts": 1541105830797})
    assert len({play["songplay_id"], *(staged_event(**change)["songplay_id"] for change in others)}) == 5
    same = ({"song": "x"}, {"level": "free"}, {"location": None}, {"artist": 1})
    assert {staged_event(**change)["songplay_id"] for change in same} == {play["songplay_id"]}


@pytest.mark.parametrize(
    ("ts", "month"),
    [
        (1541030399999, (2018, 10)),
        (1541030400000, (2018, 11)),
        (1546300799999, (2018, 12)),
        (1546300800000, (2019, 1)),
        (100000000000, (1973, 3)),
        (253402300799999, (9999, 12)),
    ],
)
def test_an_event_is_of_a_month_in_utc(ts: int, month: Tuple[int, int]) -> None:
    row = staged_event(ts=ts)
    assert (row["year"], row["month"]) == month
    assert (row["ts"], row["file"]) == (ts, "file:///a.json")


# ------------------------------------------------------------------------------------ the records of a file

MARK = b"\xef\xbb\xbf"


def files_of_three(make: Any) -> Dict[str, Any]:
    """Files with three good records each, written in every way; and files with none."""
    good = [make(), make(), make()]
    return {
        "lines.json": "\n".join(good),
        "lines, end.json": "\n".join(good) + "\n",
        "crlf.json": "\r\n".join(good) + "\r\n",
        "cr.json": "\r".join(good),
        "mark.json": MARK + "\n".join(good).encode(),
        "mark, crlf.json": MARK + "\r\n".join(good).encode(),
        "blank lines.json": "\n \n\t\n%s\n\n\r\n%s\n%s\n   " % tuple(good),
        "blanks.json": "".join("  %s \t\n" % line for line in good),
        "zipped.json.gz": gzip.compress("\n".join(good).encode()),
        "zipped, mark.json.gz": gzip.compress(MARK + "\r\n".join(good).encode()),
        "zipped twice.json.gz": gzip.compress(good[0].encode() + b"\n") + gzip.compress("\n".join(good[1:]).encode()),
        "zipped.json.bz2": bz2.compress("\n".join(good).encode()),
        "blank.json": b" \n\t\r\n\n",
        "only a mark.json": MARK,
        "empty.json.gz": gzip.compress(b""),
    }


def is_empty(file: str) -> bool:
    return file.startswith(("blank.", "only a mark", "empty"))


@pytest.mark.parametrize("name", list(FIELDS))
def test_line_ends_marks_and_blanks(name: str) -> None:
    files = files_of_three(event if name == "log_data" else song)
    for file, content in files.items():
        if file.endswith(".json"):
            found = [reason_of(record, name) for record in records_of(content, name)]
            assert found == ([] if is_empty(file) else [""] * 3), file


def test_the_raw_text_of_a_marked_or_windows_file_is_that_of_the_line() -> None:
    assert records_of(b"\xef\xbb\xbf{bad\r\n \t{worse \r\n") == [b"{bad", b" \t{worse "]


def songs_numbered(*numbers: int) -> List[Record]:
    return [song_record(song_id="S%d" % number, title="{ } [%d] \u00e9" % number) for number in numbers]


def song_files() -> Dict[str, Any]:
    """Song files of every form, with fifteen songs altogether."""
    records = songs_numbered(*range(1, 16))
    text = [json.dumps(record) for record in records]
    return {
        "A/one.json": text[0],
        "A/B/lines.json": "\n".join(text[1:3]),
        "A/B/C/one pretty.json": pretty(records[3]),
        "pretty.json": "".join(pretty(record) for record in records[4:7]),
        "pretty, crlf.json": "".join(pretty(record, "\r\n") for record in records[7:10]),
        "pretty, blank lines.json": "\n\n  \n".join(pretty(record) for record in records[10:12]),
        "pretty, indented.json": "".join(pretty(record) for record in records[12:14]).replace("{\n", "  {\n"),
        "pretty and not.json": text[14] + "\n" + pretty(records[0]) + text[1] + "\n" + text[2],
    }


def ids(content: Line) -> List[str]:
    """The song ids of a file whose records must all be good."""
    found = [judged(record, "song_data") for record in records_of(content, "song_data")]
    assert [reason for _, reason in found if reason] == []
    return [values["song_id"] for values, _ in found]


def test_song_files_of_every_form() -> None:
    assert {name: ids(content) for name, content in song_files().items()} == {
        "A/one.json": ["S1"],
        "A/B/lines.json": ["S2", "S3"],
        "A/B/C/one pretty.json": ["S4"],
        "pretty.json": ["S5", "S6", "S7"],
        "pretty, crlf.json": ["S8", "S9", "S10"],
        "pretty, blank lines.json": ["S11", "S12"],
        "pretty, indented.json": ["S13", "S14"],
        "pretty and not.json": ["S15", "S1", "S2", "S3"],
    }


def damaged_song_files() -> Dict[str, Tuple[bytes, List[str], str, bytes]]:
    """By name: the content of a song file, the ids of its good songs, and the reason and raw text of its bad record."""
    good = [pretty(record).encode() for record in songs_numbered(*range(20))]
    cut_off = pretty(song_record())[:100].encode()
    wrong = pretty(song_record(year="MCM")).encode()
    two = pretty(song_record()).rstrip().encode() + pretty(song_record()).encode()
    garbage = pretty(song_record()).rstrip().encode() + b" x\n"
    array = json.dumps(songs_numbered(90, 91)).encode()
    joined = (song(song_id="S92") + song(song_id="S93")).encode()
    latin = pretty(song_record(title="caf?")).encode().replace(b"?", b"\xe9\xff")
    windows = wrong.replace(b"\n", b"\r\n")
    return {
        "a": (good[0] + cut_off + b"\n" + good[1], ["S0", "S1"], BROKEN, cut_off),
        "b": (cut_off + b"\n" + good[2], ["S2"], BROKEN, cut_off),
        "c": (good[3] + cut_off, ["S3"], BROKEN, cut_off),
        "d": (good[4] + wrong + good[5], ["S4", "S5"], "wrong type: year", wrong),
        "e": (good[6] + two + good[7], ["S6", "S7"], BROKEN, two),
        "f": (good[8] + garbage + good[9], ["S8", "S9"], BROKEN, garbage),
        "g": (good[10] + b"garbage\n" + good[11], ["S10", "S11"], NOT_AN_OBJECT, b"garbage"),
        "h": (good[12] + windows + good[13], ["S12", "S13"], "wrong type: year", windows),
        "i": (array, [], NOT_AN_OBJECT, array),
        "j": (joined, [], BROKEN, joined),
        "k": (b"null", [], NOT_AN_OBJECT, b"null"),
        "l": (good[14] + latin + good[15], ["S14", "S15"], NOT_UTF8, latin),
    }


@pytest.mark.parametrize("case", list(damaged_song_files()))
def test_only_the_damaged_object_of_a_song_file_is_bad(case: str) -> None:
    content, good, reason, raw = damaged_song_files()[case]
    found = [(record, *judged(record, "song_data")) for record in records_of(content, "song_data")]
    assert [values["song_id"] for _, values, why in found if not why] == good
    assert [(why, record.rstrip()) for record, _, why in found if why] == [(reason, raw.rstrip())]


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
        "ts": st.integers(100000000000, 253402300799999),
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


def repaired(text: str) -> str:
    """Text of which UTF-8 that was taken for Latin-1 is undone, once or twice."""
    for _ in range(2):
        if any(ord(character) > 255 for character in text):
            return text
        try:
            text = bytes(map(ord, text)).decode("utf-8")
        except UnicodeDecodeError:
            return text
    return text


def cleaned(text: Any) -> Any:
    return None if text is None else trimmed(repaired(text))


def staged_by_python(record: Record, fields: Sequence[etl.Field]) -> Record:
    """What judge() makes of a good record, by another road."""
    row: Record = {}
    for field in fields:
        value = record.get(field.key)
        if field.kind in ("text", "name", "quoted"):
            value = cleaned(value)
        if field.kind == "quoted" and value is not None:
            value = cleaned(value.strip('"'))
        elif field.kind == "integer" and value is not None:
            value = int(value) if value != "" else None
        elif field.kind == "number" and value is not None:
            value = float(value)
        if field.column:
            row[field.column] = value
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
def lines_of_events(draw: Any, fewest: int = 1, most: int = 3) -> List[Tuple[bytes, Any]]:
    """Lines with the record that each holds, None where it was damaged."""
    lines: List[Tuple[bytes, Any]] = []
    for record in draw(st.lists(events, min_size=fewest, max_size=most)):
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
@settings(max_examples=25 * EXAMPLES)
def test_any_mix_of_good_and_damaged_lines(lines: List[Tuple[bytes, Any]]) -> None:
    for line, record in lines:
        values, reason = judged(line)
        if record is not None:
            assert (values, reason) == (staged_by_python(record, etl.EVENT_FIELDS), "")
        elif not is_object(line):
            assert reason


@given(line=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: "{%s}" % text).map(os.fsencode))
@settings(max_examples=50 * EXAMPLES)
def test_a_record_is_judged_whatever_its_bytes_are(line: bytes) -> None:
    values, reason = judged(line)
    assert reason
    raw, exact = etl.quarantined("log_data", line, reason, "")[3:]
    assert (base64.b64decode(exact) if exact else raw.encode("utf-8")) == line


def printed(records: Sequence[Record], chance: random.Random) -> str:
    """Records one after another, each a line or indented, with blank lines and either end of line."""
    text = ""
    for record in records:
        one = json.dumps(record, indent=chance.choice([None, 1, 4]), ensure_ascii=chance.random() < 0.5)
        end = chance.choice(["\n", "\r\n"])
        text += one.replace("\n", end) + end + chance.choice(["", end, " " + end])
    return text


@given(records=st.lists(songs, min_size=1, max_size=5), seed=st.integers(0, 999))
@settings(max_examples=20 * EXAMPLES)
def test_any_mix_of_songs_and_ways_to_print_them(records: List[Record], seed: int) -> None:
    found = [judged(record, "song_data") for record in records_of(printed(records, random.Random(seed)), "song_data")]
    assert found == [(staged_by_python(record, etl.SONG_FIELDS), "") for record in records]


# ------------------------------------------------------------------------------------ by Spark


class Roads(NamedTuple):
    """What the files of an input hold: the same by Spark as in this process."""

    good: List[Record]
    bad: List[Record]


def rows_in(frame: DataFrame) -> List[Record]:
    return sorted((row.asDict() for row in frame.collect()), key=lambda row: repr(sorted(row.items())))


def both_roads(spark: SparkSession, folder: Path, name: str = "log_data") -> Roads:
    """Parse an input in this process and by Spark; asserts that both give the same."""
    files = {path: size for path, (size, _) in listed(folder, name).items()}
    here = etl.parse_here(spark, name, etl.contents(spark, str(folder), sorted(files)))
    work = "file://%s.work" % folder
    there = etl.parse_by_spark(spark, name, str(folder), files, work)
    for one, other in ((here.good, there.good), (here.bad, there.bad)):
        assert sorted(one.columns) == sorted(other.columns)
        assert_same(rows_in(one), rows_in(other))
    assert dict(here.reasons) == dict(there.reasons)
    if name == "log_data":
        months = [{file: sorted(found) for file, found in of.months.items()} for of in (here, there)]
        assert months[0] == months[1]
    return Roads(rows_in(here.good), rows_in(here.bad))


def taken_by_spark(spark: SparkSession, folder: Path) -> int:
    """How many events of an input Spark takes by itself."""
    lines = etl.read_text(spark, str(folder), sorted(listed(folder)))
    return etl.quick_events(lines).where("not doubt").count()


def listed(folder: Path, name: str = "log_data") -> etl.Files:
    """The files of an input that a run reads."""
    lake = str(folder) + ".lake"
    config = etl.Config("LOCAL", str(folder), str(folder), lake, 5.0)
    return etl.survey(config, etl.LocalStore(lake), etl.list_local_files).listing[name]


def stage_lines(spark: SparkSession, folder: Path, lines: Sequence[Line], name: str = "log_data") -> Roads:
    """Parse one file of some lines."""
    content = b"".join(encoded(line) + b"\n" for line in lines)
    found = both_roads(spark, write_files(folder, {"2018/11/a b.json": content}), name)
    assert len(found.good) + len(found.bad) == sum(bool(encoded(line).strip()) for line in lines)
    return found


def test_all_cases_of_events_are_the_same_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    lines = [line for line, _ in BAD_LINES + EXTREMES] + [with_token(key, token) for key, token, _ in TOKENS]
    found = stage_lines(spark, tmp_path / "logs", [*lines, *[GOOD] * 3])
    reasons = [reason_of(line) for line in lines]
    assert Counter(row["reason"] for row in found.bad) == Counter(filter(None, reasons))
    assert {row["file"] for row in found.bad} == {"file://%s/logs/2018/11/a%%20b.json" % tmp_path}
    assert taken_by_spark(spark, tmp_path / "logs") > 40  # so that both ways are seen


def test_all_cases_of_songs_are_the_same_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    lines = [with_token(key, token, BASE_SONG) for key, token, _ in SONG_TOKENS]
    found = stage_lines(spark, tmp_path / "songs", [*lines, song(), song(title="caf\u00e9")], "song_data")
    reasons = [reason_of(line, "song_data") for line in lines]
    assert Counter(row["reason"] for row in found.bad) == Counter(filter(None, reasons))


@given(lines=lines_of_events(fewest=40, most=80))
@settings(max_examples=max(1, EXAMPLES // 6))
def test_any_mix_of_lines_is_the_same_by_spark(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, lines: List[Tuple[bytes, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("any") / "logs"
    content = b"".join(line + b"\n" for line, _ in lines)
    found = both_roads(spark, write_files(folder, {"a.json": content, "b.json": [event_record()]}))
    assert len(found.good) + len(found.bad) == 1 + sum(bool(record) for record in records_of(content))


# Records whose every text is one of those that might fool the quick way
TEXTS = ["x", "\n", "x\n", "x\u2028", "x\u0085", "x\r", "\u00c3\u00a9", "\u00e9", "\u00c3", "A" * 60, "A" * 61]
TEXTS += [
    "true",
    "NaN",
    "-",
    ":",
    "[",
    "^",
    "{",
    "\u3000x",
    "\u3001",
    "\ufe00",
    "\ufeffx",
    "\U0001f600",
    "\\",
    '"',
    '""x"',
    '""x""',
    'x"',
    '""',
    "x!",
]
TEXTS += [
    "x ",
    "x\t",
    "x\x1f",
    "x\x00",
    "x\u200b",
    "\u0000",
    "__HIVE_DEFAULT_PARTITION__",
    "1",
    "x\u00c2\u00a0",
    "\ufffd",
]
tricky = st.sampled_from(TEXTS) | st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS)).map("".join)


def filled(base: Record, fields: Sequence[etl.Field]) -> Any:
    """Records in which a few texts are tricky."""
    keys = [field.key for field in fields if field.kind in ("text", "name", "quoted")]
    changes = st.dictionaries(st.sampled_from(keys), tricky, min_size=1, max_size=2)
    return changes.map(lambda found: {**base, **found})


@given(
    events=st.lists(filled(BASE_EVENT, etl.EVENT_FIELDS), min_size=100, max_size=200),
    songs=st.lists(filled(BASE_SONG, etl.SONG_FIELDS), min_size=100, max_size=200),
)
@example(
    events=[{**BASE_EVENT, key: text} for key in ("artist", "userAgent", "page", "level") for text in TEXTS],
    songs=[{**BASE_SONG, key: text} for key in ("song_id", "title") for text in TEXTS],
)
@settings(max_examples=max(1, EXAMPLES // 12))
def test_what_spark_takes_by_itself_is_what_judge_says(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, events: List[Record], songs: List[Record]
) -> None:
    folder = tmp_path_factory.mktemp("tricky")
    for name, records in (("log_data", events), ("song_data", songs)):
        both_roads(spark, write_files(folder / name, {"a.json": records}), name)
    assert taken_by_spark(spark, folder / "log_data") > len(events) // 10


# ------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", list(FIELDS))
def test_line_ends_marks_blanks_and_compression(spark: SparkSession, tmp_path: Path, name: str) -> None:
    files = files_of_three(event if name == "log_data" else song)
    found = both_roads(spark, write_files(tmp_path / name, files), name)
    assert found.bad == []
    counts = Counter(unquote(row["file"].rpartition("/")[2]) for row in found.good)
    assert counts == {file: 3 for file in files if not is_empty(file)}


def test_song_files_of_every_form_and_their_damage_are_the_same_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    files = song_files()
    files["zipped.json.gz"] = gzip.compress(files["pretty.json"].encode())
    damaged = {name + ".json": content for name, (content, *_) in damaged_song_files().items()}
    found = both_roads(spark, write_files(tmp_path / "songs", {**files, **damaged}), "song_data")
    assert len(found.good) == 15 + 3 + 3 + 16
    assert len(found.bad) == len(damaged)


def test_a_song_file_is_one_text_however_many_tasks_share_its_bytes(spark: SparkSession, tmp_path: Path) -> None:
    def songs(letter: str) -> bytes:
        return "".join(pretty(song_record(song_id=letter + str(number))) for number in range(20)).encode()

    files = {"a.json": songs("A"), "b.json.gz": gzip.compress(songs("B")), "c.json.bz2": bz2.compress(songs("C"))}
    spark.conf.set("spark.sql.files.maxPartitionBytes", "2000")
    try:
        found = both_roads(spark, write_files(tmp_path / "songs", files), "song_data")
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
    assert found.bad == []
    assert sorted(row["song_id"] for row in found.good) == sorted(c + str(n) for c in "ABC" for n in range(20))


def numbered(*numbers: int) -> List[Record]:
    return [event_record(sessionId=number) for number in numbers]


def test_files_at_any_depth_are_read_and_hidden_or_empty_ones_are_not(tmp_path: Path) -> None:
    root = tmp_path / "_hidden" / ".parents" / "logs"
    seen = [
        "root.json",
        "2018/11/a.json",
        "2018/11/b.json",
        "2018/12/deeper/still/c.json",
        "2019/d.json",
        "no extension",
    ]
    write_files(root, dict.fromkeys(seen, "x"))
    hidden = [
        "_hidden.json",
        "_a=b.json",
        ".hidden.json",
        "_hidden/a.json",
        ".hidden/a.json",
        "2018/_SUCCESS",
        "2018/11/.a.json.crc",
        "2018/_hidden/11/a.json",
        "2018/11/.hidden/still/a.json",
        "2018/11/a.json._COPYING_",
    ]
    write_files(root, dict.fromkeys(hidden, "x"))
    write_files(root, {"empty.json": b""})
    (root / "empty folder" / "below").mkdir(parents=True)
    os.mkfifo(str(root / "pipe.json.gz"))
    assert sorted(listed(root)) == sorted(seen)


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


def test_odd_names_of_files_and_folders(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / " ".join(ODD_NAMES[:6])
    for number, name in enumerate(ODD_NAMES):
        write_files(folder, {"%s/%s.json" % (name, name): [event_record(sessionId=number), {"x": name}]})
        write_files(folder, {"deeper/%s/deeper/%s.json" % (name, name): [event_record(sessionId=100 + number)]})
    found = both_roads(spark, folder)
    numbers = range(len(ODD_NAMES))
    assert sorted(row["session_id"] for row in found.good) == [*numbers, *(100 + number for number in numbers)]
    bad = {json.loads(row["raw"])["x"]: unquote(row["file"]) for row in found.bad}
    assert bad == {name: "file://%s/%s/%s.json" % (folder, name, name) for name in ODD_NAMES}


def test_a_stale_checksum_file_is_not_believed(spark: SparkSession, tmp_path: Path) -> None:
    lines = "".join(event(sessionId=number) + "\n" for number in range(3))
    folder = write_files(tmp_path / "logs", {"a.json": lines, "b.json.gz": gzip.compress(lines.encode())})
    of_before = struct.pack(">I", zlib.crc32(b"what it was"))
    for name in ("a.json", "b.json.gz"):  # as Hadoop keeps it beside a file
        write_files(folder, {".%s.crc" % name: b"crc\0" + struct.pack(">i", 512) + of_before})
    assert len(both_roads(spark, folder).good) == 6


def test_only_the_files_that_are_named_are_read(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"%d/[a] %d.json" % (number % 3, number): numbered(number) for number in range(9)}
    write_files(tmp_path / "logs", files)
    some = sorted(files)[::2]

    def read(names: Sequence[str]) -> List[str]:
        frame = etl.read_text(spark, str(tmp_path / "logs"), names)
        return sorted(unquote(row.file).rpartition("logs/")[2] for row in frame.collect())

    assert read(some) == some
    monkeypatch.setattr(etl, "MOST_NAMES", 2)  # then Spark is told of folders, where those hold nothing else
    assert read(some) == some
    assert read(sorted(files)) == sorted(files)


def test_a_file_that_has_gone_is_named(spark: SparkSession, tmp_path: Path) -> None:
    write_files(tmp_path / "logs", {"a.json": numbered(1)})
    with pytest.raises(Exception, match="gone.json"):
        etl.read_text(spark, str(tmp_path / "logs"), ["a.json", "gone.json"])


def test_a_single_file_is_an_input_too(spark: SparkSession, tmp_path: Path) -> None:
    write_files(tmp_path, {"a [1].json": numbered(1, 2), "b.json": numbered(3)})
    assert [row["session_id"] for row in both_roads(spark, tmp_path / "a [1].json").good] == [1, 2]
