"""Published throughputs: what may be fitted, what may not, and what is reached."""

import io
import statistics
from dataclasses import replace

import pytest
from rich.console import Console

from bench.plan.time import constants
from bench.plan.validation import tables as validate_time_tables
from bench.plan.validation import throughput as validate_time
from bench.plan.validation import time_fit
from bench.plan.validation.cases import UNSTATED, all_cases
from bench.plan.validation.published import rows
from bench.plan.validation.time_fit import GENERATION, names_of


@pytest.fixture(scope="module")
def outcome() -> validate_time.Outcome:
    return validate_time.judge()


def test_three_constants_a_generation_one_an_engine_and_no_more(outcome):
    assert len(GENERATION) == 3
    for case in all_cases():
        assert len(names_of(case)) == 4
    names = {name for name, _ in outcome.whole.values}
    assert names == {*GENERATION, "hidden"}
    engines = [of for name, of in outcome.whole.values if name == "hidden"]
    assert len(engines) == len(set(engines)) == len({case.engine for case in all_cases() if case.apart is None})


def test_no_row_has_a_say_in_its_own_prediction(outcome):
    """A source twice as fast changes the others' predictions, and not its own where nothing of it is told."""
    cases = all_cases()
    source = "DeepSpeed on Azure"
    changed = [replace(case, seconds=case.seconds / 2) if case.source == source else case for case in cases]
    known = [case for case in changed if case.source != source]
    again = time_fit.fit(known, outcome.whole.values)
    mine = [case for case in changed if case.source == source]
    before = {each.case.id: each.predicted for each in outcome.held}
    assert [again.predict(case) for case in mine] == pytest.approx([before[case.id] for case in mine], rel=1e-4)
    whole = time_fit.fit(changed)
    assert whole.values["efficiency", "ampere"].value > outcome.whole.values["efficiency", "ampere"].value


def test_an_anchored_series_predicts_its_anchor_exactly(outcome):
    anchored = [each.case for each in outcome.held if each.case.anchor is not None]
    assert len(anchored) > 80
    for case in anchored[::7]:
        first = case.anchor
        told = replace(first, id=first.id + "'", anchor=first)
        assert outcome.whole.predict(told) == pytest.approx(first.seconds, rel=1e-6)


def test_a_row_is_asked_once_and_an_anchor_never(outcome):
    ids = [each.case.id for each in outcome.held]
    assert len(ids) == len(set(ids))
    anchors = {each.case.anchor.id for each in outcome.held if each.case.anchor is not None}
    assert not anchors & set(ids)
    assert {each.split("@")[0] for each in anchors} | set(ids) <= {row.id for row in rows()}


def test_the_printed_unit_follows_the_step(outcome):
    for each in outcome.held[::11]:
        case = each.case
        faster = case.printed(case.seconds / 2)
        assert faster == pytest.approx(case.value * (0.5 if case.unit in ("s", "ms", "h") else 2.0))
        assert case.printed(case.seconds) == pytest.approx(case.value)


def test_rows_that_are_set_apart_are_predicted_and_not_counted(outcome):
    apart = [each for each in outcome.held if each.case.apart is not None]
    assert {each.case.apart for each in apart} == {"loader-bound", "outlier", UNSTATED}
    assert not any(each in outcome.counted for each in apart)
    cases = all_cases()
    without = [case for case in cases if case.apart is None]
    assert time_fit.fit(without).values == time_fit.fit(cases).values


def test_the_median_error_over_sources_left_out_is_within_its_target(outcome):
    assert outcome.median < validate_time.TARGET
    alone = [abs(each.error) for each in outcome.counted if each.case.anchor is None]
    assert statistics.median(alone) < validate_time.TARGET


def test_where_the_prediction_sees_a_difference_its_order_is_right(outcome):
    compared = validate_time.pairs(outcome.held)
    assert len(compared) >= 10
    assert all(pair.right for pair in compared if pair.claimed)
    assert all(pair.first.case.engine != pair.second.case.engine for pair in compared)


def test_the_words_tell_misses(outcome):
    said = " ".join(validate_time.said(outcome))
    right = sum(pair.right for pair in validate_time.pairs(outcome.held))
    assert f"right in {right} of {len(validate_time.pairs(outcome.held))}" in said
    assert ("missed" in said) == (right < 0.9 * len(validate_time.pairs(outcome.held)))
    assert max(outcome.counted, key=lambda each: abs(each.error)).case.id in said


def test_the_shipped_constants_are_these(outcome):
    found, shipped = validate_time.shipped(outcome), constants.shipped()
    assert found.keys() == shipped.keys()
    for name, each in found.items():
        assert shipped[name].source == each.source
        assert shipped[name].scatter == pytest.approx(each.scatter, rel=0.02)
        for constant in GENERATION:
            assert getattr(shipped[name], constant).value == pytest.approx(
                getattr(each, constant).value, rel=0.02, abs=1e-3
            )


def test_the_shipped_interval_holds_95_in_100(outcome):
    sets = validate_time.shipped(outcome)
    for generation, each in sets.items():
        own = [held for held in outcome.counted if held.case.generation == generation]
        reach = 2.718281828 ** (1.96 * each.scatter)
        inside = sum(1 / reach <= held.case.seconds / held.predicted <= reach for held in own)
        assert 0.9 * len(own) <= inside
        assert inside < len(own)  # an interval that holds everything says nothing


def test_every_row_and_every_family_is_shown(outcome):
    written = io.StringIO()
    validate_time_tables.show(Console(width=200, file=written), outcome, rows=True)
    said = written.getvalue()
    assert all(each.case.id in said for each in outcome.held)
    assert all(source in said for source in outcome.fits)
    assert "regimes" in said


def test_a_sweep_is_read_as_seconds():
    first = validate_time.sweep("A100AR", None)[0]
    assert first.size == 32768
    assert first.seconds == pytest.approx(43.8e-6, rel=0.01)  # as published.md prints it
