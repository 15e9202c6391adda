"""Every error a user can cause, as one tree, each with its exit code."""


class PruneError(Exception):
    """A message of what went wrong and where, the next step in `hint`, and the exit code of the command."""

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
    """An input is missing, corrupt, altered or of the wrong kind."""

    exit_code = 3


class UnreachableError(InputError):
    """The other side of a connection gave no complete answer."""


class MismatchError(PruneError):
    """A manifest and a data set do not belong together."""

    exit_code = 4


class IncompleteError(PruneError):
    """Stopped before the end; the same command resumes from there."""

    exit_code = 5
