"""Runs over several hosts: which they are, what is started on each, and how all of it ends together."""
