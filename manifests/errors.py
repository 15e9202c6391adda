"""Every error a user can cause, as one tree.

PruneError            1    a bug of ours, or a class below
    UsageError        2    the command was called wrongly
    InputError        3    what was read is missing, corrupt, altered or of the wrong kind
        UnreachableError   what was to be read or written is elsewhere, and no full answer came from there
    MismatchError     4    a manifest and a data set do not belong together
    IncompleteError   5    stopped before the end; the same command goes on from there
"""


class PruneError(Exception):
    """What went wrong and where, the next step in `hint`, and the exit code of the command."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class UsageError(PruneError):
    """The command was called wrongly."""

    exit_code = 2


class InputError(PruneError):
    """What was read is missing, corrupt, altered or of the wrong kind."""

    exit_code = 3


class UnreachableError(InputError):
    """What was to be read or written is elsewhere, and no full answer came from there."""


class MismatchError(PruneError):
    """A manifest and a data set do not belong together."""

    exit_code = 4


class IncompleteError(PruneError):
    """Stopped before the end; the same command goes on from there."""

    exit_code = 5
