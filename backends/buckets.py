"""Imports a model once per batch size and joins the results into one module, whose functions share their weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ..errors import CompileError, ExampleInputsError, OptionError, UnsupportedModelError
from .artifact import Artifact
from .batches import entry_point
from .bits import BFLOAT16
from .imported import Imported
from .rewriting import Rewriter, is_straight
from .specs import TensorSpec


def checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Distinct batch sizes in ascending order; raises `OptionError` for anything but positive integers."""
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Sequence) or not sizes:
        raise OptionError(f"batch_sizes must be a sequence of sizes such as (1, 4, 16), not {sizes!r}")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise OptionError(f"batch_sizes must be positive integers, not {size!r}")
    return tuple(sorted(set(sizes)))


def import_buckets(importer: Any, model: Any, example_inputs: Any, sizes: tuple[int, ...]) -> Imported:
    """The model for every batch size in one module; its functions are called `main_1`, `main_4`, ..."""
    model, example_inputs = importer.prepare_batches(model, example_inputs)
    parts = [importer.import_model(model, sized(example_inputs, size)) for size in sizes]
    # With one size, a second import shows which tensors grow with the batch.
    witness = parts[1] if len(parts) > 1 else importer.import_model(model, sized(example_inputs, sizes[0] + 1))
    inputs = [replace(a, batched=a.shape != b.shape) for a, b in zip(parts[0].inputs, witness.inputs, strict=True)]
    if not any(spec.batched for spec in inputs):
        raise ExampleInputsError("no input carries the batch in its first axis")
    for spec in inputs:
        if spec.dtype == BFLOAT16:
            raise UnsupportedModelError(
                f"input {spec.name!r} is bfloat16, which batch_sizes does not take; compile for one batch size"
            )
    outputs = [
        _output(a, b, sizes[0], witness.inputs, inputs) for a, b in zip(parts[0].outputs, witness.outputs, strict=True)
    ]
    modules = [_renamed(part.module, size) for part, size in zip(parts, sizes, strict=True)]
    functions = {name: function for module in modules for name, function in module.functions_items()}
    return replace(
        parts[0],
        module=tvm.IRModule(functions),
        inputs=inputs,
        outputs=outputs,
        batch_sizes=sizes,
        examples=_one(example_inputs, inputs),
    )


def sized(example_inputs: Any, size: int) -> Any:
    """The examples with `size` samples: rows of the given ones, over and over."""
    if isinstance(example_inputs, Mapping):
        values = sized(tuple(example_inputs.values()), size)
        return dict(zip(example_inputs, values, strict=True))
    if not isinstance(example_inputs, (tuple, list)):
        return sized((example_inputs,), size)[0]
    shapes = [tuple(getattr(value, "shape", ())) for value in example_inputs]
    count = next((int(shape[0]) for shape in shapes if shape), 0)
    if count == 0:
        raise ExampleInputsError("batch_sizes needs example_inputs whose first axis is the batch")
    rows = [row % count for row in range(size)]
    return tuple(
        value[rows] if shape and int(shape[0]) == count else value
        for value, shape in zip(example_inputs, shapes, strict=True)
    )


def _one(example_inputs: Any, inputs: list[TensorSpec]) -> tuple[np.ndarray, ...]:
    """Example inputs of one sample, in the order of the inputs."""
    examples = sized(example_inputs, 1)
    if isinstance(examples, Mapping):
        examples = tuple(examples[spec.name] for spec in inputs)
    elif not isinstance(examples, (tuple, list)):
        examples = (examples,)
    values = [value.detach().numpy() if hasattr(value, "detach") else value for value in examples]
    return tuple(np.array(value, dtype=spec.dtype) for value, spec in zip(values, inputs, strict=True))


def check_independence(artifact: Artifact, examples: tuple[np.ndarray, ...]) -> None:
    """Refuse a model whose samples see each other: taking a batch apart would change its results.

    The first and the last sample of a batch must come out bit by bit the same whatever the others are.
    """
    size = next((size for size in artifact.batch_sizes if size > 1), None)
    if size is None:
        return
    batched = [spec.batched for spec in artifact.inputs]

    def variant(places: list[int]) -> list[list[bytes]]:
        """The bytes of every output, per sample, where the samples at these places are others."""
        values = []
        for example, axis in zip(examples, batched, strict=True):
            whole = np.repeat(example, size, axis=0) if axis else example
            if axis:
                whole[places] = _other(whole[places])
            values.append(whole)
        results = _leaves(artifact(*values))
        return [[np.ascontiguousarray(result[row]).tobytes() for result in results] for row in range(size)]

    first, last = variant([0]), variant([size - 1])
    changed, same = variant(list(range(1, size))), variant([])
    if same[1:] != first[1:] or same[:-1] != last[:-1] or changed[0] != same[0]:
        raise CompileError(
            "the samples of a batch depend on each other, so that batches cannot be taken apart; compile for one batch "
            "size by example_inputs alone"
        )


def _other(samples: np.ndarray) -> np.ndarray:
    """Samples that differ from the given ones and are as valid."""
    if np.issubdtype(samples.dtype, np.floating):
        return samples * np.float32(1.5) + np.float32(0.25)
    return np.flip(samples, -1) if samples.ndim > 1 else samples


def _leaves(output: Any) -> list[np.ndarray]:
    """All arrays of a nested output."""
    if isinstance(output, np.ndarray):
        return [output]
    items = output.values() if isinstance(output, Mapping) else output or ()
    return [leaf for item in items for leaf in _leaves(item)]


def _output(
    one: TensorSpec, other: TensorSpec, size: int, witness: list[TensorSpec], inputs: list[TensorSpec]
) -> TensorSpec:
    """An output whose first axis is the batch and nothing else depends on it."""
    more = next(b.shape[0] for a, b in zip(inputs, witness, strict=True) if a.batched)
    if one.shape[:1] != (size,) or other.shape[:1] != (more,) or one.shape[1:] != other.shape[1:]:
        raise CompileError(
            f"the output {one.name!r} has the shape {list(one.shape)} for {size} sample(s) and {list(other.shape)} for "
            f"{more}: it does not carry the batch in its first axis, so that batches cannot be taken apart; "
            "compile for one batch size by example_inputs alone"
        )
    return replace(one, batched=True)


class _Renaming(Rewriter):
    """Copies a function that calls others under new names."""

    names: Mapping[tvm.ir.GlobalVar, tvm.ir.GlobalVar]

    def expression(self, expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, tvm.ir.GlobalVar):
            return self.names[expr]
        return super().expression(expr)


def _renamed(module: tvm.IRModule, size: int) -> tvm.IRModule:
    """The module with the batch size in every name."""
    main, name = module["main"], entry_point(size)
    if not is_straight(main):
        raise CompileError("a model with control flow can be compiled for one batch size only: leave out batch_sizes")
    others = {variable: function for variable, function in module.functions_items() if not function.same_as(main)}
    names = {old: tvm.ir.GlobalVar(f"{old.name_hint}_{size}") for old in others}
    rest = tvm.IRModule({names[old]: function for old, function in others.items()})
    rewriter = type("Renaming", (_Renaming,), {"names": names})(rest, main.with_attr("global_symbol", name))
    return rewriter.run(tvm.ir.GlobalVar(name))
