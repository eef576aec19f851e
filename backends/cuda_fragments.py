"""What a warp does with fragments on tensor cores, as TVM knows it: load, multiply and add, fill with zeros, store.

A fragment is a matrix that the threads of a warp hold together. Each operation is a pair of functions: what it computes,
which the schedule looks for in a kernel, and the instruction that takes its place. They are texts, because TVM's own take
a minute to be defined where many modules are loaded.
"""

from functools import cache

from tvm import s_tir
from tvm.script.parser.core.entry import parse

SIDE, SHARED = 16, "shared"

_HEAD = """
@T.prim_func(s_tir=True)
def main({parameters}) -> None:
{buffers}
    with T.sblock("root"):
        T.reads({reads})
        T.writes({writes})
"""
_BUFFER = '{name} = T.match_buffer({handle}, ({m}, {n}), "{dtype}", align=64, offset_factor={n}, scope="{scope}"{strides})'
_INDEX = "{name}.elem_offset // {name}_stride // {m} * ({name}_stride // {n}) + {name}.elem_offset % {name}_stride // {n}"


class _Matrix:
    """A parameter of an operation."""

    def __init__(self, name: str, m: int, n: int, dtype: str, scope: str) -> None:
        self.fields = {"name": name, "handle": name.lower(), "m": m, "n": n, "dtype": dtype, "scope": scope}
        self.region = f"{name}[0:{m}, 0:{n}]"
        # Which fragment of an array of fragments it is.
        self.index = _INDEX.format(name=name, m=m, n=n)

    def declared(self, with_strides: bool) -> list[str]:
        """The lines that declare it, with its strides where the instruction needs them."""
        name = self.fields["name"]
        lines = [f"{name}_stride = T.int32()", f"{name}_unit = T.int32()"] if with_strides else []
        strides = f", strides=[{name}_stride, {name}_unit]" if with_strides else ""
        return [*lines, _BUFFER.format(**self.fields, strides=strides)]


def _pair(matrices: list[_Matrix], reads: list[_Matrix], write: _Matrix, loops: str, instruction: str) -> tuple:
    """The two functions of an operation."""
    parameters = ", ".join(f"{matrix.fields['handle']}: T.handle" for matrix in matrices)
    functions = []
    for with_strides, body in ((False, loops), (True, f"T.evaluate({instruction})")):
        buffers = [f"    {line}" for matrix in matrices for line in matrix.declared(with_strides)]
        text = _HEAD.format(
            parameters=parameters,
            buffers="\n".join(buffers),
            reads=", ".join(matrix.region for matrix in reads),
            writes=write.region,
        )
        functions.append(parse(text + "".join(f"        {line}\n" for line in body.splitlines())))
    return tuple(functions)


def _copied(source: _Matrix, goal: _Matrix, instruction: str) -> tuple:
    loops = (
        f"for i, j in T.grid({source.fields['m']}, {source.fields['n']}):\n"
        '    with T.sblock("copy"):\n'
        '        vi, vj = T.axis.remap("SS", [i, j])\n'
        "        C[vi, vj] = A[vi, vj]"
    )
    return _pair([source, goal], [source], goal, loops, instruction)


def _load(side: str, m: int, n: int, depth: int, dtype: str) -> tuple:
    source, goal = _Matrix("A", m, n, dtype, SHARED), _Matrix("C", m, n, dtype, f"wmma.matrix_{side}")
    place = f'A.access_ptr("r", ptr_type="{dtype}"), A_stride, "row_major"'
    return _copied(
        source, goal, f'T.tvm_load_matrix_sync(C.data, {SIDE}, {SIDE}, {depth}, {goal.index}, {place}, dtype="void")'
    )


def _store(depth: int) -> tuple:
    source = _Matrix("A", SIDE, SIDE, "float32", "wmma.accumulator")
    goal = _Matrix("C", SIDE, SIDE, "float32", SHARED)
    place = 'C.access_ptr("w", ptr_type="float32"), C_stride, "row_major"'
    return _copied(
        source,
        goal,
        f'T.tvm_store_matrix_sync(A.data, {SIDE}, {SIDE}, {depth}, {source.index}, {place}, dtype="void")',
    )


def _fill(depth: int) -> tuple:
    goal = _Matrix("C", SIDE, SIDE, "float32", "wmma.accumulator")
    loops = (
        f"for i, j in T.grid({SIDE}, {SIDE}):\n"
        '    with T.sblock("init"):\n'
        '        vi, vj = T.axis.remap("SS", [i, j])\n'
        "        C[vi, vj] = T.float32(0)"
    )
    instruction = f'T.tvm_fill_fragment(C.data, {SIDE}, {SIDE}, {depth}, {goal.index}, T.float32(0), dtype="void")'
    return _pair([goal], [], goal, loops, instruction)


def _multiply(depth: int, dtype: str, swapped: bool) -> tuple:
    """A product of two fragments; `swapped` where the kernel names the right factor first."""
    left = _Matrix("A", SIDE, depth, dtype, "wmma.matrix_a")
    right = _Matrix("B", depth, SIDE, dtype, "wmma.matrix_b")
    total = _Matrix("C", SIDE, SIDE, "float32", "wmma.accumulator")
    order = [right, left] if swapped else [left, right]
    factors = ("B[vk, vj]", "A[vi, vk]") if swapped else ("A[vi, vk]", "B[vk, vj]")
    wide = [factor if dtype == "float32" else f'T.Cast("float32", {factor})' for factor in factors]
    loops = (
        f"for i, j, k in T.grid({SIDE}, {SIDE}, {depth}):\n"
        '    with T.sblock(""):\n'
        '        vi, vj, vk = T.axis.remap("SSR", [i, j, k])\n'
        f"        C[vi, vj] = C[vi, vj] + {' * '.join(wide)}"
    )
    places = ", ".join(f"{matrix.fields['name']}.data, {matrix.index}" for matrix in (total, left, right, total))
    return _pair([*order, total], [total, *order], total, loops, f'T.tvm_mma_sync({places}, dtype="void")')


def depth_of(dtype: str) -> int:
    """How many products a tensor core adds up at a time."""
    return 8 if dtype == "float32" else 16


@cache
def operations(dtype: str) -> dict[str, str]:
    """The names of the operations on fragments of such numbers, known to TVM from now on."""
    depth = depth_of(dtype)
    made = {
        "load_a": _load("a", SIDE, depth, depth, dtype),
        "load_b": _load("b", depth, SIDE, depth, dtype),
        "multiply": _multiply(depth, dtype, swapped=False),
        "multiply_swapped": _multiply(depth, dtype, swapped=True),
        "init": _fill(depth),
        "store": _store(depth),
    }
    names = {}
    for name, pair in made.items():
        names[name] = f"graphprune.{name}.{dtype}"
        s_tir.TensorIntrin.register(names[name], *pair, override=True)
    return names
