"""Talking to etcd: the only module that knows etcd3gw, and only inside its functions (importing it takes 0.1 s).

etcd3gw asks one member by etcd's JSON gateway, with a timeout. What it lacks is here: asking the next member when one
does not answer, and etcd's own users. Every question is answered by the cluster's majority: reads are linearizable.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from clusterd import arbiter
from clusterd.model import Config

if TYPE_CHECKING:
    from etcd3gw.client import Etcd3Client
    from requests.adapters import HTTPAdapter

T = TypeVar("T")
LOGIN = 2.0
"""Seconds that a login may take: etcd is slow at passwords on purpose (bcrypt)."""
_ERRNO = re.compile(r"\[Errno -?[0-9]+\] ([A-Za-z ]+)")


class NoAnswer(Exception):
    """No endpoint has answered; the text says what became of each."""


class LeaseGone(Exception):
    """The lease has ended: etcd does not know it any more."""


class Claim(NamedTuple):
    """What stands in etcd about a group."""

    node: str
    epoch: int
    boot: str
    """The boot of that node: when it is known to be over, so is the claim."""
    lease: int
    revision: int
    """Of its last change: a change by anybody else makes ours fail."""


class Etcd:
    """The etcd cluster. Every method asks one endpoint after the other, the one that answered last first."""

    def __init__(self, config: Config) -> None:
        about = config.arbiter
        self.prefix = f"/clusterd/{config.name}/groups/"
        self.user = about.user
        self.password = arbiter.password(config)
        self.clients = [_client(config, endpoint) for endpoint in about.endpoints]

    def new_lease(self, ttl: float) -> tuple[int, float]:
        """A new lease: its id and its lifetime in seconds, which etcd may have made longer."""
        body = {"TTL": int(ttl), "ID": 0}
        answer = self._ask(lambda client: client.post(client.get_url("/lease/grant"), json=body))
        return int(answer["ID"]), float(answer["TTL"])

    def renew(self, lease: int) -> tuple[float, dict[str, Claim]]:
        """Renew a lease; its lifetime from now on, 0 if it has ended, and what stands there about every group.

        A leader that hangs may go on renewing while another one, elected meanwhile, lets the lease end
        (https://github.com/etcd-io/etcd/issues/15247). So a renewal counts only with a read that needs a majority,
        after it, from the same member and in the same term.
        """

        def ask(client: "Etcd3Client") -> tuple[float, dict[str, Claim]]:
            renewed = client.post(client.get_url("/lease/keepalive"), json={"ID": lease})["result"]
            found = self._read(client)
            if renewed["header"]["raft_term"] != found["header"]["raft_term"]:
                raise ValueError("an election came in between")
            return max(0.0, float(renewed.get("TTL", 0))), self._rows(found)

        return self._ask(ask)

    def claims(self) -> dict[str, Claim]:
        """What stands there about every group."""
        return self._rows(self._ask(self._read))

    def _read(self, client: "Etcd3Client") -> dict[str, Any]:
        last = self.prefix[:-1] + chr(ord(self.prefix[-1]) + 1)
        ends = {"key": _base64(self.prefix), "range_end": _base64(last)}
        found: dict[str, Any] = client.post(client.get_url("/kv/range"), json=ends)
        return found

    def _rows(self, found: dict[str, Any]) -> dict[str, Claim]:
        rows = [(b64decode(row["key"]).decode(), row) for row in found.get("kvs", [])]
        return {key[len(self.prefix) :]: _claim(b64decode(row.get("value", "")), row) for key, row in rows}

    def put(self, group: str, seen: Claim | None, claim: Claim) -> bool:
        """Write `claim` if what stands there is still `seen`; whether it was.

        Raises:
            LeaseGone: the lease of `claim` has ended.
        """
        value = json.dumps({"node": claim.node, "epoch": claim.epoch, "boot": claim.boot})
        put = {"key": _base64(self.prefix + group), "value": _base64(value), "lease": claim.lease}
        return self._swap(group, seen, {"request_put": put})

    def delete(self, group: str, seen: Claim) -> bool:
        """Remove what stands there if it is still `seen`; whether it was."""
        return self._swap(group, seen, {"request_delete_range": {"key": _base64(self.prefix + group)}})

    def _swap(self, group: str, seen: Claim | None, change: dict[str, Any]) -> bool:
        compare = {
            "key": _base64(self.prefix + group),
            "result": "EQUAL",
            "target": "MOD",
            "mod_revision": seen.revision if seen else 0,
        }
        txn = {"compare": [compare], "success": [change], "failure": []}
        return bool(self._ask(lambda client: client.transaction(txn)).get("succeeded", False))

    def _ask(self, question: "Callable[[Etcd3Client], T]") -> T:
        """The first answer.

        Raises:
            NoAnswer: there is none.
        """
        from etcd3gw.exceptions import Etcd3Exception

        why = []
        for client in list(self.clients):
            try:
                return self._as_user(client, question)
            except (Etcd3Exception, OSError, ValueError, LookupError, TypeError) as error:  # requests' are OSErrors
                text = _text(error)
                if "lease not found" in text:
                    raise LeaseGone from None
                why.append(f"{client.host}: {text}")
                client.session.close()
                self.clients = [*self.clients[1:], client]
        raise NoAnswer("; ".join(why))

    def _as_user(self, client: "Etcd3Client", question: "Callable[[Etcd3Client], T]") -> T:
        """Ask with the token of etcd's user, if there is one; once more with a new one when it is no longer good."""
        from etcd3gw.exceptions import Etcd3Exception

        try:
            if self.user and "Authorization" not in client.session.headers:
                self._log_in(client)
            return question(client)
        except Etcd3Exception as error:
            if not self.user or "token" not in _text(error):
                raise
        self._log_in(client)
        return question(client)

    def _log_in(self, client: "Etcd3Client") -> None:
        client.session.headers.pop("Authorization", None)
        body, usual = {"name": self.user, "password": self.password}, client.timeout
        client.timeout = max(LOGIN, usual or 0.0)
        try:
            answer = client.post(client.get_url("/auth/authenticate"), json=body)
        finally:
            client.timeout = usual
        client.session.headers["Authorization"] = str(answer["token"])


def _client(config: Config, endpoint: str) -> "Etcd3Client":
    """A client for one endpoint, that asks nobody else: no proxy, no .netrc, no second try."""
    from etcd3gw.client import Etcd3Client
    from requests import Session

    about, url = config.arbiter, urlsplit(endpoint)
    session = Session()
    session.trust_env = False
    if source := _source(config, url.hostname or ""):
        session.mount(f"{url.scheme}://", _adapter(source))
    session.verify = about.ca or True
    session.cert = (about.cert, about.key) if about.cert else None
    return Etcd3Client(
        host=url.hostname or "",
        port=url.port or 2379,
        protocol=url.scheme,
        timeout=about.timeout,
        session=session,
    )


def _source(config: Config, host: str) -> str:
    """This machine's own address from which `host` is to be asked; "": whichever the kernel takes.

    Not a group's: it goes away, and a connection from it with it.
    """
    import ipaddress

    try:
        target = ipaddress.ip_address(host)
    except ValueError:
        return ""
    me = config.me()
    between = [ipaddress.ip_interface(network.address) for network in me.networks]
    own = [ipaddress.ip_interface(address) for address in me.admin_addresses]
    if target.is_loopback or any(target in each.network for each in between):
        return ""
    return next((str(each.ip) for each in own if each.version == target.version), "")


def _adapter(source: str) -> "HTTPAdapter":
    from requests.adapters import HTTPAdapter

    class From(HTTPAdapter):
        """Makes its connections from one address."""

        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, source_address=(source, 0), **options)

    return From()


def _claim(value: bytes, about: Any) -> Claim:
    """What stands under a key; what cannot be read is somebody's, and not ours."""
    revision, lease = int(about["mod_revision"]), int(about.get("lease", 0))
    try:
        fact = json.loads(value)
        return Claim(str(fact["node"]), int(fact["epoch"]), str(fact["boot"]), lease, revision)
    except (ValueError, LookupError, TypeError):
        return Claim("somebody", 0, "", lease, revision)


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _text(error: Exception) -> str:
    """What went wrong, on one line and not too long: etcd's own words, where it said any."""
    said = getattr(error, "detail_text", None) or str(error)
    try:
        told = json.loads(said)
        said = told.get("message") or told.get("error") or said
    except (ValueError, AttributeError):
        pass
    if "HTTP" in said and "timed out" in said:
        said = "no answer in time"
    elif found := _ERRNO.search(said):
        said = found[1].lower()
    return " ".join(str(said).split())[:200] or type(error).__name__
