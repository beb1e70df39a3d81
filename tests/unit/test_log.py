"""Events: one JSON object a line, whole even when many processes write, and never in anybody's way."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import log, paths, view

if TYPE_CHECKING:
    from unit.conftest import Box


def events() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(paths.EVENTS).read_text().splitlines()]


def test_an_event(box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "program", "takeover")
    before = view.now()
    record = log.event("takeover-done", "serv1 has it", level="warning", group="serv2", files=["a"])
    assert events() == [record]
    assert (record["event"], record["level"], record["text"]) == ("takeover-done", "warning", "serv1 has it")
    assert (record["program"], record["node"], record["group"], record["files"]) == (
        "takeover",
        os.uname().nodename,
        "serv2",
        ["a"],
    )
    assert before - 0.001 <= record["uptime"] <= view.now() + 0.001
    assert os.stat(paths.EVENTS).st_mode & 0o777 == 0o640


def test_of_two_moments_one_is_the_earlier() -> None:
    """A takeover that is armed begins within a millisecond of the decision."""
    first, second = log.moment(), log.moment()
    assert first.uptime < second.uptime


def test_an_event_of_a_while_ago(box: "Box") -> None:
    """A worker writes it, after what a script has done meanwhile."""
    then = log.moment()
    log.event("takeover-began", "by a script")
    record = log.event("decided", "by the watchdog", at=then)
    assert (record["time"], record["uptime"]) == then
    assert [event["event"] for event in events()] == ["takeover-began", "decided"]


def test_timestamps() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", log.timestamp())


@pytest.mark.parametrize("text", ["two\nlines", "caf\u00e9 \u2603", "not UTF-8: \udcff", '"quoted" \\ \x00'])
def test_any_text_is_one_line(box: "Box", text: str) -> None:
    log.event("test", text, path=text)
    log.event("test", "after")
    assert [event["text"] for event in events()] == [text, "after"]


def test_many_processes_never_mix_their_lines(box: "Box") -> None:
    code = "from clusterd import log\nfor n in range(50): log.event('test', 'x' * 3000, number=n)"
    writers = [subprocess.Popen([sys.executable, "-c", code], env=box.env) for _ in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    found = events()
    assert len(found) == 200
    assert sorted(event["number"] for event in found) == sorted(list(range(50)) * 4)


def test_what_cannot_be_written_stops_nothing(
    box: "Box", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "EVENTS", "/dev/full")
    log.event("test", "a text")
    assert capsys.readouterr().err == "clusterd: /dev/full: No space left on device\n"
    monkeypatch.setattr(paths, "EVENTS", f"{box.root}/none/events.jsonl")
    log.event("test", "a text")
    assert "No such file or directory" in capsys.readouterr().err


def test_neither_does_a_stderr_that_nobody_reads(
    box: "Box", monkeypatch: pytest.MonkeyPatch, lose_stderr: Callable[[], None]
) -> None:
    lose_stderr()
    monkeypatch.setattr(paths, "EVENTS", "/dev/full")
    monkeypatch.setattr(log, "verbosity", 1)
    assert log.event("test", "a text")["text"] == "a text"


@pytest.fixture
def syslogd(box: "Box") -> Iterator[socket.socket]:
    """What a syslog daemon listens at; whether it reads is the test's affair."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(paths.SYSLOG)
        daemon.settimeout(1)
        yield daemon


def test_syslog_gets_a_line(syslogd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "program", "takeover")
    log.event("takeover-done", "serv1 has it: caf\u00e9 \udcff", level="warning")
    line = syslogd.recv(1000).decode()
    stamp = r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 1-3]\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"<28>{stamp} takeover\[{os.getpid()}\]: takeover-done: serv1 has it: caf\u00e9 \?", line)


def test_a_syslog_daemon_that_does_not_read_keeps_nobody_waiting(syslogd: socket.socket, box: "Box") -> None:
    code = "from clusterd import log\nfor n in range(100): log.event('test', 'x' * 3000, number=n)"
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code], env=box.env, check=True, timeout=20)
    assert time.monotonic() - begun < 10
    assert [event["number"] for event in events()] == list(range(100))
    assert b": test: xxx" in syslogd.recv(5000), "the first ones are there when it reads again"


def test_a_syslog_daemon_with_a_stream_socket(box: "Box") -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.bind(paths.SYSLOG)
        daemon.listen()
        log.event("test", "something")
        with daemon.accept()[0] as ours:
            assert ours.recv(1000).endswith(b": test: something\0")


def test_debug_only_when_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log.debug("quiet")
    monkeypatch.setattr(log, "verbosity", 1)
    log.debug("loud")
    assert capsys.readouterr().err == "clusterd: loud\n"
