"""Small ONNX models, one for each pattern that the frontend must understand."""

import numpy as np
from onnx import TensorProto, defs

import onnx_attention_networks
import onnx_carried_networks
import onnx_found_networks
import onnx_quantised_networks
import onnx_shape_networks
from onnx_build import IMAGE, ROWS, Pattern, in_constants, in_type, listed_as_inputs, net, rows, through

NEWEST = defs.onnx_opset_version()
OPSETS = (7, 9, 11, 13, 17, NEWEST)

CHAIN = "a = Conv<pads=[1,1,1,1]>(x, w1, b1) n = BatchNormalization(a, g, h, mean, v) r = Relu(n) y = Conv<strides=[2,2]>(r, w2, b2)"
CHAIN_WEIGHTS = {
    "w1": (16, 3, 3, 3),
    "b1": (16,),
    "g": (16,),
    "h": (16,),
    "mean": (16,),
    "v": (16,),
    "w2": (4, 16, 3, 3),
    "b2": (4,),
}
LSTM = {"w": (1, 48, 6), "r": (1, 48, 12), "b": (1, 96), "w2": (12, 4)}
GRU = {"w": (1, 36, 6), "r": (1, 36, 12), "b": (1, 72), "w2": (12, 4)}
TWO = {"w": (2, 48, 6), "r": (2, 48, 12), "b": (2, 96), "w2": (12, 4)}
STATES = "t = Squeeze(h, a0) y = MatMul(t, w2)"


def chain(opset: int = 17) -> Pattern:
    return net(IMAGE, CHAIN, opset=opset, **CHAIN_WEIGHTS)


NETWORKS = {
    **{f"chain_opset_{opset}": lambda opset=opset: chain(opset) for opset in OPSETS},
    "chain_f16": lambda: in_type(chain(), TensorProto.FLOAT16),
    "chain_bf16": lambda: in_type(chain(22), TensorProto.BFLOAT16),
    "chain_f64": lambda: in_type(chain(), TensorProto.DOUBLE),
    "chain_in_constants": lambda: in_constants(chain()),
    "chain_listed_inputs": lambda: listed_as_inputs(chain()),
    "residual": lambda: through("b = Conv<pads=[1,1,1,1]>(r, w3, b3) m = Add(b, r)", w3=(16, 16, 3, 3), b3=(16,)),
    "residual_without_bias": lambda: net(IMAGE, "a = Conv(x, w1) b = Conv(x, w2) c = Add(a, b) y = Conv(c, w3)", w1=(16, 3, 3, 3), w2=(16, 3, 3, 3), w3=(4, 16, 1, 1)),
    "add_constant": lambda: through("m = Add(r, c)", c=(1, 16, 1, 1)),
    "add_constant_short": lambda: through("m = Mul(c, r)", c=(16, 1, 1)),
    "add_scalar": lambda: through("m = Mul(r, c)", c=0.5),
    "concat": lambda: through("b = Conv<pads=[1,1,1,1]>(x, w3) m = Concat<axis=1>(b, r)", wide=24, w3=(8, 3, 3, 3)),
    "concat_negative_axis": lambda: through("m = Concat<axis=-3>(r, r)", wide=32),
    "split_attribute": lambda: through("p, q = Split<axis=1, split=[6, 10]>(r) m = Concat<axis=1>(q, p)", opset=11),
    "split_even_old": lambda: through("p, q = Split<axis=1>(r) m = Mul(p, q)", opset=11, wide=8),
    "split_input": lambda: through("p, q = Split<axis=1>(r, s) m = Concat<axis=1>(q, p)", s=[6, 10]),
    "split_outputs": lambda: through("p, q = Split<axis=1, num_outputs=2>(r) g = Sigmoid(q) m = Mul(p, g)", opset=18, wide=8),
    "split_uneven_outputs": lambda: through("p, q, o = Split<axis=1, num_outputs=3>(r) m = Concat<axis=1>(q, o, p)", opset=18),
    "slice_attribute": lambda: through("m = Slice<axes=[1], starts=[2], ends=[12]>(r)", opset=9, wide=10),
    "slice_inputs": lambda: through("m = Slice(r, s, e, a, t)", wide=10, s=[2], e=[12], a=[1], t=[1]),
    "slice_to_the_end": lambda: through("m = Slice(r, s, e, a)", wide=12, s=[4], e=[2**63 - 1], a=[1]),
    "slice_negative": lambda: through("p = Slice(r, z, e, a) q = Slice(r, e, big, a) m = Concat<axis=1>(q, p)", z=[0], e=[-6], big=[2**31 - 1], a=[-3]),
    "slice_strided": lambda: through("p = Slice(r, z, e, a, t) q = Slice(r, one, e, a, t) m = Add(p, q)", wide=8, z=[0], one=[1], e=[16], a=[1], t=[2]),
    "slice_backwards": lambda: through("m = Slice(r, s, e, a, t)", s=[15], e=[-17], a=[1], t=[-1]),
    "slice_image": lambda: through("m = Slice(r, z, e, a, t)", z=[0, 1], e=[8, 9], a=[2, 3], t=[2, 1]),
    "gather_list": lambda: through("m = Gather<axis=1>(r, i)", wide=8, i=[3, 1, 4, 15, 9, 2, 6, 5]),
    "gather_twice": lambda: through("m = Gather<axis=1>(r, i)", wide=6, i=[3, 1, 1, -1, 9, 2]),
    "gather_image": lambda: through("m = Gather<axis=3>(r, i)", i=[3, 1, 1]),
    "gather_scalar": lambda: net(ROWS, "a = MatMul(x, w1) r = Relu(a) t = Gather<axis=1>(r, i) y = MatMul(t, w2)", w1=(6, 16), w2=(16, 4), i=2),
    "embedding": lambda: net("int64[N,5] x", "e = Gather(table, x) r = Relu(e) y = MatMul(r, w)", table=(10, 16), w=(16, 4)).but(highest=10),
    "embedding_int32": lambda: net("int32[N,5] x", "e = Gather(table, x) r = Relu(e) y = MatMul(r, w)", table=(10, 16), w=(16, 4)).but(highest=10),
    "tied_embedding": lambda: net("int64[N,5] x", "e = Gather(table, x) h = MatMul(e, w1) r = Relu(h) o = MatMul(r, w2) t = Transpose<perm=[1,0]>(table) y = MatMul(o, t)", table=(10, 8), w1=(8, 24), w2=(24, 8)).but(highest=10),
    "grouped": lambda: through("m = Conv<group=4, pads=[1,1,1,1]>(r, w3, b3)", w3=(16, 4, 3, 3), b3=(16,)),
    "grouped_uneven": lambda: through("m = Conv<group=2, pads=[1,1,1,1]>(r, w3, b3)", wide=24, w3=(24, 8, 3, 3), b3=(24,)),
    "depthwise": lambda: through("m = Conv<group=16, pads=[1,1,1,1]>(r, w3, b3)", w3=(16, 1, 3, 3), b3=(16,)),
    "depthwise_multiplier": lambda: through("m = Conv<group=16, pads=[1,1,1,1]>(r, w3, b3)", wide=32, w3=(32, 1, 3, 3), b3=(32,)),
    "conv_1d": lambda: net("float[N,3,9] x", "a = Conv(x, w1, b1) r = Relu(a) y = Conv<auto_pad=\"SAME_UPPER\">(r, w2)", w1=(16, 3, 3), b1=(16,), w2=(4, 16, 3)),
    "conv_3d": lambda: net("float[N,2,5,5,5] x", "a = Conv(x, w1, b1) r = Relu(a) y = Conv<dilations=[1,1,1]>(r, w2)", w1=(12, 2, 3, 3, 3), b1=(12,), w2=(3, 12, 2, 2, 2)),
    "conv_transpose": lambda: through("m = ConvTranspose<strides=[2,2]>(r, w3, b3)", wide=12, w3=(16, 12, 2, 2), b3=(12,)),
    "conv_transpose_grouped": lambda: through("m = ConvTranspose<strides=[2,2], group=2>(r, w3, b3)", wide=12, w3=(16, 6, 2, 2), b3=(12,)),
    "conv_transpose_depthwise": lambda: through("m = ConvTranspose<strides=[2,2], group=16>(r, w3)", w3=(16, 1, 2, 2)),
    "conv_transpose_output_shape": lambda: through("m = ConvTranspose<strides=[2,2], output_shape=[16,16], kernel_shape=[2,2]>(r, w3)", wide=12, w3=(16, 12, 2, 2)),
    "gemm": lambda: net("float[N,6] x", "a = Gemm(x, w1, b1) r = Relu(a) y = Gemm<transB=1>(r, w2, b2)", w1=(6, 16), b1=(16,), w2=(4, 16), b2=(4,)),
    "gemm_scaled": lambda: net("float[N,6] x", "a = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w1, b1) r = Relu(a) y = Gemm<alpha=3.0>(r, w2)", w1=(16, 6), b1=(1, 16), w2=(16, 4)),
    "gemm_transposed_input": lambda: net("float[6,N] x", "a = Gemm<transA=1>(x, w1, b1) r = Relu(a) t = Transpose(r) y = Gemm<transA=1, transB=1>(t, w2)", w1=(6, 16), b1=(16,), w2=(4, 16)),
    "gemm_scalar_bias": lambda: net("float[N,6] x", "a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2)", w1=(6, 16), b1=0.25, w2=(16, 4), b2=(4,)),
    "gemm_without_bias_old": lambda: net("float[N,6] x", "a = Gemm(x, w1, z) r = Relu(a) y = Gemm(r, w2, z)", opset=9, w1=(6, 16), z=0.0, w2=(16, 4)),
    "matmul": lambda: rows("m = Identity(r)"),
    "matmul_left": lambda: net("float[6,N] x", "a = MatMul(w1, x) b = Add(a, b1) r = Relu(b) y = MatMul(w2, r)", w1=(16, 6), b1=(16, 1), w2=(4, 16)),
    "matmul_vector": lambda: net("float[N,6] x", "a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2)", w1=(6, 16), w2=(16,)),
    "matmul_batched_weight": lambda: net("float[3,N,6] x", "a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2)", w1=(3, 6, 16), w2=(3, 16, 4)),
    "matmul_transposed_weight": lambda: rows("t = Transpose<perm=[1,0]>(w3) b = MatMul(r, t) m = Relu(b)", wide=12, w3=(12, 16)),
    "weight_shared": lambda: net("float[N,6] x", "a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w) s = Relu(b) c = MatMul(s, w) y = MatMul(c, w2)", w1=(6, 16), w=(16, 16), w2=(16, 4)),
    "bias_shared_by_two_layers": lambda: net("float[N,6] x", "a = Gemm(x, w1, b) r = Relu(a) c = Gemm(r, w2, b) s = Relu(c) y = Gemm(s, w3)", w1=(6, 16), b=(16,), w2=(16, 16), w3=(16, 4)),
    "biases_deduplicated": lambda: net("float[N,5,8] x", "q0 = MatMul(x, wq) q = Add(q0, z) k0 = MatMul(x, wk) k = Add(k0, z) s = Mul(q, k) h0 = MatMul(s, w1) h = Add(h0, z) r = Relu(h) y = MatMul(r, w2)", wq=(8, 16), wk=(8, 16), w1=(16, 16), w2=(16, 4), z=np.zeros(16, dtype=np.float32)),
    "bias_locked_elsewhere": lambda: net("float[N,6] x", "a = Gemm(x, w1, b) r = Relu(a) y = Gemm(r, w2, b)", w1=(6, 16), b=np.zeros(16, dtype=np.float32), w2=(16, 16)),
    "batch_norm_spatial": lambda: net("float[N,6] x", "a = Gemm(x, w1) n = BatchNormalization<epsilon=0.01>(a, g, h, mean, v) r = Relu(n) y = Gemm(r, w2)", w1=(6, 16), g=(16,), h=(16,), mean=(16,), v=(16,), w2=(16, 4)),
    "batch_norm_first": lambda: net(IMAGE, "n = BatchNormalization(x, g, h, mean, v) a = Conv(n, w1) r = Relu(a) y = Conv(r, w2)", g=(3,), h=(3,), mean=(3,), v=(3,), w1=(16, 3, 3, 3), w2=(4, 16, 1, 1)),
    "lstm": lambda: net("float[T,N,6] x", "h, hl, cl = LSTM<hidden_size=12>(x, w, r, b) t = Squeeze(h, a1) y = MatMul(t, w2)", a1=[1], **LSTM).but(sizes={"T": (5, 7)}),
    "lstm_last_state": lambda: net("float[T,N,6] x", f"o, h, c = LSTM<hidden_size=12>(x, w, r, b) {STATES}", a0=[0], **LSTM),
    "lstm_cell_state": lambda: net("float[T,N,6] x", "o, hl, h = LSTM<hidden_size=12>(x, w, r, b) t = Squeeze(h, a0) y = MatMul(t, w2)", a0=[0], **LSTM),
    "lstm_states_inside": lambda: net("float[T,2,6] x", f"o, h, c = LSTM<hidden_size=12>(x, w, r, b, , h0, c0) {STATES}", a0=[0], h0=(1, 2, 12), c0=(1, 2, 12), **LSTM),
    "lstm_states_zero": lambda: net("float[T,2,6] x", f"h0 = ConstantOfShape(s) o, h, c = LSTM<hidden_size=12>(x, w, r, b, , h0, h0) {STATES}", a0=[0], s=[1, 2, 12], **LSTM),
    "lstm_states_outside": lambda: net("float[T,N,6] x, float[1,N,12] h0, float[1,N,12] c0", "o, h, c = LSTM<hidden_size=12>(x, w, r, b, , h0, c0) t = Squeeze(h, a0) u = MatMul(t, w3) v = Relu(u) y = MatMul(v, w2)", out="y, h, c", a0=[0], w=(1, 48, 6), r=(1, 48, 12), b=(1, 96), w3=(12, 24), w2=(24, 4)).but(sparsity=0.05, locked=("input",)),
    "lstm_peephole": lambda: net("float[T,N,6] x", f"o, h, c = LSTM<hidden_size=12>(x, w, r, b, , , , peep) {STATES}", a0=[0], peep=(1, 36), **LSTM),
    "lstm_lengths": lambda: net("float[T,3,6] x", f"o, h, c = LSTM<hidden_size=12>(x, w, r, b, lengths) {STATES}", a0=[0], lengths=np.array([3, 1, 2], dtype=np.int32), **LSTM).but(sizes={"T": (3, 5)}),
    "lstm_without_bias": lambda: net("float[T,N,6] x", f"o, h = LSTM<hidden_size=12>(x, w, r) {STATES}", a0=[0], w=(1, 48, 6), r=(1, 48, 12), w2=(12, 4)),
    "lstm_reverse": lambda: net("float[T,N,6] x", f'o, h = LSTM<hidden_size=12, direction="reverse", clip=3.0>(x, w, r, b) {STATES}', a0=[0], **LSTM),
    "lstm_batch_first": lambda: net("float[N,T,6] x", "o, h = LSTM<hidden_size=12, layout=1>(x, w, r, b) t = Squeeze(h, a1) y = MatMul(t, w2)", a1=[1], **LSTM),
    "lstm_both_ways": lambda: net("float[T,N,6] x", 'o, h, c = LSTM<hidden_size=12, direction="bidirectional">(x, w, r, b) t = Transpose<perm=[0,2,1,3]>(o) f = Reshape(t, s) y = MatMul(f, w3)', s=[0, 0, 24], w=TWO["w"], r=TWO["r"], b=TWO["b"], w3=(24, 4)),
    "lstm_both_ways_summed": lambda: net("float[T,N,6] x", 'o, h, c = LSTM<hidden_size=12, direction="bidirectional">(x, w, r, b) t = ReduceSum<keepdims=0>(o, a1) y = MatMul(t, w2)', a1=[1], **TWO),
    "lstm_stacked": lambda: net("float[T,N,6] x", f"o1, h1 = LSTM<hidden_size=12>(x, w, r, b) q = Squeeze(o1, a1) o, h = LSTM<hidden_size=12>(q, w3, r3, b3) {STATES}", a0=[0], a1=[1], w3=(1, 48, 12), r3=(1, 48, 12), b3=(1, 96), **LSTM),
    "lstm_opset_9": lambda: net("float[T,N,6] x", "o, h = LSTM<hidden_size=12>(x, w, r, b) t = Squeeze<axes=[0]>(h) y = MatMul(t, w2)", opset=9, **LSTM),
    "gru": lambda: net("float[T,N,6] x", f"o, h = GRU<hidden_size=12>(x, w, r, b) {STATES}", a0=[0], **GRU),
    "gru_after_reset": lambda: net("float[T,N,6] x", f"o, h = GRU<hidden_size=12, linear_before_reset=1>(x, w, r, b) {STATES}", a0=[0], **GRU),
    "gru_both_ways": lambda: net("float[T,N,6] x", 'o, h = GRU<hidden_size=12, linear_before_reset=1, direction="bidirectional">(x, w, r, b) t = Transpose<perm=[1,0,2]>(h) f = Reshape(t, s) y = MatMul(f, w2)', s=[0, -1], w=(2, 36, 6), r=(2, 36, 12), b=(2, 72), w2=(24, 4)),
    "rnn": lambda: net("float[T,N,6] x", f'o, h = RNN<hidden_size=12>(x, w, r, b) {STATES}', a0=[0], w=(1, 12, 6), r=(1, 12, 12), b=(1, 24), w2=(12, 4)),
    "rnn_relu": lambda: net("float[T,N,6] x", f'o, h = RNN<hidden_size=12, activations=["Relu"]>(x, w, r, b) {STATES}', a0=[0], w=(1, 12, 6), r=(1, 12, 12), b=(1, 24), w2=(12, 4)),
    **onnx_shape_networks.NETWORKS,
    **onnx_attention_networks.NETWORKS,
    **onnx_quantised_networks.NETWORKS,
    **onnx_carried_networks.NETWORKS,
    **onnx_found_networks.NETWORKS,
}  # fmt: skip
