"""Batches and a student in, a trained student and the record of its run out."""
