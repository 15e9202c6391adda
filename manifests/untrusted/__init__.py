"""Guards for bytes that somebody sent: Parquet files are checked before pyarrow decodes them."""
