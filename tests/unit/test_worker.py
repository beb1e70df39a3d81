"""Jobs are done one after the other, in their order, and none of them ends the worker."""

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from clusterd import worker
from clusterd.errors import Busy, Failed
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


def test_a_stderr_that_nobody_reads_ends_nothing(lose_stderr: Callable[[], None]) -> None:
    lose_stderr()
    made = Worker()
    done: list[int] = []

    def fail() -> None:
        raise OSError(28, "No space left on device")

    made.do(fail)
    made.do(lambda: done.append(1))
    made.finish(10)
    assert done == [1]


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


@pytest.mark.parametrize("steady", [True, False])
def test_what_must_be_done_is_tried_until_it_is(
    steady: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever else is to be done meanwhile: a watchdog always has something."""
    monkeypatch.setattr(worker, "AGAIN", 0.05)
    made = Worker()
    tries: list[int] = []
    after: list[int] = []

    def late() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise OSError(28, "No space left on device")

    made.must("record", late)
    made.after_all(lambda: after.append(0))
    end = time.monotonic() + 20
    while len(tries) < 4:
        assert time.monotonic() < end
        if steady:
            made.do(lambda: None)
        time.sleep(0.001)
    made.after_all(lambda: after.append(1))
    made.finish(10)
    assert not made.owed
    assert after == [1]
    assert capsys.readouterr().err.count("No space left") == 1, "said once"


def test_what_waits_for_no_disk_is_done_at_once_but_overtakes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    made = Worker()
    done: list[str] = []
    threads: list[threading.Thread] = []
    gate = threading.Event()

    def mark() -> None:
        done.append("mark")
        threads.append(threading.current_thread())

    def fail() -> None:
        raise OSError(28, "No space left on device")

    made.after_all(mark)
    assert threads == [threading.current_thread()]
    made.after_all(fail)
    assert capsys.readouterr().err == "watchdog: OSError: [Errno 28] No space left on device\n"
    made.do(lambda: gate.wait(10))
    made.do(partial(done.append, "record"))
    made.after_all(mark)
    assert done == ["mark"]
    gate.set()
    made.finish(10)
    assert done == ["mark", "record", "mark"]
    assert threads[-1] is made.thread


def test_a_refusal_is_final(capsys: pytest.CaptureFixture[str]) -> None:
    """It would be one again, and keep everything else from being relied on."""
    made = Worker()
    after: list[int] = []

    def refuse() -> None:
        raise Failed("a damaged record")

    made.must("record", refuse)
    made.after_all(lambda: after.append(1))
    made.finish(10)
    assert (made.owed, after) == ({}, [1])
    assert "a damaged record" in capsys.readouterr().err


def test_a_newer_job_takes_the_place_of_one_that_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "AGAIN", 0.02)
    made = Worker()
    done: list[str] = []

    def fail() -> None:
        done.append("old")
        raise Busy("record")

    made.must("record", fail)
    made.must("record", lambda: done.append("new"))
    time.sleep(0.1)
    made.finish(10)
    assert done == ["old", "new"]
