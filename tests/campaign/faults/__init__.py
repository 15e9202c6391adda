"""One kind of fault per module."""
