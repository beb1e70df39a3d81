"""Delivers notices, in a process of its own: ``python -m clusterd.delivery``, started by clusterd.notify only.

Its stdin says whom to tell and how. What could not be delivered stays in the spool for the next time.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from clusterd import lock, log, model, notify, run, state
from clusterd.errors import Busy, ClusterdError, Failed

if TYPE_CHECKING:
    from email.message import EmailMessage

PATIENCE = 5.0
"""Seconds for each step of a talk to a mail server, and for the command to read and act."""
ANSWER = 60.0
"""Seconds for a mail server to say whether it takes the mail that it has got; it may look for viruses first."""
AT_MOST = 30.0
"""Seconds after which no other notice is begun; the next round has the rest."""
END = int(AT_MOST + 2 * ANSWER)
"""Seconds after which it is ended, whatever it is doing."""
KEPT = 200
"""Notices in the spool; of more, the oldest go."""
KEPT_FOR = 7 * 86400.0
"""Seconds after which a notice that nobody took is given up; events.jsonl has it."""
LONGEST = 60
"""Minutes between two tries of a notice that is refused, at most."""
NOT_THERE = 127
"""The exit code of a program that there is not."""


class Refused(Failed):
    """This notice was not taken; another one may be. It is tried again, but less and less often."""


class Hung(Refused):
    """It may be due to this notice, or not: it costs too long to try another one in this round."""


def main() -> int:
    """Deliver what is spooled, and what could not be spooled; 1 if anything is left."""
    signal.alarm(END)
    order = json.load(sys.stdin)
    to = model.Notify(**order["notify"])
    missing = [message for message in order["homeless"] if not deliver(to, message, set())]
    try:
        held = _wait_for_lock()
    except Busy:
        return 1  # whoever holds it looks again before it ends, or it has the next minute
    with held:
        return 1 if flush(to) or missing else 0


def flush(to: model.Notify) -> int:
    """Deliver the whole spool, oldest first; what is left. A means that fails is not tried again in this round.

    One that refuses a notice is: the others have nothing to do with it.
    """
    end = time.monotonic() + AT_MOST
    broken: set[str] = set()
    seen: set[str] = set()
    left = 0
    while waiting := [path for path in _spool() if path not in seen]:
        for path in waiting:
            seen.add(path)
            left += time.monotonic() > end or not _one(to, path, broken)
    return left


def _one(to: model.Notify, path: str, broken: set[str]) -> bool:
    try:
        message = state.read(path)
    except Failed as error:
        log.debug(str(error))
        message = None
    if message is None or deliver(to, message, broken) or _too_old(path):
        state.remove(path)
        return True
    state.write(path, message, durable=False)
    return False


def deliver(to: model.Notify, message: dict[str, Any], broken: set[str]) -> bool:
    """Tell by every means that is configured, works and has not told it yet; whether all have told it now."""
    means = {"command": (to.command, command), "mail": (to.mail, mail)}
    wanted = [name for name, (whom, _) in means.items() if whom]
    message["tries"] += 1
    refusals = message.setdefault("refused", {})
    for name in wanted:
        times, last = refusals.get(name, (0, 0.0))
        if name in message["told_by"] or name in broken or _too_soon(times, last):
            continue
        try:
            means[name][1](to, message)
            message["told_by"].append(name)
        except (OSError, ValueError, ClusterdError) as error:
            refused = isinstance(error, (Refused, ValueError))
            if refused:
                refusals[name] = (times + 1, time.time())
            if not refused or isinstance(error, Hung):
                broken.add(name)
            if message["tries"] == 1 or (refused and not times):
                log.event("notice-undelivered", f"{name}: {error}", level="warning", title=message["title"])
    return all(name in message["told_by"] for name in wanted)


def command(to: model.Notify, message: dict[str, Any]) -> None:
    """Give the event, with the notice's text, as JSON to the administrator's command.

    Raises:
        Refused: it did not exit 0.
        Hung: it did not end in time.
    """
    event = {**message["event"], "title": message["title"], "body": message["body"]}
    result = run.run(to.command, timeout=PATIENCE, stdin=json.dumps(event), changes=False)
    if not result.ok:
        raise (Hung if result.timed_out else Refused)(result.why())


def mail(to: model.Notify, message: dict[str, Any]) -> None:
    """Send the notice as a mail, by SMTP or by the local sendmail.

    Raises:
        OSError: the server cannot be reached, or talked to (smtplib's errors are such).
        Failed: sendmail takes nothing now.
        Refused: this mail was not taken.
    """
    written = _written(to, message)
    if to.smtp:
        _by_smtp(to.smtp, written)
        return
    result = run.run(("sendmail", "-i", "-t"), timeout=PATIENCE, stdin=written.as_bytes(), changes=False)
    if not result.ok:
        later = result.code in (None, NOT_THERE, os.EX_NOHOST, os.EX_TEMPFAIL)
        raise (Failed if later else Refused)(result.why())


def _written(to: model.Notify, message: dict[str, Any]) -> "EmailMessage":
    """The notice as a mail."""
    from email.message import EmailMessage
    from email.utils import formatdate, make_msgid

    event, node = message["event"], os.uname().nodename
    written = EmailMessage()
    written["From"] = to.sender or f"clusterd@{node}"
    written["To"] = ", ".join(to.mail)
    written["Subject"] = _plain(message["title"])
    written["Date"] = formatdate(time.mktime(time.strptime(event["time"][:19], "%Y-%m-%dT%H:%M:%S")), localtime=True)
    written["Message-ID"] = make_msgid("clusterd", node)
    written["Auto-Submitted"] = "auto-generated"
    written["X-Clusterd-Event"] = f"{event['event']} {event['level']}"
    written.set_content(_plain(message["body"]))
    return written


def _by_smtp(where: str, written: "EmailMessage") -> None:
    import fcntl
    import smtplib
    import termios

    class Server(smtplib.SMTP):
        """Knows whether it has got the mail to its end, and is given more time then."""

        whole = False

        def send(self, s: Any) -> None:
            super().send(s)
            content = isinstance(s, bytes)  # a command is text
            self.whole |= content
            if self.sock:
                self.sock.settimeout(ANSWER if content else PATIENCE)

        def close(self) -> None:
            if self.sock and self.whole:
                # What the other end has not acknowledged is still here, and goes with the connection.
                left = fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4))
                self.whole = int.from_bytes(left, sys.byteorder) == 0
            super().close()

    host, _, port = where.rpartition(":") if where.rpartition(":")[2].isdigit() else (where, "", "25")
    # Its own idea of a name for HELO would ask the DNS, which may be gone as well.
    server = Server(host.strip("[]"), int(port), local_hostname=os.uname().nodename, timeout=PATIENCE)
    try:
        server.ehlo_or_helo_if_needed()
        try:
            server.send_message(written)
        except OSError as error:
            if server.whole and isinstance(error.__context__, TimeoutError):
                # It has the mail, and most probably sends it on. Given it again it would be as late again, and the
                # reader would get one every minute (RFC 1047).
                log.event("notice-unanswered", f"mail: no answer in {ANSWER:g} s; taken for delivered", level="warning")
            elif server.whole or server.sock:
                raise Refused(str(error)) from None
            else:
                raise  # the connection ended before it had seen the mail
    finally:
        with suppress(OSError):
            server.quit()


def _plain(text: str) -> str:
    """Text without the halves of characters that stand for undecodable bytes of file names."""
    return text.encode("utf-8", "backslashreplace").decode()


def _spool() -> list[str]:
    """The files of the spool, oldest first; of too many, the oldest are dropped."""
    files = notify.spooled()
    for path in files[:-KEPT]:
        state.remove(path)
    return files[-KEPT:]


def _too_soon(times: int, last: float) -> bool:
    """Whether a notice that was refused so many times has to wait: for the next round, then for 2, 4, 8 … minutes, less
    the half of one, for cron's rounds are not that exact.
    """
    return times > 1 and 0 <= time.time() - last < 60 * min(2 ** (times - 1), LONGEST) - 30


def _too_old(path: str) -> bool:
    written = int(os.path.basename(path).partition("-")[0]) / 1e9
    return time.time() - written > KEPT_FOR


def _wait_for_lock() -> lock.Lock:
    """The lock on the spool, which another delivery may hold for some seconds."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return lock.Lock("notices").acquire()
        except Busy:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    log.program = "notify"
    sys.exit(main())
