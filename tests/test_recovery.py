"""Recovery: closer to the original on inputs that it has not seen, and nothing else changed."""

import copy
import threading
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
from calibration import batches, structured, tokens
from graphprune import refitting
from graphprune.budget import Options
from graphprune.errors import VerifyError
from graphprune.frontends.torch import recovering, synthesis
from graphprune.passes.pipeline import Program, run_passes
from graphprune.passes.prune_channels import PruneChannels
from graphprune.passes.recover import Recover
from helpers import import_torchvision, randomise
from networks import Net

IMAGES = (3, 12, 12)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Residual(nn.Module):
    """Stem, two residual blocks (one with a strided shortcut), batch norm, head."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.first = self._block(8, 8, 1)
        self.second = self._block(8, 12, 2)
        self.down = nn.Sequential(nn.Conv2d(8, 12, 1, 2, bias=False), nn.BatchNorm2d(12))
        self.head, self.inplace = nn.Linear(12, 5), inplace

    def _block(self, a: int, b: int, stride: int) -> nn.Sequential:
        first = nn.Conv2d(a, 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        return nn.Sequential(*first, nn.Conv2d(16, b, 3, padding=1, bias=False), nn.BatchNorm2d(b))

    def forward(self, x):
        x = self.stem(x)
        if self.inplace:
            y = self.first(x)
            y += x
            F.relu_(y)
            z = self.second(y)
            z.add_(self.down(y))
            return self.head(F.relu_(z).mean((2, 3)))
        x = (self.first(x) + x).relu()
        return self.head((self.down(x) + self.second(x)).relu().mean((2, 3)))


def conv(a, b, k=3, **more):
    return nn.Conv2d(a, b, k, padding=k // 2, **more)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 5))


def attention() -> nn.Module:
    """A stream around nn.MultiheadAttention in its own order of axes."""
    attend = lambda m, x: m.head(x + m.heads(x, x, x, need_weights=False)[0])  # noqa: E731
    return Net(attend, heads=nn.MultiheadAttention(16, 4), head=nn.Linear(16, 3))


def grouped() -> nn.Module:
    body = conv(3, 12), nn.ReLU(), conv(12, 18, groups=3), nn.BatchNorm2d(18), nn.ReLU(), conv(18, 18, groups=18)
    return nn.Sequential(*body, nn.ReLU(), conv(18, 8, 1), nn.Flatten(), nn.Linear(8 * 144, 4))


def transposed() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 12, 3, 2, 1, 1), nn.ReLU(), conv(12, 2))


def convnext() -> nn.Module:
    family = import_torchvision().models.convnext
    settings = [family.CNBlockConfig(12, 24, 1), family.CNBlockConfig(24, None, 1)]
    return family.ConvNeXt(settings, num_classes=5)


def written_sizes() -> nn.Module:
    """A GraphModule comes out, since sizes are written into the code."""
    turned = lambda m, x: m.c(m.b(m.a(x).relu().view(-1, 4, 8).transpose(1, 2).reshape(-1, 32)).relu())  # noqa: E731
    return Net(turned, a=nn.Linear(6, 32), b=nn.Linear(32, 24), c=nn.Linear(24, 4))


def shared() -> nn.Module:
    used = lambda m, x: m.b(m.s(m.s(m.a(x).relu()).relu()).relu())  # noqa: E731
    return Net(used, a=nn.Linear(6, 24), s=nn.Linear(24, 24), b=nn.Linear(24, 4))


NETS = {
    "residual": (Residual, IMAGES),
    "residual, in place": (lambda: Residual(inplace=True), IMAGES),
    "grouped and depthwise": (grouped, IMAGES),
    "transposed": (transposed, IMAGES),
    "1d": (lambda: nn.Sequential(nn.Conv1d(3, 16, 3), nn.GELU(), nn.Conv1d(16, 4, 3)), (3, 20)),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3)), (6,)),
    "encoder": (encoder, (7, 16)),
    "attention": (attention, (8, 16)),
    "convnext": (convnext, (3, 32, 32)),
    "written sizes": (written_sizes, (6,)),
    "shared": (shared, (6,)),
}


def apart(original: nn.Module, other: nn.Module, inputs: torch.Tensor) -> float:
    """The relative squared error of the outputs, in float64."""
    with torch.no_grad():
        expected, found = (copy.deepcopy(m).double().eval()(inputs.double()) for m in (original, other))
    return float((found - expected).square().sum() / expected.square().sum())


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def pruned(model: nn.Module, example: torch.Tensor, sparsity: float = 0.35, **more) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inexact groups of tiny transformers
        return graphprune.optimize(model, sparsity, example_inputs=example, verify=False, **more)


@pytest.mark.parametrize("name", NETS)
def test_recovery(name, tmp_path):
    """Closer on held-out inputs; never worse on calibration data; a plan that is saved; nothing else touched."""
    make, shape = NETS[name]
    model = randomise(make())
    model.train()
    next(model.parameters()).requires_grad_(False)
    data, before = batches(3, 24, *shape), state(model)
    unseen = structured(40, *shape, seed=77)
    plain = pruned(model, data[0])
    better = pruned(model, data[0], data=data, recover=True)
    share = 0.8 if name == "attention" else 0.6  # whole heads go, and one product reads them
    assert apart(model, better, unseen) < share * apart(model, plain, unseen)
    calibration = torch.cat(data)
    assert apart(model, better, calibration) < apart(model, plain, calibration)
    # the original is as it was, and so are modes and what is frozen
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training and better.training and type(better).__name__ == type(plain).__name__
    assert [p.requires_grad for p in better.parameters()] == [p.requires_grad for p in plain.parameters()]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in better.modules())
    assert not [thread for thread in threading.enumerate() if "_walk" in thread.name]
    # the plan is that of the plain one; the report tells what was won, layer by layer
    plan = graphprune.plan_of(better)
    assert plan.kept.keys() == graphprune.plan_of(plain).kept.keys()
    report = plan.report["recovery"]
    assert report["after"] < report["before"] and report["samples"] == 72
    for layer in report["layers"]:
        assert layer["note"] or layer["after"] <= layer["before"]
    if name == "shared":
        assert {row["name"]: row["note"] for row in report["layers"]}["s.weight"] == "its weight is used 2 times"
    # saved, loaded, proved
    plan.save(tmp_path / "plan.json")
    assert graphprune.Plan.load(tmp_path / "plan.json").report["recovery"]["method"] == "least_squares"
    if not isinstance(better, torch.fx.GraphModule):
        graphprune.save(better, tmp_path / "m.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = graphprune.load_weights(make(), tmp_path / "m.safetensors")
        assert apart(better, loaded, unseen) < 1e-9
    with pytest.raises(VerifyError, match="plan.apply"):
        graphprune.verify(model, better)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graphprune.verify(model, plan.apply(model))


@pytest.mark.parametrize("method", ["bias", "batch_norm"])
def test_other_methods(method):
    model = randomise(Residual())
    data, unseen = batches(3, 24, *IMAGES), structured(40, *IMAGES, seed=77)
    with torch.no_grad():  # statistics that are those of the model
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.reset_running_stats()
                part.momentum = None
        model.train()(torch.cat(data))
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = 0.1
    model.eval()
    plain = pruned(model, data[0])
    better = pruned(model, data[0], data=data, recover=method)
    assert apart(model, better, unseen) < 0.9 * apart(model, plain, unseen)
    moved = {key for key, tensor in better.state_dict().items() if not torch.equal(tensor, plain.state_dict()[key])}
    allowed = ("bias", "running_mean") if method == "bias" else ("running_mean", "running_var")
    assert moved and all(key.endswith(allowed) for key in moved)
    assert not better.training and all(part.momentum == 0.1 for part in better.modules() if hasattr(part, "momentum"))


def test_without_data(monkeypatch):
    """Inputs that are made from batch-norm statistics do part of what real ones do."""
    monkeypatch.setattr(synthesis, "STEPS", 40)
    model = randomise(Residual())
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = 1.0
        model.train()(structured(400, *IMAGES))
    model.eval()
    before, unseen = state(model), structured(64, *IMAGES, seed=5)
    plain = pruned(model, unseen[:1])
    better = pruned(model, unseen[:1], recover=True)
    assert apart(model, better, unseen) < 0.5 * apart(model, plain, unseen)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_is_the_stream_that_is_made_up_for(monkeypatch):
    """What one branch has lost, the next one makes up for where both meet; layer by layer it could not."""
    joined = lambda m, x: m.head((m.b(m.a(x).relu()) + m.c(x)).relu())  # noqa: E731
    layers = {"a": nn.Linear(6, 24), "b": nn.Linear(24, 16), "c": nn.Linear(6, 16), "head": nn.Linear(16, 3)}
    model = randomise(Net(joined, **layers))
    data, unseen = batches(3, 80, 6), structured(100, 6, seed=77)
    better = pruned(model, data[0], 0.4, keep=["c", "b.bias"], data=data, recover=True)
    assert graphprune.plan_of(better).kept.keys() == {"a.weight", "a.bias", "b.weight"}
    assert not torch.equal(better.c.weight, model.c.weight), "it lost nothing itself"
    methods = {"least_squares": recovering.Method(stream=False)}
    monkeypatch.setattr("graphprune.frontends.torch.recovery._METHODS", methods)
    layerwise = pruned(model, data[0], 0.4, keep=["c", "b.bias"], data=data, recover=True)
    assert apart(model, better, unseen) < 0.9 * apart(model, layerwise, unseen)


def test_a_linear_layer_is_refitted_as_numpy_would(monkeypatch):
    """Two layers, no ridge: the second one is the least-squares solution on what the first one still gives."""
    monkeypatch.setattr("graphprune.reconstruction.RIDGES", (1e-9,))
    monkeypatch.setattr(refitting, "HELD", 2)
    model = randomise(nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))).double()
    data = [torch.randn(50, 5, dtype=torch.float64).repeat_interleave(2, 0)]  # held out: the same rows
    better = pruned(model, data[0], 0.3, data=data, recover=True)
    with torch.no_grad():
        kept = graphprune.plan_of(better).kept["2.weight"][1]
        x = model[1](model[0](data[0]))[:, torch.as_tensor(kept)]
        wide = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        expected = torch.linalg.lstsq(wide, model(data[0])).solution
    torch.testing.assert_close(better[2].weight.T, expected[:-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(better[2].bias, expected[-1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype):
    model = randomise(Residual()).to(dtype).eval()
    data = [item.to(dtype) for item in batches(3, 24, *IMAGES)]
    plain, better = (pruned(model, data[0], **more) for more in ({}, {"data": data, "recover": True}))
    unseen = structured(40, *IMAGES, seed=77)
    assert apart(model, better, unseen) < 0.6 * apart(model, plain, unseen)
    assert {tensor.dtype for tensor in better.parameters()} == {dtype}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_language_models(kind):
    """Grouped-query attention and a tied head; layers that keep inputs first; sentences of several lengths."""
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    if kind == "llama":
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=40, hidden_size=16, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3,
            )
        )  # fmt: skip
    else:
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=32, initializer_range=0.3
            )
        )
    model.eval()
    data, (unseen,) = list(tokens(9)), [list(tokens(10))[-1]]
    keep = (
        ["*embed*"] if kind == "llama" else ["*wte*", "*wpe*"]
    )  # streams stay, so that there is something to recover exactly
    plain, better = (pruned(model, data[0], 0.2, keep=keep, **more) for more in ({}, {"data": data, "recover": True}))

    def error(other: nn.Module) -> float:
        with torch.no_grad():
            expected, found = model(**unseen).logits, other(**unseen).logits
        return float((found - expected).square().sum() / expected.square().sum())

    assert error(better) < 0.9 * error(plain)
    notes = {layer["note"] for layer in graphprune.plan_of(better).report["recovery"]["layers"]}
    assert notes == {"", "its weight is used 2 times"}
    head = better.get_output_embeddings().weight
    assert head is better.get_input_embeddings().weight


def test_exported_programs(tmp_path):
    model = randomise(grouped()).eval()
    data, unseen = batches(3, 24, *IMAGES), structured(40, *IMAGES, seed=77)
    program = torch.export.export(model, (data[0],), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    before = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        plain, better = (
            graphprune.optimize(program, 0.35, verify=False, **more) for more in ({}, {"data": data, "recover": True})
        )

    def error(other) -> float:
        with torch.no_grad():
            expected, found = model(unseen), other.module()(unseen)
        return float((found - expected).square().sum() / expected.square().sum())

    assert error(better) < 0.6 * error(plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in program.state_dict.items())
    report = graphprune.plan_of(better).report["recovery"]
    assert report["after"] < report["before"] and "recovery" not in graphprune.plan_of(plain).report


def test_pruned_twice():
    """The second recovery is one towards the model before the second pruning; plans compose."""
    model = randomise(Residual()).eval()
    data, unseen = batches(3, 24, *IMAGES), structured(40, *IMAGES, seed=77)
    first = pruned(model, data[0], 0.2, data=data, recover=True)
    second = pruned(first, data[0], 0.2, data=data, recover=True)
    assert apart(first, second, unseen) < apart(first, pruned(first, data[0], 0.2), unseen)
    assert graphprune.plan_of(second).apply(model).state_dict().keys() == second.state_dict().keys()


def test_all_outputs_count():
    """Heads of very different scales: both come closer."""
    heads = lambda m, x: ((y := m.body(x).tanh()).sum(1), 1e-3 * m.one(y), 1e3 * m.two(y))  # noqa: E731
    model = randomise(Net(heads, body=nn.Linear(6, 24), one=nn.Linear(24, 3), two=nn.Linear(24, 3)))
    data, unseen = batches(3, 40, 6), structured(50, 6, seed=77)
    plain, better = (pruned(model, data[0], **more) for more in ({}, {"data": data, "recover": True}))
    with torch.no_grad():
        expected, before, after = model(unseen), plain(unseen), better(unseen)
    for place in (1, 2):
        errors = [(found[place] - expected[place]).square().sum() for found in (after, before)]
        assert errors[0] < 0.6 * errors[1]


def test_few_samples():
    """Down to one image; a single row cannot be held out and fitted, and is left alone."""
    model, mlp = randomise(Residual()).eval(), randomise(NETS["mlp"][0]()).eval()
    for data in (batches(1, 1, *IMAGES), batches(1, 2, *IMAGES), batches(6, 1, *IMAGES)):
        report = graphprune.plan_of(pruned(model, data[0], data=data, recover=True)).report["recovery"]
        assert report["after"] < report["before"]
    slim = pruned(mlp, torch.randn(1, 6), data=batches(1, 1, 6), recover=True)
    assert "recovery" not in graphprune.plan_of(slim).report, "nothing was won"


def test_what_is_won_is_shown(monkeypatch):
    monkeypatch.setattr(synthesis, "STEPS", 2)
    lines: list[str] = []
    model = randomise(Residual())
    pruned(model, torch.randn(1, *IMAGES), recover=True, criterion="l1", progress=lines.append)
    assert lines[0] == "prune channels" and "recover" in lines
    assert "make inputs 1 of 3" in lines and any(line.startswith("refit layers 1 of") for line in lines)


class Images:
    """A trained network, test images with their labels, and some to calibrate with."""

    def __init__(self, folder: Path) -> None:
        from graphdata import cifar10, nchw
        from resnet_cifar import resnet

        self.model = resnet(20, str(folder / "cifar10_models" / "resnet20_cifar10.pt")).eval()
        images, labels = cifar10("test_a")
        self.images, self.labels = torch.from_numpy(nchw(images[:2000])), torch.from_numpy(labels[:2000])
        self.data = list(torch.from_numpy(nchw(cifar10("train")[0][:512])).split(64))

    def right(self, slim: nn.Module) -> float:
        """Per cent."""
        with torch.no_grad():
            found = torch.cat([slim(part).argmax(1) for part in self.images.split(250)])
        return 100 * float((found == self.labels).float().mean())


@pytest.fixture
def resnet20(data_dir, monkeypatch) -> Images:
    monkeypatch.syspath_prepend(str(data_dir))
    return Images(data_dir)


def test_resnet20(resnet20):
    """A fifth fewer multiplications without training: at most 2 points are lost, and without recovery 10."""
    options = {"budget": "macs", "example_inputs": resnet20.images[:1], "verify": False}
    plain = graphprune.optimize(resnet20.model, 0.2, **options)
    better = graphprune.optimize(resnet20.model, 0.2, recover=True, data=resnet20.data[:4], **options)
    dense = resnet20.right(resnet20.model)
    assert resnet20.right(better) >= dense - 2
    assert resnet20.right(plain) < dense - 10


@pytest.mark.slow
def test_resnet20_by_reconstruction(resnet20):
    """A third fewer multiplications without training: at most 3.5 points are lost."""
    options = Options(1 / 3, "macs", "reconstruction")
    steps = PruneChannels(options, data=resnet20.data[:2]), Recover(data=resnet20.data)
    program = run_passes(Program(resnet20.model, resnet20.images[:1]), steps)
    before, after = graphprune.plan_of(program.model).report["macs"]
    assert after * 3 <= before * 2
    assert resnet20.right(program.model) >= resnet20.right(resnet20.model) - 3.5


@pytest.mark.slow
def test_resnet20_without_data(resnet20):
    """From batch-norm statistics alone: 20 points above the plain one."""
    options = {"budget": "macs", "example_inputs": resnet20.images[:1], "verify": False}
    plain = graphprune.optimize(resnet20.model, 1 / 3, **options)
    better = graphprune.optimize(resnet20.model, 1 / 3, recover=True, **options)
    assert resnet20.right(better) >= resnet20.right(plain) + 20
