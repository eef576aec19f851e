"""Models that carry a config: it says the new sizes where it can, and transformers still generate, save and load."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
import oracle
from graphprune.budget import Options
from graphprune.passes.pipeline import Program, run_passes
from graphprune.passes.prune_channels import PruneChannels
from helpers import define_missing_operators, randomise


class Config:
    """As libraries write them: entries, and two methods."""

    def __init__(self, width=8, hidden=32, inner=None, heads=4, scaled=False) -> None:
        self.width, self.hidden, self.inner, self.heads, self.scaled = width, hidden, inner, heads, scaled

    def to_dict(self):
        return dict(vars(self))

    def update(self, entries):
        vars(self).update(entries)


class Layer(nn.Module):
    def __init__(self, config, hidden) -> None:
        super().__init__()
        self.config = config
        self.up, self.down = nn.Linear(config.width, hidden), nn.Linear(hidden, config.width)

    def forward(self, x):
        y = F.relu(self.up(x))
        return x + self.down(y / self.config.hidden if self.config.scaled else y)


class Buffered(nn.Module):
    """A number from the config is kept in a buffer that is not saved."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config, self.layer = config, Layer(config, config.hidden)
        self.register_buffer("scale", torch.tensor(config.hidden**0.5), persistent=False)

    def forward(self, x):
        return self.layer(x) * self.scale


class Model(nn.Module):
    """Two layers, one of whose widths is four times the model's where the config says nothing."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        self.first = Layer(config, config.hidden)
        self.second = Layer(config, config.inner or 4 * config.width)

    def forward(self, x):
        return self.second(self.first(x))


def prune(config, sparsity=0.4, **options):
    torch.manual_seed(0)
    module = Model(config).eval()
    return module, oracle.check(module, torch.randn(4, 8), sparsity=sparsity, **options)


def test_the_config_says_the_new_sizes():
    module, slim = prune(Config())
    assert type(slim) is Model
    assert slim.config.hidden == slim.first.up.out_features < 32
    assert slim.config.inner == slim.second.up.out_features < 32
    assert (slim.config.width, slim.config.heads) == (8, 4)
    assert slim.config is slim.first.config is slim.second.config
    assert vars(module.config) == vars(Config()), "the original is not touched"
    built = Model(slim.config)
    built.load_state_dict(slim.state_dict())
    x = torch.randn(4, 8)
    assert torch.equal(built(x), slim(x))


def test_a_config_that_would_change_a_number_stays():
    module = randomise(Model(Config(scaled=True)).eval())
    program = run_passes(Program(module, torch.randn(4, 8)), [PruneChannels(Options(0.4))])
    assert vars(program.model.config) == vars(module.config)
    assert "its config cannot say the new sizes" in program.report["note"]
    x = torch.randn(4, 8, dtype=torch.float64)
    wide, slim = oracle.masked(module, program.plan), copy.deepcopy(program.model).double()
    assert torch.allclose(wide(x), slim(x))


def test_a_config_that_would_change_a_buffer_stays():
    module = Buffered(Config()).eval()
    slim = oracle.check(module, torch.randn(4, 8), sparsity=0.4)
    assert slim.layer.up.out_features < 32
    assert slim.config.hidden == 32


# ---- transformers ------------------------------------------------------------------------------------------

SIZES = {"num_hidden_layers": 2, "vocab_size": 200, "max_position_embeddings": 64}
WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
BART = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 1}
DECODERS = {
    "Llama": SIZES | WIDTHS | {"num_key_value_heads": 2},
    "Qwen2": SIZES | WIDTHS | {"num_key_value_heads": 2},
    "OPT": SIZES | {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "num_attention_heads": 4},
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200, "n_positions": 64},
    "T5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 200}
    | {"decoder_start_token_id": 1},
    "Bart": SIZES | BART,
}


def transformer(name, kind="", **entries):
    """A small model with random weights that tell tokens apart; the test is skipped without transformers."""
    define_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kind = kind or name + (
        "ForConditionalGeneration" if name in ("T5", "Bart") else {"GPT2": "LMHeadModel"}.get(name, "ForCausalLM")
    )
    torch.manual_seed(0)
    module = randomise(getattr(transformers, kind)(getattr(transformers, name + "Config")(**entries))).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    tokens = torch.randint(3, 200, (1, 12))
    return module, {"input_ids": tokens} | ({"decoder_input_ids": tokens} if module.config.is_encoder_decoder else {})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DECODERS)
def test_pruned_models_generate(name):
    module, inputs = transformer(name, **DECODERS[name])
    slim = graphprune.optimize(module, 0.3, example_inputs=inputs, scope="layer")
    assert type(slim) is type(module)
    options = {"max_new_tokens": 10, "do_sample": False, "num_beams": 1, "pad_token_id": 0, "eos_token_id": None}
    wide, narrow = oracle.masked(module, graphprune.plan_of(slim)), copy.deepcopy(slim).double()
    expected = wide.generate(input_ids=inputs["input_ids"], **options)
    assert torch.equal(narrow.generate(input_ids=inputs["input_ids"], **options), expected)
    # Random weights may say one word for ever; after the words of the input they must say several.
    assert wide(**inputs).logits.argmax(-1).unique().numel() > 2
    slim.train()(**inputs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "keep", "changed"),
    [
        (
            "Llama",
            [],
            {"hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps"},
        ),
        ("GPT2", ["*attn*"], {"n_inner"}),
    ],
)
def test_pruned_models_are_saved_and_loaded_by_their_own_library(name, keep, changed, tmp_path):
    module, inputs = transformer(name, **DECODERS[name])
    options = {"keep": keep, "multiple_of": 8} if keep else {}
    slim = graphprune.optimize(module, 0.1 if keep else 0.3, example_inputs=inputs, scope="layer", **options)
    before, after = module.config.to_dict(), slim.config.to_dict()
    assert {key for key in after if key in before and after[key] != before[key]} == changed
    slim.save_pretrained(tmp_path)
    loaded = type(module).from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**inputs).logits, slim(**inputs).logits)


@pytest.mark.filterwarnings("ignore")
def test_bert_keeps_its_class():
    module, inputs = transformer("Bert", "BertModel", **SIZES, **WIDTHS)
    slim = graphprune.optimize(module, 0.3, example_inputs=inputs)
    attention = slim.encoder.layer[0].attention.self
    assert type(slim) is type(module)
    assert attention.all_head_size == attention.query.out_features == attention.num_attention_heads * 16 < 64
