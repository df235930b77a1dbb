"""The dashboard in a real browser, on the lake of the made-up sample."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import duckdb
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import said_until
from playwright.sync_api import Browser, expect, sync_playwright
from tiny import PLAYS, ROOT, write_lake

pytest_plugins = ["tiny"]

FLAGS = [
    *["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
    *["--disable-background-networking", "--disable-component-update", "--disable-sync"],
]
PAGES = ("Overview", "Listening", "Users", "Find a user", "Places and devices", "Data quality")
PATIENCE = 60_000  # milliseconds; a machine may be busy
IMAGES = os.environ.get("IMAGES")  # a folder to keep screenshots in


class Dashboard:
    """A server of the dashboard, on a port of its own."""

    def __init__(self, lake: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = "http://127.0.0.1:%d" % port
        options = ["--server.port", str(port), "--server.address", "127.0.0.1"]
        command = [sys.executable, "-m", "streamlit", "run", "analytics/dashboard.py", *options]
        environment = {**os.environ, "LAKE": lake}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        said_until(self.process.stdout, self.url)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "no browser: make test-analytics finds or installs one"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def dashboard(sample: Path) -> Iterator[Dashboard]:
    served = Dashboard(str(sample))
    yield served
    served.close()


class Visit:
    """A page of the dashboard in a browser, and what its console says."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page.set_default_timeout(PATIENCE)
        self.errors: List[str] = []
        self.page.on("console", lambda message: self.note(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.note(str(error)))
        self.page.goto(url)

    def note(self, error: str) -> None:
        """Note an error, but for one of Streamlit's own (its issue 11906) when a page with charts is left."""
        if not re.fullmatch("Unrecognized data set: [0-9a-f]{32}", error):
            self.errors.append(error)

    def settle(self) -> None:
        """Wait until the script has run and each of its charts is drawn."""
        idle = '[data-testid="stApp"][data-test-script-state="notRunning"]'
        self.page.wait_for_selector(idle)
        self.page.wait_for_function("() => !document.querySelector('[data-testid=stSkeleton], [data-stale=true]')")
        charts = "[...document.querySelectorAll('[data-testid=stVegaLiteChart]')]"
        drawn = charts + ".every(chart => chart.querySelector('.role-mark path'))"
        self.page.wait_for_function("() => " + drawn)

    def go(self, title: str) -> None:
        """To another page, by its link."""
        self.page.get_by_role("link", name=title, exact=True).click()
        expect(self.page.get_by_role("heading", level=1)).to_have_text(title, timeout=PATIENCE)
        self.settle()

    def choose(self, label: str, value: str) -> None:
        """Choose in a list by keyboard alone."""
        box = self.page.get_by_role("combobox", name=re.compile(label))
        box.focus()
        box.press_sequentially(value)
        box.press("Enter")
        expect(self.page.get_by_test_id("stSelectbox").filter(has_text=label)).to_contain_text(value, timeout=PATIENCE)
        self.settle()

    def look_for(self, name: str) -> None:
        box = self.page.get_by_label("Name, or part of it, or user id")
        box.fill(name)
        box.press("Enter")

    def bars(self, title: str) -> List[Tuple[str, int]]:
        """The bars of a chart as they are drawn: names and numbers, and in proportion."""
        box = self.page.get_by_test_id("stVerticalBlock").filter(has=self.page.get_by_role("heading", name=title)).last
        drawn = box.locator("path[aria-roledescription=bar]").all()
        told = [
            dict(part.split(": ", 1) for part in (bar.get_attribute("aria-label") or "").split("; ")) for bar in drawn
        ]
        rows = [(name, int(number.replace(",", ""))) for number, name in (bar.values() for bar in told)]
        widths = [bar.evaluate("bar => bar.getBBox().width") for bar in drawn]
        assert widths == pytest.approx([widths[0] * number / rows[0][1] for _, number in rows], abs=1)
        return rows

    def metric(self, label: str) -> str:
        found = self.page.get_by_test_id("stMetric").filter(has=self.page.get_by_text(label, exact=True))
        return found.get_by_test_id("stMetricValue").inner_text()


@pytest.fixture
def visit(browser: Browser, dashboard: Dashboard) -> Iterator[Visit]:
    """The first page."""
    made = Visit(browser, dashboard.url)
    made.settle()
    yield made
    made.page.close()


def sql(lake: Path, query: str) -> Any:
    """Independent SQL over the files: what is asked there is asked of no code of analytics/."""
    plays = "read_parquet('%s/songplays/*/*/*.parquet', hive_partitioning = true)" % lake
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    return connection.execute(query.replace("PLAYS", plays)).fetchall()


def test_every_page_loads_without_an_error(visit: Visit) -> None:
    for title in PAGES:
        visit.go(title)
        assert visit.page.get_by_test_id("stException").count() == 0
        assert visit.page.get_by_test_id("stAlert").count() == 0
        expect(visit.page.get_by_text(re.compile(r"^Last update \d+ \w+ \d{4}, \d\d:\d\d UTC$"))).to_be_visible()
    assert visit.errors == []


@pytest.mark.parametrize(
    ("label", "value", "where"),
    [
        ("Period", "Last 7 days", "start_time >= timestamptz '2018-11-24'"),
        ("Level", "paid", "level = 'paid'"),
        ("State", "MO", "location like '%, MO-KS' or location like '%, MO'"),
    ],
)
def test_a_filter_changes_the_numbers(visit: Visit, sample: Path, label: str, value: str, where: str) -> None:
    everything = visit.metric("Plays")
    visit.choose(label, value)
    counts = "count(*), count(distinct user_id), count(distinct session_id), 100 * count(song_id) / count(*)"
    ((plays, users, sessions, matched),) = sql(sample, "select %s from PLAYS where %s" % (counts, where))
    assert everything == "2,023"
    found = [visit.metric(name) for name in ("Plays", "Users", "Sessions", "In the catalogue")]
    assert found == [format(plays, ","), str(users), str(sessions), "%.1f %%" % matched]


def test_the_change_on_the_period_before(visit: Visit, sample: Path) -> None:
    visit.choose("Period", "Last 7 days")
    since = "start_time >= timestamptz '2018-11-%d' and start_time < timestamptz '2018-11-%d'"
    ((before,),) = sql(sample, "select count(*) from PLAYS where " + since % (17, 24))
    ((now,),) = sql(sample, "select count(*) from PLAYS where start_time >= timestamptz '2018-11-24'")
    delta = visit.page.get_by_test_id("stMetricDelta").first.inner_text()
    assert delta.strip() == "%+.1f %%" % (100 * (now - before) / before)


def test_filters_hold_on_the_next_page(visit: Visit, sample: Path) -> None:
    visit.choose("Level", "free")
    visit.go("Listening")
    ((plays,),) = sql(sample, "select count(*) from PLAYS where level = 'free'")
    told = "1 November 2018 to 30 November 2018 (UTC). Charts cover all %s plays of the selection."
    expect(visit.page.get_by_text(re.compile(re.escape(told % format(plays, ","))))).to_be_visible(timeout=PATIENCE)


def test_most_played_artists_are_those_of_the_log(visit: Visit, sample: Path) -> None:
    events = "read_parquet('%s/staging_events/*/*/*.parquet')" % sample
    query = "select artist, count(distinct songplay_id) as plays from %s where songplay_id is not null" % events
    assert visit.bars("Most played artists") == sql(
        sample, query + " group by artist order by plays desc, artist limit 10"
    )


def test_from_an_artist_to_songs_to_plays(visit: Visit, sample: Path) -> None:
    visit.go("Listening")
    visit.choose("Artist", "Grey Ramblers")  # whom the catalogue lacks
    song = visit.page.get_by_test_id("stSelectbox").filter(has_text="Song")
    expect(song).to_contain_text("Grey Crossing", timeout=PATIENCE)
    events = "read_parquet('%s/staging_events/*/*/*.parquet')" % sample
    query = (
        "select count(distinct songplay_id) from %s where artist = 'Grey Ramblers' and song = 'Grey Crossing'" % events
    )
    ((plays,),) = sql(sample, query)
    expect(visit.page.get_by_text("The latest %d plays of this song" % plays)).to_be_visible(timeout=PATIENCE)


def test_what_was_refused_and_what_to_load_next(browser: Browser, tiny: Path, visit: Visit) -> None:
    visit.go("Data quality")
    assert visit.bars("Quarantine by reason") == [
        *[("log_data: broken JSON", 1), ("log_data: wrong type: ts", 1), ("song_data: broken JSON", 1)]
    ]
    served = Dashboard(str(tiny))
    try:
        made = Visit(browser, served.url)
        made.settle()
        made.go("Data quality")
        assert made.bars("Artists missing from the catalogue") == [("Kern", 2)]
        assert made.bars("Songs missing from the catalogue") == [("Silt · Kern", 2), ("Loam · Heath", 1)]
    finally:
        served.close()


def test_the_public_sample(browser: Browser, real: Path) -> None:
    served = Dashboard(str(real))
    try:
        made = Visit(browser, served.url)
        made.settle()
        most = [("Coldplay", 58), ("Kings Of Leon", 55), ("Dwight Yoakam", 38), ("The Black Keys", 36)]
        assert made.bars("Most played artists")[:4] == most
        made.go("Find a user")
        made.look_for("Lily Koch")
        text = "Lily Koch (user 15, paid): 463 plays of 446 songs. Plays of songs in the catalogue: 1."
        expect(made.page.get_by_text(text)).to_be_visible(timeout=PATIENCE)
    finally:
        served.close()


def test_which_songs_a_user_listened_to(visit: Visit) -> None:
    visit.go("Find a user")
    visit.look_for("halloway")
    text = "Wren Halloway (user 1, free): 56 plays of 43 songs. Plays of songs in the catalogue: 33."
    expect(visit.page.get_by_text(text)).to_be_visible(timeout=PATIENCE)


def test_a_download_holds_what_is_shown(visit: Visit, sample: Path, tmp_path: Path) -> None:
    visit.go("Places and devices")
    visit.choose("Level", "paid")
    visit.page.get_by_text("Numbers: Plays by state").click()
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Download as CSV").first.click()
    download.value.save_as(tmp_path / "states.csv")
    found = duckdb.sql("select sum(plays) from '%s'" % (tmp_path / "states.csv")).fetchall()
    assert found == sql(sample, "select count(*) from PLAYS where level = 'paid'")


def test_accessibility(browser: Browser, dashboard: Dashboard) -> None:
    for scheme in ("light", "dark"):
        made = Visit(browser, dashboard.url, color_scheme=scheme)
        made.settle()
        for title in PAGES:
            made.go(title)
            found = Axe().run(made.page).response["violations"]
            serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
            told = [(rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]]) for rule in serious]
            assert told == [], "%s, %s" % (title, scheme)
        made.page.close()


def test_charts_are_labelled(visit: Visit) -> None:
    for title in PAGES:
        visit.go(title)
        charts = visit.page.locator("[data-testid=stVegaLiteChart] [role=graphics-document]")
        labels = [chart.get_attribute("aria-label") for chart in charts.all()]
        assert len(labels) == visit.page.get_by_test_id("stVegaLiteChart").count()
        assert all(labels), title


@pytest.mark.parametrize("kind", ["missing", "empty", "older", "republished"])
def test_what_is_no_lake_yet_is_said_kindly(browser: Browser, tmp_path: Path, kind: str) -> None:
    said = {
        "missing": "there is no lake in",
        "empty": "is empty so far",
        "older": "is of an older version of the job and lacks staging_events",
        "republished": "being published just now",
    }
    if kind != "missing":
        write_lake(tmp_path, [] if kind == "empty" else PLAYS)
    if kind == "older":
        shutil.rmtree(tmp_path / "staging_events")
    if kind == "republished":
        for path in (tmp_path / "songplays").rglob("*.parquet"):
            path.write_bytes(b"PAR1")
    served = Dashboard(str(tmp_path))
    try:
        made = Visit(browser, served.url)
        expect(made.page.get_by_test_id("stAlert")).to_contain_text(said[kind], timeout=PATIENCE)
        assert made.page.get_by_test_id("stException").count() == 0
        if kind == "republished":
            write_lake(tmp_path)
            made.page.get_by_role("button", name="Try again").click()
            expect(made.page.get_by_test_id("stMetricValue").first).to_have_text("10", timeout=PATIENCE)
        assert made.errors == []
    finally:
        served.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "width"), [("", 1280), ("-phone", 390)])
def test_pages_fit_the_screen(browser: Browser, dashboard: Dashboard, scheme: str, device: str, width: int) -> None:
    made = Visit(browser, dashboard.url, viewport={"width": width, "height": 844}, color_scheme=scheme)
    made.settle()
    assert made.page.evaluate("document.scrollingElement.scrollWidth") <= width
    chart = made.page.get_by_test_id("stVegaLiteChart").first.bounding_box()
    assert chart is not None
    assert chart["y"] + chart["height"] <= 844
    if IMAGES:
        made.page.screenshot(path="%s/dashboard%s%s.png" % (IMAGES, device, "-dark" * (scheme == "dark")))
    made.page.close()


def test_filters_on_a_phone(browser: Browser, dashboard: Dashboard, sample: Path) -> None:
    made = Visit(browser, dashboard.url, viewport={"width": 390, "height": 844})
    made.settle()
    level = made.page.get_by_role("combobox", name=re.compile("Level"))
    expect(level).to_be_hidden()
    made.page.get_by_text("Filters", exact=True).click()
    expect(level).to_be_visible(timeout=PATIENCE)
    made.choose("Level", "paid")
    ((plays,),) = sql(sample, "select count(*) from PLAYS where level = 'paid'")
    expect(made.page.get_by_test_id("stMetricValue").first).to_have_text(format(plays, ","), timeout=PATIENCE)
    made.page.close()
