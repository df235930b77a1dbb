"""Athena's SQL, of the documentation and of every question, read by the parser of Trino, on which Athena is built."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pyspark
import pytest
from conftest import ROOT
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
from py4j.protocol import Py4JJavaError

from analytics import questions

PARSER = ("io.trino", "trino-parser", "435")  # the last one for Java 17
JARS = Path(pyspark.__path__[0]) / "jars"
DOCUMENTED = re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs" / "catalog.md").read_text("utf-8"), re.DOTALL | re.M)
GIVEN = {"user": "15", "song": "SO1"}


@pytest.fixture(scope="module")
def trino(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Trino's parser in a Java of its own; Ivy, which Spark brings, fetches it."""
    java = os.path.join(os.environ["JAVA_HOME"], "bin", "java") if "JAVA_HOME" in os.environ else "java"
    version = subprocess.run([java, "-version"], stderr=subprocess.PIPE, check=True).stderr.decode()
    if int(version.split('"')[1].partition(".")[0]) < 17:
        pytest.skip("Trino's parser needs Java 17")
    path = tmp_path_factory.mktemp("trino") / "classpath"
    ivy = [java, "-cp", str(next(JARS.glob("ivy-*.jar"))), "org.apache.ivy.Main", "-confs", "default"]
    done = subprocess.run([*ivy, "-dependency", *PARSER, "-cachepath", str(path)], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()
    jar = str(next(JARS.glob("py4j-*.jar")))
    port = launch_gateway(jarpath=jar, classpath=path.read_text().strip(), java_path=java, die_on_exit=True)
    gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))
    yield gateway.jvm.io.trino.sql.parser.SqlParser()
    gateway.shutdown()


@pytest.mark.parametrize("sql", DOCUMENTED, ids=["artists", "plays"])
def test_trino_reads_the_documented_sql(sql: str, trino: Any) -> None:
    assert trino.createStatement(sql).getClass().getSimpleName() == "Query"


@pytest.mark.parametrize("name", questions.names())
def test_trino_reads_every_question(name: str, trino: Any) -> None:
    sql = questions.self_contained(name, "athena", GIVEN)
    assert trino.createStatement(sql).getClass().getSimpleName() == "Query"


def test_trino_refuses_what_is_no_sql_of_its_own(trino: Any) -> None:
    with pytest.raises(Py4JJavaError, match="mismatched input"):
        trino.createStatement("SELECT artist FROM songplays QUALIFY row_number() OVER (PARTITION BY artist) = 1")
