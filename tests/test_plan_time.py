"""Steps in time: what engines exchange against bench/wire.py, the model's own algebra, constants in a file, what is beyond them."""

from dataclasses import replace

import pytest

from bench import wire
from bench.config import ConfigError
from bench.plan.machines import hardware
from bench.plan.machines.links import Channel, Line
from bench.plan.time import constants as kept
from bench.plan.time import prediction as time
from bench.plan.time import work
from bench.plan.time.constants import Constants, Value
from bench.plan.time.work import ENGINES
from model import cost as model_cost
from model import preset

A100 = hardware.machine("a100-80g")
FITTED = Constants(
    source="a test", efficiency=Value(0.5, 0.02), sync=Value(0.02, 0.005), hidden={"ddp": Value(0.6, 0.1)}, scatter=0.1, ranks=(1, 64)
)  # fmt: skip
GPT = work.transformer(32, 4096, 2048, 50304, micro_batch=4, precision="bf16", gradient_bytes=2, parameter_bytes=2)


def anomaly(accumulation: int = 1, **settings: object) -> work.Work:
    price = model_cost.cost(preset("tiny"), text_tokens=64, answer_tokens=16)
    return work.of(price, **{"micro_batch": 2, "accumulation": accumulation, **settings})


# --- what is exchanged


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_send_the_bytes_that_the_wire_derives(engine, accumulation, real):
    """Of a ring, a rank sends 2 (N-1)/N of an all-reduce and (N-1)/N of the others; gloo's reduce-scatter is an all-reduce."""
    given, ranks = anomaly(accumulation, real_scatter=real), 8
    ways = {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1}
    sent = sum(ways[each.collective] * each.times * each.size * 7 / 8 for each in work.exchanges(given, engine, ranks))
    assert sent == pytest.approx(wire.expected(work._record(given, engine, ranks)).total)


def test_half_of_the_width_is_half_of_the_bytes():
    for engine in ENGINES:
        full, half = (
            sum(e.times * e.size for e in work.exchanges(anomaly(gradient_bytes=b, parameter_bytes=b), engine, 4))
            for b in (4, 2)
        )
        assert half == pytest.approx(full / 2)


def test_a_gradient_is_cut_into_buckets_and_a_model_into_layers():
    ddp = work.exchanges(GPT, "ddp", 8)[0]
    assert ddp.times == round(ddp.times * ddp.size / 25 / 2**20)
    gathers, scatters = work.exchanges(GPT, "zero-3", 8)
    assert (gathers.times, scatters.times) == (64, 32)
    assert gathers.collective == "all-gather"
    often = replace(GPT, accumulation=4)
    assert [each.times for each in work.exchanges(often, "zero-3", 8)] == [4 * 64, 4 * 32]
    assert [each.times for each in work.exchanges(often, "fsdp", 8)] == [4 * 64, 32]
    one, two = (work.exchanges(often, engine, 8)[0] for engine in ("zero-1", "zero-2"))
    assert (two.times, two.size) == (4 * one.times, one.size)


def test_one_rank_exchanges_nothing():
    assert all(work.exchanges(GPT, engine, 1) == () for engine in ENGINES)


def test_a_transformer_counts_flops_as_palm_does():
    """6 N + 12 L H Q T a token (Chowdhery et al. 2022, appendix B), of the FLOPs of forward and backward."""
    given = work.transformer(32, 4096, 2048, 50368, parameters=6.66e9, micro_batch=1)
    assert (given.forward_flops + given.backward_flops) / 2048 == pytest.approx(6 * 6.66e9 + 12 * 32 * 4096 * 2048)
    again = replace(given, recomputed=True)
    assert again.backward_flops + again.forward_flops == pytest.approx(
        4 / 3 * (given.forward_flops + given.backward_flops)
    )


# --- the step


def test_a_step_is_compute_and_what_shows_and_waiting_and_the_host():
    fitted = replace(FITTED, host_s={"ddp": Value(0.01)})
    found = time.predict(GPT, "ddp", 64, A100, fitted)
    assert found.step_s == pytest.approx(found.compute_s + found.exposed_s + found.waiting_s + 0.01)
    assert found.waiting_s == pytest.approx((found.compute_s + found.exposed_s) * 0.02 * 6)
    assert found.exposed_s == pytest.approx(found.communication_s * 0.4)
    assert found.samples_per_s == pytest.approx(64 * 4 / found.step_s)


def test_what_a_call_costs_is_communication_and_shows():
    without = time.predict(GPT, "ddp", 64, A100, FITTED)
    found = time.predict(GPT, "ddp", 64, A100, replace(FITTED, call_s={"ddp": Value(0.02)}))
    calls = 0.02 * sum(each.times for each in work.exchanges(GPT, "ddp", 64))
    assert found.communication_s == pytest.approx(without.communication_s + calls)
    assert found.exposed_s == pytest.approx(without.exposed_s + calls)
    assert found.exposed_s < found.communication_s


def test_no_share_that_is_hidden_is_below_nothing():
    """Calls alone show here: all of the exchange does, and none of it is hidden."""
    small = replace(GPT, cost={**GPT.cost, "trainable": {"llm": 1000.0}, "gradient_bytes": 4000.0})
    found = time.predict(small, "ddp", 8, A100, replace(FITTED, call_s={"ddp": Value(0.5)}))
    assert 0.1 < found.exposed_s / found.step_s < 0.5
    assert found.why.endswith("; 0% of it is hidden")


def test_compute_is_flops_over_peak_and_bytes_over_memory():
    found = time.predict(GPT, "ddp", 1, A100, FITTED)
    flops = GPT.forward_flops + GPT.backward_flops
    assert found.compute_s == pytest.approx(flops / (0.5 * 312e12) + 4 * GPT.traffic / 2039e9)
    assert found.exposed_s == found.communication_s == found.waiting_s == 0


def test_nothing_hides_behind_compute_that_is_not_there():
    """All hidden: what is longer than backward shows all the same; ZeRO-3 also has forward to hide behind."""
    sure = {engine: Value(1.0) for engine in ENGINES}
    slow = replace(A100, network=replace(A100.network, gb_s=0.01))
    for engine, passes in (("ddp", 2 / 3), ("zero-3", 1.0)):
        found = time.predict(GPT, engine, 64, slow, replace(FITTED, hidden=sure))
        assert found.exposed_s == pytest.approx(found.communication_s - passes * found.compute_s)
        fast = time.predict(GPT, engine, 8, A100, replace(FITTED, hidden=sure))
        assert fast.exposed_s == 0


def test_stage_0_hides_nothing_and_stages_1_and_2_gather_after_the_update():
    sure = replace(FITTED, hidden={engine: Value(1.0) for engine in ENGINES})
    zero, one = (time.predict(GPT, engine, 8, A100, sure) for engine in ("zero-0", "zero-1"))
    assert zero.exposed_s == zero.communication_s > 0
    assert 0 < one.exposed_s < one.communication_s
    assert one.communication_s > zero.communication_s


def test_zero_2_reduces_every_micro_batch():
    longer = replace(GPT, micro_batch=1, accumulation=4)
    one, two = (time.predict(longer, engine, 8, A100, FITTED).communication_s for engine in ("zero-1", "zero-2"))
    assert two > 2 * one


def test_an_interval_holds_the_scatter_and_what_each_error_does():
    found = time.predict(GPT, "ddp", 8, A100, FITTED)
    assert found.low < found.step_s < found.high
    assert found.high / found.step_s > 1.21  # exp(1.96 x 0.1)
    bare = replace(FITTED, efficiency=Value(0.5), sync=Value(0.02), hidden={"ddp": Value(0.6)})
    assert time.predict(GPT, "ddp", 8, A100, bare).high < found.high
    assert time.predict(GPT, "ddp", 8, A100, replace(bare, scatter=0.0)).high == pytest.approx(found.step_s)


def test_what_goes_beyond_the_calibration_is_marked():
    assert time.predict(GPT, "ddp", 64, A100, FITTED).beyond == ()
    assert "calibrated on 1 to 64" in time.predict(GPT, "ddp", 512, A100, FITTED).beyond[0]
    assert "ring was not calibrated" in time.predict(GPT, "ring", 8, A100, FITTED).beyond[0]
    unknown = kept.of_hardware("mi250x")
    assert "not calibrated" in time.predict(GPT, "ddp", 8, A100, unknown).beyond[0]
    assert unknown.scatter > FITTED.scatter


def test_more_ranks_than_cores_take_turns():
    shared = replace(FITTED, rate=Value(1e12), cores=2, contention=Value(0.5), sync=Value(0.0))
    one, two, four = (time.predict(GPT, "ddp", ranks, A100, shared).compute_s for ranks in (1, 2, 4))
    assert two == pytest.approx(1.5 * one)
    assert four == pytest.approx(3.0 * one)


def test_a_measured_channel_replaces_the_nominal_one():
    slow = replace(FITTED, channels={"intra": Channel((Line(1e-3, 1e-8),))})
    assert (
        time.predict(GPT, "ddp", 8, A100, slow).communication_s
        > 10 * time.predict(GPT, "ddp", 8, A100, FITTED).communication_s
    )


def test_weak_scaling_is_throughput_a_rank():
    one, many = (time.predict(GPT, "ddp", ranks, A100, FITTED) for ranks in (1, 64))
    assert time.efficiency(many, one) == pytest.approx(one.step_s / many.step_s)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: time.predict(GPT, "ddp", 0, A100, FITTED), "at least one"),
        (lambda: time.predict(GPT, "ddp", 12, A100, FITTED), "type 8 or 16"),
        (lambda: time.predict(GPT, "gossip", 8, A100, FITTED), "no engine 'gossip'"),
        (lambda: time.predict(GPT, "ddp", 8, hardware.machine("epyc-7763"), FITTED), "type|no stated peak"),
        (lambda: time.predict(GPT, "ddp", 2, hardware.machine("epyc-7763"), FITTED), "no stated peak in bf16"),
        (lambda: time.predict(GPT, "ddp", 8, A100, replace(FITTED, efficiency=Value(0.0))), "efficiency"),
        (lambda: work.plain(0, 1e9, micro_batch=1), "can't be"),
        (lambda: work.plain(1e6, 1e9, micro_batch=0), "micro_batch is 0"),
        (lambda: work.plain(1e6, 1e9, micro_batch=1, bucket_mb=0), "bucket_mb is 0"),
        (lambda: work.transformer(0, 1, 1, 1, micro_batch=1), "each must be at least 1"),
        (lambda: Value(-0.1), "a constant is -0.1"),
        (lambda: Value(float("nan")), "finite"),
    ],
)
def test_what_can_not_be_is_told(wrong, said):
    with pytest.raises(ConfigError, match=said):
        wrong()


# --- in a file


def test_constants_come_back_as_they_were_written(tmp_path):
    channel = Channel((Line(1e-6, 2e-9, 3e-10), Line(5e-5, 1e-10)))
    whole = replace(
        FITTED, rate=Value(5e10, 1e9), cores=2, contention=Value(0.25, 0.125), host_s={"ring": Value(0.01, 0.002)},
        call_s={"ring": Value(0.001)}, channels={"intra": channel}, source='runs of "here"',
    )  # fmt: skip
    kept.dump({"one": whole, "two": FITTED}, tmp_path / "c.toml")
    assert kept.load(tmp_path / "c.toml") == {"one": whole, "two": FITTED}
    assert kept.chosen(tmp_path / "c.toml", "a100-80g") == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "schema is None"),
        ("schema = 9", "schema is 9"),
        ("schema = 1", "no table"),
        ("schema = 1\n[set.x]\nsync = 0.1", "lacks efficiency"),
        ("schema = 1\n[set.x]\nefficiency = 0.5\nspeed = 3", "no field 'speed'"),
        ("schema = 1\n[set.x]\nefficiency = -0.5", "0 or more"),
        ("schema = 1\n[set.x]\nefficiency = [1]", "can't be read"),
        ("schema = ", "is no TOML"),
    ],
)
def test_a_file_that_is_none_is_told_by_name(tmp_path, text, said):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=f"c.toml.*{said}"):
        kept.load(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match=r"d\.toml can't be read"):
        kept.load(tmp_path / "d.toml")


def test_every_generation_has_shipped_constants():
    for name in ("v100-16g", "a100-40g", "h100", "h200"):
        assert kept.of_hardware(name) == kept.shipped()[kept.GENERATIONS[name.split("-")[0]]]
    assert all(0.3 < each.efficiency.value < 0.8 for each in kept.shipped().values())
