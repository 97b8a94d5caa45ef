from __future__ import annotations

import asyncio
import threading

import pytest

from unfreeze.serve.worker import BusyError, open_worker


def test_calls_are_made_in_one_thread_in_order() -> None:
    seen: list[tuple[int, str]] = []

    def note(number: int) -> None:
        seen.append((number, str(threading.get_ident())))

    async def scenario() -> None:
        async with open_worker(100) as worker:
            await asyncio.gather(*(worker.run(note, number) for number in range(50)))

    asyncio.run(scenario())
    assert [number for number, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen}) == 1


def test_a_slot_is_free_again_after_a_call_a_failure_and_a_cancellation() -> None:
    async def scenario() -> None:
        began, go = threading.Event(), threading.Event()

        def hold() -> bool:
            began.set()
            return go.wait(30)

        async with open_worker(2) as worker:
            running = asyncio.ensure_future(worker.run(hold))
            waiting = asyncio.ensure_future(worker.run(int, "x"))
            assert await asyncio.to_thread(began.wait, 30)
            with pytest.raises(BusyError):
                await worker.run(int)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            waiting = asyncio.ensure_future(worker.run(int, "x"))
            await asyncio.sleep(0)
            with pytest.raises(BusyError):
                await worker.run(int)
            go.set()
            assert await running
            with pytest.raises(ValueError, match="invalid literal"):
                await waiting
            assert await worker.run(int, "7") == 7

    asyncio.run(scenario())


def test_a_call_whose_caller_gave_up_still_holds_its_slot_and_the_thread() -> None:
    async def scenario() -> None:
        began, go = threading.Event(), threading.Event()
        finished: list[str] = []

        def hold() -> None:
            began.set()
            go.wait(30)
            finished.append("first")

        async with open_worker(2) as worker:
            given_up = asyncio.ensure_future(worker.run(hold))
            assert await asyncio.to_thread(began.wait, 30)
            given_up.cancel()
            await asyncio.wait([given_up], timeout=30)
            assert given_up.cancelled()  # at once, although the thread is busy
            next_call = asyncio.ensure_future(worker.run(finished.append, "second"))
            await asyncio.sleep(0)
            with pytest.raises(BusyError):
                await worker.run(int)
            go.set()
            await next_call
        assert finished == ["first", "second"]

    asyncio.run(scenario())


def test_a_call_that_was_cancelled_while_it_waited_is_never_made() -> None:
    async def scenario() -> list[str]:
        began, go = threading.Event(), threading.Event()
        made: list[str] = []

        def hold() -> None:
            began.set()
            go.wait(30)

        async with open_worker(2) as worker:
            running = asyncio.ensure_future(worker.run(hold))
            assert await asyncio.to_thread(began.wait, 30)
            waiting = asyncio.ensure_future(worker.run(made.append, "never"))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            go.set()
            await running
            await worker.run(made.append, "later")
        return made

    assert asyncio.run(scenario()) == ["later"]


def test_closing_lets_the_running_call_end_and_drops_those_that_wait() -> None:
    async def scenario() -> None:
        began, go = threading.Event(), threading.Event()
        ended: list[str] = []

        def hold() -> None:
            began.set()
            go.wait(30)
            ended.append("first")

        async with open_worker(2) as worker:
            running = asyncio.ensure_future(worker.run(hold))
            waiting = asyncio.ensure_future(worker.run(ended.append, "never"))
            assert await asyncio.to_thread(began.wait, 30)
            asyncio.get_running_loop().call_later(0.05, go.set)
        assert ended == ["first"]
        await asyncio.wait([running, waiting])
        assert waiting.cancelled()

    asyncio.run(scenario())
