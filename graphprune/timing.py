"""Fair timing: candidates take turns, so that a slow moment of the machine hits all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Clock = Callable[[], float]


def alternate(
    calls: Mapping[str, Callable[..., object]],
    repeats: int = 20,
    warmup: int = 3,
    clock: Clock = time.perf_counter,
    arguments: Callable[[], tuple[Any, ...]] = tuple,
    in_a_row: int = 1,
    summary: Callable[[list[float]], float] = statistics.median,
    each_turn: Callable[[int], object] = lambda turn: None,
) -> dict[str, float]:
    """Median seconds of each call over `repeats` turns.

    ```python
    medians = alternate({"dense": lambda: dense(x), "slim": lambda: slim(x)})
    ```

    `clock=time.process_time` counts processor seconds instead of wall time. `arguments()` makes the arguments of each
    single call, before its clock starts: a fresh copy for a call that changes what it is given.

    `in_a_row` is how many times a call that has its turn is timed; where that is more than once, it is called once
    before that without being timed, while the threads of its predecessor go to sleep. `summary=min` tells what a call
    takes at best instead of the median. `each_turn` is called with the number of every turn, warming up included.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + repeats):
        each_turn(turn)
        for name, call in calls.items():
            if in_a_row > 1:
                call(*arguments())
            for _ in range(in_a_row):
                given = arguments()
                start = clock()
                call(*given)
                seconds = clock() - start
                if turn >= warmup:
                    samples[name].append(seconds)
    return {name: summary(values) for name, values in samples.items()}
