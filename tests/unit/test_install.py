"""make install into a folder of its own: what is put where, what is kept and removed; and packing it for a peer."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import config, manpage, parcel
from clusterd.lock import Lock

if TYPE_CHECKING:
    from unit.conftest import Box

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir())
PREFIX = "/opt/clusterd-test"


def make(*words: str, check: bool = True, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run make in the checkout, as a caller that wants no bytecode."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    return subprocess.run(
        ["make", "-s", *words],
        cwd=ROOT, env={**clean, "PYTHONDONTWRITEBYTECODE": "1", **env}, capture_output=True, text=True, check=check,
    )  # fmt: skip


@pytest.fixture(scope="module")
def dest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with clusterd installed in it, once for all tests here."""
    tree = tmp_path_factory.mktemp("dest")
    make("install", f"DESTDIR={tree}", f"PREFIX={PREFIX}")
    return tree


@pytest.fixture
def copied(dest: Path, tmp_path: Path) -> Path:
    """A tree that a test may change."""
    tree = tmp_path / "tree"
    subprocess.run(["cp", "-a", "--reflink=auto", dest, tree], check=True)
    return tree


@pytest.fixture
def mounted(dest: Path) -> Iterator[list[str]]:
    """The words that run a command where the tree is at its place below /opt."""
    yield [
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'mkdir -p {PREFIX}; mount --bind {dest}{PREFIX} {PREFIX}; exec "$@"',
        "sh",
    ]
    if os.path.isdir(PREFIX):
        os.rmdir(PREFIX)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_folders_and_files_have_their_modes(dest: Path) -> None:
    assert mode(dest / "etc/cluster.d") == 0o700
    assert mode(dest / "etc/cron.d/clusterd") == 0o644
    assert mode(dest / "etc/logrotate.d/clusterd") == 0o644
    assert mode(dest / "var/lib/clusterd") == 0o700
    assert mode(dest / "var/lib/clusterd/ssh") == 0o700
    assert mode(dest / "var/log/clusterd") == 0o750
    assert os.listdir(dest / "etc/cluster.d") == []
    share = dest / PREFIX[1:] / "share/clusterd"
    for name in (
        "INSTALL",
        "README.md",
        "LICENSE",
        "fabfile.py",
        "docs",
        "conf/cluster.conf",
        "conf/services/smbd.conf",
    ):
        assert (share / name).exists(), name


def test_every_script_is_in_sbin_and_starts(dest: Path, mounted: list[str]) -> None:
    sbin = dest / PREFIX[1:] / "sbin"
    assert sorted(os.listdir(sbin)) == SCRIPTS
    for name in SCRIPTS:
        for option in ("--version", "--help"):
            done = subprocess.run(
                [*mounted, f"{PREFIX}/sbin/{name}", option], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert name in done.stdout


def test_scripts_start_with_the_interpreter_itself(dest: Path) -> None:
    for name in SCRIPTS:
        program = dest / PREFIX[1:] / "lib/clusterd/venv/bin" / name
        assert program.read_text().splitlines()[0] == f"#!{PREFIX}/lib/clusterd/venv/bin/python"


def test_bytecode_is_there_and_good(dest: Path, mounted: list[str]) -> None:
    packages = next((dest / PREFIX[1:] / "lib/clusterd/venv/lib").iterdir()) / "site-packages"
    sources = [path for path in packages.rglob("*.py")]
    assert {"clusterd", "fabric", "configobj", "dateutil"} <= {path.relative_to(packages).parts[0] for path in sources}
    missing = [path for path in sources if not list((path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc"))]
    assert not missing
    done = subprocess.run(
        [*mounted, f"{PREFIX}/lib/clusterd/venv/bin/python", "-v", "-c", "import clusterd.cli"],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    stale = [line for line in done.stderr.splitlines() if "bytecode is stale" in line or "# wrote" in line]
    assert not stale
    assert f"{PREFIX}/lib/clusterd/venv/lib" in done.stderr


def test_nothing_names_the_folder_where_it_was_packed(dest: Path) -> None:
    found = subprocess.run(["grep", "-rlF", str(dest), dest], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_the_manual_is_there_and_without_mistakes(dest: Path) -> None:
    pages = [dest / PREFIX[1:] / f"share/man/man8/{name}.8" for name in manpage.COMMANDS]
    pages.append(dest / PREFIX[1:] / "share/man/man5/cluster.conf.5")
    for page in pages:
        done = subprocess.run(
            ["groff", "-Kutf8", "-man", "-ww", "-Tutf8", "-P-cbou", page],
            capture_output=True,
            text=True,
            check=True,
            errors="replace",
        )
        assert done.stderr == "", page.name
        assert "NAME" in done.stdout


def test_the_cron_file_is_one_that_cron_reads(dest: Path) -> None:
    text = (dest / "etc/cron.d/clusterd").read_text()
    assert text.endswith("\n")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    assert settings["MAILTO"] == "root"
    assert f"{PREFIX}/sbin" in settings["PATH"].split(":")
    assert settings["SHELL"] == "/bin/sh"
    jobs = []
    for line in lines:
        match = re.match(r"(@reboot|(?:\S+\s+){4}\S+)\s+root\s+(.*)$", line)
        if match:
            guard, _, command = match[2].partition(" || ")
            assert guard == "[ ! -e /etc/cluster.d/cluster.conf ]"
            program, _, options = command.partition(" ")
            assert program.startswith(f"{PREFIX}/sbin/")
            jobs.append((match[1].split(), os.path.basename(program), options))
    assert len(jobs) == len(lines) - len(settings)
    every_minute = ["*"] * 5
    assert (["@reboot"], "watchdog", "") in jobs
    assert (every_minute, "watchdog", "") in jobs
    assert (every_minute, "mirror_service", "--due") in jobs
    assert [name for when, name, _ in jobs if when[:2] != ["*", "*"] and "@" not in when[0]] == [
        "timesync",
        "purge_backups",
    ]
    assert "%" not in text


def test_logrotate_takes_its_file(dest: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text((dest / "etc/logrotate.d/clusterd").read_text().replace("/var/log/clusterd", f"{tmp_path}/log"))
    rules.chmod(0o644)
    (tmp_path / "log" / "services").mkdir(parents=True)
    (tmp_path / "log" / "events.jsonl").write_text("{}\n")
    (tmp_path / "log" / "services" / "smbd.log").write_text("said\n")
    os.chmod(tmp_path / "log", 0o750)
    done = subprocess.run(
        ["/usr/sbin/logrotate", "--force", "--state", tmp_path / "state", rules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log" / "events.jsonl.1").read_text() == "{}\n"
    assert mode(tmp_path / "log" / "events.jsonl") == 0o640
    assert (tmp_path / "log" / "services" / "smbd.log").read_text() == ""


def test_a_second_install_needs_no_network_and_keeps_configuration_and_changed_files(copied: Path) -> None:
    (copied / "etc/cluster.d/cluster.conf").write_text("name = mine\n")
    cron = copied / "etc/cron.d/clusterd"
    cron.write_text(cron.read_text() + "# mine\n")
    (copied / "etc/logrotate.d/clusterd").unlink()
    library = next((copied / PREFIX[1:] / "lib/clusterd/venv/lib").iterdir()) / "site-packages/clusterd"
    (library / "gone.py").write_text("")
    (library / "cli.py").write_text("broken")
    done = make("install", f"DESTDIR={copied}", f"PREFIX={PREFIX}", PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert "/etc/cron.d/clusterd was changed here and is kept" in done.stdout
    assert cron.read_text().endswith("# mine\n")
    assert (copied / "etc/cluster.d/cluster.conf").read_text() == "name = mine\n"
    assert (copied / "etc/logrotate.d/clusterd").exists()
    assert (library / "cli.py").read_text() == (ROOT / "lib/clusterd/cli.py").read_text()


def test_uninstall_leaves_configuration_state_and_logs_and_purge_nothing(copied: Path) -> None:
    (copied / "etc/cluster.d/cluster.conf").write_text("name = mine\n")
    (copied / "var/log/clusterd/events.jsonl").write_text("{}\n")
    done = make("uninstall", f"DESTDIR={copied}", f"PREFIX={PREFIX}")
    assert "kept:" in done.stdout
    left = sorted(str(path.relative_to(copied)) for path in copied.rglob("*") if path.is_file() or path.is_symlink())
    assert [name for name in left if not name.startswith("var/lib/clusterd/")] == [
        "etc/cluster.d/cluster.conf",
        "var/log/clusterd/events.jsonl",
    ]
    make("uninstall", f"DESTDIR={copied}", f"PREFIX={PREFIX}", "PURGE=yes")
    assert [path for path in copied.rglob("*") if path.is_file() or path.is_symlink()] == []


def test_without_a_network_one_line_says_what_is_missing_and_the_manual_what_to_fetch(tmp_path: Path) -> None:
    done = make(
        *("install", f"DESTDIR={tmp_path}", "EXTRAS=etcd"),
        check=False, PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE="/dev/null",
    )  # fmt: skip
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not re.match(r"make(\[\d+\])?: \*\*\*", line)]
    assert len(lines) == 1, done.stderr
    needed = re.findall(r"\S+>=\S+", lines[0])
    names = [package.partition(">")[0] for package in needed]
    assert names == ["setuptools", "configobj", "python-dateutil", "fabric", "etcd3gw"]
    manual = (ROOT / "INSTALL").read_text()
    assert [package for package in needed if f"'{package}'" not in manual] == []


def test_the_manual_holds_every_pass_back_and_lets_them_go_again(tmp_path: Path) -> None:
    """The two lines with sed, on the examples: every schedule is "never" in between, and as it was afterwards."""
    hold, release = re.findall(r"^ +sed -i ('.*') \S+/services/\*\.conf", (ROOT / "INSTALL").read_text(), re.MULTILINE)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    subprocess.run(["sh", "-c", f"sed -i {hold} services/*.conf"], cwd=tmp_path / "conf", check=True)
    services = config.load(str(tmp_path / "conf"), "serv1").services.values()
    assert any(service.paths for service in services)
    assert [service.name for service in services if service.every] == []
    subprocess.run(["sh", "-c", f"sed -i {release} services/*.conf"], cwd=tmp_path / "conf", check=True)
    assert subprocess.run(["diff", "-r", ROOT / "conf", tmp_path / "conf"], check=False).returncode == 0


def test_the_installed_program_runs_on_another_machine(dest: Path, mounted: list[str], tmp_path: Path) -> None:
    """cluster install: packed as it is, unpacked below the same prefix elsewhere."""
    code = "import sys; from clusterd import parcel; sys.stdout.buffer.write(parcel.pack())"
    python = f"{PREFIX}/lib/clusterd/venv/bin/python"
    packed = subprocess.run([*mounted, python, "-c", code], capture_output=True, check=True).stdout
    words = subprocess.run(
        [*mounted, python, "-c", "import json; from clusterd import parcel; print(json.dumps(parcel.unpack()))"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    argv = json.loads(words)
    other = tmp_path / "other"
    for name in ("etc", "work"):
        (other / name).mkdir(parents=True)
    own = (
        f"mkdir -p {PREFIX} && mount --bind {other} {PREFIX} && "
        "mount -t tmpfs none /var/lib && mount -t tmpfs none /var/log && "
        f"mount -t overlay none -o lowerdir=/etc,upperdir={other}/etc,workdir={other}/work /etc && "
        '"$@" && ls -d /etc/cron.d/clusterd /etc/logrotate.d/clusterd /etc/cluster.d '
        "/var/lib/clusterd/ssh/id_ed25519 /var/log/clusterd"
    )
    for _ in range(2):
        there = ["unshare", "--mount", "sh", "-c", own, "sh", *argv]
        done = subprocess.run(there, input=packed, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode().startswith("cluster (clusterd) ")
    assert sorted(os.listdir(other / "sbin")) == SCRIPTS
    assert not (other / "lib/clusterd.new").exists()
    assert not (other / "lib/clusterd.old").exists()
    assert (other / "share/man/man8/cluster.8").exists()


WATCHDOG = """\
import sys, time
from clusterd import lock
from clusterd.commands import watchdog

def supervise(settings, keys, clean):
    ending = watchdog._Ending(settings)
    print("ready", flush=True)
    end_at = time.monotonic() + 15
    while not ending.wished:
        assert time.monotonic() < end_at
        time.sleep(0.01)
    print("starts again", flush=True)
    return False

class Loadable:
    @staticmethod
    def load(folder):
        print("starts", flush=True)
        time.sleep({pause})
        raise SystemExit(supervise(None, None, None))

import clusterd
clusterd.loadable = sys.modules["clusterd.loadable"] = Loadable
sys.exit(watchdog.main([]))
"""
"""The real watchdog up to the configuration, which takes its time, and then only what it does with signals."""


@pytest.fixture
def install_host(tmp_path: Path) -> Callable[[], str]:
    """Run it as on a node, with folders of its own; returns what it says."""
    root = tmp_path / "host"
    for name in ("etc", "work"):
        (root / name).mkdir(parents=True)
    (root / "etc/cluster.d").mkdir()
    (root / "etc/cluster.d/cluster.conf").write_text("name = mine\n")
    os.utime(root / "etc/cluster.d/cluster.conf", (1, 1))
    (tmp_path / "share/clusterd/cron.d").mkdir(parents=True)
    for name in ("cron.d/clusterd", "logrotate"):
        source = ROOT / ("conf/logrotate" if name == "logrotate" else name)
        shutil.copy(source, tmp_path / "share/clusterd" / name)
    own = (
        "mount -t tmpfs none /var/lib && mount -t tmpfs none /var/log && "
        f"mount -t overlay none -o lowerdir=/etc,upperdir={root}/etc,workdir={root}/work /etc && "
        'mkdir -p "$CLUSTERD_RUN" && echo "{}" >"$CLUSTERD_RUN/view.json" && exec "$@"'
    )

    def run() -> str:
        argv = ["unshare", "--mount", "sh", "-c", own, "sh", f"{ROOT}/tools/install-host", str(tmp_path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.fixture
def program() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a program in Python; it is gone in the end."""
    started = []

    def start(code: str) -> "subprocess.Popen[str]":
        started.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


Program = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize("pause", [0, 1])
def test_a_running_watchdog_starts_again_as_a_whole(
    box: "Box", install_host: Callable[[], str], program: Program, tmp_path: Path, pause: int
) -> None:
    """Not its loop alone, which could have imported a part of the old program. One that is just starting is left to
    it: SIGHUP would end it.
    """
    watchdog = program(WATCHDOG.format(pause=pause))
    assert line(watchdog) == "starts"
    if not pause:
        assert line(watchdog) == "ready"
    assert install_host() == ""
    assert [line(watchdog) for _ in range(1 + bool(pause))][-1] == "starts again"
    assert watchdog.wait(30) == 0
    assert (tmp_path / "host/etc/cluster.d/cluster.conf").stat().st_mtime == 1


@pytest.mark.parametrize("held", [False, True])
def test_no_other_process_gets_the_watchdogs_signal(
    box: "Box", install_host: Callable[[], str], program: Program, held: bool
) -> None:
    """The file of a watchdog that was killed: its process id is another's by now. With the lock held: by its loop."""
    other = program("print('runs', flush=True); import time; time.sleep(60)")
    assert line(other) == "runs"
    with Lock("watchdog") as lock:
        Path(lock.path).write_text(f"{other.pid}\n")
        if held:
            assert "kill -HUP" in install_host()
    if not held:
        assert install_host() == ""
        Path(lock.path).write_text("")
        assert install_host() == ""
    assert other.poll() is None


def test_a_python_that_is_the_same_is_accepted() -> None:
    answer = subprocess.run(parcel.QUESTION, capture_output=True, text=True, check=True).stdout
    parcel.check("serv2", answer)
    # Not python3, which may be another one where several are installed.
    assert f"{sys.base_prefix}/bin/python3.{sys.version_info.minor}" == parcel.PYTHON
