"""The lab's power switch itself: really cuts a machine's power when a fence agent asks for it. Run by pdu.start.

A request is one line of JSON on a TCP connection, {"action": "off", "plug": "serv1"}; so is the answer,
{"state": "off"} or {"error": "why not"}.
"""

import json
import socketserver
import sys
from contextlib import suppress
from datetime import datetime
from threading import Lock, Thread
from time import sleep

from . import bmc, lifecycle, power
from .plan import PDU, PDU_PORT, Place, machine, place
from .proc import LabError, locked


class Handler(socketserver.StreamRequestHandler):
    """One connection: one request."""

    server: "Server"

    def handle(self) -> None:
        """Do it, and answer; a client that has gone meanwhile was plugged in here."""
        asked = json.loads(self.rfile.readline())
        answer = self.server.carry_out(asked, self.client_address[0])
        with suppress(OSError):
            self.wfile.write((json.dumps(answer) + "\n").encode())


class Server(socketserver.ThreadingTCPServer):
    """The switch itself; one thing after the other, as with a real one."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, at: Place) -> None:
        self.at = at
        self.one = Lock()
        super().__init__((PDU, PDU_PORT), Handler)

    def carry_out(self, asked: dict[str, str], client: str) -> dict[str, str]:
        """One request, in the mode that it is in now; the log says at the end what became of it."""
        action, plug = asked["action"], asked.get("plug", "")
        mode = (self.at.folder / "pdu.mode").read_text()
        if mode == "hangs":
            self.log(client, action, plug, "no answer")
            sleep(86400)
        with self.one:
            try:
                if mode == "fails":
                    raise LabError("outlet does not respond")
                if action in ("on", "off") and mode != "lies":
                    self.switch(plug, action)
                answer = {"state": action if mode == "lies" and action != "status" else self.state(plug)}
            except LabError as error:
                answer = {"error": str(error)}
        self.log(client, action, plug, answer.get("state") or answer["error"])
        return answer

    def switch(self, plug: str, action: str) -> None:
        """Have it be on or off; nothing happens if it is."""
        target = machine(plug)
        with locked(self.at.lock):
            if self.state(plug) == action:
                return
            if action == "on":
                lifecycle.power_on(self.at, [target])
            else:
                lifecycle.power_off(self.at, target)

    def state(self, plug: str) -> str:
        """on or off."""
        return "on" if power.init_pid(self.at, machine(plug)) else "off"

    def log(self, client: str, action: str, plug: str, became: str) -> None:
        """One line of what `requests` reads."""
        line = {"time": datetime.now().isoformat(), "from": client, "action": action, "plug": plug, "became": became}
        with (self.at.folder / "pdu.log").open("a") as file:
            file.write(json.dumps(line) + "\n")


def main() -> None:
    """Serve until killed."""
    at = place(sys.argv[1])
    with Server(at) as server, bmc.Controllers(server, at.folder) as controllers:
        Thread(target=controllers.serve_forever, daemon=True).start()
        server.serve_forever()


if __name__ == "__main__":
    main()
