"""The hardware watchdog, with a stand-in: most machines that run tests have none, nor a kernel that could make one up
(softdog, CUSE). A named pipe is the device, and a function gives the driver's answers to ioctl. Its reader sees each
word as it comes, and an end of file when it is closed; that the hardware then resets the machine is not tried.
"""

import errno
import fcntl
import json
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd import paths, watchdev
from clusterd.model import Config
from clusterd.watchdev import Dog
from unit.site import wait


class Hardware:
    """Stands in for the device and its driver."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.options = watchdev.WDIOF_MAGICCLOSE
        self.refused: dict[int, int] = {}
        self.set_to = 0
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def ioctl(self, fd: int, request: int, argument: bytes) -> bytes:
        """As a driver answers."""
        assert os.path.samestat(os.fstat(fd), os.stat(self.path))
        if request in self.refused:
            raise OSError(self.refused[request], os.strerror(self.refused[request]))
        if request == watchdev.WDIOC_GETSUPPORT:
            return watchdev.INFO.pack(self.options, 1, b"stand-in")
        if request == watchdev.WDIOC_SETTIMEOUT:
            self.set_to = struct.unpack("=i", argument)[0]
            return argument
        assert request == watchdev.WDIOC_GETTIMEOUT
        return struct.pack("=i", 60)

    def words(self) -> bytes | None:
        """What was written since the last call; None: nothing, and nobody has it open."""
        try:
            return os.read(self.fd, 4096) or None
        except BlockingIOError:
            return b""

    def next(self) -> bytes:
        """Wait for a word."""
        found = b""

        def came() -> bytes:
            nonlocal found
            found += self.words() or b""
            return found

        wait(came)
        return found


@pytest.fixture(name="hardware")
def made_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hardware]:
    made = Hardware(tmp_path / "watchdog")
    monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
    yield made
    os.close(made.fd)


@pytest.fixture(name="told")
def those_told() -> list[str]:
    return []


@pytest.fixture(name="dog")
def made_dog(pair: Config, hardware: Hardware, told: list[str]) -> Iterator[Dog]:
    made = dog_of(pair, str(hardware.path), told)
    yield made
    made.disarm()


def dog_of(pair: Config, path: str, told: list[str], seconds: float = 10.0) -> Dog:
    return Dog(pair.me()._replace(watchdog_device=path, watchdog_timeout=seconds), told.append)


def armed() -> list[dict[str, Any]]:
    path = Path(paths.EVENTS)
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [event for event in events if event["event"] == "watchdog-device-armed"]


def test_it_is_armed_by_the_first_word_and_not_before(hardware: Hardware, dog: Dog, told: list[str]) -> None:
    dog.pet(100.0, well=False)
    time.sleep(0.1)
    assert hardware.words() is None and armed() == []
    dog.pet(100.0, well=True)
    assert hardware.next() == b"\0"
    assert hardware.set_to == 10
    [event] = armed()
    assert event["text"] == f"{hardware.path} (stand-in) resets this node after 10 s without a word"
    wait(lambda: told)
    assert told == [""], "what was the matter before is over"


def test_ten_words_in_its_timeout_however_often_the_loop_turns(hardware: Hardware, dog: Dog) -> None:
    words = b""
    for turn in range(101):
        dog.pet(100.0 + turn * 0.1, well=True)
        wait(lambda: not dog._asked.is_set() and not dog._speaking.locked())
        words += hardware.words() or b""
    assert words == b"\0" * 11


def test_no_word_while_the_loop_hangs_or_the_kernel_takes_no_renewal(hardware: Hardware, dog: Dog) -> None:
    dog.pet(100.0, well=True)
    assert hardware.next() == b"\0"
    for turn in range(20):
        dog.pet(101.0 + turn, well=False)
    time.sleep(0.2)
    assert hardware.words() == b"", "silent, and still open: armed"


def test_disarmed_in_order_and_never_armed_again(hardware: Hardware, dog: Dog) -> None:
    dog.pet(100.0, well=True)
    assert hardware.next() == b"\0"
    for _ in range(2):
        dog.disarm()
        dog.pet(200.0, well=True)
    time.sleep(0.1)
    assert hardware.words() == b"V", "the magic word is the last one"
    assert hardware.words() is None


def test_a_process_that_dies_leaves_it_armed(pair: Config, hardware: Hardware) -> None:
    pid = os.fork()
    if pid == 0:
        dog_of(pair, str(hardware.path), []).pet(100.0, well=True)
        time.sleep(60)
    assert hardware.next() == b"\0"
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    wait(lambda: hardware.words() is None)


def test_what_is_no_watchdog_device_is_told_and_left_alone(
    pair: Config, hardware: Hardware, told: list[str], tmp_path: Path
) -> None:
    """The real kernel's answer, for a file."""
    hardware.refused[watchdev.WDIOC_GETSUPPORT] = errno.ENOTTY
    dog = dog_of(pair, str(hardware.path), told)
    dog.pet(100.0, well=True)
    wait(lambda: told)
    assert told == [f"{hardware.path}: is no watchdog device"]
    assert hardware.words() is None


def test_one_that_is_not_there_is_told_once_and_tried_again(
    pair: Config, hardware: Hardware, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = hardware.path.with_name("elsewhere")
    dog = dog_of(pair, str(elsewhere), told)
    monkeypatch.setattr(watchdev, "RETRY", 0.02)
    for turn in range(20):
        dog.pet(100.0 + turn, well=True)
        time.sleep(0.03)
    wait(lambda: told)
    assert told == [f"{elsewhere}: No such file or directory"]
    hardware.path.rename(elsewhere)
    hardware.path = elsewhere
    time.sleep(0.03)
    dog.pet(200.0, well=True)
    assert hardware.next() == b"\0"
    dog.disarm()
    assert told[1:] == [""]


def test_hardware_with_a_timeout_of_its_own(pair: Config, hardware: Hardware, told: list[str]) -> None:
    hardware.refused[watchdev.WDIOC_SETTIMEOUT] = errno.EOPNOTSUPP
    dog = dog_of(pair, str(hardware.path), told, seconds=100.0)
    dog.pet(100.0, well=True)
    assert hardware.next() == b"\0"
    assert "after 60 s without a word" in armed()[-1]["text"]
    assert dog.seconds == 60
    dog.disarm()


def test_hardware_that_disarms_itself_is_said(pair: Config, hardware: Hardware, told: list[str]) -> None:
    hardware.options = 0
    dog = dog_of(pair, str(hardware.path), told)
    dog.pet(100.0, well=True)
    assert hardware.next() == b"\0"
    assert armed()[-1]["text"].endswith("it disarms itself when this program is killed, and resets only one that hangs")
    dog.disarm()


def test_hardware_that_takes_no_word_any_more_stops_nobody(
    hardware: Hardware, dog: Dog, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, real = threading.Event(), os.write

    def write(fd: int, data: bytes) -> int:
        if data == b"\0":
            stuck.wait(20)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    dog.pet(100.0, well=True)
    wait(dog._speaking.locked)
    began = time.monotonic()
    dog.pet(102.0, well=True)
    assert time.monotonic() - began < 5, "20 s, if it were waited for"
    dog.disarm()
    assert time.monotonic() - began < 5
    stuck.set()
    assert hardware.next() == b"\0"


def test_a_device_that_fails_is_told_and_opened_again(
    pair: Config, hardware: Hardware, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdev, "RETRY", 0.0)
    dog = dog_of(pair, str(hardware.path), told)
    dog.pet(100.0, well=True)
    assert hardware.next() == b"\0"
    os.close(hardware.fd)
    dog.pet(102.0, well=True)
    wait(lambda: len(told) == 2)
    assert told == ["", f"{hardware.path}: Broken pipe"]
    hardware.fd = os.open(hardware.path, os.O_RDONLY | os.O_NONBLOCK)
    dog.pet(104.0, well=True)
    assert hardware.next() == b"\0"
    dog.disarm()
    assert told[2:] == [""]


def test_one_that_opens_and_takes_no_word_is_told_once(
    pair: Config, hardware: Hardware, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdev, "RETRY", 0.0)
    tries, real = [], os.write

    def write(fd: int, data: bytes) -> int:
        if data != b"\0":
            return real(fd, data)
        tries.append(data)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", write)
    dog = dog_of(pair, str(hardware.path), told)
    for turn in range(5):
        dog.pet(100.0 + turn * 10, well=True)
        wait(lambda turn=turn: len(tries) > turn)
    dog.disarm()
    assert told == [f"{hardware.path}: Input/output error"]


def test_none_is_nothing(pair: Config, told: list[str]) -> None:
    before = threading.active_count()
    dog = dog_of(pair, "none", told)
    dog.pet(100.0, well=True)
    dog.disarm()
    assert threading.active_count() == before and told == []
