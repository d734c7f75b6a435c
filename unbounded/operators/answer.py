"""How does what an operator remembers look to people: under the user's names, and not in the parts that are kept?

An answer can be written into the checkpoint, so that the state is readable without the query. What a Python function
takes part in cannot: state and logs hold no code.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import polars as pl

from unbounded.errors import CorruptRecordError
from unbounded.expressions import python_function
from unbounded.expressions.now import Moment, at, tells_time
from unbounded.expressions.trees import Tree, expression, parsed
from unbounded.operators import Batch, Tables
from unbounded.operators.pieces import PieceValues
from unbounded.operators.sliding import Sliding
from unbounded.operators.values import ValueTables
from unbounded.partials.columns import Values
from unbounded.partials.sketches import merging, opening
from unbounded.plan.windows import LABEL
from unbounded.state import MultimapSpec, TableSpec

__all__ = ["Answer", "schema_from", "schema_text", "spec_from", "spec_record"]

_FIRST = Batch(0, datetime(1970, 1, 1, tzinfo=UTC), None, None)  # stands for the batch in what is written down


@dataclass(frozen=True, eq=False)
class Answer:
    """The rows of `table`, sorted by `order`, as `columns`.

    `columns` read those of the table, the lists that `values` make of their own tables, and what `opened` makes; those
    named in `rows` hold several values in a list, and each becomes a row. `parts` say what the first values of the
    table are, for people. Where `sliding` windows are kept by slices, these are put together first, by `merge`.
    """

    table: str
    columns: tuple[pl.Expr, ...]
    order: tuple[str, ...] = ()
    values: tuple[ValueTables | PieceValues, ...] = ()
    opened: tuple[pl.Expr, ...] = ()
    rows: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    sliding: Sliding | None = None
    merge: tuple[pl.Expr, ...] = ()

    def over(self, shown: pl.DataFrame, tables: Tables, moment: Moment, until: int | None = None) -> pl.LazyFrame:
        """The answer of rows of the table in a batch of that moment; of slices, `Sliding.windows` of them."""
        for one in self.values:
            shown = one.listed(shown, tables)
        held = shown.lazy() if self.sliding is None else self.sliding.windows(shown, self.merge, until)
        if self.order:
            held = held.sort(self.order)
        if self.opened:
            held = held.with_columns(self.opened)
        found = held.select(at(self.columns, moment) if self._tells_time else self.columns)
        return found.explode(self.rows) if self.rows else found

    @cached_property
    def _tells_time(self) -> bool:
        return tells_time(self.columns)

    def named(self, names: Mapping[str, str | None]) -> Answer:
        """With columns under other names; None leaves one out."""
        kept = [(one, names.get(one.meta.output_name(), one.meta.output_name())) for one in self.columns]
        columns = (one if name == one.meta.output_name() else one.alias(name) for one, name in kept if name is not None)
        return replace(self, columns=tuple(columns))

    def told(self, name: str, spec: TableSpec | MultimapSpec) -> TableSpec | MultimapSpec:
        """The shape of one of the operator's tables, with what people see of it where others can query it."""
        if name != self.table or isinstance(spec, MultimapSpec):
            return spec
        shown = self.columns
        if self.sliding is not None:  # a row is a slice, which must not be taken for a window
            shown = tuple(_of_slice(one) if one.meta.root_names() == [LABEL] else one for one in shown)
        return replace(spec, shown=shown, parts=self.parts)

    # On disk ------------------------------------------------------------------------------------
    def record(self) -> dict[str, Any]:
        """As JSON; without `columns` if they are not to be had without the query."""
        written = [_written(one) for one in self.columns]
        values = [one.values for one in self.values]
        return {
            "table": self.table,
            "columns": None if None in written else written,
            "order": list(self.order),
            "values": [
                {"name": one.name, "dtype": schema_text({"": one.dtype}), "every": one.every, "uses": sorted(one.uses)}
                for one in values
            ],
            "opened": [one.meta.output_name() for one in self.opened],
            "rows": list(self.rows),
            "parts": list(self.parts),
            "sliding": self.sliding.record() if self.sliding is not None else None,
            "merge": [_written(one) for one in self.merge],
        }

    @staticmethod
    def of(record: Mapping[str, Any], groups: TableSpec | MultimapSpec) -> Answer:
        """The inverse of `record`, which has columns; `groups` is the spec of its table."""
        values = [
            Values(one["name"], pl.col(one["name"]), dtype, one["every"], frozenset(one["uses"]))
            for one in record["values"]
            for dtype in schema_from(one["dtype"]).dtypes()
        ]
        return Answer(
            table=record["table"],
            columns=tuple(map(_read, record["columns"])),
            order=tuple(record["order"]),
            values=tuple(
                ValueTables(one, groups.key, groups.expiry) if isinstance(groups, TableSpec) else PieceValues(one)
                for one in values
            ),
            opened=tuple(map(opening, record["opened"])),
            rows=tuple(record["rows"]),
            parts=tuple(record["parts"]),
            sliding=Sliding(**sliding) if (sliding := record.get("sliding")) is not None else None,
            merge=tuple(
                _read(text) if text is not None else merging(name, part)
                for text, name, part in zip(record.get("merge", ()), groups.values, record["parts"], strict=False)
            ),
        )


def spec_record(spec: TableSpec | MultimapSpec) -> dict[str, Any]:
    """The shape of a table or a multimap as JSON; how a table merges is not in it."""
    shape = {"key": schema_text(spec.key), "values": schema_text(spec.values), "expiry": spec.expiry}
    return {**shape, "order": list(spec.order)} if isinstance(spec, MultimapSpec) else shape


def spec_from(record: Mapping[str, Any]) -> TableSpec | MultimapSpec:
    """A shape to read with; such a table merges by taking the newest row."""
    key, values, expiry = schema_from(record["key"]), schema_from(record["values"]), record["expiry"]
    if "order" in record:
        return MultimapSpec(key, values, expiry, tuple(record["order"]))
    return TableSpec(key, values, tuple(pl.col(name).last() for name in values), expiry)


def schema_text(schema: Mapping[str, pl.DataType]) -> str:
    """A schema exactly, as the state itself is written: an Arrow stream without rows."""
    stream = io.BytesIO()
    pl.DataFrame(schema=schema).write_ipc_stream(stream)
    return base64.b64encode(stream.getvalue()).decode()


def schema_from(text: str) -> pl.Schema:
    """The inverse of `schema_text`."""
    return pl.read_ipc_stream(base64.b64decode(text)).schema


def _of_slice(label: pl.Expr) -> pl.Expr:
    return label.alias(f"slice of {label.meta.output_name()}")


def _written(expr: pl.Expr) -> str | None:
    """Polars' own bytes of an expression; None if there may be code in them."""
    if python_function(expr):
        return None
    data = at(expr, _FIRST).meta.serialize()
    return base64.b64encode(data).decode() if _is_plain(parsed(data)) else None


def _read(text: str) -> pl.Expr:
    tree = parsed(base64.b64decode(text))
    if not _is_plain(tree):
        raise CorruptRecordError(
            "what is written down of an operator in the checkpoint has code in it, which is never written there. "
            "Restore the folder operators/ from a backup"
        )
    return expression(tree)


def _is_plain(tree: Tree) -> bool:
    """Whether nothing of a tree can be code: that stands in bytes, or lists of their numbers, outside of literals."""
    match tree:
        case bytes():
            return False
        case dict():
            return all(name == "Literal" or _is_plain(part) for name, part in tree.items())
        case list():
            parts: Sequence[Tree] = tree
            return not (parts and all(type(part) is int for part in parts)) and all(map(_is_plain, parts))
    return True
