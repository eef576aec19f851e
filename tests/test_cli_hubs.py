"""Models of timm and Hugging Face by name; without a network, as here, the error says what to do."""

import json
from pathlib import Path

import pytest
import torch

import graphprune
from command_line import SMALL, fails, parameters_of
from graphprune.errors import UnsupportedModelError
from graphprune.frontends.torch import hubs
from helpers import define_missing_operators


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    define_missing_operators()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")), raising=False)


@pytest.fixture
def bert(folder: Path) -> Path:
    """A folder as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=50)
    config = transformers.BertConfig(**sizes, max_position_embeddings=32, num_labels=3)
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "bert")
    return folder / "bert"


def test_a_folder_of_hugging_face(graphprune_, bert: Path, folder: Path) -> None:
    asked = ("optimize", "hf:./bert", "-o", "slim.safetensors", "-i", "input_ids=1,8:int64", "--json")
    code, out, err = graphprune_(*asked)
    assert code == 0, err
    assert json.loads(out)["verification"]["error"] < 1e-9
    import transformers

    original = transformers.AutoModelForSequenceClassification.from_pretrained(bert).eval()
    slim = graphprune.load_weights(original, folder / "slim.safetensors")
    assert 0 < parameters_of(slim) <= parameters_of(original) / 2
    # the trained numbers were pruned, not random ones
    kept = graphprune.plan_of(slim).kept["bert.encoder.layer.0.intermediate.dense.weight"][0]
    ours = slim.bert.encoder.layer[0].intermediate.dense.bias
    assert torch.equal(ours, original.bert.encoder.layer[0].intermediate.dense.bias[torch.from_numpy(kept)])
    code, out, err = graphprune_("verify", "hf:./bert", "slim.safetensors", "-i", "input_ids=1,8:int64")
    assert code == 0, err
    code, out, err = graphprune_("explain", "hf:./bert", "-i", "input_ids=1,8:int64")
    assert code == 0 and "intermediate" in out, err


def test_random_weights_only_where_they_are_asked_for(graphprune_, folder: Path) -> None:
    pytest.importorskip("timm")
    asked = ("optimize", "timm:resnet10t", "-o", "slim.safetensors", "-i", "1,3,64,64")
    fails(graphprune_(*asked), "--random-weights")
    assert not (folder / "slim.safetensors").exists()
    code, out, err = graphprune_(*asked, "--random-weights", "--json")
    assert code == 0, err
    before, after = json.loads(out)["params"]
    assert 0 < after <= before / 2
    code, _, err = graphprune_("explain", "timm:resnet10t", "-i", "1,3,64,64")  # needs no numbers
    assert code == 0, err
    # weights given beside it need no download, either
    assert graphprune_("verify", "timm:resnet10t", "slim.safetensors", "-i", "1,3,64,64")[0] == 1
    fails(graphprune_("optimize", SMALL, "-o", "slim.safetensors", "--random-weights"), "timm: and hf:")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet19", "did you mean resnet1"),
        ("timm:", "timm has no model ''"),
        ("hf:./absent", "holds no config.json"),
        ("hf:nobody/nothing-of-this-name", "hf:./folder"),
    ],
)
def test_names_that_lead_nowhere(graphprune_, folder: Path, name: str, said: str) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    fails(graphprune_("explain", name), said)


def test_a_model_that_transformers_does_not_know(graphprune_, bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"architectures": ["OwnModel"]}))
    fails(graphprune_("explain", "hf:./bert"), "OwnModel")
    (bert / "model.safetensors").write_bytes(b"damaged")
    (bert / "config.json").write_text(json.dumps(config))
    fails(graphprune_("optimize", "hf:./bert", "-o", "slim.safetensors"), "hf:./bert could not be had")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hubs._HUBS, "timm", ("no_such_library", hubs._timm))
    with pytest.raises(UnsupportedModelError, match="pip install no_such_library"):
        hubs.load("timm:resnet18", pretrained=False)


def test_a_library_that_breaks_when_it_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator x::y does not exist')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(hubs._HUBS, "timm", ("broken_library", hubs._timm))
    with pytest.raises(UnsupportedModelError, match="cannot be imported: operator x::y does not exist"):
        hubs.load("timm:resnet18", pretrained=False)
