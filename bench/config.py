"""What one run is: frozen dataclasses, whose fields are the flags of `python -m bench.run` and the `config` of its record."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from backends.tuning import Tuning

SAME_EXPERIMENT = ("workload", "training")  # the groups that decide what is computed; the others only how and where


class ConfigError(ValueError):
    """A configuration that can't be run; the message says which field and what would do."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Which engine, and how it exchanges gradients."""

    backend: Literal["single", "ddp", "fsdp", "deepspeed", "horovod", "ring"]
    """Engine under test. `single` is one plain process, the yardstick of all others."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """deepspeed: ZeRO stage. 0 replicates all, 1 shards optimizer state, 2 also gradients, 3 also parameters."""
    offload_optimizer: bool = False
    """deepspeed: keep optimizer state and update on the CPU (stages 1 to 3)."""
    transport: Literal["auto", "shared", "mpi", "torch"] = "auto"
    """ring: shared memory between CPU ranks of one host, else messages: mpi under mpirun, torch point-to-point under torchrun.
    auto takes the first that works."""
    bucket_mb: float = 25.0
    """MiB of gradients exchanged at once, the same for every engine that has buckets."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is cuda where torch finds a GPU for every rank of this host."""

    @property
    def label(self) -> str:
        """The engine's name in tables: the stage belongs to it."""
        if self.backend != "deepspeed":
            return self.backend
        return f"zero-{self.zero_stage}" + ("-offload" if self.offload_optimizer else "")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Which model sees which images."""

    preset: str = "tiny"
    """Model size: tiny (random towers, seconds a run), small (pretrained DINOv2-S, MiniLM, SmolLM2-135M), base, 7b."""
    data: str = "textures"
    """Images: textures (ships with scikit-image), elpv (solar cells), textile; the last two are fetched by pip. mvtec, visa
    and aebad are yours: --images says where."""
    images: Path | None = None
    """Folder with the data set's files; mvtec, visa and aebad need it, the others bring their own."""
    weights: Path | None = None
    """Folder with published weights for `base` and `7b` (docs/weights.md says which); without it they are random."""
    variant: Literal["V1", "V2", "V3", "V4", "V5", "V6"] | None = None
    """Train as one of the report's six variants: it changes the LLM's layers and the defaults of the training flags."""
    shots: int = 1
    """Normal images a class in the memory bank (few-shot)."""
    rotations: bool = True
    """Bank them also turned by 90, 180 and 270 degrees, as in the published training."""
    instructions: Path | None = None
    """Folder of instruction data (JSON and images); its micro-batches then alternate with the anomaly ones, as published."""
    precision: Literal["fp32", "amp_bf16"] = "fp32"
    """fp32, or amp_bf16: fp32 parameters, gradients and traffic, bfloat16 inside the model's own forward."""
    seed: int = 0
    """Decides weights, samples and their order, whatever the number of ranks."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one optimizer step is."""

    global_batch: int = 8
    """Samples of all ranks and micro-batches in one optimizer step."""
    accumulation: int = 2
    """Micro-batches a rank takes one after the other in one step; not given: 1 where so many ranks leave no more."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Update rule; the published training uses adamw."""
    lr: float = 1e-3
    """Peak learning rate, never scaled by the number of ranks."""
    schedule: Literal["constant", "warmup_decay", "published"] = "constant"
    """warmup_decay: up over the first tenth of the steps, then linearly down to 0; published: with its quirks."""
    weight_decay: float = 1e-3
    """Decoupled for adamw, L2 for sgd."""
    clip_norm: float = 1.0
    """Largest global L2 norm of the mean gradient; 0 is off."""
    steps: int = 10
    """Optimizer steps under the clock."""
    epochs: float | None = None
    """Passes over the data set's normal images instead of --steps; only where the data set has an end."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured, and what proves it."""

    warmup: int = 3
    """Steps before the clock; memory is watched here, and the state is restored afterwards."""
    proof_steps: int = 2
    """SGD steps after the clock, clipping off and on, that are compared with `single` step by step (0: unproven)."""
    phase_steps: int = 2
    """Steps after the clock, as many with the exchange as without, for the phases of a step (0: none)."""
    exposed_steps: int = 0
    """The same under the clock of whole steps: communication that shows in the step's length; 8 or more (0: not measured)."""
    evaluate: int = 0
    """Test images to evaluate after training, shared by the ranks: AUROC, PRO, accuracy (0: none)."""
    evaluate_every: int = 0
    """Also evaluate (AUROC only) before training and after so many steps, again and again, with the clock stopped (0: never)."""
    target_auroc: float | None = None
    """Tell the training time in which this AUROC is reached, a fraction of 1; needs --evaluate-every."""
    target_metric: Literal["pixel_auroc", "image_auroc"] = "pixel_auroc"
    """Which AUROC of the decoder's map is meant, mean over classes."""
    limit_s: float = 120.0
    """A run without progress for so long is ended, with a record of who was stuck where."""
    bind: bool = True
    """Give each rank its own cores, as many threads as cores; the same under every launcher."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where results go and where training goes on."""

    results: Path = Path("results")
    """Folder of the records: one JSON file a run."""
    save: Path | None = None
    """Write a checkpoint here after the last step, in the engine's own form, to go on from."""
    export: Path | None = None
    """Write what was trained to this file, under the published names: for `ringzero evaluate`, `predict` and `chat`."""
    load: Path | None = None
    """Go on from what `--save` of the same engine wrote, on any number of ranks."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """What a run that is cut short goes on from."""

    checkpoint_every: int = 0
    """Write a checkpoint after every so many steps, beside the training: a loss costs at most that many steps (0: none)."""
    checkpoint_folder: Path = Path("checkpoints")
    """Folder of this training's checkpoints, one training a folder; ranks on several hosts must all see it."""
    checkpoint_keep: int = 2
    """Keep so many of the newest; the older ones are removed."""
    resume: Literal["never", "auto"] = "never"
    """auto: go on from the newest whole checkpoint, on any number of ranks, under any engine; from step 0 if there is none."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: one engine, one rank count, one workload."""

    engine: Engine
    workload: Workload = field(default_factory=Workload)
    training: Training = field(default_factory=Training)
    measure: Measure = field(default_factory=Measure)
    tuning: Tuning = field(default_factory=Tuning)
    output: Output = field(default_factory=Output)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    def __post_init__(self) -> None:
        counts = {
            "global_batch": self.training.global_batch,
            "accumulation": self.training.accumulation,
            "steps": self.training.steps,
            "shots": self.workload.shots,
            "checkpoint_keep": self.checkpoints.checkpoint_keep,
        }
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        floors = {
            "evaluate": self.measure.evaluate,
            "evaluate_every": self.measure.evaluate_every,
            "warmup": self.measure.warmup,
            "proof_steps": self.measure.proof_steps,
            "phase_steps": self.measure.phase_steps,
            "exposed_steps": self.measure.exposed_steps,
            "checkpoint_every": self.checkpoints.checkpoint_every,
            "clip_norm": self.training.clip_norm,
            "weight_decay": self.training.weight_decay,
        }
        for name, low in floors.items():
            if not low >= 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {low}; it can't be negative")
        above = {"lr": self.training.lr, "bucket_mb": self.engine.bucket_mb, "limit_s": self.measure.limit_s}
        if self.training.epochs is not None:
            above["epochs"] = self.training.epochs
        for name, positive in above.items():
            if not positive > 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {positive}; it must be above 0")
        if self.measure.evaluate_every and not self.measure.evaluate:
            raise ConfigError("--evaluate-every needs images to look at; add --evaluate 60, say")
        if self.measure.target_auroc is not None:
            if not 0 < self.measure.target_auroc <= 1:
                raise ConfigError(f"--target-auroc is {self.measure.target_auroc}; it is a fraction of 1, such as 0.9")
            if not self.measure.evaluate_every:
                raise ConfigError("--target-auroc is looked for every so many steps; add --evaluate-every 5, say")
        if self.checkpoints.checkpoint_every or self.checkpoints.resume != "never":
            if self.output.load is not None:
                raise ConfigError(
                    "--load and --checkpoint-every or --resume both say what to go on from: leave one out"
                )
            if self.measure.evaluate_every:
                raise ConfigError(
                    "--evaluate-every tells the time of a whole training, and one that goes on knows that of its last part: "
                    "leave out --checkpoint-every and --resume, or take --evaluate alone"
                )
        if self.engine.offload_optimizer and (self.engine.backend != "deepspeed" or self.engine.zero_stage == 0):
            raise ConfigError("--offload-optimizer needs --backend deepspeed with --zero-stage 1, 2 or 3")
        if self.tuning.changed() and (why := self.tuning.wrong(self.engine.label)):
            raise ConfigError(why)
        if self.engine.backend == "fsdp" and self.tuning.compression != "none" and self.training.accumulation > 1:
            raise ConfigError(
                "fsdp would also add up micro-batches in 16 bits: --compression fp16 needs --accumulation 1 there"
            )
        if self.engine.transport == "shared" and self.tuning.compression != "none":
            raise ConfigError(
                "shared memory has no wire to save bytes on: leave --transport shared or --compression out"
            )
        if self.tuning.static_graph and self.training.accumulation > 1:
            raise ConfigError("DDP's static graph can't leave out an exchange: --static-graph needs --accumulation 1")
        for name in ("fused_optimizer", "engine_adam"):
            if getattr(self.tuning, name) and self.training.optimizer != "adamw":
                raise ConfigError(f"--{name.replace('_', '-')} is of AdamW; it needs --optimizer adamw")

    @property
    def track(self) -> str:
        """controlled: nothing but the engine differs between runs; tuned: this engine has settings of its own."""
        return "tuned" if self.tuning.changed() else "controlled"

    def micro_batch(self, ranks: int) -> int:
        """Samples in one micro-batch of one rank. Raises ConfigError where the ranks can't share the batch evenly."""
        batch, accumulation = self.training.global_batch, self.training.accumulation
        share = ranks * accumulation
        if batch % share:
            near = [size for size in (batch // share * share, (batch // share + 1) * share) if size]
            raise ConfigError(
                f"a global batch of {batch} can't be cut into {ranks} ranks x {accumulation} micro-batches; "
                f"try --global-batch {' or '.join(map(str, near))}, or another --accumulation"
            )
        return batch // share

    def to_dict(self) -> dict[str, Any]:
        """JSON values, nested as the dataclasses are."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Undo `to_dict`. Raises ConfigError for a group or field that does not exist."""
        groups: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(cls)}
        if unknown := set(values) - set(groups):
            raise ConfigError(f"unknown group {sorted(unknown)}; there are: {', '.join(groups)}")
        made = {}
        for name, group in groups.items():
            given = dict(values.get(name, {}))
            known = {f.name: f for f in dataclasses.fields(group)}
            if unknown := set(given) - set(known):
                raise ConfigError(f"unknown field {sorted(unknown)} in {name}; there are: {', '.join(known)}")
            paths = {k: Path(v) for k, v in given.items() if v is not None and "Path" in str(known[k].type)}
            floats = {
                k: float(v) for k, v in given.items() if known[k].type in (float, float | None) and type(v) is int
            }  # TOML's 1
            made[name] = group(**{**given, **paths, **floats})
        return cls(**made)

    def experiment_id(self) -> str:
        """Equal for runs that must compute the same: a hash of the workload and of the training, of nothing else."""
        same: dict[str, Any] = {group: self.to_dict()[group] for group in SAME_EXPERIMENT}
        same["proof_steps"] = self.measure.proof_steps
        same["training"].pop("accumulation")  # how the batch is cut must not change what is learned
        for files in ("weights", "instructions"):
            same["workload"][files] = same["workload"][files] is not None  # where the files lie must not either
        same["load"] = str(self.output.load)
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]
