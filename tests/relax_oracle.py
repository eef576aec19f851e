"""An oracle for Relax modules: torch's masked original in float64 against the slim module as stock TVM runs it.

It knows nothing of graphprune's rules, nor of how its frontend for TVM widens and masks programs: constants of the
module are found again among the tensors of the torch module by their numbers.
"""

import copy

import numpy as np
import torch
import tvm
from torch import nn
from torch.utils._pytree import tree_leaves
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

import graphprune
from graphprune.frontends.relax.program import Program
from helpers import randomise


def imported(net: nn.Module, *inputs: torch.Tensor, dynamic_shapes=None) -> tvm.IRModule:
    """The module that TVM's own importer makes of a network; its parameters get telling values before."""
    randomise(net).eval()
    with torch.no_grad():
        return from_exported_program(torch.export.export(net, inputs, dynamic_shapes=dynamic_shapes, strict=False))


def run(module: tvm.IRModule, *inputs: torch.Tensor) -> list[np.ndarray]:
    """All output tensors of one run."""
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    return flat(machine["main"](*(tvm.runtime.tensor(np.ascontiguousarray(item.numpy())) for item in inputs)))


def contents(module: tvm.IRModule) -> tuple[str, dict[str, bytes]]:
    """The text of a module and the bytes of its constants."""
    return module.script(), {name: one.value.numpy().tobytes() for name, one in Program.of(module).constants.items()}


def flat(result) -> list[np.ndarray]:
    return (
        [result.numpy()] if isinstance(result, tvm.runtime.Tensor) else [one for item in result for one in flat(item)]
    )


def masked(net: nn.Module, module: tvm.IRModule, plan: graphprune.Plan) -> nn.Module:
    """The torch module in float64 with zeros where the plan drops from the constants that its tensors became."""
    constants = Program.of(module).constants
    result = copy.deepcopy(net)
    dropped: dict[int, torch.Tensor] = {}
    for name in plan.kept:
        numbers = constants[name].value.numpy()
        homes = [t for t in (*result.parameters(), *result.buffers()) if t.numel() == numbers.size]
        home = [t for t in homes if np.array_equal(t.detach().numpy().ravel(), numbers.ravel())]
        assert home, f"no tensor of the network became {name}"
        mask = torch.from_numpy(np.broadcast_to(plan.mask(name), numbers.shape).copy()).reshape(home[0].shape)
        dropped[id(home[0])] = dropped.get(id(home[0]), mask) & mask
    for tensor in (*result.parameters(), *result.buffers()):
        if id(tensor) in dropped:
            tensor.detach()[~dropped[id(tensor)]] = 0
    return result.double()


def check(net: nn.Module, *inputs: torch.Tensor, sparsity: float = 0.4, **options) -> tvm.IRModule:
    """Prune and prove; the module given is not changed, something is pruned, and inputs move the outputs."""
    module = imported(net, *inputs)
    before = contents(module)
    slim = graphprune.optimize(module, sparsity, verify=False, **options)
    plan = graphprune.plan_of(slim)
    assert plan.kept, "nothing was pruned"
    before_and_after = plan.report[options.get("budget", "params")]
    assert before_and_after[1] <= before_and_after[0] * (1 - sparsity)
    constants = Program.of(slim).constants.values()
    counted = {hash(one): one.value.numpy().size for one in constants if "float" in str(one.ty.dtype)}
    statistics = sum(one.numel() for name, one in net.named_buffers() if name.endswith(("running_mean", "running_var")))
    assert sum(counted.values()) <= plan.report["params"][1] + statistics
    found = run(slim, *inputs)
    wide = [item.double() if item.is_floating_point() else item for item in inputs]
    with torch.no_grad():
        expected = [leaf.numpy() for leaf in tree_leaves(masked(net, module, plan)(*wide))]
        moved = tree_leaves(net(*(torch.randn_like(i) if i.is_floating_point() else (i + 1) % 2 for i in inputs)))
    assert [item.shape for item in found] == [item.shape for item in expected]
    for left, right, other in zip(expected, found, moved, strict=True):
        assert np.abs(left - right).max() <= 2e-5 * max(np.abs(left).max(), 1e-3)
        assert np.abs(left - other.numpy()).max() > 1e-3 * np.abs(left).max(), "inputs move nothing"
    assert contents(module) == before, "the module that was given changed"
    return slim
