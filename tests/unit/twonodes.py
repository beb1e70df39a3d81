"""Two nodes on one machine, for passes between them: the same absolute paths, two trees, a real sshd.

serv1 is this process. serv2 is a mount and UTS namespace in which another tree is mounted over serv1's; its sshd lets
serv1's key through the real peer_gate.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd import config, model, ownership, paths, state

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "data"
LINKED = """
# The machine of the tests has no eth2: this says in the kernel's stead whether it has a link.
import os
from clusterd import nic
nic.exists = nic.up = lambda interface: True
nic.carrier = lambda interface: not os.path.exists(os.path.dirname(__file__) + "/unplugged")
"""


class Two:
    """serv1 sees `node` as it is; serv2 sees `other` there. What is the same for both is beside them."""

    def __init__(self, top: Path, become: Callable[[str], None]) -> None:
        self.top = top
        self.node = top / "n"
        """Where both have their files."""
        self.other = top / "o"
        """serv2's tree, as seen from serv1."""
        self.become = become
        self.namespace: subprocess.Popen[bytes] | None = None
        self.sshd: subprocess.Popen[bytes] | None = None
        self.env = {
            "CLUSTERD_CONF": f"{self.node}/conf",
            "CLUSTERD_STATE": f"{self.node}/state",
            "CLUSTERD_RUN": f"{self.node}/run",
            "CLUSTERD_LOG": f"{self.node}/log",
            "PYTHONPATH": f"{top}/site:{ROOT}/lib",
        }
        (top / "site").mkdir()
        (top / "site" / "sitecustomize.py").write_text(LINKED)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        for tree in (self.node, self.other):
            for folder in ("conf/services", "state/ssh", "state/groups", "run", "log", "data", "etc"):
                (tree / folder).mkdir(mode=0o755, parents=True)
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", top / name], check=True)
        (self.node / "data" / "first").write_text("first")

    @property
    def data(self) -> Path:
        """The mirrored folder on serv1."""
        return self.node / "data"

    @property
    def copy(self) -> Path:
        """The mirrored folder on serv2."""
        return self.other / "data"

    def configure(self, mirror: str = "", paths_text: str = "", shell: str = "", **cluster: str) -> None:
        """Write the same configuration on both nodes: the example's pair, and one service."""
        paths_text = paths_text or f"{self.node}/data/"
        shell = shell or f"ssh -p {self.port} -o HostName=127.0.0.1"
        for tree in (self.node, self.other):
            for name in ("cluster.conf", "serv1.conf", "serv2.conf"):
                text = (ROOT / "conf" / name).read_text()
                if name == "cluster.conf":
                    text = text.replace("remote_shell = ssh", f"remote_shell = {shell}", 1)
                    for key, value in cluster.items():
                        # Of keys that several sections have it is the one of [mirror], which comes last.
                        *_, old = (line for line in text.splitlines() if line.startswith(f"{key} = "))
                        text = text.replace(old, f"{key} = {value}")
                (tree / "conf" / name).write_text(text)
            (tree / "conf" / "services" / f"{SERVICE}.conf").write_text(
                f"home = serv1\n[run]\nkind = none\n[mirror]\nevery = 5 minutes\npaths = {paths_text}\n{mirror}\n"
            )
            kind, value, _ = (self.top / "host_key.pub").read_text().split()
            known = "".join(f"{name} {kind} {value}\n" for name in ("serv1", "serv2"))
            (tree / "conf" / "known_hosts").write_text(known)
            own_key = tree / "state" / "ssh" / "id_ed25519"
            shutil.copy(self.top / "key", own_key)
            own_key.chmod(0o600)

    def start(self) -> None:
        """serv2's namespaces, and its sshd."""
        quick = "for each in /root/.bashrc; do [ ! -e $each ] || mount --bind /dev/null $each; done"
        script = f"{quick}; mount --bind {self.other} {self.node} && hostname serv2 && echo ready && exec sleep 3600"
        self.namespace = subprocess.Popen(
            ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE
        )
        assert self.namespace.stdout
        assert self.namespace.stdout.readline() == b"ready\n"
        os.makedirs("/run/sshd", exist_ok=True)
        settings = " ".join(f"{name}={value}" for name, value in self.env.items())
        gate = f"env {settings} {sys.executable} {ROOT}/scripts/peer_gate --node serv1"
        public = (self.top / "key.pub").read_text()
        (self.top / "authorized").write_text(f'command="{gate}",restrict {public}')
        (self.top / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.top}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.top}/authorized\nStrictModes no\nPermitRootLogin forced-commands-only\n"
        )
        self.start_sshd()

    def start_sshd(self) -> None:
        self.sshd = subprocess.Popen(
            [*self.enter(), "/usr/sbin/sshd", "-D", "-f", f"{self.top}/sshd_config"], stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert self.sshd.poll() is None, f"sshd ended at once: is port {self.port} taken?"
                time.sleep(0.02)
        pytest.fail("did not happen in time: sshd listens")

    def enter(self) -> list[str]:
        assert self.namespace
        return ["nsenter", "-t", str(self.namespace.pid), "-m", "-u"]

    def there(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on serv2."""
        env = {**os.environ, **self.env}
        return subprocess.run([*self.enter(), *argv], env=env, capture_output=True, text=True, check=check)

    def there_python(self, code: str) -> str:
        """Run Python on serv2, with clusterd at hand."""
        done = self.there(sys.executable, "-c", code, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def script(self, name: str, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run one of the scripts on serv1."""
        become = ["unshare", "--uts", "sh", "-c", 'hostname serv1 && exec "$@"', "sh"]
        argv = [*become, sys.executable, f"{ROOT}/scripts/{name}", *words]
        env = {**os.environ, **self.env}
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout, check=False)

    def hold(self, epoch: int = 1, group: str = "serv1") -> None:
        """serv1 holds the group, and serv2 knows."""
        self.become("serv1")
        ownership.enter(group, epoch, ownership.HELD)
        self.there_python(
            f"from clusterd import ownership; ownership.write(ownership.Record('{group}', {epoch}, 'serv1'))"
        )

    def load(self) -> model.Config:
        """The configuration, as serv1 sees it."""
        self.become("serv1")
        return config.load(str(self.node / "conf"))

    def disconnect(self) -> None:
        """End the shared connection to serv2."""
        for socket_path in (self.node / "run" / "ssh").glob("*"):
            subprocess.run(
                ["ssh", "-o", f"ControlPath={socket_path}", "-O", "exit", "x"], check=False, capture_output=True
            )

    def stop(self) -> None:
        """End serv2 and every connection to it."""
        self.disconnect()
        for process in (self.sshd, self.namespace):
            if process:
                process.send_signal(signal.SIGKILL)
                process.wait()
                if process.stdout:
                    process.stdout.close()


@pytest.fixture(name="two")
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    """serv1 holds its group; serv2 is up; the service `data` is configured with one folder."""
    monkeypatch.setattr(model, "hostname", lambda: "serv1")
    top = Path(tempfile.mkdtemp(prefix="two-", dir="/tmp"))
    made = Two(top, lambda name: monkeypatch.setattr(model, "hostname", lambda: name))
    moved = {
        paths.CONF: made.node / "conf",
        paths.STATE: made.node / "state",
        paths.RUN: made.node / "run",
        paths.LOG: made.node / "log",
    }
    for name, value in list(vars(paths).items()):
        for old, new in moved.items():
            if name.isupper() and (value == old or str(value).startswith(f"{old}/")):
                monkeypatch.setattr(paths, name, f"{new}{value[len(old) :]}")
    assert state.boot_id()
    try:
        made.configure()
        made.start()
        made.hold()
        yield made
    finally:
        made.stop()
        shutil.rmtree(top, ignore_errors=True)
