"""Files made outside of this toolkit, joined to a manifest: scores, subsets, logits. Torch-free."""
