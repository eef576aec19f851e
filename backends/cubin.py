"""Machine code of GPUs inside other files: finds it and says for which architectures it is.

```python
architectures(library_bytes)     # {"sm_80"}
```
"""

import struct

_MAGIC = b"\x7fELF"
_CUDA = 190  # the number of the machine "NVIDIA CUDA" in the ELF standard
_CLASS_64, _LITTLE = 2, 1
# Since CUDA 12.9 or 13 (ABI 8) the architecture moved from the first to the second byte of the flags.
_ABI_MOVED = 8


def cubins(content: bytes) -> list[bytes]:
    """Every GPU program that lies in `content`, from its first byte to the end of its section table."""
    found, start = [], content.find(_MAGIC)
    while start >= 0:
        header = content[start : start + 64]
        if len(header) == 64 and header[4] == _CLASS_64 and header[5] == _LITTLE:
            machine = struct.unpack_from("<H", header, 18)[0]
            if machine == _CUDA:
                found.append(content[start : start + _size(header)])
        start = content.find(_MAGIC, start + 4)
    return found


def architectures(content: bytes) -> set[str]:
    """The architectures, such as `sm_80`, of all GPU programs with machine code that lie in `content`."""
    return {architecture(cubin) for cubin in cubins(content) if kernels(cubin)}


def architecture(cubin: bytes) -> str:
    """For which architecture a GPU program is."""
    flags = struct.unpack_from("<I", cubin, 48)[0]
    return f"sm_{flags >> 8 & 0xFF if cubin[8] >= _ABI_MOVED else flags & 0xFF}"


def kernels(cubin: bytes) -> list[str]:
    """The names of the kernels of a GPU program that hold instructions."""
    table, size, count, names_at = struct.unpack_from("<Q", cubin, 40)[0], *struct.unpack_from("<HHH", cubin, 58)
    if table + size * count > len(cubin) or names_at >= count:
        return []
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + size * index) for index in range(count)]
    names = sections[names_at]
    found = []
    for name_at, _, _, _, _, length in sections:
        begin = names[4] + name_at
        name = cubin[begin : cubin.find(b"\0", begin)].decode(errors="replace")
        if name.startswith(".text.") and length:
            found.append(name.removeprefix(".text."))
    return sorted(found)


def _size(header: bytes) -> int:
    """Bytes of an ELF file whose section table comes last, or whose program table does."""
    programs, sections = struct.unpack_from("<QQ", header, 32)
    program_size, program_count, section_size, section_count = struct.unpack_from("<HHHH", header, 54)
    return max(programs + program_size * program_count, sections + section_size * section_count, 64)
