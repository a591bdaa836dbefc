"""`ringzero ring`: the all-reduce itself, watched: which chunk goes where in each step, and what has been added to it."""
