"""One module a command: options, checks, and what is printed. Heavy imports happen inside the functions."""
