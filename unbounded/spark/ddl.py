"""Which columns does a text in Spark's DDL name?

    id INT, tags ARRAY<STRING>, place STRUCT<x: DOUBLE, y: DOUBLE>

Types and names are read as Spark reads them, in any case. `NOT NULL` and `COMMENT` are accepted and say nothing
here: a file may always lack a value. `TIMESTAMP` is an instant, `Datetime("us", "UTC")`; `TIMESTAMP_NTZ` a time on
a wall, `Datetime("us")`.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

import polars as pl

from unbounded.errors import PlanError, nearest

__all__ = ["schema_of_ddl"]

_PLAIN: Final[dict[str, pl.DataType]] = {
    "BIGINT": pl.Int64(),
    "BINARY": pl.Binary(),
    "BOOLEAN": pl.Boolean(),
    "BYTE": pl.Int8(),
    "DATE": pl.Date(),
    "DOUBLE": pl.Float64(),
    "FLOAT": pl.Float32(),
    "INT": pl.Int32(),
    "INTEGER": pl.Int32(),
    "LONG": pl.Int64(),
    "REAL": pl.Float32(),
    "SHORT": pl.Int16(),
    "SMALLINT": pl.Int16(),
    "STRING": pl.String(),
    "TIMESTAMP": pl.Datetime("us", "UTC"),
    "TIMESTAMP_LTZ": pl.Datetime("us", "UTC"),
    "TIMESTAMP_NTZ": pl.Datetime("us"),
    "TINYINT": pl.Int8(),
    "VOID": pl.Null(),
}
_TEXTS: Final = ("CHAR", "CHARACTER", "VARCHAR")
_DECIMALS: Final = ("DEC", "DECIMAL", "NUMERIC")
_NESTED: Final = ("ARRAY", "STRUCT")
_REFUSED: Final = {
    "GEOGRAPHY": "BINARY: Polars has no such type",
    "GEOMETRY": "BINARY: Polars has no such type",
    "INTERVAL": "BIGINT, and pl.duration(...) of it: the formats read here hold no interval",
    "MAP": "ARRAY<STRUCT<key: K, value: V>> for parquet, STRUCT<...> of known names for json: Polars has no maps",
    "TIME": "STRING, and pl.col(...).str.to_time() of it",
    "VARIANT": "STRING, and pl.col(...).str.json_decode(dtype) of it: Polars has no such type",
}
_KNOWN: Final = (*_PLAIN, *_TEXTS, *_DECIMALS, *_NESTED, *_REFUSED)

_AROUND: Final = 70  # signs of a text shown before and behind the place of an error

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<quoted>`(?:[^`]|``)*`)
    | (?P<text>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*")
    | (?P<word>\w+)
    | (?P<sign>[<>(),:])
    | (?P<end>$)
    )""",
    re.VERBOSE | re.DOTALL,
)


def schema_of_ddl(text: str) -> pl.Schema:
    """The columns that a text in Spark's DDL names, `STRUCT<...>` around them or not.

    PlanError, with the place in the text, for what is no DDL, for types that Polars lacks, and for names given twice.

    >>> schema_of_ddl("id INT NOT NULL, `at time` TIMESTAMP COMMENT 'by the clock of the sensor'")
    Schema([('id', Int32), ('at time', Datetime(time_unit='us', time_zone='UTC'))])
    """
    reader = _Reader(text)
    if reader.word.upper() == "STRUCT" and reader.after == "<":
        dtype = reader.dtype()
        assert isinstance(dtype, pl.Struct)
        columns = pl.Schema({field.name: field.dtype for field in dtype.fields})
    else:
        columns = pl.Schema(reader.columns(until="end"))
    reader.expect("end", "a comma or the end")
    return columns


class _Reader:
    """A text and how far it was read: the next token, and where it stands."""

    def __init__(self, text: str) -> None:
        self._text, self._next = text, 0
        self._advance()

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._next)
        if found is None:
            self.place = self._next + len(self._text[self._next :]) - len(self._text[self._next :].lstrip())
            self._refuse(f"has {self._text[self.place]!r} here", "names, types, commas and brackets")
        assert found.lastgroup is not None
        self.kind = found.lastgroup
        self.place, self._next = found.start(self.kind), found.end()
        self.token = found[self.kind]

    @property
    def word(self) -> str:
        return self.token if self.kind == "word" else ""

    @property
    def after(self) -> str:
        """The sign behind the next token."""
        found = _TOKEN.match(self._text, self._next)
        return found["sign"] or "" if found else ""

    def _refuse(self, what: str, instead: str) -> NoReturn:
        # One line, each sign in its place, and of a long text what stands around.
        first = max(0, self.place - _AROUND)
        line = re.sub(r"\s", " ", self._text)[first : self.place + _AROUND]
        raise PlanError(f"the schema {what}. Write {instead}:\n  {line}\n  {' ' * (self.place - first)}^")

    def _taken(self, sign: str) -> bool:
        """Whether the next token is this sign or word, which is then read."""
        if self.kind not in ("sign", "word") or self.token.upper() != sign:
            return False
        self._advance()
        return True

    def expect(self, sign: str, instead: str) -> None:
        """Read a sign, a word or the end, which must come now."""
        if sign == "end":
            if self.kind != "end":
                self._refuse(f"goes on with {self.token!r}", instead)
        elif not self._taken(sign):
            self._refuse(f"has {self._shown()} here", instead)

    def _shown(self) -> str:
        return repr(self.token) if self.token else "its end"

    def columns(self, *, until: str) -> dict[str, pl.DataType]:
        """Names and types, separated by commas."""
        found: dict[str, pl.DataType] = {}
        if self.kind == "end" or (until == ">" and self.token == ">"):
            self._refuse("names no column", "a name and a type, such as 'id INT'")
        while True:
            place, name = self.place, self._name()
            if name in found:
                self.place = place
                self._refuse(f"names {name!r} twice", "each column once")
            self._taken(":")
            found[name] = self.dtype()
            self._details()
            if not self._taken(","):
                return found

    def _name(self) -> str:
        if self.kind not in ("word", "quoted"):
            self._refuse(f"has {self._shown()} where a column begins", "a name, in `backticks` if it has other signs")
        name = self.token[1:-1].replace("``", "`") if self.kind == "quoted" else self.token
        self._advance()
        return name

    def _details(self) -> None:
        """`NOT NULL` and `COMMENT '...'`, which say nothing about the type."""
        if self._taken("NOT"):
            self.expect("NULL", "NULL behind NOT")
        if self._taken("COMMENT"):
            if self.kind != "text":
                self._refuse(f"has {self._shown()} behind COMMENT", "a text in quotes")
            self._advance()
        if self.word.upper() in ("DEFAULT", "GENERATED"):
            self._refuse(f"says {self.token}", "the column alone, and .fill_null(...) behind the scan")

    def dtype(self) -> pl.DataType:
        """One type."""
        name = self.word.upper()
        if name in _REFUSED:
            self._refuse(f"has the type {self.token}", _REFUSED[name])
        if name not in _KNOWN:
            shown = f"has {self._shown()} where a type begins" if not name else f"has no type {self.token!r}"
            self._refuse(f"{shown}{nearest(name, _KNOWN)}", "a type such as INT, STRING or TIMESTAMP")
        self._advance()
        if name in _NESTED:
            return self._nested(name)
        if name in _DECIMALS:
            return self._decimal()
        if name in _TEXTS:
            self._numbers(1)
            return pl.String()
        if name == "STRING" and self._taken("COLLATE"):
            self._name()
        return _PLAIN[name]

    def _nested(self, name: str) -> pl.DataType:
        self.expect("<", f"'<' behind {name}")
        found: pl.DataType = pl.List(self.dtype()) if name == "ARRAY" else pl.Struct(self.columns(until=">"))
        self.expect(">", "'>'" if name == "ARRAY" else "',' or '>'")
        return found

    def _decimal(self) -> pl.DataType:
        place = self.place
        precision, scale = [*self._numbers(2), 0][:2] if self.token == "(" else (10, 0)
        if scale > precision or not 1 <= precision <= 38:
            self.place = place
            self._refuse(f"has DECIMAL({precision}, {scale})", "1 to 38 digits, no more of them behind the point")
        return pl.Decimal(precision, scale)

    def _numbers(self, most: int) -> list[int]:
        """One number, or up to `most`, in brackets."""
        found: list[int] = []
        self.expect("(", "'(' and a length")
        while len(found) < most:
            if not self.word.isdecimal():
                self._refuse(f"has {self._shown()} here", "a whole number")
            found.append(int(self.word))
            self._advance()
            if len(found) == most or not self._taken(","):
                break
        self.expect(")", "')'")
        return found
