"""The warehouse loaded by its own commands: every row as in the lake, whatever runs before; and what is refused."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import duckdb
import pytest
import sqlglot
from aws import Server, actions_of, enter, recorded, served
from conftest import ROOT, SAMPLE, event_record, song_record, write_files
from pyspark.sql import SparkSession
from redshift import Postgres, Redshift, for_postgres

import etl
from catalog import register
from warehouse import config as settings
from warehouse import create_table, sql_queries
from warehouse import etl as load

BUCKET = "sparkify-dl-sp"
REAL = ROOT.parent / "shared" / "data"
Rows = List[Tuple[Any, ...]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[Redshift]:
    with served(lambda: Redshift(postgres)) as server:
        yield server


@pytest.fixture
def redshift(server: Redshift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Redshift:
    """An AWS with an empty bucket and warehouse, and the role that COPY acts as."""
    enter(server, tmp_path, monkeypatch, (name for names in settings.SECTIONS.values() for name in names))
    server.make_bucket(BUCKET)
    server.client("iam").create_role(RoleName="SparkifyRedshift", AssumeRolePolicyDocument="{}")
    return server


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """A session as the job starts it on a laptop, without a client for S3."""
    session = etl.start_session(etl.Config("LOCAL", "", "", "", 0.0))
    session.conf.set("spark.sql.shuffle.partitions", "2")
    yield session
    session.stop()


def built(spark: SparkSession, songs: Path, logs: Path, lake: Path) -> Path:
    """The lake that a run of the job leaves."""
    lake.mkdir(exist_ok=True)
    config = etl.Config("LOCAL", str(songs), str(logs), str(lake), 50.0)
    etl.build_lake(spark, config, etl.Progress(io.StringIO()))
    return lake


@pytest.fixture(scope="module")
def sample_lake(interpreted_plans: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(interpreted_plans, SAMPLE / "song_data", SAMPLE / "log_data", tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def real_lake(interpreted_plans: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not REAL.exists():
        pytest.skip("the public sample is not on this machine (%s)" % REAL)
    return built(interpreted_plans, REAL / "song_data", REAL / "log_data", tmp_path_factory.mktemp("real"))


# What the rules are about: copies that differ, spellings, white space, ties, broken and doubly broken UTF-8
SONGS = [
    song_record(),
    song_record(year=0, duration=300.0, title="Morning Tide (Live)"),
    song_record(
        song_id="SOB", title="Morning Tide", duration=218.0, artist_location="", artist_name="The  Placeholders"
    ),
    song_record(song_id="SOC", title=" Morning Tide\t", duration=None, artist_latitude=None),
    song_record(song_id="SOD", title="Björk\u00a0", artist_name="Zoé", artist_id="AR'\\1", artist_location="a<br>"),
    song_record(song_id="SOE", title="Björk", artist_name="Zoé ", artist_id="AR'\\1", artist_location="b<br>"),
    song_record(
        song_id="SOF", title="\u2003雪国 ", artist_name="高橋", artist_id="AR2", artist_latitude=1, artist_longitude=2
    ),
    song_record(song_id="SOG", title="Ã©tÃ", artist_name="Ð", artist_id="AR3"),
    song_record(song_id="SOH", title="\u00a0plain\u00a0", artist_name="😀", artist_id="AR4", year=1999, duration=0),
    # Of one name: more songs win, then the smaller id
    song_record(song_id="SOI", title="A", artist_name="Twins", artist_id="AR9"),
    song_record(song_id="SOJ", title="B", artist_name="Twins", artist_id="AR6"),
    song_record(song_id="SOK", title="C", artist_name="Twins", artist_id="AR6"),
    song_record(song_id="SOL", title="D", artist_name="Twins", artist_id="AR5"),
    song_record(song_id="SOM", title="E", artist_name="Even", artist_id="AR8"),
    song_record(song_id="SON", title="F", artist_name="Even", artist_id="AR7"),
]


def broken(text: str, times: int = 1) -> str:
    """UTF-8 taken for Latin-1 and encoded again."""
    for _ in range(times):
        text = text.encode("utf-8").decode("latin-1")
    return text


def plays() -> List[Dict[str, Any]]:
    """A play of each song in every state that its text occurs in, and copies of plays."""
    texts = [(song["title"], song["artist_name"]) for song in SONGS]
    texts += [(broken(title.strip(), n), broken(artist.strip(), n)) for title, artist in texts for n in (1, 2)]
    texts += [
        ("plain", broken("😀")),
        (broken("plain\u00a0"), "😀"),
        ("Morning Tide", "the placeholders"),
        ("\u00a0", "x"),
        ("unknown", "Twins"),
        ("unknown", broken("Zoé")),
        ("unknown", "Even"),
    ]
    events = [
        event_record(song=title, artist=artist, itemInSession=number, ts=1541105830796 + number, length=218.4)
        for number, (title, artist) in enumerate(texts)
    ]
    copies = [event_record(level="free"), event_record(userAgent='"\u00a0Café 1.0 "'), event_record(location=None)]
    first, last = 100000000000, 253402300799999  # what ts may be
    others = [event_record(userId="", ts=first), event_record(page="Home", userId="7", ts=last, firstName=None)]
    late = [event_record(ts=last, userId="8", sessionId=0), event_record(userId="9", song=None, artist=None)]
    return [*events, *copies, *others, *late, event_record(userId="9", length=None, ts=951782400001)]


class Site:
    """An input that changes, and the lake that runs build from it."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder, self.age = spark, folder, 1_000_000_000

    def run(self, **files: Any) -> Path:
        """Write files, each later than all before and long ago, and run the job."""
        for name, content in files.items():
            self.age += 1
            write_files(self.folder, {name: content})
            os.utime(self.folder / name, (self.age, self.age))
        return built(self.spark, self.folder / "songs", self.folder / "logs", self.folder / "lake")


@pytest.fixture(scope="module")
def changed_lake(interpreted_plans: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of four runs: files of every name have changed or gone since the first, one changed twice."""
    site, events = Site(interpreted_plans, tmp_path_factory.mktemp("changed")), plays()
    first, second, third = ("logs/2018/11/%d.json" % number for number in (1, 2, 3))
    odd, bad = "songs/a b/ü%20's.json", '{"song_id": '
    site.run(
        **{odd: SONGS[:6], "songs/c.json": SONGS[5:], "songs/bad.json": bad},
        **{first: events[:9], second: events[9:], third: events},
    )
    site.run(**{odd: SONGS[1:5], first: events[:8]})
    (site.folder / third).unlink()
    site.run(**{first: events[:7], "logs/2018/11/4.json": events[3:4]})
    return site.run(**{"songs/d.json": [song_record(song_id="SOZ", artist_name="The Placeholders!")]})


def upload(redshift: Server, lake: Path) -> None:
    redshift.upload(lake, BUCKET, "sparkify-data")


def in_warehouse(redshift: Redshift, *tables: str) -> Dict[str, Rows]:
    """The rows of some tables, of the star schema if none are named."""
    names = tables or tuple(sql_queries.CREATE_TABLES)
    with redshift.postgres.connect(redshift.database) as session:
        asked = {table: "SELECT %s FROM %s" % (", ".join(sql_queries.columns(table)), table) for table in names}
        return {table: sorted(session.execute(sql).fetchall(), key=repr) for table, sql in asked.items()}


def in_lake(lake: Path, *tables: str) -> Dict[str, Rows]:
    """The same rows of a lake as DuckDB reads them; times without the mark that says UTC."""
    found = {}
    with duckdb.connect() as session:
        session.execute("SET timezone = 'UTC'")
        for table in tables or sql_queries.CREATE_TABLES:
            types = ", ".join(
                "'%s': %s" % (name, kind.replace("string", "varchar"))
                for name, kind in etl.columns_of(table)
                if name in etl.TABLES[table].partitions
            )
            options = "hive_partitioning = true" + (", hive_types = {%s}" % types if types else "")
            kinds = dict(etl.columns_of(table))
            columns = ", ".join(
                "%s::timestamp" % name if kinds[name] == "timestamp" else name for name in sql_queries.columns(table)
            )
            asked = "SELECT %s FROM read_parquet('%s/%s/**/*.parquet', %s)" % (columns, lake, table, options)
            found[table] = sorted(session.execute(asked).fetchall(), key=repr)
    return found


def load_all() -> List[int]:
    return [create_table.main([]), load.main([])]


@pytest.mark.parametrize("name", ["sample_lake", "real_lake", "changed_lake"])
def test_every_row_is_as_in_the_lake_also_when_loaded_twice(
    name: str, request: pytest.FixtureRequest, redshift: Redshift
) -> None:
    lake = request.getfixturevalue(name)
    expected = in_lake(lake)
    upload(redshift, lake)
    assert load_all() == [0, 0]
    assert in_warehouse(redshift) == expected
    assert all(expected.values())
    assert load_all() == [0, 0]
    assert in_warehouse(redshift) == expected
    assert in_warehouse(redshift, *sql_queries.STAGING_TABLES) == in_lake(lake, *sql_queries.STAGING_TABLES)
    assert redshift.keys(BUCKET, "sparkify-data/_warehouse") == []


# Clean: nothing is quarantined, no text is encoded twice or has white space around it
CLEAN_SONGS = [song for song in SONGS if all(text == text.strip() for text in (song["title"], song["artist_name"]))]
CLEAN_EVENTS = [
    event_record(itemInSession=number, song=song["title"], artist=song["artist_name"], length=song["duration"])
    for number, song in enumerate(CLEAN_SONGS)
] + [
    event_record(level="free"),  # a copy of the first
    event_record(itemInSession=90, song=742, artist="Nobody", userAgent='"Mozilla/5.0 (X11)"', firstName=None),
    event_record(itemInSession=91, song="A", artist="Twins", userId=31, ts=1541105830797),
    event_record(page="Home", userId="", song=None, artist=None, length=None, location="", gender="", ts=1577836800001),
]


@pytest.fixture(scope="module")
def clean(interpreted_plans: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clean input and the lake of it."""
    folder = tmp_path_factory.mktemp("clean")
    pretty = "\n".join(json.dumps(song, indent=2) for song in CLEAN_SONGS[2:])
    write_files(folder / "songs", {"A/a.json": CLEAN_SONGS[:1], "A/b.json": CLEAN_SONGS[1:2], "B/c.json": pretty})
    write_files(folder / "logs", {"2018/11/1.json": CLEAN_EVENTS[:5], "2018/11/2.json": CLEAN_EVENTS[5:]})
    built(interpreted_plans, folder / "songs", folder / "logs", folder / "lake")
    return folder


def raw(monkeypatch: pytest.MonkeyPatch, redshift: Redshift, folder: Path, songs: str, logs: str) -> None:
    """Put raw input into the bucket and say where it is."""
    for setting, name in (("SONG_DATA", songs), ("LOG_DATA", logs)):
        redshift.upload(folder / name, BUCKET, "in/" + name)
        monkeypatch.setenv(setting, "s3://%s/in/%s" % (BUCKET, name))


def without_file(rows: Rows, table: str) -> Rows:
    """Rows of a staging table without the name of the file, which COPY does not tell."""
    place = sql_queries.columns(table).index("file")
    return sorted((row[:place] + row[place + 1 :] for row in rows), key=repr)


def test_clean_raw_json_gives_the_rows_of_the_lake(
    clean: Path, redshift: Redshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw(monkeypatch, redshift, clean, "songs", "logs")
    assert create_table.main([]) == 0
    assert [load.main(["--from-json"]) for _ in range(2)] == [0, 0]
    assert in_warehouse(redshift) == in_lake(clean / "lake")
    for name in sql_queries.STAGING_TABLES:
        staged, published = (found[name] for found in (in_warehouse(redshift, name), in_lake(clean / "lake", name)))
        assert without_file(staged, name) == without_file(published, name)
    assert redshift.keys(BUCKET, "sparkify-data") == []


def test_raw_json_that_is_not_clean_leaves_the_tables_as_they_were(
    clean: Path, redshift: Redshift, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw(monkeypatch, redshift, clean, "songs", "logs")
    assert create_table.main([]) == 0
    assert load.main(["--from-json"]) == 0
    before = in_warehouse(redshift)
    bad = json.dumps(event_record(sessionId="x")).encode()
    redshift.client("s3").put_object(Bucket=BUCKET, Key="in/logs/2018/11/3.json", Body=bad)
    assert load.main(["--from-json"]) == 2
    assert "could not copy s3://sparkify-dl-sp/in/logs into staging_events: " in capsys.readouterr().err
    assert in_warehouse(redshift) == before
    monkeypatch.setenv("LOG_DATA", "/logs")
    assert load.main(["--from-json"]) == 2
    assert "log_data is /logs: COPY reads from S3 only" in capsys.readouterr().err


def test_the_raw_public_sample_gives_the_star_of_the_lake_and_text_as_it_came(
    real_lake: Path, redshift: Redshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw(monkeypatch, redshift, REAL, "song_data", "log_data")
    assert create_table.main([]) == 0
    assert load.main(["--from-json"]) == 0
    assert in_warehouse(redshift) == in_lake(real_lake)
    loaded, published = in_warehouse(redshift, "staging_events"), in_lake(real_lake, "staging_events")
    events = [set(without_file(found["staging_events"], "staging_events")) for found in (loaded, published)]
    assert [len(one - other) for one, other in (events, reversed(events))] == [331, 331]  # encoded twice


def test_what_the_changed_lake_is_for(changed_lake: Path) -> None:
    plays = in_lake(changed_lake)["songplays"]
    assert {row[4] for row in plays} >= {"SOB", "SOD", "SOF", "SOH", None}
    assert {row[5] for row in plays if not row[4]} >= {"AR6", "AR7", "AR'\\1", None}


def test_the_catalogs_tables_give_the_same_rows(sample_lake: Path, redshift: Redshift) -> None:
    upload(redshift, sample_lake)
    assert register.main([]) == 0
    assert create_table.main([]) == 0
    assert [load.main(["--from-catalog"]) for _ in range(2)] == [0, 0]
    assert in_warehouse(redshift) == in_lake(sample_lake)


TOP_ARTISTS = [("Coldplay", 58), ("Kings Of Leon", 55), ("Dwight Yoakam", 38)]  # counted from the files
LILY_KOCHS_PLAYS, WITH_THEIR_SONG = 463, ["Setanta matins"]


def documented(page: str) -> List[str]:
    """The SQL of a page of docs/: the artists played most, and the plays of Lily Koch."""
    return re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def check_answers(artists: Rows, plays: Rows) -> None:
    assert [row[:2] for row in artists] == TOP_ARTISTS
    assert len(plays) == LILY_KOCHS_PLAYS
    assert all(title and artist for _, title, artist, _ in plays)
    assert [title for _, title, _, in_catalogue in plays if in_catalogue] == WITH_THEIR_SONG


def test_the_questions_of_the_documentation_are_answered_by_the_warehouse(real_lake: Path, redshift: Redshift) -> None:
    upload(redshift, real_lake)
    assert load_all() == [0, 0]
    with redshift.postgres.connect(redshift.database) as session:
        check_answers(*(session.execute(for_postgres(sql)).fetchall() for sql in documented("warehouse.md")))


def test_the_questions_of_the_documentation_are_answered_in_the_sql_of_athena(real_lake: Path) -> None:
    with duckdb.connect() as session:
        session.execute("SET timezone = 'UTC'")
        for table in etl.TABLES:
            files = "read_parquet('%s/%s/**/*.parquet', hive_partitioning = true)" % (real_lake, table)
            session.execute("CREATE VIEW %s AS FROM %s" % (table, files))
        asked = [sqlglot.transpile(sql, read="athena", write="duckdb")[0] for sql in documented("catalog.md")]
        check_answers(*(session.execute(sql).fetchall() for sql in asked))


def test_tables_are_replaced_with_all_their_rows(sample_lake: Path, redshift: Redshift) -> None:
    upload(redshift, sample_lake)
    assert load_all() == [0, 0]
    assert create_table.main([]) == 0
    assert all(in_warehouse(redshift).values())
    assert create_table.main(["--replace"]) == 0
    assert not any(in_warehouse(redshift).values())


def edit_report(redshift: Redshift, change: Callable[[Any], None]) -> None:
    """Change the newest report in the bucket."""
    where = {"Bucket": BUCKET, "Key": redshift.keys(BUCKET, "sparkify-data/_runs/")[-1]}
    report = json.loads(redshift.client("s3").get_object(**where)["Body"].read())
    change(report)
    redshift.client("s3").put_object(**where, Body=json.dumps(report).encode())


def one_row_more(redshift: Redshift) -> None:
    """The report counts an event that is not there."""

    def change(report: Any) -> None:
        report["tables"]["staging_events"]["rows"] += 1

    edit_report(redshift, change)


def another_match(known: str) -> Callable[[Redshift], None]:
    """The job has found another number of songs or artists to plays."""
    return lambda redshift: edit_report(redshift, lambda report: report.update({known: 3}))


def earlier_version(redshift: Redshift) -> None:
    """The job published no staging tables then."""
    edit_report(redshift, lambda report: report["tables"].pop("staging_events"))


def no_staging(redshift: Redshift) -> None:
    for key in redshift.keys(BUCKET, "sparkify-data/staging_songs"):
        redshift.client("s3").delete_object(Bucket=BUCKET, Key=key)


def another_file(redshift: Redshift) -> None:
    """A run that is at work has published a file already."""
    key = "sparkify-data/staging_events/year=2018/month=12/part-00000.parquet"
    redshift.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"PAR1")


def no_report(redshift: Redshift) -> None:
    """No run has succeeded."""
    edit_report(redshift, lambda report: report.update(status="failed: the lake is as it was"))


def no_role(redshift: Redshift) -> None:
    redshift.client("iam").delete_role(RoleName="SparkifyRedshift")


def refusing(code: str, message: str) -> Callable[[Redshift], None]:
    """The Data API refuses everything."""

    def change(redshift: Redshift) -> None:
        redshift.refusal = {"__type": code, "Message": message, "message": message}

    return change


TROUBLE = {
    "staging holds less than is counted": (one_row_more, "could not check that the rows of staging_events are"),
    "another match rate": (
        another_match("matched"),
        "could not check that the rows of songplays WHERE song_id IS NOT NULL",
    ),
    "another match rate of artists": (
        another_match("artists_known"),
        "could not check that the rows of songplays WHERE artist_id IS NOT NULL",
    ),
    "an earlier version": (
        earlier_version,
        "an earlier version of etl.py has built s3://sparkify-dl-sp/sparkify-data: run",
    ),
    "staging is gone": (no_staging, "staging_songs in s3://sparkify-dl-sp/sparkify-data is not as the last run of the"),
    "a run is at work": (another_file, "staging_events in s3://sparkify-dl-sp/sparkify-data is not as the last run"),
    "no report": (no_report, "no run of the job has left a report"),
    "no role": (no_role, "there is no role SparkifyRedshift in this account"),
    "paused": (
        refusing("ValidationException", "Redshift endpoint: cluster is paused"),
        "the cluster sparkify-dwh is paused",
    ),
    "no cluster": (
        refusing("ValidationException", "Redshift endpoint doesn't exist"),
        "there is no sparkify-dwh in us-west-2",
    ),
    "denied": (
        refusing("AccessDeniedException", "User is not authorized"),
        "no permission: the credentials in use may",
    ),
}


@pytest.mark.parametrize("case", list(TROUBLE))
def test_trouble_is_said_in_a_sentence_and_leaves_the_tables_as_they_were(
    case: str, sample_lake: Path, redshift: Redshift, capsys: pytest.CaptureFixture[str]
) -> None:
    change, sentence = TROUBLE[case]
    upload(redshift, sample_lake)
    assert load_all() == [0, 0]
    before = in_warehouse(redshift)
    change(redshift)
    capsys.readouterr()
    assert load.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("warehouse.etl: ")
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert in_warehouse(redshift) == before
    assert redshift.keys(BUCKET, "sparkify-data/_warehouse") == []


def test_without_tables_the_sentence_says_what_makes_them(
    sample_lake: Path, redshift: Redshift, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(redshift, sample_lake)
    assert load.main([]) == 2
    assert "python -m warehouse.create_table makes the tables" in capsys.readouterr().err


def test_a_dry_run_changes_nothing(sample_lake: Path, redshift: Redshift, capsys: pytest.CaptureFixture[str]) -> None:
    upload(redshift, sample_lake)
    keys = redshift.keys(BUCKET)
    assert create_table.main(["--dry-run"]) == 0
    assert [load.main(["--dry-run", *source]) for source in ([], ["--from-json"], ["--from-catalog"])] == [0] * 3
    said = capsys.readouterr().out.splitlines()
    assert {"would create table songs", "would copy into staging_events", "would insert into songplays"} <= set(said)
    assert "would copy s3://udacity-dend/log_data into staging_events" in said
    assert redshift.targets == []
    assert redshift.keys(BUCKET) == keys


TARGETS = {
    "IAM": ({}, {"ClusterIdentifier": "sparkify-dwh", "Database": "sparkify", "DbUser": "sparkify_admin"}),
    "a secret": (
        {"SECRET_ARN": "arn:s"},
        {"ClusterIdentifier": "sparkify-dwh", "Database": "sparkify", "SecretArn": "arn:s"},
    ),
    "a cluster by its endpoint": (
        {"ENDPOINT": "mine.abc123.us-west-2.redshift.amazonaws.com:5439/dev", "DATABASE": "dev", "DB_USER": "me"},
        {"ClusterIdentifier": "mine", "Database": "dev", "DbUser": "me"},
    ),
    "a workgroup by its endpoint": (
        {"ENDPOINT": "analytics.123456789012.us-west-2.redshift-serverless.amazonaws.com"},
        {"WorkgroupName": "analytics", "Database": "sparkify"},
    ),
}


@pytest.mark.parametrize("case", list(TARGETS))
def test_the_settings_say_which_database_is_asked_and_as_whom(
    case: str, redshift: Redshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, expected = TARGETS[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert create_table.main([]) == 0
    assert redshift.targets == [expected]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[CLUSTER]\nPORT = x", "PORT is x; it must be a whole number from 1150 to 65535"),
        ("[CLUSTER]\nCLUSTER_IDENTIFIER = A b", "CLUSTER_IDENTIFIER is A b; it takes lower-case letters"),
        ("[CLUSTER]\nENDPOINT = x.y", "ENDPOINT is x.y; it must be like"),
        ("[CLUSTER]\nDATABASE = a-b", "DATABASE is a-b"),
        ("[CLUSTER]\ns3cret = 1", "unknown key in [CLUSTER]"),
        ("[X]", "unknown section [X]"),
        ("s3cret", "is no configuration file (line 1)"),
        (None, "cannot read"),
    ],
)
def test_wrong_settings_are_refused_and_not_quoted(
    text: Optional[str], sentence: str, redshift: Redshift, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Path(settings.FILE).read_text("utf-8")
    if text:
        name = text.partition("\n")[2].partition(" ")[0]
        kept = re.sub(r"(?m)^%s =.*$" % name, "", good) if name else ""
        (tmp_path / "dwh.cfg").write_text(kept.replace("[CLUSTER]", text, 1) if kept else text)
    assert create_table.main(["--dwh", "dwh.cfg"]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "s3cret" not in said
    assert redshift.targets == []


def test_the_policy_allows_what_loading_asks_for_and_nothing_else(
    sample_lake: Path, redshift: Redshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(redshift, sample_lake)
    asked = recorded(monkeypatch)
    assert load_all() == [0, 0]
    policy = ROOT / "docs" / "iam" / "warehouse.json"
    by_itself = ["redshift:GetClusterCredentials", "redshift-data:CancelStatement", "redshift-data:ExecuteStatement"]
    assert asked == actions_of(policy, *by_itself)
