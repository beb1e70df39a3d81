"""Jobs are done one after the other, in their order, and none of them ends the worker."""

import threading
import time
from functools import partial

import pytest

from clusterd.errors import Failed
from clusterd.worker import Worker


def test_in_their_order() -> None:
    made = Worker()
    done: list[int] = []
    for number in range(100):
        made.do(partial(done.append, number))
    made.finish(10)
    assert done == list(range(100))
    assert not made.thread.is_alive()


@pytest.mark.parametrize("error", [Failed("no room"), OSError(28, "No space left on device"), ValueError("odd")])
def test_an_error_is_reported_and_ends_nothing(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    made = Worker()
    done: list[int] = []

    def fail() -> None:
        raise error

    made.do(fail)
    made.do(lambda: done.append(1))
    made.finish(10)
    assert done == [1]
    assert capsys.readouterr().err == f"watchdog: {type(error).__name__}: {error}\n"


def test_nobody_waits_for_a_job_that_hangs() -> None:
    made = Worker()
    gate = threading.Event()
    made.do(gate.wait)
    begun = time.monotonic()
    made.do(lambda: None)
    made.finish(0.1)
    assert time.monotonic() - begun < 10
    assert made.thread.is_alive()
    gate.set()
    made.thread.join(10)
