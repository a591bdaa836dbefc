"""Seconds of one step on a machine that is not here."""
