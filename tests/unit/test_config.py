"""Loading: whose host this is, the key, and a cache that is never stale."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import config, configread, keyfile, model, paths
from clusterd.errors import BAD_CONFIG, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from unit.conftest import Box


@pytest.fixture
def settled(pair_files: "Box", monkeypatch: pytest.MonkeyPatch) -> "Box":
    """The article's pair, old enough for the cache."""
    monkeypatch.setattr(config, "_RACY", 0.0)
    return pair_files


def load(box: "Box") -> model.Config:
    return config.load(str(box.conf), "serv1")


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise AssertionError("the files were read although the cache is good")

    monkeypatch.setattr(configread, "read", fail)


def test_the_host_must_be_a_node(pair_files: "Box", hostname: "Callable[[str], None]") -> None:
    hostname("web7")
    with pytest.raises(ConfigError) as caught:
        config.load(str(pair_files.conf))
    line = f"{pair_files.conf}/cluster.conf: nodes: found 'serv1, serv2'; allowed: names that include this host, web7"
    assert str(caught.value) == line
    assert caught.value.exit_code == BAD_CONFIG
    hostname("serv2")
    found = config.load(str(pair_files.conf))
    assert found.me().name == "serv2"
    assert [node.name for node in found.peers()] == ["serv1"]
    assert config.load(str(pair_files.conf), "serv1")
    assert config.problems(str(pair_files.conf)) == []


def test_the_folder_may_be_relative(pair_files: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair_files.root)
    assert config.load("conf/", "serv1").folder == str(pair_files.conf)


def test_the_pair_is_the_articles(pair: model.Config) -> None:
    assert [group.name for group in pair.groups()] == ["serv1", "serv2"]
    assert [service.name for service in pair.group("serv1").services] == ["accounts", "smbd", "clusterconf", "hosts"]
    assert pair.me().addresses == ("10.1.0.1/24",)
    assert pair.me().networks == (("heartbeat", "eth1", "192.168.111.1/24"),)
    assert pair.services["mailspool"].max_delete == "5"
    assert pair.services["smbd"].max_delete == "10 %"


class TestKey:
    def test_the_end_of_its_line_does_not_count(self, pair: model.Config, box: "Box") -> None:
        assert keyfile.read(pair).secrets == (b"an example of a key, not a secret",)
        box.write("key", "0123456789abcdef\r\n", mode=0o400)
        assert keyfile.read(pair).first == b"0123456789abcdef"

    def test_too_short(self, pair: model.Config, box: "Box") -> None:
        box.write("key", "0123456789abcde\n", mode=0o600)
        with pytest.raises(ConfigError, match=r"/key: found 15 bytes; allowed: at least 16, the same on all nodes: \("):
            keyfile.read(pair)

    def test_missing(self, pair: model.Config, box: "Box") -> None:
        (box.conf / "key").unlink()
        with pytest.raises(ConfigError, match=r"/key: cannot be read: No such file or directory$"):
            keyfile.read(pair)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o601])
    def test_others_may_not_read_it(self, pair: model.Config, box: "Box", mode: int) -> None:
        (box.conf / "key").chmod(mode)
        with pytest.raises(ConfigError, match=rf"/key: found mode {mode:04o}; allowed: 0600 or less \(chmod 0600 "):
            keyfile.read(pair)


class TestCache:
    def test_the_same_comes_out(self, settled: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
        settled.write("services/extra.conf", "home = serv2\n[run]\nkind = command\nstart = /a, b\nstop = /c\n")
        settled.edit("cluster.conf", "agent = none", "agent = /bin/true\nip = 10.1.0.7")
        read = load(settled)
        assert os.stat(paths.CONFIG_CACHE).st_mode & 0o777 == 0o600
        forbid_reading(monkeypatch)
        kept = load(settled)
        assert repr(kept) == repr(read)
        assert hash(kept.nodes["serv1"]) == hash(read.nodes["serv1"])

    def test_configobj_stays_out(self, settled: "Box") -> None:
        code = f"""if True:
            import sys
            from clusterd import config
            assert config.load({str(settled.conf)!r}, "serv1").name == "office"
            print([name for name in ("configobj", "ipaddress", "hashlib", "subprocess") if name in sys.modules])"""
        time.sleep(0.15)  # past the age at which a file may still change unseen
        for expected in ("['configobj', 'ipaddress', 'hashlib']", "[]"):
            out = subprocess.run(
                [sys.executable, "-c", code], env=settled.env, capture_output=True, text=True, check=True
            )
            assert out.stdout.strip() == expected

    def test_a_change_of_the_same_size_and_time_is_seen(self, settled: "Box") -> None:
        assert load(settled).heartbeat.port == 694
        path = settled.conf / "cluster.conf"
        before = path.stat()
        with path.open("r+") as file:  # in place: the same inode
            text = file.read()
            file.seek(0)
            file.write(text.replace("port = 694", "port = 695"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
        assert load(settled).heartbeat.port == 695

    @pytest.mark.parametrize("name", ["serv1.conf", "services/smbd.conf"])
    def test_a_file_that_is_replaced(self, settled: "Box", name: str) -> None:
        first = load(settled)
        path = settled.conf / name
        other = path.with_name("new")
        other.write_text(path.read_text() + "# changed\n")
        other.chmod(0o644)
        other.rename(path)
        assert load(settled).digest != first.digest

    def test_a_file_that_comes_or_goes(self, settled: "Box") -> None:
        load(settled)
        settled.write("services/new.conf", "home = serv1\n[run]\nkind = none\n")
        assert "new" in load(settled).services
        (settled.conf / "services" / "new.conf").unlink()
        assert "new" not in load(settled).services
        settled.write("serv3.conf", "")
        with pytest.raises(ConfigError, match="found a file for no node"):
            load(settled)

    def test_a_folder_that_comes_later(self, settled: "Box") -> None:
        (settled.conf / "services").rename(settled.root / "aside")
        assert load(settled).services == {}
        (settled.root / "aside").rename(settled.conf / "services")
        assert "smbd" in load(settled).services

    def test_a_mode_that_changes(self, settled: "Box") -> None:
        load(settled)
        (settled.conf / "serv2.conf").chmod(0o666)
        with pytest.raises(ConfigError, match="found mode 0666"):
            load(settled)

    def test_what_is_wrong_is_never_kept(self, settled: "Box") -> None:
        load(settled)
        settled.edit("cluster.conf", "port = 694", "port = x")
        for _ in range(2):
            with pytest.raises(ConfigError, match="found 'x'"):
                load(settled)

    def test_another_folder(self, settled: "Box") -> None:
        load(settled)
        other = settled.root / "other"
        other.mkdir(mode=0o755)
        for path in settled.conf.glob("*.conf"):
            (other / path.name).write_bytes(path.read_bytes())
            (other / path.name).chmod(0o644)
        assert config.load(str(other), "serv1").services == {}
        assert load(settled).services

    def test_a_file_that_could_still_change_unseen(self, pair_files: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(config, "_RACY", 60)
        load(pair_files)
        assert not os.path.exists(paths.CONFIG_CACHE)
        monkeypatch.setattr(config, "_RACY", 0.02)
        time.sleep(0.05)
        load(pair_files)
        assert os.path.exists(paths.CONFIG_CACHE)

    def test_a_file_that_changes_while_it_is_read(self, settled: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
        real = configread.read

        def slow(folder: str) -> Any:
            result = real(folder)
            settled.edit("cluster.conf", "name = office", "name = branch")
            return result

        monkeypatch.setattr(configread, "read", slow)
        assert load(settled).name == "office"
        monkeypatch.setattr(configread, "read", real)
        assert load(settled).name == "branch"

    @pytest.mark.parametrize(
        "damage", [b"", b"{", b"[]", b"null", b'{"folder": 1}', b"\xff\xfe", b'{"seen": {}, "config": []}']
    )
    def test_a_damaged_cache_does_not_matter(self, settled: "Box", damage: bytes) -> None:
        load(settled)
        with open(paths.CONFIG_CACHE, "wb") as file:
            file.write(damage)
        assert load(settled).name == "office"
        with open(paths.CONFIG_CACHE) as file:
            assert json.load(file)["folder"] == str(settled.conf)

    def test_a_damaged_inside_does_not_matter(self, settled: "Box") -> None:
        load(settled)
        with open(paths.CONFIG_CACHE) as file:
            kept = json.load(file)
        for number in range(len(kept["config"])):
            broken = {**kept, "config": [*kept["config"]]}
            broken["config"][number] = 7
            Path(paths.CONFIG_CACHE).write_text(json.dumps(broken))
            assert load(settled).nodes["serv2"].interface == "eth0"

    def test_a_cache_of_somebody_else_is_not_believed(self, settled: "Box") -> None:
        load(settled)
        forged = Path(paths.CONFIG_CACHE)
        forged.write_text(forged.read_text().replace("office", "forged"))
        assert load(settled).name == "forged"  # it is read at all
        forged.chmod(0o644)
        assert load(settled).name == "office"
        target = forged.with_name("target")
        target.write_text(forged.read_text().replace("office", "forged"))
        target.chmod(0o600)
        forged.unlink()
        forged.symlink_to(target)
        assert load(settled).name == "office"

    def test_a_cache_of_another_owner_is_not_believed(self, settled: "Box") -> None:
        load(settled)
        forged = Path(paths.CONFIG_CACHE)
        forged.write_text(forged.read_text().replace("office", "forged"))
        os.chown(forged, 1000, 1000)
        assert load(settled).name == "office"

    def test_another_version_reads_again(self, settled: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
        load(settled)
        forged = Path(paths.CONFIG_CACHE)
        forged.write_text(forged.read_text().replace("office", "forged"))
        monkeypatch.setattr(config, "__version__", "0.0.1")
        assert load(settled).name == "office"

    def test_no_place_for_it_does_not_matter(self, settled: "Box") -> None:
        os.rmdir(settled.run)
        settled.run.write_text("a file where a folder should be")
        for _ in range(2):
            assert load(settled).name == "office"


class TestStamp:
    """What makes the watchdog start again."""

    @pytest.mark.parametrize("name", ["cluster.conf", "services/smbd.conf"])
    def test_a_file_that_changes_comes_or_goes(self, pair_files: "Box", name: str) -> None:
        stamps = [config.stamp_of(str(pair_files.conf))]
        path = pair_files.conf / name
        for change in (path.touch, partial(path.chmod, 0o600), path.unlink, path.touch):
            change()
            stamps.append(config.stamp_of(str(pair_files.conf)))
        assert len(set(stamps)) == len(stamps)

    def test_a_key_or_an_editors_file_does_not(self, pair_files: "Box") -> None:
        before = config.stamp_of(str(pair_files.conf))
        pair_files.write("key", "another key, also long enough", mode=0o600)
        pair_files.write(".cluster.conf.swp", "")
        pair_files.write("known_hosts", "")
        assert config.stamp_of(str(pair_files.conf)) == before
