"""What is trained: a loss on a pytree of parameters, in one of three forms."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

Params: TypeAlias = PyTree[Float[Array, "..."]]
Scalar = Float[Array, ""]

_FORMS = ("residual", "outputs", "criterion", "loss")


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A loss L, how its parameters start, and the metrics watched beside it.

    Give exactly one form of the loss; later forms know less about it:

    * ``residual``: params -> (m,) array, with L = ½‖residual‖²;
    * ``outputs`` (params -> array) and ``criterion`` (array -> scalar), with
      L = criterion(outputs(params)) and the criterion convex. A criterion may know its
      residual form: a method ``residual``, array -> (m,), with ½‖residual‖² equal to
      the criterion minus its minimum to second order. Without one the theory forms it
      from the criterion's Hessian in all outputs together, for small problems only;
    * ``loss``: params -> scalar. It has no minimizer manifold Γ that the theory
      could use: it is simulated and its curvature measured, but it gets no flow.

    A problem is compared and hashed by identity, so that compiled functions can
    take it as a static argument: build it once and reuse it.

    Attributes:
      init: key -> params, a pytree of floating-point arrays of one dtype.
      residual, outputs, criterion, loss: the loss, as above.
      metrics: named functions params -> scalar, for instance a test error.
      scale_invariant: False marks an ablation without normalization, which is
        simulated but gets no flow on the sphere.

    Raises:
      ValueError: not exactly one form is given, or something that is no function.
    """

    init: Callable[[Key[Array, ""]], Params]
    residual: Callable[[Params], Float[Array, " m"]] | None = None
    outputs: Callable[[Params], Array] | None = None
    criterion: Callable[[Array], Scalar] | None = None
    loss: Callable[[Params], Scalar] | None = None
    metrics: Mapping[str, Callable[[Params], Scalar]] = dataclasses.field(default_factory=dict)
    scale_invariant: bool = True

    def __post_init__(self) -> None:
        forms = {name: getattr(self, name) for name in _FORMS if getattr(self, name) is not None}
        metrics = {f"metrics[{name!r}]": metric for name, metric in self.metrics.items()}
        for name, function in ({"init": self.init} | forms | metrics).items():
            if not callable(function):
                raise ValueError(f"{name} must be a function, got {function!r}")
        if (self.outputs is None) != (self.criterion is None):
            raise ValueError("outputs and criterion belong together: give both or neither")
        given = [name for name in forms if name != "criterion"]
        if len(given) != 1:
            raise ValueError(
                "a Problem takes exactly one of residual, outputs with criterion, or loss; "
                f"got {given or 'none'}"
            )
        object.__setattr__(self, "metrics", dict(self.metrics))
        if self.residual is not None:
            object.__setattr__(self, "loss", _half_square(self.residual))
        elif self.outputs is not None and self.criterion is not None:
            object.__setattr__(self, "loss", _composed(self.outputs, self.criterion))

    @property
    def has_manifold_form(self) -> bool:
        """Whether the loss comes in a form that defines the minimizer manifold Γ."""
        return self.residual is not None or self.outputs is not None

    @property
    def loss_infimum(self) -> float:
        """inf L: 0 for a residual, and what a criterion tells as its ``infimum``, else 0."""
        return float(getattr(self.criterion, "infimum", 0.0))

    def loss_value(self, params: Params) -> Scalar:
        """L(params).

        Args:
          params: a pytree as of ``init``.

        Returns:
          Shape ().
        """
        assert self.loss is not None
        return self.loss(params)


def x64_enabled() -> bool:
    """Whether jax computes in float64 here and now."""
    return jnp.result_type(float) == jnp.float64


def require_x64_for(dtype: Any, name: str) -> None:
    """Refuse float64 where jax would compute in float32.

    Args:
      dtype: of what is given, or asked for; anything but float64 passes.
      name: what to call it in the error.

    Raises:
      ValueError: float64 without x64.
    """
    if dtype == jnp.float64 and not x64_enabled():
        raise ValueError(
            f"{name} is float64 but jax runs without x64: "
            "call jax.config.update('jax_enable_x64', True) first, or use float32"
        )


def validate_params(problem: Problem, params: Any, name: str = "params") -> Params:
    """Check what Python can see of ``params`` before anything is computed with them.

    Args:
      problem: the problem whose loss will be evaluated.
      params: pytree of arrays.
      name: what to call them in errors.

    Returns:
      The same pytree, its leaves as jax arrays.

    Raises:
      ValueError: an empty tree, leaves that are not floating point or differ in
        dtype, a NaN or infinite entry, the zero vector, a residual that is not a
        vector, or a loss that is not a scalar.
    """
    leaves, treedef = jax.tree.flatten(params)
    if not leaves:
        raise ValueError(f"{name} holds no arrays; it must be a pytree of floating-point arrays")
    for leaf in leaves:
        require_x64_for(getattr(leaf, "dtype", None), name)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    dtypes = {leaf.dtype for leaf in leaves}
    if len(dtypes) != 1 or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise ValueError(
            f"{name} must be floating-point arrays of one dtype, got "
            f"{sorted(str(dtype) for dtype in dtypes)}"
        )
    if is_concrete(*leaves):
        values = [np.asarray(leaf) for leaf in leaves]  # numpy, which compiles nothing
        if not all(np.all(np.isfinite(value)) for value in values):
            raise ValueError(f"{name} has NaN or infinite entries; all must be finite")
        if not any(np.any(value) for value in values):
            raise ValueError(f"{name} is the zero vector, which has no direction")
    params = jax.tree.unflatten(treedef, leaves)
    _check_shapes(problem, params)
    return params


def is_concrete(*values: object) -> bool:
    """Whether these are numbers, and not values that jax traces."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def parameter_paths(params: Params, separator: str = "/") -> list[str]:
    """Where each leaf of a pytree stands, as ``"Dense_0/kernel"``.

    Args:
      params: the pytree.
      separator: between the keys of a path.

    Returns:
      A path for every leaf, in their order; empty for params that are one array.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [jax.tree_util.keystr(path, simple=True, separator=separator) for path in paths]


def parameter_rows(params: Params) -> np.ndarray:
    """A path of params as the rows of a matrix.

    Args:
      params: a pytree with a leading axis (T, ...), d entries each.

    Returns:
      Shape (T, d), on the host.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _check_shapes(problem: Problem, params: Params) -> None:
    known = getattr(problem.criterion, "residual", None)
    residual = problem.residual
    if residual is None and known is not None and problem.outputs is not None:
        residual = _composed(problem.outputs, known)
    if residual is not None:
        shape = jax.eval_shape(residual, params)
        if not hasattr(shape, "shape") or len(shape.shape) != 1:
            found = getattr(shape, "shape", type(shape).__name__)
            raise ValueError(f"residual must return a vector of shape (m,), got {found}")
    value = jax.eval_shape(problem.loss_value, params)
    if getattr(value, "shape", None) != ():
        found = getattr(value, "shape", type(value).__name__)
        raise ValueError(f"the loss must be a scalar of shape (), got {found}")


def _half_square(residual: Callable[[Params], Array]) -> Callable[[Params], Scalar]:
    def loss(params: Params) -> Scalar:
        return 0.5 * jnp.sum(jnp.square(residual(params)))

    return loss


def _composed(
    outputs: Callable[[Params], Array], of_outputs: Callable[[Array], Array]
) -> Callable[[Params], Array]:
    def composed(params: Params) -> Array:
        return of_outputs(outputs(params))

    return composed
