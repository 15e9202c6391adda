"""Entries of a sweep as they are typed, and the arms they amount to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import UsageError
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.sweep.grid import Arm, Grid, all_arms, spelled_keep, spelled_number, split_entry, unweighted_losses

ALWAYS = ["random", "all data", "all data, fewer epochs", "RS2"]


def grid(*selects: str, holdout: str = "0.1", **options: object) -> Grid:
    return Grid(keeps=(Keep.parse("0.3"),), selects=selects or ("random",), holdout=Keep.parse(holdout), **options)


def arms(*selects: str, **options: object) -> list[Arm]:
    return all_arms(grid(*selects, **options))


@pytest.mark.parametrize(
    ("text", "name", "select", "train"),
    [
        ("random", "random", ["--selector", "random"], []),
        ("window --position 1", "window --position 1", ["--selector", "window", "--position", "1"], []),
        ("hard=window --position=1", "hard", ["--selector", "window", "--position=1"], []),
        ("window --position=1", "window --position=1", ["--selector", "window", "--position=1"], []),
        (" two words = random --labels raw", "two words", ["--selector", "random", "--labels", "raw"], []),
        ("a=random -- --loss ce", "a", ["--selector", "random"], ["--loss", "ce"]),
        (
            'mix --mix "1 window position=1"',
            "mix --mix 1 window position=1",
            ["--selector", "mix", "--mix", "1 window position=1"],
            [],
        ),
    ],
)
def test_an_entry_is_a_name_a_selector_and_flags_of_both_commands(
    text: str, name: str, select: list[str], train: list[str]
) -> None:
    assert split_entry(text) == (name, tuple(select), tuple(train))


@pytest.mark.parametrize("text", ["", "  ", "--position 1", "name=", "=random", "a=-- --loss ce", "random --labels 'x"])
def test_an_entry_without_a_selector_or_with_an_open_quote_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        split_entry(text)


def test_what_pruning_must_beat_is_in_every_sweep_and_random_comes_first() -> None:
    found = arms("medium")
    assert [arm.name for arm in found] == [*ALWAYS, "medium"]
    assert found[0].select == ("--selector", "random", "--labels", "raw")
    assert found[0].train == ("--loss", "kd")
    assert [arm.kind for arm in found] == ["static", "all", "fewer", "rs2", "static"]


def test_the_grid_is_the_product_of_entries_labels_and_losses() -> None:
    found = arms("random", "medium", labels=("raw", "reshape"), losses=("kd", "ce"))
    told = [(arm.name, arm.select[-1], arm.train[-1]) for arm in found if arm.kind == "static"]
    assert len(told) == len(set(told)) == 2 * 2 * 2
    assert told[0] == ("random", "raw", "kd")


def test_an_entry_that_settles_labels_or_loss_is_not_multiplied_by_them() -> None:
    found = arms("a=medium --labels reshape", "b=medium -- --loss dkd", labels=("raw", "reshape"), losses=("kd", "ce"))
    of = {name: [arm for arm in found if arm.name == name] for name in "ab"}
    assert [arm.train for arm in of["a"]] == [("--loss", "kd"), ("--loss", "ce")]
    assert [(arm.select[-1], arm.train) for arm in of["b"]] == [
        ("raw", ("--loss", "dkd")),
        ("reshape", ("--loss", "dkd")),
    ]


def test_a_preset_brings_its_own_labels_loss_and_weight() -> None:
    [arm] = [
        arm for arm in arms("medium --preset mdslr", losses=("kd", "ce"), kd_weights=("0", "1")) if "mdslr" in arm.name
    ]
    assert (arm.select, arm.train, arm.weights) == (("--selector", "medium", "--preset", "mdslr"), (), ())


def test_kd_weights_are_tried_where_the_loss_has_targets_and_the_entry_no_weight_of_its_own() -> None:
    found = arms("random", "a=medium -- --kd-weight 0.5", losses=("kd", "ce"), kd_weights=("0", "0.9"))
    weights = {(arm.name, arm.train[1] if arm.name != "a" else arm.train[3]): arm.weights for arm in found}
    assert weights["random", "kd"] == weights["RS2", "kd"] == weights["all data", "kd"] == ("0", "0.9")
    assert weights["random", "ce"] == weights["a", "kd"] == weights["a", "ce"] == ()


def test_weights_are_shares_of_1_and_not_tried_with_losses_whose_weights_are_none() -> None:
    entries = ("random", "own=random -- --loss lskd --kd-weight 5")
    weights = {"losses": ("kd", "dkd", "lskd", "ce"), "kd_weights": ("0", "0.9")}
    found = {(arm.name, arm.train): arm.weights for arm in arms(*entries, **weights)}
    assert found["random", ("--loss", "kd")] == found["random", ("--loss", "dkd")] == ("0", "0.9")
    assert found["random", ("--loss", "lskd")] == found["random", ("--loss", "ce")] == ()
    assert found["own", ("--loss", "lskd", "--kd-weight", "5")] == ()
    assert unweighted_losses(grid(*entries, **weights)) == ["lskd"]
    assert unweighted_losses(grid(entries[1], kd_weights=("0", "0.9"))) == []
    assert unweighted_losses(grid(losses=("lskd",))) == []


def test_the_first_random_entry_with_raw_labels_and_kd_is_what_others_are_compared_with() -> None:
    found = arms("medium", "equal=random --quota equal", "other=random --labels reshape")
    assert found[0].name == "equal"
    assert [arm.name for arm in found].count("random") == 0
    [whole] = [arm for arm in found if arm.kind == "all"]
    assert whole.select == found[0].select
    assert arms("lr=random --distill-fraction 0.5")[0].name == "random"


def test_under_fixed_steps_all_the_data_is_not_said_to_have_fewer_epochs() -> None:
    assert [arm.name for arm in arms(steps=10)] == ["random", "all data", "all data, same steps", "RS2"]


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        *((text, "0.1") for text in ("0.1", ".1", "0.10", "10%", "1/10", "1e-1", " 10.0 %")),
        *((text, "1") for text in ("1", "1.0", "100%", "7/7")),
        *((text, "1/3") for text in ("1/3", "2/6")),
        ("33.3%", "0.333"),
        ("0.70", "0.7"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
    ],
)
def test_a_keep_has_one_spelling(text: str, spelled: str) -> None:
    assert str(spelled_keep(text)) == spelled


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 12))
def test_what_is_spelled_anew_is_the_same_number(numerator: int, more: int, zeros: int) -> None:
    for text in (f"{numerator}/{numerator + more}", f"0.{'0' * zeros}{numerator}", f"0.{numerator}e-{zeros}"):
        spelled = spelled_keep(text)
        assert Keep.parse(spelled.text) == spelled == Keep.parse(text)
        assert spelled_keep(spelled.text).text == spelled.text


def test_numbers_keep_all_their_digits() -> None:
    texts = ("0", "1.0", ".9", "0.25", "9", "0.1234567", "-0.0")
    assert [spelled_number(float(text)) for text in texts] == ["0", "1", "0.9", "0.25", "9", "0.1234567", "0"]


def test_infobatch_is_there_when_asked_for_and_steps_leave_it_out() -> None:
    assert "InfoBatch" not in [arm.name for arm in arms()]
    found = [arm.name for arm in arms(dynamics=("seta", "infobatch"))]
    assert "SeTa" in found
    assert "InfoBatch" in found
    assert "SeTa" not in [arm.name for arm in arms(dynamics=("seta",), steps=10)]
    assert "InfoBatch" in [arm.name for arm in arms(dynamics=("infobatch",))]
    assert "InfoBatch" not in [arm.name for arm in arms(dynamics=("infobatch",), steps=10)]


@pytest.mark.parametrize(
    ("selects", "options", "said"),
    [
        (("meduim",), {}, "unknown selector 'meduim'"),
        (("medium --keep 0.5",), {}, "cannot set keep"),
        (("medium --keep=0.5",), {}, "cannot set keep"),
        (("medium --seed 1",), {}, "cannot set seed"),
        (("medium --sede 1",), {}, "No such option"),
        (("medium --score",), {}, "Option '--score' requires an argument"),
        (("medium --help",), {}, "asks for help"),
        (("medium -- --epochs 3",), {}, "cannot set epochs"),
        (("medium -- --lr high",), {}, "Invalid value for '--lr'"),
        (("a=medium", "a=window --position 1"), {}, "two entries are called 'a'"),
        (("RS2=random --quota equal -- --loss kd",), {}, "two entries are called 'RS2'"),
        (("medium",), {"losses": ("kld",)}, "unknown loss 'kld'"),
        (("medium",), {"labels": ("raw --out x",)}, "cannot set out"),
        (("medium",), {"dynamics": ("infobach",)}, "unknown --dynamic infobach"),
        (("medium",), {"train_flags": "--student resnet8"}, "cannot set student"),
        (("medium",), {"train_flags": "--eval-every 1"}, "cannot set eval-every"),
        (("medium",), {"train_flags": "--schedule 'x"}, "No closing quotation"),
        (("medium",), {"select_flags": "--no-beton"}, "cannot set beton"),
        (("medium",), {"epochs": 1, "steps": 1}, "contradict"),
        (("medium",), {"seeds": 0}, "--seeds must be at least 1"),
        (("medium",), {"holdout": "1"}, "leaves nothing"),
        (("medium",), {"holdout": "0"}, "must be a fraction"),
    ],
)
def test_what_cannot_be_is_refused_by_name(selects: tuple[str, ...], options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        arms(*selects, **options)
    assert said in str(caught.value)
