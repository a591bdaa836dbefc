"""One evaluation with its baselines: which models see which images, and how far the numbers spread."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import model
import model.data
from bench.config import ConfigError
from bench.spread import FEW, over_draws, over_images
from bench.viewer import built
from model.anomalygpt import AnomalyGPT
from model.data.dataset import Dataset
from model.data.sample import DataError, TestItem
from model.decoder import ImageDecoder
from model.evaluate import Mode, evaluate_draws, evaluate_modes
from model.prompt_learner import PromptLearner
from model.tally import Bad, Tally

if TYPE_CHECKING:
    from bench.evaluate import Evaluate

NAMES: dict[Mode, str] = {"text": "decoder", "bank": "memory bank"}
CONSTANT = 0.5
Tell = Callable[[str, int, int], None]


@dataclass
class Result:
    """One line of models on all images: a table a draw, or the reason why there is none."""

    draws: list[Tally] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None
    reason: str | None = None
    dependent: str | None = None  # as the data set says

    @property
    def table(self) -> dict[str, Any] | None:
        """Of the first draw."""
        return self.tables[0] if self.tables else None

    def spread(self) -> dict[str, Any]:
        """`draws`: mean and deviation over them; `images`: bootstrap 95 % intervals of the first draw, or why there are none."""
        if not self.draws:
            return {}
        images = over_images(self.draws[0], self.dependent)
        few = f"a class has fewer than {FEW} normal or defective ones"
        why = None if any(images.values()) else self.dependent or few
        return {"draws": over_draws(self.tables), "images": images, "images_reason": why}

    def spread_in_words(self) -> list[str]:
        """A line over draws and a line over images."""
        spread, said = self.spread(), []
        if spread["draws"]:
            parts = (
                f"{name} {100 * v['mean']:.1f} ± {100 * v['deviation']:.1f}" for name, v in spread["draws"].items()
            )
            said.append(f"over {len(self.tables)} draws of normal images (the table is the first): {', '.join(parts)}.")
            if self.dependent:
                said.append(f"of this data set the draws differ less than new photographs would: {self.dependent}.")
        intervals = {name: value for name, value in spread["images"].items() if value is not None}
        if intervals:
            parts = (f"{name} {100 * low:.1f} to {100 * high:.1f}" for name, (low, high) in intervals.items())
            said.append(f"95 % interval over images (bootstrap): {', '.join(parts)}.")
        else:
            said.append(f"no interval over images: {spread['images_reason']}.")
        return said


@dataclass
class Found:
    """Everything that one command found."""

    results: dict[str, Result]
    ours: tuple[str, ...]  # those that are no baselines
    trained: str
    model: dict[str, Any]
    data: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "model": {**self.model, "trained": self.trained},
            "data": self.data,
            "results": {
                name: {
                    "table": result.table,
                    "reason": result.reason,
                    "seconds": result.seconds,
                    "spread": result.spread(),
                    "draws": [table["macro"] for table in result.tables],
                    "images": [row._asdict() for row in result.draws[0].rows] if result.draws else [],
                }
                for name, result in self.results.items()
            },
        }


def run(asked: "Evaluate", *, tell: Tell) -> Found:
    """Evaluate. Raises ConfigError, AssetError or DataError, naming field or file."""
    net = built(asked.net)
    try:
        dataset = model.data.load(
            asked.data,
            image_size=net.config.image_size,
            seed=asked.net.seed,
            split="test",
            folder=asked.images,
        )
        items = dataset.test_items(asked.items or None)
        results = _main_results(asked, net, dataset, items, tell)
        ours = tuple(results)
        if asked.baselines:
            results |= _baselines(asked, net, dataset, items, results, tell)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    checkpoint = asked.net.checkpoint
    return Found(
        results,
        ours,
        "untrained" if checkpoint is None else f"trained: {checkpoint.name}",
        {"config": dataclasses.asdict(net.config), "towers": net.config.towers},
        {"name": dataset.name, "licence": dataset.licence, "classes": list(dataset.classes), "images": len(items),
         "all": None if dataset.pairs is None else len(dataset.test_items(None))},
    )  # fmt: skip


def _main_results(
    asked: "Evaluate", net: AnomalyGPT, dataset: Dataset, items: Sequence[TestItem], tell: Tell
) -> dict[str, Result]:
    modes: tuple[Mode, ...] = ("text", "bank") if asked.mode == "both" else (asked.mode,)
    drawn = "bank" in modes and (asked.shots is not None or asked.draws > 1)
    together = tuple(mode for mode in modes if not (drawn and mode == "bank"))
    found: dict[str, Result] = {}
    common: dict[str, Any] = {"answers": asked.answers, "batch_size": asked.batch_size}
    if together:
        name = " and ".join(NAMES[mode] for mode in together)
        begun = time.perf_counter()
        tallies = evaluate_modes(net, dataset, items, modes=together, tell=lambda *at: tell(name, *at), **common)
        for mode, tally in tallies.items():
            found[NAMES[mode]] = _result([tally], dataset, begun)
    if drawn:
        shots = asked.shots or net.config.bank_shots
        begun = time.perf_counter()
        draws = evaluate_draws(net, dataset, items, shots=shots, draws=asked.draws,
                               tell=lambda *at: tell(NAMES["bank"], *at), **common)  # fmt: skip
        found[NAMES["bank"]] = _result(draws, dataset, begun)
    return found


def _baselines(
    asked: "Evaluate",
    net: AnomalyGPT,
    dataset: Dataset,
    items: Sequence[TestItem],
    ours: dict[str, Result],
    tell: Tell,
) -> dict[str, Result]:
    """Each without the LLM, but for the untrained decoder, which is asked like the trained one."""

    def bank(name: str) -> Result:
        begun = time.perf_counter()
        draws = evaluate_draws(net, dataset, items, shots=asked.shots or net.config.bank_shots, draws=asked.draws,
                               answers=False, batch_size=asked.batch_size, tell=lambda *at: tell(name, *at))  # fmt: skip
        return _result(draws, dataset, begun)

    found = {"constant map": constant(items, dataset)}
    found["memory bank alone"] = bank("memory bank alone")
    name = "random encoder's memory bank"
    if net.config.vision_asset is None and asked.net.weights is None:
        found[name] = Result(reason=f"the towers of {net.config.name} are random already: see the memory bank")
    else:
        with random_encoder(net):
            found[name] = bank(name)
    name = "untrained decoder"
    if asked.net.checkpoint is None:
        found[name] = Result(reason="no --checkpoint was given: see the decoder")
    else:
        begun = time.perf_counter()
        with untrained(net, asked.net.seed):
            tallies = evaluate_modes(net, dataset, items, modes=("text",), answers=asked.answers,
                                     batch_size=asked.batch_size, tell=lambda *at: tell(name, *at))  # fmt: skip
        found[name] = _result([tallies["text"]], dataset, begun)
    return found


def constant(items: Sequence[TestItem], dataset: Dataset) -> Result:
    """The same score everywhere: what no knowledge scores."""
    tally, begun = Tally("constant"), time.perf_counter()
    for number in range(len(items)):
        try:
            item = items[number]
        except DataError as error:
            tally.bad.append(Bad(number, str(error)))
        else:
            tally.add(number, item, np.full(item.image.shape[:2], CONSTANT, np.float32))
    return _result([tally], dataset, begun)


@contextmanager
def random_encoder(net: AnomalyGPT) -> Iterator[None]:
    """The same tower with random weights, from the config's frozen seed."""
    before = net.vision
    config = dataclasses.replace(net.config, vision_asset=None)
    with seeded(config.frozen_seed):
        net.vision = type(before)(config).to(net.pixel_mean.device).requires_grad_(False)
    try:
        yield
    finally:
        net.vision = before


@contextmanager
def untrained(net: AnomalyGPT, seed: int) -> Iterator[None]:
    """Decoder and prompt learner as `model.build` draws them from `seed`, without the checkpoint."""
    config, before = net.config, (net.image_decoder, net.prompt_learner)
    with seeded(seed):
        decoder = ImageDecoder(config.vision_width, config.text_width, len(config.taps), config.image_size)
        learner = PromptLearner(config.prompt_channels, config.llm_width, config.image_size, config.base_tokens)
    like = before[1].base_prompts
    net.image_decoder, net.prompt_learner = decoder.to(like.device, like.dtype), learner.to(like.device, like.dtype)
    try:
        yield
    finally:
        net.image_decoder, net.prompt_learner = before


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws of the CPU come from `seed`; afterwards the random state is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _result(draws: list[Tally], dataset: Dataset, begun: float) -> Result:
    tables = [tally.table(dataset.classes) for tally in draws]
    return Result(draws, tables, time.perf_counter() - begun, dependent=dataset.dependent)
