"""What Horovod is installed here, and what was built into it."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

# In a process of its own: a library that does not fit this torch can end the process that loads it.
PROBE = """
import json, torch, horovod.torch as hvd
print(json.dumps({"torch": torch.__version__, "gloo": bool(hvd.gloo_built()), "mpi": bool(hvd.mpi_built()),
                  "nccl": bool(hvd.nccl_built()), "cuda": bool(hvd.cuda_built())}))
"""


@dataclass(frozen=True)
class Installed:
    """The Horovod of this Python: its version (after the +, the key of its build), its torch, and what is built in."""

    version: str
    torch: str
    gloo: bool
    mpi: bool
    nccl: bool
    cuda: bool

    def __str__(self) -> str:
        flags = {name: has for name, has in asdict(self).items() if isinstance(has, bool)}
        built = ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in flags.items())
        return f"Horovod {self.version} with torch {self.torch}: {built}"


def installed_version() -> str | None:
    """The installed distribution's version; None where there is none."""
    try:
        return version("horovod")
    except PackageNotFoundError:
        return None


def probe() -> tuple[Installed | None, str]:
    """The installed Horovod and an empty string, or None and the reason why it can't be used."""
    found = installed_version()
    if found is None:
        return None, "Horovod is not installed; type: make horovod   (or: python -m backends.build)"
    ask = [sys.executable, "-c", PROBE]
    run = subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
        return None, f"Horovod {found} does not load ({last}); type: make horovod   (or: python -m backends.build)"
    return Installed(version=found, **json.loads(run.stdout.strip().splitlines()[-1])), ""


def root_note() -> str | None:
    """What root should know about mpirun; None for everybody else, and where both variables are set."""
    wanted = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
    if os.geteuid() != 0 or all(os.environ.get(name) == "1" for name in wanted):
        return None
    return (
        "you are root: `horovodrun` tells mpirun that this is meant; `mpirun` typed by hand refuses until you type: "
        f"export {' '.join(f'{name}=1' for name in wanted)}"
    )
