"""DKD, LSKD and DIST against their papers' equations, written out in numpy and scipy in float64, and as a whole."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import pearsonr
from torch.nn import functional as F

from trainer.data.stored import StoredLabels
from trainer.loop.recipes import resolve
from trainer.losses import LOSSES, sample_losses
from trainer.losses.dist import correlation
from trainer.losses.lskd import standardised

TAUGHT = sorted(name for name, loss in LOSSES.items() if loss.needs_targets)


def config_of(name, **flags):
    flags = {"kd_warmup_epochs": 0.0} | flags
    return resolve({"loss": name} | flags, recipe="cifar", stored=StoredLabels(count=64, view_count=1))


def losses(config, student, target, label, *, weight=None, kd_weight=None, epoch=0):
    """sample_losses of numpy arrays, (n,) float64."""
    count = len(label)
    weight, kd_weight = (np.ones(count) if values is None else values for values in (weight, kd_weight))
    student, target, label, weight, kd_weight = map(torch.from_numpy, (student, target, label, weight, kd_weight))
    return sample_losses(config, student, target, label=label, weight=weight, kd_weight=kd_weight, epoch=epoch).numpy()


def cross_entropy(student, label):
    return -log_softmax(student, axis=1)[np.arange(len(label)), label]


def kl(first, second):
    return rel_entr(first, second).sum(axis=1)


def dkd(student, target, label, *, alpha, beta, temperature):
    """Zhao et al. 2022, equations 1 to 7: b = (p_t, 1 - p_t), p^ the softmax without the target class."""
    rows, classes = student.shape
    parts = []
    for logits in (target, student):
        p = softmax(logits / temperature, axis=1)
        p_t = p[np.arange(rows), label]
        rest = p[np.arange(classes) != label[:, None]].reshape(rows, classes - 1)
        parts.append((np.stack([p_t, rest.sum(axis=1)], axis=1), rest / rest.sum(axis=1, keepdims=True)))
    (b_t, rest_t), (b_s, rest_s) = parts
    return temperature**2 * (alpha * kl(b_t, b_s) + beta * kl(rest_t, rest_s))


def z_score(logits):
    return (logits - logits.mean(axis=1, keepdims=True)) / logits.std(axis=1, ddof=1, keepdims=True)


def dist(student, target, *, beta, gamma, temperature):
    """Huang et al. 2022, equations 8 to 11: Pearson's distance of the rows, and of the columns."""
    s, t = softmax(student / temperature, axis=1), softmax(target / temperature, axis=1)
    inter = np.array([1 - published_pearson(*pair) for pair in zip(s, t, strict=True)])
    intra = np.mean([1 - published_pearson(*pair) for pair in zip(s.T, t.T, strict=True)])
    return temperature**2 * (beta * inter + gamma * intra)


def published_pearson(a, b):
    """Pearson's correlation with the epsilon that the published code adds to the product of the norms."""
    norms = np.linalg.norm(a - a.mean()) * np.linalg.norm(b - b.mean())
    return pearsonr(a, b).statistic * norms / (norms + 1e-8)


def test_decoupled_terms_worked_by_hand():
    # Label 0 of three classes at T = 1: teacher (1/2, 1/4, 1/4), student (1/4, 1/4, 1/2).
    student, target = np.log([[1.0, 1.0, 2.0]]), np.log([[2.0, 1.0, 1.0]])
    tckd = 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)
    nckd = 0.5 * np.log(0.5 / (1 / 3)) + 0.5 * np.log(0.5 / (2 / 3))
    config = config_of("dkd", temperature=1.0, loss_options={"alpha": 3.0, "beta": 5.0})
    got = losses(config, student, target, np.array([0]))
    assert got == pytest.approx([np.log(4) + 3 * tckd + 5 * nckd], abs=1e-14)


def test_standardised_logits_worked_by_hand():
    # Deviation over C - 1: (1, 2, 3) has 1.
    got = standardised(torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 50.0]], dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor([[-1.0, 0.0, 1.0]] * 2, dtype=torch.float64), rtol=2e-7, atol=1e-9)


def test_correlations_worked_by_hand():
    first = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    second = torch.tensor([[2.0, 4.0, 6.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(correlation(first, second), torch.tensor([1.0, -1.0, 0.5]).double())
    # An entry of weight 2 is one that occurs twice.
    weight = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    twice = torch.tensor([0, 1, 1, 2])
    torch.testing.assert_close(correlation(first, second, weight), correlation(first[:, twice], second[:, twice]))


batches = given(
    seed=st.integers(0, 10**6),
    rows=st.integers(2, 8),
    classes=st.integers(3, 9),
    temperature=st.floats(1, 6),
    first=st.floats(0, 4),
    second=st.floats(0, 9),
)


def batch(seed, rows, classes):
    generator = np.random.default_rng(seed)
    return *generator.normal(0, 2, (2, rows, classes)), generator.integers(0, classes, rows)


@batches
@settings(max_examples=40, deadline=None)
def test_each_loss_equals_its_papers_equations(seed, rows, classes, temperature, first, second):
    student, target, label = batch(seed, rows, classes)
    ce = cross_entropy(student, label)
    common = {"temperature": temperature, "ce_weight": 0.3, "kd_weight": 1.7}

    def got(name, **options):
        return losses(config_of(name, loss_options=options, **common), student, target, label)

    values = {"alpha": first, "beta": second}
    want = dkd(student, target, label, **values, temperature=temperature)
    np.testing.assert_allclose(got("dkd", **values), 0.3 * ce + 1.7 * want, rtol=1e-9, atol=1e-12)

    z_s, z_t = z_score(student), z_score(target)
    want = temperature**2 * kl(softmax(z_t / temperature, axis=1), softmax(z_s / temperature, axis=1))
    # The epsilon of the published code, 1e-7 on a deviation that is seldom below .5.
    np.testing.assert_allclose(got("lskd"), 0.3 * ce + 1.7 * want, rtol=1e-5, atol=1e-5)

    want = dkd(z_s, z_t, label, **values, temperature=temperature)
    np.testing.assert_allclose(got("lskd-dkd", **values), 0.3 * ce + 1.7 * want, rtol=1e-5, atol=1e-5)

    values = {"beta": first, "gamma": second}
    want = dist(student, target, **values, temperature=temperature)
    np.testing.assert_allclose(got("dist", **values), 0.3 * ce + 1.7 * want, rtol=1e-9, atol=1e-9)


@batches
@settings(max_examples=20, deadline=None)
def test_decoupled_with_the_weights_of_the_teacher_is_plain_kd(seed, rows, classes, temperature, first, second):
    """Equation 5 of the paper: KD = TCKD + (1 - p_t of the teacher) NCKD."""
    student, target, label = batch(seed, rows, classes)
    p_t = softmax(target / temperature, axis=1)[np.arange(rows), label]
    common = {"temperature": temperature, "ce_weight": 0.0, "kd_weight": 1.0}
    plain = losses(config_of("kd", **common), student, target, label)
    for row in range(rows):
        options = {"alpha": 1.0, "beta": float(1 - p_t[row])}
        config = config_of("dkd", **common, loss_options=options)
        assert losses(config, student, target, label)[row] == pytest.approx(plain[row], rel=1e-9, abs=1e-12)


def test_lskd_sees_neither_scale_nor_shift_of_either_network():
    student, target, label = batch(0, 6, 7)
    config = config_of("lskd", ce_weight=0.0)
    got = losses(config, 3 * student - 4, 0.5 * target + 1, label)
    np.testing.assert_allclose(got, losses(config, student, target, label), rtol=1e-5)


def test_the_weighted_mean_of_dist_is_the_published_loss_of_the_batch():
    student, target, label = batch(1, 6, 5)
    common = {"ce_weight": 0.0, "kd_weight": 1.0, "temperature": 4.0}
    got = losses(config_of("dist", **common), student, target, label).mean()
    assert got == pytest.approx(dist(student, target, beta=2.0, gamma=2.0, temperature=4.0).mean(), rel=1e-5)


def test_in_the_columns_of_dist_a_sample_counts_by_its_weight_times_its_kd_weight():
    student, target, label = batch(1, 5, 4)
    config = config_of("dist", ce_weight=0.0, kd_weight=1.0, loss_options={"beta": 0.0})
    columns = losses(config, student, target, label, weight=np.array([2.0, 1, 1, 1, 1]))
    twice = np.array([0, 0, 1, 2, 3, 4])
    assert columns[1] == pytest.approx(losses(config, student[twice], target[twice], label[twice])[1], rel=1e-6)
    # kd_weight 1/2 of weight 2 is 1; of a sample without kd_weight the others do not know.
    halved = losses(
        config, student, target, label, weight=np.array([2.0, 1, 1, 1, 1]), kd_weight=np.array([0.5, 1, 1, 1, 0])
    )
    assert halved[1] == pytest.approx(losses(config, student[:4], target[:4], label[:4])[1], rel=1e-9)
    assert abs(columns[1] - halved[1]) > 1e-3


@pytest.mark.parametrize("name", TAUGHT)
class TestEveryLoss:
    """What holds for each loss that has targets."""

    def test_a_sample_of_weight_zero_might_as_well_not_be_there(self, name):
        student, target, label = batch(2, 6, 5)
        weight, kd_weight = np.array([1.0, 0.0, 2.0, 1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.5, 0.0, 1.0, 0.5])
        kept = weight > 0
        config = config_of(name, kd_weight=0.6)
        whole = losses(config, student, target, label, weight=weight, kd_weight=kd_weight)
        part = losses(config, student[kept], target[kept], label[kept], weight=weight[kept], kd_weight=kd_weight[kept])
        np.testing.assert_allclose(whole[kept], part, rtol=1e-12)

    def test_with_kd_weight_zero_the_cross_entropy_is_left(self, name):
        student, target, label = batch(3, 6, 5)
        kd_weight = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
        alone = kd_weight == 0
        got = losses(config_of(name, ce_weight=0.7), student, target, label, kd_weight=kd_weight)
        want = 0.7 * cross_entropy(student, label)
        np.testing.assert_allclose(got[alone], want[alone], rtol=1e-12)
        assert (np.abs(got - want)[~alone] > 1e-3).all()
        every = losses(config_of(name, ce_weight=0.7, kd_weight=0.0), student, target, label)
        np.testing.assert_allclose(every, want, rtol=1e-12)

    def test_it_is_least_where_student_and_teacher_agree(self, name):
        student, target, label = batch(4, 6, 5)
        config = config_of(name, ce_weight=0.0, kd_weight=1.0)
        np.testing.assert_allclose(losses(config, target, target, label), 0, atol=1e-4)
        assert (losses(config, student, target, label) > 1e-3).all()

    def test_row_order_does_not_matter(self, name):
        student, target, label = batch(5, 6, 5)
        order = np.array([3, 1, 5, 0, 2, 4])
        config = config_of(name)
        got = losses(config, student[order], target[order], label[order])
        np.testing.assert_allclose(got, losses(config, student, target, label)[order], rtol=1e-10)

    def test_gradients_hold_against_finite_differences(self, name):
        student, target, label = (torch.from_numpy(values) for values in batch(6, 4, 5))
        weight, kd_weight = torch.tensor([[1.0, 0.5, 2.0, 1.0], [1.0, 0.5, 1.0, 0.0]], dtype=torch.float64)
        config = config_of(name)

        def loss(logits):
            loss_n = sample_losses(config, logits, target, label=label, weight=weight, kd_weight=kd_weight, epoch=0)
            return (weight * loss_n).mean()

        assert torch.autograd.gradcheck(loss, (student.requires_grad_(),))

    @pytest.mark.parametrize("classes", [2, 3, 100])
    @pytest.mark.parametrize("rows", [1, 2, 5])
    @pytest.mark.parametrize(
        ("student_scale", "target_scale"), [(0, 1), (1, 0), (0, 0), (1, 1), (1e4, 65504), (65504, 1e-3), (1e-6, 1)]
    )
    def test_values_and_gradients_are_finite(self, name, classes, rows, student_scale, target_scale):
        """Also of constant rows, a batch of one, two classes, and logits at the ends of float16."""
        generator = torch.Generator().manual_seed(0)
        student = (student_scale * torch.randn(rows, classes, generator=generator).clamp(-1, 1)).requires_grad_()
        target = (target_scale * torch.randn(rows, classes, generator=generator).clamp(-1, 1)).half()
        label = torch.arange(rows) % classes
        one = torch.ones(rows)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss_n = sample_losses(config_of(name), student, target, label=label, weight=one, kd_weight=one, epoch=0)
        assert (loss_n.dtype, loss_n.shape) == (torch.float32, (rows,))
        loss_n.mean().backward()
        assert torch.isfinite(loss_n).all()
        assert torch.isfinite(student.grad).all()
        if student_scale != 1e-6:
            assert student.grad.abs().max() < 1e3

    def test_a_batch_in_which_nobody_is_distilled_is_cross_entropy(self, name):
        student, target, label = batch(7, 4, 5)
        for weight, kd_weight in ((np.zeros(4), np.ones(4)), (np.ones(4), np.zeros(4))):
            got = losses(config_of(name, ce_weight=1.0), student, target, label, weight=weight, kd_weight=kd_weight)
            assert np.isfinite(got).all()
            if kd_weight.max() == 0:
                np.testing.assert_allclose(got, cross_entropy(student, label))

    def test_half_precision_under_autocast_is_computed_in_float32(self, name):
        student, target, label = (torch.from_numpy(values) for values in batch(8, 6, 5))
        one = torch.ones(6)
        low, half = student.bfloat16(), target.half()

        def loss(logits, targets):
            return sample_losses(config_of(name), logits, targets, label=label, weight=one, kd_weight=one, epoch=0)

        with torch.autocast("cpu", torch.bfloat16):
            got = loss(low, half)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, loss(low.double(), half.double()).float(), rtol=1e-4, atol=1e-4)

    def test_targets_have_to_be_there(self, name):
        one = torch.ones(2)
        with pytest.raises(ValueError, match="needs target logits"):
            sample_losses(
                config_of(name),
                torch.zeros(2, 3),
                None,
                label=torch.zeros(2).long(),
                weight=one,
                kd_weight=one,
                epoch=0,
            )


def test_two_classes_have_no_rest_to_compare():
    student, target, label = batch(9, 5, 2)
    none, much = (config_of("dkd", loss_options={"beta": beta}) for beta in (0.0, 9.0))
    np.testing.assert_allclose(losses(none, student, target, label), losses(much, student, target, label))
    # TCKD of two classes is the whole divergence.
    plain = config_of("kd", ce_weight=1.0, kd_weight=1.0)
    np.testing.assert_allclose(losses(none, student, target, label), losses(plain, student, target, label))


@pytest.mark.parametrize("name", ["lskd", "lskd-dkd", "dist"])
@pytest.mark.parametrize("value", [0.1, 7.3, 1 / 3])
@pytest.mark.parametrize("classes", [7, 10, 100])
def test_a_row_that_is_constant_but_for_rounding_has_no_deviation(name, value, classes):
    student = torch.full((1, classes), value, requires_grad=True)
    one, config = torch.ones(1), config_of(name, ce_weight=0.0)
    target = torch.randn(1, classes, generator=torch.Generator().manual_seed(0))
    sample_losses(config, student, target, label=torch.tensor([1]), weight=one, kd_weight=one, epoch=0).sum().backward()
    assert student.grad.abs().max() < 1e-3
    if name != "dist":
        assert not standardised(student).any()


def test_a_student_that_starts_at_zero_is_not_thrown_off_by_standardising():
    """(z - mean) / (std + 1e-7) alone would have a gradient of the order of 1e7 there."""
    student, target, label = torch.zeros(4, 5, requires_grad=True), torch.randn(4, 5), torch.arange(4)
    one = torch.ones(4)
    config = config_of("lskd")
    loss_n = sample_losses(config, student, target, label=label, weight=one, kd_weight=one, epoch=0)
    loss_n.sum().backward()
    twin = torch.zeros(4, 5, requires_grad=True)
    (0.1 * F.cross_entropy(twin, label, reduction="sum")).backward()
    torch.testing.assert_close(student.grad, twin.grad)
