"""Manifests to another place and back."""
