"""Work that is done ahead of its use, in threads or, without any, when it is asked for; the loader's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Ahead:
    """A context of ``workers`` threads (0: none); what has not begun when it ends is never done."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="loader")
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Callable[[], Result]:
        """Begin ``work`` where there are threads; the returned function waits for its result, or does it."""
        return partial(work, *arguments) if self._pool is None else self._pool.submit(work, *arguments).result

    def each(self, work: Callable[[Item], Result], items: Sequence[Item], ahead: int) -> Iterator[Callable[[], Result]]:
        """``submit`` for each item in order, with so many begun ahead of the one that is asked for."""
        begun: deque[Callable[[], Result]] = deque()
        for number in range(len(items) + ahead):
            if number < len(items):
                begun.append(self.submit(work, items[number]))
            if number >= ahead:
                yield begun.popleft()
