"""What becomes of a file once its rows are in a committed batch: does it stay, or is it moved away or deleted?

Cleaning is done after the commit, and once more after a restart, so that a crash leaves none of it out. It never fails
a batch: what could not be cleaned stays where it is, known as read, and is warned of and counted.
"""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, get_args

from unbounded.errors import PlanError
from unbounded.sources.folder import File, Folder, LocalFolder, RemoteFolder, shown
from unbounded.storage import (
    digest,
    filesystem,
    is_local,
    link,
    local_path,
    make_folder,
    sync_file,
    sync_folder,
    unlink,
)

__all__ = ["Clean", "Cleaner", "open_cleaner"]

Clean: TypeAlias = Literal["archive", "delete"]


class Cleaner(Protocol):
    """Takes files that were read out of their folder."""

    @property
    def archive(self) -> str | None:
        """Where they go, an absolute path or URL; None if they are deleted."""

    def clean(self, files: Sequence[File]) -> int:
        """Take away those files that still are what was read; gives how many of these could not be."""


class _LocalCleaner:
    """A file gets its name in the archive, durably, and only then loses the old one."""

    def __init__(self, folder: LocalFolder, archive: str | None) -> None:
        self._folder, self.archive = folder, archive

    def clean(self, files: Sequence[File]) -> int:
        there = [file for file in files if self._folder.stat(file.name) == file]
        kept = there if self.archive is None else self._kept(there)
        return len(there) - len(_each(kept, lambda file: unlink(self._folder.path(file.name)), self._folder))

    def _kept(self, files: Sequence[File]) -> list[File]:
        kept = _each(files, self._keep, self._folder)
        synced: set[str] = set()

        def sync(file: File) -> None:
            folder = os.path.dirname(self._target(file))
            if folder not in synced:
                sync_folder(folder)
                synced.add(folder)

        return _each(kept, sync, self._folder)

    def _target(self, file: File) -> str:
        assert self.archive is not None
        return os.path.join(self.archive, file.name)

    def _keep(self, file: File) -> None:
        # The file behind a symbolic link: a link that is relative would point elsewhere from the archive.
        source, target = os.path.realpath(self._folder.path(file.name)), self._target(file)
        make_folder(os.path.dirname(target))
        for name in (target, f"{target}.{_mark(file)}"):  # the second where another file was archived under this name
            try:
                _second_name(source, name)
            except FileExistsError:
                if filecmp.cmp(source, name, shallow=False):  # a crash came before the old name was taken
                    return
                continue
            return
        raise FileExistsError(errno.EEXIST, "other files have both names in the archive", target)


def _second_name(source: str, target: str) -> None:
    try:
        link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP):  # another disk, or one without links
            raise
        if os.path.exists(target):
            raise FileExistsError(errno.EEXIST, "is there already", target) from None
        temporary = f"{target}.tmp"
        shutil.copy2(source, temporary)
        sync_file(temporary)
        os.replace(temporary, target)


class _RemoteCleaner:
    """Elsewhere a move is a copy and a deletion, in this order."""

    def __init__(self, folder: RemoteFolder, archive: str | None, root: str) -> None:
        self._folder, self.archive, self._root = folder, archive, root.rstrip("/")

    def clean(self, files: Sequence[File]) -> int:
        there = [file for file in files if self._folder.stat(file.name) == file]
        kept = there if self.archive is None else _each(there, self._keep, self._folder)
        return len(there) - len(_each(kept, lambda file: self._folder.fs.rm_file(self._key(file)), self._folder))

    def _key(self, file: File) -> str:
        return f"{self._folder.root.rstrip('/')}/{file.name}"

    def _keep(self, file: File) -> None:
        fs, source = self._folder.fs, self._key(file)
        target = f"{self._root}/{file.name}"
        if fs.exists(target) and fs.cat_file(target) != fs.cat_file(source):
            target = f"{target}.{_mark(file)}"
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        fs.cp_file(source, target)


def _mark(file: File) -> str:
    return digest(repr(file).encode())[:16]


def _each(files: Sequence[File], act: Callable[[File], None], folder: Folder) -> list[File]:
    """The files with which this could be done."""
    done = []
    for file in files:
        try:
            act(file)
        except OSError as error:
            warnings.warn(
                f"{folder.path(file.name)} was read and is committed, but could not be cleaned away: {error}. It "
                "stays, and is not read again; move it by hand",
                UserWarning,
                stacklevel=2,
            )
        else:
            done.append(file)
    return done


def open_cleaner(
    folder: Folder,
    how: Clean | None,
    archive: str | os.PathLike[str] | None,
    *,
    function: str,
    storage_options: Mapping[str, Any] | None,
) -> Cleaner | None:
    """What cleans a folder; None to leave files alone. PlanError for options that contradict each other."""
    if how not in (None, *get_args(Clean)):
        raise PlanError(
            f"{function}(clean_source={how!r}) is not known. Write 'archive', 'delete', or None to keep files"
        )
    if (how == "archive") != (archive is not None):
        raise PlanError(
            f"{function}(clean_source={how!r}, archive_folder={archive!r}): a file that is archived needs a folder, "
            'and no other does. Write clean_source="archive", archive_folder="read/" or leave archive_folder out'
        )
    if how is None:
        return None
    match folder:
        case LocalFolder():
            if archive is not None and not is_local(archive):
                raise PlanError(
                    f"{function}(archive_folder={shown(archive)!r}) is not where the files are, on the local disk. "
                    "Write a local folder"
                )
            return _LocalCleaner(folder, None if archive is None else local_path(archive))
        case RemoteFolder():
            if archive is None:
                return _RemoteCleaner(folder, None, "")
            fs, root = filesystem(archive, storage_options)
            if fs.protocol != folder.fs.protocol:
                raise PlanError(
                    f"{function}(archive_folder={shown(archive)!r}) is not where the files are, {folder.url}. Write a "
                    "folder of the same store"
                )
            return _RemoteCleaner(folder, shown(fs.unstrip_protocol(root)), root)
    raise AssertionError(folder)
