"""What differs between two manifests."""
