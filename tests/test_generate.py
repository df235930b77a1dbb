"""The generator keeps its promises: its files are read back by code that shares none with it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tracemalloc
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Dict

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.once
SCRIPT = ROOT / "benchmarks" / "generate.py"
SAMPLE = ROOT / "data"
Record = Dict[str, Any]
SMALL = "--songs 60 --events 700 --users 12"
SONG_KEYS = [
    "num_songs", "artist_id", "artist_latitude", "artist_longitude", "artist_location", "artist_name", "song_id",
    "title", "duration", "year",
]  # fmt: skip
EVENT_KEYS = [
    "artist", "auth", "firstName", "gender", "itemInSession", "lastName", "length", "level", "location", "method",
    "page", "registration", "sessionId", "song", "status", "ts", "userAgent", "userId",
]  # fmt: skip


def run(out: Path, arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(SCRIPT), str(out), *arguments.split()]
    return subprocess.run(command, capture_output=True)


def made(out: Path, arguments: str = SMALL) -> Record:
    """Generate into a folder and return the truth that was printed."""
    done = run(out, arguments)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for name in ("song_data", "log_data")
        for path in sorted((folder / name).rglob("*.json"))
    }


def lines(folder: Path, name: str) -> list[bytes]:
    return [line for path in sorted((folder / name).rglob("*.json")) for line in path.read_bytes().split(b"\n")]


def good(line: bytes, keys: list[str], numbers: list[str]) -> Record | None:
    """Return a line's record, or None if the line is damaged."""
    try:
        record = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(record, dict) or list(record) != keys:
        return None
    required = record["song_id"] if "song_id" in record else record["ts"]
    sound = all(isinstance(record[key], (int, float)) for key in numbers)
    return record if sound and required is not None else None


def songs_of(folder: Path) -> list[Record]:
    records = [good(line, SONG_KEYS, ["duration", "year"]) for line in lines(folder, "song_data")]
    return [record for record in records if record]


def deliveries_of(folder: Path) -> list[Record]:
    records = [good(line, EVENT_KEYS, ["ts", "status"]) for line in lines(folder, "log_data")]
    return [record for record in records if record]


def natural_key(event: Record) -> tuple[Any, ...]:
    return event["userId"], event["sessionId"], event["itemInSession"], event["ts"]


def events_of(folder: Path) -> list[Record]:
    """Return the events, each once, in the order of time."""
    events = {natural_key(event): event for event in deliveries_of(folder)}
    return sorted(events.values(), key=lambda e: (e["ts"], e["itemInSession"]))


def plays_of(folder: Path) -> list[Record]:
    return [event for event in events_of(folder) if event["page"] == "NextSong"]


def repaired(text: Any) -> str:
    """Undo UTF-8 read as Latin-1 as often as it was done, then trim."""
    text = str(text)
    while True:
        try:
            undone = text.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return text.strip()
        if undone == text:
            return text.strip()
        text = undone


def is_double_encoded(event: Record) -> bool:
    return any(repaired(event[key]) != str(event[key]).strip() for key in ("artist", "song"))


def candidates_of(songs: list[Record]) -> dict[tuple[str, str], list[Record]]:
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for song in songs:
        found[repaired(song["title"]), repaired(song["artist_name"])].append(song)
    return found


def counted(folder: Path) -> Record:
    """Count by plain means what the generator says it planted."""
    songs, deliveries, events = songs_of(folder), deliveries_of(folder), events_of(folder)
    plays = [event for event in events if event["page"] == "NextSong"]
    signed_in = [event for event in events if event["userId"]]
    found = candidates_of(songs)
    raw = {(str(song["title"]), str(song["artist_name"])) for song in songs}
    matched = [play for play in plays if (repaired(play["song"]), repaired(play["artist"])) in found]
    played = set()
    for play in matched:
        rivals = found[repaired(play["song"]), repaired(play["artist"])]
        best = min(rivals, key=lambda s: (abs(s["duration"] - play["length"]), s["song_id"]))
        played.add(best["song_id"])
    levels = defaultdict(set)
    for play in plays:
        levels[play["userId"]].add(play["level"])
    latest = Counter({event["userId"]: event["level"] for event in signed_in}.values())
    return {
        "song_lines": len(lines(folder, "song_data")),
        "song_records": len(songs),
        "song_records_year_0": sum(song["year"] == 0 for song in songs),
        "songs": len({song["song_id"] for song in songs}),
        "artists": len({song["artist_id"] for song in songs}),
        "song_files": len(list((folder / "song_data").rglob("*.json"))),
        "log_files": len(list((folder / "log_data").rglob("*.json"))),
        "log_lines": len(lines(folder, "log_data")),
        "events": len(events),
        "duplicate_events": len(deliveries) - len(events),
        "logged_out_events": len(events) - len(signed_in),
        "plays": len(plays),
        "duplicate_plays": sum(e["page"] == "NextSong" for e in deliveries) - len(plays),
        "play_start_times": len({play["ts"] for play in plays}),
        "double_encoded_plays": sum(map(is_double_encoded, plays)),
        "matched_plays": len(matched),
        "plays_matched_only_after_repair": sum((str(play["song"]), str(play["artist"])) not in raw for play in matched),
        "songs_played": len(played),
        "users": len({event["userId"] for event in signed_in}),
        "users_with_plays": len(levels),
        "users_playing_at_both_levels": sum(len(seen) == 2 for seen in levels.values()),
        "users_latest_free": latest["free"],
        "users_latest_paid": latest["paid"],
        "first_event_ts": events[0]["ts"],
        "last_event_ts": events[-1]["ts"],
    }


def assert_counted(folder: Path, truth: Record) -> None:
    plain = {key: value for key, value in truth.items() if not isinstance(value, dict)}
    pretty = {key: plain.pop(key) for key in ("pretty_song_files", "pretty_song_records")}
    assert set(pretty.values()) == {0}
    assert counted(folder) == plain


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    folder = tmp_path_factory.mktemp("small")
    return folder, made(folder)


@pytest.fixture(scope="module", params=["the sample", "a small run"])
def folder(request: pytest.FixtureRequest, small: tuple[Path, Record]) -> Path:
    """Every oddity must be in the sample, and as well in a run of another size and seed."""
    return SAMPLE if request.param == "the sample" else small[0]


def test_same_arguments_give_the_same_bytes(small: tuple[Path, Record], tmp_path: Path) -> None:
    truth = made(tmp_path)
    assert truth == small[1]
    assert contents(tmp_path) == contents(small[0])


def test_another_seed_gives_other_files(small: tuple[Path, Record], tmp_path: Path) -> None:
    made(tmp_path, SMALL + " --seed 2")
    ours, theirs = contents(tmp_path), contents(small[0])
    assert not any(ours[path] == theirs.get(path) for path in ours)


def recorded() -> tuple[str, dict[str, int], list[tuple[str, str, str]]]:
    """Return the arguments and the counts that the sample's README records."""
    text = (SAMPLE / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python benchmarks/generate\.py data (.*)$", text, re.M)
    counts = {key: int(value) for key, value in re.findall(r"^\| `(\w+)` \| (\d+) \|$", text, re.M)}
    bad = re.findall(r"^\| `(\S+\.json)` \| (\d+) \| (.*) \|$", text, re.M)
    return command, counts, bad


def test_sample_is_what_the_recorded_command_makes(tmp_path: Path) -> None:
    command, counts, _ = recorded()
    truth = made(tmp_path, " ".join(shlex.split(command)))
    assert contents(tmp_path) == contents(SAMPLE)
    assert {key: value for key, value in truth.items() if not isinstance(value, dict)} == counts
    assert_counted(SAMPLE, truth)


def test_sample_is_damaged_where_its_readme_says() -> None:
    found = []
    for path, content in contents(SAMPLE).items():
        keys = SONG_KEYS if path.startswith("song") else EVENT_KEYS
        number = "duration" if path.startswith("song") else "ts"
        for place, line in enumerate(content.split(b"\n"), 1):
            if not good(line, keys, [number]):
                found.append((path, str(place)))
    assert sorted(found) == sorted((path, place) for path, place, _ in recorded()[2])
    assert len(found) == 3


def test_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 2_000_000


def test_truth_is_what_plain_counting_finds(small: tuple[Path, Record]) -> None:
    assert_counted(*small)


def test_truth_holds_with_damage_and_duplicates(tmp_path: Path) -> None:
    truth = made(
        tmp_path,
        "--songs 300 --songs-per-file 7 --events 3000 --damage 0.1 --duplicates 0.05 --seed 5",
    )
    assert_counted(tmp_path, truth)
    assert sum(truth["damaged_songs"].values()) == 30
    assert sum(truth["damaged_events"].values()) == 300
    assert truth["duplicate_events"] == 150 + 3
    assert len(truth["damaged_events"]) == len(truth["damaged_songs"]) == 9


def test_truth_file_and_song_files(tmp_path: Path) -> None:
    truth = made(tmp_path / "out", SMALL + f" --song-files 7 --truth {tmp_path / 'truth.json'}")
    assert json.loads((tmp_path / "truth.json").read_text()) == truth
    assert_counted(tmp_path / "out", truth)
    assert truth["song_files"] == 7


def test_pretty_files_hold_several_objects(tmp_path: Path) -> None:
    truth = made(tmp_path, SMALL + " --pretty 2")
    texts = [path.read_text() for path in sorted((tmp_path / "song_data").rglob("*.json"))]
    pretty = [text for text in texts if text.startswith("{\n")]
    assert len(pretty) == truth["pretty_song_files"] == 2
    parts = [part for text in pretty for part in text.replace("}\n{", "}\n\n{").split("\n\n")]
    objects = [json.loads(part) for part in parts]
    assert len(objects) == truth["pretty_song_records"] == 6
    assert not {song["song_id"] for song in objects} & {s["song_id"] for s in songs_of(tmp_path)}
    assert len(texts) == truth["song_files"] + 2


def test_files_look_like_the_real_ones(folder: Path) -> None:
    for path, content in contents(folder).items():
        assert b"\r" not in content
        assert not content.endswith(b"\n")
        assert max(content) < 128  # other letters are escaped
        if path.startswith("song"):
            letters = Path(path).name[2:5]
            assert path.startswith("song_data/{}/{}/{}/TR".format(*letters))
    song, event = songs_of(folder)[0], events_of(folder)[0]
    assert json.dumps(song).encode() in lines(folder, "song_data")
    compact = json.dumps(event, separators=(",", ":")).replace("/", "\\/").encode()
    assert compact in lines(folder, "log_data")


def test_events_lie_in_their_days_file(folder: Path) -> None:
    first = min(path.name for path in (folder / "log_data").rglob("*.json"))
    assert first == "2018-11-01-events.json"
    for path in sorted((folder / "log_data").rglob("*.json")):
        day = int(path.name[8:10]) - 1
        days = [
            (json.loads(line.decode())["ts"] // 86400000 - 17836)
            for line in path.read_bytes().split(b"\n")
            if good(line, EVENT_KEYS, ["ts"])
        ]
        assert all(found == day or found == day - 1 for found in days)
        assert sum(found != day for found in days) <= 1  # the copy that came a day late


def test_bare_numbers_in_text(folder: Path) -> None:
    assert 112 in [song["artist_name"] for song in songs_of(folder)]
    assert any(isinstance(song["title"], int) for song in songs_of(folder))
    artists = [play["artist"] for play in plays_of(folder)]
    assert 112 in artists
    assert "112" in artists
    assert any(isinstance(play["song"], int) for play in plays_of(folder))


def test_song_records_with_gaps(folder: Path) -> None:
    songs = songs_of(folder)
    assert any(song["year"] == 0 for song in songs)
    assert any(song["year"] for song in songs)
    assert any(song["artist_latitude"] is None for song in songs)
    assert any(song["artist_latitude"] is not None for song in songs)
    assert any(song["artist_location"] == "" for song in songs)
    assert any("<a href=" in song["artist_location"] for song in songs)


def test_ids_and_names_disagree(folder: Path) -> None:
    names, ids = defaultdict(set), defaultdict(set)
    ids_of: Counter[str] = Counter()
    for song in songs_of(folder):
        names[song["artist_id"]].add(song["artist_name"])
        ids[song["title"], song["artist_name"]].add((song["song_id"], song["duration"]))
        ids_of[song["song_id"]] += 1
    assert any(len(found) > 1 for found in names.values())
    assert any(len(found) > 1 and len(dict(found)) > 1 for found in ids.values())
    assert max(ids_of.values()) == 2
    assert all(re.match(r"SO[A-Z]{5}[0-9A-F]{11}$", song_id) for song_id in ids_of)
    assert all(re.match(r"AR[A-Z]{5}[0-9A-F]{11}$", artist_id) for artist_id in names)


def test_user_agents_with_and_without_quotes(folder: Path) -> None:
    agents = {event["userAgent"] for event in events_of(folder) if event["userId"]}
    assert any(agent.startswith('"') and agent.endswith('"') for agent in agents)
    assert any(not agent.startswith('"') for agent in agents)


def test_logged_out_events(folder: Path) -> None:
    out = [event for event in events_of(folder) if event["auth"] == "Logged Out"]
    assert out
    for event in out:
        assert event["userId"] == ""
        assert event["page"] != "NextSong"
        for key in ("firstName", "lastName", "gender", "location", "registration", "userAgent"):
            assert event[key] is None
    assert all(event["userId"] for event in events_of(folder) if event["auth"] == "Logged In")


def test_every_page_occurs(folder: Path) -> None:
    pages = {(event["page"], event["method"], event["status"]) for event in events_of(folder)}
    assert pages == {
        ("NextSong", "PUT", 200), ("Home", "GET", 200), ("Login", "PUT", 307),
        ("Logout", "PUT", 307), ("About", "GET", 200), ("Help", "GET", 200),
        ("Settings", "GET", 200), ("Save Settings", "PUT", 307), ("Upgrade", "GET", 200),
        ("Submit Upgrade", "PUT", 307), ("Downgrade", "GET", 200),
        ("Submit Downgrade", "PUT", 307), ("Error", "GET", 404),
    }  # fmt: skip


def test_two_users_play_at_the_same_millisecond(folder: Path) -> None:
    users = defaultdict(set)
    for play in plays_of(folder):
        users[play["ts"]].add(play["userId"])
    assert any(len(found) > 1 for found in users.values())


def test_a_level_goes_paid_free_paid_within_minutes(folder: Path) -> None:
    plays = [play for play in plays_of(folder) if play["userId"] == "2"]
    changes = [play for play, last in zip(plays[1:], plays) if play["level"] != last["level"]]
    assert [play["level"] for play in changes] == ["free", "paid"]
    assert changes[1]["ts"] - changes[0]["ts"] < 15 * 60 * 1000


def test_double_encoded_text_beside_clean_text(folder: Path) -> None:
    found = candidates_of(songs_of(folder))
    twice = [play for play in plays_of(folder) if is_double_encoded(play)]
    assert any((repaired(play["song"]), repaired(play["artist"])) in found for play in twice)
    for play in twice:
        once = str(play["song"]).encode("latin-1").decode("utf-8")
        assert once.encode("latin-1").decode("utf-8") == repaired(play["song"])
    assert any(str(play["song"]).endswith("\u00a0") for play in twice)  # trimming first breaks it
    clean = [play for play in plays_of(folder) if not is_double_encoded(play)]
    assert any(re.search("[^\x00-\x7f]", str(play["artist"])) for play in clean)
    assert not any(is_double_encoded({"artist": s["artist_name"], "song": s["title"]}) for s in songs_of(folder))


def test_other_odd_text(folder: Path) -> None:
    plays, songs = plays_of(folder), songs_of(folder)
    assert any(str(play["song"]) != str(play["song"]).strip() for play in plays)
    assert any(str(song["title"]) != str(song["title"]).strip() for song in songs)
    assert any("\x19" in str(play["song"]) for play in plays)
    assert any('"' in str(song["title"]) and "\\" in str(song["title"]) for song in songs)
    assert any(re.search("[^\x00-\x7f]", event["firstName"] or "") for event in plays)


def test_events_are_delivered_twice(folder: Path) -> None:
    times = Counter(map(natural_key, deliveries_of(folder)))
    assert max(times.values()) == 2
    days = defaultdict(set)
    for path in (folder / "log_data").rglob("*.json"):
        for line in path.read_bytes().split(b"\n"):
            event = good(line, EVENT_KEYS, ["ts"])
            if event and times[natural_key(event)] > 1:
                days[natural_key(event)].add(path.name)
    assert {len(found) for found in days.values()} == {1, 2}


def test_title_or_artist_alone_would_match_wrongly(folder: Path) -> None:
    songs = songs_of(folder)
    found = candidates_of(songs)
    titles, artists = ({key[part] for key in found} for part in (0, 1))
    rest = [(repaired(play["song"]), repaired(play["artist"])) for play in plays_of(folder)]
    rest = [pair for pair in rest if pair not in found]
    assert any(title in titles for title, _ in rest)
    assert any(artist in artists for _, artist in rest)
    assert any(title in titles and artist in artists for title, artist in rest)


def test_some_users_play_nothing(folder: Path) -> None:
    everyone = {event["userId"] for event in events_of(folder)} - {""}
    assert everyone > {play["userId"] for play in plays_of(folder)}


def test_popular_songs_and_users_stand_out(tmp_path: Path) -> None:
    made(tmp_path, "--songs 300 --events 6000 --users 60")
    for key in ("userId", "song"):
        counts = sorted(Counter(str(play[key]) for play in plays_of(tmp_path)).values())
        assert sum(counts[-len(counts) // 5 :]) > sum(counts) * 0.4


def test_memory_does_not_grow_with_events(tmp_path: Path) -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import generate
    finally:
        sys.path.pop(0)
    peaks = []
    for events in (5000, 50000):
        out = str(tmp_path / str(events))
        tracemalloc.start()
        generate.main([out, "--songs", "500", "--users", "500", "--events", str(events)])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--songs 3", "--songs"),
        ("--songs many", "--songs"),
        ("--events 10", "--events"),
        ("--users 1", "--users"),
        ("--days 0", "--days"),
        ("--days 99999999", "--days"),
        ("--artists 5000", "--artists"),
        ("--match-rate 1.5", "--match-rate"),
        ("--damage nan", "--damage"),
        ("--damage 0.9", "damaged"),
        ("--seed -1", "--seed"),
        ("--start 2018-13-01", "--start"),
        ("--songs-per-file 0", "--songs-per-file"),
        ("--song-files 0", "--song-files"),
        ("--song-files 2 --songs-per-file 2", "exclude"),
        ("--nonsense", "--nonsense"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(tmp_path: Path, arguments: str, named: str) -> None:
    out = tmp_path / "out"
    done = run(out, arguments)
    assert done.returncode == 2
    assert named in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert not done.stdout
    assert not out.exists()


def test_a_folder_in_use_is_refused_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("keep")
    done = run(tmp_path, SMALL)
    assert done.returncode == 2
    assert b"not empty" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    made(tmp_path, SMALL + " --force")
    assert (tmp_path / "note.txt").read_text() == "keep"


def test_files_of_another_run_are_reported(tmp_path: Path) -> None:
    made(tmp_path, SMALL)
    again = run(tmp_path, SMALL + " --force")
    other = run(tmp_path, SMALL + " --force --seed 2")
    assert again.returncode == other.returncode == 0
    assert not again.stderr
    assert b"leaves out" in other.stderr


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "out", SMALL)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"cannot write" in done.stderr
