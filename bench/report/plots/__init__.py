"""Figures of a comparison, one subject a file; `catalog.py` lists them."""
