"""Do a student's labels need all logits? Accuracy and bytes of the K largest against all, at T = 1 and T = 4.

    python benchmarks/top_k.py MANIFEST VAL OUT --keep 0.5 --k 5,10,32

MANIFEST is scored with several views and stores all logits; one random selection of it is written with all and with
the K largest logits, and students learn from each by `replay`: same seed, same views, same steps.
"""

from pathlib import Path

import click
from _study import Job, make_networks_importable, markdown, mean_and_deviation, paired_interval, report_of, run_jobs

from manifests.manifest import Manifest
from prune_toolkit.demo import run


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@click.argument("val", type=click.Path(path_type=Path), required=False)
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--keep", default="0.5")
@click.option("--k", "ks", default="5,10,32")
@click.option("--temperatures", default="1,4")
@click.option("--epochs", default=20)
@click.option("--seeds", default=3)
@click.option("--student", default="_networks:small_cnn")
@click.option("--jobs", default=1, help="Runs at once, one thread each.")
def main(
    manifest: Path | None,
    val: Path | None,
    out: Path | None,
    keep: str,
    ks: str,
    temperatures: str,
    epochs: int,
    seeds: int,
    student: str,
    jobs: int,
) -> None:
    if manifest is None or val is None or out is None:
        print("needs a scored manifest with several views: see --help")
        return
    make_networks_importable()
    names = ["all", *ks.split(",")]
    for name in names:
        flag = "" if name == "all" else f"--top-k {name}"
        run(f"prune select {manifest} --keep {keep} --selector random --labels raw {flag} -o {out}/selection-{name}")
    chosen_T = temperatures.split(",")
    work = [
        Job(
            folder(out, name, temperature, epochs, seed),
            (
                f"train-student --manifest {out}/selection-{name} --val {val} --student {student} --recipe cifar "
                f"--schedule cosine --epochs {epochs} --eval-every {epochs} --workers 1 --seed {seed} "
                f"--temperature {temperature} -o {folder(out, name, temperature, epochs, seed)}",
            ),
        )
        for seed in range(seeds)
        for temperature in chosen_T
        for name in names
    ]
    run_jobs(work, jobs)
    top1 = {
        (name, temperature): [
            100 * report_of(folder(out, name, temperature, epochs, seed))["last"]["top1"] for seed in range(seeds)
        ]
        for name in names
        for temperature in chosen_T
    }
    rows = []
    for name in names:
        opened = Manifest.open(out / f"selection-{name}")
        labels = opened.header.labels
        assert labels is not None
        files = [entry for view in range(labels.views) for entry in opened.files(f"targets/view-{view:03d}")]
        row = [name, f"{sum(entry.bytes for entry in files) / sum(entry.rows for entry in files):.0f}"]
        for temperature in chosen_T:
            row += [mean_and_deviation(top1[name, temperature])]
            row += [paired_interval(top1[name, temperature], top1["all", temperature])]
        rows.append(row)
    header = ["logits kept", "bytes a sample and view"]
    for temperature in chosen_T:
        header += [f"top-1, T = {temperature}", "against all"]
    print(f"\nlast epoch, {epochs} epochs, n = {seeds}; differences are paired, with a 95 % interval\n")
    print(markdown(header, rows))


def folder(out: Path, name: str, temperature: str, epochs: int, seed: int) -> Path:
    return out / "runs" / f"{name}-T{temperature}-{epochs}-{seed}"


if __name__ == "__main__":
    main()
