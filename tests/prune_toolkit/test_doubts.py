"""Teachers that are right less often than their weights were."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import save_file

from prune_toolkit.scoring.doubts import doubt_of
from trainer.models.build import build_model
from trainer.models.weights import save_student
from trainer.teachers.claims import Claim, claim_of
from trainer.teachers.teacher_spec import TeacherSpec

CLAIM = Claim(0.8, "ImageNet-1K")


@pytest.mark.parametrize(
    ("top1", "samples", "claim", "is_doubted"),
    [
        (0.79, 10_000, CLAIM, False),
        (0.66, 10_000, CLAIM, False),
        (0.60, 10_000, CLAIM, True),
        # Of 8 images, half may be wrong by chance: three standard errors are 0.42.
        (0.5, 8, CLAIM, False),
        (0.3, 8, CLAIM, True),
        (0.3, 10_000, None, False),
    ],
)
def test_much_less_than_claimed_is_doubted(top1: float, samples: int, claim: Claim | None, is_doubted: bool) -> None:
    doubt = doubt_of(top1, samples, 100, claim)
    assert (doubt is not None) == is_doubted
    if doubt is not None:
        assert "its weights had 80.00 % on ImageNet-1K" in doubt
        assert all(flag in doubt for flag in ("--mean", "--std", "--image-size", "--outputs FILE"))


def test_about_chance_is_one_doubt_not_two() -> None:
    doubt = doubt_of(0.01, 10_000, 100, CLAIM)
    assert doubt is not None
    assert "about chance for 100 classes" in doubt
    assert "ImageNet" not in doubt


def test_a_student_claims_what_it_had_on_its_own_classes(tmp_path: Path) -> None:
    model, info = build_model("resnet8", class_count=3, image_px=8)
    info = info.__class__(**{**vars(info), "class_names": ("a", "b", "c"), "weights": "loaded"})
    path = tmp_path / "student.safetensors"
    save_student(path, model, info, {"val_top1": "0.912500"})
    spec = TeacherSpec(network=str(path))
    assert claim_of(spec, info, ["c", "b", "a"]) == Claim(0.9125, "the validation set of its training")
    assert claim_of(spec, info, ["a", "b"]) is None
    as_checkpoint = TeacherSpec(network="resnet8", checkpoint=path)
    assert claim_of(as_checkpoint, info, ["a", "b", "c"]) == Claim(0.9125, "the validation set of its training")
    save_student(path, model, info, {"val_top1": ""})
    assert claim_of(spec, info, ["a", "b", "c"]) is None
    save_file(model.state_dict(), tmp_path / "other.safetensors")
    assert claim_of(TeacherSpec(network="resnet8", checkpoint=tmp_path / "other.safetensors"), info, ["a"]) is None


def test_weights_of_torchvision_claim_their_top1_on_classes_of_imagenet() -> None:
    spec = TeacherSpec(network="torchvision/resnet50:DEFAULT")
    info = SimpleNamespace(spec="torchvision/resnet50:IMAGENET1K_V2", weights="loaded")
    for names in (["tench", "goldfish"], ["n01440764", "n01443537"]):
        claim = claim_of(spec, info, names)  # type: ignore[arg-type]
        assert claim is not None
        assert claim == Claim(pytest.approx(0.80858), "ImageNet-1K")
    assert claim_of(spec, info, ["cat", "dog"]) is None  # type: ignore[arg-type]
