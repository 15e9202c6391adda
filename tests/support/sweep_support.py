"""What the tests of sweeps share: work for workers, and the report of a run that nobody trained."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from manifests.base.files import write_atomic
from prune_toolkit.sweep.study import Study


def work(job: tuple[str, str]) -> None:
    """Leave a file that tells of this process, fail, or die, as the job says."""
    folder, what = Path(job[0]), job[1]
    if what.startswith("fail"):
        raise ValueError(f"{what} on purpose")
    if what.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("leave"):
        raise SystemExit(7)
    said = {"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}
    (folder / what).write_text(json.dumps(said))


def linger(job: str) -> None:
    """Tell of this process and of one that it starts, and stay; "die" in the name: be killed; "quick": do nothing."""
    if "quick" in job:
        return
    child = os.fork()
    if not child:
        time.sleep(600)
    # Whoever sees the file may end this process at once: it must be whole by then.
    write_atomic(Path(job), f"{os.getpid()} {child}".encode())
    if "die" in job:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def load(job: str) -> None:
    """Read numbers with a process of torch's DataLoader; tell of them."""
    from torch.utils.data import DataLoader

    loader = DataLoader(range(10), batch_size=5, num_workers=1, multiprocessing_context="spawn")
    Path(job).write_text(json.dumps([batch.tolist() for batch in loader]))


def pretend(study: Study, key: str, top1: float, **facts: Any) -> None:
    """Write run.json of a run as train-student does."""
    folder = study.folder.path / "runs" / f"pretended-{key}"
    folder.mkdir(parents=True)
    report = {
        "config": {"loss": "kd", "kd_weight": 0.9, "policy": "single"},
        "last": {"top1": top1},
        "samples": 10,
        "steps": 5,
        "budget": "fixed epochs",
        "time": {"training_s": 10.0, "total_s": 11.0},
        "labels_time": {"total_s": 12.0},
    }
    (folder / "run.json").write_text(json.dumps(report | facts))
