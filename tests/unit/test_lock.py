"""Locks: one holder at a time, and none after its process is gone, however it went."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from clusterd import lock, paths
from clusterd.errors import BUSY, Busy
from clusterd.lock import Lock

if TYPE_CHECKING:
    from unit.conftest import Box

HOLDER = """
import sys, time
from clusterd.lock import Lock
with Lock("group-serv1"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def somewhere(box: "Box") -> None:
    pass


@pytest.fixture
def holder(box: "Box") -> "Iterator[subprocess.Popen[str]]":
    """Another process that holds the lock group-serv1."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=box.env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_only_one_holds_it() -> None:
    with Lock("watchdog"), pytest.raises(Busy) as refused:
        Lock("watchdog").acquire()
    assert refused.value.exit_code == BUSY
    assert str(os.getpid()) in str(refused.value), "it says who"
    assert f"{paths.LOCKS}/watchdog" in str(refused.value)


def test_locks_of_different_names_have_nothing_to_do_with_each_other() -> None:
    with Lock("group-serv1"), Lock("group-serv2"):
        pass


def test_after_it_is_released_the_next_one_may() -> None:
    first = Lock("watchdog").acquire()
    first.release()
    first.release()
    with Lock("watchdog"):
        pass


def test_released_even_after_an_error() -> None:
    with pytest.raises(ValueError, match="oops"), Lock("watchdog"):
        raise ValueError("oops")
    assert not lock.held("watchdog")


def test_one_acquired_before_may_be_used_in_a_with_statement() -> None:
    with Lock("watchdog").acquire():
        assert lock.held("watchdog")
    assert not lock.held("watchdog")


def test_another_process_is_seen(holder: "subprocess.Popen[str]") -> None:
    assert lock.held("group-serv1")
    assert lock.holder("group-serv1") == holder.pid
    with pytest.raises(Busy, match=f"process {holder.pid} is at it"):
        Lock("group-serv1").acquire()


def test_looking_does_not_disturb(holder: "subprocess.Popen[str]") -> None:
    for _ in range(100):
        assert lock.held("group-serv1")
    assert not lock.held("group-serv2")
    assert lock.holder("group-serv2") is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_process_however_that_ends(holder: "subprocess.Popen[str]", how: signal.Signals) -> None:
    holder.send_signal(how)
    holder.wait()
    assert not lock.held("group-serv1")
    assert lock.holder("group-serv1") is None
    with Lock("group-serv1"):
        pass


def test_a_child_does_not_inherit_it(box: "Box") -> None:
    with Lock("watchdog"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert not lock.held("watchdog")
    finally:
        child.kill()
        child.wait()


def test_an_old_file_is_no_lock() -> None:
    os.makedirs(paths.LOCKS)
    with open(f"{paths.LOCKS}/watchdog", "w", encoding="ascii") as file:
        file.write("1\n")
    assert not lock.held("watchdog")
    assert lock.holder("watchdog") is None


def test_waiting_ends_when_the_holder_does() -> None:
    first = Lock("record").acquire()
    timer = threading.Timer(0.2, first.release)
    began = time.monotonic()
    timer.start()
    with lock.wait_for("record", 10):
        assert time.monotonic() - began >= 0.2
    timer.join()


def test_waiting_ends_with_the_patience(holder: "subprocess.Popen[str]") -> None:
    began = time.monotonic()
    with pytest.raises(Busy):
        lock.wait_for("group-serv1", 0.2)
    assert 0.2 <= time.monotonic() - began < 5


def test_what_is_free_is_not_waited_for() -> None:
    with lock.wait_for("record", 0):
        assert lock.held("record")
