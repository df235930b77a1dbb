"""The dashboard: `make dashboard`. Charts of every question, from the lake in $LAKE or that of dl.cfg."""

from __future__ import annotations

import datetime as dt
import functools
import os
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import altair as alt
import pandas as pd
import streamlit as st

from analytics import charts
from analytics.lake import LakeError, default_lake, open_lake
from analytics.prepared import Prepared

ALL = "All"
PERIODS: Dict[str, Optional[int]] = {"All days": None, "Last 7 days": 7, "Last 28 days": 28, "Last 365 days": 365}
CHOSEN_DAYS = "Choose days"
FRESH = 10  # seconds for which the lake is not asked again whether it was published anew
MOST_NAMES, MOST_CHOICES = 100, 500

WEEK, HOUR, CHANGES = "week (its Monday)", "hour (UTC)", ("day", "users")
LEVELS = "Changes between two plays of a user; the filter by level does not concern them."
SESSIONS = "From the first play to the start of the last one, by the week or length of what was played in the period."
COHORTS = "Users by the week of their first play. A tile without a colour: nobody of the cohort played."
PERIOD_ONLY = "Only the filter by period concerns this page."
STATES = " A place whose state is not given counts as unknown."
FIRST = "Overview"
# Menus of Streamlit's that have no name for screen readers; charts and tables have a download of their own
STYLE = "<style>.stVegaLiteChart details, .stElementToolbar div[aria-haspopup] { display: none }</style>"
RUN_CHARTS = {"Records quarantined by each run": "quarantined", "Match rate of each run": "match rate %"}


class Selection(NamedTuple):
    """What the filters say; hashable, so that answers can be kept by it."""

    version: str
    since: dt.date
    until: dt.date
    level: Optional[str]
    state: Optional[str]

    def before(self) -> Selection:
        """The same for the period of equal length that ends where this one begins."""
        day = dt.timedelta(days=1)
        return self._replace(since=self.since - (self.until - self.since) - day, until=self.since - day)


# ------------------------------------------------------------------------------------ reading


@st.cache_data(ttl=FRESH, show_spinner=False)
def version(uri: str) -> str:
    """Changes when the lake is published anew; raises LakeError."""
    return open_lake(uri, os.environ).version()


@st.cache_resource(max_entries=1, show_spinner="Reading the lake; this takes a while once for each version of it")
def prepared(uri: str, version: str) -> Prepared:
    """The lake in memory, shared by all who look at it."""
    return Prepared(open_lake(uri, os.environ))


@st.cache_data(max_entries=2000, show_spinner=False)
def answers(selection: Selection, name: str, more: Tuple[Tuple[str, Any], ...]) -> pd.DataFrame:
    """The answer to a question, kept."""
    given = {**selection._asdict(), **dict(more)}
    return prepared(lake_uri(), selection.version).ask(name, given)


def ask(selection: Selection, name: str, **more: Any) -> pd.DataFrame:
    return answers(selection, name, tuple(sorted(more.items())))


def lake_uri() -> str:
    return default_lake(os.environ)


# ------------------------------------------------------------------------------------ parts of pages


def filters(version: str, lake: Prepared) -> Selection:
    """The filters, which hold on all pages."""
    first, last = lake.days()
    columns = st.columns(3)
    period = columns[0].selectbox("Period", [*PERIODS, CHOSEN_DAYS], help="Counted back from the last day with a play")
    level = columns[1].selectbox("Level", [ALL, "free", "paid"])
    state = columns[2].selectbox("State", [ALL, *lake.states()], help="The first one of areas that span several")
    since, until = chosen_days(first, last) if period == CHOSEN_DAYS else last_days(first, last, PERIODS[period])
    st.write("%s to %s, UTC." % (since, until))
    return Selection(version, since, until, *(None if value == ALL else value for value in (level, state)))


def last_days(first: dt.date, last: dt.date, days: Optional[int]) -> Tuple[dt.date, dt.date]:
    return (last - dt.timedelta(days=days - 1) if days else first), last


def chosen_days(first: dt.date, last: dt.date) -> Tuple[dt.date, dt.date]:
    """Two days that the user picks, in either order."""
    left, right, _ = st.columns(3)
    since = left.date_input("First day", first, min_value=first, max_value=last)
    until = right.date_input("Last day", last, min_value=first, max_value=last)
    return min(since, until), max(since, until)


def show(title: str, frame: pd.DataFrame, chart: Callable[[], alt.Chart], covers: str = "") -> None:
    """A chart under its title, what it covers, and its numbers to read and to download."""
    st.subheader(title)
    if frame.empty:
        st.info("Nothing to show for this selection.")
        return
    st.altair_chart(chart())
    if covers:
        st.write(covers)
    numbers(title, frame)


def numbers(title: str, frame: pd.DataFrame) -> None:
    """The rows behind a chart."""
    with st.expander("Numbers: " + title):
        download(title, frame)  # above the table, which just opened lies over what is below it
        st.dataframe(frame, hide_index=True)


def download(title: str, frame: pd.DataFrame) -> None:
    name = title.lower().replace(" ", "-").replace(",", "") + ".csv"
    st.download_button("Download as CSV", frame.to_csv(index=False), name, "text/csv", key=title)


def all_plays(selection: Selection) -> str:
    """What charts that need no song cover."""
    return "Covers all %s plays of the selection, those without a known song included." % number(plays(selection))


def known_songs(selection: Selection) -> str:
    """What charts of songs cover."""
    row = ask(selection, "summary").iloc[0]
    return some_plays(row["matched"], row["plays"], "songs")


def known_artists(selection: Selection, artists: pd.DataFrame) -> str:
    """What charts of artists cover."""
    total = plays(selection)
    known = 0 if artists.empty else round(artists["covered_percent"].iloc[0] * total / 100)
    return some_plays(known, total, "artists")


def some_plays(known: int, total: int, what: str) -> str:
    """The plays that a chart covers, in words."""
    share = "%.1f %%" % (100 * known / total) if total else "none"
    return "Covers %s of the plays (%s of %s); the %s of the others are not in the song data." % (
        share,
        number(known),
        number(total),
        what,
    )


def plays(selection: Selection) -> int:
    return int(ask(selection, "summary").iloc[0]["plays"])


def number(value: float) -> str:
    return format(int(value), ",")


# ------------------------------------------------------------------------------------ pages


def overview(selection: Selection) -> None:
    headline(selection)
    by_day = ask(selection, "active-users-by-day")
    months = ask(selection, "listening-by-month")
    if len(months):
        best = months.iloc[0]
        st.write("Users listened most in **%s**: %s plays." % (month(best), number(best["plays"])))
    covers = all_plays(selection)
    show("Plays each day", by_day, lambda: charts.over_time(by_day, "day", "plays", ("day", "plays")), covers)
    show("Active users each day", by_day, lambda: charts.over_time(by_day, "day", "users", ("day", "users")))
    named = months.assign(month=month_names(months))
    show("Plays each month", months, lambda: charts.columns(named, "month", "plays", ("month", "plays")), covers)


def headline(selection: Selection) -> None:
    """The numbers that are asked for first, beside those of the period before."""
    now, before = (ask(chosen, "summary").iloc[0] for chosen in (selection, selection.before()))
    plays_, users, sessions, matched = st.columns(4)
    for column, name in ((plays_, "plays"), (users, "users"), (sessions, "sessions")):
        column.metric(name.capitalize(), number(now[name]), change(now[name], before[name]))
    share = "%.1f %%" % now["matched_percent"] if now["plays"] else "–"
    points = "%+.1f points" % (now["matched_percent"] - before["matched_percent"]) if before["plays"] else None
    matched.metric("Plays of a known song", share, points)
    earlier = selection.before()
    if before["plays"]:
        st.write("Change: against the %d days before, %s to %s." % (days(earlier), earlier.since, earlier.until))
    else:
        st.write("Nothing was played in the %d days before, so no change is shown." % days(earlier))


def change(now: float, before: float) -> Optional[str]:
    """The change in percent; None where there was nothing before."""
    return "%+.1f %%" % (100.0 * (now - before) / before) if before else None


def days(selection: Selection) -> int:
    return (selection.until - selection.since).days + 1


def month(row: Any) -> str:
    return dt.date(int(row["year"]), int(row["month"]), 1).strftime("%B %Y")


def month_names(frame: pd.DataFrame) -> pd.Series:
    return frame["year"].map("{:04d}-".format) + frame["month"].map("{:02d}".format)


def listening(selection: Selection) -> None:
    covers = all_plays(selection)
    hours, week = ask(selection, "plays-by-hour"), ask(selection, "plays-by-weekday")
    show("Plays by hour of the day", hours, lambda: charts.columns(hours, "hour", "plays", (HOUR, "plays")), covers)
    show("Plays by weekday and hour", week, lambda: charts.weekdays(week), covers)
    artists, songs = ask(selection, "top-artists", limit=MOST_NAMES), ask(selection, "top-songs", limit=MOST_NAMES)
    known = known_artists(selection, artists)
    show("Most played artists", artists, lambda: charts.ranked(artists, "artist", "plays", ("artist", "plays")), known)
    named = songs.assign(song=songs["title"] + " · " + songs["artist"])
    known = known_songs(selection)
    show("Most played songs", songs, lambda: charts.ranked(named, "song", "plays", ("song", "plays")), known)
    drill(selection)


def drill(selection: Selection) -> None:
    """From an artist to the songs to the plays."""
    st.subheader("From an artist to songs to plays")
    artists = ask(selection, "top-artists", limit=MOST_CHOICES)
    artist = choose("Artist", artists, "artist_id", "artist")
    if artist is None:
        return
    songs = ask(selection, "top-songs", artist=artist, limit=MOST_CHOICES)
    song = choose("Song", songs, "song_id", "title")
    if song is None:  # the artist is known by name alone
        return
    found = ask(selection, "plays-of-song", song=song, limit=MOST_CHOICES)
    st.dataframe(found, hide_index=True)
    st.write("The latest %s plays of this song, each with its user. %s" % (number(len(found)), known_songs(selection)))
    download("Plays of a song", found)


def choose(label: str, frame: pd.DataFrame, key: str, name: str) -> Optional[str]:
    """A row that the user picks, most played first; the first one until then, None where there are none."""
    texts = {row[key]: "%s (%s plays)" % (row[name], number(row["plays"])) for _, row in frame.iterrows()}
    if not texts:
        st.info("No play of a known %s in this selection." % label.lower())
        return None
    return st.selectbox(label, list(texts), format_func=lambda chosen: texts.get(chosen, chosen), key="choose " + label)


def users(selection: Selection) -> None:
    levels, weeks = ask(selection, "free-and-paid"), ask(selection, "active-users-by-week")
    covers = all_plays(selection)
    show(
        "Free and paid plays", levels, lambda: charts.series(levels, "week", "plays", "level", (WEEK, "plays")), covers
    )
    show("Free and paid users", levels, lambda: charts.series(levels, "week", "users", "level", (WEEK, "users")))
    changed = ask(selection, "level-changes")
    long = changed.melt("day", ["conversions", "cancellations"], "change", "users")
    show(
        "Conversions and cancellations", changed, lambda: charts.series(long, "day", "users", "change", CHANGES), LEVELS
    )
    show("Active users each week", weeks, lambda: charts.over_time(weeks, "week", "users", (WEEK, "users"), 7))
    sessions(selection)
    cohorts = ask(selection, "retention")
    show("Retention of weekly cohorts", cohorts, lambda: charts.cohorts(cohorts), COHORTS)


def sessions(selection: Selection) -> None:
    weeks, lengths = ask(selection, "sessions"), ask(selection, "session-lengths")
    minutes, each = (WEEK, "minutes"), (WEEK, "plays")
    show(
        "Mean length of sessions", weeks, lambda: charts.over_time(weeks, "week", "mean_minutes", minutes, 7), SESSIONS
    )
    show("Plays in each session", weeks, lambda: charts.over_time(weeks, "week", "plays_per_session", each, 7))
    bars = ("minutes, from", "sessions")
    show("Lengths of sessions", lengths, lambda: charts.columns(lengths, "from_minutes", "sessions", bars), SESSIONS)


def find_user(selection: Selection) -> None:
    """Which songs a user listened to."""
    st.subheader("Which songs did a user listen to?")
    wanted = st.text_input("Name, or part of it, or user id", placeholder="Lily Koch").strip()
    if not wanted:
        return
    found = ask(selection, "find-users", user=wanted, limit=MOST_CHOICES)
    texts = {str(row["user_id"]): user_text(row) for _, row in found.iterrows()}
    if not texts:
        st.info("No user has this name or id.")
        return
    user = st.selectbox("User", list(texts), format_func=lambda chosen: texts.get(chosen, chosen))
    songs_of(selection, user, texts[user])


def user_text(row: Any) -> str:
    name = " ".join(part for part in (row["first_name"], row["last_name"]) if not pd.isna(part))
    return "%s (user %d%s)" % (name or "no name", row["user_id"], "" if pd.isna(row["level"]) else ", " + row["level"])


def songs_of(selection: Selection, user: str, text: str) -> None:
    songs = ask(selection, "songs-of-user", user=user)
    if songs.empty:
        st.info("%s played nothing in this period." % text)
        return
    known = songs[songs["title"].notna()]
    total, matched = int(songs["plays"].sum()), int(known["plays"].sum())
    st.write("**%s**: %s plays, of which the song of %s is known." % (text, number(total), number(matched)))
    st.dataframe(songs.drop(columns=["user_id", "first_name", "last_name"]), hide_index=True)
    st.write("The row without a title holds the plays of songs that are not in the song data. " + PERIOD_ONLY)
    download("Songs of user %s" % user, songs)


def places(selection: Selection) -> None:
    covers = all_plays(selection)
    states = ask(selection, "plays-by-state")
    show("Plays by state", states, lambda: charts.ranked(states, "state", "plays", ("state", "plays")), covers + STATES)
    browsers, systems = ask(selection, "browsers"), ask(selection, "operating-systems")
    show("Browsers", browsers, lambda: charts.ranked(browsers, "browser", "plays", ("browser", "plays")), covers)
    name, titles = "operating_system", ("operating system", "plays")
    show("Operating systems", systems, lambda: charts.ranked(systems, name, "plays", titles), covers)


def quality(selection: Selection) -> None:
    rate = ask(selection, "match-rate")
    named = rate.assign(month=month_names(rate))
    titles = ("month", "% of plays")
    show(
        "Match rate",
        rate,
        lambda: charts.columns(named, "month", "matched_percent", titles),
        all_plays(selection),
    )
    runs = pd.DataFrame([run_row(report) for report in prepared(lake_uri(), selection.version).lake.runs()])
    st.subheader("Runs of the job")
    if runs.empty:
        st.info("No report of a run can be read in the folder _runs of the lake.")
        return
    st.dataframe(runs.iloc[::-1], hide_index=True)
    st.write("The latest run first. The filters do not concern these numbers: they are those of each whole run.")
    download("Runs of the job", runs)
    for title, column in RUN_CHARTS.items():
        kept = runs.dropna(subset=[column])
        show(title, kept, functools.partial(charts.by_run, kept, column))


def run_row(report: Mapping[str, Any]) -> Dict[str, Any]:
    """What the table of runs says of a run; a run that failed early has less to say."""
    account = report.get("account") or {}
    tables = report.get("tables") or {}
    rate = report.get("match_rate")
    return {
        "started": str(report.get("started", ""))[:19].replace("T", " "),
        "status": report.get("status"),
        "records": sum(part.get("records", 0) for part in account.values()) if account else None,
        "quarantined": sum(part.get("quarantined", 0) for part in account.values()) if account else None,
        **{table: rows["rows"] for table, rows in tables.items() if isinstance(rows, dict) and "rows" in rows},
        "match rate %": None if rate is None else 100.0 * rate,
        "reasons": ", ".join("%s: %s" % pair for pair in (report.get("reasons") or {}).items()),
    }


# ------------------------------------------------------------------------------------ main

PAGES: Dict[str, Callable[[Selection], None]] = {
    "Overview": overview,
    "Listening": listening,
    "Users": users,
    "Find a user": find_user,
    "Places and devices": places,
    "Data quality": quality,
}


@contextmanager
def kindly(uri: str) -> Iterator[None]:
    """A sentence where the lake cannot be shown."""
    try:
        yield
    except LookupError:
        st.info("The lake %s is empty so far: nothing was played. `make run` builds one from the sample." % uri)
    except LakeError as error:
        st.warning("The lake cannot be shown: %s." % error)
        st.button("Try again")


def page(title: str, chosen: List[Selection]) -> Any:
    """A page of Streamlit's, whose charts are made anew when it is opened; for what was chosen by then."""

    def body() -> None:
        PAGES[title](chosen[0])

    return st.Page(body, title=title, url_path=path(title), default=title == FIRST)


def main() -> None:
    """Everything: the filters, which stay as they are from page to page, and the page below them."""
    st.set_page_config("Sparkify", layout="wide")
    st.html(STYLE)
    chosen: List[Selection] = []
    opened = st.navigation([page(title, chosen) for title in PAGES], position="top")
    st.title(opened.title)
    uri = lake_uri()
    with kindly(uri):
        published = version(uri)
        chosen.append(filters(published, prepared(uri, published)))
        opened.run()


def path(title: str) -> str:
    return title.lower().replace(" ", "-")


main()
