"""Make the inputs of the campaign: small images, and a manifest of each kind from them, by the commands themselves."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from campaign.checks import problem_of
from campaign.commands import STUDENT, TEACHER, WRITING
from campaign.lab import Command, Lab, Nursery

CLASSES = ("cat", "dog", "eel", "fox")
PARTS_N = 17_000
"""Images of three parts."""
TEACHERS = '''"""Fixed random linear teachers: fast, and their logits have no ties."""

import torch


class Linear(torch.nn.Module):
    def __init__(self, classes, seed):
        super().__init__()
        self.fc = torch.nn.Linear(8 * 8 * 3, classes)
        generator = torch.Generator().manual_seed(seed)
        self.fc.weight.data = torch.randn(classes, 8 * 8 * 3, generator=generator)
        self.fc.bias.data.zero_()

    def forward(self, images):
        return self.fc(torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1))


def linear(num_classes):
    return Linear(num_classes, 3)


def other(num_classes):
    return Linear(num_classes, 4)
'''
INPUTS = (
    ("index photos --beton -o index",),
    ("score index -o manifest", *TEACHER),
    ("score index -o manifest-2 --teacher teachers:other", *TEACHER[2:]),
    ("select manifest --keep 0.5 -o selection",),
    ("split manifest --classes cat,eel -o low --rest high",),
    ("push manifest pushed",),
    ("index many --beton -o many-index",),
    ("score many-index -o many-manifest", *TEACHER),
    ("split many-manifest --classes 0,1,2,3,4 -o many-low --rest many-high",),
    ("select many-manifest --keep 0.5 -o many-selection",),
    ("--manifest index --loss ce --epochs 3 --record-dynamics --record-grand 1 --val val --out recorded", *STUDENT),
)
RECEIVED = (
    ("index photos --beton --thumbnails -o rich-index",),
    ("score rich-index --views 2 --top-k 3 -o rich", *TEACHER),
    ("score index --features -o features", *TEACHER),
    ("score manifest --dynamics recorded -o dynamic",),
    ("select rich --keep 0.5 --labels reshape -o rich-selection",),
    ("label selection --views 2 -o labelled", *TEACHER),
)
"""More kinds of manifests, for those that somebody sent."""


def make_lab(folder: Path, *, jobs: int = 1) -> Lab:
    """Return a lab in `folder` with: photos/, index, manifest, selection, recorded, ...."""
    lab = empty_lab(folder, jobs=jobs)
    write_images(lab.inputs)
    (lab.inputs / "teachers.py").write_text(TEACHERS)
    lab.nursery = Nursery(lab.environment)
    lab.commands = WRITING
    for words, *more in INPUTS + RECEIVED:
        program = "trainer" if words.startswith("--") else "prune_toolkit"
        done = lab.run(Command(words, (*words.split(), *more), program), lab.scratch / "none")
        assert not problem_of(done, {0}), f"{words}: {done.said}"
    return lab


def empty_lab(folder: Path, *, jobs: int = 1) -> Lab:
    """Return a lab without inputs."""
    lab = Lab(folder / "inputs", folder / "scratch", jobs=jobs)
    lab.inputs.mkdir(parents=True)
    lab.scratch.mkdir()
    return lab


def write_images(folder: Path) -> None:
    """Write photos/ and val/, class folders of JPEG and PNG; many/, idx files; and results of other tools."""
    generator = np.random.default_rng(0)
    base = generator.integers(0, 156, (len(CLASSES), 8, 8, 3))
    for name, count in (("photos", 60), ("val", 10)):
        for label, class_name in enumerate(CLASSES):
            (folder / name / class_name).mkdir(parents=True)
            for row in range(count):
                pixels = (base[label] + generator.integers(0, 100, (8, 8, 3))).astype(np.uint8)
                image = Image.fromarray(pixels).resize((16, 16))
                image.save(folder / name / class_name / f"{row:03d}{('.jpg', '.png')[row % 2]}")
    write_idx(folder / "many", generator.integers(0, 256, (PARTS_N, 8, 8), np.uint8), np.arange(PARTS_N) % 10)
    count = 60 * len(CLASSES)
    np.save(folder / "logits.npy", generator.normal(0, 3, (count, len(CLASSES))).astype(np.float32))
    np.save(folder / "coreset.npy", np.arange(0, count, 3))
    keys = sorted(path.relative_to(folder / "photos").as_posix() for path in (folder / "photos").rglob("*.*"))
    with (folder / "scores.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "hard"), ("nowhere.jpg", 1), *((key, len(key)) for key in keys)])


def write_idx(folder: Path, images_NHW: np.ndarray, label_N: np.ndarray) -> None:
    """Write the layout of MNIST, unpacked; images uint8."""
    folder.mkdir()
    head = np.array([2051, *images_NHW.shape], ">i4").tobytes()
    (folder / "train-images-idx3-ubyte").write_bytes(head + images_NHW.tobytes())
    head = np.array([2049, len(label_N)], ">i4").tobytes()
    (folder / "train-labels-idx1-ubyte").write_bytes(head + label_N.astype(np.uint8).tobytes())
