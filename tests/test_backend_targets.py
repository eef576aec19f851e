"""Targets are found by name, refused politely, and importable without TVM."""

import subprocess
import sys

import pytest

from graphprune.backends import targets
from graphprune.errors import TargetError


def test_best_target_of_this_machine():
    target = targets.get_target("x86")
    assert target.name in targets.TARGETS and not target.missing_features()
    assert target.channel_alignment == target.vector_width
    assert targets.get_target(target) is target


def test_unknown_target_lists_the_known_ones():
    with pytest.raises(TargetError, match="x86-avx2"):
        targets.get_target("vax")


@pytest.mark.parametrize("name", ["arm", "cuda", "arm-neon"])
def test_kinds_that_are_not_built_say_so(name):
    with pytest.raises(TargetError, match="not available in this version"):
        targets.get_target(name)


def test_machine_without_vectors(monkeypatch):
    monkeypatch.setattr(targets, "host_features", lambda: frozenset({"sse2"}))
    with pytest.raises(TargetError, match="avx2"):
        targets.get_target("x86")
    assert targets.get_target("x86-avx2").missing_features()


def test_import_is_light():
    code = "import sys, graphprune.backends.targets; assert not {'tvm', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_misspelt_targets_get_a_suggestion():
    with pytest.raises(TargetError, match="did you mean 'x86-avx512'"):
        targets.get_target("x86-avx51")


def test_extras_of_a_machine(monkeypatch):
    assert set(targets.host_extras()) <= set(targets.EXTRAS)
    flags = frozenset({"avx512_vnni", "amx_tile", "amx_bf16"})
    monkeypatch.setattr(targets, "host_features", lambda: flags)
    assert targets.host_extras() == ("avx512-vnni", "amx-bf16")
