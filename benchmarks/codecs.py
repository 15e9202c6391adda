"""What do smaller soft labels lose? KL(exact || stored) at T = 1, 2 and 4 and bytes per label, codec by codec.

    python benchmarks/codecs.py                     digits and a quick teacher, less than a minute: shows that it works
    python benchmarks/codecs.py MANIFEST            the logits of view 0 that a scored manifest stores
    python benchmarks/codecs.py --synthetic 1000    drawn logits of 1,000 classes, made of 500 features

The logits of a manifest are in float16 and count as exact, so that float16 loses nothing there. Features are those that
`prune score --features` stored, and the layer is found from them and the logits by least squares.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import click
import numpy as np
from _study import markdown
from numpy.typing import NDArray

from manifests.format.codes import encode
from manifests.format.last_layer import FeatureLabels, LastLayer
from manifests.format.soft_labels import FullLogits
from manifests.format.top_k import SoftLabels, top_k
from manifests.manifest import Manifest
from prune_toolkit.demo import run

TEMPERATURES = (1.0, 2.0, 4.0)
Logits = NDArray[np.float64]


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@click.option("--synthetic", type=int, metavar="C", help="Draw logits of C classes instead.")
@click.option("--rows", default=8192, help="At most so many labels.")
@click.option("--k", "ks", default="5,10,32", help="The K largest logits; those of more than all classes are left out.")
def main(manifest: Path | None, synthetic: int | None, rows: int, ks: str) -> None:
    features: NDArray[np.float16] | None = None
    layer: LastLayer | None = None
    if synthetic is not None:
        exact, features, layer = drawn(rows, synthetic)
        what = f"{rows:,} drawn labels of {synthetic} classes"
    else:
        opened = Manifest.open(manifest or digits())
        exact = np.concatenate([logits for _, logits in opened.logits()])[:rows].astype(np.float64)
        if opened.has("features/view-000"):
            features = np.concatenate([values for _, values in opened.features()])[:rows]
            layer = layer_by_least_squares(features, exact)
        what = f"{opened.where}: {len(exact):,} labels of {exact.shape[1]} classes"
    print(f"{what}; mean KL(exact || stored) in nats\n")
    table = [
        [name, f"{labels.words().shape[1] * 2:,}", *(f"{divergence(exact, labels, T):.1e}" for T in TEMPERATURES)]
        for name, labels in forms(exact, features, layer, [int(k) for k in ks.split(",")])
    ]
    print(markdown(["stored as", "bytes per label", *(f"T = {T:g}" for T in TEMPERATURES)], table))


def digits() -> Path:
    """A scored manifest of scikit-learn's digits, with the features of a teacher of two epochs."""
    out = Path(mkdtemp(prefix="codecs-"))
    run(f"prune index demo:digits --beton -o {out}/index")
    run(
        f"train-student --manifest {out}/index --loss ce --student resnet8 --epochs 2 --no-flip --loader torch "
        f"-o {out}/teacher"
    )
    run(f"prune score {out}/index --teacher {out}/teacher/student.safetensors --features -o {out}/manifest")
    return out / "manifest"


def drawn(rows: int, class_count: int) -> tuple[Logits, NDArray[np.float16], LastLayer]:
    """Logits of deviation 3, by a random layer from half as many features, which are positive as behind a ReLU."""
    generator, width = np.random.default_rng(0), class_count // 2
    features = np.abs(generator.normal(0, 1, (rows, width)))
    weights = generator.normal(0, 3 / np.sqrt(width), (class_count, width)).astype(np.float32)
    layer = LastLayer(weights, np.zeros(class_count, np.float32))
    return features @ weights.T.astype(np.float64), features.astype(np.float16), layer


def forms(
    exact: Logits, features: NDArray[np.float16] | None, layer: LastLayer | None, ks: list[int]
) -> Iterator[tuple[str, SoftLabels]]:
    """Yield every form and the labels in it."""
    yield "float16", FullLogits(exact.astype(np.float16))
    yield "int8", encode(exact, "int8")
    yield "int4", encode(exact, "int4")
    for k in ks:
        if k < exact.shape[1]:
            yield f"top-{k}", top_k(exact, exact.argmax(axis=1), k)
    if features is not None and layer is not None:
        ones = np.ones(len(exact), np.float32)
        yield f"{layer.width} features", FeatureLabels(exact.shape[1], features, ones, layer)


def layer_by_least_squares(features: NDArray[np.float16], exact: Logits) -> LastLayer:
    """The layer that makes these logits of these features."""
    with_one = np.column_stack([features.astype(np.float64), np.ones(len(features))])
    solved, *_ = np.linalg.lstsq(with_one, exact, rcond=None)
    return LastLayer(np.ascontiguousarray(solved[:-1].T.astype(np.float32)), solved[-1].astype(np.float32))


def divergence(exact: Logits, labels: SoftLabels, temperature: float) -> float:
    """Mean KL(softmax(exact / T) || softmax(stored / T)) over the rows, in nats."""
    p, q = (log_softmax(z.astype(np.float64) / temperature) for z in (exact, labels.logits(temperature)))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def log_softmax(z: Logits) -> Logits:
    gap = z - z.max(axis=1, keepdims=True)
    return np.asarray(gap - np.log(np.exp(gap).sum(axis=1, keepdims=True)))


if __name__ == "__main__":
    main()
