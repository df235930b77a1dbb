"""The charts of dashboard and notebook: a frame as a question answers it becomes a chart of Altair.

Colours are two of Okabe and Ito's, told apart by all kinds of colour vision and against light and dark; series differ
in shape and dash besides. Each chart carries a description for screen readers.
"""

from __future__ import annotations

from typing import Sequence

import altair as alt
import pandas as pd

BLUE, ORANGE = "#0072B2", "#D55E00"
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MOST_NAMES = 20  # a chart with more bars than these is no longer read
DAY = "%Y-%m-%d"


def over_time(frame: pd.DataFrame, time: str, value: str, titles: Sequence[str], days: int = 1) -> alt.Chart:
    """Bars of a number over time, each as wide as the days (1, or 7 for weeks) that it is about. The column `time`
    holds their first days; titles are those of both axes.
    """
    first = pd.to_datetime(frame[time])
    ends = first + pd.Timedelta(hours=22 * days)
    data = frame.assign(**{time: first.dt.strftime(DAY), "end": ends.dt.strftime("%Y-%m-%dT%H:%M:%SZ")})
    return (
        alt.Chart(data)
        .mark_bar(color=BLUE)
        .encode(
            x=dates(time, titles[0]),
            x2="end",
            y=alt.Y(value, type="quantitative", title=titles[1]),
            y2=alt.datum(0),  # with two ends on the other axis, a bar needs its foot
            tooltip=[shown_day(time, titles[0]), tip(value, titles[1])],
        )
        .properties(height=260, description=described(titles))
    )


def series(frame: pd.DataFrame, time: str, value: str, name: str, titles: Sequence[str]) -> alt.Chart:
    """Lines of a number over time, one for each value of the column `name`, which are two at most."""
    data = frame.dropna(subset=[name]).assign(**{time: pd.to_datetime(frame[time]).dt.strftime(DAY)})
    kinds = sorted(data[name].unique())
    legend = alt.Legend(title=None, orient="top")
    return (
        alt.Chart(data)
        .mark_line(point=alt.OverlayMarkDef(size=60, filled=True))
        .encode(
            x=dates(time, titles[0]),
            y=alt.Y(value, type="quantitative", title=titles[1]),
            color=alt.Color(name, type="nominal", scale=alt.Scale(domain=kinds, range=[BLUE, ORANGE]), legend=legend),
            shape=alt.Shape(name, type="nominal", scale=alt.Scale(domain=kinds), legend=None),
            strokeDash=alt.StrokeDash(name, type="nominal", scale=alt.Scale(domain=kinds), legend=None),
            tooltip=[shown_day(time, titles[0]), name, tip(value, titles[1])],
        )
        .properties(height=260, description=described(titles))
    )


def columns(frame: pd.DataFrame, category: str, value: str, titles: Sequence[str]) -> alt.Chart:
    """Upright bars in the order of a column of whole numbers, such as hours."""
    return (
        alt.Chart(frame)
        .mark_bar(color=BLUE)
        .encode(
            x=alt.X(category, type="ordinal", title=titles[0], axis=alt.Axis(labelAngle=0)),
            y=alt.Y(value, type="quantitative", title=titles[1]),
            tooltip=[category, tip(value, titles[1])],
        )
        .properties(height=260, description=described(titles))
    )


def ranked(frame: pd.DataFrame, name: str, value: str, titles: Sequence[str]) -> alt.Chart:
    """Lying bars, the longest on top, each with its number; the first MOST_NAMES rows."""
    base = alt.Chart(frame.head(MOST_NAMES)).encode(
        x=alt.X(value, type="quantitative", title=titles[1]),
        y=alt.Y(name, type="nominal", title=None, sort=None, axis=alt.Axis(labelLimit=160)),
        tooltip=[name, tip(value, titles[1])],
    )
    numbers = base.mark_text(align="left", dx=4, color=ORANGE).encode(
        text=alt.Text(value, type="quantitative", format=",")
    )
    return (base.mark_bar(color=BLUE) + numbers).properties(description=described(titles))


def heat(frame: pd.DataFrame, x: str, y: str, value: str, titles: Sequence[str]) -> alt.Chart:
    """A field of tiles, the greater the number the lighter; titles are those of x, y and the number."""
    return (
        alt.Chart(frame)
        .mark_rect()
        .encode(
            x=alt.X(x, type="ordinal", title=titles[0], axis=alt.Axis(labelAngle=0)),
            y=alt.Y(y, type="ordinal", title=titles[1], sort=None, axis=alt.Axis(labelOverlap=False)),
            color=alt.Color(
                value,
                type="quantitative",
                title=titles[2],
                scale=alt.Scale(scheme="cividis", domain=[0, float(frame[value].max())]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[y, x, tip(value, titles[2])],
        )
        .properties(
            height=90 + 24 * frame[y].nunique(), description="%s by %s and %s" % (titles[2], titles[0], titles[1])
        )
    )


def weekdays(frame: pd.DataFrame) -> alt.Chart:
    """Plays by weekday and hour, from the question plays-by-weekday."""
    named = frame.assign(day=[WEEKDAYS[number - 1] for number in frame["weekday"]])
    return heat(named, "hour", "day", "plays", ("hour of the day (UTC)", "weekday", "plays"))


def cohorts(frame: pd.DataFrame) -> alt.Chart:
    """Weekly cohorts and how many of them came back, from the question retention."""
    named = frame.assign(cohort=pd.to_datetime(frame["cohort"]).dt.strftime(DAY))
    return heat(named, "weeks_since", "cohort", "percent", ("weeks since the first play", "first week", "% who played"))


def by_run(frame: pd.DataFrame, value: str) -> alt.Chart:
    """A number of each run of the job, in the order of their starts."""
    return (
        alt.Chart(frame)
        .mark_bar(color=BLUE, size=12)
        .encode(
            x=alt.X("started", type="ordinal", title="run, by its start (UTC)", axis=alt.Axis(labelAngle=-45)),
            y=alt.Y(value, type="quantitative", title=value),
            tooltip=["started", "status", tip(value, value)],
        )
        .properties(height=260, description="%s by run" % value)
    )


def dates(column: str, title: str) -> alt.X:
    """A time axis for days as text, which the browser's zone must not move."""
    return alt.X(
        column, type="temporal", title=title, scale=alt.Scale(type="utc"), axis=alt.Axis(tickCount=6, format="%d %b %y")
    )


def shown_day(column: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(column, type="nominal", title=title)


def tip(column: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(column, type="quantitative", title=title, format=",.2~f")


def described(titles: Sequence[str]) -> str:
    return "%s by %s" % (titles[1], titles[0])
