"""Every notice that a person may get: how grave it is, what it means, what to do.

The one list. docs/runbook.md has a section for each, with the details; a test holds the two together.
"""

from typing import NamedTuple


class Notice(NamedTuple):
    """One kind of notice."""

    level: str
    """As in syslog: info, notice, warning, error, alert."""
    summary: str
    """What it means, in one sentence."""
    todo: str
    """What the reader should do now."""
    ends: tuple[str, ...] = ()
    """Notices about the same subject that are over with this one."""
    each: bool = False
    """It happens, and does not last: each time is news, and not only the first one until it is over."""


NOTHING = "Nothing."
LOOK = "Run check_peer on both nodes."

NOTICES = {
    # groups
    "takeover-done": Notice(
        "warning",
        "This node has taken a group over and serves it now.",
        "Find out why the other node went (its console, power, network). It returns by itself into standby; "
        "with failback = auto its group goes home once it is stable.",
        ("takeover-failed", "takeover-held-back", "release-done", "failback-done"),
        each=True,
    ),
    "takeover-failed": Notice(
        "alert",
        "This node should have taken a group over and could not: nobody may be serving it.",
        "Look at what failed, put it right, then run: takeover GROUP",
    ),
    "takeover-held-back": Notice(
        "alert",
        "The peer is silent, but something on the LAN still answers for its address: nothing was taken over.",
        "Look at the peer's console. If it hangs, switch it off: the takeover follows by itself. "
        "If another machine uses the address, take it off the network.",
    ),
    "fence-failed": Notice(
        "alert",
        "The fence agent could not make sure that the silent peer is off: nothing was taken over.",
        "Switch the peer off by hand, then run: takeover GROUP. Try the agent: cluster fence NODE.",
    ),
    "fenced": Notice(
        "alert",
        "A silent node was switched off by the fence agent, so that its groups can be taken over safely.",
        "Find out why it was silent: its console, its network, its log. Unless [fence] action = reboot, switch it on "
        "when that is known: cluster fence NODE --action on. It returns into standby.",
        ("fence-failed",),
        each=True,
    ),
    "power-on-failed": Notice(
        "error",
        "The fenced node could not be switched on again; it stays off, and what it held is served here.",
        "Switch it on by hand: cluster fence NODE --action on, or at the machine.",
        each=True,
    ),
    "no-watchdog-device": Notice(
        "error",
        "The hardware watchdog of this node cannot be used: the watchdog script runs without it.",
        "Look at [watchdog] in this node's file, and whether another program has the device (systemd: "
        "RuntimeWatchdogSec). The watchdog script tries it again every ten seconds.",
    ),
    "release-done": Notice(
        "notice",
        "A group was handed to another node without loss.",
        NOTHING,
        ("release-failed", "takeover-done"),
        each=True,
    ),
    "release-failed": Notice(
        "error",
        "A group could not be handed over; it stays where it was, unless the text says otherwise.",
        "Look at which step failed, put it right, and run the command again.",
    ),
    "released-lost": Notice(
        "error",
        "Another node holds this group with a higher epoch: this node has let go of it.",
        "What was written here since the other node took it is kept and found when data flow back: "
        "look for the notice unmirrored-found.",
        each=True,
    ),
    "not-let-go": Notice(
        "alert",
        "A group is another node's now, and its address did not go from this one: two nodes may answer for it.",
        "Look with: ip addr. Remove it: ip addr del ADDRESS/PREFIX dev NIC. The watchdog tries it again, ever more "
        "rarely.",
    ),
    "failback-waiting": Notice(
        "notice",
        "A group's home node is back and stable, and failback is manual.",
        "When it suits you, on the node that holds the group: release GROUP --to HOME",
    ),
    "failback-done": Notice(
        "notice",
        "A group went back to its home node.",
        NOTHING,
        ("takeover-done", "failback-waiting", "failback-failed", "released-lost"),
        each=True,
    ),
    "failback-failed": Notice(
        "error",
        "A group could not go back to its home node; it stays where it was, unless the text says otherwise, and it "
        "will be tried again.",
        "Look at which step failed: most often a pass that was refused, or a service that does not stop.",
    ),
    "service-failed": Notice(
        "error",
        "A service could not be started or stopped; the others of its group were.",
        "Read /var/log/clusterd/services/NAME.log and the service's own log, put it right, and start it by hand.",
    ),
    # nodes and paths
    "standby-entered": Notice(
        "warning",
        "This node is in standby: it holds nothing and takes nothing over.",
        "If a person set it, lift it when the work is done: cluster unstandby NODE. "
        "If the program set it, it is lifted when the group goes home.",
        ("standby-left",),
        each=True,
    ),
    "standby-left": Notice("notice", "This node is no longer in standby.", NOTHING, ("standby-entered",), each=True),
    "isolated": Notice(
        "alert",
        "This node hears nobody, and no reference host answers: it has let go of its addresses.",
        "Look at its network: cable, switch port, NIC. It resumes by itself when the network is back.",
        ("isolation-over",),
    ),
    "isolation-over": Notice("notice", "This node hears the network again.", NOTHING, ("isolated",)),
    "path-down": Notice(
        "warning",
        "The peer is heard on some paths only; nothing was moved.",
        "Look at the cable, the NIC and the switch port of the path that is named: "
        "until it is back, one more fault can cost the service.",
        ("path-up",),
    ),
    "path-up": Notice("notice", "The peer is heard on this path again.", NOTHING, ("path-down",)),
    "peer-dead": Notice(
        "alert",
        "The peer is not heard on any path.",
        "Look at the peer: power, console, network. Until it is back there is nobody to take over from this node.",
        ("peer-back",),
    ),
    "peer-back": Notice(
        "notice", "The peer is heard again.", NOTHING, ("peer-dead", "fence-failed", "takeover-failed")
    ),
    "contradiction": Notice(
        "alert",
        "What this node sees cannot be true all at once; nothing was moved.",
        LOOK + " Nothing moves until the pictures agree, or until you say so: release or takeover by hand.",
    ),
    "arbiter-lost": Notice(
        "alert",
        "No endpoint of etcd answers this node: nothing is acquired, and what is held will be let go of.",
        "Look at etcd first (etcdctl endpoint health), then at this node's way to it. If etcd will be away for long: "
        "kind = reference in [arbiter], cluster push.",
        ("arbiter-back",),
    ),
    "arbiter-back": Notice("notice", "Etcd answers this node again.", NOTHING, ("arbiter-lost",)),
    "arbiter-denied": Notice(
        "alert",
        "Etcd says that another node holds this group, though this node does not hear that: nothing was taken over.",
        "Look at that node: it lives, and reaches etcd. Mend the paths between the nodes, or switch it off.",
        ("takeover-done",),
    ),
    "not-served": Notice(
        "alert",
        "A group belongs to this node, and nobody serves it: its addresses are down here.",
        "Look at every node: cluster status. If another node answers for it, let that one have it (takeover GROUP "
        "there), or free the address. If no other node has it: takeover GROUP --resume here",
    ),
    "waits-for-peer": Notice(
        "alert",
        "This node came up alone, and cannot know whether another one has this group, or newer files of it.",
        "Switch the other node on: it serves, or this one does. If it will not come back: make sure that it is off, "
        "then here: cluster unstandby NODE if this node is in standby; takeover GROUP",
    ),
    "not-ready": Notice(
        "error",
        "If another node died now, its group could not be served here.",
        "Look at the cable, the NIC or the file that is named; cluster check says all that is wrong with the files. "
        "Nothing else is to do: it is looked at again by itself.",
    ),
    "watchdog-restarted": Notice(
        "warning",
        "The watchdog's loop had ended and was started again; nothing was moved.",
        "Once is no harm. If it comes again: killed, look for memory in the system log; an error, its traceback is "
        "below: put right what it names, or report a bug.",
        each=True,
    ),
    "lease-lapsed": Notice(
        "error",
        "An address was not renewed in time and the kernel took it away; the service was interrupted.",
        "The node hung, slept or was starved for longer than [failover] lease: look at its load and its memory.",
        each=True,
    ),
    "record-unreadable": Notice(
        "alert",
        "What this node knows of one group is damaged on its disk: it neither serves the group nor takes it.",
        "Another node can take it. Look at the file that is named and at the disk. When a peer is heard, remove the "
        "file: the node learns from it.",
    ),
    "strangers": Notice(
        "warning",
        "Datagrams arrive on the heartbeat port that are not from this cluster's nodes, or are replayed.",
        "Another cluster with the same port, a node with another key, or somebody trying. Where they come from: "
        "tcpdump -ni any udp port 694 (or what [heartbeat] port says in cluster.conf). The firewall should "
        "let only the nodes in.",
    ),
    "config-differs": Notice(
        "warning",
        "The nodes have different configurations.",
        "On the node that has the right one: cluster push",
    ),
    "config-bad": Notice(
        "error",
        "The configuration was changed and cannot be used: the watchdog goes on with the one before. While a .conf "
        "file is wrong, this node takes nothing over and hands nothing over.",
        "Run cluster check, which names every problem; when it says that all is good, nothing else is to do.",
    ),
    # data
    "pass-refused": Notice(
        "error",
        "A pass was refused before anything was changed: the copy of this service grows old.",
        "The text says why. If all those files are really meant to go: mirror_service SERVICE --max-delete N",
    ),
    "pass-failed": Notice(
        "error",
        "A pass did not end well: the copy of this service is not complete.",
        "The text says what failed. The next pass tries again and completes the copy.",
    ),
    "hook-failed": Notice(
        "warning",
        "The pass itself is complete, but the command that was to follow it failed.",
        "Run [mirror] after of that service by hand and see what it says.",
    ),
    "pass-cut": Notice(
        "warning",
        "The last pass to this node was cut before it took over; the text says which files are served.",
        "No file is half written. Rolled back to the last complete pass (consistent = yes): look at what the cut pass "
        "had brought, purge_backups --show SET. The newest files: if they do not fit together, restore_backup SET.",
    ),
    "unmirrored-found": Notice(
        "alert",
        "The returning node had files that were written there and never mirrored, or that changed on both sides.",
        "They are in the backup set that is named: look at them (purge_backups --show SET), put back what is "
        "missing (restore_backup SET PATH), then confirm the set (purge_backups --confirm SET).",
    ),
    # clocks
    "clock-skew": Notice(
        "warning",
        "The clocks of the nodes are further apart than [mirror] max_skew: no passes are made.",
        "Run timesync on both nodes and look at what it says.",
    ),
    "clock-unset": Notice(
        "warning",
        "The clock could not be set: no trusted server answered, or most of them disagree.",
        "Look at [timesync] servers (where chronyd runs: chronyc activity; offline means that this node has no way to "
        "them) and at the firewall (UDP 123). Meanwhile, if none answers, all nodes follow the "
        "clock of the first one in cluster.conf; if they contradict each other, nothing is set.",
    ),
}
