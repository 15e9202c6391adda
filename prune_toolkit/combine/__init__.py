"""Several manifests in, one out (averages, merged shards); and the reverse (splits)."""
