"""Products on the CPU as an accelerator makes them that is not asked for a precision."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax

# the tables of rules: public is how to add to them, and not how to take away again
from jax._src.interpreters.mlir import _lowerings, _platform_specific_lowerings
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

TF32, BFLOAT16 = 10, 7  # bits of their mantissas, the leading one not counted

_EXPONENT_BITS = 8  # of float32, TF32 and bfloat16 alike
_PRODUCTS = (lax.dot_general_p, lax.conv_general_dilated_p)


@contextlib.contextmanager
def rounded_products(mantissa_bits: int) -> Iterator[None]:
    """Round what float32 products multiply, unless they ask for a precision.

    A GPU rounds it to TF32 and a TPU to bfloat16 where the precision of a product is None
    or DEFAULT. Here the rule by which jax lowers a product for the CPU does so, so that
    every transformation and every loop is rounded alike, and XLA's sums stay in float32,
    as those of accelerators are. Products that ask for more, HIGH or HIGHEST, stay as they
    are, though HIGH is TF32 on a GPU and three passes of bfloat16 on a TPU.

    Programs that were compiled before keep their products: jax's caches are emptied on the
    way in and out. What was compiled ahead of time is not in them.

    Args:
      mantissa_bits: kept of each factor, ``TF32`` or ``BFLOAT16``.
    """
    table = _platform_specific_lowerings["cpu"]
    before = {product: table.get(product) for product in _PRODUCTS}
    try:
        for product in _PRODUCTS:
            exact = before[product] or _lowerings[product]
            rule = partial(_rounded, exact.rule, mantissa_bits)
            mlir.register_lowering(product, rule, platform="cpu")
        jax.clear_caches()
        yield
    finally:
        for product, entry in before.items():
            if entry is None:
                del table[product]
            else:
                table[product] = entry
        jax.clear_caches()


def _rounded(
    exact: Callable[..., Any], mantissa_bits: int, context: Any, *factors: Any, **options: Any
) -> Any:
    """Lower a product of rounded factors by the rule for exact ones."""
    if _asks_for_a_precision(options["precision"]):
        return exact(context, *factors, **options)
    rounded = [
        stablehlo.reduce_precision(factor, _EXPONENT_BITS, mantissa_bits)
        if value.dtype == np.float32
        else factor
        for factor, value in zip(factors, context.avals_in, strict=True)
    ]
    return exact(context, *rounded, **options)


def _asks_for_a_precision(precision: Any) -> bool:
    """Whether a product is not left to the default of the device."""
    each = precision if isinstance(precision, tuple) else (precision,)
    return not all(one in (None, lax.Precision.DEFAULT) for one in each)
