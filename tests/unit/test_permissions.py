"""Who may read and write what: anything that another user could have written is refused with one line and exit 78, and
what is kept is nobody else's to read.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import backups, config, log, manifest, notify, ownership, passes, paths, state, view
from clusterd.errors import BAD_CONFIG
from unit.conftest import SCRIPTS

if TYPE_CHECKING:
    from unit.conftest import Box

NOBODY = 65534
Spoil = Callable[[Path], object]


def mode(path: str | Path) -> int:
    return os.stat(path).st_mode & 0o7777


def spoilt(path: Path) -> dict[str, Spoil]:
    """What may be wrong with a file that root relies on."""

    def linked(target: Path) -> None:
        shutil.copy2(target, f"{target}.elsewhere")
        target.unlink()
        target.symlink_to(f"{target}.elsewhere")

    return {
        "others may write it": lambda each: each.chmod(0o646),
        "the group may write it": lambda each: each.chmod(0o664),
        "it is somebody else's": lambda each: os.chown(each, NOBODY, -1),
        "a symlink": linked,
    }


def refuses(box: "Box", name: str = "watchdog", *words: str) -> str:
    """What a script says that ends with exit 78 and one line, having done nothing."""
    before = sorted(box.state.rglob("*"))
    done = box.script(name, *words)
    assert (done.returncode, done.stdout) == (BAD_CONFIG, ""), done.stderr
    [line] = done.stderr.splitlines()
    assert sorted(path for path in box.state.rglob("*")) == before
    return line.partition(": ")[2]


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", spoilt(Path("/")))
@pytest.mark.parametrize("name", ["cluster.conf", "serv2.conf", "services/smbd.conf", "key", "known_hosts"])
def test_a_file_that_others_can_have_written(pair_files: "Box", name: str, wrong: str) -> None:
    path = pair_files.conf / name
    if name == "known_hosts":
        path.write_text("serv2 ssh-ed25519 AAAA\n")
        path.chmod(0o644)
    spoilt(path)[wrong](path)
    line = refuses(pair_files, "cluster", "check")
    assert line.startswith(f"{path}: found ") and "allowed: " in line


@pytest.mark.parametrize("name", ["", "services"])
@pytest.mark.parametrize(
    "wrong", ["others may write it", "the group may write it", "it is somebody else's", "a symlink"]
)
def test_a_folder_in_which_others_can_put_files(pair_files: "Box", name: str, wrong: str) -> None:
    path = pair_files.conf / name
    if wrong == "a symlink":
        path.rename(pair_files.root / "elsewhere")
        path.symlink_to(pair_files.root / "elsewhere")
    elif wrong == "it is somebody else's":
        os.chown(path, NOBODY, -1)
    else:
        path.chmod(0o757 if wrong.startswith("others") else 0o775)
    assert refuses(pair_files, "cluster", "check").startswith(f"{path}: found ")


@pytest.mark.parametrize("script", ["watchdog", "mirror_service", "takeover", "release"])
def test_every_script_refuses(pair_files: "Box", script: str) -> None:
    (pair_files.conf / "cluster.conf").chmod(0o666)
    words = {"mirror_service": ["--due"], "takeover": ["serv1"], "release": ["serv1", "--to", "serv2"]}.get(script, [])
    assert "found mode 0666" in refuses(pair_files, script, *words)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read(pair_files: "Box", bits: int) -> None:
    (pair_files.conf / "key").chmod(bits)
    assert f"found mode {bits:04o}; allowed: 0600 or less (chmod 0600 " in refuses(pair_files)


def test_etcds_password_that_others_may_read(pair_files: "Box") -> None:
    secret = pair_files.root / "password"
    secret.write_text("a password\n")
    secret.chmod(0o640)
    etcd = f"kind = etcd\nendpoints = http://10.9.0.31:2379,\nuser = clusterd\npassword_file = {secret}\n#"
    pair_files.edit("cluster.conf", "kind = reference ", etcd)
    for name, *words in (["watchdog"], ["watchdog", "--dry-run"], ["cluster", "check"]):
        assert refuses(pair_files, name, *words).startswith(f"{secret}: found mode 0640; allowed: 0600 or less")


def test_the_cache_does_not_hide_a_mode_that_changed(pair_files: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_RACY", 0.0)
    agent = pair_files.program("fence_x", "exit 0")
    pair_files.edit("cluster.conf", "agent = none", f"agent = {agent}")
    config.load(str(pair_files.conf), "serv1")
    assert os.path.exists(paths.CONFIG_CACHE)
    agent.chmod(0o777)
    with pytest.raises(Exception, match="found mode 0777"):
        config.load(str(pair_files.conf), "serv1")


# --- what is run -----------------------------------------------------------------------------------------------------

RUN_BY_ROOT = {
    "fence agent": ("cluster.conf", "agent = none", "agent = {}", "[fence] agent"),
    "notify command": ("cluster.conf", "mail = root", "mail = root\ncommand = {}", "[notify] command"),
    "start": (
        "services/new.conf",
        "",
        "home = serv1\n[run]\nkind = command\nstart = {}\nstop = /bin/true\n",
        "[run] start",
    ),
    "ocf": ("services/new.conf", "", "home = serv1\n[run]\nkind = ocf\nname = {}\n", "[run] name"),
    "before": (
        "services/new.conf",
        "",
        "home = serv1\n[run]\nkind = none\n[mirror]\nevery = never\npaths = /srv/new/\nbefore = {}, now\n",
        "[mirror] before",
    ),
}


@pytest.mark.parametrize("what", RUN_BY_ROOT)
@pytest.mark.parametrize("wrong", ["others may write it", "the group may write it", "it is somebody else's"])
def test_a_program_that_others_can_have_written(pair_files: "Box", what: str, wrong: str) -> None:
    program = pair_files.program("program", "exit 0")
    name, old, new, where = RUN_BY_ROOT[what]
    if old:
        text = (pair_files.conf / name).read_text()
        pair_files.write(name, text.replace(old, new.format(program), 1))
    else:
        pair_files.write(name, new.format(program))
    assert config.problems(str(pair_files.conf)) == []
    spoilt(program)[wrong](program)
    line = refuses(pair_files, "cluster", "check")
    assert line.startswith(f"{pair_files.conf}/{name}: {where}: {program}: found ")


def test_a_program_found_by_its_name_and_one_in_a_folder_open_to_all(pair_files: "Box") -> None:
    agent = pair_files.program("fence_x", "exit 0")
    pair_files.edit("cluster.conf", "agent = none", "agent = fence_x")
    agent.chmod(0o757)
    assert f"{agent}: found mode 0757" in refuses(pair_files, "cluster", "check")
    agent.chmod(0o755)
    pair_files.bin.chmod(0o777)
    assert f"{pair_files.bin}: found mode 0777" in refuses(pair_files, "cluster", "check")
    pair_files.bin.chmod(0o1777)
    assert config.problems(str(pair_files.conf)) == []


@pytest.mark.parametrize("where", ["its folder", "a folder above", "where a symlink leads", "where a symlink is"])
@pytest.mark.parametrize("wrong", ["owner", "group", "others", "owner of a sticky one"])
def test_a_program_that_others_can_replace(pair_files: "Box", where: str, wrong: str) -> None:
    """It is root's, and so is what it is in; but not all of the way to it."""
    real, other = pair_files.root / "opt/tool/bin", pair_files.root / "links"
    real.mkdir(parents=True)
    other.mkdir()
    program = pair_files.program("fence_x", "exit 0").rename(real / "fence_x")
    folder = {"its folder": real, "a folder above": real.parent, "where a symlink leads": real}.get(where, other)
    named = program
    if "symlink" in where:
        named = other / "fence_x"
        named.symlink_to(program)
    pair_files.edit("cluster.conf", "agent = none", f"agent = {named}")
    assert config.problems(str(pair_files.conf)) == []
    if wrong.startswith("owner"):
        folder.chmod(0o1755 if "sticky" in wrong else 0o755)
        os.chown(folder, NOBODY, -1)
        found = f"found owner {NOBODY}; allowed: root (chown root {folder})"
    else:
        bits = 0o2775 if wrong == "group" else 0o757
        os.chown(folder, -1, NOBODY)
        folder.chmod(bits)
        found = f"found mode {bits:04o}; allowed: {bits & ~0o022:04o} or less (chmod {bits & ~0o022:04o} {folder})"
    line = refuses(pair_files, "cluster", "check")
    assert line == f"{pair_files.conf}/cluster.conf: [fence] agent: {folder}: {found}: root runs {named}"


def test_in_a_sticky_folder_a_symlink_is_its_owners_to_replace(pair_files: "Box") -> None:
    program, link = pair_files.program("fence_x", "exit 0"), pair_files.root / "open/fence_x"
    link.parent.mkdir()
    link.parent.chmod(0o1777)
    link.symlink_to(f"../{pair_files.bin.name}/{program.name}")
    pair_files.edit("cluster.conf", "agent = none", f"agent = {link}")
    assert config.problems(str(pair_files.conf)) == []
    os.chown(link, NOBODY, -1, follow_symlinks=False)
    found = f"{link}: found owner {NOBODY}; allowed: root (chown -h root {link})"
    assert found in refuses(pair_files, "cluster", "check")
    link.parent.chmod(0o755)
    assert config.problems(str(pair_files.conf)) == []


def test_the_cache_does_not_hide_a_folder_that_was_opened(pair_files: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    """But what comes and goes in it is no reason to read the configuration again."""
    monkeypatch.setattr(config, "_RACY", 0.0)
    agent = pair_files.program("fence_x", "exit 0")
    pair_files.edit("cluster.conf", "agent = none", f"agent = {agent}")
    config.load(str(pair_files.conf), "serv1")
    pair_files.program("another", "exit 0")
    assert config._recall(str(pair_files.conf))
    pair_files.bin.chmod(0o775)
    with pytest.raises(Exception, match="found mode 0775"):
        config.load(str(pair_files.conf), "serv1")


def test_a_program_that_is_not_there_is_told_by_who_needs_it(pair_files: "Box") -> None:
    """A service's on another node may be missing here; the fence agent may not."""
    pair_files.edit(
        "services/web.conf",
        "[run]\nkind = systemd\nname = nginx",
        "[run]\nkind = command\nstart = /opt/x\nstop = /opt/x",
    )
    assert config.problems(str(pair_files.conf)) == []
    pair_files.edit("cluster.conf", "agent = none", "agent = /usr/sbin/fence_on_the_other_node")
    [problem] = config.problems(str(pair_files.conf))
    assert "[fence] agent: found '/usr/sbin/fence_on_the_other_node'" in problem


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state", "run", "log"])
@pytest.mark.parametrize("bits", [0o777, 0o775])
def test_a_folder_of_ours_in_which_others_can_put_files(pair_files: "Box", name: str, bits: int) -> None:
    folder: Path = getattr(pair_files, name)
    folder.chmod(bits)
    assert refuses(pair_files, "cluster", "check").startswith(f"{folder}: found mode {bits:04o}")


def test_a_node_key_that_others_may_read(pair_files: "Box") -> None:
    key = pair_files.state / "ssh/id_ed25519"
    key.parent.mkdir(mode=0o700)
    key.write_text("a private key\n")
    key.chmod(0o644)
    assert refuses(pair_files, "cluster", "check").startswith(f"{key}: found mode 0644; allowed: 0600 or less")
    key.chmod(0o600)
    assert pair_files.script("cluster", "check").returncode == 0


def test_what_is_written_has_its_mode(box: "Box", hostname: Callable[[str], None]) -> None:
    """Whatever the umask is."""
    hostname("serv1")
    for folder in (box.state, box.run, box.log):
        folder.rmdir()
    old = os.umask(0)
    try:
        ownership.enter("serv1", 3, ownership.HELD)
        ownership.enter_standby(ownership.PERSON, "why")
        passes.write(passes.Record("data"))
        log.event("test", "an event")
        assert notify._spool({"event": {}})
        view.write(view.View("serv1", state.boot_id(), 0.0, 0.0, "", None, 0, {}, {}, [], {}))
    finally:
        os.umask(old)
    assert mode(box.state) & 0o022 == 0 and mode(box.run) & 0o022 == 0
    for path in (ownership.path("serv1"), paths.STANDBY, f"{paths.PASSES}/data.json", *notify.spooled()):
        assert mode(path) == 0o600, path
    for each in (paths.GROUPS, paths.PASSES, paths.NOTICES):
        assert mode(each) == 0o700, each
    assert (mode(paths.LOG), mode(paths.EVENTS)) == (0o750, 0o640)
    assert mode(paths.VIEW) == 0o644, "for monitoring; there is no secret in it"


def test_a_backup_set_is_nobodys_to_read(box: "Box", hostname: Callable[[str], None]) -> None:
    """There is /etc/shadow in it, and everybody's mail."""
    hostname("serv1")
    box.root.chmod(0o755)
    for folder in (box.root, *box.root.parents):
        if folder == Path("/tmp"):
            break
        folder.chmod(0o755)
    old = os.umask(0)
    try:
        set_id = backups.create("data", "serv2", 3)
        inside = Path(backups.files_folder(set_id)) / "etc"
        inside.mkdir(mode=0o755)
        (inside / "shadow").write_text("root:secret\n")
        (inside / "shadow").chmod(0o644)
        backups.note(set_id, unmirrored=["/etc/shadow"])
        backups.finish(set_id, complete=True, entries_hint=[manifest.Change("/etc/shadow", manifest.REPLACED)])
    finally:
        os.umask(old)
    assert mode(backups.folder(set_id)) == 0o700
    for path in (inside / "shadow", Path(backups.folder(set_id)) / "entries.jsonl"):
        assert path.exists()
        read = ["setpriv", "--reuid", str(NOBODY), "--clear-groups", "cat", str(path)]
        done = subprocess.run(read, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, ""), path
        assert "Permission denied" in done.stderr


def test_a_view_has_no_secret(box: "Box") -> None:
    text = json.dumps(
        view._fact(view.View("a", "b", 0, 0, "", 0, 0, {}, {}, [], {}, {"nonce": "n", "last": [], "met": {}}))
    )
    assert "key" not in text


def test_scripts_are_written_by_nobody_else() -> None:
    for path in SCRIPTS.iterdir():
        assert not mode(path) & 0o022
