"""The management controllers of the lab's nodes: Redfish (DMTF DSP0266) over HTTPS, as much as fence_redfish asks for.

A second front of the power switch, in its process (pduserver.py) and in the mode that it is in. A node's controller is
/redfish/v1/Systems/NODE.
"""

import base64
import json
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

from .plan import BMC_LOGIN, BMC_PORT, PDU
from .proc import run

SYSTEMS = "/redfish/v1/Systems/"
RESET = "/Actions/ComputerSystem.Reset"
ACTIONS = {"On": "on", "ForceOff": "off"}
LOGIN = "Basic " + base64.b64encode(":".join(BMC_LOGIN).encode()).decode()


class Switch(Protocol):
    """What cuts the power."""

    def carry_out(self, asked: dict[str, str], client: str) -> dict[str, str]:
        """See pduserver.Server."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: "Controllers"

    def do_GET(self) -> None:
        """The state of a system, and where it is changed."""
        system = self.path.removeprefix(SYSTEMS)
        self._carry_out("status", system)

    def do_POST(self) -> None:
        """Change it."""
        system = self.path.removeprefix(SYSTEMS).removesuffix(RESET)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._carry_out(ACTIONS[asked["ResetType"]], system)

    def _carry_out(self, action: str, system: str) -> None:
        if self.headers["Authorization"] != LOGIN:
            self._answer(401, {"error": "not authorised"})
            return
        answer = self.server.switch.carry_out({"action": action, "plug": system}, self.client_address[0])
        if "error" in answer:
            self._answer(500, answer)
            return
        target = f"{SYSTEMS}{system}{RESET}"
        state = answer["state"].capitalize()
        self._answer(200, {"PowerState": state, "Actions": {"#ComputerSystem.Reset": {"target": target}}})

    def _answer(self, code: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """The switch keeps the log."""


class Controllers(ThreadingHTTPServer):
    """All of them, at one address."""

    daemon_threads = True

    def __init__(self, switch: Switch, folder: Path) -> None:
        self.switch = switch
        super().__init__((PDU, BMC_PORT), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(folder))
        self.socket = context.wrap_socket(self.socket, server_side=True)


def certificate(folder: Path) -> Path:
    """Key and certificate in one file, signed by nobody, as controllers are delivered with."""
    file = folder / "bmc.pem"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "30"]
    run([*new, "-subj", f"/CN={PDU}", "-keyout", file, "-out", folder / "bmc.crt"])
    file.write_text(file.read_text() + (folder / "bmc.crt").read_text())
    return file
