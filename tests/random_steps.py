"""The steps of random networks: each writes one pattern of layers and tensor code. A new one is a function here."""

from collections.abc import Callable

from random_networks import Draft, Misfit, Value

STEPS: dict[str, Callable[[Draft], None]] = {}

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


def step(function: Callable[[Draft], None]) -> Callable[[Draft], None]:
    """Put a step into the table."""
    STEPS[function.__name__] = function
    return function


def stem(d: Draft, name: str, kind: str) -> None:
    """A first layer on an input: most channels then are free; now and then the input itself can be used too."""
    width = d.choice([8, 12, 6, 16])
    shape = tuple(d.space[name].shape)
    if kind == "ids":
        d.line(f"{d.layer(f'nn.Embedding(9, {width})')}({name})", "tokens")
        return
    value = Value(name, kind, shape)
    layer = "nn.Conv2d({}, {}, 3, padding=1)" if kind == "image" else "nn.Linear({}, {})"
    d.line(f"{d.layer(layer.format(value.width, width))}({name})", kind)
    if d.flag(8):
        d.values.insert(0, value)


def linear(d: Draft, value: Value, width: int, bias: str = "") -> str:
    """An expression that mixes the channels of any value."""
    if value.kind == "image":
        return f"{d.layer(f'nn.Conv2d({value.width}, {width}, 1{bias})')}({value})"
    return f"{d.layer(f'nn.Linear({value.width}, {width}{bias})')}({value})"


def at(value: Value, axis: int, text: str) -> str:
    """An index with `text` along one axis."""
    return ", ".join([*[":"] * axis, text])


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


# ---- taking parts


@step
def split(d: Draft) -> None:
    """Two parts of the channels, used apart, joined in another order or multiplied."""
    x = d.pick()
    a, b = d.name("t"), d.name("t")
    half, axis = x.width // 2, d.choice([x.axis, x.axis - len(x.shape)])
    uneven = d.number(1, max(x.width - 1, 1))
    cuts = [f"{x}.chunk(2, {axis})", f"{x}.split([{uneven}, {x.width - uneven}], {axis})", f"{x}.split({half}, dim={axis})",
            f"torch.tensor_split({x}, 2, {axis})", f"{x}.split({x}.shape[{axis}] // 2, {axis})"]  # fmt: skip
    d.run(f"{a}, {b} = {d.choice(cuts)}")
    style = d.below(5)
    if style == 0:
        d.keep(a, x.kind)
        d.keep(b, x.kind)
    elif style == 1:
        d.line(f"torch.cat([{b}, {a}], {axis})", x.kind)
    elif style == 2:
        d.line(f"{a} * {b}.sigmoid()", x.kind)
    elif style == 3:
        d.line(f"torch.cat([{b}, {a} + 1, {b}], {axis})", x.kind)
    else:
        d.line(f"{a} + {b}", x.kind)


@step
def three_parts(d: Draft) -> None:
    x = d.pick()
    if x.width % 3:
        raise Misfit
    third = x.width // 3
    a, b, c = (d.name("t") for _ in range(3))
    d.run(f"{a}, {b}, {c} = {d.choice([f'{x}.chunk(3, {x.axis})', f'{x}.split({third}, {x.axis})'])}")
    d.line(
        d.choice(["{} * {} + {}", "torch.cat([{2}, {0}, {1}], " + f"{x.axis})", "{0} + {2} * {1}.tanh()"]).format(
            a, b, c
        ),
        x.kind,
    )


@step
def glu(d: Draft) -> None:
    x = d.pick()
    if x.width % 2:
        raise Misfit
    axis = d.choice([x.axis, x.axis - len(x.shape)])
    d.line(f"{d.layer(f'nn.GLU({axis})')}({x})" if d.flag(3) else f"F.glu({x}, {axis})", x.kind)


@step
def swiglu(d: Draft) -> None:
    x, width = d.pick("tokens", "vector", "nhwc"), d.width()
    gate = f"F.silu({linear(d, x, width, ', bias=False')}) * {linear(d, x, width)}"
    y = d.let(gate)
    d.line(f"{d.layer(f'nn.Linear({width}, {x.width})')}({y})", x.kind)


@step
def cut(d: Draft) -> None:
    """A slice along channels, sometimes beside the rest of them, with strides, ends from the tensor or negative."""
    x = d.pick()
    start, stop = d.below(max(x.width // 2, 1)), x.width - d.below(max(x.width // 2, 1))
    texts = [f"{start}:{stop}", f"{start}:", f":{stop}", ":-1", "-3:", "::2", "1::2", f"{start}:{stop}:2",
             f"{x}.shape[{x.axis}] // 2:", f":{x}.shape[{x.axis}] // 2", f":{x}.size({x.axis}) - 1"]  # fmt: skip
    text = d.choice(texts)
    style = d.below(3)
    if style == 0:
        d.line(f"{x}[{at(x, x.axis, text)}]", x.kind)
    elif style == 1:
        d.line(f"{x}.narrow({x.axis}, {start}, {stop - start})", x.kind)
    else:
        head, tail = (f"{x}[{at(x, x.axis, part)}]" for part in (f":{stop}", f"{stop}:"))
        d.line(
            f"torch.cat([{d.choice([head, f'{head} * 2'])}, F.relu({tail})][::{d.choice([1, -1])}], {x.axis})", x.kind
        )


@step
def cut_other(d: Draft) -> None:
    """A slice along an axis that is no channel axis."""
    x = d.pick("image", "tokens", "nhwc")
    axis = d.choice([axis for axis in range(1, len(x.shape)) if axis != x.axis])
    d.line(f"{x}[{at(x, axis, d.choice(['1:', '::2', ':-1', f':{d.size(x, axis)} // 2', '1:3']))}]", x.kind)


@step
def choose(d: Draft) -> None:
    """Positions picked by a constant list: a permutation, a subset, or with repetitions."""
    x = d.pick()
    axis = d.choice([x.axis, x.axis, 1])
    size = x.shape[axis]
    style, index = d.below(3), list(range(size))
    if style == 0:
        index = [(place * 5 + 1) % size for place in range(size)] if size % 5 else index[::-1]
    elif style == 1:
        index = index[:: d.number(1, 2)][: d.number(2, size)]
    else:
        index = [d.below(size) for _ in range(d.number(2, size))]
    if d.flag(3):
        d.line(f"{x}[{at(x, axis, str(index))}]", x.kind)
        return
    buffer = d.buffer(f"torch.tensor({index})")
    d.line(d.choice([f"{x}.index_select({axis}, {buffer})", f"{x}[{at(x, axis, buffer)}]"]), x.kind)


@step
def flip(d: Draft) -> None:
    x = d.pick()
    axes = d.choice([f"{x.axis}", f"({x.axis},)", f"[1, {len(x.shape) - 1}]", f"{len(x.shape) - 1}"])
    d.line(d.choice([f"{x}.flip({axes})", f"torch.flip({x}, {axes if axes[0] in '([' else f'({axes},)'})"]), x.kind)


@step
def roll(d: Draft) -> None:
    x = d.pick()
    shift, axis = d.choice([1, 2, -1, 3, x.width, f"{x}.shape[{x.axis}] // 2"]), d.choice([x.axis, 1, len(x.shape) - 1])
    d.line(f"torch.roll({x}, {shift}, {axis})" if d.flag() else f"{x}.roll({shift}, dims={axis})", x.kind)


# ---- reshaping


@step
def shuffle(d: Draft) -> None:
    """A channel shuffle in several spellings."""
    x = d.pick()
    groups = d.divisor(x.width)
    rest, axis, rank = x.width // groups, x.axis, len(x.shape)
    style = d.below(6)
    if style == 0 and x.kind == "image":
        d.line(f"F.channel_shuffle({x}, {groups})", x.kind)
        return
    if style == 1 and x.kind == "image":
        d.line(f"{d.layer(f'nn.ChannelShuffle({groups})')}({x})", x.kind)
        return
    before, after = d.sizes(x, range(axis)), d.sizes(x, range(axis + 1, rank))
    after = f", {after}" if after else ""
    middle = d.choice([f"{groups}, {rest}", f"{groups}, -1", f"-1, {rest}", f"{groups}, {x}.shape[{axis}] // {groups}"])
    view = d.choice(["view", "reshape"])
    split = f"{x}.{view}({before}, {middle}{after})" if style < 5 else f"{x}.unflatten({axis}, ({middle}))"
    moved = d.choice(
        [f"{split}.transpose({axis}, {axis + 1})", f"{split}.permute({', '.join(map(str, _swapped(rank + 1, axis)))})"]
    )
    ends = [f"flatten({axis}, {axis + 1})", f"reshape({before}, -1{after})", f"reshape({before}, {x.width}{after})",
            f"reshape({x}.shape)", f"reshape({before}, {d.size(x, axis)}{after})"]  # fmt: skip
    d.line(f"{moved}.{d.choice(ends)}", x.kind)


def _swapped(rank: int, axis: int) -> list[int]:
    order = list(range(rank))
    order[axis], order[axis + 1] = axis + 1, axis
    return order


@step
def regroup(d: Draft) -> None:
    """Split the channels, do something per group, merge them again: group statistics, maxout, gates per group."""
    x = d.pick()
    groups = d.divisor(x.width)
    axis, rank = x.axis, len(x.shape)
    before, after = d.sizes(x, range(axis)), d.sizes(x, range(axis + 1, rank))
    after = f", {after}" if after else ""
    y = d.let(
        f"{x}.reshape({before}, {d.choice([f'{groups}, {x.width // groups}', f'{groups}, -1', f'-1, {x.width // groups}'])}{after})"
    )
    along = d.choice([axis + 1, axis])
    style = d.below(7)
    if style < 3:
        d.line(f"{y}.{['amax', 'mean', 'sum'][style]}({along})", x.kind)
    elif style == 3:
        d.line(f"({y} * {y}.sigmoid().mean({along}, keepdim=True)).flatten({axis}, {axis + 1})", x.kind)
    elif style == 4:
        d.line(f"{y}.softmax({along}).flatten({axis}, {axis + 1})", x.kind)
    elif style == 5:
        d.line(f"{y}.{d.choice([f'flip({along})', f'roll(1, {along})'])}.flatten({axis}, {axis + 1})", x.kind)
    else:
        d.line(f"{y}.max({along})[0]" if d.flag() else f"{y}.select({along}, {d.below(2)})", x.kind)


@step
def heads_parameter(d: Draft) -> None:
    """Channels split into heads that meet a parameter per head, per dimension or both."""
    x = d.pick("tokens", "vector")
    heads = d.divisor(x.width)
    dim = x.width // heads
    y = d.let(
        f"{x}.reshape({d.sizes(x, range(x.axis))}, {d.choice([f'{heads}, {dim}', f'-1, {dim}', f'{heads}, -1'])})"
    )
    style = d.below(4)
    if style < 3:
        shape = [(heads, 1), (dim,), (heads, dim)][style]
        d.line(f"({y} {d.choice('*+')} {d.parameter(*shape)}).flatten({x.axis})", x.kind)
    else:
        batch = "ab"[: x.axis]
        d.line(f"torch.einsum('{batch}hd,hde->{batch}he', {y}, {d.parameter(heads, dim, 3)}).flatten({x.axis})", x.kind)


@step
def pixels(d: Draft) -> None:
    x = d.pick("image")
    name = d.choice(["F.pixel_shuffle({}, 2)", "F.pixel_unshuffle({}, 2)"])
    d.line(name.format(x), "image")


@step
def patches(d: Draft) -> None:
    """Space to depth by hand."""
    x = d.pick("image")
    b, c, h, w = x.shape
    if h % 2 or w % 2:
        raise Misfit
    y = d.let(f"{x}.reshape({d.size(x, 0)}, {d.size(x, 1)}, {h // 2}, 2, {w // 2}, 2)")
    order, kind = d.choice(
        [((0, 1, 3, 5, 2, 4), "image"), ((0, 3, 5, 1, 2, 4), "image"), ((0, 2, 4, 1, 3, 5), "tokens")]
    )
    end = ".flatten(1, 3)" if kind == "image" else ".flatten(3).flatten(1, 2)"
    d.line(f"{y}.permute{order}{end}", kind)


@step
def to_tokens(d: Draft) -> None:
    x = d.pick("image", "nhwc")
    b, size = x.shape[0], x.shape[2] * (x.shape[3] if x.kind == "image" else x.shape[1])
    if x.kind == "nhwc":
        d.line(d.choice([f"{x}.flatten(1, 2)", f"{x}.reshape({b}, -1, {x.width})"]), "tokens")
        return
    ends = [f"{x}.flatten(2).transpose(1, 2)", f"{x}.reshape({b}, {x.width}, {size}).permute(0, 2, 1)",
            f"{x}.permute(0, 2, 3, 1).flatten(1, 2)", f"{x}.view({x}.shape[0], {x}.shape[1], -1).mT"]  # fmt: skip
    d.line(d.choice(ends), "tokens")


@step
def to_image(d: Draft) -> None:
    x = d.pick("tokens", "nhwc")
    if x.kind == "nhwc":
        d.line(f"{x}.permute(0, 3, 1, 2){d.choice(['', '.contiguous()'])}", "image")
        return
    side = int(x.shape[1] ** 0.5)
    if side * side != x.shape[1] or side < 2:
        raise Misfit
    channels = d.choice([x.width, "-1", f"{x}.shape[2]"])
    d.line(f"{x}.transpose(1, 2).reshape({d.size(x, 0)}, {channels}, {side}, {side})", "image")


@step
def to_nhwc(d: Draft) -> None:
    x = d.pick("image")
    d.line(
        d.choice([f"{x}.permute(0, 2, 3, 1)", f"torch.movedim({x}, 1, -1)", f"{x}.transpose(1, 2).transpose(2, 3)"]),
        "nhwc",
    )


@step
def to_vector(d: Draft) -> None:
    x = d.pick("image", "tokens", "nhwc")
    if x.kind == "image":
        ends = ["{}.mean((2, 3))", "{}.amax((2, 3))", "F.adaptive_avg_pool2d({}, 1).flatten(1)", "{}.flatten(1)",
                "{}.sum((-1, -2)) * 0.1", "{}[:, :, 0, 1]", "F.adaptive_avg_pool2d({}, (1, 1)).squeeze(-1).squeeze(-1)",
                "F.adaptive_max_pool2d({}, 2).flatten(1)"]  # fmt: skip
    elif x.kind == "tokens":
        ends = [
            "{}.mean(1)",
            "{}[:, 0]",
            "{}.amax(dim=1)",
            "{}.flatten(1)",
            "{}.sum(dim=-2)",
            "{}[:, -1, :]",
            "{}.max(1).values",
        ]
    else:
        ends = ["{}.mean((1, 2))", "{}.flatten(1)", "{}[:, 0, 1]"]
    d.line(d.choice(ends).format(x), "vector")


@step
def expand_vector(d: Draft) -> None:
    """A vector spread over an image or tokens."""
    x = d.pick("vector")
    style = d.below(3)
    if style == 0:
        d.line(f"{x}[:, :, None, None].expand(-1, -1, 4, 4) * {d.parameter(4, 4)}", "image")
    elif style == 1:
        d.line(f"{x}.unsqueeze(1).repeat(1, 4, 1) + {d.parameter(4, 1)}", "tokens")
    else:
        d.line(f"{x}.unsqueeze(1).expand({d.size(x, 0)}, 3, {d.size(x, 1)}) * {d.parameter(3, x.width)}", "tokens")


# ---- repeating, padding, pooling


@step
def repeat(d: Draft) -> None:
    x = d.pick()
    times = d.number(2, 3)
    whole = ", ".join(str(times if axis == x.axis else 1) for axis in range(len(x.shape)))
    grown = ", ".join("-1" if axis != x.axis + 1 else str(times) for axis in range(len(x.shape) + 1))
    ends = [f"{x}.repeat({whole})", f"{x}.repeat_interleave({times}, {x.axis})", f"torch.tile({x}, ({whole}))",
            f"{x}.unsqueeze({x.axis + 1}).expand({grown}).contiguous().flatten({x.axis}, {x.axis + 1})",
            f"torch.repeat_interleave({x}, {times}, dim={x.axis - len(x.shape)})"]  # fmt: skip
    d.line(d.choice(ends), x.kind)


@step
def pad_channels(d: Draft) -> None:
    x = d.pick()
    behind = len(x.shape) - 1 - x.axis
    amounts = [0] * (2 * behind) + [d.below(3), d.below(3)]
    value = d.choice(["", ", value=0.5"])
    d.line(f"F.pad({x}, {tuple(amounts)}{value})", x.kind)


@step
def crop_channels(d: Draft) -> None:
    x = d.pick()
    behind = len(x.shape) - 1 - x.axis
    d.line(f"F.pad({x}, {tuple([0] * (2 * behind) + [d.choice([-1, 0, 1]), d.choice([-2, -1])])})", x.kind)


@step
def pad_space(d: Draft) -> None:
    x = d.pick("image")
    mode = d.choice(["", ", mode='reflect'", ", mode='replicate'", ", value=1.0"])
    d.line(f"F.pad({x}, ({d.below(2)}, 1, 1, {d.below(2)}){mode})", "image")


@step
def pool(d: Draft) -> None:
    x = d.pick("image")
    calls = ["F.max_pool2d({}, 2)", "F.avg_pool2d({}, 2)", "F.interpolate({}, scale_factor=2)", "F.adaptive_avg_pool2d({}, 2)",
             "F.max_pool2d({}, 3, 1, 1)", "F.interpolate({}, size=(3, 3), mode='bilinear')", "F.avg_pool2d({}, 3, stride=1, padding=1)"]  # fmt: skip
    d.line(d.choice(calls).format(x), "image")


# ---- reductions and gates


@step
def excite(d: Draft) -> None:
    """Squeeze and excite, and its like for tokens."""
    x = d.pick("image", "tokens")
    inner = d.choice([3, 4, 6])
    if x.kind == "image":
        down, up = d.layer(f"nn.Conv2d({x.width}, {inner}, 1)"), d.layer(f"nn.Conv2d({inner}, {x.width}, 1)")
        gate = d.let(f"{up}(F.relu({down}(F.adaptive_avg_pool2d({x}, 1))))")
    else:
        down, up = d.layer(f"nn.Linear({x.width}, {inner})"), d.layer(f"nn.Linear({inner}, {x.width})")
        gate = d.let(f"{up}(F.relu({down}({x}.mean(1, keepdim=True))))")
    d.line(f"{x} * {gate}.{d.choice(['sigmoid()', 'tanh()', f'softmax({x.axis})'])}", x.kind)


@step
def context(d: Draft) -> None:
    """A vector of another value scales or shifts (film, adaptive norms)."""
    x, y = d.pick("image", "tokens"), d.pick("vector")
    if y.shape[0] != x.shape[0]:
        raise Misfit
    a, b = d.name("t"), d.name("t")
    d.run(f"{a}, {b} = {d.layer(f'nn.Linear({y.width}, {2 * x.width})')}({y}).chunk(2, 1)")
    spread = "[:, :, None, None]" if x.kind == "image" else "[:, None]"
    d.line(f"{x} * (1 + {a}{spread}) + {b}{spread}", x.kind)


@step
def reduce(d: Draft) -> None:
    """A statistic over an axis, spread back over the value."""
    x = d.pick()
    axis = d.choice([x.axis, 1, len(x.shape) - 1, -1])
    calls = ["{0} * {0}.mean({1}, keepdim=True)", "{0} - {0}.amax({1}, keepdim=True)", "{0} + {0}.sum({1}, keepdim=True) * 0.1",
             "{0} * {0}.std({1}, keepdim=True)", "{0} + {0}.logsumexp({1}, keepdim=True)", "{0} * {0}.min({1}, keepdim=True)[0]",
             "{0} + {0}.cumsum({1}) * 0.1", "{0}.sort({1})[0]", "{0} * {0}.argmax({1}, keepdim=True)",
             "{0} + {0}.relu().sum({1}, keepdim=True) / {0}.shape[{1}]"]  # fmt: skip
    d.line(d.choice(calls).format(x, axis), x.kind)


@step
def softmax(d: Draft) -> None:
    x = d.pick()
    axis = d.choice([axis for axis in range(1, len(x.shape)) if axis != x.axis] + [x.axis])
    d.line(
        f"{x} * {d.choice(['torch.softmax({}, {})', 'F.softmax({}, dim={})', '{}.log_softmax({})']).format(x, axis)}",
        x.kind,
    )


@step
def size_scale(d: Draft) -> None:
    """A number computed from a size."""
    x = d.pick()
    size = d.size(x, d.choice([x.axis, 0, 1]))
    d.line(d.choice(["{} * {} ** -0.5", "{} / {}", "{} + 1 / {}", "{} * (0.1 * {})"]).format(x, size), x.kind)


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


RARE = ("multihead", "write_part", "table_rows", "tied_head", "gram", "token_mix")
"""Steps that lock much: they come up less often."""
