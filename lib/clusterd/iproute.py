"""Many changes of the network in one run of ``ip``: a fork costs more than all of them."""

from clusterd import run

_TIMEOUT = 10.0


def batch(lines: list[str], harmless: str = "\0") -> str:
    """Let one ``ip`` do every line, whatever becomes of the others; returns what failed, and why, as one line.

    Only ``ip rule`` does not see by itself that an address is IPv6: such rules come first, with an ``ip`` of their own.
    """
    rules6 = [line for line in lines if line.startswith("rule ") and ":" in line]
    others = [line for line in lines if line not in rules6]
    return "; ".join(filter(None, (_one_batch(["ip", "-6"], rules6, harmless), _one_batch(["ip"], others, harmless))))


def _one_batch(ip: list[str], lines: list[str], harmless: str) -> str:
    if run.dry_run:
        for line in lines:
            run.show((*ip, *line.split()))
    if not lines or run.dry_run:
        return ""
    result = run.run([*ip, "-force", "-batch", "-"], stdin="\n".join(lines) + "\n", timeout=_TIMEOUT)
    failed, why = [], ""
    for said in result.stderr.splitlines():
        if not said.startswith("Command failed -:"):
            why = said
        elif harmless not in why:
            failed.append(f"{' '.join(ip)} {lines[int(said.rpartition(':')[2]) - 1]}: {why}")
    return "; ".join(failed) or ("" if result.code in {0, 1} else result.why())
