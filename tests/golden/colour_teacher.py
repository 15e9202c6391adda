"""A teacher whose logits can be worked out by hand: the mean of each channel of the normalised image."""

import torch


class Colours(torch.nn.Module):
    """Logit c is the mean of channel c; the features are the same three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 3, bias=False)
        self.fc.weight = torch.nn.Parameter(torch.eye(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.mean(dim=(2, 3)))


def colours(num_classes: int) -> torch.nn.Module:
    assert num_classes == 3
    return Colours()
