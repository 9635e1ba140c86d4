"""A start from eigenvectors is never all that is looked at: eigenvalues that overtake are seen.

The Hessians are diagonal but for one entry, which climbs from below the top to above it, and is
coupled to the two largest with a given strength. The right values are those of a 3 × 3 matrix
and of the diagonal.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.theory import Status, top_eigenpairs

DIMENSION = 600
COUNT = int(os.environ.get("SHARPFLOW_OVERTAKINGS", "24"))  # of each setting; 1,000 by hand
TOP = 2.0
_climbing = np.array([0, 1, DIMENSION - 1])


def _spectrum(kind: int, random: np.random.Generator) -> np.ndarray:
    """Two distinct ones above many equal; dense; a bulk below two; a bulk around zero."""
    rest = DIMENSION - 2
    return [
        lambda: np.concatenate([[TOP, 1.9], np.full(rest, 0.4)]),
        lambda: TOP * np.exp(-np.arange(DIMENSION) / 40),
        lambda: np.concatenate([[TOP, 1.7], np.sort(random.uniform(0, 1.6, rest))[::-1]]),
        lambda: np.concatenate([[TOP, 0.5], np.sort(random.uniform(-0.3, 0.3, rest))[::-1]]),
    ][kind]()


def _eigenpairs(diagonal: np.ndarray, coupling: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k + 1 largest, and their vectors in rows."""
    block = np.diag(diagonal[_climbing])
    block[2, :2] = block[:2, 2] = coupling * TOP * np.array([1.0, 0.3])
    values, vectors = np.linalg.eigh(block)
    every = np.concatenate([values, diagonal[2:-1]])
    rows = np.zeros((k + 1, DIMENSION))
    best = np.argsort(-every)[: k + 1]
    for row, place in zip(rows, best, strict=True):
        if place < 3:
            row[_climbing] = vectors[:, place]
        else:
            row[place - 1] = 1.0
    return every[best], rows


def _loss(params: jax.Array, data: tuple[jax.Array, jax.Array]) -> jax.Array:
    diagonal, coupling = data
    coupled = coupling * TOP * params[-1] * (params[0] + 0.3 * params[1])
    return 0.5 * jnp.sum(diagonal * jnp.square(params)) + coupled


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("tolerance", [None, 1e-3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_overtaking_is_missed_however_weakly_it_is_coupled(dtype, tolerance, k) -> None:
    random = np.random.default_rng(17)
    nothing = (jnp.zeros(DIMENSION, dtype), jnp.zeros((), dtype))
    problem = sf.Problem(
        init=lambda key, data: jnp.zeros_like(data[0]),
        loss=_loss,
        data=nothing,
        scale_invariant=False,
    )
    point = jnp.zeros(DIMENSION, dtype)

    @jax.jit
    def tracked(data, start, seed):
        there = problem.with_data(data)
        return top_eigenpairs(
            there, point, k, tolerance=tolerance, stop="estimate", method="lanczos",
            start=start, seed=seed,
        )  # fmt: skip

    allowed = tolerance or {np.float32: 1e-4, np.float64: 1e-8}[dtype]
    for coupling in (0.0, 1e-6, 1e-4, 1e-2, 1e-1):
        for case in range(COUNT):
            diagonal = _spectrum(case % 4, random)
            diagonal[-1] = TOP * random.uniform(0.2, 0.99)
            _, start = _eigenpairs(diagonal, coupling, k)
            diagonal[-1] = TOP * random.uniform(1.01, 2.0)
            right, _ = _eigenpairs(diagonal, coupling, k)
            data = (jnp.asarray(diagonal, dtype), jnp.asarray(coupling, dtype))
            found = tracked(data, jnp.asarray(start, dtype), case)
            error = np.abs(np.asarray(found.values, float) - right[:k]).max() / right[0]
            assert found.status != Status.SUCCESS or error <= allowed + np.finfo(dtype).eps * 50
            assert found.status == Status.SUCCESS
            assert float(found.overlooked) <= 0.05  # of a margin of ten tolerances, in float32


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    ("bulk", "top", "after"), [((-100.0, 1.9), 2.0, 3.0), ((-20.0, -1.2), -1.0, -0.5)]
)
def test_an_overtaking_far_below_the_largest_modulus_is_seen(bulk, top, after, k) -> None:
    random, dtype, missed = np.random.default_rng(3), np.float32, []
    problem = sf.Problem(
        init=lambda key, data: jnp.zeros_like(data),
        loss=lambda w, data: 0.5 * jnp.sum(data * jnp.square(w)),
        data=jnp.zeros(DIMENSION, dtype),
        scale_invariant=False,
    )

    @jax.jit
    def tracked(data, start, seed):
        there, point = problem.with_data(data), jnp.zeros(DIMENSION, dtype)
        return top_eigenpairs(there, point, k, method="lanczos", start=start, seed=seed)

    for seed in range(20):
        spectrum = np.sort(random.uniform(*bulk, DIMENSION))[::-1]
        spectrum[0], spectrum[-1] = top, after  # the last climbs above all others
        start = np.eye(DIMENSION, dtype=dtype)[: k + 1]
        found = tracked(jnp.asarray(spectrum, dtype), jnp.asarray(start), seed)
        size = np.abs(spectrum).max()
        error = np.abs(np.asarray(found.values) - np.sort(spectrum)[::-1][:k]).max()
        missed.append(found.status == Status.SUCCESS and error > 1e-3 * size)
        assert found.status == Status.SUCCESS
    assert not any(missed)


@pytest.mark.parametrize("method", ["dense", "lanczos"])
@pytest.mark.parametrize(
    ("dtype", "exponents"),
    [(np.float32, (-30, -20, -12, 0, 12, 20, 30)), (np.float64, (-250, -100, 0, 100, 250))],
)
def test_eigenvalues_are_right_at_every_scale(method, dtype, exponents) -> None:
    random = np.random.default_rng(0)
    basis, _ = np.linalg.qr(random.normal(size=(80, 80)))
    spectrum = np.concatenate([[3.0, 2.0], random.uniform(-1.0, 1.0, 78)])
    matrix = (basis * spectrum) @ basis.T
    for exponent in exponents:
        scaled = jnp.asarray(matrix * 10.0**exponent, dtype)
        problem = sf.Problem(
            init=lambda key, data: jnp.zeros(80, dtype),
            loss=lambda w, data: 0.5 * w @ (data @ w),
            data=scaled,
            scale_invariant=False,
        )
        found = top_eigenpairs(problem, jnp.ones(80, dtype), 2, method=method)
        assert found.status == Status.SUCCESS
        np.testing.assert_allclose(
            np.asarray(found.values, float) / 10.0**exponent, [3.0, 2.0], rtol=2e-4
        )


def test_the_sharpness_that_is_recorded_follows_an_overtaking() -> None:
    """A diagonal linear network, two of whose coordinates are fitted and one is not."""
    targets = np.full(300, 0.2)
    targets[:3] = 1.0, 0.95, 1.5
    start = {"u": jnp.sqrt(targets), "v": jnp.sqrt(targets)}
    start = jax.tree.map(lambda leaf: leaf.at[2].set(0.05), start)
    problem = sf.Problem(
        init=lambda key: start,
        residual=lambda w: w["u"] * w["v"] - targets,
        scale_invariant=False,
    )
    tracked = sf.sharpness(k=2, tolerance=1e-3)
    run = sf.simulate(
        problem, start, sf.gdwd(0.05, 0.0), 400, record_every=20, snapshot_every=1,
        observables=["hessian_sharpness", tracked],
    )  # fmt: skip
    u, v = np.asarray(run.params["u"]), np.asarray(run.params["v"])
    # every block of (u_i, v_i) is [[v², c], [c, u²]]
    mean, half, c = (u**2 + v**2) / 2, (u**2 - v**2) / 2, 2 * u * v - targets
    true = np.sort(mean + np.hypot(half, c), axis=1)[:, ::-1]
    np.testing.assert_allclose(run["hessian_sharpness"][:, 0], true[:, 0], rtol=1e-7)
    np.testing.assert_allclose(run["sharpness_iterate"], true[:, :2], rtol=2e-3)
