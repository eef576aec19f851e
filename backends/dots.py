"""Dot products of four bytes: one instruction multiplies and adds four pairs per lane of int32.

A sum over channels is taken four at a time. The four bytes of one pixel go to all lanes; each lane multiplies them by
its own four weights. All sums are exact.

```python
accumulate_dots(schedule, block, outer=2, spatial=7, unrolled=1, instruction="avx512-vnni")
```
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from tvm import s_tir

from .tiling import unroll, vectorize

QUAD = 4


@dataclass(frozen=True)
class Instruction:
    """The type of the left operand's bytes (weights are int8), int32 lanes, and LLVM's name for it."""

    data: str
    lanes: int
    intrinsic: str


INSTRUCTIONS: dict[str, Instruction] = {
    "avx512-vnni": Instruction("uint8", 16, "llvm.x86.avx512.vpdpbusd.512"),
    "avx-vnni": Instruction("uint8", 8, "llvm.x86.avx512.vpdpbusd.256"),
    "sdot": Instruction("int8", 4, "llvm.aarch64.neon.sdot.v4i32.v16i8"),
}


def takes_bytes(schedule: s_tir.Schedule, sums: Any) -> bool:
    """Whether a block of sums multiplies bytes."""
    return str(schedule.get(sums).writes[0].source.dtype) == "int32"


def in_quads(packed: np.ndarray) -> np.ndarray:
    """Weights `(..., inner, lanes)` as `(..., inner / 4, lanes, 4)`."""
    *lead, inner, lanes = packed.shape
    return np.ascontiguousarray(packed.reshape(*lead, inner // QUAD, QUAD, lanes).swapaxes(-1, -2))


@cache
def _registered(name: str) -> str:
    """The name under which TVM's scheduler knows an instruction: what it computes, and the call that does."""
    from tvm.script import tirx as T

    instruction = INSTRUCTIONS[name]
    lanes, data, intrinsic = instruction.lanes, instruction.data, instruction.intrinsic
    numbers, all_bytes, all_weights = f"int32x{lanes}", f"{data}x{lanes * QUAD}", f"int8x{lanes * QUAD}"
    four = f"{data}x{QUAD}"

    @T.prim_func(s_tir=True)
    def meaning(a: T.handle, b: T.handle, c: T.handle) -> None:
        left = T.match_buffer(a, (4,), dtype=data, offset_factor=1)
        right = T.match_buffer(b, (lanes, 4), dtype="int8", offset_factor=1)
        sums = T.match_buffer(c, (lanes,), dtype="int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(sums[0:lanes], left[0:4], right[0:lanes, 0:4])
            T.writes(sums[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        sums[vi] = sums[vi] + T.cast(left[vk], dtype="int32") * T.cast(right[vi, vk], dtype="int32")

    @T.prim_func(s_tir=True)
    def call(a: T.handle, b: T.handle, c: T.handle) -> None:
        left = T.match_buffer(a, (4,), dtype=data, offset_factor=1)
        right = T.match_buffer(b, (lanes, 4), dtype="int8", offset_factor=1)
        sums = T.match_buffer(c, (lanes,), dtype="int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(sums[0:lanes], left[0:4], right[0:lanes, 0:4])
            T.writes(sums[0:lanes])
            sums[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(intrinsic),
                sums.vload([0], dtype=numbers),
                T.reinterpret(T.broadcast(T.reinterpret(left.vload([0], four), dtype="int32"), lanes), dtype=all_bytes),
                right.vload([0, 0], dtype=all_weights),
                dtype=numbers,
            )

    full = f"graphprune.dots.{name}"
    s_tir.TensorIntrin.register(full, meaning, call, override=True)
    return full


def accumulate_dots(
    schedule: s_tir.Schedule, block: Any, outer: int, spatial: int, unrolled: int, instruction: str
) -> None:
    """Turn a reduction by bytes that sits inside a tile loop into accumulators held in registers.

    The block's loops are `outer` loops of the tile, `spatial` loops over the tile (the last one the lanes), and the
    reduction loops: the last one over four bytes, of those before it the innermost `unrolled` are unrolled.
    """
    loops = schedule.get_loops(block)[outer:]
    tile, sums, byte = loops[:spatial], loops[spatial:-1], loops[-1]
    schedule.reorder(*sums, *tile, byte)
    unroll(schedule, *tile[:-1])
    if unrolled:
        unroll(schedule, *sums[-unrolled:])
    zeros = schedule.get_loops(schedule.decompose_reduction(block, sums[0]))[outer:]
    unroll(schedule, *zeros[:-1])
    vectorize(schedule, zeros[-1])
    schedule.tensorize(tile[-1], _registered(instruction))
