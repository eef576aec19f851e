"""Measuring artifacts on another machine: a server of TVM on this one stands for it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from emulation import need_linker
from graphprune.backends import remote
from graphprune.backends.compiler import compile_model
from graphprune.bench import bench_artifact
from graphprune.errors import InputError, OptionError, TargetError


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server in a process of its own, which is stopped afterwards."""
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-u", "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1"]
    ports = ["--port", str(free_port()), "--port-end", "65535"]
    with open(log, "w") as file:
        # The server has processes of its own: they go together.
        server = subprocess.Popen([*command, *ports], stdout=file, stderr=file, start_new_session=True)
    try:
        yield f"127.0.0.1:{_bound_port(server, log)}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bound_port(server, log) -> int:
    """The port that the server says it listens on."""
    for _ in range(300):
        found = re.search(r"bind to \S+:(\d+)", log.read_text())
        if found:
            return int(found[1])
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the server does not start: {log.read_text()}")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


class Several(nn.Module):
    def forward(self, x, i):
        return {"sum": x + 1, "parts": (x * 2, i + 1)}


def test_a_model_runs_there_and_gives_the_same(address, model):
    x = torch.randn(1, 3, 8, 8)
    artifact = compile_model(model, "x86", x)
    for _ in range(2):  # the server is there for one session after the other
        measured = remote.measure(artifact, address, [x.numpy()], repeats=5)
        assert len(measured.seconds) == 5 and all(0 < seconds < 1 for seconds in measured.seconds)
        assert min(measured.seconds) <= measured.median <= max(measured.seconds)
        np.testing.assert_array_equal(measured.outputs[0], artifact(x).numpy())


def test_several_inputs_and_outputs(address):
    x, i = torch.randn(2, 3), torch.arange(4)
    artifact = compile_model(Several(), "x86", (x, i))
    found = remote.measure(artifact, address, [x.numpy(), i.numpy()], repeats=1).outputs
    for have, want in zip(found, (x + 1, x * 2, i + 1), strict=True):
        np.testing.assert_array_equal(have, want.numpy())


def test_batches_run_at_their_smallest_size(address):
    artifact = compile_model(nn.Linear(3, 2), "x86", torch.randn(1, 3), batch_sizes=(2, 4))
    assert remote.measure(artifact, address, repeats=1).outputs[0].shape == (2, 2)


def test_code_for_another_processor_is_refused_there(address, model, tmp_path):
    need_linker()
    artifact = compile_model(model, "arm", torch.randn(1, 3, 8, 8))
    with pytest.raises(TargetError, match=f"the machine at {address} could not run code for arm"):
        remote.measure(artifact, address)
    artifact = compile_model(model, "x86", torch.randn(1, 3, 8, 8))  # and the server is as well as before
    assert remote.measure(artifact, address, repeats=1).seconds


def test_nobody_answers(model):
    artifact = compile_model(model, "x86", torch.randn(1, 3, 8, 8))
    with pytest.raises(TargetError, match="nobody answers at 127.0.0.1:.*python -m tvm.exec.rpc_server"):
        remote.measure(artifact, f"127.0.0.1:{free_port()}")
    for wrong in ("raspberrypi", "raspberrypi:", ":9090", "pi:http"):
        with pytest.raises(OptionError, match="an address looks like"):
            remote.measure(artifact, wrong)
    with pytest.raises(InputError, match="expected inputs of shapes"):
        remote.measure(artifact, "127.0.0.1:1", [np.zeros((1, 3, 8, 9), np.float32)])


def test_bench_of_an_artifact_here_and_there(address, model, tmp_path):
    path = tmp_path / "model.gp"
    compile_model(model, "x86", torch.randn(1, 3, 8, 8)).save(path)
    with pytest.raises(OptionError, match="TVM_NUM_THREADS"):
        bench_artifact(path, address, threads=2)
    for rpc, threads in ((None, 1), (address, None)):
        found = bench_artifact(path, rpc, 3, threads)
        seconds = found["seconds"]
        assert 0 < seconds["least"] <= seconds["median"] <= seconds["largest"] < 1
        assert found["machine"] == (rpc or "this one") and found["target"].startswith("x86")
