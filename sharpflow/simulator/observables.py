"""What can be recorded along a trajectory, by name."""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from sharpflow.models.arguments import Kind, nearest, shown
from sharpflow.simulator.moment import Moment, Observable
from sharpflow.simulator.quantity import Quantity, by_name
from sharpflow.simulator.sharpness import (
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


def _step_angle(moment: Moment) -> Array:
    norms = optax.tree.norm(moment.params), optax.tree.norm(moment.following)
    chord = jax.tree.map(
        lambda before, after: after / norms[1] - before / norms[0],
        moment.params,
        moment.following,
    )
    # By the chord between the unit vectors: the arccosine of their product would lose all angles
    # below 1e-8, and in float32 those below 3e-4, which a step at a small ηλ is.
    return 2.0 * jnp.arcsin(jnp.minimum(0.5 * optax.tree.norm(chord), 1.0))


def _metrics(moment: Moment) -> dict[str, Array]:
    return {name: metric(moment.params) for name, metric in moment.problem.metrics.items()}


BUILT_IN: dict[str, Observable] = {
    "loss": Observable(
        "loss",
        _loss,
        quantities=[
            Quantity(
                "loss",
                "training loss L",
                "The training loss of the full batch before update t, L(wₜ).",
                unit="1",
                symbol="L",
                scale="log",
            )
        ],
    ),
    "norm_squared": Observable(
        "norm_squared",
        _norm_squared,
        quantities=[
            Quantity(
                "norm_squared",
                "squared norm ‖w‖²",
                "The squared Euclidean norm of all parameters, ‖wₜ‖².",
                unit="1",
                symbol="‖w‖²",
                scale="log",
            )
        ],
    ),
    "gradient_norm": Observable(
        "gradient_norm",
        _gradient_norm,
        quantities=[
            Quantity(
                "gradient_norm",
                "gradient norm ‖∇L(w)‖",
                "The Euclidean norm of the gradient of the training loss, ‖∇L(wₜ)‖.",
                unit="1",
                symbol="‖∇L(w)‖",
                scale="log",
            )
        ],
    ),
    "effective_learning_rate": Observable(
        "effective_learning_rate",
        _effective_learning_rate,
        needs_rule=True,
        assumes_invariance=True,
        quantities=[
            Quantity(
                "effective_learning_rate",
                "effective learning rate η̃",
                "The step size that the direction w/‖w‖ feels, for gradient descent with weight "
                "decay η̃ₜ = η/((1 − ηλ)‖wₜ‖²); of a loss that is not scale-invariant the one that "
                "w itself feels, η/(1 − ηλ/2).",
                unit="1",
                symbol="η̃",
                scale="log",
            )
        ],
    ),
    "threshold": Observable(
        "threshold",
        _threshold,
        needs_rule=True,
        assumes_invariance=True,
        quantities=[
            Quantity(
                "threshold",
                "threshold λ*",
                "The sharpness at which gradient descent is marginally stable, λ* = 2/η̃ₜ.",
                unit="1",
                symbol="λ*",
                scale="log",
            )
        ],
    ),
    "step_angle": Observable(
        "step_angle",
        _step_angle,
        quantities=[
            Quantity(
                "step_angle",
                "angle of a step ∠(wₜ, wₜ₊₁)",
                "The angle in radians by which update t turns the parameters, that between wₜ and "
                "wₜ₊₁.",
                unit="rad",
                symbol="∠(wₜ, wₜ₊₁)",
                scale="log",
            )
        ],
    ),
    "metrics": Observable("metrics", _metrics),
    "sharpness_iterate": sharpness(),
    "sharpness_midpoint": sharpness(at="midpoint"),
    "sharpness_manifold": sharpness(at="manifold"),
    "hessian_sharpness": hessian_sharpness(),
    "preconditioned_sharpness": preconditioned_sharpness(),
}

# Averages over the steps from one record to the next; the loop keeps them.
RUNNING = by_name(
    Quantity(
        "loss_mean",
        "mean training loss L̄",
        "The mean of the training loss L(wₛ) over the steps s from this record to the next.",
        unit="1",
        symbol="L̄",
        scale="log",
    ),
    Quantity(
        "loss_rises",
        "share of steps that raise the loss",
        "The share of the steps s from this record to the next at which L(wₛ) > L(wₛ₋₁), which is "
        "½ where the oscillation at the edge changes sign with every step. A first step of which "
        "L(wₛ₋₁) is not known counts as none that raises it.",
        unit="1",
        reference=0.5,
        scale="linear",
    ),
)

COLUMNS = {
    quantity.name: quantity
    for observable in BUILT_IN.values()
    for quantity in observable.quantities
} | RUNNING

# Every column of sharpflow's own. Whoever reads a dataset takes them for what they are called,
# also where they were not asked for, so that nobody else may use the names. ``edge_ratio`` stands
# for the one of the three that is nearest to theory; ``compare`` has it.
STANDARD = frozenset({*COLUMNS, "edge_ratio"})

# What the metrics of sharpflow's own problems are called. A problem of the user's own may give
# these names to others, so that the definitions say no more than the names do.
METRICS = by_name(
    Quantity(
        "train_accuracy",
        "training accuracy",
        "The metric train_accuracy of the problem. In sharpflow's own problems it is the share of "
        "training examples whose class is predicted right.",
        unit="1",
        scale="linear",
    ),
    Quantity(
        "test_accuracy",
        "test accuracy",
        "The metric test_accuracy of the problem. In sharpflow's own problems it is the share of "
        "test examples whose class is predicted right.",
        unit="1",
        scale="linear",
    ),
    Quantity(
        "test_error",
        "test error",
        "The metric test_error of the problem. In sharpflow's own problems it is the mean square "
        "error of the outputs on data that were not trained on.",
        unit="1",
    ),
    Quantity(
        "test_loss",
        "test loss",
        "The metric test_loss of the problem. In sharpflow's own problems it is the smoothed "
        "cross-entropy on data that were not trained on.",
        unit="1",
    ),
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
    known = sorted([*BUILT_IN, *RUNNING])
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
                f"observables names {shown(item)}{how_to_get(item) or nearest(item, known)}; known "
                f"are {known}, or pass a sharpflow.simulator.Observable"
            )
    # two of somebody else's may share a name that no column has
    names = [seen.name for seen in observables if makes_standard_columns(seen)] + running
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"observables names {sorted(repeated)} more than once")
    return tuple(observables), tuple(running)


def how_to_get(name: object) -> str:
    """How a column that is not there is recorded; empty where the name alone does not tell.

    Args:
      name: of the column, or whatever was given in place of one.
    """
    if callable(name):
        return (
            ": call the function, which returns the observable. One that takes a moment goes into "
            "an observable, as in sharpflow.simulator.Observable(name, function)"
        )
    if not isinstance(name, str):
        return ""
    if ":" in name:
        return (
            ": configs name functions so. In Python give the function itself, as in "
            'sharpflow.simulator.Observable("mine", compute)'
        )
    if name in METRICS:
        return (
            f'. It is a metric of the problem: record "metrics", and make the problem with '
            f"{'test=(x, y)' if name.startswith('test') else 'integer classes as its targets'}"
        )
    if name in BUILT_IN or name in RUNNING:
        known = BUILT_IN.get(name)
        rule = known is not None and known.needs_rule
        return f'. Record it with observables=[..., "{name}"]' + (
            ", and for a rule that does not tell its rate give effective_learning_rate="
            if rule
            else ""
        )
    makers = [
        observable.name
        for observable in BUILT_IN.values()
        if any(quantity.name == name for quantity in observable.quantities)
    ]
    return (
        f". It comes with {' or '.join(map(repr, makers))}, where the rule tells it"
        if makers
        else ""
    )


def makes_standard_columns(observable: Observable) -> bool:
    """Whether an observable is one of sharpflow's own, with the columns that it is known for.

    Args:
      observable: any, with whatever options.
    """
    compute = observable.compute
    return type(compute) in _OWN_KINDS or (
        isinstance(compute, type(_loss)) and compute in _OWN_FUNCTIONS
    )
