"""A selection in, files for other tools out."""
