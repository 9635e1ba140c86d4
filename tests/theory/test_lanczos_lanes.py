"""Lanczos' method for many operators side by side against each of them alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.theory import Status
from sharpflow.theory.lanczos import lanczos
from sharpflow.theory.lanczos_lanes import lanczos_of_lanes

DIMENSION, LANES = 60, 40
TOLERANCE = 1e-9


def _matrices() -> np.ndarray:
    """Symmetric matrices whose spectra take from a few to very many products."""
    random = np.random.default_rng(3)
    matrices = []
    for lane in range(LANES):
        basis, _ = np.linalg.qr(random.normal(size=(DIMENSION, DIMENSION)))
        rank = max(DIMENSION >> (lane % 6), 1)  # of low rank some end early, and go on afresh
        spectrum = np.zeros(DIMENSION)
        spectrum[:rank] = random.uniform(-1.0, 1.0, rank) * 10.0 ** random.uniform(-3.0, 3.0)
        matrices.append((basis * spectrum) @ basis.T)
    return np.stack(matrices)


MATRICES = _matrices()
START = np.random.default_rng(4).normal(size=(LANES, 2, DIMENSION))


@partial(jax.jit, static_argnames=("k",))
def _side_by_side(matrices, wanted, k=2):
    def products(lanes):
        return lambda vectors: jnp.einsum("wij,wj->wi", matrices[lanes], vectors)

    return lanczos_of_lanes(
        products,
        jnp.asarray(START),
        k,
        wanted=wanted,
        tolerance=TOLERANCE,
        basis_size=20,
        seed=jnp.zeros(LANES, jnp.int32),
    )


@partial(jax.jit, static_argnames=("k",))
def _alone(matrix, start, k=2):
    return lanczos(lambda v: matrix @ v, start, k, tolerance=TOLERANCE, basis_size=20)


@pytest.fixture(scope="module")
def side_by_side():
    return _side_by_side(jnp.asarray(MATRICES), jnp.ones(LANES, bool))


def test_every_lane_finds_what_it_finds_alone_with_as_many_products(side_by_side) -> None:
    products = []
    for lane, matrix in enumerate(MATRICES):
        alone = _alone(jnp.asarray(matrix), jnp.asarray(START[lane]))
        size = float(alone.largest)
        np.testing.assert_allclose(side_by_side.values[lane], alone.values, atol=1e-8 * size)
        assert bool(jnp.all(side_by_side.converged[lane])) and bool(jnp.all(alone.converged))
        products.append(int(alone.num_products))
        # rounding may move the end by a Rayleigh–Ritz step
        assert abs(int(side_by_side.num_products[lane]) - products[-1]) <= 2
    assert max(products) >= 3 * min(products), "lanes that end together would show nothing"


def test_the_values_are_those_of_the_dense_matrices(side_by_side) -> None:
    expected = np.linalg.eigvalsh(MATRICES)[:, ::-1][:, :2]
    sizes = np.abs(np.linalg.eigvalsh(MATRICES)).max(axis=1)
    assert np.all(np.abs(side_by_side.values - expected) <= 10 * TOLERANCE * sizes[:, None])


def test_a_lane_keeps_its_bits_whatever_the_others_do(side_by_side) -> None:
    """Also where they change how soon the lanes are gathered."""
    others = MATRICES.copy()
    others[1::2] = np.eye(DIMENSION)  # end at once
    others[3] = np.nan
    found = _side_by_side(jnp.asarray(others), jnp.ones(LANES, bool))
    for name in ("values", "vectors", "residuals", "num_products", "converged"):
        kept, now = getattr(side_by_side, name)[::2], getattr(found, name)[::2]
        np.testing.assert_array_equal(now, kept, err_msg=name)
    assert not np.any(found.converged[3])


def test_a_lane_that_nobody_wants_takes_no_products(side_by_side) -> None:
    wanted = np.arange(LANES) % 3 == 0
    found = _side_by_side(jnp.asarray(MATRICES), jnp.asarray(wanted))
    np.testing.assert_array_equal(found.num_products[~wanted], 0)
    assert not np.any(found.converged[~wanted])
    np.testing.assert_array_equal(found.values[wanted], side_by_side.values[wanted])


@pytest.mark.parametrize("own_data", [False, True])
def test_eigenpairs_under_vmap_are_those_of_every_point_alone(own_data: bool) -> None:
    random = np.random.default_rng(5)
    problems = [
        sf.models.mlp(random.normal(size=(12, 5)), np.arange(12) % 3, (40,), dtype=np.float64)
        for _ in range(3)
    ]
    if not own_data:
        problems = problems[:1] * 3
    params = [p.init(jax.random.key(seed)) for seed, p in enumerate(problems)]
    pairs = partial(sf.theory.top_eigenpairs, k=2, method="lanczos")
    alone = [pairs(*each) for each in zip(problems, params, strict=True)]

    def stacked(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    axes = (0 if own_data else None, 0)
    given = (stacked(problems) if own_data else problems[0], stacked(params))
    found = jax.vmap(pairs, in_axes=axes)(*given)
    assert np.all(found.status == Status.SUCCESS)
    np.testing.assert_allclose(found.values, np.stack([one.values for one in alone]), rtol=1e-9)
    np.testing.assert_allclose(
        np.abs(found.vectors["Dense_0"]["kernel"]),
        np.abs(np.stack([one.vectors["Dense_0"]["kernel"] for one in alone])),
        atol=1e-5,
    )
