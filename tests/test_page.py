"""What a report says, against modules that were really pruned and figures that are counted by other means."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from torch import nn

import graphprune
from graphprune.errors import FileFormatError, GraphPruneError, OptionError, PlanError, VerifyError
from graphprune.page import status
from graphprune.page.blocks import MOST, blocks_of
from graphprune.page.contents import Contents
from graphprune.page.curves import charts
from graphprune.page.layers import Layer, Pair
from graphprune.page.rails import lay_out
from graphprune.page.view import cards, drawing, times
from graphprune.page.writing import gather
from helpers import randomise
from networks import build

SHARED = ("tied_head", "weight_used_twice")
"""Networks in which two layers share a weight: it counts for the first one."""

PATTERNS = (
    "chain residual concat split depthwise grouped transposed_grouped squeeze_excite mlp matmul_parameter shared_layer "
    "heads grouped_heads unbind_qkv flatten_nhwc tied_head weight_used_twice embedding conv3d pixel_shuffle"
).split()


def pruned(name: str, **options) -> tuple[nn.Module, nn.Module, torch.Tensor, Contents]:
    module, inputs = build(name)
    randomise(module)
    slim = graphprune.optimize(module, 0.4, example_inputs=inputs, **options)
    return module, slim, inputs, gather(module, slim, example_inputs=inputs, verify=False)


def macs_of(module: nn.Module, inputs: torch.Tensor) -> dict[str, int]:
    """Multiply-adds of every convolution and linear layer, counted while the module runs."""
    found: dict[str, int] = {}

    def count(name: str):
        def hook(layer: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
            seen = given[0] if isinstance(layer, nn.modules.conv._ConvTransposeNd) else result
            channels = seen.shape[-1] if isinstance(layer, nn.Linear) else seen.shape[1]
            each = layer.weight.numel() // channels
            found[name] = found.get(name, 0) + seen.numel() * each

        return hook

    kinds = nn.Linear, nn.modules.conv._ConvNd
    hooks = [one.register_forward_hook(count(name)) for name, one in module.named_modules() if isinstance(one, kinds)]
    with torch.no_grad():
        module(inputs)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", PATTERNS)
def test_layers_are_those_of_the_modules(name):
    module, slim, inputs, contents = pruned(name)
    before, after = ({key: value.numel() for key, value in one.named_parameters()} for one in (module, slim))
    assert sum(layer.params.before for layer in contents.layers) == sum(before.values())
    assert sum(layer.params.after for layer in contents.layers) == sum(after.values()) < sum(before.values())
    assert sum(layer.macs.after for layer in contents.layers) == graphprune.analyze(slim, inputs).cost().macs
    compared = 0
    for layer in contents.layers:
        own = dict(module.named_modules()).get(layer.name)
        if isinstance(own, nn.Linear | nn.modules.conv._ConvNd) and name not in SHARED:
            now = slim.get_submodule(layer.name)
            sizes = [sum(parameter.numel() for parameter in one.parameters()) for one in (own, now)]
            assert list(layer.params) == sizes, layer.name
            if own.bias is not None:
                assert layer.width == (own.bias.numel(), now.bias.numel()), layer.name
            compared += layer.width.before != layer.width.after
    assert compared or name in (*SHARED, "matmul_parameter")


@pytest.mark.parametrize("name", ["residual", "depthwise", "grouped", "transposed", "mlp", "shared_layer"])
def test_macs_are_those_that_a_run_counts(name):
    module, slim, inputs, contents = pruned(name)
    counted = [macs_of(one, inputs) for one in (module, slim)]
    layers = {layer.name: layer for layer in contents.layers if layer.name in counted[0]}
    assert layers.keys() == counted[0].keys()
    for key, layer in layers.items():
        assert list(layer.macs) == [one[key] for one in counted], key


@pytest.mark.parametrize("policy", ["heads", "dims"])
def test_groups_that_stay_are_those_of_the_slim_model(policy):
    module, slim, _, contents = pruned("heads", policy=policy)
    rows = {member: group for group in contents.groups.values() for member in group.row.members}
    heads = rows["v.weight[0]"]
    assert heads.row.count == {"heads": 4, "dims": 4}[policy]
    width = slim.get_submodule("v").out_features
    assert heads.kept == width // 4 < 4
    module, slim, _, contents = pruned("residual")
    rows = {member: group for group in contents.groups.values() for member in group.row.members}
    assert rows["b.weight[0]"].kept == slim.get_submodule("b").out_channels < rows["b.weight[0]"].row.count == 10
    assert rows["a.weight[0]"].kept == slim.get_submodule("head").in_features
    assert rows["head.weight[0]"].kept == rows["head.weight[0]"].row.count == 4


def test_masks_count_what_may_differ_from_zero():
    module, inputs = build("chain")
    randomise(module)
    sparse = graphprune.optimize(module, 0.5, example_inputs=inputs, structure="unstructured")
    contents = gather(module, sparse, example_inputs=inputs)
    for layer in contents.layers:
        left = sum(int((value != 0).sum()) for key, value in sparse.named_parameters() if key.startswith(layer.name))
        assert layer.params.after == left, layer.name
    assert contents.costs["params"].after < contents.costs["params"].before
    assert all(pair.before == pair.after for _, pair in contents.widths)
    assert contents.status.kind == "good"
    assert cards(contents)[0].label == "Parameters, not zero"


def test_onnx_and_its_module_say_the_same(tmp_path: Path):
    module, inputs = build("squeeze_excite")
    randomise(module)
    torch.onnx.export(module, (inputs,), tmp_path / "net.onnx", dynamo=False)
    plan = graphprune.analyze(module, inputs).plan(0.4)
    mine = gather(module, plan=plan, example_inputs=inputs)
    other = gather(tmp_path / "net.onnx", plan=plan)
    assert other.title == "net.onnx" and mine.title == "Net"
    assert mine.status.kind == other.status.kind == "good"
    assert [(layer.params, layer.width) for layer in mine.layers] == [(l.params, l.width) for l in other.layers]  # noqa: E741
    assert mine.costs["params"] == other.costs["params"] and mine.map == other.map


# The coupling map.

Layers = some.lists(some.tuples(*[some.lists(some.integers(0, 12), max_size=3, unique=True)] * 2), max_size=30)


@given(Layers)
@settings(max_examples=100, deadline=None)
def test_rails_of_one_lane_do_not_meet(layers):
    found = lay_out(layers)
    lane_of = {rail.key: rail.lane for rail in found.rails}
    assert len(found.rails) == len(lane_of) and found.columns == len(found.links)
    for link in found.links:  # every rail reaches the layers that touch it
        reads, writes = layers[link.layer]
        assert link.reads == tuple(lane_of[key] for key in reads)
        assert link.writes == tuple(lane_of[key] for key in writes)
        for key in (*reads, *writes):
            assert any(rail.key == key and rail.first <= link.column <= rail.last for rail in found.rails)
    cells = [(rail.lane, column) for rail in found.rails for column in range(rail.first, rail.last + 1)]
    assert len(cells) == len(set(cells)), "two rails overlap"
    assert {rail.lane for rail in found.rails} == set(range(found.lanes))
    assert [link.layer for link in found.links] == [n for n, layer in enumerate(layers) if any(layer)]


def test_a_residual_stream_is_one_long_rail():
    _, _, _, contents = pruned("residual")
    names = [contents.layers[link.layer].name for link in contents.map.links]
    assert names == ["a", "b", "c", "head"]
    longest = max(contents.map.rails, key=lambda rail: rail.last - rail.first)
    assert (longest.first, longest.last, longest.lane) == (0, 3, 0)
    assert {"a.weight[0]", "b.weight[1]", "c.weight[0]"} < set(contents.groups[longest.key].row.members)
    links = dict(zip(names, contents.map.links, strict=True))
    assert links["a"].reads == () and links["b"].reads == (0,) and links["c"].writes == (0,)
    drawn = drawing(contents)
    for rail, placed in zip(contents.map.rails, drawn.rails, strict=True):
        touching = [w.x for link, w in zip(contents.map.links, drawn.wires, strict=True) if rail.lane in link.reads]
        inside = [x for x in touching if placed.x <= x <= placed.x + placed.width]
        assert touching == inside or rail.lane > 0


# Blocks.


Names = some.text("ab./", max_size=8) | some.integers(0, 99).map("Conv_{}".format)


@given(some.lists(some.tuples(Names, some.integers(0, 9), some.integers(0, 9)), max_size=80))
@example([(f"Conv_{n}", n, 1) for n in range(60)])
@settings(max_examples=100, deadline=None)
def test_blocks_add_up(rows):
    layers = [Layer(name, "conv", Pair(p, p // 2), Pair(m, m // 3)) for name, p, m in rows]
    blocks = blocks_of(layers)
    assert sum(block.layers for block in blocks) == len(layers)
    assert len(blocks) <= MOST
    for index in (0, 1):
        assert sum(block.params[index] for block in blocks) == sum(layer.params[index] for layer in layers)
        assert sum(block.macs[index] for block in blocks) == sum(layer.macs[index] for layer in layers)


def test_small_blocks_become_one():
    found = blocks_of([Layer(f"Conv_{n}", "conv", Pair(n, n), Pair(1, 1)) for n in range(60)])
    assert [block.name for block in found] == [*(f"Conv_{n}" for n in range(37, 60)), "37 smaller layers"]
    assert found[-1].layers == 37 and found[-1].params.before == sum(range(37))


def test_the_block_that_holds_most_is_taken_apart():
    names = ["stem.conv", *(f"body.{n}.{part}" for n in range(4) for part in ("conv1", "conv2")), "head"]
    layers = [Layer(name, "conv", Pair(10, 5), Pair(10, 5)) for name in names]
    assert [block.name for block in blocks_of(layers)] == ["stem", "body.0", "body.1", "body.2", "body.3", "head"]


# What was proved.


def test_status_tells_what_was_seen(monkeypatch):
    module, inputs = build("residual")
    randomise(module)
    slim = graphprune.optimize(module, 0.4, example_inputs=inputs)
    assert gather(module, example_inputs=inputs).status.kind == "none"
    assert gather(module, slim, example_inputs=inputs, verify=False).status.text == "not verified"
    good = gather(module, slim, example_inputs=inputs).status
    assert good.kind == "good" and good.seen.error < 1e-12
    with torch.no_grad():
        slim.b.weight.add_(0.1)
    trained = gather(module, slim, example_inputs=inputs).status
    assert trained.kind == "fair" and "weights changed" in trained.text
    sparse = graphprune.optimize(module, 0.4, example_inputs=inputs, structure="unstructured")
    with torch.no_grad():
        sparse.b.weight.add_(0.1)
    assert gather(module, sparse, example_inputs=inputs).status.kind == "bad"

    def differs(*_, **__):
        raise VerifyError("it differs at node b")

    monkeypatch.setattr(status, "compare", differs)
    bad = gather(module, slim, example_inputs=inputs).status
    assert bad.kind == "bad" and "node b" in bad.detail


def test_a_network_that_no_input_moves_is_not_called_verified():
    module, inputs = build("residual")
    with torch.no_grad():
        module.head.weight.zero_()
    slim = graphprune.optimize(module, 0.4, example_inputs=inputs, verify=False)
    assert gather(module, slim, example_inputs=inputs).status.text == "the verification says little"


def test_zeros_of_updated_weights_are_looked_at():
    module, inputs = build("chain")
    randomise(module)
    data = [torch.randn_like(inputs) for _ in range(4)]
    options = {"structure": "unstructured", "criterion": "sparsegpt", "data": data}
    sparse = graphprune.optimize(module, 0.5, example_inputs=inputs, **options)
    found = gather(module, sparse, example_inputs=inputs).status
    assert found.kind == "fair" and found.text == "zeros are where the masks say"
    with torch.no_grad():
        sparse[0].weight.add_(1)
    assert gather(module, sparse, example_inputs=inputs).status.kind == "bad"


def test_channels_then_weights():
    module, inputs = build("chain")
    randomise(module)
    fewer = graphprune.optimize(module, 0.3, example_inputs=inputs)
    sparse = graphprune.optimize(fewer, 0.3, example_inputs=inputs, structure="unstructured")
    contents = gather(module, sparse, example_inputs=inputs)
    assert contents.status.kind == "good" and contents.masked
    left = sum(int((value != 0).sum()) for value in sparse.parameters())
    assert contents.costs["params"] == (sum(value.numel() for value in module.parameters()), left)
    assert contents.costs["macs"].after == graphprune.analyze(fewer, inputs).cost().macs < contents.costs["macs"].before


# What is measured, and what is wrong with it.


def figures(contents: Contents, **changes) -> dict[str, object]:
    seconds = {"dense": {"artifact": 4e-3, "PyTorch": 8e-3}, "slim": {"artifact": 1e-3, "PyTorch": 6e-3}}
    costs = {"params": list(contents.costs["params"]), "macs": list(contents.costs["macs"])}
    whole = {"seconds": seconds, **costs, "target": "x86-avx512", "threads": 1, "difference": {"dense": 1e-6}}
    return whole | changes


def test_latencies_from_a_file(tmp_path: Path):
    module, slim, inputs, contents = pruned("residual")
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(figures(contents)))
    found = gather(module, slim, example_inputs=inputs, verify=False, bench=file)
    assert found.times.seconds == {"GraphPrune": (4e-3, 1e-3), "PyTorch": (8e-3, 6e-3)}
    rows = times(found.times.seconds)
    assert [row.lengths for row in rows] == [(0.5, 0.125), (1.0, 0.75)]
    assert rows[0].ratio == "4.00 ×" and rows[0].texts == ("4.00 ms", "1.00 ms")


def wrong_figures(contents: Contents) -> Iterator[tuple[object, type[GraphPruneError], str]]:
    yield figures(contents, params=[7, 5]), OptionError, "its dense one has 7 params"
    yield figures(contents, macs=[contents.costs["macs"].before, 5]), OptionError, "its slim one has 5 macs"
    yield figures(contents, seconds={"dense": {}}), FileFormatError, "graphprune bench MODEL --json"
    yield figures(contents, difference={}), FileFormatError, "graphprune bench"
    yield figures(contents, seconds={"dense": {}, "slim": {}}), FileFormatError, "no times"
    yield figures(contents, seconds={"dense": {"a": 1.0}, "slim": {"a": 0.0}}), FileFormatError, "no times"
    yield {"milliseconds": 3}, FileFormatError, "graphprune bench"
    yield [1, 2], FileFormatError, "graphprune bench"
    yield "there is no such file.json", FileFormatError, "cannot be read"


def test_latencies_of_another_model_are_refused():
    module, slim, inputs, contents = pruned("residual")
    for bench, kind, text in wrong_figures(contents):
        with pytest.raises(kind, match=text):
            gather(module, slim, example_inputs=inputs, verify=False, bench=bench)


def sweep_lines(contents: Contents) -> list[dict[str, object]]:
    before, all_macs = contents.costs["params"].before, contents.costs["macs"].before
    lines: list[dict[str, object]] = [
        {"format": "graphprune-sweep-1", "model": "m", "function": "f", "better": "higher", "score": 0.9}
    ]
    for criterion in ("l1", "l2"):
        for sparsity, score in ((0.25, 0.88), (0.5, 0.8 if criterion == "l1" else 0.84)):
            options = {"criterion": criterion, "sparsity": sparsity}
            left = round(before * (1 - sparsity)), round(all_macs * (1 - sparsity) ** 2)
            costs = {"params": [before, left[0]], "macs": [all_macs, left[1]]}
            lines.append({"key": json.dumps(options), "options": options, "costs": costs, "score": score})
    error = {"type": "BudgetError", "message": "<b>out of reach</b>", "stage": "prune", "own": True}
    options = {"criterion": "l1", "sparsity": 0.99}
    return [*lines, {"key": json.dumps(options), "options": options, "error": error}]


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    _, _, _, contents = pruned("residual")
    file = tmp_path / "sweep.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in sweep_lines(contents)))
    return file


def test_dots_lie_where_their_figures_are(sweep_file: Path):
    module, slim, inputs, _ = pruned("residual")
    found = gather(module, slim, example_inputs=inputs, verify=False, sweep=sweep_file)
    drawn = charts(found.sweep)
    assert [chart.quantity for chart in drawn] == ["params", "macs"]
    for chart in drawn:
        places, shares = zip(*((x, float(text.removesuffix(" %"))) for x, text in chart.xticks), strict=True)
        heights, scores = zip(*((-y, float(text)) for y, text in chart.yticks), strict=True)
        assert np.interp(-chart.dense, heights, scores) == pytest.approx(0.9)
        for curve in chart.curves:
            own = [point for point in found.sweep.finished if found.sweep.name(point) == curve.name]
            wanted = sorted((100 * point.left(chart.quantity), point.score) for point in own)
            seen = [(np.interp(dot.x, places, shares), np.interp(-dot.y, heights, scores)) for dot in curve.dots]
            assert len(seen) == 2 and seen == [pytest.approx(point) for point in wanted]
        best = [(dot.x, dot.y) for dot in chart.front]
        assert best == sorted(best), "the front falls with what goes"
        assert len(best) == 2 and "l2" in chart.front[0].tip


def test_a_sweep_of_another_model_is_refused(sweep_file: Path):
    module, inputs = build("chain")
    with pytest.raises(OptionError, match="sweep= is of another model"):
        gather(module, example_inputs=inputs, sweep=sweep_file)
    sweep_file.write_text("{}\n")
    with pytest.raises(FileFormatError, match=r"sweep\.jsonl"):
        gather(module, example_inputs=inputs, sweep=sweep_file)


def test_refusals_leave_no_file(tmp_path: Path):
    module, inputs = build("residual")
    other, others = build("chain")
    slim = graphprune.optimize(module, 0.4, example_inputs=inputs)
    plan = graphprune.plan_of(slim)
    for options, kind, text in (
        ({"slim": slim, "plan": plan}, OptionError, "not both"),
        ({"slim": module}, PlanError, "not made by graphprune"),
        ({"slim": graphprune.optimize(other, 0.4, example_inputs=others)}, PlanError, "another model"),
        ({"plan": graphprune.analyze(other, others).plan(0.4)}, PlanError, "another"),
    ):
        with pytest.raises(kind, match=text):
            graphprune.write_report(module, tmp_path / "r.html", example_inputs=inputs, **options)
    with pytest.raises(OptionError, match=r"must end in \.html"):
        graphprune.write_report(module, tmp_path / "r.pdf", example_inputs=inputs)
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_left_as_it_was(tmp_path: Path):
    module, inputs = build("residual")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plan = graphprune.analyze(module, inputs).plan(0.4)
    graphprune.write_report(module.train(), tmp_path / "r.html", plan=plan, example_inputs=inputs)
    assert module.training and all(torch.equal(tensor, before[n]) for n, tensor in module.state_dict().items())
