"""Delivers notices, in a process of its own: ``python -m clusterd.delivery``, started by clusterd.notify only.

Its stdin says whom to tell and how. What could not be delivered stays in the spool for the next time.
"""

import json
import os
import signal
import sys
import time
from typing import Any

from clusterd import lock, log, model, notify, run, state
from clusterd.errors import Busy, ClusterdError, Failed

PATIENCE = 5.0
"""Seconds for each step of a talk to a mail server, and for the command to read and act."""
AT_MOST = 30
"""Seconds for everything."""
KEPT = 200
"""Notices in the spool; of more, the oldest go."""
KEPT_FOR = 7 * 86400.0
"""Seconds after which a notice that nobody took is given up; events.jsonl has it."""


def main() -> int:
    """Deliver what is spooled, and what could not be spooled; 1 if anything is left."""
    signal.alarm(AT_MOST)
    order = json.load(sys.stdin)
    to = model.Notify(**order["notify"])
    missing = [message for message in order["homeless"] if not deliver(to, message, set())]
    try:
        held = _wait_for_lock()
    except Busy:
        return 1  # whoever holds it looks again before it ends
    with held:
        return 1 if flush(to) or missing else 0


def flush(to: model.Notify) -> int:
    """Deliver the whole spool, oldest first; what is left. A means that fails is not tried again in this round."""
    broken: set[str] = set()
    seen: set[str] = set()
    left = 0
    while waiting := [path for path in _spool() if path not in seen]:
        for path in waiting:
            seen.add(path)
            left += not _one(to, path, broken)
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
    for name in wanted:
        if name in message["told_by"] or name in broken:
            continue
        try:
            means[name][1](to, message)
            message["told_by"].append(name)
        except (OSError, ValueError, ClusterdError) as error:
            broken.add(name)
            if message["tries"] == 1:
                log.event("notice-undelivered", f"{name}: {error}", level="warning", title=message["title"])
    return all(name in message["told_by"] for name in wanted)


def command(to: model.Notify, message: dict[str, Any]) -> None:
    """Give the event, with the notice's text, as JSON to the administrator's command.

    Raises:
        Failed: it did not exit 0 in time.
    """
    event = {**message["event"], "title": message["title"], "body": message["body"]}
    run.check(to.command, timeout=PATIENCE, stdin=json.dumps(event), changes=False)


def mail(to: model.Notify, message: dict[str, Any]) -> None:
    """Send the notice as a mail, by SMTP or by the local sendmail.

    Raises:
        OSError: the server cannot be reached or refuses it (smtplib's errors are such).
        Failed: sendmail did not take it.
    """
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
    if not to.smtp:
        run.check(("sendmail", "-i", "-t"), timeout=PATIENCE, stdin=written.as_bytes(), changes=False)
        return
    import smtplib

    host, _, port = to.smtp.rpartition(":") if to.smtp.rpartition(":")[2].isdigit() else (to.smtp, "", "25")
    # Its own idea of a name for HELO would ask the DNS, which may be gone as well.
    with smtplib.SMTP(host.strip("[]"), int(port), local_hostname=node, timeout=PATIENCE) as server:
        server.send_message(written)


def _plain(text: str) -> str:
    """Text without the halves of characters that stand for undecodable bytes of file names."""
    return text.encode("utf-8", "backslashreplace").decode()


def _spool() -> list[str]:
    """The files of the spool, oldest first; of too many, the oldest are dropped."""
    files = notify.spooled()
    for path in files[:-KEPT]:
        state.remove(path)
    return files[-KEPT:]


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
