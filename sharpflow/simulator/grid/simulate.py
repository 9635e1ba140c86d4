"""Simulate a grid of trajectories, in memory or in a folder that survives interruptions."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax

from sharpflow.models import Problem
from sharpflow.models.arguments import COUNT, FLAG, PATH, checked, optional
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.precision import FULL, MatmulPrecision
from sharpflow.simulator import observables as recorded
from sharpflow.simulator.grid.execute import run_in_folder, run_in_memory
from sharpflow.simulator.grid.layout import DEVICES, Lanes, validated_lanes
from sharpflow.simulator.grid.points import MakeOptimizer, MakeProblem, Start
from sharpflow.simulator.grid.prepare import prepare
from sharpflow.simulator.processes import PROCESSES, Processes
from sharpflow.simulator.program import EffectiveRate
from sharpflow.simulator.rules import gdwd
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.reading import open_run

if TYPE_CHECKING:
    import xarray


@special_values_allowed()
@checked(
    devices=DEVICES,
    group_width=optional(COUNT),
    out=optional(PATH),
    resume=FLAG,
    processes=PROCESSES,
    progress=optional(FLAG),
)
def simulate_grid(
    problem: Problem | MakeProblem,
    *,
    seeds: int | Sequence[int],
    learning_rates: float | Sequence[float],
    weight_decays: float | Sequence[float],
    num_steps: int | None = None,
    tau: float | None = None,
    record_every: int | None = None,
    record_at: Sequence[int] | None = None,
    num_records: int | None = None,
    observables: str | recorded.Observable | Sequence[str | recorded.Observable] = recorded.DEFAULT,
    snapshot_every: int | None = None,
    final_params: bool = False,
    optimizer: MakeOptimizer = gdwd,
    start: Start | None = None,
    axes: Mapping[str, Sequence] | None = None,
    effective_learning_rate: EffectiveRate | None = None,
    matmul_precision: MatmulPrecision = FULL,
    devices: Sequence[jax.Device] | None = None,
    group_width: int | None = None,
    lanes: Lanes | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    progress: bool | None = None,
) -> "xarray.Dataset":
    """Simulate every point of a grid of seeds, learning rates and weight decays.

    The points are compiled together, with their hyperparameters as arguments, spread over
    all devices and run chunk by chunk. One that diverges is frozen and changes no bit of the
    others; one that is done makes room for the next.

    Args:
      problem: what to train; or a function of some of ``axes`` that makes it. Problems that
        differ in their data alone are compiled together and run side by side. All problems
        are made before the first is traced: what differs between them goes into their data
        or into closures of their own, not into one object that the function changes.
      seeds: integers; a point starts from ``problem.init(jax.random.key(seed))``.
      learning_rates, weight_decays: η and λ; one value or several, as ``seeds``.
      num_steps, tau: updates of every point; or their flow time, for which a point makes
        tau/(ηλ) of them. One of the two.
      record_every, record_at, num_records: steps from a record to the next, by default 1;
        or the steps to record; or how many records each point makes, evenly spaced. The
        last gives a dimension ``record`` in place of ``step``, which is then a coordinate.
      observables: as in ``simulate``.
      snapshot_every: records from a snapshot of the params to the next; none by default.
      final_params: whether the last params are kept.
      optimizer: (learning_rate, weight_decay, **others) -> optax transformation; called with
        traced values.
      start: (key, learning_rate, weight_decay, **others) -> params, in place of
        ``problem.init``; called with numbers.
      axes: further axes by name. A value reaches those of ``problem``, ``start`` and
        ``optimizer`` that take a keyword of this name.
      effective_learning_rate, matmul_precision: as in ``simulate``.
      devices: all of this process by default.
      group_width: points that an update takes together by ``vmap``; chosen from memory and
        a short timing by default.
      lanes: ``"side_by_side"`` fills an accelerator with points that go on together,
        ``"in_turn"`` is how a core runs them one after the other; by default as suits the
        devices. Both give the same numbers up to rounding. A run that is resumed keeps those
        that it was begun with unless others are given here, which it warns of and notes.
      out: folder for the run; by default the result is kept in memory only.
      resume: go on with the run in ``out``; begin it where there is none.
      processes: what ``join_processes`` returned, where several share the grid.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      A dataset with dimensions (seed, learning_rate, weight_decay, any others, step), NaN
      after a point has ended. ``status`` says how each ended, ``final_step`` when, ``tau`` is
      the flow time. With ``out``, values are read from the folder when they are used.

    Raises:
      ValueError: an argument that cannot be used.
      RunError: a ValueError: the folder holds another run, or cannot be used.
      RunLockedError: another process is writing to ``out``.
      StorageError: the disk did not take what had to be written; resume later.
      Interrupted: a signal asked to stop a run with a folder; it can be resumed.
    """
    lanes = validated_lanes(lanes)
    group_width = None if group_width is None else int(group_width)
    run = None if out is None else RunFolder.at(out)
    grid = prepare(
        problem,
        seeds=seeds,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        axes=axes,
        num_steps=num_steps,
        tau=tau,
        record_every=record_every,
        record_at=record_at,
        num_records=num_records,
        observables=observables,
        snapshot_every=snapshot_every,
        final_params=final_params,
        optimizer=optimizer,
        start=start,
        effective_learning_rate=effective_learning_rate,
        matmul_precision=matmul_precision,
    )
    used = tuple(jax.local_devices() if devices is None else devices)
    if run is None:
        if resume or processes is not None:
            raise ValueError("resume and processes need a folder: give out as well")
        return run_in_memory(grid, used, group_width, lanes, progress)
    together = Processes() if processes is None else processes
    run_in_folder(grid, run, together, used, group_width, lanes, resume, progress)
    return open_run(run)
