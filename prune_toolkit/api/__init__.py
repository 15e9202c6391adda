"""The front door: what `import prune_toolkit as pt` gives people with a notebook. One file per group of names."""
