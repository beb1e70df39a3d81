"""This node's voice, and its ear: what it says is signed and numbered, what it hears is let in by the doorkeeper."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from clusterd import heartbeat, model
from clusterd.keyfile import Keys, Ring
from clusterd.word import Word


class Voice:
    """One for each loop of the watchdog: it counts what it says, under a number higher than that of any before it."""

    def __init__(
        self,
        config: model.Config,
        keys: Keys,
        *,
        remember: Callable[[str, int], None],
        epoch: Callable[[str], int | None],
        rumour: Callable[[Word], None],
    ) -> None:
        """`remember`, `epoch` and `rumour` as for heartbeat.Doorkeeper."""
        self.ring = Ring(config, keys)
        self.door = heartbeat.Doorkeeper(
            config.me().name,
            tuple(peer.name for peer in config.peers()),
            keys.secrets,
            remember,
            nonce=os.urandom(8).hex(),
            epoch=epoch,
            rumour=rumour,
        )
        self.incarnation = heartbeat.next_incarnation()
        self.sequence = 0

    def say(self, paths: Iterable[heartbeat.Path], **facts: Any) -> None:
        """One datagram on every path; `facts` are the fields of a word that change."""
        self.sequence += 1
        word = Word(
            incarnation=self.incarnation,
            sequence=self.sequence,
            nonce=self.door.nonce,
            echo=self.door.echo(),
            **facts,
        )
        content = heartbeat.body(word)
        for path in paths:
            path.send(heartbeat.seal(content, path.name, self.ring.keys.first))

    def look(self) -> bool:
        """Whether the key has changed and is used now.

        Raises:
            ConfigError: it has changed, and cannot be used.
        """
        changed = self.ring.look()
        self.door.keys = self.ring.keys.secrets
        return changed
