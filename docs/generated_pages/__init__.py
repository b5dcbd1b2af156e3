"""What docs/generate.py writes, one file per kind of page; it puts the parts together."""
