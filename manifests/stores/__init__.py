"""Where manifests are read from and written to: folders, URLs, the Hugging Face hub."""
