"""Programs as accelerators get them, made on a machine without any, and what is amiss in them."""

import math
import re
from typing import Any

import jax
from jax.extend.mlir import ir

PLATFORMS = ("cuda", "rocm", "tpu")
LARGEST_CONSTANT = 2**16  # bytes; XLA copies, folds and hashes what a program holds

_PRODUCTS = ("stablehlo.dot_general", "stablehlo.dot", "stablehlo.convolution")
_CONSTANT = "stablehlo.constant"
_PRINTED_CALLS = 4  # of the calls that led to an operation


def exported(function: Any, *args: Any, **kwargs: Any) -> dict[str, ir.Module]:
    """What each platform would compile, without compiling it.

    The modules hold what is truly lowered: precisions that a transformation forgot, and
    arrays that a trace took for constants. A jaxpr shows neither for what is made of
    primitives only when it is lowered, as eigenvectors are on a TPU. Lowering for a platform
    is all of ``jax.export`` that matters here; its checks are of programs to be stored.

    Args:
      function: compiled, as of ``jax.jit``.
      args, kwargs: to call it with; nothing is computed, and nothing donated.

    Returns:
      StableHLO by platform.
    """
    before = jax.config.values["jax_traceback_in_locations_limit"]
    # the tests run without places in the source, which the reports below are to name
    jax.config.update("jax_traceback_in_locations_limit", _PRINTED_CALLS)
    try:
        traced = function.trace(*args, **kwargs)
        return {
            platform: traced.lower(lowering_platforms=(platform,)).compiler_ir("stablehlo")
            for platform in PLATFORMS
        }
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def imprecise_products(module: ir.Module) -> list[str]:
    """Products with a float32 factor that do not ask for the highest precision of both.

    Returns:
      For each the operation, and where it was called.
    """
    return [
        _description(operation)
        for operation in _operations(module)
        if operation.name in _PRODUCTS
        and any(_element_type(operand.type) == "f32" for operand in operation.operands)
        and not _is_of_highest_precision(operation)
    ]


def large_constants(module: ir.Module, largest: int = LARGEST_CONSTANT) -> list[str]:
    """Arrays within a program, but those that are one number everywhere.

    Returns:
      For each that takes more than ``largest`` bytes the operation, its size, and where it is.
    """
    return [
        f"{size} bytes: {_description(operation)}"
        for operation in _operations(module)
        if operation.name == _CONSTANT
        and (size := _size(operation)) > largest
        and not _is_one_number(operation)
    ]


def shortcomings(function: Any, *args: Any, **kwargs: Any) -> list[str]:
    """What is amiss in a program, on any platform; ``args`` and ``kwargs`` as of ``exported``."""
    return [
        f"{platform}: {report}"
        for platform, module in exported(function, *args, **kwargs).items()
        for report in shortcomings_of(module)
    ]


def shortcomings_of(module: ir.Module) -> list[str]:
    """Its imprecise products and large constants, each once, in the order of the program."""
    products = (f"product below highest precision: {one}" for one in imprecise_products(module))
    constants = (f"large constant: {one}" for one in large_constants(module))
    return list(dict.fromkeys([*products, *constants]))


def _operations(module: ir.Module) -> list[ir.Operation]:
    """All operations of a program, those of its functions and the bodies of its loops too."""
    found = []

    def visit(operation: Any) -> ir.WalkResult:
        found.append(operation.operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def _is_of_highest_precision(operation: ir.Operation) -> bool:
    if "precision_config" not in operation.attributes:
        return False
    return all("HIGHEST" in str(each) for each in operation.attributes["precision_config"])


def _size(constant: ir.Operation) -> int:
    """Bytes of all its numbers."""
    kind = constant.results[0].type
    parts = 2 if "complex" in _element_type(kind) else 1
    bits = int(re.search(r"\d+", _element_type(kind)).group())
    return parts * max(bits // 8, 1) * math.prod(ir.ShapedType(kind).shape)


def _is_one_number(constant: ir.Operation) -> bool:
    """Whether it is the same number everywhere, which is no data."""
    # from the text, because not every kind of constant has a class in Python; and of few
    # operations only, because to print one the whole program is numbered
    text = constant.get_asm(large_elements_limit=1)
    return re.search(r'dense<[^\["_]', text) is not None


def _element_type(kind: ir.Type) -> str:
    return str(ir.ShapedType(kind).element_type)


def _description(operation: ir.Operation) -> str:
    factors = ", ".join(str(operand.type) for operand in operation.operands)
    result = ", ".join(str(result.type) for result in operation.results)
    return (
        f"{operation.name}({factors}) -> {result} in {_enclosing_function(operation)}, "
        f"at {operation.location}"
    )


def _enclosing_function(operation: ir.Operation) -> str:
    while operation.name != "func.func":
        operation = operation.parent.operation
    return str(operation.attributes["sym_name"])
