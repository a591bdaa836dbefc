"""One training sample, and the error for images that cannot be used."""

from dataclasses import dataclass

import numpy as np


class DataError(RuntimeError):
    """An image is missing or broken, or no defect could be made; the message names it and says what to type."""


@dataclass(frozen=True)
class Sample:
    """An image with its question and its true answer.

    `few_shot` says which anomaly map feeds the prompt learner: the memory bank's (True) or the text's (False).
    """

    image: np.ndarray  # H W 3 uint8 RGB
    mask: np.ndarray  # H W uint8 in {0, 1}; all zero for a normal image
    class_id: int
    few_shot: bool
    question: str
    answer: str
    index: int = 0  # in its data set: what is drawn for this sample in training, dropout included, depends on it
    pixel: bool = True  # the mask is a target; False for instruction data, which only the LLM learns from
