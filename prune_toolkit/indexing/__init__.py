"""Images in, an index manifest out."""
