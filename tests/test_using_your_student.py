"""docs/using-your-student.md, run as one script in a folder with a trained student."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import prune_toolkit as pt
from manifests.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory, request):
    """The names of the page after all of its blocks ran."""
    folder = tmp_path_factory.mktemp("page")
    for split, each in {"train": 12, "test": 4}.items():
        digits = open_source("demo:digits", split=split)
        for label, name in enumerate(digits.class_names):
            (folder / "photos" / split / name).mkdir(parents=True)
            rows = np.flatnonzero(digits.labels_N == label)[:each].tolist()
            for row, image in zip(rows, digits.read(rows), strict=True):
                Image.fromarray(image.array.squeeze()).save(folder / "photos" / split / name / f"{row:04d}.png")
    code = "\n".join(BLOCK.findall((ROOT / "docs" / "using-your-student.md").read_text("utf-8")))
    names = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("trainer.data.loaders.ffcv_available", lambda: (False, "not in this test"))
        picture = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
        Image.fromarray(picture).save("photo.png")
        index = pt.index("photos", beton=True)
        pt.train_student(index, student="resnet8", image_size=8, loss="ce", epochs=2, val="photos")
        exec(compile(code, "page", "exec"), names)
        yield names


def test_the_page_measures_and_loads_the_student(page):
    assert page["found"].count == 40
    assert page["found"].split == "test"
    assert page["student"].class_names == tuple("0123456789")
    assert page["probability_C"].sum().item() == pytest.approx(1)


def test_the_page_prepares_pictures_as_the_student_does(page):
    generator = np.random.default_rng(1)
    for height, width in ((37, 53), (8, 8), (9, 8), (64, 31), (8, 21), (5, 7)):
        picture = Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))
        expected = page["student"].transform(picture).numpy()
        # Pillow 13 resizes some tall images in another order, by which pixels differ by a grey level or two.
        grey = 3 / 255 / min(page["images"]["std"])
        np.testing.assert_allclose(page["prepared"](picture), expected, atol=grey if height > width else 1e-6)


def test_onnx_answers_as_the_student(page):
    picture = page["student"].transform(page["picture"])[None]
    with torch.inference_mode():
        expected = page["student"](picture).numpy()
    np.testing.assert_allclose(page["logits_NC"], expected, rtol=1e-4, atol=1e-5)
    assert page["exported"].difference.images == 256
