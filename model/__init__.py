"""AnomalyGPT in plain torch: the workload of every engine. Nothing here is distributed."""

from model.anomalygpt import AnomalyGPT
from model.losses import Losses
from model.precision import PRECISIONS
from model.presets import PRESETS, ModelConfig, preset

__all__ = ["PRECISIONS", "PRESETS", "AnomalyGPT", "Losses", "ModelConfig", "build", "preset"]


def build(config: ModelConfig, *, precision: str = "fp32", seed: int = 0) -> AnomalyGPT:
    """The model with its weights, on the CPU, in training mode. Trained are `image_decoder.*` and `prompt_learner.*`.

    Equal on every rank: `seed` draws what is trained, `config.frozen_seed` what is frozen and not pretrained, and the
    caller's random state stays as it was. Raises ValueError for an unknown precision or sizes that do not fit the
    pretrained weights, AssetError where those cannot be fetched.
    """
    return AnomalyGPT(config, profile=precision, seed=seed).train()
