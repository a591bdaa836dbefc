"""The prompt learner: the published one's size, and where its tokens come from."""

import torch

from model.prompt_learner import PromptLearner


def small(seed: int = 0) -> PromptLearner:
    torch.manual_seed(seed)
    return PromptLearner((2, 3, 4, 5, 6), width=8, image_size=224)


def test_published_widths_give_the_published_parameters() -> None:
    with torch.device("meta"):
        learner = PromptLearner((4, 16, 64, 256, 1024), width=4096, image_size=224)
    sizes = {name: p.numel() for name, p in learner.named_parameters()}
    assert sum(sizes.values()) == 107_416_504
    by_layer = [sizes[f"meta_net.{i}.weight"] + sizes[f"meta_net.{i}.bias"] for i in (0, 3, 6, 9, 12, 15)]
    assert by_layer == [40, 592, 9_280, 147_712, 2_360_320, 104_861_696]
    assert learner.base_prompts.shape == (9, 4096)


def test_tokens_are_the_free_ones_then_the_map_row_by_row() -> None:
    learner, maps = small(), torch.rand(2, 1, 224, 224)
    tokens, drawn = learner(maps), learner.meta_net(maps)
    assert tokens.shape == (2, 18, 8)
    assert drawn.shape == (2, 8, 3, 3)
    for sample in range(2):
        assert torch.equal(tokens[sample, :9], learner.base_prompts)
        for token in range(9):
            assert torch.equal(tokens[sample, 9 + token], drawn[sample, :, token // 3, token % 3])


def test_five_convolutions_are_rectified_and_pooled_the_sixth_is_neither() -> None:
    kinds = [type(layer).__name__ for layer in small().meta_net]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d"] * 5 + ["Conv2d"]
    assert (small()(torch.rand(1, 1, 224, 224))[:, 9:] < 0).any()


def test_samples_do_not_see_each_other_and_training_changes_nothing() -> None:
    learner, maps = small(), torch.rand(3, 1, 224, 224)
    alone = torch.cat([learner(maps[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(learner.train()(maps), alone)
    torch.testing.assert_close(learner.eval()(maps), alone)


def test_other_image_sizes_give_nine_tokens_too() -> None:
    assert PromptLearner((2, 3, 4, 5, 6), 8, image_size=98)(torch.rand(1, 1, 98, 98)).shape == (1, 18, 8)


def test_gradient_reaches_every_parameter_and_the_map() -> None:
    learner, maps = small(), torch.rand(1, 1, 224, 224, requires_grad=True)
    learner(maps).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())
    assert maps.grad is not None
    assert maps.grad.abs().sum() > 0
