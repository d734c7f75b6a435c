"""Where do the rows of a case come from? From feeds that show what was added all at once, from files, from tables."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

import unbounded as ub
from tests.conformance.expressions import DTYPES, Json, UntranslatedError, value

__all__ = ["Sources"]


class _Stage:
    """What the feeds of a case show: rows added before `publish` come into sight of one look at all feeds together.

    A query asks its sources one after the other, so that a look between two additions would see half of them.
    """

    def __init__(self) -> None:
        self._feeds: list[_Feed] = []
        self._shown: Mapping[int, int] = {}
        self._looks: dict[int, Mapping[int, int]] = {}
        self._lock = threading.Lock()

    def enter(self, feed: _Feed) -> None:
        self._feeds.append(feed)

    def publish(self) -> None:
        self._shown = {id(feed): feed.end() or 0 for feed in self._feeds}

    def begin(self) -> None:
        """A new run looks for the first time."""
        self._looks = {}
        for feed in self._feeds:
            feed.looks = 0

    def seen(self, feed: _Feed) -> int:
        """How many additions the n-th look of a run sees of a feed: what was shown when it began."""
        with self._lock:
            return self._looks.setdefault(feed.looks, self._shown).get(id(feed), 0)


class _Feed(ub.MemorySource):
    """A memory source on a stage."""

    def __init__(self, schema: Mapping[str, Any], stage: _Stage) -> None:
        super().__init__(schema)
        self.looks = 0
        self._stage = stage
        stage.enter(self)

    def latest(self, since: Any, end: Any, *, limited: bool) -> Any:
        self.looks += 1
        return super().latest(since, self._stage.seen(self) if end is None else end, limited=limited)


class Sources:
    """The streams and tables of a case."""

    def __init__(self, case: Json, folder: Path) -> None:
        self._folder = folder
        self._declared = {source["name"]: source for source in case["sources"]}
        self.stage = _Stage()
        self._feeds = {
            name: _Feed(_dtypes(one["schema"]), self.stage)
            for name, one in self._declared.items()
            if one.get("kind", "rows") == "rows"
        }
        self._changing: dict[str, Json] = {}
        self._files = 0

    @property
    def of_rows(self) -> bool:
        return len(self._feeds) == len(self._declared)

    def stream(self, name: str) -> ub.StreamFrame:
        if name in self._feeds:
            return ub.scan_memory(self._feeds[name], name=name)
        declared = self._declared[name]
        if declared.get("format", "json") != "json":
            raise UntranslatedError(f"a source of {declared['format']} files")
        given = declared.get("options", {})
        options: dict[str, Any] = {"order": "latest_first"} if given.get("latest_first") == "true" else {}
        if "max_files_per_batch" in given:
            options["max_files_per_trigger"] = int(given["max_files_per_batch"])
        if unknown := set(given) - {"latest_first", "max_files_per_batch"}:
            raise UntranslatedError(f"the options {unknown} of a source")
        # Spark reads what does not fit as null.
        schema = _dtypes(declared["schema"])
        return ub.scan_ndjson(self._place(name), schema=schema, name=name, ignore_errors=True, **options)

    def static(self, plan: Json) -> pl.LazyFrame | pl.DataFrame:
        if not plan.get("mutable"):
            return _table(plan["schema"], plan["rows"])
        path = self._folder / f"static {plan['name']}.parquet"
        self._changing[plan["name"]] = plan["schema"]
        if not path.exists():
            _table(plan["schema"], plan["rows"]).write_parquet(path)
        return pl.scan_parquet(path)

    def change_static(self, name: str, rows: Json) -> None:
        path = self._folder / f"static {name}.parquet"
        path.unlink()
        _table(self._changing[name], rows).write_parquet(path)

    def add(self, addition: Json) -> None:
        name = addition["source"]
        if name in self._feeds:
            self._feeds[name].add(_table(self._declared[name]["schema"], addition["rows"]))
            return
        self._files += 1
        path = self._place(name) / addition.get("file", f"f{self._files:05d}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [column for column, _ in self._declared[name]["schema"]]
        rows = [json.dumps(dict(zip(columns, row, strict=False))) for row in addition["rows"]]
        hidden = self._folder / f".{path.name}"
        hidden.write_text("\n".join(rows) + "\n")
        changed = addition.get("mtime", 1_000_000 + self._files)
        os.utime(hidden, (changed, changed))
        hidden.rename(path)

    def delete_file(self, name: str, file: str) -> None:
        (self._place(name) / file).unlink()

    def _place(self, name: str) -> Path:
        place = self._folder / f"source {name}"
        place.mkdir(exist_ok=True)
        return place


def _dtypes(schema: Json) -> dict[str, Any]:
    return {name: DTYPES[kind] for name, kind in schema}


def _table(schema: Json, rows: Json) -> pl.DataFrame:
    data = {
        name: [value(row[i] if i < len(row) else None, kind) for row in rows] for i, (name, kind) in enumerate(schema)
    }
    return pl.DataFrame(data, _dtypes(schema))
