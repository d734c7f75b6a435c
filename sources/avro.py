"""How are Avro files read lazily, which Polars can only read at once?

An object container file is `Obj`, a map with the schema, a marker of 16 random bytes, and blocks that each end with
that marker (Avro 1.12, "Object Container Files"). So a file that ends with its own marker is complete.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl
from polars.io.plugins import register_io_source

from unbounded.errors import ConnectorError
from unbounded.sources.reading import EDGE

__all__ = ["Header", "header", "scan", "schema"]

_MAGIC = b"Obj\x01"
_MARKER = 16  # bytes


@dataclass(frozen=True)
class Header:
    """What stands before the first block: `length` bytes with the schema in JSON, and the marker of the file."""

    schema: bytes
    marker: bytes
    length: int

    @property
    def empty_file(self) -> bytes:
        """A file of the same columns without rows, and without the codec: of such files Polars reads no schema."""
        key = b"avro.schema"
        entry = b"\x02" + _spelt(len(key)) + key + _spelt(len(self.schema)) + self.schema
        return _MAGIC + entry + b"\x00" + self.marker


def header(head: bytes) -> Header | None:
    """The header of a file that begins so; None if these bytes are too few, or none of Avro."""
    if not head.startswith(_MAGIC):
        return None
    at = len(_MAGIC)
    found: dict[bytes, bytes] = {}
    try:
        while True:
            entries, at = _number(head, at)
            if entries == 0:
                marker = head[at : at + _MARKER]
                return Header(found[b"avro.schema"], marker, at + _MARKER) if len(marker) == _MARKER else None
            if entries < 0:  # then the size of the entries stands before them
                _, at = _number(head, at)
            for _ in range(abs(entries)):
                key, at = _text(head, at)
                found[key], at = _text(head, at)
    except (IndexError, KeyError):
        return None


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = _number(data, at)
    return data[at : at + length], at + length


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


def _spelt(number: int) -> bytes:
    """A number that is not negative, as `_number` reads it."""
    value, spelt = number << 1, bytearray()
    while value >= 0x80:
        spelt.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*spelt, value])


def schema(found: Header, name: str) -> pl.Schema:
    """The columns that a header tells. ConnectorError for types that Polars does not know."""
    return _read(found.empty_file, name).schema


def scan(
    files: list[str] | list[bytes],
    columns: pl.Schema | None,
    *,
    missing_columns: Literal["insert", "raise"] = "raise",
    extra_columns: Literal["ignore", "raise"] = "raise",
) -> pl.LazyFrame:
    """One lazy frame over paths or contents, read file by file; with `columns`, which all of them must have."""
    wanted = _schema_of(files[0]) if columns is None else columns

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


def _schema_of(file: str | bytes) -> pl.Schema:
    found = header(_head(file))
    return _read(file, _named(file), rows=0).schema if found is None else schema(found, _named(file))


def _head(file: str | bytes) -> bytes:
    if isinstance(file, bytes):
        return file[:EDGE]
    with open(file, "rb") as opened:
        return opened.read(EDGE)


def _read(file: str | bytes, name: str, *, rows: int | None = None) -> pl.DataFrame:
    try:
        return pl.read_avro(io.BytesIO(file) if isinstance(file, bytes) else file, n_rows=rows)
    except (pl.exceptions.PanicException, pl.exceptions.ComputeError) as error:
        head = _head(file)
        found = header(head)
        if found is not None and len(head) == found.length and head != found.empty_file:
            return _read(found.empty_file, name)  # Polars cannot read a file with a codec and no block
        # A panic is no Exception, and would end the process of a query without a word of which file it was.
        raise ConnectorError(
            f"Polars cannot read the Avro file {name}: {' '.join(str(error).split())[:200]}. It knows no maps, no "
            "unions but with null, and no codecs but deflate and snappy. Write it otherwise, or move it away"
        ) from error


def _named(file: str | bytes) -> str:
    return f"of {len(file)} bytes" if isinstance(file, bytes) else file
