"""What nodes say to each other, and how it is read: one small signed datagram an interval.

A datagram is MAGIC, an HMAC-SHA256 of the path's name and the content, and the content, a compact JSON object. Right
signature or not, every field is held to its form: a peer that has gone wrong is refused here, and nothing behind this
door has to expect a number that is none, or a name with a line break in it.
"""

import hashlib
import hmac
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from clusterd.picture import Claim

MAGIC = b"clusterd1"
SIZE = 1400
"""Bytes; a datagram is never fragmented."""
LARGEST = 2**53
"""No number may be higher: up to here every JSON reader takes it for what it is."""
EPOCHS = 10**15
"""No epoch may be higher: eighteen digits are what the gate takes, and one a second for 30 million years is enough."""
LONGEST = 63
"""Characters of a name (RFC 1123, a label)."""
SEVERAL = 64
"""Groups, or nodes, of which a node may speak."""

_HEAD = len(MAGIC) + hashlib.sha256().digest_size
_STANDBY = ("", "person", "program")


class Word(NamedTuple):
    """What a node says with one datagram."""

    node: str
    incarnation: int
    sequence: int
    boot: str
    groups: dict[str, Claim]
    standby: str
    reach: int | None
    asked: int
    """How many reference hosts there are."""
    lan: bool
    """The sender has an address on the LAN now."""
    hears: tuple[str, ...]
    """Peers that it hears now."""
    digest: str
    clock: float
    """Wall clock, seconds since 1970: only compared and told, never decided with."""
    arbiter: bool = True
    """The arbiter answers the sender, or there is none."""
    seen: dict[str, tuple[int, int]] = {}
    """Of more than two nodes: incarnation and sequence of the latest word from each of those."""
    nonce: str = ""
    """A random word of the sender's boot, which its peers repeat; "" from a version that has none."""
    echo: tuple[str, ...] = ()
    """The nonces of the peers that it has had a word of: who finds its own knows that this was not recorded before."""


class Rejected(Exception):
    """A datagram that is not believed; the text is the reason, one of a few."""


def body(word: Word) -> bytes:
    """The part of a datagram that is the same on every path."""
    fields = word._asdict()
    fields["groups"] = {name: list(claim) for name, claim in word.groups.items()}
    return json.dumps(fields, separators=(",", ":")).encode()


def seal(content: bytes, path: str, key: bytes) -> bytes:
    """The datagram with `content` for the network `path`: the signature covers the name of the path as well."""
    return MAGIC + _signature(content, path, key) + content


def decode(data: bytes, path: str, keys: Sequence[bytes]) -> Word:
    """The word in a datagram that came on `path`, signed with one of `keys`.

    Raises:
        Rejected: "short", "foreign", "signature" or "malformed". The content is not looked at before the signature.
    """
    if len(data) <= _HEAD:
        raise Rejected("short")
    if not data.startswith(MAGIC):
        raise Rejected("foreign")
    content, signature = data[_HEAD:], data[len(MAGIC) : _HEAD]
    if not any(hmac.compare_digest(signature, _signature(content, path, key)) for key in keys):
        raise Rejected("signature")
    try:
        return _read(content)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        raise Rejected("malformed") from None


@lru_cache(maxsize=4)
def _read(content: bytes) -> Word:
    """The word in `content`, which comes on every path; nobody changes a word."""
    return _word(_JSON.decode(content.decode()))


def _no_number(name: str) -> float:
    raise ValueError(name)


_JSON = json.JSONDecoder(parse_constant=_no_number)


def _word(fields: dict[str, Any]) -> Word:
    return Word(
        node=_name(fields["node"]),
        incarnation=_number(fields["incarnation"]),
        sequence=_number(fields["sequence"]),
        boot=_name(fields["boot"]),
        groups={_name(name): _claim(claim) for name, claim in _few(fields["groups"], dict).items()},
        standby=_STANDBY[_STANDBY.index(fields["standby"])],
        reach=None if fields["reach"] is None else _number(fields["reach"]),
        asked=_number(fields["asked"]),
        lan=_flag(fields["lan"]),
        hears=tuple(map(_name, _few(fields["hears"], list))),
        digest=_name(fields["digest"]),
        clock=_time(fields["clock"]),
        arbiter=_flag(fields.get("arbiter", True)),
        seen={_name(name): _last(last) for name, last in _few(fields.get("seen", {}), dict).items()},
        nonce=_name(fields.get("nonce", "")),
        echo=tuple(map(_name, _few(fields.get("echo", []), list))),
    )


def _claim(said: Any) -> Claim:
    epoch, holder, held, pinned, taking = said
    return Claim(_number(epoch, EPOCHS), _name(holder), _flag(held), _flag(pinned), _number(taking, EPOCHS))


def _last(said: Any) -> tuple[int, int]:
    incarnation, sequence = said
    return _number(incarnation), _number(sequence)


def _name(said: Any) -> str:
    """One line that goes into files, notices and logs as it is."""
    if not isinstance(said, str) or len(said) > LONGEST or not said.isprintable():
        raise ValueError(said)
    return said


def _number(said: Any, most: int = LARGEST) -> int:
    # bool is an int for Python.
    if type(said) is not int or not 0 <= said <= most:
        raise ValueError(said)
    return said


def _flag(said: Any) -> bool:
    if not isinstance(said, bool):
        raise ValueError(said)
    return said


def _time(said: Any) -> float:
    if type(said) not in (int, float) or not math.isfinite(said) or not 0 <= said <= LARGEST:
        raise ValueError(said)
    return float(said)


def _few(said: Any, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    if not isinstance(said, kind) or len(said) > SEVERAL:
        raise ValueError(said)
    return said


def _signature(content: bytes, path: str, key: bytes) -> bytes:
    return hmac.digest(key, path.encode() + b"\0" + content, "sha256")
