"""User agents as people know them, parsed by ua-parser, which follows the uap-core project's rules."""

from __future__ import annotations

from functools import lru_cache
from typing import Dict, Optional

import pandas as pd
from ua_parser import parse

UNKNOWN = "unknown"


@lru_cache(maxsize=100_000)
def families(user_agent: Optional[str]) -> Dict[str, str]:
    """The browser and the operating system of a user agent, without versions; "unknown" where it does not say.

    >>> families("Mozilla/5.0 (X11; Linux x86_64; rv:31.0) Gecko/20100101 Firefox/31.0")
    {'browser': 'Firefox', 'operating_system': 'Linux'}
    >>> families(None)
    {'browser': 'unknown', 'operating_system': 'unknown'}
    """
    found = parse(user_agent or "")
    return {
        "browser": found.user_agent.family if found.user_agent else UNKNOWN,
        "operating_system": found.os.family if found.os else UNKNOWN,
    }


def grouped(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Plays for each `browser` or `operating_system`, most first, from plays for each `user_agent`."""
    parsed = [families(None if pd.isna(agent) else agent)[column] for agent in frame["user_agent"]]
    plays = frame["plays"].groupby(pd.Series(parsed, index=frame.index, name=column, dtype=object)).sum().reset_index()
    plays["percent_of_plays"] = 100.0 * plays["plays"] / plays["plays"].sum()
    return plays.sort_values(["plays", column], ascending=[False, True], ignore_index=True)
