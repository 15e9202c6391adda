"""A network and labelled images in, how good its answers are out."""
