"""Shared by scoring and selection: quotas and the keep fraction."""
