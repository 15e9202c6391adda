"""Run `prune ARGS` and kill it (SIGKILL) just before its Nth file would take its name: python kill_at.py N ARGS."""

import itertools
import os
import signal
import sys
from pathlib import Path

from prune_toolkit.main import main

renames = itertools.count(1)
last = int(sys.argv.pop(1))
rename = Path.replace


def replace(self: Path, target: Path) -> Path:
    """Rename, or die."""
    if next(renames) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)


Path.replace = replace
main()
