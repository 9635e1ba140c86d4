"""What can be recorded along a trajectory, by name."""

from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array

from sharpflow.models.arguments import Kind, shown
from sharpflow.simulator.moment import Moment, Observable
from sharpflow.simulator.sharpness import (
    PLACES,
    hessian_sharpness,
    preconditioned_sharpness,
    sharpness,
)
from sharpflow.theory import threshold


def _loss(moment: Moment) -> Array:
    return moment.loss


def _norm_squared(moment: Moment) -> Array:
    return jnp.square(optax.tree.norm(moment.params))


def _gradient_norm(moment: Moment) -> Array:
    return optax.tree.norm(moment.gradient)


def _effective_learning_rate(moment: Moment) -> Array:
    assert moment.effective_learning_rate is not None
    return moment.effective_learning_rate


def _threshold(moment: Moment) -> Array:
    assert moment.effective_learning_rate is not None
    return threshold(moment.effective_learning_rate)


def _metrics(moment: Moment) -> dict[str, Array]:
    return {name: metric(moment.params) for name, metric in moment.problem.metrics.items()}


BUILT_IN: dict[str, Observable] = {
    "loss": Observable("loss", _loss),
    "norm_squared": Observable("norm_squared", _norm_squared),
    "gradient_norm": Observable("gradient_norm", _gradient_norm),
    "effective_learning_rate": Observable(
        "effective_learning_rate", _effective_learning_rate, needs_rule=True
    ),
    "threshold": Observable("threshold", _threshold, needs_rule=True),
    "metrics": Observable("metrics", _metrics),
    "sharpness_iterate": sharpness(),
    "sharpness_midpoint": sharpness(at="midpoint"),
    "sharpness_manifold": sharpness(at="manifold"),
    "hessian_sharpness": hessian_sharpness(),
    "preconditioned_sharpness": preconditioned_sharpness(),
}

# Averages over the steps from one record to the next; the loop keeps them.
RUNNING = ("loss_mean", "loss_rises")

# Every column of sharpflow's own. Whoever reads a dataset takes them for what they are called,
# also where they were not asked for, so that nobody else may use the names. ``edge_ratio`` stands
# for the one of the three that is nearest to theory.
STANDARD = frozenset(
    {
        *(BUILT_IN.keys() - {"metrics"}),
        *RUNNING,
        *(f"edge_ratio_{place}" for place in PLACES),
        *("edge_ratio", "stability_line"),
    }
)

_OWN_FUNCTIONS = frozenset(seen.compute for name, seen in BUILT_IN.items() if name != "metrics")
_OWN_KINDS = frozenset(type(compute) for compute in _OWN_FUNCTIONS) - {type(_loss)}

DEFAULT = ("loss", "norm_squared", "effective_learning_rate", "threshold", *RUNNING)


OBSERVABLES = Kind(
    "a sequence of names and of sharpflow.simulator.Observables",
    lambda value: isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes)),
)


def resolve(
    requested: str | Observable | Sequence[str | Observable],
) -> tuple[tuple[Observable, ...], tuple[str, ...]]:
    """Observables and running averages, from names and ``Observable``s.

    Args:
      requested: one of both, or a sequence.

    Returns:
      The observables, and the names of the running averages.

    Raises:
      ValueError: an unknown or repeated name.
    """
    observables: list[Observable] = []
    running: list[str] = []
    for item in (requested,) if isinstance(requested, (str, Observable)) else requested:
        if isinstance(item, Observable):
            observables.append(item)
        elif isinstance(item, str) and item in RUNNING:
            running.append(item)
        elif isinstance(item, str) and item in BUILT_IN:
            observables.append(BUILT_IN[item])
        else:
            raise ValueError(
                f"observables names {shown(item)}; known are {sorted([*BUILT_IN, *RUNNING])}, or "
                "pass a sharpflow.simulator.Observable"
            )
    # two of somebody else's may share a name that no column has
    names = [seen.name for seen in observables if makes_standard_columns(seen)] + running
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"observables names {sorted(repeated)} more than once")
    return tuple(observables), tuple(running)


def makes_standard_columns(observable: Observable) -> bool:
    """Whether an observable is one of sharpflow's own, with the columns that it is known for.

    Args:
      observable: any, with whatever options.
    """
    compute = observable.compute
    return type(compute) in _OWN_KINDS or (
        isinstance(compute, type(_loss)) and compute in _OWN_FUNCTIONS
    )
