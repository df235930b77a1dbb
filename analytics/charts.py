"""The charts of dashboard and notebook: a frame as a question answers it becomes a chart of Altair.

Colours are two of Okabe and Ito's, told apart by all kinds of colour vision and against light and dark; series differ
in shape and dash besides. Each chart carries a description for screen readers.
"""

from __future__ import annotations

from typing import Any, Sequence

import altair as alt
import pandas as pd

BLUE, ORANGE = "#0072B2", "#D55E00"
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MOST_NAMES = 20  # a chart with more bars than these is no longer read
DAY = "%Y-%m-%d"


def over_time(frame: pd.DataFrame, time: str, value: str, titles: Sequence[str]) -> alt.Chart:
    """Bars of a number over days, weeks or months, whose column holds dates. Titles are those of both axes."""
    data = frame.assign(**{time: pd.to_datetime(frame[time]).dt.strftime(DAY)})
    mark = alt.Chart(data).mark_bar(color=BLUE, size=max(2, min(24, 560 // max(1, span(frame[time])))))
    return mark.encode(
        x=dates(time, titles[0]),
        y=alt.Y(value, type="quantitative", title=titles[1]),
        tooltip=[shown_day(time, titles[0]), alt.Tooltip(value, type="quantitative", title=titles[1], format=",.4~r")],
    ).properties(height=260, description=described(titles))


def series(frame: pd.DataFrame, time: str, value: str, name: str, titles: Sequence[str]) -> alt.Chart:
    """Lines of a number over time, one for each value of the column `name`, which are two at most."""
    data = frame.assign(**{time: pd.to_datetime(frame[time]).dt.strftime(DAY)})
    kinds = sorted(data[name].dropna().unique())
    legend = alt.Legend(title=None, orient="top")
    return (
        alt.Chart(data)
        .mark_line(point=alt.OverlayMarkDef(size=60, filled=True))
        .encode(
            x=dates(time, titles[0]),
            y=alt.Y(value, type="quantitative", title=titles[1]),
            color=alt.Color(name, type="nominal", scale=alt.Scale(domain=kinds, range=[BLUE, ORANGE]), legend=legend),
            shape=alt.Shape(name, type="nominal", legend=legend),
            strokeDash=alt.StrokeDash(name, type="nominal", legend=legend),
            tooltip=[shown_day(time, titles[0]), name, alt.Tooltip(value, type="quantitative", format=",")],
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
            tooltip=[category, alt.Tooltip(value, type="quantitative", title=titles[1], format=",")],
        )
        .properties(height=260, description=described(titles))
    )


def ranked(frame: pd.DataFrame, name: str, value: str, titles: Sequence[str]) -> alt.Chart:
    """Lying bars, the longest on top, each with its number; the first MOST_NAMES rows."""
    base = alt.Chart(frame.head(MOST_NAMES)).encode(
        x=alt.X(value, type="quantitative", title=titles[1]),
        y=alt.Y(name, type="nominal", title=None, sort=None, axis=alt.Axis(labelLimit=160)),
        tooltip=[name, alt.Tooltip(value, type="quantitative", title=titles[1], format=",")],
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
            tooltip=[y, x, alt.Tooltip(value, type="quantitative", title=titles[2], format=",.4~r")],
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
            tooltip=["started", "status", alt.Tooltip(value, type="quantitative", format=",.4~r")],
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


def span(days: Any) -> int:
    """How many bars a time axis has room to leave for."""
    times = pd.to_datetime(days)
    if len(times) < 2:
        return 1
    step = max(1, int(times.sort_values().diff().dt.days.min()))
    return int((times.max() - times.min()).days // step) + 1


def described(titles: Sequence[str]) -> str:
    return "%s by %s" % (titles[1], titles[0])
