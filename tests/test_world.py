"""Each launcher's own variables, and what a user is told who took the wrong one."""

import pytest

from backends.world import ACCEPTED, BY_SRUN, GPUS, LaunchError, World

LAUNCHED = {
    "horovodrun": {"HOROVOD_RANK": "3", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"},
    "torchrun": {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
    },
    "deepspeed": {"CROSS_SIZE": "2", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"},
    "mpirun": {
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    },
}
WITNESS = {
    "horovodrun": "HOROVOD_RANK",
    "torchrun": "TORCHELASTIC_RUN_ID",
    "deepspeed": "CROSS_SIZE",
    "mpirun": "OMPI_COMM_WORLD_RANK",
}
COMMANDS = {
    "single": "python -m bench.run --backend single",
    "ddp": "torchrun --nproc-per-node 4 -m bench.run --backend ddp",
    "fsdp": "torchrun --nproc-per-node 4 -m bench.run --backend fsdp",
    "deepspeed": "deepspeed --num_accelerators 4 bench/run.py --backend deepspeed",
    "horovod": "horovodrun -np 4 python -m bench.run --backend horovod",
    "ring": "mpirun -np 4 python -m bench.run --backend ring",
}


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_each_launcher_is_recognised(launcher):
    assert World.from_env(LAUNCHED[launcher]) == World(3, 4, 1, 2, launcher)


def test_a_process_that_nobody_launched_is_alone():
    assert World.from_env({"PATH": "/bin", "RANK": "7"}) == World(0, 1, 0, 1, "python")


def test_the_environment_of_this_process_is_read_when_asked(monkeypatch):
    for name in {name for names in LAUNCHED.values() for name in names}:
        monkeypatch.delenv(name, raising=False)
    assert World.from_env() == World()
    for name, value in LAUNCHED["torchrun"].items():
        monkeypatch.setenv(name, value)
    assert World.from_env() == World(3, 4, 1, 2, "torchrun")


def test_horovodrun_over_mpirun_is_horovodruns():
    """horovodrun may start its ranks through mpirun, whose variables are then there as well."""
    assert World.from_env(LAUNCHED["mpirun"] | LAUNCHED["horovodrun"]).launcher == "horovodrun"


@pytest.mark.parametrize(
    ("launcher", "missing"),
    [(launcher, name) for launcher, env in LAUNCHED.items() for name in env if name != WITNESS[launcher]],
)
@pytest.mark.parametrize("left", [None, "", "one", "-1"])
def test_incomplete_variables_are_named(launcher, missing, left):
    env = {name: value for name, value in LAUNCHED[launcher].items() if name != missing}
    if left is not None:
        env[missing] = left
    with pytest.raises(LaunchError) as caught:
        World.from_env(env)
    assert launcher in str(caught.value)
    assert missing in str(caught.value)


@pytest.mark.parametrize("backend", ACCEPTED)
@pytest.mark.parametrize("launcher", ["python", *LAUNCHED])
def test_the_wrong_launcher_is_answered_with_the_right_command(launcher, backend):
    world = World(0, 4, 0, 4, launcher)
    if launcher in ACCEPTED[backend]:
        world.check_launcher(backend)
        return
    with pytest.raises(LaunchError) as caught:
        world.check_launcher(backend)
    assert str(caught.value).splitlines()[-1].strip() == COMMANDS[backend]
    assert ("without a launcher" if launcher == "python" else launcher) in str(caught.value)


def test_what_launches_what():
    assert {backend: accepted[0] for backend, accepted in ACCEPTED.items()} == {
        "single": "python",
        "ddp": "torchrun",
        "fsdp": "torchrun",
        "deepspeed": "deepspeed",
        "horovod": "horovodrun",
        "ring": "mpirun",
    }
    assert "torchrun" in ACCEPTED["ring"]
    assert "mpirun" in ACCEPTED["horovod"]


def test_one_process_is_told_to_start_two():
    with pytest.raises(LaunchError, match="nproc-per-node 2 "):
        World().check_launcher("ddp")


SRUN = {
    "SLURM_PROCID": "9",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
}


def test_srun_s_ranks_know_how_many_share_their_node():
    world = World.from_env(SRUN)
    assert world == World(9, 11, 1, 3, "srun")
    env = {}
    world.publish(env)
    assert env == {"RANK": "9", "WORLD_SIZE": "11", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}
    World(3, 4, 1, 2, "torchrun").publish(env := {})
    assert env == {}  # it has said so itself


def test_a_launcher_inside_a_step_of_slurm_is_the_launcher():
    assert World.from_env(SRUN | LAUNCHED["torchrun"]).launcher == "torchrun"
    assert World.from_env(SRUN | LAUNCHED["mpirun"]).launcher == "mpirun"


def test_a_batch_script_or_a_shell_of_slurm_launched_nobody():
    assert World.from_env({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == World()
    assert World.from_env(SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) == World()


def test_one_task_is_a_rank_where_the_step_is_ours():
    one = SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
    one |= dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    assert World.from_env(one | {BY_SRUN: "1"}) == World(0, 1, 0, 1, "srun")
    assert World.from_env(one) == World()


@pytest.mark.parametrize("name", [name for name in SRUN if name != "SLURM_STEP_NUM_TASKS"])
def test_incomplete_variables_of_srun_are_named(name):
    with pytest.raises(LaunchError, match=name):
        World.from_env({key: value for key, value in SRUN.items() if key != name})


def test_srun_must_be_told_where_ranks_of_torch_meet(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LaunchError, match="export MASTER_ADDR="):
        World.from_env(SRUN).check_launcher("ddp")
    World.from_env(SRUN).check_launcher("ring")
    monkeypatch.setenv("MASTER_ADDR", "a")
    monkeypatch.setenv("MASTER_PORT", "1")
    World.from_env(SRUN).check_launcher("ddp")


def test_deepspeed_s_ranks_see_the_gpus_that_the_run_was_given():
    deepspeed, torchrun = (World(1, 2, 1, 2, launcher) for launcher in ("deepspeed", "torchrun"))
    for given in ("2,3", "", "GPU-8932f937,GPU-7a"):
        deepspeed.publish(env := {GPUS: given, "CUDA_VISIBLE_DEVICES": "0,1"})
        assert env["CUDA_VISIBLE_DEVICES"] == given
    deepspeed.publish(env := {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert env == {"CUDA_VISIBLE_DEVICES": "0,1"}  # none was asked for: the launcher's are the first ones
    torchrun.publish(env := {GPUS: "2,3"})
    assert env == {GPUS: "2,3"}
