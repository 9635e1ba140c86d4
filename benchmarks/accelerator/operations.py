"""Floating-point operations of a function's products, and the most that a card can do."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

# Operations a second, without sparsity, as the maker states them for the cards that are cooled as
# servers cool them. The precision "high" makes several passes of what "default" makes one of, so
# its share of that peak is less than a third where the units for matrices are never idle.
_HOPPER = {"highest": 67e12, "high": 495e12, "default": 495e12}
PEAKS = {"NVIDIA H100 80GB HBM3": _HOPPER, "NVIDIA H200": _HOPPER}


def share_of_peak(device: jax.Device, rate: float, precision: str) -> float | None:
    """A rate of float32 operations over the most that a device can do; None where unknown.

    Args:
      device: where.
      rate: operations a second.
      precision: as ``matmul_precision``.
    """
    peaks = PEAKS.get(device.device_kind)
    return None if peaks is None else rate / peaks[precision]


def product_operations(function: Callable, *arguments: Any) -> int:
    """Multiplications and additions of the matrix products and convolutions of a function.

    Those of a loop whose length is known count as often as it runs, those of another loop once,
    and of branches the most expensive counts.

    Args:
      function: of arrays.
      arguments: arrays, or their shapes and dtypes.
    """
    return _of_program(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_program(program: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in program.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        numbers, dilation = parameters["dimension_numbers"], parameters["lhs_dilation"]
        groups = parameters["batch_group_count"]
        return _of_convolution(equation, numbers.rhs_spec[0], dilation) // groups
    if name == "channels_last_convolution":  # ours, of CPUs
        return _of_convolution(equation, -1, parameters["window"].image_dilation)
    inner = [_of_program(program) for program in _programs(parameters)]
    if name == "cond":
        return max(inner, default=0)
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def _of_product(equation: core.JaxprEqn) -> int:
    """Two for every entry of the result and every index that is summed over."""
    (summed, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in summed)


def _of_convolution(equation: core.JaxprEqn, outputs: int, dilation: Sequence[int]) -> int:
    """Two for every entry of the result and of a kernel, zeros put in between aside.

    The gradient by the inputs of a convolution with strides is one whose inputs have zeros
    between them, which no program needs to multiply.

    Args:
      equation: whose kernel has its outputs on the axis ``outputs``.
      outputs: that axis.
      dilation: of the inputs.
    """
    kernel = equation.invars[1].aval.shape
    entries = math.prod(kernel) // kernel[outputs]
    whole = 2 * math.prod(equation.outvars[0].aval.shape) * entries
    return whole // math.prod(dilation)


def _programs(parameters: dict[str, Any]) -> list[core.Jaxpr]:
    """Those that an equation calls."""
    values = [value for entry in parameters.values()
              for value in (entry if isinstance(entry, tuple | list) else [entry])]  # fmt: skip
    return [
        getattr(value, "jaxpr", value)
        for value in values
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr)
    ]
