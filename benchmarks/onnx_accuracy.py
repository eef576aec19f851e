"""Accuracy of trained ONNX models before and after pruning, without any training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import graphprune
import onnx_peer as peer
from graphprune.errors import GraphPruneError
from onnx_runs import accuracy, first
from onnx_zoo import BUILT, data_folder

SHARES = (0.2, 0.3, 0.5)


def tasks() -> dict[str, Callable[[], dict[str, Any]]]:
    """One measurement for every model with labels."""
    folder = data_folder()
    return {} if folder is None else {name: lambda load=load: measure(*load(folder)) for name, load in MODELS.items()}


def measure(path: Path, images: Any, labels: Any) -> dict[str, Any]:
    """The dense model, then both tools at the same shares of parameters."""
    model = onnx.load(path)
    record: dict[str, Any] = {"images": len(images), "dense": accuracy(model, images, labels)}
    for share in SHARES:
        try:
            slim = graphprune.optimize(model, share, verify=False)
            record[f"graphprune {share}"] = accuracy(slim, images, labels)
        except GraphPruneError as error:
            record[f"graphprune {share}"] = type(error).__name__
        other = peer.at_most(model, 1 - share, first(model, images))
        record[f"{peer.NAME} {share}"] = "not reached" if other is None else accuracy(other, images, labels)
    return record


def _digits(folder: Path) -> tuple[Path, Any, Any]:
    data = np.load(folder / "mnist_test.npz")
    return folder / "onnx" / "mnist_cntk.onnx", data["x"][:, None].astype(np.float32), data["y"]


def _cifar(folder: Path) -> tuple[Any, Any]:
    import graphdata

    images, labels = graphdata.cifar10("test_a")
    return graphdata.nchw(images), labels.astype(np.int64)


def _resnet(folder: Path) -> tuple[Path, Any, Any]:
    import resnet_cifar

    path = BUILT / "resnet20_cifar10.onnx"
    if not path.exists():
        model = resnet_cifar.resnet(20, str(folder / "cifar10_models" / "resnet20_cifar10.pt")).eval()
        example = torch.randn(1, 3, 32, 32)
        axes = {"x": {0: "N"}}
        torch.onnx.export(model, (example,), str(path), dynamo=False, input_names=["x"], dynamic_axes=axes)
    return path, *_cifar(folder)


def _quantised(folder: Path) -> tuple[Path, Any, Any]:
    return folder / "onnx" / "resnet20_cifar10_qdq.onnx", *_cifar(folder)


def _squeezenet(folder: Path) -> tuple[Path, Any, Any]:
    import graphdata

    images, labels = graphdata.images("imagenet_750.npz", 224)
    # the file was trained on BGR images of 0 to 255 less a mean
    mean = np.array([104.0, 117.0, 123.0], dtype=np.float32)
    images = (images[..., ::-1].astype(np.float32) - mean).transpose(0, 3, 1, 2)
    return folder / "onnx" / "squeezenet1_1_caffe2_fp16.onnx", np.ascontiguousarray(images), labels


MODELS: dict[str, Callable[[Path], tuple[Path, Any, Any]]] = {
    "mnist_cntk": _digits,
    "resnet20_cifar10": _resnet,
    "resnet20_cifar10_qdq": _quantised,
    "squeezenet1_1_caffe2_fp16": _squeezenet,
}
