"""Implicit regularization enhancement: more motion along flat directions."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from sharpflow.models import Params
from sharpflow.models.arguments import NOT_NEGATIVE, Kind, checked, require_within
from sharpflow.simulator.rules.edge_rule import OPTIMIZER, EdgeDynamics, edge_dynamics
from sharpflow.simulator.rules.flat_directions import FlatProjection
from sharpflow.simulator.rules.printed import printed_as
from sharpflow.simulator.rules.wrapped import update_with_extras

PROJECTION = Kind(
    "a projection to flat directions, as tangent_at_manifold returns it",
    lambda value: callable(value) and hasattr(value, "along_manifold") and hasattr(value, "init"),
)


@checked(base=OPTIMIZER, kappa=NOT_NEGATIVE, projection=PROJECTION)
def ire(
    base: optax.GradientTransformation, kappa: float, projection: FlatProjection
) -> optax.GradientTransformationExtraArgs:
    """Implicit regularization enhancement (IRE): u becomes u + κ P u, P on flat directions.

    With ``tangent_at_manifold`` the motion along Γ is 1 + κ times as fast and all else
    as it was, and ``sharpflow.predict`` takes κ into its flow.

    Args:
      base: the optimizer whose updates u are enhanced, weight decay included.
      kappa: κ ≥ 0; a number or a traced scalar.
      projection: P: ``tangent_at_manifold``, ``outside_edge_space`` or
        ``flattest_coordinates``.

    Returns:
      An optax transformation whose state holds κ and the state of the base.

    Raises:
      ValueError: κ negative or not finite.

    Source: Wang et al. 2024 (arXiv 2405.20763); docs/flat-directions.md.
    """

    def init(params: Params) -> IREState:
        dtype = jax.tree.leaves(params)[0].dtype
        require_within(dtype, kappa=kappa)
        return IREState(
            kappa=jnp.asarray(kappa, dtype),
            base=base.init(params),
            projection=projection.init(params),
            along_manifold=jnp.asarray(projection.along_manifold),
        )

    rule = optax.GradientTransformationExtraArgs(init, _Update(base.update, projection))
    return printed_as(rule, "ire", base=base, kappa=kappa, projection=projection)


class IREState(NamedTuple):
    """κ, and the states of what is combined."""

    kappa: Float[Array, ""]
    base: Any
    projection: Any
    along_manifold: Bool[Array, ""]

    def edge_dynamics(self) -> EdgeDynamics:
        """That of the base with 1 + κ; no flow where P is not known to be the one along Γ."""
        base = edge_dynamics(self.base)
        factor = (1.0 + self.kappa) * (1.0 + base.kappa)
        return dataclasses.replace(
            base,
            kappa=jnp.where(self.along_manifold, factor - 1.0, jnp.nan),
            hyperparameters={**base.hyperparameters, "kappa": self.kappa},
        )


# Compared by its fields, so that transformations with other numbers share compiled code; and a
# pytree of the problem's data where the projection is one, so that they are no constants of it.
@partial(
    jax.tree_util.register_dataclass,
    data_fields=("projection",),
    meta_fields=("base",),
)
@dataclasses.dataclass(frozen=True)
class _Update:
    base: Callable[..., Any]
    projection: FlatProjection

    def __call__(
        self, updates: Params, state: IREState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, IREState]:
        if params is None:
            raise ValueError("ire needs params: call update(gradients, state, params)")
        updates, base_state = update_with_extras(self.base, updates, state.base, params, extra)
        flat, projection_state = self.projection(updates, state.projection, params)
        enhanced = jax.tree.map(lambda u, p: u + state.kappa * p, updates, flat)
        return enhanced, state._replace(base=base_state, projection=projection_state)
