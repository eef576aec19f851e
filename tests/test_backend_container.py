"""Files and folders of artifacts: what is written, and that every kind of damage is refused before code is loaded."""

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from graphprune.backends import container, manifest, runtime
from graphprune.backends.artifact import load
from graphprune.backends.compiler import compile_model
from graphprune.errors import FileFormatError, OptionError, TargetError

X = np.linspace(-1, 1, 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)


def compiled(weights):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 4)).eval()
    return compile_model(model, "x86", torch.zeros(1, 3, 8, 8), weights=weights)


@pytest.fixture(scope="module")
def artifact():
    return compiled("separate")


@pytest.fixture(scope="module")
def path(artifact, tmp_path_factory):
    path = tmp_path_factory.mktemp("container") / "net.gp"
    artifact.save(path)
    return path


@pytest.fixture
def folder(artifact, tmp_path):
    artifact.save(tmp_path / "net", folder=True)
    return tmp_path / "net"


@pytest.fixture
def code_is_not_loaded(monkeypatch):
    """Fails a test in which a library is loaded."""

    def loaded(library):
        raise AssertionError("code was loaded")

    monkeypatch.setattr(runtime, "_load", loaded)


def repacked(path, out, change=None, **manifest_changes):
    """A copy of an artifact with a right manifest about other members, as somebody else could make it."""
    with container.opened(path) as store:
        members = {name: store.read(name) for name in store.sizes}
    described = {**json.loads(members.pop("manifest.json")), **manifest_changes}
    members.pop("manifest.sha256")
    for name in manifest_changes.get("without", ()):
        del described[name]
    if change:
        change(described, members)
    container.write_file(out, manifest.packed(described, members))
    return out


def refused(path, match):
    with pytest.raises(FileFormatError, match=match):
        load(path)


def test_a_file_is_an_archive_that_any_tool_reads(path, artifact):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == ["manifest.json", "manifest.sha256", "library.so", "weights.bin"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        listed = json.loads(archive.read("manifest.json"))["members"]
        for name, entry in listed.items():
            data = archive.read(name)
            assert entry == {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    assert path.stat().st_size == artifact.size


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="sha256sum is not installed")
def test_a_folder_can_be_checked_by_hand(folder):
    subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=folder, check=True)


def test_members_begin_at_aligned_places(path):
    data = path.read_bytes()
    with container.opened(path) as store:
        for name in store.sizes:
            content = store.read(name)
            assert data.index(content) % 64 == 0, name
            assert bytes(store.map(name)) == content


def test_file_and_folder_hold_the_same(path, folder, artifact):
    want = artifact(X)
    for place in (path, folder):
        np.testing.assert_array_equal(load(place, threads=1)(X), want)
    again = folder.parent / "again.gp"
    load(folder).save(again)
    assert again.read_bytes() == path.read_bytes()


def test_equal_models_give_equal_files(path, tmp_path):
    for weights, same in (("separate", True), ("embedded", False)):
        compiled(weights).save(tmp_path / weights)
        assert ((tmp_path / weights).read_bytes() == path.read_bytes()) is same


def test_a_folder_replaces_a_folder_and_nothing_else(artifact, folder, tmp_path):
    (folder / "plan.json").write_text("{}")  # of an artifact that was there before
    artifact.save(folder, folder=True)
    assert sorted(os.listdir(folder)) == ["library.so", "manifest.json", "manifest.sha256", "weights.bin"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"notes\.txt"):
        artifact.save(folder, folder=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OptionError, match="other files"):
        artifact.save(tmp_path / "file", folder=True)
    with pytest.raises(OptionError, match="is a folder"):
        artifact.save(folder)
    assert (folder / "notes.txt").read_text() == "mine" and (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "net"]


def test_a_save_that_fails_leaves_what_was_there(artifact, path, folder, monkeypatch):
    def full(file):
        raise OSError("no space left on device")

    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    monkeypatch.setattr(container, "_to_disk", full)
    content = path.read_bytes()
    for place, kind in ((path, False), (folder, True)):
        with pytest.raises(OSError, match="no space"):
            artifact.save(place, folder=kind)
    assert path.read_bytes() == content and os.listdir(path.parent) == ["net.gp"]
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before
    assert os.listdir(folder.parent) == ["net"]


def test_folders_change_places_without_the_system_call(artifact, folder, monkeypatch):
    monkeypatch.setattr("graphprune.files.ctypes.CDLL", lambda name: object())
    inode = folder.stat().st_ino
    artifact.save(folder, folder=True)
    assert folder.stat().st_ino != inode and os.listdir(folder.parent) == ["net"]
    np.testing.assert_array_equal(load(folder)(X), artifact(X))


def test_a_folder_is_as_open_as_the_umask_lets_it_be(folder):
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


# Damage by chance ----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_changed_byte_goes_unnoticed(path, tmp_path_factory, code_is_not_loaded, data):
    content = bytearray(path.read_bytes())
    # Half of the changes near the ends: that is where the headers are.
    ends = st.one_of(st.integers(0, 300), st.integers(len(content) - 400, len(content) - 1))
    for place in data.draw(
        st.lists(st.one_of(ends, st.integers(0, len(content) - 1)), min_size=1, max_size=3, unique=True)
    ):
        content[place] ^= data.draw(st.integers(1, 255))
    wrong = tmp_path_factory.getbasetemp() / "changed.gp"
    wrong.write_bytes(content)
    refused(wrong, None)


def test_every_byte_outside_of_the_members_counts(path, tmp_path, code_is_not_loaded):
    content = path.read_bytes()
    with container.opened(path) as store:
        held = [
            range(content.index(store.read(name)), content.index(store.read(name)) + size)
            for name, size in store.sizes.items()
        ]
    outside = [place for place in range(len(content)) if not any(place in members for members in held)]
    assert len(outside) > 400
    wrong = tmp_path / "wrong.gp"
    for place in outside:
        changed = bytearray(content)
        changed[place] ^= 0x55
        wrong.write_bytes(changed)
        refused(wrong, None)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(share=st.floats(0, 1), more=st.binary(max_size=70))
@example(share=1.0, more=b"\0")
def test_no_cut_and_no_addition_goes_unnoticed(path, tmp_path_factory, code_is_not_loaded, share, more):
    content = path.read_bytes()
    changed = content[: int(share * len(content))] + more
    if changed != content:
        wrong = tmp_path_factory.getbasetemp() / "cut.gp"
        wrong.write_bytes(changed)
        refused(wrong, None)
        wrong.write_bytes(more + content)
        if more:
            refused(wrong, None)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_change_in_a_folder_goes_unnoticed(artifact, tmp_path_factory, code_is_not_loaded, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    artifact.save(folder, folder=True)
    file = folder / data.draw(st.sampled_from(sorted(os.listdir(folder))))
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    file.write_bytes(content)
    refused(folder, None)


# Damage on purpose ---------------------------------------------------------------------------------------------------


def test_archives_by_others(path, tmp_path, code_is_not_loaded):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    wrong = tmp_path / "wrong.gp"

    def write(names, compression=zipfile.ZIP_STORED, comment=b""):
        with zipfile.ZipFile(wrong, "w", compression) as archive:
            archive.comment = comment
            for name, data in names:
                archive.writestr(name, data)

    write(members.items())  # another date
    refused(wrong, "not as it was written")
    write(members.items(), zipfile.ZIP_DEFLATED)
    refused(wrong, "manifest")
    write(members.items(), comment=b"hello")
    refused(wrong, "not a complete artifact")
    for name in ("../library.so", "/etc/passwd", "a/b", "LIBRARY.SO", "ü"):
        write([*members.items(), (name, b"x")])
        refused(wrong, "does not belong there")
    with pytest.warns(UserWarning, match="Duplicate"):
        write([*members.items(), ("manifest.json", members["manifest.json"])])
    refused(wrong, "2 members called manifest.json")
    write(list(members.items())[:1])
    refused(wrong, "checksum of manifest.json")
    write([])
    refused(wrong, "has no manifest.json")
    write([("manifest.json", b"[" * 100_000)])
    refused(wrong, "not JSON")
    write([("manifest.json", bytes(17 << 20))])
    refused(wrong, "too large")
    write([("manifest.json", b"{}")])
    refused(wrong, "not an artifact")


def test_folders_by_others(folder, tmp_path, code_is_not_loaded):
    (folder / "more.txt").write_text("")
    refused(folder, r"holds 'more\.txt'")
    (folder / "more.txt").unlink()
    shutil.move(folder / "library.so", tmp_path / "library.so")
    refused(folder, r"lacks library\.so")
    (folder / "library.so").symlink_to(tmp_path / "library.so")
    refused(folder, "'library.so' in it is not a plain file")
    (folder / "library.so").unlink()
    (folder / "library.so").mkdir()
    refused(folder, "not a plain file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"no manifest\.json")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a plain file")
    refused("/dev/null", "not a plain file")


def test_other_versions(path, tmp_path, code_is_not_loaded):
    newer = repacked(path, tmp_path / "newer.gp", format_version=99, tools={"graphprune": "7.5.0"})
    refused(newer, r"format 99.* install graphprune 7\.5\.0 or newer")
    refused(repacked(path, tmp_path / "older.gp", format_version=1), "format 1, .* compile the model again")
    refused(repacked(path, tmp_path / "none.gp", format_version=None), "format None")


def at(described, key, value):
    described[key] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, files: m.pop("inputs"), "lacks 'inputs'"),
        (lambda m, files: at(m, "inputs", "x"), "no list of inputs"),
        (lambda m, files: at(m["inputs"][0], "shape", [1, -3]), r"a shape \[1, -3\]"),
        (lambda m, files: at(m["inputs"][0], "batched", True), "batches without sizes"),
        (lambda m, files: at(m["outputs"][0], "name", 3), "outputs without a name"),
        (lambda m, files: at(m, "output_tree", 1), "an output '1'"),
        (lambda m, files: at(m, "output_tree", {"kind": "set", "items": []}), "an output"),
        (lambda m, files: at(m["target"], "features", "avx2"), "list of features"),
        (lambda m, files: at(m, "target", None), "manifest has"),
        (lambda m, files: at(m, "kernels", []), "no dictionary 'kernels'"),
        (lambda m, files: at(m, "latency", {"milliseconds": "fast"}), "lacks 'fastest'"),
        (lambda m, files: m["members"].pop("library.so"), r"no member library\.so"),
        (lambda m, files: at(m["members"], "../x", {"bytes": 1, "sha256": ""}), "which no artifact has"),
        (lambda m, files: at(m["members"]["library.so"], "bytes", 3), r"library\.so has \d+ bytes, not 3"),
        (lambda m, files: at(m["members"]["library.so"], "sha256", "0" * 64), r"checksum of library\.so"),
        (lambda m, files: at(files, "weights.bin", files["weights.bin"][:-1] + b"?"), r"checksum of weights\.bin"),
        (lambda m, files: m.pop("weights"), "either weights.bin or its description"),
        (lambda m, files: at(m["weights"]["tensors"][0], "offset", 1 << 40), "weights outside"),
        (lambda m, files: at(m["weights"]["tensors"][0], "shape", [1 << 60, 1 << 60]), "weights outside"),
        (lambda m, files: at(m["weights"]["tensors"][0], "dtype", "complex"), "an element type 'complex'"),
        (lambda m, files: at(m["weights"]["tensors"][0], "dtype", {}), "an element type"),
        (lambda m, files: at(m["weights"]["tensors"][0], "dtype", "float99"), "manifest has"),
        (lambda m, files: at(m["inputs"][0], "dtype", "x"), "an element type 'x'"),
        (lambda m, files: at(m["weights"]["functions"], "main", [99]), "unknown weights"),
    ],
)  # fmt: skip
def test_manifests_by_others(path, tmp_path, code_is_not_loaded, change, message):
    refused(repacked(path, tmp_path / "wrong.gp", change), message)


def test_a_deep_structure_of_outputs(path, tmp_path, code_is_not_loaded):
    tree = 0
    for _ in range(80):
        tree = {"kind": "list", "items": [tree]}
    refused(repacked(path, tmp_path / "wrong.gp", output_tree=tree), "nested too deeply")


@pytest.mark.parametrize("member", ["weights.bin", "library.so"])
def test_a_file_that_changes_after_it_was_loaded_is_not_saved(path, tmp_path, member):
    copy, out = tmp_path / "copy.gp", tmp_path / "out.gp"
    shutil.copy(path, copy)
    loaded = load(copy)
    start = copy.read_bytes().rindex(bytes(loaded._members[member])[:256])
    with open(copy, "r+b") as file:
        file.seek(start)
        file.write(bytes(64))
    with pytest.raises(FileFormatError, match=f"{member} changed since it was loaded"):
        loaded.save(out)
    assert not out.exists()


def test_embedded_weights_need_no_file_but_to_be_saved(tmp_path):
    path = tmp_path / "net.gp"
    compiled("embedded").save(path)
    loaded = load(path)
    before = loaded(X)
    loaded.save(tmp_path / "again.gp")
    assert (tmp_path / "again.gp").read_bytes() == path.read_bytes()
    os.truncate(path, 100)
    assert (loaded(X) == before).all()
    for use in (lambda: loaded.save(path), lambda: loaded.library):
        with pytest.raises(FileFormatError, match="library.so changed since it was loaded"):
            use()
    assert path.stat().st_size == 100


_MEMORY = """
import sys
from graphprune.backends.artifact import load

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

load(sys.argv[1])  # whatever the runtime needs once
before = anonymous()
artifact = load(sys.argv[2])
print(anonymous() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from Linux")
def test_embedded_weights_are_in_memory_once(tmp_path):
    linear = nn.Linear(2048, 4096).eval()
    compiled("embedded").save(tmp_path / "small.gp")
    compile_model(linear, "x86", torch.zeros(1, 2048)).save(tmp_path / "large.gp")
    command = [sys.executable, "-c", _MEMORY, tmp_path / "small.gp", tmp_path / "large.gp"]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    weights = linear.weight.numel() * 4 / 1024
    assert 0.9 * weights < kilobytes < 1.5 * weights


def test_more_than_four_gigabytes_need_a_folder(tmp_path, monkeypatch):
    assert container.file_size({"library.so": 1 << 32}) > 1 << 32
    members = {"library.so": b"x" * 1000}
    monkeypatch.setattr(container, "_LARGEST", container.file_size({"library.so": 1000}) - 1)
    with pytest.raises(OptionError, match="folder=True"):
        container.write_file(tmp_path / "large.gp", members)
    monkeypatch.undo()
    container.write_file(tmp_path / "large.gp", members)
    assert (tmp_path / "large.gp").stat().st_size == container.file_size({"library.so": 1000})


VALUES = [None, -1, 0, 1, 2**40, 2**70, 1.5, True, "", "x", "float32", "\0", [], [[]], ["avx2"], {}, {"a": 1}]


def places(value, path=()):
    """The ways to all values in a nested structure."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_a_manifest_says_is_refused_in_words_of_ours(path, tmp_path_factory, data):
    def change(described, members):
        *way, last = data.draw(st.sampled_from([place for place in places(described) if place[0] != "kernels"]))
        inner = described
        for key in way:
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[last] = data.draw(st.sampled_from(VALUES))
        else:
            del inner[last]

    try:
        load(repacked(path, tmp_path_factory.getbasetemp() / "said.gp", change))
    except (FileFormatError, TargetError):
        pass
