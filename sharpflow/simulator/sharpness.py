"""The sharpness recorded along a trajectory, each record started from the last one."""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import COUNT, POSITIVE, checked, choice, optional
from sharpflow.simulator.moment import Moment, Observable
from sharpflow.simulator.quantity import Quantity
from sharpflow.theory import Status, edge_ratio, linearize, top_eigenpairs
from sharpflow.theory.matrices import in_scaled_coordinates
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import retract_flat

# (where to start, whether it is wanted) -> eigenvalues, where to start the next time
_Find = Callable[[Params, Array | bool], tuple[Array, Params]]
_Maker = TypeVar("_Maker", bound=Callable[..., Observable])
Location = Literal["iterate", "midpoint", "manifold"]
LOCATIONS: tuple[Location, ...] = ("iterate", "midpoint", "manifold")

# Where the Hessian is taken: in a label, and in a definition.
_WHERE: dict[Location, tuple[str, str]] = {
    "iterate": ("θₜ", "at the iterate, θₜ = wₜ/‖wₜ‖"),
    "midpoint": (
        "the midpoint",
        "at the unit vector along the midpoint of the oscillation, (wₜ₋₁ + 2wₜ + wₜ₊₁)/4",
    ),
    "manifold": (
        "Φ(θₜ)",
        "at Φ(θₜ), the point of the minimizer manifold Γ that the retraction reaches from θₜ",
    ),
}
_STABILITY_LINE = Quantity(
    "stability_line",
    "stability line",
    "The largest eigenvalue of the Hessian at which the gradient part of a step is marginally "
    "stable, for gradient descent 2/η; with a preconditioner that of P^(−1/2) ∇²L P^(−1/2).",
    unit="1",
    scale="log",
)


def _makes_an_observable(function: _Maker) -> _Maker:
    """Have a function say what to call instead to whoever means the sharpness at some params.

    That they have mistaken the function comes before what its first argument must be.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Observable:
        if isinstance(args[0] if args else kwargs.get("k"), Problem):
            raise ValueError(
                "for the eigenvalues at params call "
                "sharpflow.theory.spherical_sharpness(problem, params), or top_eigenpairs for "
                f"those of the Hessian itself: {function.__name__} makes an observable, which "
                "simulate records, and k is the number of its eigenvalues"
            )
        return function(*args, **kwargs)

    return cast(_Maker, call)


@_makes_an_observable
@checked(k=COUNT, at=choice(LOCATIONS), every=COUNT, tolerance=optional(POSITIVE))
def sharpness(
    k: int = 1, at: Location = "iterate", *, every: int = 1, tolerance: float | None = None
) -> Observable:
    """The k largest eigenvalues of the spherical Hessian, and the edge ratio with them.

    Columns ``sharpness_<at>``, shape (k,), and where η̃ is known ``edge_ratio_<at>``.
    The three places differ: at an oscillating iterate the Hessian is not that on Γ.
    At the iterate and the midpoint, where the Hessian is not formed, each record starts
    from the eigenvectors of the last one and stops on the estimated error of the
    eigenvalues.

    For a problem that is marked as not scale-invariant the Hessian is that at w itself, and
    the edge is λ* = 2/η − λ.

    Args:
      k: how many eigenvalues.
      at: ``"iterate"`` θ_t; ``"midpoint"`` (w_{t−1} + 2w_t + w_{t+1})/4, which costs
        one more gradient's memory; ``"manifold"`` Φ(θ_t), by the retraction to Γ.
      every: records from one with eigenvalues to the next; those between hold NaN.
      tolerance: as in ``top_eigenpairs``, at the iterate and the midpoint; an eigenvalue
        that does not reach it is NaN.

    Returns:
      The observable, for ``simulate`` and ``simulate_grid``.

    Raises:
      ValueError: an unknown place, or k or ``every`` below 1.

    Source: docs/theory.md, section 8.
    """
    tracked = _SphericalSharpness(k, every, tolerance, at)
    return Observable(
        name=f"sharpness_{at}",
        compute=tracked,
        needs_previous=at == "midpoint",
        memory=tracked.memory,
        assumes_invariance=True,
        quantities=_spherical_quantities(at),
    )


@_makes_an_observable
@checked(k=COUNT, every=COUNT, tolerance=optional(POSITIVE))
def hessian_sharpness(k: int = 1, *, every: int = 1, tolerance: float | None = None) -> Observable:
    """The k largest eigenvalues of ∇²L(w_t) itself, to be drawn against the line 2/η.

    Column ``hessian_sharpness``, shape (k,), and with our rules ``stability_line``.

    Args:
      k: how many eigenvalues.
      every, tolerance: as in ``sharpness``.

    Returns:
      The observable, for ``simulate`` and ``simulate_grid``.

    Raises:
      ValueError: k or ``every`` below 1.
    """
    tracked = _HessianSharpness(k, every, tolerance)
    quantity = Quantity(
        "hessian_sharpness",
        "sharpness λ₁(∇²L(wₜ))",
        "The k largest eigenvalues of the Hessian at the iterate itself, ∇²L(wₜ).",
        unit="1",
        dims=("hessian_sharpness_0",),
        symbol="λ₁(∇²L(wₜ))",
        reference="stability_line",
        scale="log",
    )
    return Observable(
        name="hessian_sharpness",
        compute=tracked,
        memory=tracked.memory,
        quantities=(quantity, _STABILITY_LINE),
    )


@_makes_an_observable
@checked(k=COUNT, every=COUNT, tolerance=optional(POSITIVE))
def preconditioned_sharpness(
    k: int = 1, *, every: int = 1, tolerance: float | None = None
) -> Observable:
    """The k largest eigenvalues of P^{-1/2} ∇²L(w_t) P^{-1/2}, P that of the step at w_t.

    Column ``preconditioned_sharpness``, shape (k,), to be drawn against ``stability_line``. It
    needs a rule whose state tells P in ``edge_dynamics``, as that of ``rmsprop`` does; for Adam
    docs/howto-optimizer.md has one.

    Args:
      k: how many eigenvalues.
      every, tolerance: as in ``sharpness``.

    Returns:
      The observable, for ``simulate`` and ``simulate_grid``.

    Raises:
      ValueError: k or ``every`` below 1; in ``simulate``, a rule that tells no P.

    Source: Cohen et al. 2022, arXiv 2207.14484; docs/other-dynamics.md, section 2.
    """
    tracked = _PreconditionedSharpness(k, every, tolerance)
    quantity = Quantity(
        "preconditioned_sharpness",
        "sharpness λ₁(P⁻¹∇²L(wₜ))",
        "The k largest eigenvalues of P^(−1/2) ∇²L(wₜ) P^(−1/2), which are those of P⁻¹∇²L(wₜ), "
        "with the preconditioner P of the step at wₜ.",
        unit="1",
        dims=("preconditioned_sharpness_0",),
        symbol="λ₁(P⁻¹∇²L(wₜ))",
        reference="stability_line",
        scale="log",
    )
    return Observable(
        name="preconditioned_sharpness",
        compute=tracked,
        memory=tracked.memory,
        quantities=(quantity, _STABILITY_LINE),
    )


def _spherical_quantities(at: Location) -> tuple[Quantity, Quantity]:
    """The columns of ``sharpness(at=at)``."""
    label, where = _WHERE[at]
    eigenvalues = Quantity(
        f"sharpness_{at}",
        f"sharpness λ₁ at {label}",
        f"The k largest eigenvalues of the Hessian ∇²L {where}; of a loss that is not "
        "scale-invariant the place is the same without dividing by the norm.",
        unit="1",
        dims=(f"sharpness_{at}_0",),
        symbol=f"λ₁ at {label}",
        reference="threshold",
        scale="log",
    )
    ratio = Quantity(
        f"edge_ratio_{at}",
        f"edge ratio λ₁/λ* at {label}",
        f"The largest of sharpness_{at} over the threshold, λ₁/λ* = η̃ₜλ₁/2, which is 1 at the Edge "
        "of Stability.",
        unit="1",
        symbol=f"λ₁/λ* at {label}",
        reference=1.0,
        scale="linear",
    )
    return eigenvalues, ratio


class _Memory(NamedTuple):
    """Where the next Lanczos iteration starts, and when.

    Attributes:
      start: the k + 1 best vectors of the last one, a pytree with leading axis; zero
        before the first.
      wait: records until the next, shape ().
    """

    start: Params
    wait: Array


@dataclasses.dataclass(frozen=True)
class _Tracked:
    """Eigenvalues at every so many records, each warm-started from the last."""

    k: int
    every: int
    tolerance: float | None

    def memory(self, params: Params) -> _Memory:
        # One more vector than eigenvalues: the estimate of an error needs the next eigenvalue, from
        # which the gap is taken.
        rows = min(self.k + 1, sum(leaf.size for leaf in jax.tree.leaves(params)))
        start = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape), leaf.dtype), params)
        return _Memory(start, jnp.zeros((), jnp.int32))

    def at(
        self, problem: Problem, params: Params, start: Params, wanted: Array | bool
    ) -> tuple[Array, Params]:
        """Eigenvalues of ∇²L(params), where they are wanted, and where to start the next time."""
        pairs = top_eigenpairs(
            problem,
            params,
            self.k,
            tolerance=self.tolerance,
            stop="estimate",
            start=start,
            wanted=jnp.asarray(wanted),
            seed=_seed(start),
            # Two more than the products up to which Lanczos' method excludes a tight margin, where
            # k = 1. A larger basis saves few products, and does not fit into a core's cache.
            basis_size=min(2 * self.k + 16, sum(leaf.size for leaf in jax.tree.leaves(params))),
        )
        return pairs.values, pairs.next_start

    def when_due(self, find: _Find, memory: _Memory, active: Array | bool) -> tuple[Array, _Memory]:
        """``find`` from what is remembered, at every so many records of an active lane."""
        # Without the branch, which side by side with other lanes would run both ways.
        if self.every == 1:
            values, start = find(memory.start, active)
            return values, _Memory(start, memory.wait)
        dtype = jax.tree.leaves(memory.start)[0].dtype
        missing = jnp.full((self.k,), jnp.nan, dtype)
        due = memory.wait == 0
        values, start = jax.lax.cond(
            due,
            lambda start: find(start, active & due),
            lambda start: (missing, start),
            memory.start,
        )
        wait = jnp.where(due, self.every, memory.wait) - 1
        return values, _Memory(start, wait.astype(jnp.int32))


@dataclasses.dataclass(frozen=True)
class _SphericalSharpness(_Tracked):
    # The description of a run names an observable by its repr. Under another name of this field, or
    # of this class, runs that were begun before could not go on.
    place: Location

    def __call__(self, moment: Moment, memory: _Memory) -> tuple[dict[str, Array], _Memory]:
        find = self._on_manifold if self.place == "manifold" else self._at_point
        values, memory = self.when_due(partial(find, moment), memory, moment.active)
        columns = {f"sharpness_{self.place}": values}
        if moment.effective_learning_rate is not None:
            ratio = edge_ratio(moment.effective_learning_rate, values[0])
            columns[f"edge_ratio_{self.place}"] = ratio
        return columns, memory

    def _at_point(
        self, moment: Moment, start: Params, wanted: Array | bool
    ) -> tuple[Array, Params]:
        params = _midpoint(moment) if self.place == "midpoint" else moment.params
        values, start = self.at(moment.problem, params, start, wanted)
        if moment.problem.scale_invariant:
            values = values * jnp.square(optax.tree.norm(params))
        return values, start

    def _on_manifold(
        self, moment: Moment, start: Params, wanted: Array | bool
    ) -> tuple[Array, Params]:
        del wanted  # a retraction takes a few steps in every lane
        flat, _ = ravel_pytree(moment.params)
        residual = residual_form(moment.problem, moment.params)
        theta, status = retract_flat(residual, flat, on_sphere=moment.problem.scale_invariant)
        values, _ = linearize(residual, theta).top_eigenpairs(self.k)
        return jnp.where(status == Status.SUCCESS, values, jnp.nan), start


@dataclasses.dataclass(frozen=True)
class _HessianSharpness(_Tracked):
    def __call__(self, moment: Moment, memory: _Memory) -> tuple[dict[str, Array], _Memory]:
        values, memory = self.when_due(
            partial(self.at, moment.problem, moment.params), memory, moment.active
        )
        columns = {"hessian_sharpness": values}
        # with a preconditioner the line is one for other coordinates
        if moment.rule.stability_line is not None and moment.rule.preconditioner is None:
            columns["stability_line"] = moment.rule.stability_line
        return columns, memory


@dataclasses.dataclass(frozen=True)
class _PreconditionedSharpness(_Tracked):
    def __call__(self, moment: Moment, memory: _Memory) -> tuple[dict[str, Array], _Memory]:
        rule = moment.rule
        if rule.preconditioner is None:
            raise ValueError(
                "observable 'preconditioned_sharpness' needs the preconditioner of the optimizer, "
                "which its state does not tell: use sharpflow.simulator.rmsprop, or give the "
                "state a method edge_dynamics() that returns "
                "sharpflow.simulator.EdgeDynamics(preconditioner=...), as docs/howto-optimizer.md "
                "does for Adam"
            )
        scale = jax.tree.map(jax.lax.rsqrt, rule.preconditioner(moment.gradient))
        values, memory = self.when_due(
            partial(self._in_scaled_coordinates, moment, scale), memory, moment.active
        )
        columns = {"preconditioned_sharpness": values}
        if rule.stability_line is not None:
            columns["stability_line"] = rule.stability_line
        return columns, memory

    def _in_scaled_coordinates(
        self, moment: Moment, scale: Params, start: Params, wanted: Array | bool
    ) -> tuple[Array, Params]:
        """The Hessian of u ↦ L(P^{-1/2} u) at u = P^{1/2} w is P^{-1/2} ∇²L(w) P^{-1/2}."""
        problem, at_point = in_scaled_coordinates(moment.problem, moment.params, scale)
        return self.at(problem, at_point, start, wanted)


def _seed(start: Params) -> Array:
    """Of random vectors that differ from record to record, and need no memory of their own.

    The bits of the largest entry do: no sum of a lane's entries, whose order may differ.
    """
    largest = jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(start)])
    bits = jnp.max(largest).astype(jnp.float32)
    return jax.lax.bitcast_convert_type(bits, jnp.int32)


def _midpoint(moment: Moment) -> Params:
    return jax.tree.map(
        lambda before, now, after: 0.25 * (before + 2.0 * now + after),
        moment.previous,
        moment.params,
        moment.following,
    )
