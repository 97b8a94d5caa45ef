"""Tensors that outlive a run, found again by what they were computed from.

A shelf holds rows of one kind, in books that are written once and never changed: ``NAME.rows`` with one row after another,
and ``NAME.json`` with their keys and checksums and, in its last line, a checksum of itself, which is put in place last.
Rows without an index were never finished and are never read.  Two processes that need the same rows each write their own
book; either serves.

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
MAX_DECODE_INDEX = 1_000_000  # after so many the list starts anew
ABANDONED_AFTER_S = (
    3600  # seconds without a write after which a book that was never finished belongs to a process that died
)
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.uint8)}


@dataclass(frozen=True, eq=False)
class CacheFile:
    """One open file of rows; several threads may read it.

    Attributes:
        file: Read from anywhere; stays readable on POSIX when the book is evicted meanwhile.
        shape: Of one row.
        dtype: Of one row.
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
        """How many bytes a row has."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read_into(self, place: int, row: memoryview[int]) -> bool:
        """Fill ``row`` with the bytes of row ``place``; return whether they are those that were written."""
        try:
            with self._lock:
                self.file.seek(place * len(row))
                count = self.file.readinto(row)
            return count == len(row) and zlib.crc32(row) == self.checksums[place]
        except OSError:  # a bad sector, or a network folder that went away
            return False


RowRef = tuple[CacheFile, int]


def read_rows(places: Sequence[RowRef]) -> Tensor:
    """Return rows of one shape and type, stacked.

    Raises:
        CacheError: The disk no longer holds what was written.
    """
    first = places[0][0]
    rows = torch.empty((len(places), *first.shape), dtype=first.dtype)
    for (book, place), row in zip(places, _bytes(rows), strict=True):
        if not book.read_into(place, row):
            raise CacheError(
                "Kept activations were damaged while they were in use.",
                where=str(book.file.name),
                mend="Run the same command again: damaged ones are computed anew.",
            )
    return rows


class CacheWriter:
    """A book that is being written.

    Attributes:
        places: Where each key's row is, once the book is finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("xb")
        self.keys: list[str] = []
        self.checksums: list[int] = []
        self.shape: tuple[int, ...] = ()
        self.dtype = torch.float32
        self.places: dict[str, RowRef] = {}

    def append(self, keys: Sequence[str], rows: Tensor) -> None:
        """Write rows, shape (len(keys), ...), on the CPU."""
        self.shape, self.dtype = tuple(rows.shape[1:]), rows.dtype
        for key, row in zip(keys, _bytes(rows.contiguous()), strict=True):
            self.file.write(row)
            self.keys.append(key)
            self.checksums.append(zlib.crc32(row))

    def finish(self) -> None:
        """Put the rows in place, and then the index that makes them count."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        rows = self.path.replace(self.path.with_suffix(".rows"))
        index = {"shape": self.shape, "dtype": str(self.dtype), "keys": self.keys, "checksums": self.checksums}
        about = json.dumps(index).encode()
        replace_file(self.path.with_suffix(".json"), b"%b\n%d\n" % (about, zlib.crc32(about)))
        book = CacheFile(FileIO(rows), self.shape, self.dtype, tuple(self.checksums))
        self.places = {key: (book, place) for place, key in enumerate(self.keys)}


@dataclass(frozen=True)
class CacheNamespace:
    """Rows of one kind."""

    cache: FeatureCache
    root: Path

    def load(self, keys: Iterable[str]) -> dict[str, RowRef]:
        """Return where the rows of ``keys`` are, those that are there and whole."""
        wanted = set(keys)
        found: dict[str, RowRef] = {}
        for index in sorted(self.root.glob("*.json")):
            if wanted <= found.keys():
                break
            opened = _open(index)
            if opened is None:
                continue
            book, theirs = opened
            places = {key: (book, place) for place, key in enumerate(theirs) if key in wanted and key not in found}
            row = memoryview(bytearray(book.row_bytes))
            whole = {key: place for key, place in places.items() if book.read_into(place[1], row)}
            if len(whole) < len(places):
                _remove(index)
            elif whole:
                with suppress(OSError):
                    os.utime(index)
            found |= whole
        return found

    def cached_keys(self, keys: Iterable[str]) -> set[str]:
        """Return which of ``keys`` are there; unlike ``load`` it doesn't look whether their rows are whole."""
        listed: set[str] = set()
        for index in self.root.glob("*.json"):
            opened = _open(index)
            listed |= set(opened[1]) if opened is not None else set()
        return listed & set(keys)

    @contextmanager
    def write(self) -> Iterator[CacheWriter]:
        """Give a new book to write; it counts when the block ends, and is gone if the block fails.

        Raises:
            CacheError: The disk is full, or the folder can't be written.
        """
        draft: CacheWriter | None = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            draft = CacheWriter(self.root / f"{uuid.uuid4().hex}.partial")
            yield draft
            draft.finish()
        except OSError as error:
            raise CacheError(
                f"Activations can't be kept: {error.strerror or error}.",
                where=self.root,
                mend="Make room, or name a folder on a larger disk with --cache.",
            ) from error
        finally:
            if draft is not None:
                with suppress(OSError):  # a full disk has been told of above
                    draft.file.close()
                draft.path.unlink(missing_ok=True)
        self.cache.evict()


@dataclass(frozen=True)
class FeatureCache:
    """All shelves.

    Attributes:
        root: The folder.
        limit: Bytes that may stay; the books that were used longest ago are dropped first.
    """

    root: Path
    limit: int

    def namespace(self, *kind: str) -> CacheNamespace:
        """Return the shelf of the rows that everything in ``kind`` decides, apart from their keys."""
        return CacheNamespace(self, self.root / hashlib.sha256("\n".join(kind).encode()).hexdigest()[:32])

    @property
    def _photos(self) -> Path:
        return self.root / f"photos-{PIL.__version__}.json"  # another decoder may refuse what this one reads

    def decode_index(self) -> dict[str, int]:
        """Return the short side of photos that were decoded in earlier runs, by the SHA-256 of the file."""
        try:
            table = json.loads(self._photos.read_text("utf-8"))
            return {str(digest): int(side) for digest, side in table.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def update_decode_index(self, sides: Mapping[str, int]) -> None:
        """Add photos that were decoded; of two processes that add at once, one may have to decode again."""
        known = self.decode_index()
        if sides.keys() <= known.keys():
            return
        table = (known if len(known) < MAX_DECODE_INDEX else {}) | dict(sides)
        with suppress(OSError):  # nothing is lost but a little time
            replace_file(self._photos, json.dumps(table).encode())

    def evict(self) -> None:
        """Drop books until the rest is within the limit, and what died before it was finished.

        Those go first that could never stay, so that they take no others with them; then the oldest.
        """
        books: list[tuple[float, int, Path]] = []
        for path in (*self.root.glob("*/*"), *self.root.glob(".photos-*")):
            with suppress(OSError):  # another process may be dropping the same book
                changed = path.stat().st_mtime
                if path.suffix == ".json":
                    books.append((changed, path.with_suffix(".rows").stat().st_size, path))
                elif changed < time.time() - ABANDONED_AFTER_S and not path.with_suffix(".json").exists():
                    path.unlink()
        total = sum(size for _, size, _ in books)
        for _, size, index in sorted(books, key=lambda book: (book[1] <= self.limit, book)):
            if total <= self.limit:
                break
            _remove(index)
            total -= size


def open_cache(root: Path | None, gib: float) -> FeatureCache:
    """Open the store in ``root`` (None: the user's cache folder), or for 0 GiB one that goes when it is let go of.

    Raises:
        CacheError: The folder can't be made or written.
    """
    if gib == 0:
        store = FeatureCache(Path(tempfile.mkdtemp(prefix="unfreeze-")), limit=2**63)
        weakref.finalize(store, shutil.rmtree, store.root, ignore_errors=True)
        return store
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
    """Return a book and its keys; None if it is damaged, which drops it, or was dropped meanwhile."""
    try:
        content, checksum = index.read_bytes().splitlines()
        if zlib.crc32(content) != int(checksum):
            raise ValueError("damaged")
        about = json.loads(content)
        shape, dtype = tuple(int(side) for side in about["shape"]), DTYPES[about["dtype"]]
        keys, checksums = [str(key) for key in about["keys"]], tuple(int(value) for value in about["checksums"])
        book = CacheFile(FileIO(index.with_suffix(".rows")), shape, dtype, checksums)
        whole = len(keys) == len(checksums) and book.row_bytes * len(keys) == os.fstat(book.file.fileno()).st_size
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        _remove(index)
        return None
    if not whole:
        _remove(index)
        return None
    return book, keys


def _remove(index: Path) -> None:
    """Drop a book: the index first, so that nobody finds rows that are no longer there."""
    for path in (index, index.with_suffix(".rows")):
        with suppress(OSError):  # read-only, or open on Windows: it stays, and is not believed
            path.unlink()


def _bytes(rows: Tensor) -> Iterator[memoryview[int]]:
    """Yield the memory of each row; writing to it writes the tensor."""
    for row in rows.view(torch.uint8).numpy().reshape(len(rows), -1):
        yield row.data
