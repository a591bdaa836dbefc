"""Image models, and BERT-Base of DLPerf: scaling from the smallest published row of each series."""

from collections.abc import Iterator
from dataclasses import replace

from bench.plan.machines.hardware import machine
from bench.plan.machines.machine import Machine
from bench.plan.time.work import Work, plain
from bench.plan.validation.cases import Case, basic, by_series
from bench.plan.validation.published import Row, chosen

# parameters, forward FLOPs an image at 224 x 224 (Inception 299 x 299) or a sequence of 128 tokens
MODELS = {
    "ResNet50": (25.56e6, 8.2e9),
    "ResNet101": (44.55e6, 15.7e9),
    "ResNet152": (60.19e6, 23.1e9),
    "InceptionV3": (23.85e6, 11.5e9),
    "VGG16": (138.36e6, 31.0e9),
    "resnext50_32x4d": (25.03e6, 8.5e9),
    "resnext101_32x8d": (88.79e6, 33.0e9),
    "BERT-Base": (110e6, 22.5e9),
}
PYTHON = "bench"


def cases() -> Iterator[Case]:
    """Horovod's README and documentation, Aach et al., NVIDIA's ResNet-50, DLPerf, PyTorch's DDP benchmark."""
    yield from _horovod()
    yield from _aach()
    yield from _nvidia()
    yield from _dlperf()
    yield from _pytorch()


def work(model: str, batch: int, gradient_bytes: int = 4, precision: str = "fp32") -> Work:
    """Every layer of its own; the FLOPs only say how backward and forward share a step whose length is told."""
    name = next(known for known in MODELS if known.lower().replace("-", "") in _plain(model))
    parameters, flops = MODELS[name]
    return plain(parameters, flops, micro_batch=batch, gradient_bytes=gradient_bytes, precision=precision)


def _plain(text: str) -> str:
    return text.lower().replace("-", "").replace(" ", "")


def _machine(hardware: str, network: str, per_node: int, nics: int, peaks: dict[str, float] | None = None) -> Machine:
    found = machine(hardware, network, per_node=per_node, nics=nics)
    return found if peaks is None else replace(found, device=replace(found.device, peak_tflops=peaks))


def _horovod() -> Iterator[Case]:
    """Four Pascal GPUs a server (P100 over PCIe, 9.5 TFLOP/s fp32 taken), 25 or 40 Gbit/s; only what all-reduces on the GPU."""
    pascal = machine("v100-16g", "25gbe", per_node=4, nics=1)
    pascal = replace(pascal, device=replace(pascal.device, name="P100", peak_tflops={"fp32": 9.5}))
    series: list[tuple[object, Case]] = []
    ones: dict[str, Case] = {}
    for row in chosen("HVD17", "HVD17A", "HVDSC", apart=True):
        here, model = row.conditions, str(row.conditions.get("model"))
        scheme = str(here.get("scheme", ""))
        if "hardware not stated" in str(here.get("note")) or (
            scheme and not ("NCCL" in scheme and "Horovod" in scheme)
        ):
            continue
        slow = "40" in str(here.get("env", ""))
        box = replace(pascal, network=machine("v100-16g", "40gbe").network) if slow else pascal
        ranks = int(here["gpus"])
        given = work(model, int(here.get("batch_per_gpu", 64)))
        if row.family == "HVDSC":
            one = ones[model]
            series.append(((row.family, model), replace(one, id=f"{one.id}@{row.family}")))
            seconds, source = one.seconds / float(row.value or 1), "Horovod documentation"
        else:
            seconds, source = ranks * given.samples / float(row.value or 1), "Horovod README 2017"
        case = basic(
            row, source, generation="pascal", engine="horovod", machine=box, ranks=ranks, work=given, seconds=seconds
        )
        case = replace(case, like=(model, scheme), name="Horovod")
        if ranks == 1 and not slow and row.family == "HVD17":
            ones[model] = case
        series.append(((row.family, slow, model) if row.family != "HVDSC" else (row.family, model), case))
    yield from by_series(series)


def _aach() -> Iterator[Case]:
    """JUWELS Booster, 64 images a GPU. Efficiencies are over the four-GPU step, of ResNet-50's rate at equal FLOP/s."""
    box = _machine("a100-40g", "hdr", 4, 4)
    rate = 2984 / 4  # images/s a GPU, AACH3-010
    series: list[tuple[object, Case]] = []
    seen: set[object] = set()
    for row in chosen("AACH3", "AACH4", "AACH6", "AACH7", apart=True):
        here, ranks = row.conditions, int(row.conditions["gpus"])
        loader = str(here["loader"]).replace("DALI-CPU", "DALI")
        engine = {"PyTorch-DDP": "ddp", "Horovod": "horovod", "DeepSpeed": "zero-0"}[here["framework"]]
        key = (engine, here["model"], loader)
        if (key, ranks) in seen:
            continue
        seen.add((key, ranks))
        given = work(here["model"], int(here["batch_per_gpu"]), precision="tf32")
        one = given.samples / rate * sum(given.cost["forward"].values()) / MODELS["ResNet50"][1]
        seconds = (
            ranks * given.samples / float(row.value or 1) if row.unit == "images/s" else one / float(row.value or 1)
        )
        case = basic(
            row,
            "Aach et al. 2023",
            generation="ampere",
            engine=engine,
            machine=box,
            ranks=ranks,
            work=given,
            seconds=seconds,
        )
        series.append((key, replace(case, like=(here["model"], loader), name=here["framework"])))
    yield from by_series(series)


def _nvidia() -> Iterator[Case]:
    """ResNet-50 inside one node; 256 images a GPU (A100) or 128 (V100), as its scripts have."""
    series: list[tuple[object, Case]] = []
    for row in chosen("DLE-RN50"):
        here = row.conditions
        new = "A100" in here["hw"]
        box = machine("a100-80g" if new else "v100-16g", per_node=16 if "DGX-2" in here["hw"] else 8)
        precision = {"amp": "fp16", "tf32": "tf32", "fp32": "fp32"}[here["precision"]]
        given = work("ResNet50", 256 if new else 128, precision=precision)
        engine, ranks = "horovod" if "Horovod" in here["framework"] else "ddp", int(here["gpus"])
        seconds = ranks * given.samples / float(row.value or 1)
        case = basic(
            row, "NVIDIA ResNet-50", generation="ampere" if new else "volta", engine=engine, machine=box, ranks=ranks,
            work=given, seconds=seconds,
        )  # fmt: skip
        case = replace(case, like=(here["hw"], precision), name=here["framework"])
        series.append(((here["framework"], here["hw"], precision), case))
    yield from by_series(series)


def _dlperf() -> Iterator[Case]:
    """Four nodes of eight V100, one EDR port each. Apex keeps fp16 gradients under amp, TensorFlow and MXNet fp32 ones."""
    box = _machine("v100-16g", "edr", 8, 1)
    series: list[tuple[object, Case]] = []
    for row in chosen("DLPERF"):
        here, name = row.conditions, str(row.conditions["framework"])
        if "Horovod" not in name and "PyTorch" not in name:
            continue
        engine = "horovod" if "Horovod" in name else "ddp"
        amp = here["precision"] == "amp"
        given = work(
            here["model"], int(here["batch_per_gpu"]), gradient_bytes=2 if amp and "APEX" in name else 4,
            precision="fp16" if amp else "fp32",
        )  # fmt: skip
        ranks = int(here["gpus"])
        case = basic(
            row, "DLPerf", generation="volta", engine=engine, machine=box, ranks=ranks, work=given,
            seconds=ranks * given.samples / float(row.value or 1),
        )  # fmt: skip
        series.append(((name, here["model"], amp), replace(case, like=(here["model"], amp), name=name)))
    yield from by_series(series)


def _pytorch() -> Iterator[Case]:
    """DGX V100, four EDR ports a node. The row without DDP anchors where it is there."""
    box = _machine("v100-32g", "edr", 8, 4)
    series: list[tuple[object, Case]] = []
    for row in (each for each in chosen("PTDDP") if each.quantity == "sec_per_iter_p50"):
        series.append((row.conditions["model"], _iteration(row, box)))
    yield from by_series(series)


def _iteration(row: Row, box: Machine) -> Case:
    here = row.conditions
    given = work(here["model"], int(here["batch_per_gpu"]))
    return basic(
        row, "PyTorch DDP benchmark", generation="volta", engine="ddp", machine=box, ranks=int(here["gpus"]), work=given,
        seconds=float(row.value or 1), like=(here["model"],), name="DDP",
    )  # fmt: skip
