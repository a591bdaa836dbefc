"""What a run's record says of the laboratory that it ran in, read by a rank on one of its hosts."""

import os
from pathlib import Path
from typing import Any

from bench.lab.holder import LAB
from bench.lab.kept import read
from bench.lab.link import Link
from bench.lab.rights import LabError

NOT_MADE = "links have a bandwidth and a buffer; no delay, no loss, no other traffic, one switch"


def here() -> dict[str, Any] | None:
    """Link, MTU and cores as they are now; None outside a laboratory, or where its file is gone."""
    state = os.environ.get(LAB)
    if state is None:
        return None
    try:
        lab = read(Path(state))
    except LabError:
        return None
    link = Link.read(lab.link)
    return {
        "hosts": len(lab.hosts),
        "link": lab.link,
        "rate_bits": link.rate,
        "payload_rate_bits": link.payload_rate(lab.mtu),
        "mtu": lab.mtu,
        "cores": {each.name: list(each.cores) for each in lab.hosts},
        "door": lab.door,
        "shared_cores": lab.shared_cores,
        "not_made": NOT_MADE,
    }
