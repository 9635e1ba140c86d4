"""Momentum: the threshold 2(1 + β)/((1 − β)η), and the flow with weight decay."""

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

import sharpflow as sf
from sharpflow.experiments.checks import Check
from sharpflow.experiments.plots import momentum as plots
from sharpflow.experiments.validate import small_networks
from sharpflow.experiments.validate.findings import Findings
from sharpflow.models.problem import Params
from sharpflow.simulator.observables import Observable
from sharpflow.simulator.quantities import RESULT, described, renamed
from sharpflow.simulator.quantity import Quantity, by_name

if TYPE_CHECKING:
    import xarray

TITLE = "momentum: its threshold, and its flow with weight decay"

# Of the runs on the sphere, where only ηλ matters.
LEARNING_RATE = 0.1
# Without momentum as the control, and up to the usual 0.9. At 0.99 one ladder would take ten times
# as long, since ηλ must be smaller by (1 − β)/(1 + β).
BETAS = (0.0, 0.5, 0.9)
TAU = np.linspace(0.0, 2.0, 21)
SMALL = 2e-4  # ηλ (1 + β)/(1 − β), the small parameter of the theory

MOMENTUM = by_name(
    RESULT["tau"],
    Quantity("beta", "momentum β", "The weight β of the past in the average.", unit="1"),
    Quantity("share", "share of the steps", "The share of the steps of a run.", unit="1"),
    Quantity(
        "ramp_threshold",
        "threshold 2(1+β)/((1−β)η)",
        "The Hessian's largest eigenvalue at which momentum is marginally stable, 2(1 + β)/((1 − "
        "β)η), while η rises slowly.",
        unit="1",
        dims=("beta", "share"),
        scale="linear",
    ),
    Quantity(
        "ramp_sharpness",
        "sharpness λ₁(∇²L(wₜ))",
        "The largest eigenvalue of the Hessian at the iterate while η rises slowly.",
        unit="1",
        dims=("beta", "share"),
        reference="ramp_threshold",
        scale="linear",
    ),
)


def run(progress: bool | None = None) -> Findings:
    """Measure the statements on momentum."""
    import xarray

    fixed_checks = _fixed(progress)
    ramp_checks, ramp = _ramp(progress)
    flow_checks, flow = _flow(progress)
    return Findings(
        checks=fixed_checks + ramp_checks + flow_checks,
        figures={"momentum": plots.momentum(ramp, flow)},
        numbers=xarray.merge([ramp, flow]),
    )


def _fixed(progress: bool | None) -> list[Check]:
    """A tanh network sharpens until its Hessian reaches the threshold, and stays there."""
    part = "no scale invariance, fixed η: λ_1(∇²L) over 2(1 + β)/((1 − β)η)"
    # One threshold for every β. At half its usual size the network begins with a sharpness of 9,
    # below it, and sharpens up to it; at full size it would begin with 48, beyond it.
    problem, line = small_networks.unnormed(32), 25.0
    params = jax.tree.map(lambda w: 0.5 * w, problem.init(jax.random.key(0)))
    checks = []
    # No lower bound for β = 0.9: η is 19 times larger there, and the network fits its data at 0.62
    # of the threshold before it could sharpen further (docs/other-dynamics.md, section 3).
    for beta, bounds in ((0.0, (0.95, 1.05)), (0.5, (0.95, 1.05)), (0.9, (-math.inf, 1.05))):
        rule = sf.simulator.momentum(_learning_rate(beta, line), beta=beta)
        ratio = _ratios(problem, params, rule, 3000, progress)[1]
        late = ratio[len(ratio) // 3 :]
        note = f"standard deviation {late.std():.2g}"
        statement = f"β = {beta:g}: mean over the last 2000 of 3000 steps"
        checks.append(Check(part, statement, float(late.mean()), *bounds, note))
    return checks


def _ramp(progress: bool | None) -> tuple[list[Check], "xarray.Dataset"]:
    """The threshold lowered slowly through λ_1 of a trained tanh network, which follows it."""
    import xarray

    part = "no scale invariance, η rising slowly: λ_1(∇²L) over the threshold"
    problem = small_networks.unnormed(32)
    start = jax.tree.map(lambda w: 0.5 * w, problem.init(jax.random.key(0)))
    start = sf.simulate(
        problem, start, sf.gdwd(0.02, 0.0), 4000, record_every=4000, progress=progress
    ).final_params
    sharpness = float(sf.theory.top_eigenpairs(problem, start).values[0])
    # From a little above λ_1, so that the meeting is within the run, down to half of it.
    first, last = 1.1 * sharpness, 0.5 * sharpness
    checks, lines = [], []
    # More steps for more momentum, because a change of η must be slow beside the memory 1/(1 − β),
    # and λ_1 answers more slowly too.
    for beta, num_steps in zip(BETAS, (4000, 8000, 40000), strict=True):
        rule = _rising(
            sf.simulator.momentum(_learning_rate(beta, first), beta=beta),
            (first / last) ** (1.0 / num_steps),
        )
        line, ratio = _ratios(problem, start, rule, num_steps, progress)
        late = ratio[(3 * len(ratio)) // 10 :]
        statement = f"β = {beta:g}: mean over the last 70 % of {num_steps} steps"
        note = f"standard deviation {late.std():.2g}"
        checks.append(Check(part, statement, float(late.mean()), 0.95, 1.05, note))
        lines.append(np.stack([line, ratio * line]))
    values = np.stack(lines)
    coordinates: dict[str, Any] = {"beta": list(BETAS), "share": np.arange(200) / 200}
    ramp = xarray.Dataset(
        {
            "ramp_threshold": (("beta", "share"), values[:, 0]),
            "ramp_sharpness": (("beta", "share"), values[:, 1]),
        },
        coordinates,
    )
    return checks, described(ramp, MOMENTUM)


def _flow(progress: bool | None) -> tuple[list[Check], "xarray.Dataset"]:
    """GD+WD with momentum on a batch-normed network, from the edge: one flow for every β."""
    import xarray

    start = small_networks.batch_normed()
    flow = sf.sharpness_flow(start.problem, start.theta, TAU, progress=progress)
    checks, comparisons = [], []
    for beta in BETAS:
        share = (1.0 - beta) / (1.0 + beta)
        rate = SMALL * share
        part = f"weight decay, batch norm, β = {beta:g}, ηλ = {rate:.3g}"
        # to the threshold, a learning rate of share · η without momentum is the same
        params = sf.theory.start_at_edge(
            start.problem, start.theta, share * LEARNING_RATE, rate / (share * LEARNING_RATE)
        )
        window = round(float(TAU[1]) / rate)
        trajectory = sf.simulate(
            start.problem,
            params,
            sf.simulator.momentum(LEARNING_RATE, rate / LEARNING_RATE, beta=beta),
            window * (TAU.size - 1) + 1,
            record_every=window // 20,
            snapshot_every=20,
            progress=progress,
        )
        comparison = sf.compare(trajectory, flow, start.problem, progress=progress)
        ratio = np.abs(comparison["threshold_ratio"].values - 1.0).max()
        error = comparison.attrs["final_relative_error"]
        checks += [
            Check(part, "tracking error / distance moved at τ = 2", error, high=0.035),
            Check(part, "largest |threshold ratio − 1|", float(ratio), high=0.08),
            Check(
                part,
                "mean loss / (1 − β)/(1 + β) ½ηλ λ* tr M",
                comparison.attrs["mean_loss_ratio"],
                0.93,
                1.07,
            ),
        ]
        comparisons.append(comparison.assign_coords(tau=TAU).drop_vars("step"))
    names = ["relative_error", "threshold", "predicted_threshold"]
    joined = xarray.concat(
        [one[names] for one in comparisons], xarray.Variable("beta", list(BETAS))
    )
    # xarray keeps the attributes of the first, which would be taken for those of all.
    joined.attrs = {}  # of one run among several
    return checks, renamed(described(joined, MOMENTUM), {name: f"flow_{name}" for name in names})


def _ratios(
    problem: sf.Problem,
    params: Params,
    rule: optax.GradientTransformation,
    num_steps: int,
    progress: bool | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The threshold at 200 records, and λ_1(∇²L) over it."""
    tracked: tuple[Observable, ...] = (sf.simulator.hessian_sharpness(tolerance=1e-4),)
    trajectory = sf.simulate(
        problem,
        params,
        rule,
        num_steps,
        record_every=num_steps // 200,
        observables=tracked,
        progress=progress,
    )
    line = trajectory["stability_line"]
    return line, trajectory["hessian_sharpness"][:, 0] / line


def _learning_rate(beta: float, line: float) -> float:
    """η with the threshold 2(1 + β)/((1 − β)η)."""
    return 2.0 * (1.0 + beta) / ((1.0 - beta) * line)


def _rising(rule: optax.GradientTransformation, factor: float) -> optax.GradientTransformation:
    """The rule with its learning rate multiplied by a factor after every step."""

    def update(gradient: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        changes, state = rule.update(gradient, state, params)
        return changes, state._replace(learning_rate=factor * state.learning_rate)

    return optax.GradientTransformation(rule.init, update)
