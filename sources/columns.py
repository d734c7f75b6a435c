"""Which columns do the files of a folder have, and which do they have when nobody said?"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import polars as pl

from unbounded.errors import ConnectorError, PlanError, SchemaMismatchError
from unbounded.sources.discovery import Discovery, Limits
from unbounded.sources.folder import File, Folder, Glimpse, LocalFolder
from unbounded.sources.formats import Format

__all__ = ["Conformity", "found_schema", "scan_files", "schema_needed", "spelt"]


def scan_files(folder: Folder, form: Format, files: list[File], columns: pl.Schema | None) -> pl.LazyFrame:
    """One scan over files: by name on the local disk, by their bytes from elsewhere."""
    if isinstance(folder, LocalFolder):
        return form.scan([folder.path(file.name) for file in files], columns)
    return _scan_contents(folder, form, files, columns)


def _scan_contents(folder: Folder, form: Format, files: list[File], columns: pl.Schema | None) -> pl.LazyFrame:
    """One scan over the bytes of files, which are read now. A file that is gone is empty here."""
    contents = [folder.read(file.name) or b"" for file in files]
    column = form.options.get("include_file_paths")
    if column is None:
        return form.scan(contents, columns)
    return pl.concat(  # Polars calls all bytes "in-mem"
        form.scan([content], columns).with_columns(pl.lit(folder.path(file.name)).alias(column))
        for file, content in zip(files, contents, strict=True)
    )


class Conformity:
    """Whether files have the columns that were pinned for their source.

    Mutable, to remember which deviations Polars allowed: a second file of the same kind needs no second look.
    """

    def __init__(self, folder: Folder, form: Format, columns: pl.Schema, description: str) -> None:
        self._folder, self._form, self._columns, self._description = folder, form, columns, description
        self._allowed: set[tuple[str, ...]] = set()

    def check(self, glimpse: Glimpse) -> None:
        """SchemaMismatchError for a file that Polars could not read as the pinned columns.

        Polars itself decides, by its options and by what it tolerates (the order of columns and of struct
        fields), but only where a look at the file's edges finds a difference.
        """
        unlike = self._form.unlike(glimpse, self._columns)
        if unlike == [] or (unlike is not None and tuple(unlike) in self._allowed):
            return
        try:
            rows = scan_files(self._folder, self._form, [glimpse.file], self._columns).head(1).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._mismatch(glimpse.file, "; ".join(unlike) if unlike else str(error)) from error
        if unlike is not None and rows.height:  # Polars does not compare types where there are no rows
            self._allowed.add(tuple(unlike))

    def _mismatch(self, file: File, how: str) -> SchemaMismatchError:
        lenient = f"; or pass {' or '.join(self._form.lenient)}" if self._form.lenient else ""
        return SchemaMismatchError(
            f"{self._folder.path(file.name)} does not fit the columns of {self._description}: {how}. Nothing of it was "
            f"read. Move it away; or choose the files with a glob{lenient}; or start with a new checkpoint and "
            "another schema="
        )


def found_schema(folder: Folder, form: Format, description: str) -> pl.Schema:
    """What Polars says or guesses of the oldest files, path columns included.

    Raises PlanError if there is no file to look at, ConnectorError if Polars cannot read it.
    """
    discovery = Discovery(folder, form, order="oldest_first", min_age=0, clock=time.time)
    files = discovery.take(None, Limits(files=1 if form.says_types else _guessed_from(form)), lambda _: None)
    if not files:
        known = discovery.metrics()
        raise PlanError(
            f"there are no {description} yet (waiting: {known['waiting'] or 'none'}; passed over: "
            f"{known['ignored'] or 'none'}), so their columns are not known. Name them: "
            'schema={"time": pl.Datetime("us"), "value": pl.Float64}'
        )
    try:
        return scan_files(folder, form, files, None).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConnectorError(
            f"cannot tell the columns of {folder.path(files[0].name)}: {error}. Mend the file or move it away, or "
            "name the columns with schema="
        ) from error


def _guessed_from(form: Format) -> int:
    return int(form.options.get("infer_schema_files", 10))  # the default of pl.scan_csv


def schema_needed(folder: Folder, form: Format, function: str, description: str) -> PlanError:
    """The refusal of text without a schema, with one to paste if there are files."""
    because = (
        f"{function} needs schema=: text does not say its types, and a guess could differ from one start to the next"
    )
    try:
        guess = spelt(found_schema(folder, form, description))
    except (PlanError, ConnectorError) as error:
        return PlanError(f"{because}. None can be suggested: {error.message}")
    return PlanError(f"{because}. The oldest files suggest, to be checked and pasted:\n    {guess}")


def spelt(schema: Mapping[str, pl.DataType]) -> str:
    """A schema as Python source: `schema={"time": pl.Datetime("us"), "delay": pl.Int64}`."""
    return f"schema={_spelt_columns(schema)}"


def _spelt_columns(columns: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {_spelt(kind)}" for name, kind in columns.items()) + "}"


def _spelt(kind: Any) -> str:
    match kind:
        case pl.List():
            return f"pl.List({_spelt(kind.inner)})"
        case pl.Array():
            return f"pl.Array({_spelt(kind.inner)}, {kind.size})"
        case pl.Struct():
            return f"pl.Struct({_spelt_columns({part.name: part.dtype for part in kind.fields})})"
        case pl.Datetime():
            zone = f', "{kind.time_zone}"' if kind.time_zone else ""
            return f'pl.Datetime("{kind.time_unit}"{zone})'
        case pl.Duration():
            return f'pl.Duration("{kind.time_unit}")'
        case _:
            return f"pl.{kind!r}"
