"""Which records of a text file can Polars not read, where do they stand, and why?

Polars itself is the judge: a record is bad if and only if Polars cannot read it alone as the pinned columns. Only
files that fail as a whole come here, so bad input alone pays for it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from unbounded.sources.compression import contents
from unbounded.sources.reading import TextFormat

__all__ = ["LETTERS", "Sifted", "sift"]

LETTERS = pl.Schema({"line": pl.Int64(), "record": pl.Binary(), "reason": pl.String()})
"""One row per bad record: its first line (from 1; null for a whole file), its bytes, and what Polars says of it."""

_UNREADABLE = (pl.exceptions.PolarsError, OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Sifted:
    """The rows of a file without its bad records, and these."""

    rows: pl.DataFrame
    bad: pl.DataFrame


def sift(form: TextFormat, data: bytes, columns: pl.Schema) -> Sifted:
    """Part what Polars reads as these columns from what it does not. A file whose head is bad is bad as a whole."""
    try:
        records = _Records(form, contents(data), columns)
        records.read(())
    except _UNREADABLE as error:
        whole = {"line": [None], "record": [data], "reason": [_first_line(error)]}
        return Sifted(columns.to_frame(), pl.DataFrame(whole, schema=LETTERS))
    reasons = records.bad(range(len(records)))
    good = records.read([number for number in range(len(records)) if number not in reasons])
    return Sifted(good, records.letters(reasons))


class _Records:
    """The records of a text, any of which can be read behind its head."""

    def __init__(self, form: TextFormat, text: bytes, columns: pl.Schema) -> None:
        self._form, self._head, begin = form.begun(text, columns)
        self._text, self._columns = text, columns
        ends = [found.end() for found in form.record.finditer(text, begin) if found.group()]
        self._parts = [slice(since, until) for since, until in zip([begin, *ends], ends, strict=False)]

    def __len__(self) -> int:
        return len(self._parts)

    def read(self, numbers: Sequence[int]) -> pl.DataFrame:
        """Polars' rows of these records."""
        return self._rows(self._form, self._joined(numbers), self._columns)

    def bad(self, numbers: Sequence[int]) -> dict[int, str]:
        """The bad records among these, with their reasons."""
        found: dict[int, str] = {}
        if not self._are_good(numbers) and not self._mistyped(numbers):
            suspects = [number for number in numbers if self._form.looks_broken(self._record(number), self._head)]
            found = {number: reason for one in suspects for number, reason in self._halved([one])}
        rest = [number for number in numbers if number not in found] if found else numbers
        return dict(sorted([*found.items(), *self._halved(rest)]))

    def _halved(self, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
        """The bad records among these: by halves, of which most are good."""
        try:
            self.read(numbers)
        except _UNREADABLE as error:
            mistyped = self._mistyped(numbers)
            rest = [number for number in numbers if number not in mistyped] if mistyped else numbers
            if mistyped and self._are_good(rest):
                yield from mistyped.items()
            elif len(numbers) == 1:
                yield numbers[0], _first_line(error)
            else:
                middle = len(numbers) // 2
                yield from self._halved(numbers[:middle])
                yield from self._halved(numbers[middle:])

    def letters(self, reasons: dict[int, str]) -> pl.DataFrame:
        """The bad records, as they are kept."""
        lines, line, at = [], 1, 0
        for part in (self._parts[number] for number in reasons):
            line += self._text.count(b"\n", at, part.start)
            at = part.start
            lines.append(line)
        records = [self._record(number) for number in reasons]
        return pl.DataFrame({"line": lines, "record": records, "reason": list(reasons.values())}, schema=LETTERS)

    def _record(self, number: int) -> bytes:
        return self._text[self._parts[number]]

    def _are_good(self, numbers: Sequence[int]) -> bool:
        try:
            self.read(numbers)
        except _UNREADABLE:
            return False
        return True

    def _mistyped(self, numbers: Sequence[int]) -> dict[int, str]:
        """Records with a value that is null as its type and is not null as text: all of them by two reads.

        Empty where these reads do not tell, as for records without a form, or comments between them.
        """
        text, form = self._joined(numbers), self._form.leniently()
        try:
            typed = self._rows(form, text, self._columns)
            plain = self._rows(form, text, pl.Schema(dict.fromkeys(self._columns, pl.String())))
        except _UNREADABLE:
            return {}
        if not typed.height == plain.height == len(numbers):
            return {}
        found: dict[int, str] = {}
        for name, dtype in self._columns.items():
            for index in (typed[name].is_null() & plain[name].is_not_null()).arg_true():  # bad records alone
                found.setdefault(numbers[index], f"column {name!r}: {plain[name][index][:100]!r} is not {dtype}")
        return dict(sorted(found.items()))

    def _joined(self, numbers: Sequence[int]) -> bytes:
        return b"".join([self._head, *map(self._record, numbers)])

    def _rows(self, form: TextFormat, text: bytes, columns: pl.Schema) -> pl.DataFrame:
        return form.scan([text], columns).collect()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
