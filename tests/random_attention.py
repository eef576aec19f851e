"""Steps with attention or recurrence."""

from random_networks import Draft, Misfit, Value
from random_steps import step

# ---- attention


@step
def attention(d: Draft) -> None:
    """Multi-head attention in many spellings."""
    x = d.pick("tokens")
    y = d.pick("tokens") if d.flag(3) else x
    heads, dim = d.choice([(2, 4), (3, 4), (4, 2), (1, 6), (2, 3)])
    kv = d.divisor(heads, whole=True) if heads > 1 and d.flag(3) else heads
    kv = heads // kv if kv != heads or heads == 1 else heads
    if y is x and kv == heads and d.flag():
        q, k, v = _fused(d, x, heads, dim)
    else:
        q, k, v = (_projected(d, value, n, dim) for value, n in ((x, heads), (y, kv), (y, kv)))
    if d.flag(4):
        norm = d.choice([f"nn.LayerNorm({dim})", f"nn.RMSNorm({dim}, eps=1e-5)"])
        q, k = d.let(f"{d.layer(norm)}({q})"), d.let(f"{d.layer(norm)}({k})")
    if dim % 2 == 0 and y is x and d.flag(4):
        q, k = _rotated(d, q, x.shape[1], dim), _rotated(d, k, x.shape[1], dim)
    z = _attended(d, q, k, v, (x.shape[1], y.shape[1]), heads, kv, dim)
    b, t = d.sizes(x, (0, 1)).split(", ")
    merges = [f"{z}.transpose(1, 2).flatten(2)", f"{z}.transpose(1, 2).reshape({b}, {t}, -1)",
              f"{z}.permute(0, 2, 1, 3).reshape({b}, {t}, {heads * dim})", f"{z}.transpose(1, 2).contiguous().view({x.shape[0]}, {x.shape[1]}, -1)"]  # fmt: skip
    merged = d.let(d.choice(merges))
    d.line(f"{d.layer(f'nn.Linear({heads * dim}, {x.width})')}({merged})", "tokens")


def _projected(d: Draft, x: Value, heads: int, dim: int) -> str:
    layer = d.layer(f"nn.Linear({x.width}, {heads * dim})")
    b, t = d.sizes(x, (0, 1)).split(", ")
    split = d.choice([f"{b}, {t}, {heads}, {dim}", f"{b}, {t}, -1, {dim}", f"{b}, -1, {heads}, {dim}"])
    return str(
        d.let(
            f"{layer}({x}).{d.choice(['view', 'reshape'])}({split}).{d.choice(['transpose(1, 2)', 'permute(0, 2, 1, 3)'])}"
        )
    )


def _fused(d: Draft, x: Value, heads: int, dim: int) -> tuple[str, str, str]:
    y = d.let(f"{d.layer(f'nn.Linear({x.width}, {3 * heads * dim})')}({x})")
    b, t = d.sizes(x, (0, 1)).split(", ")
    q, k, v = (d.name("t") for _ in range(3))
    count = d.choice([str(heads), "-1"])
    style = d.below(5)
    if style < 2:
        z = d.let(f"{y}.reshape({b}, {t}, 3, {count}, {dim}).permute(2, 0, 3, 1, 4)")
        d.run(f"{q}, {k}, {v} = {z}.unbind(0)" if style else f"{q}, {k}, {v} = {z}[0], {z}[1], {z}[2]")
    elif style == 2:
        parts = d.let(f"{y}.chunk(3, -1)")
        spread = f".view({b}, {t}, {count}, {dim}).transpose(1, 2)"
        d.run(f"{q}, {k}, {v} = {', '.join(f'{parts}[{i}]{spread}' for i in range(3))}")
    elif style == 3:
        z = d.let(f"{y}.view({b}, {t}, {count}, 3 * {dim}).transpose(1, 2)")
        d.run(f"{q}, {k}, {v} = {z}.chunk(3, dim=-1)")
    else:
        z = d.let(f"{y}.view({b}, {t}, {count}, {dim}, 3)")
        d.run(f"{q}, {k}, {v} = ({', '.join(f'{z}[..., {i}].transpose(1, 2)' for i in range(3))})")
    return q, k, v


def _rotated(d: Draft, q: str, length: int, dim: int) -> str:
    cos, sin = d.buffer(f"torch.rand({length}, {dim})"), d.buffer(f"torch.rand({length}, {dim})")
    style = d.below(3)
    if style == 0:
        a, b = d.name("t"), d.name("t")
        d.run(f"{a}, {b} = {q}.chunk(2, -1)")
        turned = f"torch.cat([-{b}, {a}], -1)"
    elif style == 1:
        turned = f"torch.cat((-{q}[..., {dim // 2}:], {q}[..., : {dim // 2}]), dim=-1)"
    else:
        turned = f"torch.stack([-{q}[..., 1::2], {q}[..., ::2]], -1).flatten(-2)"
    return str(d.let(f"{q} * {cos} + {turned} * {sin}"))


def _attended(d: Draft, q: str, k: str, v: str, lengths: tuple[int, int], heads: int, kv: int, dim: int) -> str:
    mask = d.choice(["none", "bool", "float", "causal", "heads"])
    written = d.flag()
    if mask == "causal" and lengths[0] != lengths[1]:
        raise Misfit
    buffer = {
        "bool": f"torch.ones{lengths}.tril().bool()",
        "causal": f"torch.ones{lengths}.tril().bool()",
        "float": f"torch.rand{lengths}",
        "heads": f"torch.rand({heads}, 1, {lengths[1]})",
    }
    if kv != heads and (written or d.flag()):
        repeat = d.choice(["{}.repeat_interleave({}, 1)", "torch.repeat_interleave({}, {}, dim=-3)"])
        k, v = d.let(repeat.format(k, heads // kv)), d.let(repeat.format(v, heads // kv))
        kv = heads
    if not written:
        more = (
            {"none": "", "causal": ", is_causal=True"}.get(mask)
            if mask in ("none", "causal")
            else f", attn_mask={d.buffer(buffer[mask])}"
        )
        more += ", enable_gqa=True" if kv != heads else ""
        more += d.choice(["", "", ", scale=0.4"])
        return str(d.let(f"F.scaled_dot_product_attention({q}, {k}, {v}{more})"))
    scale = d.choice([str(dim**-0.5), f"{dim} ** -0.5", f"{q}.shape[-1] ** -0.5", "0.3"])
    scores = d.choice([f"({q} @ {k}.transpose(-2, -1)) * {scale}", f"({q} * {scale}) @ {k}.mT",
                       f"torch.einsum('bhid,bhjd->bhij', {q}, {k}) * {scale}"])  # fmt: skip
    scores = d.let(scores)
    if mask in ("bool", "causal"):
        scores = d.let(f"{scores}.masked_fill(~{d.buffer(buffer[mask])}, -1e9)")
    elif mask != "none":
        scores = d.let(
            f"{scores} + {d.buffer(buffer[mask]) if d.flag() or mask == 'float' else d.parameter(heads, 1, 1)}"
        )
    product = d.choice(
        [
            "{}.softmax(-1) @ {}",
            "F.softmax({}, dim=-1).matmul({})",
            "torch.einsum('bhij,bhjd->bhid', torch.softmax({}, -1), {})",
        ]
    )
    return str(d.let(product.format(scores, v)))


@step
def multihead(d: Draft) -> None:
    """The attention module of torch."""
    x = d.pick("tokens")
    heads = d.divisor(x.width)
    layer = d.layer(f"nn.MultiheadAttention({x.width}, {heads}, batch_first=True)")
    d.line(f"{layer}({x}, {x}, {x}, need_weights=False)[0]", "tokens")


# ---- recurrent layers


@step
def recurrent(d: Draft) -> None:
    x, width = d.pick("tokens"), d.choice([6, 4, 8])
    kind, more = (
        d.choice(["GRU", "LSTM", "RNN"]),
        d.choice(["", ", num_layers=2", ", bidirectional=True", ", bias=False"]),
    )
    if kind == "LSTM" and d.flag(3):
        more += ", proj_size=3"
    layer = d.layer(f"nn.{kind}({x.width}, {width}, batch_first=True{more})")
    if d.flag(4):
        state = d.let(f"{layer}({x})[1]{'[0]' if kind == 'LSTM' else ''}")
        d.line(f"{state}[{d.choice(['-1', '0'])}]", "vector")
    else:
        d.line(f"{layer}({x})[0]", "tokens")


@step
def recurrent_cell(d: Draft) -> None:
    x, width = d.pick("vector"), d.choice([6, 4])
    kind = d.choice(["GRUCell", "RNNCell", "LSTMCell"])
    layer, state = d.layer(f"nn.{kind}({x.width}, {width})"), d.name("t")
    d.run(f"{state} = {layer}({x})")
    d.run(f"{state} = {layer}({x} * 0.5, {state})")
    d.line(f"{state}[0]" if kind == "LSTMCell" else f"{state} + 0.0", "vector")
