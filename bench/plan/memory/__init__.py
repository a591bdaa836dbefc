"""Bytes of one rank: in closed form, and on tensors without storage."""
