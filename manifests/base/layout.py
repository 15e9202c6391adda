"""Names and size limits of a manifest; what is larger is refused before memory is allocated for it."""

PART_ROWS = 8192
"""Samples per part, in canonical order."""
MAX_PART_BYTES = 384 << 20
"""Limit of a part on disk, and of all its columns decoded: 8,192 rows of 21,841 classes in float16 are 341 MiB."""
MAX_VIEWS = 1000
"""Views are numbered with three digits on disk."""
MAX_CLASSES = 1_000_000
MAX_IMAGE_PX = 4096
"""Side of the square that a network is shown: in float32 one of these takes 192 MiB."""
HEADER_NAME = "manifest.json"
BETON_NAME = "train.beton"
LOCAL_NAME = "local.json"
