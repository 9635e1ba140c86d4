"""One compiled run of the sharpness-reduction flow: its stepper, and the rows that it fills."""

import dataclasses
from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.models.precision import compiled
from sharpflow.theory import integration
from sharpflow.theory.edge_geometry import (
    EdgeResponse,
    covariance_window,
    edge_covariance,
    edge_response,
    edge_space,
)
from sharpflow.theory.flow_step import Settings, Trend, attempt
from sharpflow.theory.integration import Progress, Span, Trial
from sharpflow.theory.linearization import Method, Residual, linearize
from sharpflow.theory.log_rate import LogRate
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import residual_tolerance
from sharpflow.theory.status import Status, failure_unless, first_failure

# In τ. Over such a step log λ* moves by 2e-9, less than a point's own distance from Γ as accepted
# in float32, so that a shorter step would tell nothing.
_SMALLEST_STEP = 1e-9
# Of tr M, for an eigenvalue of M that holds something at the edge. Where an eigenvalue was not
# needed, random programs left 1e-12 of tr M, and 3e-7 in float32. With ten times as much an
# eigenvalue that is about to share the edge would be missed while its part of M is small.
_HOLDING = 1e-4


@chex.dataclass(frozen=True)
class FlowPoint:
    """A point of Γ below a threshold.

    Attributes:
      theta: ζ, shape (d,).
      log_threshold: s = log λ*, shape ().
      trend: of the rates on the way to it, with edge eigenvectors near it in the rows of its
        frame; zero where nothing is known.
      crowding: whether M of the step that led there used all its rows, shape ().
      num_at_edge: eigenvalues that this M held at the edge, shape ().
    """

    theta: Float[Array, " d"]
    log_threshold: Float[Array, ""]
    trend: Trend
    crowding: Bool[Array, ""]
    num_at_edge: Int[Array, ""]

    @classmethod
    def with_room(cls, theta: Array, log_threshold: Array, edge_dimension: int) -> "FlowPoint":
        """A point of whose edge nothing is known, with room for so many eigenvalues."""
        return cls(
            theta=theta,
            log_threshold=log_threshold,
            trend=Trend.unknown(edge_dimension, theta),
            crowding=jnp.asarray(False),
            num_at_edge=jnp.zeros((), jnp.int32),
        )


class FlowRows(NamedTuple):
    """The flow at T output times; NaN at those that were not reached or lie before the start.

    Attributes:
      theta: ζ, shape (T, d).
      log_threshold: s, shape (T,).
      eigenvalues: the largest of ∇²L(ζ), descending, shape (T, k).
      covariance: M in the basis of their eigenvectors, shape (T, k, k).
    """

    theta: Float[Array, "T d"]
    log_threshold: Float[Array, " T"]
    eigenvalues: Float[Array, "T k"]
    covariance: Float[Array, "T k k"]


class _FlowMeasure(NamedTuple):
    """A point with its edge.

    Attributes:
      point: as it was reached.
      response: of the edge to M.
    """

    point: FlowPoint
    response: EdgeResponse


@dataclasses.dataclass(frozen=True)
class FlowStepper:
    """The sharpness-reduction flow for the loop of ``integration``.

    Attributes:
      residual: r on flat parameters.
      settings: of the steps.
      num_eigenvalues: k of the rows, at least as many as the edge has room for.
      method: how the Jacobian is handled.
      log_rate: what a schedule adds to −log λ*; None without one.
    """

    residual: Residual
    settings: Settings
    num_eigenvalues: int
    method: Method
    log_rate: LogRate | None = None

    order = 2
    # At 1.5 a flow of 20 steps takes 24, because it cannot use that it may go faster after its
    # first steps. A factor of 40 would let one estimate that is small by chance decide the next
    # step.
    largest_growth = 4.0
    smallest_step = _SMALLEST_STEP

    def measure(self, point: FlowPoint) -> tuple[_FlowMeasure, Int[Array, ""]]:
        """The edge at a point; ``EDGE_FULL`` where more eigenvalues reach it than have room."""
        at_point = linearize(self.residual, point.theta, self.method)
        space = edge_space(at_point, point.trend.frame.shape[0], point.trend.frame)
        response = edge_response(
            space,
            point.log_threshold,
            kappa=self.settings.kappa,
            on_sphere=self.settings.on_sphere,
        )
        next_ratio = space.next_eigenvalue * jnp.exp(-point.log_threshold)
        # the error control lets an eigenvalue pass the edge by less than rtol, so nearness is three
        # of them, and at least what M can still push apart within a step
        rtol = self.settings.rtol
        near = next_ratio >= 1.0 - jnp.maximum(1e-3, 3.0 * rtol)
        crowded = (point.crowding & near) | (next_ratio >= 1.0 + rtol)
        status = first_failure(response.status, failure_unless(~crowded, Status.EDGE_FULL))
        return _FlowMeasure(point, response), status

    def row(self, measure: _FlowMeasure, time: Float[Array, ""]) -> tuple[FlowRows, Int[Array, ""]]:
        """A point with its eigenvalues, and M from there on."""
        point, space = measure.point, measure.response.space
        room = self.num_eigenvalues - space.frame.shape[0]
        eigenvalues = space.eigenvalues
        if room:
            eigenvalues, _ = space.linearization.top_eigenpairs(self.num_eigenvalues, space.frame)
        b, slope = self.settings.b, None
        if self.log_rate is not None:
            slope = self.log_rate.slope(time, covariance_window(b))
        program = edge_covariance(measure.response, b, self.settings.rtol, slope)
        row = FlowRows(
            theta=point.theta,
            log_threshold=point.log_threshold,
            eigenvalues=eigenvalues,
            covariance=jnp.pad(program.covariance, (0, room)),
        )
        return row, program.status

    def attempt(
        self, measure: _FlowMeasure, step: Float[Array, ""], span: Span
    ) -> Trial[FlowPoint]:
        """A predictor and a corrector; see ``flow_step``."""
        change = None if self.log_rate is None else self.log_rate.change(span.start, span.end)
        tried = attempt(measure.response, measure.point.trend, step, self.settings, change)
        values = jnp.linalg.eigvalsh(tried.covariance)
        holding = values > _HOLDING * jnp.sum(values)
        end = FlowPoint(
            theta=tried.theta,
            log_threshold=tried.log_threshold,
            trend=tried.trend,
            # a number too small for the edge shows in M, which then holds all of them there
            crowding=holding[0],
            num_at_edge=jnp.sum(holding, dtype=jnp.int32),
        )
        return Trial(end, measure.point, tried.error, jnp.asarray(False), tried.status)


@compiled(static_argnames=("num_times", "num_eigenvalues", "edge_dimension"))
def begin(
    theta: Float[Array, " d"],
    log_threshold: Array,
    time: Array,
    step: Array,
    *,
    num_times: int,
    num_eigenvalues: int,
    edge_dimension: int,
) -> tuple[Progress[FlowPoint], FlowRows]:
    """An integration before its first step, and its rows, of which none has been reached.

    Args:
      theta, log_threshold, edge_dimension: of the first point, as of ``FlowPoint.with_room``.
      time, step: of the start, and the step to try first.
      num_times, num_eigenvalues: T and k of the rows.
    """
    shapes = (theta.shape, (), (num_eigenvalues,), (num_eigenvalues, num_eigenvalues))
    rows = FlowRows(*(jnp.full((num_times, *shape), jnp.nan, theta.dtype) for shape in shapes))
    point = FlowPoint.with_room(theta, log_threshold, edge_dimension)
    return Progress.begun(point, time=time, step=step), rows


@compiled(static_argnames=("num_eigenvalues", "on_sphere", "method"), donate_argnames=("rows",))
def integrate(
    problem: Problem,
    theta0: Params,
    start: Progress[FlowPoint],
    rows: FlowRows,
    pause: Array,
    *,
    tau: Float[Array, " T"],
    b: Array,
    kappa: Array,
    rtol: Array,
    step_size: Array,
    num_eigenvalues: int,
    on_sphere: bool,
    max_steps: Array,
    method: Method,
    log_rate: LogRate | None = None,
) -> tuple[Progress[FlowPoint], FlowRows]:
    """Integrate from ``start`` to the last output time, a rest, or until something fails.

    Args:
      problem: gives the residual.
      theta0: where the flow begins.
      start: a point of Γ, with room for the eigenvalues that may share the edge; the status
        is ``EDGE_FULL`` when one more reaches it.
      rows: what is known so far; its memory is reused.
      pause: how many steps and rejected steps there are when it rests, shape ().
      tau: increasing output times, then repeats of the last one, whose rows are NaN.
      b, kappa, rtol, on_sphere, max_steps: as in ``sharpness_flow``.
      step_size: a fixed step, or NaN for error control.
      num_eigenvalues: k of the rows.
      method: how the Jacobian is handled.
      log_rate: of a schedule, or None.

    Returns:
      Where it ended, and the rows.

    Source: docs/theory.md, section 9.
    """
    residual = residual_form(problem, theta0)
    beginning, _ = ravel_pytree(theta0)
    settings = Settings(
        b=b,
        kappa=kappa,
        rtol=rtol,
        on_sphere=on_sphere,
        # where the flow begins, so that no rest on the way changes it
        tolerance=residual_tolerance(residual, beginning),
        norm=jnp.linalg.norm(beginning),
    )
    stepper = FlowStepper(residual, settings, num_eigenvalues, method, log_rate)
    return integration.integrate(
        stepper,
        start,
        rows,
        tau,
        rtol=rtol,
        step_size=step_size,
        max_steps=max_steps,
        pause=pause,
    )
