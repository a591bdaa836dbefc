"""`ringzero collectives`: the all-reduce, reduce-scatter, all-gather and broadcast of every library, measured in turn."""
