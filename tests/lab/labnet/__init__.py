"""The lab: two nodes, a switch, a client and two reference hosts on one machine, made from namespaces."""
