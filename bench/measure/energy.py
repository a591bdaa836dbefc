"""Energy of the timed window, from the counters of the hardware: NVML for GPUs, RAPL for processor packages."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch

RAPL = Path("/sys/class/powercap")


def gpu_names(count: int) -> list[str]:
    """NVML's names of this process's first `count` GPUs: its numbers count all of the host's, whatever is visible here."""
    return [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(count)]


class Energy:
    """`with energy:` around each window, as often as wanted; then `joules` of the host's ranks in all of them, or None with
    `reason`. Idle power is inside.

    gpus: NVML's names of the devices in use; without any, the processor packages are read.
    """

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        self.gpus = gpus
        self.joules: float | None = None
        self.reason: str | None = None

    def __enter__(self) -> "Energy":
        try:
            self._begin = self._read()
        except (OSError, RuntimeError) as error:
            self.reason, self.joules = str(error), None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.reason is not None:
            return
        try:
            spent = [end - begin for begin, end in zip(self._begin, self._read(), strict=True)]
        except (OSError, RuntimeError) as lost:  # the run itself is whole
            self.reason, self.joules = str(lost), None
            return
        if min(spent) < 0:
            self.reason = "an energy counter wrapped around during the window"
            self.joules = None
        else:
            self.joules = (self.joules or 0.0) + sum(spent)

    def _read(self) -> list[float]:
        if self.gpus:
            import pynvml

            try:
                pynvml.nvmlInit()
                try:
                    handles = [pynvml.nvmlDeviceGetHandleByUUID(name) for name in self.gpus]
                    return [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles]
                finally:
                    pynvml.nvmlShutdown()
            except pynvml.NVMLError as error:
                raise RuntimeError(f"NVML has no energy counter: {error}") from error
        packages = sorted(RAPL.glob("intel-rapl:[0-9]*/energy_uj"))
        packages = [p for p in packages if p.parent.name.count(":") == 1]
        if not packages:
            raise RuntimeError("no RAPL counter under /sys/class/powercap")
        return [int(p.read_text()) / 1e6 for p in packages]
