"""Rows of the tables of a manifest by sample_id."""
