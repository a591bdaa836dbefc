"""The assembled model: what is trained, what the losses depend on, and what every engine relies on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import model
from model.anomalygpt import AnomalyGPT
from model.text import ABNORMAL, NORMAL, sentences

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = model.preset("tiny")
TEXT = 48  # positions
TRAINED = {f"image_decoder.fc.{tap}.{kind}" for tap in range(4) for kind in ("weight", "bias")} | {
    "prompt_learner.base_prompts",
    *(f"prompt_learner.meta_net.{layer}.{kind}" for layer in (0, 3, 6, 9, 12, 15) for kind in ("weight", "bias")),
}


class Normals:
    classes = ("metal_nut", "grass")

    def normals(self, k: int) -> np.ndarray:
        shape = (2, k, CONFIG.image_size, CONFIG.image_size, 3)
        return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def make_batch(size: int) -> dict[str, Tensor]:
    """Answers of different lengths at different places, padding on the right, both coins, normal and defective."""
    draw = torch.Generator().manual_seed(3)
    side = CONFIG.image_size
    ids = torch.randint(3, 259, (size, TEXT), generator=draw)
    labels, attention = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row in range(size):
        start, end = 10 + 3 * row % 11, 20 + 7 * row % 27
        labels[row, start:end] = ids[row, start:end]
        attention[row, :end] = 1
    ids[attention == 0] = 0
    mask = (torch.rand(size, side, side, generator=draw) > 0.8).float()
    mask[::2] = 0
    return {
        "image": torch.randn(size, 3, side, side, generator=draw),
        "mask": mask,
        "class_id": torch.arange(size) % 2,
        "few_shot": torch.arange(size) % 3 == 0,
        "index": torch.arange(size),
        "pixel": torch.ones(size, dtype=torch.bool),
        "ids": ids,
        "labels": labels,
        "attention": attention,
    }


def part(batch: dict[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    return {key: value[start:end] for key, value in batch.items()}


def gradients(net: nn.Module) -> dict[str, Tensor]:
    """Gradients by name, which are then cleared."""
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return found


def prepared(precision: str = "fp32", seed: int = 0) -> AnomalyGPT:
    net = model.build(CONFIG, precision=precision, seed=seed)
    net.prepare(Normals())
    return net


@pytest.fixture(scope="module")
def net() -> AnomalyGPT:
    """Shared: a test leaves weights and buffers as they were."""
    return prepared()


def test_only_decoder_and_prompt_learner_are_trained(net: AnomalyGPT) -> None:
    assert {name for name, p in net.named_parameters() if p.requires_grad} == TRAINED


def test_step_changes_what_is_trained_and_nothing_else() -> None:
    net, batch = prepared(), make_batch(2)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0)
    net(batch).total.backward()
    assert {name for name, p in net.named_parameters() if p.grad is not None} == TRAINED
    optimizer.step()
    assert {name for name, p in net.named_parameters() if not torch.equal(p, before[name])} == TRAINED


def test_losses_do_not_depend_on_how_the_batch_is_cut(net: AnomalyGPT) -> None:
    batch = make_batch(8)
    whole = net(batch)
    for size in (4, 2, 1):
        parts = [net(part(batch, start, start + size)) for start in range(0, 8, size)]
        for name, value in whole._asdict().items():
            mean = torch.stack([getattr(losses, name) for losses in parts]).mean()
            torch.testing.assert_close(mean, value, rtol=1e-6, atol=0)


def test_gradients_do_not_depend_on_how_the_batch_is_cut() -> None:
    """In fp64: in fp32 a rounding can hand a max-pooling window, and its gradient, to another pixel (5e-4 was seen)."""
    net, batch = prepared().double(), make_batch(8)
    batch["image"] = batch["image"].double()
    whole = net(batch)
    whole.total.backward()
    expected = gradients(net)
    parts = [net(part(batch, start, start + 2)) for start in range(0, 8, 2)]
    for losses in parts:
        (losses.total / 4).backward()
    got = gradients(net)
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-12 * gradient.norm(), name


def test_losses_are_scalars_in_fp32_and_total_is_their_sum(net: AnomalyGPT) -> None:
    losses = net(make_batch(2))
    assert all(value.shape == () and value.dtype == torch.float32 for value in losses)
    torch.testing.assert_close(losses.total, losses.lm + losses.focal + losses.dice)


@pytest.mark.parametrize("few_shot", [False, True])
def test_lm_loss_reaches_the_decoder_only_through_the_text_map(net: AnomalyGPT, few_shot: bool) -> None:
    batch = make_batch(2)
    batch["few_shot"][:] = few_shot
    net(batch).lm.backward()
    size = {name: gradient.norm().item() for name, gradient in gradients(net).items()}
    decoder = [value for name, value in size.items() if name.startswith("image_decoder.")]
    assert all(value > 0 for name, value in size.items() if name.startswith("prompt_learner."))
    assert all(value == 0 for value in decoder) if few_shot else decoder and all(value > 0 for value in decoder)


def test_coin_is_per_sample_and_pixel_losses_ignore_it(net: AnomalyGPT) -> None:
    batch, seen, decoded = make_batch(2), [], []
    hook = net.prompt_learner.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    other = net.image_decoder.register_forward_hook(lambda _, __, out: decoded.append(out.detach()))
    results = []
    for coins in ([False, False], [True, True], [False, True]):
        batch["few_shot"] = torch.tensor(coins)
        results.append(net(batch))
    hook.remove()
    other.remove()
    text, bank, mixed = seen
    torch.testing.assert_close(text[:, 0], decoded[0][:, :, 1].mean(1))  # abnormal, over the taps
    assert not torch.allclose(text, bank)
    assert torch.equal(mixed[0], text[0])
    assert torch.equal(mixed[1], bank[1])
    assert results[0].lm != results[1].lm
    assert results[0].focal == results[1].focal
    assert results[0].dice == results[1].dice


def test_every_rank_calls_the_same_modules_whatever_the_coin(net: AnomalyGPT) -> None:
    calls: list[str] = []
    hooks = [m.register_forward_pre_hook(lambda *_, name=name: calls.append(name)) for name, m in net.named_modules()]
    batch, orders = make_batch(2), []
    for coin in (False, True):
        batch["few_shot"][:] = coin
        batch["labels"] = batch["labels"].roll(int(coin), 0)
        net(batch)
        orders.append(list(calls))
        calls.clear()
    for hook in hooks:
        hook.remove()
    assert orders[0] == orders[1]
    assert "llm.llama.lm_head" in orders[0]  # called as a module, so that its weight is gathered


def test_forward_before_prepare_says_what_to_call() -> None:
    with pytest.raises(RuntimeError, match="prepare"):
        model.build(CONFIG)(make_batch(1))


def test_prepare_refuses_images_of_another_size(net: AnomalyGPT) -> None:
    class Smaller(Normals):
        def normals(self, k: int) -> np.ndarray:
            return super().normals(k)[:, :, ::2, ::2]

    with pytest.raises(ValueError, match="image_size=224"):
        net.prepare(Smaller())


def test_prepare_leaves_constants_that_no_checkpoint_holds() -> None:
    net = prepared()
    first = (net.text_features, net.banks)
    net.prepare(Normals())  # in training mode: dropout would make the second time differ
    assert torch.equal(first[0], net.text_features)
    assert torch.equal(first[1], net.banks)
    assert net.training
    assert net.text_features.shape == (2, 2, CONFIG.text_width)
    assert net.banks.shape == (2, 4, CONFIG.bank_patches, CONFIG.vision_width)
    for constant in first:
        assert not constant.requires_grad
        torch.testing.assert_close(constant.norm(dim=-1), torch.ones(constant.shape[:-1]))
    assert not {"text_features", "banks", "pixel_mean", "pixel_std"} & set(net.state_dict())


def test_a_class_bank_holds_its_own_normals_and_a_query_among_them_has_an_empty_map(net: AnomalyGPT) -> None:
    images = torch.from_numpy(Normals().normals(1)[:, 0]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CONFIG.image_mean, CONFIG.image_std))
    batch = make_batch(2)
    batch["image"], batch["few_shot"] = (images - mean) / std, torch.tensor([True, True])
    seen: list[Tensor] = []
    hook = net.prompt_learner.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    net(batch)
    batch["class_id"] = batch["class_id"].flip(0)
    net(batch)
    hook.remove()
    assert seen[0].abs().max() < 1e-5
    assert seen[1].max() > 1e-2


def test_sentences_are_the_published_ensemble() -> None:
    assert len(sentences(NORMAL, "metal_nut")) == 14
    abnormal = sentences(ABNORMAL, "metal_nut")
    assert abnormal[:2] == ["a photo of a damaged metal nut.", "a photo of the damaged metal nut."]
    assert len(abnormal) == 10


def test_class_features_are_the_normalised_mean_of_unit_sentence_embeddings(net: AnomalyGPT) -> None:
    net.eval()
    with torch.no_grad():
        for group, states in enumerate((NORMAL, ABNORMAL)):
            alone = []
            for sentence in sentences(states, "grass"):  # one by one: padding must not matter
                tokens = net.text.tokenizer(sentence, return_tensors="pt")
                hidden = net.text.bert(**tokens).last_hidden_state[0].mean(0)
                alone.append(hidden / hidden.norm())
            mean = torch.stack(alone).mean(0)
            torch.testing.assert_close(net.text_features[1, group], mean / mean.norm(), rtol=1e-4, atol=1e-5)
    net.train()


def test_build_depends_on_its_seed_and_leaves_the_callers_random_state() -> None:
    state = torch.get_rng_state()
    first = model.build(CONFIG, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    again, other = model.build(CONFIG, seed=1).state_dict(), model.build(CONFIG, seed=2).state_dict()
    differ = {name for name, value in first.state_dict().items() if not torch.equal(value, other[name])}
    assert all(torch.equal(value, again[name]) for name, value in first.state_dict().items())
    assert differ == TRAINED
    assert first.training


def test_prefix_is_laid_out_as_published(net: AnomalyGPT) -> None:
    image, prompts = torch.randn(2, CONFIG.llm_width), torch.randn(2, CONFIG.prompt_tokens, CONFIG.llm_width)
    ids = make_batch(2)["ids"]
    tokens = net.text.tokenizer  # the tiny preset's towers share the byte tokenizer
    opening, closing = (tokens(text, add_special_tokens=False).input_ids for text in ("### Human: <Img>", "</Img> "))
    table = net.llm.llama.model.embed_tokens.weight

    def rows(values: list[int]) -> Tensor:
        return table[torch.tensor(values)].expand(2, -1, -1)

    pieces = [rows([tokens.bos_token_id]), rows(opening), image[:, None], rows(closing), prompts, table[ids]]
    assert torch.equal(net.llm.prefix(image, prompts, ids), torch.cat(pieces, 1))
    assert sum(piece.shape[1] for piece in pieces) == CONFIG.prefix_tokens + TEXT


def test_logits_at_targets_equal_the_cross_entropy_of_all_logits_under_a_padding_mask(net: AnomalyGPT) -> None:
    batch = make_batch(3)
    image, prompts = torch.randn(3, CONFIG.llm_width), torch.randn(3, CONFIG.prompt_tokens, CONFIG.llm_width)
    with torch.no_grad():
        got = net.llm(image, prompts, batch["ids"], batch["labels"])
        inputs = net.llm.prefix(image, prompts, batch["ids"])
        seen = torch.cat([torch.ones(3, CONFIG.prefix_tokens, dtype=torch.int64), batch["attention"]], 1)
        logits = net.llm.llama(inputs_embeds=inputs, attention_mask=seen).logits
        labels = torch.cat([torch.full((3, CONFIG.prefix_tokens), -100), batch["labels"]], 1)
        for row in range(3):
            expected = nn.functional.cross_entropy(logits[row, :-1], labels[row, 1:])
            torch.testing.assert_close(got[row], expected, rtol=1e-5, atol=1e-6)


def test_a_sample_without_an_answer_is_refused(net: AnomalyGPT) -> None:
    batch = make_batch(2)
    batch["labels"][1] = -100
    with pytest.raises(ValueError, match="max_text"):
        net(batch)


def test_lora_takes_part(net: AnomalyGPT) -> None:
    batch = make_batch(2)
    with torch.no_grad():
        before = net(batch).lm
        layer = net.llm.llama.model.layers[0].self_attn.o_proj
        kept = layer.lora_B["default"].weight.clone()
        layer.lora_B["default"].weight.zero_()
        without = net(batch).lm
        layer.lora_B["default"].weight.copy_(kept)
    assert before != without
    assert sum("lora_A" in name for name, _ in net.named_parameters()) == 4 * CONFIG.llm_layers


def test_taps_are_the_residual_stream_at_their_depths(net: AnomalyGPT) -> None:
    image = make_batch(2)["image"]
    with torch.no_grad():
        hidden = net.vision.vit(image, output_hidden_states=True)
        seen = net.vision(image)
    for depth, tap in zip(CONFIG.taps, seen.taps, strict=True):
        torch.testing.assert_close(tap, hidden.hidden_states[depth][:, 1:])
    torch.testing.assert_close(seen.cls, nn.functional.normalize(hidden.last_hidden_state[:, 0], dim=-1))


def test_amp_bf16_computes_in_bf16_and_keeps_maps_losses_and_gradients_in_fp32(net: AnomalyGPT) -> None:
    amp, batch, dtypes = prepared("amp_bf16"), make_batch(4), {}
    watched = {
        "vision": amp.vision.vit.encoder.layer[0].mlp.fc1,
        "llm": amp.llm.llama.model.layers[0].mlp.up_proj,
        "prompts": amp.prompt_learner.meta_net[0],
        "decoder": amp.image_decoder.fc[0],
        "map": amp.image_decoder,
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda _, __, out, name=name: dtypes.__setitem__(name, out.dtype))
    losses = amp(batch)
    losses.total.backward()
    half, full = torch.bfloat16, torch.float32
    assert dtypes == {"vision": half, "llm": half, "prompts": half, "decoder": full, "map": full}
    assert {value.dtype for value in losses} == {full}
    assert {p.dtype for p in amp.parameters()} == {full}
    assert {gradient.dtype for gradient in gradients(amp).values()} == {full}
    for name, value in net(batch)._asdict().items():  # bf16 keeps 8 bits: 0.4% a rounding
        torch.testing.assert_close(getattr(losses, name), value, rtol=1e-2, atol=0)


def test_fully_shard_gives_the_same_losses_and_gradients(net: AnomalyGPT, tmp_path: Path) -> None:
    batch = make_batch(2)
    plain = net(batch)
    plain.total.backward()
    expected = gradients(net)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sharded, mesh = prepared(), init_device_mesh("cpu", (1,))
        lists = [m for m in sharded.modules() if isinstance(m, nn.ModuleList)]
        for block in [block for modules in reversed(lists) for block in modules]:
            fully_shard(block, mesh=mesh)
        fully_shard(sharded, mesh=mesh, reshard_after_forward=False)
        for _ in range(2):  # the second time, all starts sharded again
            losses = sharded(batch)
            losses.total.backward()
            got = {name: gradient.full_tensor() for name, gradient in gradients(sharded).items()}  # type: ignore[attr-defined]
            assert isinstance(losses, model.Losses)
            torch.testing.assert_close(tuple(losses), tuple(plain))
            assert got.keys() == expected.keys()
            for name, gradient in expected.items():
                assert (got[name] - gradient).norm() <= 1e-6 * gradient.norm(), name
    finally:
        dist.destroy_process_group()


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="tiny, small"):
        model.preset("huge")
    with pytest.raises(ValueError, match="fp32, amp_bf16"):
        model.build(CONFIG, precision="fp16")


def test_config_refuses_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="taps"):
        dataclasses.replace(CONFIG, taps=(2, 4, 6, 9))
    with pytest.raises(ValueError, match="patch_size"):
        dataclasses.replace(CONFIG, image_size=230)
    with pytest.raises(ValueError, match="16, 7"):
        model.build(dataclasses.replace(CONFIG, open_tokens=6))
