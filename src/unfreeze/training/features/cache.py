"""A cache of tensors on disk across runs, addressed by keys of everything that they were computed from.

A namespace is a folder of rows of one shape and type, in pairs of files that are written once and never changed:
``NAME.rows`` with the rows, and its index ``NAME.json`` with keys, checksums and, in the last line, its own checksum.
The index is written last: rows without one are unfinished and never read.  Two processes that need the same rows each
write their own files; either pair serves.

The format is our own because rows are appended as they are computed, read singly and checked, by several processes
without a lock: safetensors writes a whole file at once and has no checksums, and LMDB needs locks and a size in
advance.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import PIL
import torch
from torch import Tensor

from unfreeze.errors import CacheError
from unfreeze.files import replace_file

GIB = 2**30
MAX_DECODE_INDEX = 1_000_000  # entries after which the index starts anew
ABANDONED_AFTER_S = 3600  # an unfinished file without a write for so many seconds belongs to a process that died
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


@dataclass(frozen=True)
class CacheNamespace:
    """A folder of rows of one shape and type, with one key each."""

    cache: FeatureCache
    root: Path

    def load(self, keys: Iterable[str]) -> dict[str, RowRef]:
        """Return the rows of ``keys`` that are cached and intact; files with a damaged row among them are removed."""
        requested = set(keys)
        rows: dict[str, RowRef] = {}
        for path in sorted(self.root.glob("*.json")):
            if requested <= rows.keys():
                break
            opened = _open(path)
            if opened is None:
                continue
            file, file_keys = opened
            refs = {key: (file, i) for i, key in enumerate(file_keys) if key in requested and key not in rows}
            buffer = memoryview(bytearray(file.row_bytes))
            intact = {key: ref for key, ref in refs.items() if file.read_into(ref[1], buffer)}
            if len(intact) < len(refs):
                _remove(path)
            elif intact:
                with suppress(OSError):
                    os.utime(path)
            rows |= intact
        return rows

    def cached_keys(self, keys: Iterable[str]) -> set[str]:
        """Return which of ``keys`` are cached; unlike ``load`` it does not check that their rows are intact."""
        cached: set[str] = set()
        for path in self.root.glob("*.json"):
            opened = _open(path)
            cached |= set(opened[1]) if opened is not None else set()
        return cached & set(keys)

    @contextmanager
    def write(self) -> Iterator[CacheWriter]:
        """Give a writer of a new file, which becomes readable when the block ends, and is removed if the block fails.

        Raises:
            CacheError: The disk is full, or the folder is read-only.
        """
        writer: CacheWriter | None = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            writer = CacheWriter(self.root / f"{uuid.uuid4().hex}.partial")
            yield writer
            writer.finish()
        except OSError as error:
            raise CacheError(
                f"Activations can't be kept: {error.strerror or error}.",
                where=self.root,
                mend="Make room, or name a folder on a larger disk with --cache.",
            ) from error
        finally:
            if writer is not None:
                with suppress(OSError):  # a full disk is reported above
                    writer.file.close()
                writer.path.unlink(missing_ok=True)
        self.cache.evict()


@dataclass(frozen=True)
class FeatureCache:
    """A folder of namespaces, and of the index of decoded images.

    Attributes:
        root: The folder.
        limit: The size limit in bytes; the least recently used files are removed first.
    """

    root: Path
    limit: int

    def namespace(self, *kind: str) -> CacheNamespace:
        """Return the namespace of the rows that depend on ``kind`` and on their keys only."""
        return CacheNamespace(self, self.root / hashlib.sha256("\n".join(kind).encode()).hexdigest()[:32])

    @property
    def _decode_index_path(self) -> Path:
        return self.root / f"photos-{PIL.__version__}.json"  # another decoder may refuse images that this one reads

    def decode_index(self) -> dict[str, int]:
        """Return the short side in pixels of images that were decoded in earlier runs, by the SHA-256 of the file."""
        try:
            table = json.loads(self._decode_index_path.read_text("utf-8"))
            return {str(digest): int(side) for digest, side in table.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def update_decode_index(self, sides: Mapping[str, int]) -> None:
        """Add images that were decoded; of two processes that add at once, one may have to decode again."""
        known = self.decode_index()
        if sides.keys() <= known.keys():
            return
        table = (known if len(known) < MAX_DECODE_INDEX else {}) | dict(sides)
        with suppress(OSError):  # the images are then decoded again
            replace_file(self._decode_index_path, json.dumps(table).encode())

    def evict(self) -> None:
        """Remove files until the rest is within the limit, and unfinished files of processes that died.

        Files larger than the limit are removed first, because they could never stay; then the least recently used.
        """
        files: list[tuple[float, int, Path]] = []
        for path in (*self.root.glob("*/*"), *self.root.glob(".photos-*")):
            with suppress(OSError):  # another process may be removing the same file
                changed = path.stat().st_mtime
                if path.suffix == ".json":
                    files.append((changed, path.with_suffix(".rows").stat().st_size, path))
                elif changed < time.time() - ABANDONED_AFTER_S and not path.with_suffix(".json").exists():
                    path.unlink()
        total = sum(size for _, size, _ in files)
        for _, size, index in sorted(files, key=lambda file: (file[1] <= self.limit, file)):
            if total <= self.limit:
                break
            _remove(index)
            total -= size


def open_cache(root: Path | None, gib: float) -> FeatureCache:
    """Open the cache in ``root`` (None: the user's cache folder), or for 0 GiB a temporary one, removed with the object.

    Raises:
        CacheError: The folder can't be made or written.
    """
    if gib == 0:
        temporary = FeatureCache(Path(tempfile.mkdtemp(prefix="unfreeze-")), limit=2**63)
        weakref.finalize(temporary, shutil.rmtree, temporary.root, ignore_errors=True)
        return temporary
    root = root or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unfreeze"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise CacheError(
            f"The folder for kept activations can't be written: {error.strerror or error}.",
            where=root,
            mend="Name another with --cache, or keep nothing with --cache-gib 0.",
        ) from error
    return FeatureCache(root, limit=round(gib * GIB))


def _open(index: Path) -> tuple[CacheFile, list[str]] | None:
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
        _remove(index)
        return None
    if not complete:
        _remove(index)
        return None
    return file, keys


def _remove(index: Path) -> None:
    """Remove a pair of files, the index first, so that no process reads an index without rows."""
    for path in (index, index.with_suffix(".rows")):
        with suppress(OSError):  # read-only, or open on Windows: without its index it is ignored
            path.unlink()


def _bytes(rows: Tensor) -> Iterator[memoryview[int]]:
    """Yield the memory of each row as bytes; writing to it changes the tensor."""
    for row in rows.view(torch.uint8).numpy().reshape(len(rows), -1):
        yield row.data
