"""Assembly is read as LLVM writes it: functions, the loops in them, and what their instructions are."""

import pytest
import torch
from torch import nn

from emulation import need_linker
from graphprune.backends.artifact import read
from graphprune.backends.assembly import Loop, loops_of
from graphprune.backends.compiler import compile_model

ARM = """
	.text
	.globl	__tvm_ffi_conv
	.type	__tvm_ffi_conv,@function
__tvm_ffi_conv:
.Lfunc_begin0:
	.cfi_startproc
	adrp	x0, lambda.1
	bl	TVMBackendParallelLaunch
	ret
.Lfunc_end0:
	.type	lambda.1,@function
lambda.1:
	mov	w9, wzr
.LBB1_1:
	mov	x10, xzr
.LBB1_2:                                // =>This Inner Loop Header: Depth=2
	ldp	q1, q2, [x10], #32
	ldr	s3, [x11]                       // a scalar
	fmla	v0.4s, v1.4s, v3.s[0]
	fmla	v4.4s, v2.4s, v3.s[0]
	str	q4, [sp, #16]                   // 16-byte Folded Spill
	subs	x12, x12, #1
	b.ne	.LBB1_2
	add	w9, w9, #1
	cmp	w9, #4
	b.ne	.LBB1_1
	ret
__tvm_ffi_plain:
	fmov	s0, #1.0
	ret
"""
X86 = """
sums:
.LBB0_1:
	vmovups	(%rdi,%rax,4), %zmm0
	vbroadcastss	4(%rsi), %zmm1
	vfmadd231ps	64(%rdi){1to16}, %zmm1, %zmm2
	vfmadd231ps	%zmm0, %zmm1, %zmm3
	vmovups	%zmm3, -64(%rsp)                # 64-byte Spill
	prefetcht0	(%rdx)
	leaq	4(%rsi), %rsi
	cmpq	%rax, %rcx
	jne	.LBB0_1
	retq
"""


def test_arm():
    assert loops_of(ARM, "aarch64") == {
        "conv": Loop(instructions=7, vectors=4, products=2, loads=2, stores=1, stack=1),
        "lambda.1": Loop(instructions=7, vectors=4, products=2, loads=2, stores=1, stack=1),
    }
    assert loops_of(ARM, "aarch64")["conv"].share == 2 / 7


def test_x86():
    assert loops_of(X86, "x86_64") == {"sums": Loop(instructions=9, vectors=5, products=2, loads=3, stores=1, stack=1)}


NESTED = """
both:
.LBB0_1:
	vfmadd231ps	%zmm0, %zmm1, %zmm3
	vfmadd231ps	%zmm0, %zmm1, %zmm4
	vfmadd231ps	%zmm0, %zmm1, %zmm5
	jne	.LBB0_1
.LBB0_2:
	xorl	%eax, %eax
.LBB0_3:
	vfmadd231ps	(%rdi), %zmm1, %zmm2
	jne	.LBB0_3
	jne	.LBB0_2
	retq
"""


def test_loops_in_loops_do_more():
    assert loops_of(NESTED, "x86_64") == {"both": Loop(2, vectors=1, products=1, loads=1, stores=0, stack=0)}


def test_other_architectures_are_left_out():
    assert loops_of(ARM, "riscv64") == {}


@pytest.mark.parametrize("target", ["x86", "arm"])
def test_every_kernel_has_a_cost(target, tmp_path):
    """The counts go with the artifact, and belong to its kernels."""
    if target == "arm":
        need_linker()
    model = nn.Sequential(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 7), nn.Softmax(-1))
    artifact = compile_model(model, target, torch.randn(1, 16, 8, 8), examine=True)
    artifact.save(tmp_path / "model.gp")
    cost = read(tmp_path / "model.gp").static_cost()
    assert [kernel.name for kernel in cost.kernels] == [kernel.name for kernel in artifact.static_cost().kernels]
    by_schedule = {kernel.schedule: kernel for kernel in cost.kernels}
    convolution = by_schedule["convolution"]
    assert convolution.macs and convolution.loop.share > 0.4 and convolution.loop.stack == 0
    assert all(kernel.loop is not None for kernel in cost.kernels if kernel.macs)
    assert "convolution 5x5 16->32" in str(cost) and target in str(cost)
    assert cost.to_json()["kernels"][0]["loop"]["products"] > 0
