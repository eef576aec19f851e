"""Folders of transformers: weights written and read to the last bit, ordinary where a config can say the sizes."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import FileFormatError, PlanError, UnsupportedModelError, VerifyError
from graphprune.files import atomic_files
from graphprune.frontends.torch import pretrained
from helpers import define_missing_operators, randomise

SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
TEXT = {"vocab_size": 200, "max_position_embeddings": 64}
MODELS = {
    "BertModel": ("BertConfig", SIZES | TEXT),
    "LlamaForCausalLM": ("LlamaConfig", SIZES | TEXT | {"num_key_value_heads": 2}),
    "GPT2LMHeadModel": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200, "n_positions": 64}),
    "ViTForImageClassification": ("ViTConfig", SIZES | {"image_size": 32, "patch_size": 8}),
}


def transformer(name: str):
    """A small model with random weights and inputs for it; the test is skipped without transformers."""
    define_missing_operators()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config, entries = MODELS[name]
    torch.manual_seed(0)
    model = randomise(getattr(transformers, name)(getattr(transformers, config)(**entries))).eval()
    if name.startswith("ViT"):
        return model, {"pixel_values": torch.randn(1, 3, 32, 32)}
    return model, {"input_ids": torch.randint(3, 200, (1, 12))}


def same(left, right, inputs) -> bool:
    """Whether two models compute the same but for rounding, which on some processors depends on where weights lie."""
    with torch.no_grad():
        pairs = list(zip(left(**inputs).values(), right(**inputs).values(), strict=True))
    found = [torch.allclose(a, b, rtol=0, atol=1e-5 * float(a.abs().max())) for a, b in pairs if torch.is_tensor(a)]
    assert found
    return all(found)


EVEN = {"scope": "layer", "multiple_of": 8}
CASES = [
    # (model, sparsity, options, what changes in the config; None where it cannot say the sizes)
    ("LlamaForCausalLM", 0.3, {"scope": "layer"}, {"num_attention_heads", "num_key_value_heads", "rms_norm_eps"}),
    (
        "LlamaForCausalLM",
        0.2,
        EVEN | {"widths": {"*k_proj*": (1.0, None)}},
        {"hidden_size", "intermediate_size", "rms_norm_eps"},
    ),
    ("LlamaForCausalLM", 0.2, {}, None),
    ("BertModel", 0.2, EVEN | {"keep": ["*attention.self*"]}, {"intermediate_size"}),
    ("BertModel", 0.2, {}, None),
    ("GPT2LMHeadModel", 0.1, EVEN | {"keep": ["*attn*"]}, {"n_inner"}),
    ("GPT2LMHeadModel", 0.2, {}, None),
    (
        "ViTForImageClassification",
        0.2,
        {"exact": True, "scope": "layer", "keep": ["*attention*"]},
        {"intermediate_size"},
    ),
    ("ViTForImageClassification", 0.2, {"policy": "dims"}, None),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "sparsity", "options", "changed"), CASES)
def test_round_trip(name, sparsity, options, changed, tmp_path) -> None:
    model, inputs = transformer(name)
    slim = graphprune.optimize(model, sparsity, example_inputs=inputs, **options)
    assert type(slim) is type(model)
    assert graphprune.save_pretrained(slim, tmp_path) is (changed is not None)

    read = graphprune.from_pretrained(tmp_path)
    assert type(read) is type(model) and not read.training
    assert not same(model, read, inputs), "nothing was pruned"
    assert same(slim, read, inputs)
    assert graphprune.plan_of(read).to_json() == graphprune.plan_of(slim).to_json()
    assert graphprune.verify(model, read, example_inputs=inputs).error < 1e-9

    if changed is None:  # the host must not take it for what its config says
        with pytest.raises(RuntimeError, match="size mismatch"):
            type(model).from_pretrained(tmp_path)
        assert "graphprune.from_pretrained" in json.loads((tmp_path / "config.json").read_text())["graphprune"]
    else:
        plain = type(model).from_pretrained(tmp_path)
        assert same(slim, plain, inputs)
        before, after = model.config.to_dict(), plain.config.to_dict()
        assert changed <= {key for key in after if after[key] != before.get(key)}


@pytest.mark.filterwarnings("ignore")
def test_what_is_read_can_be_saved_again_and_generates(tmp_path) -> None:
    model, inputs = transformer("LlamaForCausalLM")
    model.generation_config.max_new_tokens = 7
    slim = graphprune.optimize(model, 0.2, example_inputs=inputs).bfloat16()
    graphprune.save_pretrained(slim, tmp_path / "first")
    read = graphprune.from_pretrained(tmp_path / "first")
    assert {tensor.dtype for tensor in read.state_dict().values()} == {torch.bfloat16}
    assert not graphprune.save_pretrained(read, tmp_path / "second")
    again = graphprune.from_pretrained(tmp_path / "second")
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    words = again.generate(**inputs, **options)
    assert words.shape == (1, 12 + 7)
    assert torch.equal(words, slim.eval().generate(**inputs, **options))


@pytest.mark.filterwarnings("ignore")
def test_masks_are_read_and_the_folder_is_ordinary(tmp_path) -> None:
    model, inputs = transformer("BertModel")
    sparse = graphprune.optimize(model, 0.5, example_inputs=inputs, structure="unstructured")
    assert graphprune.save_pretrained(sparse, tmp_path)
    read, plain = graphprune.from_pretrained(tmp_path), type(model).from_pretrained(tmp_path)
    kept = graphprune.masks_of(read).kept
    assert kept.keys() == graphprune.masks_of(sparse).kept.keys()
    assert all((kept[name] == mask).all() for name, mask in graphprune.masks_of(sparse).kept.items())
    assert same(sparse, read, inputs) and same(sparse, plain, inputs)


@pytest.mark.filterwarnings("ignore")
def test_other_files_stay_and_old_weights_go(tmp_path) -> None:
    model, inputs = transformer("BertModel")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "pytorch_model.bin").write_text("old")
    (tmp_path / "model-00001-of-00002.safetensors").write_text("old")
    graphprune.save_pretrained(graphprune.optimize(model, 0.2, example_inputs=inputs), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tokenizer.json", "checkpoint-1", "config.json", "model.safetensors"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_agree_within_rounding_and_no_further(dtype) -> None:
    value = torch.linspace(-3, 4, 50).to(dtype)
    eps = torch.finfo(dtype).eps
    assert pretrained._agree(value, (value.double() * (1 + eps)).to(dtype))
    assert not pretrained._agree(value, (value.double() * (1 + 2 * eps**0.5)).to(dtype))
    assert not pretrained._agree(value, value * float("nan")) and not pretrained._agree(value, value[:-1])
    assert not pretrained._agree(value, value.double())
    assert pretrained._agree(torch.arange(3), torch.arange(3)) and not pretrained._agree(
        torch.arange(3), torch.ones(3).long()
    )


@pytest.mark.filterwarnings("ignore")
def test_a_config_that_computes_something_else_is_not_written(tmp_path, monkeypatch) -> None:
    model, inputs = transformer("BertModel")
    slim = graphprune.optimize(model, 0.2, example_inputs=inputs, **EVEN, keep=["*attention.self*"])
    right = type(slim).save_pretrained

    def wrong(module, folder) -> None:
        right(module, folder)
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "relu"}))

    monkeypatch.setattr(type(slim), "save_pretrained", wrong)
    with pytest.raises(VerifyError, match="computes something else"):
        graphprune.save_pretrained(slim, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_what_would_be_read_wrong_is_not_written(tmp_path, monkeypatch) -> None:
    model, inputs = transformer("BertModel")
    slim = graphprune.optimize(model, 0.2, example_inputs=inputs)
    graphprune.save_pretrained(slim, tmp_path)
    before = contents(tmp_path)
    right = pretrained.save_weights

    def wrong(module, path) -> None:  # one bit of one weight
        right(module, path)
        data = bytearray(Path(path).read_bytes())
        data[-1] ^= 1
        Path(path).write_bytes(data)

    monkeypatch.setattr(pretrained, "save_weights", wrong)
    with pytest.raises(VerifyError, match="nothing was written"):
        graphprune.save_pretrained(slim, tmp_path)
    assert contents(tmp_path) == before


def test_refusals(tmp_path) -> None:
    model, inputs = transformer("BertModel")
    with pytest.raises(PlanError, match="its own save_pretrained"):
        graphprune.save_pretrained(model, tmp_path / "a")
    net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    with pytest.raises(UnsupportedModelError, match="no model of transformers: use graphprune.save"):
        graphprune.save_pretrained(graphprune.optimize(net, 0.5), tmp_path / "b")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileFormatError, match="holds no config of transformers"):
        graphprune.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["Unheard"]}')
    with pytest.raises(UnsupportedModelError, match="no class 'Unheard': pass model_class="):
        graphprune.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileFormatError, match="damaged"):
        graphprune.from_pretrained(tmp_path)


# ---- files of a folder, all or none ------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fails", range(5))
def test_any_step_may_fail(fails, tmp_path, monkeypatch) -> None:
    """A folder of three files gets two new ones; whichever rename fails, everything is as it was."""
    for name in ("config.json", "old.bin", "other.txt"):
        (tmp_path / name).write_text(f"old {name}")
    before, steps, rename = contents(tmp_path), [], graphprune.files.os.replace

    def flaky(source, place) -> None:
        steps.append((Path(source).name, Path(source).parent == tmp_path))
        if len(steps) - 1 == fails:
            raise KeyboardInterrupt
        rename(source, place)

    monkeypatch.setattr(graphprune.files.os, "replace", flaky)
    try:
        with atomic_files(tmp_path, "*.bin", last="config.json") as place:
            (place / "config.json").write_text("new")
            (place / "new.bin").write_text("new")
    except KeyboardInterrupt:
        assert contents(tmp_path) == before
    else:
        assert fails == len(steps), "every step was tried"
        assert contents(tmp_path) == {"config.json": b"new", "new.bin": b"new", "other.txt": b"old other.txt"}
        assert steps[0] == ("config.json", True) and steps[-1] == ("config.json", False)


def test_an_error_leaves_no_folder_behind(tmp_path) -> None:
    with pytest.raises(ValueError), atomic_files(tmp_path / "new", last="config.json"):
        raise ValueError
    assert not (tmp_path / "new").exists()
