"""Networks: built-in families, the model zoos, and the way from a spec to a module."""
