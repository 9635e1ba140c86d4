"""The data of a problem are leaves of a pytree, and arguments of its functions."""

import dataclasses
import gc
import json
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(6, 3)), RANDOM.normal(size=6)
W = np.array([0.3, -1.2, 0.7])


def _init(key):
    return jax.random.normal(key, (3,))


def _linear(w, data):
    return data["x"] @ w - data["y"]


def _half_square(residual):
    return 0.5 * jnp.sum(jnp.square(residual))


def _problem(**changes):
    return sf.Problem(**{"init": _init, "residual": _linear, "data": {"x": X, "y": Y}, **changes})


def _loss(w, x=X, y=Y):
    return 0.5 * np.sum((x @ w - y) ** 2)


def test_functions_with_data_and_without_stand_beside_each_other():
    problem = _problem(
        init=lambda key, data: jnp.ones(data["x"].shape[1]),
        metrics={"error": lambda w, data: jnp.sum(_linear(w, data)), "size": lambda w: jnp.sum(w)},
    )
    np.testing.assert_array_equal(problem.init(jax.random.key(0)), np.ones(3))
    np.testing.assert_allclose(problem.residual(W), X @ W - Y, rtol=1e-14)
    np.testing.assert_allclose(problem.loss_value(W), _loss(W), rtol=1e-14)
    np.testing.assert_allclose(problem.metrics["error"](W), np.sum(X @ W - Y), rtol=1e-13)
    np.testing.assert_allclose(problem.metrics["size"](W), np.sum(W), rtol=1e-14)


@dataclasses.dataclass(frozen=True)
class _Line:
    """Compared by value, as are its bound methods."""

    power: int

    def residual(self, w, data):
        return (data["x"] @ w) ** self.power - data["y"]


def _scaled(w, data, *, scale):
    return scale * _linear(w, data)


FORMS = {
    "a function": (lambda: {"residual": _linear}, 1.0),
    "a partial": (lambda: {"residual": partial(_scaled, scale=2.0)}, 4.0),
    "a bound method": (lambda: {"residual": _Line(1).residual}, 1.0),
    "any number of arguments": (lambda: {"residual": lambda *given: _linear(*given)}, 1.0),
    "a default is no data": (
        lambda: {"residual": lambda w, x=X: jnp.asarray(x) @ w - jnp.asarray(Y)},
        1.0,
    ),
    "a Partial of arrays": (
        lambda: {"residual": jax.tree_util.Partial(lambda x, w: x @ w - Y, jnp.asarray(X))},
        1.0,
    ),
    "outputs and criterion": (
        lambda: {
            "outputs": lambda w, data: data["x"] @ w,
            "criterion": lambda f, data: 0.5 * jnp.sum(jnp.square(f - data["y"])),
        },
        1.0,
    ),
    "a loss": (lambda: {"loss": lambda w, data: _half_square(_linear(w, data))}, 1.0),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_has_the_loss_of_numpy(name):
    form, factor = FORMS[name]
    problem = _problem(**{"residual": None, **form()})
    np.testing.assert_allclose(problem.loss_value(W), factor * _loss(W), rtol=1e-13)
    np.testing.assert_allclose(jax.jit(lambda p, w: p.loss(w))(problem, W), factor * _loss(W))


class _Squares:
    """A criterion that takes the data, and knows its residual form and its infimum."""

    def __call__(self, f, data):
        return 0.5 * jnp.sum(jnp.square(f - data["y"])) + data["y"][0]

    def residual(self, f, data):
        return f - data["y"]

    def infimum(self, data):
        return data["y"][0]


def test_a_criterion_may_tell_its_residual_and_infimum_of_the_data():
    problem = _problem(
        residual=None,
        outputs=lambda w, data: data["x"] @ w,
        criterion=_Squares(),
        data={"x": X[:2], "y": Y[:2]},
        scale_invariant=False,
    )
    assert problem.loss_infimum == pytest.approx(Y[0], rel=1e-14)
    found = sf.theory.retract(problem, jnp.asarray(W), on_sphere=False)
    expected = W - np.linalg.pinv(X[:2]) @ (X[:2] @ W - Y[:2])
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_a_criterion_of_data_without_a_residual_form_is_minimised_in_the_program():
    problem = _problem(
        residual=None,
        outputs=lambda w, data: data["x"] @ w,
        criterion=lambda f, data: jnp.sum(jnp.cosh(f - data["y"]) - 1.0),
        data={"x": X[:2], "y": Y[:2]},
        scale_invariant=False,
    )
    found = sf.theory.retract(problem, jnp.asarray(W), on_sphere=False)
    expected = W - np.linalg.pinv(X[:2]) @ (X[:2] @ W - Y[:2])
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_the_leaves_are_the_data_and_a_problem_of_other_leaves_is_another():
    problem = _problem()
    leaves, structure = jax.tree.flatten(problem)
    assert {leaf.shape for leaf in leaves} == {(6, 3), (6,)}
    other = jax.tree.unflatten(structure, [2.0 * leaf for leaf in leaves])
    np.testing.assert_allclose(other.loss_value(W), _loss(W, 2 * X, 2 * Y), rtol=1e-13)
    np.testing.assert_allclose(
        problem.with_data({"x": 3 * X, "y": Y}).loss_value(W), _loss(W, 3 * X), rtol=1e-13
    )
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(problem)]
    assert paths == [".data['x']", ".data['y']"]


def test_stacked_problems_are_mapped_over():
    problems = [_problem(data={"x": scale * X, "y": Y}) for scale in (1.0, 2.0, 3.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    found = jax.vmap(lambda problem: problem.loss_value(jnp.asarray(W)))(stacked)
    np.testing.assert_allclose(found, [_loss(W, scale * X) for scale in (1, 2, 3)], rtol=1e-13)


def test_a_problem_made_of_functions_of_another_keeps_the_data_as_leaves():
    problem = _problem(metrics={"size": lambda w: jnp.sum(w)})
    composed = sf.Problem(init=problem.init, loss=problem.loss, metrics=problem.metrics)
    assert len(jax.tree.leaves(composed)) == 2
    np.testing.assert_allclose(composed.loss_value(W), _loss(W), rtol=1e-13)
    watched = problem.with_metrics({"error": lambda w, data: jnp.sum(_linear(w, data))})
    assert list(watched.metrics) == ["error"] and list(problem.metrics) == ["size"]
    assert watched.data is problem.data
    assert composed.at_precision("default").loss_value(W) == composed.loss_value(W)


def test_closures_go_on_as_constants():
    x, y = jnp.asarray(X), jnp.asarray(Y)
    problem = sf.Problem(init=_init, residual=lambda w: x @ w - y)
    assert jax.tree.leaves(problem) == [] and problem.data is None
    np.testing.assert_allclose(jax.jit(problem.loss_value)(W), _loss(W), rtol=1e-13)


def _at_address(array, offset):
    """A copy that begins so many bytes after a multiple of 64, where jax shares memory on a CPU."""
    memory = np.zeros(array.nbytes + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _of_partial(x):
    residual = jax.tree_util.Partial(lambda x, w: x.T @ w, x)
    return sf.Problem(init=lambda key: jax.random.normal(key, (12,)), residual=residual)


OF_ARRAYS = {
    "data": lambda x: _problem(init=lambda key: jnp.ones(4), data={"x": x, "y": np.ones(12)}),
    "a Partial": _of_partial,
    "mlp": lambda x: sf.models.mlp(x, np.arange(12) % 3, (5,), test=(x[:3], np.arange(3))),
    "micro-batches": lambda x: sf.models.mlp(x, np.arange(12) % 3, (5,), micro_batch=6),
    "linear regression": lambda x: sf.models.linear_regression(x.T, np.arange(4.0)),
}


@pytest.mark.parametrize("offset", [0, 8])
@pytest.mark.parametrize("name", OF_ARRAYS)
def test_a_change_of_the_callers_array_does_not_reach_a_problem(name, offset):
    x = _at_address(RANDOM.normal(size=(12, 4)), offset)
    problem = OF_ARRAYS[name](x)
    params = problem.init(jax.random.key(0))
    functions = (problem.loss_value, *problem.metrics.values())
    before = [float(function(params)) for function in functions]
    x[:] = 0.0
    assert [float(function(params)) for function in functions] == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"x": "images", "y": Y}}, r"data\['x'\] must be an array, got 'images'"),
        ({"data": None}, "residual takes a second argument, the data, but data is None"),
        (
            {"metrics": {"m": lambda w, d: w}, "residual": lambda w: w, "data": None},
            r"metrics\['m'\] takes a second argument",
        ),
        ({"residual": 3.0}, "residual must be a function, got 3.0"),
        (
            {"residual": lambda w, data=None: w},
            "residual has a default for its second argument, data",
        ),
        ({"residual": lambda w, *, data: w}, r"residual must take one argument.*\['w', 'data'\]"),
        ({"residual": lambda w, x, y: w}, r"residual must take one argument.*\['w', 'x', 'y'\]"),
        ({"metrics": {"m": lambda: 0.0}}, r"metrics\['m'\] must take an argument by position"),
    ],
)
def test_what_is_no_problem_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _problem(**changes)


def test_a_problem_does_not_change_and_has_only_precisions_that_there_are():
    problem = _problem()
    with pytest.raises(AttributeError, match="does not change"):
        problem.data = None
    with pytest.raises(ValueError, match=r"matmul_precision must be one of .*, got 'double'"):
        problem.at_precision("double")
    with pytest.raises(ValueError, match="made without data"):
        sf.Problem(init=_init, residual=lambda w: w).with_data(X)
    with pytest.raises(ValueError, match="no function of this problem takes its data"):
        _problem(residual=lambda w: w).with_data(X)
    with pytest.raises(ValueError, match="data must be a pytree of arrays.*got None"):
        problem.with_data(None)


def _compilations(function) -> int:
    return function._cache_size()


def _mlp(seed, width=6, examples=12):
    random = np.random.default_rng(seed)
    classes = np.arange(examples) % 3
    return sf.models.mlp(random.normal(size=(examples, 5)), classes, (width,), dtype=np.float64)


KINDS = {
    "mlp": _mlp,
    "linear regression": lambda seed: sf.models.linear_regression(
        np.random.default_rng(seed).normal(size=(5, 9)), np.arange(5.0)
    ),
    "matrix completion": lambda seed: sf.models.matrix_completion(shape=(5, 4), seed=seed),
    "a user's": lambda seed: _problem(
        data={"x": np.random.default_rng(seed).normal(size=(6, 3)), "y": Y}, scale_invariant=False
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_problems_that_differ_in_their_data_share_compiled_programs(kind):
    from sharpflow.simulator.loop import run_chunk
    from sharpflow.theory.curvature import _eigenpairs

    rule = sf.gdwd(0.01, 0.01)

    def used(seed):
        problem = KINDS[kind](seed)
        params = problem.init(jax.random.key(0))
        trajectory = sf.simulate(problem, params, rule, 5)
        return trajectory["loss"], sf.theory.top_eigenpairs(problem, params).values

    first = used(0)
    counts = [_compilations(function) for function in (run_chunk, _eigenpairs)]
    others = [used(seed) for seed in range(1, 10)]
    assert [_compilations(function) for function in (run_chunk, _eigenpairs)] == counts
    assert len({float(loss[0]) for loss, _ in (first, *others)}) == 10, "each has its own data"
    for seed, (loss, values) in enumerate(others[:2], start=1):
        problem = KINDS[kind](seed)
        params = problem.init(jax.random.key(0))
        np.testing.assert_allclose(loss[0], problem.loss_value(params), rtol=1e-12)
        hessian = jax.hessian(lambda flat, p=problem: p.loss_value(flat))
        if isinstance(params, jax.Array):
            np.testing.assert_allclose(values[0], np.linalg.eigvalsh(hessian(params))[-1], 1e-8)


def test_what_differs_in_more_than_data_is_compiled_for_itself():
    from sharpflow.theory.curvature import _eigenpairs

    problems = [
        _mlp(0),
        _mlp(0, width=7),
        _mlp(0, examples=15),
        sf.models.mlp(X, np.arange(6) % 3, (6,), normalization="layer", dtype=np.float64),
        sf.models.mlp(X, np.arange(6) % 3, (6,), activation="tanh", dtype=np.float64),
    ]
    before, values = _compilations(_eigenpairs), set()
    for problem in problems:
        pairs = sf.theory.top_eigenpairs(problem, problem.init(jax.random.key(0)))
        values.add(float(pairs.values[0]))
    assert len(values) == len(problems)
    assert _compilations(_eigenpairs) >= before + len(problems) - 1  # the first may be known


def test_data_are_freed_with_their_problem():
    problem = _mlp(3)
    params = problem.init(jax.random.key(0))
    trajectory = sf.simulate(problem, params, sf.gdwd(0.01, 0.01), 5)
    sf.theory.top_eigenpairs(problem, params)
    sf.theory.retract_with_status(problem, params)
    held = [weakref.ref(leaf) for leaf in jax.tree.leaves(problem)]
    assert len(held) >= 3 and trajectory.final_step == 5
    del problem
    gc.collect()
    assert not [ref for ref in held if ref() is not None]


def test_a_source_goes_where_the_data_go_and_not_to_others():
    said = {"train": {"dataset": "rows", "num_images": 2, "subsets": []}}
    plain = sf.Problem(
        init=lambda key: jnp.ones(3), residual=lambda w, data: data @ w, data=jnp.eye(2, 3),
        scale_invariant=False,
    )  # fmt: skip
    named = plain.with_source(said)
    said["train"]["num_images"] = 3  # what a problem was told does not change with this
    known = {"train": {"dataset": "rows", "num_images": 2, "subsets": []}}
    assert plain.source == {} and named.source == known
    assert named.at_precision("default").with_metrics({}).source == known
    assert named.with_data(jnp.ones((2, 3))).source == {}
    assert jax.tree.map(jnp.zeros_like, named).source == {}
    # no part of what is compared: the programs of one serve the other
    assert jax.tree.structure(plain) == jax.tree.structure(named)
    run = sf.simulate(named, jnp.ones(3), sf.gdwd(0.1, 0.0), 1)
    assert json.loads(run.attributes["data"]) == known
    assert "data" not in sf.simulate(plain, jnp.ones(3), sf.gdwd(0.1, 0.0), 1).attributes


@pytest.mark.parametrize("source", [None, "rows", [1], {"a": {1, 2}}, {"a": np.ones(2)},
                                    {"a": float("nan")}])  # fmt: skip
def test_a_source_that_json_cannot_hold_is_refused(source):
    problem = sf.Problem(init=lambda key: jnp.ones(3), residual=lambda w: w)
    with pytest.raises(ValueError, match="source must be a dictionary that JSON can hold, got"):
        problem.with_source(source)
