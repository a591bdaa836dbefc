"""A study: the same budget for each engine, every trial kept, the winner measured again, and it goes on after any end."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from backends.tuning import OWNERS, Tuning
from bench import matrix, tune
from bench.__main__ import main
from bench.comparison import ComparisonError
from bench.config import ConfigError, RunConfig
from bench.report import load, tuned
from bench.tuning import search, space
from bench.tuning.conduct import Conductor, judged, told
from bench.tuning.outcome import outcomes
from bench.tuning.search import Tried
from bench.tuning.study import Request, Study, read, unfinished
from tests import made

optuna = pytest.importorskip("optuna")
ENGINES = ("ddp", "ring", "deepspeed")
REQUEST = Request(matrix="m", config={}, engines=ENGINES, ranks=2, trials=4, repeats=3)
Record = dict[str, Any]


class Runner:
    """Stands in for launch.run. `ddp` is twice as fast with small buckets; from the first repeat on only 1.5 times.

    `best`: an engine whose controlled setting is three times as fast as any other.
    """

    def __init__(self, results: Path, *, stop: int | None = None, best: str = "") -> None:
        self.results, self.stop, self.seen, self.best = results, stop, 0, best
        self.configs: list[RunConfig] = []

    def __call__(self, config: RunConfig, ranks: int) -> Path:
        if self.stop == len(self.configs):
            raise KeyboardInterrupt
        self.configs.append(config)
        number = len(list(self.results.glob("*.json")))
        plain = {name: group for name, group in config.to_dict().items() if name in ("workload", "training", "tuning")}
        quick = 1.0
        if config.engine.backend == "ddp" and config.tuning.own_bucket_mb is not None:
            quick = 1.5 if self._repeating() else 2.0
        if config.engine.backend == self.best and config.track == "controlled":
            quick = 3.0
        record = made.record(config.engine.label, ranks, repeat=number, speed=quick, **plain)
        record["started"] = f"2026-01-02T03:{number:02d}:00+00:00"
        if config.engine.backend == "ring" and config.tuning.fused_optimizer:
            record |= {"status": "failed", "ranks": [], "losses": [], "failure": {"cause": "error", "message": "no"}}
        return self.results / made.write(self.results, record)[0]

    def _repeating(self) -> bool:
        (path,) = self.results.glob(f"*{load.STUDY}")
        return len(read(path).trials) >= len(ENGINES) * REQUEST.trials


def conducted(folder: Path, run: Runner, study: Study | None = None) -> Study:
    study = study or Study(name="20260102T030405Z_m", request=REQUEST, seed=3, started="2026-01-02")
    Conductor(study, folder, run, lambda text: None, 10.0).everything()
    return study


def found(study: Study, folder: Path) -> Any:
    names = [*study.references, *(each.record for each in study.repeats)]
    return {
        each.engine: each
        for each in outcomes(study, {f"{r['run_id']}.json": r for r in load.load(folder, names).records})
    }


# --- the space


def test_every_setting_is_tried_begins_controlled_and_says_why() -> None:
    assert {knob.name for knob in space.KNOBS} - set(space.STAGE_KNOBS) == set(OWNERS)
    for knob in space.KNOBS:
        default = 2 if knob.name == "zero_stage" else getattr(Tuning(), knob.name, False)
        assert knob.values[0] == default
        assert len(set(knob.values)) == len(knob.values) > 1
        assert knob.why
        assert knob.source


@pytest.mark.parametrize("engine", ["ddp", "fsdp", "horovod", "ring", "zero-0", "zero-2", "zero-3", "deepspeed"])
def test_the_first_trial_is_controlled_and_all_others_can_be_run(engine: str) -> None:
    base, knobs = space.base(engine, {}), space.knobs(engine)
    past: list[Tried] = []
    for number in range(6):
        chosen = search.propose(knobs, base, past, seed=1)
        if chosen is None:
            break
        config = space.apply(base, chosen)
        assert (config.track == "controlled") or number
        assert number or config == base
        past.append(Tried(chosen, 1.0 + number))
    assert len(past) >= 3
    assert len({json.dumps(each.chosen, sort_keys=True) for each in past}) == len(past)


def test_a_stage_of_its_own_is_kept_and_deepspeed_tries_all() -> None:
    assert "zero_stage" not in {knob.name for knob in space.knobs("zero-1")}
    assert "reshard" not in {knob.name for knob in space.knobs("zero-1")}
    assert "reshard" in {knob.name for knob in space.knobs("zero-3")}
    assert next(knob for knob in space.knobs("deepspeed") if knob.name == "zero_stage").values == (2, 0, 1, 3)


# --- the search


def test_the_same_past_gives_the_same_proposal_and_another_seed_another() -> None:
    base, knobs = space.base("horovod", {}), space.knobs("horovod")
    past = [Tried(search.controlled(knobs, base), 1.0)]
    asked = [search.propose(knobs, base, past, seed) for seed in (1, 1, 2, 3, 4)]
    assert asked[0] == asked[1]
    assert len({json.dumps(each) for each in asked}) > 1


def test_a_small_space_is_used_up_and_failed_trials_are_not_tried_again() -> None:
    base = space.base("fsdp", {})
    past: list[Tried] = []
    while (chosen := search.propose(space.knobs("fsdp"), base, past, 1)) is not None:
        past.append(Tried(chosen, None))
    assert len(past) == 6  # fused or not; one unit, or blocks gathered again or not; 16 bits need accumulation 1
    assert search.best(past) is None


def test_the_search_goes_where_it_was_fast() -> None:
    """Over seeds, the sampler asks more often for the value that was fast than chance would (a fifth)."""
    base, knobs = space.base("ddp", {}), space.knobs("ddp")
    hits = 0
    for seed in range(8):
        past: list[Tried] = []
        for _ in range(10):
            chosen = search.propose(knobs, base, past, seed)
            assert chosen is not None
            past.append(Tried(chosen, 5.0 if chosen["own_bucket_mb"] == 5.0 else 1.0))
        hits += sum(each.chosen["own_bucket_mb"] == 5.0 for each in past[6:])
    assert hits / (8 * 4) > 0.3


def test_the_first_of_equals_wins() -> None:
    assert search.best([Tried({}, 1.0), Tried({}, 2.0), Tried({}, 2.0), Tried({}, None)]) == 1


# --- the study


def test_each_engine_has_the_same_budget_interleaved_and_every_trial_is_kept(tmp_path: Path) -> None:
    run = Runner(tmp_path)
    study = conducted(tmp_path, run)
    assert {engine: len(study.of(engine)) for engine in ENGINES} == dict.fromkeys(ENGINES, 4)
    rounds = [study.trials[at : at + 3] for at in range(0, 12, 3)]
    assert all({trial.engine for trial in each} == set(ENGINES) for each in rounds)
    assert len({tuple(trial.engine for trial in each) for each in rounds}) > 1
    assert all((tmp_path / trial.record).is_file() for trial in study.trials)
    assert all(told(trial.engine, trial.chosen) == "as controlled" for trial in study.trials[:3])
    assert run.configs[0].engine.backend == "single"
    failed = [trial for trial in study.trials if trial.speed is None]
    assert failed
    assert all(trial.engine == "ring" and "error: no" in trial.why for trial in failed)
    assert study.ended == "complete"
    assert read(tmp_path / f"{study.name}{load.STUDY}") == study


def test_the_winner_is_measured_again_beside_the_controlled_run_and_its_luck_is_told(tmp_path: Path) -> None:
    study = conducted(tmp_path, Runner(tmp_path))
    mine = [each for each in study.repeats if each.engine == "ddp"]
    assert [(each.round, {e.side for e in mine if e.round == each.round}) for each in mine[::2]] == [
        (number, {"controlled", "tuned"}) for number in range(3)
    ]
    assert {each.record for each in study.repeats}.isdisjoint(each.record for each in study.trials)
    ddp = found(study, tmp_path)["ddp"]
    assert "own bucket mb" in ddp.what
    assert ddp.pair.paired
    assert ddp.pair.ratio.over(1.0).median == pytest.approx(1.5, rel=0.05)
    assert ddp.luck == pytest.approx(2.0 / 1.5, rel=0.05)
    assert ddp.loss == (0.0, 0)


def test_a_setting_that_is_not_faster_does_not_win(tmp_path: Path) -> None:
    study = conducted(tmp_path, Runner(tmp_path))
    study.trials = [
        dataclasses.replace(each, speed=9.0 if each.number == 0 else each.speed and 1.0) for each in study.trials
    ]
    study.repeats = []
    ring = found(study, tmp_path)["ring"]
    assert (ring.winner, ring.tuned, ring.pair) == (0, None, None)
    assert "no setting was faster" in ring.why
    for kept, why in ((1, "only the controlled setting was tried"), (0, "no trial was taken")):
        study.trials = study.of("ring")[:kept]
        assert why in found(study, tmp_path)["ring"].why


def test_where_the_controlled_setting_wins_it_is_measured_again_alone(tmp_path: Path) -> None:
    run = Runner(tmp_path, best="ring")
    study = conducted(tmp_path, run)
    assert [(each.round, each.side) for each in study.repeats if each.engine == "ring"] == [
        (number, "controlled") for number in range(REQUEST.repeats)
    ]
    assert Conductor(study, tmp_path, run, print, 10.0).left() == 0
    ring = found(study, tmp_path)["ring"]
    assert (ring.winner, ring.tuned, ring.pair, ring.luck) == (0, None, None, None)
    assert ring.controlled is not None
    assert ring.verdict.status == "verified"
    assert "no setting was faster" in ring.why


@pytest.mark.parametrize("lost", ["controlled", "tuned"])
def test_a_round_cut_in_half_counts_for_neither_side(tmp_path: Path, lost: str) -> None:
    study = conducted(tmp_path, Runner(tmp_path))
    taken, mine = study.repeats, ("ddp", 1)
    study.repeats = [each for each in taken if (each.engine, each.round) != mine]
    without = found(study, tmp_path)["ddp"]
    study.repeats = [each for each in taken if (each.engine, each.round, each.side) != (*mine, lost)]
    half = found(study, tmp_path)["ddp"]
    assert half.pair.ratio == without.pair.ratio
    assert (half.controlled, half.tuned) == (without.controlled, without.tuned)
    study.repeats = taken
    assert found(study, tmp_path)["ddp"].pair.ratio != without.pair.ratio


def test_a_void_winner_has_no_speed(tmp_path: Path) -> None:
    study = conducted(tmp_path, Runner(tmp_path))
    for each in study.repeats:
        if (each.engine, each.side) == ("ddp", "tuned"):
            record = json.loads((tmp_path / each.record).read_text())
            (tmp_path / each.record).write_text(json.dumps(made.changed(record, "losses/2/total", "nan")))
    ddp = found(study, tmp_path)["ddp"]
    assert ddp.tuned is None
    assert ddp.pair is None
    assert "void" in ddp.why


def test_a_void_controlled_side_compares_nothing_and_leaves_the_family(tmp_path: Path) -> None:
    study = conducted(tmp_path, Runner(tmp_path))
    before = found(study, tmp_path)
    for each in study.repeats:
        if (each.engine, each.side) == ("ddp", "controlled"):
            record = json.loads((tmp_path / each.record).read_text())
            (tmp_path / each.record).write_text(json.dumps(made.changed(record, "losses/2/total", "nan")))
    after = found(study, tmp_path)
    ddp = after["ddp"]
    assert (ddp.controlled, ddp.pair) == (None, None)
    assert ddp.tuned is not None
    assert "the controlled setting is void" in ddp.why
    compared = [sum(each.pair is not None for each in outcome.values()) for outcome in (before, after)]
    assert compared[1] == compared[0] - 1
    other = next(each for each in after.values() if each.pair)
    assert other.pair.holm <= before[other.engine].pair.holm


def test_more_ranks_than_cores_claim_nothing(tmp_path: Path) -> None:
    study = conducted(tmp_path, Runner(tmp_path))
    for path in tmp_path.glob("*ddp*.json"):
        path.write_text(json.dumps(made.changed(json.loads(path.read_text()), "world/oversubscribed", True)))
    ddp = found(study, tmp_path)["ddp"]
    assert ddp.pair is None
    assert ddp.tuned is not None
    assert "more ranks than cores" in ddp.why
    assert tuned.cells(ddp)[0] == "ddp*"


def test_a_reference_that_failed_proves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    study = conducted(tmp_path, Runner(tmp_path))
    path = tmp_path / study.references[-1]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "failed", "failure": {"cause": "time limit"}}))
    ddp = found(study, tmp_path)["ddp"]
    assert ddp.verdict.status == "unproven"
    assert ddp.tuned is not None


@pytest.mark.parametrize("stop", [0, 1, 5, 12, 13, 16])
def test_a_stopped_study_goes_on_as_if_it_had_not_been(tmp_path: Path, stop: int) -> None:
    (tmp_path / "straight").mkdir()
    (tmp_path / "stopped").mkdir()
    straight = conducted(tmp_path / "straight", Runner(tmp_path / "straight"))
    with pytest.raises(KeyboardInterrupt):
        conducted(tmp_path / "stopped", Runner(tmp_path / "stopped", stop=stop))
    study = unfinished(tmp_path / "stopped", REQUEST, None)
    assert (study is None) == (stop == 0)  # nothing was measured, nothing was written
    resumed = conducted(tmp_path / "stopped", Runner(tmp_path / "stopped"), study)
    assert resumed == straight
    assert unfinished(tmp_path / "stopped", REQUEST, None) is None


def test_a_void_or_failed_trial_can_not_win_and_says_why() -> None:
    single, run = made.record(), made.record("ddp", 2)
    void = made.changed(run, "proof/0/losses/1/total", lambda loss: loss * 1.5)
    assert judged(run, single) == (pytest.approx(20, rel=0.1), "")
    assert judged(void, single)[0] is None
    assert "proof leg SGD, clip off" in judged(void, single)[1]
    assert judged(made.failed("ddp"), single) == (None, "error, rank 1: no route to rank 1")
    half = judged(made.record("ddp", 2, tuning={"compression": "fp16"}), single)
    assert half[0] is not None
    assert "changes what is computed" in half[1]


def test_another_request_does_not_go_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        conducted(tmp_path, Runner(tmp_path, stop=3))
    assert unfinished(tmp_path, dataclasses.replace(REQUEST, trials=5), None) is None
    assert unfinished(tmp_path, REQUEST, 4) is None
    assert unfinished(tmp_path, REQUEST, 3) is not None


def test_trials_with_fewer_steps_have_a_reference_of_their_own(tmp_path: Path) -> None:
    run = Runner(tmp_path)
    request = dataclasses.replace(REQUEST, trial_steps=2, repeats=1)
    study = conducted(tmp_path, run, Study(name="20260102T030405Z_m", request=request, seed=3, started=""))
    assert [config.training.steps for config in run.configs if config.engine.backend == "single"] == [2, 10]
    assert len(study.references) == 2
    assert found(study, tmp_path)["ddp"].verdict.status in ("verified", "unproven")


def test_a_broken_study_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"schema": 2}', '{"schema": 1}'):
        (tmp_path / f"x{load.STUDY}").write_text(text)
        with pytest.raises(ComparisonError):
            read(tmp_path / f"x{load.STUDY}")


# --- the command


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("bench.launchers.unavailable", lambda config: None)
    monkeypatch.chdir(tmp_path)

    def type_(*words: str, stop: int | None = None) -> tuple[int, Runner]:
        run = Runner(tmp_path / "results", stop=stop)
        monkeypatch.setattr("bench.launch.run", lambda config, ranks, **_: run(config, ranks))
        return main(
            ["tune", "quick", "--engines", *ENGINES, "--trials", "4", "--repeats", "2", "--seed", "3", *words]
        ), run

    return type_


def test_the_command_stops_goes_on_and_can_be_reported(typed: Any, tmp_path: Path, capsys: Any) -> None:
    assert typed(stop=6)[0] == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert typed()[0] == 0
    text = capsys.readouterr().out
    assert "going on with" in text
    assert "speed ratio: tuned over controlled" in text.replace("\n", " ")
    (path,) = (tmp_path / "results").glob(f"*{load.STUDY}")
    name = path.name.removesuffix(load.STUDY)
    assert f"ringzero report {name}" in text
    assert (path.parent / f"{name}.html").is_file()
    assert main(["report", name, "--markdown", "out.md"]) == 0
    text = Path("out.md").read_text()
    assert "not a ranking" in text
    assert "tuned track: each engine with settings of its own" in text
    assert load.load(path.parent).unreadable == []


def test_the_plot_shows_both_curves(typed: Any, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("matplotlib")
    typed()
    (path,) = (tmp_path / "results").glob(f"*{load.STUDY}")
    capsys.readouterr()
    assert main(["plot", "tuned-loss", path.name.removesuffix(load.STUDY), "--format", "svg"]) == 0
    drawn = Path(capsys.readouterr().out.strip())
    assert "tuned (thin), controlled (wide)" in drawn.read_text()


def test_a_dry_run_starts_nothing(typed: Any, tmp_path: Path, capsys: Any) -> None:
    code, run = typed("--dry-run")
    assert code == 0
    assert run.configs == []
    assert not (tmp_path / "results").exists()
    out = capsys.readouterr().out
    assert "overlap comm: True, False" in out
    assert "25 runs" in out  # single, 3 x 4 trials, 3 winners x 2 sides x 2 rounds


def test_the_matrix_decides_the_engines_and_zero_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bench.launchers.unavailable", lambda config: "no" if config.engine.backend == "horovod" else None
    )
    wanted, missing = tune.request(tune.Tune(), matrix.read("quick"))
    assert wanted.engines == ("ddp", "fsdp", "deepspeed", "ring")
    assert wanted.ranks == 2
    assert missing == {"horovod": "no"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (tune.Tune(trials=1), "--trials is 1; it must be at least 2"),
        (tune.Tune(repeats=0), "--repeats is 0"),
        (tune.Tune(engines=("single",)), "it has no settings"),
        (tune.Tune(ranks=3), "can't be cut into 3 ranks"),
        (tune.Tune(engines=("gloo",)), "unknown engine 'gloo'"),
    ],
)
def test_what_can_not_be_searched_says_why(asked: tune.Tune, message: str) -> None:
    with pytest.raises((ConfigError, matrix.MatrixError), match=message):
        tune.request(asked, matrix.read("quick"))


def test_without_optuna_the_command_says_what_to_type(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["tune", "quick"]) == 2
    assert "'.[tune]'" in capsys.readouterr().err


def test_headings_and_cells_are_as_many() -> None:
    study = Study(name="s", request=REQUEST, seed=1, started="")
    assert all(len(tuned.cells(each)) == len(tuned.HEADINGS) for each in outcomes(study, {}))
