"""L(cw) = L(w) for what the package offers, and what breaks it is named."""

import ast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sharpflow as sf
from sharpflow.models import check_scale_invariance
from sharpflow.models.invariance import maker

# of 60 seeds and scales the worst changed the loss by 3 units of rounding, the gradient by 34
ROUNDING = 50 * np.finfo(float).eps


def _linear():
    random = np.random.default_rng(0)
    return sf.models.linear_regression(random.normal(size=(6, 9)), random.normal(size=6))


PROBLEMS = {
    "linear regression": _linear(),
    "matrix completion": sf.models.matrix_completion(shape=(6, 5), width=3),
    "mlp": sf.models.mlp(*sf.models.digits(8, classes=(0, 1, 2)), widths=(6, 6)),
}
LOSSES = {name: jax.jit(problem.loss_value) for name, problem in PROBLEMS.items()}
GRADIENTS = {name: jax.jit(jax.grad(problem.loss_value)) for name, problem in PROBLEMS.items()}

exponents = st.floats(-6.0, 6.0)
seeds = st.integers(0, 2**31 - 1)


@pytest.mark.parametrize("name", PROBLEMS)
@given(exponent=exponents, seed=seeds)
def test_the_loss_does_not_change_when_all_parameters_are_scaled(name, exponent, seed):
    params = PROBLEMS[name].init(jax.random.key(seed))
    scaled = jax.tree.map(lambda leaf: 10.0**exponent * leaf, params)
    np.testing.assert_allclose(LOSSES[name](scaled), LOSSES[name](params), rtol=ROUNDING)


@pytest.mark.parametrize("name", ["matrix completion", "mlp"])
@given(data=st.data(), seed=seeds)
def test_the_loss_does_not_change_when_each_array_is_scaled_by_itself(name, data, seed):
    params = PROBLEMS[name].init(jax.random.key(seed))
    scaled = jax.tree.map(lambda leaf: 10.0 ** data.draw(exponents) * leaf, params)
    np.testing.assert_allclose(LOSSES[name](scaled), LOSSES[name](params), rtol=ROUNDING)


@pytest.mark.parametrize("name", PROBLEMS)
@given(exponent=st.floats(-3.0, 3.0), seed=seeds)
def test_the_gradient_is_divided_by_the_scale(name, exponent, seed):
    params = PROBLEMS[name].init(jax.random.key(seed))
    factor = 10.0**exponent
    gradient = GRADIENTS[name](params)
    at_scaled = GRADIENTS[name](jax.tree.map(lambda leaf: factor * leaf, params))
    for whole, part in zip(jax.tree.leaves(gradient), jax.tree.leaves(at_scaled), strict=True):
        size = float(jnp.max(jnp.abs(whole)))
        np.testing.assert_allclose(part * factor, whole, atol=10 * ROUNDING * size)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_problems_of_the_package_pass_with_rounding_alone(name):
    params = PROBLEMS[name].init(jax.random.key(0))
    assert check_scale_invariance(PROBLEMS[name], params) < ROUNDING


def test_a_point_of_zero_loss_passes_as_well(tiny_mlp):
    assert check_scale_invariance(*tiny_mlp) < ROUNDING


def _ratio(w):
    """Invariant to the scale of the whole vector."""
    return jnp.square(w[0] / jnp.linalg.norm(w))


def test_the_measured_change_is_returned_where_it_is_tolerated():
    problem = sf.Problem(init=lambda key: jnp.ones(3), loss=lambda w: jnp.sum(w**2))
    change = check_scale_invariance(problem, jnp.ones(3), tolerance=1e6, max_scale=3.0)
    assert 0.0 < change <= 3.0**2 - 1.0  # L(cw)/L(w) = c²


def test_the_remedy_names_the_function_that_made_the_problem():
    x, y = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) % 2
    network = sf.models.from_flax(nn.Dense(2), x.astype(np.float32), y)
    with pytest.raises(ValueError, match=r"with from_flax\(..., scale_invariant=False\)\.$"):
        check_scale_invariance(network, network.init(jax.random.key(0)))
    for changed in (network.with_metrics({}), network.at_precision("high")):
        assert maker(changed) == "from_flax"
    assert maker(sf.models.linear_regression(x, x[:, 0])) == "Problem"


def test_weight_decay_in_the_loss_is_refused_and_an_ablation_proposed():
    problem = sf.Problem(
        init=lambda key: jax.random.normal(key, (3,)),
        loss=lambda w: 1.0 + _ratio(w) + 1e-2 * jnp.sum(jnp.square(w)),
    )
    message = r"not invariant.*scale of the only array\. .*Problem\(\.\.\., scale_invariant=False\)"
    with pytest.raises(ValueError, match=message):
        check_scale_invariance(problem, problem.init(jax.random.key(0)))


def test_only_the_parameters_that_break_invariance_are_named():
    def loss(params):
        return _ratio(params["hidden"]["kernel"]) + jnp.sum(jnp.square(params["gain"]))

    problem = sf.Problem(init=lambda key: {}, loss=loss)
    params = {"gain": jnp.ones(2), "hidden": {"kernel": jnp.arange(1.0, 5.0)}}
    with pytest.raises(ValueError, match=r"depends on the scale of gain\. .*fixed=\['gain'\]"):
        check_scale_invariance(problem, params)


def test_a_small_epsilon_is_told_from_a_missing_normalization():
    def loss(params):
        w = params["kernel"]
        return jnp.square(w[0]) / (jnp.sum(jnp.square(w)) + 1e-5)

    problem = sf.Problem(init=lambda key: {}, loss=loss)
    with pytest.raises(ValueError, match="slightly on the scale of kernel.*epsilon") as caught:
        check_scale_invariance(problem, {"kernel": jnp.array([1.0, 2.0, -1.0])})
    assert "fixed=" not in str(caught.value)


def test_both_remedies_stand_in_one_message_where_both_are_needed():
    def loss(params):
        w = params["kernel"]
        return params["gain"][0] * jnp.square(w[0]) / (jnp.sum(jnp.square(w)) + 1e-5)

    problem = sf.Problem(init=lambda key: {}, loss=loss)
    params = {"gain": jnp.ones(1), "kernel": jnp.array([1.0, 2.0, -1.0])}
    message = r"fixed=\['gain'\]\)\. It depends slightly on the scale of kernel"
    with pytest.raises(ValueError, match=message):
        check_scale_invariance(problem, params)


def test_the_sphere_flow_refuses_a_loss_that_is_not_invariant():
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4)))
    problem = sf.Problem(
        init=lambda key: jax.random.normal(key, (4,)), residual=lambda w: matrix @ w - 1.0
    )
    theta = sf.theory.retract(problem, jnp.ones(4), on_sphere=False)
    with pytest.raises(ValueError, match="not invariant to the scale"):
        sf.sharpness_flow(problem, theta, np.array([0.0, 0.1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_scales": 0}, "num_scales.*got 0"), ({"max_scale": 1.0}, "max_scale.*got 1.0")],
)
def test_a_check_that_would_look_at_nothing_is_refused(tiny_mlp, options, message):
    with pytest.raises(ValueError, match=message):
        check_scale_invariance(*tiny_mlp, **options)


class _Biased(nn.Module):
    """Kernels and biases before normalizations with gains and shifts, as flax makes them."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.Dense(16)(x)
            x = nn.tanh(nn.LayerNorm(epsilon=0.0)(x))
        return nn.Dense(3)(x)


def test_a_kernel_and_its_bias_are_scaled_together_and_small_parameters_are_no_epsilon():
    """Following the advice is enough, and asks for nothing that need not be fixed."""
    x, y = np.random.default_rng(0).normal(size=(12, 5)), np.arange(12) % 3

    def network(**fixed):
        problem = sf.models.from_flax(_Biased(), x, y, dtype=np.float32, **fixed)
        return problem, problem.init(jax.random.key(0))

    with pytest.raises(ValueError, match="Hold them constant") as caught:
        check_scale_invariance(*network())
    message = str(caught.value)
    assert "epsilon" not in message
    fixed = ast.literal_eval(message[message.index("fixed=") + len("fixed=") : -2])
    assert sorted(fixed) == sorted(
        [f"LayerNorm_{layer}/{name}" for layer in (0, 1) for name in ("bias", "scale")]
        + ["Dense_2/bias", "Dense_2/kernel"]
    )
    assert check_scale_invariance(*network(fixed=fixed)) < 50 * np.finfo(np.float32).eps
