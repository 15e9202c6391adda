"""The README.md, pictures and Croissant metadata of a manifest."""
