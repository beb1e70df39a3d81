"""The scripts that the watchdog starts: stand-ins on PATH that keep a journal of their words."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import paths
from clusterd.crew import AFTER_KILL, RETRY, RETRY_AT_MOST, Crew, Ended, script
from clusterd.picture import ACQUIRE
from unit.site import wait, wait_gone

if TYPE_CHECKING:
    from unit.conftest import Box

TAKEOVER = """\
[ "$1" = --config ] || exit 64
echo "takeover $*" >> {journal}
case " $* " in *" --on-go "*) ;; *) exit 0 ;; esac
while read line; do echo "told $line" >> {journal}; [ "$line" = go ] && exit {code}; done
echo "sent away" >> {journal}"""


@pytest.fixture(name="crew")
def made_crew(box: "Box") -> Iterator[Crew]:
    box.program("takeover", TAKEOVER.format(journal=box.root / "journal", code=0))
    box.program("release", f'echo "release $*" >> {box.root / "journal"}; read line && exit 65; exit 0')
    made = Crew("/etc/cluster.d")
    yield made
    made.disarm()
    for _, process in made.running.values():
        process.kill()
        process.wait()


def journal(box: "Box") -> list[str]:
    path = box.root / "journal"
    return path.read_text().splitlines() if path.exists() else []


def reaped(crew: Crew, now: float = 100.0) -> list[Ended]:
    """Wait until something has ended."""
    ended: list[Ended] = []

    def look() -> bool:
        ended.extend(crew.reap(now))
        return bool(ended)

    wait(look)
    return ended


def test_armed_and_told_to_go(box: "Box", crew: Crew) -> None:
    crew.arm("serv2")
    crew.arm("serv2")
    wait(lambda: journal(box))
    assert journal(box) == ["takeover --config /etc/cluster.d --on-go serv2"]
    assert not crew.busy("serv2") and crew.intended("serv2") == 0
    crew.takeover("serv2", 6, "serv2 is dead", {"serv3", "serv2"})
    assert crew.busy("serv2") and crew.intended("serv2") == 6
    assert reaped(crew) == [Ended("serv2", "takeover", 0, "")]
    assert journal(box)[1:] == ["told epoch 6", "told why serv2 is dead", "told unheard serv2 serv3", "told go"]
    assert not crew.busy("serv2") and crew.intended("serv2") == 0
    assert crew.retry_at == {}


def test_not_armed_and_told_to_go(box: "Box", crew: Crew) -> None:
    crew.takeover("serv2", 6, "serv2 is dead", set())
    reaped(crew)
    assert journal(box)[0] == "takeover --config /etc/cluster.d --on-go serv2"
    assert journal(box)[-1] == "told go"


def test_an_armed_one_that_has_died_is_replaced(box: "Box", crew: Crew) -> None:
    crew.arm("serv2")
    process = crew.armed["serv2"]
    process.kill()
    process.wait()
    crew.takeover("serv2", 6, "serv2 is dead", set())
    assert reaped(crew)[0].code == 0
    assert journal(box)[-1] == "told go"


def test_what_cannot_be_started_has_failed_and_is_tried_again(
    box: "Box", crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory, or no process is left for this node: the loop goes on, and renews what it holds."""

    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as tight:
        tight.setattr("subprocess.Popen", full)
        crew.arm("serv2")
        crew.takeover("serv2", 6, "serv2 is dead", set())
        crew.start("release", "serv1", "--to=serv2")
        said = "cannot be started: [Errno 11] Resource temporarily unavailable"
        assert crew.reap(100.0) == [
            Ended("serv2", "takeover", 1, f"takeover: {said}"),
            Ended("serv1", "release", 1, f"release: {said}"),
        ]
        crew.disarm()
    assert crew.not_before("takeover", "serv2") == 100.0 + RETRY
    crew.takeover("serv2", 6, "serv2 is dead", set())
    assert reaped(crew) == [Ended("serv2", "takeover", 0, "")]


def test_one_is_disarmed_or_all(box: "Box", crew: Crew) -> None:
    crew.arm("serv1")
    crew.arm("serv2")
    processes = dict(crew.armed)
    crew.disarm("serv1")
    assert set(crew.armed) == {"serv2"}
    wait(lambda: processes["serv1"].poll() is not None)
    assert "sent away" in journal(box)
    assert processes["serv2"].poll() is None
    crew.disarm()
    wait(lambda: processes["serv2"].poll() is not None)
    assert not any(line.startswith("told") for line in journal(box))


def test_disarming_waits_for_nobody(box: "Box", crew: Crew) -> None:
    """The loop has other things to do; a script that does not go is reaped whenever it goes."""
    box.program("takeover", "exec sleep 60")
    crew.arm("serv2")
    process = crew.armed["serv2"]
    began = time.monotonic()
    crew.disarm()
    assert time.monotonic() - began < 10
    process.kill()
    wait(lambda: crew.reap(100.0) or process.returncode is not None)


def test_another_script(box: "Box", crew: Crew) -> None:
    """Its stdin is at its end: nobody will ever write there. What was armed for the same group is sent away."""
    crew.arm("serv1")
    crew.arm("serv2")
    armed = dict(crew.armed)
    crew.start("release", "serv1", "--to=serv2", "--failback")
    assert reaped(crew) == [Ended("serv1", "release", 0, "")]
    assert "release --config /etc/cluster.d --to=serv2 --failback serv1" in journal(box)
    wait(lambda: armed["serv1"].poll() is not None)
    assert set(crew.armed) == {"serv2"} and armed["serv2"].poll() is None


def test_failures_are_tried_again_ever_later(box: "Box", crew: Crew) -> None:
    box.program("takeover", 'while read line && [ "$line" != go ]; do :; done; echo no >&2; exit 1')
    waits = []
    for _ in range(9):
        crew.takeover("serv2", 6, "a test", set())
        assert reaped(crew, 100.0) == [Ended("serv2", "takeover", 1, "no")]
        waits.append(crew.not_before("takeover", "serv2") - 100.0)
    assert waits[:4] == [RETRY, 2 * RETRY, 4 * RETRY, 8 * RETRY]
    assert waits[-1] == RETRY_AT_MOST
    box.program("takeover", "exit 0")
    crew.takeover("serv2", 7, "a test", set())
    reaped(crew)
    assert crew.retry_at == {} and crew.failures == {}


def test_why_a_takeover_failed_is_known_until_one_does_not(box: "Box", crew: Crew) -> None:
    box.program("release", "echo 'release: no' >&2; exit 1")
    for program, known in (("echo 'takeover: not fenced: serv2' >&2; exit 1", "not fenced: serv2"), ("exit 0", "")):
        box.program("takeover", f"read line; {program}")
        crew.takeover("serv2", 6, "a test", set())
        reaped(crew)
        assert crew.failed.get("serv2", "") == known
    crew.start("release", "serv1")
    reaped(crew)
    assert crew.failed["serv1"] == ""


def test_a_killed_script_is_started_again_at_once_the_first_time(box: "Box", crew: Crew) -> None:
    box.program("release", "exec sleep 60")
    for pause in (AFTER_KILL, 2 * RETRY, 4 * RETRY):
        crew.start("release", "serv1")
        crew.running["serv1"][1].kill()
        [ended] = reaped(crew)
        assert ended.code == -9
        assert crew.not_before("release", "serv1") - 100.0 == pytest.approx(pause)


def test_a_failed_hand_over_hardly_puts_off_a_takeover(box: "Box", crew: Crew) -> None:
    """Nor does it count as one, and a takeover that went well does not have the hand-over tried again at once."""
    box.program("release", "exit 1")
    for _ in range(3):
        crew.start("release", "serv1")
        reaped(crew, 100.0)
    assert crew.not_before("takeover", "serv1") == 100.0 + RETRY
    assert crew.not_before("release", "serv1") == 100.0 + 4 * RETRY
    box.program("takeover", "exit 0")
    crew.start("takeover", "serv1", "--resume")
    reaped(crew, 101.0)
    assert crew.not_before("release", "serv1") == 100.0 + 4 * RETRY


def test_what_failed_long_ago_does_not_count(box: "Box", crew: Crew) -> None:
    box.program("release", "exit 1")
    for _ in range(5):
        crew.start("release", "serv1")
        reaped(crew, 100.0)
    later = crew.not_before("release", "serv1") + RETRY_AT_MOST + 1.0
    crew.start("release", "serv1")
    reaped(crew, later)
    assert crew.not_before("release", "serv1") == later + RETRY


def test_a_takeover_that_another_node_has_overtaken_is_ended(box: "Box", crew: Crew) -> None:
    box.program("takeover", f"sleep 100 & echo $! > {box.root}/child; touch {box.root}/ready; wait")
    crew.takeover("serv2", 6, "a test", set())
    wait(lambda: Path(box.root, "ready").exists())
    Path(box.root, "ready").unlink()
    child = int(Path(box.root, "child").read_text())
    assert crew.ordered("serv2") == ACQUIRE
    crew.stop("serv2")
    assert crew.ordered("serv2") == "" and crew.intended("serv2") == 6, "it is not told again, and not gone yet"
    crew.stop("serv2")
    crew.stop("serv1")
    assert [ended.stopped for ended in reaped(crew)] == [True]
    wait_gone(child)
    assert crew.failures == {} and crew.retry_at == {} and crew.stopped == set()


def test_what_a_script_says_is_kept(box: "Box", crew: Crew) -> None:
    box.program("release", "echo one; echo two >&2")
    crew.start("release", "serv1")
    assert reaped(crew)[0].said == "two"
    with open(f"{paths.RUN}/release-serv1.log", encoding="ascii") as file:
        assert file.read() == "one\ntwo\n"


def test_a_script_leads_a_session_of_its_own(box: "Box", crew: Crew) -> None:
    """A signal to the watchdog's group does not end a takeover under way."""
    crew.arm("serv2")
    pid = crew.armed["serv2"].pid
    assert os.getsid(pid) == pid


def test_the_script_beside_the_running_one(box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(box.bin / "watchdog")])
    assert script("nonsense") == "nonsense"
    beside = box.program("takeover", "exit 0")
    assert script("takeover") == str(beside)


def test_letting_go_is_repeated_until_it_succeeds(box: "Box", crew: Crew) -> None:
    box.program("release", f'echo "release $*" >> {box.root / "journal"}; exit 1')
    crew.start("release", "serv2", "--let-go", "--why=a test")
    crew.repeat(set(), 100.0)
    reaped(crew, 100.0)
    assert crew.retry_at == {}, "the group may be taken all the same"
    crew.repeat(set(), 100.0 + RETRY - 0.1)
    assert len(journal(box)) == 1
    crew.repeat(set(), 100.0 + RETRY)
    reaped(crew, 110.0)
    assert journal(box) == 2 * ["release --config /etc/cluster.d --let-go --why=a test serv2"]
    crew.repeat(set(), 110.0 + 2 * RETRY - 0.1)
    assert len(journal(box)) == 2
    box.program("release", f'echo "release $*" >> {box.root / "journal"}')
    crew.repeat(set(), 110.0 + 2 * RETRY)
    reaped(crew, 130.0)
    crew.repeat(set(), 10_000.0)
    assert len(journal(box)) == 3 and crew.again == {}


def test_letting_go_is_not_repeated_once_the_group_is_here_again(box: "Box", crew: Crew) -> None:
    box.program("release", f'echo "release $*" >> {box.root / "journal"}; exit 1')
    crew.start("release", "serv2", "--let-go")
    reaped(crew, 100.0)
    crew.repeat({"serv2"}, 200.0)
    crew.repeat(set(), 300.0)
    assert len(journal(box)) == 1


def test_a_loop_that_starts_anew_goes_on_letting_go(box: "Box", crew: Crew) -> None:
    box.program("release", f'echo "release $*" >> {box.root / "journal"}; exit 1')
    crew.start("release", "serv2", "--let-go", "--why=a test")
    reaped(crew, 100.0)
    after = Crew("/etc/cluster.d")
    box.program("release", f'echo "release $*" >> {box.root / "journal"}')
    after.repeat(set(), 100.1)
    reaped(after, 100.2)
    assert journal(box) == 2 * ["release --config /etc/cluster.d --let-go --why=a test serv2"]
    assert Crew("/etc/cluster.d").again == {}
    (box.run / "leaving.json").write_text("rubbish")
    assert Crew("/etc/cluster.d").again == {}


def test_an_intention_is_as_old_as_the_word_that_told_of_it(crew: Crew) -> None:
    crew.intend({"serv2": 6}, 10)
    crew.intend({"serv2": 6, "serv3": 4}, 11)
    assert crew.intentions == {"serv2": (6, 10), "serv3": (4, 11)}
    assert (crew.intending("serv2"), crew.intended("serv2"), crew.intending("serv1")) == (6, 0, 0)
    crew.intend({"serv2": 7}, 12)
    assert crew.intentions == {"serv2": (7, 12)}
    crew.takeover("serv2", 7, "serv2 is dead", set())
    assert (crew.intending("serv2"), crew.intended("serv2")) == (0, 7)


def test_letting_go_in_place_of_a_takeover_is_repeated_as_well(box: "Box", crew: Crew) -> None:
    """It was the takeover that was told to end."""
    box.program("release", "read line && exit 65; exit 1")
    crew.takeover("serv2", 6, "serv2 is dead", set())
    crew.stop("serv2")
    crew.start("release", "serv2", "--let-go")
    [ended] = reaped(crew)
    assert (ended.program, ended.code, ended.stopped) == ("release", 1, False)
    assert crew.again["serv2"].due == 100.0 + RETRY
