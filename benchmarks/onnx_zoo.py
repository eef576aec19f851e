"""The ONNX models of the benchmark: real ones of the data folder and exports with random weights."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import ROOT, torchvision_model
from helpers import define_missing_operators, randomise

BUILT = ROOT / "build" / "onnx"
REAL = (
    "rfb320", "fastestdet", "ppocr_v3_det", "ppocr_cls", "super_resolution_x3", "silero_vad",
    "squeezenet1_1_caffe2_fp16", "mnist_cntk", "resnet20_cifar10_qdq",
)  # fmt: skip
TORCHVISION = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0", "densenet121",
    "efficientnet_b0", "regnet_y_400mf", "squeezenet1_1", "googlenet", "convnext_tiny", "vit_b_16", "swin_t",
)  # fmt: skip
FX = ("small Llama",)
"""Exported by torch.export; the others by the exporter of TorchScript."""
SIZES = {
    "ppocr_v3_det": {"x": (1, 3, 320, 320)},
    "ppocr_cls": {"x": (1, 3, 48, 192)},
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128), "sr": np.array(16000)},
}
"""Shapes of inputs that have dynamic axes, or their values."""


def data_folder() -> Path | None:
    """The folder that GRAPHPRUNE_DATA names, also made importable; None where it names none."""
    folder = Path(os.environ.get("GRAPHPRUNE_DATA", ""))
    if not (folder / "onnx").is_dir():
        return None
    sys.path.insert(0, str(folder))
    return folder


def every_model() -> dict[str, Callable[[], Path]]:
    """Functions that give the file of a model, by name; exports are made once."""
    folder = data_folder()
    real = {name: lambda name=name: folder / "onnx" / f"{name}.onnx" for name in REAL if folder}
    exports = {name: lambda name=name: exported(name, lambda: (torchvision(name), image())) for name in TORCHVISION}
    exports |= {name: lambda name=name, make=make: exported(name, make) for name, make in TRANSFORMERS.items()}
    return real | exports


def exported(name: str, make: Callable[[], tuple[torch.nn.Module, tuple[Any, ...]]]) -> Path:
    """The file of an export."""
    path = BUILT / f"{name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        define_missing_operators()  # transformers imports torchvision where it finds it
        model, inputs = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own future
            how = {"dynamo": True} if name in FX else {"dynamo": False, "opset_version": 17}
            torch.onnx.export(model.eval(), inputs, str(path), input_names=["x"], external_data=False, **how)
    return path


def image() -> tuple[torch.Tensor]:
    """One image of the usual size."""
    return (torch.randn(1, 3, 224, 224),)


def torchvision(name: str) -> torch.nn.Module:
    """A model with random weights and the batch-norm statistics of random images, so that inputs reach the outputs."""
    model = randomise(torchvision_model(name))
    norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = None  # the mean of what it sees
        norm.reset_running_stats()
    if norms:
        with torch.no_grad():
            model(torch.randn(4, 3, 224, 224))
    return model


class Logits(torch.nn.Module):
    """The first output of a model of transformers, without a cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states or logits of token ids."""
        return self.model(ids, use_cache=False)[0] if "Llama" in type(self.model).__name__ else self.model(ids)[0]


def small_bert() -> tuple[torch.nn.Module, tuple[Any, ...]]:
    """A BERT of 4 layers."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, vocab_size=2000)
    config = BertConfig(**sizes, attn_implementation="eager")
    return Logits(BertModel(config)), (torch.randint(0, 2000, (1, 64)),)


def small_llama() -> tuple[torch.nn.Module, tuple[Any, ...]]:
    """A Llama of 4 layers with fewer key and value heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = dict(num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=128)
    sizes = dict(hidden_size=256, num_hidden_layers=4, intermediate_size=688, vocab_size=2000, **heads)
    model = LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation="eager", tie_word_embeddings=False))
    return Logits(model), (torch.randint(0, 2000, (1, 64)),)


TRANSFORMERS = {"small BERT": small_bert, "small Llama": small_llama}
