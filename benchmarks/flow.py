"""The multi-edge flow on digits: time, accuracy, and against simulating GD."""

import math
import time

import jax
import numpy as np

import sharpflow as sf
from sharpflow.experiments.checks import Check
from sharpflow.experiments.demo.digits import LEARNING_RATE
from sharpflow.experiments.starts import trained_to_manifold
from sharpflow.models.parameter_names import parameter_rows

RATE = 1e-6
TAU = np.linspace(0.0, 2.0, 5)
GD_STEPS = 20_000  # that are timed; every step costs the same
REPETITIONS = 3


def measure() -> list[Check]:
    """Seconds to τ = 2 once compiled, error there, and the ratio to GD at ηλ = 1e-6."""
    return [*_accurate(widths=(32, 32)), *_against_gd((16, 16), 20.0), *_against_gd((32, 32))]


def _accurate(widths: tuple[int, int]) -> list[Check]:
    part = f"flow, {_name(widths)}, rtol 1e-3"
    problem, theta0 = _problem(widths)
    first = _integrate(problem, theta0, 1e-3)[0]
    runs = [_integrate(problem, theta0, 1e-3) for _ in range(REPETITIONS)]
    flow = runs[-1][1]
    errors = _errors(flow, problem, theta0)
    rank = np.linalg.eigvalsh(np.asarray(flow.edge_covariance[-1]))
    return [
        Check(part, "seconds to τ = 2, compiled, best", min(run[0] for run in runs), high=6.0),
        Check(part, "seconds with compilation", first),
        Check(part, "error at τ = 2 / distance moved", float(errors[-1]), high=1e-3),
        Check(part, "largest error / distance moved, τ = 0.5, 1, 1.5, 2", float(errors.max())),
        Check(part, "rank of M at τ = 2", float(np.sum(rank > 1e-3 * rank.sum()))),
        Check(part, "steps", float(flow.num_steps + flow.num_rejected)),
    ]


def _against_gd(widths: tuple[int, int], at_least: float = -math.inf) -> list[Check]:
    part = f"flow against GD at ηλ = {RATE:g}, {_name(widths)}, rtol 1e-2"
    problem, theta0 = _problem(widths)
    flow = _integrate(problem, theta0, 1e-2)[1]
    decay = RATE / LEARNING_RATE
    start = sf.theory.start_at_edge(problem, theta0, LEARNING_RATE, decay)
    rule = sf.gdwd(LEARNING_RATE, decay)

    def descend() -> float:
        began = time.perf_counter()
        sf.simulate(problem, start, rule, GD_STEPS, record_every=GD_STEPS // 16, progress=False)
        return (time.perf_counter() - began) / GD_STEPS

    descend()  # compiles, as the first flow did
    turns = [(descend(), _integrate(problem, theta0, 1e-2)[0]) for _ in range(REPETITIONS)]
    ratios = [2.0 / RATE * step / seconds for step, seconds in turns]
    per_step, seconds = (min(column) for column in zip(*turns, strict=True))
    return [
        Check(part, "error at τ = 2 / distance moved",
              float(_errors(flow, problem, theta0)[-1]), high=1e-2),
        Check(part, "seconds of the flow, best", seconds),
        Check(part, "time of GD to τ = 2 / time of the flow, best of each",
              2.0 / RATE * per_step / seconds,
              low=at_least, note="in turns " + ", ".join(f"{ratio:.1f}" for ratio in ratios)),
    ]  # fmt: skip


def _name(widths: tuple[int, int]) -> str:
    return f"64-{widths[0]}-{widths[1]}-10, 24 digits"


def _problem(widths: tuple[int, int]) -> tuple[sf.Problem, dict]:
    problem = sf.models.mlp(*sf.models.digits(24), widths=widths)
    return problem, trained_to_manifold(problem)


def _integrate(problem: sf.Problem, theta0: dict, rtol: float) -> tuple[float, sf.FlowSolution]:
    began = time.perf_counter()
    flow = sf.sharpness_flow(problem, theta0, TAU, max_edge=12, rtol=rtol)
    jax.block_until_ready(flow.theta)
    return time.perf_counter() - began, flow


def _errors(flow: sf.FlowSolution, problem: sf.Problem, theta0: dict) -> np.ndarray:
    """Distance from a finer flow over the distance moved, at the times after the first."""
    fine = parameter_rows(_integrate(problem, theta0, 2e-5)[1].theta)
    distance = np.linalg.norm(fine - fine[0], axis=1)
    return np.linalg.norm(parameter_rows(flow.theta) - fine, axis=1)[1:] / distance[1:]
