"""Where do the records go that nobody could read, so that each is kept exactly once?

A file is read in one batch, so what is bad in it is written under one name, made of the file and of what is bad: a
batch that is run again writes nothing twice, and two readers that judge a file differently do not hide each other's
records. It is staged, durably, before the batch reaches its sink, and comes into sight after the commit; a restart
does that once more for the last batch.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import polars as pl

from unbounded.errors import ConnectorError, PlanError, UnsupportedOperationError
from unbounded.sources.folder import File, shown
from unbounded.sources.reading import Format
from unbounded.storage import Storage, digest, is_local, local_path, open_storage

__all__ = ["BadRecord", "DeadLetters", "open_dead_letters"]

BadRecord: TypeAlias = Literal["fail", "dead_letter"]

_SKIPPING = ("skip_rows", "skip_lines", "skip_rows_after_header")
_STAGED = "._unbounded"  # behind the folder's name, as sinks do: readers of the folder see finished files alone


class DeadLetters:
    """A folder of Parquet files, one for each input file with bad records: `file, line, record, reason`.

    Mutable, to open its storage when it is needed first.
    """

    def __init__(
        self, url: str | os.PathLike[str], columns: pl.Schema, storage_options: Mapping[str, Any] | None
    ) -> None:
        self.location = local_path(url) if is_local(url) else shown(url)
        self._url, self._options = os.fspath(url).rstrip("/"), storage_options
        self._kind = repr(columns)  # another query may find other records bad in the same file

    def stage(self, file: File, path: str, bad: pl.DataFrame) -> str:
        """Keep the bad records of a file durably, out of sight; gives the name to publish."""
        rows = io.BytesIO()
        bad.select(pl.lit(path).alias("file"), pl.all()).write_parquet(rows)
        content = rows.getvalue()
        name = f"{self._stem(file)}{digest(content)}.parquet"
        with self._explained("The batch was not committed"), suppress(FileExistsError):  # this batch ran before
            self._staged.put(name, content)
        return name

    def staged(self, file: File) -> list[str]:
        """What is staged of a file, whoever did it: for a restart, which cannot know what the last run found."""
        stem = self._stem(file)
        return [name for name in self._staged.names("") if name.startswith(stem)]

    def publish(self, names: Iterable[str]) -> int:
        """Let what was staged be seen; gives how many records that are."""
        count = 0
        with self._explained("The batch is committed, and its bad records are kept, but not yet seen there"):
            for name in names:
                try:
                    content = self._staged.read(name)
                except FileNotFoundError:  # another query found the same records bad, and was first
                    content = self._shown.read(name)
                with suppress(FileExistsError):  # a crash came before it was taken from the stage
                    self._shown.put(name, content)
                self._staged.remove([name])
                count += pl.scan_parquet(content).select(pl.len()).collect().item()
        return count

    @contextmanager
    def _explained(self, state: str) -> Iterator[None]:
        """Say of an error of the disk or the store where it was, and what to do."""
        try:
            yield
        except OSError as error:
            raise ConnectorError(
                f"records that cannot be read cannot be put into dead_letter_folder={self.location!r}: {error}. "
                f"{state}. Make room, or give the rights to write there and in {self.location + _STAGED!r}, then start "
                "the query again: it continues where it stopped"
            ) from error

    @cached_property
    def _staged(self) -> Storage:
        return open_storage(f"{self._url}{_STAGED}", self._options)

    @cached_property
    def _shown(self) -> Storage:
        return open_storage(self._url, self._options)

    def _stem(self, file: File) -> str:
        readable = file.name.replace("/", "-").encode()[-80:].decode(errors="ignore")  # a name has 255 bytes at most
        return f"{readable}-{digest(repr(file).encode(), self._kind.encode())}-"


def open_dead_letters(
    form: Format,
    columns: pl.Schema,
    how: BadRecord,
    folder: str | os.PathLike[str] | None,
    *,
    function: str,
    storage_options: Mapping[str, Any] | None,
) -> DeadLetters | None:
    """Where bad records go; None where they fail the batch. PlanError for options that contradict each other."""
    if how not in get_args(BadRecord):
        raise PlanError(f"{function}(on_bad_record={how!r}) is not known. Write 'fail' or 'dead_letter'")
    if (how == "dead_letter") != (folder is not None):
        raise PlanError(
            f"{function}(on_bad_record={how!r}, dead_letter_folder={folder!r}): records that cannot be read need a "
            'folder to be kept in, and are put there on demand only. Write on_bad_record="dead_letter", '
            'dead_letter_folder="bad/", or leave both out'
        )
    if folder is None:
        return None
    if not form.is_text:
        raise UnsupportedOperationError(
            f'{function}(on_bad_record="dead_letter")',
            because="the rows of such a file cannot be read one by one, so one damaged byte makes all of it suspect",
            instead="missing_columns= and extra_columns= for files with other columns; move a damaged file away",
        )
    clashing = [name for name in ("ignore_errors", *_SKIPPING) if form.options.get(name)]
    if clashing:
        because = {
            "ignore_errors": "it reads null where a value cannot be read, so that no record is bad",
        }.get(clashing[0], "what is skipped would be skipped again before each single record")
        raise UnsupportedOperationError(
            f'{function}(on_bad_record="dead_letter", {clashing[0]}={form.options[clashing[0]]!r})',
            because=because,
            instead="one of the two",
        )
    return DeadLetters(folder, columns, storage_options)
