"""Telling a person: the event log, mail, and a command of the administrator's. One event, one notice.

A notice is written to a spool first and delivered by a process of its own (clusterd.delivery): a mail server that
hangs, or a crash, loses nothing and delays nobody for longer than `LIMIT`.
"""

import json
import os
import sys
import time
from typing import Any

from clusterd import log, model, paths, run, state
from clusterd.errors import Failed
from clusterd.model import Config
from clusterd.notices import NOTICES, Notice

LIMIT = 10.0
"""Seconds that `tell` may take at most."""
WINDOW = 3600.0
"""Seconds in which the same notice is not sent again; what came meanwhile is counted."""
AT_MOST = 6
"""Notices of one kind about one subject in a window, even if each was over before the next."""
LISTED = 100
"""Entries of a list (of files, say) that a notice shows."""
SUBJECTS = ("group", "service", "peer", "path", "set")
"""Facts that say what a notice is about, if the caller does not."""

_KNOWN = ("first", "told", "missed", "over", "unsaid")
_UNKNOWN = Notice("warning", "", "Look at the events: cluster logs")


def tell(
    config: Config,
    name: str,
    text: str,
    *,
    subject: str = "",
    did: str = "",
    todo: str = "",
    level: str | None = None,
    wait: bool = True,
    closes: bool = False,
    at: log.Moment | None = None,
    **facts: Any,
) -> None:
    """Record an event and tell a person about it, by mail and command. Never raises; takes `LIMIT` at most.

    The same `name` about the same `subject` is not sent again until `clear`, or a notice that ends it, or an hour;
    what happens, rather than lasts (`Notice.each`), is news each time, a few times an hour.

    Args:
        config: says whom to tell, and how.
        name: one of `NOTICES`; its summary, level and advice are used.
        text: what happened, in one line.
        subject: what it is about; a group, service, peer, path or set among the facts if not given.
        did: what the program has done about it.
        todo: advice that fits better than the table's.
        level: overrides the table's.
        wait: False in the seconds of an outage: delivery is begun and not waited for.
        closes: if a person has been told of what it ends, this is told as well, however often it was before.
        at: when it happened, if that is told later.
        facts: JSON values for events.jsonl and the command; lists are shown in the mail, an entry a line.
    """
    notice = NOTICES.get(name, _UNKNOWN)
    subject = subject or next((str(facts[key]) for key in SUBJECTS if facts.get(key)), "")
    if run.dry_run:
        print(f"would tell: {name}: {text}", flush=True)
        return
    try:
        event = log.event(name, text, level=level or notice.level, at=at, **{"subject": subject, **facts})
        told = [ended for ended in notice.ends if clear(ended, subject)]
        again = _due(name, subject, owed=closes and bool(told))
        if again is None or not (config.notify.mail or config.notify.command):
            return
        title = f"[clusterd {config.name}] {model.hostname()}: {_line(text)}"
        message = {
            "event": event,
            "title": title,
            "body": compose(name, text, did, todo, again, facts),
            "told_by": [],
            "tries": 0,
        }
        _deliver(config, [] if _spool(message) else [message], wait=wait)
    except Exception as error:  # noqa: BLE001 - no notice is worth a takeover
        log.complain(f"{log.program}: {name}: {error}")


def tell_detached(config: Config, name: str, text: str, **facts: Any) -> None:
    """Like `tell`, for the seconds of an outage: delivery is not waited for."""
    tell(config, name, text, wait=False, **facts)


def remind(config: Config, name: str, text: str, *, subject: str) -> None:
    """Tell of what lasts if it has begun anew and was one too many for its hour, and that is over; not waited for.

    Else the last that a person has heard is that it is over.
    """
    path = _told(name, subject)
    try:
        known = state.read(path) or {}
        unsaid = known.get("unsaid") and not 0 <= time.time() - known["first"] < WINDOW
    except (Failed, AttributeError, KeyError, TypeError) as error:
        log.debug(f"{path}: {error}")
        return
    if unsaid:
        tell_detached(config, name, text, subject=subject)


def retry(config: Config) -> None:
    """Deliver what could not be delivered before, without waiting for it; nothing happens if there is nothing."""
    if run.dry_run or not spooled():
        return
    try:
        _deliver(config, [], wait=False)
    except Failed as error:
        log.debug(str(error))


def clear(name: str, subject: str = "") -> bool:
    """What `name` was about is over: the next time is news again. Whether a person believes that it still lasts."""
    path = _told(name, subject)
    try:
        known = state.read(path)
        if known and not known["over"]:
            state.write(path, {**known, "over": True}, durable=False)
            return not known.get("unsaid")
    except (OSError, Failed, KeyError, TypeError) as error:
        log.debug(f"{path}: {error}")
    return False


def spooled() -> list[str]:
    """The files of the notices that are not delivered yet, oldest first."""
    try:
        return sorted(f"{paths.NOTICES}/{name}" for name in os.listdir(paths.NOTICES) if name.endswith(".json"))
    except OSError:
        return []


def compose(name: str, text: str, did: str, todo: str, again: str, facts: dict[str, Any]) -> str:
    """The text of a notice: what happened, what was done, what to do; then the facts."""
    from textwrap import fill

    notice = NOTICES.get(name, _UNKNOWN)
    happened = " ".join(part for part in (_sentence(text), notice.summary, again) if part)
    parts = [
        fill(f"What happened: {happened}", 78),
        fill(f"What was done: {_sentence(did) or 'Nothing beyond this notice.'}", 78),
        fill(f"What to do: {_sentence(todo) or notice.todo}", 78),
    ]
    for key, value in facts.items():
        if isinstance(value, (list, tuple)) and value:
            more = [f"  … and {len(value) - LISTED} more"] if len(value) > LISTED else []
            parts.append("\n".join([f"{key}:", *(f"  {log.shown(str(entry))}" for entry in value[:LISTED]), *more]))
    short = {key: value for key, value in facts.items() if isinstance(value, (str, int, float)) and value != ""}
    plain = [log.shown(f"{key}: {value}") for key, value in short.items()]
    parts.append("\n".join([f"notice: {name}", f"time: {time.strftime('%Y-%m-%d %H:%M:%S %z')}", *plain]))
    return "\n\n".join(parts) + "\n"


def _due(name: str, subject: str, *, owed: bool = False) -> str | None:
    """Whether to tell now: None if not, else what to add about the repetitions ("" if there were none)."""
    path = _told(name, subject)
    now = time.time()
    try:
        known = state.read(path) or {}
        first, told, missed, over, unsaid = (known.get(key, 0) for key in _KNOWN)
        if not 0 <= now - first < WINDOW:
            since = time.strftime("%H:%M", time.localtime(first))
            again = f"(Since {since} it has happened {missed} times more.)" if missed else ""
            state.write(path, {"first": now, "told": 1, "missed": 0, "over": False}, durable=False)
            return again
        if owed or ((over or NOTICES.get(name, _UNKNOWN).each) and told < AT_MOST):
            state.write(path, {"first": first, "told": told + 1, "missed": missed, "over": False}, durable=False)
            return ""
        # One that goes on is known; one that was over and is back is not.
        news = {"first": first, "told": told, "missed": missed + 1, "over": False, "unsaid": bool(over or unsaid)}
        state.write(path, news, durable=False)
        return None
    except (OSError, Failed, AttributeError, TypeError) as error:
        log.debug(f"{path}: {error}")
        return ""  # rather twice than never


def _spool(message: dict[str, Any]) -> bool:
    """Keep the notice until it is delivered; False if the disk does not take it: then it has one try only."""
    path = f"{paths.NOTICES}/{time.time_ns():020d}-{os.getpid()}.json"
    try:
        state.write(path, message)
    except OSError as error:
        log.debug(f"{path}: {error.strerror}")
        return False
    return True


def _deliver(config: Config, homeless: list[dict[str, Any]], *, wait: bool) -> None:
    """Have the spool, and what is not in it, delivered by a process of its own."""
    order = json.dumps({"notify": config.notify._asdict(), "homeless": homeless})
    argv = [sys.executable, "-P", "-m", "clusterd.delivery"]
    # It is not killed when the time is up: a mail server that has got a mail may take longer to say so.
    run.detach(argv, stdin=order, wait=LIMIT if wait else 0.0)


def _told(name: str, subject: str) -> str:
    """The file that remembers when a notice was sent."""
    return f"{paths.NOTICES}/told/" + f"{name}@{subject}".replace("/", "|")[:200]


def _line(text: str) -> str:
    """One line, whatever is in it."""
    return log.shown(" ".join(text.split()))


def _sentence(text: str) -> str:
    """Text that ends in a full stop, or nothing."""
    text = _line(text)
    return text if not text or text[-1] in ".!?" else f"{text}."
