"""The arbiter against a real etcd-server: the client, the steward, and what loop and scripts make of its grants."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import arbiter, etcd, model, network, paths, state, steward, view
from clusterd.arbiter import Grants, Want
from clusterd.errors import CannotTell, ConfigError, Failed
from clusterd.etcd import Claim, Etcd, LeaseGone, NoAnswer
from clusterd.lock import Lock
from clusterd.model import Config
from clusterd.picture import Me, Own
from clusterd.steward import Steward
from unit import etcdserver
from unit.etcdserver import Server
from unit.etcdserver import made_etcd_server as made_etcd_server

if TYPE_CHECKING:
    from unit.conftest import Box

TTL = 2.0
Make = Callable[..., Steward]


@pytest.fixture(name="settings")
def with_etcd(pair: Config, etcd_server: Server) -> Config:
    """The article's pair, asking a dead endpoint first."""
    dead = "http://127.0.0.1:1"
    about = etcdserver.arbiter(etcd_server, ttl=TTL)
    return pair._replace(
        arbiter=about._replace(endpoints=(dead, *about.endpoints)), failover=pair.failover._replace(lease=1.0)
    )


@pytest.fixture(name="make")
def making(settings: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a steward of a node; a test calls its `step`. The kernel has no group's address."""
    monkeypatch.setattr(network, "missing", lambda where: list(where.addresses))
    made: list[Steward] = []

    def make(node: str = "serv1", **changes: Any) -> Steward:
        one = Steward(settings._replace(**changes), {})
        one.me = node
        one.boot = f"the boot of {node}"
        made.append(one)
        if len(made) > 1:
            one.grants = Grants(one.boot)  # the file is that of the first one
        return one

    yield make
    for one in made:
        one.close()
        if one._thread.is_alive():
            one._thread.join(20)  # it writes to the folders of this test, which are its own only until it ends


def want(one: Steward, **groups: int) -> None:
    """As the loop does at every turn, and what the thread does then."""
    one.want({name: Want(epoch, "") for name, epoch in groups.items()}, view.now())
    one.step()


# --- the client ----------------------------------------------------------------------------------------------------


def test_a_dead_endpoint_is_passed_over(settings: Config) -> None:
    ask = Etcd(settings)
    lease, ttl = ask.new_lease(TTL)
    assert ttl == TTL
    assert ask.renew(lease) == (TTL, {})
    assert [client.port for client in ask.clients][-1] == 1, "the one that answered comes first from then on"
    assert ask.renew(lease + 1) == (0.0, {})


def test_nobody_answers(pair: Config) -> None:
    ask = Etcd(pair._replace(arbiter=model.Arbiter("etcd", ("http://127.0.0.1:1", "http://127.0.0.1:2"))))
    with pytest.raises(NoAnswer, match=r"127\.0\.0\.1: connection refused; 127\.0\.0\.1: connection refused"):
        ask.claims()


def test_an_endpoint_that_hangs_costs_its_timeout(settings: Config, etcd_server: Server) -> None:
    ask = Etcd(settings._replace(arbiter=etcdserver.arbiter(etcd_server, timeout=1.0)))
    ask.claims()
    etcd_server.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer in time"):
        ask.claims()
    assert 0.9 < time.monotonic() - began < 5.0
    etcd_server.signal(signal.SIGCONT)
    assert ask.claims() == {}


def test_a_claim_is_changed_only_by_who_has_seen_it(settings: Config) -> None:
    ask = Etcd(settings)
    lease, _ = ask.new_lease(TTL)
    mine = Claim("serv1", 3, "b1", lease, 0)
    assert ask.put("serv1", None, mine)
    assert not ask.put("serv1", None, mine._replace(node="serv2"))
    seen = ask.claims()["serv1"]
    assert seen._replace(revision=0) == mine
    assert ask.put("serv1", seen, mine._replace(epoch=4))
    assert not ask.put("serv1", seen, mine)
    assert not ask.delete("serv1", seen)
    assert ask.delete("serv1", ask.claims()["serv1"])
    assert ask.claims() == {}
    with pytest.raises(LeaseGone):
        ask.put("serv1", None, mine._replace(lease=4711))


def test_what_somebody_else_has_written_there_is_somebodys(settings: Config, etcd_server: Server) -> None:
    key, value = etcd._base64("/clusterd/office/groups/serv1"), etcd._base64("mine")
    etcd_server.post("/v3/kv/put", {"key": key, "value": value})
    assert Etcd(settings).claims()["serv1"].node == "somebody"


def test_the_users_of_etcd(settings: Config, etcd_server: Server, tmp_path: Path) -> None:
    for path, body in (
        ("user/add", {"name": "root", "password": "r"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "clusterd", "password": "s3cret"}),
        ("user/grant", {"user": "clusterd", "role": "root"}),
        ("enable", {}),
    ):
        etcd_server.post(f"/v3/auth/{path}", body)
    with pytest.raises(NoAnswer):
        Etcd(settings).claims()
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    about = settings.arbiter._replace(user="clusterd", password_file=str(secret), timeout=5.0)
    ask = Etcd(settings._replace(arbiter=about))
    lease, _ = ask.new_lease(TTL)
    assert ask.put("serv1", None, Claim("serv1", 1, "b", lease, 0))
    for client in ask.clients:
        client.session.headers["Authorization"] = "an old token"
    assert "serv1" in ask.claims()
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="found mode 0644"):
        Etcd(settings._replace(arbiter=about))


def test_tls_with_certificates_on_both_sides(pair: Config, tmp_path: Path) -> None:
    tls = certificates(tmp_path)
    server = Server(tmp_path / "etcd", tls)
    server.start()
    try:
        with pytest.raises(NoAnswer, match="certificate"):
            Etcd(pair._replace(arbiter=etcdserver.arbiter(server))).claims()
        files = {name: f"{tls}/{name}" for name in ("ca.pem", "client.pem", "client.key")}
        about = etcdserver.arbiter(server)._replace(ca=files["ca.pem"])
        with pytest.raises(NoAnswer):
            Etcd(pair._replace(arbiter=about)).claims()
        about = about._replace(cert=files["client.pem"], key=files["client.key"])
        ask = Etcd(pair._replace(arbiter=about))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert ask.claims() == {}
                break
            except NoAnswer:  # it has no leader yet
                time.sleep(0.1)
        os.rename(files["ca.pem"], f"{tls}/away")  # while it is renewed, say
        with pytest.raises(NoAnswer, match=r"ca\.pem"):
            ask.claims()
        os.rename(f"{tls}/away", files["ca.pem"])
        assert ask.claims() == {}
        os.chmod(files["client.key"], 0o640)
        with pytest.raises(ConfigError, match="found mode 0640"):
            Etcd(pair._replace(arbiter=about))
    finally:
        server.stop()


def certificates(folder: Path) -> Path:
    """An authority of our own, a server's certificate for 127.0.0.1, and a client's."""
    made = folder / "tls"
    made.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=made, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (made / "more").write_text("subjectAltName=IP:127.0.0.1\n")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "more"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    os.chmod(made / "client.key", 0o600)
    return made


def test_a_renewal_by_a_leader_that_is_none_any_more_does_not_count(
    settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs, another one was elected; here: the terms of the renewal and of the read after it differ."""
    ask = Etcd(settings)
    lease, _ = ask.new_lease(TTL)
    read = ask._read
    monkeypatch.setattr(ask, "_read", lambda client: {**read(client), "header": {"raft_term": "4711"}})
    with pytest.raises(NoAnswer, match="an election came in between"):
        ask.renew(lease)


# --- the steward ---------------------------------------------------------------------------------------------------


def test_what_is_wanted_is_granted_and_what_is_not_is_given_back(make: Make) -> None:
    one = make()
    began = view.now()
    want(one, serv1=3)
    assert one.grants.groups == {"serv1": ""}
    assert began + TTL * 0.9 < one.grants.until <= view.now() + TTL
    assert one.etcd.claims()["serv1"][:3] == ("serv1", 3, "the boot of serv1")
    want(one, serv1=4)
    one.next_renewal = 0.0
    want(one, serv1=4)
    assert one.etcd.claims()["serv1"].epoch == 4
    want(one)
    one.step()
    assert one.etcd.claims() == {}
    assert one.grants.groups == {}


def test_what_another_has_is_denied_until_its_lease_ends(make: Make) -> None:
    one, other = make(), make("serv2")
    want(one, serv1=3)
    want(other, serv1=4, serv2=1)
    assert other.grants.groups == {"serv2": ""}
    assert other.grants.others["serv1"][0] == "serv1"
    end = view.now() + 20
    while "serv1" not in other.grants.groups:  # `one` renews nothing any more
        assert view.now() < end
        want(other, serv1=4, serv2=1)
        if "serv1" in other.grants.groups:
            assert view.now() > one.grants.until, "a grant was good for less than it was said to be"
        time.sleep(0.02)
    one.want({"serv1": Want(3, "")}, view.now())
    one.next_renewal = 0.0
    one.step()
    one.step()
    assert one.grants.groups == {} and one.grants.others["serv1"][0] == "serv2"


def test_nothing_is_given_back_while_its_address_is_here(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make()
    where = network.place(one.config, "serv1", one.config.me())
    one.places = {"serv1": where}
    want(one, serv1=3)
    monkeypatch.setattr(network, "missing", lambda where: [])
    want(one)
    assert one.grants.groups == {}, "nobody may rely on it any more"
    assert "serv1" in one.etcd.claims(), "but nobody else may have it, either"
    monkeypatch.setattr(network, "missing", lambda where: list(where.addresses))
    want(one)
    assert one.etcd.claims() == {}


def test_a_removal_that_comes_late_removes_nothing_that_is_wanted_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer came to it; the group is wanted again; then it happens after all."""
    one = make()
    want(one, serv1=3)
    seen = one.etcd.claims()["serv1"]
    with monkeypatch.context() as unanswered:
        unanswered.setattr(one.etcd, "delete", lambda group, claim: False)
        want(one)
    want(one, serv1=3)
    assert one.grants.groups == {"serv1": ""}
    assert not one.etcd.delete("serv1", seen)


def test_while_etcd_is_away_the_grant_runs_out_and_nothing_else(make: Make, etcd_server: Server) -> None:
    one = make()
    want(one, serv1=3)
    until = one.grants.until
    etcd_server.signal(signal.SIGSTOP)
    one.next_renewal = 0.0
    want(one, serv1=3)
    lost = one.grants.lost_since
    assert lost is not None and one.grants.why
    want(one, serv1=3)
    assert (one.grants.until, one.grants.groups, one.grants.lost_since) == (until, {"serv1": ""}, lost)
    etcd_server.signal(signal.SIGCONT)
    end = view.now() + 20
    while one.grants.lost_since is not None:
        assert view.now() < end
        want(one, serv1=3)
    assert one.grants.until > until and one.grants.groups == {"serv1": ""}


def test_a_loop_that_hangs_has_nothing_renewed(make: Make) -> None:
    """Its addresses lapse: the other node must be able to have the groups."""
    one = make()
    want(one, serv1=3)
    until = one.grants.until
    one.ticked -= 10.0
    one.next_renewal = 0.0
    one.step()
    assert one.grants.until == until


def test_a_loop_that_starts_again_goes_on_with_the_lease(make: Make, settings: Config) -> None:
    one = make()
    one.boot = state.boot_id()
    one.grants = one.grants._replace(boot=one.boot)
    want(one, serv1=3)
    again = Steward(settings, {})
    again.step()
    assert again.grants == one.grants, "the new loop has not said yet what it wants"
    want(again, serv1=3)
    assert again.grants.lease == one.grants.lease


@pytest.mark.parametrize("ttl", [20.0, 1.0])
def test_with_another_ttl_it_goes_over_to_another_lease_and_nothing_lapses(
    make: Make, settings: Config, monkeypatch: pytest.MonkeyPatch, ttl: float
) -> None:
    """One that was made for two seconds, and renewed every two as is right for twenty, has ended before."""
    one = make()
    one.boot = state.boot_id()
    one.grants = one.grants._replace(boot=one.boot)
    want(one, serv1=3)
    old, published = one.grants, []
    again = Steward(settings._replace(arbiter=settings.arbiter._replace(ttl=ttl)), {})
    again.boot = old.boot
    publish = again._publish

    def keep(grants: Grants) -> None:
        published.append(grants)
        publish(grants)

    monkeypatch.setattr(again, "_publish", keep)
    before = view.now()
    want(again, serv1=3)
    assert again.grants.lease != old.lease and again.grants.groups == {"serv1": ""}
    assert Etcd(settings).claims()["serv1"].lease == again.grants.lease
    assert all("serv1" in grants.groups and grants.until > before for grants in published)
    assert again.next_renewal - before < 0.2 * ttl
    assert (again.grants.until - before > 2 * TTL) == (ttl > TTL)
    lease = again.grants.lease
    again.next_renewal = 0.0
    want(again, serv1=3)
    assert again.grants.lease == lease, "it is made once, though etcd may give it more than was asked"


def test_what_a_fenced_node_had_is_taken_at_once(make: Make) -> None:
    one, other = make(), make("serv2")
    want(one, serv1=3)
    arbiter.note_boot_over("serv1", "an earlier boot")
    want(other, serv1=4)
    assert other.grants.groups == {}
    arbiter.note_boot_over("serv1", "the boot of serv1")
    want(other, serv1=4)
    assert other.grants.groups == {"serv1": ""}


def test_that_etcd_answers_now_is_known_from_its_next_answer(settings: Config, etcd_server: Server, make: Make) -> None:
    """Its last one was a moment ago, and is good for a while: it says nothing of now."""
    one = make()
    one.grants = Grants(state.boot_id())
    one.boot = state.boot_id()
    want(one, serv1=3)
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.01):
            one.ticked = view.now()
            one.step()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        asked = view.now()
        assert arbiter.check_answers(settings)
        assert view.now() - asked < TTL
        etcd_server.signal(signal.SIGSTOP)
        arbiter.check(settings)
        asked = view.now()
        with pytest.raises(CannotTell, match="does not answer serv1"):
            arbiter.check_answers(settings, "nothing is done")
        assert view.now() - asked < 2 * TTL
        etcd_server.signal(signal.SIGCONT)
        assert arbiter.check_answers(settings)
    finally:
        etcd_server.signal(signal.SIGCONT)
        over.set()
        thread.join()


def test_without_an_arbiter_nobody_is_asked(pair: Config) -> None:
    assert not arbiter.check_answers(pair)


def test_a_claim_that_somebody_has_removed_is_no_grant(make: Make) -> None:
    one, other = make(), make("serv2")
    want(one, serv1=3)
    assert one.etcd.delete("serv1", one.etcd.claims()["serv1"])
    want(other, serv1=4)
    one.next_renewal = 0.0
    want(one, serv1=3)
    assert one.grants.groups == {}


def test_the_thread_does_it_by_itself(make: Make) -> None:
    one = make()
    one.start()
    end = view.now() + 20
    lease_began = view.now()
    while "serv1" not in one.grants.groups or view.now() < lease_began + 2 * TTL:
        assert view.now() < end
        one.want({"serv1": Want(3, "")}, view.now())
        time.sleep(0.02)
    assert one.grants.until > view.now()


def test_whatever_goes_wrong_it_is_lost_and_said_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a node that will not be granted anything more would pass for one that etcd answers."""
    one = make()

    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(one, "step", fails)
    one.start()
    end = view.now() + 20
    while one.grants.lost_since is None:
        assert view.now() < end
        time.sleep(0.02)
    time.sleep(3 * steward.AGAIN)
    assert one.grants.why == "RuntimeError: a bug"
    events = [json.loads(line)["event"] for line in Path(paths.EVENTS).read_text().splitlines()]
    assert events.count("arbiter-trouble") == 1


# --- what the loop makes of it -------------------------------------------------------------------------------------


def me(**about: Any) -> Me:
    return Me("serv1", {"serv1": Own("serv1", epoch=3, **about), "serv2": Own("serv2", epoch=5)})


def test_the_grants_in_the_picture() -> None:
    granted = Grants("b", 1, 900.0, {"serv1": ""}, {"serv2": ["serv2", 890.0]}, None, "", True)
    seen = arbiter.note(me(), granted, 895.0, 2.0)
    assert seen.groups["serv1"].granted_until == 900.0
    assert (seen.groups["serv2"].granted_until, seen.groups["serv2"].denied_to) == (0.0, "serv2")
    assert seen.arbiter_lost_since is None
    lost = arbiter.note(me(), granted._replace(lost_since=894.0, why="refused"), 895.0, 2.0)
    assert (lost.arbiter_lost_since, lost.arbiter_why) == (894.0, "refused")


def test_before_etcds_first_word_nothing_is_let_go_of_and_nothing_renewed() -> None:
    seen = arbiter.note(me(held=True, up=True), Grants("b"), 895.0, 2.0)
    assert seen.groups["serv1"].granted_until == 897.0


@pytest.mark.usefixtures("box")
def test_what_is_wanted() -> None:
    assert arbiter.wants(me(), {}) == {}
    assert arbiter.wants(me(held=True, up=True), {}) == {"serv1": Want(3, "")}
    assert arbiter.wants(me(held=True), {}) == {}, "suspended: somebody else may have it"
    assert arbiter.wants(me(ordered="resume", held=True), {}) == {"serv1": Want(3, "")}
    assert arbiter.wants(me(ordered="acquire", intended=7), {}) == {"serv1": Want(7, "")}
    assert arbiter.wants(me(), {"serv2": 6}) == {"serv2": Want(6, "")}


# --- what the scripts make of it -----------------------------------------------------------------------------------


def test_without_an_arbiter_nothing_is_asked(pair: Config) -> None:
    arbiter.obtain(pair, pair.group("serv1"), 3, ordered=False, seconds=0.0)
    arbiter.still(pair, pair.group("serv1"))
    arbiter.check(pair)
    assert arbiter.steward(pair, {}) is None


def publish(settings: Config, seconds: float = 4.0, **about: Any) -> None:
    made: dict[str, Any] = {"lease": 1, "until": view.now() + seconds, "groups": {"serv1": ""}, "told": True}
    arbiter.write(Grants(**{"boot": state.boot_id(), **made, **about}))


def test_a_script_that_was_ordered_needs_a_grant_that_outlives_the_address(settings: Config) -> None:
    group = settings.group("serv1")
    publish(settings)
    arbiter.obtain(settings, group, 3, ordered=True, seconds=0.0)
    arbiter.still(settings, group)
    publish(settings, seconds=1.0)
    with pytest.raises(CannotTell, match="has not granted serv1"):
        arbiter.obtain(settings, group, 3, ordered=True, seconds=0.05)
    with pytest.raises(CannotTell, match="has ended"):
        arbiter.still(settings, group)
    publish(settings, boot="another boot")
    with pytest.raises(CannotTell):
        arbiter.still(settings, group)


def test_a_script_by_hand_relies_only_on_what_was_granted_to_its_own_question(settings: Config) -> None:
    """The watchdog may be giving back just now what it had asked for itself."""
    group = settings.group("serv1")
    publish(settings)
    with pytest.raises(CannotTell):
        arbiter.obtain(settings, group, 3, ordered=False, seconds=0.05)
    assert arbiter.asking("serv1") is None, "the lock is not ours"
    with Lock("group-serv1"):

        def grant() -> None:
            while (mark := arbiter.asking("serv1")) is None or mark.epoch != 7:
                time.sleep(0.01)
            publish(settings, groups={"serv1": mark.token})

        helper = threading.Thread(target=grant)
        helper.start()
        arbiter.obtain(settings, group, 7, ordered=False, seconds=20.0)
        helper.join()
        mark = arbiter.asking("serv1")
        assert mark is not None and mark.epoch == 7
        assert arbiter.wants(me(busy=True), {}) == {"serv1": mark}
    assert arbiter.asking("serv1") is None


def test_it_says_who_has_the_group(settings: Config) -> None:
    publish(settings, groups={}, others={"serv1": ["serv2", 1.0]})
    with pytest.raises(Failed, match="serv2 has serv1 in etcd"):
        arbiter.obtain(settings, settings.group("serv1"), 3, ordered=True, seconds=0.0)


def test_a_successor_that_does_not_reach_etcd_is_not_ready(settings: Config) -> None:
    with pytest.raises(CannotTell):
        arbiter.check(settings, seconds=0.05)
    publish(settings)
    arbiter.check(settings, seconds=0.05)
    publish(settings, lost_since=1.0)
    with pytest.raises(CannotTell, match="out of reach from serv1"):
        arbiter.check(settings, seconds=0.05)


def test_a_successor_whose_last_question_went_unanswered_is_ready_at_the_next_answer(settings: Config) -> None:
    """A busy machine: the steward asks again after a moment."""
    publish(settings, lost_since=1.0)
    helper = threading.Timer(0.3, publish, (settings,))
    helper.start()
    arbiter.check(settings)
    helper.join()
    found = arbiter.read()
    assert found is not None and found.lost_since is None


def test_its_line_for_people(settings: Config) -> None:
    now = view.now()
    grants = Grants("b", 1, now + 3.0, {"serv1": ""}, told=True)
    assert arbiter.show(settings, grants, now)["text"] == "etcd answers; granted here: serv1"
    assert arbiter.show(settings, grants, now)["good"] == 3.0
    lost = arbiter.show(settings, grants._replace(lost_since=now - 4), now)
    assert lost["text"] == "etcd has not answered for 4 s"


# --- the configuration ---------------------------------------------------------------------------------------------


def test_etcd3gw_that_is_not_installed_is_told(pair_files: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    from clusterd import config, configarbiter

    pair_files.edit("cluster.conf", "kind = reference", "kind = etcd\nendpoints = https://10.9.0.31:2379")
    assert config.problems(str(pair_files.conf)) == []
    monkeypatch.setattr(configarbiter, "PACKAGE", "no_such_package")
    (line,) = config.problems(str(pair_files.conf))
    assert line.endswith("[arbiter] kind: found 'etcd'; allowed: reference; etcd needs the Python package "
                         "no_such_package: make install EXTRAS=etcd")  # fmt: skip


def test_openssl_and_etcd_are_there() -> None:
    """tests/host-packages installs them."""
    assert shutil.which("openssl") and shutil.which("etcd")
    assert steward.RENEWALS > 2
