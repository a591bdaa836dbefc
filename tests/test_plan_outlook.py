"""What `ringzero plan` says of time, from the command to the picture."""

import re

import pytest

from bench.__main__ import main
from bench.plan.command import SUBCOMMANDS
from bench.plan.machines.hardware import machine
from bench.plan.memory.network import anomaly
from bench.plan.memory.transformer import Transformer
from bench.plan.outlook import lines
from bench.plan.rows import rows
from bench.plan.setup import Setup
from bench.plan.time import constants
from bench.plan.time.step import Timed, Untimed, asker, work_of

GPT = ["--hidden", "4096", "--layers", "8", "--heads", "32", "--precision", "mixed_bf16", "--micro-batch", "2"]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_table_tells_time_cost_energy_and_the_engine_to_take(capsys, tmp_path):
    file = tmp_path / "plan.md"
    words = ["--gpus", "8,64", "--engines", "ddp,ring,zero-3", "--price-per-hour", "4", "--budget", "$500, 24 h"]
    said = told(capsys, *GPT, *words, "--markdown", str(file))
    assert "on 8 ranks take" in said
    assert "on 64 ranks take" in said
    assert "for 500 and 24 h:" in said
    assert "* ring was not calibrated" in said
    head, _, *body = file.read_text().splitlines()
    assert all(
        f"| {title} |" in head for title in ("step ms", "95 in 100", "samples/s", "efficiency", "cost/M", "J/sample")
    )
    assert len(body) == 6
    assert body[1].split("|")[2].strip() == "ring"
    assert re.search(r"\d\*", body[1])  # not calibrated
    assert not re.search(r"\d\*", body[0])


def test_a_calibrated_file_is_taken(capsys, tmp_path):
    slow = constants.Constants(source="a slow box", rate=constants.Value(1e9), ranks=(1, 8))
    constants.dump({"here": slow}, tmp_path / "c.toml")
    assert "a slow box" in told(capsys, *GPT, "--gpus", "8", "--constants", str(tmp_path / "c.toml"))


def test_the_title_says_over_how_many_links_a_node_speaks(capsys):
    words = [*GPT, "--gpus", "16", "--engines", "ddp"]
    assert "8 x hdr a node" in told(capsys, *words)
    assert "1 x 10gbe a node" in told(capsys, *words, "--network", "10gbe")
    assert "4 x 10gbe a node" in told(capsys, *words, "--network", "10gbe", "--nics", "4")


def test_offloading_and_devices_without_a_peak_have_no_time_and_say_why(capsys):
    assert "- no time: offloading" in told(capsys, *GPT, "--gpus", "8", "--engines", "zero-2-offload")
    said = told(capsys, "--preset", "tiny", "--gpus", "2", "--hardware", "epyc-7763", "--engines", "ddp")
    assert "no stated peak in bf16" in said


def test_a_preset_is_timed_by_its_own_cost():
    network = anomaly("7b", text_tokens=64, answer_tokens=16)
    box = machine("a100-80g")
    given = work_of(network, Setup(engine="ddp", ranks=8, micro_batch=3, accumulation=2), box)
    assert given.forward_flops + given.backward_flops == 6 * network.flops()
    assert given.gradient_bytes == given.parameter_bytes == 4
    small = work_of(network, Setup(engine="ddp", ranks=8, recipe="mixed_fp16"), box)
    assert (small.gradient_bytes, small.precision) == (2, "fp16")


def test_a_transformer_is_timed_by_the_same_flops_as_its_memory():
    network = Transformer(hidden=4096, layers=32, heads=32, sequence=2048, vocabulary=50304)
    given = work_of(network, Setup(engine="ddp", ranks=8), machine("a100-80g"))
    assert given.forward_flops + given.backward_flops == pytest.approx(network.flops(), rel=0.03)


def test_curves_whose_order_stays_do_not_cross():
    """Over a slow network what gathers after the update loses ground, and was never ahead."""
    network = Transformer(hidden=1024, layers=4, heads=16, sequence=512, vocabulary=1000)
    setups = [
        Setup(engine=engine, ranks=ranks, recipe="mixed_bf16", micro_batch=8)
        for engine in ("ddp", "zero-1")
        for ranks in (8, 64)
    ]
    own = constants.of_hardware("a100-80g")
    made = rows(network, setups, machine("a100-80g", "1gbe"), headroom=0.1, step=asker(own, None))
    assert all(isinstance(row.step, Timed) for row in made)
    ratio = [made[at].step.prediction.step_s / made[at + 2].step.prediction.step_s for at in (0, 1)]
    assert ratio[1] < ratio[0] <= 1
    assert not any("is faster up to" in line for line in lines(made, own, None, None))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--price-per-hour", "0"], "--price-per-hour is 0"),
        (["--budget", "a lot"], "--budget 'a lot'"),
        (["--budget", "$5"], "--price-per-hour"),
        (["--constants", "nowhere.toml"], "nowhere.toml can't be read"),
        (["--plot", "plan.gif"], "there are: png"),
    ],
)
def test_nonsense_gets_one_line_and_code_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *GPT, "--gpus", "8,16", "--engines", "zero-3", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_every_subcommand_is_there():
    from importlib import import_module

    for place in SUBCOMMANDS.values():
        module, _, function = place.partition(":")
        assert callable(getattr(import_module(module), function))
    assert isinstance(Untimed("why").reason, str)


def test_the_picture_is_drawn(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "plan.svg"
    told(capsys, *GPT, "--gpus", "8,64", "--plot", str(file))
    drawn = file.read_text()
    assert "samples/s a GPU" in drawn
    assert "zero-3" in drawn
    assert main(["plan", *GPT, "--gpus", "8", "--plot", str(file)]) == 2
    assert "two or more" in capsys.readouterr().err


def test_a_terminal_of_80_columns_cuts_nothing_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["plan", "--preset", "7b", "--gpus", "8", "--hardware", "a100-80g"]) == 0
    shown = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert max(map(len, shown.splitlines()[:24])) <= 80
    for heading in ("gather", "host", "exchange", "J/sample"):
        assert heading in shown
