"""Run blocking calls in a thread, one at a time, with a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

from anyio import CancelScope, CapacityLimiter, WouldBlock, create_task_group, to_thread
from anyio.abc import TaskGroup

P = ParamSpec("P")
T = TypeVar("T")


class BusyError(Exception):
    """The queue is full."""


class Worker:
    """Runs calls one at a time, in order: a forward pass uses every core, and decoded images take memory.

    Each call is a task of its own, so that a call whose caller gives up keeps its slot until its thread is free again.

    Args:
        tasks: The group that the calls belong to (see ``open_worker``).
        max_queue: Calls that may wait or run; further ones are refused.
    """

    def __init__(self, tasks: TaskGroup, max_queue: int) -> None:
        self._tasks = tasks
        self._queue = CapacityLimiter(max_queue)
        self._thread = CapacityLimiter(1)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in a thread and return its result; if cancelled while it waits, it is never called.

        Raises:
            BusyError: The queue is full.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._queue.acquire_on_behalf_of_nowait(result)
        except WouldBlock:
            raise BusyError from None
        scope = CancelScope()
        self._tasks.start_soon(self._call, partial(function, *args, **kwargs), result, scope)
        try:
            return await result
        finally:
            scope.cancel()  # takes a waiting call out of the queue; one that has begun is shielded

    async def _call(self, function: Callable[[], Any], result: asyncio.Future[Any], scope: CancelScope) -> None:
        try:
            with scope:
                value = await to_thread.run_sync(function, limiter=self._thread)
                if not result.done():
                    result.set_result(value)
        except Exception as error:
            if not result.done():
                result.set_exception(error)
        finally:
            result.cancel()  # has no effect on a result that is set
            self._queue.release_on_behalf_of(result)


@asynccontextmanager
async def open_worker(max_queue: int) -> AsyncIterator[Worker]:
    """Yield a worker; at the end the running call finishes, and the waiting ones are cancelled.

    Args:
        max_queue: Calls that may wait or run.
    """
    async with create_task_group() as tasks:
        yield Worker(tasks, max_queue)
        tasks.cancel_scope.cancel()
