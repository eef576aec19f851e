"""Translations of attention and of what is fused around it: each becomes the operations that it stands for."""

from collections.abc import Callable

from ...graph import Shape, Value
from .calls import Call, Translated, Unsupported
from .translate import Translation, broadcast, transposed


def _split_heads(call: Call, value: Value, heads: int) -> Value:
    """(batch, length, heads x width) -> (batch, heads, length, width)."""
    if heads <= 0 or value.shape[2] % heads:
        raise Unsupported(f"{call.name} splits {value.shape[2]} channels into {heads} heads")
    batch, length, channels = value.shape
    parts = call.emit("reshape", (value,), {"heads": True}, (batch, length, heads, channels // heads))
    return _exchanged(call, parts)


def _exchanged(call: Call, value: Value) -> Value:
    order = [0, 2, 1, 3]
    return call.emit("permute", (value,), {"order": order}, tuple(value.shape[axis] for axis in order))


def _merged(call: Call, value: Value) -> Value:
    """(batch, heads, length, width) -> (batch, length, heads x width)."""
    parts = _exchanged(call, value)
    batch, length, heads, width = parts.shape
    return call.emit("reshape", (parts,), {}, (batch, length, heads * width))


def _attend(call: Call, q: Value, k: Value, v: Value, bias: Value | None, scale: float | None) -> Value:
    """softmax(scale q kT + bias) v, of (batch, heads, length, width)."""
    attrs = {"grouped": q.shape[1] != k.shape[1], "scale": q.shape[-1] ** -0.5 if not scale else float(scale)}
    return call.emit("attention", (q, k, v, bias), attrs, (*q.shape[:-1], v.shape[-1]))


def _without_past(call: Call, *places: int) -> None:
    if any(call.get(place) is not None for place in places):
        raise Unsupported(
            f"{call.name} with past keys and values: they are inputs of fixed size", "export without past"
        )


def attention(call: Call) -> Translated:
    """ai.onnx Attention: q, k, v, mask, past; 3-D with heads in the channels, or 4-D."""
    _without_past(call, 4, 5)
    q, k, v = (call.tensor(place) for place in range(3))
    flat = len(q.shape) == 3
    if flat:
        q = _split_heads(call, q, int(call.attr("q_num_heads", 0)))
        k, v = (_split_heads(call, value, int(call.attr("kv_num_heads", 0))) for value in (k, v))
    mixed = _attend(call, q, k, v, call.get(3), call.attr("scale"))
    return "", (_merged(call, mixed) if flat else mixed, k, v), {}


def fused_attention(call: Call) -> Translated:
    """com.microsoft Attention: one matrix for q, k and v."""
    _without_past(call, 4)
    x, weight, bias = call.x, call.tensor(1), call.get(2)
    heads, width = int(call.attr("num_heads")), weight.shape[1]
    sizes = [int(size) for size in call.attr("qkv_hidden_sizes", [width // 3] * 3)]
    packed = call.emit("matmul", (x, weight), {}, (*x.shape[:2], width))
    if bias is not None:
        packed = call.emit("add", (packed, bias), {}, packed.shape)
    if call.attr("do_rotary", 0):
        raise Unsupported("Attention with rotary embedding inside", "use RotaryEmbedding before it")
    shapes = [(*x.shape[:2], size) for size in sizes]
    call.emit("split", (packed,), {"axis": 2, "sizes": sizes}, *shapes)
    q, k, v = (_split_heads(call, value, heads) for value in call.emitted[-1].outputs)
    return "", (_merged(call, _attend(call, q, k, v, call.get(5), call.attr("scale"))),), {}


def multi_head_attention(call: Call) -> Translated:
    """com.microsoft MultiHeadAttention: query, key, value, bias of all three, mask, attention bias, past."""
    _without_past(call, 6, 7)
    values = [call.get(place) for place in range(3)]
    if any(value is None or len(value.shape) != 3 for value in values):
        raise Unsupported("MultiHeadAttention with packed keys and values", "unpack them")
    heads, bias = int(call.attr("num_heads")), call.get(3)
    tensors = [value for value in values if value is not None]
    if bias is not None:
        sizes = [value.shape[2] for value in tensors]
        call.emit("split", (bias,), {"axis": 0, "sizes": sizes}, *((size,) for size in sizes))
        parts = call.emitted[-1].outputs
        tensors = [call.emit("add", (t, part), {}, t.shape) for t, part in zip(tensors, parts, strict=True)]
    q, k, v = (_split_heads(call, value, heads) for value in tensors)
    return "", (_merged(call, _attend(call, q, k, v, call.get(5), call.attr("scale"))), k, v), {}


def grouped_query_attention(call: Call) -> Translated:
    """com.microsoft GroupQueryAttention: query, key, value, past, lengths, rotary tables."""
    _without_past(call, 3, 4)
    if call.get(1) is None or call.get(2) is None:
        raise Unsupported("GroupQueryAttention with packed query, key and value", "unpack them")
    heads, shared = int(call.attr("num_heads")), int(call.attr("kv_num_heads"))
    q = _split_heads(call, call.x, heads)
    k, v = (_split_heads(call, call.tensor(place), shared) for place in (1, 2))
    if call.attr("do_rotary", 0):
        q, k = (_turned(call, value) for value in (q, k))
    return "", (_merged(call, _attend(call, q, k, v, None, call.attr("scale"))), k, v), {}


def _turned(call: Call, value: Value) -> Value:
    """Rotary embedding over the last axis, whose positions belong together."""
    return call.emit("rotary", (value,), {"axis": len(value.shape) - 1}, value.shape)


def rotary(heads: str, tables: int) -> Translation:
    """Rotary embedding of (batch, heads, length, width), or of flat channels. `tables`: where the cosines are."""

    def translate(call: Call) -> Translated:
        x = call.x
        if len(x.shape) == 4:
            return "", (_turned(call, x),), {}
        count = int(call.attr(heads, 0)) or x.shape[2] // (2 * call.tensor(tables).shape[-1])
        return "", (_merged(call, _turned(call, _split_heads(call, x, count))),), {}

    return translate


# ---- what is fused around it -------------------------------------------------------------------------------


def skip_norm(norm: str, bias_place: int) -> Translation:
    """Input + skip (+ bias), normalised; the sum is the fourth output."""

    def translate(call: Call) -> Translated:
        total = call.emit("add", (call.x, call.tensor(1)), {}, broadcast(call.x.shape, call.tensor(1).shape))
        bias = call.get(bias_place)
        if bias is not None:
            total = call.emit("add", (total, bias), {}, total.shape)
        return "", (_normed(call, norm, total, 2, 3), None, None, total), {}

    return translate


def _normed(call: Call, norm: str, x: Value, scale: int, shift: int) -> Value:
    attrs = {"dims": 1}
    if norm == "rms_norm":
        eps = float(call.attr("epsilon", 1e-12))
        return call.emit(norm, (x, call.get(scale)), attrs | {"eps": eps}, x.shape)
    return call.emit(norm, (x, call.get(scale), call.get(shift)), attrs, x.shape)


def embed_norm(call: Call) -> Translated:
    """Word, position and segment embeddings, summed and normalised."""
    ids, positions = call.x, call.get(8)
    shape: Shape = (*ids.shape, call.tensor(2).shape[1])
    total = call.emit("embedding", (ids, call.tensor(2)), {}, shape)
    total = call.emit("add", (total, call.emit("embedding", (positions or ids, call.tensor(3)), {}, shape)), {}, shape)
    if call.get(4) is not None:
        segments = call.emit("embedding", (call.tensor(1), call.tensor(4)), {}, shape)
        total = call.emit("add", (total, segments), {}, shape)
    return "", (_normed(call, "layer_norm", total, 5, 6), None, total), {}


def biased(name: str) -> Translation:
    """x (+ bias), then a function of it."""

    def translate(call: Call) -> Translated:
        if call.get(1) is None:
            return name, (call.x,), {}
        return name, (call.emit("add", (call.x, call.tensor(1)), {}, call.x.shape),), {}

    return translate


def activated(translation: Callable[[Call], Translated], extra: int | None = None) -> Translation:
    """A contraction, (another tensor added,) and an activation."""

    def translate(call: Call) -> Translated:
        operation, operands, attrs = translation(call)
        value = call.emit(operation, operands, attrs, call.shapes[0])
        if extra is not None and call.get(extra) is not None:
            value = call.emit("add", (value, call.tensor(extra)), {}, value.shape)
        name = str(call.attr("activation", "")).lower()
        ours = _ACTIVATIONS.get(name)
        if ours is None:
            raise Unsupported(f"{call.name} with the activation {name}")
        return ours, (value,), {}

    return translate


_ACTIVATIONS = {
    "": "identity", "relu": "relu", "leakyrelu": "leaky_relu", "tanh": "tanh", "sigmoid": "sigmoid",
    "hardsigmoid": "hardsigmoid", "elu": "elu", "softsign": "softsign", "softplus": "softplus", "gelu": "gelu",
}  # fmt: skip


def fused_matmul(call: Call) -> Translated:
    if call.attr("transBatchA", 0) or call.attr("transBatchB", 0):
        raise Unsupported("FusedMatMul that exchanges batch axes")
    a, b = call.x, call.tensor(1)
    if call.attr("transA", 0):
        a = transposed(call, a)
    if call.attr("transB", 0):
        b = transposed(call, b)
    return "matmul", (a, b), {}
