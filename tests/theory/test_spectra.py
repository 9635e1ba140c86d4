"""Densities, traces and blocks of matrices of curvature against dense linear algebra."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import norm

import sharpflow as sf
from sharpflow.theory import Status, block_eigenpairs, spectral_density, top_eigenpairs, trace
from sharpflow.theory.quadrature import quadrature, tridiagonal

_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])
_matrices = pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
_SEEDS = 100
# A right interval holds 95 of 100 in the mean, and 89 or fewer with a probability of 1.1 %.
_FEWEST = 90


@cache
def _problem() -> tuple[sf.Problem, dict]:
    """A network with a softmax on top, d = 60, and params at which its Hessian is indefinite."""
    random = np.random.default_rng(4)
    x, labels = jnp.asarray(random.normal(size=(30, 6))), jnp.asarray(random.integers(0, 4, 30))

    def outputs(params: dict) -> jax.Array:
        return jnp.tanh(x @ params["a"]) @ params["b"]

    def criterion(logits: jax.Array) -> jax.Array:
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(30), labels])

    def init(key: jax.Array) -> dict:
        return {"a": jax.random.normal(key, (6, 6)), "b": jax.random.normal(key, (6, 4))}

    problem = sf.Problem(init=init, outputs=outputs, criterion=criterion, scale_invariant=False)
    return problem, problem.init(jax.random.key(0))


@cache
def _dense(matrix: str) -> np.ndarray:
    """The matrix, by derivatives of functions of one vector."""
    problem, params = _problem()
    flat, unravel = ravel_pytree(params)
    if matrix == "hessian":
        return np.asarray(jax.hessian(lambda w: problem.loss_value(unravel(w)))(flat))
    outputs = problem.outputs(params)
    jacobian = jax.jacobian(lambda w: problem.outputs(unravel(w)).ravel())(flat)
    curvature = jax.hessian(lambda f: problem.criterion(f.reshape(outputs.shape)))(outputs.ravel())
    return np.asarray(jacobian.T @ curvature @ jacobian)


def _diagonal(values: np.ndarray) -> tuple[sf.Problem, jax.Array]:
    """½ Σ λ_i w_i²."""
    weights = jnp.sqrt(jnp.asarray(values))

    def init(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, weights.shape, weights.dtype)

    problem = sf.Problem(init=init, residual=lambda w: weights * w, scale_invariant=False)
    return problem, problem.init(jax.random.key(0))


def _smoothed(values: np.ndarray, points: np.ndarray, width: float) -> tuple[np.ndarray, ...]:
    """Density and number above each point."""
    scaled = (values - points[:, None]) / width
    return norm.pdf(scaled).mean(axis=1) / width, norm.cdf(scaled).sum(axis=1)


def _held(low: np.ndarray, exact: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How many of the seeds hold what is exact, but for rounding."""
    low, high = np.asarray(low), np.asarray(high)
    slack = 1e-9 * np.max(np.abs(exact))
    return np.sum((low <= exact + slack) & (exact <= high + slack), axis=0)


@_dtypes
def test_quadrature_is_exact_where_the_krylov_space_ends(dtype: type) -> None:
    diagonal = np.concatenate([np.arange(1.0, 6.0), np.zeros(95)]).astype(dtype)
    vector = np.random.default_rng(0).normal(size=100).astype(dtype)
    vector /= np.linalg.norm(vector)
    matrix = jax.jit(partial(tridiagonal, lambda v: diagonal * v, degree=30))(jnp.asarray(vector))
    found = quadrature(matrix, 30)
    counted = np.asarray(found.weights) > 1e-6
    precision = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(np.sort(found.nodes[counted]), np.arange(6.0), atol=precision)
    assert np.all(np.asarray(found.nodes)[~counted] <= 5.0 + precision)
    mean = np.sum(found.weights * np.exp(found.nodes))
    np.testing.assert_allclose(mean, np.sum(np.exp(diagonal) * vector**2), rtol=precision)


def test_quadrature_is_exact_for_polynomials_below_twice_its_degree() -> None:
    random = np.random.default_rng(1)
    square = random.normal(size=(40, 40))
    symmetric = square + square.T
    vector = random.normal(size=40)
    vector /= np.linalg.norm(vector)
    found = quadrature(tridiagonal(lambda v: symmetric @ v, jnp.asarray(vector), 6), 6)
    for power in range(12):
        exact = vector @ np.linalg.matrix_power(symmetric, power) @ vector
        size = np.linalg.norm(symmetric, 2) ** power
        assert float(np.sum(found.weights * found.nodes**power)) == pytest.approx(
            exact, abs=1e-12 * size
        )


@_matrices
def test_intervals_of_density_and_count_hold_those_of_the_dense_matrix(matrix: str) -> None:
    problem, params = _problem()
    values = np.linalg.eigvalsh(_dense(matrix))
    width = 0.05 * np.ptp(values)
    points = np.linspace(values[0] - width, values[-1] + width, 7)

    @jax.jit
    @jax.vmap
    def density(seed: jax.Array) -> sf.theory.SpectralDensity:
        return spectral_density(
            problem, params, matrix=matrix, points=points, width=width, degree=30, seed=seed
        )

    found = density(jnp.arange(_SEEDS))
    assert np.all(found.status == Status.SUCCESS)
    exact, count = _smoothed(values, points, width)
    assert np.all(_held(found.density_low, exact, found.density_high) >= _FEWEST)
    assert np.all(_held(found.count_above_low, count, found.count_above_high) >= _FEWEST)
    # the mean over all vectors of all seeds is what it must be, within four of its errors
    error = np.std(np.asarray(found.density), axis=0) / _SEEDS**0.5
    assert np.all(np.abs(np.mean(np.asarray(found.density), axis=0) - exact) < 4.0 * error + 1e-12)


def test_interval_of_a_single_eigenvalue_is_neither_too_short_nor_endless() -> None:
    problem, params = _diagonal(np.concatenate([[10.0], np.linspace(0.0, 1.0, 29)]))

    @jax.jit
    @jax.vmap
    def density(seed: jax.Array) -> sf.theory.SpectralDensity:
        return spectral_density(
            problem, params, points=jnp.asarray([5.0, 10.0]), width=0.3, degree=20, seed=seed
        )

    found = density(jnp.arange(2 * _SEEDS))
    # of 200 seeds a right interval holds 182 or fewer with a probability of 1.1 %
    assert np.all(_held(found.count_above_low[:, 0], 1.0, found.count_above_high[:, 0]) > 182)
    exact = norm.pdf(0.0) / 0.3 / 30
    assert _held(found.density_low[:, 1], exact, found.density_high[:, 1]) > 182
    # of one eigenvalue ten vectors make a χ² variable of ten degrees of freedom, whose interval
    # reaches from 0.49 to 3.1 times it
    relative = (found.count_above_high - found.count_above_low)[:, 0] / found.count_above[:, 0]
    assert 1.5 < np.median(relative) < 4.0


def test_density_of_a_degree_that_is_too_low_is_no_success() -> None:
    problem, params = _diagonal(np.linspace(0.0, 1.0, 300))
    found = spectral_density(problem, params, degree=12, width=0.002)
    assert int(found.status) == Status.NOT_CONVERGED
    assert int(spectral_density(problem, params, degree=12, width=0.2).status) == Status.SUCCESS


def test_density_between_the_nodes_of_too_low_a_degree_is_no_success() -> None:
    problem, params = _diagonal(np.linspace(0.0, 1.0, 100))
    found = spectral_density(problem, params, degree=12, width=1e-6, points=jnp.asarray([0.503]))
    assert float(found.density[0]) == 0.0  # both quadratures agree, and are wrong
    assert int(found.status) == Status.NOT_CONVERGED


def test_density_of_one_multiple_eigenvalue_is_within_the_rounding_of_float32() -> None:
    problem, params = _diagonal(np.full(50, 3.0, np.float32))
    points = np.linspace(2.99, 3.01, 9)
    found = spectral_density(problem, params, width=3e-3, points=points)
    exact = norm.pdf((3.0 - points) / 3e-3) / 3e-3
    low, high = np.asarray(found.density_low, float), np.asarray(found.density_high, float)
    rounded = 1e-6 * exact.max()  # of the density itself, and none of the eigenvalue
    assert np.any(np.abs(np.asarray(found.density, float) - exact) > 10.0 * rounded)
    assert np.all((low <= exact + rounded) & (exact <= high + rounded))


def test_density_of_a_multiple_of_the_identity_is_one_gaussian() -> None:
    problem, params = _diagonal(np.full(50, 3.0))
    found = spectral_density(problem, params, width=0.1, points=jnp.asarray([2.9, 3.0]))
    exact = norm.pdf([-1.0, 0.0]) / 0.1
    np.testing.assert_allclose(found.density, exact, rtol=1e-10)
    np.testing.assert_allclose(found.density_high, found.density_low, rtol=1e-6)


@_matrices
def test_trace_is_within_its_interval(matrix: str) -> None:
    problem, params = _problem()
    exact = np.trace(_dense(matrix))
    found = jax.jit(
        jax.vmap(lambda seed: trace(problem, params, matrix=matrix, num_products=24, seed=seed))
    )(jnp.arange(_SEEDS))
    assert _held(found.low, exact, found.high) >= _FEWEST
    # and the interval is no wider than the scatter; the ratio of 100 draws errs by 7 %
    assert np.sqrt(np.mean(found.standard_error**2)) / np.std(found.trace) == pytest.approx(
        1.0, abs=0.25
    )


def test_trace_of_low_rank_needs_no_more_products_than_three_ranks() -> None:
    values = np.concatenate([np.arange(1.0, 11.0), np.zeros(190)])
    found = trace(*_diagonal(values), num_products=36)
    assert float(found.trace) == pytest.approx(55.0, rel=1e-12)
    assert float(found.standard_error) < 1e-10


def test_trace_whose_interval_overflows_is_no_success() -> None:
    problem, params = _diagonal(np.linspace(0.0, 3.5e306, 100))
    found = jax.jit(jax.vmap(lambda seed: trace(problem, params, num_products=12, seed=seed)))(
        jnp.arange(20)
    )
    endless = np.isfinite(found.trace) & ~np.isfinite(found.high)
    assert np.any(endless)
    assert np.all(np.asarray(found.status)[endless] == Status.NOT_FINITE)


def test_trace_of_as_many_products_as_dimensions_is_exact() -> None:
    problem, params = _problem()
    found = trace(problem, params, num_products=1000)
    assert float(found.trace) == pytest.approx(np.trace(_dense("hessian")), rel=1e-12)
    assert float(found.standard_error) == 0.0 and int(found.num_products) == 60


@_matrices
def test_largest_eigenvalues_are_those_of_the_dense_matrix(matrix: str) -> None:
    problem, params = _problem()
    pairs = top_eigenpairs(problem, params, 3, matrix=matrix, method="lanczos")
    exact = np.linalg.eigvalsh(_dense(matrix))[::-1][:3]
    np.testing.assert_allclose(pairs.values, exact, rtol=1e-8)
    assert int(pairs.status) == Status.SUCCESS


def test_gauss_newton_of_linear_outputs_is_the_hessian() -> None:
    problem, params = _diagonal(np.arange(1.0, 6.0))
    pairs = top_eigenpairs(problem, params, 5, matrix="gauss_newton")
    np.testing.assert_allclose(pairs.values, np.arange(5.0, 0.0, -1.0), rtol=1e-12)


@_matrices
def test_preconditioned_matrix_is_that_of_dense_algebra(matrix: str) -> None:
    problem, params = _problem()
    flat, unravel = ravel_pytree(params)
    diagonal = np.random.default_rng(2).uniform(0.5, 2.0, flat.size)
    dense = _dense(matrix) / np.sqrt(diagonal) / np.sqrt(diagonal)[:, None]
    given = {"matrix": matrix, "preconditioner": unravel(jnp.asarray(diagonal))}
    pairs = top_eigenpairs(problem, params, 2, **given)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(dense)[::-1][:2], rtol=1e-8)
    found = trace(problem, params, num_products=60, **given)
    assert float(found.trace) == pytest.approx(np.trace(dense), rel=1e-10)
    blocks = block_eigenpairs(problem, params, **given)
    assert float(blocks["a"].values[0]) == pytest.approx(
        np.linalg.eigvalsh(dense[:36, :36])[-1], rel=1e-8
    )


@_matrices
def test_blocks_are_those_of_the_dense_matrix(matrix: str) -> None:
    problem, params = _problem()
    dense = _dense(matrix)
    groups = {"first": "a", "second": "b", "both": ["a", "b"]}
    blocks = block_eigenpairs(problem, params, 2, groups=groups, matrix=matrix)
    for name, part in (("first", slice(36)), ("second", slice(36, 60)), ("both", slice(60))):
        block = dense[part, part]
        pairs = blocks[name]
        np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(block)[::-1][:2], rtol=1e-8)
        vectors = jax.vmap(lambda tree: ravel_pytree(tree)[0])(pairs.vectors)
        residuals = vectors @ block - pairs.values[:, None] * vectors
        assert np.all(np.linalg.norm(residuals, axis=1) <= 1e-7 * pairs.values[0])
        assert int(pairs.status) == Status.SUCCESS
    again = block_eigenpairs(problem, params, 2, groups=groups, matrix=matrix, start=blocks)
    np.testing.assert_allclose(again["both"].values, blocks["both"].values, rtol=1e-10)


def test_lanes_side_by_side_are_those_one_by_one() -> None:
    problem, params = _problem()
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)

    def measured(params: dict) -> tuple:
        density = spectral_density(problem, params, degree=8, num_vectors=3)
        found = trace(problem, params, num_products=24)
        return density.density, found.trace, block_eigenpairs(problem, params)["a"].values

    together = jax.jit(jax.vmap(measured))(lanes)
    for lane in range(2):
        alone = measured(jax.tree.map(lambda leaf: leaf[lane], lanes))  # noqa: B023
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_allclose(many[lane], one, rtol=1e-6, atol=1e-9)


def test_float32_is_within_its_intervals_too() -> None:
    values = np.concatenate([[50.0, 20.0], np.linspace(0.0, 1.0, 98)]).astype(np.float32)
    problem, params = _diagonal(values)
    assert params.dtype == np.float32
    found = spectral_density(problem, params, width=0.5, degree=30)
    assert int(found.status) == Status.SUCCESS
    exact, _ = _smoothed(values, np.asarray(found.points, float), 0.5)
    low, high = (np.asarray(side, float) for side in (found.density_low, found.density_high))
    held = (low <= exact + 1e-5) & (exact <= high + 1e-5)
    assert np.mean(held) > 0.8  # points beside each other err together
    sum_found = trace(problem, params, num_products=30)
    assert abs(float(sum_found.trace) - values.sum()) < 4.0 * float(sum_found.standard_error)


@_dtypes
def test_products_that_underflow_are_no_success(dtype: type) -> None:
    random = np.random.default_rng(5)
    square = random.normal(size=(40, 40))
    for shift, expected in ((3.0, Status.SUCCESS), (-1.0, Status.PRECISION)):
        # beside and beyond the limit at which what is taken for zero is missed
        limit = float(np.finfo(dtype).tiny) / float(np.finfo(dtype).eps)
        matrix = jnp.asarray(limit * 10.0**shift * (square + square.T) / 40.0, dtype)
        problem = sf.Problem(
            init=lambda key: jnp.ones(40, dtype),
            loss=lambda w, matrix: 0.5 * w @ (matrix @ w),
            data=matrix,
            scale_invariant=False,
        )
        params = jnp.ones(40, dtype)
        statuses = [
            spectral_density(problem, params, num_vectors=2).status,
            trace(problem, params).status,
            top_eigenpairs(problem, params).status,
        ]
        assert [Status(int(one)) for one in statuses] == 3 * [expected]


def test_what_is_wrong_with_an_operator_is_told() -> None:
    problem = sf.Problem(
        init=lambda key: jax.random.normal(key, (20,)),
        loss=lambda w: jnp.sum(jnp.sqrt(-jnp.square(w))),
        scale_invariant=False,
    )
    params = problem.init(jax.random.key(0))
    assert int(spectral_density(problem, params, degree=4).status) == Status.NOT_FINITE
    assert int(trace(problem, params, num_products=12).status) == Status.NOT_FINITE
    wrong = _asymmetric()
    assert int(spectral_density(wrong, params, degree=4).status) == Status.NOT_SYMMETRIC
    assert int(trace(wrong, params, num_products=12).status) == Status.NOT_SYMMETRIC


def _asymmetric() -> sf.Problem:
    """A loss whose gradient, by a derivative of its own, is that of no function."""
    matrix = jnp.asarray(np.random.default_rng(3).normal(size=(20, 20)))

    @jax.custom_jvp
    def loss(w: jax.Array) -> jax.Array:
        return 0.5 * w @ (matrix @ w)

    @loss.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        return loss(*primals), tangents[0] @ (matrix @ primals[0])

    return sf.Problem(
        init=lambda key: jax.random.normal(key, (20,)),
        loss=lambda w: loss(w),
        scale_invariant=False,
    )


def test_gauss_newton_of_a_loss_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="a loss alone"):
        trace(_asymmetric(), jnp.ones(20), matrix="gauss_newton")


def test_a_start_of_other_groups_is_refused() -> None:
    problem, params = _problem()
    start = block_eigenpairs(problem, params, groups={"first": "a"})
    with pytest.raises(ValueError, match="start must be of the groups a, b"):
        block_eigenpairs(problem, params, start=start)
