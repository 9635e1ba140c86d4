"""The grids that are killed and resumed here, short and cut into many chunks."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

import sharpflow as sf
from sharpflow.models.problem import Params, Problem
from sharpflow.simulator import Moment, Observable
from sharpflow.simulator.grid import engine

Arguments = dict[str, Any]


@cache
def circle(target: float = 0.6, floor: float = 0.0) -> Problem:
    """Two parameters that are sent towards a direction; below a squared norm L is infinite."""

    def residual(params: jax.Array) -> jax.Array:
        norm_squared = jnp.vdot(params, params)
        theta = params / jnp.sqrt(norm_squared)
        away = theta - jnp.array([target, 0.8], params.dtype)
        return jnp.where(norm_squared < floor, jnp.inf, away)

    return Problem(
        init=lambda key: jax.random.normal(key, (2,)),
        residual=residual,
        metrics={"angle": lambda params: jnp.arctan2(params[1], params[0])},
    )


def short() -> Arguments:
    """Two points and one column."""
    return {
        "problem": circle(),
        "seeds": [0, 1],
        "learning_rates": 0.1,
        "weight_decays": 0.01,
        "num_steps": 60,
        "record_every": 5,
        "observables": ("loss",),
    }


def every_kind() -> Arguments:
    """All that a run can hold: batches, flow time, snapshots, memories, one that diverges."""
    return {
        "problem": partial(circle, floor=0.38),
        "axes": {"target": [0.6, -0.3]},
        "seeds": [0, 3],
        "learning_rates": [0.2, 0.4],
        "weight_decays": 0.02,
        "tau": 0.5,
        "num_records": 11,
        "observables": ("loss", "loss_mean", "metrics", swing()),
        "snapshot_every": 2,
        "final_params": True,
    }


def network() -> Arguments:
    """A small network with its sharpness, snapshots and flow time."""
    problem = sf.models.mlp(*sf.models.digits(8, classes=(0, 1, 2)), widths=(6, 6))
    return {
        "problem": problem,
        "seeds": [0, 1, 2],
        "learning_rates": [0.3, 0.6],
        "weight_decays": [0.02],
        "tau": 2.0,
        "num_records": 25,
        "observables": ("loss", "loss_mean", "threshold", "sharpness_iterate"),
        "snapshot_every": 5,
        "final_params": True,
    }


def swing() -> Observable:
    """How far the loss swung from record to record so far; remembers and looks back."""

    def memory(params: Params) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros((), params.dtype), jnp.zeros((), jnp.int32)

    def compute(moment: Moment, memory: tuple) -> tuple[dict[str, jax.Array], tuple]:
        moved = jnp.sum(jnp.abs(moment.params - moment.previous)) + moment.loss
        total, count = memory[0] + moved, memory[1] + 1
        return {"swing": total / count.astype(total.dtype)}, (total, count)

    return Observable("swing", compute, needs_previous=True, memory=memory)


SCENARIOS: Mapping[str, Callable[[], Arguments]] = {
    "short": short,
    "every_kind": every_kind,
    "network": network,
}


def cut_short(
    set_attribute: Callable[[Any, str, Any], object], *, pieces: int = 2, rows: int = 4
) -> None:
    """Make chunks of few rows and split records, as a long run would, whatever the machine."""
    set_attribute(engine, "num_pieces", lambda largest_gap, seconds: min(pieces, largest_gap))
    set_attribute(engine, "chunk_rows", lambda num_rows, seconds, aligned: min(rows, num_rows))


def differences(found: xarray.Dataset, expected: xarray.Dataset) -> list[str]:
    """The variables whose bits, names of dimensions or attributes differ."""
    wrong = sorted(set(found.variables) ^ set(expected.variables))
    for name in set(found.variables) & set(expected.variables):
        ours, theirs = found[name], expected[name]
        if (ours.dims, ours.shape, ours.attrs) != (theirs.dims, theirs.shape, theirs.attrs):
            wrong.append(f"{name}: {ours.dims}, {ours.shape}, {ours.attrs}")
        elif not _same_bits(np.asarray(ours), np.asarray(theirs)):
            wrong.append(name)
    return wrong


def _same_bits(ours: np.ndarray, theirs: np.ndarray) -> bool:
    if ours.dtype.kind in "OUT":
        return list(ours.ravel()) == list(theirs.ravel())
    return ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()
