"""A selection in, batches of views with their labels out."""
