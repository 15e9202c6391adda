"""Which images a teacher is shown: by flags, by its attributes, by assumption; against scripts of its own."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from trainer.data.batches import image_views
from trainer.models.channel_values import channel_values
from trainer.models.grey import luma
from trainer.models.images_said import NOTHING_SAID, ImagesSaid
from trainer.models.info import CIFAR_MEAN, IMAGENET_MEAN, in_colour
from trainer.models.normalise import normalise
from trainer.models.stated import stated_by
from trainer.teachers.teacher import as_tensor, load_teacher
from trainer.teachers.teacher_spec import TeacherSpec, live_spec

NAMES = ["a", "b", "c"]
HALF = ImagesSaid.of(mean=0.5, std=0.5)


class Net(nn.Module):
    """A convolution, with batch statistics that are not those of fresh networks, and three logits."""

    def __init__(self, channels=3, **attributes):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        self.norm.running_mean.normal_()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean(dim=(2, 3)))


@pytest.fixture
def own(monkeypatch):
    """Puts callables into a module, for module:callable."""
    module = type(sys)("own_networks")
    monkeypatch.setitem(sys.modules, "own_networks", module)

    def put(build):
        module.build = build
        return "own_networks:build"

    return put


def loaded(network, **said):
    return load_teacher(TeacherSpec(network=network, **said), NAMES, device="cpu")


def pictures(count=4, width=40, height=24):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(count)]


# Values as they are typed


@pytest.mark.parametrize(
    ("typed", "numbers"),
    [
        ("0.5", (0.5,)),
        ("0", (0.0,)),
        (0.25, (0.25,)),
        ("1/4", (0.25,)),
        (" .5, 1/2 ,0.5", (0.5, 0.5, 0.5)),
        ([0.1, "1/10", 0.1], (0.1, 0.1, 0.1)),
        ("127.5/255", (0.5,)),
        (np.array([0.5, 0.25, 1]), (0.5, 0.25, 1.0)),
    ],
)
def test_numbers_and_fractions_are_read(typed, numbers):
    assert channel_values(typed, "mean") == numbers


@pytest.mark.parametrize(
    ("what", "typed", "message"),
    [
        ("mean", "a", "is not a list of numbers"),
        ("mean", True, "is not a list of numbers"),
        ("mean", "1/0", "is not a list of numbers"),
        ("mean", "", "is not a list of numbers"),
        ("mean", [], "one number, or three, not none"),
        ("mean", "0.1,0.2", "one number, or three, not 0.1,0.2"),
        ("mean", "nan", "one number, or three"),
        ("std", "0", "above 0, not 0"),
        ("std", "1,1,-1", "above 0"),
        ("mean", "123.675,116.28,103.53", "on the scale 0..255"),
        ("std", "58.395", "on the scale 0..255"),
    ],
)
def test_what_no_images_have_is_refused(what, typed, message):
    with pytest.raises(UsageError, match=message):
        channel_values(typed, what)


def test_values_on_the_scale_of_pixels_are_answered_with_the_fractions():
    with pytest.raises(UsageError) as caught:
        channel_values("123.675,116.28,103.53", "mean")
    assert caught.value.hint == "--mean 123.675/255,116.28/255,103.53/255"


def test_values_that_are_not_said_stay():
    known = Preprocessing(image_px=8, resize_px=9, mean=[0.1, 0.2, 0.3], std=[1, 1, 1])
    assert NOTHING_SAID.on(known) == known
    said = ImagesSaid.of(mean="0.5", interpolation="bicubic", resize_size=10)
    assert said.on(known).model_dump() == {
        "image_px": 8, "resize_px": 10, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [1, 1, 1]
    }  # fmt: skip
    assert said.flags == ["--mean", "--interpolation", "--resize-size"]
    for wrong in ({"interpolation": "lanczos"}, {"resize_size": 0}):
        with pytest.raises(UsageError):
            ImagesSaid.of(**wrong)


# Against scripts of its own


@pytest.mark.parametrize(
    ("said", "prepare"),
    [
        ({"mean": 0.5, "std": 0.5}, lambda x: (x - 0.5) / 0.5),
        ({"mean": 0, "std": 1}, lambda x: x),
        ({"mean": 0, "std": "1/255"}, lambda x: x * 255),
        ({"mean": "104/255,117/255,123/255", "std": "1/255"},
         lambda x: x * 255 - torch.tensor([104.0, 117, 123]).view(3, 1, 1)),
    ],
)  # fmt: skip
def test_logits_are_those_of_a_script_that_prepares_images_itself(own, said, prepare):
    teacher = loaded(own(lambda num_classes: Net()), image_px=16, images=ImagesSaid.of(resize_size=20, **said))
    net, resize = Net().eval(), v2.Compose([v2.Resize(20), v2.CenterCrop(16), v2.PILToTensor()])
    images = pictures()
    with torch.no_grad():
        wanted = net(torch.stack([prepare(resize(image).float() / 255) for image in images]))
    shown = np.concatenate([image_views(np.asarray(image), teacher.preprocessing) for image in images])
    np.testing.assert_allclose(teacher.logits(as_tensor(shown, teacher.device)), wanted, rtol=0.02, atol=0.02)
    # The resize differs by a level here and there; on the same pixels it is exact but for rounding.
    with torch.no_grad():
        exact = net(torch.stack([prepare(pixels.float() / 255) for pixels in as_tensor(shown, teacher.device)]))
    np.testing.assert_allclose(teacher.logits(as_tensor(shown, teacher.device)), exact, rtol=1e-5, atol=1e-5)


def test_bicubic_images_are_shown_to_a_teacher_that_is_said_to_want_them(own):
    image = np.asarray(pictures(1)[0])
    spec = own(lambda num_classes: Net())
    views = {
        kind: image_views(image, loaded(spec, image_px=16, images=ImagesSaid.of(interpolation=kind)).preprocessing)
        for kind in ("bilinear", "bicubic")
    }
    assert (views["bilinear"] != views["bicubic"]).any()


# What is told


def test_what_replaces_the_values_of_the_weights_is_told_in_one_line(capsys):
    net = Net(mean=[0.5, 0.5, 0.5], std=0.5, image_size=16)
    loaded(net, images=ImagesSaid.of(mean="0.1,0.2,0.3"))
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" says ")[2] or line.partition(":Net ")[2] for line in told] == [
        "how it expects its images (mean, std, image_size): 16x16 px, mean 0.5, std 0.5",
        "is shown images with mean (0.1, 0.2, 0.3), as you say, in place of mean 0.5",
    ]
    loaded(net, images=HALF)
    assert "in place of" not in capsys.readouterr().err
    loaded(Net(preprocessing={"image_px": 16, "resize_px": 16, "mean": 0.5, "std": 0.5, "interpolation": "bicubic"}),
           images=ImagesSaid.of(resize_size=20))  # fmt: skip
    assert "is shown images with shorter side to 20 px, as you say, in place of shorter side to 16 px" in (
        capsys.readouterr().err
    )


def test_an_assumed_normalisation_is_told_with_the_flags_that_change_it(own, tmp_path, capsys):
    build = own(lambda num_classes: Net())
    assert loaded(build, image_px=16).preprocessing.mean == list(CIFAR_MEAN)
    (told,) = capsys.readouterr().err.splitlines()
    assert (
        "does not say how it expects its images; it is assumed: shorter side to 16 px, bilinear, mean (0.5071" in told
    )
    assert told.endswith("to change it: --mean, --std, --interpolation, --resize-size")
    loaded(build, image_px=16, images=ImagesSaid.of(mean=0.5))
    told = capsys.readouterr().err
    assert "std (0.2675" in told
    assert "mean" not in told
    loaded(build, image_px=16, images=HALF)
    assert capsys.readouterr().err == ""
    # The margin that is cut off large images is assumed as well.
    loaded(build, image_px=112, images=HALF)
    assert "assumed: shorter side to 128 px, bilinear; to change it: --interpolation, --resize-size" in (
        capsys.readouterr().err
    )
    loaded(build, preprocessing=Preprocessing(image_px=16, resize_px=16, mean=[0.5] * 3, std=[0.5] * 3))
    assert capsys.readouterr().err == ""


def test_a_built_in_network_with_a_bare_state_dict_says_nothing_of_its_images(tmp_path, capsys):
    from trainer.models.build import MODELS

    torch.save(MODELS["resnet8"].build(3).state_dict(), tmp_path / "bare.pth")
    loaded("resnet8", checkpoint=tmp_path / "bare.pth")
    told = capsys.readouterr().err
    assert "teacher resnet8 does not say how it expects its images; it is assumed: 32x32 px, shorter side to 32" in told


# Attributes


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({"mean": 0.5, "std": (0.5, 0.5, 0.5), "image_size": 16}, (16, 16, "bilinear", [0.5] * 3)),
        ({"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_size": (3, 16, 16)}, (16, 16, "bilinear", [0.1, 0.2, 0.3])),
        ({"image_size": (16, 16)}, (16, 16, "bilinear", list(CIFAR_MEAN))),
        ({"pretrained_cfg": {"input_size": (3, 16, 16), "crop_pct": 0.8, "interpolation": "bicubic", "mean": (0.5,) * 3,
                             "std": (0.5,) * 3, "classifier": "head", "url": "x"}}, (16, 20, "bicubic", [0.5] * 3)),
        ({"pretrained_cfg": {}, "default_cfg": {"mean": (0.5,) * 3, "std": (0.5,) * 3}},
         (224, 256, "bilinear", [0.5] * 3)),
        ({"preprocessing": Preprocessing(image_px=16, resize_px=18, mean=[0.5] * 3, std=[1] * 3), "mean": 0.1},
         (16, 18, "bilinear", [0.5] * 3)),
        ({"preprocessing": {"image_size": 16, "resize_size": None, "mean": 0, "std": 1}, "image_px": 3}, None),
        ({"mean": lambda: 0.5, "std": nn.Identity()}, (224, 256, "bilinear", list(IMAGENET_MEAN))),
    ],
)  # fmt: skip
def test_certain_attributes_are_taken(own, attributes, wanted, capsys):
    spec = own(lambda num_classes: Net(**attributes))
    if wanted is None:
        with pytest.raises(InputError, match="unknown key 'resize_size'"):
            loaded(spec)
        return
    shown = loaded(spec).preprocessing
    assert (shown.image_px, shown.resize_px, shown.interpolation, shown.mean) == wanted
    told = capsys.readouterr().err
    assert ("says how it expects its images" in told) == (shown.image_px == 16 or shown.mean == [0.5] * 3)
    assert ("it is assumed" in told) == (shown.image_px != 16 or shown.mean == list(CIFAR_MEAN))


def test_another_size_keeps_the_share_that_is_cut_off(own):
    cfg = {"input_size": (3, 160, 160), "crop_pct": 0.8, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    shown = loaded(own(lambda num_classes: Net(pretrained_cfg=cfg)), image_px=80).preprocessing
    assert (shown.image_px, shown.resize_px) == (80, 100)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mean": 0.5}, "it says mean, but not std"),
        ({"mean": [0.1, 0.2], "std": 1}, "one number, or three, not 0.1,0.2"),
        ({"mean": 0.5, "std": 0}, "std must be above 0"),
        ({"mean": 123.0, "std": 58.0}, "on the scale 0..255"),
        (
            {"mean": torch.full((3,), 0.5), "std": torch.ones(3)},
            "is a tensor, with which it may normalise",
        ),
        ({"image_size": (16, 20)}, "is not square"),
        ({"input_size": (16, 16, 3)}, r"is not \(C, H, W\)"),
        ({"image_size": "large"}, "is not a side in pixels"),
        ({"pretrained_cfg": {"interpolation": "lanczos"}}, "interpolation 'lanczos' is not known"),
        ({"pretrained_cfg": {"input_size": (3, 8, 8), "crop_pct": 1.5}}, "crop_pct 1.5 is not a share"),
        ({"preprocessing": 7}, "is a int, not a pt.Preprocessing or a dict"),
        ({"image_size": 8, "input_size": (3, 16, 16)}, "two sizes, 8 and 16"),
    ],
)
def test_malformed_attributes_are_refused_with_the_reason(attributes, message):
    with pytest.raises(InputError, match=message):
        stated_by(Net(**attributes), "x", NOTHING_SAID, 32)


def test_what_is_said_is_not_asked_of_attributes(own):
    spec = own(lambda num_classes: Net(mean=torch.zeros(3), std="odd", image_size=16))
    assert loaded(spec, images=HALF).preprocessing.mean == [0.5] * 3


def test_a_module_is_complete_by_attributes_and_single_values():
    assert loaded(Net(mean=0.5, std=0.25, image_size=16)).preprocessing.std == [0.25] * 3
    assert loaded(Net(), image_px=16, images=HALF).preprocessing.image_px == 16
    assert loaded(Net(image_size=16), images=HALF).preprocessing.resize_px == 16
    for missing in ({}, {"image_px": 16}, {"images": HALF}):
        with pytest.raises(UsageError, match="does not say how it wants its images"):
            loaded(Net(), **missing)


def test_attributes_are_those_of_teachers_and_not_of_students(own):
    from trainer.models.build import build_model

    spec = own(lambda num_classes: Net(mean=0.5, std=0.5, image_size="large"))
    assert build_model(spec, class_count=3, image_px=16, pretrained=False)[1].preprocessing.mean == list(CIFAR_MEAN)


# Callables


def test_a_callable_without_num_classes_is_called_without(own):
    assert loaded(own(lambda: Net(3)), image_px=16).reading.outputs is None
    assert loaded(own(lambda **options: Net()), image_px=16).reading.outputs is None
    calls = []
    loaded(own(lambda num_classes=10, width=1: calls.append(num_classes) or Net()), image_px=16)
    assert calls == [3]
    with pytest.raises(InputError, match=r"build\(depth, width=1\) is called with num_classes alone, or without"):
        loaded(own(lambda depth, width=1: Net()))
    with pytest.raises(InputError, match="3 outputs, the data set has 2 classes"):
        load_teacher(TeacherSpec(network=own(lambda: Net(3)), image_px=16), NAMES[:2], device="cpu")


# Grey


def test_luma_is_that_of_pil():
    image = pictures(1, 64, 64)[0]
    ours = luma(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
    np.testing.assert_array_equal(ours[0, 0].numpy(), np.asarray(image.convert("L")))
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 1, 256), 3, axis=1)
    np.testing.assert_array_equal(luma(torch.from_numpy(grey)[..., None])[0, 0, :, 0], np.arange(256))


def test_a_grey_teacher_is_shown_luma(own, capsys):
    teacher = loaded(own(lambda num_classes: Net(1)), image_px=16, images=ImagesSaid.of(mean=0.25, std=0.5))
    assert (teacher.preprocessing.mean, teacher.preprocessing.std) == ([0.25], [0.5])
    assert "takes images of one channel: it is shown their luma" in capsys.readouterr().err
    images = pictures(3, 16, 16)
    prepare = v2.Compose([v2.Grayscale(), v2.PILToTensor()])
    with torch.no_grad():
        wanted = Net(1).eval()(torch.stack([(prepare(image) / 255 - 0.25) / 0.5 for image in images]))
    got = teacher.logits(as_tensor(np.stack([np.asarray(image) for image in images]), teacher.device))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert teacher.feature_layer.width == 4


def test_grey_normalisation_has_one_number(own):
    assert loaded(own(lambda num_classes: Net(1)), image_px=16).preprocessing.mean == [sum(CIFAR_MEAN) / 3]
    of_timm = {"input_size": (3, 16, 16), "mean": (0.1, 0.2, 0.6), "std": (0.5, 0.5, 0.5)}
    shown = loaded(Net(1, pretrained_cfg=of_timm)).preprocessing
    assert (shown.mean, shown.std) == ([pytest.approx(0.3)], [0.5])
    with pytest.raises(UsageError, match="--mean has 3 numbers; the network takes grey images"):
        loaded(own(lambda num_classes: Net(1)), image_px=16, images=ImagesSaid.of(mean="0.1,0.2,0.3"))
    colours = Preprocessing(image_px=16, resize_px=16, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(UsageError, match=r"takes grey images, of one channel; preprocessing has 3 means"):
        loaded(Net(1), preprocessing=colours)


def test_a_network_that_makes_colours_grey_itself_is_shown_colours(own):
    class Own(Net):
        def forward(self, images):
            assert images.shape[1] == 3
            return super().forward(images.mean(dim=1, keepdim=True))

    assert len(loaded(own(lambda num_classes: Own(1)), image_px=16).preprocessing.mean) == 3


def test_grey_statistics_serve_colour_images_three_times():
    grey = Preprocessing(image_px=2, resize_px=2, mean=[0.25], std=[0.5])
    assert in_colour(grey).mean == [0.25] * 3
    assert in_colour(in_colour(grey)) == in_colour(grey)
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert normalise(images, grey).tolist() == [[[[1.5, 1.5], [1.5, 1.5]]]]
    assert normalise(images, in_colour(grey)).shape == (1, 3, 2, 2)


# Live


def test_what_describes_a_live_teacher_needs_one(tmp_path):
    assert live_spec(None, None, None, NOTHING_SAID) is None
    assert live_spec("x", None, None, HALF) == TeacherSpec(network="x", images=HALF)
    with pytest.raises(UsageError, match="--mean, --std: this describes the images of a live teacher"):
        live_spec(None, None, None, HALF)
    with pytest.raises(UsageError, match="--checkpoint needs the teacher"):
        live_spec(None, tmp_path, None, NOTHING_SAID)
    with pytest.raises(UsageError, match="--checkpoint-key needs"):
        live_spec(None, None, "student", NOTHING_SAID)
