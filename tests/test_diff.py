"""`ringzero diff`: worse is told and returned, noise is not, and what can't be compared is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench import accuracy, changes, diff
from bench.__main__ import expected
from bench.comparison import Comparison
from bench.diff import NotComparable
from bench.report.load import Unreadable
from tests import made
from tests.noise import BUSY, QUIET, Noise, comparison

SECONDS = {"single": 0.5, "ddp": 0.3, "horovod": 0.3, "ring": 0.3}
REPEATS = 6  # for eight comparisons: four rows, time and memory


def measured(seed: int, *, noise: Noise = QUIET, repeats: int = REPEATS, **changed: float) -> list[dict]:
    return comparison({**SECONDS, **changed}, repeats=repeats, noise=noise, seed=seed, day=seed)


def changed(records: list[dict], label: str, path: str, value: object) -> list[dict]:
    return [made.changed(each, path, value) if each["engine"]["label"] == label else each for each in records]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Writes both sides, runs the command: exit code, and what it printed without line breaks."""

    def call(old: list[dict], new: list[dict], *flags: str) -> tuple[int, str]:
        for side in ("old", "new"):
            shutil.rmtree(tmp_path / side, ignore_errors=True)
        made.write(tmp_path / "old", *old)
        made.write(tmp_path / "new", *new)
        code = diff.main([str(tmp_path / "old"), str(tmp_path / "new"), *flags])
        return code, " ".join(capsys.readouterr().out.split())

    return call


# --- time and memory


def test_nothing_changed_is_nothing_worse(run) -> None:
    code, text = run(measured(1), measured(2))
    assert code == 0
    assert "Nothing is shown to be worse." in text
    assert "Holm-corrected over 8 comparisons" in text
    assert "Minimum detectable slowdown (80% power)" in text
    assert "Measured at different times, not interleaved" in text


def test_a_planted_slowdown_is_found_and_only_that(run) -> None:
    code, text = run(measured(1), measured(2, ddp=0.315))
    assert code == 1
    assert "Worse: ddp x2." in text
    assert "ddp x2 slower: step time +" in text
    code, text = run(measured(1, ddp=0.315), measured(2))
    assert code == 0
    assert "ddp x2 faster: step time -" in text
    assert " better " in text


def test_memory_that_grew_is_worse(run) -> None:
    new = changed(measured(2), "ring", "ranks/1/memory/peak_bytes", lambda old: int(1.06 * old))
    code, text = run(measured(1), new)
    assert code == 1
    assert "ring x2 heavier: memory +" in text
    assert "slower: step" not in text


def test_memory_without_spread_is_compared_too(run) -> None:
    sides = []
    for seed, peak in ((1, 1000), (2, 1001)):
        records = measured(seed)
        for rank in (0, 1):
            records = changed(records, "ddp", f"ranks/{rank}/memory/peak_bytes", peak)
        sides.append(records)
    assert "ddp x2 heavier: memory +0.1 % [+0.1, +0.1]" in run(*sides)[1]
    code, text = run(*sides, "--threshold", "0.01")
    assert code == 0
    assert "below the threshold" in text


def test_memory_that_was_not_measured_is_a_dash(run) -> None:
    code, text = run(measured(1), changed(measured(2), "ddp", "ranks/1/memory", None))
    assert code == 0
    assert "Holm-corrected over 7 comparisons" in text


def called(old: list[dict], new: list[dict]) -> bool:
    """Whether any row is called worse or better."""
    sides = (diff.rows(side, name, by_machine=True) for side, name in ((old, "OLD"), (new, "NEW")))
    return any(row.effect != "none shown" for row in changes.compare(*sides, threshold=0.0).rows)


@pytest.mark.parametrize("noise", [QUIET, BUSY], ids=["quiet", "busy"])
def test_equals_on_a_machine_that_stays_as_it_is_are_called_different_in_at_most_5_percent(noise: Noise) -> None:
    """A/A: 40 pairs of sets, eight comparisons each, one set after the other. Holm's correction is what keeps it."""
    still = replace(noise, drift=0.0)
    wrong = sum(called(*(comparison(SECONDS, repeats=REPEATS, noise=still, seed=2 * at + side, day=1 + side)
                         for side in (0, 1))) for at in range(40))  # fmt: skip
    assert wrong <= 0.05 * 40


def test_equals_measured_in_turn_are_called_different_in_at_most_5_percent_whatever_the_machine_does() -> None:
    wrong = 0
    for seed in range(40):
        records = comparison(SECONDS, repeats=2 * REPEATS, noise=BUSY, seed=seed)
        rounds = [records[at : at + len(SECONDS)] for at in range(0, len(records), len(SECONDS))]
        old, new = ([record for each in rounds[side::2] for record in each] for side in (0, 1))
        wrong += called(old, new)
    assert wrong <= 0.05 * 40


def test_few_runs_are_told(run) -> None:
    code, text = run(measured(1, repeats=1), measured(2, repeats=1, ddp=0.9))
    assert code == 0
    assert "can be shown with 1 run a row: over 8 comparisons, the Mann-Whitney test needs 6 on each side" in text
    assert "+2" in text  # the difference itself is there all the same


# --- accuracy and verdicts


def test_a_higher_final_loss_is_worse_also_of_one_run(run) -> None:
    sides = [measured(seed, repeats=1) for seed in (1, 2)]
    worse = [made.changed(each, "losses/9/total", lambda old: 1.01 * old) for each in sides[1]]  # all engines alike
    code, text = run(sides[0], worse)
    assert code == 1
    assert "ddp x2 less accurate: final loss 0.78947 -> 0.79737" in text
    assert run(worse, sides[1])[0] == 0
    rounded = [made.changed(each, "losses/9/total", lambda old: (1 + 5e-6) * old) for each in sides[1]]
    assert run(sides[0], rounded)[0] == 0


def evaluated(records: list[dict], auroc: float, images: int = 100) -> list[dict]:
    table = {"images": images, "macro": dict.fromkeys(accuracy.METRICS) | {"pixel_auroc": auroc, "accuracy": 0.5}}
    return [each | {"evaluation": {"seconds": 1.0, "text": table, "bank": table}} for each in records]


def test_an_evaluation_that_got_worse_by_more_than_an_image(run) -> None:
    one, other = measured(1, repeats=1), measured(2, repeats=1)
    code, text = run(evaluated(one, 0.90), evaluated(other, 0.87))
    assert code == 1
    assert "less accurate: text pixel_auroc 0.9 -> 0.87" in text
    assert run(evaluated(one, 0.90), evaluated(other, 0.885))[0] == 0
    assert "more accurate" in run(evaluated(one, 0.87), evaluated(other, 0.90))[1]
    assert "evaluated on 100 and 200 images: not compared" in run(evaluated(one, 0.9), evaluated(other, 0.5, 200))[1]
    assert "evaluated on one side only" in run(one, evaluated(other, 0.5))[1]


def test_runs_that_differ_among_themselves_decide_nothing() -> None:
    old = [made.changed(made.record("ddp", 2), "losses/9/total", value) for value in (1.0, 1.2)]
    new = [made.changed(made.record("ddp", 2), "losses/9/total", value) for value in (1.1, 1.3)]
    assert accuracy.final_loss(old, new).effect == "none shown"
    assert accuracy.final_loss(old[:1], new).effect == "worse"
    assert accuracy.final_loss([], []) is None


def test_a_row_that_became_void_or_fails_is_worse(run) -> None:
    old = measured(1, repeats=1)
    new = changed(measured(2, repeats=1), "ring", "skipped_steps", 2)
    code, text = run(old, new)
    assert code == 1
    assert "ring x2 void, was verified: 2 optimizer steps were skipped" in text
    assert run(new, old)[0] == 0
    assert "ring x2 verified, was void" in run(new, old)[1]
    assert run(new, changed(old, "ring", "skipped_steps", 1))[0] == 0  # as it was
    failing = [each for each in old if each["engine"]["label"] != "ddp"] + [made.failed("ddp")]
    code, text = run(old, failing)
    assert code == 1
    assert "ddp x2 failed, was verified: error, rank 1: no route" in text


def test_some_failed_runs_and_a_lost_proof_are_told_and_not_worse(run) -> None:
    old = measured(1)
    code, text = run(old, [*changed(measured(2), "ring", "proof", []), made.failed("ddp")])
    assert code == 0
    assert "ddp x2 1 of 7 runs failed: error, rank 1" in text
    assert "ring x2 unproven, was verified" in text


# --- what can be compared


def test_rows_on_one_side_are_listed(run) -> None:
    old, new = measured(1, repeats=1), measured(2, repeats=1, fsdp=0.3)
    code, text = run([each for each in old if each["engine"]["label"] != "single"], new)
    assert code == 0
    assert "Only in NEW, not compared: " in text
    assert "fsdp x2 (" in text
    assert "single x1 (" in text
    with pytest.raises(NotComparable, match=r"no row of .*; there are ddp x2 .* and single x1"):
        run([made.record("ddp", 2)], [made.record("single")])


def test_another_machine_or_version_needs_force(run, tmp_path: Path) -> None:
    old, new = measured(1, repeats=1), measured(2, repeats=1)
    elsewhere = [made.changed(each, "environment/machine/cpu", "Another CPU") for each in new]
    with pytest.raises(NotComparable, match=r"machine differs: OLD Made-up CPU, NEW Another CPU.*--force"):
        run(old, elsewhere)
    code, text = run(old, elsewhere, "--force")
    assert code == 0
    assert "! the machine differs" in text
    assert "ddp 2 " in text
    versions = [
        [made.changed(each, "environment/packages", {"ringzero": version, "torch": "1"}) for each in side]
        for side, version in ((old, "0.1.0"), (new, "0.2.0"))
    ]
    with pytest.raises(NotComparable, match=r"version of the benchmark differs: OLD 0\.1\.0, NEW 0\.2\.0"):
        run(*versions)
    with pytest.raises(NotComparable, match=r"OLD unknown, NEW 0\.2\.0"):
        run(old, versions[1])
    assert "ringzero: 0.1.0 -> 0.2.0" in run(*versions, "--force")[1]


def test_two_machines_on_one_side_are_never_pooled(run) -> None:
    both = [*measured(1, repeats=1), *(made.changed(each | {"run_id": f"b{each['run_id']}"}, "environment/machine/cpu", "B")
                                       for each in measured(1, repeats=1))]  # fmt: skip
    code, text = run(both, both)  # the same two: a row each
    assert code == 0
    assert text.count("ddp 2") == 2
    with pytest.raises(NotComparable, match=r"OLD holds single x1 of several machines"):
        run(both, measured(2, repeats=1), "--force")


def test_another_schema_or_a_broken_file_is_refused(run, tmp_path: Path) -> None:
    old, new = measured(1, repeats=1), measured(2, repeats=1)
    with pytest.raises(NotComparable, match="1 files can't be read"):
        run(old, [*new, made.record("fsdp", 2) | {"schema": 99}])
    assert run(old, new, "--force")[0] == 0
    assert diff.differing([old[0]], [new[0] | {"schema": 2}]) == ["the schema differs: OLD 1, NEW 2"]


def test_folders_comparisons_and_records_are_taken(tmp_path: Path, capsys) -> None:
    files = made.write(tmp_path, *(records := measured(1, repeats=1)))
    made.write(tmp_path, made.record("fsdp", 2))  # in the folder, in no comparison
    kept = Comparison(
        name="x", matrix={"name": "quick"}, seed=1, started="s", order=[], unavailable={}, records=files
    ).write(tmp_path)
    for path, rows in ((tmp_path, 5), (kept, 4), (tmp_path / files[0], 1)):
        assert diff.main([str(path), str(path)]) == 0
        assert capsys.readouterr().out.count("none shown") == rows
    evaluation = tmp_path / "a.eval.json"
    evaluation.write_text(json.dumps({"kind": "evaluation"}))
    for wrong, message in ((tmp_path / "no", "no .*no; give"), (evaluation, "is an evaluation")):
        with pytest.raises(NotComparable, match=message):
            diff.main([str(wrong), str(kept)])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(Unreadable, match="not whole JSON"):
        diff.main([str(tmp_path / "bad.json"), str(kept)])
    assert records


def test_its_errors_are_the_command_s(run) -> None:
    """Exit code 2 and one line, not a traceback."""
    assert issubclass(NotComparable, expected())
    with pytest.raises(NotComparable, match="--threshold is 2"):
        run(measured(1, repeats=1), measured(2, repeats=1), "--threshold", "2")


def test_markdown_says_the_same(run, tmp_path: Path) -> None:
    other = [made.changed(each, "environment/commit", "fff0000") for each in measured(2, ddp=0.33)]
    run(measured(1), other, "--markdown", str(tmp_path / "pr.md"))
    text = (tmp_path / "pr.md").read_text()
    assert text.startswith("**Worse: ddp x2.**")
    assert "- commit: abc1234def -> fff0000" in text
    assert "| ddp | 2 | +" in text
    assert "worse: slower: step time +" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
