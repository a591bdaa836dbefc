"""The `ringzero` command: help at once, one clear message for a mistake, and exit codes that mean something."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import launch, launchers, matrix, stopped
from bench.__main__ import COMMANDS, main
from bench.report import load
from tests import made

ROOT = Path(__file__).resolve().parents[1]


def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_help_is_immediate_and_lists_every_command() -> None:
    asked = typed("--help")
    assert asked.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in asked.stdout
    heavy = "{'torch', 'numpy', 'tyro', 'rich'}"
    code = f"import sys; from bench.__main__ import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.splitlines()[-1] == "[]"
    assert main([]) == 0
    assert max(map(len, asked.stdout.splitlines())) <= 110


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    asked = typed(name, "--help")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "usage:" in asked.stdout


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("assets", "run")])
def test_help_of_a_command_calls_it_by_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: ringzero {name}" in capsys.readouterr().out


def test_an_unknown_command_is_one_message_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compar"]) == 2
    assert capsys.readouterr().err == "ringzero: no command 'compar'; did you mean 'compare'?\n"
    assert main(["fly"]) == 2
    assert "there are: doctor, launch, compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--fast"],
        ["report", "--fast"],
        ["doctor", "--fast"],
        ["plot", "--fast"],
        ["data", "--fast"],
        ["launch", "--fast"],
        ["launch", "--backend", "nccl"],
        ["launch", "--ranks", "2"],
    ],
)
def test_a_wrong_flag_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_a_wrong_value_is_2_and_names_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["launch", "--backend", "ddp", "--steps", "0"])
    assert ended.value.code == 2
    assert "--steps is 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "quik"], "no matrix 'quik'; there are: network, precision, quick"),
        (["launch", "--backend", "single", "--ranks", "2"], "one plain process"),
        (["launch", "--backend", "ddp", "--ranks", "3"], "can't be cut"),
        (["data", "preview", "pictures"], "unknown dataset 'pictures'"),
        (["report", "--results", "/no/such/folder"], "ringzero compare quick"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ringzero {arguments[0]}: ")
    assert message in said
    assert said.count("\n") == 1


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(name: str) -> matrix.Matrix:
        raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "read", stop)
    assert main(["compare"]) == 130
    assert capsys.readouterr().err == "\nringzero compare: stopped\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(name: str) -> matrix.Matrix:
        raise ValueError("not a user's mistake")

    monkeypatch.setattr(matrix, "read", bug)
    with pytest.raises(ValueError, match="not a user's mistake"):
        main(["compare"])


def test_expected_errors_exist_by_their_names() -> None:
    assert len(command.expected()) >= 5
    assert all(issubclass(each, Exception) for each in command.expected())


def test_launch_shows_its_command_and_does_not_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "unavailable", lambda config: None)
    assert main(["launch", "--ranks", "2", "--backend", "ring", "--steps", "3", "--dry-run"]) == 0
    line = capsys.readouterr().out
    assert "mpirun -np 2 --bind-to none" in line
    assert line.endswith("-m bench.run --backend ring --steps 3\n")


@pytest.mark.parametrize(
    ("record", "code", "said"), [(made.record("ddp", 2), 0, "done: "), (made.failed("ddp", 2), 1, "failed: ")]
)
def test_launch_ends_with_the_record(
    record: dict,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(launch, "run", lambda config, ranks, **_: tmp_path / made.write(tmp_path, record)[0])
    assert main(["launch", "--ranks", "2", "--backend", "ddp"]) == code
    line = capsys.readouterr().out
    assert line.startswith(said + str(tmp_path))
    assert load.read(tmp_path / f"{record['run_id']}.json") == record


def test_data_draws_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "preview", "textures", "--samples", "2", "--image-size", "64", "--output", str(sheet)]) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{sheet}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_launch_that_is_ended_keeps_its_record(number: signal.Signals, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "bench", "launch", "--backend", "single", "--results", str(tmp_path)]
    ours = signal.signal(number, signal.SIG_DFL)  # the suite may run under nohup, and what is ignored is inherited
    try:
        child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(number, ours)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(f"{launch.INCOMING}/*/log")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert f"ringzero launch: ended by {number.name}" in errors
    (record,) = tmp_path.glob("*.json")
    failure = load.read(record)["failure"]
    assert failure["cause"] == "interrupted"
    assert failure["message"].startswith(f"ended by {number.name}")
    assert not (tmp_path / launch.INCOMING).exists()
    assert record.with_suffix(".log").exists()


def test_a_signal_that_is_ignored_stays_so_and_ours_go_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped.heard():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
