"""The mails that the lab's SMTP server has received."""

import email
import email.policy
from email.message import EmailMessage
from functools import lru_cache
from pathlib import Path

from . import power
from .plan import MACHINES, MAILDIR, Place
from .proc import LabError


def _files(place: Place) -> list[Path]:
    sink = next(machine for machine in MACHINES.values() if "lab-mail" in machine.services)
    pid = power.init_pid(place, sink)
    if not pid:
        raise LabError(f"{sink.name}, which receives the mails, has no power")
    return sorted(Path(f"/proc/{pid}/root{MAILDIR}").glob("*.eml"))


def texts(place: Place) -> list[str]:
    """The mails as they came, the oldest first."""
    return [file.read_text(errors="replace") for file in _files(place)]


def messages(place: Place) -> list[EmailMessage]:
    """The mails, parsed; X-Lab-From and X-Lab-To are the envelope."""
    return [_message(text) for text in texts(place)]


@lru_cache(maxsize=1000)
def _message(text: str) -> EmailMessage:
    return email.message_from_string(text, policy=email.policy.default)


def forget(place: Place) -> None:
    """Throw them away."""
    for file in _files(place):
        file.unlink(missing_ok=True)
