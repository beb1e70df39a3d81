"""The watchdog's loop: speak, listen, ask the LAN, decide, act, renew what is held. Many times a second.

It waits for nothing but its sockets: disks, mail and scripts are the worker's and the crew's. The picture is made
anew for every decision; what is kept between turns is only what was heard and since when.
"""

import os
import selectors
import signal
import time
from collections.abc import Sequence
from functools import partial

from clusterd import arbiter, grant, heartbeat, log, model, paths, picture, reach, setback, state, verdict, view
from clusterd.actions import Acquire
from clusterd.arp import Socket
from clusterd.conditions import SILENT
from clusterd.config import stamp_of
from clusterd.crew import Crew
from clusterd.estate import Estate
from clusterd.hands import Hands
from clusterd.keyfile import Keys
from clusterd.peer import hang_up
from clusterd.peers import Peers, open_paths, rules_of
from clusterd.picture import Me
from clusterd.readiness import Readiness
from clusterd.tell import Teller
from clusterd.voice import Voice
from clusterd.watchdev import Dog
from clusterd.word import Word
from clusterd.worker import Worker

VIEW_EVERY = 0.5
"""Seconds between two writings of view.json when nothing changes."""
ARM_AFTER = 1.5
"""Intervals of silence after which a takeover is armed: there is time for it to load before it is needed."""
LOOK_EVERY = 1.0
"""Seconds between two looks whether the configuration has changed."""
RELOAD = 64
"""Exit code of the loop: the configuration has changed and is good, start again with it."""
ORPHANED = 65
"""The supervising parent is gone: become a new one."""

Events = Sequence[tuple[selectors.SelectorKey, int]]
"""As a selector returns them."""


class Watch:
    """One node's watching, from its start to its end."""

    def __init__(self, config: model.Config, keys: Keys, *, clean: bool) -> None:
        self.config = config
        self.rules = rules_of(config)
        self.me = config.me()
        self.name = self.me.name
        self.boot = state.boot_id()
        self.clean = clean
        self.started = view.now()
        self.worker = Worker()
        self.crew = Crew(config.folder)
        self.teller = Teller(config, self.worker)
        self.dog = Dog(self.me, self.teller.no_device)
        self.readiness = Readiness(config, self.worker)
        self.witness = setback.Witness(None)
        self.asks: dict[str, int] = {}
        self.peers = Peers(config)
        old = view.read(stale=True)
        if old:
            self.witness = setback.Witness((old.clock, old.written))
            self.peers.remember(old)
            self.peers.excuse(self.rules, old.written, self.started)
        self.estate = Estate(config, self.worker)
        self.estate.lapsed()
        self.hands = Hands(self.estate, self.crew, self.teller)
        self.steward = arbiter.steward(config, self.estate.places)
        self.voice = Voice(config, keys, remember=self._remember, epoch=self.estate.epoch, rumour=self._rumour)
        self.door = self.voice.door
        if old and old.door:
            self.door.go_on(old.door)
        self.census = reach.Census(config.reference)
        self.selector = selectors.DefaultSelector()
        self.paths = open_paths(config)
        for path in self.paths:
            self.selector.register(path, selectors.EVENT_READ, path)
        self.lan = Socket(self.me.interface)
        self.selector.register(self.lan, selectors.EVENT_READ, None)
        self.next_beat = self.last_turn = self.started
        self.next_view = self.next_look = 0.0
        self.unsure_until = self.started + 3 * self.rules.interval
        self.loaded = stamp_of(config.folder)
        self.stopping = False

    def run(self) -> int:
        """Turn until SIGTERM, or until the configuration has changed; returns the exit code."""
        signal.signal(signal.SIGTERM, self._stop)
        code = self._turns(os.getppid())
        self.dog.disarm()  # in an orderly end only; whoever starts again arms it again
        if code == 0:
            if not any(own.held for own in self.estate.owns(self.crew, self.last_turn).values()):
                state.write(paths.CLEAN, {"time": time.time()})
            self.worker.finish(5)
        return code

    def _turns(self, parent: int) -> int:
        while not self.stopping:
            self.turn()
            if view.now() < self.next_look:
                continue
            orphan = os.getppid() != parent
            if (self._changed() or orphan) and self.teller.usable(self.config.folder):
                if orphan:
                    log.event("watchdog-restarted", "the supervising process is gone: starting again", level="warning")
                return ORPHANED if orphan else RELOAD
        return 0

    def turn(self) -> None:
        """One turn: wait until something comes in or is due, then look, decide and act."""
        self.go_on(self.selector.select(self.wait()))

    def go_on(self, events: Events) -> None:
        """What follows the waiting; `events` is what the selector has found."""
        news = self._listen(events)
        now = view.now()
        if now - self.last_turn > self.rules.isolated_after:
            self._paused(now)
        self.last_turn = now
        if (back := self.witness.look()) is not None:
            self.worker.do(partial(setback.note, back))
        beat = now >= self.next_beat
        if not (beat or news or self.peers.partly(self.rules, now)):
            return
        self.estate.look()
        me = self._me(now)
        self.peers.expect_lan(self._on_lan(), now)
        peers = self.peers.note(self.rules, me, now)
        if beat:
            self._speak(me, now)
        self._ask(me, peers, now)
        self.crew.repeat({name for name, own in me.groups.items() if own.held}, now)
        answer = verdict.decide(self.rules, me, peers, now)
        self._want(me, answer, now)
        changed = self._act(answer, now)
        if beat and now >= self.unsure_until:
            self.worker.after_all(lambda: view.mark_sure(self.boot, now))  # behind the records of these actions
        keep = {name for name, own in me.groups.items() if grant.renewable(self.rules, me, own, peers, now)}
        self.estate.renew(now, keep, sure=now >= self.unsure_until)
        self.dog.pet(now, well=self.estate.renewing(now))
        self.estate.announce(now, sure=now >= self.unsure_until, unheard=self.peers.unheard(self.rules, now))
        for begun in self.teller.conditions(answer.conditions, now):
            if begun.name in SILENT:
                self.worker.do(partial(hang_up, self.config, begun.subject))
        self.hands.reap(now)
        self.teller.rejected(self.door.rejected, now)
        if changed or now >= self.next_view:
            self._publish(me, answer, now)

    def wait(self) -> float:
        """Seconds until the next thing is due."""
        now = view.now()
        due = [self.next_beat, *self.peers.limits(self.rules, now)]
        if self.peers.partly(self.rules, now):
            due.append(now + reach.URGENT)
        return max(0.0, min(due) - now)

    def _listen(self, events: Events) -> bool:
        """Take in what has come, unless it is too old (see _paused); whether any of it is news."""
        now = view.now()
        if now - self.last_turn > self.rules.isolated_after:
            return True
        news = False
        for key, _ in events:
            if key.data is None:
                self._hear_lan(now)
                continue
            for data in key.data.receive():
                word = self.door.admit(data, key.data.name)
                if word is not None:
                    new = self.peers.hear(word, key.data.name, now)
                    news |= new or bool(self.crew.intentions)
                    if new and self.peers.awaits_us(word):
                        self.next_beat = now
                    self.estate.learn(word.groups)
        return news

    def _hear_lan(self, now: float) -> None:
        for answer in self.lan.read():
            self.census.answer(answer.address, now)
            self.estate.answered(answer.address, answer.mac, now)

    def _paused(self, now: float) -> None:
        """This process did not run for a while. What lies in the sockets is old: the claims come first."""
        for path in self.paths:
            path.receive()
        self.lan.read()
        self.unsure_until = now + 3 * self.rules.interval
        self.peers.excuse(self.rules, self.last_turn, now)
        self.census = reach.Census(self.config.reference)
        if self.estate.lapsed():
            log.debug(f"paused for {now - self.last_turn:.2f} s, and a lease has ended meanwhile")

    def _me(self, now: float) -> Me:
        sure = now >= self.unsure_until
        groups = self.estate.owns(self.crew, now)
        me, peers = Me(self.name, groups, reach=self.census.reached(now)), tuple(self.peers.peers.values())
        for name, own in groups.items():
            nobodys = not own.busy and picture.unheld(self.rules, me, peers, name, now)
            since = self.estate.unheld(name, nobodys, now)
            if since is not None or not sure:
                groups[name] = own._replace(unheld_since=since, busy=own.busy or not sure)
        me = Me(
            name=self.name,
            groups=groups,
            standby=self.estate.standby,
            reach=me.reach,
            unreached_since=self.census.unreached_since(now),
            started=self.started,
            clean=self.clean,
            sure=sure,
            unready=self.readiness.lacking(now),
        )
        return arbiter.note(me, self.steward.grants, now, self.rules.lease) if self.steward else me

    def _want(self, me: Me, answer: verdict.Verdict, now: float) -> None:
        """Have the arbiter grant what is served here, and what would be."""
        if self.steward:
            self.asks = answer.asks
            self.steward.want(arbiter.wants(me, answer.asks), now)

    def _on_lan(self) -> bool:
        """Whether this node has an address of its own on the LAN now."""
        return bool(self.me.admin_addresses) or self.name in self.estate.up

    def _speak(self, me: Me, now: float) -> None:
        """One datagram on every path."""
        late = now - self.next_beat > self.rules.interval
        self.next_beat = now + self.rules.interval if late else self.next_beat + self.rules.interval
        self.voice.say(
            self.paths,
            node=self.name,
            boot=self.boot,
            groups=self.estate.claims(self.crew),
            standby=me.standby,
            reach=me.reach,
            asked=len(self.config.reference),
            lan=self._on_lan(),
            hears=self.peers.heard(self.rules, now),
            digest=self.config.digest[:16],
            clock=time.time(),  # told to the peers, never decided with
            arbiter=me.arbiter_lost_since is None,
            seen=self.peers.seen(self.rules, now),
        )

    def _ask(self, me: Me, peers: tuple[picture.Peer, ...], now: float) -> None:
        """Ask the LAN what the decision will need: the reference hosts, and who answers for what is not held."""
        for address in self.census.due(now, self.peers.pace(self.rules, bool(me.standby), now)):
            self.lan.probe(address)
            self.census.ask(address, now)
        asked = picture.questions(self.rules, me, peers, now)
        for address in self.estate.questions(asked, now):
            self.lan.probe(address)
        if not (self.peers.urgent(self.rules, now) or self.asks):
            self.crew.disarm()
            return
        quiet = [peer for peer in peers if (peer.silence(now) or 0.0) > ARM_AFTER * self.rules.interval]
        for name in asked:
            if quiet and not me.standby and not me.groups[name].busy:
                self.crew.arm(name)

    def _act(self, answer: verdict.Verdict, now: float) -> bool:
        """Carry out the decision; whether there was anything to do."""
        taking = {action.group: action.epoch for action in answer.actions if isinstance(action, Acquire)}
        self.crew.intend(taking, self.voice.sequence + 1)
        told = {group: (self.voice.incarnation, self.crew.intentions[group][1]) for group in taking}
        for action in answer.actions:
            self.teller.decided(action)
            if not isinstance(action, Acquire) or self.peers.agree(self.rules, action.group, told[action.group], now):
                self.hands.do(action, self.peers.unheard(self.rules, now))
            self.next_beat = now  # the peers hear of it at once
        return bool(answer.actions)

    def _publish(self, me: Me, answer: verdict.Verdict, now: float) -> None:
        self.next_view = now + VIEW_EVERY
        view.write(
            view.View(
                node=self.name,
                boot=self.boot,
                until=now + view.GOOD_FOR,
                written=now,
                clock=self.witness.wall(now),
                standby=me.standby,
                reach=me.reach,
                asked=len(self.config.reference),
                groups=self.estate.view(me),
                peers=self.peers.views(self.rules, now),
                conditions=[list(condition) for condition in answer.conditions],
                rejected=dict(self.door.rejected),
                arbiter=arbiter.show(self.config, self.steward.grants, now) if self.steward else {},
                door=self.door.kept(),
            )
        )

    def _changed(self) -> bool:
        """Whether the configuration has changed."""
        self.next_look = view.now() + LOOK_EVERY
        self.teller.look_at_key(self.voice)
        return stamp_of(self.config.folder) != self.loaded

    def _rumour(self, word: Word) -> None:
        """A word that may have been recorded before this boot. The epochs in it were true once: there may be higher
        ones by now, but no lower ones.
        """
        self.peers.rumour(word, view.now(), self.estate.epoch)
        self.estate.learn(word.groups)

    def _remember(self, node: str, incarnation: int) -> None:
        self.worker.do(lambda: heartbeat.remember_incarnation(node, incarnation))

    def _stop(self, _number: int, _frame: object) -> None:
        self.stopping = True
