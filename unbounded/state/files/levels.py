"""How do runs in files stay few? Beside the query they are written, joined a slice at a time, and listed.

    fresh      the changes of the last commits, in memory; also in their records
    frozen     fresh ones that wait to be written
    runs       files with rows sorted by hash, newest first: `fan` neighbours of about one size become one

A join goes through the hashes from 0 on. After each slice the joined runs begin there and the new one ends there, so
every catalogue on the way is whole, and the next call, or the next process, goes on from it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from unbounded.state.changelog import Reference, number_of, read_delta, read_record, stream_of
from unbounded.state.files.runs import Piece, Run, merged
from unbounded.state.files.sorting import END, Content, Form, map_file, probe
from unbounded.storage import Record, Storage, digest, digest_in, encode

__all__ = ["Catalogue", "LevelWriter", "catalogue_of", "read_log"]

_LARGE = 1 << 16  # rows of a log in one file are not written again


@dataclass(frozen=True)
class LogFile:
    """Some rows of a log."""

    file: Reference
    rows: int


@dataclass(frozen=True)
class Catalogue:
    """Which files hold everything up to a version. The first one is empty and has no file."""

    seed: int
    """Of the hashes, secret until it is written, so that nobody can prepare keys that collide."""
    generation: int = 0  # one more than the catalogue before; the files it added carry it in their name
    until: int = -1  # deltas of this version and older are within
    probe: str = ""
    tables: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)  # newest first
    logs: Mapping[str, tuple[LogFile, ...]] = field(default_factory=dict)  # oldest first
    file: Reference | None = None

    def names(self) -> set[str]:
        """Every file that this catalogue needs."""
        pieces = {
            piece.file.name for runs in self.tables.values() for run in runs for piece in run.pieces if piece.file
        }
        logs = {each.file.name for files in self.logs.values() for each in files}
        return pieces | logs | ({self.file.name} if self.file is not None else set())

    def record(self) -> Record:
        return {
            "seed": self.seed,
            "until": self.until,
            "probe": self.probe,
            "tables": {
                name: [[run.since, run.until, [_fields(piece) for piece in run.pieces]] for run in runs]
                for name, runs in self.tables.items()
            },
            "logs": {name: [[*each.file, each.rows] for each in files] for name, files in self.logs.items()},
        }


def _fields(piece: Piece) -> list[Any]:
    assert piece.file is not None  # only files are listed
    return [*piece.file, piece.first, piece.last, piece.rows, piece.dead, piece.earliest, piece.latest]


def catalogue_of(storage: Storage, record: Record) -> Catalogue:
    """The catalogue that a state record names; no row is read."""
    if record["catalogue"] is None:
        return Catalogue(secrets.randbits(63), probe=probe())
    file = Reference(*record["catalogue"])
    found, _ = read_record(storage, file, "catalogue")

    def piece(name: str, content: str, *stats: int) -> Piece:
        return Piece(*stats, folder=storage.url, file=Reference(name, content))

    return Catalogue(
        seed=found["seed"],
        generation=number_of(file.name),
        until=found["until"],
        probe=found["probe"],
        tables={
            name: tuple(Run(tuple(piece(*each) for each in pieces), since, until) for since, until, pieces in runs)
            for name, runs in found["tables"].items()
        },
        logs={
            name: tuple(LogFile(Reference(file, content), rows) for file, content, rows in files)
            for name, files in found["logs"].items()
        },
        file=file,
    )


def read_log(storage: Storage, files: Iterable[LogFile]) -> Iterator[pl.DataFrame]:
    """The rows of a log, oldest first, each file read when its turn comes."""
    for each in files:
        yield pl.read_ipc_stream(read_record(storage, each.file, "log")[1])


class LevelWriter:
    """Writes runs and joins them. Never used by two threads at once.

    `piece` is the most rows in a file; a slice of a join takes twice as many, of which some are mostly of one key.
    """

    def __init__(self, storage: Storage, *, fan: int, piece: int) -> None:
        self._storage, self._fan, self._piece = storage, fan, piece

    def finish(self, draft: Catalogue) -> Catalogue:
        """Make a catalogue durable."""
        content = encode("catalogue", draft.generation, draft.record())
        return replace(draft, file=self._put(draft.generation, content, digest_in(content)))

    def _put(self, generation: int, content: bytes, digest: str) -> Reference:
        name = f"runs/{generation}.{secrets.token_hex(8)}"
        self._storage.put(name, content)
        return Reference(name, digest)

    def write(self, generation: int, content: Content) -> tuple[Piece, ...]:
        """Rows as files, which are mapped at once: what was just written is not checked."""
        pieces = []
        for part in content.pieces(self._piece):
            encoded = part.encoded()
            file = self._put(generation, encoded, digest(encoded))
            mapped = map_file(f"{self._storage.url}/{file.name}", content.form, None)
            pieces.append(replace(Piece.of(part), folder=self._storage.url, file=file, kept=mapped))
        return tuple(pieces)

    # ------------------------------------------------------------------------------------- tables
    def flush(self, draft: Catalogue, form: Form, name: str, runs: Sequence[Run]) -> Catalogue:
        """Write runs from memory in front of those in files."""
        older = draft.tables.get(name, ())
        pieces = self.write(draft.generation, merged(form, runs, 0, END, oldest=not older))
        return _with(draft, name, (Run(pieces), *older)) if pieces else draft

    def join(self, draft: Catalogue, form: Form, name: str, written: int) -> Catalogue:
        """Bring every join of a table forward by a slice, by more if many rows were just `written`; begin those due."""
        for _ in range(1 + written // self._piece):
            runs = draft.tables.get(name, ())
            joins = _joins(runs, self._fan)
            if not joins:
                break
            for place, end in joins:
                runs = self._sliced(draft, form, runs, place, end)
            draft = _with(draft, name, runs)
        return draft

    def _sliced(self, draft: Catalogue, form: Form, runs: tuple[Run, ...], place: int, end: int) -> tuple[Run, ...]:
        """One slice of the join of the runs from `place` to before `end`; the new run, if begun, stands behind."""
        inputs, behind = runs[place:end], runs[end:]
        begun = inputs[0].since > 0
        output, behind = (behind[0], behind[1:]) if begun else (Run((), until=0), behind)
        left = sum(sum(len(part.hashes) for part in run.contents(form, output.until, END)) for run in inputs)
        until = END
        if left > 2 * self._piece:
            until = min(END, output.until + max(1, (END - output.until) * 2 * self._piece // left))
        content = merged(form, inputs, output.until, until, oldest=not behind)
        output = Run((*output.pieces, *self.write(draft.generation, content)), until=until)
        stays = tuple(run.above(until) for run in inputs) if until < END else ()
        return (*runs[:place], *stays, output, *behind)

    def drop(self, draft: Catalogue, name: str, watermark: int) -> Catalogue:
        """Leave out the pieces whose rows were all due at or below the watermark, and are gone."""
        runs = draft.tables.get(name, ())
        kept = [_without_due(run, watermark, oldest=place == len(runs) - 1) for place, run in enumerate(runs)]
        if all(after is before for after, before in zip(kept, runs, strict=True)):
            return draft
        return _with(draft, name, kept)

    def resort(self, draft: Catalogue, form: Form, name: str, old: Form) -> Catalogue:
        """Write everything anew, a file at a time, because hashes are no longer what they were."""
        runs = [
            Run(self.write(draft.generation, form.content(content.rows)))
            for run in draft.tables.get(name, ())
            for content in run.contents(old, 0, END)
            if len(content.hashes)
        ]
        return _with(draft, name, tuple(runs))

    # --------------------------------------------------------------------------------------- logs
    def with_logs(self, draft: Catalogue, names: Iterable[str], deltas: Sequence[Reference]) -> Catalogue:
        """Write what commits added to logs; the last `fan` small files of a log become one."""
        added: dict[str, list[pl.DataFrame]] = {name: [] for name in names}
        for delta in (read_delta(self._storage, file) for file in deltas) if added else ():
            for name in added.keys() & delta.frames.keys():
                added[name].append(pl.read_ipc_stream(delta.frames[name]))
        for name, frames in added.items():
            if frames:
                files = [*draft.logs.get(name, ()), self._log(draft.generation, frames)]
                while (count := self._last_alike(files)) >= self._fan:
                    joined = self._log(draft.generation, list(read_log(self._storage, files[-count:])))
                    files[-count:] = [joined]
                draft = replace(draft, logs={**draft.logs, name: tuple(files)})
        return draft

    def _log(self, generation: int, frames: Sequence[pl.DataFrame]) -> LogFile:
        rows = pl.concat([frame.select(frames[0].columns) for frame in frames])
        content = encode("log", generation, {}, stream_of(rows))
        return LogFile(self._put(generation, content, digest_in(content)), rows.height)

    def _last_alike(self, files: Sequence[LogFile]) -> int:
        """How many files at the end are of the size of the last one, or smaller, and not large."""
        size = _size(files[-1].rows, self._fan)
        for count, file in enumerate(reversed(files)):
            if file.rows >= _LARGE or _size(file.rows, self._fan) > size:
                return count
        return len(files)


def _with(draft: Catalogue, name: str, runs: Iterable[Run]) -> Catalogue:
    """A run without rows goes, unless it takes part in a join."""
    stays = tuple(run for run in runs if run.pieces or run.since or run.until < END)
    return replace(draft, tables={**draft.tables, name: stays})


def _size(rows: int, fan: int) -> int:
    """In what class of sizes a run is: each is `fan` times the one before."""
    return int(math.log(max(rows, 1), fan))


def _without_due(run: Run, watermark: int, *, oldest: bool) -> Run:
    """A dead row still takes away older ones, so a piece with any goes only if nothing is older."""
    if run.since or run.until < END:
        return run
    stays = tuple(piece for piece in run.pieces if piece.latest > watermark or (piece.dead and not oldest))
    return run if len(stays) == len(run.pieces) else Run(stays)


def _joins(runs: Sequence[Run], fan: int) -> list[tuple[int, int]]:
    """Which neighbours are to be joined, from the oldest on: those already begun, and any `fan` of one size.

    Begun ones have `since`, and the run behind them, which is their join, has `until`.
    """
    found: list[tuple[int, int]] = []
    free: list[tuple[int, int]] = []  # stretches of runs of which none is being joined
    place = 0
    while place < len(runs):
        end = place
        begun = runs[place].since > 0
        while end < len(runs) and (runs[end].since > 0) == begun and (begun or runs[end].until == END):
            end += 1
        (found if begun else free).append((place, end))
        place = end + 1 if begun else end
    for low, high in free:
        for size in sorted({_size(run.rows, fan) for run in runs[low:high]}):
            stretch = _longest(runs, low, high, size, fan)
            if stretch is not None:
                found.append(stretch)
                break
    return sorted(found, reverse=True)


def _longest(runs: Sequence[Run], low: int, high: int, size: int, fan: int) -> tuple[int, int] | None:
    """The first `fan` or more neighbours that are of this size or smaller."""
    start = low
    for place in range(low, high + 1):
        if place == high or _size(runs[place].rows, fan) > size:
            if place - start >= fan:
                return start, place
            start = place + 1
    return None
