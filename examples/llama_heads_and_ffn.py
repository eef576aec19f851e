"""Heads and inner widths of a Llama: fewer of both, proved, still writing.

With GRAPHPRUNE_DATA a trained model of 260,032 parameters that tells stories (`llm/stories260k.pt`), else a small one
with random weights. Needs transformers.
"""

import json
import os
import sys
from pathlib import Path

import torch

import graphprune

sys.modules.setdefault("torchvision", None)  # no pictures here; transformers need not look for it
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

torch.manual_seed(0)
data = os.environ.get("GRAPHPRUNE_DATA")
if data:
    folder = Path(data) / "llm"
    sys.path.insert(0, str(folder))
    from tok512 import Tok

    model = LlamaForCausalLM(LlamaConfig(**json.loads((folder / "stories260k_config.json").read_text())))
    model.load_state_dict(torch.load(folder / "stories260k.pt"), strict=False)
    model.tie_weights()
    tokens = Tok(str(folder / "tok512.bin"))
    told, held_out = (
        [
            torch.tensor([tokens.encode(text.strip())[:256]])
            for text in (folder / name).read_text().split("<|endoftext|>")[:24]
        ]
        for name in ("tinystories_train.txt", "tinystories_eval.txt")
    )
else:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=172,
            num_hidden_layers=5,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )  # fmt: skip
    )
    told = held_out = [torch.randint(0, 512, (1, 64)) for _ in range(4)]
model.eval()


@torch.no_grad()
def perplexity(model: LlamaForCausalLM) -> float:
    """Of the held-out stories."""
    return torch.stack([model(story, labels=story).loss for story in held_out]).mean().exp().item()


print(f"dense: {sum(p.numel() for p in model.parameters()):,} parameters, perplexity {perplexity(model):.2f}")

# keep= leaves the width of the stream: what goes are query heads with their key-value heads, and rows of the FFN.
example = {"input_ids": told[0]}
for policy in ("heads", "dims"):
    slim = graphprune.optimize(
        model,
        sparsity=0.25,
        example_inputs=example,
        keep=["model.embed_tokens"],
        policy=policy,
        criterion="reconstruction",
        data=[{"input_ids": story} for story in told],
        recover=True,
    )
    attention, ffn = slim.model.layers[0].self_attn, slim.model.layers[0].mlp
    print(
        f"{policy}: {sum(p.numel() for p in slim.parameters()):,} parameters, perplexity {perplexity(slim):.2f}; "
        f"layer 0: q {attention.q_proj.out_features}, k {attention.k_proj.out_features}, FFN {ffn.up_proj.out_features}"
    )

# The class is the same, so are generate(), the cache, and training.
if data:
    start = torch.tensor([tokens.encode("Once upon a time")])
    written = slim.generate(start, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    print(" ".join(tokens.decode(written[0].tolist()).split()))
