"""Samples to tensors: normalised images, and the conversation as token ids of one fixed length."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.data import texts
from model.data.dataset import Dataset
from model.data.instructions import Instructions, Mixed
from model.data.sample import DataError, Sample
from model.presets import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:  # slow to import, and only named here
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100  # the label that cross entropy leaves out
CHUNK = 256  # texts tokenised at once, in several threads


class Collator:
    """Makes a batch; its text has one length for each kind of sample, so that every micro-batch of a kind has one shape.

    The text is a human piece, "{question}\\n### Assistant:", without loss, then the answer, "{answer}\\n###", with
    loss on all of it: the final mark is how the model learns to stop. Each piece is tokenised alone, without special
    tokens; what stands before the text (BOS, image) is the model's. Padding is on the right.

    max_text: tokens at which a text is cut off, the image's not counted; of a long answer the loss sees what is left.
    mean, std: of RGB in [0, 1]. Raises ValueError if max_text would cut off a whole answer of the data set, DataError if
    it would one of its instructions, naming the entry: leaving that out would make the samples depend on the tokenizer.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        dataset: Dataset | Mixed,
        max_text: int = 1024,
        *,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise ValueError("the tokenizer has neither a padding nor an end token; set its pad_token")
        self.pad_id = int(pad)
        self._tokenizer = tokenizer
        # SentencePiece begins each piece with a space of its own; the others need one between "Assistant:" and "Yes".
        self._lead = "" if tokenizer.convert_ids_to_tokens(self._ids("Yes"))[0].startswith("\u2581") else " "
        self._questions = {text: self._ids(_human(text)) for text in dataset.questions}
        self._answers = {text: self._ids(self._assistant(text)) for text in texts.all_answers()}
        human, assistant = (max(map(len, pieces.values())) for pieces in (self._questions, self._answers))
        if human >= max_text:
            raise ValueError(
                f"max_text is {max_text}, but a question alone takes {human} tokens; "
                f"take {human + assistant} for whole answers"
            )
        self.length = min(human + assistant, max_text)  # T of normal and defective samples
        self.instruction_length: int | None = None  # T of instruction samples
        if isinstance(dataset, Mixed):
            self.instruction_length = self._longest(dataset.instructions, max_text)
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """image (B, 3, H, W) fp32, mask (B, H, W) fp32, class_id and index (B) int64, few_shot and pixel (B) bool, text:

        ids, labels (-100 where no loss), attention (1 on text, 0 on padding), each (B, T) int64.

        Raises ValueError for samples of both kinds in one batch, for instructions that it was not made with, and for a sample
        without an answer to learn from.
        """
        length = self._length(samples)
        images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
        rows = [self._text(sample, length) for sample in samples]
        ids, labels, attention = (torch.tensor(column) for column in zip(*rows, strict=True))
        if not (labels != NO_LOSS).any(1).all():  # here, since on a GPU the model can't ask without waiting
            raise ValueError("a sample has no answer token left: its text was cut too early; raise max_text")
        return {
            "image": ((images.float() / 255 - self._mean) / self._std).contiguous(),
            "mask": torch.from_numpy(np.stack([sample.mask for sample in samples])).float(),
            "class_id": torch.tensor([sample.class_id for sample in samples]),
            "few_shot": torch.tensor([sample.few_shot for sample in samples]),
            "index": torch.tensor([sample.index for sample in samples]),
            "pixel": torch.tensor([sample.pixel for sample in samples]),
            "ids": ids,
            "labels": labels,
            "attention": attention,
        }

    def _length(self, samples: Sequence[Sample]) -> int:
        kinds = {sample.pixel for sample in samples}
        if len(kinds) != 1:
            raise ValueError(
                "a batch holds samples of one kind, with masks or of instruction data: their texts differ in length"
            )
        length = self.length if kinds == {True} else self.instruction_length
        if length is None:
            raise ValueError("the collator was made for a data set without instructions; make it with a Mixed one")
        return length

    def _text(self, sample: Sample, length: int) -> tuple[list[int], list[int], list[int]]:
        if sample.pixel:
            human, assistant = self._questions[sample.question], self._answers[sample.answer]
        else:
            human, assistant = self._ids(_human(sample.question)), self._ids(self._assistant(sample.answer))
        ids = (human + assistant)[:length]
        labels = ([NO_LOSS] * len(human) + assistant)[:length]
        padding = length - len(ids)
        return ids + [self.pad_id] * padding, labels + [NO_LOSS] * padding, [1] * len(ids) + [0] * padding

    def _longest(self, instructions: Instructions, max_text: int) -> int:
        """Tokens of the longest instruction, at most max_text.

        No piece has more tokens than bytes, and one for a space before it: texts are tried by falling number of bytes, until
        no other can be longer.
        """
        pieces = [(_human(entry.question), self._assistant(entry.answer)) for entry in instructions.entries]
        most = [[len(piece.encode()) + 1 for piece in pair] for pair in pieces]
        for number, (human, _) in enumerate(most):
            if human >= max_text and (tokens := len(self._ids(pieces[number][0]))) >= max_text:
                raise DataError(
                    f"max_text is {max_text}, but the question of {instructions.where(number)} takes {tokens} tokens and "
                    "leaves no answer to learn from; take that entry out, or a larger max_text"
                )
        order = sorted(range(len(pieces)), key=lambda number: -sum(most[number]))
        longest = 0
        for begin in range(0, len(order), CHUNK):
            if longest >= min(sum(most[order[begin]]), max_text):
                break
            several = [piece for number in order[begin : begin + CHUNK] for piece in pieces[number]]
            counts = [len(ids) for ids in self._tokenizer(several, add_special_tokens=False, verbose=False).input_ids]
            longest = max(longest, *map(sum, zip(counts[::2], counts[1::2], strict=True)))
        return min(longest, max_text)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _assistant(self, answer: str) -> str:
        return f"{self._lead}{answer}\n###"


def _human(question: str) -> str:
    return f"{question}\n### Assistant:"
