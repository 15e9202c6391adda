"""The predictions of an epoch and of the one before, and how far each sample's moved between them.

Of N samples and C classes these are 2 N C bytes an epoch, 2.6 GB for ImageNet, so they are not in memory: each epoch
has a file beside the record that all ranks map. There are at most two, and none when the run is finished.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manifests.errors import InputError, UsageError
from manifests.format.dynamics import DYNAMICS_NAME
from trainer.loop.distributed import Ranks, from_main
from trainer.loop.dynamics_facts import log_probabilities
from trainer.loop.run_folder import START_OVER

PREDICTIONS = re.compile(r"log-p-(\d{4,})\.npy")
"""Name of an epoch's file, counted from 0."""
BLOCK_BYTES = 8 << 20


class Predictions:
    """Log-probabilities (N, C) of the rows of a run, in float16, by epoch."""

    def __init__(self, run: Path, shape: tuple[int, int], ranks: Ranks, *, epochs_done: int) -> None:
        """Raise UsageError if the ranks cannot map one file, InputError if that of the epoch before is gone."""
        self._folder, self._shape, self._ranks = run / DYNAMICS_NAME, shape, ranks
        if ranks.local_world_size != ranks.world_size:
            raise UsageError(
                f"--record-kl: {ranks.local_world_size} of {ranks.world_size} processes are on this machine, and all "
                "must share one file of predictions",
                hint="train on one machine, or leave --record-kl out",
            )
        if epochs_done:
            from_main(ranks, lambda: self._check(epochs_done - 1))

    def begin(self, epoch: int) -> None:
        """Make the file of an epoch, counted from 0, on all ranks together; those before the last one go."""
        from_main(self._ranks, lambda: self._make(epoch))
        self._now_NC = self._open(epoch)

    def add(self, row_n: NDArray[np.integer[Any]], logits_nC: Tensor) -> None:
        """Store the predictions of some rows, by their logits."""
        self._now_NC[row_n] = log_probabilities(logits_nC).cpu().numpy()

    def changes(self, epoch: int) -> NDArray[np.float32]:
        """Return `abs_kl` (N,) of each row between the epoch before, counted from 0, and this one.

        Every rank must have stored its rows.
        """
        now_NC, before_NC = self._open(epoch), self._open(epoch - 1)
        change_N = np.empty(self._shape[0], np.float32)
        for rows in self._blocks():
            now_nC, before_nC = now_NC[rows].astype(np.float32), before_NC[rows].astype(np.float32)
            change_N[rows] = (np.exp(now_nC) * np.abs(now_nC - before_nC)).sum(axis=1)
        return change_N

    def remove(self, before: int | None = None) -> None:
        """Remove the files of the epochs before one, or all."""
        for path in self._folder.glob("log-p-*.npy"):
            match = PREDICTIONS.fullmatch(path.name)
            if match is not None and (before is None or int(match[1]) < before):
                path.unlink()

    def _path(self, epoch: int) -> Path:
        return self._folder / f"log-p-{epoch:04d}.npy"

    def _make(self, epoch: int) -> None:
        self.remove(epoch - 1)
        self._folder.mkdir(exist_ok=True)
        facts = {"descr": "<f2", "fortran_order": False, "shape": self._shape}
        with self._path(epoch).open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, facts)
            # Written, not left as a hole: on a full disk a hole would end the process when it is mapped.
            for rows in self._blocks():
                stream.write(bytes(2 * (rows.stop - rows.start) * self._shape[1]))

    def _check(self, epoch: int) -> None:
        self._open(epoch)

    def _open(self, epoch: int) -> NDArray[np.float16]:
        path = self._path(epoch)
        try:
            content: NDArray[np.float16] = np.lib.format.open_memmap(path, mode="r+")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}, the predictions of epoch {epoch + 1}, cannot be read: {error}", hint=START_OVER
            ) from None
        if content.dtype != np.float16 or content.shape != self._shape:
            raise InputError(f"{path} does not hold the predictions of this run", hint=START_OVER)
        return content

    def _blocks(self) -> Iterator[slice]:
        count, step = self._shape[0], max(1, BLOCK_BYTES // (2 * self._shape[1]))
        return (slice(start, min(start + step, count)) for start in range(0, count, step))
