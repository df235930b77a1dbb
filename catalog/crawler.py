#!/usr/bin/env python
"""A Glue crawler over the seven tables, for those who prefer one to catalog.register.

    python -m catalog.crawler              make database, role and crawler; run again, it changes only what differs
    python -m catalog.crawler --start      and let it crawl now
    python -m catalog.crawler --schedule 'cron(0 4 * * ? *)'    and every day at 4:00 UTC ('': no more)
    python -m catalog.crawler --delete     remove crawler and role; what it has found stays

Exit codes: 0 done; 2 wrong usage or environment.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any, Dict, Optional, Sequence

import etl
from catalog import aws
from catalog.aws import Clients, Lake, Record, say
from catalog.register import holds

CRAWLER, ROLE = "sparkify", "SparkifyCrawler"
DATABASE = "sparkify_crawled"  # not catalog.register's: each would undo what the other writes
POLICY, TRUST = "crawler.json", "crawler-trust.json"
# A new column is taken, a vanished partition or table removed. Partitions get their table's types, else one file could
# make a partition that no query of the table can read.
CHANGES = {"UpdateBehavior": "UPDATE_IN_DATABASE", "DeleteBehavior": "DELETE_FROM_DATABASE"}
CONFIGURATION = {
    "Version": 1.0,
    "CrawlerOutput": {"Partitions": {"AddOrUpdateBehavior": "InheritFromTable"}},
    "Grouping": {"TableGroupingPolicy": "CombineCompatibleSchemas"},
}


class Crawler:
    """The crawler, its role and its database."""

    def __init__(self, clients: Clients, lake: Lake, schedule: Optional[str]) -> None:
        self.glue, self.lake, self.schedule = clients["glue"], lake, schedule
        self.role = aws.Role(clients, lake, ROLE, TRUST, POLICY)

    def crawler(self) -> Optional[Record]:
        """The crawler; None where there is none."""
        answer = aws.found(self.glue.get_crawler, "EntityNotFoundException", Name=CRAWLER)
        return answer["Crawler"] if answer else None

    def wanted(self, found: Optional[Record]) -> Dict[str, Any]:
        """The crawler as Glue takes it: one target a table, since beside them lies what is no table. A schedule stays
        unless another one is given.
        """
        schedule = schedule_of(found) if self.schedule is None else self.schedule
        settings: Dict[str, Any] = {
            "Role": ROLE,
            "DatabaseName": DATABASE,
            "Targets": {"S3Targets": [{"Path": self.lake.uri(table) + "/"} for table in etl.TABLES]},
            "SchemaChangePolicy": CHANGES,
            "Configuration": json.dumps(CONFIGURATION),
        }
        return {**settings, "Schedule": schedule} if schedule else settings

    def make(self, start: bool) -> None:
        """Make what is not there, change what differs, and start the crawler if that is asked for."""
        self.role.make()
        if aws.found(self.glue.get_database, "EntityNotFoundException", Name=DATABASE):
            say("database %s: unchanged" % DATABASE)
        else:
            details = {"Name": DATABASE, "Description": "Sparkify data lake, as a crawler sees it"}
            self.lake.apply("database " + DATABASE, "made", lambda: self.glue.create_database(DatabaseInput=details))
        self.make_crawler()
        if start:
            self.start()

    def make_crawler(self) -> None:
        """Make the crawler, anew where it differs: what it has found is in the database, not in the crawler."""
        found = self.crawler()
        wanted = self.wanted(found)
        if found and is_same(found, wanted):
            say("crawler %s: unchanged" % CRAWLER)
            return
        if found:
            refuse_running(found)
            self.lake.apply("crawler " + CRAWLER, "removed, to be made anew", self.delete)
        create = functools.partial(self.glue.create_crawler, Name=CRAWLER, **wanted)
        # A role that has just been made is not known everywhere yet
        self.lake.apply("crawler " + CRAWLER, "made", lambda: aws.patiently(create, "InvalidInputException", "assume"))

    def start(self) -> None:
        """Let it crawl, unless it does."""
        found = None if self.lake.dry_run else self.crawler()
        if found and found["State"] != "READY":
            say("crawler %s: is %s" % (CRAWLER, found["State"].lower()))
            return
        self.lake.apply("crawler " + CRAWLER, "started", lambda: self.glue.start_crawler(Name=CRAWLER))
        say("watch   aws glue get-crawler --name %s --query Crawler.State --region %s" % (CRAWLER, self.lake.region))

    def delete(self) -> None:
        """Remove the crawler."""
        self.glue.delete_crawler(Name=CRAWLER)

    def remove(self) -> None:
        """Remove crawler and role; the tables that it has found stay."""
        found = self.crawler()
        if found:
            refuse_running(found)
            self.lake.apply("crawler " + CRAWLER, "removed", self.delete)
        else:
            say("crawler %s: is not there" % CRAWLER)
        if self.role.find():
            self.role.remove()
        else:
            say("role %s: is not there" % ROLE)
        say("kept    what it has found: aws glue delete-database --name %s --region %s" % (DATABASE, self.lake.region))


def schedule_of(found: Optional[Record]) -> str:
    """When a crawler crawls by itself; "" for never."""
    return str((found or {}).get("Schedule", {}).get("ScheduleExpression", ""))


def is_same(found: Record, wanted: Record) -> bool:
    """Whether a crawler is as it should be."""
    settings = {**found, "Schedule": schedule_of(found)}
    return holds(settings, {"Schedule": "", **wanted})


def refuse_running(found: Record) -> None:
    """Raise UsageError where the crawler is at work: Glue neither changes nor removes it then."""
    if found["State"] != "READY":
        raise etl.UsageError("the crawler %s is %s: wait until it has ended" % (CRAWLER, found["State"].lower()))


def command(argv: Sequence[str]) -> None:
    """Do what the flags ask for; raises UsageError and whatever boto3 raises."""
    parser = aws.parser("catalog.crawler", "Make a Glue crawler over the seven tables of the lake.")
    parser.add_argument("--start", action="store_true", help="let it crawl now")
    parser.add_argument(
        "--schedule", metavar="CRON", help="when it crawls by itself, such as 'cron(0 4 * * ? *)' (UTC)"
    )
    parser.add_argument("--delete", action="store_true", help="remove crawler and role; what it has found stays")
    flags = aws.parse(parser, argv)
    lake = aws.lake_of(flags, os.environ)
    crawler = Crawler(Clients(lake), lake, flags.schedule)
    if flags.delete:
        crawler.remove()
    else:
        crawler.make(flags.start)


def main(argv: Sequence[str]) -> int:
    """The command: returns the exit code."""
    return aws.run("catalog.crawler", command, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
