"""FFCV betons, read and written without ffcv."""
