"""Rows of a manifest's tables, by sample_id."""
