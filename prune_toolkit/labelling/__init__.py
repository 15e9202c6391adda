"""A selection and a teacher in, a selection with labels of many views out."""
