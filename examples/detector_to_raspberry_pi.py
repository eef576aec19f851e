"""A face detector in ONNX becomes a smaller one, compiled on a PC for a Raspberry Pi 4.

`python detector_to_raspberry_pi.py [--emulate]`. Needs GRAPHPRUNE_DATA: a folder with `onnx/rfb320.onnx`, photos in
`sample_inputs/` and `imagenet_750.npz`; and a linker for ARM, such as the one in `pip install ziglang`. With --emulate
the result runs here in qemu, as tests/emulation.py does it.
"""

import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import graphprune

data = Path(os.environ.get("GRAPHPRUNE_DATA") or sys.exit("GRAPHPRUNE_DATA must name a folder with models and photos"))
sys.path.insert(0, str(data))
from graphdata import images  # noqa: E402


def prepared(photo: Image.Image) -> np.ndarray:
    """A photo as the detector takes it: float32, 1 x 3 x 240 x 320."""
    pixels = np.asarray(photo.convert("RGB").resize((320, 240)), np.float32)
    return ((pixels - 127) / 128).transpose(2, 0, 1)[None]


def faces(scores: np.ndarray) -> np.ndarray:
    """The places among the 4420 candidates where there is a face, as the detector says."""
    return np.flatnonzero(scores[0, :, 1] > 0.7)


# Any photos will do for calibration: what is left of the detector is refitted to what the whole one computes.
photos = [prepared(Image.fromarray(pixels)) for pixels in images("imagenet_750.npz", 256)[0][:8]]
group = prepared(Image.open(data / "sample_inputs" / "faces1.jpg"))
path = str(data / "onnx" / "rfb320.onnx")

slim = graphprune.optimize(
    path, sparsity=0.2, budget="macs", target="arm-cortex-a72", scope="layer", data=photos, recover=True
)
plan = graphprune.plan_of(slim)
for name in ("macs", "params", "memory"):
    before, after = plan.report[name]
    print(f"{name}: {before:,} -> {after:,}")


def run(model: str | bytes) -> np.ndarray:
    """The scores on the group photo, by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(model, options)
    return session.run(["scores"], {session.get_inputs()[0].name: group})[0]


dense, pruned = faces(run(path)), faces(run(slim.SerializeToString()))
both = np.intersect1d(dense, pruned).size
print(f"candidates that are faces: {dense.size} before, {pruned.size} after, {both} of them the same")

# Compiled here, for there; nothing is needed on the board but `graphprune runtime`, or its C interface.
artifact = graphprune.compile(slim, target="arm-cortex-a72", examine=True)
artifact.save("faces-arm.gp")
print(f"faces-arm.gp: {artifact.size / 1e6:.2f} MB for {artifact.target}")
print("on the board:  python -c \"import graphprune; print(graphprune.load('faces-arm.gp'))\"")
print("from here:     graphprune bench faces-arm.gp --rpc raspberrypi.local:9090")

if "--emulate" in sys.argv:
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from emulation import emulator

    outputs = [value.numpy() for value in emulator().run(artifact, torch.from_numpy(group), cpu="cortex-a72")]
    scores = next(value for value in outputs if value.shape[-1] == 2)
    difference = np.abs(scores - run(slim.SerializeToString())).max()
    print(f"in the emulator: {faces(scores).size} faces, differs from ONNX Runtime by {difference:.0e}")
