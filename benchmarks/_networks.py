"""A student much smaller than its teacher, for studies on a CPU: --student _networks:small_cnn."""

from torch import nn


def small_cnn(num_classes: int) -> nn.Module:
    """Three convolutions of 16, 32 and 64 channels and a linear layer: 24k parameters for 10 classes."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 2), (16, 32, 2), (32, 64, 1)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
