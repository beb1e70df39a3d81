"""The configuration files, as ConfigObj configspecs: every key, its check and its default, named nowhere else.

The comment before a key is its documentation: docs/configuration.md is made from it (configdoc.py). A comment that
begins with ``!`` says what goes wrong with a bad value. The checks are in configtypes.py. A key without a default
must be given. A service's own file: configservice.py.
"""

from clusterd.configservice import SERVICE as SERVICE

CLUSTER = """
# The cluster's name, for people: the title of each notice has it. With [arbiter] kind = etcd it is also the place
# of the groups' keys in etcd, /clusterd/NAME/. Where groups have both of a NIC's own MAC addresses, one for its idle
# time is made from this and the node's name.
# ! Two clusters of one name on one etcd take each other's groups. Changed on one node before the other, etcd can
# grant a group to both: change it only with one node in standby (runbook, Change the configuration).
name = label

# The hostnames of all nodes, without their domain. Each node needs its own file NODE.conf, and each gives its
# name to a group.
# ! A name that is not the machine's hostname: that machine finds no file of its own, and no script runs there.
nodes = hostnames(min=2)

# The signed datagrams with which the nodes hear each other, on every network that they share.
[heartbeat]
# Between two datagrams on one path.
# ! Too short: a busy node misses some, and the network carries more. Too long: a dead peer is noticed later. At
# most a third of [failover] lease, for the addresses are renewed at every datagram at the latest.
interval = duration(min='10 ms', max='2 seconds', default='100 ms')

# Nobody heard for that long, and no reference host answers: this node is the isolated one and lets go of every
# address. Longer than interval.
# ! Too close to interval: one lost datagram counts as isolation. Longer than dead_after less one interval is
# refused: the peer could take over an address that is still held.
isolated_after = duration(min='15 ms', max='1 minute', default='180 ms')

# Silence on every path for that long: the peer is unreachable, and its groups are taken over. At least
# isolated_after + interval.
# ! Too short: a pause of the peer (a burst of load, a slow switch) is taken for its death. Too long: clients wait
# longer.
dead_after = duration(min='25 ms', max='10 minutes', default='300 ms')

# UDP port of the datagrams, the same on all nodes.
# ! Used by another program, or closed in a packet filter: the nodes do not hear each other, and each believes
# that the other is gone.
port = number(min=1, max=65535, default=694)

# Who tells whose network has failed: a node that still reaches them is not the isolated one.
[reference]
# Addresses on the LAN, without prefix length: machines that are always on, and no nodes: router, DNS server,
# switch, printer. Two or more are better than one.
# ! A machine that is often off makes a healthy node look isolated. One behind the router tells about the
# Internet, not about the LAN, and is refused.
hosts = reference_hosts

[failover]
# How a group's address comes to the other node. redundant_nic: the spare NIC takes the peer's MAC and IP
# addresses (two nodes only). macvlan: a virtual NIC with the MAC, on the main NIC. address: the IP address only;
# clients and switches learn the new MAC from the announcement.
# ! macvlan on a switch port or a hypervisor that allows one MAC only: nothing arrives after a takeover. address
# with clients that ignore announcements: they wait until their own ARP entry ages.
method = one_of(redundant_nic, macvlan, address, default=redundant_nic)

# auto: a node that is well again gets its group back, its data first. manual: a person moves it, with release.
# ! auto with a node that fails again and again: each round costs its clients a short outage; hold_down limits it.
failback = one_of(auto, manual, default=auto)

# How long a returning node must be stable before its group goes back.
# ! Too short: a node with a loose cable or a reboot loop takes its clients along.
hold_down = duration(min='0 seconds', max='1 day', default='60 seconds')

# Valid lifetime of a held address in the kernel, in whole seconds; renewed all the time. A node whose programs
# hang stops answering within it. A lease longer than dead_after is usual: a peer that hangs still answers until
# it runs out, and the takeover waits for that.
# ! Too short: a node under heavy load may drop its own address. Too long: a hung node keeps its clients for that
# long.
lease = duration(min='1 second', max='1 hour', whole=yes, default='2 seconds')

# What a node may acquire by itself when it has booted and hears nobody. home: its own group. any: every group.
# never: none, a person decides. With more than two nodes also: whether one that hears fewer than half of them, and
# has let go of everything, may carry on after wait_for_peer.
# ! any, after both nodes were off and only the older data came back: the older data goes into service.
start_alone = one_of(home, any, never, default=home)

# After an unclean stop (a crash, a power cut) a node waits that long for its peer before start_alone applies.
# ! Shorter than a boot: of two nodes that get their power back together, the first starts without having heard
# the other; with a fence agent it switches it off in the middle of its boot.
wait_for_peer = duration(min='0 seconds', max='1 day', default='2 minutes')

# How a silent peer is made sure to be off before its groups are taken over. Every further key of the section is
# given to the agent as it is: ip, username, password and so on; what differs between the nodes stands in the
# [fence] section of NODE.conf.
[fence]
# none, or a program with the fence-agents interface (its options on stdin): a name on PATH or an absolute path. It
# must be installed on every node.
# ! An agent that says "done" without doing it, and "off" when asked, makes two holders possible. One that needs the
# power of the node itself (its management board) fails when that power fails, and then nothing is taken over. none: see
# the manual for the one case that is then left to the LAN's own answers.
agent = program(default=none)

# What becomes of a fenced node. off: it stays off until a person switches it on (cluster fence NODE --action on).
# reboot: it is switched on again when its groups are served here. Both are believed only when the agent's status has
# said "off": the agent is asked for off, status and on, never for its own reboot.
# ! reboot, while the nodes cannot hear each other for long: the one that is back fences the other in its turn after
# wait_for_peer, unless start_alone = never.
action = one_of(off, reboot, default=off)

# How long one action of the agent may take; then it is killed, and the fencing has failed.
# ! Shorter than a power switch takes that is busy: nothing is ever taken over. Too long: an agent that hangs delays
# the next try.
timeout = duration(min='1 second', max='10 minutes', default='40 seconds')
__many__ = text

# Who else must agree before a group is taken over, and by whose word it is held.
[arbiter]
# reference: nobody; the nodes decide by what they hear, and by the reference hosts. etcd: a group is held by a lease
# on an existing etcd cluster: nothing is acquired that etcd has not granted, and what it no longer confirms is let go
# of in time. Needs the Python package etcd3gw (make install EXTRAS=etcd).
# ! etcd on the two nodes themselves: when one is gone there is no majority, and the other serves nothing either.
kind = one_of(reference, etcd, default=reference)

# Where etcd answers, all members of its cluster: https://10.1.0.31:2379. Needed with kind = etcd. Addresses are better
# than names.
# ! One only: when that machine is restarted, every group is let go of.
endpoints = endpoints(default=list())

# Lifetime of a node's lease in etcd, in whole seconds; renewed ten times within it. A takeover from a node that died
# waits until it ends. At least [failover] lease + timeout for each endpoint + 1 second.
# ! Too short: a new election in etcd, or a slow disk there, makes the nodes let go. Too long: after a crash clients
# wait longer.
ttl = duration(min='2 seconds', max='5 minutes', whole=yes, default='5 seconds')

# How long one endpoint may take to answer, before the next one is asked.
# ! Too short: a busy etcd counts as silent. Too long: a dead endpoint delays the renewal.
timeout = duration(min='50 ms', max='10 seconds', default='500 ms')

# What a holder does while no endpoint answers. no: it lets go before its lease in etcd can have ended. yes: it serves
# on as long as it hears every peer and every peer hears it, and lets go at once when that ends.
# ! no, with an etcd that is often away: each time both groups are down as well. yes: see the manual for the case in
# which two nodes may answer.
failsafe = yes_no(default=no)

# The certificate of the authority that etcd's certificates are from, an absolute path. Empty: what the system trusts.
# ! Another one: no endpoint is believed, nothing is acquired.
ca = file(default='')

# This node's client certificate, an absolute path, with key. Empty: none.
# ! Expired: etcd refuses every request, and the groups are let go of.
cert = file(default='')

# Its private key; only root may read it.
# ! One that others can read is refused.
key = file(default='')

# A user of etcd, where etcd asks for one; with password_file. It needs to read and write below /clusterd/.
# ! A user without that role: nothing is granted.
user = text(default='')

# The file with the user's password; only root may read it.
# ! One that others can read is refused.
password_file = file(default='')

[mirror]
# What rsync uses to reach the peer: ssh or rsh, as a name or an absolute path, with its options.
# ! rsh carries everything in clear text and trusts names: on a cable between the nodes only.
remote_shell = remote_shell(default=ssh)

# A pass that would delete more than that, of the files last seen (10 %) or as a number (100), changes nothing and
# tells. A service may have its own.
# ! Too small: an ordinary clean-up stops the mirroring until a person looks. Too large: a half-empty source
# empties the copy (into a backup set).
max_delete = max_delete(default='10 %')

# How many passes may run at once.
# ! Too many: they slow each other, and the services, down.
parallel = number(min=1, max=16, default=2)

# When the nodes' clocks are further apart than that, there is no pass: neither side's dates can be trusted.
# ! Too large: a file changed on both sides may be judged by a wrong date. Too small: clocks that drift a little
# stop the mirroring.
max_skew = duration(min='10 ms', max='1 day', default='2 seconds')

# Without a byte from the peer for that long, a pass or a request is given up.
# ! Too short: a peer that searches a large folder is given up. Too long: a dead peer blocks the next pass.
timeout = duration(min='1 second', max='1 hour', default='30 seconds')

[backups]
# How long a backup set is kept, counted from its confirmation by a person. A set that nobody confirmed is kept
# for ever.
# ! Too short: a loss that is noticed late cannot be put back. Too long: the disk fills.
keep = age(default='30 days')

[timesync]
# Trusted time servers, names or addresses. Three or more: one that is wrong is then outvoted. None: the nodes
# only follow each other. Where chronyd runs these are not asked: its own sources (chrony.conf) count, so name the same
# there.
# ! One or two: nobody can tell which is wrong. Here only, and chronyd runs: the clocks go by what its package names.
servers = time_servers(default=list())

# A clock that is further off is stepped; a smaller offset is slewed.
# ! Too small: the clock often jumps, and programs that measure with it stumble.
step = duration(min='1 ms', max='1 day', default='1 second')

[notify]
# Mail addresses, or local users, that are told. Empty: no mail.
# ! A mailbox on the cluster itself cannot be read while the cluster is down.
mail = mails(default=list(root))

# The sender of these mails.
# ! One that the mail server does not accept: no mail arrives; events.jsonl and syslog still have the event.
from = mail(default=root)

# The SMTP server: host, or host:port (port 25). Empty: the local sendmail.
# ! One that runs on the cluster itself is not there when it is needed most.
smtp = smtp(default='')

# A program that gets each event as JSON on its stdin, and its arguments: a list of words. Empty: none.
# ! It is ended after five seconds, and called again later, as when it does not exit 0: what takes longer belongs
# into the background.
command = words(default=list())
"""
"""cluster.conf"""

NODE = """
# Who brings the main and the redundant NIC up. iproute2: clusterd itself. ifupdown: Debian's own ifup and
# ifdown, with the MAC in their file.
# ! ifupdown on a node whose NICs are managed by something else (Red Hat 9 and later: NetworkManager): ifup does not
# know them, and the takeover fails.
driver = one_of(iproute2, ifupdown, default=iproute2)

# The LAN, where the clients are.
[main]
# The NIC on the LAN.
# ! A NIC that is not there: the watchdog says so and acquires nothing.
interface = nic

# What the clients use, and what moves: addresses with prefix length; several: a list, IPv4 and IPv6. All nodes'
# addresses of one family lie in one subnet.
# ! Also set by another program (the distribution's network files, DHCP): it stays when it should move, and two
# machines answer.
address = addresses(min=1)

# The MAC address that moves with them, and that the main NIC gets. Needed unless method = address, which leaves
# it alone.
# ! The hardware address of a third machine: both become unreachable.
mac = mac(default=None)

# Addresses on the LAN that stay with the machine, so that it can be reached while its group is elsewhere.
# ! None: a node in standby has no address on the LAN.
admin_address = addresses(default=list())

# Default routers on the LAN, at most one of each address family.
# ! None: a group that has moved answers clients behind a router only if some other route leads there.
gateway = gateways(default=list())

# The network between the nodes: datagrams and mirroring. Best a cable of its own.
[heartbeat]
# Its NIC.
# ! The NIC of the LAN is refused: one broken cable would then look like a dead peer.
interface = nic

# This node's address on it, with prefix length; it never moves. All nodes' lie in one subnet, which is not the
# LAN's.
# ! Not set at boot by the distribution, or not the one that is set: no path to the peer on this network.
address = address

[redundant]
# The spare NIC on the LAN: up and silent, with a MAC address that is no group's, until it takes the peer's MAC and
# addresses. Needed with method = redundant_nic, else left alone.
# ! Plugged into another LAN than the main NIC: after a takeover no client reaches the group.
interface = nic(default=None)

# How the fence agent switches this node off: its own options (plug, port, ip ...), on top of those in cluster.conf.
[fence]
# The other nodes wait that long before they fence this one, and look again whether it is still silent. Of two nodes
# that lose each other while both reach the LAN, each would fence the other: the one with the longer delay survives.
# Give it to one node, as long as the agent takes and some seconds more.
# ! 0 seconds on both: after such a split both may be off. Long: when this node really dies, its clients wait longer.
delay = duration(min='0 seconds', max='5 minutes', default='0 seconds')
__many__ = text

# The hardware that resets this node when nobody speaks to it in time.
[watchdog]
# none, or its device: /dev/watchdog. The watchdog script arms it when it starts, speaks to it as long as its loop
# turns and the kernel renews the leases, and disarms it when it is stopped in order.
# ! Armed, it resets a node whose watchdog script was killed or hangs, without shutting anything down; that is what it
# is for. One that another program has (systemd's RuntimeWatchdogSec) cannot be opened: a notice says so.
device = device(default=none)

# How long it waits for a word, in whole seconds; some hardware rounds it.
# ! Shorter than the worst load lets the script wait: a reset for nothing. Long: a hung node runs on for longer, but
# without its addresses: the lease ends sooner.
timeout = duration(min='3 seconds', max='10 minutes', whole=yes, default='10 seconds')

# Further networks on which the nodes can hear each other, each with a name of its own, the same on every node.
[networks]
[[__many__]]
# Its NIC.
# ! As for the heartbeat network.
interface = nic

# This node's address on it, with prefix length.
# ! As for the heartbeat network.
address = address
"""
"""NODE.conf"""
