"""Whether a teacher is shown images as it was trained on, by what its first batch normalisation remembers."""

import numpy as np
import pytest
import torch
from torch import nn

from manifests.format.header import Preprocessing
from trainer.models.normalise import normalise
from trainer.teachers.normalisation_check import MIN_IMAGES, USUAL, _divergence, better_normalisation

SHOWN = {
    name: Preprocessing(image_px=8, resize_px=8, mean=list(mean), std=list(std))
    for name, (mean, std, _) in USUAL.items()
}
ALIKE = {"ImageNet's mean and std", "CIFAR-100's mean and std"}


def pictures(count=64, seed=0):
    """Smooth images: their channels are correlated, and not uniform."""
    generator = torch.Generator().manual_seed(seed)
    coarse = (
        torch.rand(count, 3, 4, 4, generator=generator) * 0.6 + torch.rand(count, 1, 1, 1, generator=generator) * 0.4
    )
    return (nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear") * 255).to(torch.uint8)


def taught(shown, channels=3, passes=60):
    """A network whose batch normalisation has seen images under this normalisation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    with torch.no_grad():
        for seed in range(passes):
            net(normalise(pictures(seed=100 + seed), shown))
    return net.eval()


def test_the_divergence_is_that_of_normal_distributions():
    layer = nn.BatchNorm2d(1, eps=0)
    layer.running_mean[:], layer.running_var[:] = 0.25, 0.0625
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    grey = Preprocessing(image_px=1, resize_px=1, mean=[0.0], std=[1.0])
    # Mean 0.5 and variance 0.25 are shown: half of (4 - 1 - ln 4 + 1).
    assert _divergence(layer.eval(), images, grey) == pytest.approx((4 - np.log(4)) / 2, rel=1e-6)
    layer.running_mean[:], layer.running_var[:] = 0.5, 0.25
    assert _divergence(layer, images, grey) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("trained", USUAL)
def test_the_right_one_passes_and_a_wrong_one_is_told_with_its_flags(trained):
    net = taught(SHOWN[trained])
    for name, shown in SHOWN.items():
        better = better_normalisation(net, pictures(), shown)
        if name == trained or {name, trained} == ALIKE:
            assert better is None
        else:
            assert {better.name, trained} <= ALIKE or better == (trained, USUAL[trained][2])


def test_grey_networks_are_compared_on_grey_images():
    grey = Preprocessing(image_px=8, resize_px=8, mean=[0.0], std=[1.0])
    net = taught(grey, channels=1)
    assert better_normalisation(net, pictures(), grey) is None
    half = grey.model_copy(update={"mean": [0.5], "std": [0.5]})
    assert better_normalisation(net, pictures(), half).flags == "--mean 0 --std 1"


def test_nothing_is_said_of_networks_that_remember_nothing_or_of_images_of_another_kind():
    net, half = taught(SHOWN["images in [0, 1]"]), SHOWN["images in [-1, 1]"]
    assert better_normalisation(net, pictures(), half) is not None
    assert better_normalisation(net, pictures(MIN_IMAGES - 1), half) is None
    assert better_normalisation(net, pictures() // 16, half) is None
    assert better_normalisation(nn.Conv2d(3, 4, 3), pictures(), half) is None
    forgetful = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    assert better_normalisation(forgetful.eval(), pictures(), half) is None
    # The hooks are gone, and nothing has changed.
    assert not any(layer._forward_pre_hooks for layer in net.modules())
    assert net(normalise(pictures(), half)).isfinite().all()
