"""Notices: a real SMTP server, a real sendmail stand-in, a real command; and what is kept when they fail."""

import ast
import asyncio
import email
import email.policy
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope

from clusterd import delivery, model, notify, paths, run, state
from clusterd.model import Config
from clusterd.notices import NOTICES

if TYPE_CHECKING:
    from unit.conftest import Box

ROOT = Path(__file__).resolve().parents[2]


class Postbox:
    """What the SMTP server has received; with `refuse` set it says so instead, to mails with `poison` only."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.refuse = ""
        self.poison = b""
        self.delay = 0.0
        """Seconds for which it has a mail before it says so."""
        self.port = 0

    async def handle_DATA(self, _server: object, _session: object, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.original_content or b""
        if self.refuse and self.poison in content:
            return self.refuse
        self.mails.append(email.message_from_bytes(content, policy=email.policy.default))
        await asyncio.sleep(self.delay)
        return "250 OK"


@pytest.fixture
def postbox() -> Iterator[Postbox]:
    box = Postbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        box.port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=box.port, ready_timeout=60, server_hostname="127.0.0.1")
    controller.start()
    yield box
    controller.stop()


Make = Callable[..., Config]


@pytest.fixture
def told(pair: Config) -> Make:
    """The pair's configuration with another [notify]."""

    def change(**changes: Any) -> Config:
        none = model.Notify(mail=(), sender="clusterd@example.org", smtp="", command=())
        return pair._replace(notify=none._replace(**changes))

    return change


@pytest.fixture
def by_smtp(told: Make, postbox: Postbox) -> Config:
    return told(mail=("ops@example.org", "root"), smtp=f"127.0.0.1:{postbox.port}")


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for what a detached process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def body(mail: EmailMessage) -> str:
    text = mail.get_content()
    assert isinstance(text, str)
    return text.replace("\r\n", "\n")


def events() -> list[dict[str, Any]]:
    with open(paths.EVENTS, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_a_mail_says_what_happened_what_was_done_and_what_to_do(by_smtp: Config, postbox: Postbox) -> None:
    notify.tell(
        by_smtp,
        "takeover-done",
        "serv1 is silent: took over serv1",
        did="Address and services moved here",
        group="serv1",
        epoch=4,
    )
    (mail,) = postbox.mails
    assert mail["Subject"] == "[clusterd office] serv1: serv1 is silent: took over serv1"
    assert mail["To"] == "ops@example.org, root"
    assert mail["From"] == "clusterd@example.org"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert all(len(line) < 80 for line in body(mail).splitlines())
    happened, did, todo, facts = (" ".join(part.split()) for part in body(mail).strip().split("\n\n"))
    assert happened == f"What happened: serv1 is silent: took over serv1. {NOTICES['takeover-done'].summary}"
    assert did == "What was done: Address and services moved here."
    assert todo == f"What to do: {NOTICES['takeover-done'].todo}"
    assert "notice: takeover-done" in facts
    assert "epoch: 4" in facts
    assert not notify.spooled()
    (event,) = events()
    assert (event["event"], event["level"], event["subject"]) == ("takeover-done", "warning", "serv1")


def test_lists_are_shown_an_entry_a_line_and_not_without_end(by_smtp: Config, postbox: Postbox) -> None:
    files = [f"/srv/samba/{number}" for number in range(250)]
    notify.tell(by_smtp, "unmirrored-found", "250 files", set="20261123-1", files=files)
    text = body(postbox.mails[0])
    assert "files:\n  /srv/samba/0\n  /srv/samba/1\n" in text
    assert "  … and 150 more" in text
    assert len(events()[0]["files"]) == 250


def test_names_that_are_no_text_do_not_keep_a_notice_back(by_smtp: Config, postbox: Postbox) -> None:
    notify.tell(by_smtp, "unmirrored-found", "bad\nname \udce9", set="s", files=["/srv/\udce9"])
    assert postbox.mails[0]["Subject"] == "[clusterd office] serv1: bad name \\udce9"
    assert "/srv/\\udce9" in body(postbox.mails[0])


def test_the_local_sendmail_is_used_without_an_smtp_host(told: Make, box: "Box") -> None:
    box.program("sendmail", f'[ "$*" = "-i -t" ] && cat > {box.root}/mail')
    notify.tell(told(mail=("root",)), "peer-dead", "serv2 is not heard", peer="serv2")
    mail = email.message_from_bytes((box.root / "mail").read_bytes(), policy=email.policy.default)
    assert mail["To"] == "root"
    assert "serv2 is not heard" in mail["Subject"]


def test_a_command_gets_the_event_as_json(told: Make, box: "Box") -> None:
    command = box.program("page", f"cat > {box.root}/event")
    notify.tell(told(command=(str(command), "-x")), "isolated", "nobody is heard", node="serv1")
    event = json.loads((box.root / "event").read_text())
    assert event["event"] == "isolated"
    assert event["level"] == "alert"
    assert event["text"] == "nobody is heard"
    assert event["title"].startswith("[clusterd office] serv1: ")
    assert "What to do: " in event["body"]


def test_one_event_one_notice_until_it_is_over(by_smtp: Config, postbox: Postbox) -> None:
    for _ in range(3):
        notify.tell(by_smtp, "path-down", "eth1 is silent", path="serv2/heartbeat")
    notify.tell(by_smtp, "path-down", "eth0 is silent", path="serv2/lan")
    assert len(postbox.mails) == 2
    notify.tell(by_smtp, "path-up", "eth1 is heard", path="serv2/heartbeat")
    notify.tell(by_smtp, "path-down", "eth1 is silent", path="serv2/heartbeat")
    assert len(postbox.mails) == 4
    assert len(events()) == 6


def test_what_happens_rather_than_lasts_is_news_each_time_but_not_without_end(
    by_smtp: Config, postbox: Postbox
) -> None:
    """A second takeover within the hour, a second standby: nobody said that the first one was over."""
    for number in range(1, 10):
        notify.tell(by_smtp, "takeover-done", f"serv2 has taken over serv1 (epoch {number})", group="serv1")
    assert len(postbox.mails) == notify.AT_MOST
    for reason in ("serv1 holds serv2", "put in standby by hand: new disk"):
        notify.tell(by_smtp, "standby-entered", reason)
    assert postbox.mails[-1]["Subject"].endswith("new disk")
    notify.tell(by_smtp, "fenced", "serv1 is off", peer="serv1")
    notify.tell(by_smtp, "fenced", "serv1 is off", peer="serv1")
    assert len(postbox.mails) == notify.AT_MOST + 4


def test_clear_makes_it_news_again(by_smtp: Config, postbox: Postbox) -> None:
    notify.clear("pass-failed", "smbd")
    for _ in range(2):
        notify.tell(by_smtp, "pass-failed", "exit 23", service="smbd")
        notify.clear("pass-failed", "smbd")
    assert len(postbox.mails) == 2


def test_what_flaps_is_told_a_few_times_an_hour(by_smtp: Config, postbox: Postbox) -> None:
    for _ in range(12):
        notify.tell(by_smtp, "path-down", "eth1 is silent", path="serv2/heartbeat")
        notify.clear("path-down", "serv2/heartbeat")
    assert len(postbox.mails) == notify.AT_MOST


def test_after_an_hour_it_is_told_again_with_the_count(
    by_smtp: Config, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        notify.tell(by_smtp, "pass-refused", "source is empty", service="smbd")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + notify.WINDOW + 1)
    notify.tell(by_smtp, "pass-refused", "source is empty", service="smbd")
    assert len(postbox.mails) == 2
    assert "it has happened 4 times more" in " ".join(body(postbox.mails[1]).split())


def test_a_clock_that_was_set_back_silences_nothing(
    by_smtp: Config, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    notify.tell(by_smtp, "pass-refused", "source is empty", service="smbd")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    notify.tell(by_smtp, "pass-refused", "source is empty", service="smbd")
    assert len(postbox.mails) == 2


def test_a_server_that_refuses_gets_it_later_and_the_command_once(
    told: Make, postbox: Postbox, box: "Box", monkeypatch: pytest.MonkeyPatch
) -> None:
    command = box.program("page", f"echo told >> {box.root}/calls")
    config = told(mail=("root",), smtp=f"127.0.0.1:{postbox.port}", command=(str(command),))
    postbox.refuse = "451 try again later"
    notify.tell(config, "peer-dead", "serv2 is not heard", peer="serv2")
    assert len(notify.spooled()) == 1
    assert events()[-1]["event"] == "notice-undelivered"
    postbox.refuse = ""
    notify.retry(config)
    until(lambda: not notify.spooled())
    assert "serv2 is not heard" in postbox.mails[0]["Subject"]
    assert (box.root / "calls").read_text() == "told\n"


def test_the_spool_goes_out_with_the_next_notice_in_order(by_smtp: Config, told: Make, postbox: Postbox) -> None:
    notify.tell(told(mail=("root",), smtp="127.0.0.1:1"), "peer-dead", "first", peer="serv2")
    assert len(notify.spooled()) == 1
    notify.tell(by_smtp, "peer-back", "second", peer="serv2")
    assert [mail["Subject"].split()[-1] for mail in postbox.mails] == ["first", "second"]


def subjects(postbox: Postbox) -> list[str]:
    return [mail["Subject"].split()[-1] for mail in postbox.mails]


def test_a_mail_that_is_refused_holds_up_no_other(by_smtp: Config, told: Make, postbox: Postbox) -> None:
    postbox.refuse, postbox.poison = "554 no", b"bad"
    away = told(mail=("root",), smtp="127.0.0.1:1")
    for word in ("bad", "second", "bad", "third"):
        notify.tell(away, "fenced", word, peer="serv2")
    notify.tell(by_smtp, "fenced", "fourth", peer="serv2")
    assert subjects(postbox) == ["second", "third", "fourth"]
    assert len(notify.spooled()) == 2
    assert "mail: (554, b'no')" in [event["text"] for event in events()]
    notify.tell(by_smtp, "fenced", "fifth", peer="serv2")
    assert subjects(postbox)[3:] == ["fifth"]


def test_an_event_that_the_command_refuses_holds_up_no_other(told: Make, box: "Box") -> None:
    command = box.program("page", f"text=$(cat); case $text in *bad*) exit 127; esac; echo x >> {box.root}/calls")
    config = told(command=(str(command),))
    for word in ("bad", "second", "bad", "third"):
        notify.tell(config, "fenced", word, peer="serv2")
    assert (box.root / "calls").read_text() == "x\nx\n"
    assert len(notify.spooled()) == 2


def rounds(config: Config, monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    """What cron does once a minute, in no time."""
    now = time.time()
    for minute in range(minutes):
        monkeypatch.setattr(time, "time", lambda minute=minute: now + 60 * minute + minute % 2)
        delivery.flush(config.notify)


def test_what_is_refused_is_tried_less_and_less_often(told: Make, box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    assert notify._spool({"event": {"event": "x"}, "title": "", "body": "", "told_by": [], "tries": 0})
    command = box.program("page", f"cat >/dev/null; echo x >> {box.root}/calls; exit 1")
    rounds(told(command=(str(command),)), monkeypatch, 190)
    assert len((box.root / "calls").read_text().split()) == len([0, 1, 3, 7, 15, 31, 63, 123, 183])
    assert [event["event"] for event in events()] == ["notice-undelivered"]


def test_a_command_that_hangs_on_one_event_holds_up_the_others_for_minutes(
    told: Make, box: "Box", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PATIENCE", 0.3)
    for word in ("bad", "second"):
        assert notify._spool({"event": {"event": word}, "title": "", "body": "", "told_by": [], "tries": 0})
    command = box.program("page", "text=$(cat); case $text in *bad*) sleep 9; esac")
    rounds(told(command=(str(command),)), monkeypatch, 4)
    assert len(notify.spooled()) == 1


class Script:
    """A mail server that says what the test wants, or hangs up instead ("" is said); how often it was called."""

    def __init__(self, **says: str) -> None:
        self.says = {"HELLO": "220 x", "EHLO": "250 x", "MAIL": "250 x", "RCPT": "250 x", "DATA": "354 x", **says}
        self.calls = 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.where = f"127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self.server.accept()[0] as talk, talk.makefile("rw", newline="\r\n") as file:
                self.calls += 1
                line = "HELLO"
                while line and (answer := self.says.get(line.split()[0].upper(), "250 x")):
                    file.write(f"{answer}\n")
                    file.flush()
                    line = file.readline()
                    while answer.startswith("354") and line not in ("", ".\r\n"):
                        line = file.readline()


@pytest.mark.parametrize(
    "says",
    [{"HELLO": "421 busy"}, {"HELLO": ""}, {"EHLO": "554 no", "HELO": "554 no"}, {"MAIL": ""}, {"MAIL": "421 busy"}],
)
def test_a_server_that_cannot_be_talked_to_is_left_alone_in_this_round_and_called_in_the_next(
    told: Make, says: dict[str, str], monkeypatch: pytest.MonkeyPatch, postbox: Postbox
) -> None:
    notify.tell(told(mail=("root",), smtp="127.0.0.1:1"), "fenced", "first", peer="serv2")
    notify.tell(told(mail=("root",), smtp="127.0.0.1:1"), "fenced", "second", peer="serv2")
    server = Script(**says)
    rounds(told(mail=("root",), smtp=server.where), monkeypatch, 5)
    assert server.calls == 5
    rounds(told(mail=("root",), smtp=f"127.0.0.1:{postbox.port}"), monkeypatch, 1)
    assert subjects(postbox) == ["first", "second"]


@pytest.mark.parametrize(
    "says", [{"MAIL": "550 no"}, {"RCPT": "550 no"}, {"DATA": "554 no"}, {".": "554 no"}, {".": ""}]
)
def test_what_is_said_to_one_mail_is_not_said_to_the_next(told: Make, says: dict[str, str]) -> None:
    notify.tell(told(mail=("root",), smtp="127.0.0.1:1"), "fenced", "first", peer="serv2")
    notify.tell(told(mail=("root",), smtp="127.0.0.1:1"), "fenced", "second", peer="serv2")
    server = Script(**says)
    assert delivery.flush(told(mail=("root",), smtp=server.where).notify) == 2
    assert server.calls == 2


def test_a_server_that_thinks_about_a_mail_gets_it_once(
    by_smtp: Config, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is busy for longer than anybody waits for a notice."""
    monkeypatch.setattr(notify, "LIMIT", 1.0)
    postbox.delay = delivery.PATIENCE + 1
    begun = time.monotonic()
    notify.tell(by_smtp, "peer-dead", "serv2 is not heard", peer="serv2")
    assert time.monotonic() - begun < delivery.PATIENCE
    until(lambda: not notify.spooled())
    assert len(postbox.mails) == 1


def test_one_that_never_says_whether_it_takes_a_mail_gets_it_once_too(
    by_smtp: Config, told: Make, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    notify.tell(told(mail=("root",), smtp="127.0.0.1:1"), "peer-dead", "serv2 is not heard", peer="serv2")
    monkeypatch.setattr(delivery, "ANSWER", 0.5)
    postbox.delay = 2
    assert delivery.flush(by_smtp.notify) == 0
    assert len(postbox.mails) == 1
    assert events()[-1]["event"] == "notice-unanswered"


def test_a_mail_that_has_not_left_this_machine_is_not_taken_for_delivered(
    told: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends in the very moment: what the kernel took to send has reached nobody."""
    monkeypatch.setattr(delivery, "ANSWER", 0.5)
    large = "x" * 500_000
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def polite() -> None:
            ours, _ = server.accept()
            with ours:
                ours.sendall(b"220 here\r\n")
                for _ in range(4):
                    word = ours.recv(1000).upper()
                    ours.sendall(b"354 go on\r\n" if word.startswith(b"DATA") else b"250 yes\r\n")
                over.wait(10)

        over = threading.Event()
        server.settimeout(20)
        thread = threading.Thread(target=polite, daemon=True)
        thread.start()
        to = told(mail=("root",), smtp=f"127.0.0.1:{server.getsockname()[1]}").notify
        event = {"event": "peer-dead", "level": "alert", "node": "serv1", "time": "2026-11-29T03:00:00+00:00"}
        try:
            with pytest.raises(OSError, match="closed"):
                delivery.mail(to, {"event": event, "title": "serv2", "body": large})
        finally:
            over.set()
            thread.join(30)


def test_a_round_comes_to_an_end(
    by_smtp: Config, told: Make, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in ("first", "second"):
        notify.tell(told(mail=("root",), smtp="127.0.0.1:1"), "fenced", word, peer="serv2")
    monkeypatch.setattr(delivery, "AT_MOST", 0.2)
    postbox.delay = 0.5
    assert [delivery.flush(by_smtp.notify), subjects(postbox)] == [1, ["first"]]
    assert [delivery.flush(by_smtp.notify), subjects(postbox)] == [0, ["first", "second"]]


def test_a_server_that_hangs_costs_a_bounded_time_and_nothing_is_lost(
    told: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LIMIT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        begun = time.monotonic()
        port = deaf.getsockname()[1]
        notify.tell(told(mail=("root",), smtp=f"127.0.0.1:{port}"), "peer-dead", "serv2", peer="serv2")
        assert time.monotonic() - begun < 8
    assert len(notify.spooled()) == 1


def test_detached_delays_nobody(told: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        begun = time.monotonic()
        port = deaf.getsockname()[1]
        notify.tell_detached(told(mail=("root",), smtp=f"127.0.0.1:{port}"), "isolated", "nobody is heard")
        assert time.monotonic() - begun < delivery.PATIENCE / 2


def test_detached_arrives(by_smtp: Config, postbox: Postbox) -> None:
    notify.tell_detached(by_smtp, "isolated", "nobody is heard", node="serv1")
    until(lambda: postbox.mails)


def test_a_spool_that_cannot_be_written_still_gets_one_try(by_smtp: Config, postbox: Postbox, box: "Box") -> None:
    (box.state / "notices").write_text("in the way")
    notify.tell(by_smtp, "peer-dead", "serv2 is not heard", peer="serv2")
    assert len(postbox.mails) == 1


def test_a_damaged_spool_file_does_not_hold_up_the_others(by_smtp: Config, postbox: Postbox) -> None:
    os.makedirs(paths.NOTICES)
    Path(f"{paths.NOTICES}/00000000000000000001-1.json").write_text("{")
    notify.tell(by_smtp, "peer-dead", "serv2 is not heard", peer="serv2")
    assert len(postbox.mails) == 1
    assert not notify.spooled()


def test_a_notice_that_nobody_takes_for_a_week_is_given_up(told: Make) -> None:
    config = told(mail=("root",), smtp="127.0.0.1:1")
    state.write(
        f"{paths.NOTICES}/{1:020d}-1.json",
        {
            "event": {"event": "x", "level": "info", "time": "2026-01-01T00:00:00+0000"},
            "title": "",
            "body": "",
            "told_by": [],
            "tries": 9,
        },
    )
    notify.tell(config, "peer-dead", "serv2", peer="serv2")
    assert len(notify.spooled()) == 1


def test_nobody_to_tell_is_no_error(told: Make) -> None:
    notify.tell(told(), "peer-dead", "serv2 is not heard", peer="serv2")
    assert not notify.spooled()
    assert len(events()) == 1


def test_it_never_raises(by_smtp: Config, capsys: pytest.CaptureFixture[str]) -> None:
    notify.tell(by_smtp, "peer-dead", "x", peer="serv2", thing=object())
    assert "not JSON serializable" in capsys.readouterr().err


def test_it_never_raises_when_nobody_reads_stderr_either(told: Make, lose_stderr: Callable[[], None]) -> None:
    lose_stderr()
    notify.tell(told(), "peer-dead", "x", peer="serv2", thing=object())


def test_dry_run_tells_nobody(
    by_smtp: Config, postbox: Postbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "dry_run", True)
    notify.tell(by_smtp, "peer-dead", "serv2 is not heard", peer="serv2")
    assert capsys.readouterr().out == "would tell: peer-dead: serv2 is not heard\n"
    assert not postbox.mails
    assert not os.path.exists(paths.EVENTS)


def test_runbook_and_table_agree() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    sections = re.findall(r"^### `?([a-z-]+)`?$", text, re.MULTILINE)
    assert sorted(sections) == sorted(NOTICES)


def test_every_notice_ends_only_known_ones_and_has_a_known_level() -> None:
    for name, notice in NOTICES.items():
        assert set(notice.ends) <= set(NOTICES), name
        assert notice.level in {"info", "notice", "warning", "error", "alert"}, name
        assert notice.summary.endswith("."), name


def test_the_notice_of_strangers_says_how_to_see_them(pair: Config) -> None:
    """The counters that it tells of have no addresses."""
    command = f"tcpdump -ni any udp port {pair.heartbeat.port}"
    assert command in NOTICES["strangers"].todo
    assert command in (ROOT / "docs" / "runbook.md").read_text()


def test_every_notice_that_the_program_tells_is_in_the_table() -> None:
    said = set()
    for path in (ROOT / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            position = 1 if name in {"notify.tell", "notify.tell_detached"} else 0 if name == "Condition" else None
            if position is None or len(node.args) <= position:
                continue
            word = node.args[position]
            if isinstance(word, ast.Constant):
                said.add(word.value)
    assert said <= set(NOTICES)
