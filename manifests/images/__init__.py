"""Images as a data set stores them, their identity, and their thumbnails."""
