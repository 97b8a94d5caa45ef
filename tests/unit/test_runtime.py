from __future__ import annotations

import io
import threading
import warnings

import numpy as np
import pytest
import torch

from unfreeze.errors import ConfigError
from unfreeze.runtime import (
    MIN_PARALLEL_OPERATIONS,
    Stopwatch,
    choose_device,
    deterministic,
    echo,
    generator,
    limit_threads,
    peak_rss_mib,
    progress_bar,
    suppress_warnings,
)


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["CPU", " cpu ", "Cpu", torch.device("cpu"), "AUTO"])
def test_a_device_may_be_written_in_any_case(name: str | torch.device) -> None:
    assert choose_device(name).type in ("cpu", "cuda", "mps")


NOT_HERE = [
    "nope",
    "cuda:99",
    "",
    "cpu and more",
    "99",
    99,
    "gpu:99",
    "cuda:0,1",
    "0,1",
    "meta",
    "tpu",
    "ipu",
    "-1",
    "cuda:-1",
]


@pytest.mark.parametrize("name", NOT_HERE)
def test_a_device_that_isnt_there_is_refused_in_our_words(name: str | int) -> None:
    with pytest.raises(ConfigError, match="--device") as caught:
        choose_device(name)
    said = str(caught.value)
    assert len(said) < 500
    assert "Here: cpu" in said
    assert "to do: " in said
    assert not [word for word in ("mkldnn", "Torch not compiled", "ordinal", "backend") if word in said]


class Machine:
    """Lets torch find graphics cards that aren't there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, mps: bool = False, cuda: str | None = "13.0"):
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
        monkeypatch.setattr("torch.version.cuda", cuda)
        monkeypatch.setattr("torch.empty", lambda *_, **__: None)


@pytest.mark.parametrize(
    ("gpus", "mps", "name", "expected"),
    [
        (2, False, "auto", "cuda"),
        (2, False, "gpu", "cuda"),
        (2, False, "GPU:1", "cuda:1"),
        (2, False, "1", "cuda:1"),
        (2, False, 0, "cuda:0"),
        (2, False, "CUDA", "cuda"),
        (0, True, "auto", "mps"),
        (0, True, "gpu", "mps"),
        (0, True, "MPS", "mps"),
    ],
)
def test_what_a_graphics_card_may_be_called(
    gpus: int, mps: bool, name: str | int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, gpus=gpus, mps=mps)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["mps", "cuda", "gpu", "0", "cuda:9", "xpu"])
def test_a_machine_without_a_graphics_card_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    monkeypatch.setattr("torch.empty", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("a page of backends")))
    with pytest.raises(ConfigError, match="no graphics card that torch can use") as caught:
        choose_device(name)
    assert "page of backends" not in str(caught.value)


@pytest.mark.parametrize("name", ["cuda", "gpu", "0", "cuda:1"])
def test_a_torch_without_cuda_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, cuda=None)
    with pytest.raises(ConfigError, match=r"build of torch(?s:.*)Install torch for CUDA"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:2", "7", "mps"])
def test_the_cards_that_are_there_are_listed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, gpus=2)
    with pytest.raises(ConfigError, match="Here: cpu, cuda:0, cuda:1"):
        choose_device(name)


def test_random_numbers_depend_on_the_key_alone() -> None:
    def drawn(*key: int) -> list[float]:
        values: list[float] = generator(*key).random(4).tolist()
        return values

    first = drawn(1, 2, 3)
    np.random.default_rng(0).random()
    generator(1, 2, 3).random(99)
    assert drawn(1, 2, 3) == first
    keys = [
        (1, 2, 3),
        (1, 3, 2),
        (2, 1, 3),
        (3, 2, 1),
        (1, 2),
        (1, 2, 4),
        (0, 1, 2),
        (2**40, 2, 3),
        (0, 0, 0),
        (0, 0, 1),
    ]
    assert len({tuple(drawn(*key)) for key in keys}) == len(keys)


def test_a_deterministic_block_draws_the_same_and_leaves_no_trace() -> None:
    state = torch.random.get_rng_state()
    draws = []
    for seed in (5, 5, 6):
        with deterministic(seed):
            assert torch.are_deterministic_algorithms_enabled()
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_error_in_a_deterministic_block_leaves_no_trace() -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(KeyError), deterministic(3):
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("operations", "expected"), [(MIN_PARALLEL_OPERATIONS - 1, 1), (MIN_PARALLEL_OPERATIONS, 3)])
def test_little_work_is_left_to_one_thread_and_the_others_come_back(operations: float, expected: int) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def fail() -> None:
        with limit_threads(operations):
            seen.append(torch.get_num_threads())
            raise ZeroDivisionError

    try:
        torch.set_num_threads(3)
        with pytest.raises(ZeroDivisionError):
            fail()
        assert (seen, torch.get_num_threads()) == ([expected], 3)
    finally:
        torch.set_num_threads(before)


def test_progress_passes_every_item_on_and_keeps_stdout_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(iter(range(5)), "counting", total=5)) == [0, 1, 2, 3, 4]
    echo("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "counting\nhello\n"


def test_a_stopwatch_adds_up_and_counts_what_failed() -> None:
    watch = Stopwatch()
    with watch.measure("head"):
        pass
    once = watch.report()["head"]
    with pytest.raises(KeyError), watch.measure("head"):
        raise KeyError
    report = watch.report()
    assert set(report) == {"head", "total"}
    assert 0 <= once <= report["head"] <= report["total"]


def test_peak_memory_is_in_mib() -> None:
    peak = peak_rss_mib()
    assert peak is None or 20 < peak < 1e6


def test_a_thread_that_ends_first_does_not_let_anothers_warnings_out() -> None:
    before = list(warnings.filters)
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with suppress_warnings(module="PIL"):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    with suppress_warnings(message="of no interest"):
        leave.set()
        thread.join()
        warnings.warn("of no interest", stacklevel=1)  # an error under pytest, were it not silenced
        with pytest.raises(UserWarning, match="of interest"):
            warnings.warn("of interest", stacklevel=1)
    assert list(warnings.filters) == before


def test_a_reader_that_has_seen_enough_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    echo("a message")
