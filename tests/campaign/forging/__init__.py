"""What a hostile or damaged sender makes of files: pure functions of their bytes or content and a generator."""
