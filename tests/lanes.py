"""`python tests/lanes.py`: the whole suite in two lanes at once, so that at most two tests that start ranks meet."""

import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

LANES = {
    "ranks": ["ranks and not faults"],
    "others": ["not ranks", "faults"],
}  # of a lane one selection after the other
END = re.compile(r"^=* ?\d+ .* in [\d.]+s")  # pytest's last line
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|deselected|xfailed|xpassed|warnings?)")


def main() -> int:
    """The worst exit status of both lanes; arguments go to both. The last line sums up what they counted."""
    began, counts, statuses = time.monotonic(), Counter[str](), list[int]()

    def run(lane: str) -> None:
        for chosen in LANES[lane]:
            with subprocess.Popen(
                [sys.executable, "-m", "pytest", "-m", chosen, *sys.argv[1:]],
                cwd=Path(__file__).parents[1],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as started:
                assert started.stdout is not None
                for line in started.stdout:
                    print(f"{lane} | {line}", end="", flush=True)
                    if END.search(line):
                        counts.update({what: int(number) for number, what in COUNT.findall(line)})
            statuses.append(started.returncode)

    threads = [threading.Thread(target=run, args=(lane,)) for lane in LANES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del counts["deselected"]  # each lane leaves the other's out
    told = ", ".join(f"{number} {what}" for what, number in counts.items())
    print(f"{f' {told} in {time.monotonic() - began:.2f}s ':=^100}")
    return worst(statuses) if len(statuses) == sum(map(len, LANES.values())) else 1


def worst(statuses: list[int]) -> int:
    """The largest exit status, as a shell counts: a process that a signal ended (negative in Python) is above 128."""
    return max(status if status >= 0 else 128 - status for status in statuses)


if __name__ == "__main__":
    sys.exit(main())
