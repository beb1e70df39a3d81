"""clusterd: high availability for a pair of ordinary Linux servers, from cron, rsync, ssh and small scripts."""

__version__ = "1.0.0"
