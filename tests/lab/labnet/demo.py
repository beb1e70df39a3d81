"""The demonstration: a power cut, the takeover, the return and the failback, as a client on the LAN sees them."""

import argparse
import sys
import time
from typing import Any

from .answers import Summary
from .lab import Lab
from .proc import LabError

ADDRESS = "10.1.0.1"
MAC = "00:10:4b:63:1c:08"
SHARE = "/srv/samba/share"
SLEPT = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
"""What CLOCK_MONOTONIC, the probe's, lacks to the boot clock, the events'."""


class Story:
    """What happened, line by line, in seconds since the power cut; and what was checked."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []
        self.checks: list[tuple[str, bool]] = []

    def add(self, when: float, text: str) -> None:
        """Note that something happened at a CLOCK_MONOTONIC time."""
        self.lines.append((when, text))

    def check(self, text: str, holds: bool) -> None:
        """Note what was checked."""
        self.checks.append((text, holds))

    def tell(self, zero: float) -> None:
        """Print the timeline in the order of its times."""
        for when, text in sorted(self.lines):
            print(f"  {when - zero:+9.3f} s  {text}")


def main() -> int:
    """Run the demonstration; 0 if everything that was checked holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="demo", help="name of the lab (default: %(default)s)")
    options = parser.parse_args()
    lab = Lab(options.name)
    lab.down()
    try:
        return demonstrate(lab)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        lab.down()


def demonstrate(lab: Lab) -> int:
    """All of it, on a lab that is down."""
    print("Two nodes, serv1 and serv2, on a switch; a client; two reference hosts. Bringing them up ...", flush=True)
    lab.up(say=lambda line: print(f"  {line}", flush=True))
    lab.wait_for(lambda: held(lab, "serv1", "serv1") and held(lab, "serv2", "serv2"), 60, "both groups to be held")
    prepare(lab)
    story = Story()
    with lab.probe(ADDRESS) as probe:
        time.sleep(1)
        cut = die(lab, story)
        back = come_back(lab, story)
        time.sleep(1)
        seen = probe.so_far()
    print("\nTimeline, as seen from outside and from the nodes' own events (0 = the power cut):\n")
    outages(story, seen, cut, back)
    story.tell(cut)
    verify(lab, story, seen)
    return report(story)


def prepare(lab: Lab) -> None:
    """The client stores a file, cron's passes run, and one file is written that no pass has seen."""
    print("The client stores a file on the share; the files are mirrored over ssh ...", flush=True)
    put(lab, "mirrored.txt", "written and mirrored\n")
    put(lab, "shared.txt", "first version\n")
    lab.sh("serv2", "echo 'From: somebody' >/var/mail/alice")
    for node, services in (("serv1", ["web", "smbd", "system"]), ("serv2", ["mailspool"])):
        lab.run(node, ["mirror_service", *services], timeout=120)
    lab.run("serv1", ["check_peer"])
    print("  " + lab.run("serv1", ["check_peer"]).stdout.split("|", maxsplit=1)[0].strip())


def die(lab: Lab, story: Story) -> float:
    """Cut serv1's power, a moment after something was written that no pass has seen."""
    put(lab, "shared.txt", "second version, never mirrored\n")
    put(lab, "unmirrored.txt", "written just before the power cut\n")
    print("serv1 loses its power ...", flush=True)
    cut = lab.power_off("serv1")
    story.add(cut, "power cut: serv1")
    lab.wait_for(lambda: held(lab, "serv2", "serv1"), 30, "serv2 to take serv1's group over")
    for name, text in (
        ("decided", "serv2 is sure that serv1 is dead"),
        ("address-up", "serv2 answers on 10.1.0.1, with serv1's MAC address"),
        ("takeover-served", "serv2 has started nginx and smbd"),
    ):
        story.add(event_time(lab, "serv2", name, cut), text)
    put(lab, "shared.txt", "third version, written while serv1 was dead\n")
    put(lab, "meanwhile.txt", "written while serv1 was dead\n")
    story.check("what was mirrored is served by serv2", get(lab, "mirrored.txt") == "written and mirrored\n")
    return cut


def come_back(lab: Lab, story: Story) -> float:
    """serv1 returns: standby, resync, failback."""
    print("serv1 gets its power back ...", flush=True)
    back = time.monotonic()
    story.add(back, "power on: serv1")
    lab.power_on("serv1")
    lab.wait_for(lambda: standby(lab, "serv1") or held(lab, "serv1", "serv1"), 30, "serv1 to enter standby")
    story.check("serv1 came back in standby, without the address", bool(lab.events("serv1")) and standby_seen(lab))
    story.add(event_time(lab, "serv1", "standby-entered", back), "serv1 is up, in standby: serv2 holds its group")
    lab.wait_for(lambda: held(lab, "serv1", "serv1") and settled(lab, "serv1", "serv1"), 90, "the group to go home")
    lab.wait_for(lambda: event(lab, "serv2", "failback-done", back), 30, "the end of the failback")
    story.add(event_time(lab, "serv2", "release-began", back), "serv2 begins to hand it back: passes, services up")
    story.add(event_time(lab, "serv1", "address-up", back), "serv1 answers on 10.1.0.1")
    story.add(event_time(lab, "serv1", "takeover-served", back), "serv1 has started nginx and smbd: home again")
    return back


def outages(story: Story, seen: Summary, cut: float, back: float) -> None:
    """The longest gaps that the client saw, after the cut and at the failback."""
    for kind in ("icmp", "http"):
        gap = seen.gap(kind, cut - 0.5, back)
        story.add(gap.end, f"power cut: longest {kind.upper()} gap {gap.seconds * 1000:.0f} ms")
        gap = seen.gap(kind, back)
        story.add(gap.end, f"failback: longest {kind.upper()} gap {gap.seconds * 1000:.0f} ms")


def verify(lab: Lab, story: Story, seen: Summary) -> None:
    """What must hold at the end."""
    story.check("the client saw one MAC address all the time", set(seen.macs) == {MAC})
    story.check("never two nodes answered at once", not seen.double)
    story.check(
        "what was written while serv1 was dead is there",
        get(lab, "meanwhile.txt") == "written while serv1 was dead\n" and get(lab, "shared.txt").startswith("third"),
    )
    sets = lab.sh("serv1", "grep -rl . /var/lib/clusterd/backups/*/files --include=unmirrored.txt || true").split()
    story.check("what serv1 had written unmirrored is in a backup set", len(sets) == 1)
    kept = lab.sh("serv1", "cat /var/lib/clusterd/backups/*/files/srv/samba/share/shared.txt || true")
    story.check("and so is the version that was changed on both sides", "second version, never mirrored" in kept)
    told = [mail for mail in lab.mails() if "unmirrored" in (mail.get_payload() or "")]
    story.check("a mail lists these files", any("unmirrored.txt" in str(mail.get_payload()) for mail in told))
    for node in ("serv1", "serv2"):
        code = lab.run(node, ["check_peer"], check=False).returncode
        story.check(f"check_peer on {node} says that all is well", code == 0)


def report(story: Story) -> int:
    """The last lines: what was checked, and whether it holds."""
    print("\nChecked:\n")
    for text, holds in story.checks:
        print(f"  {'holds        ' if holds else 'DOES NOT HOLD'}  {text}")
    return 0 if all(holds for _, holds in story.checks) else 1


def put(lab: Lab, name: str, text: str) -> None:
    """Store a file on the share, as the client."""
    smb = ["smbclient", "-N", f"//{ADDRESS}/share", "-c", f"put /dev/stdin {name}"]

    def stored() -> bool:
        return lab.run("client", smb, text_in=text, timeout=30, check=False).returncode == 0

    lab.wait_for(stored, 60, f"the share to take {name}")


def get(lab: Lab, name: str) -> str:
    """Read a file from the share, as the client."""
    smb = f"smbclient -N '//{ADDRESS}/share' -c 'get {name} -' 2>/dev/null"
    return lab.run("client", ["sh", "-c", smb], timeout=30, check=False).stdout


def held(lab: Lab, node: str, group: str) -> bool:
    """Whether the node says that it serves the group, all done."""
    view = lab.view(node)
    return view is not None and view["groups"][group]["up"] and view["groups"][group]["phase"] == "held"


def settled(lab: Lab, node: str, group: str) -> bool:
    """Whether nothing is under way with the group."""
    view = lab.view(node)
    return view is not None and not view["groups"][group]["busy"]


def standby(lab: Lab, node: str) -> bool:
    """Whether the node is in standby."""
    view = lab.view(node)
    return view is not None and bool(view["standby"])


def standby_seen(lab: Lab) -> bool:
    """Whether serv1's last boot began with standby."""
    names = [each["event"] for each in lab.events("serv1")]
    last_boot = len(names) - names[::-1].index("watchdog-started")
    return "standby-entered" in names[last_boot:]


def moment(logged: dict[str, Any]) -> float:
    """When (CLOCK_MONOTONIC) a node logged an event."""
    return float(logged["uptime"]) - SLEPT


def event(lab: Lab, node: str, name: str, after: float) -> float | None:
    """When (CLOCK_MONOTONIC) an event was first logged after a time; None if it was not."""
    times = (moment(each) for each in lab.events(node) if each["event"] == name)
    return next((when for when in times if when > after - 0.002), None)


def event_time(lab: Lab, node: str, name: str, after: float) -> float:
    """As `event`, and it must have happened."""
    when = event(lab, node, name, after)
    if when is None:
        raise LabError(f"{node} never logged {name}")
    return when
