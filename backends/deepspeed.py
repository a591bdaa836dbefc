"""DeepSpeed ZeRO 0 to 3 (Rajbhandari et al. 2020, arXiv 1910.02054): optimizer state, gradients, parameters sharded in turn.

The engine owns everything, so everything is told to it: its defaults clip at 1.0, divide by the accumulation count, keep
parameters below 1e5 elements whole and synchronise for its own timers.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backends.base import (
    BackendError,
    BackendUnavailable,
    EngineConfig,
    MakeOptimizer,
    StepInfo,
    fused_wanted,
    is_fused,
    optimizer_tensors,
    trained,
)
from backends.group import TorchGroup, broadcast_from_first
from backends.pieces import Held, flat
from backends.saving import ranks_of, read_rng, write_rng
from backends.universal import convert, discard
from backends.world import World

TAG = "ringzero"


class DeepSpeed(TorchGroup):
    """Stage, buckets and offload come from the config; the engine's own JSON is generated and kept in the record."""

    name: ClassVar[str] = "deepspeed"
    divides_by_accumulation = False  # the loop has divided already

    def __init__(self, world: World, config: EngineConfig) -> None:
        if find_spec("deepspeed") is None:
            raise BackendUnavailable(
                "DeepSpeed is not installed; type: pip install -c constraints.txt -e '.[deepspeed]'"
            )
        if config.device == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        super().__init__(world, config)
        import deepspeed  # after the check; it takes seconds

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # Its shared-memory collective serves inference only, yet would be compiled here at each first use.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="nccl" if config.device == "cuda" else "gloo", verbose=False)
        self.deepspeed = deepspeed

    def bucket_values(self) -> int:
        """Elements of a bucket: no more than there are, since stages 1 to 3 allocate all of it, however small the model."""
        values = sum(p.numel() for _, p in trained(self.model))
        return max(1, min(self.config.bucket_bytes // 4, values))

    def native_config(self) -> dict[str, Any]:
        """DeepSpeed's JSON, every setting that changes mathematics or traffic written out; sizes are in elements."""
        config, world, bucket = self.config, self.world, self.bucket_values()
        zero: dict[str, Any] = {"stage": config.zero_stage}
        if config.zero_stage:
            zero |= {
                "overlap_comm": config.tuning.overlap_comm,
                "contiguous_gradients": True,
                "reduce_scatter": True,
                "reduce_bucket_size": bucket,
                "allgather_partitions": True,
                "allgather_bucket_size": bucket + bucket % 2,
                "round_robin_gradients": False,
                "ignore_unused_parameters": True,
            }
        if config.zero_stage in (1, 2):
            zero |= {"use_multi_rank_bucket_allreduce": config.tuning.multi_rank_allreduce, "compute_grad_norm": True}
        if config.zero_stage == 3:  # its thresholds would leave a small model whole
            # Elements that may stay gathered until backward: none, the textbook form, in which all is gathered anew. It fetches
            # ahead only within them (partitioned_param_coordinator.py), so then not at all, and that is asked for.
            kept = 0 if config.tuning.reshard else 1_000_000_000
            zero |= {
                "stage3_param_persistence_threshold": 0,
                "stage3_max_live_parameters": kept,
                "stage3_max_reuse_distance": kept,
                "stage3_prefetch_bucket_size": min(bucket, kept),
                "sub_group_size": 1_000_000_000,
                "memory_efficient_linear": True,
            }
        if config.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": config.device == "cuda"}
        return {
            "train_batch_size": config.micro_batch * config.accumulation * world.size,
            "train_micro_batch_size_per_gpu": config.micro_batch,
            "gradient_accumulation_steps": config.accumulation,
            "gradient_clipping": config.clip_norm,
            "prescale_gradients": False,
            "gradient_predivide_factor": 1.0,
            "communication_data_type": "fp16" if config.tuning.compression == "fp16" else "fp32",
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # the update rule is the same torch optimizer for every engine
            "zero_optimization": zero,
            "fp16": {"enabled": False},
            "bf16": {"enabled": False},
            "torch_autocast": {"enabled": False},  # precision is decided inside the model
            "timers": {"throughput": {"enabled": False}},
            "wall_clock_breakdown": False,
            "memory_breakdown": False,
            # No "comms_logger" key: in 0.19.8 its mere presence, even {"enabled": false}, turns the logger on.
            "flops_profiler": {"enabled": False},
            "steps_per_print": 2**31,
        }

    def _own(self, make_optimizer: MakeOptimizer) -> None:
        broadcast_from_first(self.model)  # the engine leaves buffers as they lie on each rank
        self.native = self.native_config()
        optimizer = self._replaced(make_optimizer([p for _, p in trained(self.model)]))
        self.engine, self.optimizer, _, _ = self.deepspeed.initialize(
            model=self.model, optimizer=optimizer, config=self.native, dist_init_required=False
        )
        if not self.config.zero_stage:  # its JSON has no bucket for this stage: 5e8 elements is a default in the code
            self.engine.allreduce_gradients = partial(
                self.engine.allreduce_gradients, bucket_size=self.bucket_values()
            )  # a bucket is exchanged with the tensor that makes it longer than that

    def _replaced(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer, or, where it is asked for, the engine's own AdamW in its place; SGD has no counterpart there."""
        self._own_adam = self.config.tuning.engine_adam and isinstance(optimizer, torch.optim.AdamW)
        if not self._own_adam:
            return optimizer
        from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam

        (group,) = optimizer.param_groups
        same = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
        if self.config.offload_optimizer:
            return DeepSpeedCPUAdam(group["params"], adamw_mode=True, **same)
        return FusedAdam(group["params"], adam_w_mode=True, **same)

    def asked(self) -> dict[str, Any]:
        native, zero = self.native, self.native["zero_optimization"]
        asked = {
            key: native[key]
            for key in (
                "train_batch_size",
                "train_micro_batch_size_per_gpu",
                "gradient_accumulation_steps",
                "gradient_clipping",
                "prescale_gradients",
                "gradient_predivide_factor",
                "wall_clock_breakdown",
                "memory_breakdown",
            )
        }
        asked |= {key.removeprefix("stage3_"): value for key, value in zero.items() if key != "offload_optimizer"}
        if not self.config.zero_stage:
            asked["allreduce_bucket_size"] = self.bucket_values()
        return asked | {
            "offload_optimizer": self.config.offload_optimizer,
            "communication_data_type": "torch.float16" if self.config.tuning.compression == "fp16" else "torch.float32",
            "parameter_dtypes": ["torch.float32"],
            "comms_logger": False,
            "flops_profiler": False,
            "throughput_timer": False,
            "torch_autocast": False,
            "update_rule": "deepspeed" if self._own_adam else "torch",
            "fused_optimizer": fused_wanted(self.config, self._torch_optimizer()),
        }

    def applied(self) -> dict[str, Any]:
        engine, live = self.engine, self.optimizer
        applied = {
            "train_batch_size": engine.train_batch_size(),
            "train_micro_batch_size_per_gpu": engine.train_micro_batch_size_per_gpu(),
            "gradient_accumulation_steps": engine.gradient_accumulation_steps(),
            "gradient_clipping": getattr(live, "clip_grad", engine.gradient_clipping()),
            "prescale_gradients": not engine.postscale_gradients(),
            "gradient_predivide_factor": engine.gradient_predivide_factor(),
            "wall_clock_breakdown": engine.wall_clock_breakdown(),
            "memory_breakdown": engine.memory_breakdown(),
            "stage": engine.zero_optimization_stage(),
            "offload_optimizer": engine.zero_cpu_offload(),
            "communication_data_type": str(engine.communication_data_type),
            "parameter_dtypes": sorted({str(p.dtype) for p in engine.module.parameters()}),
            "comms_logger": self.deepspeed.comm.comm.comms_logger.enabled,
            "flops_profiler": engine.flops_profiler_enabled(),
            "throughput_timer": engine.tput_timer.config.enabled,
            "torch_autocast": engine.torch_autocast_enabled(),
            "update_rule": type(self._torch_optimizer()).__module__.partition(".")[0],
            "fused_optimizer": is_fused(self._torch_optimizer()),
        }
        if not self.config.zero_stage:
            applied["allreduce_bucket_size"] = getattr(engine.allreduce_gradients, "keywords", {}).get("bucket_size")
        zero = engine._config.zero_config
        for key in self.asked():
            if key not in applied:  # what the live optimizer holds counts before what the configuration says
                applied[key] = getattr(live, key, getattr(zero, key, None))
        return applied

    def _torch_optimizer(self) -> torch.optim.Optimizer:
        assert self.optimizer is not None
        inner: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return inner

    def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Any:
        self.sync = sync
        return self.engine(batch)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=self.divides_by_accumulation)
        if not self.sync:
            self.engine.step()  # only moves its count of micro-batches

    def step(self) -> StepInfo:
        if not self.engine.is_gradient_accumulation_boundary():
            raise BackendError("deepspeed counts the micro-batches of a step differently from the training loop")
        before = self.engine.skipped_steps
        self.engine.step()
        self.steps += 1
        norm = self.engine.get_global_grad_norm() if self.config.clip_norm else None
        skipped = self.engine.skipped_steps > before or not self.engine.was_step_applied()
        return StepInfo(skipped=skipped, grad_norm=None if norm is None else float(norm))

    @contextmanager
    def without_exchange(self) -> Iterator[None]:
        with super().without_exchange():
            yield
        if self.config.zero_stage in (1, 2):  # the others' shares of the parameters, which an update hands round
            self.optimizer.update_lp_params()  # type: ignore[union-attr]

    def full_state(self, *, frozen: bool = False) -> dict[str, Tensor]:
        module: nn.Module = self.engine.module
        chosen = list(module.named_parameters()) if frozen else trained(module)
        whole = {}
        for name, p in chosen:  # one at a time: gathering all at once would need the whole model's memory
            with self.deepspeed.zero.GatheredParameters([p], enabled=self.config.zero_stage == 3):
                whole[name] = p.detach().to("cpu", copy=True)
        return whole

    def holdings(self) -> dict[str, list[Tensor]]:
        live = self.optimizer
        parameters = list(self.engine.module.parameters())
        masters = getattr(live, "single_partition_of_fp32_groups", []) or getattr(
            live, "fp32_partitioned_groups_flat", []
        )
        gradients = [p.grad for p in [*parameters, *masters] if p.grad is not None]
        for group in getattr(live, "averaged_gradients", {}).values():
            gradients += [g for g in group or [] if isinstance(g, Tensor)]
        gradients += [g for g in getattr(live, "accumulated_grads_in_cpu", {}).values() if isinstance(g, Tensor)]
        partition = getattr(live, "grad_partitions_flat_buffer", None)
        gradients += [partition] if isinstance(partition, Tensor) else []
        buckets: list[Tensor] = []
        for bucket in getattr(live, "ipg_buckets", {}).values():  # stages 1 and 2 keep a list, stage 3 one tensor
            buckets += [bucket.buffer] if isinstance(bucket.buffer, Tensor) else bucket.buffer or []
        staging = getattr(live, "param_buffer_of_bit16_for_cpu_offload_groups", [])
        return {
            "parameters": [getattr(p, "ds_tensor", p.data) for p in parameters],
            "gradients": gradients,
            "optimizer": [*optimizer_tensors(self._torch_optimizer()), *masters],
            "buffers": [*self.engine.module.buffers(), *buckets, *staging],
        }

    @property
    def replicated(self) -> bool:
        return not self.config.zero_stage

    def held(self) -> list[Held]:
        live: Any = self.optimizer
        named: list[tuple[str, Any]] = [*trained(self.engine.module)]
        held = []
        for name, p in named:
            if not self.config.zero_stage:
                held.append(Held(name, p.numel(), 0, flat(p), p))
            elif self.config.zero_stage == 3:  # each parameter is cut on its own, the last parts filled up
                group, offset, cut = live.grad_position[live.get_param_id(p)]
                owner = live.fp32_partitioned_groups_flat[group]
                start = min(p.ds_numel, cut * self.world.rank)
                values = owner.detach()[offset : offset + min(cut, p.ds_numel - start)]
                held.append(Held(name, p.ds_numel, start, values, owner, offset))
            elif (
                link := p._hp_mapping
            ) is not None:  # one flat buffer is cut: some parameters lie on other ranks alone
                owner = live.single_partition_of_fp32_groups[link.param_group_index]
                start, offset = link.lp_fragment_address.start, link.hp_fragment_address.start
                held.append(Held(name, p.numel(), start, flat(link.hp_fragment), owner, offset))
        return held

    def _updates(self) -> torch.optim.Optimizer:
        return self._torch_optimizer()

    def _restored(self) -> None:
        live: Any = self.optimizer
        if self.config.zero_stage == 3:
            for group in range(len(live.fp32_partitioned_groups_flat)):
                live._reassign_or_swap_out_partitioned_parameters(group)
        elif self.config.zero_stage:
            live.update_lp_params()  # gathers what the other ranks hold
        self.engine.global_steps = self.steps
        self.engine.micro_steps = self.steps * self.config.accumulation
        self.engine.global_samples = self.steps * self.engine.train_batch_size()

    def save(self, directory: Path) -> None:
        if self.world.rank == 0:
            discard(directory / TAG)  # its files are named by rank, and another run may have had more of them
        self.gather(None)
        self.engine.save_checkpoint(
            str(directory),
            tag=TAG,
            client_state={"ringzero_steps": self.steps},
            save_latest=False,
            exclude_frozen_parameters=True,
        )
        write_rng(directory, self.world.rank, self.world.size)
        self.gather(None)

    def load(self, directory: Path) -> None:
        if not (directory / TAG).is_dir():
            raise BackendError(f"{directory} holds no checkpoint of {self.name}: {TAG}/ is missing")
        universal = self.config.zero_stage > 0 and ranks_of(directory) != self.world.size
        tag = self._converted(directory) if universal else TAG
        self.engine._config.load_universal_checkpoint = universal
        found, client = self.engine.load_checkpoint(str(directory), tag=tag, load_module_strict=False)
        if found is None:
            raise BackendError(f"deepspeed could not load {directory}")
        self.steps = client["ringzero_steps"]
        read_rng(directory, self.world.rank)
        self.gather(None)

    def _converted(self, directory: Path) -> str:
        """The tag of the same checkpoint for any number of ranks; the first rank makes it. Raises BackendError on all."""
        if isinstance(self._torch_optimizer(), torch.optim.SGD):
            raise BackendError(
                f"deepspeed converts checkpoints of AdamW alone for another number of ranks, and {directory} is of SGD: start as "
                "many as wrote it, or keep --checkpoint-every, which --resume auto takes up on any number"
            )
        try:
            told: str | BackendError = convert(directory / TAG).name if self.world.rank == 0 else ""
        except BackendError as error:
            told = error
        if isinstance(told := self.gather(told)[0], BackendError):
            raise told
        return told

    def release(self) -> None:
        if getattr(self, "engine", None) is not None:
            self.engine.__dict__.pop("allreduce_gradients", None)  # it holds the engine, which holds it
            self.engine.destroy()
            self.engine = None
        super().release()
