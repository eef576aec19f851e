"""What heads, head widths and stream widths are worth in a trained language model, before any retraining.

A Llama of 260,032 parameters that tells children's stories (8 heads, 4 key-value heads, tied head) is pruned by several
policies and verified; its loss per token on 40 stories is measured, and what it writes is shown. Needs GRAPHPRUNE_DATA
and the extra `coverage`. Writes docs/benchmarks/stories.md. Run by hand: python benchmarks/stories.py.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch

import graphprune
from common import console, machine, page, parameters, show

TEXT = """Printed by `python benchmarks/stories.py`. {machine}.

Loss per token (nats) of a trained Llama (260,032 parameters, 8 heads of 8, 4 key-value heads, width 64) on {count}
stories after pruning, without retraining; criterion l2. Every line is verified in float64 against the masked original
and still generates. *heads*: whole heads, inner widths and the width of the stream; *dims*: head widths instead of
heads; *stream kept*: the embedding, and with it the width of the stream, is left alone."""

CASES = [
    ("heads", {}),
    ("dims", {"policy": "dims"}),
    ("heads, stream kept", {"keep": ["model.embed_tokens"]}),
    ("dims, stream kept", {"policy": "dims", "keep": ["model.embed_tokens"]}),
]


def trained(data: Path):
    """The model and its tokens."""
    from helpers import define_missing_operators

    define_missing_operators()
    sys.path.append(str(data / "llm"))
    from tok512 import Tok
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**json.loads((data / "llm" / "stories260k_config.json").read_text())))
    model.load_state_dict(torch.load(data / "llm" / "stories260k.pt"), strict=False)
    model.tie_weights()
    return model.eval(), Tok(str(data / "llm" / "tok512.bin"))


@torch.no_grad()
def loss(model, stories) -> float:
    """Mean loss per token."""
    total = sum(float(model(story, labels=story).loss) * (story.shape[1] - 1) for story in stories)
    return total / sum(story.shape[1] - 1 for story in stories)


def main() -> None:
    """Print and write the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = Path(os.environ["GRAPHPRUNE_DATA"])
    model, tokens = trained(data)
    texts = (data / "llm" / "tinystories_eval.txt").read_text().split("<|endoftext|>")[:40]
    stories = [torch.tensor([tokens.encode(text.strip())[:256]]) for text in texts if text.strip()]
    start = torch.tensor([tokens.encode("Once upon a time")])
    rows = [("unpruned", "", f"{parameters(model):,}", f"{loss(model, stories):.3f}", "", "")]
    for share in (0.1, 0.2, 0.3):
        for name, options in CASES:
            slim = graphprune.optimize(model, share, example_inputs={"input_ids": stories[0]}, verify=False, **options)
            seen = graphprune.verify(model, slim, example_inputs={"input_ids": stories[0]}, thorough=False)
            made = slim.generate(start, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
            kind = "class" if type(slim) is type(model) else type(slim).__name__
            figures = f"{parameters(slim):,}", f"{loss(slim, stories):.3f}", f"{seen.error:.0e}, {kind}"
            written = " ".join(tokens.decode(made[0].tolist()).split())
            rows.append((name, f"{share:.0%}", *figures, written))
            console.print(*rows[-1])
    columns = ("dropped", "sparsity", "parameters", "loss per token", "verified", "writes")
    show("stories260k", columns, rows)
    page(
        "stories",
        "A trained language model",
        TEXT.format(machine=machine(1, "transformers"), count=len(stories)),
        (columns, rows),
    )


if __name__ == "__main__":
    main()
