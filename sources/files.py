"""How is a folder of files an endless table?

Each file is read once, whole, whatever happens to it later. An offset holds the files of one batch with
what identified each when the batch was planned; what was read before is remembered as digests of names.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from copy import copy
from datetime import timedelta
from functools import partial
from typing import Any, get_args

import polars as pl

from unbounded.connectors import Offset
from unbounded.durations import milliseconds
from unbounded.errors import PlanError, SourceDataLostError, UnsupportedOperationError
from unbounded.sources.columns import Conformity, found_schema, scan_files, schema_needed
from unbounded.sources.discovery import Discovery, Limits, Order, digest_of
from unbounded.sources.folder import File, LocalFolder, open_folder, shown
from unbounded.sources.formats import FormatName, added, format_of, in_file, open_format

__all__ = ["DEFAULT_BYTES", "FileSource", "infer_schema"]

DEFAULT_BYTES = 256 * 1024 * 1024
"""What one trigger reads at most unless told otherwise, so that a first batch over years of history is cut."""

_MEMORY = pl.Schema({"name": pl.Binary})
_OWN_OPTIONS = (
    "glob",
    "max_bytes_per_trigger",
    "max_files_per_trigger",
    "min_file_age",
    "name",
    "order",
    "recursive",
    "schema",
    "storage_options",
    "watermark",
)


class FileSource:
    """The rows of the files in a folder, of a glob, or of one file; on the local disk or behind an fsspec URL.

    Rows have `schema`: the columns of a file, then those of its path (`hive_schema`), then `include_file_paths`.
    Within a batch they come file by file in the order of reading. Names whose parts start with `_` or `.`,
    unfinished downloads (`.tmp`, `.part`, ...) and empty files are passed over, and counted in `metrics`;
    files without their footer or last newline wait, and are named there.

    Mutable, because it remembers what was read: a run needs a source of its own, see `fresh`.

    Raises ConnectorError for a missing folder; PlanError without a schema that is needed, for the output of a
    query in update or complete mode, and for options that are unknown or make no sense.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        format: FormatName,
        *,
        schema: Mapping[str, Any] | None = None,
        max_files_per_trigger: int | None = None,
        max_bytes_per_trigger: int | None = DEFAULT_BYTES,
        order: Order = "oldest_first",
        min_file_age: str | timedelta = "0s",
        recursive: bool = False,
        glob: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
        **options: object,
    ) -> None:
        self._form = open_format(format, options, _OWN_OPTIONS)
        if order not in get_args(Order):
            raise PlanError(f"scan_{format}(order={order!r}) is not known. Write 'oldest_first' or 'latest_first'")
        _positive(
            f"scan_{format}", max_files_per_trigger=max_files_per_trigger, max_bytes_per_trigger=max_bytes_per_trigger
        )
        self._limits = Limits(max_files_per_trigger, max_bytes_per_trigger)
        self._recursive = recursive
        self._folder = open_folder(source, recursive=recursive, glob=glob, storage_options=storage_options)
        if self._form.options.get("hive_schema") and not isinstance(self._folder, LocalFolder):
            raise UnsupportedOperationError(
                f"scan_{format}(hive_schema=...) over {shown(source)}",
                because="files elsewhere are read as bytes, which have no path",
                instead="include_file_paths= and pl.col(...).str.extract(...), or a local folder",
            )
        self._description = f"{format} files in {shown(source)}"
        if schema is None:
            if not self._form.says_types:
                raise schema_needed(self._folder, self._form, f"scan_{format}", self._description)
            schema = found_schema(self._folder, self._form, self._description)
        self._columns = in_file(pl.Schema(schema), self._form.options)
        self._schema = added(self._columns, self._form.options)
        self._conformity = Conformity(self._folder, self._form, self._columns, self._description)
        age = milliseconds(min_file_age, "min_file_age") / 1000
        self._discover = partial(Discovery, self._folder, self._form, order=order, min_age=age, clock=clock)
        self._discovery = self._discover()

    def fresh(self, *, units: int | None = None) -> FileSource:
        """The same source with an empty memory, for one run; `units` is another limit of files per trigger."""
        twin = copy(self)
        twin._discovery = self._discover()
        if units is not None:
            twin._limits = Limits(units, self._limits.bytes)
        return twin

    @property
    def schema(self) -> pl.Schema:
        return self._schema

    @property
    def default_name(self) -> str:
        pattern = self._folder.pattern
        return pattern.parts[0] if pattern.exact else os.path.basename(self._folder.url.rstrip("/")) or "files"

    @property
    def description(self) -> str:
        return self._description

    @property
    def location(self) -> str:
        """Where the names in offsets are relative to: an absolute path or URL, without credentials."""
        return self._folder.url

    def covers(self, location: str) -> bool:
        """A folder covers itself, and with `recursive` what lies below it."""
        root = self.location.rstrip("/")
        return location.rstrip("/") == root or (self._recursive and location.startswith(f"{root}/"))

    def end(self) -> Offset | None:
        number = self._discovery.freeze()
        return None if number is None else {"listing": number}

    def latest(self, since: Offset | None, end: Offset | None, *, limited: bool) -> Offset | None:
        """The files of the next batch. SchemaMismatchError for one that does not fit: it was not promised yet."""
        files = self._discovery.take(
            None if end is None else end["listing"],
            self._limits if limited else Limits(),
            self._conformity.check,
        )
        if not files:
            return None
        return {"files": [[file.name, file.size, file.mtime_ns, file.tag] for file in files]}

    def read(self, since: Offset | None, until: Offset) -> pl.LazyFrame:
        files = _files(until)
        self._check_identity(files)
        rows = scan_files(self._folder, self._form, files, self._columns)
        if not isinstance(self._folder, LocalFolder):
            self._check_identity(files)  # the bytes are here by now
        return rows

    def verify(self, since: Offset | None, until: Offset) -> None:
        """Look again at what Polars has read by name; bytes from elsewhere were looked at as they were read."""
        if isinstance(self._folder, LocalFolder):
            self._check_identity(_files(until))

    def unreadable(self, until: Offset) -> str | None:
        """Read the files one by one until one fails: slow, and only for the message of a batch that failed."""
        for file in _files(until):
            try:
                scan_files(self._folder, self._form, [file], self._columns).collect()
            except pl.exceptions.ComputeError:
                return str(self._folder.path(file.name))
        return None

    def acknowledge(self, until: Offset) -> None:
        """Files stay where they are."""

    def metrics(self) -> dict[str, Any]:
        """Files read, backlog in files and bytes, names of files that wait, names ignored by reason."""
        return self._discovery.metrics()

    @property
    def memory_schema(self) -> pl.Schema:
        return _MEMORY

    def memory(self, until: Offset) -> pl.DataFrame:
        return pl.DataFrame({"name": [digest_of(file.name) for file in _files(until)]}, schema=_MEMORY)

    def remember(self, rows: pl.DataFrame) -> None:
        self._discovery.remember(rows["name"])

    def _check_identity(self, files: list[File]) -> None:
        """SourceDataLostError unless all files are what they were when the batch was planned."""
        now = [self._folder.stat(file.name) for file in files]
        lost = [(then, found) for then, found in zip(files, now, strict=True) if then != found]
        if not lost:
            return
        then, found = lost[0]
        more = f" (and {len(lost) - 1} more files are not as they were)" if len(lost) > 1 else ""
        raise SourceDataLostError(
            f"the batch promised to read {self._folder.path(then.name)} as {then}, but it is "
            f"{'gone' if found is None else f'now {found}'}{more}. Move that very file back (a copy is another file) "
            "and start again; or let the batch be planned anew without it: ub.reset(checkpoint, pending_only=True). "
            "Files must not change after they appear: write them as '.x.tmp' and rename"
        )


def _files(offset: Offset) -> list[File]:
    return [File(*fields) for fields in offset["files"]]


def _positive(function: str, **options: int | None) -> None:
    for option, value in options.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise PlanError(f"{function}({option}={value!r}) must be a whole number above 0, or None for no limit")


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
    form = open_format(format, options, ("format", "glob", "recursive", "storage_options"))
    return found_schema(folder, form, f"{format} files in {shown(source)}")
