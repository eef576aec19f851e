"""What is wrong with calibration data is said, and nothing is half done."""

import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from calibration import batches, structured
from graphprune import refitting
from graphprune.errors import DataError, GraphPruneError, OptionError, WeightsError
from graphprune.frontends.torch import pairs, recovering
from graphprune.progress import shown
from helpers import randomise
from networks import Net

X = (3, 8, 8)


def net() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU()
    return randomise(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)))


def refused(model: nn.Module, data, criterion: str = "l2", recover: bool | str = False, **more) -> str:
    """The message of the refusal; the model is as it was, in every bit and mode, and no run is left."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not tensor.is_meta}
    mode = model.training
    with pytest.raises(GraphPruneError) as caught:
        graphprune.optimize(
            model, 0.3, example_inputs=more.pop("example", torch.randn(2, *X)), data=data, criterion=criterion,
            recover=recover, verify=False, **more,
        )  # fmt: skip
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert model.training == mode and all(parameter.grad is None for parameter in model.parameters())
    assert not any("_walk" in thread.name for thread in threading.enumerate())
    assert isinstance(caught.value, (DataError, OptionError, WeightsError))
    return str(caught.value)


def exhausted():
    generator = (item for item in batches(2, 4, *X))
    list(generator)
    return generator


def with_nan():
    bad = structured(4, *X)
    bad[1, 2, 3, 4] = torch.nan
    return [structured(4, *X), bad]


FORMS = {
    "tensor": (lambda: structured(4, *X), "data= is Tensor, not an iterable of batches"),
    "dict": (lambda: {"x": structured(4, *X)}, "data= is dict"),
    "string": (lambda: "train.npz", "data= is str"),
    "number": (lambda: 5, "data= is int"),
    "array": (lambda: structured(4, *X).numpy(), "data= is ndarray, not an iterable of batches"),
    "words": (lambda: [np.array(["a", "b"])], "batch 0 of data= holds an array that is no tensor of numbers"),
    "empty": (lambda: [], "data= gave no batches; a generator can be read once"),
    "exhausted": (exhausted, "data= gave no batches"),
    "rank": (lambda: [structured(4, *X), structured(4, 3, 8)], r"batch 1 of data= has shape \(4, 3, 8\)"),
    "channels": (lambda: [structured(4, 5, 8, 8)], r"has shape \(4, 5, 8, 8\) where .* \(2, 3, 8, 8\)"),
    "dtype": (lambda: [torch.ones(4, *X, dtype=torch.long)], "holds torch.int64 where the model .* torch.float32"),
    "other floats": (lambda: [structured(4, *X).double()], "does not run on batch 0 of data="),
    "nan": (with_nan, "batch 1 of data= holds values that are NaN"),
    "no samples": (lambda: [torch.zeros(0, *X)], "batch 0 of data= is empty"),
    "too small": (lambda: [structured(4, *X), structured(4, 3, 2, 2)], "does not run on batch 1 of data="),
    "meta": (lambda: [torch.zeros(4, *X, device="meta")], "on the meta device"),
    "two inputs": (lambda: [(structured(4, *X),) * 3], "has 3 positional inputs where the model was analysed with 1"),
    "keywords": (lambda: [{"pixels": structured(4, *X)}], "data="),
}


@pytest.mark.parametrize("use", ["taylor", "wanda", "reconstruction", "recover"])
@pytest.mark.parametrize("form", FORMS)
def test_forms(form, use):
    import re

    make, message = FORMS[form]
    options = {"recover": True} if use == "recover" else {"criterion": use}
    assert re.search(message, refused(net(), make(), **options))


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "apoz", "wanda", "reconstruction"])
def test_no_data(criterion):
    assert "pass data=, an iterable of batches" in refused(net(), None, criterion)


@pytest.mark.parametrize("criterion", ["l2", "wanda", "reconstruction"])
def test_a_loss_that_nothing_looks_at(criterion):
    said = refused(net(), batches(2, 4, *X), criterion, loss=nn.functional.mse_loss)
    assert "loss= is for criteria that look at gradients" in said


def pair(targets, images=None):
    return [(structured(4, *X) if images is None else images, targets)]


LOSSES = {
    "outputs do not fit": (
        pair(torch.zeros(7, dtype=torch.long)),
        None,
        r"\(7,\) do not fit outputs of shape \(4, 4\)",
    ),
    "real targets": (pair(torch.zeros(4, 3)), None, r"\(4, 3\) do not fit outputs"),
    "no such class": (pair(torch.full((4,), 9)), None, "on batch 0 of data="),
    "strings": (pair(["cat"] * 4), None, "targets are list, not a tensor"),
    "no scalar": (pair(torch.zeros(4)), lambda outputs, targets: outputs, "expected a tensor with one number"),
    "no tensor": (pair(torch.zeros(4)), lambda outputs, targets: 1.0, "loss= gave float"),
    "no gradient": (pair(torch.zeros(4)), lambda outputs, targets: outputs.detach().sum(), "has no gradient"),
    "not finite": (pair(torch.zeros(4)), lambda outputs, targets: outputs.sum() / 0, "the loss of batch 0 .* is"),
    "slope not finite": (
        pair(torch.zeros(4)),
        lambda outputs, targets: (outputs * 0).abs().sqrt().sum(),
        "the gradient of .* is not finite on batch 0",
    ),
    "raises": (pair(torch.zeros(4)), lambda outputs, targets: targets.nonsense, "loss= cannot be computed.*nonsense"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    import re

    data, loss, message = LOSSES[name]
    assert re.search(message, refused(net(), data, "taylor", loss=loss))


def test_recovery_without_what_it_needs():
    plain = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    example = torch.randn(2, 6)
    assert "pass data=, an iterable of batches" in refused(plain, None, recover=True, example=example)
    assert "no batch norm" in refused(plain, [torch.randn(8, 6)], recover="batch_norm", example=example)
    assert "choose True or one of least_squares, bias, batch_norm" in refused(net(), None, recover="nonsense")
    one = [torch.randn(1, 4)]
    flat = randomise(nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2)))
    assert "batches with several samples" in refused(flat, one, recover="batch_norm", example=torch.randn(2, 4))
    with torch.device("meta"):
        meta = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    for options in ({"criterion": "taylor"}, {"criterion": "random", "recover": True}):
        assert "meta device" in refused(meta, [torch.randn(8, 6)], example=example, **options)


class Branching(nn.Module):
    """Takes another way for negative inputs."""

    def __init__(self, other: str) -> None:
        super().__init__()
        self.a, self.b, self.c, self.other = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3), other

    def forward(self, x):
        x = self.a(x).relu()
        if x.shape[0] == 5:
            if self.other == "shorter":
                return self.c(x)
            if self.other == "longer":
                return self.c(self.b(self.b(x).tanh()))
            return self.c(self.b(x).tanh() if self.other == "operation" else self.c.weight.sum() + self.b(x))
        return self.c(self.b(x).relu())


@pytest.mark.parametrize("other", ["shorter", "longer", "operation", "operand"])
@pytest.mark.parametrize("use", ["taylor", "recover"])
def test_batches_that_take_another_way(other, use):
    """Five samples take another way than the example inputs."""
    model = randomise(Branching(other))
    with torch.no_grad():
        model.a.bias.fill_(5.0)
    options = {"recover": True} if use == "recover" else {"criterion": use}
    message = refused(model, [torch.rand(8, 6), torch.rand(5, 6)], example=torch.rand(2, 6), **options)
    assert "takes another way through the model" in message and "example_inputs like them" in message


def test_calls_that_leave_no_node():
    """Facts that a model asks for on its way do not shift what follows."""

    def asking(m, x):
        x = m.a(x)
        assert torch.result_type(x, 1.0) == x.dtype and not x.isnan().any() and x.tolist()
        return m.c(m.b(x.relu()).relu())

    model = randomise(Net(asking, a=nn.Linear(6, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 3)))
    slim = graphprune.optimize(model, 0.3, example_inputs=torch.randn(2, 6), data=batches(2, 30, 6), recover=True)
    assert graphprune.plan_of(slim).report["recovery"]["after"] < graphprune.plan_of(slim).report["recovery"]["before"]


def test_a_batch_on_which_the_model_fails_while_it_is_refitted(monkeypatch):
    """An error in the middle of two runs comes out, and ends all of them."""
    calls = []

    def failing(*given):
        calls.append(given)
        if len(calls) == 3:
            raise ZeroDivisionError("in the middle")
        return original(*given)

    original = recovering._refit_one
    monkeypatch.setattr(recovering, "_refit_one", failing)
    with pytest.raises(GraphPruneError, match="could not be followed layer by layer .*in the middle"):
        graphprune.optimize(net(), 0.3, example_inputs=torch.randn(2, *X), data=batches(2, 8, *X), recover=True)
    assert len(calls) == 3 and not any("_walk" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("where", ["between", "in a run"])
def test_an_interruption_leaves_no_thread(where, monkeypatch):
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    if where == "between":
        monkeypatch.setattr(refitting, "fit", interrupted)
    else:
        monkeypatch.setattr(pairs.Product, "of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graphprune.optimize(model, 0.3, example_inputs=torch.randn(2, *X), data=batches(2, 8, *X), recover=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("_walk" in thread.name for thread in threading.enumerate())


def test_kinds_of_batches():
    """Tensors, tuples, dicts, pairs with targets, loaders, generators: where they say the same, so do the plans."""
    model, data = net(), batches(3, 8, *X)
    labels = [torch.arange(8) % 4] * 3
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(data)), batch_size=8)
    forms = [data, [(item,) for item in data], [[item] for item in data], (item for item in data), loader]
    forms += [[{"input": item} for item in data], list(zip(data, labels, strict=True))]
    kept = []
    for form in forms:
        slim = graphprune.optimize(model, 0.3, example_inputs=data[0], criterion="wanda", data=form)
        kept.append(str(graphprune.plan_of(slim).kept))
    assert len(set(kept)) == 1
    two = randomise(Pairing())
    example = torch.randn(2, 6), torch.randn(2, 6)
    both = [(structured(20, 6, seed=1), structured(20, 6, seed=2))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graphprune.optimize(two, 0.3, example_inputs=example, criterion="taylor", data=both, recover=True)
        labelled = [(pair, torch.zeros(20, dtype=torch.long)) for pair in both]
        graphprune.optimize(two, 0.3, example_inputs=example, criterion="taylor", data=labelled, recover=True)


class Pairing(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x, y):
        return self.c((self.a(x) + self.b(y)).relu())


def test_progress_on_a_terminal(monkeypatch, capsys):
    """A bar where there is one; lines for a callback; nothing elsewhere or for short work."""
    lines: list[str] = []
    with shown(lines.append) as report:
        report("collect", 0, None), report("refit", 1, 5)
    assert lines == ["collect 1", "refit 2 of 5"]
    with shown(None) as report:
        report("collect", 0, None)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with shown(None) as report:
        for step in range(3):
            report("collect", step, None), report("refit", step, 3)
    assert "refit" in capsys.readouterr().err
    with shown(None, quiet=True) as report:
        report("refit", 0, 3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("options", [{}, {"structure": "unstructured"}])
def test_data_that_nothing_reads_is_said(options):
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    batches = [torch.randn(8, 4)]
    with pytest.warns(UserWarning, match="data= is not read"):
        graphprune.optimize(net, 0.5, data=batches, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphprune.optimize(net, 0.5, data=batches, criterion="wanda", **options)
