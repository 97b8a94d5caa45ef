"""Files of rows on disk: written once, then read row by row and checked, by several threads and processes.

``NAME.rows`` has the rows, and its index ``NAME.json`` the keys, checksums and, in the last line, its own checksum.
The index is written last: rows without one are unfinished and never read.

The format is our own because rows are appended as they are computed, read singly and checked, by several processes
without a lock: safetensors writes a whole file at once and has no checksums, and LMDB needs locks and a size in
advance.
"""

from __future__ import annotations

import json
import math
import os
import threading
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from unfreeze.errors import CacheError
from unfreeze.files import replace_file

DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.uint8)}


@dataclass(frozen=True, eq=False)
class CacheFile:
    """One open file of rows; several threads may read it.

    Attributes:
        file: The open file; stays readable on POSIX after it is evicted.
        shape: The shape of one row.
        dtype: The type of its elements.
        checksums: The CRC-32 of each row.
    """

    file: FileIO
    shape: tuple[int, ...]
    dtype: torch.dtype
    checksums: tuple[int, ...]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.close)

    @property
    def row_bytes(self) -> int:
        """The size of a row in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read_into(self, index: int, row: memoryview[int]) -> bool:
        """Fill ``row`` with the bytes of row ``index``; return whether its checksum is right."""
        try:
            with self._lock:
                self.file.seek(index * len(row))
                count = self.file.readinto(row)
            return count == len(row) and zlib.crc32(row) == self.checksums[index]
        except OSError:  # a bad sector, or a network folder that disappeared
            return False


RowRef = tuple[CacheFile, int]  # a file and the index of a row in it


def read_rows(refs: Sequence[RowRef]) -> Tensor:
    """Return rows of one shape and type, stacked.

    Raises:
        CacheError: A row can't be read, or its checksum is wrong.
    """
    first = refs[0][0]
    rows = torch.empty((len(refs), *first.shape), dtype=first.dtype)
    for (file, index), row in zip(refs, _bytes(rows), strict=True):
        if not file.read_into(index, row):
            raise CacheError(
                "Kept activations were damaged while they were in use.",
                where=str(file.file.name),
                mend="Run the same command again: damaged ones are computed anew.",
            )
    return rows


class CacheWriter:
    """A file of rows that is being written.

    Attributes:
        rows: The row of each key, once the file is finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("xb")
        self.keys: list[str] = []
        self.checksums: list[int] = []
        self.shape: tuple[int, ...] = ()
        self.dtype = torch.float32
        self.rows: dict[str, RowRef] = {}

    def append(self, keys: Sequence[str], rows: Tensor) -> None:
        """Write rows, shape (len(keys), ...), on the CPU."""
        self.shape, self.dtype = tuple(rows.shape[1:]), rows.dtype
        for key, row in zip(keys, _bytes(rows.contiguous()), strict=True):
            self.file.write(row)
            self.keys.append(key)
            self.checksums.append(zlib.crc32(row))

    def finish(self) -> None:
        """Rename the file of rows, and write its index, which makes the rows readable."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        path = self.path.replace(self.path.with_suffix(".rows"))
        index = {"shape": self.shape, "dtype": str(self.dtype), "keys": self.keys, "checksums": self.checksums}
        content = json.dumps(index).encode()
        replace_file(self.path.with_suffix(".json"), b"%b\n%d\n" % (content, zlib.crc32(content)))
        file = CacheFile(FileIO(path), self.shape, self.dtype, tuple(self.checksums))
        self.rows = {key: (file, index) for index, key in enumerate(self.keys)}


def open_file(index: Path) -> tuple[CacheFile, list[str]] | None:
    """Return a file and its keys; None if it is damaged, and then removed, or was removed by another process."""
    try:
        content, checksum = index.read_bytes().splitlines()
        if zlib.crc32(content) != int(checksum):
            raise ValueError("damaged")
        table = json.loads(content)
        shape, dtype = tuple(int(side) for side in table["shape"]), DTYPES[table["dtype"]]
        keys, checksums = [str(key) for key in table["keys"]], tuple(int(value) for value in table["checksums"])
        file = CacheFile(FileIO(index.with_suffix(".rows")), shape, dtype, checksums)
        complete = len(keys) == len(checksums) and file.row_bytes * len(keys) == os.fstat(file.file.fileno()).st_size
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        remove_file(index)
        return None
    if not complete:
        remove_file(index)
        return None
    return file, keys


def remove_file(index: Path) -> None:
    """Remove a pair of files, the index first, so that no process reads an index without rows."""
    for path in (index, index.with_suffix(".rows")):
        with suppress(OSError):  # read-only, or open on Windows: without its index it is ignored
            path.unlink()


def _bytes(rows: Tensor) -> Iterator[memoryview[int]]:
    """Yield the memory of each row as bytes; writing to it changes the tensor."""
    for row in rows.view(torch.uint8).numpy().reshape(len(rows), -1):
        yield row.data
