"""Work spread over the machines of a Ray cluster by Ray Data, with errors that say what is wrong on which machine."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pandas as pd

from .extras import check_installed

#: packages whose version may change what a worker computes
COMPARED = ("pyterrier_expandr", "torch", "transformers")


@dataclass(frozen=True)
class Cluster:
    """Which cluster does the work, and what each worker takes of it.

    Args:
        address: `HOST:PORT` of the cluster's head, `ray://HOST:PORT` from outside, or "auto" for the one that this
            machine belongs to; None starts Ray on this machine alone. A process that is connected already stays so.
        workers: number of workers, each with a model of its own; None takes as many as fit.
        num_cpus, num_gpus: what a worker occupies, as Ray counts it.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> Cluster("auto", num_gpus=1).num_cpus
        1
    """

    address: str | None = None
    workers: int | None = None
    num_cpus: float = 1
    num_gpus: float = 0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be 1 or more, got {self.workers}")
        if self.num_cpus < 0 or self.num_gpus < 0 or not self.num_cpus + self.num_gpus:
            raise ValueError(f"a worker needs CPUs or GPUs, got num_cpus={self.num_cpus}, num_gpus={self.num_gpus}")

    def connect(self) -> Any:
        """The module `ray`, connected.

        Raises:
            ImportError: Ray is not installed. ConnectionError: no cluster answers at the address.
        """
        check_installed("a Ray cluster", "ray", "ray")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unasked
        import ray

        if not ray.is_initialized():
            try:
                ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConnectionError(
                    f"no Ray cluster answers at {self.address!r}: start one with `ray start --head`, or give no "
                    f"address to use this machine alone ({str(error).splitlines()[0]:.200})"
                ) from error
        return ray

    def spread(self, rows: Sequence[dict[str, Any]], worker: type, about: tuple[Any, ...], size: int) -> Iterator[Any]:
        """What the workers make of `rows`, as frames, in the order in which they are ready.

        Consecutive `size` rows go to a worker as one frame; a worker is `worker(*about)`, called with the frame. One
        that has not enough memory for a frame takes it in halves. Work that was under way on a worker or a machine that
        died is done again.

        Raises:
            RuntimeError: what a worker raised, with its machine; a machine with other versions; workers for which no
                machine has room.
        """
        ray = self.connect()
        from ray.data import ActorPoolStrategy, DataContext

        self._check_room(ray)
        DataContext.get_current().enable_progress_bars = False
        frames = [pd.DataFrame(rows[start : start + size]) for start in range(0, len(rows), size)]
        made = ray.data.from_blocks(frames).map_batches(
            Guarded,
            fn_constructor_args=(worker, about, versions()),
            batch_size=None,  # a block is a batch, so that the batches do not depend on the cluster
            batch_format="pandas",
            compute=ActorPoolStrategy(min_size=1, max_size=min(len(frames), self.workers or len(frames))),
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
        )
        for frame in made.iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=0):
            if "error" in frame:
                raise RuntimeError(f"a Ray worker on {frame['error'].iloc[0]}")
            yield frame

    def _check_room(self, ray: Any) -> None:
        """Refuse workers that would wait for ever."""
        most = {name: max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
                for name in ("CPU", "GPU")}  # fmt: skip
        for name, wanted in (("CPU", self.num_cpus), ("GPU", self.num_gpus)):
            if wanted > most[name]:
                raise RuntimeError(
                    f"a worker wants {wanted:g} {name}s, but no machine of the Ray cluster has more than "
                    f"{most[name]:g}: lower num_{name.lower()}s"
                )


class Guarded:
    """A worker whose errors come back as a frame, since Ray would repeat or wrap what it raises."""

    def __init__(self, worker: type, about: tuple[Any, ...], driver: dict[str, str]) -> None:
        self.worker: Any = None
        try:
            check_versions(driver)
            self.worker = worker(*about)
        except Exception as error:
            self.failure = _said(error)

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """What the worker makes of the frame, or `[error]`."""
        if self.worker is None:
            return self.failure
        try:
            return self._in_memory(frame)
        except Exception as error:
            return _said(error)

    def _in_memory(self, frame: pd.DataFrame) -> pd.DataFrame:
        try:
            return self.worker(frame)
        except (MemoryError, RuntimeError) as error:
            if len(frame) == 1 or not (isinstance(error, MemoryError) or "out of memory" in str(error)):
                raise
            half = len(frame) // 2
            return pd.concat([self._in_memory(frame.iloc[:half]), self._in_memory(frame.iloc[half:])])


def _said(error: Exception) -> pd.DataFrame:
    return pd.DataFrame({"error": [f"{platform.node()} failed: {type(error).__name__}: {error}"]})


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide what a worker computes."""
    return {"Python": ".".join(platform.python_version_tuple()[:2])} | {name: version(name) for name in COMPARED}


def check_versions(driver: dict[str, str]) -> None:
    """Refuse to work on a machine whose versions differ from those of the process that started the run.

    Raises:
        RuntimeError: they differ; both are named.

    Example:
        >>> check_versions(versions())
    """
    here = versions()
    if different := [f"{name} {driver[name]} there, {here[name]} here" for name in here if here[name] != driver[name]]:
        raise RuntimeError(
            f"the machine that started the run has other versions: {'; '.join(different)}. Install the same on all"
        )
