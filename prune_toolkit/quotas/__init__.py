"""What scoring and selection share: the registry of scores, quotas, the keep fraction."""
