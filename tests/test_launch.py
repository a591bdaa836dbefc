"""Commands are exact, and a run that goes wrong leaves a record and no process."""

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import tyro

import bench.run
from backends.world import GPUS
from bench import gpus, launch, launchers, processes
from bench.config import ConfigError, Engine, Measure, Output, RunConfig, Training, Workload
from bench.failure import WORD
from bench.launchers import Command, LaunchFailed
from bench.record import RecordFile

ROOT = Path(__file__).resolve().parents[1]
SINGLE = RunConfig(engine=Engine(backend="single"))

# A run that begins its record, starts a rank in a session of its own (as torchrun does), and then does as it is told.
FAKE = """
import json, os, subprocess, sys, time
from pathlib import Path
how, folder = sys.argv[1], Path(sys.argv[sys.argv.index("--results") + 1])
rank = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
record = {"schema": 1, "run_id": "r", "status": "running", "failure": None}
print("hello from", how, flush=True)
def write():
    (folder / "r.json").write_text(json.dumps(record))
if how in ("hangs", "leaves"):
    write()
    child = subprocess.Popen([sys.executable, "-c", rank], start_new_session=True)
    Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {child.pid}")
if how == "hangs":
    time.sleep(600)
if how in ("good", "leaves"):
    record["status"] = "done"
    write()
if how == "dies":
    write()
    sys.exit(3)
if how == "lost":  # ended by its launcher while it closed the record
    write()
    left = folder / ".running/r"
    left.mkdir(parents=True)
    saw = {"rank": 1, "step": 6, "phase": "backward", "cause": "peer lost", "message": "process 7 was killed", "time": 2.0}
    (left / "rank_0.measured").write_text(json.dumps({"step_s": [0.25] * 6}))
    (left / "rank_0.failed").write_text(json.dumps(saw))
    (left / "rank_2.failed").write_text(json.dumps(saw | {"rank": 2, "cause": "interrupted", "time": 1.0}))
    sys.exit(137)
if how == "torn":
    (folder / "r.json").write_text('{"schema": 1, "stat')
if how == "refuses":
    sys.exit("[1]<stderr>:bench.run: --device cuda needs a GPU for each rank")
if how == "other":  # a rank whose own words nobody printed, while another one met what follows from it
    Path(os.environ["RINGZERO_WORD"]).write_text(json.dumps({"cause": "import", "message": "no libfoo.so"}))
    sys.exit("bench.run: connection closed by peer")
if how == "silent":
    sys.exit("no such file: model.bin")
"""


def config(results: Path, **engine: object) -> RunConfig:
    return RunConfig(engine=Engine(**{"backend": "single", **engine}), output=Output(results=results))  # type: ignore[arg-type]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A `build` for launch.run that starts FAKE instead; `pids()` are the processes that it started."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    pids = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(pids))

    def make(how: str):
        return lambda config, ranks: Command([sys.executable, str(script), how, *launchers.flags(config)])

    make.pids = lambda: [int(pid) for pid in pids.read_text().split()]
    return make


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_finished_record_moves_up_with_its_log(tmp_path: Path, fake) -> None:
    heard: list[str] = []
    path = launch.run(config(tmp_path), 1, build=fake("good"), echo=heard.append)
    assert path == tmp_path / "r.json"
    assert json.loads(path.read_text())["status"] == "done"
    assert path.with_suffix(".log").read_text() == "".join(heard) == "hello from good\n"
    assert not (tmp_path / launch.INCOMING).exists()


def test_no_record_becomes_one_that_says_so(tmp_path: Path, fake) -> None:
    path = launch.run(config(tmp_path), 1, build=fake("silent"))
    record = json.loads(path.read_text())
    assert record["status"] == "failed"
    assert record["failure"]["cause"] == "launcher"
    assert record["failure"]["message"].startswith("python ended with status 1 and left no finished record")
    assert "no such file: model.bin" in record["failure"]["message"]  # the log's end
    assert record["run_id"] == path.stem
    assert record["experiment"] == SINGLE.experiment_id()
    assert list(tmp_path.glob("*.log")) == [path.with_suffix(".log")]


def test_what_a_rank_refused_is_the_reason(tmp_path: Path, fake) -> None:
    record = json.loads(launch.run(config(tmp_path), 1, build=fake("refuses")).read_text())
    first, second, *_ = record["failure"]["message"].splitlines()
    assert first.endswith("left no finished record: --device cuda needs a GPU for each rank")
    assert second == "hello from refuses"


def test_the_word_of_any_rank_is_the_reason(tmp_path: Path, fake) -> None:
    failure = json.loads(launch.run(config(tmp_path), 1, build=fake("other")).read_text())["failure"]
    assert failure["cause"] == "import"
    assert failure["message"].splitlines()[0].endswith("left no finished record: no libfoo.so")
    assert failure["message"].splitlines()[-1] == "bench.run: connection closed by peer"  # the log's end


@pytest.mark.parametrize("first", [True, False])
def test_a_rank_that_fails_alone_says_why(first: bool, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.delenv(WORD, raising=False)
    monkeypatch.setattr(bench.run, "SILENT_S", 0)
    assert bench.run.refuse(ValueError("no such name"), first) == 2
    assert capsys.readouterr().err == "bench.run: no such name\n"


def test_a_folder_that_takes_no_records_is_refused(tmp_path: Path, fake) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchFailed, match=r"no records can be written to .*--results"):
        launch.run(config(tmp_path / "file"), 1, build=fake("good"))


def test_an_unfinished_record_is_closed_with_what_it_held(tmp_path: Path, fake) -> None:
    record = json.loads(launch.run(config(tmp_path), 1, build=fake("dies")).read_text())
    assert (record["run_id"], record["status"], record["failure"]["cause"]) == ("r", "failed", "launcher")
    assert "status 3" in record["failure"]["message"]


def test_what_ranks_left_is_kept_though_none_lived_to_close_the_record(tmp_path: Path, fake) -> None:
    record = json.loads(launch.run(config(tmp_path), 1, build=fake("lost")).read_text())
    assert (record["status"], record["ranks"]) == ("failed", [{"rank": 0, "step_s": [0.25] * 6}])
    assert (record["failure"]["rank"], record["failure"]["step"], record["failure"]["cause"]) == (1, 6, "peer lost")
    assert record["finished"]
    assert not (tmp_path / launch.INCOMING).exists()


@pytest.mark.parametrize("room", [True, False])
def test_a_record_on_another_disk_is_fetched_or_named(
    room: bool, tmp_path: Path, fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results folder was full when the record was closed; `room`: there is some again."""
    spare, results = tmp_path / "spare", tmp_path / "results"
    spare.mkdir()
    write, replace = RecordFile._write, Path.replace

    def full(path: Path, content: object, **how: bool) -> None:
        if path.parent != spare:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content, **how)  # type: ignore[arg-type]

    def other_disk(path: Path, target: Path) -> Path:
        if (spare in path.parents) != (spare in target.parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(path, target)

    def copy(path: Path, target: Path) -> None:
        if not room and spare not in target.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write_bytes(path.read_bytes())

    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    monkeypatch.setattr(RecordFile, "_write", staticmethod(full))
    monkeypatch.setattr(Path, "replace", other_disk)
    monkeypatch.setattr(shutil, "copyfile", copy)
    path = launch.run(config(results), 1, build=fake("dies"))
    assert path == (results if room else spare) / "r.json"
    assert json.loads(path.read_text())["status"] == "failed"
    assert path.with_suffix(".log").read_text() == "hello from dies\n"
    assert not (results / launch.INCOMING).exists()
    assert sorted(each.name for each in spare.iterdir()) == ([] if room else ["r.json", "r.log"])


def test_a_torn_record_is_replaced(tmp_path: Path, fake) -> None:
    record = json.loads(launch.run(config(tmp_path), 1, build=fake("torn")).read_text())
    assert record["status"] == "failed"
    assert "r.json, which is not whole JSON" in record["failure"]["message"]


def test_a_program_that_does_not_start_is_a_record_too(tmp_path: Path) -> None:
    record = json.loads(
        launch.run(config(tmp_path), 1, build=lambda config, ranks: Command(["/no/such/program"])).read_text()
    )
    assert "could not start /no/such/program" in record["failure"]["message"]


def test_past_the_limit_every_process_is_ended(tmp_path: Path, fake) -> None:
    path = launch.run(config(tmp_path), 1, build=fake("hangs"), limit_s=2.0)
    record = json.loads(path.read_text())
    assert (record["status"], record["failure"]["cause"]) == ("failed", "time limit")
    assert "ended after 2 s" in record["failure"]["message"]
    assert len(fake.pids()) == 2
    assert not any(map(alive, fake.pids()))  # the rank had a session of its own and did not hear SIGTERM


def test_what_a_finished_run_leaves_behind_is_ended(tmp_path: Path, fake) -> None:
    path = launch.run(config(tmp_path), 1, build=fake("leaves"))
    assert json.loads(path.read_text())["status"] == "done"
    assert not any(map(alive, fake.pids()))


def test_ctrl_c_ends_every_process_and_keeps_the_record(tmp_path: Path, fake) -> None:
    fake("hangs")
    driver = f"""
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background has it ignored
from bench import launch, launchers
from bench.config import Engine, Output, RunConfig
config = RunConfig(engine=Engine(backend="single"), output=Output(results=Path({str(tmp_path)!r})))
def build(config, ranks):
    return launchers.Command([sys.executable, {str(tmp_path / "fake.py")!r}, "hangs", *launchers.flags(config)])
launch.run(config, 1, build=build)
"""
    child = subprocess.Popen([sys.executable, "-c", driver], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors  # raised again for whoever called
    assert not any(map(alive, fake.pids()))
    assert json.loads((tmp_path / "r.json").read_text())["failure"]["message"].startswith("interrupted by the user")


def test_flags_make_the_configuration_again() -> None:
    for made in (
        SINGLE,
        RunConfig(
            engine=Engine(backend="deepspeed", zero_stage=3, offload_optimizer=True, bucket_mb=0.5),
            workload=Workload(seed=7, precision="amp_bf16"),
            training=Training(lr=1e-05, clip_norm=0.0, steps=3),
            measure=Measure(bind=False),
            output=Output(results=Path("a b"), save=Path("c")),
        ),
    ):
        again = tyro.cli(RunConfig, args=launchers.flags(made), config=(tyro.conf.OmitArgPrefixes,))
        assert again == made
    assert launchers.flags(SINGLE) == ["--backend", "single"]  # nothing that is the default


EXPECTED = {
    "single": "{python} -m bench.run --backend single",
    "ddp": "{bin}/torchrun --nproc-per-node 2 --master-port PORT -m bench.run --backend ddp",
    "deepspeed": "{bin}/deepspeed --num_accelerators 2 --master_port PORT --no_local_rank {root}/bench/run.py "
    "--backend deepspeed",
    "horovod": "{bin}/horovodrun -np 2 {python} -m bench.run --backend horovod",
    "ring": "{bin}/mpirun -np 2 --bind-to none {python} -m bench.run --backend ring",
}


@pytest.mark.parametrize("backend", EXPECTED)
def test_each_engine_has_its_own_launcher(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "unavailable", lambda config: None)
    monkeypatch.setattr(launchers, "executable", lambda name: f"/venv/bin/{name}")
    monkeypatch.setattr(launchers, "free_port", lambda: 12345)
    monkeypatch.setattr(launchers, "slots", lambda: 2)
    made = launchers.command(RunConfig(engine=Engine(backend=backend)), 1 if backend == "single" else 2)
    expected = EXPECTED[backend].format(python=sys.executable, bin="/venv/bin", root=ROOT).replace("PORT", "12345")
    assert made.argv == shlex.split(expected)


def test_the_ring_over_torch_starts_under_torchrun() -> None:
    assert launchers.launcher(RunConfig(engine=Engine(backend="ring", transport="torch"))) == "torchrun"


def ring(**more: object) -> RunConfig:
    return RunConfig(engine=Engine(**{"backend": "ring", **more}))  # type: ignore[arg-type]


def test_the_ring_on_gpus_starts_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: 2)
    assert [launchers.launcher(ring(), ranks) for ranks in (1, 2, 3)] == ["torchrun", "torchrun", "mpirun"]
    assert launchers.command(ring(), 2).argv[0].endswith("/torchrun")
    assert launchers.launcher(ring(device="cuda"), 3) == "torchrun"  # whose ranks then say how many GPUs there are
    assert launchers.launcher(ring(device="cpu"), 2) == "mpirun"
    assert launchers.launcher(ring(transport="mpi"), 2) == launchers.launcher(ring(transport="shared"), 2) == "mpirun"


@pytest.mark.parametrize(
    ("shown", "count"),
    [(None, 4), ("", 0), ("-1", 0), ("2", 1), ("1, 3", 2), ("0,7,1", 1), ("GPU-8932f937,GPU-7a", 2), ("NoDevFiles", 0)],
)
def test_gpus_are_counted_as_cuda_counts_them(monkeypatch: pytest.MonkeyPatch, shown: str | None, count: int) -> None:
    monkeypatch.setattr(gpus, "_installed", lambda: 4)
    monkeypatch.setattr(gpus, "_torch_has_cuda", lambda: True)
    env = {} if shown is None else {gpus.VISIBLE: shown}
    assert gpus.visible(env) == count
    monkeypatch.setattr(gpus, "_torch_has_cuda", lambda: False)
    assert gpus.visible(env) == 0  # the ranks' own torch would use none


@pytest.mark.parametrize("given", ["2,3", "", None])
def test_deepspeed_is_told_apart_which_gpus_were_given(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    monkeypatch.setattr(launchers, "unavailable", lambda config: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert launchers.command(RunConfig(engine=Engine(backend="deepspeed")), 2).env.get(GPUS) == given


def test_more_ranks_than_slots_are_allowed_explicitly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "unavailable", lambda config: None)
    monkeypatch.setattr(launchers, "slots", lambda: 1)
    argv = launchers.command(RunConfig(engine=Engine(backend="ring")), 2).argv
    assert argv[argv.index("--map-by") + 1] == ":OVERSUBSCRIBE"


@pytest.mark.skipif(launchers.executable("mpirun") is None, reason="no mpirun")
def test_mpirun_starts_more_ranks_than_there_are_slots(tmp_path: Path) -> None:
    ranks = launchers.slots() * 2
    made = launchers.command(RunConfig(engine=Engine(backend="ring"), training=Training(global_batch=2 * ranks)), ranks)
    argv = [
        *made.argv[: made.argv.index(sys.executable)],
        sys.executable,
        "-c",
        "import os; print(len(os.sched_getaffinity(0)))",
    ]
    log = tmp_path / "log"
    assert processes.run(argv, made.env, log, limit_s=60).code == 0
    assert log.read_text().split() == [str(len(os.sched_getaffinity(0)))] * ranks  # and none of them is bound


@pytest.mark.skipif(launchers.executable("mpirun") is None, reason="no mpirun")
def test_mpirun_stays_on_this_host_inside_a_job_of_slurm(tmp_path: Path) -> None:
    made = launchers.under("mpirun", 2)
    job = {"SLURM_JOBID": "1", "SLURM_JOB_ID": "1", "SLURM_NODELIST": "elsewhere", "SLURM_JOB_NODELIST": "elsewhere"}
    job |= {"SLURM_TASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_JOB_NUM_NODES": "1"}
    argv = [*made.argv[: made.argv.index(sys.executable)], "hostname"]
    log = tmp_path / "log"
    assert processes.run(argv, made.env | job, log, limit_s=60).code == 0, log.read_text()
    assert log.read_text().split()[-2:] == [os.uname().nodename] * 2  # before them it looks for srun


def test_only_root_is_told_to_mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "unavailable", lambda config: None)
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.delenv(name, raising=False)
    ring = RunConfig(engine=Engine(backend="ring"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in launchers.command(ring, 2).env
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert launchers.command(ring, 2).env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"


def test_a_venv_that_nobody_activated_is_on_the_path_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    beside = str(Path(sys.executable).parent)
    assert launchers.command(SINGLE, 1).env["PATH"] == os.pathsep.join([beside, "/usr/bin"])
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", beside]))
    assert "PATH" not in launchers.command(SINGLE, 1).env


def test_programs_beside_the_interpreter_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("venv", "system"):
        program = tmp_path / folder / "torchrun"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "system"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    assert launchers.executable("torchrun") == str(tmp_path / "venv" / "torchrun")
    (tmp_path / "venv" / "torchrun").unlink()
    assert launchers.executable("torchrun") == str(tmp_path / "system" / "torchrun")


def test_what_is_missing_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    real = launchers.find_spec
    monkeypatch.setattr(launchers, "find_spec", lambda name: None if name == "horovod" else real(name))
    why = launchers.unavailable(RunConfig(engine=Engine(backend="horovod")))
    assert why is not None
    assert "python -m backends.build" in why
    with pytest.raises(LaunchFailed, match="horovod can't run here"):
        launchers.command(RunConfig(engine=Engine(backend="horovod")), 2)
    monkeypatch.setattr(launchers, "executable", lambda name: None)
    assert "mpirun is neither beside" in str(launchers.unavailable(RunConfig(engine=Engine(backend="ring"))))


def test_a_run_that_can_t_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one plain process"):
        launch.run(config(tmp_path), 2)
    with pytest.raises(ConfigError, match="can't be cut"):
        launch.run(config(tmp_path, backend="ddp"), 3)
    assert list(tmp_path.iterdir()) == []


def test_the_shell_line_can_be_pasted() -> None:
    line = str(Command(["mpirun", "-np", "2", "a b"], {"X": "1 2"}))
    assert shlex.split(line) == ["env", "X=1 2", "mpirun", "-np", "2", "a b"]


STARTS = """
import sys
from pathlib import Path
from bench import processes
processes.run(["bash", "-c", "setsid sleep 300 & echo $! > child; exec sleep 300"], {}, Path("log"), limit_s=600)
"""


def test_a_killed_parent_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL lets it do nothing more; the guard ends the launcher, and what that put into sessions of its own."""
    parent = subprocess.Popen([sys.executable, "-c", STARTS], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    child = tmp_path / "child"
    deadline = time.monotonic() + 60
    while not (child.exists() and child.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(child.read_text())
    assert alive(pid)
    parent.kill()
    parent.wait()
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
