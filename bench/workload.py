"""Model, batches and their cost, from a config. Knows ranks as two integers only."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import model
import model.data
from bench.config import RunConfig
from bench.config import Workload as WorkloadConfig
from model import variants
from model.activations import activation_bytes
from model.anomalygpt import AnomalyGPT
from model.cost import cost
from model.data.collate import NO_LOSS, Collator
from model.data.sample import Sample, TestItem
from model.tokenizer import tokenizer

KEPT_SAMPLES = 2048  # made once, ahead of the clock: 0.2 MB each


class Workload:
    """What one rank of a run trains on. The global batch of a step does not depend on how many ranks share it."""

    def __init__(self, config: RunConfig, rank: int, size: int) -> None:
        self.config, self.rank, self.size = config, rank, size
        self.micro_batch = config.micro_batch(size)
        self.model_config = model.preset(config.workload.preset, config.workload.weights)
        self.model_config = replace(
            self.model_config, bank_shots=config.workload.shots, bank_rotations=config.workload.rotations
        )
        if config.workload.variant is not None:
            self.model_config = variants.apply(self.model_config, variants.VARIANTS[config.workload.variant])
        self.dataset: model.data.Dataset | model.data.Mixed = model.data.load(
            config.workload.data,
            image_size=self.model_config.image_size,
            seed=config.workload.seed,
            folder=config.workload.images,
        )
        if config.workload.instructions is not None:
            self.dataset = model.data.Mixed(
                self.dataset,
                model.data.Instructions(
                    config.workload.instructions, self.model_config.image_size, config.workload.seed
                ),
                global_batch=config.training.global_batch,
                ranks=size,
                accumulation=config.training.accumulation,
            )
        self.steps = optimizer_steps(config, self.dataset.pairs)
        if config.measure.evaluate:
            self.test_images()  # what the data set cannot serve is told before hours of training, not after
        self.collate = Collator(
            tokenizer(self.model_config),
            self.dataset,
            self.model_config.max_text,
            mean=self.model_config.image_mean,
            std=self.model_config.image_std,
        )
        self.made: frozenset[int] = frozenset()
        self.sample: Callable[[int], Sample] = lru_cache(KEPT_SAMPLES)(self.dataset.__getitem__)

    def build(self) -> AnomalyGPT:
        """A fresh model, the same on every rank and at every call."""
        built = model.build(self.model_config, precision=self.config.workload.precision, seed=self.config.workload.seed)
        built.prepare(self.dataset)
        return built.train()

    def test_images(self) -> tuple[model.data.Dataset, Sequence[TestItem]]:
        """The test split, and the images of it that `--evaluate` asks for. Raises ValueError where there are fewer."""
        asked = self.config.workload
        dataset = model.data.load(
            asked.data,
            image_size=self.model_config.image_size,
            seed=asked.seed,
            split="test",
            folder=asked.images,
        )
        try:
            return dataset, dataset.test_items(self.config.measure.evaluate)
        except ValueError as error:
            raise ValueError(f"--evaluate of --data {asked.data}: {error}") from error

    def indices(self, step: int, micro: int) -> range:
        """Samples of this rank's micro-batch: a contiguous slice of the step's global batch, or what a mixture says."""
        if isinstance(self.dataset, model.data.Mixed):
            return self.dataset.indices(step, self.rank, micro)
        share = self.config.training.global_batch // self.size
        begin = step * self.config.training.global_batch + self.rank * share + micro * self.micro_batch
        return range(begin, begin + self.micro_batch)

    def batches(self, step: int, micro: int) -> dict[str, Tensor]:
        """The micro-batch as tensors on the CPU; the same samples whatever the rank count."""
        return self.collate([self.sample(index) for index in self.indices(step, micro)])

    def make_ahead(self, steps: Iterable[int]) -> int:
        """Make the samples of some steps before the clock starts; how many there are."""
        wanted = [
            i for step in steps for micro in range(self.config.training.accumulation) for i in self.indices(step, micro)
        ]
        self.made = frozenset(wanted[:KEPT_SAMPLES])
        for index in self.made:
            self.sample(index)
        return len(wanted)

    def kept_bytes(self) -> int:
        """Images and masks of the samples that were made ahead."""
        samples = map(self.sample, self.made)
        return sum(array.nbytes for sample in samples for array in (sample.image, sample.mask) if array is not None)

    def describe(self) -> dict[str, Any]:
        """For the record: what was trained on what, and its closed-form cost."""
        labels = self.batches(0, 0)["labels"]
        answer = float((labels != NO_LOSS).sum() / len(labels))
        price = cost(self.model_config, text_tokens=self.collate.length, answer_tokens=answer)
        kept = activation_bytes(
            self.model_config,
            text_tokens=self.collate.length,
            answer_tokens=answer,
            samples=self.micro_batch,
            precision=self.config.workload.precision,
        )
        return {
            "classes": list(self.dataset.classes),
            "licence": self.dataset.licence,
            "towers": self.model_config.towers,
            "text_tokens": self.collate.length,
            "prefix_tokens": self.model_config.prefix_tokens,
            "instruction_tokens": self.collate.instruction_length,
            "micro_batch": self.micro_batch,
            "cost": {**asdict(price), "flops_per_sample": price.step_flops, "gradient_bytes": price.gradient_bytes},
            "activation_bytes": dict(kept),
        }


def optimizer_steps(config: RunConfig, pairs: int | None) -> int:
    """How many steps a run takes: as many as asked for, or those of its epochs; an epoch has two samples a normal image.

    Raises ValueError for epochs of a data set without an end.
    """
    training = config.training
    if training.epochs is None:
        return training.steps
    if pairs is None:
        raise ValueError(f"--epochs is {training.epochs:g}, but {config.workload.data} has no end; take --steps instead "
                         "(with --variant: add --epochs None)")  # fmt: skip
    return max(1, round(training.epochs * 2 * pairs / training.global_batch))


def check_names(asked: WorkloadConfig) -> None:
    """Raise ValueError, listing what there is, for an unknown preset or data set."""
    model.preset(asked.preset)
    if asked.data not in model.data.DATASETS:
        raise ValueError(f"unknown data set {asked.data!r}; there are: {', '.join(model.data.DATASETS)}")


def optimizer_factory(
    kind: str, *, lr: float, weight_decay: float, device: torch.device, fused: bool = False
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """The same torch update rule for every engine, nothing left to a default that engines or devices choose.

    `fused` is of adamw alone: torch 2.13 has no fused SGD for sharded tensors, and the proof takes the plain one.
    """
    many = (
        device.type == "cuda" and not fused
    )  # one kernel over many tensors; on a CPU a loop is what torch itself takes
    if kind == "sgd":
        return lambda params: SGD(params, lr=lr, momentum=0.0, weight_decay=weight_decay, foreach=many, fused=False)
    return lambda params: AdamW(
        params, lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay, amsgrad=False, foreach=many, fused=fused
    )
