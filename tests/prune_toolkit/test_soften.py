"""The label transform `soften`: by hand, as properties, through the commands, and refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq
from scipy.special import softmax

from manifests.errors import InputError, UsageError
from manifests.format.soft_labels import FullLogits
from manifests.format.top_k import top_k
from manifests.manifest import Manifest
from prune_toolkit.selection.labels import LABELS
from prune_toolkit.selection.soften import parsed_cap, softened
from prune_toolkit.selection.targets import targets_of


def probabilities(logits_nC):
    return softmax(logits_nC.astype(np.float64), axis=1)


@pytest.fixture(scope="module")
def scored(prune, tmp_path_factory):
    """The digits, scored by a linear teacher."""
    folder = tmp_path_factory.mktemp("soften")
    prune("index", "demo:digits", "--beton", "--out", folder / "index")
    prune("score", folder / "index", "--teacher", "teachers:linear", "--image-size", 8, "--device", "cpu",
          "--out", folder / "manifest")  # fmt: skip
    return folder / "manifest"


def test_two_classes_by_hand():
    # softmax(8 / tau, 0) is .9 at 8 / tau = log 9; .5 stays.
    target = softened(np.array([[8, 0], [0, 0], [0, -2]], np.float16), 0.9)
    assert target.dtype == np.float16
    assert target[0].tolist() == pytest.approx([math.log(9), 0], abs=0.002)
    assert target[1:].tolist() == [[0, 0], [0, -2]]


def test_four_classes_with_equal_others_by_hand():
    # .5 of four classes: e^g = 3.
    target = softened(np.array([[10, 4, 4, 4]], np.float16), 0.5)
    assert target[0, 0] - target[0, 1] == pytest.approx(math.log(3), abs=0.004)
    assert len({*target[0, 1:].tolist()}) == 1


LOGITS = arrays(np.float16, st.tuples(st.integers(1, 6), st.just(5)), elements=st.floats(-400, 400, width=16))


@settings(max_examples=150, deadline=None)
@given(logits=LOGITS, percent=st.integers(21, 99))
def test_order_stays_no_probability_is_above_the_cap_and_soft_rows_keep_their_bits(logits, percent):
    cap = percent / 100
    target = softened(logits, cap)
    largest = probabilities(target).max(axis=1)
    assert (largest <= cap).all()
    soft = probabilities(logits).max(axis=1) <= cap - 1e-12
    np.testing.assert_array_equal(target[soft].view(np.int16), logits[soft].view(np.int16))
    for before, after in zip(logits, target, strict=True):
        assert (np.diff(after[np.argsort(before, kind="stable")].astype(np.float64)) >= 0).all()
    np.testing.assert_array_equal(softened(target, cap), target)


def test_the_temperature_is_the_root_that_scipy_finds():
    generator = np.random.default_rng(0)
    for logits in generator.normal(0, 4, (40, 6)).astype(np.float16):
        exact = logits.astype(np.float64)

        def above(scale, exact=exact):
            return softmax(scale * exact).max() - 0.6

        want = exact if above(1) <= 0 else brentq(above, 0, 1, xtol=1e-12) * exact
        np.testing.assert_allclose(softened(logits[None], 0.6)[0], want, rtol=5e-3, atol=1e-4)


def test_the_mean_of_views_is_capped_itself():
    # Each is at most .6, but both agree on class 0 alone: their mean would be above .9.
    views = [FullLogits(np.array([row], np.float16)) for row in ([3, 2.6, -9], [3, -9, 2.6])]
    transform = LABELS["soften"].make(3)
    transform.set({"max_confidence": 0.6})
    [target] = targets_of(views, np.array([0]), np.array([0]), transform, "mean", None)
    assert 0.595 < probabilities(target.logits()).max() <= 0.6
    assert [probabilities(view.logits()).max() <= 0.6 for view in views] == [True, True]


@pytest.mark.parametrize("value", ["0.9", 1.0, 0.2, math.nan, None])
def test_a_header_with_another_value_is_refused(value):
    with pytest.raises(InputError, match=r"max_confidence is .*: it must be above 1/3 and below 1"):
        LABELS["soften"].make(3).set({"max_confidence": value})


@pytest.mark.parametrize(("text", "classes"), [("1", None), ("0", None), ("x", None), ("0.1", 10), ("1/4", 4)])
def test_a_cap_that_no_label_or_every_label_has_is_refused(text, classes):
    with pytest.raises(UsageError, match="--max-confidence is"):
        parsed_cap(text, classes)
    assert parsed_cap("1/2", classes) == 0.5


def test_labels_of_the_largest_logits_are_refused():
    logits = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float16)
    label = np.array([0, 1])
    with pytest.raises(UsageError, match="soften needs all logits of a label: only the 2 largest are stored"):
        LABELS["soften"].make(6).apply(top_k(logits, label, 2), label, label)


def test_a_logit_that_is_not_finite_names_its_sample():
    with pytest.raises(InputError, match="7"):
        LABELS["soften"].make(2).apply(FullLogits(np.array([[np.inf, 0]], np.float16)), np.array([0]), np.array([7]))


def test_a_selection_records_the_cap_and_its_targets_obey_it(scored, prune, tmp_path):
    out = tmp_path / "soft"
    prune("select", scored, "--keep", "0.3", "--labels", "soften", "--max-confidence", "0.7", "--out", out)
    header = json.loads((out / "manifest.json").read_text())
    assert header["labels"]["transform"] == "soften"
    assert header["labels"]["parameters"] == {"max_confidence": 0.7}
    manifest = Manifest.open(out)
    raw = dict(zip(*_stored(Manifest.open(scored), "logits"), strict=True))
    ids, targets = _stored(manifest, "targets")
    largest = probabilities(np.array(targets)).max(axis=1)
    assert largest.max() <= 0.7
    before = np.array([raw[number] for number in ids])
    was_soft = probabilities(before).max(axis=1) <= 0.7
    assert (~was_soft).sum() > 0
    np.testing.assert_array_equal(np.array(targets)[was_soft], before[was_soft])


def _stored(manifest, table):
    parts = list(manifest.soft_labels(table, 0))
    ids = [int(number) for found, _ in parts for number in found]
    return ids, [row for _, labels in parts for row in labels.logits()]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-confidence", "0.9"], "--max-confidence applies to softened labels only"),
        (
            ["--labels", "soften", "--max-confidence", "0.1"],
            "it must be above 1/10, that of 10 equal classes, and below 1",
        ),
    ],
)
def test_wrong_flags_are_refused(scored, prune, flags, message, tmp_path):
    assert message in prune("select", scored, "--keep", "0.3", *flags, "--out", tmp_path / "out", code=2).stderr
