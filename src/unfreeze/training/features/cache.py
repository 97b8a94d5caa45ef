"""A cache of tensors on disk across runs, addressed by keys of everything that they were computed from.

A namespace is a folder of files of rows (see ``cache_files.py``) that are written once and never changed.  Two processes
that need the same rows each write their own file; either serves.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import PIL

from unfreeze.data.decode import Facts
from unfreeze.data.decode.traits import traits_from
from unfreeze.errors import CacheError
from unfreeze.files import replace_file
from unfreeze.training.features.cache_files import CacheWriter, RowRef, open_file, remove_file

GIB = 2**30
DECODE_INDEX_FORMAT = 2  # 1 had no traits
MAX_DECODE_INDEX = 1_000_000  # entries after which the index starts anew
ABANDONED_AFTER_S = 3600  # an unfinished file without a write for so many seconds belongs to a process that died


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
            opened = open_file(path)
            if opened is None:
                continue
            file, file_keys = opened
            refs = {key: (file, i) for i, key in enumerate(file_keys) if key in requested and key not in rows}
            buffer = memoryview(bytearray(file.row_bytes))
            intact = {key: ref for key, ref in refs.items() if file.read_into(ref[1], buffer)}
            if len(intact) < len(refs):
                remove_file(path)
            elif intact:
                with suppress(OSError):
                    os.utime(path)
            rows |= intact
        return rows

    def cached_keys(self, keys: Iterable[str]) -> set[str]:
        """Return which of ``keys`` are cached; unlike ``load`` it does not check that their rows are intact."""
        cached: set[str] = set()
        for path in self.root.glob("*.json"):
            opened = open_file(path)
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
        # Another decoder may refuse images that this one reads.
        return self.root / f"photos-{PIL.__version__}-{DECODE_INDEX_FORMAT}.json"

    def decode_index(self) -> dict[str, Facts]:
        """Return what is known of images that were decoded in earlier runs, by ``facts_key``."""
        try:
            table = json.loads(self._decode_index_path.read_text("utf-8"))
            return {
                str(key): Facts((int(width), int(height)), traits_from(traits))
                for key, (width, height, *traits) in table.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def update_decode_index(self, facts: Mapping[str, Facts]) -> None:
        """Add images that were decoded; of two processes that add at once, one may have to decode again."""
        known = self.decode_index()
        if facts.keys() <= known.keys():
            return
        table = (known if len(known) < MAX_DECODE_INDEX else {}) | dict(facts)
        entries = {key: [*size, *traits] for key, (size, traits) in table.items()}
        with suppress(OSError):  # the images are then decoded again
            replace_file(self._decode_index_path, json.dumps(entries).encode())

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
            remove_file(index)
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
