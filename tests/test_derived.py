"""What follows from raw numbers and what the reader states: by hand, with the denominators named."""

import io

import pytest
from rich.console import Console

from bench import frame
from bench.config import ConfigError
from bench.derived import NOTHING, Stated, derive
from bench.report import costs, verdicts
from bench.report.rows import groups
from tests import made

STATED = Stated(peak_tflops=0.5, price_per_hour=7.2)


def run(label: str = "ddp", ranks: int = 2, *, device: str = "cpu", hosts: int = 1) -> dict:
    record = made.record(label, ranks, training={"global_batch": 8, "steps": 10})
    record["workload"] = {"text_tokens": 30, "prefix_tokens": 20, "instruction_tokens": None,
                          "cost": {"flops_per_sample": 4e9, "gradient_bytes": 8}}  # fmt: skip
    record["energy"] = {"joules": 400.0, "joules_reason": None}
    record["world"] |= {"device": device, "hosts": [f"host{index}" for index in range(hosts)]}
    return record


def test_numbers_follow_from_the_throughput():
    found = {name: each.value for name, each in derive(run(), 10.0, STATED).items()}
    assert found == {
        "tokens_per_s": 500.0,
        "model_flops_per_s": 4e10,
        "mfu": pytest.approx(4e10 / 0.5e12),
        "cost_per_million_samples": pytest.approx(7.2 / 3600 / 10 * 1e6),
        "joules_per_sample": 400 / 80,
    }


@pytest.mark.parametrize(("device", "hosts", "units"), [("cpu", 1, 1), ("cpu", 2, 2), ("cuda", 1, 4)])
def test_peak_and_price_are_of_a_gpu_or_a_host(device, hosts, units):
    found = derive(run(ranks=4, device=device, hosts=hosts), 10.0, STATED)
    assert found["mfu"].value == pytest.approx(4e10 / 0.5e12 / units)
    assert found["cost_per_million_samples"].value == pytest.approx(200 * units)


def test_what_is_not_known_has_its_reason():
    nothing = derive(run(device="cuda"), 10.0, NOTHING)
    assert "--peak-tflops N (of one GPU" in str(nothing["mfu"].reason)
    assert "--price-per-hour N (of one GPU)" in str(nothing["cost_per_million_samples"].reason)
    old = derive(run() | {"workload": {}, "energy": {"joules": None, "joules_reason": "no counter"}}, 10.0, STATED)
    assert "does not hold the tokens" in str(old["tokens_per_s"].reason)
    assert old["mfu"] == old["model_flops_per_s"]
    assert old["joules_per_sample"] == (None, "no counter")
    assert "one host only" in str(derive(run(hosts=2), 10.0, STATED)["joules_per_sample"].reason)


def test_mixed_lengths_have_no_single_count():
    mixed = run()
    mixed["workload"]["instruction_tokens"] = 90
    found = derive(mixed, 10.0, STATED)
    for name in ("tokens_per_s", "model_flops_per_s", "mfu"):
        assert found[name].value is None
        assert "another length" in str(found[name].reason)


def test_a_run_without_a_speed_has_none_of_its_numbers():
    found = derive(run(), None, STATED)
    assert [name for name, each in found.items() if each.value is not None] == ["joules_per_sample"]


@pytest.mark.parametrize("wrong", [{"peak_tflops": 0.0}, {"price_per_hour": -1.0}])
def test_a_peak_or_price_below_zero_is_refused(wrong):
    with pytest.raises(ConfigError, match="above 0"):
        Stated(**wrong)


def test_tables_say_the_same_and_why_a_column_is_empty():
    records = [run("single", 1), run()]
    (group,) = groups(records)
    files = verdicts.by_file(records)
    console = Console(file=io.StringIO(), width=100)
    console.print(costs.terminal(group, files, STATED))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "7.2 an hour stated for each host" in text
    (row,) = [row for row in group.rows if row.label == "ddp"]
    assert row.throughput is not None
    wanted = costs.number(50 * row.throughput.median)
    (line,) = [line for line in costs.markdown(group, files, STATED) if line.startswith("| ddp")]
    assert line.split(" | ")[2] == wanted
    assert "target s: it was not evaluated while it trained (every row).  " in costs.markdown(group, files, STATED)


def test_columns_of_the_frame_are_those_of_each_run():
    table = frame.frame([run("single", 1), run()], stated=STATED)
    assert (table.tokens_per_s / table.samples_per_s).tolist() == pytest.approx([50, 50])
    assert table.joules_per_sample.tolist() == [5, 5]
    assert frame.frame([run("single", 1)]).mfu.isna().all()
