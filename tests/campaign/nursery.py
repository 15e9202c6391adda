"""A process that has imported everything and forks commands: a trial then takes the time of its work, not of imports.

Run as `python -m campaign.nursery`. Each line of stdin is a request in JSON, each line of stdout its answer:
{"words": ...} starts a command and answers its process id, {"poll": pid} answers its exit code or null.
"""

import atexit
import errno
import gc
import json
import os
import pkgutil
import resource
import runpy
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

LINK_ERROR = "CAMPAIGN_LINK_ERROR"
"""Environment: the name of the error with which os.link fails, such as EPERM."""
FILE_BYTES = "CAMPAIGN_FILE_BYTES"
"""Environment: the size of the largest file that the command may write, as by `ulimit -f`."""
DATA_BYTES = "CAMPAIGN_DATA_BYTES"
"""Environment: how much memory the command may take beside what it has at its start."""
LIBRARIES = ("matplotlib.pyplot", "pandas", "pyarrow.parquet", "rich.progress", "scipy.stats", "torch", "torchvision")
NOT_IMPORTED = ("__main__", "demo", "ffcv_boundary")


def serve() -> NoReturn:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for name in LIBRARIES:
        import_module(name)
    for package in ("manifests", "trainer", "prune_toolkit"):
        for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if found.name.rpartition(".")[2] not in NOT_IMPORTED:
                import_module(found.name)
    gc.freeze()
    answers.write("\n")
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answers.write(json.dumps(os.waitstatus_to_exitcode(status) if pid else None) + "\n")
            continue
        pid = os.fork()
        if not pid:
            _become(**request)
        answers.write(f"{pid}\n")
    # Nothing is to be tidied up, and libraries complain of what they themselves leave.
    os._exit(0)


def _become(words: list[str], program: str, folder: str, environment: dict[str, str], said: str) -> NoReturn:
    """Run `python -m PROGRAM WORDS` in this process, and end it."""
    code: Any = 1
    try:
        os.setsid()
        for name, mode, number in ((os.devnull, os.O_RDONLY, 0), (said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 1)):
            descriptor = os.open(name, mode, 0o644)
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.dup2(1, 2)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        _limit(environment)
        sys.path.insert(0, folder)
        sys.argv = [program, *words]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as done:
        code = done.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _limit(environment: dict[str, str]) -> None:
    if size := environment.get(FILE_BYTES):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    if size := environment.get(DATA_BYTES):
        held_kib = int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0])
        most = (held_kib << 10) + int(size)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    if name := environment.get(LINK_ERROR):
        number = getattr(errno, name)

        def link(source: Any, target: Any, **_options: Any) -> None:
            raise OSError(number, os.strerror(number), str(source), None, str(target))

        os.link = link


if __name__ == "__main__":
    serve()
