"""Compiled programs serve every problem with the same functions, and no other."""

import dataclasses
import gc
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sharpflow as sf
from sharpflow.simulator.loop import run_chunk
from sharpflow.theory import exact
from sharpflow.theory.curvature import _eigenpairs
from sharpflow.theory.flow_integration import integrate
from sharpflow.theory.manifold import _begin, _go_on

TAU = np.linspace(0.0, 1.0, 3)


def _regression(seed):
    x = np.random.default_rng(seed).normal(size=(5, 9))
    return sf.models.linear_regression(x, np.arange(5.0)), x - x.mean(axis=0)


def _solution(x):
    """The minimum-norm solution, whose angle to the flow is known."""
    return np.linalg.pinv(x) @ (np.arange(5.0) - 2.0)


def _angle(theta, solution):
    cosine = theta @ solution / np.linalg.norm(theta, axis=-1) / np.linalg.norm(solution)
    return np.arccos(cosine)


def test_retraction_and_flow_are_compiled_once_and_follow_the_data_of_each_problem():
    counts = None
    for seed in range(10):
        problem, x = _regression(seed)
        solution = _solution(x)
        theta = sf.theory.retract(problem, jax.random.normal(jax.random.key(seed), (9,)))
        flow = sf.sharpness_flow(problem, theta, TAU)
        found = [function._cache_size() for function in (_begin, _go_on, integrate)]
        counts = counts or found
        assert found == counts
        np.testing.assert_allclose(problem.residual(theta), np.zeros(5), atol=1e-9)
        angles = _angle(np.asarray(flow.theta), solution)
        expected = exact.linear_regression_angle(angles[0], TAU)
        np.testing.assert_allclose(angles, expected, atol=1e-4)  # rtol = 1e-3 of a step's error


class _Module(nnx.Module):
    def __init__(self, rngs, hidden):
        self.first = nnx.Linear(5, hidden, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, epsilon=0.0, rngs=rngs)
        self.last = nnx.Linear(hidden, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.norm(self.first(x))))


def _small(rngs):
    return _Module(rngs, 4)


def _of_nnx(seed, make=_small):
    x = np.random.default_rng(seed).normal(size=(12, 5)).astype(np.float32)
    return sf.models.from_flax(make, x, np.arange(12) % 3, fixed=["norm", "last"]), x


def _loss(problem, params, x):
    """Of the module in numpy; its fixed layer is drawn from the same seed for all data."""
    hidden = x @ np.asarray(params["first"]["kernel"])
    hidden = np.tanh((hidden - hidden.mean(axis=0)) / hidden.std(axis=0))
    fixed = next(v for k, v in problem.data.fixed.items() if k == "last/kernel")
    targets = np.eye(3)[np.arange(12) % 3]
    targets = (targets - targets.mean(axis=0)) / targets.std(axis=0)
    return 0.5 * np.mean(np.sum((hidden @ np.asarray(fixed) - targets) ** 2, axis=1))


def test_nnx_problems_of_one_factory_share_programs_and_have_their_own_inputs():
    counts, losses = None, set()
    for seed in range(10):
        problem, x = _of_nnx(seed)
        params = problem.init(jax.random.key(0))
        run = sf.simulate(problem, params, sf.gdwd(0.01, 0.01), 3)
        sf.theory.top_eigenpairs(problem, params)
        found = [function._cache_size() for function in (run_chunk, _eigenpairs)]
        counts = counts or found
        assert found == counts
        np.testing.assert_allclose(run["loss"][0], _loss(problem, params, x), rtol=1e-5)
        losses.add(float(run["loss"][0]))
    assert len(losses) == 10
    wider, _ = _of_nnx(0, lambda rngs: _Module(rngs, 6))
    sf.simulate(wider, wider.init(jax.random.key(0)), sf.gdwd(0.01, 0.01), 3)
    assert run_chunk._cache_size() == counts[0] + 1, "another width is another program"


def _power(w, data, *, power, sign=None):
    return (data * w) ** power * (3.0 if sign is True else 1.0)


@dataclasses.dataclass(frozen=True)
class _Power:
    power: int

    def residual(self, w, data):
        return (data * w) ** self.power


def _value(residual, scale):
    """½‖(scale w)^power‖² at w = (1, 2), by a function that is compiled for problems."""
    problem = sf.Problem(_ones, residual=residual, data=np.full(2, scale))
    return float(_compiled(problem, jnp.array([1.0, 2.0])))


def _ones(key):
    del key
    return jnp.ones(2)


@jax.jit
def _compiled(problem, w):
    return problem.loss_value(w)


@pytest.mark.parametrize(
    "make", [lambda power: partial(_power, power=power), lambda power: _Power(power).residual]
)
def test_functions_that_are_made_of_equal_parts_share_a_program_and_others_do_not(make):
    assert _value(make(2), 1.0) == 0.5 * (1.0 + 16.0)
    before = _compiled._cache_size()
    assert _value(make(2), 2.0) == 0.5 * (16.0 + 256.0)
    assert _compiled._cache_size() == before
    assert _value(make(3), 1.0) == 0.5 * (1.0 + 64.0)
    assert _compiled._cache_size() == before + 1


def test_true_and_one_are_different_arguments_of_a_partial():
    assert _value(partial(_power, power=1, sign=1), 1.0) == 2.5
    assert _value(partial(_power, power=1, sign=True), 1.0) == 9.0 * 2.5


def test_a_problem_made_of_the_loss_of_another_keeps_the_data_as_leaves():
    for form in ("loss", "loss_value"):
        problem, _ = _regression(0)
        composed = sf.Problem(_ones, loss=getattr(problem, form))
        w = jnp.arange(1.0, 10.0)
        assert len(jax.tree.leaves(composed)) == 2
        assert composed.loss_value(w) == problem.loss_value(w)


def test_float64_data_without_x64_are_refused_with_their_place():
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"data\['x'\] is float64.*x64"):
        sf.Problem(lambda key: key, residual=lambda w, data: w, data={"x": np.ones(2)})


def test_the_data_of_a_grid_are_freed_with_its_problems():
    held = []

    def problem(seed_of_data):
        made, _ = _regression(seed_of_data)
        held.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(made))
        return made

    for width in (1, 2):
        sf.simulate_grid(
            problem, seeds=0, learning_rates=0.01, weight_decays=0.01, num_steps=3,
            axes={"seed_of_data": (0, 1)}, group_width=width,
        )  # fmt: skip
    gc.collect()
    assert len(held) == 8
    assert not [ref for ref in held if ref() is not None]
