"""A place of its own for every test: nothing outside tmp_path is read as configuration or written as state.

For annotations: ``if TYPE_CHECKING: from unit.conftest import Box``.
"""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test, settings

from clusterd import config, log, model, paths

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
"""The article's pair, as shipped."""
SCRIPTS = ROOT / "scripts"
KEY = "an example of a key, not a secret\n"

# A busy machine makes no test fail, and no folder is left in the tree.
settings.register_profile("clusterd", deadline=None, database=None)
settings.load_profile("clusterd")


class Box:
    """All that clusterd reads and writes, below one folder; `env` moves a subprocess there as well."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "conf"
        self.state = root / "state"
        self.run = root / "run"
        self.log = root / "log"
        self.home = root / "home"
        self.bin = root / "bin"
        """First on PATH, for stand-ins; empty at first."""
        self.sysctl = root / "sysctl"
        self.interfaces = root / "interfaces"
        self.ifcfg = root / "ifcfg"
        self.syslog = root / "syslog"
        """In place of /dev/log: nobody listens, unless a test does."""
        for folder in (self.conf, self.state, self.run, self.log, self.home, self.bin, self.sysctl, self.ifcfg):
            folder.mkdir(mode=0o755, parents=True)
        self.changes = {
            "CLUSTERD_CONF": str(self.conf),
            "CLUSTERD_STATE": str(self.state),
            "CLUSTERD_RUN": str(self.run),
            "CLUSTERD_LOG": str(self.log),
            "CLUSTERD_INTERFACES": str(self.interfaces),
            "CLUSTERD_IFCFG": str(self.ifcfg),
            "CLUSTERD_SYSLOG": str(self.syslog),
            "HOME": str(self.home),
            # A script that starts another one, or itself, does so by its first line: env python3.
            "PATH": f"{self.bin}:{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "PYTHONPATH": str(ROOT / "lib"),
        }
        self.env = {**os.environ, **self.changes}

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A configuration file, replaced or new."""
        path = self.conf / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace what stands once in a configuration file."""
        text = (self.conf / name).read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
        self.write(name, text.replace(old, new))

    def program(self, name: str, text: str) -> Path:
        """A stand-in for an external command: a /bin/sh script, unless `text` begins with its own #! line."""
        path = self.bin / name
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def script(
        self, name: str, *words: str, node: str = "serv1", stdin: str = "", timeout: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run scripts/`name` to its end as if this host were `node` (a UTS namespace of its own: needs root)."""
        become = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', node]
        argv = [*become, sys.executable, str(SCRIPTS / name), *words]
        return subprocess.run(
            argv, env=self.env, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    """Every constant of clusterd.paths (but /proc and the boot id) points into tmp_path; the environment too."""
    made = Box(tmp_path / "box")
    moved = {
        paths.CONF: made.conf,
        paths.STATE: made.state,
        paths.RUN: made.run,
        paths.LOG: made.log,
        paths.SYSCTL: made.sysctl,
        paths.INTERFACES: made.interfaces,
        paths.IFCFG: made.ifcfg,
        paths.SYSLOG: made.syslog,
    }
    for name, value in list(vars(paths).items()):
        for old, new in moved.items():
            if name.isupper() and (value == old or str(value).startswith(f"{old}/")):
                monkeypatch.setattr(paths, name, f"{new}{value[len(old) :]}")
    for name, value in made.changes.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is none of the scripts: what one that is called here says of itself must not reach the next test,
    and beside pytest there are scripts that no test means.
    """
    monkeypatch.setattr(log, "program", log.program)
    monkeypatch.setattr(log, "verbosity", 0)
    monkeypatch.setattr(sys, "argv", ["a-test"])


@pytest.fixture(params=[BrokenPipeError(32, "Broken pipe"), ValueError("I/O operation on closed file.")])
def lose_stderr(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on nobody reads what this process says on stderr, or it is closed. pytest sets its own before a test."""

    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise request.param

    return lambda: monkeypatch.setattr(sys, "stderr", Gone())


@pytest.fixture
def hostname(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Become another node: ``hostname("serv2")``."""

    def become(name: str) -> None:
        monkeypatch.setattr(model, "hostname", lambda: name)

    return become


@pytest.fixture
def pair_files(box: Box) -> Box:
    """The article's configuration, from conf/, with a key; not loaded."""
    for source in (*CONF.glob("*.conf"), *CONF.glob("services/*.conf")):
        box.write(str(source.relative_to(CONF)), source.read_text())
    box.write("key", KEY, mode=0o600)
    return box


@pytest.fixture
def pair(pair_files: Box, hostname: Callable[[str], None]) -> model.Config:
    """The article's pair as serv1 sees it. The folders are those of the fixture `box`."""
    hostname("serv1")
    return config.load(str(pair_files.conf))


LONGEST = ("test_install", "test_receiver", "test_gate", "test_mirror", "test_rollback", "test_takeover")
"""These files take a minute or two each: a run of several processes that came to one of them last would wait for it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order. What was found by chance is not tried again: a second time,
    chance may miss it.
    """
    names = [Path(__file__).with_name(f"{stem}.py") for stem in LONGEST]
    items.sort(key=lambda item: names.index(item.path) if item.path in names else len(names))
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.flaky(reruns=0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many hostile requests, datagrams … were tried: a line each, from whatever process ran them."""
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == "tried":
                terminalreporter.write_line(str(line))
