"""Whole lakes, end to end: the sample, the public sample where it is at hand, and an input with every kind of damage.

With KEEP_LAKES=DIR the lakes stay in DIR/<Spark version>/<input>/, for compare_lakes.py.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import pytest
from conftest import ROOT, SAMPLE, event_record, rows, song_record, write_files
from py4j.java_gateway import GatewayClient
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import etl

Row = Dict[str, Any]
TABLES = ("artists", "songs", "users", "time", "songplays")
PUBLIC = ROOT.parent / "shared" / "data"


class Lake(NamedTuple):
    folder: Path
    report: Row
    tables: Dict[str, List[Row]]  # as an analyst reads them: without a schema


Build = Callable[[Path, Path], Lake]


@pytest.fixture(scope="module")
def build(spark: SparkSession) -> Build:
    """Build a lake from a folder that holds song_data and log_data."""

    def build(source: Path, output: Path) -> Lake:
        config = etl.Config("LOCAL", str(source / "song_data"), str(source / "log_data"), str(output), 20.0)
        report = etl.Run(spark, config, etl.Progress(io.StringIO())).execute()
        spark.conf.set("spark.sql.shuffle.partitions", "2")
        return Lake(output, report, tables_of(spark, output))

    return build


def test_shuffles_have_partitions_for_all_that_is_staged(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl, "STAGED_BYTES_PER_TASK", 1000)
    events = [event_record(sessionId=number) for number in range(9)] + [event_record(location=" to be trimmed")]
    write_files(tmp_path, {"songs/a.json": [song_record()], "logs/a.json": events})
    lake = tmp_path / "lake"
    config = etl.Config("LOCAL", str(tmp_path / "songs"), str(tmp_path / "logs"), str(lake), 20.0)
    run = etl.Run(spark, config, etl.Progress(io.StringIO()))
    run.stage_inputs(etl.Ledger(run.store, config))
    found = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    files = list(lake.glob("_state/staged/log_data/**/*.parquet"))
    assert len({file.parents[1] for file in files}) == 2  # ordinary records and others
    wanted = sum(file.stat().st_size for file in files) // 1000
    assert wanted > 2
    assert found == str(wanted)


def tables_of(spark: SparkSession, folder: Path) -> Dict[str, List[Row]]:
    return {name: rows(spark.read.parquet(str(folder / name))) for name in TABLES}


@pytest.fixture(scope="module")
def sample(build: Build, place: Callable[[str], Path]) -> Lake:
    return build(SAMPLE, place("sample"))


@pytest.fixture(scope="module")
def public(build: Build, place: Callable[[str], Path]) -> Lake:
    if not (PUBLIC / "song_data").is_dir():
        pytest.skip("the public sample is not at hand: ../shared/data holds no song_data")
    return build(PUBLIC, place("public"))


def test_java_is_not_asked_for_the_same_class_at_each_expression(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: List[str] = []
    send = GatewayClient.send_command

    def send_command(client: GatewayClient, command: str, *others: Any) -> Any:
        said.append(command)
        return send(client, command, *others)

    F.col("title").cast("string")
    monkeypatch.setattr(GatewayClient, "send_command", send_command)
    F.col("title").cast("string")
    assert said
    assert [command for command in said if command.startswith("r\nu\n")] == []  # reflection, unknown name


# ------------------------------------------------------------------------------------ counting, by plain Python


class Source(NamedTuple):
    """What the files of an input hold, read by code that shares none with the job."""

    songs: List[Row]
    events: List[Row]  # each once

    def plays(self) -> List[Row]:
        return [event for event in self.events if event["page"] == "NextSong"]


def read(folder: Path) -> Source:
    songs = [record for record in records(folder / "song_data") if record]
    events = {key_of(event): event for event in records(folder / "log_data") if event and isinstance(event["ts"], int)}
    return Source(songs, list(events.values()))


def records(folder: Path) -> Iterator[Optional[Row]]:
    """The record of each line; None where the line is broken."""
    for path in sorted(folder.rglob("*.json")):
        for line in path.read_text("utf-8").splitlines():
            yield parsed(line)


def parsed(line: str) -> Optional[Row]:
    try:
        record: Row = json.loads(line)
    except ValueError:
        return None
    return record


def key_of(event: Row) -> Tuple[Any, ...]:
    return (event["userId"], event["sessionId"], event["itemInSession"], event["ts"])


def play_id(event: Row) -> str:
    return hashlib.md5("/".join(map(str, key_of(event))).encode()).hexdigest()


def trimmed(value: Any) -> str:
    return "" if value is None else str(value).strip()


def reread(value: Any) -> str:
    """Text after undoing UTF-8 that was taken for Latin-1, twice at most."""
    text = "" if value is None else str(value)
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
        text = text.encode("latin-1").decode("utf-8")
    return text.strip()


def is_double_encoded(event: Row) -> bool:
    return any(reread(event[name]) != trimmed(event[name]) for name in ("song", "artist"))


def levels(lake: Lake) -> Dict[int, List[Tuple[str, str]]]:
    """Each user's changes of level over the plays, as (minute, new level)."""
    changes: Dict[int, List[Tuple[str, str]]] = defaultdict(list)
    for play in sorted(lake.tables["songplays"], key=lambda play: str(play["start_time"])):
        seen = changes[play["user_id"]]
        if play["user_id"] is not None and (not seen or seen[-1][1] != play["level"]):
            seen.append((play["start_time"][:16], play["level"]))
    return {user: seen for user, seen in changes.items() if user is not None}


def distinct(records: Sequence[Row], column: str) -> int:
    return len({record[column] for record in records} - {None})


# ------------------------------------------------------------------------------------ the sample of the project

SAMPLE_COUNTS = {  # the table of data/README.md
    "song_lines": 150,
    "song_records": 149,
    "song_records_year_0": 84,
    "songs": 148,
    "artists": 105,
    "log_lines": 2603,
    "events": 2598,
    "duplicate_events": 3,
    "logged_out_events": 129,
    "plays": 2023,
    "duplicate_plays": 2,
    "play_start_times": 2021,
    "double_encoded_plays": 126,
    "matched_plays": 706,
    "plays_matched_only_after_repair": 90,
    "songs_played": 133,
    "users": 41,
    "users_with_plays": 38,
    "users_playing_at_both_levels": 8,
    "users_latest_free": 24,
    "users_latest_paid": 17,
}


@pytest.fixture(scope="module")
def sample_counts(sample: Lake) -> Dict[str, int]:
    """The same counts, of the lake and its report as far as they tell, else of the files."""
    songs, logs = sample.report["account"]["song_data"], sample.report["account"]["log_data"]
    plays, tables, source = sample.tables["songplays"], sample.tables, read(SAMPLE)
    by_id = {play_id(event): event for event in source.plays()}
    names = {(str(song["title"]), str(song["artist_name"])) for song in source.songs}
    matched = [by_id[play["songplay_id"]] for play in plays if play["song_id"]]
    latest = Counter(user["level"] for user in tables["users"])
    return {
        "song_lines": songs["records"],
        "song_records": songs["rows"] + songs["duplicates"],
        "song_records_year_0": sum(song["year"] == 0 for song in source.songs),
        "songs": len(tables["songs"]),
        "artists": len(tables["artists"]),
        "log_lines": logs["records"],
        "events": len(source.events),
        "duplicate_events": logs["records"] - logs["quarantined"] - len(source.events),
        "logged_out_events": sum(event["userId"] == "" for event in source.events),
        "plays": len(plays),
        "duplicate_plays": logs["duplicates"],
        "play_start_times": len(tables["time"]),
        "double_encoded_plays": sum(map(is_double_encoded, by_id.values())),
        "matched_plays": len(matched),
        "plays_matched_only_after_repair": sum((str(e["song"]), str(e["artist"])) not in names for e in matched),
        "songs_played": distinct(plays, "song_id"),
        "users": len(tables["users"]),
        "users_with_plays": distinct(plays, "user_id"),
        "users_playing_at_both_levels": sum(len({level for _, level in seen}) == 2 for seen in levels(sample).values()),
        "users_latest_free": latest["free"],
        "users_latest_paid": latest["paid"],
    }


@pytest.mark.parametrize("count", list(SAMPLE_COUNTS))
def test_the_lake_of_the_sample_counts_what_the_generator_planted(sample_counts: Dict[str, int], count: str) -> None:
    assert sample_counts[count] == SAMPLE_COUNTS[count]


def test_every_play_of_the_sample_is_there_by_its_own_key(sample: Lake) -> None:
    assert {play["songplay_id"] for play in sample.tables["songplays"]} == set(map(play_id, read(SAMPLE).plays()))


def test_first_and_last_play_of_the_sample(sample: Lake) -> None:
    starts = sorted(play["start_time"] for play in sample.tables["songplays"])
    assert (starts[0], starts[-1]) == ("2018-11-01 06:40:43.962", "2018-11-30 22:20:27.529")


def test_the_account_of_the_sample_balances(sample: Lake) -> None:
    assert sample.report["account"] == {
        "song_data": {"records": 150, "rows": 148, "duplicates": 1, "other": 0, "quarantined": 1},
        "log_data": {"records": 2603, "rows": 2023, "duplicates": 2, "other": 576, "quarantined": 2},
    }
    assert sample.report["reasons"] == {"broken JSON": 2, "wrong type: ts": 1}
    assert (sample.report["matched"], sample.report["match_rate"]) == (706, 706 / 2023)


def test_damage_of_the_sample_is_in_the_quarantine_as_it_was(spark: SparkSession, sample: Lake) -> None:
    assert quarantined(spark, sample.folder) == sorted(sample_damage())


Bad = Tuple[str, str, str, str, str]  # input, file name, reason, raw, raw_base64


def quarantined(spark: SparkSession, folder: Path) -> List[Bad]:
    found = spark.read.parquet(str(folder / "_quarantine")).collect()
    return sorted(
        (row["input"], row["file"].rpartition("/")[2], row["reason"], row["raw"].rstrip("\n"), row["raw_base64"] or "")
        for row in found
    )


def sample_damage() -> List[Bad]:
    """The damage that data/README.md lists: input, file, line, reason."""
    places = [
        ("song_data", "A/A/F/TRAAFCM128FA678CA1.json", 1, "broken JSON"),
        ("log_data", "2018/11/2018-11-05-events.json", 11, "broken JSON"),
        ("log_data", "2018/11/2018-11-27-events.json", 72, "wrong type: ts"),
    ]
    lines = {(name, file): (SAMPLE / name / file).read_text("utf-8").splitlines() for name, file, _, _ in places}
    return [(name, file.rpartition("/")[2], why, lines[name, file][line - 1], "") for name, file, line, why in places]


# ------------------------------------------------------------------------------------ the public sample


def test_rows_of_the_public_sample(public: Lake) -> None:
    assert {name: len(found) for name, found in public.tables.items()} == {
        "artists": 69, "songs": 71, "users": 97, "time": 6813, "songplays": 6820,
    }  # fmt: skip


def test_the_account_of_the_public_sample_balances(public: Lake) -> None:
    assert public.report["account"] == {
        "song_data": {"records": 71, "rows": 71, "duplicates": 0, "other": 0, "quarantined": 0},
        "log_data": {"records": 8056, "rows": 6820, "duplicates": 0, "other": 1236, "quarantined": 0},
    }


def test_songs_of_unknown_year_in_the_public_sample(public: Lake) -> None:
    assert sum(song["year"] == 0 for song in public.tables["songs"]) == 43


def test_users_of_the_public_sample_come_from_any_event(public: Lake) -> None:
    assert distinct(public.tables["songplays"], "user_id") == 96
    assert distinct(public.tables["users"], "user_id") == 97


def test_events_of_nobody_in_the_public_sample_are_no_users(spark: SparkSession, public: Lake) -> None:
    events = etl.staging(etl.read_lines(spark, str(PUBLIC / "log_data")), etl.EVENT_FIELDS)
    found = events.selectExpr("count(*) as events", "sum(if(user_id is null, 1, 0)) as nobody", "count(reason) as bad")
    assert rows(found) == [{"events": 8056, "nobody": 286, "bad": 0}]


def test_first_and_last_play_of_the_public_sample(public: Lake) -> None:
    starts = sorted(row["start_time"] for row in public.tables["time"])
    assert (starts[0], starts[-1]) == ("2018-11-01 21:01:46.796", "2018-11-30 19:54:24.796")


def test_users_of_the_public_sample_whose_level_changes(public: Lake) -> None:
    changing = {user: seen for user, seen in levels(public).items() if len(seen) > 1}
    assert len(changing) == 8
    assert [level for _, level in changing[15]] == ["paid", "free", "paid"]
    assert [minute for minute, _ in changing[15]][1:] == ["2018-11-21 11:11", "2018-11-21 11:16"]
    (lily,) = [user for user in public.tables["users"] if user["user_id"] == 15]
    assert (lily["first_name"], lily["last_name"], lily["level"]) == ("Lily", "Koch", "paid")


def test_latest_levels_over_the_plays_of_the_public_sample(public: Lake) -> None:
    assert Counter(seen[-1][1] for seen in levels(public).values()) == {"free": 74, "paid": 22}


def test_the_one_match_of_the_public_sample(public: Lake) -> None:
    (play,) = [play for play in public.tables["songplays"] if play["song_id"]]
    names = ("user_id", "session_id", "song_id", "artist_id")
    assert tuple(play[name] for name in names) == (15, 818, "SOZCTXZ12AB0182364", "AR5KOSW1187FB35FF4")


def test_a_title_alone_is_no_match_in_the_public_sample(public: Lake) -> None:
    source = read(PUBLIC)
    titles = {reread(song["title"]) for song in source.songs}
    by_title = {play_id(event) for event in source.plays() if reread(event["song"]) in titles}
    plays = [play for play in public.tables["songplays"] if play["songplay_id"] in by_title]
    assert sorted(play["song_id"] is None for play in plays) == [False, True, True, True]
    assert sum(map(is_double_encoded, source.plays())) == 326


# ------------------------------------------------------------------------------------ what readers find

STRING, BIGINT, INT, DOUBLE = "binary STRING", "int64", "int32", "double"
COLUMNS = {
    "songplays": {
        "songplay_id": STRING,
        "start_time": "int64 TIMESTAMP(MICROS,true)",
        "user_id": BIGINT,
        "level": STRING,
        "song_id": STRING,
        "artist_id": STRING,
        "session_id": BIGINT,
        "location": STRING,
        "user_agent": STRING,
    },
    "users": {"user_id": BIGINT, "first_name": STRING, "last_name": STRING, "gender": STRING, "level": STRING},
    "songs": {"song_id": STRING, "title": STRING, "duration": DOUBLE},
    "artists": {"artist_id": STRING, "name": STRING, "location": STRING, "latitude": DOUBLE, "longitude": DOUBLE},
    "time": {"start_time": "int64 TIMESTAMP(MICROS,true)", "hour": INT, "day": INT, "week": INT, "weekday": INT},
}
FILES = {
    "songplays": r"year=\d{4}/month=\d{1,2}/part-[^/]+\.parquet",
    "users": r"part-[^/]+\.parquet",
    "songs": r"year=\d{1,4}/artist_id=AR[A-Z0-9]{16}/part-[^/]+\.parquet",
    "artists": r"part-[^/]+\.parquet",
    "time": r"year=\d{4}/month=\d{1,2}/part-[^/]+\.parquet",
}


@pytest.mark.parametrize("table", TABLES)
def test_columns_order_and_types_of_the_files(spark: SparkSession, sample: Lake, table: str) -> None:
    for path in list((sample.folder / table).rglob("*.parquet"))[:3]:
        assert list(footer(spark, path).items()) == list(COLUMNS[table].items())


def footer(spark: SparkSession, path: Path) -> Dict[str, str]:
    """The columns of a parquet file and their types, in its order."""
    jvm: Any = spark.sparkContext._jvm
    java: Any = spark.sparkContext._jsc
    reader = jvm.org.apache.parquet.hadoop.ParquetFileReader
    schema = reader.readFooter(java.hadoopConfiguration(), jvm.org.apache.hadoop.fs.Path(str(path))).getFileMetaData()
    found = re.findall(r"(?:optional|required) (\S+) (\w+)(?: \((.*)\))?;", schema.getSchema().toString())
    # Spark 2.4 writes the older names of the same types.
    newer = {"UTF8": "STRING", "TIMESTAMP_MICROS": "TIMESTAMP(MICROS,true)"}
    return {name: " ".join([kind, newer.get(logical, logical)]).strip() for kind, name, logical in found}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_holds_parquet_files_and_nothing_else(sample: Lake, table: str) -> None:
    folder = sample.folder / table
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [file for file in files if not re.match(FILES[table] + "$", file)] == []


def test_tables_can_be_read_without_a_schema(spark: SparkSession, sample: Lake) -> None:
    types = {name: dict(spark.read.parquet(str(sample.folder / name)).dtypes) for name in TABLES}
    assert types["songs"] == {
        "song_id": "string", "title": "string", "duration": "double", "year": "int", "artist_id": "string",
    }  # fmt: skip
    assert [types[name][column] for name in ("time", "songplays") for column in ("year", "month")] == ["int"] * 4
    assert types["time"]["start_time"] == types["songplays"]["start_time"] == "timestamp"


READERS = {
    "pandas": """
        import pandas
        plays = pandas.read_parquet(lake + "/songplays")
        found = [len(plays), plays.start_time.min(), plays.start_time.max(), int(plays.month.astype(int).sum())]""",
    "pyarrow": """
        import pyarrow.parquet
        plays = pyarrow.parquet.read_table(lake + "/songplays").to_pydict()
        starts, months = plays["start_time"], list(map(int, plays["month"]))
        found = [len(months), min(starts), max(starts), sum(months)]""",
    "polars": """
        import polars
        plays = polars.read_parquet(lake + "/songplays/**/*.parquet", hive_partitioning=True)
        found = [len(plays), plays["start_time"].min(), plays["start_time"].max(), plays["month"].cast(int).sum()]""",
    "duckdb": """
        import datetime, duckdb
        source = "read_parquet('%s/songplays/**/*.parquet', hive_partitioning = true)" % lake
        query = "select count(*), epoch_ms(min(start_time)), epoch_ms(max(start_time)), sum(month), %s from " + source
        found = list(duckdb.sql(query % "any_value(typeof(start_time))").fetchall()[0])
        assert found.pop() == "TIMESTAMP WITH TIME ZONE"
        utc = datetime.timezone.utc
        found[1:3] = [datetime.datetime.fromtimestamp(ms // 1000, utc).replace(microsecond=ms % 1000 * 1000)
                      for ms in found[1:3]]""",
}


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles"])
@pytest.mark.parametrize("reader", list(READERS))
def test_every_reader_finds_the_same_instants_in_any_time_zone(sample: Lake, reader: str, zone: str) -> None:
    pytest.importorskip(reader)
    pytest.importorskip("pyarrow" if reader == "pandas" else reader)
    code = "if True:\n        import json, sys; lake = sys.argv[1]\n" + READERS[reader].strip("\n") + PRINT
    done = subprocess.run(
        [sys.executable, "-c", code, str(sample.folder)],
        env={**os.environ, "TZ": zone},
        stdout=subprocess.PIPE,
        check=True,
    )
    first, last = "2018-11-01T06:40:43.962000+00:00", "2018-11-30T22:20:27.529000+00:00"
    assert json.loads(done.stdout.decode()) == [2023, first, last, 2023 * 11]


PRINT = """
        print(json.dumps([int(found[0]), found[1].isoformat(), found[2].isoformat(), int(found[3])]))"""


# ------------------------------------------------------------------------------------ running again


def test_running_again_in_another_time_zone_changes_nothing(spark: SparkSession, sample: Lake, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(str(sample.folder), str(lake))
    paths = ["--song-data", str(SAMPLE / "song_data"), "--log-data", str(SAMPLE / "log_data"), "--output", str(lake)]
    subprocess.run(
        [sys.executable, str(ROOT / "etl.py"), "--mode", "LOCAL", "--full", *paths],
        cwd=str(tmp_path),
        env={**os.environ, "TZ": "America/Los_Angeles"},
        check=True,
    )
    assert tables_of(spark, lake) == sample.tables
    assert quarantined(spark, lake) == quarantined(spark, sample.folder)
    for table in TABLES:
        counts = [len(list((folder / table).rglob("*.parquet"))) for folder in (lake, sample.folder)]
        assert counts[0] == counts[1]


# ------------------------------------------------------------------------------------ damage


def changed(**changes: Any) -> Callable[[bytes], bytes]:
    """Damage that changes values; `...` drops a key."""

    def damage(line: bytes) -> bytes:
        record = {**json.loads(line.decode("utf-8")), **changes}
        kept = {key: value for key, value in record.items() if value is not ...}
        return json.dumps(kept, ensure_ascii=False).encode("utf-8")

    return damage


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Damage that replaces the first such bytes."""

    def damage(line: bytes) -> bytes:
        assert old in line, line
        return line.replace(old, new, 1)

    return damage


class Kind(NamedTuple):
    """A kind of damage and the reason that the quarantine must give."""

    reason: str
    damage: Callable[[bytes], bytes]


SAME = [  # in songs and events alike
    Kind("broken JSON", lambda line: line[: len(line) // 2]),
    Kind("broken JSON", lambda line: line + b" " + line),
    Kind("broken JSON", lambda line: line + b"x"),
    Kind("broken JSON", lambda line: line.replace(b'"', b"'")),
    Kind("not valid UTF-8", replaced(b'"', b'"\xff')),
    Kind("not valid UTF-8", lambda line: line[:-1] + b',"extra":"caf\xc3"}'),
    Kind("not a JSON object", lambda line: b"[" + line + b"]"),
    Kind("longer than 50000 characters", lambda line: line[:-1] + b',"extra":"' + b"x" * 50000 + b'"}'),
    Kind(
        "nested too deep or a number too long", lambda line: line[:-1] + b',"extra":' + b"[" * 900 + b"]" * 900 + b"}"
    ),
]
SONG_DAMAGE = [
    *SAME,
    Kind("missing: song_id", changed(song_id=...)),
    Kind("missing: artist_id", changed(artist_id=" ")),
    Kind("missing: title", changed(title=None)),
    Kind("missing: artist_name", changed(artist_name="\u00a0")),
    Kind("wrong type: title", changed(title={"is": "an object"})),
    Kind("wrong type: duration", changed(duration="long")),
    Kind("value not accepted: year", changed(year=12)),
    Kind("value not accepted: artist_latitude", changed(artist_latitude=91)),
    Kind("value not accepted: artist_id", changed(artist_id="A" * 61)),
]
EVENT_DAMAGE = [
    *SAME,
    Kind("broken JSON", replaced(b'"page":"NextSong"', b'"page":"Next\tSong"')),
    Kind("broken JSON", replaced(b'"length":', b'"length":NaN,"extra":')),
    Kind("not a JSON object", lambda line: b"null"),
    Kind("missing: itemInSession", lambda line: b"{}"),
    Kind("missing: ts", changed(ts=None)),
    Kind("missing: sessionId", changed(sessionId=...)),
    Kind("missing: page", changed(page="")),
    Kind("wrong type: ts", changed(ts="yesterday")),
    Kind("wrong type: ts", changed(ts=1541105830796.5)),
    Kind("wrong type: userId", changed(userId="Ada")),
    Kind("wrong type: sessionId", changed(sessionId=[1])),
    Kind("wrong type: artist", changed(artist={"name": "Ada"})),
    Kind("wrong type: song", changed(song=True)),
    Kind("wrong type: length", changed(length="long")),
    Kind("value not accepted: ts", changed(ts=-1)),
    Kind("value not accepted: ts", changed(ts=253402300800000)),
    Kind("value not accepted: itemInSession", changed(itemInSession=-1)),
    Kind("value not accepted: level", changed(level="gold")),
    Kind("value not accepted: gender", changed(gender="x")),
    Kind("value not accepted: length", changed(length=-0.5)),
]


def bad(name: str, file: str, reason: str, raw: bytes) -> Bad:
    """A damaged record as the quarantine must show it."""
    text = raw.decode("utf-8", "replace")
    return name, file, reason, text, base64.b64encode(raw).decode() if "\ufffd" in text else ""


def damage_sample(folder: Path) -> List[Bad]:
    """Copy the sample into a folder and add a damaged copy of a play or a song for each kind, over 1 % of the lines.

    Returns what the quarantine must hold.
    """
    choose, planted = random.Random(2018), sample_damage()
    shutil.copytree(str(SAMPLE), str(folder))
    logs = sorted((folder / "log_data").rglob("*.json"))
    plays = [line for path in logs for line in path.read_bytes().splitlines() if b'"page":"NextSong"' in line]
    songs = [path.read_bytes().strip() for path in sorted((folder / "song_data").rglob("*.json"))]
    for kind in EVENT_DAMAGE:
        path = choose.choice(logs)
        raw = kind.damage(choose.choice(list(filter(is_sound, plays))))
        lines = path.read_bytes().split(b"\n")
        lines[choose.randrange(len(lines)) : 0] = [raw, b" \t"]
        path.write_bytes(b"\n".join(lines))
        planted.append(bad("log_data", path.name, kind.reason, raw))
    for number, kind in enumerate(SONG_DAMAGE):
        path = folder / "song_data" / "A" / ("TRBAD%02d.json" % number)
        raw = kind.damage(choose.choice(list(filter(is_sound, songs))))
        path.write_bytes(raw + b"\n")
        planted.append(bad("song_data", path.name, kind.reason, raw))
    return sorted(planted)


def is_sound(line: bytes) -> bool:
    record = parsed(line.decode("utf-8"))
    return record is not None and record.get("ts") != "not a number"


@pytest.fixture(scope="module")
def damaged(
    build: Build, place: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Tuple[Lake, List[Bad]]:
    folder = tmp_path_factory.mktemp("damaged") / "input"
    planted = damage_sample(folder)
    return build(folder, place("damaged")), planted


def test_every_damaged_record_is_in_the_quarantine_with_file_reason_and_text(
    spark: SparkSession, damaged: Tuple[Lake, List[Bad]]
) -> None:
    lake, planted = damaged
    found = quarantined(spark, lake.folder)
    assert found == planted
    assert len(planted) >= 0.01 * (2603 + 150)


def test_the_account_of_a_damaged_input_balances(damaged: Tuple[Lake, List[Bad]]) -> None:
    events, songs = len(EVENT_DAMAGE), len(SONG_DAMAGE)
    assert damaged[0].report["account"] == {
        "song_data": {"records": 150 + songs, "rows": 148, "duplicates": 1, "other": 0, "quarantined": 1 + songs},
        "log_data": {"records": 2603 + events, "rows": 2023, "duplicates": 2, "other": 576, "quarantined": 2 + events},
    }
    assert damaged[0].report["reasons"] == Counter(reason for _, _, reason, _, _ in damaged[1])


@pytest.mark.parametrize("table", TABLES)
def test_damage_beside_sound_records_changes_no_row(sample: Lake, damaged: Tuple[Lake, List[Bad]], table: str) -> None:
    assert damaged[0].tables[table] == sample.tables[table]
