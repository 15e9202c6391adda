"""Manifests whose keys and hashes are HMACs."""
