"""What a warp does with fragments on tensor cores, as TVM knows it: load, multiply and add, fill with zeros, store.

A fragment is a matrix that the threads of a warp hold together. Each operation is a pair of functions: what it
computes, which the schedule looks for in a kernel, and the instruction that takes its place. They are texts, because
TVM's own take a minute to be defined where many modules are loaded.
"""

import re
from functools import cache

from tvm import s_tir
from tvm.script.parser.core.entry import parse

# Rows and columns of a result, and how many products are added up at a time.
SIDE, DEPTH = 16, 16
SHARED = "shared"

_HEAD = """
@T.prim_func(s_tir=True)
def main({parameters}) -> None:
{buffers}
    with T.sblock("root"):
        T.reads({reads})
        T.writes({writes})
"""
_BUFFER = (
    '{name} = T.match_buffer({handle}, ({m}, {n}), "{dtype}", align=64, offset_factor={n}, scope="{scope}"{strides})'
)
_INDEX = (
    "{name}.elem_offset // {name}_stride // {m} * ({name}_stride // {n}) + {name}.elem_offset % {name}_stride // {n}"
)


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


def _load(side: str, m: int, n: int, dtype: str) -> tuple:
    source, goal = _Matrix("A", m, n, dtype, SHARED), _Matrix("C", m, n, dtype, scope_of(side, dtype))
    place = f'A.access_ptr("r", ptr_type="{dtype}"), A_stride, "row_major"'
    return _copied(
        source, goal, f'T.tvm_load_matrix_sync(C.data, {SIDE}, {SIDE}, {DEPTH}, {goal.index}, {place}, dtype="void")'
    )


def _store() -> tuple:
    source = _Matrix("A", SIDE, SIDE, "float32", "wmma.accumulator")
    goal = _Matrix("C", SIDE, SIDE, "float32", SHARED)
    place = 'C.access_ptr("w", ptr_type="float32"), C_stride, "row_major"'
    return _copied(
        source,
        goal,
        f'T.tvm_store_matrix_sync(A.data, {SIDE}, {SIDE}, {DEPTH}, {source.index}, {place}, dtype="void")',
    )


def _fill() -> tuple:
    goal = _Matrix("C", SIDE, SIDE, "float32", "wmma.accumulator")
    loops = (
        f"for i, j in T.grid({SIDE}, {SIDE}):\n"
        '    with T.sblock("init"):\n'
        '        vi, vj = T.axis.remap("SS", [i, j])\n'
        "        C[vi, vj] = T.float32(0)"
    )
    instruction = f'T.tvm_fill_fragment(C.data, {SIDE}, {SIDE}, {DEPTH}, {goal.index}, T.float32(0), dtype="void")'
    return _pair([goal], [], goal, loops, instruction)


def _multiply(dtype: str, swapped: bool) -> tuple:
    """A product of two fragments; `swapped` where the kernel names the right factor first."""
    left = _Matrix("A", SIDE, DEPTH, dtype, scope_of("a", dtype))
    right = _Matrix("B", DEPTH, SIDE, dtype, scope_of("b", dtype))
    total = _Matrix("C", SIDE, SIDE, "float32", "wmma.accumulator")
    order = [right, left] if swapped else [left, right]
    factors = ("B[vk, vj]", "A[vi, vk]") if swapped else ("A[vi, vk]", "B[vk, vj]")
    wide = [factor if dtype == "float32" else f'T.Cast("float32", {factor})' for factor in factors]
    loops = (
        f"for i, j, k in T.grid({SIDE}, {SIDE}, {DEPTH}):\n"
        '    with T.sblock(""):\n'
        '        vi, vj, vk = T.axis.remap("SSR", [i, j, k])\n'
        f"        C[vi, vj] = C[vi, vj] + {' * '.join(wide)}"
    )
    places = ", ".join(f"{matrix.fields['name']}.data, {matrix.index}" for matrix in (total, left, right, total))
    return _pair([*order, total], [total, *order], total, loops, f'T.tvm_mma_sync({places}, dtype="void")')


def scope_of(side: str, dtype: str) -> str:
    """Where fragments of the left (`a`) or right (`b`) factor live."""
    # TVM knows no factors of 32 bits; `with_tf32` gives them their type where the code is compiled.
    return "wmma.accumulator" if dtype == "float32" else f"wmma.matrix_{side}"


@cache
def operations(dtype: str) -> dict[str, str]:
    """The names of the operations on fragments of such numbers, known to TVM from now on."""
    made = {
        "load_a": _load("a", SIDE, DEPTH, dtype),
        "load_b": _load("b", DEPTH, SIDE, dtype),
        "multiply": _multiply(dtype, swapped=False),
        "multiply_swapped": _multiply(dtype, swapped=True),
        "init": _fill(),
        "store": _store(),
    }
    names = {}
    for name, pair in made.items():
        names[name] = f"graphprune.{name}.{dtype}"
        s_tir.TensorIntrin.register(names[name], *pair, override=True)
    return names


_TF32 = """
#include <mma.h>
namespace nvcuda { namespace wmma {
// Two factors of depth 8 stand side by side, because tensor cores multiply TensorFloat-32 in steps of 8.
template <typename Use> struct tf32_pair { fragment<Use, 16, 16, 8, precision::tf32, row_major> part[2]; };
template <typename Use> __device__ __forceinline__ void load_matrix_sync(
    tf32_pair<Use>& to, const float* from, unsigned stride) {
  const unsigned step = is_left(to) ? 8 : 8 * stride;
  for (int i = 0; i < 2; ++i) {
    load_matrix_sync(to.part[i], from + i * step, stride);
    for (int j = 0; j < to.part[i].num_elements; ++j) to.part[i].x[j] = __float_to_tf32(to.part[i].x[j]);
  }
}
typedef fragment<accumulator, 16, 16, 8, float> tf32_sum;
__device__ __forceinline__ void mma_sync(
    tf32_sum& to, const tf32_pair<matrix_a>& a, const tf32_pair<matrix_b>& b, const tf32_sum& from) {
  mma_sync(to, a.part[0], b.part[0], from);
  mma_sync(to, a.part[1], b.part[1], to);
}
} }
"""
_SIDES = """
namespace nvcuda { namespace wmma {
template <typename Use> struct tf32_pair;
__device__ __forceinline__ bool is_left(const tf32_pair<matrix_a>&) { return true; }
__device__ __forceinline__ bool is_left(const tf32_pair<matrix_b>&) { return false; }
} }
"""
_PRODUCT = re.compile(r"wmma::mma_sync\((\w+)\[[^;]*?\], (\w+)\[\w+\], (\w+)\[")


def with_tf32(source: str) -> str:
    """CUDA C in which the factors of products of float32 fragments are TensorFloat-32."""
    if not _PRODUCT.search(source):
        return source
    head, *kernels = re.split(r'(?=extern "C" __global__)', source)
    for place, kernel in enumerate(kernels):
        for _, left, right in set(_PRODUCT.findall(kernel)):
            for name, side in ((left, "a"), (right, "b")):
                kernel = re.sub(
                    rf"nvcuda::wmma::fragment<[^>]*> {name}\[",
                    f"nvcuda::wmma::tf32_pair<nvcuda::wmma::matrix_{side}> {name}[",
                    kernel,
                )
        kernels[place] = kernel.replace("accumulator, 16, 16, 16, float>", "accumulator, 16, 16, 8, float>")
    include, sides = _TF32.split("namespace", 1)
    return head + include + _SIDES + "namespace" + sides + "".join(kernels)
