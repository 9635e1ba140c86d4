"""What can be recorded along a trajectory."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from sharpflow.models.problem import Params, Problem
from sharpflow.simulator.updates import EdgeRule
from sharpflow.theory.curvature import top_eigenpairs
from sharpflow.theory.manifold import linearize, retract_flat
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.stability import edge_ratio, threshold
from sharpflow.theory.status import Status

Place = Literal["iterate", "midpoint", "manifold"]
PLACES: tuple[Place, ...] = ("iterate", "midpoint", "manifold")


class Moment(NamedTuple):
    """A trajectory just before update t, as an observable sees it.

    Attributes:
      problem: what is trained.
      params: w_t.
      loss: L(w_t), shape ().
      gradient: ∇L(w_t), as ``params``.
      rule: what the optimizer tells of itself, or None.
      effective_learning_rate: η̃_t, shape (), or None where nobody tells.
      following: w_{t+1}.
      previous: w_{t−1}, and w_0 at t = 0; w_t itself where nothing asks for it.
    """

    problem: Problem
    params: Params
    loss: Array
    gradient: Params
    rule: EdgeRule | None
    effective_learning_rate: Array | None
    following: Params
    previous: Params


@dataclasses.dataclass(frozen=True)
class Observable:
    """A named recorder.

    Attributes:
      name: of the column, or of the group of columns.
      compute: moment -> array, or a mapping of column names to arrays.
      needs_previous: whether it looks at w_{t−1}, which is otherwise not kept.
      needs_rule: whether it needs η̃ and is left out where nobody tells it.
    """

    name: str
    compute: Callable[[Moment], Array | Mapping[str, Array]]
    needs_previous: bool = False
    needs_rule: bool = False


def sharpness(k: int = 1, at: Place = "iterate") -> Observable:
    """The k largest eigenvalues of the spherical Hessian, and the edge ratio with them.

    Columns ``sharpness_<at>``, shape (k,), and where η̃ is known ``edge_ratio_<at>``.
    The three places differ: at an oscillating iterate the Hessian is not that on Γ.

    Args:
      k: how many eigenvalues.
      at: ``"iterate"`` θ_t; ``"midpoint"`` (w_{t−1} + 2w_t + w_{t+1})/4, which costs
        one more gradient's memory; ``"manifold"`` Φ(θ_t), by the retraction to Γ.

    Raises:
      ValueError: an unknown place, or k below 1.

    Source: design 1 and 7.
    """
    if at not in PLACES:
        raise ValueError(f"at must be one of {PLACES}, got {at!r}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return Observable(
        name=f"sharpness_{at}", compute=_Sharpness(k, at), needs_previous=at == "midpoint"
    )


def hessian_sharpness(k: int = 1) -> Observable:
    """The k largest eigenvalues of ∇²L(w_t) itself, to be drawn against the line 2/η.

    Column ``hessian_sharpness``, shape (k,), and with our rules ``stability_line``.

    Args:
      k: how many eigenvalues.
    """
    return Observable(name="hessian_sharpness", compute=_HessianSharpness(k))


@dataclasses.dataclass(frozen=True)
class _Sharpness:
    k: int
    at: Place

    def __call__(self, moment: Moment) -> dict[str, Array]:
        values = self._eigenvalues(moment)
        columns = {f"sharpness_{self.at}": values}
        if moment.effective_learning_rate is not None:
            columns[f"edge_ratio_{self.at}"] = edge_ratio(moment.effective_learning_rate, values[0])
        return columns

    def _eigenvalues(self, moment: Moment) -> Array:
        on_sphere = moment.problem.scale_invariant
        if self.at == "manifold":
            return _manifold_eigenvalues(moment, self.k, on_sphere)
        params = moment.params
        if self.at == "midpoint":
            params = jax.tree.map(
                lambda before, now, after: 0.25 * (before + 2.0 * now + after),
                moment.previous,
                moment.params,
                moment.following,
            )
        values = top_eigenpairs(moment.problem, params, self.k).values
        return values * jnp.square(optax.tree.norm(params)) if on_sphere else values


@dataclasses.dataclass(frozen=True)
class _HessianSharpness:
    k: int

    def __call__(self, moment: Moment) -> dict[str, Array]:
        columns = {
            "hessian_sharpness": top_eigenpairs(moment.problem, moment.params, self.k).values
        }
        rate = getattr(moment.rule, "learning_rate", None)
        if rate is not None:
            columns["stability_line"] = 2.0 / rate
        return columns


def _manifold_eigenvalues(moment: Moment, k: int, on_sphere: bool) -> Array:
    flat, _ = ravel_pytree(moment.params)
    residual = residual_form(moment.problem, moment.params)
    theta, status = retract_flat(residual, flat, on_sphere=on_sphere)
    values, _ = linearize(residual, theta).top_eigenpairs(k)
    return jnp.where(status == Status.SUCCESS, values, jnp.nan)


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
}

# Averages over the steps from one record to the next; the loop keeps them.
RUNNING = ("loss_mean", "loss_rises")

DEFAULT = ("loss", "norm_squared", "effective_learning_rate", "threshold", *RUNNING)


def resolve(requested: Any) -> tuple[tuple[Observable, ...], tuple[str, ...]]:
    """Observables and running averages, from names, ``Observable``s or a mapping.

    Args:
      requested: a sequence of names and ``Observable``s.

    Raises:
      ValueError: an unknown or repeated name.
    """
    found: list[Observable] = []
    running: list[str] = []
    for item in requested:
        if isinstance(item, Observable):
            found.append(item)
        elif item in RUNNING:
            running.append(item)
        elif item in BUILT_IN:
            found.append(BUILT_IN[item])
        else:
            raise ValueError(
                f"observables names {item!r}; known are {sorted([*BUILT_IN, *RUNNING])}, or "
                "pass a sharpflow.simulator.Observable"
            )
    names = [observable.name for observable in found] + running
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"observables names {sorted(repeated)} more than once")
    return tuple(found), tuple(running)
