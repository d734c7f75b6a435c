"""Which files lie under a path, and what tells one state of a file from another?

One way for the local disk, where a listing gives names for free and each `stat` costs; one for every
other place, where fsspec's listing gives both at once. Names are relative to the folder, `/` between parts.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import filterfalse
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from unbounded.errors import ConnectorError, PlanError
from unbounded.sources.pattern import MANIFEST, Pattern, why_ignored
from unbounded.storage import decode, filesystem, is_local, local_path

if TYPE_CHECKING:
    import fsspec

__all__ = ["File", "Folder", "Glimpse", "LocalFolder", "RemoteFolder", "open_folder", "shown"]

Ignored = Counter[str]
"""How many names were passed over, by reason."""

_MAGIC = re.compile(r"[*?[]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What the drivers of fsspec call the time of the last write, and the mark that changes with it.
_MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "version_id", "VersionId")


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was when somebody looked; equal fields mean that its bytes are the same.

    `tag` is the inode on a local disk, an etag or version elsewhere, "" where a driver has neither.
    """

    name: str
    size: int
    mtime_ns: int
    tag: int | str

    def __str__(self) -> str:
        modified = _EPOCH + timedelta(microseconds=self.mtime_ns // 1000)
        mark = f"inode {self.tag}" if isinstance(self.tag, int) else f"etag {self.tag or 'unknown'}"
        return f"{self.size} bytes of {modified:%Y-%m-%d %H:%M:%S.%f} UTC, {mark}"


@dataclass(frozen=True, slots=True)
class Glimpse:
    """The first and last bytes of a file, from the same handle as its identity."""

    file: File
    head: bytes
    tail: bytes


class Folder(Protocol):
    """Where files are. `url` is for people and for Polars, without credentials.

    `None` for a file means that it is gone, or is no file.
    """

    @property
    def url(self) -> str: ...

    @property
    def pattern(self) -> Pattern: ...

    def covers(self, location: str) -> bool:
        """Whether a file in that place, or below it, could be one of these."""

    def names(self, ignored: Ignored, known: Set[str] = frozenset()) -> Iterator[tuple[str, File | None]]:
        """What matches now and is not `known`, in no order, each with what the listing says of it.

        Names that are passed over for another reason are counted.
        """

    def stat(self, name: str) -> File | None:
        """A file as it is now."""

    def glimpse(self, name: str, *, head: int, tail: int) -> Glimpse | None:
        """The file as it is now, with at most so many of its first and last bytes."""

    def path(self, name: str) -> str:
        """A file's absolute path or URL, as it is shown and, if local, opened."""

    def open(self, name: str) -> BinaryIO:
        """A file's bytes, to be read piece by piece. FileNotFoundError if it is gone."""

    def read(self, name: str) -> bytes | None:
        """All bytes of a file."""


@dataclass
class LocalFolder:
    """Files of the local disk. Mutable, to remember which output folders were judged already."""

    url: str
    pattern: Pattern
    cleans: bool = False
    """Whether files are taken away once they were read."""
    _judged: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._judge(self.url)

    def path(self, name: str) -> str:
        return os.path.join(self.url, name)

    def covers(self, location: str) -> bool:
        return self.pattern.covers(self.url, location)

    def names(self, ignored: Ignored, known: Set[str] = frozenset()) -> Iterator[tuple[str, File | None]]:
        exact = self.pattern.exact
        found = {self.pattern.parts[0]} - known if exact else self._walk(self.url, (), ignored, known)
        return ((name, None) for name in found)  # a listing tells nothing but names

    def _walk(self, path: str, above: tuple[str, ...], ignored: Ignored, known: Set[str]) -> Iterator[str]:
        for name, inside in self._entries(path, above, known):
            parts = (*above, name)
            reason = why_ignored(name)
            if not (self.pattern.enters(parts) if inside else self.pattern.matches(parts)):
                if inside and reason is None:
                    ignored["folder"] += 1
                continue
            if reason is not None:
                ignored[reason] += 1
                if reason == "manifest":
                    self._judge(os.path.join(path, name).removesuffix(MANIFEST))
            elif inside:
                yield from self._walk(os.path.join(path, name), parts, ignored, known)
            else:
                yield "/".join(parts)

    def _entries(self, path: str, above: tuple[str, ...], known: Set[str]) -> Iterator[tuple[str, bool]]:
        """What is in a folder and not known, and whether it is a folder itself."""
        follow = self.pattern.depth is not None  # a linked folder can be a loop
        try:
            if known:
                # A million names that were read: a listing of names alone, compared outside of Python, takes 0.7
                # of the time of one that tells files from folders.
                prefix = "".join(f"{part}/" for part in above)
                names = map(prefix.__add__, os.listdir(path)) if prefix else os.listdir(path)
                for name in filterfalse(known.__contains__, names):
                    yield name[len(prefix) :], _is_folder(Path(self.url, name), follow_symlinks=follow)
                return
            with os.scandir(path) as entries:
                yield from ((entry.name, _is_folder(entry, follow_symlinks=follow)) for entry in entries)
        except OSError as error:
            if above and isinstance(error, FileNotFoundError):
                return  # removed since its parent was listed
            raise ConnectorError(f"cannot list {path}: {error.strerror}. Files in it would be missed") from error

    def _judge(self, path: str) -> None:
        if path not in self._judged:
            record = Path(f"{path}{MANIFEST}", "owner")
            _refuse_table(path, record.read_bytes() if record.is_file() else None, cleans=self.cleans)
            self._judged.add(path)

    def stat(self, name: str) -> File | None:
        try:
            return _local_file(name, os.stat(self.path(name)))
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ELOOP:
                return None  # a link to nowhere or to itself is no file
            raise ConnectorError(f"cannot read {self.path(name)}: {error.strerror}. Grant it, or move it") from error

    def glimpse(self, name: str, *, head: int, tail: int) -> Glimpse | None:
        try:
            with open(self.path(name), "rb") as handle:
                file = _local_file(name, os.fstat(handle.fileno()))
                if file is None:
                    return None
                first = handle.read(head)
                handle.seek(max(0, file.size - tail))
                return Glimpse(file, first, handle.read(tail))
        except (FileNotFoundError, IsADirectoryError):
            return None
        except PermissionError as error:
            raise ConnectorError(f"cannot read {self.path(name)}: {error.strerror}. Grant it, or move it") from error

    def open(self, name: str) -> BinaryIO:
        return open(self.path(name), "rb")

    def read(self, name: str) -> bytes | None:
        try:
            return Path(self.path(name)).read_bytes()
        except FileNotFoundError:
            return None


def _is_folder(entry: os.DirEntry[str] | Path, *, follow_symlinks: bool) -> bool:
    try:
        if isinstance(entry, Path):  # its own method follows links, and cannot be told not to before Python 3.13
            return stat.S_ISDIR(entry.stat(follow_symlinks=follow_symlinks).st_mode)
        return entry.is_dir(follow_symlinks=follow_symlinks)
    except OSError:  # a link to itself, or into a folder that may not be entered: `stat` says of it what it is
        return False


def _local_file(name: str, status: os.stat_result) -> File | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    return File(name, status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class RemoteFolder:
    """Files behind one uncached fsspec filesystem."""

    url: str
    pattern: Pattern
    fs: fsspec.AbstractFileSystem
    root: str
    cleans: bool = False

    def __post_init__(self) -> None:
        owner = f"{self.root.rstrip('/')}{MANIFEST}/owner"
        _refuse_table(self.url, self.fs.cat_file(owner) if self.fs.exists(owner) else None, cleans=self.cleans)

    def path(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"

    def covers(self, location: str) -> bool:
        return self.pattern.covers(self.url, location)

    def _key(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def names(self, ignored: Ignored, known: Set[str] = frozenset()) -> Iterator[tuple[str, File | None]]:
        if self.pattern.exact:
            yield from ((name, None) for name in {self.pattern.parts[0]} - known)
            return
        found = cast("dict[str, dict[str, Any]]", self.fs.find(self.root, maxdepth=self.pattern.depth, detail=True))
        above = len(self.root.strip("/"))
        for path, details in found.items():
            name = path.strip("/")[above:].lstrip("/")
            parts = tuple(name.split("/"))
            if name in known or not self.pattern.matches(parts):
                continue
            reason = next(filter(None, map(why_ignored, parts)), None)
            if reason is None:
                yield name, _remote_file(name, details)
            else:
                ignored[reason] += 1

    def stat(self, name: str) -> File | None:
        try:
            return _remote_file(name, self.fs.info(self._key(name)))
        except FileNotFoundError:
            return None

    def glimpse(self, name: str, *, head: int, tail: int) -> Glimpse | None:
        file = self.stat(name)
        if file is None:
            return None
        try:
            if file.size <= head + tail:
                whole = self.fs.cat_file(self._key(name))
                return Glimpse(file, whole[:head], whole[-tail:])
            first = self.fs.cat_file(self._key(name), start=0, end=head) if head else b""
            return Glimpse(file, first, self.fs.cat_file(self._key(name), start=file.size - tail, end=file.size))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        return cast("BinaryIO", self.fs.open(self._key(name), "rb"))

    def read(self, name: str) -> bytes | None:
        try:
            return cast("bytes", self.fs.cat_file(self._key(name)))
        except FileNotFoundError:
            return None


def _remote_file(name: str, details: Mapping[str, Any]) -> File | None:
    if details.get("type") == "directory":
        return None
    modified = next((details[key] for key in _MODIFIED if details.get(key) is not None), None)
    tag = next((details[key] for key in _TAGS if details.get(key) is not None), "")
    return File(name, int(details.get("size") or 0), _nanoseconds(modified), tag if isinstance(tag, int) else str(tag))


def _nanoseconds(modified: datetime | float | str | None) -> int:
    """A driver's time in whole microseconds, since a listing may give a float where a look gives a datetime."""
    match modified:
        case datetime():
            aware = modified if modified.tzinfo else modified.replace(tzinfo=UTC)
            return (aware - _EPOCH) // timedelta(microseconds=1) * 1000
        case int() | float():
            return round(modified * 1e6) * 1000
        case str():
            return _nanoseconds(datetime.fromisoformat(modified))
        case None:
            return 0


def _refuse_table(path: str, owner: bytes | None, *, cleans: bool) -> None:
    """Refuse the output of a query whose files are replaced; `owner` is the sink's record, if it has one.

    An append sink only ever adds files, so its folder is a good source; but all of its files are listed in its
    manifest, so none may be taken away.
    """
    if owner is None:
        return
    if cleans:
        raise PlanError(
            f"{path} is the output of a query, whose readers count on every file in it, and clean_source= would take "
            "them away. Leave clean_source out"
        )
    record, _ = decode(owner, "sink-owner", 0, f"{path}{MANIFEST}/owner")
    mode = record.get("mode", "append")
    if mode != "append":
        raise PlanError(
            f"{path} is the output of a query in {mode} mode, whose files are replaced while it runs, so a stream "
            f"over them would miss and repeat rows. Read it with ub.read_sink({path!r}), or write it in append mode"
        )


def shown(source: str | os.PathLike[str]) -> str:
    """A path or URL as it may be shown and stored: without user, password and query string."""
    text = re.sub(r"://[^/@]*@", "://", os.fspath(source))
    return re.sub(r"\?.*", "", text) if text.startswith(("http://", "https://")) else text


def open_folder(
    source: str | os.PathLike[str],
    *,
    recursive: bool,
    glob: bool,
    storage_options: Mapping[str, Any] | None,
    cleans: bool = False,
) -> Folder:
    """The folder that a path, a glob or the name of one file points into.

    ConnectorError for a local folder that does not exist; elsewhere folders exist as soon as a file does.
    """
    if not isinstance(source, str | os.PathLike):
        raise PlanError(
            f"{source!r} is no place to read from. Write one folder, file or glob, such as 'in/*.parquet'; or "
            "ub.concat([...]) of a scan for each"
        )
    if is_local(source):
        root, pattern = _split(local_path(source), os.path.isfile, recursive=recursive, glob=glob)
        if not os.path.isdir(root):
            raise ConnectorError(_missing(os.fspath(source), root))
        return LocalFolder(root, pattern, cleans)
    fs, path = filesystem(source, storage_options)
    root, pattern = _split(path, fs.isfile, recursive=recursive, glob=glob)
    return RemoteFolder(shown(fs.unstrip_protocol(root)), pattern, fs, root, cleans)


def _split(path: str, is_file: Callable[[str], bool], *, recursive: bool, glob: bool) -> tuple[str, Pattern]:
    parts = path.rstrip("/").split("/")
    fixed = next((i for i, part in enumerate(parts) if glob and _MAGIC.search(part)), len(parts))
    if fixed < len(parts):
        wanted = tuple(parts[fixed:])
        return "/".join(parts[:fixed]) or "/", Pattern((*wanted, "*") if wanted[-1] == "**" else wanted)
    if is_file(path):
        return "/".join(parts[:-1]) or "/", Pattern((parts[-1],), exact=True)
    return path.rstrip("/") or "/", Pattern(("**", "*") if recursive else ("*",))


def _missing(asked: str, root: str) -> str:
    parent = root
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    return (
        f"{asked!r} is {root}, which does not exist; the nearest folder that does is {parent}. "
        "Create it before the query starts, or correct the path"
    )
