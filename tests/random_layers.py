"""Steps that compute: convolutions, products, norms, activations, sums, concatenations."""

from random_networks import Draft, Misfit
from random_steps import at, linear, step

KEEP = ["F.relu({})", "torch.tanh({})", "F.gelu({})", "{}.relu()", "F.leaky_relu({}, 0.1)", "F.silu({})", "{}.abs()",
        "F.hardswish({})", "F.elu({})", "torch.sin({})", "-{}", "{} * 0.5", "{} / 2", "{}.clamp(-1, 1)",
        "F.relu6({})", "{}.square() * 0.3", "{}.pow(2)", "F.dropout({}, 0.5, self.training)", "{}.contiguous()", "{}.clone()"]  # fmt: skip
LOSE = ["{}.sigmoid()", "torch.cos({})", "F.softplus({})", "{} + 1.0", "1.0 - {}", "F.hardsigmoid({})", "{}.clamp(min=0.1)",
        "torch.exp(-{}.abs())", "({}.abs() + 1).rsqrt()", "({}.abs() + 1).log() + 0.3", "({0} > 0).to({0}.dtype)"]  # fmt: skip
MODULES = [
    "nn.ReLU()",
    "nn.Sigmoid()",
    "nn.Softsign()",
    "nn.Dropout(0.3)",
    "nn.Hardtanh()",
    "nn.Identity()",
    "nn.PReLU()",
]
INPLACE = ["F.relu({}, inplace=True)", "{}.relu_()", "{}.add_(1.0)", "{}.mul_(0.5)", "{}.clamp_(min=0)", "{}.sigmoid_()",
           "{}.neg_()"]  # fmt: skip


# ---- convolutions and matrix products


@step
def conv(d: Draft) -> None:
    x, width, k = d.pick("image"), d.width(), d.choice([1, 3])
    more = d.choice(["", ", stride=2", ", dilation=2", ", bias=False", ", padding_mode='reflect'"])
    pad = 2 * (k // 2) if "dilation" in more else k // 2
    d.line(f"{d.layer(f'nn.Conv2d({x.width}, {width}, {k}, padding={pad}{more})')}({x})", "image")


@step
def grouped(d: Draft) -> None:
    x = d.pick("image")
    groups = d.divisor(x.width)
    layer = d.layer(f"nn.Conv2d({x.width}, {groups * d.number(1, 4)}, 3, padding=1, groups={groups})")
    d.line(f"{layer}({x})", "image")


@step
def depthwise(d: Draft) -> None:
    x = d.pick("image")
    layer = d.layer(f"nn.Conv2d({x.width}, {x.width * d.number(1, 2)}, 3, padding=1, groups={x.width})")
    d.line(f"{layer}({x})", "image")


@step
def transposed(d: Draft) -> None:
    x = d.pick("image")
    groups = d.choice([1, x.width, d.divisor(x.width)]) if x.width > 3 and x.width not in (5, 7, 11) else 1
    width = groups * d.number(1, 2) if groups > 1 else d.width()
    size = d.choice(["1", "2, 2", "3, padding=1"])
    d.line(f"{d.layer(f'nn.ConvTranspose2d({x.width}, {width}, {size}, groups={groups})')}({x})", "image")


@step
def conv_parameter(d: Draft) -> None:
    x, width = d.pick("image"), d.width()
    if d.flag():
        d.line(f"F.conv2d({x}, {d.parameter(width, x.width, 1, 1)}, {d.parameter(width)})", "image")
    else:
        d.line(f"F.conv2d({x}, {d.parameter(x.width, 1, 3, 3)}, padding=1, groups={d.size(x, 1)})", "image")


@step
def conv1d(d: Draft) -> None:
    x, width = d.pick("tokens"), d.width()
    groups = d.choice([1, 1, x.width])
    width = x.width if groups > 1 else width
    layer = d.layer(f"nn.Conv1d({x.width}, {width}, 3, padding=1, groups={groups})")
    d.line(f"{layer}({x}.transpose(1, 2)).transpose(1, 2)", "tokens")


@step
def mix(d: Draft) -> None:
    x = d.pick("tokens", "vector", "nhwc")
    d.line(linear(d, x, d.width(), d.choice(["", ", bias=False"])), x.kind)


@step
def bare_matmul(d: Draft) -> None:
    x, width = d.pick("tokens", "vector", "nhwc"), d.width()
    style = d.below(4)
    if style == 0:
        d.line(f"{x} @ {d.parameter(x.width, width)}", x.kind)
    elif style == 1:
        d.line(f"{x}.matmul({d.parameter(width, x.width)}.t()) + {d.parameter(width)}", x.kind)
    elif style == 2:
        batch = "abc"[: x.axis]
        d.line(f"torch.einsum('{batch}i,oi->{batch}o', {x}, {d.parameter(width, x.width)})", x.kind)
    elif x.kind == "vector":
        d.line(f"torch.addmm({d.parameter(width)}, {x}, {d.parameter(x.width, width)})", x.kind)
    else:
        d.line(f"F.linear({x}, {d.parameter(width, x.width)}, {d.parameter(width)})", x.kind)


@step
def token_mix(d: Draft) -> None:
    """A linear layer over positions instead of channels."""
    x = d.pick("tokens")
    layer = d.layer(f"nn.Linear({x.shape[1]}, {x.shape[1]})")
    d.line(f"{layer}({x}.transpose(1, 2)).transpose(1, 2)", "tokens")


@step
def gram(d: Draft) -> None:
    """Channels or positions against each other."""
    x = d.pick("tokens")
    style = d.below(4)
    if style == 0:
        d.line(f"({x} @ {x}.transpose(1, 2)).softmax(-1) @ {x}", "tokens")
    elif style == 1:
        scale = d.choice([f"{x.width} ** -0.5", f"{x}.shape[-1] ** -0.5", f"{x}.size(2) ** -0.5"])
        d.line(f"(({x} @ {x}.transpose(1, 2)) * {scale}).softmax(-1) @ {x}", "tokens")
    elif style == 2:
        d.line(f"{x} @ ({x}.transpose(1, 2) @ {x}).tanh()", "tokens")
    else:
        y = d.pick("tokens")
        if y.shape[:2] != x.shape[:2]:
            raise Misfit
        d.line(f"torch.einsum('btc,btd->bcd', {x}, {y}).softmax({d.choice([1, 2])}).transpose(1, 2)", "tokens")


@step
def shared_layer(d: Draft) -> None:
    x = d.pick()
    layer = linear(d, x, x.width).split("(")[0]
    y = d.line(f"{layer}({x})", x.kind)
    d.line(f"{layer}(F.relu({y}))", x.kind)


@step
def tied_weight(d: Draft) -> None:
    x, width = d.pick("tokens", "vector", "nhwc"), d.width()
    weight = d.parameter(width, x.width)
    y = d.let(f"F.relu(F.linear({x}, {weight}))")
    d.line(f"F.linear({y}, {weight}.t())", x.kind)


@step
def table_rows(d: Draft) -> None:
    """A table of places, looked up by a buffer of positions or cut to the length."""
    x = d.pick("tokens")
    length = x.shape[1]
    if d.flag():
        rows = d.buffer(f"torch.tensor({[d.below(length + 2) for _ in range(length)]})")
        d.line(f"{x} + {d.parameter(length + 2, x.width)}[{rows}]", "tokens")
    else:
        d.line(f"{x} + {d.parameter(1, length + 3, x.width)}[:, :{d.size(x, 1)}]", "tokens")


@step
def tied_head(d: Draft) -> None:
    """An embedding whose table is also the last layer."""
    x = d.pick("tokens")
    table = d.layer(f"nn.Embedding(9, {x.width})")
    ids = d.buffer(f"torch.tensor({[d.below(9) for _ in range(x.shape[1])]})")
    y = d.let(f"{x} + {table}({ids})")
    d.line(f"F.linear({y}, {table}.weight)", "tokens")


# ---- normalisation, activation, scaling


@step
def batch_norm(d: Draft) -> None:
    x = d.pick("image", "vector")
    more = d.choice(["", ", affine=False"])
    dims = 2 if x.kind == "image" else 1
    d.line(f"{d.layer(f'nn.BatchNorm{dims}d({x.width}{more})')}({x})", x.kind)


@step
def channel_norm(d: Draft) -> None:
    x = d.pick("image")
    if d.flag():
        more = d.choice(["", ", affine=True"])
        d.line(f"{d.layer(f'nn.InstanceNorm2d({x.width}{more})')}({x})", "image")
    else:
        groups = d.choice([1, d.divisor(x.width, whole=True)])
        more = d.choice(["", ", affine=False"])
        d.line(f"{d.layer(f'nn.GroupNorm({groups}, {x.width}{more})')}({x})", "image")


@step
def layer_norm(d: Draft) -> None:
    x = d.pick("tokens", "vector", "nhwc")
    style = d.below(5)
    if style == 4:
        d.line(f"F.layer_norm({x}, ({d.size(x, x.axis)},))", x.kind)
        return
    kind = [
        "nn.LayerNorm({})",
        "nn.RMSNorm({}, eps=1e-5)",
        "nn.LayerNorm({}, elementwise_affine=False)",
        "nn.LayerNorm({}, bias=False)",
    ]
    d.line(f"{d.layer(kind[style].format(x.width))}({x})", x.kind)


@step
def written_norm(d: Draft) -> None:
    """Normalisations as formulas."""
    x = d.pick()
    axis = d.choice([x.axis, x.axis, x.axis - len(x.shape), 1])
    style = d.below(5)
    if style == 0:
        d.line(f"{x} * torch.rsqrt({x}.pow(2).mean({axis}, keepdim=True) + 1e-3)", x.kind)
    elif style == 1:
        mean = d.let(f"{x}.mean({axis}, keepdim=True)")
        d.line(f"({x} - {mean}) / ({x}.var({axis}, keepdim=True, unbiased={d.flag()}) + 0.1).sqrt()", x.kind)
    elif style == 2:
        d.line(f"F.normalize({x}, dim={axis}, eps=1e-3)", x.kind)
    elif style == 3:
        d.line(f"{x} / ({x}.norm(dim={axis}, keepdim=True) + 1)", x.kind)
    else:
        d.line(f"{x} / {x}.abs().sum({axis}, keepdim=True).add(1)", x.kind)


@step
def activation(d: Draft) -> None:
    x = d.pick()
    style = d.below(4)
    if style < 2:
        d.line(d.choice(KEEP if style == 0 else LOSE).format(x), x.kind)
    elif style == 2:
        d.line(f"{d.layer(d.choice(MODULES))}({x})", x.kind)
    else:
        wide = f"nn.PReLU({x.width})" if x.axis == 1 else "nn.ReLU(inplace=True)"
        d.line(f"{d.layer(wide)}({x})", x.kind)


@step
def inplace(d: Draft) -> None:
    """A write into a value that others may read afterwards."""
    x = d.pick()
    if x.name.startswith("x"):
        raise Misfit
    source = x.name if d.flag() else d.let(f"{x}.clone()")
    if d.flag(3):
        y = d.pick(like=x)
        d.line(d.choice(["{}.add_({})", "{}.mul_({})", "{}.sub_({})"]).format(source, y), x.kind)
    else:
        d.line(d.choice(INPLACE).format(source), x.kind)


@step
def write_part(d: Draft) -> None:
    """Part of a copy is overwritten."""
    x = d.pick()
    axis, copy = d.below(len(x.shape)), d.let(f"{x}.clone()")
    d.run(f"{copy}[{at(x, axis, f'{d.below(2)}:{d.number(1, x.shape[axis])}')}] {d.choice(['=', '+=', '*='])} 0.5")
    d.line(f"{copy} * 1.0", x.kind)


@step
def scale(d: Draft) -> None:
    """A parameter or buffer per channel, or per anything that broadcasts."""
    x = d.pick()
    shape = [x.width if axis == x.axis else 1 for axis in range(x.axis, len(x.shape))]
    if d.flag(3):
        shape = [size if d.flag() else 1 for size in x.shape]
    stored = d.parameter(*shape) if d.flag() else d.buffer(f"torch.rand({tuple(shape)}) + 0.5")
    d.line(d.choice(["{} * {}", "{} + {}", "{1} - {0}", "torch.maximum({}, {})"]).format(x, stored), x.kind)


# ---- joining values


@step
def add(d: Draft) -> None:
    x = d.pick()
    y = d.pick(like=x)
    signs = ["{} + {}", "{} - {}", "{} * {}", "torch.maximum({}, {})", "torch.add({}, {}, alpha=2)", "{} / ({}.abs() + 1)",
             "torch.minimum({}, {})", "{} * {}.sigmoid()", "torch.lerp({}, {}, 0.3)", "{0} + 0.1 * {0} * {1}"]  # fmt: skip
    d.line(d.choice(signs).format(x, y), x.kind)


@step
def residual(d: Draft) -> None:
    """Two values of different width, one of them projected."""
    x = d.pick()
    y = d.pick(x.kind)
    d.line(f"{x} {d.choice('+*-')} {linear(d, y, x.width)}", x.kind)


@step
def cat(d: Draft) -> None:
    x = d.pick()
    parts = [x]
    for _ in range(d.number(1, 2)):
        y = d.pick(x.kind)
        if [s for a, s in enumerate(y.shape) if a != x.axis] != [s for a, s in enumerate(x.shape) if a != x.axis]:
            y = x
        parts.insert(d.below(len(parts) + 1), y)
    d.line(f"torch.cat([{', '.join(map(str, parts))}], {d.choice([x.axis, x.axis - len(x.shape)])})", x.kind)


@step
def cat_constant(d: Draft) -> None:
    x = d.pick()
    more = [str(size) if axis != x.axis else "2" for axis, size in enumerate(x.shape)]
    made = d.choice([f"{x}.new_zeros({', '.join(more)})", f"{x}.new_ones({', '.join(more)})", ""])
    made = made or d.parameter(*[int(size) for size in more])
    pair = [x.name, made][:: d.choice([1, -1])]
    d.line(f"torch.cat([{', '.join(pair)}], {x.axis})", x.kind)


@step
def cat_other(d: Draft) -> None:
    """Along an axis that is no channel axis: classification tokens, rows."""
    x = d.pick("tokens", "image", "nhwc")
    y = d.pick(like=x)
    axis = 2 if x.kind == "image" else 1
    if x.kind == "tokens" and d.flag():
        token = d.parameter(1, 1, x.width)
        d.line(f"torch.cat([{token}.expand({d.size(x, 0)}, -1, -1), {x}], 1)", "tokens")
    else:
        d.line(f"torch.cat([{x}, {y}], {axis})", x.kind)


@step
def stack(d: Draft) -> None:
    x = d.pick()
    y = d.pick(like=x)
    axis = d.choice([0, 1, -1, x.axis])
    ends = [f".sum({axis})", f".mean({axis})", f".amax({axis})", f".unbind({axis})[1]", f".select({axis}, 0)"]
    d.line(f"torch.stack([{x}, {y}], {axis}){d.choice(ends)}", x.kind)


@step
def interleave(d: Draft) -> None:
    """Two values with their channels taken in turn."""
    x = d.pick()
    y = d.pick(like=x)
    start, stop = (x.axis, x.axis + 1)
    axis = d.choice([stop, start])
    d.line(f"torch.stack([{x}, {y}], {axis}).flatten({start}, {stop})", x.kind)


@step
def where(d: Draft) -> None:
    x = d.pick()
    y = d.pick(like=x)
    style = d.below(5)
    if style == 0:
        d.line(f"torch.where({x} > 0, {x}, {y})", x.kind)
    elif style == 1:
        d.line(f"{x}.masked_fill({y} < 0, {d.choice(['0.0', '0.5'])})", x.kind)
    elif style == 2:
        d.line(f"torch.where({x} > {y}, {x} * 2, 0.3)", x.kind)
    elif style == 3:
        keep = d.buffer(f"torch.rand({x.shape[x.axis :]}) > 0.5")
        d.line(f"torch.where({keep}, {x}, {y})", x.kind)
    else:
        d.line(f"torch.addcmul({x}, {y}, {y}, value=0.5)", x.kind)
