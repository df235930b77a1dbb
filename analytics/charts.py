"""The charts of dashboard and notebook: a frame as a question answers it becomes a chart of Altair.

Colours are those of Okabe and Ito, told apart by all kinds of colour vision; series differ in shape and dash besides.
The second one is for a second series, never for emphasis. Each chart carries a description for screen readers.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple, Optional, Sequence, Tuple, TypeVar

import altair as alt
import pandas as pd

AnyChart = TypeVar("AnyChart", alt.Chart, alt.LayerChart)

Period = Tuple[dt.date, dt.date]  # its first and last day


class Theme(NamedTuple):
    """Colours on a light or a dark ground."""

    series: Tuple[str, str]
    text: str
    tiles: Tuple[str, ...]  # from nothing, which is nearly the ground, to most


LIGHT = Theme(("#0072B2", "#D55E00"), "#31333F", ("#EDF3F8", "#8FC1E3", "#0072B2", "#003A5C"))
DARK = Theme(("#56B4E9", "#E69F00"), "#FAFAFA", ("#1B2530", "#1F5F8B", "#56B4E9", "#D6EEFC"))
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MOST_NAMES = 20  # a chart with more bars than these is no longer read
DAY = "%Y-%m-%d"
HEIGHT = 280


def themed(chart: AnyChart, theme: Theme = LIGHT) -> AnyChart:
    """A chart in the colours of a theme."""
    return chart.configure(
        mark=alt.MarkConfig(color=theme.series[0]),
        text=alt.MarkConfig(color=theme.text),
        range=alt.RangeConfig(category=list(theme.series), heatmap=list(theme.tiles)),
    )


def whole(
    frame: pd.DataFrame, time: str, days: int, by: Sequence[str] = (), period: Optional[Period] = None
) -> pd.DataFrame:
    """The rows, and a row of zeros for each day (or week: 7 days) of the period that has none; for each combination of
    the columns `by` that occurs.
    """
    first, last = map(pd.Timestamp, period or (frame[time].min(), frame[time].max()))
    begin = first - pd.Timedelta(days=first.weekday() if days == 7 else 0)
    steps = pd.DataFrame({time: pd.date_range(begin, last, freq="%dD" % days)})
    wanted = steps.merge(frame[list(by)].drop_duplicates(), how="cross") if by else steps
    found = wanted.merge(frame.assign(**{time: pd.to_datetime(frame[time])}), on=[time, *by], how="left")
    return found.fillna(dict.fromkeys(found.select_dtypes("number"), 0))


def over_time(frame: pd.DataFrame, time: str, value: str, titles: Sequence[str], days: int = 1) -> alt.Chart:
    """Bars of a number over time, each as wide as the days (1, or 7 for weeks) that it is about. The column `time`
    holds their first days; titles are those of both axes.
    """
    first = pd.to_datetime(frame[time])
    ends = first + pd.Timedelta(hours=22 * days)
    data = frame.assign(**{time: first.dt.strftime(DAY), "end": ends.dt.strftime("%Y-%m-%dT%H:%M:%SZ")})
    return (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=dates(first, titles[0]),
            x2="end",
            y=amounts(data, value, titles[1]),
            y2=alt.datum(0),  # with two ends on the other axis, a bar needs its foot
            tooltip=[alt.Tooltip(time, type="nominal", title=titles[0]), tip(value, titles[1])],
        )
        .properties(height=HEIGHT, description=described(titles))
    )


def series(
    frame: pd.DataFrame,
    time: str,
    value: str,
    name: str,
    titles: Sequence[str],
    days: int = 7,
    period: Optional[Period] = None,
) -> alt.Chart:
    """Lines of a number over time, one for each value of the column `name`, which are two at most; at zero on days, or
    in weeks, without a row.
    """
    data = whole(frame.dropna(subset=[name])[[time, name, value]], time, days, [name], period)
    axis = dates(data[time], titles[0])
    data = data.assign(**{time: data[time].dt.strftime(DAY)})
    kinds = alt.Scale(domain=sorted(data[name].unique()))
    return (
        alt.Chart(data)
        .mark_line(point=alt.OverlayMarkDef(size=60, filled=True))
        .encode(
            x=axis,
            y=amounts(data, value, titles[1]),
            color=alt.Color(name, type="nominal", scale=kinds, legend=alt.Legend(title=None, orient="top")),
            shape=alt.Shape(name, type="nominal", scale=kinds, legend=None),
            strokeDash=alt.StrokeDash(name, type="nominal", scale=kinds, legend=None),
            tooltip=[alt.Tooltip(time, type="nominal", title=titles[0]), name, tip(value, titles[1])],
        )
        .properties(height=HEIGHT, description=described(titles))
    )


def columns(frame: pd.DataFrame, category: str, value: str, titles: Sequence[str]) -> alt.Chart:
    """Upright bars in the order of a column, such as hours."""
    return (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X(category, type="ordinal", title=titles[0], axis=alt.Axis(labelAngle=0)),
            y=amounts(frame, value, titles[1]),
            tooltip=[category, tip(value, titles[1])],
        )
        .properties(height=HEIGHT, description=described(titles))
    )


def ranked(frame: pd.DataFrame, name: str, value: str, titles: Sequence[str]) -> alt.LayerChart:
    """Lying bars, the longest on top, each with its number; the first MOST_NAMES rows."""
    base = alt.Chart(frame.head(MOST_NAMES)).encode(
        x=alt.X(value, type="quantitative", title=titles[1], axis=None),
        y=alt.Y(
            name,
            type="nominal",
            title=None,
            sort=None,
            axis=alt.Axis(labelLimit=170, labelFlush=False, ticks=False, domain=False),
        ),
        tooltip=[name, tip(value, titles[1])],
    )
    numbers = base.mark_text(align="left", dx=4).encode(text=alt.Text(value, type="quantitative", format=","))
    return (base.mark_bar() + numbers).properties(description=described(titles))


def heat(frame: pd.DataFrame, x: str, y: str, value: str, titles: Sequence[str]) -> alt.Chart:
    """A field of tiles; titles are those of x, y and the number."""
    return (
        alt.Chart(frame)
        .mark_rect()
        .encode(
            x=alt.X(x, type="ordinal", title=titles[0], axis=alt.Axis(labelAngle=0)),
            y=alt.Y(y, type="ordinal", title=None, sort=None, axis=alt.Axis(labelOverlap=False, labelFlush=False)),
            color=alt.Color(
                value,
                type="quantitative",
                title=titles[2],
                scale=alt.Scale(domain=[0, float(frame[value].max())]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[y, x, tip(value, titles[2])],
        )
        .properties(
            height=130 + 24 * frame[y].nunique(), description="%s by %s and %s" % (titles[2], titles[0], titles[1])
        )
    )


def weekdays(frame: pd.DataFrame) -> alt.Chart:
    """Plays by weekday and hour, from the question plays-by-weekday; zero where there is no row."""
    tiles = pd.DataFrame([(day, hour) for day in range(1, 8) for hour in range(24)], columns=["weekday", "hour"])
    data = tiles.merge(frame, how="left").fillna({"plays": 0})
    named = data.assign(day=[WEEKDAYS[number - 1] for number in data["weekday"]])
    return heat(named, "hour", "day", "plays", ("hour of the day (UTC)", "weekday", "plays"))


def cohorts(frame: pd.DataFrame) -> alt.Chart:
    """Weekly cohorts and how many of them came back, from the question retention; zero in weeks in which nobody did."""
    first = pd.to_datetime(frame["cohort"])
    last = (first + pd.to_timedelta(7 * frame["weeks_since"], unit="D")).max()
    tiles = [(cohort, week) for cohort in first.unique() for week in range((last - cohort).days // 7 + 1)]
    data = pd.DataFrame(tiles, columns=["cohort", "weeks_since"]).merge(frame.assign(cohort=first), how="left")
    named = data.fillna({"percent": 0}).assign(cohort=data["cohort"].dt.strftime(DAY))
    return heat(named, "weeks_since", "cohort", "percent", ("weeks since the first play", "first week", "% who played"))


def dates(days: pd.Series, title: str) -> alt.X:
    """A time axis for a column of days, which the browser's zone must not move, with labels on Mondays."""
    mondays = "utcday(datum.value) == 1" if days.max() - days.min() > pd.Timedelta(days=14) else "true"
    axis = alt.Axis(
        tickCount=alt.TimeIntervalStep(interval="day", step=1),
        labelExpr="%s ? utcFormat(datum.value, '%%d %%b %%y') : ''" % mondays,
        labelOverlap="greedy",
        ticks=False,
        grid=False,
    )
    return alt.X(str(days.name), type="temporal", title=title, scale=alt.Scale(type="utc"), axis=axis)


def amounts(frame: pd.DataFrame, column: str, title: str) -> alt.Y:
    """An upright axis for numbers, which has no ticks at halves of a few."""
    return alt.Y(
        column, type="quantitative", title=title, axis=alt.Axis(tickCount=max(1, min(5, int(frame[column].max()))))
    )


def tip(column: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(column, type="quantitative", title=title, format=",.2~f")


def described(titles: Sequence[str]) -> str:
    return "%s by %s" % (titles[1], titles[0])
