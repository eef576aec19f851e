"""The GPU of this machine, asked through NVIDIA's driver alone.

```python
missing_gpu("sm_80")    # [] where code for sm_80 runs, else what is lacking, in words
```
"""

import ctypes
from functools import cache

# Numbers of the driver's attributes for the two halves of a compute capability.
_MAJOR, _MINOR = 75, 76


@cache
def compute_capability() -> tuple[int, int] | None:
    """The compute capability of the first GPU, such as `(8, 0)`; None without a driver or a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, value, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if not hasattr(driver, "cuInit"):  # the stand-in with which this process built GPU code
        return None
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    if driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    found = []
    for attribute in (_MAJOR, _MINOR):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        found.append(value.value)
    return found[0], found[1]


def missing_gpu(arch: str) -> list[str]:
    """What this machine lacks to run machine code for `arch`, in words; nothing where it can."""
    here = compute_capability()
    if here is None:
        return ["an NVIDIA GPU with its driver (libcuda.so.1)"]
    number = int(arch.removeprefix("sm_"))
    wanted = number // 10, number % 10
    # Machine code runs on its own major version, from its minor version on.
    if here[0] != wanted[0] or here[1] < wanted[1]:
        return [f"a GPU for {arch} code (its GPU has compute capability {here[0]}.{here[1]})"]
    return []
