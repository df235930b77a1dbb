"""etl.py with one of its constants changed, for configurations.py: the first argument says which, as JSON.

songs: the columns that songs are partitioned by. rows: ROWS_PER_FILE. mode: Spark's save mode. The other arguments
are those of etl.py. Python 3.7 runs this too.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict
from urllib.parse import urlparse

from pyspark.sql import DataFrameWriter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import etl


def change(changes: Dict[str, Any]) -> None:
    """Change the constants of etl."""
    if "songs" in changes:
        etl.TABLES["songs"] = etl.TABLES["songs"]._replace(partitions=tuple(changes["songs"]))
        etl.PUBLISHED["songs"] = etl.TABLES["songs"]
    if "rows" in changes:
        etl.ROWS_PER_FILE = changes["rows"]
    if "mode" in changes:
        parquet = functools.partialmethod(write, DataFrameWriter.parquet, changes["mode"])
        DataFrameWriter.parquet = parquet  # type: ignore[method-assign,assignment]


def write(writer: DataFrameWriter, parquet: Callable[..., None], mode: str, path: str) -> None:
    """Write to a folder in another mode, unless it is there: etl.py adds to it then."""
    parquet(writer if Path(urlparse(path).path).exists() else writer.mode(mode), path)


if __name__ == "__main__":
    change(json.loads(sys.argv[1]))
    sys.exit(etl.main(sys.argv[2:]))
