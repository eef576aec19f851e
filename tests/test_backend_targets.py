"""Targets are found by name, refused politely, and importable without TVM."""

import subprocess
import sys

import pytest

from graphprune.backends import host, targets
from graphprune.backends.systems import system_of
from graphprune.errors import TargetError


def test_best_target_of_this_machine():
    target = targets.get_target("x86")
    assert target.name in targets.TARGETS and not target.missing_features()
    assert target.channel_alignment == target.vector_width
    assert targets.get_target(target) is target


def test_unknown_target_lists_the_known_ones():
    with pytest.raises(TargetError, match="x86-avx2"):
        targets.get_target("vax")


def test_machine_without_vectors(monkeypatch):
    monkeypatch.setattr(targets, "host_features", lambda: frozenset({"sse2"}))
    with pytest.raises(TargetError, match="avx2"):
        targets.get_target("x86")
    assert targets.get_target("x86-avx2").missing_features()


def test_x86_knows_processors_by_their_marks(monkeypatch):
    zen5, plain = targets.TARGETS["x86-zen5"], targets.TARGETS["x86-avx512-vnni"]
    monkeypatch.setattr(targets, "host_architecture", lambda: "x86_64")
    monkeypatch.setattr(targets, "host_features", lambda: frozenset({*zen5.features, *zen5.marks}))
    assert targets.get_target("x86") is zen5
    for lacking in zen5.marks:
        here = frozenset({*zen5.features, *zen5.marks} - {lacking})
        monkeypatch.setattr(targets, "host_features", lambda here=here: here)
        assert targets.get_target("x86") is plain
        assert not zen5.missing_features()  # what was compiled for it runs here


def test_import_is_light():
    code = "import sys, graphprune.backends.targets; assert not {'tvm', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_misspelt_targets_get_a_suggestion():
    with pytest.raises(TargetError, match="did you mean 'x86-avx512'"):
        targets.get_target("x86-avx51")


def test_extras_of_a_machine(monkeypatch):
    assert set(host.host_extras()) <= set(host.EXTRAS)
    flags = frozenset({"avx512_vnni", "amx_tile", "amx_bf16"})
    monkeypatch.setattr(host, "host_features", lambda: flags)
    assert host.host_extras() == ("avx512-vnni", "amx-bf16")


def test_targets_of_ones_own():
    board = targets.get_target(
        {"base": "x86-avx2", "name": "board", "cpu": "haswell", "options": {"fast-math-nnan": True}}
    )
    assert board.cpu == "haswell" and board.vector_width == 8 and board.options == (("fast-math-nnan", True),)
    assert targets.get_target({"name": "wide", "alignment": 32}).channel_alignment == 32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "x", "vectors": 8}, "no field 'vectors'.*did you mean 'vector_width'"),
        ({"cpu": "haswell"}, "a name of its own"),
        ({"name": "x86-avx2"}, "a name of its own"),
        ({"name": "x", "vector_width": "8"}, "'vector_width'.*must be a int"),
        ({"name": "x", "vector_width": True}, "must be a int"),
        ({"name": "x", "accumulators": 0}, "at least 1"),
        ({"name": "x", "base": "vax"}, "unknown target 'vax'"),
    ],
)
def test_wrong_targets_of_ones_own(given, message):
    with pytest.raises(TargetError, match=message):
        targets.get_target(given)


def test_code_for_another_system_does_not_run_here(monkeypatch):
    monkeypatch.setattr(targets, "host_architecture", lambda: "aarch64")
    missing = targets.get_target("arm-mac").missing_features()
    assert missing == ["the operating system macos"]
    with pytest.raises(TargetError, match="cannot be linked for the triple 'aarch64-none-elf'"):
        system_of("aarch64-none-elf")


def test_code_for_another_architecture_does_not_run_here():
    assert targets.missing_here("riscv64", ()) == ["riscv64 instructions"]
    assert host.architecture("ARM64") == "aarch64"
