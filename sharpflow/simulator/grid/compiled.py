"""A chunk of lanes, compiled for each device and run on all of them at once."""

import collections
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from sharpflow.simulator.loop import Rows, padded_rows, run_rows
from sharpflow.simulator.program import Program


class Job(Protocol):
    """Something to run on a device.

    Attributes:
      device: index of the device that holds its state, or None.
    """

    device: int | None


class CompiledChunk:
    """``run_rows`` over a group of lanes, compiled for every device by itself.

    One program for several devices would be compiled by other rules than one for a single
    device, and round otherwise. So that a point has the same bits however many devices
    there are, each runs the program that ``simulate`` runs.

    Args:
      program: what the loop does.
      devices: of this process.
      num_rows: R, most rows of a chunk.
      state, hyperparameters: of a group, with a leading axis of lanes.

    Attributes:
      memory_bytes: what a device holds while a chunk of a group runs.
    """

    def __init__(
        self,
        program: Program,
        devices: Sequence[jax.Device],
        num_rows: int,
        state: Any,
        hyperparameters: Any,
    ) -> None:
        self.num_rows = num_rows
        self.width = int(state.step.shape[0])
        self._shardings = [SingleDeviceSharding(device) for device in devices]
        chunk = jax.jit(partial(run_rows, program), donate_argnums=0)
        resting = self.rows(np.zeros((1, self.width), np.int32))

        def lowered(sharding: SingleDeviceSharding) -> Any:
            arguments = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                (state, hyperparameters, resting),
            )
            return chunk.lower(*arguments)

        # traced here: jax's settings of a context hold in one thread only
        programs = [lowered(sharding) for sharding in self._shardings]
        with ThreadPoolExecutor(len(devices)) as pool:
            self._compiled = list(pool.map(lambda program: program.compile(), programs))
        found = self._compiled[0].memory_analysis()
        self.memory_bytes = 0 if found is None else found.peak_memory_in_bytes

    @property
    def num_devices(self) -> int:
        """How many it was compiled for."""
        return len(self._shardings)

    def rows(
        self,
        gaps: np.ndarray,
        observe: np.ndarray | bool = True,
        snapshot: np.ndarray | bool = False,
    ) -> Rows:
        """Rows of a group, padded to R.

        Args:
          gaps: shape (r, width).
          observe, snapshot: shapes (r,) and (r, width), or one flag for all.
        """
        return padded_rows(gaps, observe, snapshot, self.num_rows)

    def place(self, tree: Any, device: int) -> Any:
        """Arrays of a group on a device."""
        return jax.device_put(tree, self._shardings[device])

    def run(self, device: int, state: Any, hyperparameters: Any, rows: Rows) -> tuple:
        """Run a chunk on the device where ``state`` is; its buffers are reused.

        Returns:
          As ``run_rows``.
        """
        return self._compiled[device](state, hyperparameters, self.place(rows, device))

    def spread(self, jobs: Sequence[Job], work: Callable[[Any, int], None]) -> None:
        """Call ``work(job, device)`` for all jobs, each device taking one after the other.

        A device takes the jobs whose state it holds before those of others.
        """
        waiting = collections.deque(jobs)
        lock = threading.Lock()

        def take(device: int) -> Any:
            with lock:
                if not waiting:
                    return None
                own = (job for job in waiting if job.device in (device, None))
                job = next(own, waiting[-1])
                waiting.remove(job)
                return job

        def serve(device: int) -> None:
            while (job := take(device)) is not None:
                work(job, device)

        if self.num_devices == 1:
            serve(0)
            return
        with ThreadPoolExecutor(self.num_devices) as pool:
            for ended in [pool.submit(serve, device) for device in range(self.num_devices)]:
                ended.result()


def stacked(trees: Sequence[Any]) -> Any:
    """States or hyperparameters of single points side by side, as numpy arrays."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)
