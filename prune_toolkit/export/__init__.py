"""Selections in, files for other tools out."""
