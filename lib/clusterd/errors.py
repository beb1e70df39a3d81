"""The exit codes of every script, and the errors that carry them.

Raised where something is known, translated once, in ``cli.main``, into one line on stderr.
"""

OK = 0
"""Done."""
FAILED = 1
"""Tried and failed, or a definite no."""
USAGE = 2
"""The command line is wrong (argparse uses the same number)."""
UNKNOWN = 3
"""It cannot be told: evidence is missing or contradicts itself."""
BUSY = 75
"""Somebody else holds the lock (EX_TEMPFAIL of sysexits.h)."""
NOT_PERMITTED = 77
"""The caller may not do this (EX_NOPERM)."""
BAD_CONFIG = 78
"""The configuration is wrong (EX_CONFIG)."""


class ClusterdError(Exception):
    """Something that a person is told in one line; ``exit_code`` is what the script returns."""

    exit_code = FAILED


class Failed(ClusterdError):
    """An action was tried and failed, or is refused for good reason."""


class Usage(ClusterdError):
    """The command line cannot be carried out as written."""

    exit_code = USAGE


class CannotTell(ClusterdError):
    """The evidence does not suffice: unsure is not dead, nothing was moved."""

    exit_code = UNKNOWN


class Busy(ClusterdError):
    """Another instance is at it."""

    exit_code = BUSY


class NotPermitted(ClusterdError):
    """The caller, or the state of the cluster, does not allow it."""

    exit_code = NOT_PERMITTED


class ConfigError(ClusterdError):
    """A configuration file is wrong: names file, section, key, what was found and what is allowed."""

    exit_code = BAD_CONFIG


def text(error: ClusterdError | OSError) -> str:
    """What a person is told of an error; of one of the system's: the file, if it names one, and what is wrong."""
    if isinstance(error, ClusterdError):
        return str(error)
    return (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))
