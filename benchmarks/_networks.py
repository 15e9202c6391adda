"""Students much smaller than their teachers, for studies on a CPU: --student _networks:small_cnn."""

from torch import nn


def tiny_cnn(num_classes: int) -> nn.Module:
    """Channels 8, 16, 32: 6k parameters for 10 classes."""
    return _cnn(8, num_classes)


def small_cnn(num_classes: int) -> nn.Module:
    """Channels 16, 32, 64: 24k parameters for 10 classes."""
    return _cnn(16, num_classes)


def wide_cnn(num_classes: int) -> nn.Module:
    """Channels 32, 64, 128: 95k parameters for 10 classes."""
    return _cnn(32, num_classes)


def _cnn(width: int, num_classes: int) -> nn.Module:
    """Three convolutions of `width`, twice and four times as many channels, and a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 1)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes))
