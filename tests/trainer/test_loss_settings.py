"""What a run's loss is made of: published values under presets under flags, and what no loss can have."""

from dataclasses import asdict

import click
import pytest

from manifests.errors import UsageError
from trainer.cli.train_student import option_list
from trainer.data.stored import StoredLabels
from trainer.loop.recipes import resolve
from trainer.losses import LOSSES
from trainer.losses.settings import described, under_flags

STORED = StoredLabels(count=6400, view_count=1)


def of(**flags):
    """The resolved fields of the loss."""
    config = resolve(flags, recipe="cifar", stored=STORED)
    names = ("kd_weight", "ce_weight", "temperature", "kd_warmup_epochs", "loss_options")
    return tuple(getattr(config, name) for name in names)


def test_each_loss_brings_its_published_values():
    assert of() == of(loss="kd") == (0.9, None, 4.0, 0.0, {})
    assert of(loss="dkd") == (1.0, 1.0, 4.0, 20.0, {"alpha": 1.0, "beta": 8.0})
    assert of(loss="lskd") == (9.0, 0.1, 2.0, 0.0, {})
    assert of(loss="lskd-dkd") == (9.0, 1.0, 2.0, 20.0, {"alpha": 1.0, "beta": 8.0})
    assert of(loss="dist") == (1.0, 1.0, 4.0, 0.0, {"beta": 2.0, "gamma": 2.0})
    assert of(loss="ce") == (0.9, None, 4.0, 0.0, {})


def test_flags_win_one_by_one():
    assert of(loss="dkd", temperature=1.0, loss_options={"beta": 0.5}) == (
        *(1.0, 1.0, 1.0, 20.0),
        {"alpha": 1.0, "beta": 0.5},
    )
    assert of(loss="lskd", kd_weight=2.0, ce_weight=1.0)[:2] == (2.0, 1.0)


@pytest.mark.parametrize(
    ("length", "epochs"),
    # 6,400 samples in batches of 64 are 100 steps an epoch.
    [({}, 20.0), ({"epochs": 120}, 10.0), ({"epochs": 24}, 2.0), ({"steps": 6000}, 5.0)],
)
def test_the_warm_up_keeps_its_share_of_the_published_240_epochs(length, epochs):
    assert of(loss="dkd", **length)[3] == pytest.approx(epochs)
    assert of(loss="dkd", kd_warmup_epochs=7.0, **length)[3] == 7.0


def test_the_warm_up_is_a_share_of_the_run_whatever_the_recipe():
    assert resolve({"loss": "dkd"}, recipe="imagenet", stored=STORED).kd_warmup_epochs == pytest.approx(100 * 20 / 240)


def test_a_preset_is_under_the_flags_and_a_loss_of_another_name_brings_its_own():
    preset = {"kd_weight": 0.5, "temperature": 3.0, "ce_weight": 1.0, "revise_eta": 0.8, "revise_scope": "wrong"}
    flags = {"loss": None, "kd_weight": None, "temperature": 2.0}
    assert under_flags(preset, flags) == preset | {"temperature": 2.0}
    assert under_flags(preset, {"loss": "kd"}) == preset | {"loss": "kd"}
    assert under_flags(preset, {"loss": "dkd"}) == {"loss": "dkd", "revise_eta": 0.8, "revise_scope": "wrong"}
    assert under_flags(preset | {"loss": "dkd"}, {})["loss"] == "dkd"
    assert "kd_weight" not in under_flags(preset | {"loss": "dkd"}, {"loss": "kd"})
    assert of(**under_flags({"loss": "dkd", "kd_weight": 2.0}, {}))[:2] == (2.0, 1.0)


def test_revision_is_off_unless_asked_for_and_zero_turns_a_selections_off():
    selected = {"revise_eta": 0.7, "revise_scope": "wrong"}

    def revision(**flags):
        config = resolve(flags, recipe="cifar", stored=STORED)
        return config.revise_eta, config.revise_scope

    assert revision() == (None, "all")
    assert revision(revise_eta=0.8) == (0.8, "all")
    assert revision(**under_flags(selected, {})) == (0.7, "wrong")
    assert revision(**under_flags(selected, {"revise_eta": 0.5})) == (0.5, "wrong")
    assert revision(**under_flags(selected, {"revise_scope": "all"})) == (0.7, "all")
    assert revision(**under_flags(selected, {"revise_eta": 0.0})) == (None, "all")
    assert revision(**under_flags(selected, {"loss": "ce"})) == (None, "all")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"kd_weight": 1.5}, r"--kd-weight must be in \[0, 1\], not 1.5"),
        ({"kd_weight": -0.1}, r"--kd-weight must be in \[0, 1\]"),
        ({"kd_weight": float("nan")}, "--kd-weight must be in"),
        ({"loss": "dkd", "kd_weight": -1.0}, "--kd-weight must be 0 or more, not -1"),
        ({"loss": "dkd", "kd_weight": float("inf")}, "--kd-weight must be 0 or more"),
        ({"ce_weight": -1.0}, "--ce-weight must be 0 or more, not -1"),
        ({"kd_warmup_epochs": -1.0}, "--kd-warmup-epochs must be 0 or more"),
        ({"loss": "dkd", "loss_options": {"gamma": 1.0}}, "--loss-options gamma: --loss dkd has no such option"),
        ({"loss_options": {"beta": 1.0}}, "--loss-options beta: --loss kd has no such option"),
        ({"loss": "dkd", "loss_options": {"beta": -1.0}}, "--loss-options beta must be 0 or more, not -1"),
        ({"revise_eta": 1.0}, r"--revise must be in \(0, 1\), or 0 to turn it off, not 1"),
        ({"revise_eta": -0.5}, r"--revise must be in \(0, 1\)"),
        ({"revise_eta": float("nan")}, r"--revise must be in \(0, 1\)"),
        ({"revise_eta": 0.5, "revise_scope": "some"}, "--revise-scope some is not known"),
        ({"revise_scope": "all"}, "--revise-scope has no effect without --revise"),
        ({"loss": "kld"}, "--loss kld is not known"),
    ],
)
def test_what_no_loss_can_have_names_the_flag(flags, message):
    with pytest.raises(UsageError, match=message):
        resolve(flags, recipe="cifar", stored=STORED)


def test_labels_alone_and_a_revision_contradict_each_other():
    with pytest.raises(UsageError, match=r"--revise 0\.8 and --loss ce contradict each other"):
        under_flags({}, {"loss": "ce", "revise_eta": 0.8})


def test_options_are_read_from_a_flag_and_from_a_table():
    assert option_list("alpha=1,beta=8") == option_list({"alpha": 1, "beta": 8}) == {"alpha": 1.0, "beta": 8.0}
    for wrong in ("alpha", "alpha=", "alpha=1;beta=2", "=", 3, "alpha=1,,beta=2"):
        with pytest.raises(click.BadParameter, match="is not a list of options such as alpha=1,beta=8"):
            option_list(wrong)


def test_a_config_says_all_its_options_so_that_a_change_of_defaults_is_another_run():
    for name, entry in LOSSES.items():
        values = asdict(resolve({"loss": name}, recipe="cifar", stored=STORED))
        assert values["loss_options"] == entry.options
        assert set(entry.published) <= set(values)


def test_a_run_says_the_values_of_its_loss_where_they_are_not_those_of_plain_kd():
    def said(**flags):
        return described(resolve(flags, recipe="cifar", stored=STORED))

    assert (said(), said(loss="ce", kd_weight=0.3)) == ("kd", "ce")
    assert said(kd_weight=0.5, temperature=2.0) == "kd (kd 0.5, T 2)"
    assert said(loss="dkd", epochs=60) == "dkd (kd 1, ce 1, T 4, alpha 1, beta 8, warm-up 5 epochs)"


@pytest.mark.parametrize("loss", ["kd", "dkd"])
def test_a_run_of_no_length_is_named_by_its_length(loss):
    """Not by the warm-up that is a share of it."""
    with pytest.raises(UsageError, match="--epochs must be at least 1, not -5"):
        resolve({"loss": loss, "epochs": -5}, recipe="cifar", stored=STORED)
