"""Compare many selections and students: a grid in, runs, tables and plots out."""
