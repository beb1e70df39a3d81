"""The peer: keepalived on both nodes of the bare lab, the same power cut and return."""

import time

from bench.cycle import PROBE, QUIET, Outages, cut_power, outages
from bench.labs import ADDRESS, HOME, OTHER

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES

CONF = "/etc/keepalived/keepalived.conf"
TEXT = """global_defs {{
    router_id {node}
    vrrp_version 3
}}
vrrp_instance office {{
    state {state}
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 0.1
{vmac}    virtual_ipaddress {{
        {address}/24
    }}
}}
"""
VMAC = "    use_vmac vrrp51\n    vmac_xmit_base\n"
OWN = {"serv1": "10.1.0.11/24", "serv2": "10.1.0.12/24"}
"""The nodes' own addresses on the LAN: keepalived needs one."""


def configuration(node: str, vmac: bool) -> str:
    """keepalived.conf of one node."""
    home = node == HOME
    return TEXT.format(
        node=node,
        state="MASTER" if home else "BACKUP",
        priority=150 if home else 100,
        vmac=VMAC if vmac else "",
        address=ADDRESS,
    )


def start(lab: Lab, node: str, vmac: bool) -> None:
    """Make a node ready after its boot, web server included, and start keepalived."""
    script = f"""
        cat > {CONF}
        ip addr replace {OWN[node]} dev eth0
        ip link set eth0 up
        pidof nginx >/dev/null || /etc/init.d/nginx start
        keepalived -f {CONF} >/dev/null 2>&1
    """
    lab.run(node, ["bash", "-euc", script], text_in=configuration(node, vmac))


END = """
while pids=$(pidof keepalived); do
    kill $pids 2>/dev/null || true
    sleep 0.1
done
"""


def stop(lab: Lab) -> None:
    """End keepalived wherever it runs, and the address with it."""
    for node in NODES:
        if lab.is_on(node):
            lab.sh(node, END)


def start_all(lab: Lab, vmac: bool) -> None:
    """A running pair, the address at home."""
    stop(lab)
    for node in NODES:
        if not lab.is_on(node):
            lab.power_on(node)
        start(lab, node, vmac)
    wait_held(lab, HOME)


def wait_held(lab: Lab, node: str) -> None:
    """Wait until a node alone has the address."""
    lab.wait_for(lambda: lab.holders(ADDRESS) == [node], 20, f"keepalived on {node} to have {ADDRESS}")


def run_cycle(lab: Lab, vmac: bool) -> Outages:
    """One power cut, takeover and return."""
    start_all(lab, vmac)
    with lab.probe(ADDRESS, **PROBE) as probe:
        cut = cut_power(lab, HOME)
        wait_held(lab, OTHER)
        time.sleep(QUIET)
        back = time.monotonic()
        lab.power_on(HOME)
        start(lab, HOME, vmac)
        wait_held(lab, HOME)
        time.sleep(QUIET)
    stop(lab)
    return outages(probe.summary, cut, back)
