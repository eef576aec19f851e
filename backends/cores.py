"""What a processor core does in a cycle, as far as the choice of kernels depends on it: data, no code.

Sources of the ARM figures: the Software Optimization Guides that Arm publishes for Cortex-A72, Cortex-A76, Neoverse N1
and Neoverse V1 (pipelines, latencies), the scheduling model of LLVM for Cortex-A72 (one multiply-add of a whole vector
per cycle: its two pipelines are 64 bits wide), and the Technical Reference Manuals (sizes of caches). How fast vectors
come from the second-level cache is an estimate.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Core:
    """One kind of core.

    `products` and `loads` are vectors per cycle: multiplied and added, loaded. `latency` is the number of cycles until
    a sum can be added to again, `weight` the cycles that a vector takes from the second-level cache, and
    `second_level` the bytes of one operand that stay there beside everything else. `direct` is the share of the peak
    that direct convolutions reach, `memory` the bytes per cycle at which one core reads weights that nobody has touched
    since the last call, and `start` the cycles before the first product of a position of Winograd's algorithm.

    ```python
    CORTEX_A72.products * 4 * 2     # floating-point operations per cycle: 8
    ```
    """

    products: float
    loads: float
    latency: float
    weight: float
    second_level: int
    direct: float = 0.93
    memory: float = 5.0
    start: float = 12.0


# What the x86 schedules were measured on: 512-bit servers of Intel.
SERVER = Core(products=2, loads=2, latency=4, weight=1.6, second_level=1 << 20, direct=0.76)
# Fitted to kernels on an AMD EPYC of the fifth generation, whose memory keeps up with more.
ZEN5 = replace(SERVER, memory=7.5, start=100)
CORTEX_A72 = Core(products=1, loads=1, latency=7, weight=1, second_level=1 << 19)
CORTEX_A76 = Core(products=2, loads=2, latency=4, weight=0.5, second_level=1 << 18)
NEOVERSE_N1 = Core(products=2, loads=2, latency=4, weight=0.5, second_level=1 << 19)
NEOVERSE_V1 = Core(products=4, loads=3, latency=4, weight=0.5, second_level=1 << 19)
