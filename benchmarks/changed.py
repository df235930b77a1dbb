"""etl.py with one of its constants changed, for configurations.py: the first argument says which, as JSON.

songs: the columns that songs are partitioned by. rows: ROWS_PER_FILE. overwrite: static or dynamic, how a table
replaces what stands in its place. The other arguments are those of etl.py. Python 3.7 runs this too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import etl


def change(changes: Dict[str, Any]) -> None:
    """Change the constants of etl."""
    if "songs" in changes:
        etl.TABLES["songs"] = etl.TABLES["songs"]._replace(partitions=tuple(changes["songs"]))
    if "rows" in changes:
        etl.ROWS_PER_FILE = changes["rows"]
    if "overwrite" in changes:
        etl.load = lambda frame, name, path: overwrite(frame, name, path, changes["overwrite"])


def overwrite(frame: Any, name: str, path: str, mode: str) -> None:
    """etl.load() in Spark's overwrite mode."""
    writer = frame.write.option("maxRecordsPerFile", 2 * etl.ROWS_PER_FILE).option("partitionOverwriteMode", mode)
    writer.mode("overwrite").partitionBy(*etl.TABLES[name].partitions).parquet(path)


if __name__ == "__main__":
    change(json.loads(sys.argv[1]))
    sys.exit(etl.main(sys.argv[2:]))
