"""Does a linear student of the teacher's features rank selections as networks do that are trained on them?

    python benchmarks/linear_students.py OUT/fashion --epochs 16 --seeds 3

OUT/fashion is a folder of beyond_random.py: scored pool and held-out images. Students are trained on Beta draws of many
modes and sharpnesses and judged on the held-out images; linear students of several dampings are fitted to the same
draws. Printed is Spearman's correlation over the pairs of mode and sharpness.
"""

import statistics
from collections import defaultdict
from itertools import product
from pathlib import Path

import click
import numpy as np
import pandas as pd
from _study import make_networks_importable, markdown, report_of
from scipy.stats import spearmanr

from manifests.manifest import Manifest
from prune_toolkit.demo import run
from prune_toolkit.selection import linear_student
from prune_toolkit.selection.held_out import read_held_out
from prune_toolkit.selection.linear_student import Learning

MODES, SHARPNESSES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), (4, 16, 64)
PAIRS = [(0.5, 0), *product(MODES, SHARPNESSES)]
DAMPINGS = (0.001, 0.1, 1.0, 3.0, 5.0, 10.0, 30.0)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--keep", default="0.1")
@click.option("--epochs", default=16)
@click.option("--seeds", default=3)
@click.option("--student", default="_networks:small_cnn")
@click.option("--jobs", default=1)
def main(folder: Path, keep: str, epochs: int, seeds: int, student: str, jobs: int) -> None:
    make_networks_importable()
    entries = " ".join(f'--select "{mode} {tau}=beta --mode {mode} --sharpness {tau}"' for mode, tau in PAIRS)
    sweep = folder / f"linear-students-{keep}"
    run(
        f"prune sweep {folder}/pool-scores --val {folder}/held --keep {keep} {entries} --epochs {epochs} "
        f'--seeds {seeds} --student {student} --labels raw --loss kd --select-flags "--views 1" --jobs {jobs} '
        f'--train "--recipe cifar --schedule cosine --workers 1 --augment pad_crop_flip" -o {sweep}'
    )
    records = pd.read_parquet(sweep / "runs.parquet")
    records = records[records.arm.str.fullmatch(r"[0-9.]+ [0-9]+")]
    trained, learned = _trained(records, sweep), _learned(folder)
    rows = []
    for damping in DAMPINGS:
        linear_student.DAMPING = damping
        losses = _losses(records, sweep, learned)
        found = list(losses.values())
        cells = [spearmanr(found, [trained[pair][what] for pair in losses]).statistic for what in ("top1", "loss")]
        rows.append((f"{damping:g}", *(f"{cell:+.2f}" for cell in cells), min(losses, key=lambda pair: losses[pair])))
    print(markdown(("damping", "with top-1", "with the loss", "best pair"), rows))
    print(f"{len(trained)} pairs, n = {seeds}, keep {keep}")


def _learned(folder: Path) -> Learning:
    pool = Manifest.open(folder / "pool-scores")
    held = read_held_out(Manifest.open(folder / "held-scores"), pool, features=True)
    features_ND = np.concatenate([block for _, block in pool.features()])
    label_N = pool.samples(["label"]).column("label").to_numpy()
    return Learning.of(features_ND, label_N, held.features_MD, held.label_M, len(pool.class_names))


def _trained(records: pd.DataFrame, sweep: Path) -> dict[str, dict[str, float]]:
    """Mean top-1 and loss of the trained students by the name of their pair."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records.itertuples():
        last = report_of(sweep / "runs" / record.run)["last"]
        for name in ("top1", "loss"):
            found[record.arm][name].append(float(last[name]))
    return {pair: {name: statistics.mean(values) for name, values in of.items()} for pair, of in found.items()}


def _losses(records: pd.DataFrame, sweep: Path, learned: Learning) -> dict[str, float]:
    """Mean held-out loss of the linear students of the same selections, by the name of their pair."""
    losses: dict[str, list[float]] = defaultdict(list)
    for record in records.itertuples():
        selection = Manifest.open(sweep / "selections" / record.select.rpartition("/")[2]).selection(["keep"])
        keep_N = selection.column("keep").to_numpy(zero_copy_only=False)
        losses[record.arm].append(float(learned.loss_M(np.flatnonzero(keep_N)).mean()))
    return {pair: statistics.mean(values) for pair, values in losses.items()}


if __name__ == "__main__":
    main()
