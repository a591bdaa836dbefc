"""Model, batches and steps from a configuration: epochs, variants, and what the engines are all given alike."""

import dataclasses

import pytest

from bench.config import Engine, Measure, RunConfig, Training
from bench.config import Workload as Asked
from bench.flags import parse
from bench.launchers import flags
from bench.trained import evaluate_trained
from bench.workload import Workload, optimizer_steps
from model.variants import VARIANTS
from tests import layouts
from tests.test_instructions import good, write

SINGLE = Engine(backend="single")


def asked(**training: object) -> RunConfig:
    return RunConfig(engine=SINGLE, training=Training(**training))  # type: ignore[arg-type]


def test_steps_are_those_asked_for_or_those_of_the_epochs():
    assert optimizer_steps(asked(steps=7), None) == 7
    assert optimizer_steps(asked(steps=7, epochs=1.5, global_batch=8), 100) == 38  # 1.5 x 200 samples / 8
    assert optimizer_steps(asked(epochs=0.001, global_batch=8), 100) == 1
    with pytest.raises(ValueError, match=r"--epochs is 2, but textures has no end; take --steps"):
        optimizer_steps(asked(epochs=2.0), None)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_sets_layers_and_training_and_flags_override_it(name):
    words = ["--backend", "single", "--variant", name]
    config = parse(words)
    variant = VARIANTS[name]
    assert (config.training.global_batch, config.training.epochs) == (variant.global_batch, variant.epochs)
    assert config.training.accumulation == 8
    assert config.training.schedule == "warmup_decay"
    assert parse([*words, "--lr", "0.5", "--epochs", "None"]).training == dataclasses.replace(
        config.training, lr=0.5, epochs=None
    )
    assert parse([*words[:2], f"--variant={name}"]) == config


def test_a_launched_variant_is_the_one_that_was_asked_for():
    """Also where a flag has the value of a run without a variant, which is not the variant's."""
    plain = Training()
    for words in ([], ["--global-batch", str(plain.global_batch), "--lr", str(plain.lr)], ["--epochs", "None"]):
        config = parse(["--backend", "single", "--variant", "V6", *words])
        assert parse(flags(config)) == config
    assert parse(["--backend", "single", "--variant", "V6", "--global-batch", "8"]).training.global_batch == 8


def test_an_unknown_variant_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(["--backend", "single", "--variant", "V7"])
    assert leaving.value.code == 2
    assert "V6" in capsys.readouterr().err


def test_the_model_of_a_variant_has_its_layers():
    made = Workload(parse(["--backend", "single", "--variant", "V1", "--epochs", "None"]), 0, 1)
    assert made.model_config.llm_layer_norm
    assert made.model_config.llm_dropout == 0.1
    assert not Workload(parse(["--backend", "single"]), 0, 1).model_config.llm_layer_norm


class Rank:
    """What evaluation asks of an engine; the last of the ranks to gather sees what all gave."""

    def __init__(self, rank: int, size: int, given: list[object]) -> None:
        self.world = type("World", (), {"rank": rank, "size": size})
        self.given, self.steps = given, 3
        self.device = "cpu"

    def gather(self, value: object) -> list[object]:
        self.given.append(value)
        return self.given


class Watch:
    def at(self, step: int, phase: str) -> None:
        assert (step, phase) == (3, "evaluate")


def test_ranks_together_find_exactly_what_one_process_finds():
    config = RunConfig(engine=SINGLE, workload=Asked(seed=3), measure=Measure(evaluate=6))
    workload = Workload(config, 0, 1)
    net = workload.build()
    state = {name: p.detach() * 1.5 for name, p in net.named_parameters() if p.requires_grad}
    alone = evaluate_trained(Rank(0, 1, []), workload, state, Watch())  # type: ignore[arg-type]
    untrained = evaluate_trained(Rank(0, 1, []), workload, {}, Watch())  # type: ignore[arg-type]
    given: list[object] = []
    for rank in range(2):
        together = evaluate_trained(Rank(rank, 2, given), workload, state, Watch())  # type: ignore[arg-type]
    assert alone is not None
    assert together is not None
    assert untrained is not None
    for found in (alone, together, untrained):
        found.pop("seconds")
    assert together == alone
    assert untrained["text"] != alone["text"], "the trained weights are what is evaluated"
    assert alone["text"]["images"] == 6


def test_no_evaluation_where_none_was_asked_for():
    workload = Workload(RunConfig(engine=SINGLE), 0, 1)
    assert evaluate_trained(Rank(0, 1, []), workload, {}, Watch()) is None  # type: ignore[arg-type]


def test_more_test_images_than_there_are_are_refused_before_training(tmp_path):
    """Not after it, where the time is spent and the evaluation would be all that is lost."""
    folder = layouts.mvtec(tmp_path, ("bottle",))
    asked = RunConfig(engine=SINGLE, workload=Asked(data="mvtec", images=folder), measure=Measure(evaluate=7))
    assert len(Workload(asked, 0, 1).test_images()[1]) == 7
    with pytest.raises(ValueError, match=r"--evaluate of --data mvtec: n is 8; there are 7 .*: take 1 to 7"):
        Workload(dataclasses.replace(asked, measure=Measure(evaluate=8)), 0, 1)


def test_instruction_batches_take_turns_and_the_ranks_share_them(tmp_path):
    """Two ranks together train on what one process trains on: by the loss, with its instruction part."""
    folder = write(tmp_path / "instructions", good())
    config = RunConfig(
        engine=SINGLE, workload=Asked(instructions=folder), training=Training(global_batch=8, accumulation=2)
    )
    alone = Workload(config, 0, 1)
    ranks = [Workload(config, rank, 2) for rank in range(2)]
    net = alone.build().eval()
    for step in range(2):
        for micro, pixel in ((0, True), (1, False)):
            batch = alone.batches(step, micro)
            assert batch["pixel"].tolist() == [pixel] * 4
            parts = [each.batches(step, micro) for each in ranks]
            assert sorted(batch["index"].tolist()) == sorted(i for part in parts for i in part["index"].tolist())
            losses = net(batch)
            mean = sum(net(part).total.item() for part in parts) / 2
            assert losses.total.item() == pytest.approx(mean, rel=1e-5)
            assert (losses.focal.item() > 0) is pixel
    described = alone.describe()
    assert described["instruction_tokens"] > 0
    assert described["activation_bytes"]["llm"] > 0


def test_an_odd_accumulation_can_not_alternate(tmp_path):
    folder = write(tmp_path / "instructions", good())
    config = RunConfig(
        engine=SINGLE, workload=Asked(instructions=folder), training=Training(global_batch=9, accumulation=3)
    )
    with pytest.raises(ValueError, match="take an even --accumulation, such as 4"):
        Workload(config, 0, 1)
