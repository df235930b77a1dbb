"""etl.py that kills or stops itself at a step, as kill -9 and SIGSTOP would at an unlucky moment.

    steps.py ACTION STEP FILE OPTIONS_OF_ETL...

A step is a moment before or after a change of the lake. It is called by what is done and by the path in the lake, in
which RUN stands for the id of whichever run it is of:

    before begin publishing                 all is checked
    after move _work/RUN/journal.json       (write, where that is one step) the journal is there
    before exchange songs                   (S3: copy songs/year=…, others: move songs) a table is replaced
    before remove songs/year=…              (S3) an object goes
    after move _runs/RUN.json               (or write) the report
    after move _ledger/ledger.json          (or write) the ledger
    before remove _work/RUN                 what is left of the run

STEP is a regular expression: the first step that it matches is the one. ACTION is kill, stop (then SIGCONT lets the run
go on) or none. FILE gets the names of all steps, a line each. For another etl.py, CHANGES and BEGIN are to be adapted.

In the environment: SETTINGS, constants of etl.py as JSON, such as a shorter lease.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import etl

# The functions that change the lake, with the place of the path among their arguments
CHANGES = (
    (etl.Store, "put", 0),
    (etl.Store, "remove", 0),
    (etl.Store, "remove_empty", 0),
    (etl.Store, "move", 1),
    (etl.LocalStore, "write", 0),
    (etl.LocalStore, "remove", 0),
    (etl.LocalStore, "remove_empty", 0),
    (etl.LocalStore, "move", 1),
    (etl.LocalStore, "exchange", 1),
    (etl.ObjectStore, "copy", 1),
)
BEGIN = "publish_tables"
NAMES = {"put": "write"}
RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Steps:
    """Notes each step, and sends this process a signal at the one."""

    def __init__(self, action: str, step: str, file: str) -> None:
        self.action, self.step, self.file = action, re.compile(step), file

    def reach(self, step: str) -> None:
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(step + "\n")
        if self.action in SIGNALS and self.step.search(step):
            action, self.action = self.action, "none"
            # To this thread: one to the process is for another thread, and this one goes on for a moment
            signal.pthread_kill(threading.get_ident(), SIGNALS[action])

    def around(self, change: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        """A function with a step before and one after it."""

        def changed(*arguments: Any) -> Any:
            called = name(*arguments)
            self.reach("before " + called)
            result = change(*arguments)
            self.reach("after " + called)
            return result

        return changed

    def watch(self) -> None:
        """Let the functions that change the lake pass their steps."""
        for store, function, place in CHANGES:

            def name(store: Any, *arguments: Any, place: int = place, function: str = function) -> str:
                return "%s %s" % (NAMES.get(function, function), RUN_ID.sub("RUN", arguments[place]))

            setattr(store, function, self.around(getattr(store, function), name))
        setattr(etl, BEGIN, self.around(getattr(etl, BEGIN), lambda *_: "begin publishing"))


if __name__ == "__main__":
    for setting, value in json.loads(os.environ.get("SETTINGS", "{}")).items():
        setattr(etl, setting, value)
    Steps(*sys.argv[1:4]).watch()
    sys.exit(etl.main(sys.argv[4:]))
