"""The angle of a step, layer by layer: while the flow drifts, and where it rests."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

import sharpflow as sf
from sharpflow.experiments.checks import Check
from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.layers import layer_angles
from sharpflow.experiments.validate.cases import Case, matrix_completion, mlp_digits
from sharpflow.experiments.validate.findings import Findings
from sharpflow.experiments.validate.ladder import MOST_SNAPSHOTS, RATES, simulate_from_edge
from sharpflow.simulator.layers import LAYERS
from sharpflow.simulator.quantities import RESULT, described

if TYPE_CHECKING:
    import xarray

TITLE = "the angle of a step, layer by layer"

SEED = 0
# At rest, τ = 8: there tr M is ½ to a thousandth. At half of it it is 0.497.
TAU_AT_REST = 8.0
# Of relative order √(ηλ), as all else at the edge: 0.045 at the largest rate.
_LARGE, _SMALL = 0.05, 0.01
_SMALL_RATE = 1e-4


def run(progress: bool | None = None) -> Findings:
    """Measure the angle of a step of each layer over the predicted one, at five ηλ."""
    import xarray
    from matplotlib import pyplot

    checks, drifting = _drifting(mlp_digits(), progress)
    with drawing.in_force():
        figure, ax = pyplot.subplots(figsize=drawing.COLUMN, layout="constrained")
        layer_angles(drifting[RATES[2]], ax, window=MOST_SNAPSHOTS // 50)
    checks += _at_rest(matrix_completion(), progress)
    rates = xarray.Variable("intrinsic_rate", list(drifting))
    names = ["step_angle", "predicted_step_angle", "norm", "predicted_norm"]
    # by records, which are at other steps for each rate
    runs = [one[names].drop_vars("step").rename(step="record") for one in drifting.values()]
    joined = xarray.concat(runs, rates)
    joined.attrs = {}  # of one run among several
    return Findings(checks, {"layers": figure}, described(joined, LAYERS | RESULT))


def _drifting(
    case: Case, progress: bool | None
) -> tuple[list[Check], "dict[float, xarray.Dataset]"]:
    """A network along its flow, over the second half of the flow time, where tr M is small."""
    case = _one_seed(case)
    flow = case.flows()[SEED]
    grid = simulate_from_edge(case, RATES, float(case.tau[-1]), progress)
    checks, measured = [], {}
    for rate in RATES:
        trajectory = sf.simulator.grid_point(
            grid, case.problem, seed=SEED, weight_decay=rate / case.learning_rate
        )
        layers = sf.simulator.measure_layers(trajectory, case.problem, flow, k=0)
        measured[rate] = layers
        late = layers.where(layers["tau"] >= 0.5 * case.tau[-1], drop=True).isel(step=slice(-1))
        ratio = _root_mean_square(late["step_angle"]) / _root_mean_square(
            late["predicted_step_angle"]
        )
        bound = _SMALL if rate <= _SMALL_RATE else _LARGE
        part = f"{case.name}, drifting, ηλ = {rate:g}"
        said = "angle of a step, measured/predicted"
        worst = int(np.argmax(np.abs(ratio - 1.0)))
        name = str(layers["layer"].values[worst])
        whole = float(late["step_angle"].mean()) / layers.attrs["equilibrium_angle"]
        checks += [
            Check(
                part,
                f"{said}, layer that is farthest from 1",
                float(ratio[worst]),
                1.0 - bound,
                1.0 + bound,
                name,
            ),
            Check(part, "mean angle of a step over √(2ηλ)", whole),
        ]
    return checks, measured


def _at_rest(case: Case, progress: bool | None) -> list[Check]:
    """Matrix completion where its drift has ended: every layer turns by √(2ηλ)."""
    rate = RATES[1]
    case = _one_seed(case)
    grid = simulate_from_edge(case, (rate,), TAU_AT_REST, progress)
    trajectory = sf.simulator.grid_point(grid, case.problem, seed=SEED)
    layers = sf.simulator.measure_layers(trajectory, case.problem, k=0)
    late = layers.where(layers["tau"] >= TAU_AT_REST - 1.0, drop=True).isel(step=slice(-1))
    ratio = _root_mean_square(late["step_angle"]) / layers.attrs["equilibrium_angle"]
    part = f"{case.name}, at rest, ηλ = {rate:g}"
    return [
        Check(part, f"angle of a step of {name} over √(2ηλ)", float(value), 0.98, 1.02)
        for name, value in zip(layers["layer"].values, ratio, strict=True)
    ]


def _one_seed(case: Case) -> Case:
    return dataclasses.replace(case, starts={SEED: case.starts[SEED]})


def _root_mean_square(angles: "xarray.DataArray") -> np.ndarray:
    return np.sqrt(np.mean(np.square(angles.values), axis=0))
