"""Break each rule of the job once, on purpose: at least one test must go red.

    make mutations                  all of them
    make mutations ARGS="-k user"   those whose rule holds this text

A mutation names the function, method or constant of etl.py that states the rule, and what to change in its source. It
is put in the place of the right one in this process, which keeps one Spark for all. The exit code is 1 where the tests
stay green, or where a mutation no longer applies.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import contextlib
import io
import os
import signal
import sys
import textwrap
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
EMRFS = "com.amazon.ws.emr.hadoop.fs.EmrFileSystem"
AT_START = ("FIXED_CONF", "start_session")  # what decides when Spark starts
SECONDS = 300  # for the tests of one mutation: a broken rule may make them wait for ever


class Mutation(NamedTuple):
    rule: str
    name: str  # of a function, Class.method or constant of etl.py
    old: str  # is in its source exactly once
    new: str
    tests: str  # file below tests without test_ and .py, a blank, what pytest -k takes


MUTATIONS = [
    # Which plays
    Mutation("only NextSong is a play", "staged", 'values["page"] == PLAY_PAGE', "True", "transform only_a_next"),
    Mutation("an event delivered twice is one play", "once", '.where("copy = 1")', "", "transform delivered_twice"),
    Mutation(
        "plays of shared start times are compared", "once", 'how="left_semi"', 'how="left_anti"', "transform delivered"
    ),
    Mutation(
        "plays of other start times stay", "once", "single.union(", "single.limit(0).union(", "transform delivered"
    ),
    Mutation(
        "where many are shared all are compared", "once", "return unique(plays)", "return plays", "transform delivered"
    ),
    Mutation(
        "copies that differ: one row", "once", ".orderBy(*row)", '.orderBy("ts")', "transform duplicates_that_differ"
    ),
    Mutation("songplay_id stays the same", "staged", "hashlib.md5(", "hashlib.sha1(", "transform stored_as_its_event"),
    Mutation("songplay_id is unique", "staged", '"/".join(', '"".join(', "transform songplay_ids_of"),
    Mutation("songplay_id of nobody", "staged", '"" if values', '"0" if values', "transform songplay_ids_of"),
    # Which song, which artist
    Mutation(
        "a play without a song stays",
        "songplays",
        '["song", "artist"], how="left"',
        '["song", "artist"], how="inner"',
        "transform finds_its",
    ),
    Mutation(
        "a play without an artist stays",
        "songplays",
        '["artist"], how="left").withColumn',
        '["artist"], how="inner").withColumn',
        "transform finds_its",
    ),
    Mutation(
        "a match needs the artist",
        "songs_by_title",
        'F.col("artist_name").alias',
        'F.lit("title and artist of the same recordAnchors").alias',
        "transform finds_its",
    ),
    Mutation("the closest duration", "closest", "abs(s.duration - length)", "abs(s.duration)", "transform finds_its"),
    Mutation("then the smallest song_id", "closest", "array_min(", "array_max(", "transform finds_its"),
    Mutation(
        "unknown durations last", "closest", "cast('Infinity' as double)", "cast(0 as double)", "transform finds_its"
    ),
    Mutation(
        "songs never multiply a play",
        "songs_by_title",
        "records.groupBy(*keys).agg(F.sort_array(F.collect_set(song))",
        "records.select(*keys, F.array(song)",
        "transform finds_its",
    ),
    Mutation(
        "an artist by name where no song is known",
        "songplays",
        'F.coalesce(F.col("match.artist_id"), F.col("artist_of_name"))',
        'F.col("match.artist_id")',
        "transform finds_its",
    ),
    Mutation(
        "the artist of the song comes first",
        "songplays",
        'F.coalesce(F.col("match.artist_id"), F.col("artist_of_name"))',
        'F.col("artist_of_name")',
        "transform finds_its",
    ),
    Mutation(
        "the artist of most songs under a name",
        "artists_by_name",
        'F.struct("songs", ',
        'F.struct(F.lit(1).alias("songs"), ',
        "transform finds_its",
    ),
    Mutation(
        "a song counts once for its artist",
        "artists_by_name",
        "F.collect_set(",
        "F.collect_list(",
        "transform finds_its",
    ),
    Mutation(
        "then the smallest artist_id",
        "artists_by_name",
        'F.struct("songs", ',
        'F.struct("songs", F.translate("artist_id", "123", "321"), ',
        "transform finds_its",
    ),
    # What song data changes
    Mutation(
        "months whose plays may match are built",
        "months_to_match",
        "songs_by_title or artists_by_name",
        "artists_by_name",
        "transform months_are_matched",
    ),
    Mutation(
        "names of artists count there, too",
        "months_to_match",
        "songs_by_title or artists_by_name",
        "songs_by_title",
        "transform months_are_matched",
    ),
    Mutation(
        "of plays alone",
        "months_to_match",
        'events.where("songplay_id is not null")',
        "events",
        "transform months_are_matched",
    ),
    Mutation(
        "songs that go change partitions",
        "differing",
        "before.subtract(after).union(after.subtract(before))",
        "after.subtract(before)",
        "transform partitions_of_songs",
    ),
    # Time
    Mutation(
        "milliseconds are kept",
        "timestamp",
        'cast("decimal(20, 3)") / 1000)',
        'cast("bigint") / 1000).cast("bigint")',
        "transform exact",
    ),
    Mutation(
        "UTC whatever the zone",
        "FIXED_CONF",
        '"spark.sql.session.timeZone": "UTC"',
        '"spark.sql.session.timeZone": "Asia/Tokyo"',
        "transform exact",
    ),
    Mutation("ISO weeks", "time", "F.weekofyear(start)", "F.ceil(F.dayofyear(start) / 7)", "transform exact"),
    Mutation("ISO weekdays", "time", "+ 5) % 7 + 1", "+ 6) % 7 + 1", "transform exact"),
    Mutation(
        "one row for each start", "time", '"ts").agg(F.lit(1))', '"ts", F.rand()).agg(F.lit(1))', "transform each_start"
    ),
    Mutation(
        "starts of plays only", "time", 'events.where("songplay_id is not null")', "events", "transform each_start"
    ),
    Mutation("large months are several tasks", "files_of", "max(1, ", "min(1, ", "transform large_month"),
    Mutation("small months are one", "files_by_month", "F.lit(1)", "F.lit(4)", "transform large_month"),
    # Users
    Mutation(
        "users of any event",
        "users",
        '"user_id is not null"',
        '"user_id is not null and songplay_id is not null"',
        "transform any_event",
    ),
    Mutation("nobody is no user", "users", '.where("user_id is not null")', "", "transform nobody"),
    Mutation(
        "the latest event counts", "LATEST", '"ts", "item_in_session"', '"item_in_session", "ts"', "transform latest"
    ),
    Mutation(
        "then the last of the session",
        "LATEST",
        '"item_in_session", "session_id", "level"',
        '"session_id", "level", "item_in_session"',
        "transform last_of_the_session",
    ),
    Mutation("users have a total order", "users", "F.max(F.struct", "F.first(F.struct", "transform order_of_events"),
    Mutation("start times are exact", "timestamp", "2**32", "2**34", "transform every_millisecond"),
    # Songs and artists
    Mutation(
        "songs do not depend on order", "songs", "F.max(record)", "F.first(record)", "transform songs_are_one_row"
    ),
    Mutation(
        "an unknown year is 0", "songs", 'F.coalesce("year", F.lit(0))', 'F.col("year")', "transform unknown_year"
    ),
    Mutation("the most frequent name", "most_frequent", "-size(", "size(", "transform artist_has_the_name"),
    Mutation("then the shortest", "artists", '"name", "length(x)"', '"name", "0"', "transform artist_has_the_name"),
    Mutation("a record counts once", "artists", "F.collect_set(", "F.collect_list(", "transform artist_has_the_name"),
    Mutation(
        "both coordinates or none",
        "artists",
        ' & F.col("artist_longitude").isNotNull()',
        "",
        "transform coordinates_come",
    ),
    # Text
    Mutation("two rounds of repair", "clean", "range(2)", "range(1)", "transform text_is_repaired"),
    Mutation(
        "text is repaired before it is trimmed",
        "clean",
        "if not text.isascii():",
        "text = text.strip(WHITE)\n    if not text.isascii():",
        "transform text_is_repaired",
    ),
    Mutation("text is trimmed", "clean", ".strip(WHITE)", "", "transform text_is_repaired"),
    # A good record
    Mutation("broken JSON is bad", "json_object", "return {}, BROKEN", 'return {}, ""', "staging bad_lines"),
    Mutation(
        "invalid UTF-8 is bad",
        "json_object",
        "return {}, NOT_UTF8",
        'text = raw.decode("latin-1")',
        "staging bad_lines",
    ),
    Mutation(
        "NaN is no JSON", "refuse_constant", "raise ValueError(name)", "return None", "staging bad_lines or values_of"
    ),
    Mutation("extreme records are bad", "flaw_before_parsing", "return EXTREME", 'return ""', "staging extreme"),
    Mutation("long records are bad", "flaw_before_parsing", "return TOO_LONG", 'return ""', "staging extreme"),
    Mutation(
        "wrong types are bad",
        "judge",
        'return {}, "wrong type: " + field.key',
        "value = None",
        "staging bad_lines or values_of",
    ),
    Mutation("missing keys are bad", "judge", "and field.required", "and False", "staging bad_lines or values_of"),
    Mutation(
        "values that are not accepted are bad", "judge", "not is_accepted(value, field)", "False", "staging values_of"
    ),
    Mutation("names of folders have limits", "is_accepted", "bool(NAME.fullmatch(value))", "True", "staging values_of"),
    Mutation("quotes around a user agent go", "typed", "clean(cleaned.strip('\"'))", "cleaned", "staging values_of"),
    Mutation("zero has one sign", "number", " + 0.0", "", "staging values_of_events"),
    Mutation("by Spark, too", "is_ordinary", " & (value != 0)", "", "staging all_cases_of_events"),
    # Checks and account
    Mutation("keys are unique", "broken_keys", 'F.col("n0") > 1', 'F.col("n0") > 2', "check_publish named_counted"),
    Mutation(
        "references are keys", "broken_keys", 'F.col("n0") == 0', 'F.col("n0") == 9', "check_publish named_counted"
    ),
    Mutation(
        "a song that comes loses no play",
        "tables_to_check",
        ' or (name == "staging_events" and "songplays" in built)',
        "",
        "aftermath plays_that_never_came",
    ),
    Mutation(
        "values have a lower end", "is_in", "value.between(low, high)", "value <= high", "check_publish named_counted"
    ),
    Mutation(
        "values have an upper end", "is_in", "value.between(low, high)", "value >= low", "check_publish named_counted"
    ),
    Mutation("all failures are counted", "violations", "F.count(F.lit(1))", "F.lit(1)", "check_publish named_counted"),
    Mutation("nulls are refused", "refuse_nulls", "!= size.rows", "> size.rows", "check_publish nulls_are"),
    Mutation("required values are there", "counted_columns", "*table.required, ", "", "check_publish nulls_are"),
    Mutation("a broken rule stops the run", "check", "if broken:", "if False:", "check_publish failed_check_leaves"),
    Mutation("duplicates are counted", "accounts_of", "kept - rows", "0", "check_publish account_explains"),
    Mutation(
        "as many bad records as allowed",
        "refuse_too_many_bad",
        "bad * 100 > limit",
        "bad * 100 >= limit",
        "check_publish allowed_pass",
    ),
    Mutation(
        "too many fail", "refuse_too_many_bad", "bad * 100 > limit", "bad * 50 > limit", "check_publish too_many_fails"
    ),
    # Publishing
    Mutation(
        "the journal is removed first",
        "discard",
        "store.remove(joined(WORK, run_id, JOURNAL))",
        "pass",
        "check_publish objects and finished_by_the_next",
    ),
    Mutation(
        "the old table is kept until the end",
        "Store.replace",
        'self.move(old, joined(change.source + ".old", change.folder))',
        "self.remove(old)",
        "check_publish with_renames",
    ),
    Mutation(
        "tables are exchanged in one step",
        "LocalStore.replace",
        "not self.exchange(change.source, name)",
        "True",
        "check_publish on_this_machine",
    ),
    Mutation(
        "what has been exchanged stays so",
        "unfinished",
        "                continue\n",
        "                pass\n",
        "check_publish machine and finished_by_the_next",
    ),
    Mutation(
        "objects of partitions that are no more go",
        "publish",
        "[change for change in changes if not change.come]",
        "[]",
        "check_publish objects and finished_by_the_next",
    ),
    Mutation(
        "objects that another one replaces go",
        "ObjectStore.replace",
        "in change.go",
        "in ()",
        "check_publish objects and finished_by_the_next",
    ),
    Mutation(
        "objects keep their names",
        "Store.changes",
        "lasting if self.overwrites else path",
        "path",
        "check_publish objects_keep",
    ),
    Mutation(
        "a dead publication is finished",
        "recover",
        "if text is None:",
        "if True:",
        "check_publish machine and finished_by_the_next",
    ),
    Mutation(
        "dimensions before facts",
        "publish",
        "for name, changes in publication.tables.items()",
        "for name, changes in reversed(list(publication.tables.items()))",
        "check_publish on_this_machine",
    ),
    Mutation(
        "the ledger is published last",
        "publish",
        "    for name, changes in publication.tables.items()",
        "    for name, text in publication.texts.items():\n"
        "        store.write(name, text)\n"
        "    for name, changes in publication.tables.items()",
        "check_publish machine and finished_by_the_next",
    ),
    Mutation(
        "partitions that stay are in the new folder",
        "LocalStore.changes",
        "for path in stay:",
        "for path in ():",
        "check_publish machine and finished_by_the_next",
    ),
    Mutation(
        "objects of partitions that stay do too",
        "Store.changes",
        "(partitions is None or parent(path) in partitions) and ",
        "",
        "check_publish objects and finished_by_the_next",
    ),
    Mutation("half a file is none", "unfinished", "[0] != size", "[0] < 0", "check_publish half"),
    Mutation(
        "a missing file is seen before anything is replaced",
        "unfinished",
        "if ready.get(path, (-1,))[0] != size:",
        "if False:",
        "check_publish files_are_missing and machine",
    ),
    Mutation(
        "a journal of another format is none",
        "publication_of",
        "!= JOURNAL_FORMAT",
        "< 0",
        "check_publish nobody_can_read",
    ),
    Mutation(
        "moves are made under the lock",
        "Store.move",
        "self.assure()\n        self.fs.mkdirs(folder)\n        self.assure()\n",
        "self.fs.mkdirs(folder)\n",
        "check_publish lock_is_lost",
    ),
    Mutation("files are removed under the lock", "Store.remove", "self.assure()", "pass", "check_publish lock_is_lost"),
    Mutation("texts are written under it", "Store.put", "self.assure()", "pass", "check_publish lock_is_lost"),
    Mutation("objects are copied under it", "ObjectStore.copy", "self.assure()", "pass", "check_publish lock_is_lost"),
    # One run at a time
    Mutation(
        "a lake in use is refused",
        "LocalStore.locked",
        "while not release:",
        "while False:",
        "check_publish another_process",
    ),
    Mutation("a living run is refused", "Lease.acquire", "if now is None:", "if True:", "check_publish by_its_beats"),
    Mutation(
        "a run that dies while it is watched is dead",
        "Lease.acquire",
        "seen[run_id] = now, elapsed()",
        "pass",
        "check_publish while_it_is_watched",
    ),
    Mutation(
        "a run whose lock was taken does not come back",
        "Lease.keep_beating",
        " or self.read(self.run_id) is None",
        "",
        "check_publish lock_was_taken",
    ),
    Mutation(
        "a late beat gives nothing back",
        "Lease.beat",
        "self.is_over()",
        "pass",
        "check_publish gives_nothing_back",
    ),
    Mutation(
        "a run waits for its beat",
        "Lease.assure",
        "elapsed() - self.shown > ACT_SECONDS",
        "False",
        "check_publish waits_for_its_next",
    ),
    # Files of the lake
    Mutation(
        "plays are sorted",
        "write",
        "frame.sortWithinPartitions(*SORTED_BY[name])",
        "frame",
        "check_publish sorted_in_each",
    ),
    Mutation(
        "large partitions are split",
        "write",
        '"maxRecordsPerFile": ROWS',
        '"maxRecordsPerFile": 10**9 + ROWS',
        "check_publish many_rows",
    ),
    Mutation(
        "tables without rows are readable",
        "built_at",
        "if not files and not stays:",
        "if False:",
        "check_publish without_rows_have",
    ),
    Mutation(
        "what keeps them so goes", "built_at", "{*partitions, empty}", "partitions", "check_publish when_rows_come"
    ),
    Mutation(
        "a failed run removes its work",
        "build_lake",
        "discard(store, run_id)",
        "pass",
        "check_publish failed_check_leaves",
    ),
    Mutation("timestamps are for all readers", "FIXED_CONF", '"TIMESTAMP_MICROS"', '"INT96"', "lake columns_order"),
    Mutation(
        "no marker files",
        "FIXED_CONF",
        '.marksuccessfuljobs": "false"',
        '.marksuccessfuljobs": "true"',
        "lake nothing_else",
    ),
    # What has changed since
    Mutation(
        "a changed file is read again, and its rows go",
        "not_in",
        "if others.get(name) != files[name]",
        "if name not in others",
        "daily reads_what_has_changed",
    ),
    Mutation("months that lose events are built", "plan", "sorted(months)", "()", "daily reads_what_has_changed"),
    Mutation(
        "a changed lake is seen",
        "reason_for_everything",
        "if digest(lake[name]) !=",
        "if False and digest(lake[name]) !=",
        "daily is_everything",
    ),
    Mutation(
        "another script is seen",
        "reason_for_everything",
        "if ledger.code != code_version():",
        "if False:",
        "daily is_everything",
    ),
    Mutation(
        "another input is seen",
        "reason_for_everything",
        "if ledger.inputs[name] != ",
        "if 0 != 0 * ",
        "daily is_everything",
    ),
    Mutation("--full builds all", "reason_for_everything", "if config.full:", "if False:", "daily is_everything"),
    Mutation("young files may change again", "entries", "if files[name][1] < settled", "if True", "daily amid_writing"),
    # Settings
    Mutation(
        "secrets are not shown",
        "Secrets.__repr__",
        'return "Secrets(%s)" % ", ".join(sorted(self))',
        "return str(dict(self))",
        "config never_shown",
    ),
    Mutation(
        "unknown keys are refused",
        "refuse_unknown_keys",
        "if key not in known[section]:",
        "if False:",
        "config unknown_sections",
    ),
    Mutation(
        "an output inside an input is refused",
        "refuse_nesting",
        "if inside(config.output, source):",
        "if False:",
        "config output_inside",
    ),
    Mutation(
        "an input where a table goes is refused",
        "refuse_nesting",
        "if inside(source, config.output",
        "if False and (config.output",
        "config where_a_table_goes",
    ),
    Mutation(
        "others' files are not replaced",
        "refuse_strangers",
        "if strangers and not",
        "if False and not",
        "config somebody_else",
    ),
    Mutation(
        "Java is asked for functions once", "start_session", "    remember_functions(spark)\n", "", "lake same_class"
    ),
    # S3
    Mutation(
        "S3: files are fetched once",
        "stored",
        "job.is_small and is_uri",
        "not job and is_uri",
        "cloud/s3 requests_grow",
    ),
    Mutation("S3: a bucket has one name", "absolute", '"^s3[an]://"', '"^s3n://"', "config one_name"),
    Mutation(
        "S3: the lake is signed for",
        "s3a_conf",
        ' - {bucket_of(config.output), ""}',
        ' - {""}',
        "cloud/s3 are_anonymous",
    ),
    Mutation(
        "S3: dl.cfg comes last", "s3a_conf", "(chain, *PROVIDERS)", "(*PROVIDERS, chain)", "cloud/s3 chain_of_aws"
    ),
    Mutation("S3: credentials are never mixed", "s3a_conf", "if not signed:", "if True:", "cloud/s3 never_mixed"),
    Mutation(
        "S3: own stores have paths",
        "s3a_conf",
        'path.style.access"] = "true"',
        'path.style.access"] = ""',
        "cloud/s3 ones_own",
    ),
    Mutation(
        "S3: only inputs are anonymous",
        "s3a_conf",
        "for bucket in sorted(buckets)}",
        'for bucket in [*buckets, "out"]}',
        "cloud/s3 are_anonymous",
    ),
    Mutation(
        "S3: EMR's file system stays",
        "connect_s3",
        "not in (S3A, ",
        'not in (S3A, "%s", ' % EMRFS,
        "cloud/s3 has_chosen",
    ),
    Mutation(
        "S3: a user's settings stay", "connect_s3", ' or "spark.hadoop." + key in chosen', "", "cloud/s3 has_chosen"
    ),
    Mutation("S3: a site's settings stay", "connect_s3", "set_by_site(hadoop, key) or ", "", "cloud/s3 site_has"),
    Mutation(
        "S3: others' files are not replaced",
        "check_uris",
        'refuse_strangers(uri, open_store(spark, uri).folders(""))',
        "pass",
        "cloud/s3 others_files",
    ),
    Mutation(
        "S3: an input that is not there is said",
        "check_uris",
        "elif not there and name in INPUTS:",
        "elif False:",
        "cloud/s3 bucket_that_is_not_there",
    ),
]


class NoLongerApplies(Exception):  # noqa: N818
    """The text to change is not there exactly once."""


class Definition(NamedTuple):
    """A function, method or constant of etl.py."""

    start: int  # in the source
    end: int
    owner: str  # its class, if any


@lru_cache(maxsize=1)
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def definition(source: str, name: str) -> Definition:
    """Where a name is defined."""
    owner, _, last = name.rpartition(".")
    body: Sequence[ast.stmt] = parsed(source).body
    if owner:
        (body,) = [node.body for node in body if isinstance(node, ast.ClassDef) and node.name == owner]
    for node in body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])  # of an assignment
        if getattr(node, "name", "") == last or any(getattr(target, "id", "") == last for target in targets):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            lines = source.splitlines(keepends=True)
            return Definition(sum(map(len, lines[: first - 1])), sum(map(len, lines[: node.end_lineno])), owner)
    raise NoLongerApplies("there is no %s" % name)


def mutated(source: str, mutation: Mutation) -> Tuple[Definition, str]:
    """Where etl.py is changed, and what stands there then."""
    place = definition(source, mutation.name)
    text = source[place.start : place.end]
    if text.count(mutation.old) != 1:
        raise NoLongerApplies("%s holds the text %d times" % (mutation.name, text.count(mutation.old)))
    return place, text.replace(mutation.old, mutation.new)


@contextlib.contextmanager
def broken(source: str, mutation: Mutation) -> Iterator[None]:
    """etl, in this process, with the rule broken."""
    import etl

    place, text = mutated(source, mutation)
    name = mutation.name.rpartition(".")[2]
    target: Any = getattr(etl, place.owner) if place.owner else etl
    before = vars(target)[name]
    if place.owner:  # a function that knows its class, as super() needs it
        text = "def make(__class__):\n%s\n    return %s\n" % (textwrap.indent(textwrap.dedent(text), "    "), name)
    found: Dict[str, Any] = {}
    code = compile(text, "etl.py with a broken rule", "exec", flags=__future__.annotations.compiler_flag)
    exec(code, vars(etl), found)
    setattr(target, name, found["make"](target) if place.owner else found[name])
    try:
        yield
    finally:
        setattr(target, name, before)


class Outcome(NamedTuple):
    mutation: Mutation
    verdict: str  # "caught" is the good one
    seconds: float
    output: str = ""


def try_out(mutation: Mutation) -> Outcome:
    """Break the rule and run its tests."""
    start, output = time.time(), ""
    source = (ROOT / "etl.py").read_text("utf-8")
    try:
        with broken(source, mutation):
            code, output = run_here(mutation.tests, anew=mutation.name in AT_START)
    except NoLongerApplies as reason:
        return Outcome(mutation, str(reason), 0)
    verdicts = {0: "SURVIVED", 1: "caught", 5: "no such test"}  # 2 to 4: pytest could not even collect the tests
    return Outcome(mutation, verdicts.get(code, "pytest exits with %d" % code), time.time() - start, output)


def file_of(name: str) -> str:
    """The file of a mutation's tests: cloud/s3 is tests/cloud/test_s3.py."""
    folder, _, file = name.rpartition("/")
    return os.path.join("tests", folder, "test_%s.py" % file)


def options_for(tests: str) -> List[str]:
    file, _, selection = tests.partition(" ")
    return ["-x", "-p", "no:cacheprovider", file_of(file), "-k", selection]


def run_here(tests: str, anew: bool = False) -> Tuple[int, str]:
    """Run tests in this process, where asked for with a Spark that is set up anew; returns pytest's exit code and
    output.
    """
    output = io.StringIO()
    if anew:
        forget_session()
    before = signal.signal(signal.SIGALRM, waited_for_ever)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = int(pytest.main(options_for(tests)))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        if anew:
            forget_session()
    return code, output.getvalue()


def waited_for_ever(*_: Any) -> None:
    raise TimeoutError("the tests have waited for %d s" % SECONDS)  # which fails the test that waits


def green_before(chosen: Sequence[Mutation]) -> bool:
    """Whether the tests pass while no rule is broken, without which a red one would say nothing."""
    selections: Dict[str, Set[str]] = {}
    for mutation in chosen:
        file, _, selection = mutation.tests.partition(" ")
        selections.setdefault(file, set()).add("(%s)" % selection)
    for file, parts in selections.items():
        tests = "%s %s" % (file, " or ".join(sorted(parts)))
        code, output = run_here(tests)
        if code:
            print("%s fails before any rule is broken\n%s" % (file_of(file), output[-2000:]))
            return False
    return True


SESSIONS: List[Any] = []  # the one of all tests, once it is set up


def keep_one_session() -> None:
    """Let one Spark, which is ready for S3, serve all tests."""
    from pyspark.sql import SparkSession

    import etl

    start = etl.start_session

    def start_session(config: etl.Config, small: bool = False) -> SparkSession:
        if not SESSIONS:
            SESSIONS.append(start(config._replace(song_data="s3://no/songs"), small))
        session: SparkSession = SESSIONS[0]
        return session

    etl.start_session = start_session
    SparkSession.stop = lambda self: None  # type: ignore[method-assign]


def forget_session() -> None:
    """Let what follows set Spark up again, without what the last start has left in PySpark."""
    while SESSIONS:
        known = vars(SESSIONS.pop().sparkContext._jvm)
        for name in [name for name in known if name.endswith("functions")]:
            del known[name]


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-k", default="", metavar="TEXT", help="only rules that hold this text")
    options = parser.parse_args(argv)
    chosen = [mutation for mutation in MUTATIONS if options.k in mutation.rule]
    os.chdir(str(ROOT))
    sys.path[:0] = [str(ROOT)]
    os.environ["KEEP_LAKES"] = ""
    keep_one_session()
    began = time.time()
    if not green_before(chosen):
        return 1
    bad: List[Outcome] = []
    for mutation in chosen:
        outcome = try_out(mutation)
        print("%-45s %-12s %5.0f s  %s" % (mutation.rule, outcome.verdict, outcome.seconds, mutation.tests))
        sys.stdout.flush()
        if outcome.verdict != "caught":
            bad.append(outcome)
    for outcome in bad:
        print("\n== %s: %s\n%s" % (outcome.mutation.rule, outcome.verdict, outcome.output[-2000:]))
    seconds = time.time() - began
    print("%d mutations, %d caught, in %.0f s" % (len(chosen), len(chosen) - len(bad), seconds))
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
