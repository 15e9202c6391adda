"""Images and a teacher in, manifests and selections out; the `prune` command."""
