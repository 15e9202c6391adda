"""Training images of a study in disjoint files: what its teacher learns from, what it never sees, the pool to prune.

Selections are searched, and weights are tuned, on images that the teacher never saw: one that memorised them makes
every subset look alike. So the held-out images are set aside before the teacher is trained.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from manifests.base.files import write_atomic
from manifests.images.decode import ImageProblem, RawImage, decode_rgb
from manifests.sources.base import Source, map_images
from manifests.sources.open import open_source

ROW_GROUP = 4096


@dataclass(frozen=True)
class Images:
    """PNG images and their labels (n,)."""

    png: list[bytes]
    label_n: NDArray[np.int64]

    def only(self, chosen_n: NDArray[np.bool_]) -> "Images":
        """Return some of the images."""
        rows = np.flatnonzero(chosen_n)
        return Images([self.png[row] for row in rows], self.label_n[rows])

    def write(self, path: Path) -> None:
        """Write a Parquet file with the columns image and label."""
        table = pa.table({"image": pa.array(self.png, pa.binary()), "label": pa.array(self.label_n, pa.int32())})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="none", row_group_size=ROW_GROUP)
        write_atomic(path, sink.getvalue())


def read_images(source: Source) -> Images:
    """Read and re-encode all images of a source, in its order."""

    def png(row: int, image: RawImage | ImageProblem) -> bytes:
        if isinstance(image, ImageProblem):
            raise SystemExit(f"{source.keys[row]}: {image}")
        sink = io.BytesIO()
        Image.fromarray(decode_rgb(image)).save(sink, "png")
        return sink.getvalue()

    encoded = list(map_images(source, range(len(source.keys)), png, workers=1))
    return Images(encoded, source.labels_N.astype(np.int64))


def with_wrong_labels(images: Images, share: Fraction, classes: int, generator: np.random.Generator) -> Images:
    """Give a share of the images, drawn at random, another class, each other one with equal probability."""
    label_n = images.label_n.copy()
    wrong_n = generator.permutation(len(label_n))[: round(share * len(label_n))]
    label_n[wrong_n] = (label_n[wrong_n] + generator.integers(1, classes, len(wrong_n))) % classes
    return Images(images.png, label_n)


def draw(label_n: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """(n,) mask of `count` images drawn at random, of each class its share to within one."""
    order_n, place_n = generator.permutation(len(label_n)), np.empty(len(label_n))
    # The k-th image drawn of a class of n_c lies at (k + 1/2) / n_c: the first `count` have the shares of the whole.
    for label in np.unique(label_n):
        of_class = order_n[label_n[order_n] == label]
        place_n[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    chosen_n = np.zeros(len(label_n), np.bool_)
    chosen_n[np.argsort(place_n, kind="stable")[:count]] = True
    return chosen_n


def write_study_data(
    data: str, out: Path, *, pool: int, held: int, wrong: Fraction, classes: Path | None, seed: int
) -> None:
    """Write seen, pool, held and test.parquet, and names.txt, unless they are there.

    The teacher is trained on `seen`, all training images but the `held` ones; `pool` is drawn from it. Wrong labels are
    given to all three, not to the test images.
    """
    if (out / "names.txt").is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    train, test = open_source(data, split="train", classes=classes), open_source(data, split="test", classes=classes)
    read_images(test).write(out / "test.parquet")
    images = with_wrong_labels(read_images(train), wrong, len(train.class_names), generator)
    held_n = draw(images.label_n, held, generator)
    seen = images.only(~held_n)
    images.only(held_n).write(out / "held.parquet")
    seen.write(out / "seen.parquet")
    seen.only(draw(seen.label_n, pool, generator)).write(out / "pool.parquet")
    write_atomic(out / "names.txt", "\n".join(train.class_names).encode())
