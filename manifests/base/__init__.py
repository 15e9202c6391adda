"""The ground: atomic files, progress, the registry, and the names and bounds of a manifest."""
