"""Perplexity of a trained language model with fewer parameters or single weights at zero, without any training.

    GRAPHPRUNE_DATA=... python benchmarks/stories_pruning.py

A Llama of 260,032 parameters (8 heads, 4 key-value heads, tied head) that tells children's stories; needs the extra
`coverage`. Calibrated on stories of the training set without labels, measured on others. About ten minutes.
"""

import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import graphprune
from common import console, machine, page, parameters, show
from stories import loss, trained

TEXT = """Printed by `python benchmarks/stories_pruning.py`. {machine}.

A trained Llama of 260,032 parameters; perplexity on {count} stories, calibrated on {calibration} others, no training.
*ratio*: perplexity over that of the dense model ({dense:.2f}). Heads, key-value heads, inner widths and the width of
the stream may go; with *stream kept*, the embedding and with it the width of the stream stay."""

SPARSE = """In the table below shapes stay and single weights are zero. {count} parameters are those of linear layers;
the embedding, which is the head too, stays. *unstructured*: half of all parameters go, *2:4*: half of those of linear
layers."""

KEPT = {"keep": ["model.embed_tokens"]}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("l2 (magnitude)", {"criterion": "l2"}),
    ("l2 (magnitude), stream kept", {"criterion": "l2", **KEPT}),
    ("wanda", {"criterion": "wanda"}),
    ("wanda, stream kept", {"criterion": "wanda", **KEPT}),
    ("l2, recovered", {"criterion": "l2", "recover": True, **KEPT}),
    ("reconstruction", {"criterion": "reconstruction"}),
    ("reconstruction, recovered", {"criterion": "reconstruction", "recover": True}),
]
WEIGHTS = [
    (structure, criterion) for structure in ("unstructured", "2:4") for criterion in ("l2", "wanda", "sparsegpt")
]


def main() -> None:
    """Print and write the tables."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = Path(os.environ["GRAPHPRUNE_DATA"])
    model, tokens = trained(data)

    def stories(name: str) -> list[torch.Tensor]:
        texts = (data / "llm" / f"tinystories_{name}.txt").read_text().split("<|endoftext|>")
        return [torch.tensor([tokens.encode(text.strip())[:256]]) for text in texts if text.strip()]

    test, calibration = stories("eval"), [{"input_ids": story} for story in stories("train")]
    dense, example = loss(model, test), {"input_ids": test[0]}

    def row(name: str, share: str, slim: Any, start: float) -> tuple[str, ...]:
        seconds, found = time.perf_counter() - start, loss(slim, test)
        nonzero = sum(int((tensor != 0).sum()) for tensor in slim.parameters())
        figures = f"{math.exp(found):.2f}", f"{math.exp(found - dense):.2f}", f"{seconds:.0f} s"
        console.print(name, share, *figures)
        return (name, share, f"{nonzero:,}", *figures)

    rows, sparse = [], []
    for share in (0.2, 0.5):
        for name, options in CASES:
            start = time.perf_counter()
            slim = graphprune.optimize(
                model, share, example_inputs=example, data=calibration[:64], verify=False, **options
            )
            rows.append(row(name, f"{share:.0%}", slim, start))
    for structure, criterion in WEIGHTS:
        start = time.perf_counter()
        options = {"structure": structure} | ({"sparsity": 0.5} if structure == "unstructured" else {})
        slim = graphprune.optimize(
            model, example_inputs=example, data=calibration, criterion=criterion, verify=False, **options
        )
        sparse.append(row(f"{structure}, {criterion}", "50%", slim, start))
    columns = ("criterion", "dropped", "parameters not zero", "perplexity", "ratio", "time")
    show("stories260k", columns, [*rows, *sparse])
    text = TEXT.format(machine=machine(1, "transformers"), count=len(test), calibration=64, dense=math.exp(dense))
    linear = sum(tensor.numel() for name, tensor in model.named_parameters() if "proj" in name)
    sections = [
        SPARSE.format(count=f"{linear:,} of {parameters(model):,}"),
        graphprune.report.markdown(columns, sparse),
    ]
    page("stories_pruning", "A trained language model, pruned without training", text, (columns, rows), more=sections)


if __name__ == "__main__":
    main()
