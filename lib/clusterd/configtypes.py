"""The checks that the configspecs name: text from a file in, a checked value out, or `Refused`: what is allowed.

No check looks at the system or at another key; configcheck.py does that. NUL is in no allowed value, so the refusal
of it is also the description of what a check allows (`allowed`).
"""

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from configobj.validate import ValidateError, Validator

from clusterd import configforms as forms
from clusterd import durations

Given = str | Sequence[str]
"""A value as ConfigObj reads it: text, or a list where it stands with commas."""

_MAX_DELETE = re.compile(r"([0-9]{1,9})(\s*%)?")


class Refused(ValidateError):  # type: ignore[misc]  # configobj has no types
    """A value is not allowed: `allowed` says what is, `found` is the part of the value that is wrong."""

    def __init__(self, allowed: str, found: str | None = None) -> None:
        super().__init__(allowed)
        self.allowed = allowed
        self.found = found


def label(given: Given) -> str:
    """Printable text on one line."""
    return _one(given, "up to 64 characters of text, without comma or quotes", lambda text: 0 < len(text) <= 64)


def text(given: Given) -> str:
    """Any text on one line; a list is taken with its commas."""
    whole = given if isinstance(given, str) else ",".join(given)
    return _one(whole, "text on one line", lambda _: True)


def one_of(given: Given, *words: str) -> str:
    """One of a few words."""
    return _one(given, " or ".join([", ".join(words[:-1]), words[-1]]), lambda text: text in words)


def yes_no(given: Given) -> bool:
    """A switch."""
    return _one(given, "yes or no", lambda text: text in ("yes", "no")) == "yes"


def number(given: Given, min: str, max: str) -> int:
    """A whole number between two bounds."""
    allowed = f"a whole number from {min} to {max}"
    found = _one(given, allowed, lambda text: text.isascii() and text.isdigit() and len(text) < 12)
    if not int(min) <= int(found) <= int(max):
        raise Refused(allowed)
    return int(found)


def duration(given: Given, min: str, max: str, whole: str = "no") -> float:
    """Seconds, from a duration between two bounds; `whole`: in whole seconds, as the kernel counts lifetimes."""
    unit = ", in whole seconds" if whole == "yes" else ""
    allowed = f"{durations.ALLOWED}{unit}; from {min} to {max}"
    seconds = _seconds(_one(given, allowed, lambda _: True), allowed)
    inside = durations.parse(min) <= seconds <= durations.parse(max)
    if not inside or (unit and not seconds.is_integer()):
        raise Refused(allowed)
    return seconds


def every(given: Given) -> float | str:
    """Seconds between passes, or "never"."""
    least = "1 minute"
    allowed = f"never, or {durations.ALLOWED}; at least {least}"
    found = _one(given, allowed, lambda _: True)
    if found == "never":
        return found
    seconds = _seconds(found, allowed)
    if not durations.parse(least) <= seconds <= durations.parse("520 weeks"):
        raise Refused(allowed)
    return seconds


def age(given: Given) -> str:
    """An age, as text: its length depends on the date from which it is counted."""
    found = _one(given, durations.ALLOWED_AGE, lambda _: True)
    try:
        durations.parse_age(found)
    except (ValueError, OverflowError):
        raise Refused(durations.ALLOWED_AGE) from None
    return found


def max_delete(given: Given) -> str:
    """ "10 %" or a number."""
    allowed = "a percentage from 0 % to 100 %, or a whole number of files"
    found = _one(given, allowed, lambda text: bool(_MAX_DELETE.fullmatch(text)))
    amount, percent = found.rstrip("% "), found.endswith("%")
    if percent and int(amount) > 100:
        raise Refused(allowed)
    return f"{int(amount)} %" if percent else f"{int(amount)}"


def hostname(given: Given) -> str:
    """A node's name; "cluster" is none, because its file would be cluster.conf."""
    return _one(given, "a hostname without its domain: letters, digits, hyphens; not 'cluster'", forms.is_node)


def hostnames(given: Given, min: str) -> tuple[str, ...]:
    """Several nodes' names."""
    allowed = f"at least {min} different hostnames, without their domain and with commas between; not 'cluster'"
    return _many(given, allowed, forms.is_node, least=int(min))


def nic(given: Given) -> str:
    """The name of a network interface."""
    allowed = "the name of a network interface: up to 15 letters, digits and _ . @ -, and not lo"
    return _one(given, allowed, forms.is_nic)


def mac(given: Given) -> str:
    """A MAC address of one machine, in lower case."""
    allowed = "the MAC address of one NIC, no group address: six pairs of hex digits with colons, the first pair even"
    lower = given.lower() if isinstance(given, str) else given
    return _one(lower, allowed, forms.is_mac)


def address(given: Given) -> str:
    """One address with prefix length, as the kernel writes it."""
    allowed = "an address with prefix length (10.1.0.1/24), of a host: no network, broadcast, loopback or multicast"
    return forms.interface(_one(given, allowed, forms.is_interface))


def addresses(given: Given, min: str = "0") -> tuple[str, ...]:
    """Addresses with prefix length, as the kernel writes them."""
    allowed = "addresses with prefix length (10.1.0.1/24), of hosts: no network, broadcast, loopback or multicast"
    return _many(given, allowed, forms.is_interface, forms.interface, least=int(min))


def reference_hosts(given: Given) -> tuple[str, ...]:
    """Addresses without prefix length, at least one."""
    return _many(
        given, "one or more different addresses without prefix length: 10.1.0.254", forms.is_host, forms.host, least=1
    )


def gateways(given: Given) -> tuple[str, ...]:
    """At most one address of each family, without prefix length."""
    allowed = "at most one IPv4 and one IPv6 address, without prefix length"
    found = _many(given, allowed, forms.is_host, forms.host)
    if len({":" in each for each in found}) < len(found):
        raise Refused(allowed)
    return found


def time_servers(given: Given) -> tuple[str, ...]:
    """Host names or addresses."""
    allowed = "host names or addresses, with commas between"
    return _many(given, allowed, forms.is_server)


def program(given: Given) -> str:
    """A program's name on PATH, or its absolute path."""
    return _one(given, "one program: a name without spaces, or an absolute path", forms.is_program)


def device(given: Given) -> str:
    """The device of a hardware watchdog, or none. Nothing else than a device: what it is sent would spoil a file."""
    return _one(given, "none, or the path of a watchdog device: /dev/watchdog", forms.is_device)


def words(given: Given) -> tuple[str, ...]:
    """A command: a list of words, the first of them a program; empty: none."""
    allowed = "a program (a name, or an absolute path) and its arguments, with commas between: /usr/bin/thing, --now"
    found = _many(given, allowed, lambda _: True, distinct=False, empty=True)
    if found and not forms.is_program(found[0]):
        raise Refused(allowed, found[0])
    return found


def remote_shell(given: Given) -> tuple[str, ...]:
    """Ssh or rsh with options, written as in a shell or as a list."""
    allowed = "ssh, rsh or an absolute path, and its options: ssh -p 2222"
    found = _many(given, allowed, lambda _: True, distinct=False)
    if isinstance(given, str):
        try:
            found = tuple(shlex.split(given))
        except ValueError:
            raise Refused(allowed) from None
    if not found or not (found[0] in ("ssh", "rsh") or (found[0].startswith("/") and forms.is_program(found[0]))):
        raise Refused(allowed)
    return found


def unit(given: Given) -> str:
    """The name of a unit or init script, or the path of an agent; empty: none."""
    allowed = "the name of a unit or of an init script, or the absolute path of a resource agent"
    return _one(given, allowed, lambda text: not text or forms.is_unit(text))


def paths(given: Given) -> tuple[str, ...]:
    """Absolute paths; a folder ends in a slash."""
    allowed = "absolute paths without //, . or .., not / itself; a folder ends in a slash"
    return _many(given, allowed, forms.is_mirrored)


def patterns(given: Given) -> tuple[str, ...]:
    """Patterns of rsync."""
    return _many(given, "rsync patterns with commas between, each on one line", lambda _: True, distinct=False)


def mail(given: Given) -> str:
    """One mail address or local user."""
    return _one(given, "a mail address or a local user", forms.is_mailbox)


def mails(given: Given) -> tuple[str, ...]:
    """Mail addresses or local users."""
    return _many(given, "mail addresses or local users, with commas between", forms.is_mailbox)


def smtp(given: Given) -> str:
    """A mail server with an optional port; empty: none."""
    return _one(given, "host or host:port (an IPv6 address in brackets), or empty", forms.is_smtp)


def endpoints(given: Given) -> tuple[str, ...]:
    """URLs of a host and a port."""
    return _many(given, "URLs of a host with its port, with commas between: https://10.1.0.31:2379", forms.is_endpoint)


def file(given: Given) -> str:
    """The absolute path of a file; empty: none."""
    return _one(given, "the absolute path of a file, or empty", lambda text: not text or forms.is_file(text))


CHECKS: dict[str, Callable[..., Any]] = {
    check.__name__: check
    for check in (
        label, text, one_of, yes_no, number, duration, every, age, max_delete, hostname, hostnames, nic, mac,
        address, addresses, reference_hosts, gateways, time_servers, program, device, words, remote_shell, unit, paths,
        patterns, mail, mails, smtp, endpoints, file,
    )
}  # fmt: skip


def validator() -> Validator:
    """ConfigObj's validator, with these checks only."""
    made = Validator()
    made.functions = dict(CHECKS)
    return made


def allowed(check: str) -> str:
    """What the check (as it stands in a configspec, with its arguments) allows, as its refusal says it."""
    try:
        validator().check(check, "\0")
    except Refused as refused:
        return refused.allowed
    raise AssertionError(f"{check} allows NUL")


def _one(given: Given, allowed: str, good: Callable[[str], bool]) -> str:
    """The one text that was given, if it is `good` and stands on one line."""
    if not isinstance(given, str) or not given.isprintable() or not good(given):
        raise Refused(allowed)
    return given


def _many(
    given: Given,
    allowed: str,
    good: Callable[[str], bool],
    convert: Callable[[str], str] = str,
    *,
    least: int = 0,
    distinct: bool = True,
    empty: bool = False,
) -> tuple[str, ...]:
    """All that was given, each `good` and converted; one text counts as a list of one, an empty one as none."""
    several = ([given] if given else []) if isinstance(given, str) else given
    for each in several:
        if not each.isprintable() or not (each or empty) or not good(each):
            raise Refused(allowed, each)
    made = tuple(convert(each) for each in several)
    twice = [each for each in made if made.count(each) > 1]
    if distinct and twice:
        raise Refused(f"{allowed}; each once", twice[0])
    if len(made) < least:
        raise Refused(allowed)
    return made


def _seconds(text: str, allowed: str) -> float:
    try:
        return durations.parse(text)
    except ValueError:
        raise Refused(allowed) from None
