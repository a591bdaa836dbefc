"""What a model detects, localises and says on test images, image by image. Ranks share the images and merge exactly.

B batch, L taps, N patches in a bank, V vision width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model import memory_bank, precision
from model.anomalygpt import AnomalyGPT, Normals
from model.data.sample import DataError, TestItem
from model.generate import MAX_NEW, Answer, Speaker
from model.tally import Bad, Tally

Mode = Literal["text", "bank"]
MODES: tuple[Mode, ...] = ("text", "bank")
Tell = Callable[[int, int], None]  # images done, images in all of this rank


def evaluate(
    net: AnomalyGPT,
    dataset: Normals,
    items: Sequence[TestItem],
    *,
    mode: Mode,
    answers: bool = True,
    batch_size: int = 1,
    rank: int = 0,
    size: int = 1,
    max_new: int = MAX_NEW,
    tell: Tell | None = None,
) -> Tally:
    """Evaluate a model on this rank's images, items[rank::size]; `Tally.merge` puts the ranks' together.

    mode: "text" takes the decoder's map (unsupervised), "bank" the memory bank's (few-shot). answers: also ask the LLM,
    which sees that map. A model that is not prepared for the data set is prepared. Merged ranks equal one process bit
    for bit where batch_size is 1: what a matrix product rounds may depend on the rows beside it.
    Raises ValueError: unknown mode, bad batch size or rank, an image of another size than the model's.
    """
    return evaluate_modes(
        net, dataset, items, modes=(mode,), answers=answers, batch_size=batch_size, rank=rank, size=size,
        max_new=max_new, tell=tell,
    )[mode]  # fmt: skip


def evaluate_modes(
    net: AnomalyGPT,
    dataset: Normals,
    items: Sequence[TestItem],
    *,
    modes: Sequence[Mode] = MODES,
    answers: bool = True,
    batch_size: int = 1,
    rank: int = 0,
    size: int = 1,
    max_new: int = MAX_NEW,
    tell: Tell | None = None,
) -> dict[Mode, Tally]:
    """`evaluate` in several modes, with one look at each image."""
    if unknown := set(modes) - set(MODES):
        raise ValueError(f"unknown mode {sorted(unknown)}; there are: {', '.join(MODES)}")
    if batch_size < 1 or not 0 <= rank < size:
        raise ValueError(f"batch_size {batch_size}, rank {rank} of {size}: take 1 or more, and a rank below the size")
    tallies = {mode: Tally(mode) for mode in modes}
    numbers = range(rank, len(items), size)
    with evaluating(net):
        if net.text_features is None or net.banks is None:
            net.prepare(dataset)
        speaker = Speaker(net) if answers else None
        done = 0
        waiting = iter(numbers)
        while batch := list(islice(waiting, batch_size)):
            good = list(_read(items, batch, tallies.values()))
            if good:
                _count(net, speaker, good, tallies, max_new)
            done += len(batch)
            if tell is not None:
                tell(done, len(numbers))
    return tallies


def evaluate_draws(
    net: AnomalyGPT,
    dataset: Normals,
    items: Sequence[TestItem],
    *,
    shots: int,
    draws: int,
    answers: bool = True,
    batch_size: int = 1,
    rank: int = 0,
    size: int = 1,
    tell: Tell | None = None,
) -> list[Tally]:
    """Few-shot, once for each draw of `shots` reference images a class; no image is in two draws.

    The model's own banks come back afterwards. Raises ValueError where the data set has too few references.
    """
    if shots < 1 or draws < 1:
        raise ValueError(f"{shots} shots, {draws} draws: take at least 1 of each")
    with evaluating(net):
        if net.text_features is None or net.banks is None:
            net.prepare(dataset)
        references = torch.from_numpy(dataset.normals(shots * draws))  # (C, k, H, W, 3)
        before, tallies = net.banks, []
        try:
            for draw in range(draws):
                net.banks = banks(net, references[:, draw * shots : (draw + 1) * shots])
                tallies.append(
                    evaluate(net, dataset, items, mode="bank", answers=answers, batch_size=batch_size, rank=rank,
                             size=size, tell=tell)
                )  # fmt: skip
        finally:
            net.banks = before
    return tallies


def banks(net: AnomalyGPT, references: Tensor) -> Tensor:
    """Memory banks (C, L, N, V) of normal images (C, k, H, W, 3) uint8, as `prepare` fills them."""
    with evaluating(net), precision.reduced(net.profile, net.pixel_mean.device):
        return torch.stack([memory_bank.fill(net.vision(net.normal_pixels(shots)).taps) for shots in references])


@contextmanager
def evaluating(net: AnomalyGPT) -> Iterator[None]:
    """No gradients and no dropout; afterwards the model is in the mode it was in."""
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(was_training)


def _read(
    items: Sequence[TestItem], numbers: Iterable[int], tallies: Iterable[Tally]
) -> Iterator[tuple[int, TestItem]]:
    """The items that can be read; the others are listed as bad."""
    for number in numbers:
        try:
            yield number, items[number]
        except DataError as error:
            for tally in tallies:
                tally.bad.append(Bad(number, str(error)))


def pixels(net: AnomalyGPT, images: Sequence[np.ndarray]) -> Tensor:
    """(B, 3, H, W), normalised, on the model's device. Raises ValueError for another size than the model's."""
    side = net.config.image_size
    if wrong := [image.shape for image in images if image.shape != (side, side, 3)]:
        raise ValueError(
            f"an image is {wrong[0]}, the model takes {(side, side, 3)}; load the data with image_size={side}"
        )
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(net.pixel_mean.device)
    return ((stacked.float() / 255 - net.pixel_mean) / net.pixel_std).contiguous()


def _count(
    net: AnomalyGPT,
    speaker: Speaker | None,
    good: Sequence[tuple[int, TestItem]],
    tallies: dict[Mode, Tally],
    max_new: int,
) -> None:
    assert net.text_features is not None
    assert net.banks is not None
    image = pixels(net, [item.image for _, item in good])
    classes = torch.tensor([item.class_id for _, item in good], device=image.device)
    looked = net.look(image, net.text_features[classes], net.banks[classes])
    maps = {"text": looked.text_map, "bank": looked.bank_map}
    for mode, tally in tallies.items():
        said: Sequence[Answer | None] = [None] * len(good)
        if speaker is not None:
            with precision.reduced(net.profile, image.device):
                prompts = net.prompt_learner(maps[mode])
            said = speaker(looked.token, prompts, [speaker.text(item.question) for _, item in good], max_new=max_new)
        shown = maps[mode].squeeze(1).float().cpu().numpy()
        for (number, item), anomaly_map, answer in zip(good, shown, said, strict=True):
            tally.add(number, item, anomaly_map, answer)
