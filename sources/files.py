"""How is a folder of files an endless table?

Each file is read once, whole, whatever happens to it later. An offset holds the files of one batch with
what identified each when the batch was planned; what was read before is remembered as digests of names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from datetime import timedelta
from functools import partial
from typing import Any, Literal, cast, get_args

import polars as pl

from unbounded.connectors import Offset
from unbounded.durations import milliseconds
from unbounded.errors import ConnectorError, PlanError, SourceDataLostError
from unbounded.sources.cleaning import Clean, open_cleaner
from unbounded.sources.columns import Conformity, Files, found_schema, hive_columns, schema_needed
from unbounded.sources.dead_letters import BadRecord, DeadLetters, open_dead_letters
from unbounded.sources.discovery import Discovery, Limits, Order, digest_of
from unbounded.sources.folder import File, LocalFolder, open_folder, shown
from unbounded.sources.formats import open_format
from unbounded.sources.options import FormatName, check_options
from unbounded.sources.reading import FromPath, TextFormat
from unbounded.sources.records import LETTERS, Sifted, sift
from unbounded.sources.rows import schema_of

__all__ = ["DEFAULT_BYTES", "FileSource"]

DEFAULT_BYTES = 256 * 1024 * 1024
"""What one trigger reads at most unless told otherwise, so that a first batch over years of history is cut."""

_MEMORY = pl.Schema({"name": pl.Binary})
_OWN_OPTIONS = (
    "archive_folder",
    "clean_source",
    "dead_letter_folder",
    "extra_columns",
    "glob",
    "hive_partitioning",
    "hive_schema",
    "include_file_paths",
    "max_bytes_per_trigger",
    "max_files_per_trigger",
    "min_file_age",
    "missing_columns",
    "name",
    "on_bad_record",
    "order",
    "recursive",
    "schema",
    "storage_options",
    "try_parse_hive_dates",
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
        missing_columns: Literal["insert", "raise"] | None = None,
        extra_columns: Literal["ignore", "raise"] | None = None,
        include_file_paths: str | None = None,
        hive_partitioning: bool | None = None,
        hive_schema: Mapping[str, Any] | None = None,
        try_parse_hive_dates: bool = True,
        max_files_per_trigger: int | None = None,
        max_bytes_per_trigger: int | None = DEFAULT_BYTES,
        order: Order = "oldest_first",
        min_file_age: str | timedelta = "0s",
        recursive: bool = False,
        glob: bool = True,
        on_bad_record: BadRecord = "fail",
        dead_letter_folder: str | os.PathLike[str] | None = None,
        clean_source: Clean | None = None,
        archive_folder: str | os.PathLike[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
        **options: object,
    ) -> None:
        function = f"scan_{format}"
        check_options(format, options, _OWN_OPTIONS)
        policies = {"missing_columns": missing_columns, "extra_columns": extra_columns}
        form = open_format(format, {**options, **{name: how for name, how in policies.items() if how is not None}})
        if order not in get_args(Order):
            raise PlanError(f"{function}(order={order!r}) is not known. Write 'oldest_first' or 'latest_first'")
        _positive(function, max_files_per_trigger=max_files_per_trigger, max_bytes_per_trigger=max_bytes_per_trigger)
        self._limits = Limits(max_files_per_trigger, max_bytes_per_trigger)
        folder = open_folder(
            source, recursive=recursive, glob=glob, cleans=clean_source is not None, storage_options=storage_options
        )
        self._description = f"{format} files in {shown(source)}"
        hive = hive_columns(
            folder,
            form,
            self._description,
            function,
            partitioning=hive_partitioning,
            schema=hive_schema,
            dates=try_parse_hive_dates,
        )
        from_path = FromPath(hive, include_file_paths)
        if format == "lines":
            schema = {"line": pl.String}
        if schema is None:
            if not form.says_types:
                raise schema_needed(folder, form, function, self._description)
            schema = found_schema(folder, form, self._description)
        columns = pl.Schema({name: kind for name, kind in schema_of(schema).items() if name not in from_path.schema})
        self._files = Files(folder, form, columns, from_path)
        self._conformity = Conformity(self._files, self._description)
        age = milliseconds(min_file_age, "min_file_age") / 1000
        self._discover = partial(Discovery, folder, form, order=order, min_age=age, clock=clock)
        self._discovery = self._discover()
        self._cleaner = open_cleaner(
            folder, clean_source, archive_folder, function=function, storage_options=storage_options
        )
        self._letters = open_dead_letters(
            form, columns, on_bad_record, dead_letter_folder, function=function, storage_options=storage_options
        )
        self._counts: dict[str, int] = {}
        self._bad: dict[File, pl.DataFrame] = {}  # of the files that were read last, what could not be read
        self._judged: dict[File, list[str]] = {}  # files of batches not yet acknowledged, with what is staged
        self._refuse_overlap(function)

    def _refuse_overlap(self, function: str) -> None:
        for option, place in self.places_aside.items():
            if self.covers(place):
                raise PlanError(
                    f"{function}({option}={place!r}) lies in what is scanned, {self._description}, so what is put "
                    "there would be read as input. Write a folder outside of it"
                )

    def fresh(self, *, units: int | None = None) -> FileSource:
        """The same source with an empty memory, for one run; `units` is another limit of files per trigger."""
        twin = copy(self)
        twin._discovery, twin._counts = self._discover(), {}
        twin._bad, twin._judged = {}, {}
        if units is not None:
            twin._limits = Limits(units, self._limits.bytes)
        return twin

    @property
    def schema(self) -> pl.Schema:
        return pl.Schema({**self._columns, **self._files.from_path.schema})

    @property
    def _columns(self) -> pl.Schema:
        assert self._files.columns is not None
        return self._files.columns

    @property
    def default_name(self) -> str:
        pattern = self._files.folder.pattern
        return pattern.parts[0] if pattern.exact else os.path.basename(self._files.folder.url.rstrip("/")) or "files"

    @property
    def description(self) -> str:
        return self._description

    @property
    def location(self) -> str:
        """Where the names in offsets are relative to: an absolute path or URL, without credentials."""
        return self._files.folder.url

    def covers(self, location: str) -> bool:
        """Whether a file in this folder, or below it, could be one of those that are read."""
        return self._files.folder.covers(location)

    @property
    def places_aside(self) -> dict[str, str]:
        """The folders of files that were read and of records that nobody could read, as far as there are any."""
        places = {
            "archive_folder": self._cleaner.archive if self._cleaner else None,
            "dead_letter_folder": self._letters.location if self._letters else None,
        }
        return {option: place for option, place in places.items() if place is not None}

    def end(self) -> Offset | None:
        number = self._discovery.freeze()
        return None if number is None else {"listing": number}

    def latest(self, since: Offset | None, end: Offset | None, *, limited: bool) -> Offset | None:
        """The files of the next batch. SchemaMismatchError for one that does not fit: it was not promised yet."""
        files = self._discovery.take(
            None if end is None else end["listing"],
            self._limits if limited else Limits(),
            self._conformity.check if self._letters is None else self._conformity.check_path,
        )
        if not files:
            return None
        return {"files": [[file.name, file.size, file.mtime_ns, file.tag] for file in files]}

    def read(self, since: Offset | None, until: Offset) -> pl.LazyFrame:
        files = _files(until)
        self._check_identity(files)
        rows = self._files.scan(files) if self._letters is None else self._sifted(files)
        if not isinstance(self._files.folder, LocalFolder):
            self._check_identity(files)  # the bytes are here by now
        return rows

    def _sifted(self, files: list[File]) -> pl.LazyFrame:
        """The rows that can be read, collected: only whoever has read a record knows that it is good."""
        self._bad = {}
        with suppress(*_UNREADABLE):
            return self._files.scan(files).collect().lazy()
        self._check_identity(files)  # a file that is gone is no bad record
        return pl.concat([self._sifted_file(file) for file in files]).lazy()

    def _sifted_file(self, file: File) -> pl.DataFrame:
        with suppress(*_UNREADABLE):
            return self._files.scan([file]).collect()
        found = self._sift(file)
        self._bad[file] = found.bad
        return self._files.with_path(file, found.rows)

    def _sift(self, file: File) -> Sifted:
        form = cast("TextFormat", self._files.form)
        return sift(form, self._files.folder.read(file.name) or b"", self._columns)

    def verify(self, since: Offset | None, until: Offset) -> None:
        """Look again at what Polars has read by name, and stage what was bad; who only looks at rows never comes here.

        Bytes from elsewhere were looked at as they were read.
        """
        files = _files(until)
        if isinstance(self._files.folder, LocalFolder):
            self._check_identity(files)
        if self._letters is not None:
            paths = {file: self._files.folder.path(file.name) for file in self._bad}
            staged = {file: [self._letters.stage(file, paths[file], bad)] for file, bad in self._bad.items()}
            self._judged |= {file: staged.get(file, []) for file in files}

    def unreadable(self, until: Offset) -> str | None:
        """The first file that cannot be read, its first bad line, and why. Slow: for the message of a failure."""
        for file in _files(until):
            try:
                self._files.scan([file]).collect()
            except (*_UNREADABLE, ConnectorError) as error:
                path = self._files.folder.path(file.name)
                bad = self._sift(file).bad if self._files.form.is_text else LETTERS.to_frame()
                line, _, reason = bad.row(0) if bad.height else (None, None, error)
                return f"{path}: {reason}" if line is None else f"{path}, line {line}: {reason}"
        return None

    def acknowledge(self, until: Offset) -> None:
        """Show the bad records of the batch, and clean its files away, as far as that was asked for."""
        if self._letters is not None:
            self._counts["bad_records"] = self._letters.publish(self._staged(_files(until), self._letters))
        if self._cleaner is not None:
            self._counts["not_cleaned"] = self._cleaner.clean(_files(until))

    def _staged(self, files: list[File], letters: DeadLetters) -> list[str]:
        """The names of what is bad in files: as this run found, or as is staged if an earlier run read them."""
        found = (self._judged.pop(file) if file in self._judged else letters.staged(file) for file in files)
        return [name for names in found for name in names]

    def metrics(self) -> dict[str, Any]:
        """Files read, backlog in files and bytes, names of files that wait, names ignored by reason.

        Of the last batch, where these were asked for: `bad_records`, and files that could not be cleaned away.
        """
        return {**self._discovery.metrics(), **self._counts}

    @property
    def memory_schema(self) -> pl.Schema:
        return _MEMORY

    def memory(self, until: Offset) -> pl.DataFrame:
        return pl.DataFrame({"name": [digest_of(file.name) for file in _files(until)]}, schema=_MEMORY)

    def remember(self, rows: pl.DataFrame) -> None:
        self._discovery.remember(rows["name"])

    def _check_identity(self, files: list[File]) -> None:
        """SourceDataLostError unless all files are what they were when the batch was planned."""
        now = [self._files.folder.stat(file.name) for file in files]
        lost = [(then, found) for then, found in zip(files, now, strict=True) if then != found]
        if not lost:
            return
        then, found = lost[0]
        more = f" (and {len(lost) - 1} more files are not as they were)" if len(lost) > 1 else ""
        raise SourceDataLostError(
            f"the batch promised to read {self._files.folder.path(then.name)} as {then}, but it is "
            f"{'gone' if found is None else f'now {found}'}{more}. Move that very file back (a copy is another file) "
            "and start again; or let the batch be planned anew with what is there now: a query into files does that "
            "when it is started again, any other after ub.reset(checkpoint, pending_only=True). "
            "Files must not change after they appear: write them as '.x.tmp' and rename"
        )


_UNREADABLE = (pl.exceptions.PolarsError, OSError)


def _files(offset: Offset) -> list[File]:
    return [File(*fields) for fields in offset["files"]]


def _positive(function: str, **options: int | None) -> None:
    for option, value in options.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise PlanError(f"{function}({option}={value!r}) must be a whole number above 0, or None for no limit")
