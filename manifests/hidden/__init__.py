"""Hidden manifests: keys and hashes are HMACs."""
