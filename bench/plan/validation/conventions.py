"""Other people's formulas, each under its name: what a published number was computed with must be said beside it.

GB is 10^9 bytes, GiB 2^30. psi: parameters. Nothing here is fitted.
"""

from typing import NamedTuple

# --- memory

ZERO_STAGES = {"baseline": 0, "Pos": 1, "Pos+g": 2, "Pos+g+p": 3}


def zero_states(psi: float, ranks: int, stage: int, k: float = 12) -> float:
    """Bytes of model states a rank holds (ZeRO, arXiv 1910.02054, section 5): 16-bit parameters and gradients, K bytes of
    optimizer state a parameter, 12 under mixed-precision Adam."""
    parameters, gradients, optimizer = 2 * psi, 2 * psi, k * psi
    return (
        (parameters / ranks if stage >= 3 else parameters)
        + (gradients / ranks if stage >= 2 else gradients)
        + (optimizer / ranks if stage >= 1 else optimizer)
    )


def zero_largest(memory: float, ranks: int, stage: int, k: float = 12) -> float:
    """Parameters whose states fill `memory` bytes: the inverse of `zero_states` (ZeRO, Table 2)."""
    return memory / zero_states(1.0, ranks, stage, k)


def zero_activations(hidden: int, layers: int, sequence: int, samples: int) -> float:
    """Bytes without recomputation by ZeRO's footnote 3: 12 x hidden x batch x sequence x layers, of 2 bytes each (it names no unit)."""
    return 2 * 12 * hidden * samples * sequence * layers


class Estimate(NamedTuple):
    """Bytes of one node's CPUs and of one GPU."""

    cpu: int
    gpu: int


def deepspeed_zero2(psi: int, gpus_per_node: int, nodes: int, *, offload: bool, factor: float = 1.5) -> Estimate:
    """DeepSpeed 0.19.8's `estimate_zero2_model_states_mem_needs`. It counts fp32 gradients beside 16-bit ones: 2 + 18/N, where the
    paper has 2 + 14/N and DeepSpeed's documentation still prints 4 + 16/N."""
    gpus = nodes * gpus_per_node
    if offload:
        return Estimate(int(psi * max(4 * gpus, 16) * factor), 2 * psi)
    return Estimate(int(psi * 4 * gpus_per_node * factor), 2 * psi + int(18 * psi / gpus))


def deepspeed_zero2_documented(psi: int, gpus: int) -> int:
    """Bytes of one GPU as docs/code-docs/source/memory.rst prints them: the formula before June 2024."""
    return 4 * psi + int(16 * psi / gpus)


def deepspeed_zero3(
    psi: int, largest: int, gpus_per_node: int, nodes: int, *, offload: str, zero_init: bool = True, factor: float = 1.5
) -> Estimate:
    """DeepSpeed 0.19.8's `estimate_zero3_model_states_mem_needs`. `largest`: parameters of the largest layer, gathered in fp32.
    `offload`: none, optimizer, all. `zero_init`: parameters are sharded as they are made."""
    share, layer = 1 / nodes, 4 * largest
    if offload == "none":
        made = largest if zero_init else psi
        return Estimate(int(made * 4 * gpus_per_node * factor), layer + int(18 * psi / (nodes * gpus_per_node)))
    each, gpu = (18, layer) if offload == "all" else (16, layer + int(2 * psi / (nodes * gpus_per_node)))
    cpu = psi * each * share * factor if zero_init else psi * max(4 * gpus_per_node, each * share) * factor
    return Estimate(int(cpu), gpu)


# --- FLOPs


def palm_flops_per_token(psi: float, layers: int, hidden: int, sequence: int) -> float:
    """Forward and backward, nothing recomputed: 6 N + 12 L H Q T, H Q the hidden width (Chowdhery et al. 2022, appendix B). The
    whole square of attention counts, and so do embeddings. What an MFU is made of."""
    return 6 * psi + 12 * layers * hidden * sequence


def megatron_flops(samples: int, sequence: int, layers: int, hidden: int, vocabulary: int) -> float:
    """Of one iteration with full recomputation, four forward passes: 96 B s L h^2 (1 + s / 6h + V / 16 L h) (Narayanan et al. 2021,
    arXiv 2104.04473, eq. 3). What its TFLOP/s, Azure's and ZeRO++'s are made of: 4/3 of what the model needs."""
    return (
        96
        * samples
        * sequence
        * layers
        * hidden**2
        * (1 + sequence / (6 * hidden) + vocabulary / (16 * layers * hidden))
    )


def megatron_days(tokens: float, psi: float, gpus: int, tflops: float) -> float:
    """Days to train on `tokens`: 8 T P / (n X) (the same paper, eq. 4), recomputation included; 2 to 3% below eq. 3."""
    return 8 * tokens * psi / (gpus * tflops * 1e12) / 86400
