"""Make the inputs of the campaign: small images, and a manifest of each kind from them."""

from pathlib import Path

from campaign.lab import Lab


def make_lab(folder: Path) -> Lab:
    """Return a lab in `folder` with: photos/, index, scores, selection, run, ...; and what each command makes."""
    raise NotImplementedError
