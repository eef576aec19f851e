"""Whole architectures compile and agree with torch in float64: torchvision at small sizes, Hugging Face in small.

`pytest -m slow tests/test_backend_zoo.py` runs the others and the full sizes.
"""

import copy

import pytest
import torch

from graphprune.backends.compiler import compile_model
from helpers import import_torchvision, randomise

TOLERANCE = 1e-5

# torchvision models and an input size that is small and still leaves every stage some pixels.
TORCHVISION = {
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnet50": 64,
    "shufflenet_v2_x1_0": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "vgg11_bn": 32,
    "vit_b_16": 64,
}
OPTIONS = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}

SMALL = {"vocab_size": 99, "num_hidden_layers": 2, "num_attention_heads": 4}
# Hugging Face models with the options of their configurations.
HUGGING_FACE = {
    "bert": ("Bert", "Model", {**SMALL, "hidden_size": 48, "intermediate_size": 100}),
    "gpt2": ("GPT2", "LMHeadModel", {"vocab_size": 99, "n_embd": 48, "n_layer": 2, "n_head": 4, "use_cache": False}),
    "llama": (
        "Llama",
        "ForCausalLM",
        {**SMALL, "hidden_size": 48, "intermediate_size": 100, "num_key_value_heads": 2, "use_cache": False},
    ),
}
FULL = {
    "bert": {"vocab_size": 30522, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768}
    | {"intermediate_size": 3072},
    "gpt2": {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "llama": {"vocab_size": 32000, "num_hidden_layers": 4, "num_attention_heads": 16, "hidden_size": 1024}
    | {"intermediate_size": 2816, "num_key_value_heads": 4},
}


def torchvision_model(name, **options):
    models = import_torchvision().models
    torch.manual_seed(0)
    return randomise(models.get_model(name, weights=None, **OPTIONS.get(name, {}), **options).eval())


def hugging_face_model(name, attention, **more):
    import_torchvision()  # transformers imports it where it is installed
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    family, head, options = HUGGING_FACE[name]
    config = getattr(transformers, f"{family}Config")(**{**options, **more}, attn_implementation=attention)
    torch.manual_seed(0)
    return randomise(getattr(transformers, f"{family}{head}")(config).eval())


def first(output):
    """The first tensor of what a model returns."""
    if isinstance(output, torch.Tensor):
        return output
    return first(next(iter(output.values() if hasattr(output, "values") else output)))


def assert_agrees(model, inputs):
    """Compile, run, and compare the first output with the model in float64."""
    artifact = compile_model(model, "x86", inputs)
    got = first(artifact(**inputs) if isinstance(inputs, dict) else artifact(inputs)).double()
    precise = copy.deepcopy(model).double()
    with torch.no_grad():
        want = first(precise(**inputs) if isinstance(inputs, dict) else precise(inputs.double()))
    assert got.shape == want.shape
    scale = want.abs().max()
    assert want.std() > 0.01 * scale
    assert (got - want).abs().max() <= TOLERANCE * scale


# Long to compile; for every day one of each kind is enough.
LONG = {
    *("densenet121", "vgg11_bn", "googlenet", "inception_v3", "resnet50"),
    *("regnet_y_400mf", "vit_b_16", "mobilenet_v2"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in TORCHVISION]
)
def test_torchvision(name):
    size = TORCHVISION[name]
    options = {"image_size": size} if name.startswith("vit") else {}
    assert_agrees(torchvision_model(name, **options), torch.randn(1, 3, size, size))


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(name, attention, masked):
    model = hugging_face_model(name, attention)
    inputs = {"input_ids": torch.randint(0, 99, (2, 13))}
    if masked:
        inputs["attention_mask"] = (torch.arange(13) < torch.tensor([[13], [8]])).long()
    assert_agrees(model, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_in_full_size(name):
    size = 299 if name == "inception_v3" else 224
    assert_agrees(torchvision_model(name), torch.randn(1, 3, size, size))


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face_in_full_size(name):
    model = hugging_face_model(name, "sdpa", **FULL[name])
    assert_agrees(model, {"input_ids": torch.randint(0, FULL[name]["vocab_size"], (1, 128))})
