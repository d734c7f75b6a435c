"""Where do the data files of a sink lie, and how do they come into sight?

On a local disk every file is first staged beside the manifest, under a name no other attempt uses. Once the manifest
names it, it is shown in the sink's folder by a second name (a hard link), so whoever globs that folder sees whole,
committed files only. Elsewhere there are no links: files of an append sink go to their final name at once, and only
readers of the manifest see exactly what is committed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast

from unbounded import storage
from unbounded.errors import ConnectorError
from unbounded.sinks.manifest import DataFile, beside

__all__ = ["LocalPlace", "ObjectPlace", "Place", "Shown", "open_place"]

Shown: TypeAlias = Literal["files", "current", "nothing"]
"""What stands in the sink's folder: all files of the log, one file that holds the newest table, or nothing."""


class Place(Protocol):
    """The data files of one sink."""

    def prepare(self) -> None:
        """Create the folders."""

    def foreign(self) -> list[str]:
        """What stands in the sink's folder, sorted."""

    def stage(self, file: DataFile, content: bytes) -> None:
        """Write a file under its own name. It is not shown, and not durable before `settle_staged`."""

    def settle_staged(self) -> None:
        """Make what was staged survive a power loss."""

    def staged(self) -> list[str]:
        """The names of files that may be forgotten when nothing needs them."""

    def staged_name(self, file: DataFile) -> str:
        """Under which of those names a file lies."""

    def forget(self, names: Iterable[str]) -> None:
        """Remove staged files; a missing one is no error. Those that are shown stay shown."""

    def show(self, files: Sequence[DataFile]) -> None:
        """Let recorded files come into sight; those that are already are left alone."""

    def settle_shown(self, files: Sequence[DataFile]) -> None:
        """Make that survive a power loss."""

    def find(self, file: DataFile) -> str | bytes:
        """A file as Polars scans it, path or content. ConnectorError if it is missing or has another size."""

    def read(self, file: DataFile) -> bytes:
        """The content of a file. ConnectorError if it is missing or has another size."""


def open_place(path: str, shown: Shown, storage_options: Mapping[str, Any] | None) -> Place:
    """The data files of the sink at this URL. Nothing is created yet."""
    if storage.is_local(path):
        return LocalPlace(storage.local_path(path), shown)
    return ObjectPlace(path, shown, storage_options)


class LocalPlace:
    """Files on a local disk."""

    def __init__(self, root: str, shown: Shown) -> None:
        self._root, self._shown = root, shown
        self._data = os.path.join(beside(root), "data")
        self._safe: set[str] = set()  # folders that exist and lie within the root

    def prepare(self) -> None:
        storage.make_folder(self._root)
        storage.make_folder(self._data)

    def foreign(self) -> list[str]:
        try:
            return sorted(os.listdir(self._root))
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise ConnectorError(f"{self._root} is a file, and a sink writes a folder. Choose another path") from None

    def stage(self, file: DataFile, content: bytes) -> None:
        path = self._staged_path(file)
        storage.write_file(path, content)
        storage.sync_file(path)

    def settle_staged(self) -> None:
        storage.sync_folder(self._data)

    def staged(self) -> list[str]:
        return sorted(os.listdir(self._data))

    def staged_name(self, file: DataFile) -> str:
        return file.name

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            storage.unlink(os.path.join(self._data, name))

    def show(self, files: Sequence[DataFile]) -> None:
        for file in files:
            if self._shown == "files":
                self._show_one(file)
            elif self._shown == "current":
                self._show_current(file)

    def _show_one(self, file: DataFile) -> None:
        target = self._shown_path(file)
        self._make_safe(os.path.dirname(target))
        try:
            storage.link(self._staged_path(file), target)
        except FileExistsError:
            return
        except FileNotFoundError:
            if not os.path.exists(target):
                raise _missing(self._staged_path(file)) from None

    def _show_current(self, file: DataFile) -> None:
        staged, current = self._staged_path(file), self._shown_path(file)
        if os.path.exists(current) and os.path.samefile(staged, current):
            return  # a rename onto another name of the same file would do nothing, and leave the temporary name
        temporary = os.path.join(beside(self._root), storage.TEMPORARY + secrets.token_hex(8))
        storage.link(staged, temporary)
        try:
            storage.replace(temporary, current)
        except OSError:
            storage.unlink(temporary)
            raise

    def settle_shown(self, files: Sequence[DataFile]) -> None:
        if self._shown != "nothing":
            for folder in sorted({os.path.dirname(self._shown_path(file)) for file in files}):
                storage.sync_folder(folder)

    def find(self, file: DataFile) -> str:
        # The folder first: names beside the manifest are forgotten after a while. But `current` changes under a reader.
        places = [self._staged_path(file)]
        if self._shown == "files":
            places.insert(0, self._shown_path(file))
        for path in places:
            try:
                size = os.stat(path).st_size
            except FileNotFoundError:
                continue
            if size != file.size:
                raise _wrong_size(path, size, file.size)
            return path
        raise _missing(places[0])

    def read(self, file: DataFile) -> bytes:
        return Path(self.find(file)).read_bytes()

    def _staged_path(self, file: DataFile) -> str:
        return os.path.join(self._data, file.name)

    def _shown_path(self, file: DataFile) -> str:
        if self._shown == "current":
            return os.path.join(self._root, "current." + file.name.partition(".")[2])
        return os.path.join(self._root, *file.path.split("/"))

    def _make_safe(self, folder: str) -> None:
        """Create a folder below the root, unless a link leads it elsewhere."""
        if folder in self._safe:
            return
        storage.make_folder(folder)
        root = os.path.realpath(self._root)
        if os.path.commonpath([root, os.path.realpath(folder)]) != root:
            raise ConnectorError(
                f"{folder} leads to {os.path.realpath(folder)}, outside of the sink {self._root}; nothing was written "
                "there. Remove the symbolic link"
            )
        self._safe.add(folder)


class ObjectPlace:
    """Files through fsspec, one put each under a name no other attempt uses."""

    def __init__(self, url: str, shown: Shown, storage_options: Mapping[str, Any] | None) -> None:
        self._fs, root = storage.filesystem(url, storage_options)
        self._shown = shown
        self._root = root.rstrip("/")
        self._data = self._root if shown == "files" else beside(self._root) + "/data"

    def prepare(self) -> None:
        """Nothing to do: object stores have no folders."""

    def foreign(self) -> list[str]:
        return self._below(self._root)

    def stage(self, file: DataFile, content: bytes) -> None:
        path = self._path(file)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(path, content)

    def settle_staged(self) -> None:
        """Nothing to do: a put is durable when it returns."""

    def staged(self) -> list[str]:
        return self._below(self._data)

    def staged_name(self, file: DataFile) -> str:
        return file.path if self._shown == "files" else file.name

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self._fs.rm_file(f"{self._data}/{name}")
            except FileNotFoundError:
                continue

    def show(self, files: Sequence[DataFile]) -> None:
        """Nothing to do: files are in sight from the start, or never."""

    def settle_shown(self, files: Sequence[DataFile]) -> None:
        """Nothing to do."""

    def find(self, file: DataFile) -> bytes:
        return self.read(file)

    def read(self, file: DataFile) -> bytes:
        path = self._path(file)
        try:
            content = cast("bytes", self._fs.cat_file(path))
        except FileNotFoundError:
            raise _missing(path) from None
        if len(content) != file.size:
            raise _wrong_size(path, len(content), file.size)
        return content

    def _path(self, file: DataFile) -> str:
        return f"{self._data}/{self.staged_name(file)}"

    def _below(self, folder: str) -> list[str]:
        try:
            found = cast("list[str]", self._fs.find(folder))
        except FileNotFoundError:
            return []
        return sorted(path[len(folder) + 1 :] for path in found)


def _missing(path: str) -> ConnectorError:
    return ConnectorError(
        f"{path} is missing, though the sink's log names it; it was deleted or moved by something else. "
        "Put it back, or write to a new path"
    )


def _wrong_size(path: str, size: int, expected: int) -> ConnectorError:
    return ConnectorError(
        f"{path} has {size} bytes where {expected} were written; it was changed or cut by something else. "
        "Restore it from a backup, or write to a new path"
    )
