"""What the analysis tells people."""

import xml.etree.ElementTree as ElementTree

import networkx

import graphprune
from graphprune.explain import group_rows
from networks import build


def test_rows_account_for_every_channel():
    module, inputs = build("residual")
    rows = {row.members: row for row in group_rows(graphprune.analyze(module, inputs))}
    stream = next(row for members, row in rows.items() if "a.weight[0]" in members)
    assert stream.status == "free" and stream.count == 8
    assert {"a.bias[0]", "b.weight[1]", "c.weight[0]", "c.bias[0]", "head.weight[1]"} < set(stream.members)
    assert stream.params == 27 + 1 + 90 + 90 + 1 + 4  # a, its bias, b in, c out, its bias, head
    output = next(row for members, row in rows.items() if "head.weight[0]" in members)
    assert output.status == "locked" and "output of the program" in output.reason


def test_text():
    module, inputs = build("softmax_channels")
    text = graphprune.analyze(module, inputs).explain()
    assert "softmax runs over it" in text and "way out: prune another axis" in text
    assert "kernel" not in text, "kernel axes are no channels and need no explanation"
    assert "more widths" in graphprune.analyze(module, inputs).explain(limit=1)


def test_pictures():
    module, inputs = build("concat")
    analysis = graphprune.analyze(module, inputs)
    graph = analysis.to_networkx()
    assert isinstance(graph, networkx.Graph) and graph.nodes["a.weight[0]"]["kind"] == "axis"
    assert networkx.has_path(graph, "a.weight[0]", "c.weight[1]")
    assert not networkx.has_path(graph, "a.weight[1]", "c.weight[0]")
    assert analysis.to_dot().startswith("graph graphprune {") and '"a.weight[0]" [label=' in analysis.to_dot()
    assert ElementTree.fromstring(analysis.to_graphml()).tag.endswith("graphml")


def test_graph_prints():
    module, inputs = build("chain")
    text = str(graphprune.analyze(module, inputs).graph)
    assert "conv(%input_1, %0.weight, %0.bias)" in text and text.splitlines()[-1].strip().startswith("return %linear_1")
