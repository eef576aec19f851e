"""Artifacts for any number of samples: pieces of compiled sizes, shared weights, and what is refused."""

import io

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from graphprune.backends.artifact import load
from graphprune.backends.batches import cover
from graphprune.backends.compiler import compile_model
from graphprune.errors import CompileError, ExampleInputsError, InputError, OptionError, UnsupportedModelError
from helpers import randomise


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 21, 3, padding=1), nn.BatchNorm2d(21), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(21, 40, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 300), nn.GELU(), nn.Linear(300, 7),
    )  # fmt: skip
    return randomise(model.eval())


class TwoHeads(nn.Module):
    """Two inputs and a nested output; integers among them."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 5)

    def forward(self, tokens, scale):
        y = self.head(self.table(tokens)) * scale
        return {"tokens": y, "more": (y.mean(1), tokens + 1)}


@pytest.fixture(scope="module")
def artifact():
    return compile_model(network(), "x86", torch.randn(1, 3, 12, 12), batch_sizes=(4, 1))


@pytest.mark.parametrize(
    ("count", "sizes", "pieces"),
    [
        (1, (1, 4, 16), (1,)),
        (21, (1, 4, 16), (16, 4, 1)),
        (15, (1, 4, 16), (16,)),
        (3, (4, 16), (4,)),
        (100, (1, 16), (16,) * 6 + (1,) * 4),
        (7, (7,), (7,)),
        (1000, (8,), (8,) * 125),
    ],
)
def test_pieces_cover_a_batch_at_least_cost(count, sizes, pieces):
    assert cover(count, sizes) == pieces and sum(pieces) >= count


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 11])
def test_any_number_of_samples(artifact, count):
    x = torch.randn(count, 3, 12, 12)
    with torch.no_grad():
        want = network()(x)
    got = artifact(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert want.std(0).max() > 0 or count == 1
    np.testing.assert_array_equal(artifact(x.numpy()), got.numpy())


def test_saved_artifacts_keep_their_sizes(artifact, tmp_path):
    artifact.save(tmp_path / "net.gp")
    loaded = load(tmp_path / "net.gp")
    x = torch.randn(6, 3, 12, 12)
    assert loaded.batch_sizes == (1, 4) and "[batch, 3, 12, 12]" in repr(loaded)
    assert torch.equal(loaded(x), artifact(x))


def test_weights_are_stored_once():
    model = nn.Sequential(nn.Conv2d(64, 128, 5, padding=2), nn.ReLU(), nn.Conv2d(128, 64, 1)).eval()
    x = torch.randn(1, 64, 5, 5)
    alone = compile_model(model, "x86", x).size
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert compile_model(model, "x86", x, batch_sizes=(1, 2, 3)).size < alone + 0.3 * weights


def test_several_inputs_and_a_nested_output():
    model = TwoHeads().eval()
    examples = {"tokens": torch.randint(0, 11, (2, 6)), "scale": torch.rand(2, 1, 5)}
    artifact = compile_model(model, "x86", examples, batch_sizes=(2,))
    tokens, scale = torch.randint(0, 11, (5, 6)), torch.rand(5, 1, 5)
    got, want = artifact(tokens, scale=scale), model(tokens, scale)
    torch.testing.assert_close(got["tokens"], want["tokens"])
    torch.testing.assert_close(got["more"][0], want["more"][0])
    assert torch.equal(got["more"][1], want["more"][1])
    with pytest.raises(InputError, match="same number of samples"):
        artifact(tokens, scale[:3])
    with pytest.raises(InputError, match=r"float32\[batch, 1, 5\]"):
        artifact(tokens, scale[:, :, :3])
    with pytest.raises(InputError, match="must be"):
        artifact(tokens[:0], scale[:0])


def test_an_input_without_a_batch():
    class Scaled(nn.Module):
        def forward(self, x, weight):
            return x @ weight

    x, weight = torch.randn(3, 5), torch.randn(5, 5)
    artifact = compile_model(Scaled(), "x86", (x, weight), batch_sizes=(1, 2))
    assert [spec.batched for spec in artifact.inputs] == [True, False]
    torch.testing.assert_close(artifact(x, weight), x @ weight)


def test_exported_programs():
    x = torch.randn(3, 3, 12, 12)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(network(), (x,), dynamic_shapes=({0: batch},))
    artifact = compile_model(program, "x86", batch_sizes=(1, 4))
    torch.testing.assert_close(artifact(x), network()(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedModelError, match="batch_sizes"):
        compile_model(program)
    with pytest.raises(UnsupportedModelError, match="dynamic"):
        compile_model(torch.export.export(network(), (x,)), batch_sizes=(1, 4))


def test_onnx_models():
    buffer = io.BytesIO()
    x = torch.randn(3, 3, 12, 12)
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    names = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(network(), (x,), buffer, dynamo=False, dynamic_axes=axes, **names)
    artifact = compile_model(onnx.load_from_string(buffer.getvalue()), "x86", batch_sizes=(1, 4))
    torch.testing.assert_close(artifact(x), network()(x), rtol=1e-4, atol=1e-5)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Total(nn.Module):
    def forward(self, x):
        return x + 1, x.sum(0)


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(0, 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [(Centred(), "depend on each other"), (Total(), "output1"), (Flat(), "does not carry the batch")],
)
def test_models_whose_samples_cannot_be_taken_apart(model, message):
    with pytest.raises(CompileError, match=message):
        compile_model(model, "x86", torch.randn(2, 5), batch_sizes=(1, 2))


def test_bad_sizes():
    x = torch.randn(1, 3, 12, 12)
    for sizes in ((), (0,), (1.5,), "14", 4):
        with pytest.raises(OptionError, match="batch_sizes"):
            compile_model(network(), "x86", x, batch_sizes=sizes)
    with pytest.raises(ExampleInputsError, match="batch_sizes"):
        compile_model(network(), "x86", batch_sizes=(1,))
