#!/usr/bin/python3 -I
"""A fence agent for the lab's power switch, with the interface of fence-agents: key=value lines on stdin.

Installed on the nodes as fence_lab. Options: ip, plug (or port, or else nodename), action. Exit codes as the
fence-agents API says: 0 done, or on; 1 failed; 2 off, as the answer to status. Standard library only.
"""

import json
import socket
import sys

PORT = 8023
TIMEOUT = 60.0
METADATA = """<?xml version="1.0" ?>
<resource-agent name="fence_lab" shortdesc="Fence agent for the lab's power switch">
<longdesc>Cuts the power of a machine of the lab.</longdesc>
<parameters>
<parameter name="action" required="1"><content type="string" default="reboot" /></parameter>
<parameter name="ip" required="1"><content type="string" /></parameter>
<parameter name="plug" required="1"><content type="string" /></parameter>
</parameters>
<actions>
<action name="on" automatic="0"/><action name="off"/><action name="reboot"/>
<action name="status"/><action name="monitor"/><action name="metadata"/>
</actions>
</resource-agent>
"""


def ask(options: dict[str, str], action: str) -> str:
    """The state of the plug after `action`; ends with exit code 1 if the switch does not say."""
    plug = options.get("plug") or options.get("port") or options.get("nodename", "")
    try:
        with (
            socket.create_connection((options["ip"], PORT), TIMEOUT) as connection,
            connection.makefile("rw") as stream,
        ):
            stream.write(json.dumps({"action": action, "plug": plug}) + "\n")
            stream.flush()
            answer = json.loads(stream.readline() or '{"error": "no answer"}')
    except (OSError, ValueError) as error:
        sys.exit(f"Unable to connect/login to fencing device: {error}")
    if "error" in answer:
        sys.exit(f"Failed: {answer['error']}")
    return str(answer["state"])


def main() -> int:
    """Read the options, do the one action."""
    lines = (line.strip() for line in sys.stdin)
    options = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    action = options.get("action", "reboot")
    if action == "metadata":
        print(METADATA, end="")
        return 0
    if "ip" not in options:
        sys.exit("Failed: You have to enter fence address")
    if action == "status":
        return 0 if ask(options, "status") == "on" else 2
    if action == "monitor":
        ask(options, "status")
        return 0
    for step in {"reboot": ("off", "on")}.get(action, (action,)):
        if step not in ("off", "on"):
            sys.exit(f"Failed: Unrecognised action '{action}'")
        if ask(options, step) != step:
            sys.exit(f"Failed: Timed out waiting to power {step.upper()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
