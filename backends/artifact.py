"""Artifacts: compiled models in one file that runs without a compiler.

The file is an uncompressed zip with two members: `manifest.json` says what the model is, takes and returns, and
`library.so` is the code with its weights.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FileFormatError, InputError, TargetError
from ..files import atomic_path
from .targets import missing_here

if TYPE_CHECKING:
    from .profile import Profile
    from .runtime import Program

FORMAT = "graphprune-artifact"
FORMAT_VERSION = 1
_MANIFEST, _LIBRARY = "manifest.json", "library.so"
# Zip files store a date per member; a fixed one keeps equal artifacts equal.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_CPU = 1  # as DLPack numbers devices


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of one input or output.

    The first axis of a `batched` tensor may have any length; `shape` shows the smallest that was compiled.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    batched: bool = False

    def __str__(self) -> str:
        extents = ["batch", *self.shape[1:]] if self.batched else self.shape
        return f"{self.dtype}[{', '.join(map(str, extents))}]"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be given."""
        if self.batched:
            return len(shape) == len(self.shape) and shape[0] > 0 and shape[1:] == self.shape[1:]
        return shape == self.shape


class Artifact:
    """A compiled model. Call it like the model; save it to one file.

    ```python
    artifact = load("resnet.gp")
    y = artifact(x)                 # numpy in, numpy out; torch in, torch out
    print(artifact.inputs)          # names, shapes, element types
    ```

    `manifest` is the dictionary stored in the file, `target` the name of the target, `size` the bytes of the
    file, `threads` the number of threads a call uses (None: as many as the machine has, or `TVM_NUM_THREADS`),
    `batch_sizes` the sizes that were compiled if calls may have any number of samples, else empty.
    """

    def __init__(self, library: bytes, manifest: dict[str, Any], threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, not {threads}")
        self.manifest = manifest
        self.inputs = tuple(_spec(entry) for entry in manifest["inputs"])
        self.outputs = tuple(_spec(entry) for entry in manifest["outputs"])
        self.batch_sizes = tuple(manifest.get("batch_sizes", ()))
        self.threads = threads
        self._library = library
        self._missing = _missing(manifest)
        self._loaded = None if self._missing else _program(library, manifest, threads)

    @property
    def target(self) -> str:
        """Name of the target the code was made for."""
        return str(self.manifest["target"]["name"])

    @property
    def size(self) -> int:
        """Size of the saved file in bytes."""
        return len(self._bytes())

    @property
    def runs_here(self) -> bool:
        """Whether this machine has what the code needs."""
        return not self._missing

    @property
    def _program(self) -> "Program":
        """The loaded library; raises `TargetError` where it was made for another machine."""
        if self._loaded is None:
            raise TargetError(
                f"this artifact was made for {self.target} and cannot run here: this machine lacks "
                f"{', '.join(self._missing)}; save it with artifact.save(path) and load it on such a machine"
            )
        return self._loaded

    def __repr__(self) -> str:
        takes = ", ".join(f"{spec.name}: {spec}" for spec in self.inputs)
        gives = ", ".join(f"{spec.name}: {spec}" for spec in self.outputs)
        return f"Artifact({self.target}; {takes} -> {gives})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on tensors, positional in the order of `inputs` or by name.

        Returns what the model returns (a tensor, a tuple, a list, a dictionary), as numpy arrays if every input
        is one, else as torch tensors or, without torch tensors among the inputs, as DLPack tensors.
        Raises `InputError` for a wrong number, name, shape or element type, and `TargetError` where the artifact was
        made for another machine. An artifact for a GPU takes tensors there as well, and leaves its results there then.
        """
        from .runtime import to_tensor

        program, values = self._program, self._bind(args, kwargs)
        pairs = [to_tensor(value, spec.name, program.on_gpu) for value, spec in zip(values, self.inputs, strict=True)]
        tensors = [tensor for tensor, _ in pairs]
        count = self._check(tensors)
        results = program(tensors) if count is None else self._run_batch(tensors, count)
        return _unflatten(self.manifest["output_tree"], results, _converter(values))

    def _check(self, tensors: list[Any]) -> int | None:
        """Compare inputs with what the model takes; returns the number of samples where that is free."""
        counts = {}
        for tensor, spec in zip(tensors, self.inputs, strict=True):
            shape, dtype = tuple(int(extent) for extent in tensor.shape), str(tensor.dtype)
            if not spec.fits(shape) or dtype != spec.dtype:
                raise InputError(f"input {spec.name!r} must be {spec}, got {dtype}{list(shape)}")
            if spec.batched:
                counts[spec.name] = shape[0]
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
            raise InputError(f"all inputs must have the same number of samples: {found}")
        return next(iter(counts.values()), None)

    def _run_batch(self, tensors: list[Any], count: int) -> list[Any]:
        """The results for any number of samples."""
        from . import batches
        from .runtime import to_tensor

        if count in self.batch_sizes:
            return self._program(tensors, batches.entry_point(count))
        if any(tensor.device.dlpack_device_type() != _CPU for tensor in tensors):
            sizes = ", ".join(map(str, self.batch_sizes))
            raise InputError(
                f"{count} samples on a GPU are none of the compiled sizes ({sizes}): move them to the CPU first"
            )

        def call(size: int, parts: list[Any]) -> list[Any]:
            pairs = [to_tensor(part, spec.name) for part, spec in zip(parts, self.inputs, strict=True)]
            results = self._program([tensor for tensor, _ in pairs], batches.entry_point(size))
            return [np.from_dlpack(result) for result in results]

        arrays = [np.from_dlpack(tensor) for tensor in tensors]
        batched = [spec.batched for spec in self.inputs]
        results = batches.run(call, arrays, batched, count, self.batch_sizes)
        return [to_tensor(result, "result")[0] for result in results]

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The values in the order of the inputs."""
        names = [spec.name for spec in self.inputs]
        given = dict(zip(names, args, strict=False))
        unknown = [name for name in kwargs if name not in names]
        twice = [name for name in kwargs if name in given]
        missing = [name for name in names if name not in given and name not in kwargs]
        if len(args) > len(names) or unknown or twice or missing:
            got = [*(f"#{index}" for index in range(len(args))), *kwargs]
            wanted = ", ".join(f"{spec.name}: {spec}" for spec in self.inputs)
            raise InputError(f"expected {len(names)} input(s) ({wanted}), got {len(got)} ({', '.join(got)})")
        return [given.get(name, kwargs.get(name)) for name in names]

    def profile(self, *args: Any, repeats: int = 20, **kwargs: Any) -> "Profile":
        """The time of every kernel in calls with these inputs, beside what was to be expected and the machine's peak.

        ```python
        print(artifact.profile(x))      # a table, slowest kernels first
        artifact.profile(x).kernels[0].milliseconds
        ```

        The peak of a machine is measured once, with the compiler, and then kept in the user's cache folder.
        """
        from .profile import measure

        if self._program.on_gpu:
            raise TargetError(
                "profile() measures kernels of processors; on a GPU use Nsight Systems: nsys profile python ..."
            )
        return measure(self, lambda: self(*args, **kwargs), repeats)

    def watched(self, watch: Callable[[str, bool], None]) -> AbstractContextManager[None]:
        """A context in which `watch(name, before)` is called before and after every kernel of every call."""
        return self._program.watched(watch)

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the artifact to one file, whole or not at all."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self._bytes())

    def _bytes(self) -> bytes:
        manifest = {**self.manifest, "sha256": {_LIBRARY: hashlib.sha256(self._library).hexdigest()}}
        text = json.dumps(manifest, indent=1, sort_keys=True).encode()
        buffer = BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(_MANIFEST, _EPOCH), text)
            archive.writestr(zipfile.ZipInfo(_LIBRARY, _EPOCH), self._library)
        return buffer.getvalue()


def load(path: "str | os.PathLike[str]", threads: int | None = None) -> Artifact:
    """Read an artifact and make it ready to run; needs no compiler and does not import `tvm`.

    Raises `FileNotFoundError`, `FileFormatError` for a file that is damaged or not an artifact, and
    `TargetError` when this processor lacks instructions that the code uses.
    """
    library, manifest = _read(Path(path))
    missing = _missing(manifest)
    if missing:
        raise TargetError(
            f"{path} was compiled for {manifest['target']['name']}, but this machine lacks {', '.join(missing)}; "
            "compile the model again on this machine or for a target that it is"
        )
    return Artifact(library, manifest, threads)


def _missing(manifest: Mapping[str, Any]) -> list[str]:
    """What the code needs and this machine lacks."""
    target = manifest["target"]
    lacking = missing_here(target["architecture"], tuple(target["features"]))
    if target.get("device"):
        from . import gpu

        lacking += gpu.missing(target["device"])
    return lacking


def _program(library: bytes, manifest: Mapping[str, Any], threads: int | None) -> "Program":
    from .runtime import Program

    return Program(library, threads, manifest["target"].get("device", ""))


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The members of an artifact file, checked."""
    advice = "copy it again or compile the model again"
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(_MANIFEST))
            library = archive.read(_LIBRARY)
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise FileFormatError(f"{path} is not a complete artifact ({error}); {advice}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FileFormatError(f"{path} is a zip file but not an artifact; save one with artifact.save(path)")
    if manifest.get("format_version") != FORMAT_VERSION:
        version = manifest.get("format_version")
        raise FileFormatError(
            f"{path} has artifact format {version}, this version reads {FORMAT_VERSION}; compile the model again"
        )
    if manifest.get("sha256", {}).get(_LIBRARY) != hashlib.sha256(library).hexdigest():
        raise FileFormatError(f"{path} is damaged: its checksum does not match; {advice}")
    return library, manifest


def describe(spec: TensorSpec) -> dict[str, Any]:
    """A tensor's entry in the manifest."""
    entry = {**asdict(spec), "shape": list(spec.shape)}
    return entry if spec.batched else {key: value for key, value in entry.items() if key != "batched"}


def _spec(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"], entry.get("batched", False))


def _converter(values: list[Any]) -> Callable[[Any], Any]:
    """How results are returned: as the kind of tensor that was given."""
    if all(isinstance(value, np.ndarray) for value in values):
        return np.from_dlpack
    for value in values:
        if type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "detach"):
            import torch

            return torch.utils.dlpack.from_dlpack
    return lambda tensor: tensor


def _unflatten(tree: Any, leaves: list[Any], convert: Callable[[Any], Any]) -> Any:
    """The model's own structure of outputs: numbers stand for tensors, null for None."""
    if isinstance(tree, int):
        return convert(leaves[tree])
    if tree is None:
        return None
    kind, content = tree["kind"], tree["items"]
    if kind == "dict":
        return {key: _unflatten(item, leaves, convert) for key, item in content.items()}
    items = [_unflatten(item, leaves, convert) for item in content]
    return items if kind == "list" else tuple(items)
