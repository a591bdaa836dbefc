"""Samples to tensors: normalised images, and the conversation as token ids of one fixed length."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.data import texts
from model.data.dataset import Dataset
from model.data.sample import Sample

if TYPE_CHECKING:  # slow to import, and only named here
    from transformers import PreTrainedTokenizerBase

# CLIP's channel means and deviations (Radford et al. 2021), for RGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
NO_LOSS = -100  # the label that cross entropy leaves out


class Collator:
    """Makes a batch; its text is T tokens long whatever the samples, so that every micro-batch has the same shape.

    The text is a human piece, "{question}\\n### Assistant:", without loss, then the answer, "{answer}\\n###", with
    loss on all of it: the final mark is how the model learns to stop. Each piece is tokenised alone, without special
    tokens; what stands before the text (BOS, image) is the model's. Padding is on the right.

    max_text: tokens at which a text is cut off, the image's not counted. mean, std: of RGB in [0, 1]. Raises ValueError
    if max_text would cut off a whole answer.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        dataset: Dataset,
        max_text: int = 1024,
        *,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise ValueError("the tokenizer has neither a padding nor an end token; set its pad_token")
        self.pad_id = int(pad)

        def ids(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False).input_ids)

        # SentencePiece begins each piece with a space of its own; the others need one between "Assistant:" and "Yes".
        lead = "" if tokenizer.convert_ids_to_tokens(ids("Yes"))[0].startswith("\u2581") else " "
        self._questions = {text: ids(f"{text}\n### Assistant:") for text in dataset.questions}
        self._answers = {text: ids(f"{lead}{text}\n###") for text in texts.all_answers()}
        human, assistant = (max(map(len, pieces.values())) for pieces in (self._questions, self._answers))
        if human >= max_text:
            raise ValueError(
                f"max_text is {max_text}, but a question alone takes {human} tokens; "
                f"take {human + assistant} for whole answers"
            )
        self.length = min(human + assistant, max_text)  # T
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """image (B, 3, H, W) fp32, mask (B, H, W) fp32, class_id and index (B) int64, few_shot and pixel (B) bool, text:

        ids, labels (-100 where no loss), attention (1 on text, 0 on padding), each (B, T) int64.
        """
        images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
        rows = [self._text(sample) for sample in samples]
        ids, labels, attention = (torch.tensor(column) for column in zip(*rows, strict=True))
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

    def _text(self, sample: Sample) -> tuple[list[int], list[int], list[int]]:
        human, assistant = self._questions[sample.question], self._answers[sample.answer]
        ids = (human + assistant)[: self.length]
        labels = ([NO_LOSS] * len(human) + assistant)[: self.length]
        padding = self.length - len(ids)
        return ids + [self.pad_id] * padding, labels + [NO_LOSS] * padding, [1] * len(ids) + [0] * padding
