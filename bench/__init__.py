"""The commands: one run, a comparison of runs, and what people read of them."""
