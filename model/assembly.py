"""From sizes to a model with its weights."""

from pathlib import Path

import torch

from model.anomalygpt import AnomalyGPT
from model.checkpoints import load_weights
from model.presets import ModelConfig


def build(config: ModelConfig, *, precision: str = "fp32", seed: int = 0, weights: Path | None = None) -> AnomalyGPT:
    """The model with its weights, on torch's default device, in training mode.

    Trained are `image_decoder.*` and `prompt_learner.*`.

    Equal on every rank: `seed` draws what is trained, `config.frozen_seed` what is frozen and not pretrained, and the
    caller's random state stays as it was. `weights`, if given, is as `config.with_weights(weights)`: make the tokenizer
    from that config too, it is `.config` of what is returned. Raises ValueError for an unknown precision, sizes that do
    not fit, or a preset with weights of its own; AssetError where weights are missing or not what they should be.
    """
    if weights is not None:
        config = config.with_weights(weights)
    device = torch.get_default_device()
    with torch.device("meta" if device.type == "meta" else "cpu"):  # drawn on the CPU: equal whatever the device
        net = AnomalyGPT(config, profile=precision, seed=seed)
    if config.weights is not None:
        load_weights(net, config.weights)
    return net.to(device).train()
