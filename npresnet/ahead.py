"""Reading ahead: threads work on the next items while the caller is busy with those before."""
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class ReadAhead(Generic[Item, Result]):
    """`read` called on each of `items`, in up to `workers` threads, for `take` to fetch in order.

    At most `limit` items are held: under work, or done and not yet taken. It is used in a `with`
    statement, by one thread; at its end no further item is begun.

    Queues are `SimpleQueue`s, because those survive an exception out of a signal handler at any
    point; a lock that Python code takes and gives back doesn't.
    """

    def __init__(self, items: Iterable[Item], read: Callable[[Item], Result], *, workers: int,
                 limit: int):
        self._items, self._read, self._workers, self._limit = iter(items), read, workers, limit
        self._jobs: SimpleQueue[tuple[Item, _Place[Result]] | None] = SimpleQueue()
        self._waiting: deque[tuple[Item, _Place[Result]]] = deque()
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self._exhausted: Exception | None = None         # StopIteration, or what was raised

    def __enter__(self) -> ReadAhead[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        for _thread in self._threads:
            self._jobs.put(None)

    def take(self, count: int) -> list[tuple[Item, Result]]:
        """The next `count` items and what came of them; fewer at the end, and then none.

        Raises what `read` raised. What `items` raised comes after the items before it.
        """
        taken: list[tuple[Item, Result]] = []
        while len(taken) < count:
            self._fill()
            if not self._waiting:
                break
            item, place = self._waiting.popleft()
            if not self._threads:                                 # none could be started
                self._work_once()
            result, error = place.get()
            if error is not None:
                raise error
            taken.append((item, result))                          # type: ignore[arg-type]
        if not taken and not isinstance(self._exhausted, StopIteration):
            assert self._exhausted is not None
            raise self._exhausted
        self._fill()                                              # something to do in the meantime
        return taken

    def _fill(self) -> None:
        while self._exhausted is None and len(self._waiting) < self._limit:
            try:
                item = next(self._items)
            except Exception as error:
                self._exhausted = error
                return
            place: _Place[Result] = SimpleQueue()
            self._waiting.append((item, place))
            self._jobs.put((item, place))
            if len(self._threads) < self._workers:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, daemon=True, name="npresnet-read")
        try:
            thread.start()
        except RuntimeError:                                      # the system gives no more threads
            self._workers = len(self._threads)
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Do the next job; False if there are none to come."""
        job = self._jobs.get()
        if job is None or self._stopped:
            return False
        item, place = job
        try:
            place.put((self._read(item), None))
        except BaseException as error:                            # raised where it is taken
            place.put((None, error))
        return True


_Place = SimpleQueue[tuple[Result | None, BaseException | None]]
