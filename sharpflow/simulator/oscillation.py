"""The oscillation at the edge, measured beside the covariance that the flow predicts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import Kind, array, checked
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.precision import compiled
from sharpflow.models.problem import PROBLEM
from sharpflow.simulator.quantities import described
from sharpflow.simulator.quantity import Quantity, by_name
from sharpflow.simulator.trajectory import TRAJECTORY, Trajectory, recorded_snapshots
from sharpflow.theory import FlowSolution, linearize
from sharpflow.theory.edge_geometry import (
    EdgeSpace,
    continuing_turn,
    covariance_window,
    edge_covariance,
    edge_response,
    edge_space,
)
from sharpflow.theory.flow import FLOW
from sharpflow.theory.linearization import Residual
from sharpflow.theory.log_rate import Knots
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import retract_by_chords, unit

if TYPE_CHECKING:
    import xarray

_PER_EIGENVALUE = ("window", "eigenvalue")
_PER_PAIR = ("window", "eigenvalue", "other_eigenvalue")
OSCILLATION = by_name(
    Quantity(
        "tau_first",
        "first flow time τ of the window",
        "The flow time at which the window begins.",
        unit="1",
        dims=("window",),
    ),
    Quantity(
        "tau_last",
        "last flow time τ of the window",
        "The flow time at which the window ends.",
        unit="1",
        dims=("window",),
    ),
    Quantity(
        "covariance",
        "covariance of the oscillation",
        "The mean over the window of ccᵀ, where c = Vᵀ(θₜ − Φ(θₜ)) is the oscillation in a basis V "
        "of the edge space.",
        unit="1",
        dims=_PER_PAIR,
        reference="predicted_covariance",
    ),
    Quantity(
        "predicted_covariance",
        "predicted covariance ηλM",
        "The mean over the window of ηλM in the same basis, with ηλ of each step, times the share "
        "oscillation_share of the rule: 1 for gradient descent with weight decay, (1 − β)/(1 + β) "
        "with momentum.",
        unit="1",
        dims=_PER_PAIR,
    ),
    Quantity(
        "covariance_eigenvalues",
        "eigenvalues of the covariance",
        "The eigenvalues of the covariance of the oscillation, descending.",
        unit="1",
        dims=_PER_EIGENVALUE,
        reference="predicted_covariance_eigenvalues",
        scale="log",
    ),
    Quantity(
        "predicted_covariance_eigenvalues",
        "predicted eigenvalues, of ηλM",
        "The eigenvalues of the predicted covariance of the oscillation, descending.",
        unit="1",
        dims=_PER_EIGENVALUE,
        scale="log",
    ),
    Quantity(
        "period_two_share",
        "share of period two",
        "The mean of ‖(c₁ − c₀)/2‖² over that of ‖c‖², with c before and after a step of gradient "
        "descent, which is 1 where the oscillation changes sign with every step; NaN with "
        "momentum.",
        unit="1",
        dims=("window",),
        reference=1.0,
        scale="linear",
    ),
    Quantity(
        "loss_share",
        "share of the loss",
        "The mean of ½ Σ λₐcₐ², the loss of the oscillation in the edge space, over that of the "
        "training loss above its infimum.",
        unit="1",
        dims=("window",),
        reference=1.0,
        scale="linear",
    ),
    Quantity(
        "num_samples",
        "snapshots",
        "The number of snapshots near Γ that the window was measured from.",
        unit="1",
        dims=("window",),
        scale="linear",
    ),
)

# Snapshots that share a product with the Jacobian. They are so many copies of the activations; a
# tenth would leave the cores idle between small products.
_TOGETHER = 32
# Relative distance within which eigenvalues count as on the edge, which is what the default rtol
# lets the flow miss it by. A tenth would lose eigenvalues that are held there, and ten times as
# much would take in those that only come near.
_SNAPPING = 1e-3


WINDOWS = Kind(
    "at least one pair (first, last) of flow times, first below last",
    lambda value: (
        array(2).fits(value)
        and np.shape(value)[0] > 0
        and np.shape(value)[1] == 2
        and bool(np.all(np.diff(np.asarray(value, float)) > 0))
    ),
)


@special_values_allowed()
@checked(trajectory=TRAJECTORY, flow=FLOW, problem=PROBLEM, windows=WINDOWS)
def measure_oscillation(
    trajectory: Trajectory,
    flow: FlowSolution,
    problem: Problem,
    windows: Sequence[tuple[float, float]],
) -> "xarray.Dataset":
    """Average the outer product of the oscillation over windows of flow time.

    The oscillation is x_t = θ_t − Φ(θ_t), Φ(θ) a point of Γ under θ, reached from θ within
    the normal space of Γ at the flow's output nearest in time. There the edge space has the
    basis V and c_t = Vᵀx_t; bases within a window are turned into that of its middle. Each
    instant is of rank one, and bursts follow each other: a window should hold many of them,
    and still be short beside the motion of V. Under a schedule ηλ and M are those of its steps; a
    window should lie between its jumps.

    Args:
      trajectory: with snapshots and the column ``threshold``, by a rule that tells its
        intrinsic rate, or follows a schedule and tells it for every step.
      flow: its prediction, with outputs within each window close enough that chords from
        one reach Γ under the snapshots around it.
      problem: what was trained.
      windows: (first, last) flow time of each.

    Returns:
      A dataset over ``window`` with

      * ``covariance``, the mean of c_t c_tᵀ, over (eigenvalue, other_eigenvalue) too, and
        ``predicted_covariance``, the mean of ηλ M over the same stretch and in the same basis,
        times the trajectory's ``oscillation_share``;
      * ``covariance_eigenvalues`` and ``predicted_covariance_eigenvalues``, descending;
      * ``period_two_share``, the mean of ‖(c_{t+1} − c_t)/2‖² over that of ‖c‖², which is 1
        where the oscillation changes sign with every step. The step after each snapshot is made
        here, by gradient descent with the step size 2/threshold: NaN with momentum, whose steps
        are others;
      * ``loss_share``, the mean of ½ Σ_a λ_a c_a² over that of the loss;
      * ``num_samples``, the snapshots near Γ that it was made from; all else is NaN where
        there are none.

    Raises:
      ValueError: no snapshots or threshold, a rule without an intrinsic rate, a window without
        an output of the flow or with fewer than two snapshots, or a learning rate of 0 in one.

    Source: docs/theory.md, sections 4 and 5; with momentum docs/other-dynamics.md, section 3.
    """
    import xarray

    params, thresholds = recorded_snapshots(trajectory)
    if not trajectory.has_clock:
        raise ValueError(
            "trajectory has no intrinsic rate, which the covariance of the oscillation is "
            "predicted in units of: its update rule tells none"
        )
    tau = trajectory.tau[trajectory.snapshot_row]
    outputs = np.asarray(flow.tau)
    columns = []
    for first, last in windows:
        places = np.flatnonzero((outputs >= first) & (outputs <= last))
        inside = (tau >= first) & (tau <= last)
        if not places.size or inside.sum() < 2:
            raise ValueError(
                f"windows: ({first:g}, {last:g}) holds {places.size} outputs of the flow and "
                f"{inside.sum()} snapshots; at least 1 and 2 are needed"
            )
        nearest = np.argmin(np.abs(tau[:, None] - outputs[places]), axis=1)
        rows = [np.flatnonzero(inside & (nearest == index)) for index in range(len(places))]
        columns.append(_window(trajectory, params, thresholds, flow, problem, places, rows))
    variables = {
        name: (OSCILLATION[name].dims, np.stack([window[name] for window in columns]))
        for name in columns[0]
    }
    bounds = np.asarray(windows, float)
    coords = {"tau_first": ("window", bounds[:, 0]), "tau_last": ("window", bounds[:, 1])}
    rate = {} if trajectory.clock is not None else {"intrinsic_rate": trajectory.intrinsic_rate}
    return described(xarray.Dataset(variables, coords, rate), OSCILLATION)


def _window(
    trajectory: Trajectory,
    params: Params,
    thresholds: np.ndarray,
    flow: FlowSolution,
    problem: Problem,
    places: np.ndarray,
    rows: list[np.ndarray],
) -> dict[str, np.ndarray]:
    """Averages over the snapshots ``rows[i]`` around each output ``places[i]``."""
    # as many at every output, in whole batches: windows then share compiled code
    longest = -(-max(map(len, rows)) // _TOGETHER) * _TOGETHER
    padded = np.zeros((len(rows), longest), int)
    real = np.zeros(padded.shape, bool)
    for index, some in enumerate(rows):
        padded[index, : len(some)], real[index, : len(some)] = some, True
    dtype = flow.threshold.dtype
    steps = trajectory.snapshot_step[padded]
    slopes = _log_rate_slopes(trajectory, flow, places, steps[real])
    c, d, losses, eigenvalues, m = map(
        np.asarray,
        _coordinates(
            problem,
            jax.tree.map(lambda leaf: np.asarray(leaf)[places], flow.theta),
            np.asarray(flow.threshold)[places],
            jnp.asarray(flow.b, dtype),
            jnp.asarray(flow.kappa, dtype),
            jax.tree.map(lambda leaf: leaf[padded], params),
            (2.0 / thresholds[padded]).astype(dtype),
            jnp.asarray(len(places) // 2),
            None if slopes is None else jnp.asarray(slopes, dtype),
            k=flow.eigenvalues.shape[1],
            on_sphere=trajectory.on_sphere,
        ),
    )
    near = real & np.all(np.isfinite(c) & np.isfinite(d), axis=-1)
    # The prediction is averaged with the weights that the measurement has: an output with few
    # snapshots near Γ counts as little in both.
    weights = np.sum(near * trajectory.rate_at(steps), axis=1) / max(near.sum(), 1)
    c, d = np.where(near[..., None], c, 0.0), np.where(near[..., None], d, 0.0)
    covariance = np.einsum("jsa,jsb->ab", c, c) / max(near.sum(), 1)
    predicted = trajectory.oscillation_share * np.einsum("j,jab->ab", weights, m)
    with np.errstate(divide="ignore", invalid="ignore"):
        period_two = np.sum(np.square(d - c)) / (2.0 * np.sum(np.square(c) + np.square(d)))
        in_edge = 0.5 * np.einsum("jsa,jab,jsb->", c, eigenvalues, c)
        share = in_edge / np.sum(losses[near])
    statistics = {
        "covariance": covariance,
        "predicted_covariance": predicted,
        "covariance_eigenvalues": np.linalg.eigvalsh(covariance)[::-1],
        "predicted_covariance_eigenvalues": np.linalg.eigvalsh(predicted)[::-1],
        "period_two_share": period_two if trajectory.oscillation_share == 1.0 else np.nan,
        "loss_share": share,
    }
    if not near.any():
        statistics = {name: np.full_like(values, np.nan) for name, values in statistics.items()}
    return statistics | {"num_samples": near.sum()}


def _log_rate_slopes(
    trajectory: Trajectory, flow: FlowSolution, places: np.ndarray, steps: np.ndarray
) -> np.ndarray | None:
    """h, the mean of d log η/dτ that the flow has at some of its outputs; None without a schedule.

    Args:
      trajectory, flow: what is measured, and beside what.
      places: of the outputs.
      steps: of the snapshots around them, between which no rate may be 0.
    """
    if trajectory.clock is None:
        return None
    tau, log_rate = trajectory.clock.log_rate_around(int(steps.min()), int(steps.max()))
    knots = Knots.of((trajectory.clock_tau + tau, log_rate), flow.threshold.dtype)
    window = float(covariance_window(float(flow.b)))
    # at the end of the run that of the last steps, for of later ones nothing is known
    begin = np.minimum(np.asarray(flow.tau, float)[places], knots.tau[-1] - window)
    change = [np.interp(at, knots.tau, knots.values) for at in (begin, begin + window)]
    return (change[1] - change[0]) / window


def edge_at_output(
    residual: Residual,
    point: Float[Array, " d"],
    log_threshold: Array,
    b: Array,
    kappa: Array,
    log_rate_slope: Array | None = None,
    *,
    k: int,
    on_sphere: bool,
) -> tuple[EdgeSpace, Float[Array, "k k"]]:
    """The edge space at an output of a flow, and M in the basis of its eigenvectors.

    Made again, because a flow keeps no eigenvectors: at every output they are k copies of the
    parameters.

    Args:
      residual: r on flat parameters.
      point, log_threshold: ζ and log λ* there.
      b, kappa, on_sphere: of the flow.
      log_rate_slope: h of a schedule there; None without one.
      k: eigenvalues of the edge space.
    """
    space = edge_space(linearize(residual, point), k)
    response = edge_response(space, log_threshold, kappa=kappa, on_sphere=on_sphere)
    snapping = jnp.asarray(_SNAPPING, point.dtype)
    return space, edge_covariance(response, b, snapping, log_rate_slope).covariance


@compiled(static_argnames=("k", "on_sphere"))
def _coordinates(
    problem: Problem,
    outputs: Params,
    thresholds: Float[Array, " j"],
    b: Array,
    kappa: Array,
    snapshots: Params,
    rates: Float[Array, "j S"],
    middle: Array,
    slopes: Float[Array, " j"] | None = None,
    *,
    k: int,
    on_sphere: bool,
) -> tuple[Array, Array, Array, Array, Array]:
    """c_t and c_{t+1} (j, S, k) around each output, in the basis of the one in the middle.

    With them the losses above their infimum (j, S), and the Hessian in the edge space and M
    at each output in that basis, both (j, k, k).
    """
    onto = unit if on_sphere else (lambda point: point)
    like = jax.tree.map(lambda leaf: leaf[0], outputs)
    residual = residual_form(problem, like)

    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(outputs)
    common = edge_space(linearize(residual, flat[middle]), k).frame

    def around(one: tuple[Array, Array, Params, Array, Array | None]) -> tuple[Array, ...]:
        point, threshold, near, steps, slope = one
        space, m = edge_at_output(
            residual, point, jnp.log(threshold), b, kappa, slope, k=k, on_sphere=on_sphere
        )
        # Eigenvectors come in any order and sign, and turn along the flow. Without a common basis
        # the entries off the diagonal would average to nothing.
        turn = continuing_turn(common, space.frame, jnp.zeros((k, k), point.dtype))
        basis = turn @ space.frame
        tolerance = jnp.sqrt(jnp.finfo(point.dtype).eps)  # of r, whose size is √(2L)

        def oscillation(theta: Array) -> Array:
            below, _ = retract_by_chords(space.linearization, theta, tolerance, on_sphere=on_sphere)
            return basis @ (theta - below)

        def sample(snapshot: tuple[Params, Array]) -> tuple[Array, Array, Array]:
            params, rate = snapshot
            flat, unravel = ravel_pytree(params)
            theta = onto(flat)
            loss, gradient = jax.value_and_grad(problem.loss_value)(unravel(theta))
            # The step after a snapshot is made again instead of kept: every second snapshot would
            # otherwise be one step after another, and twice as much memory.
            following = onto(theta - rate * ravel_pytree(gradient)[0])
            return oscillation(theta), oscillation(following), loss - problem.loss_infimum

        # In batches, since a retraction holds a linearization and all at once would be as many
        # copies of the activations as there are snapshots.
        now, then, losses = jax.lax.map(sample, (near, steps), batch_size=_TOGETHER)
        hessian = turn @ (space.eigenvalues[:, None] * turn.T)
        return now, then, losses, hessian, turn @ m @ turn.T

    return jax.lax.map(around, (flat, thresholds, snapshots, rates, slopes))
