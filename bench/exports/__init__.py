"""Records in the formats of others, one format a file."""
