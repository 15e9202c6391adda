"""What networks return: which of it the logits are, and what is none."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from trainer.models.outputs import logits_in, refuse_probabilities
from trainer.models.teacher import load_teacher
from trainer.models.teacher_spec import TeacherSpec

LOGITS = torch.arange(6.0).reshape(2, 3) - 2
MAP = torch.zeros(2, 4, 5, 5)
NAMES = ["a", "b", "c"]
SHOWN = Preprocessing(image_px=8, resize_px=8, mean=[0.5] * 3, std=[0.5] * 3)


class Output(OrderedDict):
    """Like the ModelOutput of transformers."""


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
    ],
)
def test_the_logits_are_found_where_they_are_certain(outputs):
    assert logits_in(outputs, "x") is LOGITS


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((LOGITS, LOGITS + 1), "returns 2 tensors"),
        ({"a": LOGITS, "b": LOGITS}, "returns 2 tensors"),
        (MAP, "does not return logits"),
        ((MAP, MAP), "does not return logits"),
        ({}, "does not return logits"),
        ("text", "does not return logits"),
        (None, "does not return logits"),
    ],
)
def test_what_is_not_certain_is_refused(outputs, message):
    with pytest.raises(InputError, match=message) as caught:
        logits_in(outputs, "x")
    assert "wrap it" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (LOGITS.softmax(dim=1), "returns probabilities, not logits"),
        (torch.tensor([[1.0, 0, 0], [0, 1, 0]]), "returns probabilities"),
        (torch.rand(8, 10, generator=torch.Generator().manual_seed(0)), "returns values from 0 to 1, not logits"),
    ],
)
def test_probabilities_are_refused(values, message):
    with pytest.raises(InputError, match=message) as caught:
        refuse_probabilities(values, "x")
    assert "log(p)" in str(caught.value.hint)


@pytest.mark.parametrize("values", [LOGITS, LOGITS.log_softmax(dim=1), torch.tensor([[0.2, 0.3, 0.9]]), LOGITS[:0]])
def test_logits_are_not_taken_for_probabilities(values):
    refuse_probabilities(values, "x")


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
        assert load_teacher(TeacherSpec(network=teacher, preprocessing=SHOWN), NAMES, device="cpu").outputs is None
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
