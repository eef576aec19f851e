"""Pipelines of torch and of libraries around it: passes of torch.fx, AOTInductor, ExecuTorch, timm, each by itself."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager
from torch.fx.passes.shape_prop import ShapeProp

import graphprune
import oracle
from graphprune.errors import BudgetError, OptionError
from helpers import randomise

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.conv(image))).mean((2, 3)).view(-1, 16)
        return self.down(F.gelu(self.up(y)))


def net() -> Net:
    torch.manual_seed(0)
    return randomise(Net()).eval()


# ---- torch.fx ------------------------------------------------------------------------------------------------


class ReluForGelu(PassBase):
    """A pass of somebody else."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        nodes = graph_module.graph.find_nodes(op="call_function", target=F.gelu)
        for node in nodes:
            node.target = F.relu
        graph_module.recompile()
        return PassResult(graph_module, bool(nodes))


def test_a_pass_among_others() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    graph = fx.symbolic_trace(model)
    code, before = graph.code, copy.deepcopy(graph.state_dict())
    result = PassManager([graphprune.FxPass(0.4, example_inputs=x), ReluForGelu()], run_checks_after_each_pass=True)(
        graph
    )
    assert result.modified and isinstance(result.graph_module, fx.GraphModule)
    plan = graphprune.plan_of(result.graph_module)
    assert {"conv.weight", "up.weight"} & plan.kept.keys()
    assert graph.code == code and all(torch.equal(tensor, before[key]) for key, tensor in graph.state_dict().items())
    other = ReluForGelu()(copy.deepcopy(graph)).graph_module
    assert oracle.error(other, result.graph_module, (x,)) < 1e-9
    size = sum(parameter.numel() for parameter in result.graph_module.parameters())
    assert size <= 0.6 * sum(parameter.numel() for parameter in model.parameters())


def test_a_manager_of_several_steps_prunes_once_and_two_passes_twice() -> None:
    one, two = (graphprune.FxPass(0.3, example_inputs=torch.randn(2, 3, 8, 8)) for _ in range(2))

    def params(passes, steps) -> int:
        slim = PassManager(passes, steps=steps)(fx.symbolic_trace(net())).graph_module
        return sum(parameter.numel() for parameter in copy.deepcopy(slim).parameters())

    once, twice = params([one], 1), params([one, two], 1)
    assert params([one, ReluForGelu()], 3) == once > twice


def fakes(graph: fx.GraphModule) -> FakeTensorProp:
    return FakeTensorProp(graph, FakeTensorMode(allow_non_fake_inputs=True))


@pytest.mark.parametrize(("spread", "key"), [(ShapeProp, "tensor_meta"), (fakes, "val")])
def test_inputs_are_those_that_a_pass_before_saw_and_shapes_are_brought_up_to_date(spread, key) -> None:
    graph, x = fx.symbolic_trace(net()), torch.randn(2, 3, 9, 9)
    spread(graph).propagate(x)
    slim = graphprune.FxPass(0.4)(graph).graph_module
    assert graphprune.plan_of(slim).inputs["args"][0]["tensor"]["shape"] == [2, 3, 9, 9]
    fresh = copy.deepcopy(slim)
    for node in fresh.graph.nodes:
        node.meta.pop(key)
    spread(fresh).propagate(x)
    shapes = [[tuple(node.meta[key].shape) for node in graph.graph.nodes] for graph in (slim, fresh, graph)]
    assert shapes[0] == shapes[1] != shapes[2]


def test_an_exported_module_needs_no_example_inputs() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    graph = torch.export.export(model, (x,)).module()
    slim = graphprune.FxPass(0.4)(graph).graph_module
    assert oracle.error(model, slim, (x,)) < 1e-9


def test_wrong_options_of_a_pass() -> None:
    with pytest.raises(OptionError, match=r"no option 'sparcity' \(did you mean"):
        graphprune.FxPass(0.5, sparcity=0.4)
    with pytest.raises(Exception, match="An error occurred when running the 'FxPass' pass") as raised:
        PassManager([graphprune.FxPass(1.5)])(fx.symbolic_trace(net()))
    assert isinstance(raised.value.__cause__, BudgetError)


# ---- exported programs ------------------------------------------------------------------------------------------


def pruned_program() -> tuple[nn.Module, torch.export.ExportedProgram, torch.Tensor]:
    model, x = net(), torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    return model, graphprune.optimize(program, 0.4), x


def test_aot_inductor_compiles_a_pruned_program(tmp_path: Path) -> None:
    inductor = pytest.importorskip("torch._inductor")
    model, slim, x = pruned_program()
    quick = {"aot_inductor.compile_wrapper_opt_level": "O0", "cpp.vec_isa_ok": False}
    path = inductor.aoti_compile_and_package(slim, package_path=str(tmp_path / "slim.pt2"), inductor_configs=quick)
    run = inductor.aoti_load_package(path)
    masked = oracle.masked(model, graphprune.plan_of(slim))
    for size in (2, 3):
        x = torch.randn(size, 3, 8, 8)
        expected = masked(x.double())
        assert (run(x).double() - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert (run(x) - model(x)).abs().max() > 1e-3, "nothing was pruned"


@pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="executorch is not installed")
def test_executorch_lowers_a_pruned_program() -> None:
    from executorch.exir import to_edge
    from executorch.runtime import Runtime

    model, x = net(), torch.randn(2, 3, 8, 8)
    slim = graphprune.optimize(torch.export.export(model, (x,)), 0.4)
    program = Runtime.get().load_program(to_edge(slim).to_executorch().buffer)
    [found] = program.load_method("forward").execute([x])
    expected = oracle.masked(model, graphprune.plan_of(slim))(x.double())
    assert (found.double() - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_pruned_program_is_saved_and_loaded_by_torch(tmp_path: Path) -> None:
    _, slim, x = pruned_program()
    torch.export.save(slim, tmp_path / "slim.pt2")
    assert torch.equal(torch.export.load(tmp_path / "slim.pt2").module()(x), slim.module()(x))


# ---- timm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_timm_models_are_pruned_saved_and_loaded_by_name(name: str, tmp_path: Path) -> None:
    from helpers import import_torchvision

    import_torchvision()
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    size = {} if name.startswith("resnet") else {"img_size": 32, "depth": 2}
    options = size | {"num_classes": 10}
    model = randomise(timm.create_model(name, **options)).eval()
    slim = graphprune.optimize(model, 0.3, example_inputs=torch.randn(1, 3, 32, 32))
    graphprune.save(slim, tmp_path / "slim.safetensors")
    again = graphprune.load_weights(timm.create_model(name, **options), tmp_path / "slim.safetensors").eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), slim(x)) and not torch.equal(slim(x), model(x))
    assert type(again) is type(model)
    assert graphprune.verify(model, again).error < 1e-9
