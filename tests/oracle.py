"""An oracle that knows nothing of graphprune's rules: mask the original by hand, run both in float64, compare."""

import copy

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import graphprune
from helpers import randomise


def masked(model: nn.Module, plan: graphprune.Plan) -> nn.Module:
    """The original with every dropped position of every parameter and buffer set to zero, in float64."""
    model = copy.deepcopy(model).double().eval()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, axes in plan.kept.items():
        tensor = tensors[name].detach()
        if not tensor.is_floating_point():  # an index looks dropped positions up, and finds zeros there
            continue
        for axis, kept in axes.items():
            if kept.ndim == 1:
                dropped = sorted(set(range(tensor.shape[axis])) - set(kept.tolist()))
                tensor.index_fill_(axis, torch.tensor(dropped), 0)
            else:
                size = tensor.shape[0] // len(kept)
                for row, own in enumerate(kept):
                    dropped = sorted(set(range(tensor.shape[axis])) - set(own.tolist()))
                    tensor[row * size : (row + 1) * size].index_fill_(axis, torch.tensor(dropped), 0)
    return model


def outputs(model: nn.Module, inputs: tuple) -> list[torch.Tensor]:
    """All output tensors of one run."""
    with torch.no_grad():
        result = model(*(item.clone() for item in inputs))  # some models write into their inputs
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def error(model: nn.Module, slim: nn.Module, inputs: tuple) -> float:
    """The largest error of the pruned model relative to the largest output of the masked original."""
    wide = tuple(item.double() if item.is_floating_point() else item for item in inputs)
    expected = outputs(masked(model, graphprune.plan_of(slim)), wide)
    found = outputs(copy.deepcopy(slim).double().eval(), wide)
    assert [item.shape for item in expected] == [item.shape for item in found]
    return max(
        float((left - right).abs().max() / left.abs().max().clamp(min=1e-30))
        for left, right in zip(expected, found, strict=True)
    )


def check(model: nn.Module, *inputs: torch.Tensor, sparsity: float = 0.4, **options) -> nn.Module:
    """Prune and prove: something was pruned, inputs move outputs, pruned equals masked, the original is untouched."""
    randomise(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    slim = graphprune.optimize(model, sparsity, example_inputs=inputs, **options)
    plan = graphprune.plan_of(slim)
    assert plan.kept, "nothing was pruned"
    left, total = plan.report[options.get("budget", "params")][::-1]
    assert left <= total * (1 - sparsity)
    if options.get("budget", "params") == "params":
        assert sum(parameter.numel() for parameter in slim.parameters()) == left
    assert error(model, slim, inputs) < 1e-9
    other = tuple(torch.randn_like(item) if item.is_floating_point() else item for item in inputs)
    if any(item.is_floating_point() for item in inputs):
        first, second = outputs(slim.eval(), inputs), outputs(slim.eval(), other)
        assert any(not torch.allclose(a, b) for a, b in zip(first, second, strict=True)), "inputs move nothing"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} of the original changed"
    return slim
