"""Machines as data: every value has a source, a user's file is read, and mistakes are told in one line."""

import pytest

from bench.config import ConfigError
from bench.plan.machines import hardware
from bench.plan.machines.machine import GIB

OWN = """
[device]
name = "our box"
kind = "gpu"
memory_gib = 24
peak_fp16_tflops = 71
per_node = 4
link = "pcie4"

[network]
gb_s = { value = 1.25, source = "the switch's label" }
latency_us = 20
"""


def test_every_value_of_every_device_and_link_names_its_source():
    for name in hardware.devices():
        device = hardware.machine(name).device
        assert {"memory_gib", "power_w", "memory_gb_s", "per_node", "nics"} <= set(device.sources), name
        assert device.peak_tflops, name
        assert all(len(source) > 3 and source != "stated" for source in device.sources.values()), name
    for kind in ("inside", "network"):
        for name in hardware.links(kind):
            assert all(source != "stated" for source in hardware.link(name, kind, "--network").sources.values()), name


def test_the_devices_and_links_that_were_asked_for_are_there():
    assert {"v100-32g", "a100-40g", "a100-80g", "h100", "h200", "mi250x"} <= set(hardware.devices())
    assert any(hardware.machine(name).device.kind == "cpu" for name in hardware.devices())
    assert {"nvlink2", "nvlink3", "nvlink4", "pcie3", "pcie4", "pcie5"} <= set(hardware.links("inside"))
    assert {"10gbe", "100gbe", "edr", "hdr", "ndr"} <= set(hardware.links("network"))


def test_newer_is_faster():
    order = [hardware.machine(name).device.peak("bf16") for name in ("v100-32g", "a100-80g", "h100")]
    assert order == sorted(order)
    speeds = [hardware.link(name, "network", "").gb_s for name in ("1gbe", "10gbe", "edr", "hdr", "ndr", "xdr")]
    assert speeds == sorted(speeds)


def test_a_users_file_is_a_machine(tmp_path):
    file = tmp_path / "box.toml"
    file.write_text(OWN)
    made = hardware.machine(str(file))
    assert (made.device.name, made.device.memory_bytes, made.per_node) == ("our box", 24 * GIB, 4)
    assert made.network.gb_s == 1.25
    assert made.network.sources["gb_s"] == "the switch's label"
    assert made.link.name == "pcie4"
    assert made.device.peak("bf16") == 71e12  # no bf16 of its own
    assert made.device.peak("fp32") is None
    assert hardware.machine(str(file), "hdr", per_node=2).network.gb_s == 25


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("memory_gib = 24", "memory_gib = -24", "memory_gib is -24; it must be above 0"),
        ("memory_gib = 24", "", "lacks memory_gib"),
        ("memory_gib = 24", "memory_gib = 'much'", "it is a number"),
        ("gb_s = { value = 1.25", "gb_s = { value = -1.25", "gb_s is -1.25; it must be above 0"),
        ("latency_us = 20", "", "lacks latency_us"),
        ("latency_us = 20", "latency_us = 20\nspeed = 1", "no field 'speed'"),
        ('kind = "gpu"', 'kind = "tpu"', "it is gpu or cpu"),
        ("per_node = 4", "per_node = 2.5", "whole number"),
        ('link = "pcie4"', 'link = "pcie9"', "unknown"),
        ("[network]", "[networks]", "unknown table 'networks'"),
        ("[device]", "[device", "no TOML"),
    ],
)
def test_a_wrong_file_is_told_with_its_name(tmp_path, before, after, said):
    file = tmp_path / "box.toml"
    file.write_text(OWN.replace(before, after, 1))
    with pytest.raises(ConfigError, match=said) as told:
        hardware.machine(str(file))
    assert "box.toml" in str(told.value)
    assert "\n" not in str(told.value).strip() or "TOML" in str(told.value)


def test_unknown_names_are_told_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'a100-80g'"):
        hardware.machine("a100-80")
    with pytest.raises(ConfigError, match="--network quantum: unknown"):
        hardware.machine("h100", "quantum")
    with pytest.raises(ConfigError, match="can't be read"):
        hardware.machine("nowhere.toml")


def test_counts_that_cannot_be_are_told():
    made = hardware.machine("a100-80g")
    assert [made.nodes(count) for count in (1, 7, 8, 64)] == [1, 1, 1, 8]
    for count, said in ((0, "at least one"), (-3, "at least one"), (12, "type 8 or 16")):
        with pytest.raises(ConfigError, match=said):
            made.nodes(count)
    with pytest.raises(ConfigError, match="--per-node is 0"):
        hardware.machine("h100", per_node=0)


def test_a_network_that_is_not_the_devices_own_has_one_port_where_nobody_says_more():
    found = [
        hardware.machine("a100-80g", network, nics=nics).ports
        for network, nics in ((None, None), ("hdr", None), ("10gbe", None), ("10gbe", 2), (None, 1))
    ]
    assert found == ["8 x hdr a node", "8 x hdr a node", "1 x 10gbe a node", "2 x 10gbe a node", "1 x hdr a node"]
    with pytest.raises(ConfigError, match="--nics is 0"):
        hardware.machine("h100", nics=0)
