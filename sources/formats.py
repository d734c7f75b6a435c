"""How is a file of one format read, what is its sign of being complete, and which columns does it say it has?"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import polars as pl

from unbounded.errors import PlanError
from unbounded.sources import avro
from unbounded.sources.folder import Glimpse
from unbounded.sources.options import FormatName, Options
from unbounded.sources.reading import EDGE, LENIENT, NOTHING, Format, FromPath, differences
from unbounded.sources.text import Csv, Lines, Ndjson

__all__ = ["format_of", "open_format"]

_SUFFIXES: Mapping[str, FormatName] = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "csv",
    "ndjson": "ndjson",
    "jsonl": "ndjson",
    "json": "ndjson",
    "ipc": "ipc",
    "arrow": "ipc",
    "feather": "ipc",
    "avro": "avro",
    "txt": "lines",
    "log": "lines",
}


@dataclass(frozen=True)
class _Parquet:
    options: Options
    is_text: ClassVar[bool] = False
    says_types: ClassVar[bool] = True
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = True
    edges: ClassVar[tuple[int, int]] = (0, EDGE)
    lenient: ClassVar[tuple[str, ...]] = (*LENIENT, "cast_options=")
    _said: dict[str | None, pl.Schema] = field(default_factory=dict, compare=False)
    """The schema of the last file, by what its writer said of it: to find that is a third of the work of parsing it."""

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.file.size >= 12 and glimpse.tail[-4:] in (b"PAR1", b"PARE")

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        try:
            return differences(self._schema(glimpse.tail), columns)
        except (pl.exceptions.PolarsError, OSError):  # a footer larger than the tail, or an encrypted one
            return None

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        return pl.scan_parquet(files, schema=columns, glob=False, **_hive(from_path), **self.options)

    def _schema(self, tail: bytes) -> pl.Schema:
        said = pl.read_parquet_metadata(io.BytesIO(tail)).get("ARROW:schema")
        if said is None or said not in self._said:
            self._said.clear()
            self._said[said] = pl.Schema(pl.read_parquet_schema(io.BytesIO(tail)))
        return self._said[said]


@dataclass(frozen=True)
class _Ipc:
    options: Options
    is_text: ClassVar[bool] = False
    says_types: ClassVar[bool] = True
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = True
    edges: ClassVar[tuple[int, int]] = (0, EDGE)
    lenient: ClassVar[tuple[str, ...]] = LENIENT

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.file.size >= 16 and glimpse.tail[-6:] == b"ARROW1"

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        try:
            return differences(pl.read_ipc_schema(io.BytesIO(glimpse.tail)), columns)
        except (pl.exceptions.PolarsError, OSError):
            return None

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        if columns is None:
            return pl.scan_ipc(files, glob=False, **_hive(from_path))
        # Polars takes the first file's schema, whatever is asked; matching costs nothing when it fits.
        wanted = pl.Schema({**columns, **from_path.schema})
        alike = [files] if not self.options else [[file] for file in files]  # files may differ where that was allowed
        return pl.concat(
            pl.scan_ipc(some, glob=False, **_hive(from_path)).match_to_schema(wanted, **self.options)  # type: ignore[arg-type]  # a list of one kind
            for some in alike
        )


@dataclass(frozen=True)
class _Avro:
    options: Options
    is_text: ClassVar[bool] = False
    says_types: ClassVar[bool] = True
    knows_paths: ClassVar[bool] = False
    knows_hive: ClassVar[bool] = False
    edges: ClassVar[tuple[int, int]] = (EDGE, 16)
    lenient: ClassVar[tuple[str, ...]] = LENIENT

    def is_complete(self, glimpse: Glimpse) -> bool:
        header = avro.header(glimpse.head)
        return len(glimpse.head) == EDGE if header is None else glimpse.tail == header.marker

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        header = avro.header(glimpse.head)
        return None if header is None else differences(avro.schema(header, glimpse.file.name), columns)

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        return avro.scan(files, columns, **self.options)


_FORMATS: Mapping[FormatName, Callable[[Options], Format]] = {
    "parquet": _Parquet,
    "csv": Csv,
    "ndjson": Ndjson,
    "ipc": _Ipc,
    "avro": _Avro,
    "lines": Lines,
}


def open_format(name: FormatName, options: Options) -> Format:
    """A format with options that `check_options` let pass, and `missing_columns`, `extra_columns` if they were given.

    Raises PlanError for a policy of columns that there is not.
    """
    for option, values in (("missing_columns", ("insert", "raise")), ("extra_columns", ("ignore", "raise"))):
        if options.get(option, values[0]) not in values:
            raise PlanError(
                f"scan_{name}({option}={options[option]!r}) is not known. Write {' or '.join(map(repr, values))}"
            )
    return _FORMATS[name](dict(options))


def format_of(name: str) -> FormatName | None:
    """The format that a file's name tells, compression aside."""
    suffixes = [part for part in name.lower().split(".")[1:] if part not in ("gz", "zst", "zlib")]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _hive(from_path: FromPath) -> dict[str, Any]:
    """The options of a Polars scan that say which columns come from the path."""
    if not from_path.hive:
        return {"include_file_paths": from_path.path, "hive_partitioning": False}
    return {"include_file_paths": from_path.path, "hive_partitioning": True, "hive_schema": from_path.hive}
