"""Networks: built-in families, the model zoos, and how a spec becomes a module."""
