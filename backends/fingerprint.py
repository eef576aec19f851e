"""A name for what was compiled: equal models give equal fingerprints, and a changed weight gives another one.

The SHA-256 of the signature, the text of the imported program without its constants, and the numbers of each constant
in the order of the program. Targets and options do not matter. The text is TVM's: fingerprints of different versions
of the tools are not to be compared.
"""

import hashlib
import json

import numpy as np
import tvm
from tvm import relax

from .imported import Imported
from .specs import describe


def fingerprint(imported: Imported) -> str:
    """The fingerprint of an imported model, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    signature = [[describe(spec) for spec in specs] for specs in (imported.inputs, imported.outputs)]
    digest.update(json.dumps([signature, imported.tree, list(imported.batch_sizes)], sort_keys=True).encode())
    for name, function in sorted(imported.module.functions_items(), key=lambda item: item[0].name_hint):
        # Functions of one module may call each other: each is printed by itself, and names the others.
        digest.update(f"\n{name.name_hint}\n{function.script(show_meta=False)}\n".encode())
        for constant in _constants(function):
            value = np.ascontiguousarray(constant.value.numpy())
            digest.update(f"{constant.ty.dtype}{list(value.shape)}".encode())
            digest.update(value.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _constants(function: tvm.ir.BaseFunc) -> list[tvm.ir.GenericConst]:
    """Every tensor in a function, in the order in which it is read."""
    found: list[tvm.ir.GenericConst] = []

    def look(expr: object) -> None:
        if isinstance(expr, tvm.ir.GenericConst) and isinstance(expr.ty, relax.TensorType):
            found.append(expr)

    if isinstance(function, relax.Function):
        relax.analysis.post_order_visit(function, look)
    return found
