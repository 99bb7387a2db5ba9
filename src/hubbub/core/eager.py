"""Starting a coroutine without a task, as far as it gets without waiting.

Answers for: `begin`, which runs a coroutine of ours up to its first real wait and returns the result if there was none.
With brokers that live in this process most commands never wait, and a task for each would cost more than the command.
Refuses to know: what runs. Not for the application's own coroutines: before its first wait there is no current task,
which `asyncio.timeout` and context libraries need. (From Python 3.12 on, eager tasks are the same idea with a current
task.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Rest(Awaitable[T], Generic[T]):
    """The part of a begun coroutine that is left. Await it exactly once."""

    __slots__ = ("_coroutine", "_waiting_for")

    def __init__(self, coroutine: Coroutine[Any, Any, T], waiting_for: Any) -> None:
        self._coroutine = coroutine
        self._waiting_for = waiting_for

    def __await__(self) -> Generator[Any, Any, T]:
        waiting_for = self._waiting_for
        while True:
            try:
                value = yield waiting_for
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:
                step: Callable[[Any], Any] = self._coroutine.throw
                argument: Any = error
            else:
                step, argument = self._coroutine.send, value
            try:
                waiting_for = step(argument)
            except StopIteration as done:
                result: T = done.value
                return result


def begin(coroutine: Coroutine[Any, Any, T]) -> tuple[T | None, Rest[T] | None]:
    """`(result, None)` if the coroutine ended without waiting, else `(None, the rest of it)`. Raises what it raises."""
    try:
        waiting_for = coroutine.send(None)
    except StopIteration as done:
        return done.value, None
    return None, Rest(coroutine, waiting_for)
