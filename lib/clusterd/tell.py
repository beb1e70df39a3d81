"""What the watchdog tells people: when a condition begins and ends, and what became of the scripts it started."""

from typing import Any

from clusterd import config as configuration
from clusterd import durations, loadable, log, model, notify, view
from clusterd.actions import Action
from clusterd.conditions import Condition
from clusterd.crew import Ended
from clusterd.errors import BUSY, OK, ClusterdError
from clusterd.picture import NOT_FENCED
from clusterd.voice import Voice
from clusterd.worker import Worker

GONE_AFTER = 1.0
"""Seconds for which a condition must be away before it is over."""
COUNTERPARTS = {
    "peer-dead": "peer-back",
    "path-down": "path-up",
    "isolated": "isolation-over",
    "arbiter-lost": "arbiter-back",
}
"""The notice that says that a condition is over, where there is one."""
OVER = {
    "peer-dead": "{0} is heard again, after {lasted}",
    "path-down": "{0} is heard on {1} again, after {lasted}",
    "isolated": "{0} hears the network again, after {lasted}",
    "arbiter-lost": "the arbiter, etcd, answers {0} again, after {lasted}",
}
"""What that notice says; a subject is a node, or a node and a path."""
PATIENCE = {
    "path-down": 2.0,
    "not-ready": 10.0,
    "arbiter-lost": 1.0,
    "contradiction": 3.0,
    "takeover-held-back": 0.5,
    "not-served": 15.0,
}
"""Seconds for which a condition must last before it is told."""
STRANGERS_EVERY = 60.0
TRY_EVERY = 5.0
"""Seconds after which a configuration that could not be used is tried again though no .conf file has changed: what was
wrong may have been another file, or a mode.
"""


class Teller:
    """Turns conditions, which are true or not at every turn, into notices: each is told once, and once more if that was
    one too many for its hour and it lasts.
    """

    def __init__(self, config: model.Config, worker: Worker) -> None:
        self.config = config
        self.worker = worker
        self.began: dict[tuple[str, str], float] = {}
        self.seen: dict[tuple[str, str], float] = {}
        self.told: dict[tuple[str, str], float] = {}
        """When what lasts was told, or looked at again."""
        self.strangers = 0
        self.next_strangers = self.next_try = 0.0
        self.refused: tuple[int, ...] = ()
        self.why = ""

    def tell(self, name: str, text: str, **facts: Any) -> None:
        """Send a notice, without waiting for it."""
        at = log.moment()
        self.worker.do(lambda: notify.tell_detached(self.config, name, text, at=at, **facts))

    def decided(self, action: Action) -> None:
        """Record what is being done, and why."""
        facts = action._asdict()
        text = ", ".join(f"{key} {value}" for key, value in facts.items())
        kind, at = type(action).__name__, log.moment()
        self.worker.do(lambda: log.event("decided", f"{kind}: {text}", at=at, action=kind, **facts))

    def conditions(self, now_true: tuple[Condition, ...], now: float) -> list[Condition]:
        """Tell what has begun, and what is over; returns what has begun."""
        news = []
        for condition in now_true:
            key = (condition.name, condition.subject)
            began = self.began.setdefault(key, now)
            self.seen[key] = now
            if key not in self.told and now - began >= PATIENCE.get(condition.name, 0.0):
                self.told[key] = now
                news.append(condition)
                self.tell(condition.name, condition.text, subject=condition.subject)
            elif now - self.told.get(key, now) >= notify.WINDOW:
                self.told[key] = now
                self._still(condition)
        for key in [key for key, seen in self.seen.items() if now - seen > GONE_AFTER]:
            lasted = self.seen.pop(key) - self.began.pop(key)
            if self.told.pop(key, None) is not None:
                self._over(key, lasted)
        return news

    def _still(self, it: Condition) -> None:
        self.worker.do(lambda: notify.remind(self.config, it.name, it.text, subject=it.subject))

    def _over(self, key: tuple[str, str], lasted: float) -> None:
        name, subject = key
        if name in COUNTERPARTS:
            node, _, path = subject.partition("/")
            path = "every path" if path == model.ALL_PATHS else path
            text = OVER[name].format(node, path, lasted=durations.show(lasted))
            self.tell(COUNTERPARTS[name], text, subject=subject, closes=True)
        else:
            self.worker.do(lambda: notify.clear(name, subject))

    def ended(self, ended: list[Ended]) -> None:
        """Tell of scripts that failed; what they did well they tell themselves."""
        for script in ended:
            told_already = script.program == "release" and script.said.startswith("release: ")
            told_already |= script.said.startswith(f"takeover: {NOT_FENCED}")
            if script.code in (OK, BUSY) or script.stopped or told_already:
                continue
            name = "takeover-failed" if script.program == "takeover" else "release-failed"
            text = f"{script.program} {script.group}: {script.said or f'exit {script.code}'}"
            self.tell(name, text, group=script.group, subject=script.group)

    def lost(self, group: str, holder: str, why: str) -> None:
        """This node lost the group to a higher epoch."""
        self.tell("released-lost", f"{group} is let go of: {why}", group=group, holder=holder, subject=group)

    def standby(self, why: str) -> None:
        """This node has put itself in standby."""
        self.tell("standby-entered", f"standby: {why}")

    def no_standby(self, why: str) -> None:
        """This node has ended its standby."""
        self.tell("standby-left", f"no longer in standby: {why}")

    def no_device(self, text: str) -> None:
        """The hardware watchdog cannot be used; or, without a text, it can."""
        if not text:
            self.worker.do(lambda: notify.clear("no-watchdog-device", "device"))
            return
        self.tell("no-watchdog-device", f"{text}: nothing resets this node if the watchdog hangs", subject="device")

    def rejected(self, counts: dict[str, int], now: float) -> None:
        """Tell of datagrams that were not believed, at most once a minute."""
        total = sum(counts.values())
        if total > self.strangers and now >= self.next_strangers:
            self.next_strangers = now + STRANGERS_EVERY
            reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
            self.tell("strangers", f"{total - self.strangers} datagrams were not believed ({reasons})", rejected=counts)
            self.strangers = total

    def look_at_key(self, voice: Voice) -> None:
        """A key that has changed is used from now on; if it cannot be, a person is told and the old one stays."""
        try:
            if voice.look():
                self.worker.do(lambda: notify.clear("config-bad", "key"))
                text = "the key of the heartbeats has changed, and is used from now on"
                self.worker.do(lambda: log.event("key-changed", text, level="notice"))
        except ClusterdError as error:
            self.tell("config-bad", f"the changed key is not used: {error}", subject="key")

    def usable(self, folder: str) -> bool:
        """Whether a watchdog could start with the configuration as it is now; if not, a person is told and the old one
        stays. Quick enough to be asked for every second.
        """
        now, stamp = view.now(), configuration.stamp_of(folder)
        if stamp == self.refused and now < self.next_try:
            return False
        try:
            loadable.load(folder)
        except ClusterdError as error:
            if (stamp, str(error)) != (self.refused, self.why):
                self.tell("config-bad", f"the changed configuration is not used: {error}")
            self.refused, self.why, self.next_try = stamp, str(error), now + TRY_EVERY
            return False
        self.worker.do(lambda: notify.clear("config-bad"))
        return True
