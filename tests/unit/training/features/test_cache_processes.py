"""The store in the hands of several processes, some of which die."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import torch

from unfreeze.training.features.cache import ABANDONED_AFTER_S, CacheNamespace, FeatureCache
from unfreeze.training.features.cache_files import read_rows

WRITER = """
    import sys, time, torch
    from pathlib import Path
    from unfreeze.training.features.cache import FeatureCache
    rows = FeatureCache(Path(sys.argv[1]), 2**40).namespace("kind", "of", "rows")
    with rows.write() as writer:
        for number in range(int(sys.argv[2])):
            writer.append([str(number)], torch.full((1, 1000), float(number)))
            writer.file.flush()
            if number == 20:
                print("writing", flush=True)
                if sys.argv[3] == "stay":
                    time.sleep(60)
"""
# Each writes files that together are twice the limit, and reads whatever it still finds.
EVICTOR = """
    import sys, torch
    from pathlib import Path
    from unfreeze.training.features.cache import FeatureCache
    from unfreeze.training.features.cache_files import read_rows
    cache = FeatureCache(Path(sys.argv[1]), 20 * 4000)
    for file in range(20):
        rows = cache.namespace(str(file % 3))
        with rows.write() as writer:
            for number in range(file, file + 2):
                writer.append([str(number)], torch.full((1, 1000), float(number)))
        for key, row in rows.load([str(number) for number in range(30)]).items():
            assert (read_rows([row]) == float(key)).all(), key
"""


def shelf(root: Path) -> CacheNamespace:
    return FeatureCache(root, 2**40).namespace("kind", "of", "rows")


def start(program: str, *arguments: str | int | Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_nothing_that_is_read_and_its_rubbish_is_cleared(tmp_path: Path) -> None:
    with start(WRITER, tmp_path, 100, "stay") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.kill()
    own = shelf(tmp_path)
    (rubbish,) = own.root.iterdir()
    assert rubbish.suffix == ".partial"
    assert rubbish.stat().st_size >= 20 * 4000
    assert not own.load(["0", "1"])
    with own.write() as draft:
        draft.append(["0"], torch.ones(1, 1000))
    assert torch.equal(read_rows([own.load(["0"])["0"]]), torch.ones(1, 1000))
    assert rubbish.exists()  # for all that this process knows, another one is writing it
    long_ago = time.time() - ABANDONED_AFTER_S - 60
    os.utime(rubbish, (long_ago, long_ago))
    with own.write() as draft:
        draft.append(["1"], torch.ones(1, 1000))
    assert not rubbish.exists()


def test_two_processes_that_write_the_same_rows_do_not_meet(tmp_path: Path) -> None:
    both = [start(WRITER, tmp_path, 300, "go"), start(WRITER, tmp_path, 300, "go")]
    for process in both:
        process.communicate()
        assert process.returncode == 0
    own = shelf(tmp_path)
    assert len(list(own.root.glob("*.json"))) == 2
    keys = [str(number) for number in range(300)]
    places = own.load(keys)
    assert torch.equal(read_rows([places[key] for key in keys])[:, 0], torch.arange(300.0))


def test_two_processes_that_write_and_evict_at_once_read_no_wrong_row(tmp_path: Path) -> None:
    both = [start(EVICTOR, tmp_path), start(EVICTOR, tmp_path)]
    for process in both:
        process.communicate()
        assert process.returncode == 0
    FeatureCache(tmp_path, 20 * 4000).evict()
    assert 0 < sum(path.stat().st_size for path in tmp_path.glob("*/*.rows")) <= 20 * 4000
    assert not list(tmp_path.glob("*/*.partial"))
    assert {path.stem for path in tmp_path.glob("*/*.rows")} == {path.stem for path in tmp_path.glob("*/*.json")}
