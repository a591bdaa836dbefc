"""One self-contained HTML page of a comparison: opens anywhere, asks the network for nothing."""

from bench.report.page.assemble import PageError, write

__all__ = ["PageError", "write"]
