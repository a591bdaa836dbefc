"""What the variants put into the LLM: where, frozen, and with a mask that only the sample decides."""

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

import model
from model.language import LanguageModel
from model.llm_layers import SampleDropout, Samples, install

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = model.preset("tiny")
ALL: dict[str, Any] = {"llm_dropout": 0.1, "llm_layer_norm": True, "llm_batch_norm": True}
TEXT = 12  # positions


def language(**changes: Any) -> LanguageModel:
    """The same weights whatever the layers: none of them draws anything."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return LanguageModel(dataclasses.replace(TINY, **changes)).requires_grad_(False).train()


def micro_batch(size: int = 4) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 259, (size, TEXT), generator=draw)
    labels = ids.clone()
    labels[:, :4] = -100
    return {
        "image": torch.randn(size, TINY.llm_width, generator=draw),
        "prompts": torch.randn(size, TINY.prompt_tokens, TINY.llm_width, generator=draw),
        "ids": ids,
        "labels": labels,
        "index": 100 + torch.arange(size),
    }


def loss(net: nn.Module, batch: dict[str, Tensor], rows: slice = slice(None), **changes: Tensor) -> Tensor:
    found: Tensor = net(**{key: value[rows] for key, value in {**batch, **changes}.items()})
    return found


def test_default_leaves_the_llama_as_it_is() -> None:
    net = language()
    before = [(layer, layer.mlp) for layer in net.llama.model.layers]
    assert not install(net.llama, TINY).used
    for layer, (same, mlp) in zip(net.llama.model.layers, before, strict=True):
        assert layer is same
        assert layer.mlp is mlp
        assert type(layer) is LlamaDecoderLayer
        assert type(mlp) is LlamaMLP


def test_weights_keep_their_names_and_what_is_added_is_frozen_and_seen() -> None:
    net = language()
    plain = set(net.llama.state_dict())
    install(net.llama.requires_grad_(True), dataclasses.replace(TINY, **ALL))
    state = net.llama.state_dict()
    assert plain < set(state)
    added = {name for name, _ in net.llama.named_parameters() if name not in plain}
    assert added == {
        f"model.layers.{layer}.{where}.{kind}"
        for layer in range(TINY.llm_layers)
        for where in ("mlp.norm", "after_attention", "after_mlp")
        for kind in ("weight", "bias")
    }
    assert not any(p.requires_grad for name, p in net.llama.named_parameters() if name in added)
    assert all(p.requires_grad for name, p in net.llama.named_parameters() if name not in added)
    assert {name.rpartition(".")[2] for name in set(state) - plain - added} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_new_layers_have_the_llamas_dtype() -> None:
    net = language().bfloat16()
    install(net.llama, dataclasses.replace(TINY, **ALL))
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}


def test_mlp_is_norm_then_dropout_before_the_last_layer() -> None:
    mlp = language(llm_layer_norm=True, llm_dropout=0.5).llama.model.layers[1].mlp
    x = torch.randn(2, 3, TINY.llm_width)
    mlp.dropout.samples.set(torch.tensor([7, 8]))
    gated = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
    normed = (gated - gated.mean(-1, keepdim=True)) / (gated.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    kept = torch.stack([~mlp.dropout._dropped(index, gated) for index in (7, 8)])
    torch.testing.assert_close(mlp(x), mlp.down_proj(2 * kept * normed), rtol=1e-4, atol=1e-5)
    mlp.eval()
    torch.testing.assert_close(mlp(x), mlp.down_proj(normed), rtol=1e-4, atol=1e-5)


def test_batch_norm_stands_after_both_residual_sums() -> None:
    net = language(llm_batch_norm=True)
    inner = net.llama.model
    layer = inner.layers[0]
    x = torch.randn(2, 5, TINY.llm_width)
    positions = inner.rotary_emb(x, position_ids=torch.arange(5)[None])

    def normed(hidden: Tensor) -> Tensor:
        mean, variance = hidden.mean((0, 1)), hidden.var((0, 1), unbiased=False)
        return (hidden - mean) / (variance + 1e-5).sqrt()

    attended, _ = layer.self_attn(
        hidden_states=layer.input_layernorm(x), position_embeddings=positions, attention_mask=None
    )
    hidden = normed(x + attended)
    expected = normed(hidden + layer.mlp(layer.post_attention_layernorm(hidden)))
    found = layer(x, position_embeddings=positions, attention_mask=None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_dropout_keeps_its_share_and_the_mean() -> None:
    samples = Samples()
    dropout = SampleDropout(0.1, seed=0, layer=2, samples=samples)
    samples.set(torch.arange(3))
    out = dropout(torch.ones(3, 100, 200))
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert (out == 0).float().mean().item() == pytest.approx(0.1, abs=0.004)  # 3 deviations of 60,000 draws


def test_mask_is_decided_by_seed_sample_and_layer_alone() -> None:
    x = torch.ones(1, 40, 50)

    def mask(seed: int, index: int, layer: int) -> Tensor:
        samples = Samples()
        dropout = SampleDropout(0.5, seed=seed, layer=layer, samples=samples)
        samples.set(torch.tensor([index]))
        out: Tensor = dropout(x)
        return out

    first = mask(0, 1, 2)
    torch.rand(3)
    assert torch.equal(mask(0, 1, 2), first)
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)):
        share = (mask(*other) == first).float().mean().item()
        assert share == pytest.approx(0.5, abs=0.05), other


def test_losses_do_not_depend_on_how_the_batch_is_cut_or_ordered() -> None:
    net, batch = language(llm_dropout=0.1), micro_batch()
    whole = loss(net, batch)
    for size in (1, 2):
        parts = [loss(net, batch, slice(start, start + size)) for start in range(0, 4, size)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=0)
    flipped = {key: value.flip(0) for key, value in batch.items()}
    torch.testing.assert_close(loss(net, flipped).flip(0), whole, rtol=1e-6, atol=0)
    assert (loss(net, batch, index=batch["index"] + 4) != whole).all()


def test_batch_norm_makes_losses_depend_on_how_the_batch_is_cut() -> None:
    """By its nature: runs with other rank counts compute something else, and their records say so."""
    net, batch = language(llm_batch_norm=True), micro_batch()
    whole = loss(net, batch)
    halves = torch.cat([loss(net, batch, slice(start, start + 2)) for start in (0, 2)])
    assert not torch.allclose(halves, whole, rtol=1e-3)


def test_dropout_is_live_in_training_only() -> None:
    net, plain, batch = language(llm_dropout=0.1), language(), micro_batch()
    assert (loss(net, batch) != loss(plain, batch)).all()
    del batch["index"]
    assert torch.equal(loss(net.eval(), batch), loss(plain.eval(), batch))


def test_training_without_the_samples_is_refused() -> None:
    net, batch = language(llm_dropout=0.1), micro_batch()
    loss(net, batch)  # an index that was known before does not serve the next micro-batch
    del batch["index"]
    with pytest.raises(ValueError, match=r"batch\['index'\]"):
        loss(net, batch)
    with pytest.raises(ValueError, match="each of its 4 samples"):
        net(**batch, index=torch.arange(2))


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_outside_its_range_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="llm_dropout"):
        language(llm_dropout=p)


def test_gradients_pass_to_the_prompts_and_stop_there() -> None:
    net, batch = language(**ALL), micro_batch()
    batch["prompts"].requires_grad_(True)
    loss(net, batch).sum().backward()
    assert batch["prompts"].grad is not None
    assert (batch["prompts"].grad.flatten(1).norm(dim=1) > 0).all()
    assert all(p.grad is None for p in net.parameters())


def test_a_copy_knows_its_own_samples() -> None:
    net, batch = language(**ALL).eval(), micro_batch()
    expected = loss(net, batch)
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(loss(copied, batch), expected)
        copied.train()
        loss(copied, batch)
        assert all(layer.mlp.dropout.samples is copied.samples for layer in copied.llama.model.layers)
        assert copied.samples is not net.samples


def test_under_autocast_the_loss_stays_fp32_and_close() -> None:
    net, batch = language(**ALL), micro_batch()
    expected = loss(net, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(net, batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)  # bf16 keeps 8 bits


def test_cached_generation_equals_the_whole_sequence() -> None:
    llama = language(**ALL).llama.eval()
    ids = micro_batch(1)["ids"]
    with torch.no_grad():
        whole = llama(input_ids=ids).logits
        first = llama(input_ids=ids[:, :-1], use_cache=True)
        last = llama(input_ids=ids[:, -1:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(last[:, 0], whole[:, -1], rtol=1e-4, atol=1e-5)


def test_sharded_layers_give_the_same_losses(tmp_path: Path) -> None:
    net, batch = language(**ALL), micro_batch()
    expected = loss(net, batch)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sharded, mesh = language(**ALL), init_device_mesh("cpu", (1,))
        for layer in sharded.llama.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        torch.testing.assert_close(loss(sharded, batch), expected)
    finally:
        dist.destroy_process_group()
