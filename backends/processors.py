"""Which processors this process may use, and how many threads are worth having."""

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def processors() -> list[int]:
    """The numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def default_threads() -> int:
    """`TVM_NUM_THREADS` if it is set; otherwise one thread per core that this process may use.

    Logical processors of one core count once: they share its vector units. In a container with a quota no more than the
    quota allows.
    """
    wanted = os.environ.get("TVM_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    cores = {_core(number) for number in processors()}
    return max(1, min(len(cores), _quota()))


def _core(number: int) -> tuple[str, str]:
    """What the logical processors of one core have in common."""
    topology = _CPUS / f"cpu{number}" / "topology"
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return "", str(number)


def _quota() -> int:
    """How many processors' time the container may use; many where there is no limit."""
    try:
        limit, period = _QUOTA.read_text().split()
        return max(1, int(limit) // int(period))
    except (OSError, ValueError):
        return os.cpu_count() or 1
