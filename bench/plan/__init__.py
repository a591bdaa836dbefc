"""Memory and time at scales that nobody here can run, and how far to believe them: published tables and our own records."""
