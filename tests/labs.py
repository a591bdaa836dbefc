"""Whether a laboratory can be made on this machine; tests that need one are skipped with the reason."""

import pytest

from bench.lab import rights

WHY_NOT = rights.refused()
needs_lab = pytest.mark.skipif(WHY_NOT is not None, reason=f"no laboratory here: {WHY_NOT}")
