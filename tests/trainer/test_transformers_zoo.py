import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from manifests.errors import InputError, PruneError, UsageError
from trainer.models.build import build_model
from trainer.models.transformers_zoo import preprocessing_of
from trainer.teachers.teacher import Teacher, load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

NAMES = ["cat", "dog", "owl"]
STATISTICS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
CROP = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A ResNet that shows the centre 28 px of 32, with class names, and a ViT for 32 px without, of random weights."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    root, names = tmp_path_factory.mktemp("transformers"), dict(enumerate(NAMES))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        resnet = transformers.ResNetConfig(**shape, id2label=names, label2id={name: i for i, name in names.items()})
        transformers.ResNetForImageClassification(resnet).save_pretrained(root / "resnet")
        processor = transformers.ConvNextImageProcessor(
            size={"shortest_edge": 28}, crop_pct=0.875, resample=3, **STATISTICS
        )
        processor.save_pretrained(root / "resnet")
        shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        vit = transformers.ViTConfig(**shape, image_size=32, patch_size=8, num_labels=3)
        transformers.ViTForImageClassification(vit).save_pretrained(root / "vit")
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}, **STATISTICS).save_pretrained(root / "vit")
    return root


def loaded(folder: Path) -> Teacher:
    return load_teacher(TeacherSpec(network=str(folder)), NAMES, device="cpu")


@pytest.mark.parametrize(("name", "margin"), [("resnet", 2), ("vit", 0)])
def test_the_logits_are_those_of_the_pipeline_of_transformers(folders: Path, name: str, margin: int):
    import transformers

    teacher = loaded(folders / name)
    side = 32 - 2 * margin
    assert (teacher.preprocessing.image_px, teacher.preprocessing.resize_px) == (side, 32)
    shown = PIXELS[:, margin : margin + side, margin : margin + side].transpose(0, 3, 1, 2)
    ours = teacher.logits(torch.from_numpy(np.ascontiguousarray(shown)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = transformers.pipeline("image-classification", model=str(folders / name), device="cpu")
        found = pipeline([Image.fromarray(pixels) for pixels in PIXELS], function_to_apply="none", top_k=3)
    labels = pipeline.model.config.id2label
    theirs = [[next(row["score"] for row in rows if row["label"] == labels[c]) for c in range(3)] for rows in found]
    assert np.allclose(ours, theirs, atol=1e-4)


def test_class_names_and_the_folder_alone_are_recorded(folders: Path, capsys):
    resnet, vit = loaded(folders / "resnet"), loaded(folders / "vit")
    assert (resnet.info.spec, resnet.info.class_names) == ("transformers/resnet", tuple(NAMES))
    assert (vit.info.spec, vit.info.class_names) == ("transformers/vit", None)
    assert resnet.preprocessing.interpolation == "bicubic"
    assert vit.preprocessing.mean == STATISTICS["image_mean"]
    assert capsys.readouterr().err == "transformers/vit squashes images to a square; here the centre of each is shown\n"
    assert resnet.feature_layer.width == 16


def test_networks_that_are_no_whole_classifiers_are_refused(folders: Path, tmp_path: Path):

    headless, own_code, pickled = (tmp_path / name for name in ("headless", "own", "pickled"))
    for folder in (headless, own_code, pickled):
        shutil.copytree(folders / "resnet", folder)
    weights = load_file(headless / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, headless / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputError, match=r"not a whole classifier: it lacks classifier\.1\.bias"):
        loaded(headless)
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(InputError, match="could not be loaded") as caught:
        loaded(pickled)
    assert "safetensors" in str(caught.value)
    config = json.loads((own_code / "config.json").read_text())
    auto_map = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Net"}
    (own_code / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": auto_map}))
    (own_code / "code.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(InputError, match="could not be loaded"):
        loaded(own_code)


def test_a_student_and_a_missing_library_are_refused(folders: Path, monkeypatch):
    with pytest.raises(UsageError, match="a teacher only"):
        build_model(str(folders / "vit"), class_count=3, pretrained=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="needs transformers") as caught:
        loaded(folders / "vit")
    assert "prune-toolkit[hf]" in str(caught.value)


def test_a_name_on_a_hub_needs_its_library():
    with pytest.raises(UsageError, match="does not say which library") as caught:
        build_model("microsoft/resnet-50", class_count=3)
    assert caught.value.hint == "for transformers hf/microsoft/resnet-50, for timm timm/hf-hub:microsoft/resnet-50"


@pytest.mark.parametrize("spec", ["timm/hf-hub:org/name", "hf-hub:org/name"])
def test_both_spellings_of_timm_reach_the_hub(spec: str, monkeypatch):
    timm = pytest.importorskip("timm")
    asked: list[str] = []

    def create(name: str, **_: object) -> None:
        asked.append(name)
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(PruneError, match="offline"):
        build_model(spec, class_count=3)
    assert asked == ["hf-hub:org/name"]


@pytest.mark.parametrize(
    ("size", "sides", "is_squashed"),
    [
        ({"size": {"shortest_edge": 256}, **CROP}, (256, 224), False),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (256, 224), False),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.95}, (235, 224), False),
        ({"size": {"shortest_edge": 384}, "crop_pct": 1.0}, (384, 384), True),
        ({"size": {"height": 224, "width": 224}}, (224, 224), True),
        ({"size": {"height": 256, "width": 256}, **CROP}, (256, 224), True),
        ({"size": {"shortest_edge": 224}, **CROP, "do_center_crop": False}, (224, 224), False),
    ],
)
def test_sizes_of_image_processors(size: dict, sides: tuple[int, int], is_squashed: bool):
    shown, squashed = preprocessing_of(size | STATISTICS, "hf/x")
    assert (shown.resize_px, shown.image_px, squashed) == (*sides, is_squashed)
    assert (shown.interpolation, shown.std) == ("bilinear", STATISTICS["image_std"])


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"resample": 0}, "resample=0"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"do_rescale": False}, "rescale_factor"),
        ({"do_resize": False}, "do_resize=False"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"size": {"height": 224, "width": 160}}, "not square"),
        ({"size": {"longest_edge": 224}}, "longest_edge"),
    ],
)
def test_what_a_header_cannot_describe_is_refused(config: dict, named: str):
    with pytest.raises(InputError, match=named):
        preprocessing_of({"size": {"height": 32, "width": 32}, **STATISTICS, **config}, "hf/x")


def test_without_normalisation_values_stay_within_0_and_1():
    shown, _ = preprocessing_of({"size": {"height": 32, "width": 32}, "do_normalize": False}, "hf/x")
    assert (shown.mean, shown.std) == ([0.0] * 3, [1.0] * 3)
