"""Small ONNX models with parts that are carried through untouched: entries of the table in onnx_networks.py."""

import numpy as np

from onnx_build import Pattern, net

X = "float[N,6] x"
ENDS = {"w1": (6, 32), "w2": (32, 8), "w3": (8, 4)}
HEAD = "a = Gemm(x, w1) r = Relu(a) b = Gemm(r, w2)"
SCALED = """
<domain: "local", opset_import: ["": 17]> Scaled (p, q) => (o) { s = Mul(p, q) t = ReduceSum<keepdims=1>(s) o = Add(s, t) }
"""


def beside(middle: str, locked: str, node: str = "m", opset: int = 17, functions: str = "", **weights) -> Pattern:
    """A hidden layer that goes, and before the last one something that makes `m` of `b` and stays as it is."""
    body = f"{HEAD} {middle} y = Gemm(m, w3)"
    out = "float[N,4] y" if "strange" in middle else "y"
    return net(X, body, opset=opset, out=out, functions=functions, **(ENDS | weights)).but(
        locked=(locked,), untouched=(node,)
    )


IF = "m = If<then_branch = then_graph () => (float[N,8] p) { p = Tanh(b) }, else_branch = else_graph () => (float[N,8] q) { q = Mul(b, inner) }>(k)"
LOOP = "m = Loop<body = step (int64 i, bool go, float[N,8] state) => (bool on, float[N,8] next) { on = Identity(go) next = Tanh(state) }>(count, yes, b)"
SCAN = "m = Scan<num_scan_inputs=1, body = step (float[8] row) => (float[8] out) { out = Tanh(row) }>(b)"

NETWORKS = {
    "if": lambda: beside(f"t = ReduceSum<keepdims=0>(b) k = Greater(t, zero) {IF}", "If", zero=0.0, inner=(8,)),
    "if_constant": lambda: beside(IF, "If", k=np.array(True), inner=(8,)),
    "if_reads_wide": lambda: net(X, "a = Gemm(x, w1) r = Relu(a) m = If<then_branch = t () => (float[N,32] p) { p = Tanh(r) }, else_branch = e () => (float[N,32] q) { q = Neg(r) }>(k) b = Gemm(m, w2) s = Relu(b) y = Gemm(s, w3)", k=np.array(True), w1=(6, 32), w2=(32, 48), w3=(48, 4)).but(locked=("If",), untouched=("m",)),
    "loop": lambda: beside(LOOP, "Loop", count=3, yes=np.array(True)),
    "scan": lambda: beside(SCAN, "Scan"),
    "function": lambda: beside("m = local.Scaled(b, factor)", "Scaled", functions=SCALED, factor=(8,)),
    "unknown_domain": lambda: beside("m = test.strange.Strange<power=2>(b)", "Strange"),
    "hardmax": lambda: beside("m = Hardmax(b)", "ardmax"),
    "cum_sum": lambda: beside("m = CumSum(b, one)", "", one=1),
    "top_k": lambda: beside("m, i = TopK(b, eight)", "TopK", eight=[8]),
    "reverse_sequence": lambda: beside("u = Unsqueeze(b, zeros) p = ReverseSequence<batch_axis=0, time_axis=2>(u, n) m = Squeeze(p, zeros)", "ReverseSequence", node="p", zeros=[0], n=[8]),
    "random_shift": lambda: beside("c = Compress<axis=1>(b, k) m = Concat<axis=1>(c, c)", "Compress", node="c", k=np.array([True, False] * 4)),
    "dft": lambda: beside("u = Unsqueeze(b, tail) f = DFT<axis=1>(u) g0 = Gather<axis=2>(f, zero) m = Identity(g0)", "DFT", node="f", tail=[2], zero=0),
    "sequence": lambda: beside("s = SequenceConstruct(b, b) m = SequenceAt(s, zero)", "Sequence", node="s", zero=0),
}  # fmt: skip
