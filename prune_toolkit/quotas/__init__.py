"""Shared by scoring and selection: quotas and the keep fraction."""

from prune_toolkit.quotas import recall as recall
