"""How does one look at a frame without running a query?"""

from __future__ import annotations

from typing import get_args

import polars as pl

from unbounded.cards import frame_card
from unbounded.connectors import Mode, Offset, Remembers
from unbounded.operators.flow import Flow
from unbounded.operators.modes import reasons_against
from unbounded.plan import Node, Scan, evaluate, walk

__all__ = ["Viewable"]


class Viewable:
    """The verbs that show a frame: its columns, its plan, and its answer over what is there now."""

    _plan: Node

    def collect_schema(self) -> pl.Schema:
        """Column names and types of the answer."""
        return pl.Schema(self._plan.schema)

    @property
    def schema(self) -> pl.Schema:
        """Column names and types of the answer."""
        return self.collect_schema()

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self._plan.schema.names()

    @property
    def dtypes(self) -> list[pl.DataType]:
        """The types of the columns."""
        return self._plan.schema.dtypes()

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self._plan.schema)

    def clear(self, n: int = 0) -> pl.LazyFrame:
        """A bounded frame of the same columns with `n` rows of nulls."""
        return pl.DataFrame(schema=self._plan.schema).clear(n).lazy()

    def explain(self, *, output_mode: Mode | None = None) -> str:
        """The plan from sink to sources, what is remembered for how long, what is late, and the possible output modes.

        Without a mode it is explained in the first possible one of append, update and complete.
        """
        refused = {mode: reasons_against(self._plan, mode) for mode in get_args(Mode)}
        possible = [mode for mode, reasons in refused.items() if not reasons]
        shown: Mode = output_mode or (possible[0] if possible else "append")
        head = f"in {shown} mode (possible: {', '.join(possible) or 'none'})"
        reasons = "".join(f"\n\nrefused in {shown} mode: {reason}" for reason in refused[shown])
        return f"{head}\n\n{Flow(self._plan, shown).explain()}{reasons}"

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}: {dtype}" for name, dtype in self._plan.schema.items())
        return f"<StreamFrame [{columns}], unbounded; look at it with .snapshot() or .show()>"

    def _repr_html_(self) -> str:
        return frame_card(self._plan.schema, self.explain())

    def snapshot(self) -> pl.LazyFrame:
        """The same query as bounded Polars over the rows that are there now: no lateness, no checkpoint."""
        return self._bounded(None)

    def show(self, limit: int | None = 5) -> None:
        """Print `limit` rows of the answer over the first file (or unit) of each source alone."""
        scans = [node for node in walk(self._plan) if isinstance(node, Scan)]
        names = ", ".join(node.name for node in scans if isinstance(node.source, Remembers))
        rows = self._bounded(1)
        if names:
            print(f"over the first file of {names} only:")
        print(rows.collect() if limit is None else rows.head(limit).collect())

    def _bounded(self, units: int | None) -> pl.LazyFrame:
        tables: dict[str, pl.LazyFrame] = {}
        for node in walk(self._plan):
            if isinstance(node, Scan):
                source = node.source.fresh(units=units) if isinstance(node.source, Remembers) else node.source
                until: Offset | None = source.latest(None, None, limited=units is not None)
                empty = pl.LazyFrame(schema=source.schema)
                tables[node.name] = empty if until is None else source.read(None, until)
        return evaluate(self._plan, tables)
