"""Predictions beside published numbers and beside our own records."""
