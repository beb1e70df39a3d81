"""What all scripts share: options, exit codes, one line for every error, and how they end."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import __version__, cli, errors, log, run
from clusterd.errors import ClusterdError

if TYPE_CHECKING:
    from unit.conftest import Box

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file())


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """cli.main sets what is global."""
    monkeypatch.setattr(log, "program", "clusterd")
    monkeypatch.setattr(log, "verbosity", 0)
    monkeypatch.setattr(run, "dry_run", False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "umask", lambda _: 0)


def call(handler: cli.Handler, *words: str) -> int:
    made = cli.parser("thing", "Does a thing.")
    made.add_argument("words", nargs="*")
    return cli.main(made, handler, words)


def test_what_is_global_is_set() -> None:
    seen = {}

    def handler(options: argparse.Namespace) -> int:
        seen.update(vars(options))
        return 0

    assert call(handler, "a", "--dry-run", "b", "-vv", "--config", "/x", "c") == 0
    assert (log.program, log.verbosity, run.dry_run) == ("thing", 2, True)
    assert (seen["words"], seen["config"], seen["json"]) == (["a", "b", "c"], "/x", False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Failed, 1),
        (errors.Usage, 2),
        (errors.CannotTell, 3),
        (errors.Busy, 75),
        (errors.NotPermitted, 77),
        (errors.ConfigError, 78),
    ],
)
def test_every_error_is_one_line_and_its_code(
    capsys: pytest.CaptureFixture[str], error: type[ClusterdError], code: int
) -> None:
    def handler(_: argparse.Namespace) -> int:
        raise error("what happened, and what to do")

    assert call(handler) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "thing: what happened, and what to do\n")
    assert call(handler, "--json") == code
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": "what happened, and what to do", "exit": code}
    assert shown.err == "thing: what happened, and what to do\n"


def test_no_error_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    def handler(_: argparse.Namespace) -> int:
        with open("/nowhere/file", encoding="ascii"):
            return 0

    assert call(handler) == 1
    assert capsys.readouterr().err == "thing: /nowhere/file: No such file or directory\n"

    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    assert call(interrupted) == 130
    assert capsys.readouterr().err == "thing: interrupted\n"


def test_text_that_is_no_utf_8_is_shown_with_escapes() -> None:
    """In a locale whose stdout is strict."""
    code = (
        "from clusterd import cli\n"
        "cli.main(cli.parser('thing', ''), lambda _: print('a file: \\udcff \\u00e9', flush=True), [])"
    )
    for encoding, shown in (("utf-8:strict", b"a file: \\udcff \xc3\xa9\n"), ("ascii:strict", rb"a file: \udcff \xe9")):
        env = {"PYTHONPATH": str(ROOT / "lib"), "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, shown.strip(), b"")


def test_none_is_done() -> None:
    assert call(lambda _: None) == 0


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped option must not become another one in the next version."""
    with pytest.raises(SystemExit) as end:
        call(lambda _: 0, "--dry")
    assert end.value.code == 2
    assert "--dry" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_tells_its_version(box: "Box", name: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / name, "--version"],
        env=box.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{name} (clusterd) {__version__}\n")


CODE = """\
import signal, sys, time
from clusterd import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs this in the background has it ignored
def handler(options):
    try:
        print("begun", flush=True)
        {body}
    finally:
        print("put back", file=sys.stderr)
sys.exit(cli.main(cli.parser("thing", "A test."), handler, []))
"""


HEARS = ("env", "--default-signal=HUP")
"""What the tests were started with may ignore it."""


def script(box: "Box", body: str) -> "subprocess.Popen[str]":
    code = CODE.format(body=body)
    pipe = subprocess.PIPE
    argv = [*HEARS, sys.executable, "-c", code]
    return subprocess.Popen(argv, env=box.env, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_like_an_error_would(box: "Box", number: signal.Signals) -> None:
    process = script(box, "time.sleep(60)")
    assert process.stdout and process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err.startswith("put back\n")


def test_a_hang_up_that_is_ignored_stays_ignored(box: "Box") -> None:
    """As of a script that was started with nohup."""
    code = CODE.format(body="time.sleep(1)")
    process = subprocess.Popen(["nohup", sys.executable, "-c", code], env=box.env, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    process.stdout.close()


CUT = """\
import argparse, os, sys, time
from clusterd import cli, log
def handler(options):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)
        log.debug("a line for a terminal that is gone")
        os.mkdir(sys.argv[1])
sys.exit(cli.main(cli.parser("thing", "A test."), handler, ["-v"]))
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_a_session_that_ends_lets_it_put_back(box: "Box", first: signal.Signals) -> None:
    """It is told several times, in whatever order, and nothing can be written to the terminal any more."""
    back = box.root / "back"
    ours, theirs = os.openpty()
    argv = [*HEARS, "setsid", "--ctty", sys.executable, "-c", CUT, str(back)]
    process = subprocess.Popen(argv, env=box.env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert os.read(ours, 5) == b"begun"
    process.send_signal(first)
    os.close(ours)
    time.sleep(0.2)
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) in (128 + signal.SIGTERM, 128 + signal.SIGHUP)
    assert back.is_dir()


def test_a_reader_that_is_gone(box: "Box") -> None:
    """As in `cluster events | head -1`: no traceback."""
    process = script(box, "time.sleep(0.2); [print('x' * 1000, flush=True) for _ in range(1000)]")
    assert process.stdout and process.stderr and process.stdout.readline() == "begun\n"
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 1
    assert err == "put back\n"


def test_json_is_sorted(capsys: pytest.CaptureFixture[str]) -> None:
    cli.show_json({"b": 1, "a": [1.5, None]})
    assert capsys.readouterr().out == '{\n  "a": [\n    1.5,\n    null\n  ],\n  "b": 1\n}\n'
