"""The sharpness-reduction flow, with any number of eigenvalues at the edge."""

import os
import time as clock
from functools import partial
from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem, check_scale_invariance, validate_params
from sharpflow.models.arguments import (
    FLAG,
    INTEGER,
    PATH,
    POSITIVE,
    checked,
    choice,
    instance,
    optional,
    require_within,
)
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.precision import compiled
from sharpflow.models.problem import PROBLEM
from sharpflow.models.progress import progress_bar
from sharpflow.models.representation import Summary, course, number, of_params, span, summarized
from sharpflow.models.saving import save
from sharpflow.theory.arguments import KAPPA, TIMES, require_at_least_one, require_positive
from sharpflow.theory.edge_geometry import covariance_window
from sharpflow.theory.failure import NOT_SMOOTH, Standing
from sharpflow.theory.flow_dataset import flow_dataset
from sharpflow.theory.flow_integration import FlowPoint, FlowRows, begin, integrate
from sharpflow.theory.linearization import METHODS, Method, linearize, resolve_method
from sharpflow.theory.log_rate import LOG_RATE, Knots
from sharpflow.theory.manifold import require_on_manifold
from sharpflow.theory.pieces import LIMIT, Deadline, first_steps, integrate_in_pieces
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.status import Status, outcome_in_words
from sharpflow.theory.times import last_reached, padded_times, validated_times, with_breaks

if TYPE_CHECKING:
    import xarray


# In τ. The control corrects it at once: from 1e-4 to 1e-1 a flow of 56 attempts takes 56 to 58.
_FIRST_STEP = 1e-3
# Of the edge; eigenvalues above it are given room from the start. Edge gradients cost k(k+1)/2
# vectors, and a number that proves too small costs one more compilation. Spectra at the edge are
# dense below it: a cut at 0.07 would count nearly all of them.
_WITHIN_REACH = 0.7


@summarized
@chex.dataclass(frozen=True)
class FlowSolution:
    """The predicted motion on the minimizer manifold at output times.

    Rows after a failure hold NaN. T output times, k tracked eigenvalues.

    Attributes:
      tau: flow time, shape (T,).
      theta: ζ(τ), pytree of arrays with a leading axis (T, ...).
      threshold: λ*(τ), shape (T,).
      eigenvalues: the k largest of ∇²L(ζ), descending, shape (T, k).
      edge_covariance: M(τ) in the basis of those eigenvectors, shape (T, k, k).
      status: a ``Status`` code, shape (): ``EDGE_FULL``, ``MAX_STEPS``, ``MAX_SECONDS``,
        ``STALLED``, or which part of a step failed: ``RETRACTION_FAILED``, ``EIGENPAIRS_FAILED``,
        ``PROJECTION_FAILED``, ``PROGRAM_FAILED``, or with none of them ``STEP_TOO_SMALL``.
      num_steps: accepted steps, shape ().
      num_rejected: rejected steps, shape ().
      b: response of the threshold, 2 for GD+WD.
      kappa: κ of IRE; motion along Γ is 1 + κ times as fast.
      on_sphere: whether ζ moves on the unit sphere.
      log_rate_slope: h = d log η/dτ of the schedule from each output on, shape (T,); None without.
    """

    tau: Float[Array, " T"]
    theta: Params
    threshold: Float[Array, " T"]
    eigenvalues: Float[Array, "T k"]
    edge_covariance: Float[Array, "T k k"]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    b: float
    on_sphere: bool
    kappa: float = 0.0
    log_rate_slope: Float[Array, " T"] | None = None

    @property
    def edge_trace(self) -> Float[Array, " T"]:
        """tr M(τ), shape (T,)."""
        return jnp.trace(self.edge_covariance, axis1=-2, axis2=-1)

    @property
    @special_values_allowed()
    def descent_squared(self) -> Float[Array, " T"]:
        """G²(τ), shape (T,): the square of the steepest slope that lowers all edge eigenvalues.

        With a single eigenvalue at the edge it is ‖∇_Γ log λ_1‖². NaN below the edge.

        Source: docs/flat-directions.md, from tr M = b/(2b + (1 + κ)G²); with a schedule b + h
        stands above the line.
        """
        trace = jnp.where(self.edge_trace > 0, self.edge_trace, jnp.nan)
        if self.log_rate_slope is not None:
            drive = self.b + self.log_rate_slope
            return (drive / trace - 2.0 * self.b) / (1.0 + self.kappa)
        return self.b * (1.0 / trace - 2.0) / (1.0 + self.kappa)

    def to_dataset(self) -> "xarray.Dataset":
        """The flow with dimension ``tau``, and how the integration ended.

        The points ζ(τ) become variables ``theta.<path>``. The attributes of every array say what it
        holds: ``long_name``, ``units`` and ``definition``.
        """
        return flow_dataset(
            self.tau,
            {
                "threshold": self.threshold,
                "eigenvalues": self.eigenvalues,
                "edge_covariance": self.edge_covariance,
            },
            ("theta", self.theta),
            {
                "status": Status(int(self.status)).name,
                "num_steps": int(self.num_steps),
                "num_rejected": int(self.num_rejected),
                "b": float(self.b),
                "kappa": float(self.kappa),
                "on_sphere": str(bool(self.on_sphere)),
            },
        )

    @checked(path=PATH)
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the solution to a file, every bit of it; ``sharpflow.load`` reads it.

        The file holds the dataset of ``to_dataset`` for all who read without this package, and
        is there as a whole or not at all. One that is there already is replaced.

        Args:
          path: ending in ``.nc`` for a netCDF file, in ``.zarr`` for a Zarr folder.

        Raises:
          ValueError: another ending, or a folder that holds something else.
        """
        save(self, self.to_dataset(), path, {"FlowSolution": FlowSolution})

    def _summary(self) -> Summary:
        values, threshold = np.asarray(self.eigenvalues), np.asarray(self.threshold)
        trace = np.trace(np.asarray(self.edge_covariance), axis1=-2, axis2=-1)
        place = "the unit sphere" if self.on_sphere else "all of ℝᵈ"
        return Summary(
            f"FlowSolution: {outcome_in_words(self.status, self.tau, threshold)}",
            [
                ("τ", span(self.tau)),
                ("threshold λ*", course(threshold)),
                ("eigenvalues", f"{values.shape[1]} followed; λ₁ {course(values[:, 0])}"),
                ("edge ratio λ₁/λ*", course(values[:, 0] / threshold)),
                ("trace of M", course(trace)),
                ("θ", of_params(self.theta, "points")),
                ("rule", f"b = {float(self.b):g}, κ = {float(self.kappa):g}, on {place}"),
                ("steps", f"{number(self.num_steps)}, {number(self.num_rejected)} rejected"),
            ],
        )


FLOW = instance(FlowSolution, "a FlowSolution, as sharpness_flow returns it")


@special_values_allowed()
@checked(
    problem=PROBLEM,
    tau=TIMES,
    edge_dimension=optional(INTEGER),
    b=POSITIVE,
    rtol=POSITIVE,
    kappa=KAPPA,
    on_sphere=FLAG,
    throw=FLAG,
    method=choice(METHODS),
    max_seconds=LIMIT,
    progress=optional(FLAG),
    log_rate=optional(LOG_RATE),
)
def sharpness_flow(
    problem: Problem,
    theta0: Params,
    tau: Float[Array | np.ndarray, " T"],
    *,
    threshold0: float | None = None,
    max_edge: int = 8,
    edge_dimension: int | None = None,
    b: float = 2.0,
    log_rate: tuple[Float[Array | np.ndarray, " n"], Float[Array | np.ndarray, " n"]] | None = None,
    kappa: float = 0.0,
    on_sphere: bool = True,
    rtol: float = 1e-3,
    step_size: float | None = None,
    max_steps: int = 10_000,
    max_seconds: float | None = None,
    method: Method = "auto",
    throw: bool = True,
    progress: bool | None = None,
) -> FlowSolution:
    """Integrate the sharpness-reduction flow from any point of the minimizer manifold.

    One integrator runs through the entry into the Edge of Stability and through
    every crossing of eigenvalues. Each step is implicit in M, which keeps the edge
    eigenvalues at or below λ* at the end of the step, and of second order.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      theta0: a point of Γ (``retract`` makes one); of unit norm on the sphere.
      tau: increasing output times, shape (T,); theta0 and threshold0 hold at tau[0].
      threshold0: λ* at tau[0]; by default λ_1(theta0), the edge. Below λ_1(theta0),
        where a trajectory rests before its oscillation has grown, the flow starts at
        the crossing of the edge, log(λ_1/threshold0)/b earlier: row 0 is then where
        an answer without delay would have led.
      max_edge: number k of eigenvalues that may share the edge.
      edge_dimension: eigenvalues followed at first; the number doubles, up to
        ``max_edge``, when one more reaches the edge. By default ``max_edge`` where the
        Jacobian is formed, and otherwise those within 30 % of the edge and one more.
      b: response of the threshold, 2 for GD+WD.
      log_rate: of a schedule of the learning rate, flow times and log η at each, up to a constant,
        shape (n,) both, along lines between them and constant outside; a time that stands twice is
        a jump, after which the second value holds. The flow with a weight decay by a schedule, or
        with none, needs nothing.
      kappa: κ > −1 of IRE, which makes motion along Γ 1 + κ times as fast and leaves
        the oscillation and the threshold alone (docs/flat-directions.md).
      on_sphere: False for losses that are not scale-invariant.
      rtol: tolerance on what a step changes in second order and on what its corrector changes,
        relative to λ* and to the norm of ζ, or to that of ``theta0`` if it is larger.
      step_size: a fixed step in τ instead of error control.
      max_steps: largest number of accepted and rejected steps. Where many of fifty are
        rejected and the others lead hardly any further, it ends too, with status ``STALLED``
        or that of the part of a step that failed.
      max_seconds: of this call, after which it ends at the next rest: half a second or one step
        later, or once what was being compiled is compiled. None by default: a limit by the
        clock would end a flow on one machine and not on another.
      method: how the Jacobian is handled: ``"dense"``, ``"gram"``, ``"iterative"``, or by
        size (``sharpflow.theory.linearize``).
      throw: False returns a failure in ``status`` instead of raising it.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      The solution at ``tau``.

    Raises:
      ValueError: ``theta0`` is not on Γ, ``tau`` does not increase in the precision of
        ``theta0``, an argument is out of range, or the loss is not scale-invariant
        though ``on_sphere``.
      RuntimeError: the integration fails; the message says how and where.

    Source: docs/theory.md, section 4, with a schedule section 4.9; with a single eigenvalue at
    the edge, Lyu, Li and Arora 2022, equation (7) of Theorem 2.
    """
    deadline = Deadline(max_seconds)
    theta0 = validate_params(problem, theta0, "theta0")
    dtype = jax.tree.leaves(theta0)[0].dtype
    times = validated_times(tau, dtype)
    knots = None if log_rate is None else Knots.of(log_rate, dtype)
    require_positive(rtol=rtol, b=b, step_size=step_size, threshold0=threshold0)
    require_at_least_one(max_edge=max_edge, max_steps=max_steps)
    require_within(
        jax.tree.leaves(theta0)[0].dtype,
        tau=times,
        threshold0=threshold0,
        b=b,
        kappa=kappa,
        rtol=rtol,
        step_size=step_size,
    )
    if edge_dimension is not None and not 1 <= edge_dimension <= max_edge:
        raise ValueError(
            f"edge_dimension must be between 1 and max_edge = {max_edge}, got {edge_dimension}"
        )
    if on_sphere:
        check_scale_invariance(problem, theta0)
    require_on_manifold(problem, theta0, on_sphere=on_sphere)

    flat, _ = ravel_pytree(theta0)
    residual = residual_form(problem, theta0)
    num_residuals = jax.eval_shape(residual, flat).shape[0]
    method = resolve_method(method, num_residuals, flat.shape[0])
    most = num_followed(problem, theta0, max_edge)
    began = clock.monotonic()
    spectrum = np.asarray(_spectrum(problem, theta0, k=most, method=method))
    first = first_steps(clock.monotonic() - began)
    level, time = _crossing(spectrum[0], times[0], threshold0, b, knots)
    stops = times if knots is None else with_breaks(times, knots.breaks(b), dtype)
    dimension = _first_dimension(edge_dimension, method, spectrum / np.exp(level), most)
    run = partial(
        integrate,
        problem,
        theta0,
        tau=jnp.asarray(padded_times(stops, flat.size), flat.dtype),
        b=jnp.asarray(b, flat.dtype),
        kappa=jnp.asarray(kappa, flat.dtype),
        rtol=jnp.asarray(rtol, flat.dtype),
        step_size=jnp.asarray(np.nan if step_size is None else step_size, flat.dtype),
        num_eigenvalues=most,
        on_sphere=on_sphere,
        max_steps=jnp.asarray(max_steps, jnp.int32),
        method=method,
        log_rate=None if knots is None else knots.compiled(flat.dtype),
    )
    numbers = (level, time, _FIRST_STEP if step_size is None else step_size)
    reached, rows = begin(
        flat,
        *(np.asarray(number, flat.dtype) for number in numbers),
        num_times=run.keywords["tau"].shape[0],
        num_eigenvalues=most,
        edge_dimension=dimension,
    )
    whole = f"tau = {times[-1]:g}"
    with progress_bar(times[-1] - time, progress, "sharpness flow", whole=whole) as display:
        go_on = partial(
            integrate_in_pieces,
            run,
            first=first,
            deadline=deadline,
            display=display,
            num_at_edge=lambda point: int(point.num_at_edge),
        )
        reached, rows = go_on(reached, rows)
        # A program is compiled for one number of eigenvalues, so this loop is the host's. Doubling
        # compiles four programs at most up to eight eigenvalues, where adding one at a time would
        # compile eight.
        while int(reached.status) == Status.EDGE_FULL and dimension < most:
            dimension = min(2 * dimension, most)
            display.say(f"compiling for {dimension} eigenvalues")
            point = reached.point
            with_room = FlowPoint.with_room(point.theta, point.log_threshold, dimension)
            reached = reached._replace(point=with_room, status=jnp.zeros_like(reached.status))
            reached, rows = go_on(reached, rows)
    if knots is not None:
        outputs = np.searchsorted(stops, times.astype(dtype).astype(np.float64))
        rows = jax.tree.map(lambda leaf: leaf[outputs], rows)
    theta, threshold, rows = _unpadded(theta0, rows, num_times=len(times))
    solution = FlowSolution(
        tau=jnp.asarray(times, flat.dtype),
        theta=theta,
        threshold=threshold,
        eigenvalues=rows.eigenvalues,
        edge_covariance=rows.covariance,
        status=reached.status,
        num_steps=reached.num_steps,
        num_rejected=reached.num_rejected,
        b=b,
        on_sphere=on_sphere,
        kappa=kappa,
        log_rate_slope=None if knots is None else _slopes(knots, times, b, flat.dtype),
    )
    if throw and int(solution.status) != Status.SUCCESS:
        status = Status(int(solution.status))
        num_at_edge = int(reached.point.num_at_edge)
        standing = Standing.of(reached, last_tau=times[-1], num_at_edge=num_at_edge)
        last = last_reached(np.asarray(solution.tau), np.asarray(solution.threshold))
        remedies = _remedies(max_edge, solution.threshold.dtype)
        raise RuntimeError(
            standing.message("the flow", last, status, remedies, max_steps, max_seconds)
        )
    return solution


def num_followed(problem: Problem, params: Params, max_edge: int) -> int:
    """How many eigenvalues a flow follows: ``max_edge``, or all where there are fewer.

    Args:
      problem: with a residual or an outputs/criterion form.
      params: at which the residual is formed.
      max_edge: as in ``sharpness_flow``.
    """
    flat, _ = ravel_pytree(params)
    (num_residuals,) = jax.eval_shape(residual_form(problem, params), flat).shape
    return min(max_edge, flat.shape[0], num_residuals)


@compiled(static_argnames=("k", "method"))
def _spectrum(problem: Problem, theta: Params, *, k: int, method: Method) -> Float[Array, " k"]:
    flat, _ = ravel_pytree(theta)
    return linearize(residual_form(problem, theta), flat, method).top_eigenpairs(k)[0]


def _crossing(
    sharpness: float, time: float, threshold0: float | None, b: float, knots: Knots | None
) -> tuple[float, float]:
    """log λ* and τ where the integration starts: at tau[0], or at the crossing before it."""
    edge = float(np.log(sharpness))
    level = edge if threshold0 is None else float(np.log(threshold0))
    excess = max(edge - level, 0.0)
    if knots is not None:
        return max(level, edge), knots.crossing(time, excess, b)
    return max(level, edge), time - excess / b


def _slopes(knots: Knots, times: np.ndarray, b: float, dtype: DTypeLike) -> Float[Array, " T"]:
    """d log η/dτ from the output times on."""
    slope = partial(knots.compiled(dtype).slope, window=covariance_window(b))
    return jax.vmap(slope)(jnp.asarray(times, dtype))


def _first_dimension(
    edge_dimension: int | None, method: Method, ratios: np.ndarray, most: int
) -> int:
    """Eigenvalues that are given room at first, by their ratios to the threshold."""
    if edge_dimension is not None:
        return min(edge_dimension, most)
    if method == "dense":
        return most
    return min(int(np.sum(ratios >= _WITHIN_REACH)) + 1, most)


@compiled(static_argnames=("num_times",))
def _unpadded(theta0: Params, rows: FlowRows, *, num_times: int) -> tuple[Params, Array, FlowRows]:
    """The rows without those that pad the times; their points as ``theta0``, and λ*."""
    rows = jax.tree.map(lambda leaf: leaf[:num_times], rows)
    _, unravel = ravel_pytree(theta0)
    return jax.vmap(unravel)(rows.theta), jnp.exp(rows.log_threshold), rows


def _remedies(max_edge: int, dtype: DTypeLike) -> dict[Status, str]:
    """What may be wrong where the flow fails, and what helps."""
    return {
        Status.EDGE_FULL: f"max_edge = {max_edge} must grow",
        Status.RETRACTION_FAILED: "the manifold may end or fold there, as it does at "
        "the kinks of a network with relu: a smooth activation such as softplus has none",
        Status.EIGENPAIRS_FAILED: "the residual may have no finite derivative there; where it has, "
        'method="dense" or "gram" needs no iteration',
        Status.PROJECTION_FAILED: "the Jacobian may be too ill-conditioned for iterations; "
        'method="dense" or "gram" needs none',
        Status.PROGRAM_FAILED: "b, kappa or the derivatives of the loss may be too large for "
        f"{dtype}",
        Status.STEP_TOO_SMALL: f"rtol may be below rounding, or {NOT_SMOOTH}",
    }
