"""Artifacts: compiled models in one file, or one folder, that runs without a compiler.

Its members: `manifest.json` says what the model is, takes and returns; `library.so` is the code; the weights are in it,
or beside it in `weights.bin`; `plan.json` is the plan of a pruned model.
"""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FileFormatError, InputError, TargetError
from ..importing import part
from . import container
from .bits import BFLOAT16, as_bits, from_bits
from .host import processor
from .manifest import LIBRARY, MEMBERS, PLAN, WEIGHTS, described, packed, unpacked
from .outputs import kind_of, places, unflatten
from .precision import storage_of
from .processors import default_threads
from .specs import spec_of
from .targets import missing_here

if TYPE_CHECKING:
    from ..plan import Plan
    from .profile import Profile
    from .runtime import Program
    from .static_cost import StaticCost

_CPU = 1  # as DLPack numbers devices


class Artifact:
    """A compiled model. Call it like the model; save it to one file or one folder.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
    x = torch.randn(1, 4)
    artifact = graphprune.compile(net, example_inputs=x)
    y = artifact(x)  # numpy in, numpy out; torch in, torch out
    print(artifact.inputs)  # names, shapes, element types
    ```

    `manifest` is the dictionary stored in the file, `target` the name of the target, `size` the bytes of the
    file, `threads` the number of threads a call uses (None: as many as the machine has, or `TVM_NUM_THREADS`),
    `batch_sizes` the sizes that were compiled if calls may have any number of samples, else empty. Calls from several
    Python threads run at the same time; results belong to the caller and stay when the artifact is gone. An artifact
    for another machine can be saved, inspected and measured there (`graphprune bench --rpc`), but not called here.
    """

    def __init__(
        self,
        library: bytes,
        manifest: dict[str, Any],
        threads: int | None = None,
        weights: container.Buffer | None = None,
        plan: bytes | None = None,
        stored: container.Buffer | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, not {threads}")
        # Once loaded, the library is needed only to be saved: from the file that it came from, if there is one.
        parts = {LIBRARY: library if stored is None else stored, WEIGHTS: weights, PLAN: plan}
        self._members = {name: data for name, data in parts.items() if data is not None}
        if "members" not in manifest:
            manifest = {**manifest, "members": {name: described(data) for name, data in self._members.items()}}
        self.manifest = manifest
        self.inputs = tuple(spec_of(entry) for entry in manifest["inputs"])
        self.outputs = tuple(spec_of(entry) for entry in manifest["outputs"])
        self.batch_sizes = tuple(manifest.get("batch_sizes", ()))
        self.threads = threads
        target, device = manifest["target"], manifest["target"].get("device", "")
        needed = target["architecture"], tuple(target["features"]), target.get("triple", "")
        self._missing = missing_here(*needed, device)
        self._loaded = None if self._missing else _program(library, threads, manifest.get("weights"), weights, device)

    @property
    def target(self) -> str:
        """Name of the target the code was made for."""
        return str(self.manifest["target"]["name"])

    @property
    def size(self) -> int:
        """Size of the saved file in bytes."""
        members = packed(self.manifest, self._members)
        return container.file_size({name: len(data) for name, data in members.items()})

    @property
    def plan(self) -> "Plan | None":
        """The plan that made the model that was compiled; None where it was not pruned."""
        text = self._members.get(PLAN)
        return None if text is None else part("plan").Plan.from_json(bytes(text).decode())

    @property
    def runs_here(self) -> bool:
        """Whether this machine has what the code needs."""
        return not self._missing

    @property
    def library(self) -> bytes:
        """The shared library: code, the program that calls the kernels, and weights that are embedded."""
        return bytes(self._whole(LIBRARY))

    def _whole(self, name: str) -> container.Buffer:
        """A member as it was loaded. Raises `FileFormatError` where its file was written to since."""
        data = self._members[name]
        if container.is_cut(data) or described(data) != self.manifest["members"][name]:
            raise FileFormatError(
                f"{name} changed since it was loaded: the file that it came from was written to; load it again"
            )
        return data

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

        program = self._program
        values = [as_bits(value) for value in self._bind(args, kwargs)]
        pairs = [to_tensor(value, spec.name, program.on_gpu) for value, spec in zip(values, self.inputs, strict=True)]
        tensors = [tensor for tensor, _ in pairs]
        count = self._check(tensors)
        results = program(tensors) if count is None else self._run_batch(tensors, count)
        return unflatten(self.manifest["output_tree"], list(enumerate(results)), self._converter(values))

    def _converter(self, values: list[Any]) -> Callable[[tuple[int, Any]], Any]:
        """How numbered results are returned: as the kind of tensor that was given, in the type the model declares."""
        kind = kind_of(values)
        numbers = places(self.manifest["output_tree"])
        declared = {place: spec for place, spec in zip(numbers, self.outputs, strict=True) if spec.dtype == BFLOAT16}

        def convert(result: tuple[int, Any]) -> Any:
            place, tensor = result
            return from_bits(kind(tensor), declared[place].name) if place in declared else kind(tensor)

        return convert

    def _check(self, tensors: list[Any]) -> int | None:
        """Compare inputs with what the model takes; returns the number of samples where that is free."""
        counts = {}
        for tensor, spec in zip(tensors, self.inputs, strict=True):
            shape, dtype = tuple(int(extent) for extent in tensor.shape), str(tensor.dtype)
            if not spec.fits(shape) or dtype != storage_of(spec.dtype):
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
            raise InputError(f"{count} samples on a GPU are none of the compiled sizes ({sizes}): move them to the CPU")

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
        import torch, graphprune

        net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
        x = torch.randn(1, 4)
        artifact = graphprune.compile(net, example_inputs=x)
        profile = artifact.profile(x)
        print(profile)  # a table, slowest kernels first
        print(profile.kernels[0].milliseconds)
        ```

        The peak of a machine is measured once, with the compiler, and then kept in the user's cache folder.
        """
        if self._program.on_gpu:
            raise TargetError("profile() measures processors; on a GPU use Nsight Systems: nsys profile python ...")
        profile: Profile = part("backends.profile").measure(self, lambda: self(*args, **kwargs), repeats)
        return profile

    def measure(self, *args: Any, repeats: int = 50, **kwargs: Any) -> dict[str, Any]:
        """Time calls with these inputs, and remember the result in the manifest: `save` stores it.

        ```python
        import torch, graphprune

        net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
        x = torch.randn(1, 4)
        artifact = graphprune.compile(net, example_inputs=x)
        print(artifact.measure(x)["milliseconds"])  # the median; artifact.manifest["latency"] has it, too
        ```
        """
        if repeats < 1:
            raise InputError(f"repeats must be at least 1, not {repeats}")
        milliseconds = []
        for _ in range(3 + repeats):
            start = time.perf_counter()
            self(*args, **kwargs)
            milliseconds.append(1e3 * (time.perf_counter() - start))
        milliseconds = sorted(milliseconds[3:])
        shapes = [list(np.shape(value)) for value in self._bind(args, kwargs)]
        found = {
            "milliseconds": round(statistics.median(milliseconds), 4),
            "fastest": round(milliseconds[0], 4),
            "repeats": repeats,
            "threads": self.threads or default_threads(),
            "processor": processor(),
            "shapes": shapes,
        }
        self.manifest = {**self.manifest, "latency": found}
        return found

    def static_cost(self) -> "StaticCost":
        """What the machine code of every kernel consists of: nothing is run, so it works for every machine.

        ```python
        import torch, graphprune

        net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
        x = torch.randn(1, 4)
        artifact = graphprune.compile(net, example_inputs=x, examine=True)
        print(artifact.static_cost())  # a table
        ```

        Raises `OptionError` where the model was compiled without `examine`.
        """
        from .static_cost import static_cost

        return static_cost(self.manifest)

    def watched(self, watch: Callable[[str, bool], None]) -> AbstractContextManager[None]:
        """A context in which `watch(name, before)` is called before and after every kernel of this thread's calls."""
        return self._program.watched(watch)

    def save(self, path: "str | os.PathLike[str]", folder: bool = False) -> None:
        """Write the artifact to one file, or with `folder` to a folder of its parts; whole or not at all.

        A folder takes the place of an artifact's folder. Raises `OptionError` where something else lies there, and for
        a file of more than 4 GB.
        """
        members = packed(self.manifest, {name: self._whole(name) for name in self._members})
        if folder:
            container.write_folder(path, members, MEMBERS)
        else:
            container.write_file(path, members)


def load(path: "str | os.PathLike[str]", threads: int | None = None) -> Artifact:
    """Read an artifact, a file or a folder, and make it ready to run; needs no compiler and does not import `tvm`.

    Format, completeness, checksums and processor are checked before any of its code is loaded. Separate weights stay
    in the file and are mapped into memory: replace such a file (as `save` does), do not write into it. Embedded weights
    are copied, and the file is only read again when the artifact is saved.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
    x = torch.randn(1, 4)
    artifact = graphprune.compile(net, example_inputs=x)
    artifact.save("net.gp")
    y = graphprune.load("net.gp", threads=1)(x)
    ```

    Raises `FileNotFoundError`, `FileFormatError` for a file that is damaged or not an artifact, and
    `TargetError` when this processor lacks instructions that the code uses.
    """
    artifact = read(path, threads)
    if not artifact.runs_here:
        raise TargetError(
            f"{path} was compiled for {artifact.target}, but this machine lacks {', '.join(artifact._missing)}; "
            "compile the model again on this machine or for a target that it is"
        )
    return artifact


def read(path: "str | os.PathLike[str]", threads: int | None = None) -> Artifact:
    """Read an artifact for any machine: where this one cannot run it, it can still be inspected and measured elsewhere.

    ```python
    print(read("resnet-arm.gp").target)
    ```

    Raises `FileNotFoundError`, and `FileFormatError` for a file that is damaged or not an artifact.
    """
    parts = unpacked(path)
    return Artifact(parts.library, parts.manifest, threads, parts.weights, parts.plan, parts.stored)


def _program(*parts: Any) -> "Program":
    from .runtime import Program

    return Program(*parts)
