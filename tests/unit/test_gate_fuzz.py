"""A peer whose key is in the wrong hands says what it likes to peer_gate: thousands of requests, from the grammar of
the real ones and with everything in them that has ever opened a gate.

Four things would show that one got through: a program that is run and is none of the few, in any but its exact form;
a file that is changed, made or opened for writing outside the state folders; one that is read and is neither its
configuration nor the program's; a secret in what comes back.
"""

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd import asked, backups, config, daemon, gate, lock, model, ownership, passes, paths, receiver, view
from clusterd.channel import Ended
from clusterd.commands import peer_gate
from clusterd.errors import ClusterdError, Failed
from unit.twonodes import ROOT

if TYPE_CHECKING:
    from unit.conftest import Box

SECRET = "canary: nobody may read this"
SET = "20260314T021500.123Z-data-3f9a"
many = settings(
    max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], database=None
)


# --- what is asked ---------------------------------------------------------------------------------------------------

LEGITIMATE = [
    ["status"],
    ["clock"],
    ["ready", "serv1"],
    ["pass", "data", "7"],
    ["acquire", "serv2", "7"],
    ["acquire", "serv2", "7", "pinned"],
    ["rsync", "data", "7", "plan", "--server", "--daemon", "."],
    ["rsync", "data", "7", SET, "--server", "--daemon", "."],
]
FUNNY = [
    *(
        ";",
        "&",
        "&&",
        "|",
        "||",
        ">",
        ">>",
        "<",
        "`id`",
        "$(id)",
        "${IFS}",
        "$HOME",
        "*",
        "?",
        "[a-z]",
        "{a,b}",
        "~",
        "!",
    ),
    *(
        "'",
        '"',
        "\\",
        "\n",
        "\r",
        "\t",
        "\x0b",
        "\x1c",
        "\x85",
        "\u2028",
        "\u00a0",
        "\u3000",
        "\x01",
        "\x1b[2J",
        "\x7f",
    ),
    *("#", "--", "-", "-c", "-e", "-x", "=", "%n", "%s", "\udcff", "\udcc0\udcaf", "\ufeff", "\u202e"),
]
NAMES = [
    *(
        "data",
        "DATA",
        "data/",
        "../data",
        "data/../data",
        "/etc",
        "/etc/shadow",
        "..",
        ".",
        "",
        "serv1",
        "serv9",
        "-data",
    ),
    *("plan", "--config=/tmp/evil.conf", "d\u0430ta", "\uff53tatus", "sta\u0442us", "x" * 64, "x" * 65, "x" * 100_000),
    *(
        "key",
        "clusterd",
        "secret",
        "data\x00",
        "link",
        "link/etc",
        SET,
        f"{SET}/..",
        f"../{SET}",
        "20260314T021500.123Z",
    ),
]
NUMBERS = [
    "0",
    "1",
    "6",
    "7",
    "8",
    "07",
    "-1",
    "+7",
    "7.0",
    "1e3",
    "0x7",
    "\u0667",
    "\u00b2",
    "9" * 18,
    "9" * 19,
    "1000008",
]
OPTIONS = [
    *("--rsh=sh", "-e", "-esh", "--config", "--config=/tmp/evil.conf", "--log-file=/tmp/log", "--backup-dir=/etc"),
    *(
        "--files-from=/etc/shadow",
        "--temp-dir=/etc",
        "--partial-dir=/etc",
        "--write-batch=/tmp/b",
        "--read-batch=/tmp/b",
    ),
    *(
        "--",
        "--sender",
        "--server",
        "--daemon",
        "--no-detach",
        "--port=873",
        "--dparam=path=/",
        "-M",
        "--address=::",
        "/",
    ),
    *(
        "--node",
        "--node=serv1",
        "--force",
        "--on-go",
        "--resume",
        "--dry-run",
        "-v",
        "--json",
        "--version",
        "--help",
        "-h",
    ),
    *(
        "sh",
        "-c",
        "id",
        "/bin/sh",
        "bash",
        "scp",
        "sftp-server",
        "internal-sftp",
        "takeover",
        "release",
        "cat",
        "rsync",
    ),
]
PROGRAMS = ["peer_gate", "/usr/local/sbin/peer_gate", "/tmp/peer_gate", "./peer_gate", "peer_gate;id", "env", "sudo"]

word = st.one_of(
    st.sampled_from([*NAMES, *NUMBERS, *OPTIONS, *FUNNY, *PROGRAMS]),
    st.text(max_size=12),
    st.builds("".join, st.lists(st.sampled_from([*FUNNY, "data", "7", "status", "/", ".."]), max_size=4)),
)


# Made once: a strategy that is made for each drawing costs more than what it draws.
real = st.sampled_from(LEGITIMATE)
changes = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.sampled_from(["replace", "insert", "drop", "append", "prefix", "double", "quote", "cut"]),
    ),
    max_size=3,
)
quotes = st.sampled_from(["'{}'", '"{}"', "\\{}", "$({})", "{};", "{}\n", "\n{}"])
in_front = st.none() | st.sampled_from(PROGRAMS)
between = st.sampled_from([" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\x1f"])
for_nul = st.sampled_from(["", "\x01"])


@st.composite
def requests(draw: st.DrawFn, real: st.SearchStrategy[list[str]] = real) -> str:
    """One SSH_ORIGINAL_COMMAND: a real one with things done to it; without NUL, as in any environment."""
    words = list(draw(real))
    for place, how in draw(changes):
        at = place % (len(words) + 1)
        near = min(at, len(words) - 1) if words else 0
        if how == "insert" or not words:
            words.insert(at, draw(word))
        elif how == "replace":
            words[near] = draw(word)
        elif how == "drop":
            del words[near]
        elif how == "append":
            words[near] += draw(word)
        elif how == "prefix":
            words[near] = draw(word) + words[near]
        elif how == "double":
            words.insert(near, words[near])
        elif how == "quote":
            words[near] = draw(quotes).replace("{}", words[near])
        else:
            words[near] = words[near][: len(words[near]) // 2]
    program = draw(in_front)
    if program is not None:
        words.insert(0, program)
    text = draw(between).join(words)
    return text.replace("\0", draw(for_nul)) if "\0" in text else text


# --- the gate that is asked ------------------------------------------------------------------------------------------


CHANGES = {
    **dict.fromkeys(("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.chflags"), (0,)),
    **dict.fromkeys(("os.utime", "os.setxattr", "os.removexattr"), (0,)),
    **dict.fromkeys(("os.rename", "os.link"), (0, 1)),
    "os.symlink": (1,),
}
"""Audit events (PEP 578), and which of their facts are what is changed."""
LOOKS = ("os.listdir", "os.scandir", "os.getxattr", "os.listxattr", "os.chdir", "ctypes.dlopen")
STARTS = (
    "subprocess.Popen",
    "os.system",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
    "os.kill",
    "os.killpg",
)
TALKS = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
)
READABLE = (
    *(str(ROOT / "lib"), sys.prefix, f"{sys.base_prefix}/lib", os.path.dirname(os.__file__)),
    *(f"/proc/{os.getpid()}/mountinfo", "/proc/sys/kernel/random/boot_id", "/dev/null"),
)
"""What the gate may look into besides its own: the program, the interpreter, the kernel."""


class Executed(BaseException):
    """The gate has become another program."""


class Answer(io.StringIO):
    """What comes back. It is asked for its descriptor by the gate, which a conversation would need."""

    def fileno(self) -> int:
        return 1


def _named(path: str | bytes | int) -> str:
    """What an event tells of a file: its name, or an open file."""
    return os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fsdecode(path)


def _inside(path: str, folders: Iterable[str | Path]) -> bool:
    """Whether it is one of these, or below one."""
    return any(path == str(folder) or path.startswith(f"{folder}/") for folder in folders)


def _real(path: str | bytes | int) -> str:
    """Where it is. One that is relative may be so to any open folder, which no event tells: it stays as it is."""
    name = _named(path)
    return os.path.realpath(name) if os.path.isabs(name) else name


class Guarded:
    """serv2's gate, in this process, with everything watched that it could do to the machine."""

    def __init__(self, box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
        self.box = box
        self.tried = self.executed = self.answered = 0
        self.programs: list[list[str]] = []
        self.changed: list[str] = []
        self.read: list[str] = []
        self.talked: list[str] = []
        self.locks: dict[str, lock.Lock] = {}
        self.passing = False
        """A pass with the backup set SET is being received."""
        self.watching = False
        self.data = box.root / "data"
        self.data.mkdir()
        (self.data / "file").write_text("mirrored")
        self.outside = box.root / "outside"
        (self.outside / "etc").mkdir(parents=True)
        (self.outside / "etc" / "shadow").write_text(SECRET)
        (self.data / "link").symlink_to(self.outside)
        box.write(
            "services/data.conf",
            f"home = serv1\n[run]\nkind = none\n[mirror]\nevery = 5 minutes\npaths = {self.data}/\n",
        )
        box.write("key", f"{SECRET} of the heartbeats\n", mode=0o600)
        ownership.write(ownership.Record("serv1", 7, "serv1"))
        self.record = Path(ownership.path("serv1"))
        self.known = self.record.read_bytes()
        self.see()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.setattr(os, "setsid", lambda: None)
        monkeypatch.setattr(daemon, "Lock", self._lock)
        for name in ("execv", "execve", "execvp", "execvpe"):
            monkeypatch.setattr(os, name, self._exec)
        monkeypatch.setattr("sys.argv", ["/usr/local/sbin/peer_gate"])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        sys.addaudithook(self._audit)
        self.before = self.snapshot()

    def see(self) -> None:
        """The watchdog runs, and will for a day: status answers."""
        from clusterd import state

        now = view.now() + 86400
        group = {"epoch": 7, "holder": "serv1", "held": False, "up": False, "busy": False}
        view.write(view.View("serv2", state.boot_id(), now, now, "", 2, 2, {"serv1": group}, {}, [], {}))

    def receive(self) -> None:
        """From now on a pass is being received: all that an rsync into its files has to find."""
        pass_ = passes.Unfinished("serv1", 7, 1.0, SET)
        passes.write(passes.Record("data", unfinished=pass_))
        self.locks["receive-data"] = lock.Lock("receive-data").acquire()
        self.passing = True

    def _lock(self, name: str) -> lock.Lock:
        """One that would last as long as the program that the gate becomes."""
        return self.locks.setdefault(name, lock.Lock(name))

    def _exec(self, *words: Any) -> None:
        self.programs.append([str(each) for each in words[1]])
        raise Executed

    def _audit(self, event: str, facts: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "open":
            path, _, flags = facts
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.changed.append(_real(path))
            else:
                self.read.append(_real(path))
        elif event in CHANGES:
            for path in map(facts.__getitem__, CHANGES[event]):
                name = _named(path)
                self.changed.append(f"{_real(os.path.dirname(name))}/{os.path.basename(name)}")
        elif event in LOOKS:
            self.read.append(_real("." if facts[0] is None else facts[0]))
        elif event in STARTS:
            self.programs.append([event, *map(str, facts)])
        elif event in TALKS:
            self.talked.append(str(facts[1]))

    def snapshot(self) -> dict[str, tuple[int, int, int, bytes]]:
        """Everything that is not the gate's to change: configuration, mirrored files, canaries."""
        found = {}
        for top in (self.box.conf, self.data, self.outside, self.box.home, self.box.bin):
            for path in (top, *sorted(top.rglob("*"))):
                about = path.lstat()
                content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                found[str(path)] = (about.st_ino, about.st_mtime_ns, about.st_mode, content)
        return found

    def ask(self, request: str) -> tuple[int, str]:
        """One request; the exit code, and what comes back. Checks what was done."""
        self.tried += 1
        for seen in (self.programs, self.changed, self.read, self.talked):
            seen.clear()
        said = Answer()
        os.environ["SSH_ORIGINAL_COMMAND"] = request
        self.watching = True
        try:
            with redirect_stdout(said), redirect_stderr(said):
                code = peer_gate.main(["--node", "serv1", "--config", str(self.box.conf)])
        except Executed:
            code = 0
        finally:
            self.watching = False
            os.environ.pop("SSH_ORIGINAL_COMMAND", None)
        self.executed += bool(self.programs)
        self.answered += code == 0 and not self.programs
        for argv in self.programs:
            assert self.allowed(argv, request), f"{request!r} became {argv}"
        if "apply-data" in self.locks:
            self.locks.pop("apply-data").release()
        if self.record.read_bytes() != self.known:
            self.record.write_bytes(self.known)  # a later epoch would refuse all that follows
        own = (self.box.state, self.box.run, self.box.log)
        for path in self.changed:
            assert _inside(path, (*own, "/dev")), f"{request!r} changed {path}"
        for path in self.read:
            assert _inside(path, (*own, self.box.conf, *READABLE)), f"{request!r} read {path}"
        assert set(self.talked) <= {str(self.box.syslog)}, f"{request!r} talked to {self.talked}"
        assert SECRET not in said.getvalue()
        return code, said.getvalue()

    def allowed(self, argv: list[str], request: str) -> bool:
        """The two programs that the gate becomes, word for word. rsync into files: only those of the very pass that is
        being received, with its lock, and into its backup set.
        """
        rsync = ["unshare", "--mount", "--propagation", "private", "rsync", "--server", "--daemon"]
        if argv[: len(rsync)] == rsync:
            *_, kind, _server, _daemon, _dot = ["", *request.split()][-4:]
            base = f"{self.box.run}/rsync/data.{'apply' if kind == SET else kind}"
            if kind == SET:
                named = f'[ "$backup" = /{os.path.realpath(backups.files_folder(SET))} ] ||'
                if not (self.passing and lock.held("apply-data") and named in Path(f"{base}.hook").read_text()):
                    return False
            return kind in ("plan", SET) and argv[len(rsync) :] == [f"--config={base}.conf", "."]
        takeover = ["/usr/local/sbin/takeover", "--config", str(self.box.conf), "--on-go", "--handed-over"]
        number, *rest = argv[len(takeover) :] or [""]
        good = re.fullmatch(r"[0-9]{1,18}", number) is not None and int(number) <= 7 + ownership.LEAP
        return argv[: len(takeover)] == takeover and good and rest in (
            [name] if not pinned else ["--pinned", name] for name in ("serv1", "serv2") for pinned in (False, True)
        )  # fmt: skip


@pytest.fixture(scope="module")
def totals() -> Iterator[dict[str, int]]:
    """For the last line."""
    counts: dict[str, int] = {"requests": 0, "executed": 0, "answered": 0, "messages": 0, "processes": 0}
    yield counts


@pytest.fixture
def guarded(
    pair_files: "Box", hostname: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, totals: dict[str, int]
) -> Iterator[Guarded]:
    for old in (pair_files.conf / "services").glob("*.conf"):
        old.unlink()
    hostname("serv2")
    monkeypatch.setattr(receiver.Session, "run", lambda _self: None)  # its conversation has tests of its own
    made = Guarded(pair_files, monkeypatch)
    monkeypatch.setattr(sys, "stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115
    monkeypatch.setattr(peer_gate.gate.sys, "stdin", sys.stdin)  # type: ignore[attr-defined]
    monkeypatch.setattr("clusterd.channel.Channel.send", lambda *_, **__: None)
    monkeypatch.setattr("clusterd.network.reachable", lambda _interface: True)  # there is no eth2 here
    yield made
    for each in made.locks.values():
        each.release()
    totals["requests"] += made.tried
    totals["executed"] += made.executed
    totals["answered"] += made.answered
    assert made.snapshot() == made.before


def test_the_oracle_sees_what_is_wrong(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that lets something through fails here: else all that follows would say nothing."""
    monkeypatch.setattr(peer_gate, "_split", lambda text: text.split(";")[0].split())

    def evil(deed: Callable[[], object]) -> None:
        monkeypatch.setattr(gate, "handle", lambda *_: (deed() and 0) or 0)

    evil(lambda: os.execvp("sh", ["sh", "-c", "id"]))
    with pytest.raises(AssertionError, match="became"):
        guarded.ask("status; id")
    evil(lambda: subprocess.run(["true"], check=True))
    with pytest.raises(AssertionError, match="became"):
        guarded.ask("status")
    evil(lambda: os.execv("/usr/local/sbin/takeover", ["/usr/local/sbin/takeover", "--force", "serv1"]))
    with pytest.raises(AssertionError, match="became"):
        guarded.ask("acquire")
    shadow = guarded.outside / "etc/shadow"
    rsync = ["unshare", "--mount", "--propagation", "private", "rsync", "--server", "--daemon"]
    for kind in ("apply", "plan"):
        evil(lambda kind=kind: os.execvp(rsync[0], [*rsync, f"--config={guarded.box.run}/rsync/data.{kind}.conf", "."]))  # type: ignore[misc]
        with pytest.raises(AssertionError, match="became"):
            guarded.ask(f"rsync data 7 {SET} --server --daemon .")
    looked: list[Callable[[], object]] = [
        shadow.read_text,
        lambda: os.close(os.open(shadow, os.O_RDONLY)),
        lambda: os.close(os.open("etc/shadow", os.O_RDONLY, dir_fd=folder)),
        lambda: os.close(os.open(guarded.data / "link/etc/shadow", os.O_RDONLY)),
        (guarded.data / "file").read_text,
        lambda: os.listdir(guarded.outside),
        lambda: os.listxattr(shadow),
        lambda: open("/etc/passwd", encoding="utf-8").close(),
    ]
    folder = os.open(guarded.outside, os.O_PATH)
    for deed in looked:
        evil(deed)
        with pytest.raises(AssertionError, match="read"):
            guarded.ask("cat")
    os.close(folder)
    evil(lambda: print(SECRET))
    with pytest.raises(AssertionError):
        guarded.ask("cat")
    new = guarded.box.home / "new"
    done: list[Callable[[], object]] = [
        lambda: new.write_text("x"),
        lambda: os.setxattr(new, "user.a", b"x"),
        lambda: os.utime(new, (1, 1)),
        new.unlink,
        lambda: new.symlink_to(shadow),
    ]
    for deed in done:
        evil(deed)
        with pytest.raises(AssertionError, match="changed"):
            guarded.ask("touch")
    assert guarded.snapshot() != guarded.before
    new.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog, socket.socket(socket.AF_UNIX) as other:
        syslog.bind(str(guarded.box.root / "elsewhere"))
        evil(lambda: other.connect(str(guarded.box.root / "elsewhere")))
        with pytest.raises(AssertionError, match="talked"):
            guarded.ask("status")
    evil(lambda: os.kill(os.getpid(), 0))
    with pytest.raises(AssertionError, match="became"):
        guarded.ask("status")
    guarded.before = guarded.snapshot()


@pytest.mark.parametrize("words", LEGITIMATE, ids=" ".join)
def test_the_real_requests_pass(guarded: Guarded, words: list[str]) -> None:
    """What is mutated below is what works: each comes as far as it can without a pass under way."""
    code, said = guarded.ask(" ".join(words))
    if SET in words:
        assert (code, "no pass with the backup set" in said) == (77, True)
    else:
        assert code == 0
    assert bool(guarded.programs) == (words[0] in ("acquire", "rsync") and SET not in words)


@many
@given(request=requests())
def test_whatever_is_asked_nothing_else_is_done(guarded: Guarded, request: str) -> None:
    code, _ = guarded.ask(request)
    assert code in (0, 1, 3, 77, 78)


@many
@given(request=requests(), more=st.lists(word, max_size=8))
def test_words_behind_a_real_request(guarded: Guarded, request: str, more: list[str]) -> None:
    guarded.ask(" ".join([request, *more]).replace("\0", ""))


@pytest.mark.parametrize("start", range(0, len(LEGITIMATE)))
def test_every_funny_thing_at_every_place(guarded: Guarded, start: int) -> None:
    """Each of them once in, before and behind each word of a real request: no luck is needed to find it."""
    words = LEGITIMATE[start]
    for funny in (*FUNNY, *OPTIONS, *NAMES, *NUMBERS):
        if len(funny) > 1000 or "\0" in funny:
            continue
        for at in range(len(words) + 1):
            guarded.ask(" ".join([*words[:at], funny, *words[at:]]))
        for at, each in enumerate(words):
            guarded.ask(" ".join([*words[:at], each + funny, *words[at + 1 :]]))
            guarded.ask(" ".join([*words[:at], funny, *words[at + 1 :]]))


# --- while a pass is being received ---------------------------------------------------------------------------------

INTO = LEGITIMATE[-1]
"""rsync, into the files of the pass with the backup set SET."""
OTHER_SETS = [
    SET[:-1],
    f"{SET}0",
    SET.upper(),
    SET.replace("data", "date"),
    SET.replace("9a", "9b"),
    f"./{SET}",
    "plan",
]


@pytest.fixture
def receiving(guarded: Guarded) -> Guarded:
    guarded.receive()
    return guarded


def test_the_rsync_of_the_pass_comes_in_and_no_other(receiving: Guarded) -> None:
    code, _ = receiving.ask(" ".join(INTO))
    assert (code, len(receiving.programs)) == (0, 1)
    for other in (*OTHER_SETS, *FUNNY, *OPTIONS, *NAMES, *NUMBERS):
        if len(other) < 1000 and "\0" not in other:
            for word in (other, SET + other, other + SET):
                receiving.ask(" ".join(word if each == SET else each for each in INTO))
    assert receiving.executed > 1, "the plan still may be asked for"
    unfinished = passes.read("data").unfinished
    assert unfinished
    passes.write(passes.Record("data", unfinished=unfinished._replace(closed=True)))
    assert receiving.ask(" ".join(INTO))[0] == 77, "the pass is over"
    passes.write(passes.Record("data", unfinished=unfinished))
    receiving.locks.pop("receive-data").release()
    assert receiving.ask(" ".join(INTO))[0] == 77, "nobody receives it any more"


@settings(many, max_examples=300)
@given(request=requests(st.just(INTO)))
def test_whatever_is_asked_while_a_pass_is_received(receiving: Guarded, request: str) -> None:
    receiving.ask(request)


# --- the real script -------------------------------------------------------------------------------------------------

REAL = [
    "status; touch {evil}", "status\ntouch {evil}", "$(touch {evil})", "`touch {evil}`", "pass data 7 | tee {evil}",
    "rsync data 7 plan --server --daemon --config={evil}.conf .", "rsync --server --sender . {shadow}", "cat {shadow}",
    "acquire serv9 7", "acquire serv2 7 pinned --force", "ready ../../serv1", "pass data 999999999999999999",
    "rsync data 999999999999999999 plan --server --daemon .", "rsync data 7 ../../plan --server --daemon .",
    "/bin/sh -c 'touch {evil}'", "\udcff\udcfe status", "peer_gate --node serv2 status", "--config {evil} status", "-h",
    "--version", "takeover --force serv1", "'status'", "sta\\tus", "status " + "x" * 100_000,
]  # fmt: skip


def test_the_real_script_with_programs_that_tell(guarded: Guarded, totals: dict[str, int]) -> None:
    """A PATH whose programs write down that they were called, and nothing else on it."""
    box = guarded.box
    called = box.root / "called"
    for name in ("sh", "bash", "rsync", "unshare", "takeover", "touch", "cat", "tee", "id", "python3", "mount", "env"):
        box.program(name, f'#!/bin/sh\necho "{name} $*" >> {called}\n')
    env = {**box.env, "PATH": str(box.bin)}
    become = ["/usr/bin/unshare", "--uts", "/bin/sh", "-c", '/bin/hostname serv2; exec "$@"', "sh"]
    gate_argv = [*become, sys.executable, str(ROOT / "scripts/peer_gate"), "--node", "serv1", "--config", str(box.conf)]
    for request in REAL:
        words = request.format(evil=guarded.outside / "evil", shadow=guarded.outside / "etc/shadow")
        asked_with = {**env, "SSH_ORIGINAL_COMMAND": words}
        done = subprocess.run(gate_argv, env=asked_with, capture_output=True, input=b"", timeout=60, check=False)
        assert SECRET.encode() not in done.stdout + done.stderr, request
        assert done.returncode in (1, 77), (request, done.returncode, done.stderr[-300:])
        assert not called.exists(), (request, called.read_text())
        assert b"Traceback" not in done.stderr, request
        totals["processes"] += 1
        totals["requests"] += 1
    # And the two that may: they are called in their one form.
    for request, wanted in (("rsync data 7 plan --server --daemon .", f"--config={box.run}/rsync/data.plan.conf .\n"),):
        subprocess.run(gate_argv, env={**env, "SSH_ORIGINAL_COMMAND": request}, capture_output=True, check=True)
        assert called.read_text() == f"unshare --mount --propagation private rsync --server --daemon {wanted}"
        called.unlink()
    guarded.before = guarded.snapshot()


# --- the control channel of a pass -----------------------------------------------------------------------------------

junk: st.SearchStrategy[Any]
junk = scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["/etc", "..", "a\0b"])
)
for _ in range(2):
    junk = scalars | st.lists(junk, max_size=4) | st.dictionaries(st.text(max_size=8), junk, max_size=4)
PATHS = [
    *("{data}/", "{data}/file", "{data}/link/etc", "{data}/../outside/etc", "{outside}/etc", "/etc", "/", "", "{data}"),
    *("{data}//file", "{data}/./file", "/../../../../etc", "etc", "{data}x/file", "{data}/a\nb", "{data}/\udcff"),
]


some_path = st.sampled_from(PATHS)
verbs = st.sampled_from(["begin", "begin", "end", "clock", "look"]) | junk
credible: dict[str, st.SearchStrategy[Any]] = {
    "space": st.dictionaries(some_path, st.integers(-1, 10**20), max_size=2),
    "folders": st.lists(some_path, max_size=3),
    "both": st.lists(some_path, max_size=3),
    "sent": st.lists(some_path, max_size=3),
    "kept": st.lists(some_path, max_size=3),
    "gone": st.lists(some_path, max_size=3),
    "complete": st.booleans(),
    "entries": st.integers(-1, 10**20),
    "changes": st.lists(st.tuples(some_path, st.sampled_from(["replaced", "deleted", "x"])).map(list), max_size=3),
}
good_facts = st.fixed_dictionaries(credible)
spoilt = st.dictionaries(st.sampled_from(sorted(credible)), junk, max_size=2)
left_out = st.just("nothing") | st.sampled_from(sorted(credible))


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """What a sender says to the receiver's session, or something like it."""
    said = {"do": draw(verbs), **draw(good_facts), **draw(spoilt)}
    said.pop(draw(left_out), None)
    return said


class Said:
    """In place of the channel: what the peer says, and an ear that hears nothing."""

    def __init__(self, said: list[dict[str, Any]]) -> None:
        self.said = said

    def receive(self, _timeout: float) -> dict[str, Any]:
        if not self.said:
            raise Ended("the connection ended")
        return self.said.pop(0)

    def send(self, **_: Any) -> None:
        pass

    def alive(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def placed(said: Any, guarded: Guarded) -> Any:
    """With the folders of this test in the paths."""
    text = json.dumps(said)
    for key, folder in (("data", guarded.data), ("outside", guarded.outside)):
        text = text.replace(f"{{{key}}}", str(folder))
    return json.loads(text)


@pytest.fixture
def session(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[list[dict[str, Any]]], ClusterdError | None]]:
    """Have a session hear these messages; the error that ended it, if one did."""
    monkeypatch.undo()
    settings_ = config.load(str(guarded.box.conf), "serv2")
    monkeypatch.setattr(model, "hostname", lambda: "serv2")
    for name, value in guarded.box.changes.items():
        monkeypatch.setenv(name, value)
    for name, value in (("STATE", "state"), ("RUN", "run"), ("LOG", "log")):
        old, new = {"STATE": "/var/lib/clusterd", "RUN": "/run/clusterd", "LOG": "/var/log/clusterd"}[name], value
        for each, known in list(vars(paths).items()):
            if each.isupper() and (known == old or str(known).startswith(f"{old}/")):
                monkeypatch.setattr(paths, each, f"{guarded.box.root}/{new}{known[len(old) :]}")

    def hear(said: list[dict[str, Any]]) -> ClusterdError | None:
        channel: Any = Said(said)
        try:
            receiver.Session(settings_, settings_.services["data"], "serv1", 7, channel).run()
        except ClusterdError as error:
            return error
        return None

    yield hear


@settings(many, max_examples=150)
@given(said=st.lists(messages(), min_size=1, max_size=3))
def test_hostile_messages_do_nothing_but_end_the_pass(
    guarded: Guarded,
    session: Callable[[list[dict[str, Any]]], ClusterdError | None],
    totals: dict[str, int],
    said: list[dict[str, Any]],
) -> None:
    totals["messages"] += len(said)
    session(placed(said, guarded))
    assert guarded.snapshot() == guarded.before
    for top in Path(paths.BACKUPS).glob("*"):
        assert re.fullmatch(r"[0-9]{8}T[0-9.]+Z-data-[0-9a-f]{4}", top.name), "no file beside the sets"
    record = passes.read("data")
    assert not record.unfinished or record.unfinished.closed


@settings(many, max_examples=600)
@given(said=messages())
def test_what_is_taken_from_a_message_is_below_the_service(
    pair: model.Config, totals: dict[str, int], said: dict[str, Any]
) -> None:
    totals["messages"] += 1
    service = pair.services["mailspool"]
    data = service.paths[0].rstrip("/")
    fact = json.loads(json.dumps(said).replace("{data}", data).replace("{outside}", "/srv/outside"))
    for read in (asked.begin, asked.end):
        try:
            taken: Any = read(service, fact)
        except Failed:
            continue
        if isinstance(taken, asked.Begin):
            named = [*taken.folders, *taken.both, *taken.named, *(taken.sent or ()), *taken.kept, *taken.gone]
        else:
            named = [path for path, _ in taken.changes]
        for path in named:
            assert os.path.normpath(path) == path.rstrip("/")
            assert path.startswith(f"{data}/") or path == data
        if isinstance(taken, asked.Begin):
            assert set(taken.space) <= set(service.paths)


def test_a_folder_elsewhere_is_not_made_in_the_backups(
    guarded: Guarded, session: Callable[[list[dict[str, Any]]], ClusterdError | None]
) -> None:
    """It was: a folder that exists here, named with .. before it, was made beside the set with its attributes."""
    for folder in ("/../../etc", f"{guarded.data}/../outside/etc", f"{guarded.data}/link/etc"):
        session([{"do": "begin", "space": {}, "folders": [folder], "both": []}])
        assert not list(Path(paths.BACKUPS).glob("etc"))
        assert not list(Path(paths.BACKUPS).glob("*/files/*"))


def test_what_was_tried(totals: dict[str, int], record_property: Callable[[str, object], None]) -> None:
    """The last one, for the last line of the run."""
    assert totals["requests"] > 5000 or not totals["processes"], "the whole file was run"
    record_property(
        "tried",
        f"peer_gate: {totals['requests']:,} hostile requests and {totals['messages']:,} hostile messages, "
        f"{totals['processes']} of them to the real script; {totals['executed']} became rsync or takeover in their one "
        f"form, {totals['answered']} were real questions; none did anything else",
    )
