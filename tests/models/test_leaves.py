"""What may be a leaf of data, how it is kept, and where else a problem may be made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import sharpflow as sf

RANDOM = np.random.default_rng(0)
X, Y = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((6, 4), (6,)))
W = jnp.asarray(RANDOM.normal(size=4).astype(np.float32))
CLASSES = np.arange(6) % 3


def _init(key):
    return jax.random.normal(key, (4,), np.float32)


def _residual(w, data):
    return data["x"] @ w - data["y"]


def _problem(y=Y, **others):
    return sf.Problem(_init, residual=_residual, data={"x": X, "y": y, **others})


REFUSED = {
    "integers beyond int32": (np.array([3, 2**40 + 7]), r"2147483647, as int32 .*1099511627783"),
    "an integer beyond int32": (2**40, r"must hold integers .*1099511627776: call jax"),
    "unsigned integers beyond uint32": (np.uint64(2**63), "from 0 to 4294967295, as uint32 does"),
    "an integer beyond all": (2**70, "must be an array of numbers"),
    "a masked array": (np.ma.masked_array(Y, Y > 0), "is a masked array"),
    "a sparse matrix": (sparse.csr_matrix(X), r"got csr_matrix of shape \(6, 4\)"),
    "complex numbers": (X + 1j * X.astype(float), "is complex128 but jax runs without x64"),
    "dates": (
        np.array(["2020-01-01"], "M8[D]"),
        r"got ndarray of shape \(1,\) and dtype datetime64",
    ),
    "objects": (np.array([None, 1.0] * 500), r"got objects: ndarray of shape \(1000,\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_leaf_that_jax_does_not_hold_is_named_and_never_printed_whole(name):
    value, message = REFUSED[name]
    with jax.enable_x64(False), pytest.raises(ValueError, match=message) as caught:
        _problem(extra=value)
    assert "data['extra']" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_array_in_the_place_of_a_function_is_not_printed_whole():
    with pytest.raises(ValueError, match=r"residual must be a function, got ndarray of shape"):
        sf.Problem(_init, residual=X)


def test_integers_that_fit_are_kept():
    problem = _problem(extra=np.array([2**31 - 1, -(2**31)]))
    np.testing.assert_array_equal(problem.data["extra"], [2**31 - 1, -(2**31)])


def test_random_keys_and_arrays_on_devices_are_kept_as_they_are():
    key, x = jax.random.key(3), jnp.asarray(X)
    problem = _problem(key=key, more=x)
    assert problem.data["key"] is key and problem.data["more"] is x


def _scaled(w, data):
    return data["scale"] * (data["x"] @ w)


@jax.jit
def _loss(problem, w):
    return problem.loss_value(w)


def test_numbers_of_every_kind_share_one_program():
    scales = (2.0, np.float32(2.0), np.full((), 2.0, np.float32), jnp.asarray(2.0), jnp.float32(2))
    expected, before = 2.0 * np.sum(np.square(X @ W)), _loss._cache_size()
    for scale in scales:
        problem = sf.Problem(_init, residual=_scaled, data={"scale": scale, "x": X})
        assert problem.data["scale"].dtype == np.float32 and not problem.data["scale"].weak_type
        np.testing.assert_allclose(_loss(problem, W), expected, rtol=1e-6)
    assert _loss._cache_size() == before + 1
    for value, kind in ((3, "i"), (2.5, "f"), (True, "b")):
        problem = sf.Problem(_init, residual=_scaled, data={"scale": value, "x": X})
        assert problem.data["scale"].dtype.kind == kind


def _expected(y):
    return 0.5 * np.sum((X @ np.asarray(W) - y) ** 2)


WITHIN = {
    "with_data": lambda y: _problem().with_data({"x": X, "y": y}).loss_value(W),
    "a problem": lambda y: _problem(y).loss_value(W),
}


@pytest.mark.parametrize("name", WITHIN)
def test_data_of_numpy_may_stand_beside_traced_ones(name):
    found = jax.jit(jax.vmap(WITHIN[name]))(np.stack([Y, 2 * Y]))
    np.testing.assert_allclose(found, [_expected(Y), _expected(2 * Y)], rtol=1e-5)


def _network(**options):
    return sf.models.mlp(X, CLASSES, (2,), test=(X[:3], CLASSES[:3]), dtype="float32", **options)


@pytest.mark.parametrize("options", [{}, {"micro_batch": 3}])
def test_a_network_may_be_built_while_a_function_is_traced(options):
    problem = _network(**options)
    params = problem.init(jax.random.key(0))
    found = jax.jit(lambda params: _network(**options).loss_value(params))(params)
    np.testing.assert_allclose(found, problem.loss_value(params), rtol=1e-6)
