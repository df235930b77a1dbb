"""Break each rule of the job once, on purpose: at least one test must go red.

    make mutations                  all of them
    make mutations ARGS="-k user"   those whose rule holds this text

Each mutation is one replacement in a copy of etl.py and the tests that guard it. The exit code is 1 where the tests
stay green, or where the text to replace is not there exactly once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

ROOT = Path(__file__).resolve().parents[1]
EMRFS = "com.amazon.ws.emr.hadoop.fs.EmrFileSystem"
NEEDED = ("etl.py", "pyproject.toml", "tests", "data")


class Mutation(NamedTuple):
    rule: str
    old: str  # is in etl.py exactly once
    new: str
    tests: str  # file below tests without test_ and .py, a blank, what pytest -k takes


MUTATIONS = [
    # Which plays
    Mutation(
        "only NextSong is a play", "PLAY = \"page = 'NextSong'\"", 'PLAY = "page is not null"', "transform only_a_next"
    ),
    Mutation(
        "an event delivered twice is one play",
        'numbered.where("copy = 1")',
        "numbered",
        "transform delivered_twice",
    ),
    Mutation(
        "duplicates that differ: same row in any order",
        ".orderBy(*row)",
        '.orderBy("ts")',
        "transform duplicates_that_differ",
    ),
    Mutation("songplay_id stays the same", "F.md5(", "F.sha1(", "transform songplay_id_is_the_md5"),
    Mutation("songplay_id is unique", 'F.concat_ws("/"', 'F.concat_ws(""', "transform songplay_ids_of"),
    Mutation(
        "songplay_id of nobody",
        'F.lit("")) for key in PLAY_KEY',
        'F.lit("0")) for key in PLAY_KEY',
        "transform songplay_id",
    ),
    Mutation("quotes around the user agent go", "trim(BOTH", "trim(LEADING", "transform quotes_around"),
    Mutation("empty text becomes null", '.when(column != "", column)', ".otherwise(column)", "transform quotes_around"),
    # Which song
    Mutation(
        "a match needs the artist",
        'repaired(F.col("artist_name")).alias("artist_key")',
        'F.lit("Anchors").alias("artist_key")',
        "transform match_needs",
    ),
    Mutation(
        "a play without a match stays",
        '["title_key", "artist_key"], how="left")',
        '["title_key", "artist_key"], how="inner")',
        "transform without_a_match",
    ),
    Mutation(
        "two rounds of repair",
        "text(decoded_again(decoded_again(column)))",
        "text(decoded_again(column))",
        "transform encoded_twice",
    ),
    Mutation(
        "text is repaired before it is trimmed",
        "text(decoded_again(decoded_again(column)))",
        "decoded_again(decoded_again(text(column)))",
        "transform before_it_is_trimmed",
    ),
    Mutation(
        "text is compared trimmed",
        "F.when(is_ascii(column), mostly_trimmed(column))",
        "F.when(is_ascii(column), column)",
        "transform whatever_blanks",
    ),
    Mutation(
        "only what is UTF-8 is repaired",
        r"[\xC2-\xDF](?![\x80-\xBF])",
        r"[\xC2-\xDF](?![\x00-\xBF])",
        "transform repair",
    ),
    Mutation("the closest duration", "abs(s.duration - length)", "abs(s.duration)", "transform closest_duration"),
    Mutation("then the smallest song_id", "array_min(", "array_max(", "transform closest_duration"),
    Mutation("unknown durations last", "cast('Infinity' as double)", "cast(0 as double)", "transform closest_duration"),
    Mutation(
        "songs never multiply a play",
        'records.groupBy(*keys).agg(F.collect_set(song).alias("songs"))',
        'records.select(*keys, F.array(song).alias("songs"))',
        "transform closest_duration",
    ),
    # Time
    Mutation(
        "milliseconds are kept",
        'cast("decimal(20, 3)") / 1000)',
        'cast("bigint") / 1000).cast("bigint")',
        "transform exact",
    ),
    Mutation(
        "UTC whatever the zone",
        '"spark.sql.session.timeZone": "UTC"',
        '"spark.sql.session.timeZone": "Asia/Tokyo"',
        "transform exact",
    ),
    Mutation("ISO weeks", "F.weekofyear(start)", "F.ceil(F.dayofyear(start) / 7)", "transform exact"),
    Mutation("ISO weekdays", "+ 5) % 7 + 1", "+ 6) % 7 + 1", "transform exact"),
    Mutation(
        "one row for each start",
        'starts.groupBy("year", "month", "chunk", "start_time").agg(F.lit(1).alias("one"))',
        "starts",
        "transform each_start",
    ),
    Mutation("starts of plays only", 'events.where(PLAY).select("ts")', 'events.select("ts")', "transform each_start"),
    # Users
    Mutation(
        "users of any event",
        'events.where("user_id is not null").groupBy("user_id")',
        'events.where("user_id is not null").where(PLAY).groupBy("user_id")',
        "transform any_event",
    ),
    Mutation(
        "nobody is no user",
        'events.where("user_id is not null").groupBy("user_id")',
        'events.groupBy("user_id")',
        "transform nobody",
    ),
    Mutation(
        "the latest event counts",
        'LATEST = ("ts", "item_in_session"',
        'LATEST = ("item_in_session", "ts"',
        "transform latest",
    ),
    Mutation(
        "then the last of the session",
        'LATEST = ("ts", "item_in_session", "session_id", "level"',
        'LATEST = ("ts", "session_id", "level", "item_in_session"',
        "transform last_of_the_session",
    ),
    Mutation(
        "users have a total order",
        'F.max(F.struct(*LATEST)).alias("latest")',
        'F.first(F.struct(*LATEST)).alias("latest")',
        "transform order_of_events",
    ),
    # Songs and artists
    Mutation("songs do not depend on order", "F.max(record)", "F.first(record)", "transform songs_are_one_row"),
    Mutation("an unknown year is 0", 'F.coalesce("year", F.lit(0))', 'F.col("year")', "transform unknown_year"),
    Mutation("the most frequent name", '(-F.col("songs"))', 'F.col("songs")', "transform artist_has_the_name"),
    Mutation("then the shortest", 'F.length("artist_name")', "F.lit(0)", "transform artist_has_the_name"),
    Mutation(
        "a record counts once", 'F.countDistinct("song_id")', 'F.count("song_id")', "transform artist_has_the_name"
    ),
    Mutation(
        "locations of records that have one", "F.col(attribute).isNotNull()", "F.lit(True)", "transform locations_come"
    ),
    Mutation("both coordinates or none", " and artist_longitude is not null", "", "transform coordinates_come"),
    # Staging
    Mutation(
        "a broken value makes its record bad",
        'F.col("json")[NOT_TYPED].isNull() & F.coalesce',
        "F.coalesce",
        "staging bad_lines",
    ),
    Mutation("broken JSON is bad", "F.when(~well_formed(fields), ", "F.when(F.lit(False), ", "staging bad_lines"),
    Mutation("invalid UTF-8 is bad", "F.when(~is_utf8(raw), ", "F.when(F.lit(False), ", "staging bad_lines"),
    Mutation("the quick way: whole objects only", 'raw.startswith("{") & one &', "", "staging bad_lines"),
    Mutation("the quick way: valid UTF-8 only", "& one & is_utf8(raw)", "& one", "staging bad_lines"),
    Mutation("the quick way: all values typed", "F.col(NOT_TYPED).isNull() & some", "some", "staging values_of"),
    Mutation("the quick way: trimmed text only", "as_it_is & ends_so if", "as_it_is if", "staging values_of"),
    Mutation("the quick way: nothing like a number", "= begins_so & ", "= ", "staging values_of"),
    Mutation(
        "shuffles have partitions for all that is staged",
        "self.fit_parallelism(self.inputs[name])",
        "pass",
        "lake shuffles_have",
    ),
    Mutation("the quick way: all others are read too", 'parts.append("others")', "pass", "lake sample"),
    Mutation("a song file is one text", "path, names, NO_LINE_END)", "path, names)", "staging every_form"),
    Mutation("nothing ends a song file", '"\\x1e%s\\x1e" % uuid.uuid4().hex', '"\\x1e"', "staging nearly_what"),
    Mutation("extreme lines are bad", ".when(extreme, ", ".when(F.lit(False), ", "staging extreme"),
    Mutation("wrong types are bad", "F.when(wrong, ", "F.when(F.lit(False), ", "staging values_of"),
    Mutation("missing keys are bad", "    if field.required:", "    if False:", "staging bad_lines"),
    Mutation("values that are not accepted are bad", "    if field.accepted:", "    if False:", "staging bad_lines"),
    # Checks and account
    Mutation("keys are unique", 'F.col("n0") > 1', 'F.col("n0") > 2', "check_publish named_counted"),
    Mutation(
        "required values are there", "(table.key,) + table.required]", "(table.key,)]", "check_publish named_counted"
    ),
    Mutation("values are accepted", " + list(table.accepted)", "", "check_publish named_counted"),
    Mutation(
        "references are keys",
        "in table.references]",
        "in table.references[1:]]",
        "check_publish named_counted",
    ),
    Mutation(
        "a broken rule stops the run", "        if broken:", "        if False:", "check_publish failed_check_leaves"
    ),
    Mutation("the account must balance", "if account.difference():", "if False:", "check_publish no_table_explains"),
    Mutation(
        "an account counts all",
        " - self.other - self.quarantined",
        " - self.quarantined",
        "check_publish cannot_explain",
    ),
    Mutation(
        "as many bad records as allowed", "if bad * 100 > limit", "if bad * 100 >= limit", "check_publish allowed_pass"
    ),
    Mutation(
        "too many bad records fail", "if bad * 100 > limit", "if bad * 50 > limit", "check_publish too_many_fails"
    ),
    # Publishing
    Mutation(
        "a publication has a journal",
        'store.write(json.dumps({"report": report, "changed": changed}), *journal(run_id))',
        "pass",
        "check_publish is_finished_by_the_next",
    ),
    Mutation(
        "the old table is kept until the end",
        'self.move(old, (*new[:2], "old", *old))',
        "self.delete(*old)",
        "check_publish with_renames",
    ),
    Mutation("tables are exchanged in one step", "return exchange_folders(", "return 0 > (", "check_publish on_this"),
    Mutation(
        "what has been exchanged stays so",
        "if not self.exists(*new, MARK):  # it has been done",
        "if not self.exists(*new):",
        "check_publish is_finished_by_the_next",
    ),
    Mutation("marks go", "self.delete(name, partition, MARK)", "pass", "check_publish is_finished_by_the_next"),
    Mutation(
        "objects of partitions that are no more go",
        "at_once(lambda path: self.delete(name, path), gone)",
        "pass",
        "check_publish is_finished_by_the_next",
    ),
    Mutation(
        "objects keep their names",
        '"%spart-%05d.parquet" % (folder and folder + "/", number)',
        "path",
        "check_publish with_objects",
    ),
    Mutation(
        "a dead publication is finished",
        "        if text:\n            begun",
        "        if False:\n            begun",
        "check_publish is_finished_by_the_next",
    ),
    Mutation(
        "dimensions before facts",
        "    for name, part in changed.items():\n        store.replace",
        "    for name, part in reversed(list(changed.items())):\n        store.replace",
        "check_publish on_this",
    ),
    Mutation(
        "partitions that stay are in the new folder",
        "self.link(name, part.all(), new)",
        "pass",
        "check_publish is_finished_by_the_next",
    ),
    Mutation(
        "partitions that are no more go",
        "            self.delete(name, partition)\n",
        "            pass\n",
        "check_publish is_finished_by_the_next",
    ),
    Mutation(
        "objects of partitions that stay do too",
        " if parent(path) in folders]",
        "]",
        "check_publish is_finished_by_the_next",
    ),
    # One run at a time
    Mutation("a lake in use is refused", "while not lock_file(file):", "while False:", "check_publish another_process"),
    Mutation("a living run is refused", "if now is None:", "if True:", "check_publish by_its_beats"),
    Mutation(
        "a run that dies while it is watched is dead",
        "seen[run_id] = now, clock.monotonic()",
        "pass",
        "check_publish while_it_is_watched",
    ),
    Mutation(
        "a run taken for dead does not come back",
        "if self.read(self.run_id) is None:\n                    return",
        "if False:\n                    return",
        "check_publish taken_for_dead",
    ),
    Mutation(
        "a run that was silent for too long gives way",
        "if clock.monotonic() - shown > LEASE_SECONDS and self.others():",
        "if False:",
        "check_publish silent_for_too_long",
    ),
    Mutation(
        "a run that was silent for too long lives on where it is alone",
        "> LEASE_SECONDS and self.others():",
        "> LEASE_SECONDS:",
        "check_publish silent_for_too_long",
    ),
    Mutation(
        "a run taken for dead publishes nothing",
        "self.make_sure(lease.assure)\n",
        "pass\n",
        "check_publish lost_its_place",
    ),
    # What has changed since
    Mutation("a changed file is seen", "if files.get(name) != about]", "if name not in files]", "daily change_of"),
    Mutation("a changed lake is seen", "if not all(same[name] for", "if not all(True for", "daily of_no_use"),
    Mutation(
        "changed staging is seen",
        'if self.staged(batches, last["latest"]) != last["staged"]:',
        "if False:",
        "daily of_no_use",
    ),
    Mutation(
        "a lower limit is seen",
        'last["report"]["max_bad_percent"] <= self.config.max_bad_percent',
        "True",
        "daily lower_limit",
    ),
    Mutation("young files may change again", "modified < now * 1000 - SETTLED_MS", "True", "daily just_before"),
    Mutation(
        "files may come while others are read",
        ", *self.list_input(name)} if names",
        "} if names",
        "daily while_it_is_read",
    ),
    Mutation("what came and went is dropped", "{*gone, *batch.doubtful}", "gone", "daily came_and_went"),
    Mutation("months limit what is new", "if is_taken(name) and", "if", "daily months_limit"),
    Mutation(
        "months limit what is old",
        "sorted(filter(is_taken, {*gone, *batch.doubtful}))",
        "sorted({*gone, *batch.doubtful})",
        "daily months_limit",
    ),
    Mutation("--full builds all", "        if self.config.full:\n            return None\n", "", "daily nothing_new"),
    Mutation(
        "staging that cannot be read is no loss",
        "except (UsageError, TooManyBadError):",
        "except Exception:",
        "daily nothing_new",
    ),
    # What a change touches
    Mutation(
        "what a file has brought is taken off once",
        "left = sums([*counts, *",
        "left = sums([*counts, *others, *",
        "daily taken_from_the_profile",
    ),
    Mutation(
        "records of changed files do not count",
        "reader.parquet(*self.paths(name, batch)).where(~self.is_from(name, batch.dropped))",
        "reader.parquet(*self.paths(name, batch))",
        "daily partitions_that_change",
    ),
    Mutation("a quarantine that stays is left", "if self.bad_differ():", "if True:", "daily partitions_that_change"),
    Mutation(
        "new bad records come beside the old ones",
        "return any(reasons(batch.counts) for batch in new)",
        "return False",
        "daily backfill",
    ),
    Mutation(
        "references to a table that changes are checked",
        "if to == name and changed & {source, to}]",
        "if to == name and source in changed]",
        "check_publish tables_that_change",
    ),
    Mutation(
        "months that lose plays are built",
        "self.touch(name, counts)\n                batch",
        "batch",
        "daily partitions_that_change",
    ),
    Mutation(
        "songs that come find their plays", "self.touched.update(rematched)", "pass", "daily partitions_that_change"
    ),
    Mutation(
        "partitions of songs that are no more go",
        "sorted(set(folders.values()) - set(built))",
        "[]",
        "daily partitions_that_change",
    ),
    Mutation(
        "a file of odd name is dropped, too",
        "joined(root, file))).toUri().toString())",
        "joined(root, file))))",
        "staging tells_its_own",
    ),
    Mutation("large partitions are split", "if rows > ROWS_PER_FILE:", "if rows > 10**12:", "check_publish many_rows"),
    Mutation(
        "small partitions are not",
        "files_by_month(sizes)))",
        "F.lit(4)))",
        "check_publish many_rows",
    ),
    Mutation(
        "a failed run removes its staging",
        "                discard(self.store, self.run_id)\n",
        "                pass\n",
        "check_publish failed_check_leaves",
    ),
    Mutation("timestamps are for all readers", '"TIMESTAMP_MICROS"', '"INT96"', "lake columns_order"),
    Mutation(
        "no process for each file",
        "str(spark.sparkContext.master).startswith",
        "False and str().startswith",
        "cli no_process",
    ),
    Mutation("no marker files", '.marksuccessfuljobs": "false"', '.marksuccessfuljobs": "true"', "lake nothing_else"),
    Mutation("no checksum files", "setWriteChecksum(False)", "setWriteChecksum(True)", "lake nothing_else"),
    # Settings
    Mutation(
        "secrets are not shown",
        'return "Secrets(%s)" % ", ".join(sorted(self))',
        "return str(dict(self))",
        "config never_shown",
    ),
    Mutation(
        "unknown keys are refused", "if key.upper() not in known[section]:", "if False:", "config unknown_sections"
    ),
    Mutation(
        "an output inside an input is refused", "if inside(config.output, source):", "if False:", "config output_inside"
    ),
    Mutation(
        "an input where a table goes is refused",
        "if inside(source, config.output",
        "if False and (config.output",
        "config where_a_table_goes",
    ),
    Mutation("others' files are not replaced", "if strangers and not", "if False and not", "config somebody_else"),
    Mutation("Java is asked for functions once", "    remember_functions(spark)\n", "", "lake same_class"),
    # S3
    Mutation("S3: a bucket has one name", '"^s3[an]://"', '"^s3n://"', "config one_name"),
    Mutation(
        "S3: the lake is signed for", "if config.anonymous and bucket_of", "if False and bucket_of", "config never"
    ),
    Mutation("S3: dl.cfg comes last", "(chain, *PROVIDERS)", "(*PROVIDERS, chain)", "cloud/s3 chain_of_aws"),
    Mutation("S3: credentials are never mixed", "if not signed:", "if True:", "cloud/s3 never_mixed"),
    Mutation(
        "S3: own stores have paths", 'path.style.access"] = "true"', 'path.style.access"] = ""', "cloud/s3 ones_own"
    ),
    Mutation("S3: only inputs are anonymous", "in buckets})", 'in [*buckets, "out"]})', "cloud/s3 are_anonymous"),
    Mutation("S3: EMR's file system stays", "not in (S3A, ", 'not in (S3A, "%s", ' % EMRFS, "cloud/s3 has_chosen"),
    Mutation("S3: a user's settings stay", ' and "spark.hadoop." + key not in chosen', "", "cloud/s3 has_chosen"),
    Mutation("S3: a site's settings stay", "if not of_site and ", "if ", "cloud/s3 site_has"),
    Mutation(
        "S3: others' files are not replaced",
        "refuse_strangers(config.output, open_store(spark, config.output).exists)",
        "pass",
        "cloud/s3 others_files",
    ),
    Mutation(
        "S3: an input that is not there is said",
        "if is_uri(uri) and not exists_now(spark, uri, name):",
        "if False:",
        "cloud/s3 bucket_that_is_not_there",
    ),
]


class Outcome(NamedTuple):
    mutation: Mutation
    verdict: str  # "caught" is the good one
    seconds: float
    output: str = ""


def try_out(mutation: Mutation) -> Outcome:
    """Break the rule in a copy of the project and run its tests."""
    start = time.time()
    source = (ROOT / "etl.py").read_text("utf-8")
    if source.count(mutation.old) != 1:
        return Outcome(mutation, "the text is there %d times" % source.count(mutation.old), 0)
    code, output = run_tests(source.replace(mutation.old, mutation.new), mutation.tests)
    verdicts = {0: "SURVIVED", 1: "caught", 5: "no such test"}  # 2 to 4: pytest could not even collect the tests
    verdict = verdicts.get(code, "pytest exits with %d" % code)
    return Outcome(mutation, verdict, time.time() - start, output)


def test_file(name: str) -> str:
    """The file of a mutation's tests: cloud/s3 is tests/cloud/test_s3.py."""
    folder, _, file = name.rpartition("/")
    return os.path.join("tests", folder, "test_%s.py" % file)


def run_tests(source: str, tests: str) -> Tuple[int, str]:
    """Run tests on a copy of the project that has this etl.py; returns pytest's exit code and output."""
    file, _, selection = tests.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        for name in NEEDED:
            copier = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copier(str(ROOT / name), os.path.join(folder, name))
        Path(folder, "etl.py").write_text(source, "utf-8")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-p",
                "no:cacheprovider",
                test_file(file),
                "-k",
                selection,
            ],
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "KEEP_LAKES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def green_before(chosen: Sequence[Mutation]) -> bool:
    """Whether the tests pass while no rule is broken, without which a red one would say nothing."""
    source = (ROOT / "etl.py").read_text("utf-8")
    selections: Dict[str, Set[str]] = {}
    for mutation in chosen:
        file, _, selection = mutation.tests.partition(" ")
        selections.setdefault(file, set()).add(selection)
    for file, parts in selections.items():
        code, output = run_tests(source, "%s %s" % (file, " or ".join(sorted(parts))))
        if code:
            print("%s fails before any rule is broken\n%s" % (test_file(file), output[-2000:]))
            return False
    return True


def outcomes(chosen: Sequence[Mutation], jobs: int) -> Iterator[Outcome]:
    """Try mutations, a few at a time; prints a line for each."""
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(try_out, chosen):
            print(
                "%-45s %-12s %5.0f s  %s"
                % (outcome.mutation.rule, outcome.verdict, outcome.seconds, outcome.mutation.tests)
            )
            sys.stdout.flush()
            yield outcome


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-k", default="", metavar="TEXT", help="only rules that hold this text")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="so many at a time (default: 2)")
    options = parser.parse_args(argv)
    chosen = [mutation for mutation in MUTATIONS if options.k in mutation.rule]
    if not green_before(chosen):
        return 1
    bad: List[Outcome] = [outcome for outcome in outcomes(chosen, options.j) if outcome.verdict != "caught"]
    for outcome in bad:
        print("\n== %s: %s\n%s" % (outcome.mutation.rule, outcome.verdict, outcome.output[-2000:]))
    print("%d mutations, %d caught" % (len(chosen), len(chosen) - len(bad)))
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
