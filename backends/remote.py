"""Measures artifacts on other machines through TVM's remote procedure calls.

There, `TVM_NUM_THREADS=4 python -m tvm.exec.rpc_server --host 0.0.0.0 --port 9090` waits, from the package apache-tvm.
Whoever reaches that port can run code on the machine: keep it inside a network that you trust, and stop it afterwards.

```python
measured = measure(read("resnet-arm.gp"), "raspberrypi.local:9090")
measured.seconds, measured.outputs
```
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OptionError, TargetError
from . import batches
from .artifact import Artifact
from .imported import brief

_FUNCTION = "main"


@dataclass(frozen=True)
class Measured:
    """`seconds` of every call, and the tensors that the model returned, without their structure."""

    seconds: tuple[float, ...]
    outputs: tuple[NDArray[Any], ...]

    @property
    def median(self) -> float:
        """The median of the calls."""
        return median(self.seconds)


def measure(
    artifact: Artifact,
    address: str,
    inputs: Sequence[NDArray[Any]] | None = None,
    repeats: int = 20,
) -> Measured:
    """Run an artifact on the machine at `address`, such as `raspberrypi.local:9090`, and measure its calls there.

    `inputs` are arrays in the order of `artifact.inputs` (default: random numbers). How many threads a call uses is a
    matter of the server: `TVM_NUM_THREADS`, where it is started. An artifact with `batch_sizes` runs its smallest one.

    Raises `OptionError` for an address of another form, `InputError` for inputs that do not fit, and `TargetError`
    where nobody answers, or the machine cannot run the code.
    """
    host, port = _parse(address)
    if "weights" in artifact.manifest:
        raise OptionError(
            "an artifact with separate weights cannot be measured elsewhere: compile it with embedded ones"
        )
    arrays = _checked(artifact, random_inputs(artifact) if inputs is None else inputs)
    name = batches.entry_point(artifact.batch_sizes[0]) if artifact.batch_sizes else _FUNCTION
    found = _in_a_session(host, port, lambda session: _run(session, artifact.library, name, arrays, repeats))
    # The server answers one client after the other, and this one stays as long as anything holds its session.
    gc.collect()
    if isinstance(found, str):
        raise TargetError(f"the machine at {address} could not run code for {artifact.target}: {found}")
    return found


def _in_a_session(host: str, port: int, work: Callable[[Any], Measured]) -> "Measured | str":
    """What some work with a session gives, or what went wrong with it; errors themselves would hold the session."""
    session = _connect(host, port)
    try:
        return work(session)
    except Exception as error:
        return brief(error)


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise OptionError(f"an address looks like raspberrypi.local:9090 or 192.168.1.20:9090, not {address!r}")
    return host.strip("[]"), int(port)


def random_inputs(artifact: Artifact) -> list[NDArray[Any]]:
    """Something to run an artifact with: random numbers, and ones where it takes integers."""
    random = np.random.default_rng(0)
    return [
        random.standard_normal(spec.shape).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else np.ones(spec.shape, spec.dtype)
        for spec in artifact.inputs
    ]


def _checked(artifact: Artifact, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The inputs, contiguous; raises `InputError` where they are not what the model takes."""
    arrays = [np.ascontiguousarray(array) for array in inputs]
    found = [(array.shape, str(array.dtype)) for array in arrays]
    wanted = [(spec.shape, spec.dtype) for spec in artifact.inputs]
    if found != wanted:
        raise InputError(f"expected inputs of shapes and types {wanted}, got {found}")
    return arrays


def _connect(host: str, port: int) -> Any:
    from tvm import rpc

    try:
        return rpc.connect(host, port, session_timeout=600)
    except Exception as error:
        raise TargetError(
            f"nobody answers at {host}:{port} ({brief(error)}); start the server there: "
            f"python -m tvm.exec.rpc_server --host 0.0.0.0 --port {port}"
        ) from error


def _run(session: Any, library: bytes, name: str, arrays: list[NDArray[Any]], repeats: int) -> Measured:
    """Upload, call once, measure, and fetch what the last call returned."""
    import tvm
    from tvm.runtime.vm import VirtualMachine

    session.upload(bytearray(library), "graphprune.so")
    try:
        device = session.cpu()
        machine = VirtualMachine(session.load_module("graphprune.so"), device)
        machine.set_input(name, *(tvm.runtime.tensor(array, device) for array in arrays))
        clock = machine.time_evaluator("invoke_stateful", device, number=1, repeat=repeats)
        seconds = tuple(float(value) for value in clock(name).results)
        outputs = _flat(machine.get_outputs(name))
    finally:
        session.remove("graphprune.so")
    return Measured(seconds, tuple(output.numpy() for output in outputs))


def _flat(value: Any) -> list[Any]:
    """All tensors of nested tuples."""
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, (tuple, list)) else [value]
