"""Elementary functions, reductions and moves on the generic schedule, against torch in float64."""

import pytest
import torch
from torch.nn import functional as F

from graphprune.backends.compiler import compile_model
from graphprune.backends.prediction import Facts
from graphprune.backends.slow import slow_kernels
from test_backend_models import TARGETS, Wrap

INFINITY, NAN = float("inf"), float("nan")
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, INFINITY, -INFINITY, NAN, 1e-20, -1e-20, 1e-45,
           1e-38, 2.0**24, 1e10, -1e10, 88.8, -88.8, 100.0, -104.0, 3.4e38, -3.4e38)  # fmt: skip


def numbers():
    """Ordinary, small, large and special numbers."""
    torch.manual_seed(0)
    ordinary = [torch.randn(3000) * scale for scale in (1, 30)]
    wide = torch.exp(torch.empty(3000).uniform_(-60, 30)) * torch.randn(3000).sign()
    return torch.cat([*ordinary, wide, torch.empty(3000).uniform_(-1.01, 1.01), torch.tensor(SPECIAL)])


def distances(got, exact):
    """Units in the last place between results and exact ones; results that are not finite must be the same."""
    want = exact.float()
    finite = want.isfinite()
    assert torch.equal(got[~finite].nan_to_num(7.0), want[~finite].nan_to_num(7.0))
    _, exponent = torch.frexp(want[finite].double().abs().clamp(min=2.0**-126))
    return (got[finite].double() - exact[finite]).abs() / torch.ldexp(torch.tensor(1.0).double(), exponent - 24)


# Function, and how many units in the last place its results may be off.
FUNCTIONS = {
    "log": (torch.log, 2), "log2": (torch.log2, 2), "log10": (torch.log10, 3), "log1p": (torch.log1p, 3),
    "exp2": (torch.exp2, 1), "expm1": (torch.expm1, 1), "sinh": (torch.sinh, 1), "cosh": (torch.cosh, 1),
    "asinh": (torch.asinh, 1), "acosh": (torch.acosh, 1), "atanh": (torch.atanh, 1), "asin": (torch.asin, 1),
    "acos": (torch.acos, 1), "atan": (torch.atan, 4), "sin": (torch.sin, 2), "cos": (torch.cos, 2),
    "tan": (torch.tan, 5),
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_functions(target):
    x = numbers()
    # The angle of larger ones needs more digits of pi than there are.
    angles = torch.where(x.abs() > 2.0**48, torch.tensor(12.5), x)

    def everything(x, angles):
        return tuple(f(angles if name in ("sin", "cos", "tan") else x) for name, (f, _) in FUNCTIONS.items())

    got = dict(zip(FUNCTIONS, compile_model(Wrap(everything), target, (x, angles))(x, angles), strict=True))
    for name, exact in zip(FUNCTIONS, everything(x.double(), angles.double()), strict=True):
        assert got[name][got[name].isfinite()].std() > 0
        assert distances(got[name], exact).max() <= FUNCTIONS[name][1], name
    zeros = x == 0
    for name in ("sin", "tan", "atan", "log1p", "expm1", "sinh", "asinh", "atanh", "asin"):
        assert torch.equal(got[name][zeros].signbit(), x[zeros].signbit()), name


def test_angles_without_known_digits_are_nan():
    x = torch.tensor([2.0**49, -1e30, INFINITY, 1.0])
    got = compile_model(Wrap(lambda x: (x.sin(), x.cos(), x.tan())), "x86", x)(x)
    assert all(value.isnan().tolist() == [True, True, True, False] for value in got)


@pytest.mark.parametrize("target", TARGETS)
def test_powers_and_angles_of_two_numbers(target):
    torch.manual_seed(0)
    special = torch.tensor(SPECIAL)
    x = torch.cat([special.repeat_interleave(len(special)), torch.randn(4000), torch.randn(4000).exp()])
    y = torch.cat([special.repeat(len(special)), torch.randn(4000).mul(9).round(), torch.randn(4000) * 9])
    functions = (lambda x, y: x**y, torch.atan2)
    got = compile_model(Wrap(lambda x, y: tuple(f(x, y) for f in functions)), target, (x, y))(x, y)
    for function, have, units in zip(functions, got, (1, 5), strict=True):
        exact = function(x.double(), y.double())
        assert distances(have, exact).max() <= units
        zeros = (have == 0) & (exact.float() == 0)
        assert torch.equal(have[zeros].signbit(), exact[zeros].signbit())


def test_powers_that_broadcast():
    torch.manual_seed(0)
    x, y = torch.rand(5, 1, 7) + 0.1, torch.randn(6, 1)
    functions = (lambda x, y: x**y, lambda x, y: y.abs() ** x, lambda x, y: torch.atan2(y, x))
    got = compile_model(Wrap(lambda x, y: tuple(f(x, y) for f in functions)), "x86", (x, y))(x, y)
    for function, have in zip(functions, got, strict=True):
        want = function(x.double(), y.double())
        assert have.shape == want.shape and have.std() > 0
        assert (have - want).abs().max() <= 1e-6 * want.abs().max()


X = torch.linspace(-3, 4, 3 * 37 * 50).mul(99).sin().reshape(3, 37, 50) * 3
IMAGE = torch.linspace(0, 99, 2 * 8 * 9 * 11).cos().reshape(2, 8, 9, 11)
OPERATORS = {
    "softplus": (lambda x: (F.softplus(x), F.softplus(x * 30), F.softplus(x, 2.0, 3.0), F.logsigmoid(x), F.mish(x)), X),
    "softmax": (lambda x: tuple(x.softmax(axis) for axis in range(3)), X),
    "softmax of whole vectors": (lambda x: (x.softmax(1) + 1, x.log_softmax(1).relu() - x), X.reshape(-1, 50)[:, :48]),
    "log softmax": (lambda x: tuple(x.log_softmax(axis) for axis in range(3)), X),
    "softmax before an axis of one": (lambda x: (x.softmax(1), x.log_softmax(1)), X[:, :, :1].contiguous()),
    "channels": (lambda x: (x.softmax(1), F.log_softmax(x, 1)), IMAGE),
    "maxima": (lambda x: (x.amax(), x.amin((0, 2)), x.abs().amax(-1), x.amax((1, 2), keepdim=True), x.amin(1)), X),
    "short maxima": (lambda x: (x.amax(), x.amin(-1), x.max(), x.amax((0, 2))), IMAGE),
    "transposes": (lambda x: (x.permute(2, 1, 0) + 1, x.permute(2, 0, 1) * 2), X),
    "transposes of several": (lambda x: x.permute(2, 1, 0) * x.flip(0).permute(2, 1, 0), X),
    "joined": (lambda x: torch.cat([x, x[..., :5], x * 2], -1), X),
    "product": (lambda x: (x.prod(-1), x.prod(1, keepdim=True), x[0, 0, :9].prod()), X),
    "product of integers": (lambda i: (i.prod(-1), i.prod()), torch.arange(1, 7).reshape(2, 3)),
    "group norm": (lambda x: (F.group_norm(x, 4), F.instance_norm(x)), IMAGE),
    "windows": (lambda x: (F.unfold(x, 3, padding=1), F.unfold(x, (2, 3), 2, (0, 1), (1, 2))), IMAGE),
    "windows of one image": (lambda x: F.unfold(x, 2), IMAGE[0]),
    "places": (lambda x: (x[:, 3], x[:, -1], x[..., -2], x.index_select(1, torch.tensor([4, 0, 36]))), X),
    "integers": (lambda i: (i.log2(), i.exp2(), i.log1p()), torch.arange(1, 20)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name, target):
    function, x = OPERATORS[name]
    got = compile_model(Wrap(function), target, x)(x)
    want = function(x.double() if x.is_floating_point() else x)
    got, want = ([value] if isinstance(value, torch.Tensor) else value for value in (got, want))
    for have, exact in zip(got, want, strict=True):
        assert have.shape == exact.shape
        assert exact.numel() == 1 or have.double().std() > 0
        assert (have.double() - exact).abs().max() <= 2e-6 * exact.abs().max()


def test_softmax_of_extreme_numbers_over_columns():
    x = torch.tensor([[[-INFINITY, 1e30], [0.0, -1e30], [-200.0, 0.0]]])
    got = compile_model(Wrap(lambda x: (x.softmax(1), x.log_softmax(1))), "x86", x)(x)
    assert torch.allclose(got[0], x.softmax(1)) and torch.allclose(got[1], x.log_softmax(1))


def test_logarithms_of_powers_of_two_are_exact():
    exponents = torch.arange(-149.0, 128.0)
    x = torch.ldexp(torch.tensor(1.0).double(), exponents).float()
    assert torch.equal(compile_model(Wrap(torch.log2), "x86", x)(x), exponents)


def test_conversions_of_layouts_are_no_fault_of_the_model():
    own = Facts("add 1x2x3 -> 1x6 + unpack", macs=0, steps=10**9, library_calls=0, bytes=10**9, schedule="generic")
    other = Facts("sort 10 -> 10", macs=0, steps=10**9, library_calls=0, bytes=10**9, schedule="generic")
    assert [facts for facts, _ in slow_kernels({"own": own, "other": other})] == [other]


def test_no_function_is_a_call_of_the_c_library():
    artifact = compile_model(Wrap(lambda x: (x.log() + x.sin().sinh()) ** x.tan()), "x86", X)
    assert all(facts["library_calls"] == 0 for facts in artifact.manifest["kernels"].values())
