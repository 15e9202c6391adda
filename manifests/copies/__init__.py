"""Checking whether a copy of the images is what was scored."""
