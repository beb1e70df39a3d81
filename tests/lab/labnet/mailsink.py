"""A real SMTP server that keeps every message as a file. Arguments: the address to listen on, the folder."""

import sys
import time
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller


class Keep:
    """Writes each message with its envelope, one file a message, named in order of arrival."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 aiosmtpd's name
        """Keep one message."""
        head = f"X-Lab-From: {envelope.mail_from}\r\nX-Lab-To: {', '.join(envelope.rcpt_tos)}\r\n".encode()
        name = f"{time.monotonic_ns():020d}"
        new = self.folder / f"{name}.new"
        new.write_bytes(head + envelope.content)
        new.rename(self.folder / f"{name}.eml")
        return "250 kept"


def main() -> None:
    """Serve until killed."""
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    controller = Controller(Keep(folder), hostname=sys.argv[1], port=25)
    controller.start()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
