"""Where durable bytes lie: records that are written once, verified before use, and survive power loss.

A record is written under a name that did not exist (put-if-absent) and is never changed. On a local
disk that is: temporary file in the same folder, fsync, hard link to the name (the step that cannot
clobber), unlink, fsync of the folder. Elsewhere it is one conditional put of fsspec.

Every durable effect on the local disk goes through the seven functions of the section "acts", so
that a test can make each of them fail before or after its effect.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from unbounded.errors import CheckpointError, ConcurrentQueryError, ConnectorError, CorruptRecordError

if TYPE_CHECKING:
    import fsspec

__all__ = [
    "Bytes",
    "LocalStorage",
    "Lock",
    "ObjectStorage",
    "Record",
    "Storage",
    "decode",
    "digest",
    "digest_in",
    "encode",
    "filesystem",
    "is_local",
    "local_path",
    "open_storage",
    "without_credentials",
]

Record = Mapping[str, Any]
"""The JSON object of a record: strings, integers, finite floats, booleans, null, lists, objects."""

Bytes: TypeAlias = bytes | memoryview

TEMPORARY = ".tmp-"
_MAGIC = "unbounded/1"


# ------------------------------------------------------------------------------------------- acts
def write_file(path: str, data: bytes) -> None:
    """Create `path`, which must not exist, with these bytes; not durable before `sync_file`."""
    with open(path, "xb") as file:
        file.write(data)


def sync_file(path: str) -> None:
    """Make the bytes of a file survive a power loss. A failure is final: never sync the same file again."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: str) -> None:
    """Make the names in a folder survive a power loss."""
    sync_file(path)


def link(source: str, target: str) -> None:
    """Give a file a second name. FileExistsError if the name is taken."""
    os.link(source, target)


def replace(source: str, target: str) -> None:
    """Move a file over another, atomically."""
    os.replace(source, target)


def unlink(path: str) -> None:
    """Remove a name; a missing one is no error."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def make_folder(path: str) -> None:
    """Create a folder and its parents, and make each new name survive a power loss."""
    missing = [path]
    while not os.path.isdir(missing[-1]):
        missing.append(os.path.dirname(missing[-1]))
    for parent, new in zip(missing[:0:-1], missing[-2::-1], strict=True):
        try:
            os.mkdir(new)
        except FileExistsError:
            continue
        sync_folder(parent)


# ---------------------------------------------------------------------------------------- records
def digest(*parts: Bytes) -> str:
    """The blake2b-128 digest of engine bytes, in hex; it detects damage, it does not authenticate."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def encode(kind: str, batch: int, record: Record, *blob: Bytes) -> bytes:
    """One record as bytes: a head line that people can read, a JSON line, then the blob, here in pieces.

    The head holds kind, batch, the lengths of both parts and a digest over itself and everything behind it.
    """
    text = json.dumps(record, sort_keys=True, allow_nan=False).encode()
    head = f"{_MAGIC} {kind} {batch} {len(text)} {sum(map(len, blob))} ".encode()
    return b"".join((head, digest(head, text, b"\n", *blob).encode(), b"\n", text, b"\n", *blob))


def digest_in(record: bytes) -> str:
    """The digest that a record holds of itself. `decode` verifies it."""
    return record[: record.find(b"\n")].rpartition(b" ")[2].decode("ascii", "replace")


def decode(data: bytes, kind: str, batch: int, where: str) -> tuple[dict[str, Any], bytes]:
    """The JSON object and the blob of a record; verified whole before anything is parsed.

    Raises CorruptRecordError naming `where` with what was expected and found.
    """
    head, _, body = data.partition(b"\n")
    fields = head.decode("ascii", "replace").split(" ")
    expected = [_MAGIC, kind, str(batch)]
    if fields[:3] != expected or len(fields) != 6:
        raise CorruptRecordError(
            f"{where} does not start with {' '.join(expected)!r} but with {head[:80]!r}; it was damaged or "
            "copied from elsewhere. Restore the file from a backup, or start with a new checkpoint"
        )
    found = digest(" ".join([*fields[:5], ""]).encode(), body)
    if fields[5] != found:
        raise CorruptRecordError(
            f"{where} has digest {found} where {fields[5][:40]} was written ({len(body)} bytes); it was "
            "damaged. Restore the file from a backup, or start with a new checkpoint"
        )
    length = int(fields[3])
    return cast("dict[str, Any]", json.loads(body[:length])), body[length + 1 :]


# ----------------------------------------------------------------------------------------- places
class Lock(Protocol):
    """Held from `Storage.lock` until `release`, or until the process dies."""

    def release(self) -> None: ...


class Storage(Protocol):
    """A folder of records. Names are relative, with `/` between parts."""

    url: str

    def put(self, name: str, data: bytes) -> None:
        """Write durably under a name that is not taken. FileExistsError if it is."""

    def read(self, name: str) -> bytes:
        """FileNotFoundError if there is no such record."""

    def names(self, folder: str) -> list[str]:
        """The records of a folder, sorted, without temporary ones; [] if there is no folder."""

    def remove(self, names: Iterable[str]) -> None:
        """Forget records; a missing one is no error."""

    def settle(self, folder: str) -> None:
        """Make what a killed process left behind durable, before it is read."""

    def lock(self, owner: Record) -> Lock:
        """ConcurrentQueryError, naming the other owner, if another process holds it."""


class LocalStorage:
    """Records on a local disk that survive a power loss."""

    def __init__(self, path: str) -> None:
        self.url = os.path.abspath(path)
        self._made: set[str] = set()

    def _path(self, name: str) -> str:
        return os.path.join(self.url, *name.split("/"))

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        folder = os.path.dirname(path)
        if folder not in self._made:
            make_folder(folder)
            self._made.add(folder)
        temporary = os.path.join(folder, TEMPORARY + secrets.token_hex(8))
        try:
            write_file(temporary, data)
            sync_file(temporary)
            link(temporary, path)
        finally:
            unlink(temporary)
        sync_folder(folder)

    def read(self, name: str) -> bytes:
        return Path(self._path(name)).read_bytes()

    def names(self, folder: str) -> list[str]:
        try:
            found = os.listdir(self._path(folder))
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith(TEMPORARY))

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            unlink(self._path(name))

    def settle(self, folder: str) -> None:
        path = self._path(folder)
        if not os.path.isdir(path):
            return
        for name in os.listdir(path):
            if name.startswith(TEMPORARY):
                unlink(os.path.join(path, name))
        sync_folder(path)

    def lock(self, owner: Record) -> Lock:
        make_folder(self.url)
        return _FileLock(self._path("lock"), owner, self.url)


class _FileLock:
    """`flock` on a file that is never deleted: it dies with its process, so nothing is left to clean."""

    def __init__(self, path: str, owner: Record, where: str) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._handle, 4096).decode("utf-8", "replace").strip()
            os.close(self._handle)
            who = "another query of this process" if f'"pid": {os.getpid()},' in holder else "another process"
            raise ConcurrentQueryError(
                f"{who} runs on {where}: {holder or 'owner unknown'}. Nothing was written. Stop it, or use another "
                "checkpoint"
            ) from None
        except OSError:
            os.close(self._handle)
            raise
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(owner).encode(), 0)

    def release(self) -> None:
        os.close(self._handle)


class ObjectStorage:
    """Records through fsspec: one conditional put each, no rename, no listing in the commit path."""

    def __init__(self, url: str, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self.url, self._fs, self._root = url, fs, root.rstrip("/")
        self._probe()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _probe(self) -> None:
        if "memory" in _protocols(self._fs):
            return
        name = f"probe-{secrets.token_hex(8)}"
        self.put(name, b"1")
        try:
            self.put(name, b"2")
        except FileExistsError:
            self.remove([name])
            return
        self.remove([name])
        raise CheckpointError(
            f"{self.url} cannot create a file only if it is absent, so two writers could overwrite each other. "
            "Use a local folder, or an object store whose fsspec driver honours pipe_file(mode='create')"
        )

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with _MEMORY_LOCK if "memory" in _protocols(self._fs) else nullcontext():
            self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._fs.pipe_file(path, data, mode="create")

    def read(self, name: str) -> bytes:
        return cast("bytes", self._fs.cat_file(self._path(name)))

    def names(self, folder: str) -> list[str]:
        path = self._path(folder)
        try:
            found = self._fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(cast("str", entry).rsplit("/", 1)[1] for entry in found)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                continue

    def settle(self, folder: str) -> None:
        """Nothing to do: a put is durable when it returns."""

    def lock(self, owner: Record) -> Lock:
        return _NoLock()


class _NoLock:
    """Put-if-absent alone fences a second writer: its next record fails."""

    def release(self) -> None:
        return


_MEMORY_LOCK = threading.Lock()  # fsspec's memory driver checks, then writes


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def filesystem(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> tuple[fsspec.AbstractFileSystem, str]:
    """The uncached fsspec filesystem of a URL, and the path within it.

    Uncached, because a stale listing hides new files and keeps deleted ones. ConnectorError for an
    unknown protocol or a missing driver.
    """
    import fsspec  # noqa: PLC0415  # a sixth of the library's import time, which a local run need not pay

    options = {"skip_instance_cache": True, "use_listings_cache": False, **(storage_options or {})}
    try:
        fs, path = fsspec.core.url_to_fs(os.fspath(url), **options)
    except (ValueError, ImportError) as error:
        raise ConnectorError(f"cannot open {os.fspath(url)!r}: {error}") from error
    return fs, cast("str", path)


def is_local(url: str | os.PathLike[str]) -> bool:
    """Whether a URL names the local disk."""
    text = os.fspath(url)
    return "://" not in text or text.startswith(("file://", "local://"))


def local_path(url: str | os.PathLike[str]) -> str:
    """The absolute path of a local URL, `~` expanded."""
    text = os.fspath(url)
    return os.path.abspath(os.path.expanduser(text.split("://", 1)[1] if "://" in text else text))


def without_credentials(url: str) -> str:
    """A URL as it may be printed and recorded: without user and password."""
    return re.sub(r"//[^/@]*@", "//", url)


def open_storage(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Storage:
    """The records under a URL. Nothing is created before the first put."""
    if is_local(url):
        return LocalStorage(local_path(url))
    fs, path = filesystem(url, storage_options)
    return ObjectStorage(without_credentials(os.fspath(url)), fs, path)
