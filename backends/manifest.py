"""What an artifact consists of, and what must hold before anything of it is used.

`packed` gives the members of an artifact, `unpacked` reads and checks them. The order of the checks: is it an artifact
at all; of this format version; is the manifest whole; are the members exactly those that it lists, of these sizes and
checksums; does it say everything that is needed. Nothing is executed or mapped as code here.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..errors import FileFormatError
from .container import ADVICE, ALIGNMENT, Buffer, File, Folder, opened

FORMAT = "graphprune-artifact"
FORMAT_VERSION = 2
MANIFEST, DIGEST, LIBRARY, WEIGHTS, PLAN = "manifest.json", "manifest.sha256", "library.so", "weights.bin", "plan.json"
MEMBERS = (MANIFEST, DIGEST, LIBRARY, WEIGHTS, PLAN)
# A manifest has a few kilobytes per hundred kernels; whatever has more than this is something else.
_LARGEST_MANIFEST = 16 << 20
_DEEPEST = 64
_DTYPE = re.compile(r"bool|(float|bfloat|int|uint)\d{1,2}")
_DEVICE = re.compile(r"sm_[0-9]{2,3}")


@dataclass(frozen=True)
class Contents:
    """The checked parts of an artifact: weights are mapped from the file, not read.

    `library` is a copy that nobody writes to; `stored`, the same where it lies in the file, takes no memory.
    """

    manifest: dict[str, Any]
    library: bytes
    stored: memoryview
    weights: memoryview | None = None
    plan: bytes | None = None


def described(data: Buffer) -> dict[str, Any]:
    """A member's entry in the manifest."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def packed(manifest: Mapping[str, Any], others: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """All members of an artifact: its manifest, the manifest's digest (as `sha256sum` writes it), and the others."""
    text = json.dumps(manifest, indent=1, sort_keys=True).encode()
    return {MANIFEST: text, DIGEST: _digest(text), **others}


def _digest(text: bytes) -> bytes:
    return f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode()


def unpacked(path: "str | os.PathLike[str]") -> Contents:
    """Read and check an artifact: the old one or the new one, where it is replaced meanwhile.

    Raises `FileNotFoundError` or `FileFormatError`.
    """
    while True:
        before = _identity(path)
        try:
            return _read(path)
        except FileFormatError:
            # The parts of a folder are gone soon after another one took its place.
            if _identity(path) == before:
                raise


def _identity(path: "str | os.PathLike[str]") -> tuple[int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_ctime_ns


def _read(path: "str | os.PathLike[str]") -> Contents:
    try:
        with opened(path) as store:
            return _unpacked(store)
    except (FileNotFoundError, FileFormatError):
        raise
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path} cannot be read as an artifact: {error}; {ADVICE}") from error


def _unpacked(store: File | Folder) -> Contents:
    path = store.path
    if MANIFEST not in store.sizes:
        raise FileFormatError(f"{path} is not an artifact: it has no {MANIFEST}; save one with artifact.save(path)")
    if store.sizes[MANIFEST] > _LARGEST_MANIFEST:
        raise FileFormatError(f"{path} is not an artifact: a manifest of {store.sizes[MANIFEST]} bytes is too large")
    text = store.read(MANIFEST)
    manifest = _parsed(text, path)
    if DIGEST not in store.sizes or store.sizes[DIGEST] != len(_digest(b"")) or store.read(DIGEST) != _digest(text):
        raise FileFormatError(f"{path} is damaged: the checksum of {MANIFEST} does not match; {ADVICE}")
    _check(manifest, path)
    _check_sizes(manifest["members"], store)
    store.check()
    members: dict[str, Any] = {}
    for name, entry in manifest["members"].items():
        data = store.map(name) if name == WEIGHTS else store.read(name)
        if described(data) != entry:
            raise FileFormatError(f"{path} is damaged: the checksum of {name} does not match; {ADVICE}")
        members[name] = data
    return Contents(manifest, members[LIBRARY], store.map(LIBRARY), members.get(WEIGHTS), members.get(PLAN))


def _parsed(text: bytes, path: Any) -> dict[str, Any]:
    """The manifest as a dictionary, if it is one of this format and version."""
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is damaged: its manifest is not JSON ({error}); {ADVICE}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FileFormatError(f"{path} has a manifest but is not an artifact; save one with artifact.save(path)")
    version = manifest.get("format_version")
    if version == FORMAT_VERSION:
        return manifest
    if isinstance(version, int) and version > FORMAT_VERSION:
        tools = manifest.get("tools")
        made = str(tools.get("graphprune", "")) if isinstance(tools, dict) else ""
        raise FileFormatError(
            f"{path} has artifact format {version}, and this version of GraphPrune reads {FORMAT_VERSION}: "
            f"install graphprune {made and f'{made} '}or newer"
        )
    raise FileFormatError(
        f"{path} has artifact format {version}, this version reads {FORMAT_VERSION}; compile the model again"
    )


def _check_sizes(listed: Mapping[str, Any], store: File | Folder) -> None:
    wanted = {MANIFEST, DIGEST, *listed}
    for name in sorted(wanted ^ set(store.sizes)):
        what = f"lacks {name}" if name in wanted else f"holds {name!r}, which does not belong there"
        raise FileFormatError(f"{store.path} is damaged: it {what}; {ADVICE}")
    for name, entry in listed.items():
        if store.sizes[name] != entry["bytes"]:
            raise FileFormatError(
                f"{store.path} is damaged: {name} has {store.sizes[name]} bytes, not {entry['bytes']}; {ADVICE}"
            )


def _check(manifest: Mapping[str, Any], path: Any) -> None:
    """Raise `FileFormatError` unless a manifest says everything that running it needs, in the right form."""
    try:
        for rule in _RULES:
            rule(manifest)
    except KeyError as error:
        raise FileFormatError(f"{path} is not a valid artifact: its manifest lacks {error}; {ADVICE}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} is not a valid artifact: its manifest has {error}; {ADVICE}") from error


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_names(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _members(manifest: Mapping[str, Any]) -> None:
    members = manifest["members"]
    _need(isinstance(members, dict) and LIBRARY in members, f"no member {LIBRARY}")
    for name, entry in members.items():
        _need(name in MEMBERS[2:], f"a member {name!r}, which no artifact has")
        _need(set(entry) == {"bytes", "sha256"} and _is_count(entry["bytes"]), f"no size of {name}")


def _target(manifest: Mapping[str, Any]) -> None:
    target = manifest["target"]
    _need(_are_names([target["name"], target["architecture"]]), "a target without a name or architecture")
    _need(_are_names(target["features"]), "a target without a list of features")
    triple, device = target.get("triple", ""), target.get("device", "")
    _need(_are_names([triple, device]), "a target whose triple or device is no name")
    _need(not device or bool(_DEVICE.fullmatch(device)), f"a device {device[:40]!r}")


def _tensors(manifest: Mapping[str, Any]) -> None:
    for group in ("inputs", "outputs"):
        _need(isinstance(manifest[group], list), f"no list of {group}")
        for entry in manifest[group]:
            _need(_are_names([entry["name"]]), f"{group} without a name")
            _check_dtype(entry["dtype"])
            _check_shape(entry["shape"])
            _need(isinstance(entry.get("batched", False), bool), "a tensor that is neither batched nor not")
            _need(not entry.get("batched") or bool(entry["shape"]), "a batch without an axis")


def _check_dtype(dtype: Any) -> None:
    _need(isinstance(dtype, str) and bool(_DTYPE.fullmatch(dtype)), f"an element type {str(dtype)[:40]!r}")


def _check_shape(shape: Any) -> None:
    _need(isinstance(shape, list) and all(_is_count(extent) for extent in shape), f"a shape {shape!r}")


def _tree(manifest: Mapping[str, Any]) -> None:
    _check_tree(manifest["output_tree"], len(manifest["outputs"]), _DEEPEST)


def _check_tree(tree: Any, count: int, deepest: int) -> None:
    _need(deepest > 0, "outputs nested too deeply")
    if tree is None or (_is_count(tree) and tree < count):
        return
    _need(isinstance(tree, dict) and tree.get("kind") in ("tuple", "list", "dict"), f"an output {str(tree)[:40]!r}")
    items = tree["items"]
    _need(isinstance(items, dict if tree["kind"] == "dict" else list), "a structure of outputs without items")
    for item in items.values() if isinstance(items, dict) else items:
        _check_tree(item, count, deepest - 1)


def _batches(manifest: Mapping[str, Any]) -> None:
    sizes = manifest.get("batch_sizes", [])
    _need(isinstance(sizes, list) and all(_is_count(size, 1) for size in sizes), f"batch sizes {sizes!r}")
    _need(bool(sizes) == any(entry.get("batched") for entry in manifest["inputs"]), "batches without sizes")


def _weights(manifest: Mapping[str, Any]) -> None:
    weights = manifest.get("weights")
    _need((weights is not None) == (WEIGHTS in manifest["members"]), f"either {WEIGHTS} or its description, not both")
    if weights is None:
        return
    room = manifest["members"][WEIGHTS]["bytes"]
    for entry in weights["tensors"]:
        _check_shape(entry["shape"])
        _check_dtype(entry["dtype"])
        start, size = entry["offset"], prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
        _need(_is_count(start) and start % ALIGNMENT == 0 and start + size <= room, f"weights outside of {WEIGHTS}")
    count = len(weights["tensors"])
    for name, indices in weights["functions"].items():
        _need(all(_is_count(index) and index < count for index in indices), f"unknown weights of {name}")


def _notes(manifest: Mapping[str, Any]) -> None:
    for name in ("kernels", "source", "tools"):
        _need(isinstance(manifest[name], dict), f"no dictionary {name!r}")
    _need(_are_names([manifest["fingerprint"]]), "no fingerprint")
    latency = manifest.get("latency")
    if latency is not None:
        times = [latency[name] for name in ("milliseconds", "fastest", "repeats", "threads")]
        _need(all(isinstance(value, (int, float)) for value in times), "a latency that is no number")
        _need(_are_names([latency["processor"]]), "a latency without a processor")


_RULES: tuple[Callable[[Mapping[str, Any]], None], ...] = (
    _members, _target, _tensors, _tree, _batches, _weights, _notes,
)  # fmt: skip
