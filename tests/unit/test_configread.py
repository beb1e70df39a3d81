"""A configuration broken in many ways: each is one line that names file, section, key, what was found and allowed."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import config, configread, paths
from clusterd.errors import BAD_CONFIG, ConfigError

if TYPE_CHECKING:
    from unit.conftest import Box

TABLE = Path(__file__).with_name("broken_configurations.txt")
BROKEN = re.findall(r"^(\S+)\n- (.*)\n\+ ?(.*)\n= (.*)$", TABLE.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("name", "old", "new", "wanted"), BROKEN, ids=[" ".join(row[:3:2]) for row in BROKEN])
def test_one_broken_place_is_one_line(
    pair_files: "Box", monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str, wanted: str
) -> None:
    monkeypatch.setattr(paths, "STATE", "/var/lib/clusterd")
    pair_files.edit(name, *(text.replace("\\n", "\n").replace("\\t", "\t") for text in (old, new)))
    with pytest.raises(ConfigError) as caught:
        config.load(str(pair_files.conf), "serv1")
    line = str(caught.value)
    assert re.fullmatch(re.escape(f"{pair_files.conf}/{name}: {wanted}").replace(r"\*", ".*"), line), line
    assert "\n" not in line
    assert caught.value.exit_code == BAD_CONFIG
    assert line == config.problems(str(pair_files.conf))[0]


def test_a_key_for_a_section(pair_files: "Box") -> None:
    text = (pair_files.conf / "serv2.conf").read_text().replace("[redundant]\ninterface = eth2", "")
    pair_files.write("serv2.conf", "redundant = eth2\n" + text)
    assert config.problems(str(pair_files.conf)) == [
        f"{pair_files.conf}/serv2.conf: redundant: found a key; allowed: a section"
    ]


def test_the_table_is_read_whole() -> None:
    assert len(BROKEN) == TABLE.read_text().count("\n= ") > 40


def test_the_examples_are_right(pair_files: "Box") -> None:
    assert config.problems(str(pair_files.conf)) == []
    assert config.problems(str(Path(__file__).resolve().parents[2] / "conf")) == []


def test_every_problem_is_told(pair_files: "Box") -> None:
    pair_files.edit("cluster.conf", "port = 694", "port = x")
    pair_files.edit("serv2.conf", "interface = eth0", "interface = e/0")
    pair_files.edit("services/web.conf", "home = serv2", "hom = serv2")
    lines = config.problems(str(pair_files.conf))
    assert [line.removeprefix(f"{pair_files.conf}/").split(";")[0] for line in lines] == [
        "cluster.conf: [heartbeat] port: found 'x'",
        "serv2.conf: [main] interface: found 'e/0'",
        "services/web.conf: hom: unknown key",
        "services/web.conf: home: missing",
    ]


def test_a_missing_file(pair_files: "Box") -> None:
    (pair_files.conf / "serv2.conf").unlink()
    with pytest.raises(ConfigError, match=r"/serv2\.conf: cannot be read: No such file or directory$"):
        config.load(str(pair_files.conf), "serv1")
    (pair_files.conf / "cluster.conf").unlink()
    with pytest.raises(ConfigError, match=r"/cluster\.conf: cannot be read: No such file or directory$"):
        config.load(str(pair_files.conf), "serv1")


def test_a_missing_folder(box: "Box") -> None:
    with pytest.raises(ConfigError, match=r"/nowhere: no such folder; --config or CLUSTERD_CONF says where it is$"):
        config.load(f"{box.root}/nowhere")
    with pytest.raises(ConfigError, match=r"/cluster\.conf: cannot be read: Not a directory|: cannot be read: Not a"):
        config.load(f"{box.write('file', '')}")


def test_an_empty_file_lacks_everything(pair_files: "Box") -> None:
    pair_files.write("cluster.conf", "")
    found = [line.split(": ", 1)[1].split(";")[0] for line in config.problems(str(pair_files.conf))]
    assert found == ["name: missing", "nodes: missing", "[reference] hosts: missing"]
    pair_files.write("cluster.conf", "# nothing\n")
    assert len(config.problems(str(pair_files.conf))) == 3


def test_a_file_for_no_node(pair_files: "Box") -> None:
    pair_files.write("serv3.conf", "driver = iproute2\n")
    (line,) = config.problems(str(pair_files.conf))
    assert line.endswith(
        "/serv3.conf: found a file for no node; allowed: cluster.conf and the nodes' files, one of each: serv1, serv2"
    )


def test_a_service_with_an_odd_name(pair_files: "Box") -> None:
    pair_files.write("services/sm bd.conf", "")
    (line,) = config.problems(str(pair_files.conf))
    assert line.endswith("sm bd.conf: found this name; allowed: up to 64 letters, digits and _ @ + -, then .conf")


def test_other_files_are_left_alone(pair_files: "Box") -> None:
    before = config.load(str(pair_files.conf), "serv1").digest
    for name in (
        "known_hosts",
        ".clusterd",
        "key.old",
        "cluster.conf~",
        ".serv1.conf.swp",
        ".#x.conf",
        "services/README",
    ):
        pair_files.write(name, "= [ nothing that parses")
    (pair_files.conf / "services" / "old").mkdir()
    assert config.load(str(pair_files.conf), "serv1").digest == before


def test_a_pipe_is_no_file(pair_files: "Box") -> None:
    (pair_files.conf / "serv2.conf").unlink()
    os.mkfifo(pair_files.conf / "serv2.conf", 0o600)
    with pytest.raises(ConfigError, match=r"/serv2\.conf: cannot be read: not a file$"):
        config.load(str(pair_files.conf), "serv1")


def test_bytes_that_are_no_text(pair_files: "Box") -> None:
    path = pair_files.conf / "cluster.conf"
    path.write_bytes(path.read_bytes().replace(b"office", b"b\xfcro"))
    with pytest.raises(ConfigError, match=r"/cluster\.conf: line 4: found a byte that is not UTF-8; allowed: UTF-8"):
        config.load(str(pair_files.conf), "serv1")


def test_text_from_other_systems(pair_files: "Box") -> None:
    path = pair_files.conf / "cluster.conf"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"office", "büro".encode()).replace(b"\n", b"\r\n"))
    assert config.load(str(pair_files.conf), "serv1").name == "büro"


def test_nothing_is_interpolated(pair_files: "Box") -> None:
    pair_files.edit("services/smbd.conf", "*.tmp, ~$*", "'%(home)s', $home")
    assert config.load(str(pair_files.conf), "serv1").services["smbd"].exclude == ("%(home)s", "$home")


@pytest.mark.parametrize("name", [".", "services", "cluster.conf", "serv2.conf", "services/web.conf"])
def test_what_others_can_write_is_refused(pair_files: "Box", name: str) -> None:
    path = (pair_files.conf / name).resolve()
    mode = path.stat().st_mode & 0o777
    for extra in (0o020, 0o002):
        path.chmod(mode | extra)
        with pytest.raises(ConfigError) as caught:
            config.load(str(pair_files.conf), "serv1")
        safe = f"{mode:04o}"
        line = f"{path}: found mode {mode | extra:04o}; allowed: {safe} or less (chmod {safe} {path})"
        assert str(caught.value) == line
    path.chmod(mode)
    assert config.load(str(pair_files.conf), "serv1")


@pytest.mark.parametrize("name", [".", "services", "cluster.conf", "services/web.conf"])
def test_what_others_own_is_refused(pair_files: "Box", name: str) -> None:
    path = (pair_files.conf / name).resolve()
    os.chown(path, 1000, 1000)
    with pytest.raises(ConfigError, match=rf"{path}: found owner 1000; allowed: root \(chown root {path}\)$"):
        config.load(str(pair_files.conf), "serv1")


def test_the_digest_is_of_names_and_contents(pair_files: "Box") -> None:
    seen = {config.load(str(pair_files.conf), "serv1").digest}
    pair_files.edit("cluster.conf", "name = office", "name = 0ffice")
    seen.add(config.load(str(pair_files.conf), "serv1").digest)
    web = pair_files.conf / "services" / "web.conf"
    web.rename(web.with_name("www.conf"))
    seen.add(config.load(str(pair_files.conf), "serv1").digest)
    assert len(seen) == 3
    pair_files.write("key", "another key, also long enough", mode=0o600)
    assert config.load(str(pair_files.conf), "serv2").digest in seen


def test_what_a_method_does_not_need(pair_files: "Box") -> None:
    pair_files.edit("serv2.conf", "[redundant]\ninterface = eth2", "")
    pair_files.edit("cluster.conf", "method = redundant_nic", "method = macvlan")
    assert config.load(str(pair_files.conf), "serv1").nodes["serv1"].redundant is None
    pair_files.edit("serv2.conf", "mac = 00:10:4b:63:1c:35", "")
    pair_files.edit("cluster.conf", "method = macvlan", "method = address")
    assert config.load(str(pair_files.conf), "serv1").nodes["serv1"].mac is None


def test_three_nodes_need_another_method(pair_files: "Box") -> None:
    pair_files.edit("cluster.conf", "nodes = serv1, serv2", "nodes = serv1, serv2, serv3")
    third = (pair_files.conf / "serv2.conf").read_text()
    for old, new in ((".2/24", ".3/24"), (".12/24", ".13/24"), ("1c:35", "1c:36")):
        third = third.replace(old, new)
    pair_files.write("serv3.conf", third)
    (line,) = config.problems(str(pair_files.conf))
    assert line.endswith(
        "[failover] method: found 'redundant_nic'; allowed: macvlan or address, with more than two nodes"
    )
    pair_files.edit("cluster.conf", "method = redundant_nic", "method = macvlan")
    assert list(config.load(str(pair_files.conf), "serv3").nodes) == ["serv1", "serv2", "serv3"]
    pair_files.edit("cluster.conf", "remote_shell = ssh", "remote_shell = /usr/bin/rsh -4")
    (problem,) = config.problems(str(pair_files.conf))
    assert "[mirror] remote_shell: found '/usr/bin/rsh, -4'; allowed: ssh, with more than two nodes" in problem


def test_two_stacks_and_a_further_network(pair_files: "Box") -> None:
    for number in "12":
        pair_files.edit(
            f"serv{number}.conf",
            f"address = 10.1.0.{number}/24",
            f"address = 10.1.0.{number}/24, 2001:DB8::{number}/64",
        )
        pair_files.edit(f"serv{number}.conf", "gateway = 10.1.0.254", "gateway = 10.1.0.254, fe80::1")
        text = (pair_files.conf / f"serv{number}.conf").read_text()
        more = f"\n[networks]\n[[plant]]\ninterface = eth3\naddress = 172.16.0.{number}/24\n"
        pair_files.write(f"serv{number}.conf", text + more)
    node = config.load(str(pair_files.conf), "serv2").nodes["serv2"]
    assert node.addresses == ("10.1.0.2/24", "2001:db8::2/64")
    assert node.gateway == ("10.1.0.254", "fe80::1")
    assert [each.name for each in node.networks] == ["heartbeat", "plant"]
    pair_files.edit("serv2.conf", "172.16.0.2/24", "10.1.0.2/8")
    first = config.problems(str(pair_files.conf))[0]
    assert "found '10.1.0.2/8'; allowed: an address of its own; serv2.conf has it in [main] address" in first


def test_networks_that_overlap(pair_files: "Box") -> None:
    for number in "12":
        pair_files.edit(f"serv{number}.conf", f"192.168.111.{number}/24", f"10.1.5.{number}/16")
    lines = config.problems(str(pair_files.conf))
    assert lines == [
        f"{pair_files.conf}/serv1.conf: [heartbeat] address: found '10.1.5.1/16'; "
        "allowed: one outside 10.1.0.0/24, the network of [main]"
    ]


def test_every_default_is_allowed(pair_files: "Box") -> None:
    text = "name = x\nnodes = serv1, serv2\n[reference]\nhosts = 10.1.0.254\n"
    pair_files.write("cluster.conf", text)
    found = config.load(str(pair_files.conf), "serv1")
    assert found.heartbeat == (0.1, 0.18, 0.3, 694)
    assert found.failover == ("redundant_nic", "auto", 60.0, 2.0, "home", 120.0)
    assert found.fence == ("none", (), "off", 40.0)
    assert found.mirror == (("ssh",), 2, 2.0, 30.0)
    assert found.keep == "30 days"
    assert found.timesync == ((), 1.0)
    assert found.notify == (("root",), "root", "", ())
    pair_files.write("services/web.conf", "home = serv1\n[run]\nkind = none\n")
    service = config.load(str(pair_files.conf), "serv1").services["web"]
    assert service[:18] == (
        *("web", "serv1", 50, "none", "", (), (), (), 60.0),
        *(None, (), (), (), False, 0, "10 %", (), ()),
    )
    assert (service.parameters, service.consistent) == ((), False)


def test_a_services_folder_is_not_needed(pair_files: "Box") -> None:
    for path in (pair_files.conf / "services").iterdir():
        path.unlink()
    (pair_files.conf / "services").rmdir()
    assert config.load(str(pair_files.conf), "serv1").services == {}


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("ssh -p 2222 -i '/a b'", ("ssh", "-p", "2222", "-i", "/a b")),
        ("rsh", ("rsh",)),
        ("ssh, -p, 2222", ("ssh", "-p", "2222")),
        ("/usr/bin/ssh -4", ("/usr/bin/ssh", "-4")),
    ],
)
def test_remote_shells(pair_files: "Box", text: str, argv: tuple[str, ...]) -> None:
    pair_files.edit("cluster.conf", "remote_shell = ssh ", f"remote_shell = {text} ")
    assert config.load(str(pair_files.conf), "serv1").mirror.remote_shell == argv


def test_commands_are_lists_of_words(pair_files: "Box") -> None:
    pair_files.edit(
        "services/hosts.conf",
        "kind = none",
        "kind = command\nstart = /bin/x, --name, 'a b', \"\"\nstop = /bin/y\nstatus = z, ''",
    )
    found = config.load(str(pair_files.conf), "serv1").services["hosts"]
    assert (found.start, found.stop, found.status) == (("/bin/x", "--name", "a b", ""), ("/bin/y",), ("z", ""))


def test_options_of_the_fence_agent(pair_files: "Box") -> None:
    pair_files.program("fence_test", "exit 1")
    own = "\n[fence]\nplug = 7\ndelay = 2 seconds\n[watchdog]\ndevice = /dev/watchdog1\ntimeout = 30 seconds\n"
    pair_files.edit("cluster.conf", "agent = none ", "agent = fence_test\nip = 10.1.0.9\nplug = 'a b', c ")
    pair_files.edit("cluster.conf", "action = off ", "action = reboot ")
    pair_files.edit("cluster.conf", "timeout = 40 seconds", "timeout = 5 seconds")
    pair_files.write("serv1.conf", (pair_files.conf / "serv1.conf").read_text() + own)
    found = config.load(str(pair_files.conf), "serv1")
    assert found.fence == ("fence_test", (("ip", "10.1.0.9"), ("plug", "a b,c")), "reboot", 5.0)
    serv1, serv2 = found.nodes["serv1"], found.nodes["serv2"]
    assert (serv1.fence, serv1.fence_delay) == ((("plug", "7"),), 2.0)
    assert (serv1.watchdog_device, serv1.watchdog_timeout) == ("/dev/watchdog1", 30.0)
    assert (serv2.fence, serv2.fence_delay, serv2.watchdog_device) == ((), 0.0, "none")


def test_the_hardware_is_spoken_to_with_the_datagrams(pair_files: "Box") -> None:
    pair_files.edit("cluster.conf", "interval = 100 ms", "interval = 400 ms")
    pair_files.edit("cluster.conf", "isolated_after = 180 ms", "isolated_after = 500 ms")
    pair_files.edit("cluster.conf", "dead_after = 300 ms", "dead_after = 1 second")
    plain = (pair_files.conf / "serv1.conf").read_text()
    for device, wanted in (("none", []), ("/dev/watchdog", ["3 s"])):
        pair_files.write("serv1.conf", f"{plain}\n[watchdog]\ndevice = {device}\ntimeout = 3 seconds\n")
        allowed = "at least ten times [heartbeat] interval, which is 4 s"
        lines = [f"{pair_files.conf}/serv1.conf: [watchdog] timeout: found '{f}'; allowed: {allowed}" for f in wanted]
        assert config.problems(str(pair_files.conf)) == lines


def test_the_addresses_are_renewed_with_the_datagrams(pair_files: "Box") -> None:
    pair_files.edit("cluster.conf", "interval = 100 ms", "interval = 800 ms")
    pair_files.edit("cluster.conf", "isolated_after = 180 ms", "isolated_after = 1 second")
    pair_files.edit("cluster.conf", "dead_after = 300 ms", "dead_after = 2 seconds")
    allowed = "at least three times [heartbeat] interval, which is 2.4 s"
    line = f"{pair_files.conf}/cluster.conf: [failover] lease: found '2 s'; allowed: {allowed}"
    assert config.problems(str(pair_files.conf)) == [line]
    pair_files.edit("cluster.conf", "lease = 2 seconds", "lease = 3 seconds")
    assert config.problems(str(pair_files.conf)) == []


@pytest.mark.parametrize("agent", ["fence_nowhere", "/nowhere/fence_x", "fence_text"])
def test_a_fence_agent_that_cannot_be_run_is_refused(pair_files: "Box", agent: str) -> None:
    (pair_files.bin / "fence_text").write_text("no program: nobody may execute it\n")
    pair_files.edit("cluster.conf", "agent = none ", f"agent = {agent} ")
    [line] = config.problems(str(pair_files.conf))
    assert line == (
        f"{pair_files.conf}/cluster.conf: [fence] agent: found '{agent}'; "
        "allowed: none, or a program that is installed on this node and executable"
    )
    with pytest.raises(ConfigError) as error:
        config.load(str(pair_files.conf), "serv1")
    assert error.value.exit_code == 78


def test_the_reader_is_told_what_was_read(pair_files: "Box") -> None:
    _, seen = configread.read(str(pair_files.conf))
    names = {os.path.relpath(path, pair_files.conf) for path in seen}
    assert names >= {".", "services", "cluster.conf", "serv1.conf", "serv2.conf", "services/smbd.conf"}
    assert "key" not in names
