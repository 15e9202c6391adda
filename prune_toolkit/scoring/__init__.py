"""Images and a teacher in, logits and scores out."""
