"""A trajectory layer by layer: norms, angles of steps and shares of the sharpest directions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import FLAG, checked, count, optional
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.invariance import depends_on_scale
from sharpflow.models.parameter_groups import GROUPS, Patterns, parameter_groups
from sharpflow.models.precision import compiled
from sharpflow.models.problem import PROBLEM
from sharpflow.simulator.comparison import PREDICTION
from sharpflow.simulator.gdwd_rates import Rates, rates_of_gdwd
from sharpflow.simulator.oscillation import edge_at_output
from sharpflow.simulator.quantities import RESULT, described
from sharpflow.simulator.quantity import Quantity, by_name
from sharpflow.simulator.trajectory import TRAJECTORY, Trajectory
from sharpflow.theory import CentralFlowSolution, FlowSolution, block_eigenpairs, top_eigenpairs
from sharpflow.theory.matrices import Matrix
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.scaling import norm
from sharpflow.theory.stability import edge_trace_integral

if TYPE_CHECKING:
    import xarray

_PER_LAYER = ("step", "layer")
LAYERS = by_name(
    RESULT["step"],
    RESULT["tau"],
    Quantity(
        "layer",
        "layer",
        "The name of a group of arrays of the parameters; by default the path of each array of two "
        "or more dimensions.",
        unit="1",
    ),
    Quantity(
        "norm",
        "norm ‖w‖ of a layer",
        "The Euclidean norm of the parameters wₜ of a layer.",
        unit="1",
        dims=_PER_LAYER,
        symbol="‖w‖",
        reference="predicted_norm",
        scale="log",
    ),
    Quantity(
        "gradient_ratio",
        "gradient over norm ‖∇L‖/‖w‖ of a layer",
        "The norm of the part of ∇L(wₜ) that belongs to a layer over the norm of its parameters.",
        unit="1",
        dims=_PER_LAYER,
        symbol="‖∇L‖/‖w‖",
        scale="log",
    ),
    Quantity(
        "effective_learning_rate",
        "effective learning rate η̃ of a layer",
        "The step size that the direction of a layer feels, η̃ₜ‖wₜ‖² of the whole over the squared "
        "norm of the layer; for gradient descent with weight decay η/((1 − ηλ)‖w‖²) with its norm.",
        unit="1",
        dims=_PER_LAYER,
        symbol="η̃",
        scale="log",
    ),
    Quantity(
        "step_angle",
        "angle of a step of a layer",
        "The root mean square over the steps from this row to the next of the angle in radians by "
        "which an update of gradient descent with weight decay turns the parameters of a layer. It "
        "follows from the norm at both rows, and is NaN where the loss depends on the scale of the "
        "layer.",
        unit="rad",
        dims=_PER_LAYER,
        symbol="∠(wₜ, wₜ₊₁)",
        reference="predicted_step_angle",
        scale="log",
    ),
    Quantity(
        "predicted_norm",
        "predicted norm ‖w‖ of a layer",
        "The norm that the flow predicts for a layer: its share of the predicted norm.",
        unit="1",
        dims=_PER_LAYER,
        symbol="predicted ‖w‖",
        scale="log",
    ),
    Quantity(
        "predicted_step_angle",
        "predicted angle of a step of a layer",
        "The root mean square over the same steps of the angle that the predicted oscillation "
        "makes in a layer, 2√(ηλ tr M) for its part of tr M over the norm of its part of θ, "
        "times the root of the share oscillation_share of the rule.",
        unit="rad",
        dims=_PER_LAYER,
        symbol="predicted ∠(wₜ, wₜ₊₁)",
        scale="log",
    ),
    Quantity(
        "eigenvector_share",
        "share of a layer in an eigenvector",
        "The squared norm of the part of a unit eigenvector of the Hessian at θₜ that belongs to a "
        "layer. All arrays together have 1.",
        unit="1",
        dims=("step", "eigenvalue", "layer"),
        scale="linear",
    ),
    Quantity(
        "block_sharpness",
        "sharpness of a layer",
        "The largest eigenvalue of the block of the Hessian at θₜ that belongs to a layer: "
        "of the Hessian of the loss as a function of its arrays alone; NaN where it did not "
        "converge.",
        unit="1",
        dims=_PER_LAYER,
        symbol="λ₁ of a block",
        scale="log",
    ),
)


@special_values_allowed()
@checked(
    trajectory=TRAJECTORY,
    problem=PROBLEM,
    flow=optional(PREDICTION),
    groups=optional(GROUPS),
    k=count(least=0),
    blocks=FLAG,
)
def measure_layers(
    trajectory: Trajectory,
    problem: Problem,
    flow: FlowSolution | CentralFlowSolution | None = None,
    *,
    groups: Mapping[str, Patterns] | None = None,
    k: int = 1,
    blocks: bool = False,
) -> "xarray.Dataset":
    """Read the snapshots of a trajectory layer by layer, beside what its flow predicts.

    Each update of gradient descent with weight decay turns the weights of a scale-invariant layer
    by an angle φ, and their norm tells it: ‖w_{t+1}‖² = (1 − ηλ)²‖w_t‖²/cos²φ. So the norms of two
    snapshots hold the mean of all steps between them, and no step need be recorded.

    At the edge the oscillation makes the angle 2√(ηλ tr M), of a layer with its part of tr M and
    of the norm. At rest that is the rotational equilibrium √(2ηλ) of every layer; while the flow
    drifts it is smaller.

    Args:
      trajectory: with snapshots (``snapshot_every``).
      problem: what was trained.
      flow: its prediction, as ``predict`` returns it; without it nothing is predicted.
      groups: by name a pattern of paths, or several, as ``{"first": "Dense_0.*"}``; by default
        each array of two or more dimensions is a layer.
      k: eigenvectors whose shares are measured, which takes Hessian products; 0 for none.
      blocks: whether the sharpness of each layer's block of the Hessian is measured, which takes
        Hessian products and a program for each layer.

    Returns:
      A dataset over ``step``, of the snapshots, and ``layer`` with ``norm``, ``gradient_ratio``,
      ``step_angle``, where the column ``threshold`` was recorded ``effective_learning_rate``, with
      k above 0 ``eigenvector_share`` over ``eigenvalue`` too, ``block_sharpness`` where it was
      asked for, and with a flow ``predicted_norm``
      and ``predicted_step_angle``, NaN outside of its times. The attribute ``equilibrium_angle`` is
      √(2ηλ). docs/quantities.md defines each.

    Raises:
      ValueError: no snapshots, or a pattern that fits no path.

    Source: docs/theory.md, section 5; at rest Wan et al. 2021 (arXiv 2006.08419) and Kosson et al.
    2023 (arXiv 2305.17212).
    """
    import xarray

    if trajectory.params is None:
        raise ValueError("trajectory has no snapshots: simulate with snapshot_every=...")
    snapshots, steps = trajectory.params, trajectory.snapshot_step
    first = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), snapshots)
    layers = parameter_groups(first, groups)
    parts = _parts_of_snapshots(problem, snapshots, k=k)
    squares = _summed(parts.params, layers)
    columns: dict[str, np.ndarray] = {
        "norm": np.sqrt(squares),
        "gradient_ratio": np.sqrt(_summed(parts.gradient, layers) / squares),
    }
    if "threshold" in trajectory and trajectory.on_sphere:
        rate = 2.0 / trajectory["threshold"][trajectory.snapshot_row].astype(float)
        columns["effective_learning_rate"] = (rate * parts.params.sum(axis=1))[:, None] / squares
    rates = rates_of_gdwd(trajectory)
    invariant = [not depends_on_scale(problem, first, places) for places in layers.values()]
    columns["step_angle"] = np.full(squares.shape, np.nan)
    if rates is not None:
        angles = _angles_of_norms(squares, steps, rates)
        columns["step_angle"] = np.where(invariant, angles, np.nan)
    if k:
        columns["eigenvector_share"] = _summed(parts.eigenvectors, layers)
    if blocks:
        columns["block_sharpness"] = blocks_of_snapshots(problem, snapshots, 1, groups)[0][..., 0]
    if flow is not None:
        columns |= _predicted(trajectory, problem, flow, layers)
    attributes = {"intrinsic_rate": trajectory.intrinsic_rate}
    if rates is not None:
        attributes["equilibrium_angle"] = float(np.sqrt(2.0 * trajectory.intrinsic_rate))
    measured = xarray.Dataset(
        {name: (LAYERS[name].dims, values) for name, values in columns.items()},
        {
            "step": steps,
            "tau": ("step", trajectory.snapshot_tau),
            "layer": list(layers),
        },
        attributes,
    )
    return described(measured, LAYERS)


class _Parts(NamedTuple):
    """Squared norms of what belongs to each array of the params.

    Attributes:
      params, gradient: of w and ∇L(w), shape (arrays,).
      eigenvectors: of the first k at θ, shape (k, arrays); NaN where one was not found.
    """

    params: Array | np.ndarray
    gradient: Array | np.ndarray
    eigenvectors: Array | np.ndarray


def _parts_of_snapshots(problem: Problem, snapshots: Params, *, k: int) -> _Parts:
    """As ``_Parts``, in double precision and with a leading axis for the snapshots."""
    count = len(jax.tree.leaves(snapshots)[0])
    parts = [
        jax.device_get(_parts(problem, jax.tree.map(lambda leaf: leaf[row], snapshots), k=k))  # noqa: B023
        for row in range(count)
    ]
    return _Parts(*(np.stack(rows).astype(float) for rows in zip(*parts, strict=True)))


# Of one snapshot, so that one program serves every number of them.
@compiled(static_argnames=("k",))
def _parts(problem: Problem, params: Params, *, k: int) -> _Parts:
    flat, _ = ravel_pytree(params)
    gradient = jax.grad(problem.loss_value)(params)
    eigenvectors = jnp.zeros((0, len(jax.tree.leaves(params))), flat.dtype)
    if k:
        theta = unit_point(problem, params)
        pairs = top_eigenpairs(problem, theta, k)
        known = jnp.isfinite(pairs.values)[:, None]
        eigenvectors = jnp.where(known, jax.vmap(_squares)(pairs.vectors), jnp.nan)
    return _Parts(_squares(params), _squares(gradient), eigenvectors)


def unit_point(problem: Problem, params: Params) -> Params:
    """θ = w/‖w‖ of a scale-invariant problem, else w: where Hessians are taken.

    Args:
      problem, params: what is trained, and w.
    """
    flat, unravel = ravel_pytree(params)
    return unravel(flat / norm(flat)) if problem.scale_invariant else params


def blocks_of_snapshots(
    problem: Problem,
    snapshots: Params,
    k: int,
    groups: Mapping[str, Patterns] | None,
    matrix: Matrix = "hessian",
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues of each group's block, each search begun where the last one ended.

    Args:
      problem: what was trained.
      snapshots: with a leading axis (S, ...).
      k, groups, matrix: as of ``block_eigenpairs``.

    Returns:
      Shape (S, groups, k), NaN where one was not found; and the status of each block, (S, groups).
    """
    rows, statuses, pairs = [], [], None
    for row in range(len(jax.tree.leaves(snapshots)[0])):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf[row]), snapshots)  # noqa: B023
        pairs = block_eigenpairs(
            problem,
            unit_point(problem, params),
            k,
            groups=groups,
            matrix=matrix,
            start=pairs,
            seed=row,
        )
        rows.append([np.asarray(one.values, float) for one in pairs.values()])
        statuses.append([int(one.status) for one in pairs.values()])
    return np.array(rows), np.array(statuses, np.int32)


def _squares(tree: Params) -> Float[Array, " arrays"]:
    return jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)])


def _summed(values: Array | np.ndarray, layers: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Sums over the arrays of each layer, shape (..., layers) from (..., arrays)."""
    values = np.asarray(values)
    return np.stack([values[..., list(places)].sum(axis=-1) for places in layers.values()], axis=-1)


def _angles_of_norms(squares: np.ndarray, steps: np.ndarray, rates: Rates) -> np.ndarray:
    """The root mean square angle from each row to the next, NaN in the last, shape (rows, layers).

    The mean of log(1/cos²φ) is that of φ² but for terms of fourth order, and is the more exact:
    the tangent of the angle of its mean is what a step of that size would have.
    """
    count = np.diff(steps)[:, None]
    decay = 2.0 * np.log1p(-rates.learning_rate * rates.weight_decay)
    turned = np.diff(np.log(squares), axis=0) / count - decay
    # below zero by rounding alone, where a layer rests
    angles = np.arctan(np.sqrt(np.expm1(np.maximum(turned, 0.0))))
    return np.concatenate([angles, np.full((1, squares.shape[1]), np.nan)])


class _PredictedParts(NamedTuple):
    """What a flow tells of the layers at its T outputs, those after a failure left out.

    Attributes:
      tau: flow times, shape (T,).
      norms: of the layers, shape (T, layers); NaN where the rule does not tell them.
      parts: of the oscillation, relative to the squared norm of the layer, shape (T, layers).
      summed: the integral over τ, from the first output, of the variance of the oscillation that
        the parts are shares of, shape (T,).
    """

    tau: np.ndarray
    norms: np.ndarray
    parts: np.ndarray
    summed: np.ndarray


def _predicted(
    trajectory: Trajectory,
    problem: Problem,
    flow: FlowSolution | CentralFlowSolution,
    layers: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Norm and angle of each layer at the times of the snapshots, shapes (snapshots, layers)."""
    at = trajectory.snapshot_tau
    nothing = np.full((len(at), len(layers)), np.nan)
    if isinstance(flow, CentralFlowSolution):
        told = _of_central_flow(flow, layers)
    else:
        told = _of_flow_on_manifold(trajectory, problem, flow, layers)
    if told is None:
        return {"predicted_norm": nothing, "predicted_step_angle": nothing}
    slack = 1e-6 * abs(told.tau[-1])
    outside = (at < told.tau[0] - slack) | (at > told.tau[-1] + slack)

    def at_snapshots(values: np.ndarray) -> np.ndarray:
        columns = [np.interp(at, told.tau, column) for column in values.T]
        return np.where(outside[:, None], np.nan, np.stack(columns, axis=1))

    parts = at_snapshots(told.parts)
    variance = np.diff(np.interp(at, told.tau, told.summed)) / np.diff(at)
    # a step leads from one side of the valley to the other, twice as far as the oscillation
    squares = 4.0 * np.maximum(variance, 0.0)[:, None] * 0.5 * (parts[1:] + parts[:-1])
    return {
        "predicted_norm": at_snapshots(told.norms),
        "predicted_step_angle": np.concatenate([np.sqrt(squares), nothing[:1]]),
    }


def _of_central_flow(
    flow: CentralFlowSolution, layers: Mapping[str, tuple[int, ...]]
) -> _PredictedParts | None:
    """Of its covariance C; None where its eigenvectors were not kept, or nothing is known."""
    known = np.isfinite(np.asarray(flow.mean_loss))
    if flow.eigenvectors is None or not known.any():
        return None

    def rows(leaf: Array) -> np.ndarray:
        return np.asarray(leaf, float)[known]

    def variance(leaf: Array) -> np.ndarray:
        vectors = rows(leaf)
        vectors = vectors.reshape(*vectors.shape[:2], -1)
        return np.einsum("tab,tai,tbi->t", rows(flow.covariance), vectors, vectors)

    own = [rows(leaf).reshape(known.sum(), -1) for leaf in jax.tree.leaves(flow.params)]
    squares = _summed(np.stack([np.sum(leaf**2, axis=1) for leaf in own], axis=1), layers)
    variances = np.stack([variance(leaf) for leaf in jax.tree.leaves(flow.eigenvectors)], axis=1)
    return _PredictedParts(
        tau=np.asarray(flow.tau, float)[known],
        norms=np.sqrt(squares),
        parts=np.maximum(_summed(variances, layers), 0.0) / squares,
        summed=np.asarray(flow.tau, float)[known],
    )


def _of_flow_on_manifold(
    trajectory: Trajectory,
    problem: Problem,
    flow: FlowSolution,
    layers: Mapping[str, tuple[int, ...]],
) -> _PredictedParts | None:
    """Of its M, whose trace over any stretch the threshold tells exactly; None after a failure."""
    known = np.isfinite(np.asarray(flow.threshold))
    if not known.any():
        return None
    dtype = flow.threshold.dtype
    trace, squares = (
        np.asarray(part, float)
        for part in _trace_of_arrays(
            problem,
            jax.tree.map(lambda leaf: jnp.asarray(leaf)[known], flow.theta),
            jnp.log(flow.threshold[known]),
            jnp.asarray(flow.b, dtype),
            jnp.asarray(flow.kappa, dtype),
            k=flow.eigenvalues.shape[1],
            on_sphere=bool(flow.on_sphere),
        )
    )
    tau, threshold = (np.asarray(v, float)[known] for v in (flow.tau, flow.threshold))
    whole = trace.sum(axis=1, keepdims=True)
    # below the edge M is zero, and no layer has a part of it
    shares = _summed(trace, layers) / np.where(whole > 0.0, whole, 1.0)
    squares = _summed(squares, layers)
    rates = rates_of_gdwd(trajectory)
    norms = np.full_like(squares, np.nan)
    if rates is not None and flow.on_sphere:
        of_whole = 0.5 * rates.learning_rate * threshold / (1.0 - trajectory.intrinsic_rate)
        norms = np.sqrt(of_whole[:, None] * squares)
    rate = trajectory.intrinsic_rate * trajectory.oscillation_share
    pieces = rate * edge_trace_integral(tau, threshold, float(flow.b))
    summed = np.concatenate([[0.0], np.cumsum(pieces)])
    return _PredictedParts(tau, norms, shares / squares, summed)


@compiled(static_argnames=("k", "on_sphere"))
def _trace_of_arrays(
    problem: Problem,
    outputs: Params,
    log_threshold: Float[Array, " T"],
    b: Array,
    kappa: Array,
    *,
    k: int,
    on_sphere: bool,
) -> tuple[Float[Array, "T arrays"], Float[Array, "T arrays"]]:
    """The part of tr M, and of ‖ζ‖², in each array of the params at every output."""
    residual = residual_form(problem, jax.tree.map(lambda leaf: leaf[0], outputs))

    def at_output(one: tuple[Params, Array]) -> tuple[Array, Array]:
        point, level = one
        flat, unravel = ravel_pytree(point)
        space, covariance = edge_at_output(
            residual, flat, level, b, kappa, k=k, on_sphere=on_sphere
        )
        diagonal = jnp.sum(space.frame * (covariance @ space.frame), axis=0)
        parts = jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(unravel(diagonal))])
        return parts, _squares(point)

    return jax.lax.map(at_output, (outputs, log_threshold))
