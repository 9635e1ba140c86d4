"""Projections to flat directions, for IRE: along Γ, outside the edge space, by coordinates."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import COUNT, FLAG, SEED, SHARE, checked, number, optional
from sharpflow.models.precision import full_precision
from sharpflow.models.problem import PROBLEM
from sharpflow.models.representation import summarized
from sharpflow.theory import Linearization, Status, linearize
from sharpflow.theory.linearization import Method, resolve_method
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import residual_tolerance, retract_flat, unit
from sharpflow.theory.scaling import norm

# ‖r‖ at Φ over that at θ: Φ need only be better than the expansion about it. Gauss–Newton converges
# quadratically, so that ten times as much or as little mostly takes as many steps, one or two.
_RETRACTION_GAIN = 1e-4


class FlatProjection(Protocol):
    """Which part of an update lies along flat directions; hashable, and compared by value.

    Attributes:
      along_manifold: whether it multiplies the motion along Γ and nothing else that
        lasts, so that the flow with κ holds.
    """

    @property
    def along_manifold(self) -> bool:
        """Whether it multiplies the motion along Γ and nothing else that lasts."""
        ...

    def init(self, params: Params) -> Any:
        """Its state before the first update.

        Args:
          params: w_0.

        Returns:
          A pytree of arrays.
        """
        ...

    def __call__(self, updates: Params, state: Any, params: Params) -> tuple[Params, Any]:
        """The flat part of ``updates`` at ``params``, and the state after it."""
        ...


@checked(problem=PROBLEM, on_sphere=optional(FLAG))
def tangent_at_manifold(
    problem: Problem, *, on_sphere: bool | None = None, method: Method = "auto"
) -> FlatProjection:
    """P_Γ at Φ(θ), the point of Γ under θ: the exact projection to flat directions.

    The Jacobian at θ itself would not do: ∇L = Jᵀr is orthogonal to its kernel, so the
    extra motion would vanish. Where the retraction fails, far from Γ, the projection is
    zero and the base optimizer goes on alone. An update costs two or three
    linearizations.

    Args:
      problem: what is trained, with a residual or an outputs/criterion form.
      on_sphere: whether Γ is taken within the sphere, which removes weight decay and
        the radial part of the gradient; by default as the problem is scale-invariant.
      method: how the Jacobian is handled, as in ``sharpflow.theory.linearize``.

    Returns:
      The projection, for ``ire``.

    Raises:
      ValueError: a loss alone, which defines no Γ, or an unknown method.

    Source: docs/flat-directions.md.
    """
    _require_manifold(problem, method)
    return _AtManifold(problem, _sphere(problem, on_sphere), method, 0)


@checked(problem=PROBLEM, k=COUNT, on_sphere=optional(FLAG))
def outside_edge_space(
    problem: Problem, k: int, *, on_sphere: bool | None = None, method: Method = "auto"
) -> FlatProjection:
    """I − V Vᵀ − θθᵀ at Φ(θ): all but the k largest eigenvalues count as flat.

    Between these k and Γ lie directions that contract; they contract at 1 + κ times
    their rate, and oscillate and grow where (1 + κ) λ_{k+1} exceeds λ*. So k must count
    every eigenvalue above λ*/(1 + κ), not only those at the edge. Then the motion along
    Γ is that of ``tangent_at_manifold``.

    Args:
      problem: what is trained, with a residual or an outputs/criterion form.
      k: number of sharp directions, at least 1.
      on_sphere, method: as in ``tangent_at_manifold``.

    Returns:
      The projection, for ``ire``.

    Raises:
      ValueError: k below 1, a loss alone, or an unknown method.

    Source: docs/flat-directions.md.
    """
    _require_manifold(problem, method)
    return _AtManifold(problem, _sphere(problem, on_sphere), method, k)


@checked(
    problem=PROBLEM,
    share=number(above=0, most=1),
    refresh_every=COUNT,
    decay=SHARE,
    num_probes=COUNT,
    radial=FLAG,
    seed=SEED,
)
def flattest_coordinates(
    problem: Problem,
    share: float = 0.8,
    *,
    refresh_every: int = 10,
    decay: float = 0.9,
    num_probes: int = 1,
    radial: bool = True,
    seed: int = 0,
) -> FlatProjection:
    """The coordinates with the smallest diagonal of JᵀJ, as the paper estimates them.

    Let ε be standard normal. The mean of the squares of Jᵀε is the diagonal of JᵀJ, the
    Gauss–Newton or Fisher matrix. Every few steps such squares enter a moving average. The
    ``share`` of all coordinates with the smallest entries counts as flat until the next time.
    No flow is known for it: it changes the edge, the clock and the motion together.

    Args:
      problem: what is trained, with a residual or an outputs/criterion form.
      share: γ, of coordinates that count as flat, in (0, 1].
      refresh_every: steps from an estimate to the next.
      decay: of the moving average, in [0, 1).
      num_probes: draws of ε in each estimate.
      radial: whether the radial part of the update is multiplied too, and with it weight
        decay, as in the code of the paper. False leaves the norm to the base optimizer.
      seed: of these draws.

    Returns:
      The projection, for ``ire``.

    Raises:
      ValueError: an argument out of range, or a loss alone.

    Source: Wang et al. 2024, arXiv 2405.20763; the estimator of Liu et al. 2023 (Sophia).
    """
    _require_manifold(problem, "auto")
    return _Coordinates(problem, share, refresh_every, decay, num_probes, radial, seed)


@summarized
@partial(
    jax.tree_util.register_dataclass,
    data_fields=("problem",),
    meta_fields=("on_sphere", "method", "num_sharp"),
)
@dataclasses.dataclass(frozen=True)
class _AtManifold:
    problem: Problem
    on_sphere: bool
    method: Method
    num_sharp: int  # eigenvectors that are not flat; 0 for all that are normal to Γ

    @property
    def along_manifold(self) -> bool:
        return True

    def init(self, params: Params) -> tuple:
        del params
        return ()

    def __call__(self, updates: Params, state: tuple, params: Params) -> tuple[Params, tuple]:
        flat, unravel = ravel_pytree(params)
        at_manifold, status = self._under(params, flat)
        vector = ravel_pytree(updates)[0]
        if self.num_sharp:
            projected = self._outside(at_manifold, vector)
        else:
            projected = at_manifold.project(vector, on_sphere=self.on_sphere)
        usable = (status == Status.SUCCESS) & jnp.all(jnp.isfinite(projected))
        # Without a projection the base rule goes on alone. An update that is NaN would end the run
        # in the middle of its training, far from Γ.
        return unravel(jnp.where(usable, projected, 0.0)), state

    @full_precision
    def _under(self, params: Params, flat: Array) -> tuple[Linearization, Int[Array, ""]]:
        """The linearization at Φ(θ)."""
        residual = residual_form(self.problem, params)
        size = norm(residual(flat))
        tolerance = jnp.maximum(_RETRACTION_GAIN * size, residual_tolerance(residual, flat))
        point, status = retract_flat(
            residual, flat, on_sphere=self.on_sphere, method=self.method, tolerance=tolerance
        )
        return linearize(residual, point, self.method), status

    @full_precision
    def _outside(self, at_manifold: Linearization, vector: Array) -> Array:
        _, sharp = at_manifold.top_eigenpairs(self.num_sharp)
        if self.on_sphere:
            sharp = jnp.concatenate([sharp, at_manifold.theta[None]])
        for _ in range(2):  # the second pass removes what rounding left of the first
            vector = vector - (sharp @ vector) @ sharp
        return vector


class _CoordinatesState(NamedTuple):
    step: Int[Array, ""]
    diagonal: Float[Array, " d"]
    flat: Bool[Array, " d"]


@summarized
@partial(
    jax.tree_util.register_dataclass,
    data_fields=("problem",),
    meta_fields=("share", "refresh_every", "decay", "num_probes", "radial", "seed"),
)
@dataclasses.dataclass(frozen=True)
class _Coordinates:
    problem: Problem
    share: float
    refresh_every: int
    decay: float
    num_probes: int
    radial: bool
    seed: int

    @property
    def along_manifold(self) -> bool:
        return False

    def init(self, params: Params) -> _CoordinatesState:
        flat, _ = ravel_pytree(params)
        return _CoordinatesState(
            jnp.zeros((), jnp.int32), jnp.zeros_like(flat), jnp.zeros(flat.shape, bool)
        )

    def __call__(
        self, updates: Params, state: _CoordinatesState, params: Params
    ) -> tuple[Params, _CoordinatesState]:
        due = state.step % self.refresh_every == 0
        state = jax.lax.cond(due, lambda: self._refreshed(state, params), lambda: state)
        flat, unravel = ravel_pytree(updates)
        theta = unit(ravel_pytree(params)[0])
        # The radial part is taken off before the coordinates are chosen, and again after: dropping
        # coordinates of a tangent vector leaves one with a radial part.
        if not self.radial:
            flat = flat - theta * (theta @ flat)
        flat = jnp.where(state.flat, flat, 0.0)
        if not self.radial:
            flat = flat - theta * (theta @ flat)
        return unravel(flat), state._replace(step=state.step + 1)

    @full_precision
    def _refreshed(self, state: _CoordinatesState, params: Params) -> _CoordinatesState:
        flat, _ = ravel_pytree(params)
        value, pullback = jax.vjp(residual_form(self.problem, params), flat)
        # From the step and not from a key in the state: a resumed run draws what it would have
        # drawn, and a grid stores no keys.
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        probes = jax.random.normal(key, (self.num_probes, *value.shape), flat.dtype)
        (pulled,) = jax.vmap(pullback)(probes)
        estimate = jnp.mean(jnp.square(pulled), axis=0)
        diagonal = self.decay * state.diagonal + (1.0 - self.decay) * estimate
        count = max(1, round(self.share * flat.shape[0]))
        order = jnp.argsort(diagonal)  # stable, so that exactly this many are taken
        chosen = jnp.zeros(flat.shape, bool).at[order[:count]].set(True)
        return state._replace(diagonal=diagonal, flat=chosen)


def _sphere(problem: Problem, on_sphere: bool | None) -> bool:
    return problem.scale_invariant if on_sphere is None else on_sphere


def _require_manifold(problem: Problem, method: Method) -> None:
    if not problem.has_manifold_form:
        raise ValueError(
            "problem has a loss alone, which defines no minimizer manifold: flat directions "
            "need a residual or an outputs/criterion form"
        )
    resolve_method(method, 1, 1)
