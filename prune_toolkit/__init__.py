"""Images and a teacher in, manifests and selections out; the `prune` command."""

__version__ = "0.1.0"
