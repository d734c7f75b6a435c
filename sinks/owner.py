"""Who writes to a file sink, and what must a reader know to read it?"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from unbounded.connectors import Mode
from unbounded.errors import ConnectorError, SinkOwnedError
from unbounded.sinks.formats import Format
from unbounded.storage import Storage, decode, encode

__all__ = ["Owner", "claim"]

_LAYOUT = 1


@dataclass(frozen=True)
class Owner:
    """The record a query leaves when it first opens a place; all but `name` never change."""

    query: str
    name: str | None
    format: Format
    mode: Mode
    key: tuple[str, ...]
    partition_by: tuple[str, ...]
    reading: Mapping[str, Any]
    schema: pl.Schema = field(repr=False)

    def differences(self, now: Owner) -> list[str]:
        """What makes rows of `now` unreadable beside rows of this owner, a line each."""
        lines = [
            f"{what}: {getattr(self, what)!r} before, {getattr(now, what)!r} now"
            for what in ("format", "mode", "key", "partition_by", "reading")
            if getattr(self, what) != getattr(now, what)
        ]
        for column in {**self.schema, **now.schema}:
            before, after = self.schema.get(column, "absent"), now.schema.get(column, "absent")
            if before != after:
                lines.append(f"column {column!r}: {before} before, {after} now")
        if not lines and list(self.schema) != list(now.schema):
            lines.append(f"order of columns: {list(self.schema)} before, {list(now.schema)} now")
        return lines

    def put(self, records: Storage) -> None:
        """Claim the place, durably. FileExistsError if it has an owner."""
        blob = io.BytesIO()
        self.schema.to_frame().write_ipc(blob)
        text = {
            "layout": _LAYOUT,
            "query": self.query,
            "name": self.name,
            "format": self.format,
            "mode": self.mode,
            "key": list(self.key),
            "partition_by": list(self.partition_by),
            "reading": dict(self.reading),
        }
        records.put("owner", encode("sink-owner", 0, text, blob.getvalue()))

    @staticmethod
    def find(records: Storage) -> Owner | None:
        """The owner of the place; None if nobody claimed it."""
        try:
            data = records.read("owner")
        except FileNotFoundError:
            return None
        text, blob = decode(data, "sink-owner", 0, f"{records.url}/owner")
        if text["layout"] != _LAYOUT:
            raise ConnectorError(
                f"{records.url} has layout {text['layout']}, and this version of unbounded reads layout {_LAYOUT}. "
                "Read it with the version that wrote it"
            )
        return Owner(
            query=text["query"],
            name=text["name"],
            format=text["format"],
            mode=text["mode"],
            key=tuple(text["key"]),
            partition_by=tuple(text["partition_by"]),
            reading=text["reading"],
            schema=pl.read_ipc(io.BytesIO(blob)).schema,
        )


def claim(path: str, now: Owner, records: Storage, foreign: Callable[[], Sequence[str]]) -> None:
    """Become the owner of the place, or find that it belongs to this query and fits.

    `foreign` lists what stands in the sink's folder. SinkOwnedError if any of it is not ours.
    """
    found = Owner.find(records)
    if found is None:
        _refuse_foreign(path, records, foreign())
        try:
            now.put(records)
            return
        except FileExistsError:
            found = Owner.find(records)
            assert found is not None
    if found.query != now.query:
        raise SinkOwnedError(
            f"{path} is written by query {found.query}{_called(found.name)}, and this is query {now.query}"
            f"{_called(now.name)}. Write to another path; or use the checkpoint of that query; or, if its output is "
            f"no longer needed, delete {path} and {records.url}"
        )
    if lines := found.differences(now):
        listed = "\n".join(f"  {line}" for line in lines)
        raise SinkOwnedError(
            f"{path} was written by an earlier form of this query, whose rows do not fit:\n{listed}\n"
            "Undo the change, or use a new checkpoint and a new output path"
        )


def _refuse_foreign(path: str, records: Storage, foreign: Sequence[str]) -> None:
    if records.names("log"):
        raise SinkOwnedError(
            f"{records.url} holds the log of a sink, but its file 'owner' is missing. Restore it from a backup, or "
            "write to another path"
        )
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise SinkOwnedError(
            f"{path} holds files that no query of unbounded wrote: {', '.join(foreign[:3])}{more}. Readers of the "
            "folder would mix them with the output. Write to an empty or a new folder, or move them away"
        )


def _called(name: str | None) -> str:
    return f" ({name!r})" if name else ""
