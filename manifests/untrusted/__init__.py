"""Guards against untrusted bytes: Parquet files are checked before pyarrow decodes them."""
