"""Choose the samples to keep from scores and logits, with reasons and targets."""
