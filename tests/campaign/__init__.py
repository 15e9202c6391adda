"""A campaign of faults against every command: `make campaign`. What it found is in docs/reliability.md."""
