"""Every error that gpuctl foresees, and the exit code that each one ends with.

    GpuctlError               1   the tool could not do what was asked
    ├── UsageError            2   wrong words on the command line
    │   ├── JobError          2   a job that cannot be read: its job.toml, its folder
    │   └── NameInUse         2   a run name that another run already has
    ├── TrainingFailed        3   the training command itself failed
    ├── NoCapacity            4   no offer had capacity, or a quota is used up
    ├── NotAllowed            5   credentials missing, expired, or not permitted
    ├── NotFound              6   no such run, job or snapshot
    ├── CloudError            1   AWS refused or did not answer
    │   └── NoAnswer          1   it did not answer: nobody knows whether it did what was asked
    │       └── CloudGone     1   a cloud on this machine that no longer runs, and neither do its hosts
    ├── HostError             1   something about one host
    │   ├── HostUnreachable   1   it does not answer
    │   │   └── HostGone      1   and EC2 says that it no longer exists
    │   ├── HostStopped       1   it exists, but is switched off
    │   ├── HostKeyMismatch   1   what answers is not the host that was launched
    │   ├── HostRefused       1   it answered, but what it was asked to do failed
    │   └── NotHome           1   what a run wrote is only on the host: removing the host would lose it
    ├── LeftBehind            1   it ended early, and something that a run created may still be there
    └── Interrupted         130   Ctrl-C; what was half done has been undone

An error is one line for a person: what happened, to what, what to do next. It is shown once, by the entry point.
"""

from __future__ import annotations


class GpuctlError(Exception):
    """What happened, and to what (`message`), and what a person can do about it (`next_step`)."""

    exit_code = 1

    def __init__(self, message: str, next_step: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}; {self.next_step}" if self.next_step else self.message


class UsageError(GpuctlError):
    """Wrong words on the command line."""

    exit_code = 2


class JobError(UsageError):
    """A job that cannot be read."""


class NameInUse(UsageError):
    """A run name that another run already has: nothing that carries it may be touched."""


class TrainingFailed(GpuctlError):
    """The training command itself ended with an error."""

    exit_code = 3


class NoCapacity(GpuctlError):
    """No offer had capacity, or a quota is used up."""

    exit_code = 4


class NotAllowed(GpuctlError):
    """Credentials are missing, expired, or not permitted to do this."""

    exit_code = 5


class NotFound(GpuctlError):
    """No such run, job or snapshot."""

    exit_code = 6


class CloudError(GpuctlError):
    """AWS refused or did not answer."""


class NoAnswer(CloudError):
    """AWS did not answer, or failed: nobody knows whether it did what was asked."""


class CloudGone(NoAnswer):
    """A cloud on this machine that no longer runs, and neither do its hosts."""


class HostError(GpuctlError):
    """Something about one host."""


class HostUnreachable(HostError):
    """A host that does not answer."""


class HostGone(HostUnreachable):
    """A host that does not answer and no longer exists in EC2."""


class HostStopped(HostError):
    """A host that is switched off, with all that is on its disk."""


class HostKeyMismatch(HostError):
    """What answers is not the host that was launched."""


class HostRefused(HostError):
    """A host that answered, but what it was asked to do failed."""


class NotHome(HostError):
    """What a run wrote is only on its host."""


class LeftBehind(GpuctlError):
    """A command that ended early, and something that a run created may still be there."""


class Interrupted(GpuctlError):
    """Ctrl-C, and what was half done is undone."""

    exit_code = 130
