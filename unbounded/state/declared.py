"""Which tables and logs does a home hold, and are these the ones that were committed?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from unbounded.errors import PlanError, QueryChangedError
from unbounded.storage import digest

__all__ = ["Declared"]

# Columns that the homes set beside those of a table. Refused by all alike, so that any state can move to any home.
_OWN = frozenset(
    f"__{name}" for name in ("slot", "live", "version", "arrival", "asked", "hash", "due", "at", "number", "exact")
)

_LONG = 200  # a type written out longer than this (an Enum) stands in a record by its beginning and digest


class Declared:
    """The names and columns of tables, multimaps and logs; column order matters for neither."""

    def __init__(self) -> None:
        self.schemas: dict[str, dict[str, dict[str, str]]] = {}
        """As a record says them."""

    def add(self, name: str, **columns: pl.Schema) -> None:
        """Declare a name. PlanError if it is taken, or if a column has no name, or one that a home needs for itself."""
        if name in self.schemas:
            raise PlanError(f"state {name!r} is declared twice; give every table, multimap and log a name of its own")
        own = sorted(_OWN & {column for schema in columns.values() for column in schema})
        if own:
            raise PlanError(
                f"state {name!r} has the column {' and '.join(map(repr, own))}, a name that homes of state give to "
                f"columns of their own. Rename it before this step, e.g. rename({{{own[0]!r}: {own[0].strip('_')!r}}})"
            )
        if any("" in schema for schema in columns.values()):
            raise PlanError(
                f"state {name!r} has a column without a name, and Polars gives such a column another one when frames "
                'are put together. Name it before this step, e.g. rename({"": "value"})'
            )
        self.schemas[name] = {part: _written(schema) for part, schema in columns.items()}

    def refuse_others(self, committed: Mapping[str, Any], where: str) -> None:
        """QueryChangedError if what was committed has other names or columns, saying which."""
        declared = self.schemas
        differences = [f"{name!r} is new: {declared[name]}" for name in declared.keys() - committed.keys()]
        differences += [
            f"{name!r} is no longer there: {committed[name]}" for name in committed.keys() - declared.keys()
        ]
        differences += [
            f"{name!r} was {committed[name]} and is {declared[name]}"
            for name in declared.keys() & committed.keys()
            if declared[name] != committed[name]
        ]
        if differences:
            raise QueryChangedError(where, sorted(differences))


def _written(schema: pl.Schema) -> dict[str, str]:
    written = {name: str(dtype) for name, dtype in schema.items()}
    return {
        name: text if len(text) <= _LONG else f"{text[:_LONG]}... {digest(text.encode())}"
        for name, text in written.items()
    }
