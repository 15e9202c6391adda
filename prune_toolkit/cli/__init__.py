"""One module per command: options, checks, and what is printed. Heavy imports happen inside the functions."""
