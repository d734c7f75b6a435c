"""How many bytes is "512MB"?"""

from __future__ import annotations

import re

from unbounded.errors import PlanError

__all__ = ["size"]

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]I?B)", re.IGNORECASE)


def size(bytes: str | int, what: str) -> int:
    """A number of bytes above 0: an integer, or "512MB", "1.5GB", "1 GiB"; `what` names the argument in errors.

    KB, MB, GB and TB are powers of 1000, KiB, MiB, GiB and TiB powers of 1024. PlanError for anything else.

    >>> size("1.5GB", "memory_limit")
    1500000000
    """
    found = None
    if isinstance(bytes, int) and not isinstance(bytes, bool):
        found = bytes
    elif isinstance(bytes, str) and (parts := _SIZE.fullmatch(bytes.strip())):
        found = int(float(parts[1]) * _UNITS[parts[2].upper()])
    if found is None or found <= 0:
        raise PlanError(
            f"{what} is {bytes!r}, which is no size. Write a number and KB, MB, GB or TB (KiB, MiB, ...), as in "
            '"512MB" or "1.5GB", or a whole number of bytes above 0'
        )
    return found
