"""The same model in other runtimes, to compare speed with: ONNX Runtime, PyTorch as it is, `torch.compile`.

```python
call = onnx_runtime(model, (x,), threads=1)
call()
```

Every peer runs with its own defaults, but for the number of threads.
"""

import io
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Call = Callable[[], Any]
Inputs = tuple[Any, ...] | Mapping[str, Any]


def onnx_runtime(model: Any, inputs: Inputs, threads: int) -> Call:
    """A module (exported to ONNX first) or an ONNX model in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    source, feed = (_exported if _is_module(model) else _stored)(model, inputs)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    arrays = {name: feed[name] if isinstance(feed, Mapping) else feed[index] for index, name in enumerate(names)}
    return lambda: session.run(None, arrays)


def eager(model: Any, inputs: Inputs) -> Call:
    """A module as PyTorch runs it, in inference mode; threads are those of `torch.set_num_threads`."""
    return _inference(model, inputs)


def inductor(model: Any, inputs: Inputs, freezing: bool) -> Call:
    """A module compiled by `torch.compile`, with its weights frozen into the code or not; compiles at once."""
    import torch

    call = _inference(torch.compile(model, options={"freezing": freezing}), inputs)
    call()
    return call


def _inference(model: Any, inputs: Inputs) -> Call:
    import torch

    def call() -> Any:
        with torch.inference_mode():
            return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)

    return call


def _is_module(model: Any) -> bool:
    return hasattr(model, "named_parameters")


def _exported(model: Any, inputs: Inputs) -> tuple[bytes, list[np.ndarray]]:
    """A module as an ONNX file in memory, and its inputs in order."""
    import torch

    buffer, fused = io.BytesIO(), torch.backends.mha.get_fastpath_enabled()
    positional, named = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), None)
    torch.backends.mha.set_fastpath_enabled(False)  # attention as one operator has no ONNX equivalent
    try:
        torch.onnx.export(model, positional, buffer, kwargs=named, dynamo=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return buffer.getvalue(), [tensor.numpy() for tensor in (*positional, *(named or {}).values())]


def _stored(model: Any, inputs: Inputs) -> tuple[Any, Inputs]:
    """An ONNX model as ONNX Runtime takes it: a path or bytes."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model), inputs
    return model.SerializeToString(), inputs
