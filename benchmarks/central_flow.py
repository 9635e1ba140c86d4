"""``python -m benchmarks.central_flow``: the central flow against gradient descent on digits."""

import argparse
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.experiments.checks import Check, print_table, write_json
from sharpflow.experiments.plots.central import MeanPath, above_edge_panel, central_panel
from sharpflow.experiments.plots.drawing import save
from sharpflow.experiments.starts import trained_to_manifold
from sharpflow.models.parameter_names import parameter_rows

RATES = (1e-3, 1e-4)
TAU = np.linspace(0.0, 3.0, 31)
START_RATIO = 0.02
# Of the networks without a manifold near their start: learning rate, and half of the window of the
# moving average that stands for the time average of GD.
LEARNING_RATE = 0.4
HALF_WINDOW = 50
BATCH_NORM_DECAY = 2.5e-3
# Uniform as a linear layer of PyTorch is by default, or normal with the variance that keeps that of
# the signals.
INITIALISATIONS = ("uniform", "normal")


def measure(folder: Path) -> list[Check]:
    """Run all comparisons, and write their figures."""
    problem = sf.models.mlp(
        *sf.models.digits(24), widths=(16, 16), test=sf.models.digits(500, offset=24)
    )
    checks = []
    for init in INITIALISATIONS:
        checks += _tanh_network(init)
    checks += _batch_norm_network()
    for rate in RATES:
        checks += _from_initialisation(problem, rate, folder)
    checks += _near_minimizers(problem)
    checks += _above_the_edge(problem, folder)
    return checks


def _tanh_network(init: str) -> list[Check]:
    """64-32-32-10 without normalization and weight decay, from its start to step 1,000."""
    problem = digits_network(normalized=False, init=init)
    steps = np.arange(0, 1001, 50)
    part = f"tanh network 64-32-32-10 without normalization, {init} start, η = {LEARNING_RATE:g}"
    checks = _against_gradient_descent(problem, 0.0, steps, (600, 1000), 0.035, part)
    flow = _flow_by_steps(problem, 0.0, np.array([0, 600]))
    return [*checks, Check(part, "Hessian products to step 600", float(flow.num_products),
                           high=12_000)]  # fmt: skip


def _batch_norm_network() -> list[Check]:
    """The same network with batch norm and weight decay, to τ = 1.5."""
    problem = digits_network(normalized=True, init="normal")
    decay = BATCH_NORM_DECAY
    last = round(1.5 / (LEARNING_RATE * decay))
    part = f"the same with batch norm and weight decay, λ = {decay:g}"
    steps = np.linspace(0, last, 11).astype(int)
    return _against_gradient_descent(problem, decay, steps, (last,), 0.025, part)


def digits_network(*, normalized: bool, init: str) -> sf.Problem:
    """A tanh network on 128 digits; the loss is the mean square error, over outputs too."""
    x, y = sf.models.digits(128)
    inputs, targets = jnp.asarray(x), np.eye(10)[y]
    targets = jnp.asarray((targets - targets.mean(0)) / targets.std(0))
    shapes = [(64, 32), (32, 32), (32, 10)]

    def outputs(weights: list[jax.Array]) -> jax.Array:
        signals = inputs
        for index, weight in enumerate(weights):
            signals = signals @ weight
            if normalized:
                signals = (signals - signals.mean(0)) / signals.std(0)
            if index < 2:
                signals = jnp.tanh(signals)
        return signals

    # Under batch norm the length of the weights decides the first steps alone. At twice the length
    # λ_1 starts at 0.23 of the edge. At the length itself it starts at 0.92, and the burst of its
    # first ten steps leads GD elsewhere than any average: 0.25 of the distance moved at step 200.
    length = 2.0 if normalized else 1.0

    def draw(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        bound = length * shape[0] ** -0.5
        if init == "uniform":
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        return bound * jax.random.normal(key, shape)

    return sf.Problem(
        init=lambda key: [
            draw(*pair) for pair in zip(jax.random.split(key, 3), shapes, strict=True)
        ],
        loss=lambda weights: jnp.mean(jnp.square(outputs(weights) - targets)),
        scale_invariant=normalized,
    )


def _flow_by_steps(
    problem: sf.Problem, decay: float, steps: np.ndarray, **options: object
) -> sf.CentralFlowSolution:
    """The flow from the start of key 0 at numbers of steps of GD."""
    rate = LEARNING_RATE * decay or 1e-3  # without weight decay any clock will do
    params = problem.init(jax.random.key(0))
    return sf.central_flow(
        problem, params, LEARNING_RATE, decay, rate * steps, intrinsic_rate=rate, **options
    )


def _against_gradient_descent(
    problem: sf.Problem,
    decay: float,
    steps: np.ndarray,
    marks: tuple[int, ...],
    high: float,
    part: str,
) -> list[Check]:
    """Distance from the centred moving average of GD, with and without the correction.

    ``high`` bounds it at the first of the marks, with the correction.
    """
    flat, unravel = ravel_pytree(problem.init(jax.random.key(0)))
    gradient = jax.grad(lambda w: problem.loss_value(unravel(w)))
    scale = 1.0 - LEARNING_RATE * decay
    length = int(steps[-1]) + HALF_WINDOW + 1
    advance = jax.jit(
        lambda start: jax.lax.scan(
            lambda w, _: (scale * w - LEARNING_RATE * gradient(w), w), start, None, length=length
        )[1]
    )
    iterates = np.asarray(advance(flat))

    def mean(step: int) -> np.ndarray:
        half = min(HALF_WINDOW, step)  # at the start nothing has been averaged
        weights = np.hanning(2 * half + 3)[1:-1]
        return weights @ iterates[step - half : step + half + 1] / weights.sum()

    means = np.stack([mean(int(step)) for step in steps])
    moved = np.linalg.norm(means - means[0], axis=1)
    checks = []
    for corrected in (True, False):
        # a failure is a row of the table
        flow = _flow_by_steps(problem, decay, steps, step_correction=corrected, throw=False)
        distance = np.linalg.norm(parameter_rows(flow.params) - means, axis=1)
        name = "corrected" if corrected else "not corrected"
        checks += [
            Check(part, f"{name}: distance / distance moved at step {mark}",
                  float((distance / np.maximum(moved, 1e-300))[steps == mark][0]),
                  high=high if corrected and mark == marks[0] else math.inf)
            for mark in marks
        ]  # fmt: skip
        checks += [
            Check(part, f"{name}: status", float(flow.status), high=0.0),
            Check(part, f"{name}: eigenvalues followed", float(flow.eigenvalues.shape[1])),
            Check(part, f"{name}: Hessian products", float(flow.num_products)),
            Check(part, f"{name}: third derivatives", float(flow.num_third)),
        ]
    return checks


def start_below_edge(problem: sf.Problem, ratio: float, rate: float, seed: int = 0) -> jax.Array:
    """Flat params of a random direction, of the norm that puts λ_1 at ``ratio`` edges (η = 1)."""
    flat, unravel = ravel_pytree(problem.init(jax.random.key(seed)))
    theta = flat / jnp.linalg.norm(flat)
    sharpness = sf.theory.spherical_sharpness(problem, unravel(theta))[0][0]
    return theta * jnp.sqrt(sharpness / (2.0 * (1.0 - rate) * ratio))


def gradient_descent(problem, start, rate, gap, count):  # type: ignore[no-untyped-def]
    """GD+WD with η = 1: (w_{t−1} + 2w_t + w_{t+1})/4 and the mean loss of the gap steps around t.

    Returns:
      Means (count, d), losses (count,), for t = 0, gap, 2 gap, ...
    """
    _, unravel = ravel_pytree(problem.init(jax.random.key(0)))
    evaluate = jax.value_and_grad(lambda w: problem.loss_value(unravel(w)))

    def step(_, carry):  # type: ignore[no-untyped-def]
        (_, now), total = carry
        value, gradient = evaluate(now)
        return (now, (1.0 - rate) * now - gradient), total + value

    half = gap // 2
    zero = jnp.zeros((), start.dtype)

    @jax.jit
    def run(start):  # type: ignore[no-untyped-def]
        def advance(carry, _):  # type: ignore[no-untyped-def]
            pair, before = carry
            later = step(0, (pair, zero))[0][1]
            mean = 0.25 * (pair[0] + 2.0 * pair[1] + later)
            middle, after = jax.lax.fori_loop(0, half, step, (pair, zero))
            following, rest = jax.lax.fori_loop(half, gap, step, (middle, zero))
            return (following, rest), (mean, (before + after) / gap)

        return jax.lax.scan(advance, ((start, start), zero), None, length=count)[1]

    means, losses = jax.block_until_ready(run(start))
    began = time.perf_counter()
    jax.block_until_ready(run(start))
    seconds = time.perf_counter() - began
    losses = np.array(losses)
    losses[0] *= gap / half  # half a window
    return np.asarray(means), losses, seconds


def _from_initialisation(problem: sf.Problem, rate: float, folder: Path) -> list[Check]:
    part = f"from initialisation to τ = 3, ηλ = {rate:g}"
    _, unravel = ravel_pytree(problem.init(jax.random.key(0)))
    start = start_below_edge(problem, START_RATIO, rate)
    gap = round((TAU[1] - TAU[0]) / rate)
    means, losses, gd_seconds = gradient_descent(problem, start, rate, gap, len(TAU))

    def integrate(rtol: float) -> tuple[sf.CentralFlowSolution, float]:
        began = time.perf_counter()
        flow = sf.central_flow(problem, unravel(start), 1.0, rate, TAU, rtol=rtol)
        jax.block_until_ready(flow.loss)
        return flow, time.perf_counter() - began

    flow, first = integrate(1e-3)
    flow, seconds = integrate(1e-3)
    path, fine = parameter_rows(flow.params), parameter_rows(integrate(2e-4)[0].params)
    error, own_error = _relative(_unit(means), _unit(path)), _relative(_unit(path), _unit(fine))
    metric = jax.jit(jax.vmap(lambda w: problem.metrics["test_error"](unravel(w))))
    predicted, found = (np.asarray(metric(jnp.asarray(points))) for points in (path, means))
    k = flow.eigenvalues.shape[1]
    eigenvalues = jax.jit(
        lambda w: sf.theory.top_eigenpairs(problem, unravel(w), k, tolerance=1e-5).values
    )
    measured = MeanPath(
        tau=TAU,
        loss=losses,
        eigenvalues=np.stack([eigenvalues(jnp.asarray(point)) for point in means]),
        norm_squared=np.sum(means**2, axis=1),
        metric=found,
    )
    save(
        central_panel(measured, flow, predicted, error, name="test error (mean square)"),
        folder / f"central_flow_{rate:g}.png",
    )
    at_edge = np.asarray(flow.eigenvalues[:, 0]) >= 0.999 * float(flow.edge)
    ratio = losses[at_edge][:-1] / np.asarray(flow.mean_loss)[at_edge][:-1]
    norms = measured.norm_squared / np.asarray(flow.norm_squared)
    rank = np.linalg.eigvalsh(np.asarray(flow.covariance[-1]))
    return [
        Check(part, "largest distance / distance moved", float(error.max()), high=0.05),
        Check(part, "distance / distance moved at τ = 3", float(error[-1]), high=0.05),
        Check(part, "of it own error of the steps", float(own_error.max()), high=5e-3),
        Check(part, "mean loss of GD at the edge / predicted", float(ratio.mean()), 0.9, 1.1),
        Check(part, "‖w‖² of GD / predicted, farthest from 1",
              float(norms[np.argmax(np.abs(norms - 1.0))]), 0.95, 1.05),
        Check(part, "largest difference of test errors / range",
              float(np.abs(predicted - found).max() / np.ptp(found)), high=0.05),
        Check(part, "largest eigenvalue / edge", float(flow.eigenvalues.max() / flow.edge),
              high=1.001),
        Check(part, "rank of C at τ = 3", float(np.sum(rank > 1e-3 * rank.sum()))),
        Check(part, "steps per unit τ", float(flow.num_steps + flow.num_rejected) / 3.0),
        Check(part, "gradients per unit τ", float(flow.num_gradients) / 3.0,
              note=f"GD: {1 / rate:g}"),
        Check(part, "Hessian products per unit τ", float(flow.num_products) / 3.0),
        Check(part, "third derivatives per unit τ", float(flow.num_third) / 3.0),
        Check(part, "seconds per unit τ", seconds / 3.0, note=f"GD: {gd_seconds / 3.0:.3g}"),
        Check(part, "seconds of compilation", first - seconds),
    ]  # fmt: skip


def _trained(problem: sf.Problem) -> sf.models.Params:
    return trained_to_manifold(problem, rule=sf.simulator.projected_gd(1e-3), num_steps=20_000)


def _near_minimizers(problem: sf.Problem) -> list[Check]:
    theta0, tau = _trained(problem), np.linspace(0.0, 1.5, 6)
    reduction = sf.sharpness_flow(problem, theta0, tau, rtol=2e-4)
    expected = parameter_rows(reduction.theta)
    checks, errors = [], []
    for rate in (1e-3, 1e-4, 1e-5):
        part = f"from the edge over Γ to τ = 1.5, ηλ = {rate:g}, against sharpness_flow"
        start = sf.theory.start_at_edge(problem, theta0, 1.0, rate, perturbation=0.0)
        flow = sf.central_flow(problem, start, 1.0, rate, tau, rtol=2e-4)
        above = _relative(_unit(parameter_rows(flow.params)), expected)
        onto = jax.vmap(lambda w: sf.theory.retract_with_status(problem, w)[0])(flow.params)
        error = _relative(parameter_rows(onto), expected)
        threshold = 2.0 * (1.0 - rate) * np.asarray(flow.norm_squared)
        apart = np.abs(threshold / np.asarray(reduction.threshold) - 1.0).max()
        predicted = np.asarray(sf.theory.predicted_loss(reduction, rate))[1:]
        loss = np.asarray(flow.mean_loss)[1:] / predicted - 1.0
        errors.append(float(error.max()))
        checks += [
            Check(part, "largest distance on Γ / distance moved", errors[-1]),
            Check(part, "without projection to Γ", float(above.max())),
            Check(part, "without projection to Γ, at τ = 1.5", float(above[-1])),
            Check(part, "largest relative difference of λ*", float(apart), high=30.0 * rate),
            Check(part, "largest relative difference of mean losses", float(np.abs(loss).max())),
            Check(part, "gradients per unit τ", float(flow.num_gradients) / 1.5,
                  note=f"GD: {1 / rate:g}"),
        ]  # fmt: skip
    order = float(np.log10(errors[-2] / errors[-1]))  # in ηλ, of which both flows differ by O(ηλ)
    checks.append(Check(part, "order in ηλ of the distance on Γ, from 1e-4", order, low=0.7))
    return checks


def _above_the_edge(problem: sf.Problem, folder: Path) -> list[Check]:
    """Start 10 % above the edge over Γ: GD answers with a burst, the flow glides back."""
    rate, count = 1e-3, 400
    theta0 = _trained(problem)
    flat, unravel = ravel_pytree(
        sf.theory.start_at_edge(problem, theta0, 1.0, rate, perturbation=1e-3)
    )
    start = flat / jnp.sqrt(1.1)
    gradient = jax.grad(lambda w: problem.loss_value(unravel(w)))
    _, path = jax.lax.scan(
        lambda w, _: ((1.0 - rate) * w - gradient(w), w), start, None, length=count + 1
    )
    steps = np.unique(np.concatenate([np.arange(0, 40), np.arange(40, count + 1, 4)]))
    flow = sf.central_flow(problem, unravel(start), 1.0, rate, rate * steps)
    iterates, predicted = np.asarray(path)[steps], parameter_rows(flow.params)
    top = jax.jit(lambda w: sf.theory.top_eigenpairs(problem, unravel(w), 1, tolerance=1e-5).values)
    measured = MeanPath(
        tau=rate * steps,
        loss=np.asarray([problem.loss_value(unravel(jnp.asarray(w))) for w in iterates]),
        eigenvalues=np.stack([top(jnp.asarray(w)) for w in iterates]),
        norm_squared=np.sum(iterates**2, axis=1),
        metric=np.zeros(len(steps)),
    )
    moved = np.stack(
        [np.linalg.norm(_unit(w) - _unit(w)[0], axis=1) for w in (iterates, predicted)]
    )
    save(above_edge_panel(measured, flow, steps, moved), folder / "central_flow_above.png")
    ratio = np.asarray(flow.eigenvalues[:, 0] / flow.edge)
    part = "10 % above the edge over Γ, ηλ = 0.001"
    return [
        Check(part, "flow: λ_1 / edge after 10 steps", float(ratio[steps == 10][0]), high=1.001),
        Check(part, "flow: ‖w‖² at step 40 / at 0",
              float(flow.norm_squared[steps == 40][0] / flow.norm_squared[0])),
        Check(part, "GD: largest loss / predicted mean loss",
              float(measured.loss.max() / flow.mean_loss[-1])),
        Check(part, f"GD: ‖w‖² at step {count} / the flow's",
              float(measured.norm_squared[-1] / flow.norm_squared[-1])),
        Check(part, f"distance of directions at step {count} / flow's distance moved",
              float(_relative(_unit(iterates), _unit(predicted))[-1])),
    ]  # fmt: skip


def _unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _relative(points: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Distance relative to the distance moved, shape (T,); zero at the start."""
    moved = np.linalg.norm(expected - expected[0], axis=1)
    moved[0] = np.inf
    return np.linalg.norm(points - expected, axis=1) / moved


def main() -> None:
    """Write figures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/central_flow"))
    arguments = parser.parse_args()
    from sharpflow.experiments.environment import configure_jax, start_cache
    from sharpflow.simulator.provenance import provenance

    configure_jax()
    start_cache()
    checks, made = measure(arguments.out), provenance()
    print_table(checks, f"central flow on {made['device']}, jax {made['jax_version']}")
    write_json(checks, arguments.out / "central_flow.json", made)


if __name__ == "__main__":
    main()
