"""What do the sources of a query offer next, and what becomes of it when the batch is over?

Every method takes and gives offsets by source name, and leaves out the sources without new rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import polars as pl

from unbounded.connectors import Blames, Counts, Located, Offset, Remembers, Source, Tidies, Verifies
from unbounded.errors import ConnectorError, SchemaMismatchError
from unbounded.plan import Scan
from unbounded.state import Home, Log

__all__ = ["Inputs"]

_Offsets: TypeAlias = Mapping[str, Offset]
"""By source name."""

_BETWEEN_LOOKS: Final = timedelta(minutes=10)  # a listing of a million files takes 0.3 s, and none of them is read


class Inputs:
    """The sources of one run by their names, and the logs in which a home keeps what some of them have seen.

    `waits` are the sources that wait for others to end, by name, and for which.

    Mutable: `_noted` is what the batch that runs adds to those logs, `ended` the sources that others waited for,
    `_looked` when each of these was looked at since, and `_warned` those of which more has come.
    """

    def __init__(self, scans: Mapping[str, Scan], home: Home, waits: Mapping[str, frozenset[str]] = {}) -> None:
        # A frame may be used in several queries, so what one run has seen must not be known to another.
        self.sources: Mapping[str, Source] = {
            name: scan.source.fresh() if isinstance(scan.source, Remembers) else scan.source
            for name, scan in scans.items()
        }
        sources = self.sources.items()  # a protocol is asked for once: each time costs as much as a small batch's JSON
        self._remembering = {name: source for name, source in sources if isinstance(source, Remembers)}
        self._verifying = {name: source for name, source in sources if isinstance(source, Verifies)}
        self.counting = {name: source for name, source in sources if isinstance(source, Counts)}
        self.tidying = [source for _, source in sources if isinstance(source, Tidies)]
        self._logs: Mapping[str, Log] = {
            name: home.log(f"source {name}", source.memory_schema) for name, source in self._remembering.items()
        }
        self._noted: dict[str, pl.DataFrame] = {}
        self._waits = waits
        self.ended: frozenset[str] = frozenset()
        self._looked: dict[str, datetime] = {}
        self._warned: set[str] = set()

    @property
    def remember(self) -> bool:
        """Whether a batch has something to remember of its input."""
        return bool(self._logs)

    @property
    def logged(self) -> dict[str, pl.Schema]:
        """The logs by their names at the home."""
        return {f"source {name}": source.memory_schema for name, source in self._remembering.items()}

    def pinned(self) -> dict[str, Any]:
        """What a restart compares."""
        return {
            name: {
                "schema": {column: str(dtype) for column, dtype in source.schema.items()},
                "place": source.location if isinstance(source, Located) else "",
            }
            for name, source in self.sources.items()
        }

    def restore(self, ended: Iterable[str]) -> None:
        """Hand back what the home has restored, and what the last commit says has ended."""
        self.ended = frozenset(ended)
        for name, log in self._logs.items():
            for rows in log.restored():
                self._remembering[name].remember(rows)

    # One batch ----------------------------------------------------------------------------------
    def ends(self) -> dict[str, Offset | None]:
        """How far each source goes now."""
        return {name: source.end() for name, source in self.sources.items()}

    def latest(
        self, positions: _Offsets, ends: Mapping[str, Offset | None] | None, now: datetime, *, limited: bool
    ) -> _Offsets:
        """How far the next batch reads: behind `positions`, not past `ends` if there are some.

        A source that waits for others is asked once these have nothing more to give, also behind `ends`.
        """
        found: dict[str, Offset] = {}
        for name in sorted(self.ended - self._warned):
            if now - self._looked.get(name, datetime.min.replace(tzinfo=now.tzinfo)) >= _BETWEEN_LOOKS:
                self._looked[name] = now
                self._warn_of_more(name, positions.get(name))

        def ask(name: str) -> None:
            bounded = ends is not None and ends[name] is None
            if name not in self.ended and not bounded and not self._held(name, found, positions):
                until = self.sources[name].latest(
                    positions.get(name), ends[name] if ends is not None else None, limited=limited
                )
                if until is not None:
                    found[name] = until

        for name in sorted(self.sources, key=lambda name: len(self._waits.get(name, ()))):  # the first ones first
            ask(name)
        return found

    def _held(self, name: str, found: _Offsets, positions: _Offsets) -> bool:
        """Whether a source still waits for another, which has rows, or files that are not complete."""
        for first in self._waits.get(name, frozenset()) - self.ended:
            source = self.sources[first]
            incomplete = first in self.counting and self.counting[first].metrics().get("waiting")
            if first in found or incomplete or source.latest(positions.get(first), None, limited=True) is not None:
                return True
        return False

    def _warn_of_more(self, name: str, since: Offset | None) -> None:
        """Say so if a source that has ended has more: it stays in `backlog_files`, where the source counts files."""
        try:
            if self.sources[name].latest(since, None, limited=True) is None:
                return
        except SchemaMismatchError:
            pass  # there is more, whatever it is
        except ConnectorError:
            return  # nobody needs the place any more
        self._warned.add(name)
        files = self.counting[name].metrics().get("backlog_files") if name in self.counting else None
        behind = " and ".join(sorted(repr(other) for other, first in self._waits.items() if name in first))
        warnings.warn(
            f"source {name!r} has {f'{files:,} files' if files else 'rows'} more, which are not read: "
            f"concat_sequential() read it to its end, and {behind} behind it has begun, so that they would come out of "
            f"order. Move them to {behind}, or read all anew with a new checkpoint and a new output path",
            UserWarning,
            stacklevel=2,
        )

    def ended_by(self, until: _Offsets) -> frozenset[str]:
        """The sources that have ended with a batch: one that waited for them has rows in it."""
        return self.ended.union(*(first for name, first in self._waits.items() if name in until))

    @property
    def resting(self) -> frozenset[str]:
        """The sources that have ended, or wait: none of them can send rows now."""
        return self.ended.union(name for name, first in self._waits.items() if not first <= self.ended)

    def reads_history(self, until: _Offsets) -> bool:
        """Whether a batch read of a source for which another waits."""
        return any(first & until.keys() for first in self._waits.values())

    def read(self, positions: _Offsets, until: _Offsets) -> dict[str, pl.LazyFrame]:
        """Exactly the rows behind `positions` up to `until`, of every source."""
        return {
            name: source.read(positions.get(name), until[name]) if name in until else pl.LazyFrame(schema=source.schema)
            for name, source in self.sources.items()
        }

    def verify(self, positions: _Offsets, until: _Offsets) -> None:
        """SourceDataLostError if that range changed while Polars read it."""
        for name, source in self._verifying.items():
            if name in until:
                source.verify(positions.get(name), until[name])

    def blamed(self, until: _Offsets, error: Exception, batch: str, then: str) -> Exception:
        """An error that names the first unit of a batch that cannot be read; the given one if all can be.

        `then` is what to do once the unit is mended.
        """
        for name, offset in until.items():
            source = self.sources[name]
            unit = source.unreadable(offset) if isinstance(source, Blames) else None
            if unit is not None:
                return ConnectorError(
                    f"source {name!r} cannot be read as its columns: {unit}. {batch} was not committed. Mend the file, "
                    f'or take it away, or scan text with on_bad_record="dead_letter" to set that aside; then {then}'
                )
        return error

    def note(self, until: _Offsets) -> None:
        """Hand what was read to the home, for its next commit."""
        self._noted = {name: self._remembering[name].memory(until[name]) for name in self._logs if name in until}
        for name, rows in self._noted.items():
            self._logs[name].append(rows)

    def positions(self, before: _Offsets, until: _Offsets) -> _Offsets:
        """The last offset of each source that needs it handed back."""
        return {**before, **{name: offset for name, offset in until.items() if name not in self._logs}}

    def pass_over(self, until: _Offsets) -> None:
        """The batch happened: never offer its range again."""
        self.ended = self.ended_by(until)
        for name, source in self._remembering.items():
            if name in until:
                rows = self._noted.pop(name, None)
                source.remember(source.memory(until[name]) if rows is None else rows)

    def acknowledge(self, until: _Offsets) -> None:
        """Tell the sources that the batch happened; may be repeated."""
        for name, offset in until.items():
            self.sources[name].acknowledge(offset)

    def refuse_waiting(self) -> None:
        """ConnectorError if something is there and not yet complete, though the input was declared ended."""
        found = [name for source in self.counting.values() for name in source.metrics().get("waiting", ())]
        if found:
            raise ConnectorError(
                f"final=True declares the input ended, and {', '.join(map(repr, found[:3]))} still waits to be "
                "complete: it has no footer or no newline at its end. Complete it or take it away, then start again"
            )
