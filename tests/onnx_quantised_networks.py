"""Small quantised ONNX models: entries of the table in onnx_networks.py."""

import numpy as np

from onnx_build import Pattern, net, random

IMAGE = "float[N,3,8,8] x"
BYTES = "uint8[N,3,8,8] x"


def scales(count: int, seed: int = 0) -> np.ndarray:
    """One scale for each channel."""
    return np.random.default_rng(seed).uniform(0.004, 0.02, count).astype(np.float32)


def weights(shape: tuple[int, ...], kind=np.int8, seed: int = 0) -> np.ndarray:
    """Random integers."""
    limits = np.iinfo(kind)
    return np.random.default_rng(seed).integers(max(limits.min, -100), min(limits.max, 200), shape).astype(kind)


def bias(count: int) -> np.ndarray:
    """A bias of a quantised convolution."""
    return np.random.default_rng(5).integers(-400, 400, count).astype(np.int32)


def small(number: float) -> np.float32:
    """A scale for everything."""
    return np.float32(number)


ZERO = np.uint8(121)
ACTIVATION = {"s": small(0.04), "z": ZERO}


def dequantised(per_channel: bool, point: int = 0, opset: int = 19) -> Pattern:
    """Two convolutions whose weights and activations go through QuantizeLinear and DequantizeLinear."""
    scale, zero = (
        (scales, lambda n: np.full(n, point, np.int8))
        if per_channel
        else (lambda n: small(0.01), lambda n: np.int8(point))
    )
    axis = "<axis=0>" if per_channel else ""
    body = (
        "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) "
        f"d1 = DequantizeLinear{axis}(w1, s1, z1) a = Conv<pads=[1,1,1,1]>(xd, d1, b1) r = Relu(a) "
        "rq = QuantizeLinear(r, s, z) rd = DequantizeLinear(rq, s, z) "
        f"d2 = DequantizeLinear{axis}(w2, s2, z2) y = Conv(rd, d2, b2)"
    )
    first = {"w1": weights((16, 3, 3, 3)), "s1": scale(16), "z1": zero(16), "b1": random("b1", (16,))}
    second = {"w2": weights((4, 16, 1, 1), seed=1), "s2": scale(4), "z2": zero(4), "b2": random("b2", (4,))}
    return net(IMAGE, body, opset=opset, **ACTIVATION, **first, **second)


def quantised_convolutions(per_channel: bool) -> Pattern:
    """QLinearConv after QLinearConv, from bytes to bytes."""
    scale, zero = (
        (scales, lambda n: np.zeros(n, np.int8)) if per_channel else (lambda n: small(0.01), lambda n: np.int8(0))
    )
    body = (
        "a = QLinearConv<pads=[1,1,1,1]>(x, s, z, w1, s1, z1, s, z, b1) y = QLinearConv(a, s, z, w2, s2, z2, s, z, b2)"
    )
    first = {"w1": weights((16, 3, 3, 3)), "s1": scale(16), "z1": zero(16), "b1": bias(16)}
    second = {"w2": weights((4, 16, 1, 1), seed=1), "s2": scale(4), "z2": zero(4), "b2": bias(4)}
    return net(BYTES, body, **ACTIVATION, **first, **second)


def block_quantised() -> Pattern:
    """Weights with a scale for every block of four rows."""
    body = (
        "d1 = DequantizeLinear(w1, s1) a = MatMul(x, d1) r = Relu(a) "
        "d2 = DequantizeLinear<axis=0, block_size=4>(w2, s2) y = MatMul(r, d2)"
    )
    blocks = np.random.default_rng(3).uniform(0.004, 0.02, (4, 4)).astype(np.float32)
    return net("float[N,6] x", body, opset=21, w1=weights((6, 16)), s1=small(0.01), w2=weights((16, 4)), s2=blocks)


NETWORKS = {
    "qdq_per_tensor": lambda: dequantised(False),
    "qdq_opset_13": lambda: dequantised(True, opset=13),
    "qdq_per_channel": lambda: dequantised(True),
    "qdq_asymmetric": lambda: dequantised(False, point=7),
    "qdq_asymmetric_channels": lambda: dequantised(True, point=-5),
    "qdq_weights_only": lambda: net("float[N,6] x", "d1 = DequantizeLinear<axis=1>(w1, s1) a = MatMul(x, d1) r = Relu(a) d2 = DequantizeLinear(w2, s2, z2) y = MatMul(r, d2)", opset=19, w1=weights((6, 16)), s1=scales(16), w2=weights((16, 4), np.uint8), s2=small(0.01), z2=np.uint8(99)),
    "qdq_gemm_bias": lambda: net("float[N,6] x", "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) d1 = DequantizeLinear<axis=0>(w1, s1, z1) c1 = DequantizeLinear<axis=0>(b1, sb, zb) a = Gemm<transB=1>(xd, d1, c1) r = Relu(a) d2 = DequantizeLinear(w2, s2) y = Gemm<transB=1>(r, d2)", opset=19, w1=weights((16, 6)), s1=scales(16), z1=np.zeros(16, np.int8), b1=bias(16), sb=scales(16, 2), zb=np.zeros(16, np.int32), w2=weights((4, 16)), s2=small(0.01), **ACTIVATION),
    "qdq_residual": lambda: net(IMAGE, "d1 = DequantizeLinear<axis=0>(w1, s1, z1) a = Conv(x, d1) aq = QuantizeLinear(a, s, z) ad = DequantizeLinear(aq, s, z) d3 = DequantizeLinear<axis=0>(w3, s3, z1) b = Conv(ad, d3) c = Add(b, ad) cq = QuantizeLinear(c, s, z) cd = DequantizeLinear(cq, s, z) d2 = DequantizeLinear(w2, s2) y = Conv(cd, d2)", opset=19, w1=weights((16, 3, 1, 1)), s1=scales(16), z1=np.zeros(16, np.int8), w3=weights((16, 16, 1, 1)), s3=scales(16, 1), w2=weights((4, 16, 1, 1)), s2=small(0.01), **ACTIVATION),
    "qdq_blocks": block_quantised,
    "qlinear_conv": lambda: quantised_convolutions(False),
    "qlinear_conv_channels": lambda: quantised_convolutions(True),
    "qlinear_conv_depthwise": lambda: net(BYTES, "a = QLinearConv(x, s, z, w1, s1, z1, s, z, b1) d = QLinearConv<group=16, pads=[1,1,1,1]>(a, s, z, w3, s3, z1, s, z) y = QLinearConv(d, s, z, w2, s2, z2, s, z)", w1=weights((16, 3, 1, 1)), s1=scales(16), z1=np.zeros(16, np.int8), b1=bias(16), w3=weights((16, 1, 3, 3)), s3=scales(16, 1), w2=weights((4, 16, 1, 1)), s2=small(0.01), z2=np.int8(0), **ACTIVATION),
    "qlinear_matmul": lambda: net("uint8[N,6] x", "a = QLinearMatMul(x, s, z, w1, s1, z1, s, z) y = QLinearMatMul(a, s, z, w2, s2, z2, s, z)", w1=weights((6, 16)), s1=small(0.01), z1=np.int8(3), w2=weights((16, 4)), s2=small(0.01), z2=np.int8(0), **ACTIVATION),
    "qlinear_add": lambda: net(BYTES, "a = QLinearConv(x, s, z, w1, s1, z1, s, z) b = QLinearConv(x, s, z, w3, s1, z1, s, z) c = com.microsoft.QLinearAdd(a, s, z, b, s, z, s, z) g0 = com.microsoft.QLinearGlobalAveragePool<channels_last=0>(c, s, z, s, z) y = QLinearConv(g0, s, z, w2, s2, z2, s, z)", out="uint8[N,4,1,1] y", w1=weights((16, 3, 1, 1)), w3=weights((16, 3, 1, 1), seed=3), s1=small(0.01), z1=np.int8(0), w2=weights((4, 16, 1, 1)), s2=small(0.01), z2=np.int8(0), **ACTIVATION),
    "conv_integer": lambda: net(BYTES, "a = ConvInteger(x, w1, z, z1) f = Cast<to=1>(a) c = Mul(f, k) r = Relu(c) q, qs, qz = DynamicQuantizeLinear(r) b = ConvInteger(q, w2, qz, z2) e = Cast<to=1>(b) y = Mul(e, qs)", w1=weights((16, 3, 3, 3)), w2=weights((4, 16, 1, 1)), z1=np.int8(0), z2=np.int8(0), z=ZERO, k=small(0.01)),
    "matmul_integer": lambda: net("float[N,6] x", "q, qs, qz = DynamicQuantizeLinear(x) a = MatMulInteger(q, w1, qz, z1) f = Cast<to=1>(a) k = Mul(qs, s1) c = Mul(f, k) d = Add(c, b1) r = Relu(d) y = MatMul(r, w2)", w1=weights((6, 16)), z1=np.int8(0), s1=small(0.01), b1=random("b1", (16,)), w2=random("w2", (16, 4))),
    "matmul_integer_channels": lambda: net("float[N,6] x", "q, qs, qz = DynamicQuantizeLinear(x) a = MatMulInteger(q, w1, qz, z1) f = Cast<to=1>(a) k = Mul(qs, s1) c = Mul(f, k) r = Relu(c) y = MatMul(r, w2)", w1=weights((6, 16)), z1=np.zeros(16, np.int8), s1=scales(16), w2=random("w2", (16, 4))),
    "microsoft_quantised": lambda: net("float[N,6] x", "q = com.microsoft.QuantizeLinear(x, s, z) d = com.microsoft.DequantizeLinear(q, s, z) a = MatMul(d, w1) r = Relu(a) y = MatMul(r, w2)", out="float[N,4] y", w1=random("w1", (6, 16)), w2=random("w2", (16, 4)), **ACTIVATION),
}  # fmt: skip
