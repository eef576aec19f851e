"""Tracing, input inference, all kinds of torch models, saving and loading."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import graphprune
import oracle
from graphprune.errors import ExampleInputsError
from helpers import randomise
from networks import Net, build, conv


def small():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.AdaptiveAvgPool2d(1)
    return randomise(nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 4))).eval()


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# ---- kinds of models


def test_a_graph_module_stays_one():
    module = fx.symbolic_trace(small())
    slim = oracle.check(module, X)
    assert isinstance(slim, fx.GraphModule)


def test_a_graph_module_with_sizes_written_in():
    module, inputs = build("hard_coded_view")
    slim = oracle.check(fx.symbolic_trace(module), inputs, sparsity=0.25)
    assert isinstance(slim, fx.GraphModule)


@pytest.mark.parametrize(
    "name", ["chain", "residual", "chunk_free", "hard_coded_slices", "grouped", "depthwise", "heads"]
)
def test_exported_programs(name):
    module, inputs = build(name)
    randomise(module)
    program = torch.export.export(module, (inputs,))
    before = {key: tensor.clone() for key, tensor in program.state_dict.items()}
    slim = graphprune.optimize(program, 0.25)
    assert isinstance(slim, torch.export.ExportedProgram)
    plan = graphprune.plan_of(slim)
    assert graphprune.verify(program, slim).error < 1e-9
    left = sum(parameter.numel() for parameter in slim.parameters())
    assert left == plan.report["params"][1] <= 0.75 * plan.report["params"][0]
    expected = oracle.masked(module, plan)(inputs.double())
    found = slim.module()(inputs)
    assert (expected - found).abs().max() / expected.abs().max() < 1e-5
    assert all(torch.equal(before[key], tensor) for key, tensor in program.state_dict.items())


def test_dynamic_axes_of_an_exported_program_stay_dynamic():
    module = small()
    program = torch.export.export(module, (X,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    slim = graphprune.optimize(program, 0.4)
    assert slim.module()(torch.randn(5, 3, 8, 8)).shape == (5, 4)


def test_a_plan_made_on_a_module_applies_to_its_relatives():
    module = small()
    plan = graphprune.analyze(module, X).plan(0.4)
    slim = plan.apply(module)
    state = plan.apply(module.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in slim.state_dict().items())
    traced = plan.apply(fx.symbolic_trace(module))
    assert torch.allclose(traced(X), slim(X))


# ---- tracing


class Branches(nn.Module):
    """Control flow that depends on sizes and options."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(8, 8), conv(8, 8), nn.Linear(8, 3)

    def forward(self, x, deep=True):
        x = F.relu(self.a(x))
        for layer in [self.b, self.c] if deep else [self.b]:
            if x.shape[2] > 4:
                x = x + layer(x)
        return self.head(x.mean((2, 3)))


class DataDependent(nn.Module):
    """Control flow that depends on numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 8), conv(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.a(x))
        if x.mean() > -1:
            x = x + self.b(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("kind", [Branches, DataDependent])
def test_control_flow(kind):
    torch.manual_seed(0)
    oracle.check(kind().eval(), X)


def test_keyword_inputs_and_flags():
    torch.manual_seed(0)
    module = randomise(Branches()).eval()
    slim = graphprune.optimize(module, 0.4, example_inputs={"x": X, "deep": False})
    assert graphprune.verify(module, slim).error < 1e-9  # inputs come from the plan
    unused = [name for name in graphprune.plan_of(slim).kept if name.startswith("c.")]
    assert not unused, "a layer that did not run must stay whole"


def test_an_auxiliary_head_is_pruned_along():
    class Aux(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.aux, self.head = conv(3, 8), conv(8, 8), conv(8, 2), conv(8, 4)

        def forward(self, x):
            x = F.relu(self.a(x))
            side = self.aux(x) if self.training else None
            return (self.head(F.relu(self.b(x))), side) if self.training else self.head(F.relu(self.b(x)))

    torch.manual_seed(0)
    slim = oracle.check(Aux().eval(), X, sparsity=0.5)
    assert slim.aux.weight.shape[1] == slim.a.weight.shape[0] < 8
    assert slim.train()(X)[1].shape == (2, 2, 8, 8)


def test_tied_weights_stay_tied():
    module, inputs = build("tied_head")
    module.again = module.e
    slim = oracle.check(module, inputs, sparsity=0.3)
    assert slim.again.weight is slim.e.weight
    assert slim.e.embedding_dim == slim.e.weight.shape[1] < 12


def test_keep_knows_tied_weights_by_all_their_names():
    module, inputs = build("tied_head")
    module.again = nn.Linear(12, 20, bias=False)
    module.again.weight = module.e.weight
    plan = graphprune.analyze(module, inputs).plan(0.2, keep=["again"])
    assert "e.weight" not in plan.kept and "a.weight" in plan.kept


def test_a_write_through_a_view_is_seen():
    def forward(m, x):
        y = m.a(x)
        y[:, :2] = 0.0
        view = y.view(2, -1)
        view.mul_(2.0)
        return m.b(y)

    torch.manual_seed(0)
    module = Net(forward, a=conv(3, 8), b=conv(8, 8), c=conv(8, 4))
    analysis = graphprune.analyze(module, X)
    assert not any(
        analysis.free[classes].any()
        for (name, axis), classes in analysis.leaf_classes.items()
        if (name, axis) == ("a.weight", 0)
    )


def test_integer_attributes_follow():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.BatchNorm2d(16), nn.PReLU(16),
        nn.ConvTranspose2d(16, 6, 2), nn.InstanceNorm2d(6, affine=True),
        nn.Flatten(), nn.Linear(6 * 49, 12), nn.Linear(12, 3),
    )  # fmt: skip
    slim = oracle.check(module, X, sparsity=0.5, widths={"0": (None, 6)})
    first, depthwise, norm, slope, up, instance, _, linear, last = slim
    assert first.out_channels == depthwise.in_channels == depthwise.groups == first.weight.shape[0] < 8
    assert depthwise.out_channels == norm.num_features == slope.num_parameters == up.in_channels
    assert up.out_channels == instance.num_features and linear.out_features == last.in_features
    assert linear.in_features == up.out_channels * 49
    assert "groups=" + str(depthwise.groups) in repr(depthwise)


def test_hooks_and_train_mode_survive():
    module, seen = small(), []
    module[0].register_forward_hook(lambda *_: seen.append(1))
    slim = graphprune.optimize(module.train(), 0.4, example_inputs=X)
    seen.clear()
    slim(X)
    assert seen and slim.training and module.training


def test_half_precision_models():
    module = small().to(torch.bfloat16)
    slim = graphprune.optimize(module, 0.4, example_inputs=X.to(torch.bfloat16))
    assert next(slim.parameters()).dtype == torch.bfloat16
    assert slim(X.to(torch.bfloat16)).shape == (2, 4)


# ---- inference of inputs


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), [1, 6]),
        (lambda: nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 2, 3)), [1, 2, 1024]),
        (lambda: nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), [1, 16]),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 62 * 62, 2)), [1, 3, 64, 64]),
    ],
)
def test_inputs_are_inferred(module, shape):
    module = module()
    slim = graphprune.optimize(module, 0.3)
    assert graphprune.plan_of(slim).inputs["args"][0]["tensor"]["shape"] == shape


def test_inputs_from_configurations():
    module = small()
    module.pretrained_cfg = {"input_size": (3, 20, 20)}
    assert graphprune.analyze(module).inputs["args"][0]["tensor"]["shape"] == [1, 3, 20, 20]
    del module.pretrained_cfg
    module.dummy_inputs = {"input": torch.zeros(1, 3, 12, 12)}
    assert graphprune.analyze(module).inputs["kwargs"]["input"]["tensor"]["shape"] == [1, 3, 12, 12]


def test_inputs_that_do_not_fit_say_which_shape():
    with pytest.raises(ExampleInputsError, match=r"\(1, 5, 8, 8\)"):
        graphprune.analyze(small(), torch.zeros(1, 5, 8, 8))


# ---- saving


def test_save_and_load(tmp_path):
    module = small()
    slim = graphprune.optimize(module, 0.5, example_inputs=X)
    with torch.no_grad():
        slim[0].weight.mul_(1.5)  # trained on
    graphprune.save(slim, tmp_path / "slim.safetensors")
    loaded = graphprune.load_weights(small(), tmp_path / "slim.safetensors")
    assert type(loaded) is type(slim) and torch.equal(loaded(X), slim(X))
    assert graphprune.plan_of(loaded).kept.keys() == graphprune.plan_of(slim).kept.keys()


def test_load_into_a_model_on_the_meta_device(tmp_path):
    slim = graphprune.optimize(small(), 0.5, example_inputs=X)
    graphprune.save(slim, tmp_path / "slim.safetensors")
    empty = copy.deepcopy(small()).to("meta")
    assert torch.equal(graphprune.load_weights(empty, tmp_path / "slim.safetensors")(X), slim(X))


def test_save_and_load_a_graph_module_and_tied_weights(tmp_path):
    for name in ("hard_coded_slices", "tied_head"):
        module, inputs = build(name)
        randomise(module)
        slim = graphprune.optimize(module, 0.25, example_inputs=inputs)
        graphprune.save(slim, tmp_path / f"{name}.safetensors")
        loaded = graphprune.load_weights(build(name)[0], tmp_path / f"{name}.safetensors")
        assert torch.allclose(loaded(inputs), slim(inputs))


def test_pruning_twice_composes(tmp_path):
    module = small()
    once = graphprune.optimize(module, 0.3, example_inputs=X)
    twice = graphprune.optimize(once, 0.3, example_inputs=X)
    assert oracle.error(module, twice, (X,)) < 1e-9
    graphprune.save(twice, tmp_path / "twice.safetensors")
    assert torch.equal(graphprune.load_weights(small(), tmp_path / "twice.safetensors")(X), twice(X))
    assert graphprune.plan_of(twice).report["params"][0] == graphprune.analyze(module, X).cost().params


def test_pruning_twice_with_groups(tmp_path):
    module, inputs = build("grouped")
    randomise(module)
    twice = graphprune.optimize(graphprune.optimize(module, 0.3, example_inputs=inputs), 0.3, example_inputs=inputs)
    assert oracle.error(module, twice, (inputs,)) < 1e-9


class Cached(torch.nn.Module):
    """Computes something from a parameter once, and again after training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scale, self.cache = (
            torch.nn.Linear(6, 12),
            torch.nn.Linear(12, 4),
            torch.nn.Parameter(torch.rand(12)),
            {},
        )
        with torch.no_grad():
            self.eval()(torch.randn(2, 6))

    def train(self, mode=True):
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x):
        if str(x.device) not in self.cache:
            self.cache[str(x.device)] = self.scale.exp()
        return self.b(torch.relu(self.a(x)) * self.cache[str(x.device)])


def test_what_a_module_computed_and_kept_is_computed_anew():
    net = Cached()
    slim = graphprune.optimize(net, 0.5, example_inputs=torch.randn(2, 6))
    assert type(slim) is Cached and slim.a.out_features < 12
    assert slim.cache == {} and len(net.cache) == 1
    assert graphprune.verify(net, slim).error < 1e-9
