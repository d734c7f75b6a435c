"""How are Avro files read lazily, which Polars can only read at once?

An object container file is `Obj`, a map with the schema, a marker of 16 random bytes, and blocks that each end with
that marker (Avro 1.12, "Object Container Files"). So a file that ends with its own marker is complete.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Literal

import polars as pl
from polars.io.plugins import register_io_source

from unbounded.errors import ConnectorError

__all__ = ["header", "scan", "schema"]

_MAGIC = b"Obj\x01"
_MARKER = 16  # bytes


def header(head: bytes) -> bytes | None:
    """The first bytes of a file up to its first marker; None if these are too few, or none of Avro."""
    if not head.startswith(_MAGIC):
        return None
    at = len(_MAGIC)
    try:
        while True:
            entries, at = _number(head, at)
            if entries == 0:
                found = head[: at + _MARKER]
                return found if len(found) == at + _MARKER else None
            if entries < 0:  # then the size of the entries stands before them
                _, at = _number(head, at)
            for _ in range(2 * abs(entries)):  # key and value
                length, at = _number(head, at)
                at += length
    except IndexError:
        return None


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7


def schema(file: str | bytes, name: str) -> pl.Schema:
    """The columns of a file, of which the header is enough. ConnectorError for types that Polars does not know."""
    return _read(file, name, rows=0).schema


def scan(
    files: list[str] | list[bytes],
    columns: pl.Schema | None,
    *,
    missing_columns: Literal["insert", "raise"] = "raise",
    extra_columns: Literal["ignore", "raise"] = "raise",
) -> pl.LazyFrame:
    """One lazy frame over paths or contents, read file by file; with `columns`, which all of them must have."""
    wanted = schema(files[0], _named(files[0])) if columns is None else columns

    def read(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for file in files:
            rows = _read(file, _named(file)).match_to_schema(
                wanted, missing_columns=missing_columns, extra_columns=extra_columns
            )
            if left is not None:
                rows = rows.head(left)
                left -= rows.height
            if with_columns is not None:
                rows = rows.select(with_columns)
            yield rows if predicate is None else rows.filter(predicate)

    return register_io_source(read, schema=wanted)


def _read(file: str | bytes, name: str, *, rows: int | None = None) -> pl.DataFrame:
    try:
        return pl.read_avro(io.BytesIO(file) if isinstance(file, bytes) else file, n_rows=rows)
    except (pl.exceptions.PanicException, pl.exceptions.ComputeError) as error:
        # A panic is no Exception, and would end the process of a query without a word of which file it was.
        raise ConnectorError(
            f"Polars cannot read the Avro file {name}: {error}. It knows no maps, no unions but with null, and no "
            "codecs but deflate and snappy. Write it otherwise, or move it away"
        ) from error


def _named(file: str | bytes) -> str:
    return f"of {len(file)} bytes" if isinstance(file, bytes) else file
