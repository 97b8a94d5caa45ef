from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unfreeze.errors import CacheError
from unfreeze.training.store import ABANDONED, Shelf, Store, open_store, read_rows

KEYS = ["a", "b", "c", "d"]
ROWS = torch.arange(24, dtype=torch.float32).view(4, 2, 3)


def shelf(root: Path, limit: int = 2**40) -> Shelf:
    return Store(root, limit).shelf("kind", "of", "rows")


def write(into: Shelf, keys: list[str] = KEYS, rows: Tensor = ROWS) -> None:
    with into.write() as draft:
        draft.append(keys, rows)


def found(where: Shelf, keys: list[str]) -> dict[str, Tensor]:
    return {key: read_rows([place])[0] for key, place in where.find(keys).items()}


def indices(where: Shelf) -> list[Path]:
    return sorted(where.root.glob("*.json"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_come_back_to_the_bit_in_any_order(tmp_path: Path, dtype: torch.dtype) -> None:
    own = shelf(tmp_path)
    rows = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    with own.write() as draft:
        draft.append(["a"], rows[:1])
        draft.append(["b", "c", "d"], rows[1:])
    places = shelf(tmp_path).find(["d", "a", "zebra"])
    assert set(places) == {"a", "d"}
    back = read_rows([places["d"], places["a"], places["d"]])
    assert back.dtype == dtype
    assert torch.equal(back, rows[[3, 0, 3]])
    assert all(torch.equal(read_rows([place])[0], rows[0]) for key, place in draft.places.items() if key == "a")


def test_a_row_that_is_no_block_of_memory_is_written_as_it_reads(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    turned = ROWS.permute(0, 2, 1)
    write(own, rows=turned)
    assert torch.equal(found(own, ["c"])["c"], turned[2])


def test_books_add_up(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    write(own)
    write(own, ["e", "b"], ROWS[:2] + 100)
    assert torch.equal(found(own, ["e"])["e"], ROWS[0] + 100)
    assert set(found(own, [*KEYS, "e"])) == {*KEYS, "e"}


def test_shelves_are_told_apart_by_all_of_their_kind(tmp_path: Path) -> None:
    store = Store(tmp_path, 2**40)
    write(store.shelf("x", "y"))
    assert store.shelf("x", "y").find(KEYS)
    assert not store.shelf("x").find(KEYS)
    assert not store.shelf("x", "z").find(KEYS)


def test_a_book_whose_writing_failed_was_never_there(tmp_path: Path) -> None:
    own = shelf(tmp_path)

    def fail() -> None:
        with own.write() as draft:
            draft.append(KEYS, ROWS)
            raise RuntimeError("torch")

    with pytest.raises(RuntimeError, match="torch"):
        fail()
    assert not own.find(KEYS)
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
    assert not own.find(["a"])


def test_damage_while_in_use_is_an_error(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    write(own)
    places = own.find(KEYS)
    with indices(own)[0].with_suffix(".rows").open("r+b") as file:
        file.write(b"\xff" * 24)
    with pytest.raises(CacheError, match="damaged"):
        read_rows([places["a"]])
    assert torch.equal(read_rows([places["b"]])[0], ROWS[1])


def test_a_shortened_file_is_not_read(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    write(own)
    os.truncate(indices(own)[0].with_suffix(".rows"), 24 * 3 + 1)
    assert not own.find(["b", "d"])


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
def test_a_damaged_index_is_dropped(tmp_path: Path, content: str) -> None:
    own = shelf(tmp_path)
    write(own)
    indices(own)[0].write_text(content)
    assert not own.find(["a"])
    assert list(own.root.iterdir()) == []
    write(own)
    assert torch.equal(found(own, ["a"])["a"], ROWS[0])


def test_an_index_without_rows_is_not_believed(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    write(own)
    indices(own)[0].with_suffix(".rows").unlink()
    assert not own.find(KEYS)


# Bounded size


def test_the_books_used_longest_ago_are_dropped_first(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=3 * ROWS.nbytes)
    shelves = [store.shelf(str(number)) for number in range(4)]
    for age, own in enumerate(shelves[:3]):
        write(own)
        os.utime(indices(own)[0], (1000 + age, 1000 + age))
    assert shelves[0].find(["a"])  # in use: now the youngest
    write(shelves[3])
    assert [bool(own.find(["a"])) for own in shelves] == [True, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.rows")) == 3 * ROWS.nbytes


@pytest.mark.skipif(sys.platform == "win32", reason="an open file can't be dropped there")
def test_what_a_run_has_open_it_can_read_even_when_it_was_dropped(tmp_path: Path) -> None:
    own = shelf(tmp_path, limit=10)
    with own.write() as draft:
        draft.append(KEYS, ROWS)
    assert not own.find(KEYS)
    assert torch.equal(read_rows([draft.places[key] for key in KEYS]), ROWS)


def test_what_a_dead_process_left_is_swept_but_not_what_another_writes_now(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    own.root.mkdir(parents=True)
    dead, orphan, alive = own.root / "1.partial", own.root / "2.rows", own.root / "3.partial"
    for path in (dead, orphan, alive):
        path.write_bytes(b"half")
    long_ago = time.time() - ABANDONED - 60
    os.utime(dead, (long_ago, long_ago))
    os.utime(orphan, (long_ago, long_ago))
    write(own)
    assert not dead.exists()
    assert not orphan.exists()
    assert alive.exists()
    assert own.find(KEYS)


# Other processes

WRITER = """
    import sys, time, torch
    from pathlib import Path
    from unfreeze.training.store import Store
    own = Store(Path(sys.argv[1]), 2**40).shelf("kind", "of", "rows")
    with own.write() as draft:
        for number in range(int(sys.argv[2])):
            draft.append([str(number)], torch.full((1, 1000), float(number)))
            draft.file.flush()
            if number == 20:
                print("writing", flush=True)
                if sys.argv[3] == "stay":
                    time.sleep(60)
"""


def start(root: Path, count: int, then: str = "go") -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", textwrap.dedent(WRITER), str(root), str(count), then]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    with start(tmp_path, 100, "stay") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.kill()
    own = shelf(tmp_path)
    assert [path.suffix for path in own.root.iterdir()] == [".partial"]
    assert not own.find(["0", "1"])
    write(own, ["0"], ROWS[:1])
    assert torch.equal(found(own, ["0"])["0"], ROWS[0])


def test_two_processes_that_write_the_same_rows_do_not_meet(tmp_path: Path) -> None:
    both = [start(tmp_path, 300), start(tmp_path, 300)]
    for process in both:
        process.communicate()
        assert process.returncode == 0
    own = shelf(tmp_path)
    assert len(indices(own)) == 2
    keys = [str(number) for number in range(300)]
    places = own.find(keys)
    assert torch.equal(read_rows([places[key] for key in keys])[:, 0], torch.arange(300.0))


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
        open_store(tmp_path / "file" / "cache", 1)


def test_a_read_only_folder_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(CacheError, match="can't be written"):
            open_store(tmp_path, 1)
    finally:
        tmp_path.chmod(0o700)


def test_the_usual_place_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_store(None, 2) == Store(tmp_path / "unfreeze", 2 * 2**30)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_store(None, 2).root == tmp_path / "home" / ".cache" / "unfreeze"


def test_a_store_of_nothing_goes_when_it_is_let_go_of() -> None:
    store = open_store(None, 0)
    own = store.shelf("x")
    write(own)
    assert own.find(KEYS)
    root = store.root
    del store, own
    gc.collect()
    assert not root.exists()


def test_photos_that_were_decoded_are_remembered(tmp_path: Path) -> None:
    store = Store(tmp_path, 2**30)
    assert store.known_photos() == {}
    store.remember_photos({"a": 30})
    store.remember_photos({"b": 40})
    assert Store(tmp_path, 2**30).known_photos() == {"a": 30, "b": 40}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "x"}', b"\xff", b'{"a": null}'])
def test_a_damaged_list_of_photos_is_forgotten(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path, 2**30)
    store.remember_photos({"a": 30})
    next(tmp_path.iterdir()).write_bytes(content)
    assert store.known_photos() == {}
    store.remember_photos({"b": 40})
    assert store.known_photos() == {"b": 40}


def test_a_list_of_photos_that_cant_be_written_is_done_without(tmp_path: Path) -> None:
    store = Store(tmp_path / "gone", 2**30)
    store.remember_photos({"a": 30})
    assert store.known_photos() == {}
