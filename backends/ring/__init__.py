"""The pure-Python ring all-reduce: algorithm, buckets, transport, backend; four rooms, in this order."""
