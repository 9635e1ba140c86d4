"""Chunks of lanes: by jit for a single trajectory, and compiled for every device of a grid."""

import collections
import dataclasses
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from sharpflow.models import Problem
from sharpflow.models.precision import compiled
from sharpflow.simulator.loop import ChunkRows, padded_rows, run_chunk, run_rows
from sharpflow.simulator.program import Program


class Job(Protocol):
    """Something to run on a device.

    Attributes:
      device: index of the device that holds its state, or None.
    """

    device: int | None


class Chunk:
    """``run_rows`` over one lane, compiled by jit where its arrays lie.

    Jit keeps what it compiled, so that another trajectory of an equal program compiles nothing.

    Args:
      program: what the loop does, with the data of one problem.
      num_rows: R, most rows of a chunk.

    Attributes:
      num_devices: that groups may be on.
    """

    num_devices = 1

    def __init__(self, program: Program, num_rows: int) -> None:
        self._program, self.num_rows = program, num_rows

    def rows(
        self,
        gaps: np.ndarray,
        observe: np.ndarray | bool = True,
        snapshot: np.ndarray | bool = False,
    ) -> ChunkRows:
        """Rows of a group, padded to R.

        Args:
          gaps: shape (r, width).
          observe, snapshot: shapes (r,) and (r, width), or one flag for all.
        """
        return padded_rows(gaps, observe, snapshot, self.num_rows)

    def place(self, tree: Any, device: int) -> Any:
        """Arrays of a group on a device; here as they are."""
        return tree

    def program(self, device: int, problems: Sequence[Problem]) -> Program:
        """The program with the problems of a group's lanes, on a device.

        Args:
          device: index of the device.
          problems: of the lanes; all are the same unless lanes have data of their own.
        """
        return self._program

    def run(
        self, device: int, program: Program, state: Any, hyperparameters: Any, rows: ChunkRows
    ) -> tuple:
        """Run a chunk on the device where ``program`` and ``state`` are; the state is reused.

        Returns:
          As ``run_rows``.
        """
        return run_chunk(program, state, hyperparameters, rows)

    def spread(self, jobs: Sequence[Job], work: Callable[[Any, int], None]) -> None:
        """Call ``work(job, device)`` for all jobs, each device taking one after the other."""
        for job in jobs:
            work(job, 0)


class CompiledChunk(Chunk):
    """``run_rows`` over a group of lanes, compiled for every device by itself.

    One program for several devices would be compiled by other rules than one for a single
    device, and round otherwise. So that a point has the same bits however many devices
    there are, each runs the program that ``simulate`` runs. A problem whose own data are spread
    over several devices has one program for all of them.

    Args:
      program: what the loop does, with the data of one problem.
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
        super().__init__(program, num_rows)
        self.width = int(state.step.shape[0])
        self._spread = _spread_over(program)
        self._shardings: list[Sharding] = (
            [SingleDeviceSharding(device) for device in devices]
            if self._spread is None
            else [self._spread]
        )
        self.num_devices = len(self._shardings)
        # programs on devices: kept as long as a group uses them
        self._placed: weakref.WeakValueDictionary[tuple, Program] = weakref.WeakValueDictionary()
        self._placing = threading.Lock()
        # The state is given away, so that it is in memory once and not twice; of a large network
        # that decides how many points fit.
        chunk = compiled(run_rows, donate_argnames=("state",))
        resting = self.rows(np.zeros((1, self.width), np.int32))

        def lowered(sharding: Sharding) -> Any:
            def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
                return _shape(leaf, sharding)

            arguments = jax.tree.map(abstract, (state, hyperparameters, resting))
            return chunk.lower(self._abstract(abstract), *arguments)

        # traced here: jax's settings of a context hold in one thread only
        programs = [lowered(sharding) for sharding in self._shardings]
        with ThreadPoolExecutor(len(self._shardings)) as pool:
            self._compiled = list(pool.map(lambda program: program.compile(), programs))
        # Of the first device, because all run the same program.
        analysis = self._compiled[0].memory_analysis()
        self.memory_bytes = 0 if analysis is None else analysis.peak_memory_in_bytes

    def _abstract(self, abstract: Callable[[Any], jax.ShapeDtypeStruct]) -> Program:
        """Shapes and places of the program's arrays."""
        if self._spread is not None:
            return jax.tree.map(lambda leaf: _shape(leaf, self._spread_place(leaf)), self._program)
        program = jax.tree.map(abstract, self._program)
        if not self._program.own_data:
            return program
        problem = jax.tree.map(
            lambda leaf: _shape(leaf, leaf.sharding, self.width), program.problem
        )
        return dataclasses.replace(program, problem=problem)

    def _spread_place(self, leaf: jax.Array) -> Sharding:
        """Where an array of a problem lies that is spread over devices: there, or whole on each."""
        assert self._spread is not None
        return leaf.sharding if len(leaf.sharding.device_set) > 1 else self._spread

    def program(self, device: int, problems: Sequence[Problem]) -> Program:
        """As of ``Chunk``; one copy of the data for all groups on the device."""
        if self._program.own_data:
            placed = [jax.device_put(one, self._shardings[device]) for one in problems]
            stacked_problem = jax.tree.map(lambda *leaves: jnp.stack(leaves), *placed)
            rule = jax.device_put(self._program.rule, self._shardings[device])
            return dataclasses.replace(self._program, problem=stacked_problem, rule=rule)
        # By identity, which is safe because the batch holds its problems for as long as the chunk
        # is used.
        key = device, id(problems[0])
        with self._placing:  # one copy of the data, however many groups ask for it at once
            placed_program = self._placed.get(key)
            if placed_program is None:
                placed_program = dataclasses.replace(self._program, problem=problems[0])
                places: Any = self._shardings[device]
                if self._spread is not None:
                    places = jax.tree.map(self._spread_place, placed_program)
                placed_program = jax.device_put(placed_program, places)
                self._placed[key] = placed_program
        return placed_program

    def place(self, tree: Any, device: int) -> Any:
        """Arrays of a group on a device."""
        return jax.device_put(tree, self._shardings[device])

    def run(
        self, device: int, program: Program, state: Any, hyperparameters: Any, rows: ChunkRows
    ) -> tuple:
        """As of ``Chunk``, by the program that was compiled for this device."""
        return self._compiled[device](program, state, hyperparameters, self.place(rows, device))

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
                # From the end where none is its own: the first in the queue are those that other
                # devices come for next.
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


def _spread_over(program: Program) -> NamedSharding | None:
    """All devices that a problem's own data are spread over, whole on each; None for one."""
    for leaf in jax.tree.leaves(program.problem):
        if len(leaf.sharding.device_set) > 1:
            return NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return None


def _shape(leaf: Any, place: Sharding, *leading: int) -> jax.ShapeDtypeStruct:
    """An array's shape, dtype and place; a Python number among the data adapts to other dtypes."""
    weak = getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct((*leading, *leaf.shape), leaf.dtype, sharding=place, weak_type=weak)


def stacked(trees: Sequence[Any]) -> Any:
    """States or hyperparameters of single points side by side, as numpy arrays."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)
