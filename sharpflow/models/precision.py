"""In what precision products are made: the one place that decides it.

A product of float32 matrices runs in TF32, with 10 bits of mantissa, on recent GPUs and in
bfloat16, with 7 bits, on TPUs, unless a precision is asked for. Neither is enough for an
eigenvalue, a retraction or a check of scale invariance. So whatever this package traces, and
whatever of a user's it traces, asks for the highest precision; only the training steps of a
simulation may ask for less. The settings of the process are never touched.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

import jax

from sharpflow.models.arguments import choice
from sharpflow.models.compiled_function import CompiledFunction, special_values_allowed

MatmulPrecision = Literal["highest", "high", "default"]
MATMUL_PRECISIONS: tuple[MatmulPrecision, ...] = ("highest", "high", "default")
# "high" would not do: it is TF32 on a GPU, which rounds factors by up to 5e-4. With factors rounded
# so, the check of scale invariance refuses sound losses, and Lanczos' method and the retraction do
# not converge; tests/accelerators rounds them so on a CPU.
FULL: MatmulPrecision = "highest"
# The primitives of jax that take a precision. One that is left out counts as precise, and the check
# of scale invariance then blames the loss.
_PRODUCTS = (
    "dot_general",
    "conv_general_dilated",
    "channels_last_convolution",
    "ragged_dot_general",
)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def products_at(precision: MatmulPrecision) -> AbstractContextManager[Any]:
    """A context in which products that name no precision of their own are traced with this one.

    jax keeps it for the thread that traces, and in the key under which it keeps what it has
    compiled. A product that a user's module gives a precision of its own keeps that one.
    """
    return jax.default_matmul_precision(precision)


def full_precision(function: _Function) -> _Function:
    """The same function, all of whose products have the highest precision.

    So have those of a problem among its arguments, whatever precision that is at for training
    steps. Called outside of compiled code it may also compute NaN, whatever ``jax_debug_nans``
    says. It holds while the function runs or is traced: for a derivative that jax traces later,
    such as the backward pass of a ``custom_vjp``, whoever takes the derivative is wrapped too.
    """

    @functools.wraps(function)
    def at_full_precision(*args: Any, **kwargs: Any) -> Any:
        args = tuple(map(_at_full_precision, args))
        kwargs = {name: _at_full_precision(value) for name, value in kwargs.items()}
        with products_at(FULL), special_values_allowed():
            return function(*args, **kwargs)

    return at_full_precision  # type: ignore[return-value]


def _at_full_precision(argument: Any) -> Any:
    """The argument, or a problem at the highest precision; problems are defined on top of this."""
    if getattr(argument, "matmul_precision", FULL) == FULL or not hasattr(argument, "at_precision"):
        return argument
    return argument.at_precision(FULL)


def compiled(
    function: Callable[..., Any] | None = None,
    *,
    static_argnames: Sequence[str] = (),
    donate_argnames: Sequence[str] = (),
) -> Any:
    """``jax.jit`` of a function, all of whose products have the highest precision.

    Every compiled function of the theory goes by it, and may be used as a decorator with
    arguments or without. It forgets the programs of problems that have died, and is deaf to
    ``jax_debug_nans``; see ``CompiledFunction``.

    Args:
      function: what to compile.
      static_argnames, donate_argnames: as of ``jax.jit``.

    Returns:
      The compiled function, or a decorator.
    """
    if function is None:
        return functools.partial(
            compiled, static_argnames=static_argnames, donate_argnames=donate_argnames
        )
    return CompiledFunction(
        full_precision(function), static_argnames=static_argnames, donate_argnames=donate_argnames
    )


def validated_precision(precision: Any) -> MatmulPrecision:
    """Refuse what is no precision of ours.

    Raises:
      ValueError: naming the argument, its value and what is allowed.
    """
    choice(MATMUL_PRECISIONS).require("matmul_precision", precision)
    return precision


def imprecise_products(function: Callable[..., Any], *args: Any) -> int:
    """How many products of a function do without the precision of true float32.

    Those are products of float32 factors whose precision is less than the highest, as a layer
    of a user's may name one, and products of factors in half precision.

    Args:
      function: of arrays.
      args: its arguments, of which the shapes count.

    Returns:
      The number of such products in its program, each counted once however often it runs.
    """
    return sum(map(_is_imprecise, _equations(jax.make_jaxpr(function)(*args).jaxpr)))


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Of a program and of all programs within it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")
        ):
            inner = getattr(parameter, "jaxpr", parameter)  # a closed one holds another
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _is_imprecise(equation: Any) -> bool:
    if equation.primitive.name not in _PRODUCTS:
        return False
    # The two factors; a ragged product has the sizes of its groups as a third operand.
    dtypes = {str(factor.aval.dtype) for factor in equation.invars[:2]}
    if dtypes & {"bfloat16", "float16"}:
        return True
    precision = equation.params.get("precision")
    asked = precision if isinstance(precision, tuple) else (precision,)
    return "float32" in dtypes and any(one != jax.lax.Precision.HIGHEST for one in asked)
