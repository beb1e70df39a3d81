"""watchdog: keeps looking, decides, starts takeover and release. A parent that does nothing else keeps it alive."""

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from clusterd import cli, keyfile, log, paths, run, urgency
from clusterd.errors import OK, Busy, ConfigError
from clusterd.lock import Lock, held
from clusterd.model import Config

DESCRIPTION = """\
Watch the peers on every path, many times a second; decide who holds what; renew the leases of the addresses held
here; start takeover and release. One instance a node: a second start exits at once, so cron may start it every
minute. SIGHUP starts it again without moving anything (after an upgrade), if the configuration can be used. SIGTERM
ends it: what is held here is then let go of by the kernel when the leases end, and the peer takes over."""

QUICK = 1.0
"""Seconds; a loop that ends sooner than that..."""
PAUSE = 1.0
"""...is started again only after so many, if it happens again and again."""
PATIENCE = 3
TRIAL = 10.0
"""Seconds in which the next watchdog must have said that it could start."""
ASKED = (signal.SIGTERM, signal.SIGHUP)


def parser() -> argparse.ArgumentParser:
    """The command line; also the source of the man page."""
    return cli.parser("watchdog", DESCRIPTION)


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return cli.main(parser(), watchdog, argv)


def watchdog(options: argparse.Namespace) -> int:
    """Supervise the loop until SIGTERM; 0 as well if another watchdog is at it."""
    cli.answer(running=held("watchdog"), started=False)
    if run.dry_run:
        from clusterd import loadable

        settings, _ = loadable.load(options.config)
        print(f"would watch {', '.join(peer.name for peer in settings.peers())}")
        return OK
    if held("watchdog"):
        log.debug("another watchdog is at it")
        return OK
    try:
        lock = Lock("watchdog").acquire()
    except Busy as busy:
        log.debug(str(busy))
        return OK
    from clusterd import loadable, network  # every minute cron starts one that ends here

    with lock:
        urgency.come_first()
        settings, keys = loadable.load(options.config)
        _leave_folder(settings)
        clean = _clean_stop()
        for problem in network.prepare(settings):
            log.event("network-not-ready", problem, level="error")
        log.event("watchdog-started", f"watching {', '.join(peer.name for peer in settings.peers())}")
        cli.answer(running=False, started=True)
        again = _supervise(settings, keys, clean)
    if again:
        _start_again()
    return OK


def _leave_folder(settings: Config) -> None:
    """Keep no folder busy; whoever starts again, by the same words, finds everything all the same."""
    sys.argv[0] = os.path.abspath(sys.argv[0])
    if settings.folder not in sys.argv:
        sys.argv += ["--config", settings.folder]
    os.chdir("/")


def _clean_stop() -> bool:
    """Whether the last stop was in order; asked once a start, and a start within the same boot is no fresh boot."""
    try:
        os.unlink(paths.CLEAN)
    except FileNotFoundError:
        return False
    return True


def _supervise(settings: Config, keys: keyfile.Keys, clean: bool) -> bool:
    """Keep a loop running; whether the whole watchdog is to start again, with another configuration."""
    from clusterd import notify, watch

    ending = _Ending(settings)
    failures = 0
    ended = ""
    said: list[str] = []
    while True:
        began = time.monotonic()
        words, mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)  # until it is known to whom they go
        try:
            child = os.fork()
        except OSError as error:  # for want of memory, or of processes: what is held lapses unless that is over soon
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
            os.close(words)
            os.close(mouth)
            ended = ended or f"cannot be started: {error.strerror}"
            time.sleep(PAUSE)
            if ending.asked:
                return ending.again
            continue
        if child == 0:
            _forget_signals()
            _loop(settings, keys, clean, mouth)
        ending.child = child
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
        os.close(mouth)
        urgency.no_hurry()
        if ended:  # told when the next one runs: a disk or a mail server that is slow must not keep it waiting
            text = f"the loop ended ({ended}) and is started again"
            notify.tell_detached(settings, "watchdog-restarted", text, traceback=said)
        code = ending.attend()
        said = _last_words(words)
        if code == watch.RELOAD or ending.again:
            return True
        if ending.asked or code == OK:
            return False
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else said[-1] if said else f"exit {code}"
        failures = failures + 1 if time.monotonic() - began < QUICK else 0
        if failures > PATIENCE:
            time.sleep(PAUSE)
        if ending.asked:
            return ending.again


class _Ending:
    """Passes SIGTERM on to the loop; after SIGHUP the watchdog starts again, as a new version of itself perhaps."""

    def __init__(self, settings: Config) -> None:
        self.settings = settings
        self.asked = self.again = self.wished = False
        self.child = 0
        self.signals, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: self._end(again=False))
        signal.signal(signal.SIGHUP, self._wish)
        signal.signal(signal.SIGCHLD, _nothing)

    def attend(self) -> int:
        """Wait until the loop has ended, and do meanwhile what SIGHUP asks for; returns the exit code."""
        while True:
            if self.wished and not self.asked:
                self.wished = False
                self._try_again()
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid:
                self.child = 0
                return os.waitstatus_to_exitcode(status)
            select.select([self.signals], [], [])
            os.read(self.signals, select.PIPE_BUF)

    def _wish(self, *_: object) -> None:
        self.wished = True

    def _try_again(self) -> None:
        """End the loop to start again, unless the next watchdog says that it could not: then there would be none."""
        from clusterd import notify

        trial = run.run([*sys.argv, "--dry-run"], timeout=TRIAL, changes=False)
        if not trial.ok:
            notify.tell_detached(self.settings, "config-bad", f"not started again after SIGHUP: {trial.why()}")
        elif not self.asked:
            notify.clear("config-bad")
            self._end(again=True)

    def _end(self, *, again: bool) -> None:
        self.asked, self.again = True, again
        if self.child:
            with suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGTERM)


def _forget_signals() -> None:
    """SIGTERM is the loop's own matter. SIGHUP is its parent's: the loop is not killed by it, not even as an orphan."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)


def _nothing(*_: object) -> None:
    """Unlike SIG_IGN, this is not inherited by the programs that are started."""


def _loop(settings: Config, keys: keyfile.Keys, clean: bool, mouth: int) -> None:
    """The child: the loop, at real-time priority where that is allowed. What it starts is back to normal."""
    from clusterd import watch

    code = 1
    try:
        priority = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, priority)
    except OSError as error:
        log.debug(f"no real-time priority: {error.strerror}")
        urgency.no_hurry()
    try:
        code = watch.Watch(settings, _latest(settings, keys), clean=clean).run()
        if code == watch.ORPHANED:
            _start_again()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the next loop starts, and a person is told
        _speak_last(error, mouth)
    finally:
        os._exit(code)


def _speak_last(error: BaseException, mouth: int) -> None:
    """Say why the loop ends: to cron, whose mail comes only when the parent ends too, and to that parent."""
    import traceback

    with suppress(OSError):
        said = "".join(traceback.format_exception(error))
        os.write(mouth, said.encode("utf-8", "replace")[-select.PIPE_BUF :])
        sys.stderr.write(said)
        sys.stderr.flush()


def _last_words(words: int) -> list[str]:
    """What the loop that has ended gave as the reason, a line each; its last line is the error."""
    with os.fdopen(words, "rb", buffering=0) as pipe:
        return (pipe.read(select.PIPE_BUF) or b"").decode("utf-8", "replace").splitlines()


def _latest(settings: Config, keys: keyfile.Keys) -> keyfile.Keys:
    """The keys as they are now: since the parent has read them they may have been rotated."""
    try:
        return keyfile.read(settings)
    except ConfigError as error:
        log.debug(str(error))
        return keys


def _start_again() -> None:
    """Become a fresh watchdog; what is held stays held: that takes less than a lease."""
    urgency.come_first()
    os.execv(sys.argv[0], sys.argv)
