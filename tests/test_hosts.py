"""One description of hosts, from flags, a file or a scheduler; what can't be read is told with what to type."""

from pathlib import Path

import pytest

from bench.hosts import allocation
from bench.hosts.asked import Where
from bench.hosts.description import Host, HostsError, evenly, host_of, is_here, parse, read, used, write

AB = (Host("a", 4), Host("b", 4))


def test_flags_and_both_forms_of_a_file_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# two nodes\na slots=4   # the first\n\nb:4\n")
    assert parse("a:4,b:4") == read(file) == AB
    file.write_text("a slots=4 max_slots=8\nb  slots = 4\n")
    assert read(file) == AB
    assert parse(write(AB)) == AB


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is not HOST:RANKS; type, say, --hosts a:4,b:4"),
        ("a,b:2", "'a' is not HOST:RANKS"),
        ("a:2,b:x", "'b:x' is not HOST:RANKS"),
        ("a:2,$(reboot):1", r"'\$\(reboot\):1' is not HOST:RANKS"),
        ("a:2,-oProxyCommand=x:1", "is not HOST:RANKS"),  # would be an option of ssh
        ("a:2,b:0", "entry 2: b takes 0 ranks"),
        ("a:2,b:2,a:1", "entry 3: a stands already in --hosts 'a:2,b:2,a:1', entry 1"),
    ],
)
def test_wrong_flags(text: str, told: str) -> None:
    with pytest.raises(HostsError, match=told):
        parse(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no host; write a line a host"),
        ("# none\n", "names no host"),
        ("a slots=2\nb\n", "line 2: 'b' is not a host; write: a slots=4"),
        ("a slots=2\nb slots=many\n", "line 2: "),
        ("a slots=2\n\na:2\n", "line 3: a stands already in .*, line 1"),
        ("a slots=0\n", "line 1: a takes 0 ranks"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(HostsError, match=told):
        read(file)


def test_a_missing_file_is_an_error_and_no_local_run(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(HostsError, match="write a line a host into it, such as: a slots=4"):
            Where(hostfile=path).find()


@pytest.mark.parametrize(
    ("names", "tasks", "hosts"),
    [
        ("n1", "4", "n1:4"),
        ("n[01-03,7],gpu-b1", "4(x2),3(x3)", "n01:4,n02:4,n03:3,n7:3,gpu-b1:3"),
        ("r[1-2]c[8-9].lab", "2(x4)", "r1c8.lab:2,r1c9.lab:2,r2c8.lab:2,r2c9.lab:2"),
        ("n[098-101]", "1(x4)", "n098:1,n099:1,n100:1,n101:1"),
    ],
)
def test_slurm(names: str, tasks: str, hosts: str) -> None:
    assert write(allocation.read({"SLURM_JOB_NODELIST": names, "SLURM_TASKS_PER_NODE": tasks})) == hosts


def test_pbs_and_lsf(tmp_path: Path) -> None:
    file = tmp_path / "nodes"
    file.write_text("a\nb\na\nb\nb\n")
    assert write(allocation.read({"PBS_NODEFILE": str(file)})) == "a:2,b:3"
    assert write(allocation.read({"LSB_DJOB_HOSTFILE": str(file)})) == "a:2,b:3"
    assert write(allocation.read({"LSB_MCPU_HOSTS": "a 2 b 3"})) == "a:2,b:3"


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({}, "this is no job of Slurm, PBS or LSF .*--hosts a:4,b:4"),
        ({"SLURM_JOB_NODELIST": "n[1-2]"}, "SLURM_TASKS_PER_NODE is not set; ask for the job with --ntasks-per-node"),
        ({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "4(x3)"}, r"counts 3 nodes, .*n\[1-2\] names 2"),
        ({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "4(x2"}, "is not a number of tasks"),
        ({"SLURM_JOB_NODELIST": "n[2-1]", "SLURM_TASKS_PER_NODE": "4"}, "'2-1' is no range"),
        ({"SLURM_JOB_NODELIST": "n[1-2", "SLURM_TASKS_PER_NODE": "4"}, "can't be read"),
        ({"PBS_NODEFILE": "/nowhere"}, "PBS_NODEFILE=/nowhere: No such file"),
        ({"LSB_MCPU_HOSTS": "a 2 b"}, "is not HOST SLOTS HOST SLOTS"),
        ({"LSB_MCPU_HOSTS": "a 2 a 2"}, "names a twice"),
    ],
)
def test_an_allocation_that_is_not_whole(env: dict[str, str], told: str) -> None:
    with pytest.raises(HostsError, match=told):
        allocation.read(env)


def test_ranks_fill_the_first_host_or_go_to_all_by_turns() -> None:
    hosts = parse("a:4,b:2,c:2")
    assert write(used(hosts, 5)) == "a:4,b:1"
    assert write(evenly(hosts, 5)) == "a:2,b:2,c:1"
    assert write(evenly(hosts, 8)) == write(hosts)
    assert [host_of(rank, used(hosts, 5)).name for rank in range(5)] == ["a"] * 4 + ["b"]
    for place in (used, evenly):
        with pytest.raises(HostsError, match="9 ranks don't fit on a:4,b:2,c:2, which take 8"):
            place(hosts, 9)


def test_flags_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(HostsError, match="--hosts and --allocation both name hosts"):
        Where(hosts="a:1", allocation=True).find({})
    with pytest.raises(HostsError, match="--interface, --pdsh without hosts"):
        Where(interface="eth0", pdsh=True).find({})
    assert Where().find({}) is None


def test_this_host_is_known_by_any_of_its_names() -> None:
    assert is_here("localhost")
    assert is_here("127.0.0.1")
    assert not is_here("no-such-host.invalid")
