"""How do rows that somebody hands over become a frame of a schema, and are two frames the same rows?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import polars as pl

from unbounded.errors import PlanError, SchemaMismatchError

__all__ = ["Rows", "Tally", "fitting", "schema_of"]

Rows: TypeAlias = pl.DataFrame | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""A frame, a list of rows, or a dict of columns."""

_SEED = 20240229  # any number, for ever the same
_BARE = (pl.Datetime, pl.Duration, pl.Decimal)  # mean something alone to the readers of Polars, and not to pl.Schema


def schema_of(schema: object) -> pl.Schema:
    """Columns as a user names them: a dict or pairs of names and Polars' types, or Python's; `pl.Datetime` is in us.

    Raises PlanError for anything else, which names all columns whose type says too little.
    """
    try:
        columns: dict[str, Any] = dict(schema)  # type: ignore[call-overload]  # what it is, is asked here
    except (TypeError, ValueError):
        raise PlanError(
            f'{schema!r} is no schema. Write schema={{"time": pl.Datetime("us"), "value": pl.Float64}}; Spark\'s texts '
            "are for ub.read_stream.schema(...)"
        ) from None
    found, wrong = pl.Schema(), list[str]()
    for name, kind in columns.items():
        try:
            # A class only: pl.Datetime("ms") equals pl.Datetime.
            found[name] = pl.Schema({name: kind() if isinstance(kind, type) and kind in _BARE else kind})[name]
        except (TypeError, ValueError):
            wrong.append(f"column {name!r} is {kind!r}")
    if wrong:
        raise PlanError(
            f"the schema has types that say too little, or are none: {', '.join(wrong)}. Write types of Polars, whole: "
            'pl.Int64, pl.Datetime("us"), pl.List(pl.String)'
        )
    return found


def fitting(rows: Rows, schema: pl.Schema) -> pl.DataFrame:
    """The rows with exactly these columns. SchemaMismatchError unless they fit without a cast.

    Columns may come in any order, and a column of nulls fits every type; in a list of rows a missing key is null.
    """
    match rows:
        case pl.DataFrame():
            frame = rows
        case Mapping():
            frame = _from_columns(rows, schema)
        case Sequence() if all(isinstance(row, Mapping) for row in rows):
            frame = _from_rows(rows, schema)
        case _:
            what = f"{type(rows).__name__} is no table. Give a pl.DataFrame, a list of dicts or a dict of columns"
            raise SchemaMismatchError(f"the rows do not fit {dict(schema)}: {what}")
    missing = [f"column {name!r} is missing" for name in schema if name not in frame.schema]
    extra = [f"column {name!r} is not expected" for name in frame.schema if name not in schema]
    other = [
        f"column {name!r} is {kind}, expected {schema[name]}"
        for name, kind in frame.schema.items()
        if name in schema and kind not in (schema[name], pl.Null)
    ]
    if missing or extra or other:
        raise _mismatch("; ".join(missing + other + extra), schema)
    return frame.select(schema.names()).cast(schema)


def _from_rows(rows: Sequence[Mapping[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    unknown = {key: None for row in rows for key in row if key not in schema}
    if unknown:
        raise _mismatch(f"key {next(iter(unknown))!r} is not expected", schema)
    # By columns, since Polars cuts 1.5 to 1 where it builds whole rows.
    return _from_columns({name: [row.get(name) for row in rows] for name in schema}, schema)


def _from_columns(columns: Mapping[str, Any], schema: pl.Schema) -> pl.DataFrame:
    known = {name: kind for name, kind in schema.items() if name in columns}
    try:
        return pl.DataFrame(dict(columns), schema_overrides=known, strict=True)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise _mismatch(str(error).splitlines()[0], schema) from error


def _mismatch(how: str, schema: pl.Schema) -> SchemaMismatchError:
    return SchemaMismatchError(f"the rows do not fit {dict(schema)}: {how}. Nothing was added; cast them first")


@dataclass(frozen=True)
class Tally:
    """So many rows, and their fingerprint: what an offset keeps of rows that must come again as they were."""

    rows: int = 0
    fingerprint: int = 0
    polars: str = pl.__version__

    def plus(self, rows: pl.DataFrame) -> Tally:
        """These rows besides."""
        return Tally(self.rows + rows.height, (self.fingerprint + _fingerprint(rows)) % 2**64, self.polars)

    def agrees(self, then: Mapping[str, Any]) -> bool:
        """Whether these can be the rows of an offset; another version of Polars has other fingerprints."""
        same = self.polars != then["polars"] or self.fingerprint == then["fingerprint"]
        return bool(same and self.rows == then["rows"])


def _fingerprint(rows: pl.DataFrame) -> int:
    """A number of 64 bits that almost certainly differs between different rows, whatever their order.

    Those of two frames, added modulo 2**64, are that of both together. Only for the same version of Polars.
    """
    if not rows.width:
        return rows.height
    return int(rows.select(pl.struct(pl.all()).hash(_SEED).sum()).item() or 0)
