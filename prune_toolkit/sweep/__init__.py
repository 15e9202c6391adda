"""Many selections and students, compared: a grid in, runs, tables and plots out."""
