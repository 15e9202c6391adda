"""Shared by both commands: exit codes, messages on stderr, results on stdout."""

import codecs
import errno
import io
import json
import os
import sys
from contextlib import nullcontext, redirect_stdout, suppress
from typing import Any, NoReturn, TextIO, cast

import click

from manifests.base.progress import printable
from manifests.errors import IncompleteError, InputError, PruneError
from trainer.cli.prune_toml import config_defaults
from trainer.cli.stops import INTERRUPTED, Stops, Terminated

_RESUME = "run the same command again to resume"
_KEEP_NOTHING = ("verify", "diff", "show", "list")
"""Commands that always start from the beginning."""


def run_cli(command: click.Command, args: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its code: 0 ok, 2 usage, 3 input, 4 mismatch, 5 incomplete, 130 Ctrl-C.

    Without `args` the process is the command's: once it was told to stop, it does not wait for threads of libraries.
    """
    name = command.name or "prune"
    stops = Stops(name, ends_process=args is None)
    _complete(command, name)
    words = sys.argv[1:] if args is None else args
    resume = "" if words[:1] and words[0] in _KEEP_NOTHING else f"\n  {_RESUME}"
    try:
        with stops:
            code = _run(command, name, words, stops)
    except BaseException as error:
        # A library may have made another error of it, as imports do.
        if stops.kind is None and not isinstance(error, KeyboardInterrupt | EOFError | click.Abort):
            raise
        if stops.kind is Terminated:
            code = _tell(name, f"stopped by {stops.name}{resume}", IncompleteError.exit_code)
        else:
            code = _tell(name, f"interrupted{resume}", INTERRUPTED)
    code = _flushed(name, code)
    if args is None and stops.kind is not None:
        os._exit(code)
    sys.exit(code)


def _run(command: click.Command, name: str, words: list[str], stops: Stops) -> int:
    """Run a command and return its exit code; what it was told by Ctrl-C, or a bug, is raised."""
    # Standard output is None where a shell closed it (`>&-`).
    printed = nullcontext() if sys.stdout is None else redirect_stdout(cast(TextIO, _Printable(sys.stdout)))
    try:
        # Not command.main(): it turns a closed pipe into exit code 1 and Ctrl-C into an Abort of its own.
        with (
            command.make_context(name, words, default_map=config_defaults(command)) as context,
            printed,
        ):
            command.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except PruneError as error:
        if stops.kind is not None:
            # A library took the exception for damage of what it read.
            raise
        return _tell(name, str(error), error.exit_code)
    except OSError as error:
        if stops.kind is not None:
            raise
        return _tell_os_error(name, error)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _tell_out_of_memory(name, error)
    return 0


class _Printable:
    """Standard output that makes everything written to it printable; JSON is not changed by that.

    It is switched from ASCII to UTF-8, because click would bypass our wrapper of an ASCII stream. Characters that its
    encoding lacks are escaped.
    """

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, io.TextIOWrapper):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if is_ascii else None, errors="backslashreplace")
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text."""
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _complete(command: click.Command, name: str) -> None:
    """Answer if the shell asks for completions."""
    variable = f"_{name}_COMPLETE".replace("-", "_").upper()
    if instruction := os.environ.get(variable):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(command, {}, name, variable, instruction))


def _tell(name: str, message: str, code: int) -> int:
    with suppress(OSError):
        print(f"{name}: {printable(message)}", file=sys.stderr, flush=True)  # noqa: T201
    return code


def _tell_os_error(name: str, error: OSError) -> int:
    """Print an error of the operating system and return its exit code; raise it again if it has no message."""
    if isinstance(error, BrokenPipeError):
        # The reader of our output has closed it (`prune show | head`): nothing is wrong.
        return 0
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _tell(name, f"the disk is full{where}\n  make room; {_RESUME}", IncompleteError.exit_code)
    if error.errno == errno.EFBIG:
        message = (
            f"a file may not become so large{where}\n  raise the limit (ulimit -f), or name another disk; {_RESUME}"
        )
        return _tell(name, message, IncompleteError.exit_code)
    if not error.strerror:
        raise error
    return _tell(name, f"{error.strerror}{where}", InputError.exit_code)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory of this machine or of its GPU is used up; torch is not imported to find out."""
    is_of_gpu = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or is_of_gpu or "can't allocate memory" in str(error)


def _tell_out_of_memory(name: str, error: Exception) -> int:
    reason = str(error).partition("\n")[0].partition(". ")[0] or "no more could be allocated"
    advice = "free some, or take a smaller --batch-size or fewer --workers where the command has them"
    return _tell(name, f"memory is used up: {reason}\n  {advice}; {_RESUME}", IncompleteError.exit_code)


def _flushed(name: str, code: int) -> int:
    """Flush stdout and stderr, and return the exit code: another one if a result could not be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            code = code or _tell_os_error(name, error)
            # What could not be written is still buffered: the interpreter would try again and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def echo_json(content: object) -> None:
    """Print a result as JSON on stdout."""
    click.echo(json.dumps(content, indent=1, ensure_ascii=False))


def echo_table(rows: list[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """Print rows under a header on stdout, columns aligned: text to the left, numbers to the right."""
    cells = [tuple(" ".join(text.split()) if "\n" in text else text for text in row) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    for row in cells:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def _is_number(text: str) -> bool:
    return not text or text == "-" or text.lstrip("-+").replace(",", "").replace(".", "").rstrip("%s").isdigit()
