"""A small certificate authority for a federation: a folder with a key, an index of what it issued, and the files."""
