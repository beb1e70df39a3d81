"""The service description file, services/NAME.conf, as a ConfigObj configspec; how to read it: configspec.py."""

SERVICE = """
# The node that runs the service when all is well, and so the group that it belongs to.
# ! Services that need each other, with different homes: they run on different nodes.
home = hostname

# Services of a group are started lowest first, equal ones by name, and stopped in reverse.
# ! Before what it needs (a database, the users): its start may fail.
order = number(min=0, max=9999, default=50)

# How the service runs. On every node it must not be started at boot by the distribution: clusterd does that.
[run]
# systemd: a unit. sysv: a script of /etc/init.d. command: own start, stop, status. ocf: a resource agent. none:
# nothing runs, only files are mirrored.
# ! Also started by the distribution: it runs on both nodes, and writes into files that the mirror replaces.
kind = one_of(systemd, sysv, command, ocf, none)

# The unit, the init script, or the absolute path of the resource agent. For systemd, sysv and ocf only.
# ! One that is not there: the start fails, the other services start, and the notice says which did not.
name = unit(default='')

# What the resource agent is told of the service: name=value, a list (configfile=/etc/apache2.conf, port=8080). For
# ocf only; `ocf-tester` or the agent's own meta-data say which there are.
# ! One that is missing or misspelt: the agent takes its default, which may be another service.
parameters = words(default=list())

# The command that starts the service, as a list of words: /usr/local/bin/thing, --start. There is no shell. For
# command only.
# ! One that does not return, because the program stays in the foreground: it is ended after timeout, and the
# start has failed.
start = words(default=list())

# The command that stops it. For command only.
# ! One that returns before the program has ended: the last pass may miss what it still writes.
stop = words(default=list())

# The command that exits 0 if and only if it runs. For command only; without it that is not known.
# ! One that always exits 0: a dead service looks alive.
status = words(default=list())

# Of a start or a stop.
# ! Too short: a slow stop counts as failed, and a release is undone. Too long: a hung stop holds the release up.
timeout = duration(min='1 second', max='1 hour', default='60 seconds')

# What is copied from the holder to the other nodes. Without paths, nothing.
[mirror]
# How often a pass runs by itself; never: by your own cron line or by hand. Needed with paths. Cron looks every
# minute, so a minute is the least.
# ! Long: that much is missing on the other node when this one dies (it is found and kept when it returns).
every = every(default=None)

# Absolute, as a list; a folder ends in a slash, a file does not. None inside another service's, in /proc, /sys,
# /dev, /run or clusterd's own state.
# ! A database's files while it runs: the copy is not consistent; mirror a dump instead.
paths = paths(default=list())

# Which files a takeover serves when the last pass to the node was cut in the middle. no: the newest ones; every
# file is whole, but some are of that pass and some of the one before. yes: those of the last complete pass; the
# node goes back to it before it starts the service, and keeps what the cut pass had brought in a backup set.
# ! no, for files that must fit together (a repository, a dump in several files): the service may start on a
# mixture. yes: if the way back fails (a full disk), the service is not started until a person has looked; and with
# a program that writes into the files although clusterd does not start it (a mail server that runs on both
# nodes), what it writes in these seconds may go into the backup set as well.
consistent = yes_no(default=no)

# rsync include patterns; they win over exclude.
# ! None has an effect unless some exclude pattern matches as well.
include = patterns(default=list())

# rsync exclude patterns: what matches is neither copied nor deleted on the other side.
# ! Too much: what is excluded is missing after a takeover.
exclude = patterns(default=list())

# yes: no rsync algorithm, whole files: less CPU, more network.
# ! yes, with large files that change a little, over a slow cable: passes take long.
whole_file = yes_no(default=no)

# At most that many KiB a second; 0: no limit.
# ! Less than what changes: a pass never ends in time.
bandwidth = number(min=0, max=1000000000, default=0)

# As in cluster.conf, for this service only.
# ! See there.
max_delete = max_delete(default=None)

# A command, as a list of words, on the sender before each pass, for example a database dump; but not before the
# last one of a hand-over, when the service is stopped: a dump is then as old as the first pass of that hand-over.
# Ended after one hour. It runs in /; CLUSTERD_SERVICE and CLUSTERD_PEER are in its environment; what it says is in
# /var/log/clusterd/hooks until it runs again. If it fails there is no pass.
# ! One that takes longer than every: passes fall behind.
before = words(default=list())

# The same after each complete pass, and not after the last pass of a hand-over.
# ! Its failure is told, and changes nothing about the pass.
after = words(default=list())
"""
"""services/NAME.conf"""
