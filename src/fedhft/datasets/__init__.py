"""Data of a federation: reading files, the folder format, handing rows out, generated tickets."""
