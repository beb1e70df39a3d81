"""The lab's client of the share: whatever becomes of its connection, the next write is tried on another one."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lab.labnet.proc import wait_for
from lab.shareclient import ShareClient

STAND_IN = """#!/bin/sh
# As smbclient does: a line for each file stored. It ends when the file says so, or as soon as the server is gone.
while read -r command from to; do
    echo "putting file $from as \\\\$to (1.0 kb/s) (average 1.0 kb/s)"
    case $(cat "${0%/*}/share/${from##*/}") in last) exit ;; esac
done
"""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ShareClient]:
    """A client that speaks to an executable stand-in of smbclient."""
    program = tmp_path / "smbclient"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    lab = SimpleNamespace(path=lambda _, path: tmp_path / Path(path).name, argv=lambda *_: [str(program)])
    with ShareClient(cast(Any, lab), "share") as made:
        yield made


def test_writes_that_are_acknowledged(client: ShareClient) -> None:
    assert [client.put(f"day-{number}", "text") for number in range(3)] == [True] * 3


def test_a_client_that_has_ended_by_itself_is_replaced(client: ShareClient) -> None:
    assert client.put("day-1", "last")
    process = client._process
    assert process
    wait_for(lambda: process.poll() is not None, 10, "the stand-in to end")
    assert not client.put("day-2", "text")
    assert client.put("day-3", "text")
