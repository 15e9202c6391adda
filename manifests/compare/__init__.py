"""The differences between two manifests."""
