"""Backup sets of real passes: listed, shown, confirmed and purged at the receiver; put back where that makes sense."""

import json
from typing import Any

import pytest

from lab.labnet.lab import Lab
from lab.story import BACKUPS, SHARE, mirror


def sets(lab: Lab, node: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab.run(node, ["purge_backups", "--json"]).stdout)
    return found


@pytest.fixture
def replaced(home: Lab) -> tuple[Lab, dict[str, Any]]:
    """serv2 keeps what a pass from serv1 has replaced and deleted there."""
    known = {one["set"] for one in sets(home, "serv2")}
    home.sh("serv1", f"cd {SHARE}; mkdir -p b; touch keep{{1..60}}; echo old > b/changed; echo gone > b/$'two\\nlines'")
    home.sh("serv1", f"cd {SHARE}/b; chown 1234:4321 changed; chmod 0640 changed; touch -d 2001-02-03T04:05:06 changed")
    mirror(home, "serv1", "smbd")
    home.sh("serv1", f"cd {SHARE}/b; echo newer > changed; rm $'two\\nlines'")
    mirror(home, "serv1", "smbd")
    (one,) = [one for one in sets(home, "serv2") if one["set"] not in known and one["deleted"]]
    return home, one


def test_from_the_pass_to_the_purge(replaced: tuple[Lab, dict[str, Any]]) -> None:
    lab, one = replaced
    name = one["set"]
    assert (one["service"], one["sender"], one["receiver"], one["state"]) == ("smbd", "serv1", "serv2", "complete")
    assert (one["entries"], one["replaced"], one["deleted"], one["confirmed"]) == (2, 1, 1, None)
    (shown,) = json.loads(lab.run("serv2", ["purge_backups", "--json", "--show", name]).stdout)
    found = {entry["path"]: entry for entry in shown["files"]}
    assert set(found) == {f"{SHARE}/b/changed", f"{SHARE}/b/two\nlines"}
    changed = found[f"{SHARE}/b/changed"]
    assert (changed["uid"], changed["gid"], changed["mode"], changed["size"]) == (1234, 4321, 0o640, 4)

    refused = lab.run("serv2", ["restore_backup", name, "--all"], check=False)
    assert refused.returncode == 77
    assert "copy it to serv1, which holds serv1" in refused.stderr
    lab.sh("serv2", "mkdir -p /root/look")
    lab.run("serv2", ["restore_backup", name, "--all", "--to", "/root/look"])
    look = f"/root/look{SHARE}/b"
    assert lab.sh("serv2", f"cat {look}/changed {look}/$'two\\nlines'") == "old\ngone\n"
    assert lab.sh("serv2", f"TZ=UTC stat -c '%u %g %a %y' {look}/changed").startswith(
        "1234 4321 640 2001-02-03 04:05:06.0"
    )

    lab.run("serv2", ["purge_backups", "--purge"])
    assert name in [each["set"] for each in sets(lab, "serv2")], "nobody has confirmed it"
    lab.run("serv2", ["purge_backups", "--confirm", name])
    lab.run("serv2", ["purge_backups", "--purge"])
    assert name in [each["set"] for each in sets(lab, "serv2")], "the 30 days begin only now"
    manifest = lab.path("serv2", f"{BACKUPS}/{name}/manifest.json")
    made = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**made, "confirmed": made["confirmed"] - 31 * 86400}))
    done = lab.run("serv2", ["purge_backups", "--purge"])
    assert done.stdout + done.stderr == ""
    assert name not in [each["set"] for each in sets(lab, "serv2")]
    assert name not in lab.sh("serv2", f"ls -a {BACKUPS}")


def test_after_a_hand_over_the_new_holder_puts_back(replaced: tuple[Lab, dict[str, Any]]) -> None:
    lab, one = replaced
    lab.run("serv1", ["release", "serv1", "--to", "serv2"], timeout=120)
    lab.run("serv2", ["restore_backup", one["set"], f"{SHARE}/b"])
    assert lab.sh("serv2", f"cat {SHARE}/b/changed {SHARE}/b/$'two\\nlines'") == "old\ngone\n"
    kept = [each for each in sets(lab, "serv2") if each["why"] == "restore"][-1]
    assert lab.sh("serv2", f"cat {BACKUPS}/{kept['set']}/files{SHARE}/b/changed") == "newer\n"
    mirror(lab, "serv2", "smbd")
    assert lab.sh("serv1", f"cat {SHARE}/b/changed") == "old\n"
