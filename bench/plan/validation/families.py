"""The families of published numbers about memory, and what predicts each; those about FLOPs beside them. Nothing is fitted.

These are checks of accounting: published rates go in, so passing them says nothing about predicted speed.
"""

from bench.plan.memory.closed_form import predict
from bench.plan.memory.transformer import Transformer
from bench.plan.setup import Setup
from bench.plan.validation import conventions as by
from bench.plan.validation import flops
from bench.plan.validation.judged import Family, Judged, told
from bench.plan.validation.published import Row, rows

GB, GIB, MIB = 1e9, 2**30, 2**20
GPT2 = {"hidden": 1600, "layers": 48}  # of 1.5e9 parameters (Radford et al. 2019)
GPT2_SMALL = Transformer(hidden=768, layers=12, heads=12, sequence=1024, vocabulary=50_257)
ZERO_PP = Transformer(hidden=6144, layers=40, heads=32, sequence=512, vocabulary=50_304, attention="eager")
DEFAULT_BUCKET_MB = 5e8 * 4 / MIB  # DeepSpeed's reduce_bucket_size, in our unit
DEFAULT_LIVE = 1_000_000_000  # its stage3_max_live_parameters
PAPER = "ZeRO 2020, section 5: 2 + 2 + K bytes"


def zero_table(row: Row) -> Judged | str:
    """C1: every cell of Table 1, and Figure 1."""
    c = row.conditions
    found = by.zero_states(c["psi"], c["N_d"], by.ZERO_STAGES[c["stage"]], c["K"]) / GB
    return told(row, found, PAPER, f"{c['psi'] / 1e9:g}e9, {c['stage']}, N {c['N_d']}", printed=row.text)


def zero_sizes(row: Row) -> Judged | str:
    """C2: Table 2's theoretical column: what its first row gives, rounded, times the model-parallel size."""
    c = row.conditions
    if c["kind"] != "theoretical":
        return ""
    one = round(by.zero_largest(32 * GB, 64, by.ZERO_STAGES[c["stage"]]) / 1e9, 1)
    printed = row.text if c["MP"] == 1 else None
    return told(row, one * c["MP"], "inverse of " + PAPER, f"{c['stage']}, MP {c['MP']}", printed=printed)


def zero_measured(row: Row) -> Judged | str:
    """Table 2's measured column, by states alone: the batch that ran is not printed, so activations can't be added."""
    c = row.conditions
    if c["kind"] != "measured":
        return ""
    found = by.zero_largest(32 * GB, 64, by.ZERO_STAGES[c["stage"]]) / 1e9 * c["MP"]
    return told(row, found, "states alone fill the device", f"{c['stage']}, MP {c['MP']}")


def zero_other(row: Row) -> Judged | str:
    """Sections 3 and 6."""
    c = row.conditions
    if row.quantity == "model_state_memory_gpt2":
        return told(row, by.zero_states(c["psi"], 1, 0) / GB, PAPER, "states of 1.5e9", printed=row.text)
    if row.quantity == "activation_memory_no_ckpt":
        found = by.zero_activations(GPT2["hidden"], GPT2["layers"], c["seq"], c["batch"]) / GB
        return told(row, found, "ZeRO 2020, footnote 3", "activations of 1.5e9")
    if row.quantity == "activation_memory_ckpt":
        found = 2 * GPT2["hidden"] * GPT2["layers"] * c["seq"] * c["batch"] / GB
        return told(row, found, "Korthikanti 2022: 2 sbhL, each layer's input", "the same, recomputed")
    if row.quantity == "fp32_fused_buffer":
        return told(row, 4 * c["psi"] / GB, "4 psi", "fp32 buffer", printed=row.text)
    return "its layers and width are not in the row"


def deepspeed(row: Row) -> Judged | str:
    """C3: the estimators, printed to 0.01 GiB."""
    c = row.conditions
    psi, gpus, nodes = int(c["total_params"]), c["num_gpus_per_node"], c["num_nodes"]
    case = str(c["case"])
    if row.quantity.startswith("zero2"):
        made = by.deepspeed_zero2(psi, gpus, nodes, offload="cpu" in case)
    else:
        parts = dict(pair.split("=") for pair in case.split(","))
        offload = "none" if parts["opt"] == "none" else "all" if parts["param"] == "cpu" else "optimizer"
        start = parts.get("zero_init", "1") == "1"
        made = by.deepspeed_zero3(psi, int(c["largest_layer_params"]), gpus, nodes, offload=offload, zero_init=start)
    found = (made.gpu if row.quantity.endswith("gpu") else made.cpu) / GIB
    return told(row, found, "DeepSpeed 0.19.8's estimator", f"{row.quantity}: {case}", printed=row.text)


def tutorial(row: Row) -> Judged | str:
    """What DeepSpeed's tutorial says of optimizer states."""
    if row.quantity != "optimizer_state_memory":
        return "read from nvidia-smi: what the allocator took, no peak"
    ranks = 8 if "8 ranks" in row.conditions["case"] else 1
    found = (by.zero_states(row.conditions["psi"], ranks, 1) - 4 * row.conditions["psi"]) / GB
    return told(row, found, "K psi / N, K 12", row.conditions["case"], printed=row.text)


def logs(row: Row) -> Judged | str:
    """The peak that the allocator of a real ZeRO-3 run reported, by our own closed form with DeepSpeed's default sizes."""
    c = row.conditions
    if row.quantity != "max_memory_allocated":
        return ""
    setup = Setup(
        engine="zero-3", ranks=c["gpus"], recipe="mixed_fp16", micro_batch=c["micro_batch"], checkpointing="full",
        bucket_mb=DEFAULT_BUCKET_MB, live=DEFAULT_LIVE,
    )  # fmt: skip
    found = predict(ZERO_PP, setup).peak
    if c["scheme"].startswith("ZeRO++"):  # hpZ keeps a 16-bit copy, sharded over a node
        found += 2 * ZERO_PP.parameters // c["gpus_per_node"]
    return told(row, found / MIB, "closed form, default buckets", f"18e9 on 64 V100, {c['scheme']}")


def drop(row: Row) -> Judged | str:
    """What a GPU held less under ZeRO 1 than under ZeRO 0, everything else equal: 12 psi (1 - 1/N)."""
    c = row.conditions
    if row.quantity != "gpu_memory" or c["zero"] != 1:
        return ""
    same = {**c, "zero": 0}
    before = [each.value for each in rows() if each.quantity == "gpu_memory" and each.conditions == same]
    if not before or before[0] is None or row.value is None:
        return "its run without ZeRO is not among the rows"
    psi, n = GPT2_SMALL.parameters, c["gpus"]
    found = (by.zero_states(psi, n, 0) - by.zero_states(psi, n, 1)) / MIB
    return told(row, found, PAPER, f"GPT-2 small on {n} V100, ZeRO 0 less ZeRO 1", published=before[0] - row.value)


def offload(row: Row) -> Judged | str:
    """ZeRO-Offload's table of placements: bytes a parameter that stay on the GPU."""
    if row.quantity != "gpu_memory_bytes_per_param":
        return "its batch and settings are not in the row"
    place = str(row.conditions["placement"])
    gone = (2 if "g16" in place and "g16 on GPU" not in place else 0) + (12 if "update" in place else 0)
    return told(row, 16 - gone, "16 less what is on the CPU", place, printed=row.text)


FAMILIES = (
    Family("ZeRO, table 1 and figure 1", ("ZERO-T1", "ZERO-F1"), zero_table),
    Family("ZeRO, table 2, theoretical", ("ZERO-T2",), zero_sizes),
    Family("ZeRO, table 2, measured", ("ZERO-T2",), zero_measured),
    Family("ZeRO, sections 3 and 6", ("ZERO-MISC",), zero_other),
    Family("DeepSpeed's estimators", ("DSMEM",), deepspeed),
    Family("DeepSpeed's tutorial", ("DSTUT",), tutorial),
    Family("peak of a ZeRO-3 run", ("ZPP-TUT",), logs),
    Family("ZeRO 0 less ZeRO 1, nvidia-smi", ("DLPERFZ",), drop),
    Family("ZeRO-Offload's placements", ("ZOFF",), offload),
    *flops.FAMILIES,
)
