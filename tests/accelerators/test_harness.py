"""What shows imprecise products and baked-in data does show them, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported_programs import LARGEST_CONSTANT, exported, large_constants, shortcomings
from jax import lax
from rounded_products import BFLOAT16, TF32, rounded_products

RANDOM = np.random.default_rng(0)
MATRICES = tuple(RANDOM.normal(size=(2, 48, 48)).astype(np.float32))
IMAGES = RANDOM.normal(size=(4, 8, 8, 5)).astype(np.float32)
KERNEL = RANDOM.normal(size=(3, 3, 5, 6)).astype(np.float32)


def _matmul(precision):
    return lambda a, b: jnp.matmul(a, b, precision=precision)


def _convolution(precision):
    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, precision=precision
        )

    return convolve


def _gradients(product):
    def loss(*factors):
        return jnp.sum(jnp.sin(product(*factors)))

    return lambda *factors: jax.grad(loss, argnums=(0, 1))(*factors)


def _each(product):
    return lambda a, b: jax.vmap(product)(jnp.stack([a, a]), jnp.stack([b, b]))


def _scanned(product):
    return lambda a, b: lax.scan(lambda left, _: (jnp.tanh(product(left, b)), None), a, length=2)[0]


def _repeated(product):
    def twice(a, b):
        return lax.while_loop(
            lambda carry: carry[0] < 2,
            lambda carry: (carry[0] + 1, jnp.tanh(product(carry[1], b))),
            (0, a),
        )[1]

    return twice


CASES = {
    "product": (_matmul, lambda product: product, MATRICES),
    "compiled product": (_matmul, jax.jit, MATRICES),
    "gradients of a product": (_matmul, _gradients, MATRICES),
    "product under vmap": (_matmul, _each, MATRICES),
    "product in a scan": (_matmul, _scanned, MATRICES),
    "product in a while loop": (_matmul, _repeated, MATRICES),
    "convolution": (_convolution, jax.jit, (IMAGES, KERNEL)),
    "gradients of a convolution": (_convolution, _gradients, (IMAGES, KERNEL)),
}


@pytest.mark.parametrize("bits", [TF32, BFLOAT16])
@pytest.mark.parametrize("case", CASES)
def test_products_without_a_precision_are_rounded_and_those_of_the_highest_are_not(case, bits):
    build, transform, factors = CASES[case]

    def change(precision):
        function = transform(build(precision))
        exact = jax.tree.leaves(function(*factors))
        with rounded_products(bits):
            rounded = jax.tree.leaves(function(*factors))
        again = jax.tree.leaves(function(*factors))
        for first, last in zip(exact, again, strict=True):
            np.testing.assert_array_equal(first, last)
        return max(
            float(np.linalg.norm(one - other) / np.linalg.norm(one))
            for one, other in zip(map(np.asarray, exact), map(np.asarray, rounded), strict=True)
        )

    # Both factors err by at most 2^-(bits + 1), and by about half of it on average, and errors
    # of different terms do not add up. Two products in a row and a gradient keep the order.
    unit = 2.0 ** -(bits + 1)
    assert 0.2 * unit < change(None) < 5.0 * unit
    assert 0.2 * unit < change(lax.Precision.DEFAULT) < 5.0 * unit
    assert change(lax.Precision.HIGHEST) == 0.0


def test_a_context_that_asks_for_the_highest_precision_keeps_products_from_being_rounded():
    product = jax.jit(_gradients(_matmul(None)))
    exact = product(*MATRICES)
    with rounded_products(BFLOAT16), jax.default_matmul_precision("highest"):
        np.testing.assert_array_equal(product(*MATRICES), exact)


def test_products_in_float64_are_not_rounded():
    factors = [matrix.astype(np.float64) for matrix in MATRICES]
    exact = jnp.matmul(*factors)
    with rounded_products(BFLOAT16):
        np.testing.assert_array_equal(jnp.matmul(*factors), exact)


def test_an_imprecise_product_is_reported_wherever_it_stands():
    for build, transform, factors in CASES.values():
        kind = "dot_general" if build is _matmul else "convolution"
        reports = shortcomings(jax.jit(transform(build(None))), *factors)
        assert {report.split(":")[0] for report in reports} == {"cuda", "rocm", "tpu"}
        assert all("product below highest precision: stablehlo." in report for report in reports)
        assert all(kind in report and "test_harness.py" in report for report in reports)
        assert shortcomings(jax.jit(transform(build("high"))), *factors)
        assert shortcomings(jax.jit(transform(build("highest"))), *factors) == []


def test_a_large_array_within_a_program_is_reported_and_an_argument_is_not():
    data = RANDOM.normal(size=LARGEST_CONSTANT // 4 + 1).astype(np.float32)

    def total(x, data):
        return lax.fori_loop(0, 2, lambda _, sum_: sum_ + jnp.sum(data * x), x)

    one = jnp.float32(1.0)
    reports = shortcomings(jax.jit(lambda x: total(x, jnp.asarray(data))), one)
    assert [report.split(":")[0] for report in reports] == ["cuda", "rocm", "tpu"]
    assert all(f"large constant: {data.nbytes} bytes" in report for report in reports)
    assert shortcomings(jax.jit(total), one, data) == []
    assert shortcomings(jax.jit(lambda x: total(x, jnp.asarray(data[:-1]))), one) == []


def test_the_same_number_everywhere_is_no_data():
    constant = jax.jit(lambda x: x + jnp.full((LARGEST_CONSTANT,), 3.0, jnp.float32))
    for module in exported(constant, jnp.float32(1.0)).values():
        assert large_constants(module) == []


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.bool_, 1), (np.int16, 2), (np.float64, 8), (np.complex64, 8)]
)
def test_the_size_of_a_constant_is_that_of_its_numbers(dtype, size):
    data = RANDOM.normal(size=100) > 0
    program = jax.jit(lambda x: jnp.where(x, jnp.asarray(data.astype(dtype)), jnp.zeros((), dtype)))
    for module in exported(program, True).values():
        (report,) = large_constants(module, largest=100 * size - 1)
        assert report.startswith(f"{100 * size} bytes")
        assert large_constants(module, largest=100 * size) == []
