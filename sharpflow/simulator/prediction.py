"""The whole prediction for a trajectory: arrival on Γ, threshold there, flow on its clock."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import (
    COUNT,
    FLAG,
    INTEGER,
    PARAMS,
    POSITIVE,
    checked,
    choice,
    optional,
)
from sharpflow.models.caller import warn_caller
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.precision import compiled
from sharpflow.models.problem import PROBLEM
from sharpflow.models.progress import UNSEEN, progress_bar, told
from sharpflow.models.representation import summarized
from sharpflow.simulator.average import predict_average, thinned
from sharpflow.simulator.gdwd_rates import is_gdwd
from sharpflow.simulator.no_arrival import Search, refusal
from sharpflow.simulator.trajectory import TRAJECTORY, Trajectory, recorded_snapshots
from sharpflow.theory import (
    CentralFlowSolution,
    FlowSolution,
    Status,
    linearize,
    retract_with_status,
    sharpness_flow,
)
from sharpflow.theory.flow import num_followed
from sharpflow.theory.linearization import METHODS, Method
from sharpflow.theory.manifold import retract_in_pieces
from sharpflow.theory.pieces import LIMIT, Deadline
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.scaling import norm


@summarized
@chex.dataclass(frozen=True)
class Projection:
    """Snapshots of a trajectory brought to Γ.

    Attributes:
      theta: Φ of every snapshot, pytree with leading axis (S, ...).
      distance: ‖θ − Φ(θ)‖, shape (S,); NaN where the retraction failed.
      eigenvalues: the k largest of ∇²L(Φ), descending, shape (S, k); NaN likewise.
      status: of the retraction, shape (S,).
    """

    theta: Params
    distance: np.ndarray
    eigenvalues: np.ndarray
    status: np.ndarray

    @property
    def sharpness(self) -> np.ndarray:
        """λ_1(∇²L(Φ)), shape (S,)."""
        return self.eigenvalues[:, 0]


@special_values_allowed()
@checked(problem=PROBLEM, params=PARAMS, k=COUNT, on_sphere=FLAG, progress=optional(FLAG))
def project_snapshots(
    problem: Problem,
    params: Params,
    *,
    k: int = 1,
    on_sphere: bool = True,
    progress: bool | None = None,
) -> Projection:
    """Retract every snapshot to Γ, one after the other.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      params: snapshots, pytree with leading axis (S, ...).
      k: how many eigenvalues of the Hessian.
      on_sphere: whether the snapshots are taken by their directions.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      The projections; NaN, and a status, where the retraction failed.

    Raises:
      ValueError: a loss alone, which has no Γ.
    """
    num_snapshots = len(jax.tree.leaves(params)[0])
    made = []
    with progress_bar(
        num_snapshots, progress, "projection", whole=f"{num_snapshots} snapshots"
    ) as display:
        for index in range(num_snapshots):
            snapshot = jax.tree.map(lambda leaf: leaf[index], params)  # noqa: B023
            # Copied to the host one by one, which waits for it: then the bar tells the truth, and
            # Ctrl-C is heard before the next one.
            made.append(jax.device_get(_projected(problem, snapshot, k=k, on_sphere=on_sphere)))
            display.advance(1)
    theta, distance, eigenvalues, status = jax.tree.map(lambda *rows: np.stack(rows), *made)
    return Projection(
        theta=jax.tree.map(jnp.asarray, theta),
        distance=distance,
        eigenvalues=eigenvalues,
        status=status,
    )


class _Projected(NamedTuple):
    """As ``Projection``, of one snapshot."""

    theta: Params
    distance: Array
    eigenvalues: Array
    status: Array


# Of one snapshot, so that one program serves every number of them.
@compiled(static_argnames=("k", "on_sphere"))
def _projected(problem: Problem, snapshot: Params, *, k: int, on_sphere: bool) -> _Projected:
    theta, status = retract_with_status(problem, snapshot, on_sphere=on_sphere)
    flat, there = ravel_pytree(snapshot)[0], ravel_pytree(theta)[0]
    flat = flat / norm(flat) if on_sphere else flat
    values, _ = linearize(residual_form(problem, snapshot), there).top_eigenpairs(k)
    arrived = status == Status.SUCCESS
    distance = jnp.where(arrived, norm(flat - there), jnp.nan)
    return _Projected(theta, distance, jnp.where(arrived, values, jnp.nan), status)


PredictionKind = Literal["sharpness_flow", "central_flow"]
KINDS: tuple[PredictionKind, ...] = ("sharpness_flow", "central_flow")


@special_values_allowed()
@checked(
    problem=PROBLEM,
    trajectory=TRAJECTORY,
    kind=optional(choice(KINDS)),
    arrival_step=optional(INTEGER),
    arrival_distance=POSITIVE,
    num_outputs=COUNT,
    max_edge=COUNT,
    rtol=POSITIVE,
    method=choice(METHODS),
    throw=FLAG,
    max_steps=COUNT,
    max_seconds=LIMIT,
    progress=optional(FLAG),
)
def predict(
    problem: Problem,
    trajectory: Trajectory,
    *,
    kind: PredictionKind | None = None,
    arrival_step: int | None = None,
    arrival_distance: float = 1e-3,
    num_outputs: int = 64,
    max_edge: int = 8,
    rtol: float = 1e-3,
    max_steps: int = 10_000,
    max_seconds: float | None = None,
    method: Method = "auto",
    throw: bool = True,
    progress: bool | None = None,
) -> FlowSolution | CentralFlowSolution:
    """Predict a trajectory: by the flow on the minimizer manifold, or by the central flow.

    A trajectory that arrives on Γ is predicted from there by ``sharpness_flow``. The arrival is
    the first snapshot within ``arrival_distance`` of Γ, relative to its norm where the loss is not
    scale-invariant. Its retraction and its threshold start the flow, which is integrated on the
    clock of the trajectory to the times of the snapshots after it.

    One that does not arrive, as where it meets the edge before its loss comes near zero, is
    predicted by ``central_flow`` from its first snapshot near the edge or below it. This flow needs
    no manifold and holds for gradient descent with weight decay. It predicts the average of the
    oscillation, and no entry into the edge. Why it was taken, and what to change for the flow on
    the manifold, is told before it is integrated: as a line where progress is shown, and else in a
    warning. The ``reason`` of the solution keeps it. Where both apply they agree up to O(ηλ).

    Args:
      problem: what was trained.
      trajectory: with snapshots (``snapshot_every``) and the column ``threshold``.
      kind: ``"sharpness_flow"`` or ``"central_flow"``, or None for the first that applies.
      arrival_step: take the snapshot at this step for the arrival.
      arrival_distance: largest ‖θ − Φ(θ)‖, relative to ‖θ‖, that counts as arrived.
      num_outputs: most output times; later snapshots are thinned evenly to them.
      rtol, max_steps, throw: as in ``sharpness_flow`` and ``central_flow``.
      max_edge, method: as in ``sharpness_flow``. The central flow has no use for them: it follows
        as many eigenvalues as reach the edge.
      max_seconds: of this call, but for what is being compiled, and for finding out why nothing
        arrives. The search for the arrival, snapshot by snapshot, ends after
        them with an error, and a flow as in ``sharpness_flow``. None, no limit, by default.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      The flow. Its ``tau[0]`` is the arrival, or of a central flow the first snapshot near the edge
      or below it.

    Raises:
      ValueError: a rule for which no flow is known; nothing to predict from: no snapshots, no
        threshold, or no arrival of a trajectory that only the flow on Γ could predict.
      RuntimeError: the integration fails, or no arrival is found within ``max_seconds``.

    Source: docs/theory.md, sections 2, 4 and 10.
    """

    def tell(reason: str) -> None:
        words = f"the central flow is taken, because {reason}"
        if not told(words, progress, "prediction"):
            warn_caller(
                f"{words} kind='central_flow' asks for the central flow without this warning"
            )

    return predict_telling(
        problem,
        trajectory,
        tell,
        kind=kind,
        arrival_step=arrival_step,
        arrival_distance=arrival_distance,
        num_outputs=num_outputs,
        max_edge=max_edge,
        rtol=rtol,
        max_steps=max_steps,
        max_seconds=max_seconds,
        method=method,
        throw=throw,
        progress=progress,
    )


def predict_telling(
    problem: Problem,
    trajectory: Trajectory,
    tell: Callable[[str], None],
    *,
    kind: PredictionKind | None = None,
    arrival_step: int | None = None,
    arrival_distance: float = 1e-3,
    num_outputs: int = 64,
    max_edge: int = 8,
    rtol: float = 1e-3,
    max_steps: int = 10_000,
    max_seconds: float | None = None,
    method: Method = "auto",
    throw: bool = True,
    progress: bool | None = None,
) -> FlowSolution | CentralFlowSolution:
    """``predict``, with a choice of how it is told that the central flow is taken.

    Args:
      problem, trajectory: as of ``predict``, and so is all else.
      tell: called with the reason before the central flow is integrated, if it was not asked for.
    """
    deadline = Deadline(max_seconds)
    # First: no snapshot and no column helps a rule for which no flow is known.
    _require_rule_with_flow(trajectory)
    snapshots, thresholds = recorded_snapshots(trajectory)
    has_average = is_gdwd(trajectory)
    if kind == "central_flow" and not has_average:
        raise ValueError(
            "kind = 'central_flow' predicts gradient descent with weight decay, sharpflow.gdwd "
            "with a weight_decay above 0, and trajectory was made by another rule"
        )

    def average(reason: str) -> CentralFlowSolution:
        if reason:
            tell(reason)
        return predict_average(
            problem,
            trajectory,
            reason,
            num_outputs=num_outputs,
            rtol=rtol,
            max_steps=max_steps,
            max_seconds=deadline.left,
            throw=throw,
            progress=progress,
        )

    if kind == "central_flow":
        return average("")
    may_be_average = kind is None and arrival_step is None and has_average
    reason = _no_manifold(problem, trajectory)
    arrival = (
        None
        if reason
        else _arrival(
            problem,
            trajectory,
            arrival_step,
            arrival_distance,
            # as many as the flow will have, for which ``compare`` projects: one program for both
            num_eigenvalues=num_followed(
                problem, jax.tree.map(lambda leaf: leaf[0], snapshots), max_edge
            ),
            deadline=deadline,
            progress=progress,
        )
    )
    if isinstance(arrival, Search):
        reason = refusal(problem, trajectory, arrival)
    if arrival is None or isinstance(arrival, Search):
        if may_be_average:
            return average(reason)
        instead = " The central flow needs none of this: kind='central_flow' asks for it."
        raise ValueError(f"{reason}{instead}" if has_average else reason)
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf[arrival]), snapshots)
    reached = retract_in_pieces(
        problem, start, on_sphere=trajectory.on_sphere, method=method, display=UNSEEN
    )
    if not reached.arrived:
        raise ValueError(
            f"arrival_step = {trajectory.snapshot_step[arrival]} is too far from the minimizer "
            "manifold: the retraction fails there"
        )
    chosen = arrival + thinned(len(trajectory.snapshot_step) - arrival, num_outputs)
    tau = trajectory.snapshot_tau[chosen]
    return sharpness_flow(
        problem,
        reached.theta,
        tau,
        threshold0=float(thresholds[arrival]),
        max_edge=max_edge,
        b=trajectory.response,
        log_rate=trajectory.log_rate_after(int(trajectory.snapshot_step[arrival])),
        kappa=trajectory.kappa,
        on_sphere=trajectory.on_sphere,
        rtol=rtol,
        max_steps=max_steps,
        max_seconds=deadline.left,
        method=method,
        throw=throw,
        progress=progress,
    )


def _require_rule_with_flow(trajectory: Trajectory) -> None:
    """Refuse what was made by a rule for which no flow is known.

    Raises:
      ValueError: says which rules have one.
    """
    moving = trajectory.intrinsic_rate > 0
    if trajectory.clock is not None:
        moving = float(trajectory.tau_at(trajectory.final_step)) > trajectory.clock_tau
    if not moving:
        what = (
            "was made by a rule that tells no intrinsic rate, and so no flow time τ"
            if not trajectory.has_clock
            else f"has intrinsic rate {trajectory.intrinsic_rate:g}: its flow time τ stands still"
        )
        raise ValueError(
            f"trajectory {what}; no flow is known for it. gdwd and momentum with a weight_decay "
            "above 0, and quasi_rmsprop, have one"
        )
    if not np.isfinite(trajectory.kappa):
        raise ValueError(
            "trajectory was made by ire with a projection that is not the one along the "
            "minimizer manifold: no flow is known for it"
        )


def _no_manifold(problem: Problem, trajectory: Trajectory) -> str:
    """Why there is no manifold on which a flow of this rule would move; empty where there is."""
    if not problem.has_manifold_form:
        return (
            "problem has a loss alone, which defines no minimizer manifold: make it of a residual, "
            "or of outputs and a criterion."
        )
    if not problem.scale_invariant and trajectory.rule_on_sphere:
        return (
            "problem is marked as not scale-invariant, and its optimizer has a flow on the sphere "
            "only: there is none to predict for an ablation."
        )
    return ""


def _arrival(
    problem: Problem,
    trajectory: Trajectory,
    step: int | None,
    largest_distance: float,
    *,
    num_eigenvalues: int,
    deadline: Deadline,
    progress: bool | None,
) -> int | Search:
    """The snapshot of the arrival; where there is none, what the search for it has seen."""
    if step is not None:
        snapshots = np.flatnonzero(trajectory.snapshot_step == step)
        if not snapshots.size:
            raise ValueError(
                f"arrival_step = {step} is not the step of a snapshot; those are "
                f"{trajectory.snapshot_step[:5]} ... {trajectory.snapshot_step[-1]}"
            )
        return int(snapshots[0])
    count = len(trajectory.snapshot_row)
    search = Search(largest_distance, count)
    with progress_bar(count, progress, "arrival", whole=f"{count} snapshots") as display:
        for index in range(count):
            if deadline.passed:
                raise RuntimeError(
                    f"the search for snapshots near the minimizer manifold stopped after {index} "
                    f"of {count}: max_seconds = {deadline.seconds:g} are over, and "
                    f"{search.in_words}. Give arrival_step, the step of a snapshot that is near, "
                    "or let max_seconds grow"
                )
            one = jax.tree.map(lambda leaf: leaf[index : index + 1], trajectory.params)  # noqa: B023
            on_sphere = trajectory.on_sphere
            near = project_snapshots(
                problem, one, k=num_eigenvalues, on_sphere=on_sphere, progress=False
            )
            # snapshots on the sphere are taken at unit norm; only a relative distance means as much
            distance = near.distance[0] / (1.0 if on_sphere else float(optax.tree.norm(one)))
            if search.see(float(distance), int(trajectory.snapshot_step[index])):
                return index
            display.advance(1, f", {search.in_words}")
    return search
