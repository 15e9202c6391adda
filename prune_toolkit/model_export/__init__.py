"""A trained student in, a file or folder for other libraries out."""
