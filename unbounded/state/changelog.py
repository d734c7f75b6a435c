"""What does a home leave on disk? Deltas, the levels and base segments they are rewritten into, and the list of these.

Every commit is one record `state/<version>.<attempt>` with the changed rows of its batch: a delta. Beside the running
query, deltas are rewritten into runs, files `runs/<generation>.<token>`:

    deltas     one per commit, inside its record
    levels     `fan` deltas, or `fan` runs of one level, joined to a run of the next: the newest row of each slot
    segments   the rows of a range of slots as they were at one commit: the base, rewritten a slice at a time

A catalogue, itself a run, lists the runs of all tables and logs. A commit names the catalogue that was durable then and
the deltas that are not in it. Everything is written before it is named and never changed, so a crash leaves only files
that nothing names. A row carries its version: in levels by a column, in a segment all rows are as of its version.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from unbounded.errors import CheckpointError, CorruptRecordError
from unbounded.state import StateRef
from unbounded.state.memory.stored import LIVE, SLOT, VERSION, Part
from unbounded.storage import Bytes, Record, Storage, decode, digest_in, encode

__all__ = [
    "Catalogue",
    "Delta",
    "Reference",
    "Run",
    "Writer",
    "catalogue_of",
    "forget_unneeded",
    "history",
    "is_intact",
    "log_history",
    "number_of",
    "pack",
    "read_delta",
    "read_record",
    "stream_of",
    "unpack",
]


class Reference(NamedTuple):
    """A file and a digest of all its bytes; of a record it is the one that stands in its head."""

    name: str
    digest: str


@dataclass(frozen=True)
class Run:
    """A file with rows of one table or log."""

    file: Reference
    level: int  # how often its rows were joined; a segment is at level 0
    until: int  # the newest version of its rows
    rows: int
    low: int  # its lowest and highest slot; 0 in a log
    high: int

    def fields(self) -> list[Any]:
        return [*self.file, self.level, self.until, self.rows, self.low, self.high]


@dataclass(frozen=True)
class Catalogue:
    """Which runs hold everything up to a version. The first one is empty and has no file."""

    segment: int  # slots in a segment of the base
    generation: int = 0  # one more than the catalogue before; the runs it added carry it in their name
    until: int = -1  # deltas of this version and older are within
    segments: Mapping[str, Mapping[int, Run]] = field(default_factory=dict)
    levels: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)  # oldest rows first
    file: Reference | None = None

    def runs(self) -> Iterator[Run]:
        for segments in self.segments.values():
            yield from segments.values()
        for levels in self.levels.values():
            yield from levels

    def names(self) -> set[str]:
        """Every file that this catalogue needs."""
        return {run.file.name for run in self.runs()} | ({self.file.name} if self.file is not None else set())

    def record(self) -> Record:
        return {
            "segment": self.segment,
            "until": self.until,
            "segments": {
                name: [[place, *run.fields()] for place, run in runs.items()] for name, runs in self.segments.items()
            },
            "levels": {name: [run.fields() for run in runs] for name, runs in self.levels.items()},
        }


@dataclass(frozen=True)
class Delta:
    """What one commit changed: the IPC bytes of each table and log that did."""

    version: int
    frames: Mapping[str, bytes]


# ---------------------------------------------------------------------------------------- reading
def number_of(name: str) -> int:
    """The version in the name of a state record, the generation in the name of a run; -1 for a name of neither kind."""
    number = name.rsplit("/", 1)[-1].split(".", 1)[0]
    return int(number) if number.isdecimal() else -1


def read_record(storage: Storage, file: Reference, kind: str) -> tuple[dict[str, Any], bytes]:
    """A record that holds exactly what was written; nothing else sees a byte before that is known."""
    where = f"{storage.url}/{file.name}"
    try:
        data = storage.read(file.name)
    except FileNotFoundError:
        raise CheckpointError(
            f"{where} is needed to restore and is not there. Restore the file from a backup, or start with a new "
            "checkpoint"
        ) from None
    content = decode(data, kind, number_of(file.name), where)
    if digest_in(data) != file.digest:
        raise CorruptRecordError(
            f"{where} has digest {digest_in(data)} where {file.digest} was written ({len(data)} bytes); it was "
            "replaced. Restore the file from a backup, or start with a new checkpoint"
        )
    return content


def is_intact(storage: Storage, ref: StateRef) -> bool:
    """Whether the record of a commit is there and holds what was written."""
    try:
        read_record(storage, Reference(ref["name"], ref["digest"]), "state")
    except CheckpointError:  # gone or damaged
        return False
    return True


def _read_catalogue(storage: Storage, file: Reference) -> Catalogue:
    record, _ = read_record(storage, file, "catalogue")
    return Catalogue(
        segment=record["segment"],
        generation=number_of(file.name),
        until=record["until"],
        segments={name: {place: _run(fields) for place, *fields in runs} for name, runs in record["segments"].items()},
        levels={name: tuple(_run(fields) for fields in runs) for name, runs in record["levels"].items()},
        file=file,
    )


def catalogue_of(storage: Storage, record: Record) -> Catalogue:
    """The catalogue that a state record names."""
    if record["catalogue"] is None:
        return Catalogue(record["segment"])
    return _read_catalogue(storage, Reference(*record["catalogue"]))


def _run(fields: Sequence[Any]) -> Run:
    name, content, level, until, rows, low, high = fields
    return Run(Reference(name, content), level, until, rows, low, high)


def read_delta(storage: Storage, file: Reference) -> Delta:
    record, blob = read_record(storage, file, "state")
    return Delta(number_of(file.name), unpack(record["frames"], blob))


def _read_frame(storage: Storage, run: Run) -> pl.DataFrame:
    _, blob = read_record(storage, run.file, "run")
    return pl.read_ipc_stream(blob)


def pack(frames: Mapping[str, pl.DataFrame]) -> tuple[list[list[Any]], list[Bytes]]:
    """The name and length of each frame, and the pieces of their blob. `write_ipc` to a path would cost 0.4 ms more."""
    streams = {name: stream_of(frame) for name, frame in frames.items()}
    return [[name, len(stream)] for name, stream in streams.items()], [*streams.values()]


def unpack(lengths: Iterable[Sequence[Any]], blob: bytes) -> dict[str, bytes]:
    """The inverse of `pack`, of one blob, but for the parsing."""
    streams, start = {}, 0
    for name, length in lengths:
        streams[name] = blob[start : start + length]
        start += length
    return streams


def stream_of(frame: pl.DataFrame) -> Bytes:
    """A frame as a compressed Arrow stream; its bytes are checked before it is read."""
    stream = io.BytesIO()
    # A frame of its own, of the same columns: Polars deadlocks where one thread writes a frame into memory and another
    # takes a column of it.
    frame.clone().write_ipc_stream(stream, compression="lz4")
    return stream.getbuffer()  # where it lies; `getvalue` copies it, for a third of what compressing costs


def history(storage: Storage, catalogue: Catalogue, deltas: Iterable[Delta], table: str) -> Iterator[pl.DataFrame]:
    """The changed rows of a table, oldest first, with VERSION; rows that its base already has are left out."""
    segments = catalogue.segments.get(table, {})
    for run in segments.values():
        yield _read_frame(storage, run).with_columns(_version(run.until), pl.lit(True).alias(LIVE))
    for run in catalogue.levels.get(table, ()):
        yield _newer(_read_frame(storage, run), segments, catalogue.segment)
    for delta in deltas:
        if table in delta.frames:
            rows = pl.read_ipc_stream(delta.frames[table]).with_columns(_version(delta.version))
            yield _newer(rows, segments, catalogue.segment)


def log_history(storage: Storage, catalogue: Catalogue, deltas: Iterable[Delta], log: str) -> Iterator[pl.DataFrame]:
    """The rows of a log, oldest first, each file read when its turn comes."""
    for run in catalogue.levels.get(log, ()):
        yield _read_frame(storage, run).drop(VERSION)
    for delta in deltas:
        if log in delta.frames:
            yield pl.read_ipc_stream(delta.frames[log])


def _version(version: int) -> pl.Expr:
    return pl.lit(version, pl.Int64).alias(VERSION)


def _newer(rows: pl.DataFrame, segments: Mapping[int, Run], segment: int) -> pl.DataFrame:
    """The rows that are newer than the base."""
    if not segments or not rows.height:
        return rows
    place = rows[SLOT].to_numpy() // segment
    based = np.full(max(int(place.max()), max(segments)) + 1, -1, np.int64)
    for each, run in segments.items():
        based[each] = run.until
    return rows.filter(pl.Series(rows[VERSION].to_numpy() > based[place]))


# ---------------------------------------------------------------------------------------- writing
class Writer:
    """Rewrites deltas into runs. Never used by two threads at once."""

    def __init__(self, storage: Storage, *, fan: int, logs: Collection[str]) -> None:
        self._storage, self._fan, self._logs = storage, fan, logs

    def advance(
        self, catalogue: Catalogue, deltas: Sequence[Reference], parts: Sequence[tuple[str, int, Part]]
    ) -> Catalogue:
        """A durable catalogue that also has the parts as segments, and the deltas once there are `fan` of them.

        A part is a table, the version it shows, and its rows. The same catalogue if there is nothing to do.
        """
        waiting = [delta for delta in deltas if number_of(delta.name) > catalogue.until]
        if not parts and len(waiting) < self._fan:
            return catalogue
        draft = replace(catalogue, generation=catalogue.generation + 1)
        for table, version, part in parts:
            draft = self._with_part(draft, table, version, part)
        while len(waiting) >= self._fan:
            draft = self._with_deltas(draft, waiting[: self._fan])
            waiting = waiting[self._fan :]
        for name in draft.levels:
            draft = self._with_levels_joined(draft, name)
        return replace(draft, file=self._put(draft.generation, "catalogue", draft.record()))

    def _put(self, generation: int, kind: str, record: Record, *blob: Bytes) -> Reference:
        name = f"runs/{generation}.{secrets.token_hex(8)}"
        content = encode(kind, generation, record, *blob)
        self._storage.put(name, content)
        return Reference(name, digest_in(content))

    def _write(self, draft: Catalogue, level: int, until: int, rows: pl.DataFrame) -> Run:
        record = {"level": level, "until": until, "rows": rows.height}
        file = self._put(draft.generation, "run", record, stream_of(rows))
        slots = rows[SLOT].to_numpy() if SLOT in rows.columns and rows.height else np.zeros(1, np.uint32)
        low, high = int(slots.min()), int(slots.max())
        return Run(file, level, until, rows.height, low, high)

    def _with_part(self, draft: Catalogue, table: str, version: int, part: Part) -> Catalogue:
        """One segment renewed; the levels that are older than the base everywhere are no longer needed."""
        segments = dict(draft.segments.get(table, {}))
        segments[part.low // draft.segment] = self._write(draft, 0, version, part.frame())
        levels = tuple(run for run in draft.levels.get(table, ()) if not _covered(run, segments, draft.segment))
        return replace(draft, segments={**draft.segments, table: segments}, levels={**draft.levels, table: levels})

    def _with_deltas(self, draft: Catalogue, files: Sequence[Reference]) -> Catalogue:
        deltas = [read_delta(self._storage, file) for file in files]
        until = deltas[-1].version
        for name in sorted({name for delta in deltas for name in delta.frames}):
            frames = [
                pl.read_ipc_stream(delta.frames[name]).with_columns(_version(delta.version))
                for delta in deltas
                if name in delta.frames
            ]
            draft = self._with_joined(draft, name, frames, 1, until, behind=draft.levels.get(name, ()))
        return replace(draft, until=until)

    def _with_levels_joined(self, draft: Catalogue, name: str) -> Catalogue:
        """`fan` neighbours of one level become one of the next, until there are none."""
        while (found := self._neighbours(draft.levels[name], draft.segment)) is not None:
            levels = draft.levels[name]
            chosen = levels[found : found + self._fan]
            frames = [_read_frame(self._storage, run) for run in chosen]
            ahead = levels[found + self._fan :]
            until = chosen[-1].until
            draft = self._with_joined(draft, name, frames, chosen[0].level + 1, until, levels[:found], ahead)
        return draft

    def _neighbours(self, levels: Sequence[Run], full: int) -> int | None:
        """Where the oldest `fan` neighbours of one level begin; a run that is as large as a segment is never joined."""
        start = 0
        for place, run in enumerate(levels):
            if run.level != levels[start].level or run.rows >= full:
                start = place
            if run.rows >= full:
                start = place + 1
            elif place - start + 1 == self._fan:
                return start
        return None

    def _with_joined(
        self,
        draft: Catalogue,
        name: str,
        frames: Sequence[pl.DataFrame],
        level: int,
        until: int,
        behind: tuple[Run, ...],
        ahead: tuple[Run, ...] = (),
    ) -> Catalogue:
        """One run in place of some; a table keeps the newest row of each slot that is newer than its base."""
        rows = pl.concat([frame.select(frames[0].columns) for frame in frames])  # a restart may reorder columns
        if name not in self._logs:
            rows = _newer(rows.unique(SLOT, keep="last"), draft.segments.get(name, {}), draft.segment)
        run = (self._write(draft, level, until, rows),) if rows.height else ()
        return replace(draft, levels={**draft.levels, name: (*behind, *run, *ahead)})


def _covered(run: Run, segments: Mapping[int, Run], segment: int) -> bool:
    """Whether the base is at least as new as a run, wherever that has rows."""
    places = range(run.low // segment, run.high // segment + 1)
    return all(place in segments and segments[place].until >= run.until for place in places)


# --------------------------------------------------------------------------------------- deleting
class Listing(Protocol):
    """A catalogue, as far as it says what it needs."""

    @property
    def generation(self) -> int: ...

    def names(self) -> set[str]: ...


def forget_unneeded(
    storage: Storage,
    committed: int,
    retain: int,
    listing_of: Callable[[Storage, Record], Listing] = catalogue_of,
) -> None:
    """Delete what the last `retain` versions, and any newer one, do not need. Names of other kinds are left alone.

    `listing_of` gives the catalogue that a state record names.

    Only the records of the oldest retained version have to be asked, all attempts of it: along a chain of commits
    versions and generations rise, and what is older than a record and not named by it is not named by a later one.
    """
    records = {name: version for name in storage.names("state") if (version := number_of(name)) >= 0}
    versions = sorted({version for version in records.values() if version <= committed})
    if len(versions) < retain:
        return
    oldest = versions[-retain]
    needed: set[str] = set()
    generations, runs = [], set(storage.names("runs"))
    for name in (f"state/{name}" for name, version in records.items() if version == oldest):
        record, _ = decode(storage.read(name), "state", oldest, f"{storage.url}/{name}")
        if record["catalogue"] is not None and record["catalogue"][0].removeprefix("runs/") not in runs:
            return  # The query went back: of a version that had been forgotten, only the changes are still needed.
        catalogue = listing_of(storage, record)
        needed |= catalogue.names() | {delta for delta, _ in record["deltas"]}
        generations.append(catalogue.generation)
    old = [f"state/{name}" for name, version in sorted(records.items(), key=lambda each: each[1]) if version < oldest]
    old += [f"runs/{name}" for name in sorted(runs) if 0 <= number_of(name) <= min(generations)]
    storage.remove(name for name in old if name not in needed)
