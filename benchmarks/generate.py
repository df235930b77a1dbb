"""Generate made-up song and event files in the format of the Sparkify bucket, at any size.

The files hold every oddity that real copies are known to hold, and at the end the generator prints
the truth it planted, so that a job's answers can be checked against it. Standard library only;
the same arguments give the same bytes on every machine and Python version.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from bisect import bisect
from collections import Counter
from datetime import date, timedelta
from itertools import accumulate
from pathlib import Path
from random import Random
from time import strptime
from typing import Any, BinaryIO, Iterator, NamedTuple, NoReturn, Sequence, Union

Text = Union[str, int]  # a text field may hold a bare JSON number, as in an artist called 112

SECOND = 1000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
MIN_SONGS, MIN_EVENTS, MIN_USERS = 40, 200, 5
MAX_SONGS = 5_000_000
MAX_OUTSIDE_TRACKS = 20_000
FILES_PER_FOLDER = 24
RECORDS_PER_PRETTY_FILE = 3
DOUBLE_ENCODED_SHARE = 0.9
BLANKS_SHARE = 0.004
NEXT_SONG_SHARE = 0.87


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


# Words are dealt out alternately: even places to the songs, odd places to the plays' own catalogue,
# so that no made-up title or artist of the one can ever equal one of the other.
ADJECTIVES = words(
    "Amber Brass Copper Distant Drifting Electric Faded Gentle Hollow Idle Jagged Kindred Little "
    "Marble Northern Olive Painted Quiet Restless Silver Tidal Umber Velvet Wandering Yellow "
    "Solemn Midnight Paper Broken Grey"
)
ARTIST_NOUNS = words(
    "Anchors Beacons Cartographers Daylilies Embers Falcons Gardeners Herons Islanders Jugglers "
    "Kestrels Ledgers Mariners Nomads Orchards Pilots Quarries Ramblers Sextants Tinkers Umbrellas "
    "Voyagers Weavers Foxgloves Zephyrs Almanacs Bridges Écluses Månader Dials"
)
TITLE_NOUNS = words(
    "Avenue Bonfire Compass Doorway Evening Ferry Gravity Harvest Interval Journey Kitchen Letter "
    "Morning Notebook Overpass Parade Quarrel River Season Tunnel Undertow Valley Window Crossing "
    "Yesterday Zenith Archive Bouquet Corazón"
)
TITLE_ENDS = ("", "", "", " (Album Version)", "", " (Live)", "", "", " / Reprise")
FIRST_NAMES = (
    ("Alma", "F"), ("Bruno", "M"), ("Chloé", "F"), ("Dorian", "M"), ("Edith", "F"), ("Felix", "M"),
    ("Greta", "F"), ("Hugo", "M"), ("Ines", "F"), ("Jonas", "M"), ("Kira", "F"), ("Leon", "M"),
    ("Mira", "F"), ("Nils", "M"), ("Odette", "F"), ("Pablo", "M"), ("Rhea", "F"), ("Søren", "M"),
    ("Talia", "F"), ("Viktor", "M"), ("Yara", "F"), ("Zeno", "M"),
)  # fmt: skip
FIXED_NAMES = {0: ("Wren", "Halloway", "F"), 2: ("Søren", "Muñoz", "M")}
LAST_NAMES = words(
    "Abernathy Bellweather Castellan Dunmore Eastlake Fairbourne Greenhalgh Hartwell Ivanov "
    "Jansson Kessler Lindgren Muñoz Northcott Okafor Pemberton Quill Rosenthal Sandoval "
    "Thornbury Ueda Vance Whitlock Yamada Zielinski"
)
METROS = (
    "Albany-Schenectady-Troy, NY", "Austin-Round Rock, TX", "Boise City, ID",
    "Boston-Cambridge-Newton, MA-NH", "Cincinnati, OH-KY-IN", "Denver-Aurora-Lakewood, CO",
    "Duluth, MN-WI", "El Paso, TX", "Eugene, OR", "Kansas City, MO-KS", "Louisville, KY-IN",
    "Madison, WI", "Memphis, TN-MS-AR", "Omaha-Council Bluffs, NE-IA", "Pittsburgh, PA",
    "Providence-Warwick, RI-MA", "Salt Lake City, UT", "Spokane-Spokane Valley, WA",
    "St. Louis, MO-IL", "Tucson, AZ",
)  # fmt: skip
WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
USER_AGENTS = (
    f'"Mozilla/5.0 (Windows NT 6.1; WOW64) {WEBKIT} Chrome/36.0.1985.143 Safari/537.36"',
    f'"Mozilla/5.0 (Windows NT 6.3; WOW64) {WEBKIT} Chrome/37.0.2062.94 Safari/537.36"',
    f'"Mozilla/5.0 (Windows NT 5.1) {WEBKIT} Chrome/36.0.1985.125 Safari/537.36"',
    f'"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_9_4) {WEBKIT} Chrome/36.0.1985.125 Safari/537.36"',
    f'"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_8_5) {WEBKIT} Chrome/37.0.2062.94 Safari/537.36"',
    f'"Mozilla/5.0 (X11; Linux x86_64) {WEBKIT} Chrome/36.0.1985.125 Safari/537.36"',
    f'"Mozilla/5.0 (X11; CrOS x86_64 5841.83.0) {WEBKIT} Chrome/36.0.1985.138 Safari/537.36"',
    '"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_9_4) AppleWebKit/537.78.2 (KHTML, like Gecko) '
    'Version/7.0.6 Safari/537.78.2"',
    '"Mozilla/5.0 (iPhone; CPU iPhone OS 7_1_2 like Mac OS X) AppleWebKit/537.51.2 '
    '(KHTML, like Gecko) Version/7.0 Mobile/11D257 Safari/9537.53"',
    '"Mozilla/5.0 (iPad; CPU OS 7_1_2 like Mac OS X) AppleWebKit/537.51.2 (KHTML, like Gecko) '
    'Version/7.0 Mobile/11D257 Safari/9537.53"',
    "Mozilla/5.0 (Windows NT 6.1; WOW64; rv:31.0) Gecko/20100101 Firefox/31.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.9; rv:31.0) Gecko/20100101 Firefox/31.0",
    "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:31.0) Gecko/20100101 Firefox/31.0",
    "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko",
)
PAGES = {  # page: HTTP method and status
    "NextSong": ("PUT", 200), "Home": ("GET", 200), "Login": ("PUT", 307), "Logout": ("PUT", 307),
    "About": ("GET", 200), "Help": ("GET", 200), "Settings": ("GET", 200),
    "Save Settings": ("PUT", 307), "Upgrade": ("GET", 200), "Submit Upgrade": ("PUT", 307),
    "Downgrade": ("GET", 200), "Submit Downgrade": ("PUT", 307), "Error": ("GET", 404),
}  # fmt: skip
SIGNED_IN_PAGES = {
    "Home": 50, "Logout": 8, "Settings": 8, "Help": 5, "About": 3, "Error": 1, "Downgrade": 14,
}  # fmt: skip
SIGNED_OUT_PAGES = {"Home": 50, "Login": 40, "About": 5, "Help": 5}
FOLLOW_UPS = {  # page: the page that may follow at once, and how often it does
    "Settings": ("Save Settings", 0.2), "Upgrade": ("Submit Upgrade", 0.4),
    "Downgrade": ("Submit Downgrade", 0.05), "Submit Upgrade": ("Home", 1.0),
    "Submit Downgrade": ("Home", 1.0), "Logout": ("Home", 0.6), "Login": ("Home", 1.0),
}  # fmt: skip
LEVEL_AFTER = {"Submit Upgrade": "paid", "Submit Downgrade": "free"}
SIGNED_IN_AFTER = {"Login": True, "Logout": False}
WEEKDAY_WEIGHTS = (1.0, 1.1, 1.15, 1.1, 1.05, 0.7, 0.6)
HOUR_WEIGHTS = (4, 3, 3, 2, 2, 3, 4, 5, 6, 7, 7, 8, 8, 8, 9, 10, 10, 9, 8, 7, 7, 6, 6, 5)
STREAMS = (
    "records", "files", "damaged songs", "users", "outside", "lookalikes", "days", "visits",
    "fates",
)  # fmt: skip
DAMAGE_KINDS = (
    "truncated", "wrong_type", "missing_key", "null_key", "broken_json", "not_an_object",
    "empty_object", "invalid_utf8", "two_objects",
)  # fmt: skip


class Place(NamedTuple):
    """Where an artist comes from: free text and coordinates, each often missing."""

    location: str
    latitude: float | None
    longitude: float | None


NOWHERE = Place("", None, None)
PLACES = (
    NOWHERE,
    Place("Bergen, Norway", 60.39299, 5.32415),
    NOWHERE,
    Place("Leeds, England", None, None),
    Place("Tucson, AZ", 32.22174, -110.92648),
    NOWHERE,
    Place("São Paulo, Brazil", -23.5505, -46.63331),
    NOWHERE,
    Place("Oregon - Portland", 45.51223, -122.65872),
    Place("Dublin", 53.34807, -6.24827),
    NOWHERE,
    Place("", 48.85693, 2.3412),
    Place("Kraków", None, None),
)


class PlantedSong(NamedTuple):
    """A song record that is written in every run because it carries an oddity."""

    artist: int
    name: Text
    title: Text
    duration: float
    year: int
    place: Place = NOWHERE
    repeats_id: bool = False


OAKHAVEN = Place('<a href="http://example.org/oakhaven">Oakhaven</a>, CA', 37.80506, -122.27302)
PLANTED_SONGS = (
    PlantedSong(0, 112, "Signal Fires at Noon", 248.11057, 2001),
    PlantedSong(1, "Telegraph Aviary", 742, 191.99955, 0),
    PlantedSong(2, "Lowell Fenwick", "Lanternfish", 201.5081, 1998),
    PlantedSong(2, "Lowell Fenwick", "Lanternfish", 264.12363, 2006),
    PlantedSong(3, "Harbourmaster Nine", "Salt on the Rails", 233.92608, 2004, OAKHAVEN),
    PlantedSong(3, "Harbourmaster Nine feat. Mina Solberg", "Two Tides", 219.0624, 2005),
    PlantedSong(3, "Harbourmaster Nine", "Breakwater", 187.42812, 0),
    PlantedSong(4, "Osvald & the Hinges", "Squeak", 158.98077, 0, Place("Ghent", 51.05, 3.71667)),
    PlantedSong(4, "Osvald & the Hinges", "Squeak", 158.98077, 2003, NOWHERE, True),
    PlantedSong(5, "Björn Åkerhielm", "Über den Dächern", 242.36363, 1987),
    PlantedSong(6, "Zoé Lacazette", "Ce soir-là", 205.63546, 2009, Place("Liège", None, None)),
    PlantedSong(7, "Кирилл Маяков", "Огни порта", 276.4273, 0),
    PlantedSong(8, "Nami Kōdachi", "夜の灯台", 301.84444, 2010),
    PlantedSong(9, " Tamsin Orrery", "Blank Cheque ", 177.71057, 0),
    PlantedSong(10, 'The "Quotables"', 'Side \\ "B" / Take 2 (7" Mix)', 144.03873, 1979),
)
PLANTED_ARTISTS = 11
MANGLED_APOSTROPHE = "Don\x19t Wake the Lighthouse"


class Track(NamedTuple):
    """What can be played: a generated song, or (song -1) one that no song file holds."""

    song: int
    artist: Text
    title: Text
    length: float
    plain: bool


class Play(NamedTuple):
    """A track together with its text as the event writes it."""

    track: Track
    artist: Text
    title: Text
    double_encoded: bool = False


class SongRecord(NamedTuple):
    """One record of a song file, with the numbers of its song and artist."""

    song: int
    artist: int
    fields: dict[str, Any]
    planted: bool = False


class Step(NamedTuple):
    """One page of a session: how a play's text is written, and when the event comes again."""

    page: str
    track: Track | None = None
    style: str = ""
    copy: str = ""


STEPS = {page: Step(page) for page in PAGES}


class User:
    """A listener; text attributes are kept as the JSON text that each event repeats."""

    __slots__ = (
        "agent", "first", "gender", "id", "last", "latest", "latest_level", "level",
        "levels_played", "location", "number", "registration", "seen",
    )  # fmt: skip

    def __init__(self, number: int, name: tuple[str, str, str], level: str) -> None:
        self.number, self.level = number, level
        self.first, self.last, self.gender = (log_json(text) for text in name)
        self.id = log_json(str(number + 1))
        self.location = self.agent = self.registration = "null"
        self.seen = False
        self.latest = (0, 0)
        self.latest_level = level
        self.levels_played = 0


class Session:
    """A visit in progress: `left` events to come, beginning with the pages in `script`."""

    __slots__ = ("item", "left", "number", "planted", "script", "signed_in", "ts", "user")

    def __init__(self, number: int, user: User, ts: int, left: int, script: list[Step]) -> None:
        self.number, self.user, self.ts, self.left = number, user, ts, left
        self.item = 0
        self.signed_in = True
        self.planted = bool(script)
        self.script = script[::-1]


class Event(NamedTuple):
    """One event, with its user's level and sign-in as they were when it happened."""

    ts: int
    user: User
    level: str
    signed_in: bool
    session: int
    item: int
    page: str
    play: Play | None
    copy: str
    planted: bool


class Weighted:
    """Values that are drawn by weight, with sums and a search only: exact on every machine."""

    def __init__(self, values: Sequence[Any], weights: Sequence[float]) -> None:
        self.values = values
        self.sums = list(accumulate(weights))
        self.last = len(values) - 1

    @classmethod
    def by_rank(cls, values: Sequence[Any]) -> Weighted:
        """Few popular values and a long tail."""
        return cls(values, [1.0 / (rank + 3) for rank in range(len(values))])

    def pick(self, rng: Random) -> Any:
        """Return one value."""
        return self.values[bisect(self.sums, rng.random() * self.sums[-1], 0, self.last)]


def stream(seed: int, name: str) -> Random:
    """Return the random numbers of one part of the work, independent of the other parts."""
    return Random(seed * len(STREAMS) + STREAMS.index(name))


def squared(rng: Random) -> float:
    """Return 0 to 1, low more often; a product, as powers may differ between machines."""
    part = rng.random()
    return part * part


class Sampler:
    """Chooses exactly `wanted` of `total` items in one pass."""

    def __init__(self, rng: Random, wanted: int, total: int) -> None:
        self.rng, self.wanted, self.left = rng, wanted, total

    def takes_next(self) -> bool:
        """Say whether the next item is chosen."""
        taken = self.rng.random() * self.left < self.wanted
        self.left -= 1
        self.wanted -= taken
        return taken


class Truth:
    """Counts what was planted, in one pass and bounded memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.damaged_songs: Counter[str] = Counter()
        self.damaged_events: Counter[str] = Counter()
        self.songs, self.artists, self.songs_played = bytearray(), bytearray(), bytearray()
        self.last_play = -1
        self.first_ts: int | None = None
        self.last_ts: int | None = None

    def count_song(self, record: SongRecord) -> None:
        """Count one undamaged song record."""
        self.counts["song_records"] += 1
        self.counts["song_records_year_0"] += record.fields["year"] == 0
        self.songs[record.song] = self.artists[record.artist] = 1

    def count_event(self, event: Event) -> None:
        """Count one undamaged event, once however often it is delivered."""
        self.counts["events"] += 1
        self.first_ts = event.ts if self.first_ts is None else self.first_ts
        self.last_ts = event.ts
        if not event.signed_in:
            self.counts["logged_out_events"] += 1
        else:
            self._count_user(event)
        if event.play:
            self._count_play(event, event.play)

    def count_copy(self, event: Event) -> None:
        """Count one more delivery of an event."""
        self.counts["duplicate_events"] += 1
        self.counts["duplicate_plays"] += event.play is not None

    def _count_user(self, event: Event) -> None:
        user = event.user
        user.seen = True
        if (event.ts, event.item) >= user.latest:
            user.latest, user.latest_level = (event.ts, event.item), event.level
        if event.play:
            user.levels_played |= 2 if event.level == "paid" else 1

    def _count_play(self, event: Event, play: Play) -> None:
        self.counts["plays"] += 1
        self.counts["play_start_times"] += event.ts != self.last_play
        self.last_play = event.ts
        self.counts["double_encoded_plays"] += play.double_encoded
        if play.track.song >= 0:
            written = (str(play.artist), str(play.title))
            self.counts["matched_plays"] += 1
            as_recorded = (str(play.track.artist), str(play.track.title))
            self.counts["plays_matched_only_after_repair"] += written != as_recorded
            self.songs_played[play.track.song] = 1

    def report(self, users: Sequence[User]) -> dict[str, Any]:
        """Return the truth as one JSON-ready object."""
        count, seen = self.counts, [user for user in users if user.seen]
        bad_songs, bad_events = sum(self.damaged_songs.values()), sum(self.damaged_events.values())
        return {
            "song_files": count["song_files"],
            "song_lines": count["song_records"] + bad_songs,
            "song_records": count["song_records"],
            "song_records_year_0": count["song_records_year_0"],
            "songs": sum(self.songs),
            "artists": sum(self.artists),
            "pretty_song_files": count["pretty_song_files"],
            "pretty_song_records": count["pretty_song_records"],
            "log_files": count["log_files"],
            "log_lines": count["events"] + count["duplicate_events"] + bad_events,
            "events": count["events"],
            "duplicate_events": count["duplicate_events"],
            "logged_out_events": count["logged_out_events"],
            "plays": count["plays"],
            "duplicate_plays": count["duplicate_plays"],
            "play_start_times": count["play_start_times"],
            "double_encoded_plays": count["double_encoded_plays"],
            "matched_plays": count["matched_plays"],
            "plays_matched_only_after_repair": count["plays_matched_only_after_repair"],
            "songs_played": sum(self.songs_played),
            "users": len(seen),
            "users_with_plays": sum(user.levels_played > 0 for user in seen),
            "users_playing_at_both_levels": sum(user.levels_played == 3 for user in seen),
            "users_latest_free": sum(user.latest_level == "free" for user in seen),
            "users_latest_paid": sum(user.latest_level == "paid" for user in seen),
            "first_event_ts": self.first_ts,
            "last_event_ts": self.last_ts,
            "damaged_songs": dict(sorted(self.damaged_songs.items())),
            "damaged_events": dict(sorted(self.damaged_events.items())),
        }


# Text


def log_json(value: Any) -> str:
    r"""Return the JSON of a scalar as the event files write it: ASCII, slashes escaped.

    >>> log_json("Café/Bar")
    '"Caf\\u00e9\\/Bar"'
    """
    return json.dumps(value).replace("/", r"\/")


def double_encode(text: Text) -> Text:
    r"""Return text whose UTF-8 bytes were read as Latin-1, twice over.

    >>> double_encode("é") == "\xc3\x83\xc2\xa9"
    True
    """
    if isinstance(text, int):
        return text
    once = text.encode("utf-8").decode("latin-1")
    return once.encode("utf-8").decode("latin-1")


def trimmed(text: Text) -> Text:
    """Return text without surrounding blanks; a bare number stays one."""
    return text.strip() if isinstance(text, str) else text


def letters(number: int, width: int) -> str:
    """Return a number in base 26, A to Z.

    >>> letters(27, 3)
    'ABB'
    """
    text = ""
    for _ in range(width):
        number, digit = divmod(number, 26)
        text = chr(65 + digit) + text
    return text


def two_words(number: int, firsts: Sequence[str], seconds: Sequence[str]) -> str:
    """Return a name that no other number gets from the same words."""
    size = len(firsts) * len(seconds)
    block, place = divmod(number, size)
    row, column = divmod(place * 7919 % size, len(firsts))  # a prime spreads neighbours
    return f"{firsts[column]} {seconds[row]}" + (f" {block + 1}" if block else "")


def unique_letters(number: int) -> str:
    """Return five letters that no other number below 26**5 gets."""
    return letters((number * 7368787 + 4321) % 26**5, 5)


# Songs


def artist_name(number: int, outside: bool = False) -> str:
    """Return the name of an artist inside or outside the song files."""
    return two_words(number, ADJECTIVES, ARTIST_NOUNS[int(outside) :: 2])


def song_title(number: int, outside: bool = False) -> str:
    """Return the title of a song inside or outside the song files."""
    title = two_words(number, ADJECTIVES, TITLE_NOUNS[int(outside) :: 2])
    return title + TITLE_ENDS[number % len(TITLE_ENDS)]


def random_duration(rng: Random) -> float:
    """Return 30 to 630 seconds with five decimals, mostly around four minutes."""
    spread = rng.random() + rng.random() + rng.random()
    return (3_000_000 + int(spread * 14_000_000) + int(squared(rng) * 16_000_000)) / 100_000


def song_fields(
    ids: tuple[str, str], place: Place, texts: tuple[Text, Text], duration: float, year: int
) -> dict[str, Any]:
    """Return a song record in the key order of the real files."""
    return {
        "num_songs": 1,
        "artist_id": ids[1],
        "artist_latitude": place.latitude,
        "artist_longitude": place.longitude,
        "artist_location": place.location,
        "artist_name": texts[0],
        "song_id": ids[0],
        "title": texts[1],
        "duration": duration,
        "year": year,
    }


class SongMaker:
    """Makes song records one after the other."""

    def __init__(self, seed: int, songs: int, artists: int) -> None:
        self.rng = stream(seed, "records")
        self.made = songs - len(PLANTED_SONGS)
        self.made_artists = artists - PLANTED_ARTISTS
        self.popular = Weighted.by_rank(range(self.made_artists))
        self.artist_ids = [self._artist_id(number) for number in range(artists)]
        self.texts: tuple[Text, Text] = ("", "")
        self.last_id = ""
        self.artist = 0

    def records(self) -> Iterator[SongRecord]:
        """Yield all records, the planted ones last."""
        for number in range(self.made):
            yield self._record(number)
        song = self.made
        for planted in PLANTED_SONGS:
            song += 0 if planted.repeats_id else 1
            yield self._planted_record(song - 1, planted)

    def extra_record(self, number: int) -> dict[str, Any]:
        """Return a record of a song and artist that occur nowhere else."""
        ids = (self._song_id(number), self._artist_id(number))
        texts = (artist_name(number), song_title(number))
        return song_fields(ids, NOWHERE, texts, random_duration(self.rng), self._year())

    def _record(self, number: int) -> SongRecord:
        further = number >= self.made_artists  # every artist has one song before any has two
        twin = further and number % 50 == 49
        if not twin:
            self.artist = self.popular.pick(self.rng) if further else number
            self.texts = (self._spelling(further), song_title(number))
        place = PLACES[self.artist % len(PLACES)]
        if further and self.rng.random() < 0.3:
            place = NOWHERE
        ids = (self._song_id(number), self.artist_ids[self.artist])
        duration = random_duration(self.rng)
        return SongRecord(number, self.artist, song_fields(ids, place, self.texts, duration, self._year()))

    def _planted_record(self, song: int, planted: PlantedSong) -> SongRecord:
        artist = self.made_artists + planted.artist
        song_id = self._song_id(song) if not planted.repeats_id else self.last_id
        self.last_id = song_id
        ids, texts = (song_id, self.artist_ids[artist]), (planted.name, planted.title)
        fields = song_fields(ids, planted.place, texts, planted.duration, planted.year)
        return SongRecord(song, artist, fields, True)

    def _spelling(self, further: bool) -> str:
        name = artist_name(self.artist)
        return f"{name} & Friends" if further and self.rng.random() < 0.05 else name

    def _year(self) -> int:
        return 0 if self.rng.random() < 0.6 else 1960 + int(self.rng.random() * 51)

    def _song_id(self, number: int) -> str:
        return f"SO{unique_letters(number)}12A{self.rng.getrandbits(32):08X}"

    def _artist_id(self, number: int) -> str:
        return f"AR{unique_letters(number)}1187{self.rng.getrandbits(28):07X}"


class SongFiles:
    """Writes song records below `root`, so many to a file, in the bucket's folders."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.rng = root, stream(seed, "files")
        self.number = -1
        self.file: BinaryIO | None = None

    def write(self, number: int, text: bytes) -> None:
        """Append a record to the file of that number; numbers only grow."""
        if number != self.number or self.file is None:
            self.close()
            self.number = number
            self.file = self._path(number).open("wb")
            self.file.write(text)
        else:
            self.file.write(b"\n" + text)

    def close(self) -> None:
        """Finish the open file."""
        if self.file:
            self.file.close()

    def _path(self, number: int) -> Path:
        folder, place = divmod(number, FILES_PER_FOLDER)
        name = f"TR{letters(folder, 3)}{letters(place, 1)}{letters(self.rng.getrandbits(4), 1)}"
        path = self.root.joinpath(*name[2:5]) / f"{name}128F{self.rng.getrandbits(28):07X}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def song_track(record: SongRecord) -> Track:
    """Return the track that a play of this song's record refers to."""
    artist, title = record.fields["artist_name"], record.fields["title"]
    plain = is_ascii(artist) and is_ascii(title)
    return Track(record.song, artist, title, record.fields["duration"], plain)


def is_ascii(text: Text) -> bool:
    """Say whether double encoding would leave the text as it is."""
    return all(ord(character) < 128 for character in str(text))


def write_songs(options: argparse.Namespace, truth: Truth) -> list[Track]:
    """Write the song files and return the tracks of their undamaged records."""
    maker = SongMaker(options.seed, options.songs, options.artists)
    files = SongFiles(options.out / "song_data", options.seed)
    rng = stream(options.seed, "damaged songs")
    sampler = Sampler(rng, options.damaged_songs, options.songs - len(PLANTED_SONGS))
    truth.songs, truth.artists = bytearray(options.songs), bytearray(options.artists)
    truth.songs_played = bytearray(options.songs)
    tracks = []
    for number, record in enumerate(maker.records()):
        text = json.dumps(record.fields).encode()
        if not record.planted and sampler.takes_next():
            text = next_damage(truth.damaged_songs, text, WEAK_SONG)
        else:
            truth.count_song(record)
            tracks.append(song_track(record))
        files.write(number * options.song_files // options.songs, text)
    write_pretty(options, maker, files)
    files.close()
    truth.counts["song_files"] = options.song_files
    truth.counts["pretty_song_files"] = options.pretty
    truth.counts["pretty_song_records"] = options.pretty * RECORDS_PER_PRETTY_FILE
    return tracks


def write_pretty(options: argparse.Namespace, maker: SongMaker, files: SongFiles) -> None:
    """Write the files that hold several pretty-printed objects each."""
    for extra in range(options.pretty * RECORDS_PER_PRETTY_FILE):
        text = json.dumps(maker.extra_record(options.songs + extra), indent=4).encode()
        files.write(options.song_files + extra // RECORDS_PER_PRETTY_FILE, text)


# Damage


class Weak(NamedTuple):
    """Where a kind of record breaks: a key it needs, a number, and the start of a text."""

    needed: str
    number: str
    text: bytes


WEAK_SONG = Weak("song_id", "duration", b'"title": "')
WEAK_EVENT = Weak("ts", "ts", b'":"')


def damaged(text: bytes, kind: str, weak: Weak) -> bytes:
    """Return a record's text damaged in one way."""
    if kind == "truncated":
        return text[: len(text) // 2]
    if kind == "broken_json":
        return text.replace(b",", b",,", 1)
    if kind == "not_an_object":
        return b"[1, 2, 3]"
    if kind == "empty_object":
        return b"{}"
    if kind == "invalid_utf8":
        return text.replace(weak.text, weak.text + b"\xff\xfe", 1)
    if kind == "two_objects":
        return text + text
    return json.dumps(changed(json.loads(text.decode()), kind, weak)).encode()


def changed(fields: dict[str, Any], kind: str, weak: Weak) -> dict[str, Any]:
    """Return a record that is good JSON with a wrong or missing field."""
    if kind == "wrong_type":
        return {**fields, weak.number: "not a number"}
    if kind == "null_key":
        return {**fields, weak.needed: None}
    return {key: value for key, value in fields.items() if key != weak.needed}


def next_damage(done: Counter[str], text: bytes, weak: Weak) -> bytes:
    """Damage a record in the kind whose turn it is, and count it."""
    kind = DAMAGE_KINDS[sum(done.values()) % len(DAMAGE_KINDS)]
    done[kind] += 1
    return damaged(text, kind, weak)


# Users and their sessions


def make_users(seed: int, count: int, start: int) -> list[User]:
    """Return all users, the most active first; the last one never plays anything."""
    rng = stream(seed, "users")
    agents = Weighted.by_rank([log_json(agent) for agent in USER_AGENTS])
    metros = Weighted.by_rank([log_json(metro) for metro in METROS])
    return [make_user(number, count, start, rng, agents, metros) for number in range(count)]


def make_user(number: int, count: int, start: int, rng: Random, agents: Weighted, metros: Weighted) -> User:
    """Return one user; active users pay more often."""
    first, gender = FIRST_NAMES[int(rng.random() * len(FIRST_NAMES))]
    last = LAST_NAMES[int(rng.random() * len(LAST_NAMES))]
    paid = rng.random() < (0.5 if number * 4 < count else 0.12)
    name = FIXED_NAMES.get(number, (first, last, gender))
    user = User(number, name, "paid" if paid or number == 1 else "free")
    user.location, user.agent = metros.pick(rng), agents.pick(rng)
    user.registration = f"{start - 1 - int(rng.random() * 120 * DAY)}.0"
    return user


def outside_tracks(seed: int, count: int) -> list[Track]:
    """Return tracks that no song file holds, popular ones first."""
    rng = stream(seed, "outside")
    tracks = []
    for number in range(count):
        artist, title = artist_name(number % (count * 2 // 3 + 1), True), song_title(number, True)
        plain = is_ascii(artist) and is_ascii(title)
        tracks.append(Track(-1, artist, title, random_duration(rng), plain))
    return tracks


def lookalikes(tracks: Sequence[Track], seed: int) -> list[Track]:
    """Return tracks that share a title or an artist with a song, and yet are another song."""
    rng = stream(seed, "lookalikes")
    chosen = [tracks[int(rng.random() * len(tracks))] for _ in range(20)]
    by_others = [
        Track(-1, artist_name(place, True), track.title, track.length, track.plain)
        for place, track in enumerate(chosen[::2])
    ]
    other_songs = [
        Track(-1, track.artist, song_title(place, True), track.length, track.plain)
        for place, track in enumerate(chosen[1::2])
    ]
    return [track._replace(plain=is_ascii(track.artist) and is_ascii(track.title)) for track in by_others + other_songs]


def play_of(track: Track, style: str) -> Play:
    """Return a play of the track with its text written in the given style."""
    artist, title = trimmed(track.artist), trimmed(track.title)
    if style == "double" and not track.plain:
        return Play(track, double_encode(artist), double_encode(title), True)
    if style == "blanks":
        return Play(track, f"{artist} ", f" {title} ")
    if style == "text":
        return Play(track, str(artist), str(title))
    return Play(track, artist, title)


def planted_sessions(tracks: Sequence[Track], users: int) -> list[tuple[int, list[Step]]]:
    """Return user numbers and pages of the sessions that are played in every run.

    They all begin at the same millisecond, which makes the first two a tie of two users' plays.
    """
    level = ["Downgrade", "Submit Downgrade", "Home", "", "Upgrade", "Submit Upgrade", "Home", ""]
    level_change = [Step("NextSong", tracks[0])]
    level_change += [STEPS[page] if page else Step("NextSong", tracks[1]) for page in level]
    looking = ["About", "Help", "Error", "Settings", "Save Settings", "Home"]
    tie = [Step("NextSong", tracks[2])] + [STEPS[page] for page in looking]
    leaving = ["Home", "Settings", "Logout", "Home", "About", "Help", "Login", "Home"]
    idle = [STEPS[page] for page in leaving]
    return [(0, tour(tracks)), (2, tie), (1, level_change), (users - 1, idle)]


def tour(tracks: Sequence[Track]) -> list[Step]:
    """Return a session that plays every planted song in each way its text can be written."""
    styles = [(track, style) for track in tracks for style in ("", "double")]
    steps = [Step("NextSong", t, s) for t, s in styles if not (s and t.plain)]
    steps += [Step("NextSong", track, "text") for track in tracks[:2]]
    steps += [Step("NextSong", track, "blanks") for track in tracks[2:4]]
    crossed = tracks[2]._replace(song=-1, artist=tracks[4].artist)
    mangled = crossed._replace(title=MANGLED_APOSTROPHE)
    steps += [Step("NextSong", crossed), Step("NextSong", mangled)]
    steps[1] = steps[1]._replace(copy="at once")
    steps[2] = steps[2]._replace(copy="next file")
    return [*steps, Step("Home", copy="at once")]


# Events


def day_quotas(seed: int, events: int, first: date, days: int) -> list[int]:
    """Return how many events begin their session on each day, exactly `events` in all."""
    rng = stream(seed, "days")
    weights = [
        WEEKDAY_WEIGHTS[(first + timedelta(days=day)).weekday()] * (0.7 + 0.6 * day / days) * (0.7 + 0.6 * rng.random())
        for day in range(days)
    ]
    sums = list(accumulate(weights))
    marks = [int(events * part / sums[-1]) for part in sums[:-1]] + [events]
    return [mark - before for before, mark in zip([0, *marks], marks)]


class Simulation:
    """Users who come, play and leave; yields their events in the order of time."""

    def __init__(self, options: argparse.Namespace, users: list[User], tracks: list[Track]):
        self.rng = stream(options.seed, "visits")
        self.options, self.users = options, users
        self.start = epoch_ms(options.start)
        self.end = self.start + options.days * DAY
        self.planted = planted_sessions(tracks[-len(PLANTED_SONGS) :], len(users))
        self.scripted = sum(len(script) for _, script in self.planted)
        outside = outside_tracks(options.seed, min(5 * options.songs, MAX_OUTSIDE_TRACKS))
        outside[30:50] = lookalikes(tracks, options.seed)
        self.inside, self.outside = Weighted.by_rank(tracks), Weighted.by_rank(outside)
        self.active = Weighted.by_rank(range(len(users) - 1))
        self.hours = Weighted(range(24), HOUR_WEIGHTS)
        self.pages_in = Weighted(list(SIGNED_IN_PAGES), list(SIGNED_IN_PAGES.values()))
        self.pages_out = Weighted(list(SIGNED_OUT_PAGES), list(SIGNED_OUT_PAGES.values()))
        self.visited = [-1] * len(users)
        self.heap: list[tuple[int, int, Session]] = []
        self.sessions = 0

    def events(self) -> Iterator[Event]:
        """Yield every event."""
        options = self.options
        quotas = day_quotas(options.seed, options.events - self.scripted, options.start, options.days)
        for day, quota in enumerate(quotas):
            self._begin_sessions(day, quota)
            if day == options.days // 2:
                self._begin_planted(day)
            yield from self._run(self.start + (day + 1) * DAY)

    def _begin_sessions(self, day: int, quota: int) -> None:
        visits = []
        while quota:
            user = self._visitor(day)
            longest = 120 if self.users[user].level == "paid" else 30
            length = min(quota, 2 + int(squared(self.rng) * longest))
            quota -= length
            offset = self.hours.pick(self.rng) * HOUR + int(self.rng.random() * HOUR)
            visits.append((self.start + day * DAY + offset, user, length))
        for ts, user, length in sorted(visits):
            self._begin(self.users[user], ts, length, [])

    def _visitor(self, day: int) -> int:
        """Pick a user, one who was not here today if a few tries find one."""
        for _ in range(8):
            user: int = self.active.pick(self.rng)
            if self.visited[user] != day:
                break
        self.visited[user] = day
        return user

    def _begin_planted(self, day: int) -> None:
        ts = self.start + day * DAY + 10 * HOUR + 250
        for user, script in self.planted:
            self._begin(self.users[user], ts, len(script), script)

    def _begin(self, user: User, ts: int, length: int, script: list[Step]) -> None:
        self.sessions += 1
        session = Session(self.sessions, user, ts, length, script)
        if not script and self.rng.random() < 0.12:
            session.signed_in = False
            session.script = [STEPS["Login"], STEPS["Home"]]
        elif not script and self.rng.random() < 0.5:
            session.script = [STEPS["Home"]]
        heapq.heappush(self.heap, (ts, session.number, session))

    def _run(self, until: int) -> Iterator[Event]:
        heap = self.heap
        while heap and heap[0][0] < until:
            session = heap[0][2]
            yield self._next_event(session)
            if session.left:
                heapq.heapreplace(heap, (session.ts, session.number, session))
            else:
                heapq.heappop(heap)

    def _next_event(self, session: Session) -> Event:
        step = session.script.pop() if session.script else self._any_step(session)
        play = self._play(step) if step.page == "NextSong" else None
        user = session.user
        event = Event(
            session.ts,
            user,
            user.level,
            session.signed_in,
            session.number,
            session.item,
            step.page,
            play,
            step.copy,
            session.planted,
        )
        session.item += 1
        session.left -= 1
        if not play:
            self._follow(session, step.page)
        self._advance(session, play)
        return event

    def _any_step(self, session: Session) -> Step:
        if not session.signed_in:
            return STEPS[self.pages_out.pick(self.rng)]
        if self.rng.random() < NEXT_SONG_SHARE:
            return STEPS["NextSong"]
        page = self.pages_in.pick(self.rng)
        if page == "Downgrade" and session.user.level == "free":
            page = "Upgrade"
        return STEPS[page]

    def _play(self, step: Step) -> Play:
        if step.track:
            return play_of(step.track, step.style)
        inside = self.rng.random() < self.options.match_rate
        track = (self.inside if inside else self.outside).pick(self.rng)
        chance = self.rng.random()
        if chance > 1 - BLANKS_SHARE:
            return play_of(track, "blanks")
        return play_of(track, "double" if chance < DOUBLE_ENCODED_SHARE else "")

    def _follow(self, session: Session, page: str) -> None:
        user = session.user
        user.level = LEVEL_AFTER.get(page, user.level)
        session.signed_in = SIGNED_IN_AFTER.get(page, session.signed_in)
        following, share = FOLLOW_UPS.get(page, ("", 0.0))
        # The second user's level changes in the planted session only, so that it can rely on it.
        fixed = session.planted or (user.number == 1 and following in LEVEL_AFTER)
        if following and not fixed and self.rng.random() < share:
            session.script = [STEPS[following]]

    def _advance(self, session: Session, play: Play | None) -> None:
        if play:
            seconds = int(play.track.length)
        elif session.script and session.script[-1].page.startswith(("Submit", "Save")):
            seconds = 1
        else:
            seconds = 2 + int(self.rng.random() * 90)
        room = self.end - 1 - session.ts  # every session ends within the period
        session.ts += min(seconds * SECOND, room // (session.left + 1))


def epoch_ms(day: date) -> int:
    """Return a day's first millisecond since 1970, in UTC."""
    return (day - date(1970, 1, 1)).days * DAY


def event_line(event: Event) -> bytes:
    """Return an event in the key order and spacing of the real files."""
    user, play = event.user, event.play
    method, status = PAGES[event.page]
    artist = title = length = first = last = gender = location = registration = agent = "null"
    auth, user_id = "Logged Out", '""'
    if play:
        artist, title, length = log_json(play.artist), log_json(play.title), repr(play.track.length)
    if event.signed_in:
        auth, user_id = "Logged In", user.id
        first, last, gender = user.first, user.last, user.gender
        location, registration, agent = user.location, user.registration, user.agent
    return (
        f'{{"artist":{artist},"auth":"{auth}","firstName":{first},"gender":{gender},'
        f'"itemInSession":{event.item},"lastName":{last},"length":{length},'
        f'"level":"{event.level}","location":{location},"method":"{method}",'
        f'"page":"{event.page}","registration":{registration},"sessionId":{event.session},'
        f'"song":{title},"status":{status},"ts":{event.ts},"userAgent":{agent},'
        f'"userId":{user_id}}}'
    ).encode()


class LogFiles:
    """Writes events below `root`, a file per UTC day; lines must come in the order of time."""

    def __init__(self, root: Path, first: date) -> None:
        self.root, self.first, self.start = root, first, epoch_ms(first)
        self.day = -1
        self.fresh = True
        self.count = 0
        self.file: BinaryIO | None = None
        self.late: list[bytes] = []

    def write(self, ts: int, line: bytes) -> None:
        """Append a line to its day's file."""
        day = (ts - self.start) // DAY
        if day != self.day or self.file is None:
            self._open(day)
            self._append_late()
        self._append(line)

    def write_late(self, line: bytes) -> None:
        """Put a line into the file after the current one, or at the very end."""
        self.late.append(line)

    def close(self) -> None:
        """Finish the last file."""
        if self.file:
            self._append_late()
            self.file.close()

    def _open(self, day: int) -> None:
        if self.file:
            self.file.close()
        name = self.first + timedelta(days=day)
        folder = self.root / f"{name:%Y}" / f"{name:%m}"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / f"{name.isoformat()}-events.json").open("wb")
        self.day, self.fresh = day, True
        self.count += 1

    def _append(self, line: bytes) -> None:
        assert self.file is not None
        self.file.write(line if self.fresh else b"\n" + line)
        self.fresh = False

    def _append_late(self) -> None:
        for line in self.late:
            self._append(line)
        self.late = []


class EventWriter:
    """Writes each event once, twice or damaged, and counts what it did."""

    def __init__(self, options: argparse.Namespace, planted: int, truth: Truth) -> None:
        self.rng = stream(options.seed, "fates")
        self.files = LogFiles(options.out / "log_data", options.start)
        self.truth = truth
        unplanted = options.events - planted
        self.damage = Sampler(self.rng, options.damaged_events, unplanted)
        copies = round_half_up(options.duplicates * options.events)
        self.copies = Sampler(self.rng, copies, unplanted - options.damaged_events)

    def write(self, event: Event) -> None:
        """Write one event."""
        line = event_line(event)
        if not event.planted and self.damage.takes_next():
            line = next_damage(self.truth.damaged_events, line, WEAK_EVENT)
            self.files.write(event.ts, line)
            return
        self.files.write(event.ts, line)
        self.truth.count_event(event)
        if event.copy:
            self._write_copy(event, line, event.copy == "next file")
        elif not event.planted and self.copies.takes_next():
            self._write_copy(event, line, self.rng.random() < 0.5)

    def _write_copy(self, event: Event, line: bytes, late: bool) -> None:
        self.truth.count_copy(event)
        if late:
            self.files.write_late(line)
        else:
            self.files.write(event.ts, line)


def write_events(options: argparse.Namespace, tracks: list[Track], truth: Truth) -> list[User]:
    """Write the event files and return the users."""
    users = make_users(options.seed, options.users, epoch_ms(options.start))
    simulation = Simulation(options, users, tracks)
    writer = EventWriter(options, simulation.scripted, truth)
    for event in simulation.events():
        writer.write(event)
    writer.files.close()
    truth.counts["log_files"] = writer.files.count
    return users


def generate(options: argparse.Namespace) -> dict[str, Any]:
    """Write both inputs and return the truth about them."""
    truth = Truth()
    tracks = write_songs(options, truth)
    users = write_events(options, tracks, truth)
    return truth.report(users)


# Command line

EPILOG = f"""\
The truth, printed as JSON:
  song_files, song_lines      the regular song files and the lines in them
  song_records                the undamaged ones among these lines
  songs, artists              distinct song_id and artist_id of song_records
  pretty_song_*               the files of --pretty, which all other counts leave out
  log_files, log_lines        log_lines = events + duplicate_events + damaged lines
  events                      distinct undamaged events; duplicate_events are further deliveries
  logged_out_events, plays, play_start_times, users and so on count distinct undamaged events
  matched_plays               plays whose title and artist are those of one undamaged song record
                              once double encoding is undone and blanks are trimmed
  songs_played                distinct song_id of matched_plays, by closest duration
  users                       users in any event; users_latest_*: by the level of their last event
  damaged_songs, _events      damaged lines by kind: {", ".join(DAMAGE_KINDS)}
A damaged line takes the place of a good one; its record then counts for nothing else.
The planted oddities are never damaged, and the kinds of damage take turns in the order above.
"""


class OneSentenceParser(argparse.ArgumentParser):
    """A parser that refuses bad arguments in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return value


def whole(text: str) -> int:
    """Parse a whole number, 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def day(text: str) -> date:
    """Parse a date."""
    try:
        return date(*strptime(text, "%Y-%m-%d")[:3])
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a date like 2018-11-01") from error


def round_half_up(number: float) -> int:
    """Round a count that is not negative."""
    return int(number + 0.5)


def parser() -> OneSentenceParser:
    """Return the command line's parser."""
    made = OneSentenceParser(
        prog="generate.py",
        description="Generate song_data and log_data in the format of the Sparkify bucket.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_sizes(made)
    add_shares(made)
    made.add_argument("--truth", type=Path, metavar="FILE", help="also write the truth to FILE")
    made.add_argument(
        "--force",
        action="store_true",
        help="write into an OUT that is not empty: overwrites files of the same name, removes "
        "none, and warns if others are left, as the truth leaves them out",
    )
    return made


def add_sizes(made: argparse.ArgumentParser) -> None:
    """Add the arguments that say how much is written."""
    add = made.add_argument
    add("out", type=Path, metavar="OUT", help="folder that receives song_data/ and log_data/")
    add("--seed", type=whole, default=1, help="same seed and arguments, same bytes (%(default)s)")
    add("--songs", type=whole, default=200, help="song records (%(default)s)")
    add("--artists", type=whole, help="artists among them (default: seven tenths of the songs)")
    add(
        "--events",
        type=whole,
        default=5000,
        help="events, before further deliveries are added (%(default)s)",
    )
    add(
        "--users",
        type=whole,
        help="users, of whom the events show most (default: one for every 80 events)",
    )
    add("--start", type=day, default=date(2018, 11, 1), help="first day, UTC (%(default)s)")
    add("--days", type=whole, default=30, help="days (%(default)s)")
    add(
        "--songs-per-file",
        type=whole,
        metavar="N",
        help="song records to a file, as JSON lines if more than 1 (1)",
    )
    add(
        "--song-files",
        type=whole,
        metavar="N",
        help="instead: spread the song records evenly over N files",
    )
    add(
        "--pretty",
        type=whole,
        default=0,
        metavar="N",
        help=f"also write N song files of {RECORDS_PER_PRETTY_FILE} pretty-printed objects each, "
        "of songs that no event plays (%(default)s)",
    )


def add_shares(made: argparse.ArgumentParser) -> None:
    """Add the arguments that say what the records are like."""
    add = made.add_argument
    add(
        "--match-rate",
        type=share,
        default=0.3,
        help="share of plays whose song is in the song files (%(default)s)",
    )
    add(
        "--duplicates",
        type=share,
        default=0.0,
        help="share of events delivered a second time, "
        "at once or in the next file, beside the planted ones (%(default)s)",
    )
    add(
        "--damage",
        type=share,
        default=0.0,
        help="share of the lines of both inputs to damage (%(default)s)",
    )
    add(
        "--damaged-songs",
        type=whole,
        metavar="N",
        help="number of song records to damage, instead of the share",
    )
    add(
        "--damaged-events",
        type=whole,
        metavar="N",
        help="number of events to damage, instead of the share",
    )


def complete(options: argparse.Namespace) -> None:
    """Fill in the arguments whose defaults depend on others."""
    if options.artists is None:
        options.artists = max(PLANTED_ARTISTS + 1, options.songs * 7 // 10)
    if options.users is None:
        options.users = max(MIN_USERS, options.events // 80)
    if options.damaged_songs is None:
        options.damaged_songs = round_half_up(options.damage * options.songs)
    if options.damaged_events is None:
        options.damaged_events = round_half_up(options.damage * options.events)


def settle_files(options: argparse.Namespace) -> None:
    """Turn the number of songs to a file into a number of files."""
    if options.song_files is None:
        per_file = options.songs_per_file or 1
        options.song_files = -(-options.songs // per_file)


def refusals(options: argparse.Namespace) -> list[tuple[bool, str]]:
    """Return what would be wrong with the arguments, and whether it is."""
    spare_songs = options.songs - len(PLANTED_SONGS)
    most_artists = spare_songs + PLANTED_ARTISTS
    both = options.songs_per_file is not None and options.song_files is not None
    files = options.song_files
    return [
        (options.songs < MIN_SONGS, f"--songs must be {MIN_SONGS} or more to hold every oddity"),
        (options.songs > MAX_SONGS, f"--songs must be {MAX_SONGS} or less"),
        (options.events < MIN_EVENTS, f"--events must be {MIN_EVENTS} or more"),
        (options.users < MIN_USERS, f"--users must be {MIN_USERS} or more"),
        (options.days < 1, "--days must be 1 or more"),
        (options.start.toordinal() + options.days > date.max.toordinal(), "--days is too large"),
        (not PLANTED_ARTISTS < options.artists <= most_artists,
         f"--artists must be from {PLANTED_ARTISTS + 1} to {most_artists} for these songs"),
        (both, "--songs-per-file and --song-files exclude each other"),
        (options.songs_per_file == 0, "--songs-per-file must be 1 or more"),
        (files is not None and not 1 <= files <= options.songs,
         "--song-files must be from 1 to the number of songs"),
        (options.damaged_songs > spare_songs // 2, "more than half the songs would be damaged"),
        (options.damaged_events + options.duplicates * options.events > options.events // 2,
         "more than half the events would be damaged or delivered twice"),
        (not options.force and not_empty(options.out),
         f"{options.out} is not empty; give an empty or new folder, or --force"),
    ]  # fmt: skip


def not_empty(folder: Path) -> bool:
    """Say whether a folder, or a file in its place, is there and not empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def strays(options: argparse.Namespace, truth: dict[str, Any]) -> int:
    """Return how many input files in OUT are not of this run."""
    written: int = truth["song_files"] + truth["pretty_song_files"] + truth["log_files"]
    folders = (options.out / "song_data", options.out / "log_data")
    return sum(1 for folder in folders for _ in folder.rglob("*.json")) - written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    made = parser()
    options = made.parse_args(arguments)
    complete(options)
    for refused, sentence in refusals(options):
        if refused:
            made.error(sentence)
    settle_files(options)
    try:
        truth = generate(options)
        text = json.dumps(truth, indent=2) + "\n"
        if options.truth:
            options.truth.write_bytes(text.encode())
    except OSError as error:
        made.error(f"cannot write {error.filename}: {error.strerror}")
    if strays(options, truth):
        sys.stderr.write(f"{made.prog}: OUT also holds files that the truth leaves out\n")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
