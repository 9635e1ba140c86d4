"""Functions as parts of a pytree: what is compared, and what is an argument."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sharpflow.models.precision import MatmulPrecision, products_at
from sharpflow.models.static_function import StaticFunction, static_part


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class BoundFunction:
    """A function with the data that it takes after its argument, and its precision.

    As a pytree its leaves are the data, and the arrays of a function that is a pytree itself.

    Attributes:
      function: (argument, data) -> value, or argument -> value.
      static: the function, where it is no pytree of arrays; what is compared.
      data: a pytree of arrays, or None for a function that takes none.
      takes_data: which of the two the function is.
      precision: of its products; None leaves that to whoever traces it.
    """

    function: Callable[..., Any]
    static: StaticFunction | None
    data: Any
    takes_data: bool
    precision: MatmulPrecision | None

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        data: Any,
        precision: MatmulPrecision | None,
        *,
        static: Callable[[Callable[..., Any]], StaticFunction] = StaticFunction.by_reading,
    ) -> "BoundFunction":
        """Bind a function to data, if it takes any.

        Args:
          function: of an argument, or of an argument and data.
          data: a pytree of arrays, or None, which nothing takes.
          precision: of the products.
          static: how the function is compared, if it is no pytree of arrays.

        Raises:
          ValueError: the function takes data and there are none, or it takes neither one
            argument nor two.
        """
        _require_arguments(function, data)
        needs_data = takes_data(function)
        if needs_data and data is None and not _takes_any_number(function):
            raise ValueError("takes a second argument, the data, but data is None")
        bound = needs_data and data is not None
        compared = None if is_pytree_of_arrays(function) else static(function)
        return cls(function, compared, data if bound else None, bound, precision)

    def __call__(self, argument: Any) -> Any:
        """The value for an argument."""
        # At every call, and not only when a problem is made: jax traces later, and what a name
        # means by then is what the program would hold.
        if self.static is not None:
            self.static.require_unchanged()
        given = (argument, self.data) if self.takes_data else (argument,)
        if self.precision is None:
            return self.function(*given)
        with products_at(self.precision):
            return self.function(*given)

    def with_data(self, data: Any) -> "BoundFunction":
        """The same function with other data, if it takes any."""
        return dataclasses.replace(self, data=data) if self.takes_data else self

    def at_precision(self, precision: MatmulPrecision | None) -> "BoundFunction":
        """The same function with products of another precision."""
        # A bound function may hold others, as the loss holds the outputs and the criterion. The
        # innermost context decides the precision of a product, so that all of them must change.
        inner = self.function
        if isinstance(inner, BoundFunction):
            inner = inner.at_precision(precision)
        data = jax.tree.map(
            lambda part: part.at_precision(precision) if hasattr(part, "at_precision") else part,
            self.data,
            is_leaf=lambda part: hasattr(part, "at_precision"),  # a function, or a problem
        )
        return dataclasses.replace(self, function=inner, data=data, precision=precision)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple]:
        """The function's own arrays and the data; all else is static."""
        arrays = self.function if self.static is None else None
        return (arrays, self.data), (static_part(self.static), self.takes_data, self.precision)

    @classmethod
    def tree_unflatten(cls, constants: tuple, children: tuple[Any, ...]) -> "BoundFunction":
        """The same function with other arrays."""
        static, bound, precision = constants
        arrays, data = children
        return cls(arrays if static is None else static.function, static, data, bound, precision)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def takes_data(function: Callable[..., Any]) -> bool:
    """Whether a function requires a second positional argument, or takes any number of them."""
    parameters = _parameters(function)
    required = [p for p in parameters if p.kind in _POSITIONAL and p.default is p.empty]
    return len(required) >= 2 or _takes_any_number(function)


def _require_arguments(function: Callable[..., Any], data: Any) -> None:
    """Refuse what could not be called, and data that would silently not be passed."""
    try:
        inspect.signature(function)
    except (TypeError, ValueError):  # written in C, without a signature
        return
    parameters = _parameters(function)
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    required = [p.name for p in positional if p.default is p.empty]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if named or len(required) > 2:
        raise ValueError(
            "must take one argument, or two of which the second is the data; but it requires "
            f"{required + named}. Bind the others by functools.partial"
        )
    if not positional and not _takes_any_number(function):
        raise ValueError("must take an argument by position, but takes none")
    second = positional[1] if len(positional) > 1 else None
    if data is not None and second and second.name == "data" and second.default is not second.empty:
        raise ValueError(
            "has a default for its second argument, data, and would get that instead of the data: "
            "leave the default out, or give the argument another name"
        )


def _takes_any_number(function: Callable[..., Any]) -> bool:
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in _parameters(function))


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature
        return []


def is_pytree_of_arrays(function: Callable[..., Any]) -> bool:
    """Whether a callable is a pytree, and jax may trace all its leaves.

    A leaf that is no array, such as a number that decides a branch, must not be traced.
    """
    # A function that jax does not know as a pytree is its own single leaf.
    leaves = jax.tree.leaves(function)
    is_leaf = len(leaves) == 1 and leaves[0] is function
    return not is_leaf and all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves)
