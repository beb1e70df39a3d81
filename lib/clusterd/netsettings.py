"""Kernel settings (sysctl) that a group needs while its addresses are here; what was found is put back afterwards.

What was found is kept below /run, one file a group: after a reboot the kernel's own defaults are back anyway.
"""

import os

from clusterd import paths, run, state

Settings = dict[str, str]
"""Value by name, as below /proc/sys/net: {"ipv4/conf/eth0/arp_ignore": "1"}."""

ANSWER_ONLY_HERE = {"ipv4/conf/{}/arp_ignore": "1", "ipv4/conf/{}/arp_announce": "2", "ipv4/conf/{}/rp_filter": "2"}
"""With two NICs on one LAN Linux answers ARP for any of its addresses on any of them, with that NIC's MAC: that
would undo a MAC takeover. rp_filter: by the main table the way back of a packet may be the other NIC."""
KEEP_SECONDARIES = {"ipv4/conf/{}/promote_secondaries": "1"}
"""Else the kernel removes every address of a subnet together with the first one (the admin address's, perhaps)."""
SILENT = {"ipv4/conf/{}/arp_ignore": "8", "ipv6/conf/{}/accept_ra": "0"}
"""Answers for no address at all, and takes none from a router."""
NO_LINK_LOCAL = {"ipv6/conf/{}/addr_gen_mode": "1"}
"""No link-local address by itself: made from a group's MAC, two nodes would have the same one."""


def of(template: Settings, interface: str) -> Settings:
    """The settings of `template` for one interface."""
    return {name.format(interface): value for name, value in template.items()}


def apply(group: str, wanted: Settings) -> None:
    """Make `wanted` so, and remember for `group` what was found. Repeating it forgets nothing."""
    remembered = _remembered()
    found = dict(remembered.get(group, {}))
    for name in wanted:
        if name not in found:
            others = (record[name] for record in remembered.values() if name in record)
            value = next(others, None) or read(name)
            if value is not None:
                found[name] = value
    if not run.dry_run:
        state.write(_path(group), found, durable=False)
    set_all(wanted)


def restore(group: str) -> None:
    """Put back what `apply` found, except for what another group still needs; harmless if there is nothing."""
    remembered = _remembered()
    found = remembered.pop(group, {})
    needed = {name for record in remembered.values() for name in record}
    for name, value in found.items():
        if name not in needed:
            write(name, value)
    if not run.dry_run and os.path.exists(_path(group)):
        os.unlink(_path(group))


def read(name: str) -> str | None:
    """The value now; None if this kernel, or this interface, has no such setting."""
    try:
        with open(f"{paths.SYSCTL}/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def set_all(wanted: Settings) -> None:
    """Make `wanted` so, for good: nothing is remembered."""
    for name, value in wanted.items():
        write(name, value)


def write(name: str, value: str) -> None:
    """Set it, unless it is so already; a setting that does not exist (no IPv6, the NIC is gone) is left out."""
    if read(name) in {value, None}:
        return
    if run.dry_run:
        run.show(("sysctl", "-w", f"net/{name}={value}"))
        return
    with open(f"{paths.SYSCTL}/{name}", "w", encoding="ascii") as file:
        file.write(value)


def _path(group: str) -> str:
    return f"{paths.FOUND_SETTINGS}/{group}.json"


def _remembered() -> dict[str, Settings]:
    """The settings found, by group."""
    try:
        files = sorted(os.listdir(paths.FOUND_SETTINGS))
    except FileNotFoundError:
        return {}
    groups = [name.removesuffix(".json") for name in files if name.endswith(".json")]
    return {group: state.read(_path(group)) or {} for group in groups}
