"""Threads that work for an engine, so that nothing that a caller meets leaves it stuck.

A signal's handler (an interrupt, a timeout) raises in the main thread, between any two steps of
Python, within a lock's own code too. So callers do nothing here that could be left half done: they
hand over a job and wait. One thread of the crew, the leader, takes the jobs one after another, and
nothing interrupts it. Who is interrupted leaves, and the job ends at its next picture.

        caller      put ─ wait ············ answer        an interrupt ends the wait, nothing else
        leader           └ job ─┬ part 0 ─┬─┘
        helpers                 └ part 1 ─┘

A forked child has the memory of its parent, but none of its threads: it gets a crew of its own.
What no thread may be in the midst of meanwhile (imports, compiling) is done under `MAKING`, for
which a fork waits.
"""
from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  (see `_before_fork`)
import os
import threading
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

PATIENCE = 0.5                        # seconds: Windows lets nobody interrupt the wait for a lock
LAST_PICTURE = 400                    # twentieths of a second that the process's end waits for one
MAKING: Any = threading.RLock()
LEADERS: set[Crew] = set()
FORKS = [0]                           # how many lie between this process and the first


class Abandoned(BaseException):
    """Ends a job that nobody waits for any more."""


class Job:
    """work(job), to be done in another thread. `over`: nobody waits for it any more."""

    def __init__(self, work: Callable[[Job], Any]):
        self.work: Callable[[Job], Any] | None = work
        self.over = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def go_on(self) -> None:
        """Raise Abandoned if nobody waits: a job asks between pictures."""
        if self.over:
            raise Abandoned

    def run(self) -> None:
        """Do it, in this thread. Never raises."""
        try:
            self.go_on()
            if self.work:
                self.result = self.work(self)
        except BaseException as error:
            self.error = error
        self.work = None                                          # nor does it keep what it used
        self.done.release()

    def answer(self, begin: Callable[[], None]) -> Any:
        """begin() has it done; wait, and return or raise what came of it."""
        try:
            try:
                begin()
                while not self.done.acquire(timeout=PATIENCE):
                    pass
            finally:
                self.over = True
        finally:                                                  # where a second interrupt comes
            self.over = True
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.result


class Crew:
    """A leader and as many helpers as `threads` needs and the system lets start. They start with
    the first job, work for this process alone, and go when they are dismissed."""

    def __init__(self, threads: int):
        self.wanted = threads
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.leading, self.turn = threading.Lock(), threading.Lock()
        self.helpers: list[SimpleQueue[tuple[Callable[[int], None], int] | None]] = []
        self.answers: SimpleQueue[BaseException | None] = SimpleQueue()
        self.current: Job | None = None

    # --- what callers do --------------------------------------------------------------------------

    def do(self, work: Callable[[Job], Any]) -> Any:
        """What work(job) gives or raises, done by the leader when those before it are done."""
        job = Job(work)
        return job.answer(lambda: self._begin(job))

    def dismiss(self) -> None:
        """All threads go, when what was given to them is done."""
        self.jobs.put(None)

    def _begin(self, job: Job) -> None:
        if not self.leading.locked():
            try:
                start_new_thread(self._lead, ())                  # of several, one stays
            except RuntimeError:                                  # no more threads: a limit of pids
                if not self.leading.locked():
                    with self.turn:
                        job.run()
                    return
        self.jobs.put(job)

    # --- what jobs do -----------------------------------------------------------------------------

    @property
    def threads(self) -> int:
        """How many there are, the leader included."""
        return 1 + len(self.helpers)

    def together(self, work: Callable[[int], None], threads: int) -> None:
        """work(0), …, work(threads − 1) at the same time. Raises what one of them raised."""
        for me in range(1, threads):
            self.helpers[me - 1].put((work, me))
        error = _attempt(work, 0)
        for _ in range(1, threads):
            error = self.answers.get() or error
        if error is not None:
            raise error

    # --- its threads ------------------------------------------------------------------------------

    def _lead(self) -> None:
        if not self.leading.acquire(blocking=False):              # another one leads
            return
        LEADERS.add(self)
        try:
            with suppress(RuntimeError):                          # as many as can be had
                while self.threads < self.wanted:
                    tasks: SimpleQueue = SimpleQueue()
                    start_new_thread(_help, (tasks, self.answers))
                    self.helpers.append(tasks)
            while (job := self.jobs.get()) is not None:
                with self.turn:
                    self.current = job
                    job.run()
                self.current = job = None                         # it would stay until the next
        finally:
            while self.helpers:
                self.helpers.pop().put(None)
            LEADERS.discard(self)
            self.leading.release()

    def _leave(self) -> None:
        """The process ends: nobody waits any more."""
        with suppress(Empty):
            while job := self.jobs.get_nowait():
                job.over = True
        if current := self.current:
            current.over = True
        self.dismiss()


def apart(make: Callable[[], Any]) -> Any:
    """What make() gives or raises, done under `MAKING` in a thread of its own, where no interrupt
    leaves it half done."""
    if MAKING._is_owned():                                        # this is such a thread
        return make()
    job = Job(lambda _: _made(make))

    def begin() -> None:
        try:
            start_new_thread(job.run, ())
        except RuntimeError:                                      # no more threads
            job.run()

    return job.answer(begin)


def this_process() -> tuple[int, int]:
    """Tells this process from those that it was forked from."""
    return FORKS[0], os.getpid()


def _made(make: Callable[[], Any]) -> Any:
    with MAKING:
        return make()


def _attempt(work: Callable[[int], None], me: int) -> BaseException | None:
    """What work(me) raises."""
    try:
        work(me)
    except BaseException as error:
        return error
    return None


def _help(tasks: SimpleQueue, answers: SimpleQueue) -> None:
    """A helper's life."""
    while (task := tasks.get()) is not None:
        answers.put(_attempt(*task))
        task = None                                               # it would stay until the next


# --- forks, and the end ---------------------------------------------------------------------------


def _before_fork() -> None:
    """Modules that lock something of theirs here, and so does `logging`, have to be imported by
    now: they would release what they haven't locked if they came while this waits."""
    MAKING.acquire()


def _after_in_parent() -> None:
    with suppress(RuntimeError):                                  # the wait was interrupted
        MAKING.release()


def _after_in_child() -> None:
    global MAKING                                                 # noqa: PLW0603
    MAKING = threading.RLock()                                    # free, whatever befell the fork
    LEADERS.clear()
    FORKS[0] += 1


def _at_exit() -> None:
    """What runs now ends with its picture, before the memory that it uses goes. Nobody waits for
    what is still being compiled."""
    leaders = list(LEADERS)
    for crew in leaders:
        crew._leave()
    for crew in leaders:
        for _ in range(LAST_PICTURE):
            if crew.leading.acquire(timeout=0.05) or not MAKING.acquire(blocking=False):
                break
            MAKING.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent,
                        after_in_child=_after_in_child)
atexit.register(_at_exit)
