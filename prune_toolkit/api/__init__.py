"""The Python interface, `import prune_toolkit as pt`, for notebooks and scripts. One file per group of functions."""
