"""Is a compressed text file whole, and what stands in it?

Polars reads gzip, zstd and zlib by their first bytes. A file cut short fails there, or worse: of a zlib stream that is
cut, or that is followed by another, Polars gives the rows before the cut and says nothing. So each is inflated once
before it is promised.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["contents", "is_compressed", "is_whole", "unreadable"]

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZLIB = (b"\x78\x01", b"\x78\x9c", b"\x78\xda")
_UNREADABLE = {
    re.compile(rb"BZh[1-9]1AY&SY"): "bzip2",
    re.compile(rb"\xfd7zXZ\x00"): "xz",
    re.compile(rb"\x04\x22\x4d\x18"): "lz4",
    re.compile(rb"PK\x03\x04"): "zip",
}
_CHUNK = 1 << 20


def is_compressed(head: bytes) -> bool:
    """Whether a file that begins so is compressed in a way that Polars reads."""
    return head.startswith((_GZIP, _ZSTD, *_ZLIB))


def unreadable(head: bytes) -> str | None:
    """How a file that begins so is compressed, if that is a way that Polars takes for text."""
    return next((kind for magic, kind in _UNREADABLE.items() if magic.match(head)), None)


def is_whole(file: BinaryIO) -> bool:
    """Whether a compressed file ends where its last stream ends. Reads it once; memory stays small."""
    try:
        for _ in _inflated(file):
            pass
    except (zlib.error, OSError, EOFError):
        return False
    return True


def contents(data: bytes) -> bytes:
    """The text that stands in these bytes, compressed or not; EOFError, zlib.error or OSError if they are damaged."""
    return b"".join(_inflated(io.BytesIO(data))) if is_compressed(data) else data


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    if file.read(len(_ZSTD)) == _ZSTD:
        file.seek(0)
        return _inflated_zstd(file)
    file.seek(0)
    return _inflated_zlib(file)


def _inflated_zstd(file: BinaryIO) -> Iterator[bytes]:
    import pyarrow  # noqa: PLC0415  # slow to import, and only needed here

    with pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd") as stream:
        while part := stream.read(_CHUNK):
            yield part


def _inflated_zlib(file: BinaryIO) -> Iterator[bytes]:
    """Streams of gzip one after another, as `cat a.gz b.gz` makes them; of zlib only one, for Polars reads one."""
    may_repeat = file.read(2) == _GZIP
    file.seek(0)
    data, stream = b"", zlib.decompressobj(wbits=47)  # 32 + 15: tells gzip from zlib by itself
    while data := (data or file.read(_CHUNK)):
        if stream.eof:
            if not may_repeat:
                raise EOFError("bytes behind the end of a zlib stream")
            stream = zlib.decompressobj(wbits=31)
        yield stream.decompress(data)
        data = stream.unused_data
    if not stream.eof:
        raise EOFError("the stream is cut")
