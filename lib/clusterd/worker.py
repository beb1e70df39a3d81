"""A thread for what may take long: writing to disks, logs and notices. The watchdog's loop never waits for a disk."""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial

from clusterd import log
from clusterd.errors import Busy

Job = Callable[[], object]
AGAIN = 1.0
"""Seconds after which what a disk did not take is tried again."""


class Worker:
    """Runs jobs one after the other, in the order in which they were given."""

    def __init__(self) -> None:
        self.owed: dict[str, Job] = {}
        """What has to be done, and could not be done yet."""
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.given = self.done = 0
        """How many jobs."""
        self.counting = threading.Lock()
        """Of the given ones; only the worker's own thread counts those that are done."""
        self.thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self.thread.start()

    def do(self, job: Job) -> None:
        """Do `job` soon; its errors are reported and end nothing."""
        with self.counting:
            self.given += 1
        self.jobs.put(job)

    def must(self, what: str, job: Job) -> None:
        """Do `job` soon, and again until the disk takes it, or another one for the same `what` is given."""
        self.do(partial(self._attempt, what, job))

    def after_all(self, job: Job) -> None:
        """Do `job`, which waits for no disk, unless something that must be done could not be done yet: now, if nothing
        is to be done before it, which spares the thread a wake-up; else soon.
        """
        if self.idle():
            self._report(job)
        else:
            self.do(lambda: None if self.owed else job())

    def idle(self) -> bool:
        """Whether everything given so far is done."""
        return self.given == self.done and not self.owed

    def finish(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until everything given so far is done."""
        self.jobs.put(None)
        self.thread.join(timeout)

    def _attempt(self, what: str, job: Job) -> None:
        """Do it, and owe it if the disk does not take it now; said once. A refusal is final: it would be one again."""
        known = self.owed.get(what)
        self.owed[what] = job
        try:
            job()
        except (OSError, Busy):
            if known is not job:
                raise
            return
        except BaseException:
            del self.owed[what]
            raise
        del self.owed[what]

    def _work(self) -> None:
        again = 0.0
        while (job := self._next()) is not None:
            if not self.owed:
                again = time.monotonic() + AGAIN
            self._report(job)
            if self.owed and time.monotonic() >= again:
                for what, each in list(self.owed.items()):
                    self._report(partial(self._attempt, what, each))
                again = time.monotonic() + AGAIN
            self.done += job is not _nothing

    def _next(self) -> Job | None:
        """The next job, or nothing to do if none comes for a while and something is owed."""
        try:
            return self.jobs.get(timeout=AGAIN if self.owed else None)
        except queue.Empty:
            return _nothing

    @staticmethod
    def _report(job: Job) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001 - whatever a disk or a mail server did, the watchdog goes on
            log.complain(f"watchdog: {type(error).__name__}: {error}")


def _nothing() -> None:
    """A job."""
