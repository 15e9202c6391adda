"""What networks return: which of it the logits are, and what is none."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from trainer.models.returned import logits_in
from trainer.teachers.output_names import named_outputs
from trainer.teachers.probabilities import refuse_probabilities
from trainer.teachers.teacher import load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

LOGITS = torch.arange(6.0).reshape(2, 3) - 2
MAP = torch.zeros(2, 4, 5, 5)
NAMES = ["a", "b", "c"]
SHOWN = Preprocessing(image_px=8, resize_px=8, mean=[0.5] * 3, std=[0.5] * 3)


class Output(OrderedDict):
    """Like the ModelOutput of transformers."""


@dataclass
class Answer:
    logits: torch.Tensor
    features: torch.Tensor


Heads = namedtuple("Heads", ["logits", "aux_logits"])


@pytest.mark.parametrize(
    "outputs",
    [
        LOGITS,
        (LOGITS,),
        [LOGITS, None],
        (LOGITS, MAP),
        (MAP, LOGITS),
        (LOGITS, {"features": [MAP]}),
        {"logits": LOGITS},
        {"logits": LOGITS, "aux": LOGITS + 1},
        {"out": LOGITS, "map": MAP},
        Output(loss=None, logits=LOGITS, hidden_states=(MAP,)),
        Answer(LOGITS, LOGITS + 1),
        Heads(LOGITS, LOGITS + 1),
    ],
)
def test_the_logits_are_found_where_they_are_certain(outputs):
    assert logits_in(outputs, "x") is LOGITS


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((LOGITS, LOGITS + 1), "returns 2 tensors of two dimensions"),
        ({"a": LOGITS, "b": LOGITS}, "returns 2 tensors of two dimensions"),
        (MAP, "not clear|not logits"),
        ((MAP, MAP), "not clear|not logits"),
        ({}, "not clear|not logits"),
        ("text", "not clear|not logits"),
        (None, "not clear|not logits"),
    ],
)
def test_what_is_not_certain_is_refused(outputs, message):
    with pytest.raises(InputError, match=message) as caught:
        logits_in(outputs, "x")
    assert "wrap" in str(caught.value.hint) or "--output KEY" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (LOGITS.softmax(dim=1), "returns probabilities, not logits"),
        (torch.tensor([[1.0, 0, 0], [0, 1, 0]]), "returns probabilities"),
        (torch.rand(32, 10, generator=torch.Generator().manual_seed(0)), "returns values from 0 to 1, not logits"),
    ],
)
def test_probabilities_are_refused(values, message):
    with pytest.raises(InputError, match=message) as caught:
        refuse_probabilities(values.numpy(), "x returns")
    assert "--probabilities" in str(caught.value.hint)


@pytest.mark.parametrize("values", [LOGITS, LOGITS.log_softmax(dim=1), torch.tensor([[0.2, 0.3, 0.9]]), LOGITS[:0]])
def test_logits_are_not_taken_for_probabilities(values):
    refuse_probabilities(values.numpy(), "x returns")


class Ending(nn.Module):
    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.end = nn.Linear(192, 3), end

    def forward(self, images):
        return self.end(self.net(images.flatten(1)))


def test_a_teacher_of_a_tuple_gives_the_logits_of_its_network():
    plain = load_teacher(TeacherSpec(network=Ending(nn.Identity()), preprocessing=SHOWN), NAMES, device="cpu")
    paired = load_teacher(
        TeacherSpec(network=Ending(lambda logits: (logits, None)), preprocessing=SHOWN), NAMES, device="cpu"
    )
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert (plain.logits(images) == paired.logits(images)).all()
    assert paired.feature_layer.width == 192


@pytest.mark.parametrize("end", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1)])
def test_a_teacher_that_ends_in_softmax_is_refused_before_any_image_is_read(end):
    teacher = Ending(end)
    if isinstance(end, nn.LogSoftmax):
        assert (
            load_teacher(TeacherSpec(network=teacher, preprocessing=SHOWN), NAMES, device="cpu").reading.outputs is None
        )
        return
    with pytest.raises(InputError, match="returns probabilities"):
        load_teacher(TeacherSpec(network=teacher, preprocessing=SHOWN), NAMES, device="cpu")


def test_an_untrained_teacher_is_refused_unless_it_is_asked_for(capsys):
    with pytest.raises(UsageError, match="resnet8 is untrained: its weights are random") as caught:
        load_teacher(TeacherSpec(network="resnet8", image_px=8), NAMES, device="cpu")
    assert "--checkpoint" in str(caught.value.hint)
    load_teacher(TeacherSpec(network="resnet8", image_px=8, random_weights=True), NAMES, device="cpu")
    assert "warning: teacher resnet8 is untrained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("average", "raw"), [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("ema_state_dict", "state_dict")]
)
def test_the_moving_average_is_taken_and_told(tmp_path: Path, capsys, average: str, raw: str):
    weights = [Ending(nn.Identity()).net.state_dict() for _ in range(2)]
    weights[1] = {name: value + 1 for name, value in weights[1].items()}
    torch.save({raw: weights[0], average: weights[1], "epoch": 1}, tmp_path / "both.pth")
    from trainer.models.weights import load_state, read_state

    network = Ending(nn.Identity()).net
    load_state(network, read_state(tmp_path / "both.pth"), origin="both.pth")
    assert torch.equal(network.state_dict()["weight"], weights[1]["weight"])
    told = f"both.pth: the moving average of the weights ({average}) is taken, not {raw}\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("outputs", "key"),
    [
        ((LOGITS + 1, LOGITS), "1"),
        ({"a": LOGITS + 1, "b": LOGITS}, "b"),
        ({"a": LOGITS + 1, "b": LOGITS}, "1"),
        ((MAP, {"heads": [LOGITS + 1, LOGITS]}), "1.heads.1"),
        (Heads(LOGITS + 1, LOGITS), "aux_logits"),
        (Heads(LOGITS + 1, LOGITS), "1"),
        (Answer(LOGITS + 1, LOGITS), "features"),
    ],
)
def test_a_key_or_position_says_where_the_logits_are(outputs, key):
    assert logits_in(outputs, "x", key) is LOGITS


@pytest.mark.parametrize(
    ("key", "message"), [("2", "returns nothing as 2"), ("a", "nothing as a"), ("1.maps", r"a tensor \(2, 4, 5, 5\)")]
)
def test_a_key_that_is_not_there_is_refused_with_those_that_are(key, message):
    with pytest.raises(InputError, match=message) as caught:
        logits_in((LOGITS, {"maps": MAP, "heads": [LOGITS]}), "x", key)
    assert caught.value.hint == "choose with --output KEY; it returns 0 (2, 3), 1.maps (2, 4, 5, 5), 1.heads.0 (2, 3)"


def test_a_key_for_logits_alone_is_refused_with_what_to_leave_out():
    with pytest.raises(InputError, match="returns nothing as logits") as caught:
        logits_in(LOGITS, "x", "logits")
    assert caught.value.hint == "it returns the logits alone: leave out --output"


def test_the_output_of_transformers_is_read():
    output = pytest.importorskip("transformers.modeling_outputs").ImageClassifierOutput(logits=LOGITS)
    assert logits_in(output, "x") is LOGITS
    assert logits_in(output, "x", "logits") is LOGITS


def test_maps_of_one_pixel_are_logits():
    assert torch.equal(logits_in(LOGITS[:, :, None, None], "x"), LOGITS)


IMAGES = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def logits_of(end, names=NAMES, **said):
    teacher = load_teacher(TeacherSpec(network=Ending(end), preprocessing=SHOWN, **said), names, device="cpu")
    return teacher.logits(IMAGES)


@pytest.mark.parametrize("temperature", [1, 4, 20])
def test_logarithms_of_a_softmax_give_its_probabilities_at_every_temperature(temperature, capsys):
    plain = torch.from_numpy(logits_of(nn.Identity()))
    found = torch.from_numpy(logits_of(nn.Softmax(dim=1), probabilities=True))
    torch.testing.assert_close((found / temperature).softmax(1), (plain / temperature).softmax(1), rtol=1e-4, atol=1e-6)
    assert "softmax(log p) = p" in capsys.readouterr().err


def test_logits_of_sigmoids_are_those_that_went_in(capsys):
    np.testing.assert_allclose(logits_of(nn.Sigmoid(), probabilities=True), logits_of(nn.Identity()), rtol=1e-3)
    assert "log(p / (1 - p)) of its sigmoids" in capsys.readouterr().err


def test_sigmoids_are_computed_in_float32_whatever_is_asked_for(capsys):
    said = TeacherSpec(network=Ending(nn.Sigmoid()), preprocessing=SHOWN, probabilities=True)
    teacher = load_teacher(said, NAMES, device="cpu", dtype="bfloat16")
    np.testing.assert_allclose(teacher.logits(IMAGES), logits_of(nn.Identity()), rtol=1e-3)
    assert teacher.compute(8).dtype == "float32"
    assert "is run in float32: sigmoids in bfloat16" in capsys.readouterr().err


def test_a_probability_of_0_has_a_finite_logit():
    found = logits_of(lambda logits: nn.functional.one_hot(logits.argmax(1), 3).float(), probabilities=True)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.min(), -126 * np.log(2), rtol=1e-6)


def test_logits_are_no_probabilities():
    with pytest.raises(InputError, match="which is not a probability") as caught:
        logits_of(nn.Identity(), probabilities=True)
    assert "leave out --probabilities" in caught.value.hint


class OnImages(nn.Module):
    """Logits for noise, and probabilities for images, which are darker than noise can be."""

    def __init__(self, for_noise, for_images):
        super().__init__()
        self.net, self.ends = Ending(nn.Identity()), (for_noise, for_images)

    def forward(self, images):
        return self.ends[int(images.min() >= -1)](self.net(images))


def test_the_first_images_are_checked_too():
    spec = TeacherSpec(network=OnImages(nn.Identity(), nn.Softmax(dim=1)), preprocessing=SHOWN)
    teacher = load_teacher(spec, NAMES, device="cpu")
    with pytest.raises(InputError, match="returns probabilities, not logits") as caught:
        teacher.logits(IMAGES)
    assert "--probabilities" in caught.value.hint
    spec = TeacherSpec(network=OnImages(nn.Softmax(dim=1), nn.Identity()), preprocessing=SHOWN, probabilities=True)
    with pytest.raises(InputError, match="which is not a probability"):
        load_teacher(spec, NAMES, device="cpu").check(IMAGES)


def test_outputs_are_put_into_the_order_of_the_classes_and_together():
    plain = logits_of(nn.Identity())
    swapped = logits_of(lambda logits: logits[:, [2, 0, 1]], outputs=named_outputs(["c", "a", "b"], "o"))
    np.testing.assert_array_equal(swapped, plain)
    coarse = logits_of(nn.Identity(), ["x", "y"], outputs=named_outputs(["y", "x", "y"], "o"))
    np.testing.assert_allclose(coarse[:, 0], plain[:, 1], rtol=1e-6)
    np.testing.assert_allclose(coarse[:, 1], np.logaddexp(plain[:, 0], plain[:, 2]), rtol=1e-5)
    of_softmax = logits_of(
        nn.Softmax(dim=1), ["x", "y"], outputs=named_outputs(["y", "x", "y"], "o"), probabilities=True
    )
    p = torch.from_numpy(plain).softmax(1).numpy()
    np.testing.assert_allclose(np.exp(of_softmax[:, 1]), p[:, 0] + p[:, 2], rtol=1e-4)


def test_features_of_a_softmax_are_those_of_its_network():
    spec = TeacherSpec(network=Ending(nn.Softmax(dim=1)), preprocessing=SHOWN, probabilities=True)
    assert load_teacher(spec, NAMES, device="cpu").feature_layer.name == "net"
