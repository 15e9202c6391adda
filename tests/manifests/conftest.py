"""Real FFCV, one process of it for all tests: importing it alone takes eight seconds."""

import importlib.util
import json
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("ffcv_oracle.py")
ANSWER_S = 150


class Oracle:
    """Asks ffcv_oracle.py; FFCV hangs where it should fail, so that no answer in time is a failure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Holds stock.beton, named.beton and ours.beton of FFCV's own writer, once it has answered."""
        self._log = (folder / "log.txt").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, SCRIPT, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self._log.seek(0)
            pytest.fail(f"FFCV gave no answer to {do} {arguments}: {self._log.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


@pytest.fixture(scope="session")
def ffcv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """FFCV's own word on its format and on betons; the tests are skipped where it is not installed."""
    if importlib.util.find_spec("ffcv") is None:
        pytest.skip("ffcv is not installed")
    oracle = Oracle(tmp_path_factory.mktemp("ffcv"))
    yield oracle
    oracle.close()
