import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.base.progress import Progress, format_bytes, format_seconds, note, printable, timed
from trainer.cli.console import echo_json, echo_table

NO_MEMORY = (
    "\n  free some, or take a smaller --batch-size or fewer --workers where the command has them; run the same command "
    "again to resume\n"
)
PIB = "(1125899906842624,) and data type uint8"
TORCH_SAYS = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B"
COMMAND = '''
import errno, os, sys, time
from pathlib import Path
import click
from manifests import errors
from trainer.cli.console import run_cli
from manifests.base.files import atomic_file

def tell():
    print("result")

def usage():
    raise errors.UsageError("keep is 1.5", hint="give a fraction of 1 at most")

def wrong_input():
    raise errors.InputError("a part was altered", hint="fetch it again")

def mismatch():
    raise errors.MismatchError("412 files differ")

def incomplete():
    raise errors.IncompleteError("3 parts are left")

def leave_with_seven():
    click.get_current_context().exit(7)

def abort():
    raise click.Abort()

verify = abort

def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/part-00003.parquet")

def too_large():
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

def no_such_file():
    open("/nowhere/at/all")

def read_only():
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/data")

def memory():
    import numpy as np
    np.empty(1 << 50, np.uint8)

def torch_memory():
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B. Error")

def gpu_memory():
    class OutOfMemoryError(RuntimeError): pass
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB")

def division():
    1 / 0

def odd():
    raise OSError("a library's own")

def sleep():
    with atomic_file(Path("half")) as stream:
        stream.write(b"half")
        print("ready", flush=True)
        while True:
            try:
                time.sleep(30)
            except Exception:
                print("taken for a fault of one image", flush=True)

def swallow():
    class Closing:
        def __del__(self):
            print("ready", flush=True)
            time.sleep(30)
    Closing()
    time.sleep(30)

def wrap():
    try:
        print("ready", flush=True)
        time.sleep(30)
    except BaseException:
        raise ImportError("initialization of a module failed")

def misread():
    try:
        print("ready", flush=True)
        time.sleep(30)
    except BaseException:
        raise errors.InputError("the manifest is damaged")

def importing():
    Path("slow_module.py").write_text("import time; print('ready', flush=True); time.sleep(30)")
    import slow_module

def hang():
    import threading
    threading.Thread(target=time.sleep, args=(60,)).start()
    print("ready", flush=True)
    time.sleep(30)

def say():
    from manifests.base.progress import note
    from trainer.cli.console import echo_table
    evil = f"evil{chr(27)}]0;title{chr(7)}{chr(0x202e)}"
    click.echo(evil)
    echo_table([(evil,)], ("name",))
    note(evil)
    raise errors.InputError(f"{evil} is broken")

def names():
    click.echo("caf\\u00e9 \\u5199 \\udcff")

def much():
    for number in range(100_000):
        print("line", number)

@click.command("prune")
@click.argument("what", default="tell")
@click.option("--seed", type=int)
def command(what, seed):
    """Does what is asked."""
    globals()[what]()

run_cli(command)
'''


def start(
    folder: Path, *args: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    (folder / "command.py").write_text(COMMAND)
    line = [sys.executable, "command.py", *args]
    # Buffered as usual: what fails only when it is flushed has to be seen.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(line, cwd=folder, env=environment, stdout=stdout, stderr=stderr, text=True)


def run(folder: Path, *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = start(folder, *args)
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def test_what_goes_well_leaves_with_0_and_nothing_on_stderr(tmp_path: Path) -> None:
    assert run(tmp_path) == (0, "result\n", "")


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("usage", 2, "prune: keep is 1.5\n  give a fraction of 1 at most\n"),
        ("wrong_input", 3, "prune: a part was altered\n  fetch it again\n"),
        ("mismatch", 4, "prune: 412 files differ\n"),
        ("incomplete", 5, "prune: 3 parts are left\n"),
        ("leave_with_seven", 7, ""),
        ("abort", 130, "prune: interrupted\n  run the same command again to resume\n"),
        ("verify", 130, "prune: interrupted\n"),
        (
            "full",
            5,
            "prune: the disk is full (/data/part-00003.parquet)\n  make room; run the same command again to resume\n",
        ),
        (
            "memory",
            5,
            f"prune: memory is used up: Unable to allocate 1.00 PiB for an array with shape {PIB}{NO_MEMORY}",
        ),
        ("torch_memory", 5, f"prune: memory is used up: {TORCH_SAYS}{NO_MEMORY}"),
        ("gpu_memory", 5, f"prune: memory is used up: CUDA out of memory{NO_MEMORY}"),
        (
            "too_large",
            5,
            "prune: a file may not become so large\n"
            "  raise the limit (ulimit -f), or name another disk; run the same command again to resume\n",
        ),
        ("no_such_file", 3, "prune: No such file or directory (/nowhere/at/all)\n"),
        ("read_only", 3, "prune: Read-only file system (/data)\n"),
    ],
)
def test_each_failure_has_its_exit_code_and_one_message(tmp_path: Path, what: str, code: int, message: str) -> None:
    assert run(tmp_path, what) == (code, "", message)


@pytest.mark.parametrize("args", [("--sead", "3"), ("--seed", "x"), ("one", "two")])
def test_a_wrong_flag_is_a_usage_error_with_the_usage(tmp_path: Path, args: tuple[str, ...]) -> None:
    code, out, error = run(tmp_path, *args)
    assert (code, out) == (2, "")
    assert error.startswith("Usage: prune [OPTIONS] [WHAT]")
    assert "Error: " in error


def test_help_leaves_with_0(tmp_path: Path) -> None:
    code, out, error = run(tmp_path, "--help")
    assert (code, error) == (0, "")
    assert "Does what is asked." in out


@pytest.mark.parametrize(("what", "name"), [("division", "ZeroDivisionError"), ("odd", "OSError")])
def test_a_bug_shows_its_traceback_and_leaves_with_1(tmp_path: Path, what: str, name: str) -> None:
    code, _, error = run(tmp_path, what)
    assert code == 1
    assert error.startswith("Traceback")
    assert name in error


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 5, "stopped by SIGTERM"),
        (signal.SIGHUP, 5, "stopped by SIGHUP"),
    ],
)
def test_a_signal_leaves_with_its_code_and_no_half_file(
    tmp_path: Path, number: signal.Signals, code: int, message: str
) -> None:
    process = start(tmp_path, "sleep")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert error == f"prune: {message}\n  run the same command again to resume\n"
    assert [path.name for path in tmp_path.iterdir()] == ["command.py"]


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "interrupted before it began"),
        (signal.SIGTERM, 5, "stopped by SIGTERM before it began"),
        (signal.SIGHUP, 5, "stopped by SIGHUP before it began"),
    ],
)
@pytest.mark.parametrize(("module", "name"), [("prune_toolkit", "prune"), ("trainer", "train-student")])
def test_a_signal_during_the_first_imports_gives_no_traceback(
    tmp_path: Path, number: signal.Signals, code: int, message: str, module: str, name: str
) -> None:
    (tmp_path / "click.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(20)\n")
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=15
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{name}: {message}\n")


def test_a_signal_that_is_ignored_stays_ignored_during_the_first_imports(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\nprint('on')\n")
    words = "trap '' HUP; exec \"$0\" -m prune_toolkit"
    done = subprocess.run(
        ["sh", "-c", words, sys.executable], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=15
    )
    assert done.stdout == "on\n"


@pytest.mark.parametrize("what", ["swallow", "wrap", "misread", "hang"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 5), (signal.SIGINT, 130)])
def test_no_destructor_import_or_thread_keeps_a_signal_from_ending_the_command(
    tmp_path: Path, what: str, number: signal.Signals, code: int
) -> None:
    """The first swallows the exception, the second turns it into another, the third would be waited for."""
    process = start(tmp_path, what)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, error = process.communicate(timeout=25)
    said = {5: "stopped by SIGTERM", 130: "interrupted"}[code]
    assert (process.returncode, out, error) == (code, "", f"prune: {said}\n  run the same command again to resume\n")


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 5, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_during_an_import_ends_the_process_at_once(
    tmp_path: Path, number: signal.Signals, code: int, said: str
) -> None:
    """An exception in the initialization of a C++ module, as those of torch, may abort the process."""
    process = start(tmp_path, "importing")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, error = process.communicate(timeout=25)
    assert (process.returncode, out, error) == (code, "", f"prune: {said}\n")


@pytest.mark.parametrize("what", ["much", "tell"])
def test_a_reader_that_went_away_is_no_failure(tmp_path: Path, what: str) -> None:
    read_end, write_end = os.pipe()
    process = start(tmp_path, what, stdout=write_end)
    os.close(write_end)
    os.close(read_end)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


@pytest.mark.parametrize(("what", "code"), [("much", 0), ("tell", 0), ("wrong_input", 3), ("full", 5)])
def test_the_exit_code_holds_when_nobody_reads_the_messages_either(tmp_path: Path, what: str, code: int) -> None:
    read_end, write_end = os.pipe()
    process = start(tmp_path, what, stdout=write_end, stderr=write_end)
    os.close(write_end)
    os.close(read_end)
    assert process.wait(timeout=60) == code


def test_a_closed_stdout_is_no_failure(tmp_path: Path) -> None:
    start(tmp_path).communicate(timeout=60)
    line = f"exec '{sys.executable}' command.py tell >&-"
    closed = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.parametrize("what", ["much", "tell"])
def test_a_result_that_does_not_fit_the_disk_is_incomplete(tmp_path: Path, what: str) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(tmp_path, what, stdout=full.fileno())
    _, error = process.communicate(timeout=60)
    assert process.returncode == 5
    assert error == "prune: the disk is full\n  make room; run the same command again to resume\n"


def test_prune_toml_is_read_and_its_faults_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "prune.toml").write_text("seed = 'three'")
    code, _, error = run(tmp_path)
    assert code == 2
    assert "'three' is not a valid integer" in error
    (tmp_path / "prune.toml").write_text("sead = 3")
    code, _, error = run(tmp_path)
    assert code == 2
    assert "prune.toml: unknown key 'sead'" in error


def test_the_shell_can_ask_for_completions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PRUNE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "prune --se")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run(tmp_path) == (0, "plain,--seed\n", "")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("manifests.base.progress.time", SimpleNamespace(monotonic=lambda: self.now))

    def fail_after(self, seconds: float) -> None:
        self.now += seconds
        raise ZeroDivisionError


def test_progress_off_a_terminal_is_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    with Progress(10_000, "scoring", stream=stream) as progress:
        for _ in range(100):
            clock.now += 0.3
            progress.advance(60)
    assert stream.getvalue().splitlines() == [
        "scoring: 2,040 of 10,000 images, 200 images/s, 40 s left",
        "scoring: 4,080 of 10,000 images, 200 images/s, 30 s left",
    ]
    assert progress.done == 6000
    assert progress.rate() == pytest.approx(200)


def test_a_short_run_off_a_terminal_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(5, "reading", unit="files") as progress:
        progress.advance(5)
    assert capsys.readouterr() == ("", "")


def test_work_that_falls_away_is_neither_done_nor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    with Progress(100, "training", stream=stream) as progress:
        progress.shorten(60)
        clock.now += 11
        progress.advance(22)
    assert stream.getvalue().splitlines() == ["training: 22 of 40 images, 2 images/s, 9 s left"]
    assert progress.rate() == pytest.approx(2)
    terminal = Terminal()
    with Progress(5, "training", stream=terminal) as progress:
        progress.shorten(2)
        progress.advance(3)
    assert "3/3" in terminal.getvalue()


def test_progress_past_its_total_and_of_nothing_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    with Progress(0, "scoring", stream=stream) as progress:
        assert progress.rate() == 0
        clock.now += 11
        progress.advance(0)
        clock.now += 11
        progress.advance(22)
    assert stream.getvalue().splitlines() == [
        "scoring: 0 of 0 images, 0 images/s, 0 s left",
        "scoring: 22 of 0 images, 1 images/s, 0 s left",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar_with_its_text_as_it_is() -> None:
    stream = Terminal()
    with Progress(3, "scoring with [/x] a[b]", stream=stream) as progress:
        progress.advance(3)
    assert "scoring with [/x] a[b]" in stream.getvalue()
    assert "3/3" in stream.getvalue()


def test_a_bar_ends_with_an_exception_too() -> None:
    with pytest.raises(KeyError), Progress(3, "scoring", stream=Terminal()) as progress:
        progress.advance({"there": 1}["absent"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.4, "0 s"), (42, "42 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (190, "3 min 10 s"),
     (3599.6, "1 h 00 min"), (7500, "2 h 05 min"), (360_000, "100 h 00 min")],
)  # fmt: skip
def test_seconds_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (980, "980 B"), (1000, "1.0 kB"), (1200, "1.2 kB"), (999_949, "999.9 kB"), (999_960, "1.0 MB"),
     (1.5e9, "1.5 GB"), (2.56e12, "2.6 TB"), (4e15, "4000.0 TB")],
)  # fmt: skip
def test_bytes_are_told_in_thousands(size: float, text: str) -> None:
    assert format_bytes(size) == text


@given(st.integers(0, 10**15 - 10**11))
def test_a_size_is_never_told_as_a_thousand_of_a_unit(size: int) -> None:
    number, unit = format_bytes(size).split()
    assert float(number) < 1000
    assert float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit] == pytest.approx(size, rel=0.06)


def test_time_is_added_up_also_when_the_block_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seconds = Clock(monkeypatch), {"reading": 1.0}
    with timed(seconds, "reading"):
        clock.now += 2
    with pytest.raises(ZeroDivisionError), timed(seconds, "failing"):
        clock.fail_after(3)
    assert seconds == {"reading": 3.0, "failing": 3.0}


def test_results_go_to_stdout_and_notes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    echo_json({"name": "größe", "rows": [1, None]})
    note("one line")
    assert capsys.readouterr() == ('{\n "name": "größe",\n "rows": [\n  1,\n  null\n ]\n}\n', "one line\n")


def test_a_table_has_text_to_the_left_and_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table([("cat", "1,200", "-3.5%", ""), ("a longer name", "7", "+12%", "-")], ("class", "n", "change", "note"))
    assert capsys.readouterr().out.splitlines() == [
        "class              n  change  note",
        "cat            1,200   -3.5%",
        "a longer name      7    +12%     -",
    ]


def test_a_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table([], ("class", "n"))
    assert capsys.readouterr().out == "class  n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünï 写 \t\n", "plain ünï 写 \t\n"),
        ("\x1b[2J", "\\u001b[2J"),
        ("a\rb\x07\x00\x7f\x9b", "a\\rb\\u0007\\u0000\\u007f\\u009b"),
        ("user\u202egpj.exe\u2066", "user\\u202egpj.exe\\u2066"),
        ("\U000e0041", "\\udb40\\udc41"),
        ("family 👨\u200d👩", "family 👨\u200d👩"),
    ],
)
def test_what_a_terminal_obeys_is_spelled_out(text: str, expected: str) -> None:
    assert printable(text) == expected


@given(st.text())
def test_printable_text_is_the_same_json(text: str) -> None:
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize("encoding", ["", "ascii", "latin-1"])
def test_nothing_a_command_prints_reaches_the_terminal_as_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    told = "evil\\u001b]0;title\\u0007\\u202e"
    assert run(tmp_path, "say") == (3, f"{told}\nname\n{told}\n", f"{told}\nprune: {told} is broken\n")


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("utf-8", b"caf\xc3\xa9 \xe5\x86\x99 \\udcff"), ("ascii", b"caf\xc3\xa9 \xe5\x86\x99 \\udcff"),
     ("latin-1", b"caf\xe9 \\u5199 \\udcff")],
)  # fmt: skip
def test_text_that_an_encoding_cannot_hold_is_spelled_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, told: bytes
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    with (tmp_path / "out").open("wb") as stream:
        process = start(tmp_path, "names", stdout=stream.fileno())
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert (tmp_path / "out").read_bytes() == told + b"\n"
