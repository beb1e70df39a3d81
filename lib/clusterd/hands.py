"""What the watchdog's decision comes to: addresses let go of, scripts started and ended, people told."""

from clusterd import actions
from clusterd.crew import Crew
from clusterd.estate import Estate
from clusterd.tell import Teller


class Hands:
    """Carries out what verdict.decide says, at once; what takes longer is a script's."""

    def __init__(self, estate: Estate, crew: Crew, teller: Teller) -> None:
        self.estate = estate
        self.crew = crew
        self.teller = teller

    def do(self, action: actions.Action, unheard: set[str]) -> None:
        """Carry out one action; `unheard`: the peers that are not heard, to be fenced first if there is an agent."""
        match action:
            case actions.Suspend(group, why):
                self.estate.suspend(group, why)
            case actions.Desist(group, _):
                self.crew.stop(group)
            case actions.LetGo(group, epoch, holder, why):
                self.crew.stop(group)
                self.estate.let_go(group, epoch, holder)
                self.crew.start("release", group, "--let-go", f"--why={why}")
                self.teller.lost(group, holder, why)
            case actions.Resume(group, _):
                self.crew.start("takeover", group, "--resume")
            case actions.Acquire(group, epoch, why):
                self.crew.takeover(group, epoch, why, unheard)
            case actions.HandOver(group, to, why):
                # A person may lift the lock while it is handed over: then no other one is set.
                standby = "--in-standby" if self.estate.standby else f"--standby={why}"
                self.crew.start("release", group, f"--to={to}", standby)
            case actions.Failback(group, to):
                self.crew.start("release", group, f"--to={to}", "--failback")
            case actions.EnterStandby(why):
                self.estate.enter_standby(why)
                self.teller.standby(why)
            case actions.LeaveStandby(why):
                self.estate.leave_standby()
                self.teller.no_standby(why)

    def reap(self, now: float) -> None:
        """See to the scripts that have ended."""
        ended = self.crew.reap(now)
        for script in ended:
            if script.stopped:
                self.estate.clear(script.group)
        self.teller.ended(ended)
