"""No shell anywhere: nothing that a file, a peer or a user says ever becomes a command line for one.

Read from the source of everything that is installed. The four places that do use a shell are named, each with the
reason why no data is in what it reads: three here, and the hook of the receiving rsync.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd import daemon, restore

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((*(ROOT / "lib").rglob("*.py"), *(path for path in (ROOT / "scripts").iterdir() if path.is_file())))
SHELLS = ("sh", "bash", "dash", "ksh", "zsh", "csh", "ash", "busybox", "env -S")
FORBIDDEN = {
    *("os.system", "os.popen", "os.spawnl", "os.spawnlp", "os.spawnv", "os.spawnvp", "os.startfile", "pty.spawn"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput", "popen2.popen2"),
    *("asyncio.create_subprocess_shell", "eval", "exec", "compile", "__import__"),
    *("pickle.load", "pickle.loads", "marshal.loads", "shelve.open", "yaml.load"),
}
"""The last lines are not shells, but as good as one for whoever controls what they read."""
RUNNERS = {"subprocess.Popen", "subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}
MAY_RUN = {"run.py", "sender.py", "crew.py", "successor.py", "mirror_service.py"}
"""Who starts processes itself: the runner, and those whose children are talked to while they run."""
KNOWN = {
    ("commands/cluster.py", "command"): "cluster run: what an administrator types is meant to be a command line",
    ("parcel.py", "unpack"): "a constant script; the folder is its $0",
    ("restore.py", "contained"): "a constant script; the folder, mount points and the command are its arguments",
}


def name(node: ast.expr) -> str:
    """``os.path.join`` as it stands there."""
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def functions(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every node with the function that it is in."""
    for outer in ast.walk(tree):
        if isinstance(outer, ast.FunctionDef):
            for node in ast.walk(outer):
                yield outer.name, node


def shell_words(node: ast.AST) -> bool:
    """A list or tuple that begins like a shell's command line, or has one in it, behind a program that starts it."""
    if not isinstance(node, ast.List | ast.Tuple):
        return False
    words = [each.value if isinstance(each, ast.Constant) else None for each in node.elts]
    shells = [isinstance(each, str) and each.rpartition("/")[2] in SHELLS for each in words]
    commands = [isinstance(each, str) and re.match("-[^-]*c", each) is not None for each in words]
    begins = any(shells) and shells.index(True) == next(at for at, each in enumerate(words) if isinstance(each, str))
    return (begins and len(words) > 1) or any(map(all, zip(shells, commands[1:], strict=False)))


def found(source: str) -> list[str]:
    """What is wrong in a source, a line each."""
    tree = ast.parse(source)
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = name(node.func)
            if called in FORBIDDEN:
                wrong.append(f"{node.lineno}: {called}")
            for keyword in node.keywords:
                if keyword.arg == "shell" and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    wrong.append(f"{node.lineno}: shell=")
                if keyword.arg == "executable":
                    wrong.append(f"{node.lineno}: executable=")
            if called in RUNNERS and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                wrong.append(f"{node.lineno}: a command line that is one text")
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "subprocess", "pty"):
            wrong += [
                f"{node.lineno}: from {node.module} import {each.name}"
                for each in node.names
                if f"{node.module}.{each.name}" in FORBIDDEN | RUNNERS
            ]
        if isinstance(node, ast.expr) and shell_words(node):
            wrong.append(f"{node.lineno}: a shell")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shell(path: Path) -> None:
    wrong = found(path.read_text())
    where = str(path.relative_to(ROOT / "lib/clusterd")) if path.is_relative_to(ROOT / "lib/clusterd") else path.name
    known = [function for file, function in KNOWN if file == where]
    if known:
        tree = ast.parse(path.read_text())
        named = [function for function, node in functions(tree) if shell_words(node)]
        assert named == known, "only where a reason is given"
        wrong = [line for line in wrong if not line.endswith(": a shell")]
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_processes_are_started_in_few_places(path: Path) -> None:
    calls = [name(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    if path.name not in MAY_RUN:
        assert not set(calls) & RUNNERS


def constant(tree: ast.Module, script: str) -> bool:
    """Whether the script of this name is the same text for everybody."""
    [value] = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == script
    ]
    return isinstance(value, ast.Constant)


def returned(tree: ast.Module, function: str) -> str:
    """What a function returns, as it stands there."""
    [found] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    return ast.unparse(found.body[-1])


def test_the_constant_script_has_nothing_put_into_it() -> None:
    """What `cluster install` runs on the other node."""
    tree = ast.parse((ROOT / "lib/clusterd/parcel.py").read_text())
    assert constant(tree, "_UNPACK")
    assert returned(tree, "unpack") == "return ('sh', '-c', _UNPACK, prefix())"


def test_what_contains_a_restore_has_nothing_put_into_it() -> None:
    """The script quotes its arguments, the folder and mount points: users may have named them."""
    tree = ast.parse((ROOT / "lib/clusterd/restore.py").read_text())
    assert constant(tree, "_FOLLOW_NOTHING")
    shell = "*('unshare', '--mount', '--propagation', 'private', 'sh', '-ec', _FOLLOW_NOTHING), *(folder, "
    assert returned(tree, "contained").startswith(f"return [{shell}")
    for argument in re.finditer(r"\$[0-9@]", restore._FOLLOW_NOTHING):
        before = restore._FOLLOW_NOTHING[: argument.start()].rpartition("\n")[2]
        assert before.count('"') % 2, f"{argument[0]} is quoted"


def test_a_folder_to_restore_to_may_be_called_anything(tmp_path: Path) -> None:
    folder = tmp_path / "$(touch evil)`touch evil`'\"; touch evil; #\n* "
    (folder / "disk $(touch evil) \n'\"").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", folder / "disk $(touch evil) \n'\""], check=True)
    try:
        done = subprocess.run(
            [*restore.contained(str(folder)), "pwd"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    finally:
        subprocess.run(["umount", folder / "disk $(touch evil) \n'\""], check=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{folder}\n", "")
    assert not list(tmp_path.rglob("evil"))


def test_what_goes_into_the_hook_is_quoted() -> None:
    """The receiving rsync's hook is the one shell script that is made from data: paths of our own configuration."""
    nasty = "/srv/$(touch /tmp/clusterd-hook)`touch /tmp/clusterd-hook`'\"; touch /tmp/clusterd-hook; #\n*"
    script = daemon.hook("data", nasty, ())
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
    for word in (nasty, "$(touch /tmp/clusterd-hook)", "`touch /tmp/clusterd-hook`", "'; touch /tmp/clusterd-hook; '"):
        said = ["rsyncd", "--server", "-be.", "--no-implied-dirs", "--backup-dir", word, ".", "/"]
        env = {f"RSYNC_ARG{number}": each for number, each in enumerate(said)}
        done = subprocess.run(
            ["sh", "-c", script], env={**env, "PATH": "/usr/bin:/bin"}, check=False, capture_output=True
        )
        assert (done.returncode == 0) == (word == nasty), done.stdout
    assert not Path("/tmp/clusterd-hook").exists()


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess\nsubprocess.run('ls ' + x, shell=True)",
        "import subprocess\nsubprocess.run(f'ls {x}')",
        "import subprocess\nsubprocess.run(x, shell=flag)",
        "import os\nos.system('true')",
        "import os\nos.popen(x)",
        "import subprocess\nsubprocess.getoutput(x)",
        "from os import system",
        "from subprocess import getoutput as g",
        "run(['sh', '-c', x])",
        "run(('/bin/bash', '-c', x))",
        "argv = ['/usr/bin/dash', *rest]",
        "argv = ['unshare', '--mount', 'sh', '-c', x]",
        "argv = ('nsenter', '-t', pid, '/bin/bash', '-ec', x)",
        "argv = [*become, 'sh', '-c', x]",
        "eval(x)",
        "subprocess.Popen(argv, executable='/bin/sh')",
    ],
)
def test_this_test_sees_one(source: str) -> None:
    assert found(source)
