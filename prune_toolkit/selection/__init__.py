"""Scores and logits in; which samples to keep, why, and their targets out."""
