"""A thread for what may take long: writing to disks, logs and notices. The watchdog's loop never waits for a disk."""

import queue
import sys
import threading
from collections.abc import Callable

Job = Callable[[], object]


class Worker:
    """Runs jobs one after the other, in the order in which they were given."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self.thread.start()

    def do(self, job: Job) -> None:
        """Do `job` soon; its errors are reported and end nothing."""
        self.jobs.put(job)

    def finish(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until everything given so far is done."""
        self.jobs.put(None)
        self.thread.join(timeout)

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - whatever a disk or a mail server did, the watchdog goes on
                print(f"watchdog: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
