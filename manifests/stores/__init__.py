"""Places to read manifests from and write them to: folders, URLs, the Hugging Face hub."""
