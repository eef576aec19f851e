"""Run Relax programs on this machine's CPU, as TVM compiles them without any help."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from ...equivalence import Precision
from ...errors import VerifyError
from .program import Program
from .spelled import WIDE
from .widen import Widener, is_real, is_wide

SINGLE = Precision("the types it is written in, because it calls code that is not made of operators", 1e-3, 1e-7)
"""For programs that cannot be widened to float64."""


class Runner:
    """A program ready to be run: `runner(feeds)` gives all output tensors, widened to float64 where it can be."""

    def __init__(self, build: Widener) -> None:
        self._entry, self._wide = build.program.entry.name_hint, build.wide
        self._names = list(build.program.inputs)
        self.precision = Precision() if build.wide else SINGLE
        module = build.run()
        self.steps = [name for name, _ in build.seen]
        try:
            self._machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
        except Exception as error:
            line = str(error).strip().splitlines()[-1][:300]
            raise VerifyError(
                f"TVM cannot compile the program to run it ({line}); verify=False goes without"
            ) from error

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All output tensors of one run."""
        given = [feeds[name] for name in self._names]
        arrays = [array.astype(WIDE) if self._wide and is_real(array.dtype) else array for array in given]
        try:
            result = self._machine[self._entry](*(tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays))
        except Exception as error:
            raise VerifyError(f"the program does not run: {str(error).strip().splitlines()[-1][:300]}") from error
        return list(_flat(result))


def _flat(result: Any) -> Iterator[NDArray[Any]]:
    if isinstance(result, tvm.runtime.Tensor):
        yield result.numpy()
    else:
        for item in result:
            yield from _flat(item)


def plain(program: Program, exposed: bool = False) -> Runner:
    """A program as it is."""
    return Runner(Widener(program, exposed, is_wide(program)))
