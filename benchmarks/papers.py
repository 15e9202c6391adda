"""Does pruning pay under KD? The selectors of three papers beside the arms that pruning must beat, by `prune sweep`.

    python benchmarks/papers.py                                     digits, two minutes: shows that it works
    python benchmarks/papers.py ../shared/data/fashion_mnist OUT --pool 10000 --teacher-epochs 8 --epochs 30 \\
        --seeds 5 --keep 0.1,0.3,0.7 --views 8 --jobs 2

From a random pool of the training images: a teacher scores it once, with features, in several views; students trained
on labels alone record their dynamics; two sweeps follow. The first tries KD weights on a hold-out of the pool, the
second trains every arm and touches the test set once a run. Run the same line again to go on where it stopped.
"""

from pathlib import Path
from tempfile import mkdtemp

import click
from _study import AUGMENTATIONS, make_networks_importable, pool_and_teacher

from prune_toolkit.demo import run

KD_WEIGHTS = "0,0.25,0.5,0.75,0.9,1"
WEIGHT_SEEDS = DYNAMICS_RUNS = 3
ARMS = {
    "random": "random",
    "random + reshape": "random --labels reshape",
    "medium": "medium",
    "medium + reshape": "medium --labels reshape",
    "hard": "window --position 1",
    "easy": "window --position 0",
    "CCS": "ccs",
    "EL2N": "window --position 1 --score el2n_early",
    "Moderate": "moderate",
    "forgetting": "window --position 1 --score forgetting",
}
WEIGHTED = '--select random --select "hard=window --position 1"'
FURTHER = {
    "DKD": "random -- --loss dkd",
    "LSKD": "random -- --loss lskd",
    "LSKD on DKD": "random -- --loss lskd-dkd",
    "DIST": "random -- --loss dist",
    "revise, eta 0.5": "random --labels revise --eta 0.5",
    "revise, eta 0.8": "random --labels revise --eta 0.8",
    "revise wrong, eta 0.8": "random --labels revise --eta 0.8 --revise-scope wrong",
    "half distilled, influence": "random --distill-fraction 0.5 --distill-by influence",
    "half distilled, loss": "random --distill-fraction 0.5 --distill-by loss",
    "half distilled, random": "random --distill-fraction 0.5 --distill-by random",
    "mdslr": "medium --preset mdslr",
    "lr-ds": "random --preset lr-ds",
    "herding": "herding",
    "window auto": "window --position auto",
    "mix": "mix --mix '0.7 medium, 0.2 random, 0.1 window position=1'",
    "CCS of AUM": "ccs --score aum",
    "medium of AUM": "medium --score aum",
    "medium of entropy": "medium --score entropy",
    "teacher EL2N, hard": "window --position 1 --score el2n",
    "GraNd, hard": "window --position 1 --score grand",
    "influence, hard": "window --position 1 --score influence",
    "influence, easy": "window --position 0 --score influence",
}
"""Everything else there is, at keep 0.3 and three seeds: to see what it does here, not to compare."""
ARMS |= {f"{name} CE": f"{ARMS[name]} -- --loss ce" for name in ("random", "medium", "hard", "CCS", "forgetting")}


@click.command()
@click.argument("data", default="demo:digits")
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--pool", type=int, help="Training images, drawn at random  [all]")
@click.option("--epochs", default=3, help="Epochs over a selection; all the data is given its share of the steps.")
@click.option("--seeds", default=1)
@click.option("--keep", default="0.3")
@click.option("--views", default=4, help="Stored views of each image.")
@click.option("--augment", type=click.Choice(list(AUGMENTATIONS)), default="weak")
@click.option("--teacher", type=click.Path(path_type=Path), help="A trained one; else a resnet20 is trained.")
@click.option("--teacher-epochs", default=4)
@click.option("--student", default="_networks:small_cnn")
@click.option("--index-flags", default="", help="Further flags of prune index.")
@click.option("--arms", default=",".join(ARMS), show_default=True, help="Which of them.")
@click.option("--weights/--no-weights", default=True, help="Whether the KD weights are tried.")
@click.option("--further", is_flag=True, help="The other losses, labels, selectors and scores too, with three seeds.")
@click.option("--jobs", default=1, help="Runs at once.")
def main(
    data: str,
    out: Path | None,
    pool: int | None,
    epochs: int,
    seeds: int,
    keep: str,
    views: int,
    augment: str,
    teacher: Path | None,
    teacher_epochs: int,
    student: str,
    index_flags: str,
    arms: str,
    weights: bool,
    further: bool,
    jobs: int,
) -> None:
    make_networks_importable()
    out = out or Path(mkdtemp(prefix="papers-"))
    source, teacher = pool_and_teacher(data, out, pool, teacher, teacher_epochs, index_flags)
    shown = AUGMENTATIONS[augment]
    run(f"prune score {source} --teacher {teacher} --features --views {views} {shown} -o {out}/teacher-scores")
    recipe = f"--recipe cifar --schedule cosine --workers 1 {shown}"
    dynamics = [out / "dynamics" / str(seed) for seed in range(DYNAMICS_RUNS)]
    for seed, folder in enumerate(dynamics):
        run(
            f"train-student --manifest {source} --loss ce --student {student} --epochs {epochs} {recipe} "
            f"--seed {1000 + seed} --record-dynamics -o {folder}"
        )
    recorded = " ".join(f"--dynamics {folder}" for folder in dynamics)
    run(f"prune score {out}/teacher-scores {recorded} -o {out}/scores")
    common = f'{out}/scores --student {student} --epochs {epochs} --train "{recipe}" --jobs {jobs}'
    if weights:
        run(
            f"prune sweep {common} --keep {keep},1 {WEIGHTED} --labels raw --loss kd "
            f"--kd-weight {KD_WEIGHTS} --holdout 0.1 --seeds {min(seeds, WEIGHT_SEEDS)} -o {out}/sweep-weights"
        )
    common += f" --val {out}/val --labels raw --loss kd"
    run(
        f"prune sweep {common} --keep {keep} {_entries({name: ARMS[name] for name in arms.split(',')})} "
        f"--dynamic infobatch --seeds {seeds} -o {out}/sweep"
    )
    if further:
        run(f"prune sweep {common} --keep 0.3 {_entries(FURTHER)} --seeds {min(seeds, 3)} -o {out}/sweep-further")


def _entries(arms: dict[str, str]) -> str:
    return " ".join(f'--select "{name}={entry}"' for name, entry in arms.items())


if __name__ == "__main__":
    main()
