"""Where the points of a sweep are computed: one after another, in processes of this machine, or over a Ray cluster."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .errors import OptionError, SweepError

Task = Callable[[Any], Any]
Executor = Callable[[Task, Sequence[Any], int | None], Iterator[Any]]
"""`executor(task, points, workers)` yields `task(point)` of every point, in the order in which they finish."""


def serial(task: Task, points: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
    """One point after another, in this process."""
    return map(task, points)


def processes(task: Task, points: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
    """In `workers` processes of this machine (default: one per processor); joblib starts them.

    The task may be a lambda or stand in a notebook. Raises `SweepError` where a process dies or a task cannot be sent.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool, TerminatedWorkerError

    pool = Parallel(n_jobs=workers or -1, return_as="generator_unordered", pre_dispatch="1 * n_jobs", batch_size=1)
    try:
        yield from pool(delayed(task)(point) for point in points)
    except TerminatedWorkerError as error:
        raise SweepError(
            "a process of the sweep was ended from outside, perhaps because memory ran out: use fewer workers=. What "
            "was finished is in the file of results"
        ) from error
    except (BrokenProcessPool, TypeError, AttributeError) as error:  # what unpickling and pickling raise, of all things
        raise SweepError(_unsendable(error.__cause__ or error)) from error
    except Exception as error:
        if "pickl" in type(error).__name__.lower():
            raise SweepError(_unsendable(error)) from error
        raise


def over_ray(task: Task, points: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
    """On a Ray cluster, at most `workers` at the same time (default: as many as it has processors).

    The cluster is the one that ray is connected to, or that `RAY_ADDRESS` names; else one of this machine is started,
    with `workers` processors, and stopped in the end. Raises `SweepError` where ray is missing, a worker fails, or the
    task cannot be sent.
    """
    try:
        import ray
    except ImportError as error:
        raise SweepError("executor='ray' needs the package ray: pip install 'graphprune[ray]'") from error
    own = not ray.is_initialized()
    if own:
        local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(configure_logging=False, log_to_driver=False, **local)
    try:
        try:
            sent = ray.put(task)
        except (TypeError, AttributeError) as error:
            raise SweepError(_unsendable(error)) from error
        remote = ray.remote(num_cpus=1, max_retries=1)(_call)
        most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        left, running = list(reversed(points)), list[Any]()
        while left or running:
            running += [remote.remote(sent, left.pop()) for _ in range(min(most - len(running), len(left)))]
            (done, *_), running = ray.wait(running)
            yield _result(ray, done)
    finally:
        if own:
            ray.shutdown()


def _call(task: Task, point: Any) -> Any:
    return task(point)


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        raise SweepError(
            f"a worker of the ray cluster failed: {first}. Every machine needs graphprune, and enough memory. What was "
            "finished is in the file of results"
        ) from error


def _unsendable(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip('" ')] or [type(error).__name__]
    return (
        f"the model, its score or its data cannot be sent to another process: {lines[-1]}. Use executor='serial', or "
        "build what cannot be sent (files, sockets, generators) inside the score function; what it imports must be "
        "there, too"
    )


EXECUTORS: dict[str, Executor] = {"serial": serial, "processes": processes, "ray": over_ray}
"""Name -> how points are computed."""


def executor_of(name: str, workers: int | None) -> Executor:
    """An executor by name. Raises `OptionError` for others, and for numbers of workers that are none."""
    if name not in EXECUTORS:
        raise OptionError(f"executor={name!r}: choose one of {', '.join(EXECUTORS)}")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise OptionError(f"workers={workers!r} must be a positive whole number")
    return EXECUTORS[name]
