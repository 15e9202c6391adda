"""KD and cross-entropy against hand-worked numbers, scipy in float64, torch's own terms and finite differences."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from torch.nn import functional as F

from trainer.data.stored import StoredLabels
from trainer.loop.recipes import resolve
from trainer.losses import LOSSES, distillation_loss, sample_losses


def numpy_loss(student, target, label, weight, kd_weight, *, alpha, temperature, smoothing):
    classes = student.shape[1]
    hot = np.eye(classes)[label] * (1 - smoothing) + smoothing / classes
    ce = -(hot * log_softmax(student, axis=1)).sum(1)
    kl = rel_entr(softmax(target / temperature, axis=1), softmax(student / temperature, axis=1)).sum(1)
    a = alpha * kd_weight
    return (weight * ((1 - a) * ce + a * temperature**2 * kl)).mean()


def test_two_classes_worked_by_hand():
    student = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([[np.log(3.0) * 2, 0.0]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    loss = distillation_loss(
        student, target, torch.tensor([0]), one, one, alpha=0.75, temperature=2.0, label_smoothing=0.0
    )
    # p_t = (3/4, 1/4) at T = 2, p_s = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2); CE = ln 2.
    kl = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(loss) == pytest.approx(0.25 * np.log(2) + 0.75 * 4 * kl, abs=1e-15)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 9),
    classes=st.integers(2, 12),
    alpha=st.floats(0, 1),
    temperature=st.floats(0.5, 10),
    smoothing=st.floats(0, 0.5),
)
def test_equals_scipy_in_float64(*, seed, rows, classes, alpha, temperature, smoothing):
    generator = np.random.default_rng(seed)
    student, target = generator.normal(0, 4, (2, rows, classes))
    label = generator.integers(0, classes, rows)
    weight, kd_weight = generator.uniform(0, 3, rows), generator.uniform(0, 1, rows)
    got = distillation_loss(
        *(torch.from_numpy(array) for array in (student, target, label, weight, kd_weight)),
        alpha=alpha,
        temperature=temperature,
        label_smoothing=smoothing,
    )
    want = numpy_loss(
        student, target, label, weight, kd_weight, alpha=alpha, temperature=temperature, smoothing=smoothing
    )
    assert float(got) == pytest.approx(want, rel=1e-10, abs=1e-12)


def example(rows=5, classes=7):
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    target = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    label = torch.randint(classes, (rows,), generator=generator)
    weight, kd_weight = torch.rand(2, rows, generator=generator, dtype=torch.float64)
    return student, target, label, weight, kd_weight


def test_without_weights_it_is_torchs_cross_entropy_and_kl_div():
    student, target, label, *_ = example()
    one = torch.ones(5, dtype=torch.float64)
    got = distillation_loss(student, target, label, one, one, alpha=0.9, temperature=4.0, label_smoothing=0.1)
    ce = F.cross_entropy(student, label, label_smoothing=0.1)
    kl = F.kl_div(F.log_softmax(student / 4, 1), F.softmax(target / 4, 1), reduction="batchmean")
    assert float(got) == pytest.approx(float(0.1 * ce + 0.9 * 16 * kl), rel=1e-12)


def test_the_mean_is_over_the_batch_and_not_over_the_weights():
    student, target, label, weight, kd_weight = example()
    options = {"alpha": 0.5, "temperature": 2.0, "label_smoothing": 0.0}
    whole = distillation_loss(student, target, label, weight, kd_weight, **options)
    rows = [
        distillation_loss(*(part[row : row + 1] for part in (student, target, label, weight, kd_weight)), **options)
        for row in range(5)
    ]
    assert float(whole) == pytest.approx(float(sum(rows)) / 5, rel=1e-12)


def test_a_sample_with_kd_weight_zero_is_taught_by_its_label_alone():
    student, target, label, weight, _ = example()
    got = distillation_loss(
        student, target, label, weight, torch.zeros(5, dtype=torch.float64), alpha=0.9, temperature=4.0
    )
    assert torch.equal(got, (weight * F.cross_entropy(student, label, reduction="none")).mean())


def test_gradients_hold_against_finite_differences():
    student, target, label, weight, kd_weight = example(3, 4)

    def loss(logits):
        return distillation_loss(
            logits, target[:3, :4], label, weight, kd_weight, alpha=0.7, temperature=3.0, label_smoothing=0.1
        )

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(),))


def test_the_gradient_of_pure_kd_is_t_times_the_difference_of_the_softened_probabilities():
    student, target, label, *_ = example(1, 6)
    student.requires_grad_()
    one = torch.ones(1, dtype=torch.float64)
    distillation_loss(student, target, label, one, one, alpha=1.0, temperature=4.0).backward()
    want = 4 * (F.softmax(student.detach() / 4, 1) - F.softmax(target / 4, 1))
    torch.testing.assert_close(student.grad, want)


def test_stored_float16_targets_and_bfloat16_students_are_computed_in_float32():
    student, target, label, weight, kd_weight = example()
    low, half = student.bfloat16(), target.half()
    got = distillation_loss(low, half, label, weight.float(), kd_weight.float(), alpha=0.9, temperature=4.0)
    assert got.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        autocast = distillation_loss(low, half, label, weight.float(), kd_weight.float(), alpha=0.9, temperature=4.0)
    assert torch.equal(got, autocast)
    exact = distillation_loss(low.double(), half.double(), label, weight, kd_weight, alpha=0.9, temperature=4.0)
    assert float(got) == pytest.approx(float(exact), rel=1e-5)


def losses_of(name, *, epoch=0, rows=5, **flags):
    """sample_losses of the example, (n,), as a run with these flags has them."""
    config = resolve({"loss": name} | flags, recipe="cifar", stored=StoredLabels(count=64, view_count=1))
    student, target, label, weight, kd_weight = example(rows)
    return sample_losses(config, student, target, label=label, weight=weight, kd_weight=kd_weight, epoch=epoch)


def test_the_loss_of_each_sample_makes_the_scalar_when_weighted():
    student, target, label, weight, kd_weight = example()
    want = distillation_loss(student, target, label, weight, kd_weight, alpha=0.7, temperature=3.0, label_smoothing=0.1)
    got_n = losses_of("kd", kd_weight=0.7, temperature=3.0, label_smoothing=0.1)
    assert got_n.shape == (5,)
    torch.testing.assert_close((weight * got_n).mean(), want)


def test_with_a_weight_of_its_own_the_cross_entropy_does_not_depend_on_the_kd_weight():
    student, target, label, _, kd_weight = example()
    ce_n = F.cross_entropy(student, label, reduction="none")
    kl_n = F.kl_div(F.log_softmax(student / 2, 1), F.softmax(target / 2, 1), reduction="none").sum(1)
    got_n = losses_of("kd", ce_weight=0.5, kd_weight=3.0, temperature=2.0)
    torch.testing.assert_close(got_n, 0.5 * ce_n + 3 * kd_weight * 4 * kl_n)


def test_the_exported_loss_takes_a_weight_of_the_cross_entropy_too():
    student, target, label, weight, kd_weight = example()
    values = {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 4.0}
    config = resolve(values, recipe="cifar", stored=StoredLabels(count=64, view_count=1))
    loss_n = sample_losses(config, student, target, label=label, weight=weight, kd_weight=kd_weight, epoch=0)
    batch = (student, target, label, weight, kd_weight)
    got = distillation_loss(*batch, alpha=1.0, temperature=4.0, ce_weight=1.0)
    torch.testing.assert_close(got, (weight * loss_n).mean())
    assert not torch.isclose(got, distillation_loss(*batch, alpha=1.0, temperature=4.0))


def test_the_kd_term_rises_linearly_over_its_warm_up():
    ce_n, whole_n = losses_of("kd", ce_weight=1.0, kd_weight=0.0), losses_of("kd", ce_weight=1.0)
    for epoch, share in ((0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (9, 1.0)):
        got_n = losses_of("kd", ce_weight=1.0, kd_warmup_epochs=4.0, epoch=epoch)
        torch.testing.assert_close(got_n - ce_n, share * (whole_n - ce_n))


def test_labels_alone_are_cross_entropy_and_look_at_no_target():
    student, _, label, weight, _ = example()
    config = resolve({"loss": "ce", "label_smoothing": 0.1}, recipe="cifar", stored=StoredLabels(count=64))
    got_n = sample_losses(config, student, None, label=label, weight=weight, kd_weight=weight, epoch=0)
    torch.testing.assert_close(got_n, F.cross_entropy(student, label, reduction="none", label_smoothing=0.1))


def test_the_registry_states_what_each_loss_needs_and_needs_no_torch_to_be_listed():
    needs = {name: loss.needs_targets for name, loss in LOSSES.items()}
    assert needs == {"ce": False, "kd": True, "dkd": True, "lskd": True, "lskd-dkd": True, "dist": True}
    code = "import sys, trainer.losses, trainer.losses.settings, trainer.loop.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
