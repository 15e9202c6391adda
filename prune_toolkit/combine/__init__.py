"""Several manifests in, one out: averages, shards, splits."""
