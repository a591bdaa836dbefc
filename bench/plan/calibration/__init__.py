"""The constants of the time model, from your own runs."""
