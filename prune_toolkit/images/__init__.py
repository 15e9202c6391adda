"""Where a manifest's images are, and the beton that is cut from them."""
