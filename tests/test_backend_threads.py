"""How many threads a call uses, and that it leaves the caller's own threads alone."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from graphprune.backends import processors
from graphprune.backends.artifact import load
from graphprune.backends.compiler import compile_model

# Prints how many threads beside the caller have computed anything, per number of threads; and the caller's processors.
WATCH = """
import json, os, sys, time
import numpy as np
from graphprune.backends.artifact import load

def busy():
    times = {}
    for task in os.listdir("/proc/self/task"):
        fields = open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()
        times[task] = int(fields[11])
    return times

before, found = os.sched_getaffinity(0), []
x = np.ones((1, 32, 64, 64), np.float32)
for threads in map(int, sys.argv[2:]):
    artifact = load(sys.argv[1], threads=threads)
    artifact(x)
    time.sleep(0.5)  # workers look around for a while before they sleep
    start = busy()
    for _ in range(300):
        artifact(x)
    end = busy()
    worked = [task for task in end if end[task] - start.get(task, 0) > 1 and int(task) != os.getpid()]
    found.append(len(worked))
print(json.dumps([found, os.sched_getaffinity(0) == before]))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    model, x = nn.Conv2d(32, 32, 3, padding=1), torch.randn(1, 32, 64, 64)
    path = tmp_path_factory.mktemp("threads") / "conv.gp"
    compile_model(model, "x86", x).save(path)
    return path


def watch(path, *threads):
    # Without the variables that would change how many workers the runtime starts.
    environment = {key: value for key, value in os.environ.items() if key not in ("TVM_NUM_THREADS", "OMP_NUM_THREADS")}
    command = [sys.executable, "-c", WATCH, str(path), *map(str, threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_calls_use_as_many_threads_as_asked(path):
    # Two after one: the pool of a thread does not grow, so it must have been large enough.
    found, unbound = watch(path, 1, 2, 1)
    assert found == [0, 1, 0]
    assert unbound, "the calling thread was bound to fewer processors"


def test_default_is_one_thread_per_core(monkeypatch, tmp_path):
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    monkeypatch.setattr(processors, "processors", lambda: [0, 1, 2, 3, 8])
    monkeypatch.setattr(processors, "_CPUS", tmp_path)
    monkeypatch.setattr(processors, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(processors.os, "cpu_count", lambda: 16)
    assert processors.default_threads() == 5  # nothing is known about cores
    for number, core in enumerate((0, 0, 1, 1)):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text("0\n")
        (folder / "core_id").write_text(f"{core}\n")
    assert processors.default_threads() == 3
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    assert processors.default_threads() == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processors.default_threads() == 3
    monkeypatch.setenv("TVM_NUM_THREADS", "7")
    assert processors.default_threads() == 7
    monkeypatch.setenv("TVM_NUM_THREADS", "none")
    assert processors.default_threads() == 3


def test_the_number_of_threads_is_told(path):
    assert load(path, threads=2).threads == 2 and load(path).threads is None


@pytest.mark.parametrize("given", [None, "77"])
def test_workers_sleep_soon_after_a_call_unless_told_otherwise(path, given):
    code = "import os, sys; from graphprune.backends.artifact import load; load(sys.argv[1]); "
    code += "print(os.environ[sys.argv[2]])"
    name = "TVM_THREAD_POOL_SPIN_COUNT"
    environment = {key: value for key, value in os.environ.items() if key != name} | ({name: given} if given else {})
    command = [sys.executable, "-c", code, str(path), name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert int(done.stdout) == int(given or 6000)
