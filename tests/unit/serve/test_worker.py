from __future__ import annotations

import threading

import pytest

from unfreeze.serve.worker import BusyError, Worker


def test_calls_are_made_in_one_thread_in_order() -> None:
    worker = Worker(100)
    seen: list[tuple[int, str]] = []

    def note(number: int) -> None:
        seen.append((number, threading.current_thread().name))

    calls = [worker.submit(note, number) for number in range(50)]
    for call in calls:
        call.result()
    worker.close()
    assert [number for number, _ in seen] == list(range(50))
    assert len({name for _, name in seen}) == 1


def test_a_place_is_free_again_after_a_call_a_failure_and_a_cancellation() -> None:
    worker, go = Worker(2), threading.Event()
    running = worker.submit(go.wait, 30)
    waiting = worker.submit(int, "x")
    with pytest.raises(BusyError):
        worker.submit(int)
    assert waiting.cancel()
    waiting = worker.submit(int, "x")
    with pytest.raises(BusyError):
        worker.submit(int)
    go.set()
    assert running.result()
    with pytest.raises(ValueError, match="invalid literal"):
        waiting.result()
    assert worker.submit(int, "7").result() == 7
    worker.close()


def test_closing_drops_those_that_wait() -> None:
    worker, go, began = Worker(2), threading.Event(), threading.Event()

    def hold() -> bool:
        began.set()
        return go.wait(30)

    running, waiting = worker.submit(hold), worker.submit(int)
    assert began.wait(30)
    threading.Timer(0.05, go.set).start()
    worker.close()
    assert running.result()
    assert waiting.cancelled()
