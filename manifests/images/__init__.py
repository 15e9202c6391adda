"""Images as they lie in a data set, who they are, and thumbnails of them."""
