"""`python tests/lanes.py`: the whole suite in two lanes at once. Tests that start ranks take turns; beside them run all others."""

import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

LANES = {"ranks": "ranks", "units": "not ranks"}
END = re.compile(r"^=* ?\d+ .* in [\d.]+s")  # pytest's last line
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|deselected|xfailed|xpassed|warnings?)")


def main() -> int:
    """The worst exit status of both lanes; arguments go to both. The last line sums up what they counted."""
    began, counts = time.monotonic(), Counter[str]()
    started = {
        lane: subprocess.Popen(
            [sys.executable, "-m", "pytest", "-m", chosen, *sys.argv[1:]],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for lane, chosen in LANES.items()
    }

    def follow(lane: str, lines: list[str]) -> None:
        for line in lines:
            print(f"{lane} | {line}", end="", flush=True)
            if END.search(line):
                counts.update({what: int(number) for number, what in COUNT.findall(line)})

    threads = [threading.Thread(target=follow, args=(lane, each.stdout)) for lane, each in started.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [each.wait() for each in started.values()]
    del counts["deselected"]  # each lane leaves the other's out
    told = ", ".join(f"{number} {what}" for what, number in counts.items())
    print(f"{f' {told} in {time.monotonic() - began:.2f}s ':=^100}")
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
