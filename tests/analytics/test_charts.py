"""What the charts make of gaps: days, weeks and tiles without a row."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Dict, List

import pandas as pd
import pytest
import vl_convert

from analytics import charts

WEEKS = pd.DataFrame(
    {"week": [dt.date(2018, 11, 5), dt.date(2018, 11, 26)], "level": ["paid", "paid"], "plays": [4, 2]}
)


def rows(chart: Any) -> List[Dict[str, Any]]:
    """The data of a chart."""
    (found,) = chart.to_dict()["datasets"].values()
    return list(found)


def test_lines_are_at_zero_in_weeks_without_a_row() -> None:
    drawn = rows(charts.series(WEEKS, "week", "plays", "level", ("week", "plays")))
    assert [(row["week"], row["plays"]) for row in drawn] == [
        *[("2018-11-05", 4), ("2018-11-12", 0), ("2018-11-19", 0), ("2018-11-26", 2)]
    ]
    longer = charts.whole(WEEKS, "week", 7, period=(dt.date(2018, 11, 1), dt.date(2018, 12, 4)))
    assert longer["plays"].tolist() == [0, 4, 0, 0, 2, 0]


@pytest.mark.parametrize("weeks", [4, 60])
def test_axes_have_their_labels_on_mondays(weeks: int) -> None:
    frame = pd.DataFrame({"week": pd.date_range("2018-11-05", periods=weeks, freq="7D"), "plays": 1})
    drawn = charts.over_time(frame, "week", "plays", ("week", "plays"), 7).properties(width=500)
    texts = re.findall(r">(\d\d \w\w\w \d\d)<", vl_convert.vegalite_to_svg(drawn.to_dict()))
    assert len(texts) >= 4
    assert {dt.datetime.strptime(text, "%d %b %y").weekday() for text in texts} == {0}  # noqa: DTZ007


def test_tiles_without_plays_are_zero() -> None:
    drawn = rows(charts.weekdays(pd.DataFrame({"weekday": [1], "hour": [8], "plays": [3]})))
    assert len(drawn) == 7 * 24
    assert sum(row["plays"] for row in drawn) == 3
    cohort = dt.date(2018, 11, 5)
    back = pd.DataFrame({"cohort": [cohort, cohort], "weeks_since": [0, 2], "users": [2, 1], "percent": [100.0, 50.0]})
    assert [row["percent"] for row in rows(charts.cohorts(back))] == [100, 0, 50]
