"""The tuned track: each engine at its best within the same number of trials."""
