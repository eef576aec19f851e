"""`torch.compile(model, backend="graphprune")`, through torch itself: right numbers, right gradients, nothing stale."""

import copy
import gc
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
import oracle
from graphprune.backends import dynamo
from graphprune.backends.dynamo_options import COMPILING, PRUNING
from graphprune.errors import BudgetError, FallbackWarning, GraphPruneError, OptionError, TargetError
from helpers import randomise

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error::graphprune.errors.FallbackWarning"),
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing that another test has captured."""
    torch._dynamo.reset()
    dynamo._DECISIONS.clear()
    yield
    torch._dynamo.reset()


class Calls:
    """What the backend has pruned and compiled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiled, self.pruned = [], []
        compile_model, optimize = dynamo.compile_model, dynamo.optimize

        def compiling(model, **options):
            artifact = compile_model(model, **options)
            self.compiled.append((model, options, artifact))
            return artifact

        def pruning(module, **options):
            slim = optimize(module, **options)
            self.pruned.append((module, options, slim))
            return slim

        monkeypatch.setattr(dynamo, "compile_model", compiling)
        monkeypatch.setattr(dynamo, "optimize", pruning)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


class Net(nn.Module):
    """Convolution, norm, two linear layers in a list, a buffer, and a size that is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.layers = nn.ModuleList([nn.Linear(16, 32), nn.Linear(32, 5)])
        self.register_buffer("offset", torch.linspace(-1, 1, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.conv(x))).mean((2, 3)).view(-1, 16)
        return self.layers[1](F.gelu(self.layers[0](y))) + self.offset


class Small(nn.Module):
    """What compiles fast."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 32), nn.Linear(32, 5)])
        self.norm = nn.BatchNorm1d(32)
        self.register_buffer("offset", torch.linspace(-1, 1, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[1](F.relu(self.norm(self.layers[0](x)))) + self.offset


def small() -> Small:
    torch.manual_seed(0)
    return randomise(Small()).eval()


def net() -> Net:
    torch.manual_seed(0)
    return randomise(Net()).eval()


def through(model, **options):
    return torch.compile(model, backend="graphprune", options=options or None)


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape == right.shape and bool((left - right).abs().max() <= 1e-5 * right.abs().max())


def test_torch_knows_the_backend_by_its_name() -> None:
    assert "graphprune" in torch._dynamo.list_backends()
    assert torch._dynamo.lookup_backend("graphprune") is dynamo.backend


# ---- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_compiled_equals_eager(context, calls) -> None:
    model, x, other = net(), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    with context():
        fast = through(model)
        assert close(fast(x), model(x)) and close(fast(other), model(other))
        assert not close(fast(x), fast(other))
    assert len(calls.compiled) == 1 and not calls.pruned


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_pruned_equals_the_masked_original(context, calls) -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(model.state_dict())
    with context():
        found = through(model, sparsity=0.35, keep=["layers.1*"], target="x86-avx2", multiple_of=1)(x)
    [(_, options, slim)] = calls.pruned
    plan = graphprune.plan_of(slim)
    assert {"conv.weight", "layers.0.weight"} <= plan.kept.keys(), "names are those of the model"
    assert plan.report["params"][1] <= 0.65 * sum(parameter.numel() for parameter in model.parameters())
    assert options == {"example_inputs": options["example_inputs"], "sparsity": 0.35, "keep": ["layers.1*"]} | {
        "target": "x86-avx2",
        "multiple_of": 1,
    }
    assert calls.compiled[0][2].target == "x86-avx2" and calls.compiled[0][2].plan is not None
    expected = oracle.masked(model, plan)(x.double())
    assert close(found.double(), expected)
    assert not close(model(x).double(), expected), "nothing of weight was pruned"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_masks_of_single_weights(calls) -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        found = through(model, structure="2:4", target="x86", threads=1)(x)
    [(_, options, slim)] = calls.pruned
    assert graphprune.masks_of(slim).kept.keys() == {"layers.0.weight", "layers.1.weight"}
    assert close(found, slim(x)[0]) and not close(found, model(x))


class Broken(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.conv(x)).mean((2, 3))
        torch._dynamo.graph_break()
        return self.layers[1](F.relu(self.layers[0](y)))


def test_every_graph_of_a_broken_model_is_pruned(calls) -> None:
    model, x = randomise(Broken()).eval(), torch.randn(2, 3, 8, 8)
    # What the first graph returns are its outputs, which stay whole: nothing in it can be pruned.
    with torch.no_grad(), pytest.warns(FallbackWarning, match="nothing in it can be pruned"):
        found = through(model, sparsity=0.4)(x)
    assert len(calls.compiled) == 2
    assert [sorted(graphprune.plan_of(slim).kept) for *_, slim in calls.pruned] == [
        ["layers.0.bias", "layers.0.weight", "layers.1.weight"]
    ]
    assert close(found.double(), oracle.masked(model, graphprune.plan_of(calls.pruned[0][2]))(x.double()))


# ---- sizes ---------------------------------------------------------------------------------------------------


def test_every_batch_size_is_compiled_and_pruned_alike(calls) -> None:
    model = small()
    fast, slim = through(model), through(model, sparsity=0.5)
    with torch.no_grad():
        for size in (2, 3, 5, 3):
            x = torch.randn(size, 8)
            assert close(fast(x), model(x))
        dense = len(calls.compiled)
        one, x = [], torch.randn(5, 8)
        for size in (2, 3, 5):
            one.append(slim(x[:size])[:2])
    assert (dense, len(calls.compiled) - dense) == (3, 3)
    assert len(calls.pruned) == 1, "the plan of one size is that of all"
    expected = oracle.masked(model, graphprune.plan_of(calls.pruned[0][2]))(x.double())[:2]
    assert all(close(found.double(), expected) for found in one)


@torch._dynamo.config.patch(recompile_limit=2)
def test_too_many_sizes_run_in_torch(calls) -> None:
    model = small()
    fast = torch.compile(model, backend="graphprune", dynamic=True)
    with torch.no_grad():
        for size in (2, 3):
            fast(torch.randn(size, 8))
        x = torch.randn(4, 8)
        with pytest.warns(FallbackWarning, match="compiled for 2 sizes of its inputs already"):
            found = fast(x)
        assert torch.equal(found, model(x))
    assert len(calls.compiled) == 2


@torch._dynamo.config.patch(recompile_limit=2)
def test_too_many_sizes_of_a_pruned_graph_push_out_the_oldest(calls) -> None:
    model, x = small(), torch.randn(5, 8)
    slim = torch.compile(model, backend="graphprune", dynamic=True, options={"sparsity": 0.5})
    with torch.no_grad():
        found = [slim(x[:size])[:2] for size in (2, 3, 4, 2)]
    assert len(calls.compiled) == 4 and len(calls.pruned) == 1
    assert all(close(other, found[0]) for other in found)


# ---- weights that change ---------------------------------------------------------------------------------------


def in_place(model: Small) -> None:
    model.layers[1].weight.mul_(2)


def by_an_optimizer(model: Small) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with torch.enable_grad():
        nn.Module.__call__(model, torch.ones(1, 8)).square().sum().backward()
    optimizer.step()


def from_a_file(model: Small) -> None:
    model.load_state_dict({name: tensor * 1.5 for name, tensor in model.state_dict().items()})


def another_parameter(model: Small) -> None:
    model.layers[1].bias = nn.Parameter(torch.randn(5))


def same_memory_another_object(model: Small) -> None:
    old = model.layers[1].weight
    old.mul_(3)
    model.layers[1].weight = nn.Parameter(old.data)


def other_data(model: Small) -> None:
    model.layers[1].weight.data = torch.randn(5, 32)


def written_past_torch(model: Small) -> None:
    model.layers[1].weight.data.mul_(2)


def statistics(model: Small) -> None:
    model.norm.running_var.mul_(3)


CHANGES = [
    in_place,
    by_an_optimizer,
    from_a_file,
    another_parameter,
    same_memory_another_object,
    other_data,
    written_past_torch,
    statistics,
]


def test_changed_weights_are_never_stale(calls) -> None:
    model, x = small(), torch.randn(2, 8)
    fast = through(model)
    with torch.no_grad():
        for count, change in enumerate(CHANGES, 1):
            old = fast(x)
            change(model)
            assert close(fast(x), model(x)), change
            assert not close(fast(x), old), f"{change} changes nothing"
            assert len(calls.compiled) == 1 + count


def test_pruned_anew_when_weights_change(calls) -> None:
    model, x = small(), torch.randn(2, 8)
    slim = through(model, sparsity=0.5)
    with torch.no_grad():
        slim(x)
        for parameter in model.parameters():
            parameter.copy_(parameter.flip(0))
        found = slim(x)
    first, second = (graphprune.plan_of(entry[2]) for entry in calls.pruned)
    assert first.to_json() != second.to_json()
    assert close(found.double(), oracle.masked(model, second)(x.double()))


def test_one_graph_serves_several_modules(calls) -> None:
    """torch captures code, not modules: the second one runs the graph of the first with other weights."""
    first, second = small(), randomise(Small(), seed=5).eval()
    x = torch.randn(2, 8)
    with torch.no_grad():
        runs = [through(first), through(second)]
        for _ in range(2):  # in turn, and nothing is compiled twice
            for run, model in zip(runs, (first, second), strict=True):
                assert close(run(x), model(x))
    assert len(calls.compiled) == 2


def test_what_belonged_to_a_module_goes_with_it() -> None:
    models, x = [small() for _ in range(3)], torch.randn(2, 8)
    graphs = []
    watched = lambda graph, inputs: graphs.append(dynamo.backend(graph, inputs)) or graphs[-1]  # noqa: E731
    with torch.no_grad():
        for model in models:
            torch.compile(model, backend=watched)(x)
        assert [len(graph._versions) for graph in graphs] == [3]
        del models[:2], model
        gc.collect()
        torch.compile(small(), backend=watched)(x)
    assert len(graphs[0]._versions) <= 2


def test_weights_that_change_again_and_again_are_told() -> None:
    model, x = small(), torch.randn(1, 8)
    fast = through(model)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="changed 2 times, and every time"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dynamo, "_PATIENCE", 2)
            for _ in range(3):
                assert close(fast(x), model(x))
                model.offset.add_(1)


# ---- gradients, randomness, effects: the graph itself -----------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5}])
def test_training_gets_the_gradients_of_eager(options, calls) -> None:
    model = small().train()
    twin, x = copy.deepcopy(model), torch.randn(4, 8)
    fast = through(model, **options)
    with pytest.warns(FallbackWarning, match="called with gradients; call it under torch.no_grad") as seen:
        for _ in range(2):
            fast(x).square().sum().backward()
            twin(x).square().sum().backward()
    assert len([one for one in seen if one.category is FallbackWarning]) == 1, "said once"
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad) and own.grad.abs().max() > 0
    assert all(torch.equal(own, other) for own, other in zip(model.buffers(), twin.buffers(), strict=True))
    assert not calls.compiled and not calls.pruned


def test_gradients_of_inputs_alone(calls) -> None:
    model, x = small().requires_grad_(False), torch.randn(2, 8)
    fast = through(model)
    assert close(fast(x), model(x)) and len(calls.compiled) == 1, "nothing asks for gradients"
    wanted, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    with pytest.warns(FallbackWarning, match="gradients"):
        fast(wanted).sum().backward()
    model(expected).sum().backward()
    assert torch.equal(wanted.grad, expected.grad)


def test_gradients_that_the_model_switches_on_itself(calls) -> None:
    model = small()

    def energy(x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return model(x).square().sum() * 1

    with torch.no_grad(), pytest.warns(FallbackWarning, match="gradients"):
        found = through(energy)(torch.randn(2, 8))
    assert found.requires_grad and not calls.compiled


def test_statistics_of_batches_move_once() -> None:
    model = small().train()
    twin, x = copy.deepcopy(model), torch.randn(4, 8)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="running_mean"):
        assert torch.equal(through(model, sparsity=0.5)(x), twin(x))
    assert torch.equal(model.norm.running_mean, twin.norm.running_mean)
    assert model.norm.num_batches_tracked == 1


class Dropping(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.second, self.way = nn.Linear(8, 32), nn.Linear(32, 4), way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        if self.way == "dropout":
            y = F.dropout(y, 0.5, self.training)
        elif self.way == "noise":
            y = y + torch.randn_like(y)
        else:
            p = 0.5 if self.training else 0.0
            y = F.scaled_dot_product_attention(y[None], y[None], y[None], dropout_p=p)[0]
        return self.second(y)


@pytest.mark.parametrize("way", ["dropout", "noise", "attention"])
def test_random_numbers_stay_random(way, calls) -> None:
    model, x = Dropping(way), torch.randn(4, 8)
    fast = through(model)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="draws random numbers"):
        torch.manual_seed(1)
        found = fast(x)
        torch.manual_seed(1)
        assert torch.equal(found, model(x))
    assert not calls.compiled
    if way != "noise":
        model.eval()
        with torch.no_grad():
            assert close(fast(x), model(x))
        assert len(calls.compiled) == 1


def test_results_that_share_memory_go_on_sharing_it(calls) -> None:
    def views(x):
        return x.view(-1), x + 1

    def each_other(x):
        y = x * 2
        return y, y.view(-1)

    x = torch.randn(3, 4)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="shares its memory with"):
        flat, _ = through(views)(x)
        flat.zero_()
        assert not x.any()
        y, flat = through(each_other)(torch.ones(3, 4))
        flat.zero_()
        assert not y.any()
    assert not calls.compiled


class Counting(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "parameter":
            self.count = nn.Parameter(torch.zeros(1))
        else:
            self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x * self.count


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_weights_that_the_graph_writes_to(kind, calls) -> None:
    model = Counting(kind)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="changes count in its forward pass"):
        fast = through(model)
        assert [float(fast(torch.ones(1))) for _ in range(3)] == [1.0, 2.0, 3.0]
    assert model.count == 3 and not calls.compiled
    with pytest.raises(graphprune.errors.CompileError, match="changes count in its forward pass"):
        graphprune.compile(model, example_inputs=torch.ones(1))


def test_empty_caches_are_passed_over(calls) -> None:
    """Decoders begin with caches of shape (0,), to which torch appends whatever comes."""

    def append(x: torch.Tensor) -> torch.Tensor:
        cache = torch.cat([torch.tensor([]), x * 2], dim=-2)
        return torch.cat([cache, torch.zeros(0), x], dim=-2)

    x = torch.randn(1, 2, 3, 4)
    with torch.no_grad():
        assert torch.equal(through(append)(x), append(x)) and append(x).shape == (1, 2, 6, 4)
    assert len(calls.compiled) == 1


def test_a_graph_without_inputs(calls) -> None:
    model = nn.Linear(3, 3)

    def square() -> torch.Tensor:
        return model.weight @ model.weight

    with torch.no_grad():
        assert close(through(square)(), square())
    assert len(calls.compiled) == 1


def test_inputs_that_are_written_to(calls) -> None:
    def count(x, counter):
        counter.add_(1)
        return x * counter

    counter = torch.zeros(1)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="changes .* in its forward pass"):
        run = through(count)
        found = [float(run(torch.ones(1), counter)) for _ in range(3)]
    assert found == [1.0, 2.0, 3.0] and not calls.compiled


@pytest.mark.parametrize(
    ("function", "x", "match"),
    [
        (lambda x: torch.fft.fft(x).abs(), torch.randn(4, 8), "fft"),
        (lambda x: x * 2, torch.randn(3, dtype=torch.float64), "float64"),
        (lambda x: torch.linalg.det(x), torch.randn(3, 3), "det"),
    ],
)
def test_what_cannot_be_compiled_runs_in_torch(function, x, match, calls) -> None:
    with torch.no_grad(), pytest.warns(FallbackWarning, match=match):
        assert torch.equal(through(function)(x), function(x))
    assert not calls.compiled


def test_autocast_is_left_to_torch() -> None:
    model, x = small(), torch.randn(2, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), pytest.warns(FallbackWarning, match="autocast"):
        assert torch.equal(through(model)(x), model(x))


def test_pruned_but_not_compilable_runs_pruned(monkeypatch, calls) -> None:
    def refusing(*_, **__):
        raise graphprune.errors.CompileError("not today")

    monkeypatch.setattr(dynamo, "compile_model", refusing)
    model, x = small(), torch.randn(2, 8)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="pruned, and runs in PyTorch, not compiled: not today"):
        found = through(model, sparsity=0.5)(x)
    plan = graphprune.plan_of(calls.pruned[0][2])
    assert close(found.double(), oracle.masked(model, plan)(x.double()))


# ---- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"sparsty": 0.5}, OptionError, r"no option 'sparsty' \(did you mean 'sparsity'\?\); known are .*'?target"),
        ({"data": []}, OptionError, "needs the whole model.*prune with graphprune.optimize"),
        ({"recover": True}, OptionError, "needs the whole model"),
        ({"budget": "macs"}, OptionError, "nothing says how much: add 'sparsity'"),
        ({"watch": "none"}, OptionError, "watch='none': choose one of"),
        ({"structure": "3:2"}, OptionError, "structure='3:2'"),
        ({"sparsity": 1.5}, BudgetError, "between 0 and 1"),
        ({"target": "x87"}, TargetError, "unknown target 'x87'"),
        ({"target": "arm"}, TargetError, "cannot run here"),
        ({"sparsity": 0.99}, BudgetError, "least"),
    ],
)
def test_bad_options_are_errors_of_ours(options, error, match) -> None:
    model, x = small(), torch.randn(2, 8)
    with torch.no_grad(), pytest.raises(error, match=match) as raised:
        through(model, **options)(x)
    assert isinstance(raised.value, GraphPruneError)


def test_a_mode_is_refused() -> None:
    with pytest.raises(OptionError, match="mode='max-autotune' is for the backend inductor"):
        torch.compile(small(), backend="graphprune", mode="max-autotune")(torch.randn(1, 8))


def test_options_are_those_of_the_verbs() -> None:
    assert {"sparsity", "budget", "criterion", "keep", "verify", "latency", "target", "threads"} <= set(PRUNING)
    assert not {"data", "loss", "example_inputs"} & set(PRUNING)
    assert set(COMPILING) <= set(graphprune.options.keywords_of(graphprune.compile)) | {"target"}


def test_options_reach_the_compiler(calls) -> None:
    model, x = small(), torch.randn(2, 8)
    with torch.no_grad():
        found = through(model, precision="bf16", threads=1, watch="all")(x)
        assert 1e-5 < (found - model(x)).abs().max() < 0.05
    [(_, _, artifact)] = calls.compiled
    assert artifact.manifest["precision"] == "bf16" and artifact.threads == 1
