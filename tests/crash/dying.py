"""etl.py whose process is killed, as by kill -9, after so many changes of the lake since publishing began.

The first argument says how many, the others are those of etl.py. A run that ends before has changed as many or fewer.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import etl

CHANGES = ((etl.Store, ("delete", "write_directly")), (etl.LocalStore, ("move", "exchange")))


def let_die(changes: int) -> None:
    """Kill this process after so many changes."""
    left = [changes]
    publish = etl.publish

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            result = change(*arguments)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return changed

    def publish_and_die(*arguments: Any) -> None:
        for store, names in CHANGES:
            for name in names:
                setattr(store, name, counted(getattr(store, name)))
        publish(*arguments)

    setattr(etl, "publish", publish_and_die)  # noqa: B010


if __name__ == "__main__":
    let_die(int(sys.argv[1]))
    sys.exit(etl.main(sys.argv[2:]))
