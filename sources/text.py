"""How are files of lines read, and their records told apart: CSV, JSON objects, plain lines?"""

from __future__ import annotations

import glob
import re
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from unbounded.errors import PlanError
from unbounded.sources.folder import Glimpse
from unbounded.sources.options import Options
from unbounded.sources.reading import EDGE, LENIENT, NOTHING, FromPath, TextFormat, differences

__all__ = ["Csv", "Lines", "Ndjson"]

_MAGIC = 16  # bytes that tell a compression
_LINE = re.compile(rb"[^\n]*+\n?")


@dataclass(frozen=True)
class Csv:
    options: Options
    is_text: ClassVar[bool] = True
    says_types: ClassVar[bool] = False
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = False
    edges: ClassVar[tuple[int, int]] = (EDGE, 1)
    lenient: ClassVar[tuple[str, ...]] = LENIENT

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.tail == str(self.options.get("eol_char", "\n")).encode()

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        names_only = {**self.options, "infer_schema": False, "schema_overrides": None}
        try:
            names = pl.scan_csv(glimpse.head, **names_only).collect_schema().names()
        except (pl.exceptions.PolarsError, OSError):  # more comments than the head holds, or cut compression
            return None
        if self.options.get("has_header", True):
            return differences(dict.fromkeys(names), columns)
        return [] if len(names) == len(columns) else [f"it has {len(names)} columns, expected {len(columns)}"]

    @property
    def record(self) -> re.Pattern[bytes]:
        end, separator, quote = (
            re.escape(str(self.options.get(name, default)).encode())
            for name, default in (("eol_char", "\n"), ("separator", ","), ("quote_char", '"'))
        )
        if self.options.get("quote_char", '"') is None:
            return re.compile(rb"[^%b]*+%b?" % (end, end))
        # A quote opens a field only where the field begins. One that is never closed takes the rest of the text, for
        # lines that may stand within a field are no rows; any other mistake takes its line.
        opened = rb"%b(?:[^%b]++|%b%b)*+" % (quote, quote, quote, quote)
        field = rb"(?:%b%b(?=[%b%b\r]|\Z)|(?!%b)[^%b%b]*+)" % (opened, quote, separator, end, quote, separator, end)
        whole = rb"%b(?:%b%b)*+\r?(?:%b|\Z)" % (field, separator, field, end)
        unclosed = rb"(?:%b%b)*+%b\Z" % (field, separator, opened)
        return re.compile(rb"%b|%b|[^%b]*+%b?" % (whole, unclosed, end, end))

    def begun(self, text: bytes, columns: pl.Schema) -> tuple[TextFormat, bytes, int]:
        if not self.options.get("has_header", True):
            # With a header of its own: else Polars counts the columns in the first record, whichever that is.
            # The mark of UTF-8 is passed over where a text begins, and would be a part of a value behind that header.
            return (
                Csv({**self.options, "has_header": True}),
                self._header(columns),
                len(BOM_UTF8) * text.startswith(BOM_UTF8),
            )
        comment = str(self.options.get("comment_prefix") or "\n").encode()
        for record in self.record.finditer(text):
            if record.group().strip() and not record.group().startswith(comment):
                return self, text[: record.end()], record.end()
        return self, text, len(text)

    def _header(self, columns: pl.Schema) -> bytes:
        end, separator, quote = (
            str(self.options.get(name, default) or "")
            for name, default in (("eol_char", "\n"), ("separator", ","), ("quote_char", '"'))
        )
        names = [f"{quote}{name.replace(quote, 2 * quote) if quote else name}{quote}" for name in columns]
        return (separator.join(names) + end).encode()

    def looks_broken(self, record: bytes, head: bytes) -> bool:
        separator = str(self.options.get("separator", ",")).encode()
        quote = str(self.options.get("quote_char", '"') or "\n\n").encode()
        wide = quote not in record and record.count(separator) > head.count(separator)
        return (wide and not self.options.get("truncate_ragged_lines")) or not _is_utf8(record)

    def leniently(self) -> TextFormat:
        return Csv({**self.options, "ignore_errors": True})

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        return pl.scan_csv(files, schema=columns, glob=False, include_file_paths=from_path.path, **self.options)


_SMALL = (pl.Int8, pl.Int16, pl.UInt8, pl.UInt16)


@dataclass(frozen=True)
class Ndjson:
    options: Options
    is_text: ClassVar[bool] = True
    says_types: ClassVar[bool] = False
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = False
    edges: ClassVar[tuple[int, int]] = (_MAGIC, 1)
    lenient: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for option, only in (("missing_columns", "insert"), ("extra_columns", "ignore")):
            if self.options.get(option, only) != only:
                raise PlanError(
                    f"scan_ndjson({option}={self.options[option]!r}): each line has its own keys, and in Polars a "
                    f"missing one is null and another is passed over. Leave it out, or write {option}={only!r}"
                )

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.tail == b"\n"

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        return []

    @property
    def record(self) -> re.Pattern[bytes]:
        return _LINE

    def begun(self, text: bytes, columns: pl.Schema) -> tuple[TextFormat, bytes, int]:
        return self, b"", 0

    def looks_broken(self, record: bytes, head: bytes) -> bool:
        trimmed = record.strip()
        return bool(trimmed) and (trimmed[:1] != b"{" or trimmed[-1:] != b"}" or not _is_utf8(record))

    def leniently(self) -> TextFormat:
        return Ndjson({**self.options, "ignore_errors": True})

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        # The one scan without `glob=False`: a name with a bracket would silently match nothing.
        found = [glob.escape(file) if isinstance(file, str) else file for file in files]
        options = {name: value for name, value in self.options.items() if not name.endswith("_columns")}
        # Polars 2.1 panics at a number that a small integer does not hold.
        small = {name: dtype for name, dtype in (columns or {}).items() if dtype in _SMALL}
        wide = None if columns is None else pl.Schema({**columns, **dict.fromkeys(small, pl.Int64())})
        rows = pl.scan_ndjson(found, schema=wide, include_file_paths=from_path.path, **options)  # type: ignore[arg-type]  # a list of one kind
        return rows.cast(small, strict=not options.get("ignore_errors")) if small else rows  # type: ignore[arg-type]  # dtypes by name


@dataclass(frozen=True)
class Lines:
    options: Options
    is_text: ClassVar[bool] = True
    says_types: ClassVar[bool] = True
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = False
    edges: ClassVar[tuple[int, int]] = (_MAGIC, 1)
    lenient: ClassVar[tuple[str, ...]] = ()

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.tail == b"\n"

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        return []

    @property
    def record(self) -> re.Pattern[bytes]:
        return _LINE

    def begun(self, text: bytes, columns: pl.Schema) -> tuple[TextFormat, bytes, int]:
        return self, b"", 0

    def looks_broken(self, record: bytes, head: bytes) -> bool:
        return not _is_utf8(record)

    def leniently(self) -> TextFormat:
        return self

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        return pl.scan_lines(files, glob=False, include_file_paths=from_path.path)  # type: ignore[arg-type]  # bytes work


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
