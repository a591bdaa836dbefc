"""What the report says of pairs: only of right answers, at one rank count, in terms that a reader can check."""

import io

from rich.console import Console

from bench.report import verdicts
from bench.report.rows import groups
from bench.report.verdicts import Verdicts
from tests import made
from tests.noise import QUIET, comparison

FOUR = {"single": 0.5, "ddp": 0.3, "horovod": 0.33, "ring": 0.3}


def found(records: list[dict]) -> Verdicts:
    (group,) = groups(records)
    return verdicts.compare(group, verdicts.by_file(records))


def said(records: list[dict]) -> tuple[str, str]:
    """In the terminal, with its line breaks taken out; as Markdown."""
    console = Console(file=io.StringIO(), width=80)
    console.print(verdicts.terminal(found(records)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.split()), "\n".join(verdicts.markdown(found(records)))


def test_engines_are_compared_at_one_rank_count_and_plain_with_one_rank() -> None:
    records = [
        *comparison({"single": 0.5, "ddp": 0.3, "ring": 0.3}, repeats=1, noise=QUIET, seed=1),
        *comparison({"ddp": 0.5, "ring": 0.5}, repeats=1, noise=QUIET, seed=2, ranks=1),
    ]
    pairs = [(pair.first.label, pair.second.label, pair.first.ranks) for pair in found(records).pairs]
    assert pairs == [("single", "ddp", 1), ("single", "ring", 1), ("ddp", "ring", 1), ("ddp", "ring", 2)]


def test_only_rows_whose_answer_is_right_are_compared() -> None:
    records = comparison(FOUR, repeats=5, noise=QUIET, seed=1)
    last = {record["engine"]["label"]: index for index, record in enumerate(records)}
    records[last["horovod"]] = made.changed(records[last["horovod"]], "skipped_steps", 1)
    records[last["ring"]] = made.changed(records[last["ring"]], "world/oversubscribed", True)
    records += [made.changed(made.record("fsdp", 2), "proof", []), made.failed("zero-1")]
    result = found(records)
    assert result.pairs == ()
    assert set(result.left_out) == {
        "horovod x2 (void)",
        "ring x2 (more ranks than cores or GPUs)",
        "fsdp x2 (unproven)",
        "zero-1 x2 (failed)",
    }
    terminal, markdown = said(records)
    for text in (terminal, markdown):
        assert "No two engines" in text
        assert "Not compared: fsdp x2 (unproven), zero-1 x2 (failed), horovod x2 (void)" in text


def test_few_pairs_are_sentences() -> None:
    terminal, markdown = said(comparison(FOUR, repeats=5, noise=QUIET, seed=1))
    assert "2 ranks: ddp faster than horovod, speed ratio 1.0" in terminal or "speed ratio 1.1" in terminal
    assert "2 ranks: ddp and ring: no difference shown, speed ratio" in terminal
    assert "| 2 | ddp : horovod | faster | 1." in markdown
    assert "| 2 | horovod : ring | slower | 0." in markdown
    for text in (terminal, markdown):
        for term in (
            "Holm-corrected over 3 pairs, p < 0.05",
            "5 runs a row; the smallest p that can be reached is 0.024",
            "Minimum detectable difference (80% power",
            "runs of the same round",
            "steps lie outside their run's Tukey fences; they are kept",
        ):
            assert term in text


def test_many_pairs_are_a_table_of_engines_against_engines() -> None:
    five = {**FOUR, "fsdp": 0.3, "zero-3": 3.0}
    terminal, markdown = said(comparison(five, repeats=7, noise=QUIET, seed=1))
    assert "2 ranks: speed over that of engine 1, 2, ..." in terminal
    assert " 3 zero-3 0.10 0.10 - 0.11 0.10 " in terminal
    assert "<details><summary>All 10 pairs</summary>" in markdown


def test_too_few_repeats_are_told_with_what_to_type() -> None:
    for count, runs in ((1, "1 run a row (steps of one run are not independent"), (4, "4 runs a row")):
        terminal, markdown = said(comparison(FOUR, repeats=count, noise=QUIET, seed=1))
        for text in (terminal, markdown):
            assert f"No difference can be shown with {runs}" in text
            assert "over 3 pairs, the Mann-Whitney test needs 5 (--repeats 5)" in text
            assert "faster" not in text


def test_outlying_steps_are_counted() -> None:
    records = comparison({"single": 0.5, "ddp": 0.3}, repeats=1, noise=QUIET, seed=1)
    before = found(records)
    late = [made.changed(each, "ranks/0/step_s/4", 2.0) for each in records]
    after = found(late)
    assert (before.steps, after.steps) == (20, 20)
    assert after.outliers == before.outliers + 2
