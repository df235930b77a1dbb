"""The dashboard: `make dashboard`. Charts of every question, from the lake in $LAKE or that of dl.cfg."""

from __future__ import annotations

import datetime as dt
import os
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import altair as alt
import pandas as pd
import streamlit as st

from analytics import charts
from analytics.lake import Lake, LakeError, default_lake, open_lake
from analytics.prepared import Prepared

PRODUCT = "Sparkify"
ALL = "All"
PERIODS: Dict[str, Optional[int]] = {"All days": None, "Last 7 days": 7, "Last 28 days": 28, "Last 365 days": 365}
CHOSEN_DAYS = "Choose days"
FRESH = 10  # seconds for which the lake is not asked again whether it was published anew
MOST_NAMES, MOST_CHOICES = 100, 500

DAY, WEEK, HOUR = "day", "week (its Monday)", "hour (UTC)"
READING = "Reading the lake; this takes a while once for each version of it"
IN_CATALOGUE = "The share of plays whose song the catalogue, the song data, has"
COVERS = (
    "%s to %s (UTC). Charts cover all %s plays of the selection. Songs and artists are named as in the log, whether"
    " or not the catalogue has them."
)
LEVELS = "Changes between two plays of a user; the filter by level does not concern them."
SESSIONS = "From the first play to the start of the last one, by the week or length of what was played in the period."
COHORTS = "Users by the week of their first play."
STATES = "A place whose state is not given counts as unknown."
FIRST = "Overview"
LOGO = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 112 28'><text x='0' y='22' fill='%s' font-size='24'"
    " font-weight='700' font-family='Source Sans Pro, Source Sans, sans-serif'>%s</text></svg>"
)
# Less empty space on top, and captions that are not too pale to read; menus of Streamlit's that have no name for screen
# readers go, since charts and tables have a download of their own; on a phone the metrics stand two by two, and the
# filters in a panel that a switch opens.
STYLE = """<style>
.stVegaLiteChart details, .stElementToolbar div[aria-haspopup] { display: none }
.stMainBlockContainer { padding-top: 4.5rem; padding-bottom: 3rem }
.stMainBlockContainer h1 { font-size: 1.9rem; padding: 0 }
.stMainBlockContainer h3 { font-size: 1.1rem; padding: 0 }
[data-testid=stMetric] { padding: .25rem }
[data-testid=stCaptionContainer] { opacity: .8 !important }
@media (min-width: 641px) { .st-key-switch { display: none } }
@media (max-width: 640px) {
  .stMainBlockContainer { padding-top: 4rem }
  .stMainBlockContainer h1 { font-size: 1.5rem }
  .st-key-metrics .stHorizontalBlock { flex-wrap: wrap; gap: .5rem }
  .st-key-metrics .stColumn { flex: 1 1 40%; min-width: 40% }
  .st-key-metrics [data-testid=stMetricValue] { font-size: 1.5rem }
  .st-key-place { position: relative; gap: 0 }
  .st-key-filters {
    display: none; position: absolute; top: 2.2rem; z-index: 10; background: Canvas; padding: 1rem;
    border: 1px solid GrayText; border-radius: .5rem
  }
  .st-key-place:has(.st-key-switch input:checked) .st-key-filters { display: flex }
}
</style>"""

Draw = Callable[[pd.DataFrame], Any]  # a chart of what a question answers


class Selection(NamedTuple):
    """What the filters say; hashable, so that answers can be kept by it."""

    version: str
    since: dt.date
    until: dt.date
    level: Optional[str]
    state: Optional[str]

    @property
    def period(self) -> charts.Period:
        return self.since, self.until

    def before(self) -> Selection:
        """The same for the period of equal length that ends where this one begins."""
        day = dt.timedelta(days=1)
        return self._replace(since=self.since - (self.until - self.since) - day, until=self.since - day)


# ------------------------------------------------------------------------------------ reading


@st.cache_data(ttl=FRESH, show_spinner=False)
def version(uri: str) -> str:
    """Changes when the lake is published anew; raises LakeError."""
    return open_lake(uri, os.environ).version()


@st.cache_resource(max_entries=1, show_spinner=READING)
def prepared(uri: str, version: str) -> Prepared:
    """The lake in memory, shared by all who look at it."""
    return Prepared(open_lake(uri, os.environ))


@st.cache_data(max_entries=2000, show_spinner=False)
def answers(selection: Selection, name: str, more: Tuple[Tuple[str, Any], ...]) -> pd.DataFrame:
    """The answer to a question, kept."""
    given = {**selection._asdict(), **dict(more)}
    return prepared(lake_uri(), selection.version).ask(name, given)


def ask(selection: Selection, name: str, **more: Any) -> pd.DataFrame:
    if prepared(lake_uri(), selection.version).waits(name):
        with st.spinner(READING):
            return answers(selection, name, tuple(sorted(more.items())))
    return answers(selection, name, tuple(sorted(more.items())))


def lake_uri() -> str:
    return default_lake(os.environ)


# ------------------------------------------------------------------------------------ parts of pages


def filters(version: str, lake: Prepared) -> Selection:
    """The filters, which hold on all pages."""
    first, last = lake.days()
    with st.container(key="place"):
        st.container(key="switch").toggle("Filters")
        with st.container(key="filters"):
            columns = st.columns(3)
            period = columns[0].selectbox("Period", [*PERIODS, CHOSEN_DAYS], help="Counted back from the last play")
            level = columns[1].selectbox("Level", [ALL, "free", "paid"])
            state = columns[2].selectbox("State", [ALL, *lake.states()], help="Of areas that span several, the first")
            since, until = (
                chosen_days(first, last) if period == CHOSEN_DAYS else last_days(first, last, PERIODS[period])
            )
    return Selection(version, since, until, *(None if value == ALL else value for value in (level, state)))


def last_days(first: dt.date, last: dt.date, days: Optional[int]) -> Tuple[dt.date, dt.date]:
    return max(first, last - dt.timedelta(days=days - 1)) if days else first, last


def chosen_days(first: dt.date, last: dt.date) -> Tuple[dt.date, dt.date]:
    """Two days that the user picks, in either order."""
    left, right, _ = st.columns(3)
    since = left.date_input("First day", first, min_value=first, max_value=last)
    until = right.date_input("Last day", last, min_value=first, max_value=last)
    return min(since, until), max(since, until)


def beside(*parts: Callable[[], None]) -> None:
    """Parts of a page side by side, one below the other where there is no room."""
    for column, part in zip(st.columns(len(parts)), parts):
        with column:
            part()


def show(title: str, frame: pd.DataFrame, draw: Draw, note: str = "") -> None:
    """A chart under its title, and its numbers to read and to download."""
    with st.container(border=True, height="stretch"):
        st.subheader(title)
        if frame.empty:
            st.info("Nothing to show here.")
            return
        st.altair_chart(charts.themed(draw(frame), theme()))
        if note:
            st.caption(note)
        numbers(title, frame)


def theme() -> charts.Theme:
    return charts.DARK if st.context.theme.type == "dark" else charts.LIGHT


def numbers(title: str, frame: pd.DataFrame) -> None:
    """The rows behind a chart."""
    with st.expander("Numbers: " + title):
        download(title, frame)  # above the table, which just opened lies over what is below it
        st.dataframe(frame.round(2), hide_index=True)


def download(title: str, frame: pd.DataFrame) -> None:
    name = title.lower().replace(" ", "-").replace(",", "") + ".csv"
    st.download_button("Download as CSV", frame.to_csv(index=False), name, "text/csv", key=title)


def covers(selection: Selection) -> None:
    """What the charts of a page cover."""
    st.caption(COVERS % (written(selection.since), written(selection.until), number(plays(selection))))


def named(frame: pd.DataFrame, what: str) -> str:
    """Where a chart covers only the plays with a name, which is the exception: of how many they are."""
    share = 100.0 if frame.empty else frame["covered_percent"].iloc[0]
    return "" if share == 100 else "%.1f %% of the plays name %s." % (share, what)


def plays(selection: Selection) -> int:
    return int(ask(selection, "summary").iloc[0]["plays"])


def number(value: float) -> str:
    return format(int(value), ",")


def percent(value: float) -> str:
    return "–" if pd.isna(value) else "%.1f %%" % value


def written(day: dt.date) -> str:
    return "%d %s" % (day.day, day.strftime("%B %Y"))


# ------------------------------------------------------------------------------------ pages


def overview(selection: Selection) -> None:
    headline(selection)
    days = ask(selection, "active-users-by-day")
    beside(
        lambda: show("Plays each day", days, each_day(selection, "plays")),
        lambda: top_artists(selection, 10),
    )
    months = ask(selection, "listening-by-month")
    best = "Users listened most in %s." % month(months.iloc[0]) if len(months) else ""
    beside(
        lambda: show("Active users each day", days, each_day(selection, "users")),
        lambda: show("Plays each month", months, by_month, best),
    )


def headline(selection: Selection) -> None:
    """The numbers that are asked for first, beside those of the period before."""
    earlier = selection.before()
    now, before = (ask(chosen, "summary").iloc[0] for chosen in (selection, earlier))
    with st.container(key="metrics"):
        *counts, known = st.columns(4)
    for column, name in zip(counts, ("plays", "users", "sessions")):
        column.metric(name.capitalize(), number(now[name]), change(now[name], before[name]), border=True)
    points = "%+.1f points" % (now["songs_percent"] - before["songs_percent"]) if before["plays"] else None
    known.metric("In the catalogue", percent(now["songs_percent"]), points, help=IN_CATALOGUE, border=True)
    if before["plays"]:
        st.caption("Changes: against %s to %s." % (written(earlier.since), written(earlier.until)))


def change(now: float, before: float) -> Optional[str]:
    """The change in percent; None where there was nothing before."""
    return "%+.1f %%" % (100.0 * (now - before) / before) if before else None


def each_day(selection: Selection, value: str) -> Draw:
    return lambda found: charts.over_time(
        charts.whole(found, "day", 1, period=selection.period), "day", value, (DAY, value)
    )


def each_week(selection: Selection, value: str, title: str) -> Draw:
    return lambda found: charts.over_time(
        charts.whole(found, "week", 7, period=selection.period), "week", value, (WEEK, title), 7
    )


def by_month(frame: pd.DataFrame) -> alt.LayerChart:
    named = frame.assign(month=["%04d-%02d" % pair for pair in zip(frame["year"], frame["month"])])
    return ranked(named.sort_values("month"), "month")


def month(row: Any) -> str:
    return dt.date(int(row["year"]), int(row["month"]), 1).strftime("%B %Y")


def ranked(frame: pd.DataFrame, name: str, value: str = "plays") -> alt.LayerChart:
    return charts.ranked(frame, name, value, (name.replace("_", " "), value))


def ranked_songs(frame: pd.DataFrame) -> alt.LayerChart:
    return ranked(frame.assign(song=frame["title"] + " · " + frame["artist"].fillna("no artist")), "song")


def top_artists(selection: Selection, limit: int = MOST_NAMES) -> None:
    artists = ask(selection, "top-artists", limit=limit)
    show("Most played artists", artists, partial(ranked, name="artist"), named(artists, "an artist"))


def listening(selection: Selection) -> None:
    hours, week = ask(selection, "plays-by-hour"), ask(selection, "plays-by-weekday")
    beside(
        lambda: show(
            "Plays by hour of the day", hours, lambda found: charts.columns(found, "hour", "plays", (HOUR, "plays"))
        ),
        lambda: show("Plays by weekday and hour", week, charts.weekdays),
    )
    songs = ask(selection, "top-songs", limit=MOST_NAMES)
    beside(
        lambda: top_artists(selection),
        lambda: show("Most played songs", songs, ranked_songs, named(songs, "a song")),
    )
    drill(selection)


def drill(selection: Selection) -> None:
    """From an artist to the songs to the plays."""
    st.subheader("From an artist to songs to plays")
    left, right = st.columns(2)
    artist = choose(left, "Artist", "artist", ask(selection, "top-artists", limit=MOST_CHOICES))
    if artist is None:
        st.info("No play names an artist in this selection.")
        return
    song = choose(right, "Song", "title", ask(selection, "top-songs", artist=artist, limit=MOST_CHOICES))
    if song is not None:
        found = ask(selection, "plays-of-song", song=song, artist=artist, limit=MOST_CHOICES)
        st.dataframe(found.drop(columns=["title", "artist"]), hide_index=True)
        st.caption("The latest %s plays of this song, each with its user." % number(len(found)))
        download("Plays of a song", found)


def choose(place: Any, label: str, name: str, frame: pd.DataFrame) -> Optional[str]:
    """A row that the user picks, most played first; the first one until then, None where there are none."""
    texts = {row[name]: "%s (%s plays)" % (row[name], number(row["plays"])) for _, row in frame.iterrows()}
    if not texts:
        return None
    found: str = place.selectbox(label, list(texts), format_func=lambda chosen: texts.get(chosen, chosen), key=label)
    return found


def users(selection: Selection) -> None:
    levels, weeks = ask(selection, "free-and-paid"), ask(selection, "active-users-by-week")

    def compared(found: pd.DataFrame, value: str) -> alt.Chart:
        return charts.series(found, "week", value, "level", (WEEK, value), period=selection.period)

    def changes(found: pd.DataFrame) -> alt.Chart:
        long = found.melt("day", ["conversions", "cancellations"], "change", "users")
        return charts.series(long, "day", "users", "change", (DAY, "users"), 1, selection.period)

    beside(
        lambda: show("Free and paid plays", levels, partial(compared, value="plays")),
        lambda: show("Free and paid users", levels, partial(compared, value="users")),
    )
    beside(
        lambda: show("Conversions and cancellations", ask(selection, "level-changes"), changes, LEVELS),
        lambda: show("Active users each week", weeks, each_week(selection, "users", "users")),
    )
    sessions(selection)
    show("Retention of weekly cohorts", ask(selection, "retention"), charts.cohorts, COHORTS)


def sessions(selection: Selection) -> None:
    weeks, lengths = ask(selection, "sessions"), ask(selection, "session-lengths")
    bars = ("minutes, from", "sessions")
    beside(
        lambda: show("Mean length of sessions", weeks, each_week(selection, "mean_minutes", "minutes")),
        lambda: show("Plays in each session", weeks, each_week(selection, "plays_per_session", "plays")),
        lambda: show(
            "Lengths of sessions", lengths, lambda found: charts.columns(found, "from_minutes", "sessions", bars)
        ),
    )
    st.caption(SESSIONS)


def find_user(selection: Selection) -> None:
    """Which songs a user listened to."""
    st.subheader("Which songs did a user listen to?")
    left, right = st.columns(2)
    wanted = left.text_input("Name, or part of it, or user id", placeholder="Lily Koch").strip()
    if not wanted:
        return
    found = ask(selection, "find-users", user=wanted, limit=MOST_CHOICES)
    texts = {str(row["user_id"]): user_text(row) for _, row in found.iterrows()}
    if not texts:
        st.info("No user has this name or id.")
        return
    user = right.selectbox("User", list(texts), format_func=lambda chosen: texts.get(chosen, chosen))
    songs_of(selection, user, texts[user])


def user_text(row: Any) -> str:
    name = " ".join(part for part in (row["first_name"], row["last_name"]) if not pd.isna(part))
    return "%s (user %d%s)" % (name or "no name", row["user_id"], "" if pd.isna(row["level"]) else ", " + row["level"])


def songs_of(selection: Selection, user: str, text: str) -> None:
    songs = ask(selection, "songs-of-user", user=user)
    if songs.empty:
        st.info("%s played nothing in this selection." % text)
        return
    known = songs.loc[songs["in_catalogue"], "plays"].sum()
    told = "**%s**: %s plays of %s songs. Plays of songs in the catalogue: %s."
    st.write(told % (text, number(songs["plays"].sum()), number(len(songs)), number(known)))
    st.dataframe(songs.drop(columns=["user_id", "first_name", "last_name"]).round(2), hide_index=True)
    download("Songs of user %s" % user, songs)


def places(selection: Selection) -> None:
    states = ask(selection, "plays-by-state")
    browsers, systems = ask(selection, "browsers"), ask(selection, "operating-systems")

    def devices() -> None:
        show("Browsers", browsers, partial(ranked, name="browser"))
        show("Operating systems", systems, partial(ranked, name="operating_system"))

    beside(lambda: show("Plays by state", states, partial(ranked, name="state"), STATES), devices)


def quality(selection: Selection) -> None:
    rates, refused = ask(selection, "match-rate"), lake_of(selection).quarantine()
    artists, songs = (ask(selection, "missing-" + what, limit=MOST_NAMES) for what in ("artists", "songs"))

    def known(found: pd.DataFrame) -> alt.Chart:
        renamed = found.rename(columns={"songs_percent": "song", "artists_percent": "artist"})
        long = renamed.melt("week", ["song", "artist"], "known", "percent")
        return charts.series(long, "week", "percent", "known", (WEEK, "% of plays"), period=selection.period)

    beside(
        lambda: show("Plays that the catalogue knows", rates, known, "The others count by their names in the log."),
        lambda: show("Quarantine by reason", refused, reasons, "Of the whole input, whatever the filters are."),
    )
    beside(
        lambda: show("Artists missing from the catalogue", artists, partial(ranked, name="artist")),
        lambda: show("Songs missing from the catalogue", songs, ranked_songs),
    )
    runs = pd.DataFrame([run_row(report) for report in lake_of(selection).runs()])
    st.subheader("Runs of the job")
    if runs.empty:
        st.info("No report of a run can be read in the folder _runs of the lake.")
        return
    st.dataframe(runs.iloc[::-1].round(2), hide_index=True)
    st.caption("The latest run first. The filters do not concern these numbers: they are those of each whole run.")
    download("Runs of the job", runs)


def lake_of(selection: Selection) -> Lake:
    return prepared(lake_uri(), selection.version).lake


def reasons(frame: pd.DataFrame) -> alt.LayerChart:
    return ranked(frame.assign(reason=frame["input"] + ": " + frame["reason"]), "reason", "records")


def run_row(report: Mapping[str, Any]) -> Dict[str, Any]:
    """What the table of runs says of a run; a run that failed early has less to say."""
    account = report.get("account") or {}
    tables = report.get("tables") or {}
    songs, artists = report.get("match_rate"), report.get("artist_match_rate")
    return {
        "started": str(report.get("started", ""))[:19].replace("T", " "),
        "status": report.get("status"),
        "records": sum(part.get("records", 0) for part in account.values()) if account else None,
        "quarantined": sum(part.get("quarantined", 0) for part in account.values()) if account else None,
        **{table: rows["rows"] for table, rows in tables.items() if isinstance(rows, dict) and "rows" in rows},
        "songs known %": None if songs is None else 100.0 * songs,
        "artists known %": None if artists is None else 100.0 * artists,
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
        st.button("Try again", on_click=prepared.clear)


def page(title: str, chosen: List[Selection]) -> Any:
    """A page of Streamlit's, whose charts are made anew when it is opened; for what was chosen by then."""

    def body() -> None:
        covers(chosen[0])
        PAGES[title](chosen[0])

    return st.Page(body, title=title, url_path=path(title), default=title == FIRST)


def main() -> None:
    """Everything: the filters, which stay as they are from page to page, and the page below them."""
    st.set_page_config(PRODUCT, layout="wide")
    st.html(STYLE)
    st.logo(LOGO % (theme().series[0], PRODUCT), size="large")
    chosen: List[Selection] = []
    opened = st.navigation([page(title, chosen) for title in PAGES], position="top")
    top = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom")
    top.title(opened.title, anchor=False, width="content")
    uri = lake_uri()
    with kindly(uri):
        published = version(uri)
        lake = prepared(uri, published)
        told = "Last update %s, %s UTC" % (written(lake.updated), lake.updated.strftime("%H:%M"))
        top.caption(told, width="content")
        chosen.append(filters(published, lake))
        opened.run()


def path(title: str) -> str:
    return title.lower().replace(" ", "-")


main()
