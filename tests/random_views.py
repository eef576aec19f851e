"""Steps that move, pick and reduce positions."""

from random_networks import Draft, Misfit
from random_steps import at, linear, step

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
