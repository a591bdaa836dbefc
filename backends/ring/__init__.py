"""The pure-Python ring all-reduce.

Four rooms, in this order: `algorithm` (the idea), `buckets` (what goes around), `transport` (how it reaches a neighbour),
`backend` (when). Next door the same ring made fast: `shared` and `wave` (ranks of one host), `pipeline` (messages), `compression` (16
bits on the wire); and `reduction`, what happens to two values that meet, and `schedules`, other ways round.
"""
