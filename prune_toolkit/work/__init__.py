"""Manifests made part by part, by one process or several."""
