"""Which columns do the files of a folder have, and which do they have when nobody said?"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import polars as pl

from unbounded.errors import ConnectorError, PlanError, SchemaMismatchError
from unbounded.sources.compression import unreadable
from unbounded.sources.discovery import Discovery, Limits
from unbounded.sources.folder import File, Folder, Glimpse, LocalFolder, open_folder, shown
from unbounded.sources.formats import format_of, open_format
from unbounded.sources.hive import HivePaths, guessed
from unbounded.sources.options import FormatName, check_options
from unbounded.sources.reading import NOTHING, Format, FromPath
from unbounded.sources.rows import schema_of

__all__ = ["Conformity", "Files", "found_schema", "hive_columns", "infer_schema", "schema_needed", "spelt"]


@dataclass(frozen=True)
class Files:
    """How the files of a folder are read: their format, their own columns, the columns of their paths."""

    folder: Folder
    form: Format
    columns: pl.Schema | None
    """None: those that Polars finds in the first file."""
    from_path: FromPath = NOTHING

    @cached_property
    def _hive(self) -> HivePaths:
        return HivePaths(self.from_path.hive)

    def check_path(self, file: File) -> None:
        """SchemaMismatchError for a file whose path does not hold the columns that it should."""
        if self.from_path.hive:
            self._hive.values(self.folder.path(file.name))

    def scan(self, files: list[File]) -> pl.LazyFrame:
        """One scan over files: by name on the local disk, by their bytes, which are read now, from elsewhere."""
        local = isinstance(self.folder, LocalFolder)
        from_path = self.from_path.schema.names()
        knows_hive = self.form.knows_hive and all(self._hive.is_plain(self.folder.path(file.name)) for file in files)
        by_polars = FromPath(
            self.from_path.hive if local and knows_hive else pl.Schema(),
            self.from_path.path if local and self.form.knows_paths else None,
        )
        if by_polars == self.from_path:
            found = self.form.scan(self._opened(files), self.columns, self.from_path)
            # Polars takes the columns of the path in the order of the path.
            return found.select(pl.all().exclude(from_path), *from_path) if len(self.from_path.hive) > 1 else found
        runs = groupby(files, key=lambda file: self._run(file, by_polars))
        return pl.concat(
            self.form.scan(self._opened(alike), self.columns, FromPath(pl.Schema(), by_polars.path))
            .with_columns(*self._literals(alike[0], by_polars))
            .select(pl.all().exclude(from_path), *from_path)
            for alike in (list(files) for _, files in runs)
        )

    def with_path(self, file: File, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of a file with the columns that its path gives."""
        return rows.with_columns(*self._literals(file, NOTHING))

    def _opened(self, files: list[File]) -> list[str] | list[bytes]:
        if isinstance(self.folder, LocalFolder):
            return [self.folder.path(file.name) for file in files]
        return [self.folder.read(file.name) or b"" for file in files]  # who is gone is found out after the read

    def _run(self, file: File, by_polars: FromPath) -> str:
        """Equal for files with equal literals."""
        path = self.folder.path(file.name)
        return path if by_polars.path != self.from_path.path else path.rpartition("/")[0]

    def _literals(self, file: File, by_polars: FromPath) -> Iterator[pl.Expr]:
        path = self.folder.path(file.name)
        if self.from_path.hive and not by_polars.hive:
            yield from (pl.lit(column.item(), column.dtype).alias(column.name) for column in self._hive.values(path))
        if self.from_path.path and not by_polars.path:
            yield pl.lit(path).alias(self.from_path.path)


class Conformity:
    """Whether files have the columns that were pinned for their source.

    Mutable, to remember which deviations Polars allowed: a second file of the same kind needs no second look.
    """

    def __init__(self, files: Files, description: str) -> None:
        assert files.columns is not None
        self._files, self._columns, self._description = files, files.columns, description
        self._allowed: set[tuple[str, ...]] = set()

    def check_path(self, glimpse: Glimpse) -> None:
        """SchemaMismatchError for a file whose path does not hold the columns that it should."""
        self._files.check_path(glimpse.file)

    def check(self, glimpse: Glimpse) -> None:
        """SchemaMismatchError for a file that Polars could not read as the pinned columns.

        Polars itself decides, by its options and by what it tolerates (the order of columns and of struct
        fields), but only where a look at the file's edges finds a difference.
        """
        self.check_path(glimpse)
        packed = unreadable(glimpse.head) if self._files.form.is_text else None
        if packed is not None:
            raise self._mismatch(glimpse.file, f"it is compressed with {packed}, and Polars reads gzip, zstd and zlib")
        unlike = self._files.form.unlike(glimpse, self._columns)
        if unlike == [] or (unlike is not None and tuple(unlike) in self._allowed):
            return
        try:
            rows = self._files.scan([glimpse.file]).head(1).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._mismatch(glimpse.file, "; ".join(unlike) if unlike else str(error)) from error
        if unlike is not None and rows.height:  # Polars does not compare types where there are no rows
            self._allowed.add(tuple(unlike))

    def _mismatch(self, file: File, how: str) -> SchemaMismatchError:
        options = self._files.form.lenient
        lenient = f"; or pass {' or '.join(options)}" if options else ""
        return SchemaMismatchError(
            f"{self._files.folder.path(file.name)} does not fit the columns of {self._description}: {how}. Nothing of "
            f"it was read. Move it away; or choose the files with a glob{lenient}; or start with a new checkpoint and "
            "another schema="
        )


def _oldest_files(folder: Folder, form: Format, description: str, count: int, *, lacking: str) -> list[File]:
    """Up to `count` of the oldest files that are complete; PlanError if there is none, asking for what is `lacking`."""
    discovery = Discovery(folder, form, order="oldest_first", min_age=0, clock=time.time)
    files = discovery.take(None, Limits(files=count), lambda _: None)
    if not files:
        known = discovery.metrics()
        raise PlanError(
            f"there are no {description} yet (waiting: {known['waiting'] or 'none'}; passed over: "
            f"{known['ignored'] or 'none'}), so their columns are not known. "
            f"{'Look into the folders with recursive=True, or name' if 'folder' in known['ignored'] else 'Name'} them: "
            f"{lacking}"
        )
    return files


def found_schema(folder: Folder, form: Format, description: str) -> pl.Schema:
    """What Polars says or guesses of the oldest files themselves, without their paths.

    Raises PlanError if there is no file to look at, ConnectorError if Polars cannot read it.
    """
    count = 1 if form.says_types else int(form.options.get("infer_schema_files", 10))  # the default of pl.scan_csv
    lacking = 'schema={"time": pl.Datetime("us"), "value": pl.Float64}'
    files = _oldest_files(folder, form, description, count, lacking=lacking)
    try:
        return Files(folder, form, None).scan(files).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConnectorError(
            f"cannot tell the columns of {folder.path(files[0].name)}: {error}. Mend the file or move it away, or "
            "name the columns with schema="
        ) from error


def hive_columns(
    folder: Folder,
    form: Format,
    description: str,
    function: str,
    *,
    partitioning: bool | None,
    schema: Mapping[str, Any] | None,
    dates: bool,
) -> pl.Schema:
    """The columns of the parts of paths: those of `schema`, or guessed from the path of the oldest file if asked to.

    Raises PlanError for options that contradict each other, and where there is no path to guess from.
    """
    if schema and partitioning is False:
        raise PlanError(
            f"{function}(hive_partitioning=False, hive_schema={list(schema)}) asks for columns of the path and for "
            "none. Leave one of the two out"
        )
    if schema or not partitioning:
        return schema_of(schema or {})
    lacking = 'hive_schema={"year": pl.Int32}'
    oldest = _oldest_files(folder, form, description, 1, lacking=lacking)[0]
    return guessed(folder.path(oldest.name), function, dates=dates)


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


def infer_schema(
    source: str | os.PathLike[str],
    *,
    format: FormatName | None = None,
    recursive: bool = False,
    glob: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    **options: object,
) -> pl.Schema:
    """The columns of the oldest files under a path, as Polars finds or guesses them; for `schema=`.

    `format` is told from the names of the files unless given; `options` are those of `pl.scan_<format>`.

    Raises PlanError if there are no files or their names tell no format, ConnectorError if Polars cannot read them.
    """
    folder = open_folder(source, recursive=recursive, glob=glob, storage_options=storage_options)
    if format is None:
        format = next(filter(None, map(format_of, sorted(name for name, _ in folder.names(Counter())))), None)
    if format is None:
        raise PlanError(
            f"no file under {shown(source)} has a name that tells its format. Write "
            "infer_schema(source, format='csv'), or 'parquet', 'ndjson', 'ipc'"
        )
    check_options(format, options, ("format", "glob", "recursive", "storage_options"))
    form = open_format(format, options)
    return found_schema(folder, form, f"{format} files in {shown(source)}")
