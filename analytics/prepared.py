"""The lake made ready for a dashboard: what its questions begin with, computed once and kept in memory."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, List, Mapping, Sequence, Tuple

import duckdb
import pandas as pd

from analytics import questions
from analytics.lake import ALWAYS, FACTS, Lake, answer, retried

# The steps that are kept as tables, in the order of making, and a question to take each from
KEPT = {"listening": "summary", "level_changes": "level-changes", "named_plays": "top-artists"}
MONTHLY = ("listening", "named_plays")  # a month of their rows comes from that month of the facts alone
# Texts that are kept as codes, of DuckDB's type ENUM: there are many more plays than titles
CODED = {"songplays": ("song_id", "artist_id"), "staging_events": ("song", "artist")}
CODES = (
    "drop table if exists named_plays",
    "drop table if exists %(codes)s",
    "drop type if exists %(type)s",
    "create table %(codes)s as select distinct %(column)s from %(table)s where %(column)s is not null",
    "create type %(type)s as enum (select %(column)s from %(codes)s order by 1)",
    "create or replace table %(codes)s as select %(column)s, %(column)s::%(type)s as code from %(codes)s",
)
# Where no play was delivered twice, which is the rule, a view takes the place of the step that looks for copies
EACH_ONCE = "select (select count(*) from songplays) = (select count(songplay_id) from staging_events)"
NAMES = (
    "create or replace view play_names as select songplay_id, song, artist, year, month from staging_events"
    " where songplay_id is not null"
)


class Prepared:
    """One published version of a lake, in a compressed database in memory. `listening` has a row for each hour of a
    session, about a tenth of the plays; `named_plays` has a row for each. Safe to use from several threads.
    """

    def __init__(self, lake: Lake) -> None:
        """Read what the first page needs, and begin to read the rest. Raises LakeError."""
        self.lake, self.updated = lake, lake.updated()
        self.connection = lake.connect(tables=["users"])
        self.connection.execute("attach ':memory:' as kept (compress)")
        self.connection.execute("create table kept.users as from users")
        worker = ThreadPoolExecutor(1)
        self.made = {table: worker.submit(retried, partial(self.make, table)) for table in KEPT}
        worker.shutdown(wait=False)
        self.made["listening"].result()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        cursor = self.connection.cursor()
        cursor.execute("use kept")
        return cursor

    def make(self, table: str) -> None:
        """Compute a step; by months where that gives the same, since it takes less memory."""
        cursor = self.cursor()
        cursor.execute("set preserve_insertion_order = false")
        named = table == "named_plays"
        facts = tuple(CODED) if named else ("songplays",)  # the only ones it reads, and may have to be allowed to
        if named:
            self.show(cursor, ALWAYS, facts)
            make_codes(cursor)
        months = sorted({(file.month(), file.month()) for file in self.lake.files("songplays")})
        for number, month in enumerate(months if months and table in MONTHLY else [ALWAYS]):
            self.show(cursor, month, facts)
            without = tuple(KEPT)
            if named and cursor.execute(EACH_ONCE).fetchone() == (True,):
                without = (*KEPT, "play_names")
            if named:
                self.show(cursor, month, facts, coded=True)
                cursor.execute(NAMES)
            rows = questions.expression(KEPT[table], table, "duckdb", without)
            if named:  # no question needs the hash, which is most of what a play takes
                rows = "select * exclude (songplay_id) from (%s)" % rows
            cursor.execute(("insert into %s %s" if number else "create or replace table %s as %s") % (table, rows))

    def show(
        self, cursor: duckdb.DuckDBPyConnection, months: Tuple[int, int], facts: Sequence[str], coded: bool = False
    ) -> None:
        """Let tables of facts be those of these months, with codes where they are to be kept."""
        for table in facts:
            columns = CODED[table]
            rows = self.lake.facts(table, FACTS[table], months)
            if coded:
                codes = ", ".join("codes_of_%s.code as %s" % (column, column) for column in columns)
                joins = " ".join("left join codes_of_%s using (%s)" % (column, column) for column in columns)
                rows = "select facts.* replace (%s) from (%s) as facts %s" % (codes, rows, joins)
            cursor.execute("create or replace view %s as %s" % (table, rows))

    def waits(self, name: str) -> bool:
        """Whether a question has to wait for what is still being read."""
        return not all(made.done() for made in self.needed(name))

    def needed(self, name: str) -> List[Future[None]]:
        return [self.made[table] for table in KEPT if table in questions.tables(name)]

    def ask(self, name: str, given: Mapping[str, Any]) -> pd.DataFrame:
        """The answer to a question; raises LakeError and QuestionError."""
        for made in self.needed(name):
            made.result()
        try:
            return answer(self.cursor(), name, given, tuple(KEPT))
        except duckdb.CatalogException:  # it reads a table that is not kept
            return self.lake.ask(name, given)

    def days(self) -> Tuple[dt.date, dt.date]:
        """The days of the first and the last play; raises LookupError where nothing was played."""
        days = self.cursor().execute("select min(day), max(day) from listening having count(*) > 0").fetchall()
        if not days:
            raise LookupError
        return days[0]

    def states(self) -> List[str]:
        """The states with any play, sorted."""
        found = self.cursor().execute("select distinct state from listening order by state").fetchall()
        return [state for (state,) in found]


def make_codes(cursor: duckdb.DuckDBPyConnection) -> None:
    """A type for each column whose values are its texts, in their order, and a table to look these up: casting would
    take much longer.
    """
    for table, columns in CODED.items():
        for column in columns:
            names = {"column": column, "table": table, "type": "type_of_" + column, "codes": "codes_of_" + column}
            for statement in CODES:
                cursor.execute(statement % names)
