"""Two runs into one lake where the system has no lock: one is held at a step of its publishing until the other
has taken it for dead. Whatever it does then, the lake is the other one's, to the row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from aws import Server
from pyspark.sql import SparkSession
from rivals import Lake, LakeInS3, Source, make_source, overtake, overtake_and_die


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def source(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return make_source(tmp_path_factory.mktemp("source"), spark)


IN_S3 = [
    "before begin publishing",
    "before write _work/RUN/journal.json",
    "before copy artists/",
    "before copy songs/",
    "after copy songplays/",
    "before remove songs/",
    "before remove time/",
    "before write _runs/RUN",
    "before write _ledger/ledger",
    "before remove _work/RUN/journal.json",
    "before remove _work/RUN$",
]
BY_RENAMES = [
    "before begin publishing",
    "before move _work/RUN/journal.json",
    "before move _work/RUN/artists.old",
    "before move artists",
    "after move songs",
    "before move songplays",
    "before move _runs/RUN",
    "before remove _ledger/ledger",
    "before move _ledger/ledger",
    "before remove _work/RUN/journal.json",
    "before remove _work/RUN$",
]


@pytest.mark.parametrize("step", IN_S3)
def test_a_run_that_is_overtaken_in_s3_changes_nothing_more(
    source: Source, server: Server, tmp_path: Path, step: str
) -> None:
    overtake(source, LakeInS3(tmp_path, server), step)


@pytest.mark.parametrize("step", BY_RENAMES)
def test_a_run_that_is_overtaken_where_tables_are_renamed_changes_nothing_more(
    source: Source, tmp_path: Path, step: str
) -> None:
    overtake(source, Lake(tmp_path), step)


@pytest.mark.parametrize("step", IN_S3)
def test_a_run_that_has_overtaken_another_one_in_s3_may_die(
    source: Source, server: Server, tmp_path: Path, step: str
) -> None:
    overtake_and_die(source, LakeInS3(tmp_path, server), "before remove time/", step)


@pytest.mark.parametrize("step", BY_RENAMES)
def test_a_run_that_has_overtaken_another_one_may_die_where_tables_are_renamed(
    source: Source, tmp_path: Path, step: str
) -> None:
    overtake_and_die(source, Lake(tmp_path), "before move songs", step)
