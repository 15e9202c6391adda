"""The files on disk: the header, its tables and their columns."""
