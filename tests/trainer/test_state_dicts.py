from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from manifests.errors import InputError, UsageError
from trainer.models.state_dicts import best_match, candidates, flattened, inventory

WANTED = {"stem.weight": (4, 3), "block.0.weight": (4, 4), "block.0.num_batches_tracked": (), "fc.weight": (2, 4)}


def tensors(shapes: Mapping[str, tuple[int, ...]] = WANTED, value: float = 1.0, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: torch.full(shape, value) for name, shape in shapes.items()}


def value_of(content: object, key: str | None = None) -> tuple[float, list[str]]:
    """The value that all wanted tensors have, and what was told."""
    state, told = best_match(flattened(content), tensors(), origin="c.pth", key=key)
    assert state.keys() == WANTED.keys()
    (value,) = {float(element) for tensor in state.values() for element in tensor.flatten()}
    return value, told


def test_a_nested_checkpoint_is_flat_by_dotted_names():
    a, b = torch.zeros(1), torch.ones(1)
    nested = {"state": {"model": {"_orig_mod.fc.weight": a}}, "list": [b, {"x": a}], "epoch": 3, 7: b}
    assert flattened(nested) == {"state.model.fc.weight": a, "list.0": b, "list.1.x": a, "7": b}


@pytest.mark.parametrize(
    ("content", "ignored"),
    [
        (tensors(), []),
        ({"state": {"model": tensors(prefix="model.")}, "rng": []}, []),
        ({"n_averaged": torch.tensor(4), **tensors(prefix="module.")}, []),
        ([tensors()], []),
        ({"state_dict": {**tensors(prefix="net."), "criterion.weight": torch.ones(2)}}, ["state_dict.criterion"]),
        ({"model": tensors(), "optimizer": {"state": {0: {"m": torch.ones(2), "v": torch.ones(2)}}}}, ["optimizer"]),
        ({**tensors(), "projector.weight": torch.ones(2)}, ["projector"]),
        (
            {
                "backbone.stem.weight": torch.ones(4, 3),
                "backbone.block.0.weight": torch.ones(4, 4),
                "backbone.block.0.num_batches_tracked": torch.ones(()),
                "head.fc.weight": torch.ones(2, 4),
            },
            [],
        ),
    ],
    ids=["bare", "composer", "swa", "accelerate", "lightning", "optimizer", "projector", "two parts"],
)
def test_weights_are_found_wherever_they_are_and_the_rest_is_told(content: object, ignored: list[str]):
    value, told = value_of(content)
    assert value == 1
    assert [line.partition(": ")[2] for line in told] == ignored


def test_shapes_decide_which_of_two_networks_is_meant():
    wide = {name: tuple(2 * side for side in shape) for name, shape in WANTED.items()}
    both = {"model": tensors(prefix="module.student.") | tensors(wide, 2, "module.teacher.")}
    value, told = value_of(both)
    assert value == 1
    assert told == ["ignored 3 other entries: model.module.teacher"]
    found = inventory(flattened(both), tensors())
    assert found == "it holds model.module.student (3 of 3 names fit), model.module.teacher (0 of 3 names fit)"


def test_two_networks_that_fit_alike_are_refused_unless_a_key_decides():
    both = {"model": tensors(prefix="student.") | tensors(value=2, prefix="teacher.")}
    with pytest.raises(InputError, match=r"2 sets of weights .*: model\.student, model\.teacher") as caught:
        value_of(both)
    assert "--checkpoint-key model.student" in str(caught.value)
    assert [value_of(both, key)[0] for key in ("student", "teacher", "model.teacher")] == [1, 2, 2]
    with pytest.raises(UsageError, match="no weights of the network at pupil"):
        value_of(both, "pupil")
    with pytest.raises(UsageError):
        value_of(both, "stud")


def test_two_sets_of_equal_values_are_one():
    assert value_of({"a": tensors(), "b": tensors()}) == (1, [])


def test_an_average_is_taken_and_told_unless_a_key_says_otherwise():
    both = {"model": tensors(), "model_ema": {"n_averaged": torch.tensor(9), **tensors(value=2, prefix="module.")}}
    assert value_of(both) == (2, ["the moving average of the weights (model_ema) is taken, not model"])
    assert value_of(both, "model")[0] == 1


def test_an_average_that_lacks_batch_counters_is_still_taken():
    average = {name: tensor for name, tensor in tensors(value=2).items() if not name.endswith("tracked")}
    state, _ = best_match(flattened({"model": tensors(), "ema": average}), tensors(), origin="c.pth")
    assert float(state["fc.weight"][0, 0]) == 2


def test_a_backbone_is_not_joined_to_the_head_of_the_network_beside_it():
    student = {f"student.{name}": tensor for name, tensor in tensors().items() if name != "fc.weight"}
    state, _ = best_match(student | tensors(value=2, prefix="teacher."), tensors(), origin="c.pth")
    assert {float(tensor.flatten()[0]) for tensor in state.values()} == {2}
    narrow = {name: shape if name == "fc.weight" else (1,) for name, shape in WANTED.items()}
    state, _ = best_match(student | tensors(narrow, 2, "teacher."), tensors(), origin="c.pth")
    assert "fc.weight" not in state


def test_more_blocks_in_a_module_are_not_ignored():
    state, _ = best_match(tensors() | {"block.1.weight": torch.ones(4, 4)}, tensors(), origin="c.pth")
    assert state.keys() - WANTED.keys() == {"block.1.weight"}


def test_a_head_of_another_size_belongs_to_the_match():
    state, _ = best_match(tensors(WANTED | {"fc.weight": (7, 4)}, prefix="model."), tensors(), origin="c.pth")
    assert state["fc.weight"].shape == (7, 4)


def test_every_prefix_before_a_wanted_name_is_a_candidate():
    found = candidates(["a.b.fc.weight", "b.fc.weight", "fc.bias"], ["fc.weight", "b.fc.weight"])
    assert {(one.prefixes, tuple(sorted(one.names))) for one in found} == {
        (("a.b.",), ("fc.weight",)),
        (("a.",), ("b.fc.weight",)),
        (("b.",), ("fc.weight",)),
        (("",), ("b.fc.weight",)),
        (("a.", "a.b."), ("b.fc.weight", "fc.weight")),
        (("a.", "b."), ("b.fc.weight", "fc.weight")),
    }


def test_a_checkpoint_without_any_of_the_names_lists_its_entries():
    content = {"encoder.x": torch.ones(1), "encoder.y": torch.ones(1), "head": torch.ones(1)}
    assert inventory(content, tensors()) == "it holds encoder (2 tensors), head (1 tensor)"
