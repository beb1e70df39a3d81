"""The one runner: no shell, no terminal, a limit always, and nothing changed with --dry-run."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import run
from clusterd.errors import Failed

if TYPE_CHECKING:
    from unit.conftest import Box


@pytest.fixture(autouse=True)
def somewhere(box: "Box") -> None:
    pass


def sh(script: str, *words: str) -> list[str]:
    return ["/bin/sh", "-c", script, "sh", *words]


def gone(pid: int) -> bool:
    """Whether that process has ended, or is a zombie that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon(pid: int) -> bool:
    end = time.monotonic() + 5
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return gone(pid)


# --- how it ended ---


def test_what_it_wrote_and_how_it_ended() -> None:
    result = run.run(sh("echo out; echo err >&2; exit 3"), timeout=10)
    assert (result.code, result.signal, result.timed_out) == (3, None, False)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert not result.ok
    assert result.why().endswith("exit 3: err")


def test_done() -> None:
    assert run.run(["true"], timeout=10).ok


def test_killed_by_a_signal_is_not_an_exit_code() -> None:
    result = run.run(sh("kill -9 $$"), timeout=10)
    assert (result.code, result.signal, result.timed_out) == (None, signal.SIGKILL, False)
    assert not result.ok
    assert result.why().endswith("was killed by SIGKILL")


def test_a_program_that_is_not_there() -> None:
    result = run.run(["/nonexistent/program", "x"], timeout=10)
    assert (result.code, result.ok) == (127, False)
    assert result.why() == "/nonexistent/program x: exit 127: /nonexistent/program: No such file or directory"


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("text")
    assert run.run([str(plain)], timeout=10).code == 127


def test_why_quotes_the_command() -> None:
    assert run.run(["false", "a b", "c'd"], timeout=10).why() == """false 'a b' 'c'"'"'d': exit 1"""


def test_output_that_is_no_utf8_comes_through() -> None:
    assert os.fsencode(run.run(sh(r"printf 'caf\351'"), timeout=10).stdout) == b"caf\xe9"


# --- the limit ---


def test_the_limit_ends_the_whole_family() -> None:
    began = time.monotonic()
    result = run.run(sh("sleep 60 & echo $!; sleep 60"), timeout=0.3)
    assert time.monotonic() - began < 5
    assert (result.code, result.signal, result.timed_out) == (None, None, True)
    assert result.why().endswith("timed out: " + result.stdout.strip())
    assert soon(int(result.stdout))


def test_the_limit_holds_for_one_that_ignores_signals() -> None:
    began = time.monotonic()
    assert run.run(sh("trap '' TERM INT HUP; while :; do sleep 1; done"), timeout=0.3).timed_out
    assert time.monotonic() - began < 5


def test_the_limit_holds_for_one_that_left_its_family_and_keeps_the_output() -> None:
    began = time.monotonic()
    result = run.run(sh("setsid sleep 20 & echo $!; exec sleep 60"), timeout=0.3)
    assert result.timed_out
    assert time.monotonic() - began < 5


def test_an_exception_ends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pids = tmp_path / "pid"

    def interrupted(self: "subprocess.Popen[bytes]", *_: object, **__: object) -> tuple[bytes, bytes]:
        while not pids.exists() or not pids.read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(sh('echo $$ > "$1.new"; mv "$1.new" "$1"; exec sleep 60', str(pids)), timeout=30)
    assert soon(int(pids.read_text()))


# --- what it is given ---


def test_no_shell_ever_sees_the_words() -> None:
    word = "$(touch /tmp/no) `id` ; * ~ 'x' \"y\" \\ \n"
    assert run.run(["printf", "%s", word], timeout=10).stdout == word


def test_standard_input_is_closed_or_given() -> None:
    assert run.run(["cat"], timeout=10).stdout == ""
    assert run.run(["cat"], timeout=10, stdin="text ä").stdout == "text ä"
    assert run.run(["cat"], timeout=10, stdin=b"bytes").stdout == "bytes"
    assert run.run(["true"], timeout=10, stdin="x" * 1_000_000).ok


def test_the_locale_is_fixed_and_sbin_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said = run.run(["env"], timeout=10).stdout.splitlines()
    assert "LC_ALL=C.UTF-8" in said
    assert "LANG=C.UTF-8" in said
    path = next(line for line in said if line.startswith("PATH="))
    assert path.startswith("PATH=/usr/bin:/bin:")
    assert "/usr/sbin" in path.split(":")


def test_without_a_path_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    assert run.environment()["PATH"] == run.PATH


def test_more_environment_may_be_given() -> None:
    assert run.run(sh("echo $MORE"), timeout=10, env={"MORE": "x y"}).stdout == "x y\n"


def test_it_has_no_terminal_and_a_session_of_its_own() -> None:
    assert run.run(sh("ps -o sid= -p $$"), timeout=10).stdout.strip() != str(os.getsid(0))


# --- a command that leaves a daemon behind ---


def test_a_daemon_keeps_nobody_waiting(tmp_path: Path) -> None:
    with open(tmp_path / "output", "w+b") as output:
        began = time.monotonic()
        result = run.run(sh("pwd; sleep 30 & echo $!"), timeout=10, output=output.fileno())
        assert time.monotonic() - began < 5
        output.seek(0)
        folder, pid = output.read().decode().split()
    assert result.ok
    assert folder == "/"
    assert not gone(int(pid))
    os.kill(int(pid), signal.SIGKILL)


# --- check ---


def test_check_returns_what_it_wrote() -> None:
    assert run.check(["echo", "x"], timeout=10) == "x\n"


@pytest.mark.parametrize("argv", [["false"], ["/nonexistent"], ["sleep", "60"]])
def test_check_fails_with_one_line(argv: list[str]) -> None:
    with pytest.raises(Failed) as failed:
        run.check(argv, timeout=0.3)
    assert "\n" not in str(failed.value)
    assert str(failed.value).startswith(argv[0])


# --- dry run ---


def test_dry_run_shows_what_would_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "dry_run", True)
    result = run.run(["touch", str(tmp_path / "a b")], timeout=10)
    assert result.ok
    assert not (tmp_path / "a b").exists()
    assert capsys.readouterr().out == f"would run: touch '{tmp_path}/a b'\n"


def test_dry_run_still_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "dry_run", True)
    assert run.run(["echo", "seen"], timeout=10, changes=False).stdout == "seen\n"


# --- detach ---


def test_detached_is_given_its_input_and_not_waited_for(tmp_path: Path) -> None:
    target = tmp_path / "got"
    waits = 'for _ in $(seq 200); do [ ! -e "$1.go" ] || exec mv "$1.new" "$1"; sleep 0.05; done'
    run.detach(sh(f'cat > "$1.new"; {waits}', str(target)), stdin="the event")
    (tmp_path / "got.go").touch()  # too late, if it was waited for
    end = time.monotonic() + 10
    while not target.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert target.read_text() == "the event"


def test_detached_and_waited_for_goes_on_when_the_time_is_up(tmp_path: Path) -> None:
    target = tmp_path / "got"
    run.detach(sh('cat > "$1"', str(target)), stdin="the event", wait=10)
    assert target.read_text() == "the event"
    begun = time.monotonic()
    run.detach(sh('sleep 2; cat > "$1"', str(target)), stdin="another", wait=0.2)
    assert time.monotonic() - begun < 1.5
    while target.read_text() != "another" and time.monotonic() < begun + 20:
        time.sleep(0.05)
    assert target.read_text() == "another"


def test_detached_that_is_not_there() -> None:
    with pytest.raises(Failed, match="/nonexistent"):
        run.detach(["/nonexistent"], stdin="")


def test_detached_that_reads_nothing() -> None:
    run.detach(["true"], stdin="x")
