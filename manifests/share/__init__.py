"""Copying manifests to another place and back."""
