"""Transformers: predicted from their FLOPs alone, but for BERT and for DeepSpeed-Chat's hours, anchored on the fewest GPUs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bench.plan.machines.hardware import machine
from bench.plan.machines.machine import Machine
from bench.plan.time.work import Work, transformer
from bench.plan.validation.cases import UNSTATED, Case, basic, by_series
from bench.plan.validation.published import Row, chosen

MPT = {  # layers, width (llm-foundry's yamls)
    "125m": (12, 768), "350m": (24, 1024), "760m": (24, 1536), "1b": (24, 2048), "3b": (32, 2560), "7b": (32, 4096),
    "13b": (40, 5120), "30b": (48, 7168), "70b": (80, 8192),
}  # fmt: skip
AZURE = {"175B": (96, 12288), "530B": (105, 20480), "1T": (128, 25600), "2T": (160, 32768)}
OPT = {"OPT-1.3B": (24, 2048), "OPT-6.7B": (32, 4096), "OPT-13B": (40, 5120), "OPT-30B": (48, 7168),
       "OPT-66B": (64, 9216), "OPT-175B": (96, 12288)}  # fmt: skip
HALF: dict[str, Any] = {"gradient_bytes": 2, "parameter_bytes": 2}


def cases() -> Iterator[Case]:
    """llm-foundry, DeepSpeed on Azure, ZeRO-3 in ZeRO++'s tables, Megatron-LM, NVIDIA's BERT, DeepSpeed-Chat."""
    yield from _foundry()
    yield from _azure()
    yield from _zeropp()
    yield from _megatron()
    yield from _bert()
    yield from _chat()


def _megatron_flops(work: Work) -> float:
    """Of one rank's step, forward again included: what 'TFLOP/s' counts in Megatron 2021, on Azure and in ZeRO++."""
    return work.forward_flops + work.backward_flops


def _foundry() -> Iterator[Case]:
    """MPT under FSDP, everything sharded; eight ports of 200 (A100) or 400 Gbit/s (H100)."""
    for row in chosen("MPT"):
        here = row.conditions
        if "fp8" in here["precision"] or here["sharding"] != "FULL_SHARD":
            continue
        new = here["gpu"].startswith("h100")
        box = machine(
            "h100" if new else here["gpu"].replace("_", "-").replace("gb", "g"), "ndr" if new else "200g-roce", nics=8
        )
        layers, width = MPT[here["model"]]
        work = transformer(
            layers, width, int(here["seq"]), 50368, parameters=here["params"], micro_batch=int(here["micro_batch"]),
            accumulation=int(here["grad_accum"]), precision="bf16", recomputed=bool(here["act_ckpt"]), **HALF,
        )  # fmt: skip
        yield basic(
            row, "llm-foundry", generation="hopper" if new else "ampere", engine="fsdp", machine=box,
            ranks=int(here["gpus"]), work=work, seconds=work.samples * here["seq"] / float(row.value or 1), name="FSDP",
        )  # fmt: skip


def _azure() -> Iterator[Case]:
    """ZeRO-3 on eight ports of HDR a node. Optimizer and activations travel to the host: that is not modelled."""
    box = machine("a100-80g", "hdr")
    for row in chosen("AZ175", "AZ530", "AZ1T", "AZPEAK"):
        here = row.conditions
        layers, width = AZURE[here["model"].split()[0]]
        yield _rate(row, "DeepSpeed on Azure", "ampere", box, int(here["gpus"]), transformer(
            layers, width, int(here["seq"]), 51200, micro_batch=int(here["micro_batch"]), precision="bf16", recomputed=True,
            **HALF,
        ))  # fmt: skip


def _zeropp() -> Iterator[Case]:
    """ZeRO-3's rows of ZeRO++ with a stated network: DGX-2, ports of 100 Gbit/s; samples of 1024 tokens, layers of width 8192 taken."""
    for row in (each for each in chosen("ZPP-FIG") if each.conditions.get("scheme") == "ZeRO-3"):
        here = row.conditions
        ports = int(here.get("ib_links_100Gb_per_node") or here["cross_node_Gbps"] // 100)
        layers = round(here["params_B"] * 1e9 / (12 * 8192**2))
        work = transformer(
            layers,
            8192,
            1024,
            50304,
            micro_batch=int(here["tokens_per_gpu"]) // 1024,
            precision="fp16",
            recomputed=True,
            **HALF,
        )
        box = machine("v100-32g", "edr", per_node=16, nics=ports)
        yield _rate(row, "ZeRO++", "volta", box, int(here["gpus"]), work)


def _megatron() -> Iterator[Case]:
    """Compute only, of runs without a pipeline whose layers are split over two GPUs at most: that exchange is taken as free."""
    for row in chosen("MEGT1", "MEG24"):
        here, new = row.conditions, row.family == "MEG24"
        if here.get("pp") != 1 or here["tp"] > 2 or row.unit not in ("TFLOP/s", "PFLOP/s"):
            continue
        work = transformer(
            here["layers"],
            here["hidden"],
            here["seq"],
            here["vocab"],
            micro_batch=4,
            precision="bf16",
            recomputed=not new,
        )
        rate = float(row.value or 1) * (1 if row.unit == "TFLOP/s" else 1e3 / here["gpus"])
        yield basic(
            row, "Megatron-LM 2024" if new else "Megatron-LM 2021", generation="hopper" if new else "ampere", engine="ddp",
            machine=machine("h100" if new else "a100-80g"), ranks=1, work=work, name="Megatron",
            seconds=_megatron_flops(work) / 1e12 / rate,
        )  # fmt: skip
    for row in (each for each in chosen("MEG20") if each.unit == "ms" and each.conditions["gpus"] == 1):
        new = "A100" in row.conditions["hw"]
        work = transformer(
            40, 1536, 1024, 51200, micro_batch=row.conditions["batch"], precision="fp16", recomputed=True, **HALF
        )
        yield basic(
            row, "Megatron-LM 2020", generation="ampere" if new else "volta", engine="ddp", ranks=1, work=work,
            machine=machine("a100-80g" if new else "v100-32g"), seconds=float(row.value or 1) / 1e3, name="Megatron",
        )  # fmt: skip


def _bert() -> Iterator[Case]:
    """BERT-Large, DGX A100, anchored: PyTorch's and TensorFlow's kernels are far apart. Gradients are exchanged after the last
    micro-batch, fp16 ones in PyTorch, fp32 ones in TensorFlow."""
    series: list[tuple[object, Case]] = []
    box = machine("a100-80g", "hdr")
    for row in (each for each in chosen("DLE-BERT") if each.conditions.get("global_batch")):
        here, ranks = row.conditions, int(row.conditions["gpus"])
        horovod, half = "Horovod" in here["framework"], here["precision"] == "fp16"
        accumulation = max(1, round(here["global_batch"] / ranks / here["micro_batch"]))
        work = transformer(
            24, 1024, here["seq"], 30528, parameters=336.23e6, micro_batch=here["micro_batch"], accumulation=accumulation,
            precision="fp16" if half else "tf32", gradient_bytes=2 if half and not horovod else 4,
        )  # fmt: skip
        case = basic(
            row, "NVIDIA BERT", generation="ampere", engine="horovod" if horovod else "ddp", machine=box, ranks=ranks,
            work=work, seconds=ranks * work.samples / float(row.value or 1), name=here["framework"].split(" (")[0],
        )  # fmt: skip
        series.append(((horovod, half, here["seq"]), replace(case, like=(half, here["seq"]))))
    yield from by_series(series)


def _chat() -> Iterator[Case]:
    """Step 3 of DeepSpeed-Chat, 258 steps of 1,024 samples. Hours at 64 GPUs from those at 8, all of it taken as training. The rate
    of its training alone, from FLOPs, is shown apart: 8 a parameter and token of the actor, with the critic's time in it."""
    series: list[tuple[object, Case]] = []
    for row in chosen("DSCHAT", apart=True):
        here, count = row.conditions, int(row.conditions["hw"].split("x")[0])
        if "A100-80" not in here["hw"] or count == 1 or here["actor"] not in OPT:
            continue
        work = transformer(
            *OPT[here["actor"]], 512, 50272, micro_batch=1024 // count, precision="bf16", recomputed=True, **HALF
        )
        case = basic(
            row, "DeepSpeed-Chat", generation="ampere", engine="zero-3", machine=machine("a100-80g", "hdr"), ranks=count,
            work=work, seconds=float(row.value or 1) * 3600 / 258, name="DeepSpeed",
        )  # fmt: skip
        series.append((here["actor"], case))
    yield from by_series(series)
    for row in (each for each in chosen("DSCHATF6") if each.quantity == "tflops_per_gpu_training"):
        actor, count = row.conditions["actor"], int(row.conditions["gpus"])
        work = transformer(
            *OPT[actor], 512, 50272, micro_batch=1024 // count, precision="bf16", recomputed=True, **HALF
        )
        yield replace(_rate(row, "DeepSpeed-Chat", "ampere", machine("a100-80g", "hdr"), count, work), apart=UNSTATED)


def _rate(row: Row, source: str, generation: str, box: Machine, ranks: int, work: Work) -> Case:
    """ZeRO-3, in TFLOP/s a GPU, recomputation counted."""
    return basic(
        row, source, generation=generation, engine="zero-3", machine=box, ranks=ranks, work=work,
        seconds=_megatron_flops(work) / 1e12 / float(row.value or 1), name="DeepSpeed",
    )  # fmt: skip
