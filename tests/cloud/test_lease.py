"""The worst moment of those in tests/crash/test_rivals.py: a run about to delete is overtaken by another one."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from aws import Server
from pyspark.sql import SparkSession
from rivals import LakeInS3, make_source, overtake


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.mark.once
@pytest.mark.slow
def test_a_run_that_is_overtaken_deletes_nothing(spark: SparkSession, server: Server, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", spark)
    (tmp_path / "lake").mkdir()
    overtake(source, LakeInS3(tmp_path / "lake", server), "before remove time/")
