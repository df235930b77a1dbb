"""The lake made ready for a dashboard: what its questions begin with, computed once and kept in memory."""

from __future__ import annotations

import datetime as dt
from typing import Any, List, Mapping, Tuple

import pandas as pd

from analytics import questions
from analytics.lake import DIMENSIONS, Lake, answer, retried

# The common table expressions that are kept as tables, and a question to take each from
KEPT = {"listening": "summary", "song_listening": "top-songs", "level_changes": "level-changes"}
# These read single plays, which are not kept
UNKEPT = ("plays-of-song", "songs-of-user")


class Prepared:
    """One published version of a lake. `listening` has a row for each hour of a session, about a tenth of the plays,
    so that questions about it answer at once. Safe to use from several threads.
    """

    def __init__(self, lake: Lake) -> None:
        """Read what is needed of the lake, which takes seconds for millions of plays. Raises LakeError."""
        self.lake = lake
        self.connection = retried(self.read)

    def read(self) -> Any:
        connection = self.lake.connect()
        connection.execute("set preserve_insertion_order = false")
        for table, question in KEPT.items():
            connection.execute("create table %s as %s" % (table, questions.expression(question, table, "duckdb")))
        for table in DIMENSIONS:
            connection.execute("create table kept as from %s" % table)
            connection.unregister(table)
            connection.execute("alter table kept rename to %s" % table)
        return connection

    def ask(self, name: str, given: Mapping[str, Any]) -> pd.DataFrame:
        """The answer to a question; raises LakeError and QuestionError."""
        if name in UNKEPT:
            return self.lake.ask(name, given)
        return answer(self.connection.cursor(), name, given, tuple(KEPT))

    def days(self) -> Tuple[dt.date, dt.date]:
        """The days of the first and the last play; raises LookupError where nothing was played."""
        first, last = self.connection.cursor().execute("select min(day), max(day) from listening").fetchone()
        if first is None:
            raise LookupError
        return first, last

    def states(self) -> List[str]:
        """The states with any play, sorted."""
        found = self.connection.cursor().execute("select distinct state from listening order by state").fetchall()
        return [state for (state,) in found]
