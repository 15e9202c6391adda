"""Photographs of several formats, a selection of them, and what is in a folder: for tests of `prune export`."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from beton_support import jpeg_bytes, smooth
from PIL import Image

from manifests.manifest import Manifest

Run = Callable[..., subprocess.CompletedProcess[str]]
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8)


def make_photos(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), count: int = 12) -> Path:
    """JPEG, PNG and WebP files in class folders, a few of them one folder deeper, and one that is no image."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (root / name / "+more").mkdir(parents=True)
        for row in range(count):
            pixels = smooth(generator, 12 + row, 10 + label)
            if row % 3 == 0:
                (root / name / f"{row:02d}.jpeg").write_bytes(jpeg_bytes(pixels))
            else:
                path = root / name / ("+more" if row % 4 == 1 else "") / f"{row:02d}.{('png', 'webp')[row % 3 - 1]}"
                Image.fromarray(pixels).save(path, lossless=True)
    (root / classes[0] / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    return root


def select(prune: Run, data: object, folder: Path, *options: object) -> Path:
    prune("score", data, *TEACHER, "-o", folder / "manifest")
    prune("select", folder / "manifest", "--keep", "0.5", "-o", folder / "selection", *options)
    return folder / "selection"


def kept_keys(selection: Path) -> list[str]:
    table = Manifest.open(selection).selection().to_pandas()
    keys = Manifest.open(selection).samples().to_pandas().key
    return [key for key, keep in zip(keys, table.keep, strict=True) if keep]


def files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
