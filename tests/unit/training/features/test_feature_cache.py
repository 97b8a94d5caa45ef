from __future__ import annotations

import errno
import gc
import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unfreeze.data.decode import Facts
from unfreeze.errors import CacheError
from unfreeze.training.features.cache import ABANDONED_AFTER_S, CacheNamespace, FeatureCache, open_cache
from unfreeze.training.features.cache_files import read_rows

KEYS = ["a", "b", "c", "d"]
ROWS = torch.arange(24, dtype=torch.float32).view(4, 2, 3)
NOBODY = 65534


def shelf(root: Path, limit: int = 2**40) -> CacheNamespace:
    return FeatureCache(root, limit).namespace("kind", "of", "rows")


def write(into: CacheNamespace, keys: list[str] = KEYS, rows: Tensor = ROWS) -> None:
    with into.write() as draft:
        draft.append(keys, rows)


def found(where: CacheNamespace, keys: list[str]) -> dict[str, Tensor]:
    return {key: read_rows([place])[0] for key, place in where.load(keys).items()}


def indices(where: CacheNamespace) -> list[Path]:
    return sorted(where.root.glob("*.json"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_come_back_to_the_bit_in_any_order(tmp_path: Path, dtype: torch.dtype) -> None:
    own = shelf(tmp_path)
    rows = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    with own.write() as draft:
        draft.append(["a"], rows[:1])
        draft.append(["b", "c", "d"], rows[1:])
    places = shelf(tmp_path).load(["d", "a", "zebra"])
    assert set(places) == {"a", "d"}
    back = read_rows([places["d"], places["a"], places["d"]])
    assert back.dtype == dtype
    assert torch.equal(back, rows[[3, 0, 3]])
    assert all(torch.equal(read_rows([place])[0], rows[0]) for key, place in draft.rows.items() if key == "a")


def test_a_row_that_is_no_block_of_memory_is_written_as_it_reads(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    turned = ROWS.permute(0, 2, 1)
    write(own, rows=turned)
    assert torch.equal(found(own, ["c"])["c"], turned[2])


def test_several_threads_read_one_book(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    rows = torch.arange(64.0).repeat_interleave(20_000).view(64, -1)
    write(own, [str(number) for number in range(64)], rows)
    places = own.load([str(number) for number in range(64)])

    def read(offset: int) -> bool:
        order = [(offset + step) % 64 for step in range(64)]
        return torch.equal(read_rows([places[str(number)] for number in order]), rows[order])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(64)))


def test_books_add_up(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    write(own)
    write(own, ["e", "b"], ROWS[:2] + 100)
    assert torch.equal(found(own, ["e"])["e"], ROWS[0] + 100)
    assert set(found(own, [*KEYS, "e"])) == {*KEYS, "e"}


def test_shelves_are_told_apart_by_all_of_their_kind(tmp_path: Path) -> None:
    store = FeatureCache(tmp_path, 2**40)
    write(store.namespace("x", "y"))
    assert store.namespace("x", "y").load(KEYS)
    assert not store.namespace("x").load(KEYS)
    assert not store.namespace("x", "z").load(KEYS)


def test_a_book_whose_writing_failed_was_never_there(tmp_path: Path) -> None:
    own = shelf(tmp_path)

    def fail() -> None:
        with own.write() as draft:
            draft.append(KEYS, ROWS)
            raise RuntimeError("torch")

    with pytest.raises(RuntimeError, match="torch"):
        fail()
    assert not own.load(KEYS)
    assert list(own.root.iterdir()) == []


# Damage


def test_a_changed_byte_is_never_read_as_a_number(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    write(own)
    rows = indices(own)[0].with_suffix(".rows")
    damaged = bytearray(rows.read_bytes())
    damaged[24 * 2 + 5] ^= 1  # within row "c"
    rows.write_bytes(damaged)
    assert set(found(own, ["a", "c"])) == {"a"}
    assert indices(own) == []  # the whole book goes, so that what is computed anew replaces it
    assert not own.load(["a"])


def test_damage_while_in_use_is_an_error(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    write(own)
    places = own.load(KEYS)
    with indices(own)[0].with_suffix(".rows").open("r+b") as file:
        file.write(b"\xff" * 24)
    with pytest.raises(CacheError, match="damaged"):
        read_rows([places["a"]])
    assert torch.equal(read_rows([places["b"]])[0], ROWS[1])


def test_a_shortened_file_is_not_read(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    write(own)
    os.truncate(indices(own)[0].with_suffix(".rows"), 24 * 3 + 1)
    assert not own.load(["b", "d"])


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"shape": [2, 3]}',
        json.dumps({"shape": [2, 3], "dtype": "torch.float32", "keys": ["a", "b"], "checksums": [1]}),
        json.dumps({"shape": [2, 3], "dtype": "torch.complex999", "keys": ["a"], "checksums": [1]}),
        json.dumps({"shape": [2, 3], "dtype": "torch.float32", "keys": ["a"], "checksums": ["x"]}),
        json.dumps({"shape": [-2, 3], "dtype": "torch.float32", "keys": ["a"], "checksums": [1]}),
        json.dumps({"shape": [2, 10**15], "dtype": "torch.float32", "keys": ["a"], "checksums": [1]}),
        json.dumps({"shape": [2, 4], "dtype": "torch.float32", "keys": KEYS, "checksums": [1, 2, 3, 4]}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("checksummed", [False, True])
def test_a_damaged_index_is_dropped(tmp_path: Path, content: str, checksummed: bool) -> None:
    own = shelf(tmp_path)
    write(own)
    indices(own)[0].write_text(f"{content}\n{zlib.crc32(content.encode())}\n" if checksummed else content)
    assert not own.load(["a"])
    assert list(own.root.iterdir()) == []
    write(own)
    assert torch.equal(found(own, ["a"])["a"], ROWS[0])


@pytest.mark.parametrize(
    ("is_now", "was"), [("[3, 2]", "[2, 3]"), ("torch.float16", "torch.bfloat16"), ('["a", "c",', '["a", "b",')]
)
def test_an_index_that_became_another_valid_one_is_dropped(tmp_path: Path, is_now: str, was: str) -> None:
    own = shelf(tmp_path)
    write(own, rows=ROWS.bfloat16())
    content = indices(own)[0].read_text()
    assert was in content
    indices(own)[0].write_text(content.replace(was, is_now))
    assert own.cached_keys(KEYS) == set()
    assert not own.load(KEYS)
    assert list(own.root.iterdir()) == []


def test_a_row_that_the_disk_cant_read_is_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class BadSector(FileIO):
        def readinto(self, buffer: object, /) -> int:
            raise OSError(errno.EIO, "Input/output error")

    own = shelf(tmp_path)
    write(own)
    monkeypatch.setattr("unfreeze.training.features.cache_files.FileIO", BadSector)
    assert not own.load(KEYS)
    with own.write() as draft:
        draft.append(KEYS, ROWS)
    with pytest.raises(CacheError, match="damaged"):
        read_rows([draft.rows["a"]])


def test_an_index_without_rows_is_not_believed(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    write(own)
    indices(own)[0].with_suffix(".rows").unlink()
    assert not own.load(KEYS)


# Bounded size


def test_the_books_used_longest_ago_are_dropped_first(tmp_path: Path) -> None:
    store = FeatureCache(tmp_path, limit=3 * ROWS.nbytes)
    shelves = [store.namespace(str(number)) for number in range(4)]
    for age, own in enumerate(shelves[:3]):
        write(own)
        os.utime(indices(own)[0], (1000 + age, 1000 + age))
    assert shelves[0].load(["a"])  # in use: now the youngest
    write(shelves[3])
    assert [bool(own.load(["a"])) for own in shelves] == [True, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.rows")) == 3 * ROWS.nbytes


def test_the_limit_holds_after_any_number_of_books(tmp_path: Path) -> None:
    store = FeatureCache(tmp_path, limit=5 * ROWS.nbytes)
    for number in range(30):
        own = store.namespace(str(number % 4))
        write(own, [f"{number} {key}" for key in KEYS])
        for age, index in enumerate(sorted(tmp_path.glob("*/*.json"), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(index, (1000 + age, 1000 + age))
        assert sum(path.stat().st_size for path in tmp_path.glob("*/*.rows")) <= 5 * ROWS.nbytes
    kept = {key for number in range(4) for key in _keys_of(store.namespace(str(number)))}
    assert kept == {f"{number} {key}" for number in range(25, 30) for key in KEYS}


def _keys_of(own: CacheNamespace) -> list[str]:
    return [key for number in range(30) for key in own.load([f"{number} {key}" for key in KEYS])]


def test_a_book_that_is_larger_than_the_limit_takes_no_other_with_it(tmp_path: Path) -> None:
    store = FeatureCache(tmp_path, limit=3 * ROWS.nbytes)
    small, large = store.namespace("small"), store.namespace("large")
    write(small)
    keys = [str(number) for number in range(16)]
    write(large, keys, ROWS.repeat(4, 1, 1))
    assert not large.load(keys)
    assert set(small.load(KEYS)) == set(KEYS)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file can't be dropped there")
def test_what_a_run_has_open_it_can_read_even_when_it_was_dropped(tmp_path: Path) -> None:
    own = shelf(tmp_path, limit=10)
    with own.write() as draft:
        draft.append(KEYS, ROWS)
    assert not own.load(KEYS)
    assert torch.equal(read_rows([draft.rows[key] for key in KEYS]), ROWS)


def test_what_a_dead_process_left_is_swept_but_not_what_another_writes_now(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    own.root.mkdir(parents=True)
    dead = [own.root / name for name in ("1.partial", "2.rows", ".2.json.abc")] + [tmp_path / ".photos-1.json.abc"]
    alive = own.root / "3.partial"
    for path in (*dead, alive):
        path.write_bytes(b"half")
    long_ago = time.time() - ABANDONED_AFTER_S - 60
    for path in dead:
        os.utime(path, (long_ago, long_ago))
    write(own)
    assert not any(path.exists() for path in dead)
    assert alive.exists()
    assert own.load(KEYS)


# Bad places


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    import resource  # which Windows lacks

    own = shelf(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(CacheError, match="--cache"):
            write(own, [str(number) for number in range(100)], torch.zeros(100, 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(own.root.iterdir()) == []


def test_a_folder_that_cant_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CacheError, match="--cache-gib 0"):
        open_cache(tmp_path / "file" / "cache", 1)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """Return a folder that this user may read and not write, and that holds a shelf."""
    with tempfile.TemporaryDirectory() as temporary:  # pytest's own folders may be out of other users' reach
        root = Path(temporary) / "store"
        write(shelf(root))
        folders = [root, shelf(root).root]
        for folder in folders:
            folder.chmod(0o500)
        superuser = hasattr(os, "geteuid") and os.geteuid() == 0  # who may write everywhere
        if superuser:
            for folder in folders:
                os.chown(folder, NOBODY, NOBODY)
            root.parent.chmod(0o755)
            os.seteuid(NOBODY)
        yield root
        if superuser:
            os.seteuid(0)
        for folder in folders:
            folder.chmod(0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such permissions there")
def test_a_read_only_folder_is_a_clear_error(read_only: Path) -> None:
    with pytest.raises(CacheError, match=f"can't be written: Permission denied[^Z]*{read_only}"):
        open_cache(read_only, 1)
    own = shelf(read_only)
    assert set(own.load(KEYS)) == set(KEYS)  # a folder that became read-only midway still serves
    with pytest.raises(CacheError, match=f"can't be kept: Permission denied[^Z]*{own.root}"):
        write(own, ["e"], ROWS[:1])


def test_the_usual_place_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_cache(None, 2) == FeatureCache(tmp_path / "unfreeze", 2 * 2**30)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_cache(None, 2).root == tmp_path / "home" / ".cache" / "unfreeze"


def test_a_store_of_nothing_goes_when_it_is_let_go_of() -> None:
    store = open_cache(None, 0)
    own = store.namespace("x")
    write(own)
    assert own.load(KEYS)
    root = store.root
    del store, own
    gc.collect()
    assert not root.exists()


def test_photos_that_were_decoded_are_remembered(tmp_path: Path) -> None:
    store = FeatureCache(tmp_path, 2**30)
    assert store.decode_index() == {}
    store.update_decode_index({"a": Facts((40, 30))})
    store.update_decode_index({"b": Facts((40, 50), ("deep", "frames"))})
    assert FeatureCache(tmp_path, 2**30).decode_index() == {
        "a": Facts((40, 30)),
        "b": Facts((40, 50), ("deep", "frames")),
    }
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "x"}', b"\xff", b'{"a": null}'])
def test_a_damaged_list_of_photos_is_forgotten(tmp_path: Path, content: bytes) -> None:
    store = FeatureCache(tmp_path, 2**30)
    store.update_decode_index({"a": Facts((40, 30))})
    next(tmp_path.iterdir()).write_bytes(content)
    assert store.decode_index() == {}
    store.update_decode_index({"b": Facts((40, 50))})
    assert store.decode_index() == {"b": Facts((40, 50))}


def test_a_list_of_photos_that_cant_be_written_is_done_without(tmp_path: Path) -> None:
    store = FeatureCache(tmp_path / "gone", 2**30)
    store.update_decode_index({"a": Facts((40, 30))})
    assert store.decode_index() == {}
