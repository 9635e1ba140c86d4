"""Step sizes, the entry into the Edge of Stability, and the start at it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.theory import stability


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_the_direction_of_gdwd_takes_steps_of_the_effective_learning_rate(tiny_mlp) -> None:
    """θ ← unit(θ − η̃ ∇L(θ)) and N ← (1 − ηλ)² N + η² ‖∇L(θ)‖²/N reproduce GD+WD on w."""
    problem, _ = tiny_mlp
    eta, decay = 0.05, 0.4
    flat, unravel = ravel_pytree(problem.init(jax.random.key(4)))
    compiled = jax.jit(jax.grad(lambda w: problem.loss_value(unravel(w))))

    def gradient(w: np.ndarray) -> np.ndarray:
        return np.asarray(compiled(jnp.asarray(w)))

    w = np.asarray(flat)
    theta, norm_squared = _unit(w), float(w @ w)
    for _ in range(30):
        rate = float(sf.theory.effective_learning_rate(norm_squared, eta, decay))
        slope = gradient(theta)
        theta = _unit(theta - rate * slope)
        norm_squared = (1 - eta * decay) ** 2 * norm_squared + eta**2 * (
            slope @ slope
        ) / norm_squared
        w = (1 - eta * decay) * w - eta * gradient(w)
    assert np.linalg.norm(theta - _unit(np.asarray(flat))) > 0.1
    # thirty steps, not at the edge, each rounding in d = 438 terms
    np.testing.assert_allclose(theta, _unit(w), rtol=0, atol=1e-12)
    np.testing.assert_allclose(norm_squared, w @ w, rtol=1e-12)


def test_effective_learning_rate_takes_arrays() -> None:
    found = sf.theory.effective_learning_rate(np.array([[1.0, 4.0]]), np.array([[0.1], [0.2]]), 0.5)
    expected = [[0.1 / 0.95, 0.025 / 0.95], [0.2 / 0.9, 0.05 / 0.9]]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@pytest.mark.parametrize(("factor", "grows"), [(0.99, False), (1.01, True)])
def test_gradient_descent_is_stable_up_to_the_threshold(factor: float, grows: bool) -> None:
    """On ½ λ x² each step multiplies x by 1 − η̃ λ, which is −1 at λ*."""
    rate = 0.37
    sharpness = factor * float(sf.theory.threshold(rate))
    np.testing.assert_allclose(sf.theory.edge_ratio(rate, sharpness), factor, rtol=1e-15)
    x = 1.0
    for _ in range(10):
        x = x - rate * sharpness * x
    assert (abs(x) > 1.0) is grows


@pytest.mark.parametrize(("eta", "decay"), [(0.1, 0.01), (0.3, 0.1), (2.0, 0.02)])
def test_entry_step_is_the_one_where_the_shrinking_norm_crosses(eta: float, decay: float) -> None:
    norm_squared, sharpness, start = 50.0, 8.0, 17
    entry = sf.theory.edge_entry_step(norm_squared, sharpness, eta, decay, step=start)
    step = start
    while 2.0 * norm_squared * (1 - eta * decay) / eta > sharpness:
        norm_squared *= (1 - eta * decay) ** 2
        step += 1
    assert step > start + 5
    assert step - 1 < entry <= step


def test_an_edge_already_passed_has_an_entry_in_the_past_and_none_without_decay() -> None:
    entry = sf.theory.edge_entry_step(1.0, 40.0, 0.1, 0.01)
    # backwards, the norm grows: N(t) = (1 − ηλ)^{2t} N(0)
    np.testing.assert_allclose(2.0 * (1 - 1e-3) ** (2 * entry + 1) / 0.1, 40.0, rtol=1e-12)
    assert entry < 0
    assert sf.theory.edge_entry_step(1.0, 40.0, 0.1, 0.0) == np.inf


@pytest.mark.parametrize("b", [0.5, 2.0, 4.0])
def test_entry_delay_is_that_of_the_growing_oscillation(b: float) -> None:
    """x ← −(2 λ_1/λ* − 1) x with λ_1/λ* = e^{bκt}; corrections fall like √κ."""
    amplitude, equilibrium, errors = 1e-7, 1e-2, []
    for rate in (1e-3, 1e-4, 1e-5):
        predicted = sf.theory.entry_delay(rate, amplitude, equilibrium, b=b)
        size, step = amplitude, 0
        while size < equilibrium:
            size *= 2.0 * np.exp(b * rate * step) - 1.0
            step += 1
        # log(2e^x − 1) = 2x − x² + ...: the delay is longer by overshoot/6 and higher orders;
        # the sum over steps instead of an integral adds half a step, rounding up to one
        allowed = 1.2 * predicted.overshoot / 6.0 + 1.5 / predicted.steps
        assert abs(step / predicted.steps - 1.0) <= allowed
        overshoot = np.exp(b * rate * step) - 1.0
        # e^x − 1 = x + x²/2, on top of the longer delay
        assert abs(overshoot / predicted.overshoot - 1.0) <= allowed + predicted.overshoot
        errors.append(abs(step / predicted.steps - 1.0))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 1e-7, 1e-2), "intrinsic_rate"),
        ((1e-3, -1.0, 1e-2), "amplitude"),
        ((1e-3, float("nan"), 1e-2), "amplitude"),
        ((1e-3, 1e-2, 1e-2), "equilibrium_amplitude"),
        ((1e-3, 1e-2, float("nan")), "equilibrium_amplitude"),
    ],
)
def test_an_impossible_entry_is_refused_by_name(arguments, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        sf.theory.entry_delay(*arguments)


@pytest.mark.parametrize(
    ("rates", "name"),
    [
        ((0.0, 0.1), "learning_rate must be positive"),
        ((-0.1, 0.1), "learning_rate must be positive"),
        ((float("nan"), 0.1), "learning_rate must be positive"),
        ((float("inf"), 0.1), "learning_rate must be positive"),
        ((0.1, -0.1), "weight_decay must be at least 0"),
        ((0.1, float("nan")), "weight_decay must be at least 0"),
        ((2.0, 0.5), r"learning_rate \* weight_decay must be below 1"),
    ],
)
def test_rates_out_of_range_are_refused(regression, rates, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        sf.theory.start_at_edge(regression.problem, regression.at(1.0), *rates)
    with pytest.raises(ValueError, match=name):
        sf.theory.edge_entry_step(1.0, 1.0, *rates)


@pytest.mark.parametrize(
    ("norm_squared", "sharpness"), [(0.0, 1.0), (1.0, -1.0), (np.nan, 1.0), (1.0, np.inf)]
)
def test_an_entry_needs_a_positive_norm_and_sharpness(norm_squared, sharpness) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        sf.theory.edge_entry_step(norm_squared, sharpness, 0.1, 0.1)


def test_start_at_edge_has_the_curvature_of_marginal_stability(regression) -> None:
    """λ_1(∇²L(w)) = 2(1 − ηλ)/η, which is 2/η − λ up to ηλ/2 relative."""
    eta, decay = 0.2, 0.05
    problem = regression.problem
    w = sf.theory.start_at_edge(problem, regression.at(1.0), eta, decay, perturbation=1e-9)
    top = np.linalg.eigvalsh(jax.hessian(problem.loss_value)(w))[-1]
    np.testing.assert_allclose(top, 2.0 * (1.0 - eta * decay) / eta, rtol=1e-7)
    np.testing.assert_allclose(top, 2.0 / eta - decay, rtol=0.51 * eta * decay)


def test_a_step_from_the_edge_reverses_the_perturbation(regression) -> None:
    """The multiplier of θ along v_1 is −1 there, with weight decay included."""
    eta, decay, size = 0.2, 0.3, 1e-5
    theta0 = np.asarray(regression.at(1.0))
    gradient = jax.grad(regression.problem.loss_value)
    w = sf.theory.start_at_edge(
        regression.problem, jnp.asarray(theta0), eta, decay, perturbation=size
    )
    after = (1.0 - eta * decay) * w - eta * gradient(w)
    displaced, reversed_ = _unit(np.asarray(w)) - theta0, _unit(np.asarray(after)) - theta0
    np.testing.assert_allclose(np.linalg.norm(displaced), size, rtol=1e-6)
    # the next order of the gradient is size² times a third derivative of order λ_1, ten here
    np.testing.assert_allclose(reversed_, -displaced, rtol=0, atol=100 * size**2)


def test_start_at_edge_keeps_the_structure_of_the_params(tiny_mlp) -> None:
    problem, theta = tiny_mlp
    w = sf.theory.start_at_edge(problem, theta, 0.1, 0.01, perturbation=1e-3)
    assert jax.tree.structure(w) == jax.tree.structure(theta)
    values, vectors = sf.theory.spherical_sharpness(problem, theta)
    norm = np.sqrt(0.1 * float(values[0]) / (2.0 * (1.0 - 1e-3)))
    for leaf, point, vector in zip(
        *(jax.tree.leaves(tree) for tree in (w, theta, vectors)), strict=True
    ):
        np.testing.assert_allclose(leaf, norm * (point + 1e-3 * vector[0]), rtol=1e-12)


def test_predicted_loss_is_the_mean_loss_of_gdwd_up_to_the_intrinsic_rate(regression) -> None:
    """Started at the equilibrium amplitude √(ηλ M); the difference falls like ηλ."""
    problem, theta0, tau = regression.problem, regression.at(1.2), np.linspace(0.0, 2.0, 9)
    flow = sf.sharpness_flow(problem, theta0, tau, max_edge=1, rtol=2e-4)
    gradient, differences = jax.grad(problem.loss_value), []

    @partial(jax.jit, static_argnames=("count",))
    def losses_of(w, rate, count):
        def step(w, _):
            return (1.0 - rate) * w - 0.1 * gradient(w), problem.loss_value(w)

        return jax.lax.scan(step, w, None, length=count)[1]

    for intrinsic in (1e-3, 2e-4):
        amplitude = np.sqrt(intrinsic * float(flow.edge_trace[0]))
        start = sf.theory.start_at_edge(problem, theta0, 0.1, intrinsic / 0.1, amplitude)
        count = round(2.0 / intrinsic)
        losses = np.asarray(losses_of(start, intrinsic, count))
        predicted = np.interp(
            intrinsic * np.arange(count), tau, sf.theory.predicted_loss(flow, intrinsic)
        )
        # leave the first quarter, where the start settles; linear interpolation costs 1e-4
        differences.append(abs(losses[count // 4 :].mean() / predicted[count // 4 :].mean() - 1.0))
    assert differences[0] <= 0.02
    assert differences[1] <= differences[0] / 4.0  # a fifth, if proportional


def test_predicted_loss_is_half_the_trace_of_hessian_and_covariance(tiny_mlp) -> None:
    """⟨½ δᵀ ∇²L δ⟩ with covariance ηλ V M Vᵀ, from the dense Hessian, several at the edge."""
    problem, theta = tiny_mlp
    flow = sf.sharpness_flow(problem, theta, np.linspace(0.0, 1.0, 6), max_edge=3, rtol=1e-4)
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[-1], flow.theta))
    hessian = jax.jit(jax.hessian(lambda point: problem.loss_value(unravel(point))))(flat)
    frame = np.linalg.eigh(hessian)[1][:, ::-1][:, :3]
    block = frame.T @ np.asarray(hessian) @ frame
    covariance = np.asarray(flow.edge_covariance[-1])
    assert np.linalg.eigvalsh(covariance)[1] > 1e-3  # two eigenvalues at the edge
    expected = 0.5 * 1e-4 * np.sum(block * covariance)
    # the edge eigenvalues are λ* up to 5 rtol
    np.testing.assert_allclose(sf.theory.predicted_loss(flow, 1e-4)[-1], expected, rtol=5e-4)


@pytest.mark.parametrize(
    ("theta0", "message"),
    [
        (lambda case: 1.5 * case.at(1.0), "theta0 must have unit norm on the sphere, got 1.5"),
        (lambda case: case.at(1.0)[::-1], "theta0 must lie on the minimizer manifold"),
    ],
)
def test_start_at_edge_refuses_a_point_off_the_manifold(regression, theta0, message) -> None:
    with pytest.raises(ValueError, match=message):
        sf.theory.start_at_edge(regression.problem, theta0(regression), 0.1, 0.01)


def test_the_loss_that_a_threshold_implies_is_the_integral_of_half_lambda_trace() -> None:
    """For λ* = λ₀ exp(sτ) the trace is ½ (1 + s/b), and the integral is known."""
    tau, slope, b, rate = np.linspace(0.0, 1.0, 2001), -0.8, 1.5, 1e-3
    threshold = 20.0 * np.exp(slope * tau)
    trace = 0.5 * (1.0 + slope / b)
    np.testing.assert_allclose(
        stability.edge_trace_integral(tau, threshold, b), trace * np.diff(tau), rtol=1e-9
    )
    expected = 0.5 * rate * trace * 20.0 * (np.exp(slope) - 1.0) / slope
    found = stability.edge_loss_integral(rate, tau, threshold, b).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # of the trapezoids, h²s²/12
