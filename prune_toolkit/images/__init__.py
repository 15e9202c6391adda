"""Find the images of a manifest, and cut a beton from them."""
