"""The central flow with rates that change: closed forms, and constant rates pieced together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf

CURVATURES = np.array([1.0, 0.5, 0.1, 0.01])
START = np.array([1.0, -1.0, 2.0, 0.5])
ETA, DECAY = 20.0, 1e-3  # of the valley
EDGE = 2.0 / ETA - DECAY
TAU = np.linspace(0.0, 1.0, 6)
AT = 0.45  # of a jump, between two outputs


@pytest.fixture(scope="module")
def bowl() -> sf.Problem:
    """A quadratic loss, whose third derivative is zero."""
    return sf.Problem(
        init=lambda _: jnp.ones(4),
        loss=lambda w: 0.5 * jnp.sum(jnp.asarray(CURVATURES) * jnp.square(w)),
    )


@pytest.fixture(scope="module")
def valley() -> sf.Problem:
    """½ y² E/u²: on y = 0 the eigenvalue is E/u², so that E is the edge at u = 1."""
    return sf.Problem(init=lambda _: jnp.ones(2), loss=lambda w: 0.5 * w[0] ** 2 * EDGE / w[1] ** 2)


def _down(rate: float, factor: float, at: float = AT) -> tuple[np.ndarray, np.ndarray]:
    return np.array([0.0, at, at, 1.0]), rate * np.array([1.0, 1.0, factor, factor])


def _exponential(rate: float, h: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([0.0, 1.0]), rate * np.exp(h * np.array([0.0, 1.0]))


def _flat(path) -> np.ndarray:
    """Points, shape (T, d), of a pytree with a leading axis."""
    return np.asarray(jax.vmap(lambda params: ravel_pytree(params)[0])(path))


# with ∫dτ/λ, which is ∫η dt
BELOW = {
    "η shrinking": (_exponential(0.5, -1.0), 0.02, TAU / 0.02),
    "η halved": (_down(0.5, 0.5), 0.02, TAU / 0.02),
    "λ halved": (0.5, _down(0.02, 0.5), np.minimum(TAU, AT) / 0.02 + (TAU - AT).clip(0) / 0.01),
    "both": (_down(0.5, 0.5), _exponential(0.02, 1.0), (1.0 - np.exp(-TAU)) / 0.02),
}


@pytest.mark.parametrize(("eta", "decay", "passed"), BELOW.values(), ids=BELOW)
def test_below_the_edge_it_decays_by_the_integrals_of_its_rates(bowl, eta, decay, passed) -> None:
    flow = sf.central_flow(
        bowl, jnp.asarray(START), eta, decay, TAU, max_edge=2, rtol=1e-4, step_correction=False
    )
    expected = START * np.exp(-CURVATURES * passed[:, None] - TAU[:, None])
    np.testing.assert_allclose(flow.params, expected, rtol=0, atol=1e-4 * np.linalg.norm(START))


def test_a_clock_of_its_own_serves_a_schedule_without_weight_decay(bowl) -> None:
    flow = sf.central_flow(
        bowl, jnp.asarray(START), _exponential(0.5, -1.0), 0.0, TAU, max_edge=2, rtol=1e-4,
        step_correction=False, intrinsic_rate=0.01,
    )  # fmt: skip
    passed = 0.5 * (1.0 - np.exp(-TAU)) / 0.01
    expected = START * np.exp(-CURVATURES * passed[:, None])
    np.testing.assert_allclose(flow.params, expected, rtol=0, atol=1e-4 * np.linalg.norm(START))


AT_THE_EDGE = {
    "growing": (_exponential(ETA, 1.0), lambda tau: ETA * np.exp(tau)),
    "shrinking": (_exponential(ETA, -1.0), lambda tau: ETA * np.exp(-tau)),
    "shrinking too fast": (_exponential(ETA, -3.0), lambda tau: ETA * np.exp(-3.0 * tau)),
    "halved": (_down(ETA, 0.5, 0.25), lambda tau: ETA * np.where(tau < 0.25, 1.0, 0.5)),
}


@pytest.mark.parametrize(("course", "eta"), AT_THE_EDGE.values(), ids=AT_THE_EDGE)
def test_an_edge_that_moves_carries_the_flow_along_or_leaves_it_behind(valley, course, eta) -> None:
    """u decays like e^{−τ}, but not below √(E/edge): the largest of what it was held at before."""

    def expected(tau: np.ndarray) -> np.ndarray:
        fine = np.linspace(0.0, 1.0, 20_001)
        held = np.sqrt(EDGE / (2.0 / eta(fine) - DECAY))
        # max over s ≤ τ of held(s) e^{−(τ − s)}, and the start
        highest = np.maximum.accumulate(np.maximum(held * np.exp(fine), 1.3))
        return np.interp(tau, fine, highest * np.exp(-fine))

    flow = sf.central_flow(
        valley, jnp.asarray([0.0, 1.3]), course, DECAY, TAU, max_edge=2, step_correction=False
    )
    # of rtol = 1e-3, for which the point is right to rtol of the distance moved
    np.testing.assert_allclose(flow.params[:, 1], expected(TAU), rtol=0, atol=5e-4)
    np.testing.assert_allclose(flow.edge, 2.0 / eta(TAU) - DECAY, rtol=1e-12)
    assert np.all(np.asarray(flow.eigenvalues[:, 0]) <= np.asarray(flow.edge) * (1.0 + 1e-3))
    free = np.asarray(flow.eigenvalues[:, 0]) < 0.99 * np.asarray(flow.edge)
    np.testing.assert_array_equal(flow.covariance[free, 0, 0], 0.0)


def test_a_step_decay_is_two_flows_of_constant_rates_one_after_the_other(tiny_mlp) -> None:
    problem, rate, tau = tiny_mlp.problem, 1e-3, np.linspace(0.0, 0.8, 5)
    start = sf.theory.start_at_edge(problem, tiny_mlp.theta, 1.0, rate)
    halved = _down(1.0, 0.5, tau[2])
    whole = sf.central_flow(problem, start, halved, rate, tau, max_edge=3)
    first = sf.central_flow(problem, start, 1.0, rate, tau[:3], max_edge=3)
    at_jump = jax.tree.map(lambda leaf: leaf[-1], first.params)
    second = sf.central_flow(problem, at_jump, 0.5, rate, tau[2:], max_edge=3)
    path, before, after = (_flat(flow.params) for flow in (whole, first, second))
    moved = np.linalg.norm(after[-1] - before[0])
    # rtol = 1e-3 of the length of w, of which each has errors of its own
    size = np.linalg.norm(path[0])
    assert np.linalg.norm(path[:3] - before, axis=1).max() <= 1e-3 * size
    assert np.linalg.norm(path[2:] - after, axis=1).max() <= 2e-3 * size
    assert moved > 0.1 * size
    # the edge of the second half is twice that of the first, far above its eigenvalues at first
    ratio = np.asarray(whole.eigenvalues[:, 0] / whole.edge)
    assert ratio[1] > 0.999 and ratio[2] < 0.6 and ratio[4] > 0.999


def test_a_fixed_step_and_rates_that_are_none_are_refused(bowl) -> None:
    params = jnp.asarray(START)
    course = _down(0.5, 0.5)
    with pytest.raises(ValueError, match="step_size must be None with a schedule"):
        sf.central_flow(bowl, params, course, 0.02, TAU, step_size=0.1)
    with pytest.raises(ValueError, match="learning_rate must be a number, or two vectors"):
        sf.central_flow(bowl, params, (TAU, -np.ones(6)), 0.02, TAU)
    with pytest.raises(ValueError, match="weight_decay must be flow times that do not decrease"):
        sf.central_flow(bowl, params, 0.5, ([0.0, 1.0, 0.5], [0.1, 0.1, 0.1]), TAU)
    with pytest.raises(ValueError, match=r"learning_rate \* weight_decay must be below 1, got 1.2"):
        sf.central_flow(bowl, params, ([0.0, 1.0], [0.5, 6.0]), 0.2, TAU)
    with pytest.raises(ValueError, match="intrinsic_rate must be given where weight_decay is 0"):
        sf.central_flow(bowl, params, course, 0.0, TAU)
