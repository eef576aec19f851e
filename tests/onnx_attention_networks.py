"""Small ONNX models with attention and fused operations of com.microsoft: entries of the table in onnx_networks.py."""

import numpy as np

from onnx_build import Pattern, net, rows, through

X = "float[N,5,8] x"
QKV = {"wq": (8, 16), "wk": (8, 16), "wv": (8, 16), "wo": (16, 6), "bq": (16,), "bk": (16,), "bv": (16,)}
PROJECTED = (
    "q0 = MatMul(x, wq) q1 = Add(q0, bq) k0 = MatMul(x, wk) k1 = Add(k0, bk) v0 = MatMul(x, wv) v1 = Add(v0, bv)"
)
SPLIT = "Transpose<perm=[0,2,1,3]>"
PRODUCTS = "s = MatMul(q, k) c = Mul(s, scale) z = Softmax(c) o = MatMul(z, v) t = Transpose<perm=[0,2,1,3]>(o)"


def attention(middle: str, opset: int = 17, inputs: str = X, **changes) -> Pattern:
    """Projections `q1`, `k1`, `v1` (N x 5 x 16), something that makes `m` of them, and the projection out."""
    out = "float[N,5,6] y" if "com.microsoft" in middle else "y"
    return net(inputs, f"{PROJECTED} {middle} y = MatMul(m, wo)", opset=opset, out=out, **(QKV | changes))


def written_out(target: list, back: list, **changes) -> Pattern:
    """Attention of four heads as exporters write it."""
    heads = f"qr = Reshape(q1, t1) q = {SPLIT}(qr) kr = Reshape(k1, t1) k = Transpose<perm=[0,2,3,1]>(kr)"
    values = f"vr = Reshape(v1, t1) v = {SPLIT}(vr)"
    return attention(f"{heads} {values} {PRODUCTS} m = Reshape(t, t2)", scale=0.5, t1=target, t2=back, **changes)


def grouped_heads(kv: int = 2) -> Pattern:
    """Four query heads that share two key and value heads, expanded as Llama exports do."""
    spread = "Expand({0}u, grow) {0}f = Reshape({0}e, merge)"
    parts = [f"qr = Reshape(q1, t1) q = {SPLIT}(qr)"]
    for name in "kv":
        parts.append(f"{name}r = Reshape({name}1, t3) {name}t = {SPLIT}({name}r) {name}u = Unsqueeze({name}t, a2)")
        parts.append(f"{name}e = " + spread.format(name))
    parts.append("k = Transpose<perm=[0,1,3,2]>(kf) v = Identity(vf)")
    small = {"wk": (8, 8), "wv": (8, 8), "bk": (8,), "bv": (8,)}
    shapes = {"t1": [0, 5, 4, 4], "t3": [0, 5, 2, 4], "a2": [2], "grow": [1, 1, 2, 1, 1], "merge": [-1, 4, 5, 4]}
    return attention(" ".join([*parts, PRODUCTS, "m = Reshape(t, t2)"]), scale=0.5, t2=[0, 5, 16], **shapes, **small)


def rotary() -> Pattern:
    """Queries and keys turned by halves with tables of cosines."""
    turn = (
        "{0}a, {0}b = Split<axis=3>({0}h, halves) {0}n = Neg({0}b) {0}c = Concat<axis=3>({0}n, {0}a) "
        "{0}p = Mul({0}h, cos) {0}s = Mul({0}c, sin) {0}w = Add({0}p, {0}s)"
    )
    parts = [f"{name}r = Reshape({name}1, t1) {name}h = {SPLIT}({name}r)" for name in "qkv"]
    parts += [turn.format(name) for name in "qk"]
    parts += ["q = Identity(qw) k = Transpose<perm=[0,1,3,2]>(kw) v = Identity(vh)", PRODUCTS, "m = Reshape(t, t2)"]
    tables = {"cos": (5, 4), "sin": (5, 4)}
    return attention(" ".join(parts), scale=0.5, t1=[0, 5, 4, 4], t2=[0, 5, -1], halves=[2, 2], **tables)


FUSED = "p0 = MatMul(x, w) p = Add(p0, b)"
FUSED_WEIGHTS = {"w": (8, 48), "b": (48,), "wo": (16, 6), "scale": 0.5}
HEADS = f"qr = Reshape(q1, t1) q = {SPLIT}(qr) kr = Reshape(k1, t1) k = Transpose<perm=[0,2,3,1]>(kr) vr = Reshape(v1, t1) v = {SPLIT}(vr)"
MICROSOFT = {"w": (8, 48), "b": (48,), "wo": (16, 6)}
GPT = {"t1": [0, 5, 4, 4], "t2": [0, 5, 16]}

NETWORKS = {
    "attention": lambda: written_out([0, 5, 4, 4], [0, 5, 16]),
    "attention_minus_one_heads": lambda: written_out([0, 5, -1, 4], [0, 5, -1]),
    "attention_minus_one_dims": lambda: written_out([0, 5, 4, -1], [0, 5, -1]),
    "attention_minus_one_batch": lambda: written_out([-1, 5, 4, 4], [-1, 5, 16]),
    "attention_mask": lambda: attention(f"{HEADS} s = MatMul(q, k) c = Mul(s, scale) d = Where(future, low, c) z = Softmax(d) o = MatMul(z, v) t = Transpose<perm=[0,2,1,3]>(o) m = Reshape(t, t2)", scale=0.5, future=np.triu(np.ones((5, 5), dtype=bool), 1), low=-1e4, **GPT),
    "attention_fused_split": lambda: net(X, f"{FUSED} q1, k1, v1 = Split<axis=-1>(p, thirds) {HEADS} {PRODUCTS} m = Reshape(t, t2) y = MatMul(m, wo)", thirds=[16, 16, 16], **GPT, **FUSED_WEIGHTS),
    "attention_fused_unbind": lambda: net(X, f"{FUSED} r5 = Reshape(p, t5) u = Transpose<perm=[2,0,3,1,4]>(r5) q = Gather<axis=0>(u, i0) kk = Gather<axis=0>(u, i1) v = Gather<axis=0>(u, i2) k = Transpose<perm=[0,1,3,2]>(kk) {PRODUCTS} m = Reshape(t, t2) y = MatMul(m, wo)", t5=[0, 5, 3, 4, 4], t2=[0, 5, 16], i0=0, i1=1, i2=2, **FUSED_WEIGHTS),
    "attention_grouped_heads": grouped_heads,
    "attention_rotary": rotary,
    "attention_linear": lambda: attention(f"{HEADS} kk = Softmax<axis=3>(k) c = MatMul(kk, v) o = MatMul(q, c) t = Transpose<perm=[0,2,1,3]>(o) m = Reshape(t, t2)", **GPT),
    "attention_batch_merged": lambda: attention(f"qr = Reshape(q1, t1) qt = {SPLIT}(qr) q = Reshape(qt, flat) kr = Reshape(k1, t1) kt = Transpose<perm=[0,2,3,1]>(kr) k = Reshape(kt, flat2) vr = Reshape(v1, t1) vt = {SPLIT}(vr) v = Reshape(vt, flat) s = MatMul(q, k) z = Softmax(s) o = MatMul(z, v) w4 = Reshape(o, wide) t = {SPLIT}(w4) m = Reshape(t, t2)", flat=[-1, 5, 4], flat2=[-1, 4, 5], wide=[-1, 4, 5, 4], **GPT),
    "attention_cache": lambda: net(f"{X}, float[N,4,P,4] past", f"q1 = MatMul(x, wq) k1 = MatMul(x, wk) qr = Reshape(q1, t1) q = {SPLIT}(qr) kr = Reshape(k1, t1) kh = {SPLIT}(kr) whole = Concat<axis=2>(past, kh) k = Transpose<perm=[0,1,3,2]>(whole) s = MatMul(q, k) z = Softmax(s) o = MatMul(z, whole) t = {SPLIT}(o) m = Reshape(t, t2) a = MatMul(m, wo) r = Relu(a) y = MatMul(r, w2)", out="y, whole", wq=(8, 16), wk=(8, 16), wo=(16, 48), w2=(48, 6), **GPT).but(sizes={"P": (2, 3)}, locked=("input",)),
    "onnx_attention": lambda: attention("a, u1, u2, u3 = Attention<q_num_heads=4, kv_num_heads=4>(q1, k1, v1) m = Relu(a)", opset=23),
    "onnx_attention_scaled": lambda: attention("m = Attention<q_num_heads=4, kv_num_heads=4, scale=0.3>(q1, k1, v1, mask)", opset=23, mask=np.triu(np.full((5, 5), -9.0, dtype=np.float32), 1)),
    "onnx_attention_grouped": lambda: attention("m = Attention<q_num_heads=4, kv_num_heads=2, is_causal=1>(q1, k1, v1)", opset=23, wk=(8, 8), wv=(8, 8), bk=(8,), bv=(8,)),
    "onnx_attention_4d": lambda: attention(f"qr = Reshape(q1, t1) q = {SPLIT}(qr) kr = Reshape(k1, t1) k = {SPLIT}(kr) vr = Reshape(v1, t1) v = {SPLIT}(vr) o = Attention(q, k, v) t = {SPLIT}(o) m = Reshape(t, t2)", opset=24, **GPT),
    "onnx_rotary": lambda: attention("q2 = RotaryEmbedding<num_heads=4>(q1, cos, sin, place) k2 = RotaryEmbedding<num_heads=4>(k1, cos, sin, place) m = Attention<q_num_heads=4, kv_num_heads=4>(q2, k2, v1)", opset=23, inputs="float[2,5,8] x", cos=(9, 2), sin=(9, 2), place=[[0, 1, 2, 3, 4]] * 2),
    "microsoft_attention": lambda: net(X, "a = com.microsoft.Attention<num_heads=4>(x, w, b) y = MatMul(a, wo)", out="float[N,5,6] y", **MICROSOFT),
    "microsoft_attention_causal": lambda: net(X, "a = com.microsoft.Attention<num_heads=4, unidirectional=1, scale=0.4>(x, w, b) y = MatMul(a, wo)", out="float[N,5,6] y", **MICROSOFT),
    "microsoft_attention_sizes": lambda: net(X, "a = com.microsoft.Attention<num_heads=4, qkv_hidden_sizes=[16,16,24]>(x, w, b) y = MatMul(a, wo)", out="float[N,5,6] y", w=(8, 56), b=(56,), wo=(24, 6)),
    "microsoft_multi_head": lambda: net(X, "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) m = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v, b) y = MatMul(m, wo)", out="float[N,5,6] y", b=(48,), **{name: QKV[name] for name in ("wq", "wk", "wv", "wo")}),
    "microsoft_multi_head_plain": lambda: attention("m = com.microsoft.MultiHeadAttention<num_heads=4>(q1, k1, v1)"),
    "microsoft_grouped_query": lambda: net("float[2,5,8] x", "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) m, pk, pv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, k, v, , , last, total) y = MatMul(m, wo)", out="float[N,5,6] y", wq=(8, 32), wk=(8, 16), wv=(8, 16), wo=(32, 6), last=np.array([4, 4], dtype=np.int32), total=np.array(5, dtype=np.int32)),
    "microsoft_rotary": lambda: attention("q2 = com.microsoft.RotaryEmbedding<num_heads=4, rotary_embedding_dim=0>(q1, place, cos, sin) k2 = com.microsoft.RotaryEmbedding<num_heads=4>(k1, place, cos, sin) m = com.microsoft.MultiHeadAttention<num_heads=4>(q2, k2, v1)", inputs="float[2,5,8] x", cos=(9, 2), sin=(9, 2), place=[[0, 1, 2, 3, 4]] * 2),
    "microsoft_skip_layer_norm": lambda: rows("r2 = Sigmoid(pre) n = com.microsoft.SkipLayerNormalization(r, r2, g, h, bias) b = MatMul(n, w3) m = Relu(b)", wide=24, g=(16,), h=(16,), bias=(16,), w3=(16, 24)).but(sparsity=0.3),
    "microsoft_simplified_layer_norm": lambda: rows("m = com.microsoft.SkipSimplifiedLayerNormalization(r, r, g)", g=(16,)),
    "microsoft_bias_gelu": lambda: rows("m = com.microsoft.BiasGelu(lin, b3)", b3=(16,)),
    "microsoft_fast_gelu": lambda: rows("m = com.microsoft.FastGelu(lin, b3)", b3=(16,)),
    "microsoft_gelu": lambda: rows("q = com.microsoft.Gelu(pre) m = com.microsoft.QuickGelu<alpha=1.7>(q)"),
    "microsoft_fused_conv": lambda: through('m = com.microsoft.FusedConv<kernel_shape=[3,3], pads=[1,1,1,1], activation="Relu">(r, w3, b3)', wide=12, w3=(12, 16, 3, 3), b3=(12,)),
    "microsoft_fused_conv_sum": lambda: through('m = com.microsoft.FusedConv<kernel_shape=[1,1], activation="Relu">(r, w3, b3, r)', w3=(16, 16, 1, 1), b3=(16,)),
    "microsoft_fused_matmul": lambda: rows("m = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(r, w3)", wide=12, w3=(12, 16)),
    "microsoft_fused_gemm": lambda: net("float[N,6] x", 'a = com.microsoft.FusedGemm<transB=1, activation="LeakyRelu", activation_alpha=0.1>(x, w1, b1) y = Gemm(a, w2)', out="float[N,4] y", w1=(16, 6), b1=(16,), w2=(16, 4)),
    "microsoft_embed_layer_norm": lambda: net("int32[2,5] x, int32[2,5] kind", "e, i = com.microsoft.EmbedLayerNormalization<epsilon=0.001>(x, kind, words, places, kinds, g, h) b = MatMul(e, w3) r = Relu(b) y = MatMul(r, w2)", out="float[2,5,4] y", words=(9, 16), places=(7, 16), kinds=(2, 16), g=(16,), h=(16,), w3=(16, 24), w2=(24, 4)).but(highest=2, sparsity=0.3),
    "bert_layer": lambda: bert_layer(),
}  # fmt: skip


def bert_layer() -> Pattern:
    """Attention with a residual, two layer norms and a feed-forward block, then a head on the first place."""
    weights = {
        "wq": (16, 16),
        "wk": (16, 16),
        "wv": (16, 16),
        "wp": (16, 16),
        "wi": (16, 48),
        "bi": (48,),
        "wf": (48, 16),
    }
    norms = {"g1": (16,), "h1": (16,), "g2": (16,), "h2": (16,)}
    body = (
        f"x0 = MatMul(e, we) {PROJECTED.replace('x,', 'x0,')} {HEADS} {PRODUCTS} m = Reshape(t, t2) p = MatMul(m, wp) "
        "r1 = Add(p, x0) n1 = LayerNormalization(r1, g1, h1) f0 = MatMul(n1, wi) f1 = Add(f0, bi) f2 = Gelu(f1) "
        "f3 = MatMul(f2, wf) r2 = Add(f3, n1) n2 = LayerNormalization(r2, g2, h2) first = Gather<axis=1>(n2, i0) "
        "y = Gemm(first, wo)"
    )
    return net("float[N,5,6] e", body, opset=20, scale=0.5, we=(6, 16), i0=0, **GPT, **norms, **(QKV | weights)).but(
        sparsity=0.3
    )
