"""The same model in other runtimes, to compare speed with: ONNX Runtime, PyTorch as it is, `torch.compile`.

```python
call = onnx_runtime(model, (x,), threads=1)
call()
```

Every peer runs with its own defaults, but for the number of threads.
"""

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]
Inputs = tuple[Any, ...] | Mapping[str, Any]


def programs(model: Any, inputs: Inputs, threads: int, inductor_too: bool = False) -> dict[str, Call]:
    """A model in every other runtime that takes it: a module or an exported program in all, an ONNX model in one.

    Sets the number of threads of PyTorch in this process.
    """
    if hasattr(model, "graph_module"):
        model = model.module()
    calls = {"ONNX Runtime": onnx_runtime(model, inputs, threads)}
    if _is_module(model):
        import torch

        torch.set_num_threads(threads)
        calls["PyTorch"] = eager(model, inputs)
        if inductor_too:
            calls["torch.compile"] = inductor(model, inputs, freezing=True)
    return calls


def onnx_runtime(model: Any, inputs: Inputs, threads: int) -> Call:
    """A module (exported to ONNX first) or an ONNX model in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
        source = _exported(model, inputs) if _is_module(model) else _stored(model, Path(folder))
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = inputs if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
    arrays = {name: np.asarray(feed[name]) for name in names}
    return lambda: session.run(None, arrays)


def eager(model: Any, inputs: Inputs) -> Call:
    """A module as PyTorch runs it, in inference mode; threads are those of `torch.set_num_threads`."""
    return _inference(model, inputs)


def inductor(model: Any, inputs: Inputs, freezing: bool) -> Call:
    """A module compiled by `torch.compile`, with its weights frozen into the code or not; compiles at once."""
    import torch
    from torch._inductor import config

    # The option alone does nothing, but without it a model is not compiled a second time for the other value.
    call = _inference(torch.compile(model, options={"freezing": freezing}), inputs)
    with config.patch(freezing=freezing):
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


def _exported(model: Any, inputs: Inputs) -> bytes:
    """A module as an ONNX file in memory; inputs that are given by name keep their names."""
    import torch

    buffer, fused = io.BytesIO(), torch.backends.mha.get_fastpath_enabled()
    positional, named = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), None)
    torch.backends.mha.set_fastpath_enabled(False)  # attention as one operator has no ONNX equivalent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            torch.onnx.export(model, positional, buffer, kwargs=named, input_names=list(named or ()), dynamo=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return buffer.getvalue()


def _stored(model: Any, folder: Path) -> str | bytes:
    """An ONNX model as ONNX Runtime takes it: a path or bytes."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    if hasattr(model, "SerializeToString"):
        return model.SerializeToString()
    import onnx_ir

    path = folder / "model.onnx"  # weights go beside it: they may be too large for one message
    onnx_ir.save(model, path, external_data="model.weights")
    return os.fspath(path)
