"""Selections and a teacher in, selections with labels of many views out."""
