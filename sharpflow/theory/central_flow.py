"""The central flow: where the average of gradient descent with weight decay goes."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.arguments import (
    FLAG,
    FUNCTION,
    INTEGER,
    PATH,
    POSITIVE,
    checked,
    optional,
    require_within,
)
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.leaves import is_concrete
from sharpflow.models.problem import PROBLEM
from sharpflow.models.progress import progress_bar
from sharpflow.models.representation import (
    Summary,
    course,
    number,
    of_params,
    span,
    summarized,
    wrapped,
)
from sharpflow.models.saving import save
from sharpflow.models.static_text import StaticText
from sharpflow.theory.arguments import TIMES, require_at_least_one, require_positive
from sharpflow.theory.central_integration import (
    CentralPoint,
    begin,
    finished_rows,
    integrate,
    is_crowded,
    with_room,
)
from sharpflow.theory.central_mean import mean_over_oscillation
from sharpflow.theory.failure import NOT_SMOOTH, Standing
from sharpflow.theory.flow_dataset import flow_dataset
from sharpflow.theory.pieces import LIMIT, Deadline, first_steps, integrate_in_pieces
from sharpflow.theory.rates import RateOverTime, timetable
from sharpflow.theory.status import Status, outcome_in_words
from sharpflow.theory.times import last_reached, padded_times, validated_times, with_breaks

if TYPE_CHECKING:
    import xarray

_WHY = "why not on Γ"  # of the reason in a print
# Of tr C, for an eigenvalue of C that holds something at the edge, as in ``flow_integration``.
_HOLDING = 1e-4
# Eigenvalues that are followed at first. Third derivatives cost k(k + 1)/2 vectors, and the program
# of another number costs a compilation: most networks begin with fewer at the edge, and with two
# the first to follow three of them would compile twice.
_FIRST_EDGE = 4
# By how many more their number grows at least; and by half of it where that is more. One more at a
# time would compile a program for each, and twice as many need up to four times as many third
# derivatives as the edge asks for.
_MORE_EDGE = 2
# Under ``jit`` and ``vmap``, where the number cannot grow. A step of the small networks here has at
# most so many at the edge; 16 would need 136 third derivatives a step in place of 36.
_TRACED_EDGE = 8


@summarized
@chex.dataclass(frozen=True)
class CentralFlowSolution:
    """The predicted average of GD+WD at output times.

    Rows after a failure hold NaN. T output times, k eigenvalues followed at last.

    Attributes:
      tau: flow time, shape (T,).
      params: w(τ), pytree of arrays with a leading axis (T, ...).
      loss: L(w), shape (T,).
      mean_loss: L(w) + ½⟨∇²L(w), C⟩, the average over the oscillation, shape (T,).
      eigenvalues: the k largest of ∇²L(w), descending, shape (T, k); NaN where fewer were
        followed.
      covariance: C, of the oscillation, in the basis of those eigenvectors, averaged
        over the step that ends at the output, and in row 0 over the first; (T, k, k). NaN, as
        ``mean_loss``, where there is one output time: no step was made to average over.
      norm_squared: ‖w‖², shape (T,).
      edge: the largest stable eigenvalue, 2/η − λ, shape (); with a schedule that of each
        output time, (T,).
      status: a ``Status`` code, shape ().
      num_steps: accepted steps, shape ().
      num_rejected: steps that were too long, or met the edge without having looked
        for it, and were repeated, shape ().
      num_gradients, num_products, num_third: evaluations of ∇L, of ∇²L v and of
        ∇³L[u, v], shape ().
      eigenvectors: of those eigenvalues, orthonormal as vectors of all parameters, pytree of
        arrays with leading axes (T, k, ...); zero where fewer were followed. None where they
        were not kept.
      reason: why ``sharpflow.predict`` took this flow where the one on the minimizer manifold was
        not known to hold, and what would help; empty where it was asked for.
    """

    tau: Float[Array, " T"]
    params: Params
    loss: Float[Array, " T"]
    mean_loss: Float[Array, " T"]
    eigenvalues: Float[Array, "T k"]
    covariance: Float[Array, "T k k"]
    norm_squared: Float[Array, " T"]
    edge: Float[Array, ""] | Float[Array, " T"]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    num_gradients: Int[Array, ""]
    num_products: Int[Array, ""]
    num_third: Int[Array, ""]
    eigenvectors: Params | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        # A text among the leaves would end every jax.jit and tree.map of the solution.
        object.__setattr__(self, "reason", StaticText(self.reason))

    @checked(function=FUNCTION)
    def mean_of(self, function: Callable[[Params], Any]) -> Any:
        """The average of a function of the parameters over the oscillation.

            f(w) + ½⟨∇²f(w), C⟩,

        to second order in the oscillation, as ``mean_loss`` is of the loss. C has few
        directions, so the second term is the sum of as many second derivatives along them.

        Args:
          function: from params to an array, or a pytree of arrays, twice differentiable. Where
            its derivatives vanish, as those of an accuracy do, its value at w is returned.

        Returns:
          What the function returns, with a leading axis (T,). NaN after a failure, and where
          there is one output time.

        Raises:
          ValueError: the eigenvectors were not kept.

        Source: docs/theory.md, section 10.3.
        """
        if self.eigenvectors is None:
            raise ValueError(
                "mean_of needs the eigenvectors at the output times: keep_eigenvectors must be True"
            )
        return mean_over_oscillation(function, self.params, self.eigenvectors, self.covariance)

    def to_dataset(self) -> "xarray.Dataset":
        """The central flow with dimension ``tau``, and how the integration ended.

        The points w(τ) become variables ``params.<path>``. The attributes of every array say what
        it holds: ``long_name``, ``units`` and ``definition``.
        """
        changes = np.ndim(self.edge) > 0
        columns = {"edge": self.edge} if changes else {}
        return flow_dataset(
            self.tau,
            columns
            | {
                "loss": self.loss,
                "mean_loss": self.mean_loss,
                "eigenvalues": self.eigenvalues,
                "covariance": self.covariance,
                "norm_squared": self.norm_squared,
            },
            ("params", self.params),
            {
                "status": Status(int(self.status)).name,
                "num_steps": int(self.num_steps),
                "num_rejected": int(self.num_rejected),
                "num_gradients": int(self.num_gradients),
                "num_products": int(self.num_products),
                "num_third": int(self.num_third),
            }
            | ({} if changes else {"edge": float(self.edge)})
            | ({"reason": str(self.reason)} if self.reason else {}),
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
        save(self, self.to_dataset(), path, {"CentralFlowSolution": CentralFlowSolution})

    def _summary(self) -> Summary:
        values, norm_squared = np.asarray(self.eigenvalues), np.asarray(self.norm_squared)
        edge = course(self.edge) if np.ndim(self.edge) else number(self.edge)
        counted = {"∇L": self.num_gradients, "∇²L v": self.num_products, "∇³L": self.num_third}
        return Summary(
            f"CentralFlowSolution: {outcome_in_words(self.status, self.tau, norm_squared)}",
            [
                ("τ", span(self.tau)),
                ("loss", course(self.loss)),
                ("mean loss", course(self.mean_loss)),
                (
                    "eigenvalues",
                    f"{values.shape[1]} followed; λ₁ {course(values[:, 0])}, edge 2/η − λ = {edge}",
                ),
                ("‖w‖²", course(norm_squared)),
                ("w", of_params(self.params, "points")),
                (
                    "steps",
                    f"{number(self.num_steps)}, {number(self.num_rejected)} rejected; "
                    + ", ".join(f"{number(n)} {of}" for of, n in counted.items()),
                ),
                *(wrapped(_WHY, str(self.reason), 4, beside=len(_WHY)) if self.reason else []),
            ],
        )


@special_values_allowed()
@checked(
    problem=PROBLEM,
    tau=TIMES,
    rtol=POSITIVE,
    max_edge=optional(INTEGER),
    edge=FLAG,
    step_correction=FLAG,
    keep_eigenvectors=FLAG,
    throw=FLAG,
    max_seconds=LIMIT,
    progress=optional(FLAG),
)
def central_flow(
    problem: Problem,
    params: Params,
    learning_rate: RateOverTime,
    weight_decay: RateOverTime,
    tau: Float[Array | np.ndarray, " T"],
    *,
    max_edge: int | None = None,
    edge: bool = True,
    intrinsic_rate: float | None = None,
    step_correction: bool = True,
    rtol: float = 1e-3,
    step_size: float | None = None,
    max_steps: int = 10_000,
    max_seconds: float | None = None,
    keep_eigenvectors: bool = True,
    throw: bool = True,
    progress: bool | None = None,
) -> CentralFlowSolution:
    """Predict the average of GD+WD from any start, on any loss.

        dw/dt = −η (∇L(w) + λw + ½ ∇⟨∇²L(w), C⟩),      t in steps of GD, τ = ηλ t,

    C ⪰ 0 in the space of the top eigenvectors is the covariance of the oscillation,
    chosen so that no eigenvalue of ∇²L(w) passes the edge 2/η − λ. This is the flow
    of L + ½λ‖w‖² among the points where GD+WD is stable. It has neither the delay nor
    the bursts with which GD itself answers the edge.

    Below the edge a step is a stabilised Runge–Kutta step of gradient flow, with s stages
    for a length of order s². At the edge C is constant over a step, and it is chosen for the
    eigenvalues at the end of the step. So steps may be far longer than those of GD. From a
    start above the edge the excess falls by a factor e for each step of GD. That is a
    convention: GD itself has a burst there, which no average describes.

    Args:
      problem: any problem, a loss alone too.
      params: w at tau[0].
      learning_rate: η; of a schedule two or more flow times, on the clock of ``tau``, and the rate
        at each. In between its logarithm is a line, where a time stands twice it jumps, and
        before the first and after the last it stays.
      weight_decay: λ; likewise.
      tau: increasing output times, shape (T,).
      max_edge: number k of eigenvalues that are followed and may share the edge. By default
        there are four at first, and more wherever one more reaches the edge; every number is
        a program of its own, which is compiled once. Under ``jit`` and ``vmap`` there are eight.
      edge: False leaves the edge out, C = 0: the flow that is right as long as GD+WD is stable,
        to be set beside the other. It is gradient flow with weight decay where
        ``step_correction`` is False too.
      intrinsic_rate: the τ of a step of GD; by default ηλ, and to be given without
        weight decay.
      step_correction: follow the steps of GD to second order in their length: with
        the right-hand side −ηF of above, −η(F + ½η(∇²L + λ)F). It matters where the
        loss falls fast, long before the edge, and costs a product ∇²L v with every
        gradient. False is the flow of Cohen et al.
      rtol: tolerance on the error of a step, relative to ‖w‖ and to the edge.
      step_size: a fixed step in τ instead of error control, without a schedule.
      max_steps: largest number of accepted and rejected steps. Where many of fifty are
        rejected and the others lead hardly any further, it ends too, with status ``STALLED``
        or that of the part of a step that failed.
      max_seconds: of this call, after which it ends at the next rest: half a second or one step
        later, or once what was being compiled is compiled. None, no limit, by default.
      keep_eigenvectors: whether the solution holds the k eigenvectors at every output time,
        which ``mean_of`` needs. They take k times the memory of the points.
      throw: False returns a failure in ``status`` instead of raising it.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      The solution at ``tau``. Its status is ``DIVERGED`` where no oscillation holds
      an eigenvalue at the edge, as above it on a quadratic loss, or where numbers
      stop being finite; ``EDGE_FULL`` where the edge has no room in a ``max_edge`` that was given;
      ``EIGENPAIRS_FAILED`` where the eigenvalues of the Hessian cannot be computed;
      ``STEP_TOO_SMALL`` where no step is short enough for ``rtol``; or ``MAX_STEPS``,
      ``MAX_SECONDS`` or ``STALLED`` where a limit ended it.

    Raises:
      ValueError: an argument is out of range, ``tau`` does not increase, or ``step_size`` is given
        with a schedule.
      RuntimeError: the integration fails; the message says how and where.

    Source: Cohen, Damian, Talwalkar, Kolter and Lee 2024, arXiv 2410.24206, with
    weight decay and for steps of any length; the correction of the step, Hairer,
    Lubich and Wanner 2006, section IX.1; schedules, docs/theory.md, section 10.8.
    """
    deadline = Deadline(max_seconds)
    params = validate_params(problem, params)
    require_positive(rtol=rtol, step_size=step_size)
    require_at_least_one(max_steps=max_steps)
    if max_edge is not None:
        require_at_least_one(max_edge=max_edge)
    times = validated_times(tau)
    flat, unravel = ravel_pytree(params)
    table = timetable(learning_rate, weight_decay, intrinsic_rate, times, flat.dtype)
    if step_size is not None:
        step_size = table.in_steps(step_size)
    require_within(
        flat.dtype,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        tau=table.outputs,
        rtol=rtol,
        step_size=step_size,
    )
    grows = max_edge is None and is_concrete(flat)
    num_edge = min(max_edge or (_FIRST_EDGE if grows else _TRACED_EDGE), flat.size)
    most = flat.size if grows else num_edge
    tolerance = jnp.asarray(rtol, flat.dtype)
    stops = table.outputs
    if table.breaks.size:
        stops = with_breaks(stops, table.breaks, flat.dtype)
    equation = {"rates": table.rates, "rtol": tolerance, "step_correction": step_correction}
    given = equation | {
        "times": jnp.asarray(padded_times(stops, flat.size), flat.dtype),
        "step_size": jnp.asarray(np.nan if step_size is None else step_size, flat.dtype),
        "keep_eigenvectors": keep_eigenvectors,
    }
    limits = {"max_steps": jnp.asarray(max_steps, jnp.int32), "edge": jnp.asarray(edge)}
    with progress_bar(stops[-1], progress, "central flow", whole=f"tau = {times[-1]:g}") as display:
        began = time.monotonic()
        reached, path = jax.block_until_ready(begin(problem, params, num_edge=num_edge, **given))
        first = first_steps(time.monotonic() - began)
        # A program is compiled for one number of eigenvalues, so this loop is the host's.
        while True:
            while edge and num_edge < most and is_crowded(reached.point, tolerance):
                num_edge = min(num_edge + max(num_edge // 2, _MORE_EDGE), most)
                reached, path = with_room(
                    problem, params, reached, path, num_edge=num_edge, **equation
                )
            reached, path = integrate_in_pieces(
                partial(integrate, problem, params, num_edge=num_edge, **limits, **given),
                reached,
                path,
                first=first,
                deadline=deadline,
                display=display,
                num_at_edge=_num_at_edge,
                tau_at=table.tau_at,
            )
            if num_edge == most or int(reached.status) != Status.EDGE_FULL:
                break
    rows = finished_rows(problem, params, reached.point, path)
    outputs: slice | np.ndarray = slice(len(times))
    if table.breaks.size:
        held = table.outputs.astype(flat.dtype).astype(np.float64)
        outputs = np.searchsorted(stops, held)
    rows = jax.tree.map(lambda leaf: leaf[outputs], rows)
    solution = CentralFlowSolution(
        tau=jnp.asarray(times, flat.dtype),
        params=jax.vmap(unravel)(rows.params),
        loss=rows.loss,
        mean_loss=rows.mean_loss,
        eigenvalues=rows.eigenvalues,
        covariance=rows.covariance,
        norm_squared=rows.norm_squared,
        edge=table.edge,
        status=reached.status,
        num_steps=reached.num_steps,
        num_rejected=reached.num_rejected,
        num_gradients=reached.point.counts.gradients,
        num_products=reached.point.counts.products,
        num_third=reached.point.counts.third,
        eigenvectors=jax.vmap(jax.vmap(unravel))(rows.eigenvectors) if keep_eigenvectors else None,
    )
    if throw and int(solution.status) != Status.SUCCESS:
        status = Status(int(solution.status))
        standing = Standing.of(
            reached,
            last_tau=times[-1],
            num_at_edge=_num_at_edge(reached.point),
            tau_at=table.tau_at,
        )
        last = last_reached(np.asarray(solution.tau), np.asarray(solution.norm_squared))
        remedies = _remedies(most, solution.loss.dtype)
        raise RuntimeError(
            standing.message("the central flow", last, status, remedies, max_steps, max_seconds)
        )
    return solution


def _num_at_edge(point: CentralPoint) -> int:
    """Eigenvalues that C of the last step holds at the edge: those that have a part in it."""
    held = np.linalg.eigvalsh(np.asarray(point.covariance))
    return int(np.sum(held > _HOLDING * max(held.sum(), 1e-300)))


def _remedies(max_edge: int, dtype: DTypeLike) -> dict[Status, str]:
    """What may be wrong where the flow fails, and what helps."""
    return {
        Status.EDGE_FULL: f"max_edge = {max_edge} must grow",
        Status.DIVERGED: "or no oscillation holds an eigenvalue at the edge, and GD diverges",
        Status.EIGENPAIRS_FAILED: "the loss may have no finite second derivatives there, or "
        f"rtol may be below the rounding of {dtype}",
        Status.STEP_TOO_SMALL: f"rtol may be below rounding, or {NOT_SMOOTH}",
    }
