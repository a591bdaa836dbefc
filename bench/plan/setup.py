"""How a model is trained: engine, ranks, precision, micro-batch, what is recomputed, what is offloaded."""

from dataclasses import dataclass, replace

from bench.config import ConfigError
from bench.memory_model import MOMENTS
from bench.plan.memory.network import CHECKPOINTING
from bench.plan.memory.recipe import RECIPES

ENGINES = ("ddp", "horovod", "ring", "zero-0", "zero-1", "zero-2", "zero-3", "fsdp")
OFFLOADED = ("zero-1-offload", "zero-2-offload", "zero-3-offload", "zero-3-offload-all")
OPTIMIZERS = {"adam": "adamw", "adamw": "adamw", "sgd": "sgd"}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Raises ConfigError for what can't be.

    engine: of ENGINES; `-offload` keeps optimizer state and gradients on the CPU, `-offload-all` parameters too.
    checkpointing: none, selective (attention's squares are recomputed), full (each layer from its input). bucket_mb: MiB of
    fp32 gradients exchanged at once, whatever the recipe's width. live: values that ZeRO-3 may keep gathered
    (`stage3_max_live_parameters`); at 0 only the layer in use, as our adapter has it. overlap: ZeRO reduces one bucket while it
    fills another. shared: the ring's ranks are CPU processes of one host, which read each other's memory and need no scratch.
    """

    engine: str
    ranks: int
    recipe: str = "amp_bf16"
    optimizer: str = "adamw"
    micro_batch: int = 1
    accumulation: int = 1
    checkpointing: str = "none"
    bucket_mb: float = 25.0
    live: int = 0
    overlap: bool = True
    shared: bool = False

    def __post_init__(self) -> None:
        names = {
            "engines": (self.engine, (*ENGINES, *OFFLOADED)),
            "precision": (self.recipe, tuple(RECIPES)),
            "optimizer": (self.optimizer, tuple(OPTIMIZERS)),
            "checkpointing": (self.checkpointing, CHECKPOINTING),
        }
        for flag, (name, known) in names.items():
            if name not in known:
                raise ConfigError(f"--{flag} {name}: unknown; there are: {', '.join(known)}")
        counts = {"gpus": self.ranks, "micro-batch": self.micro_batch, "accumulation": self.accumulation}
        for flag, value in counts.items():
            if value < 1 or value != int(value):
                raise ConfigError(f"--{flag} is {value}; it must be a whole number of at least 1")
        if not 0 < self.bucket_mb < float("inf"):
            raise ConfigError(f"--bucket-mb is {self.bucket_mb}; it must be above 0")
        if self.live < 0:
            raise ConfigError(f"live is {self.live}; it can't be negative")

    @property
    def base(self) -> str:
        """The engine without its offloading."""
        return self.engine.split("-offload")[0]

    @property
    def offload(self) -> str:
        """none, optimizer or all."""
        return "all" if self.engine.endswith("-all") else "optimizer" if "-offload" in self.engine else "none"

    @property
    def moments(self) -> int:
        """Values that the update rule keeps for each trained one."""
        return MOMENTS[OPTIMIZERS[self.optimizer]]

    @property
    def samples(self) -> int:
        """Of the global batch."""
        return self.ranks * self.micro_batch * self.accumulation

    def changed(self, **settings: object) -> "Setup":
        """The same but for these settings."""
        return replace(self, **settings)  # type: ignore[arg-type]
