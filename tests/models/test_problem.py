"""A Problem in each of its forms, and what is refused before anything is computed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.models import validate_params

MATRIX = np.array([[1.0, -2.0, 0.5], [0.0, 1.5, 3.0]])
POINT = np.array([0.3, -1.0, 2.0])


def _init(key):
    return jax.random.normal(key, (3,))


def _residual(w):
    return jnp.asarray(MATRIX) @ w


def _half_square(outputs):
    return 0.5 * jnp.sum(jnp.square(outputs))


def _constant(w):
    return jnp.ones(())


def test_the_residual_form_and_the_outputs_form_give_the_loss_of_numpy():
    expected = 0.5 * np.sum((MATRIX @ POINT) ** 2)
    by_residual = sf.Problem(init=_init, residual=_residual)
    by_outputs = sf.Problem(init=_init, outputs=_residual, criterion=_half_square)
    for problem in (by_residual, by_outputs):
        value = problem.loss_value(jnp.asarray(POINT))
        np.testing.assert_allclose(value, expected, rtol=8 * np.finfo(float).eps)


def test_only_a_residual_or_outputs_with_a_criterion_define_the_manifold():
    assert sf.Problem(init=_init, residual=_residual).has_manifold_form
    assert sf.Problem(init=_init, outputs=_residual, criterion=_half_square).has_manifold_form
    assert not sf.Problem(init=_init, loss=_constant).has_manifold_form


def test_a_loss_alone_is_refused_by_what_needs_the_manifold():
    problem = sf.Problem(init=_init, loss=lambda w: jnp.sum(jnp.square(w)))
    with pytest.raises(ValueError, match="loss alone"):
        sf.theory.retract(problem, jnp.asarray(POINT))


def test_problems_are_equal_only_to_themselves():
    first = sf.Problem(init=_init, residual=_residual)
    assert first == first
    assert first != sf.Problem(init=_init, residual=_residual)
    assert hash(first) == hash(first)


def test_metrics_are_copied_so_that_later_changes_do_not_reach_the_problem():
    metrics = {"size": lambda w: jnp.sum(w)}
    problem = sf.Problem(init=_init, residual=_residual, metrics=metrics)
    metrics.clear()
    assert list(problem.metrics) == ["size"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of residual.*got none"),
        ({"residual": _residual, "loss": _constant}, "exactly one.*'residual', 'loss'"),
        ({"outputs": _residual}, "outputs and criterion belong together"),
        ({"criterion": _half_square}, "outputs and criterion belong together"),
        (
            {"outputs": _residual, "criterion": _half_square, "residual": _residual},
            "exactly one.*'residual', 'outputs'",
        ),
    ],
)
def test_a_problem_takes_exactly_one_form_of_its_loss(arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.Problem(init=_init, **arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"init": POINT, "residual": _residual}, "init"),
        ({"residual": POINT}, "residual"),
        ({"outputs": _residual, "criterion": 2.0}, "criterion"),
        ({"residual": _residual, "metrics": {"error": POINT}}, r"metrics\['error'\]"),
    ],
)
def test_what_is_not_a_function_is_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=f"{name} must be a function, got"):
        sf.Problem(**({"init": _init} | arguments))


def _refused_params():
    nan, infinite = POINT.copy(), POINT.copy()
    nan[1], infinite[2] = np.nan, np.inf
    return [
        ((), "holds no arrays"),
        ({}, "holds no arrays"),
        (np.zeros(3), "is the zero vector"),
        (nan, "NaN or infinite"),
        (infinite, "NaN or infinite"),
        (np.array([1, 2, 3]), "floating-point arrays of one dtype.*int64"),
        ((POINT[:2], POINT[2:].astype(np.float32)), "of one dtype.*float32.*float64"),
    ]


@pytest.mark.parametrize(("params", "message"), _refused_params())
def test_unusable_params_are_refused_under_the_name_of_the_argument(params, message):
    problem = sf.Problem(init=_init, residual=_residual)
    with pytest.raises(ValueError, match=f"theta0 .*{message}"):
        validate_params(problem, params, "theta0")


def test_float64_params_without_x64_are_refused_with_the_line_that_enables_it():
    problem = sf.Problem(init=_init, residual=_residual)
    line = re.escape("jax.config.update('jax_enable_x64', True)")
    with jax.enable_x64(False), pytest.raises(ValueError, match=f"params is float64.*{line}"):
        validate_params(problem, POINT)


@pytest.mark.parametrize(
    ("residual", "found"),
    [
        (lambda w: w[:, None] * w[None], r"\(3, 3\)"),
        (lambda w: jnp.sum(w), r"\(\)"),
        (lambda w: (w, w), "tuple"),
    ],
)
def test_a_residual_that_is_not_a_vector_is_refused(residual, found):
    problem = sf.Problem(init=_init, residual=residual)
    with pytest.raises(ValueError, match=rf"residual must return a vector.*{found}"):
        validate_params(problem, jnp.asarray(POINT))


def test_a_loss_that_is_not_a_scalar_is_refused():
    problem = sf.Problem(init=_init, loss=lambda w: jnp.square(w))
    with pytest.raises(ValueError, match=r"loss must be a scalar.*\(3,\)"):
        validate_params(problem, jnp.asarray(POINT))


def test_usable_params_come_back_as_they_were_given():
    tree = {"a": POINT[:1], "b": [POINT[1:]]}
    problem = sf.Problem(init=lambda _: tree, loss=lambda p: jnp.sum(p["a"]) + jnp.sum(p["b"][0]))
    checked = validate_params(problem, tree)
    jax.tree.map(np.testing.assert_array_equal, checked, tree)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(checked))


def _first_entries(params):
    return params["w"][0] ** 2 + params["w"][2]  # of any shape: indices beyond it are clamped


@pytest.mark.parametrize(
    ("params", "differs"),
    [
        ({"w": np.ones(5)}, "w has shape (5,) instead of (3,)"),
        ({"w": np.ones(2)}, "w has shape (2,) instead of (3,)"),
        ({"w": np.ones(3), "b": np.ones(1)}, "b is unknown"),
        ({"w": np.ones(3), "b": None}, None),
    ],
)
def test_params_that_a_loss_takes_by_chance_are_compared_with_those_of_init(params, differs):
    drawn = lambda key: {"w": jax.random.normal(key, (3,))}  # noqa: E731
    problem = sf.Problem(init=drawn, loss=_first_entries, scale_invariant=False)
    calls = (
        lambda: validate_params(problem, params),
        lambda: sf.simulate(problem, params, sf.gdwd(0.1, 0.0), 1),
        lambda: sf.theory.spherical_sharpness(problem, params),
    )
    if differs is None:
        calls[0]()
        return
    for call in calls:
        with pytest.raises(ValueError, match=re.escape(f"params do not fit the problem, whose init gives other arrays: {differs}. Take")):  # noqa: E501  # fmt: skip
            call()


@pytest.mark.parametrize("init", [lambda key: {}, lambda key: {"w": np.full(3, float(key))}])
def test_an_init_that_tells_no_shapes_leaves_them_to_the_loss(init):
    problem = sf.Problem(init=init, loss=_first_entries)
    validate_params(problem, {"w": np.ones(5)})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_params_of_half_precision_are_refused_and_a_loss_may_cast_to_it(dtype):
    def loss(w):
        half = w.astype(dtype)
        return jnp.sum(half * half).astype(w.dtype)

    problem = sf.Problem(
        init=lambda key: jnp.ones(3, dtype), loss=loss, scale_invariant=False,
        metrics={"half": lambda w: jnp.sum(w.astype(dtype))},
    )  # fmt: skip
    message = rf"must be float32 or float64, got {dtype}.*Keep the params in float32"
    with pytest.raises(ValueError, match=f"params {message}"):
        sf.simulate(problem, problem.init(None), sf.gdwd(0.1, 0.0), 2)
    with pytest.raises(ValueError, match=f"the start {message}"):
        sf.simulate_grid(problem, seeds=0, learning_rates=0.1, weight_decays=0.0, num_steps=2)
    params = jnp.ones(3, jnp.float32)
    run = sf.simulate(problem, params, sf.gdwd(0.25, 0.0), 2, observables=["loss", "metrics"])
    stored = run.to_dataset()
    np.testing.assert_array_equal(stored.loss, [3.0, 0.75])
    np.testing.assert_array_equal(stored.half.astype(float), [3.0, 1.5])
    assert stored.half.dtype.kind == "f"


def test_a_loss_of_another_dtype_than_the_params_is_refused_with_the_remedy():
    inputs = np.eye(4, 3, dtype=np.float32)
    problem = sf.models.mlp(inputs, np.arange(4) % 2, widths=(3,))
    params = jax.tree.map(lambda leaf: leaf.astype(float), problem.init(jax.random.key(0)))
    with jax.numpy_dtype_promotion("standard"):
        assert problem.loss_value(params).dtype == jnp.float32
        with pytest.raises(
            ValueError, match=r"loss is float32 where the params are float64.*again"
        ):
            sf.simulate(problem, params, sf.gdwd(0.1, 0.0), 2)


@pytest.mark.parametrize("data", [None, np.diag([1.0, 2.0, 3.0]).astype(np.float32)])
def test_a_problem_goes_on_when_x64_is_switched_on(data):
    """With its params of before and new ones; those of ``_init`` are then float64."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        problem = sf.Problem(
            init=_init, residual=(lambda w: 2.0 * w) if data is None else (lambda w, d: d @ w),
            data=data, scale_invariant=False,
        )  # fmt: skip
        params = problem.init(jax.random.key(0))
        before = sf.simulate(problem, params, sf.gdwd(0.1, 0.01), 3)["loss"]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        np.testing.assert_array_equal(
            sf.simulate(problem, params, sf.gdwd(0.1, 0.01), 3)["loss"], before
        )
        new = problem.init(jax.random.key(0))
        loss = sf.simulate(problem, new, sf.gdwd(0.1, 0.01), 3)["loss"]
        assert new.dtype == loss.dtype == np.float64
        matrix = 2.0 * np.eye(3) if data is None else data.astype(float)
        w = np.asarray(new)
        for step in range(3):
            np.testing.assert_allclose(loss[step], 0.5 * np.sum((matrix @ w) ** 2), rtol=1e-12)
            w = (1 - 0.001) * w - 0.1 * matrix.T @ matrix @ w
