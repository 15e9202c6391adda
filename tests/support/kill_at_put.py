"""Run `prune ARGS` and kill it (SIGKILL) just before it puts its Nth object: python kill_at_put.py N ARGS."""

import itertools
import os
import signal
import sys
from typing import Any

from manifests.stores.destinations import RemoteDestination
from prune_toolkit.main import main

puts = itertools.count(1)
last = int(sys.argv.pop(1))


def killing(method: Any) -> Any:
    """The method, or death."""

    def act(*arguments: Any, **options: Any) -> Any:
        if next(puts) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments, **options)

    return act


RemoteDestination.put = killing(RemoteDestination.put)  # type: ignore[method-assign]
RemoteDestination.finish = killing(RemoteDestination.finish)  # type: ignore[method-assign]
main()
