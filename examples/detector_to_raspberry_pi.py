"""An object detector in ONNX becomes a smaller one, compiled on a PC for a Raspberry Pi 4.

`python detector_to_raspberry_pi.py [--emulate]`. Needs GRAPHPRUNE_DATA: a folder with `onnx/fastestdet.onnx`, the photo
`sample_inputs/coco0.jpg`, `imagenet_750.npz` and `graphdata.py`; and a linker for ARM, such as the one in `pip install
ziglang`. With --emulate the result runs here in qemu, as tests/emulation.py does it.
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
    """A photo as the detector takes it: float32, 1 x 3 x 352 x 352, blue first."""
    pixels = np.asarray(photo.convert("RGB").resize((352, 352)), np.float32)[:, :, ::-1] / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def found(output: np.ndarray) -> set[tuple[int, int]]:
    """(cell, class) wherever the detector sees something: 22 x 22 cells, 5 numbers of a box and 80 classes each."""
    cells = output.reshape(85, -1)
    sure = cells[0] ** 0.6 * cells[5:].max(0) ** 0.4
    return {(int(cell), int(cells[5:, cell].argmax())) for cell in np.flatnonzero(sure > 0.65)}


# Any photos will do for calibration: what is left of the detector is refitted to what the whole one computes.
photos = [prepared(Image.fromarray(pixels)) for pixels in images("imagenet_750.npz", 256)[0][:24]]
people = prepared(Image.open(data / "sample_inputs" / "coco0.jpg"))
path = str(data / "onnx" / "fastestdet.onnx")

slim = graphprune.optimize(
    path, sparsity=0.15, budget="macs", target="arm-cortex-a72", scope="layer", data=photos, recover=True
)
plan = graphprune.plan_of(slim)
for name in ("macs", "params"):
    before, after = plan.report[name]
    print(f"{name}: {before:,} -> {after:,}")


def run(model: str | bytes) -> np.ndarray:
    """What ONNX Runtime computes on the photo."""
    session = onnxruntime.InferenceSession(model)
    return session.run(None, {session.get_inputs()[0].name: people})[0]


dense, pruned = found(run(path)), found(run(slim.SerializeToString()))
print(f"cells with an object: {len(dense)} before, {len(pruned)} after; {len(dense & pruned)} of them the same")

# Compiled here, for there; the board needs what `graphprune runtime` collects, or the C interface.
artifact = graphprune.compile(slim, target="arm-cortex-a72")
artifact.save("detector-arm.gp")
print(f"detector-arm.gp: {artifact.size / 1e6:.2f} MB for {artifact.target}")
print("to time it there: graphprune bench detector-arm.gp --rpc raspberrypi.local:9090")

if "--emulate" in sys.argv:
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from emulation import emulator

    (output,) = emulator().run(artifact, torch.from_numpy(people), cpu="cortex-a72")
    expected = run(slim.SerializeToString())
    difference = np.abs(output.numpy() - expected).max() / np.abs(expected).max()
    print(f"emulated: {len(found(output.numpy()))} cells with an object, {difference:.0e} from ONNX Runtime")
