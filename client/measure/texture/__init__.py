"""Texture of a lesion as IBSI defines it, one matrix a file; all on the same grey levels (levels.py)."""
