"""The reason for ``jax!=0.10.2``: on CPU that version compiles this pattern to wrong numbers.

It does so with XLA's optimizations and without, as the tests compile.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def _squared_lengths(rows: jax.Array) -> jax.Array:
    """A vmapped matrix–vector product followed by a reduction (jax-ml/jax#39103)."""
    matrix = jnp.eye(rows.shape[1], dtype=rows.dtype)
    return jax.vmap(lambda row: jnp.sum(jnp.square(matrix @ row)))(rows)


# the smallest numbers of rows that the report names: 2**14 + 1 and 2**15 + 1
@pytest.mark.parametrize(("dtype", "num_rows"), [(np.float64, 16_385), (np.float32, 32_769)])
def test_jit_of_a_vmapped_product_and_reduction_agrees_with_eager_and_numpy(dtype, num_rows):
    rows = np.zeros((num_rows, 3), dtype)
    rows[:, 0] = np.arange(num_rows)
    expected = np.sum(np.square(rows.astype(np.float64)), axis=1)

    eager = np.asarray(_squared_lengths(jnp.asarray(rows)))
    compiled = np.asarray(jax.jit(_squared_lengths)(jnp.asarray(rows)))

    # one rounded square and exact additions of zero; the fault is an error of 2e-3
    rounding = np.finfo(dtype).eps
    np.testing.assert_allclose(eager, expected, rtol=rounding)
    np.testing.assert_allclose(compiled, expected, rtol=rounding)


def test_the_faulty_version_of_jax_is_not_installed():
    assert jax.__version__ != "0.10.2"
