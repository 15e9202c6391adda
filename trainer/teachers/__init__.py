"""Teachers: which network is one, how it is shown images, and how the logits of the classes are read from it."""
