"""Samples that are probably wrong in a data set: mislabelled, there twice, or among the validation images."""
