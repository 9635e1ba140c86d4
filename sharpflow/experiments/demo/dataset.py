"""The numbers of the demo as one labelled dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray

from sharpflow.experiments.demo.circle import CircleResult
from sharpflow.experiments.demo.completion import CompletionResult
from sharpflow.experiments.demo.digits import DigitsResult
from sharpflow.experiments.demo.linear import LinearResult
from sharpflow.simulator.quantities import RESULT, described, renamed
from sharpflow.simulator.quantity import Quantity, by_name

_ANGLE = "between the direction and the minimum-norm solution, in radians"
# What the demo has beside the columns of trajectories and comparisons, without the name of a part.
DEMO = by_name(
    RESULT["tau"],
    RESULT["step"],
    RESULT["intrinsic_rate"],
    Quantity(
        "exact_angle",
        "exact angle α",
        f"The angle α {_ANGLE}, by the closed form tan α(τ) = tan α(0) exp(−τ).",
        unit="rad",
        dims=("tau",),
        symbol="α",
        scale="linear",
    ),
    Quantity(
        "flow_angle",
        "angle α of the flow",
        f"The angle α {_ANGLE}, along the integrated flow.",
        unit="rad",
        dims=("tau",),
        reference="exact_angle",
        scale="linear",
    ),
    Quantity(
        "gd_angle",
        "angle α of GD+WD",
        f"The angle α {_ANGLE}, along gradient descent with weight decay.",
        unit="rad",
        dims=("tau",),
        reference="exact_angle",
        scale="linear",
    ),
    Quantity(
        "predicted_test_error",
        "predicted test error",
        "The test error along the flow, at ζ(τ).",
        unit="1",
        dims=("tau",),
        scale="log",
    ),
    Quantity(
        "error",
        "tracking error / distance moved",
        "The root mean square over the outputs with τ ≥ ½ of the tracking error over the distance "
        "moved.",
        unit="1",
        dims=("intrinsic_rate",),
        scale="log",
    ),
    Quantity(
        "single_edge_error",
        "distance to GD / distance moved, single edge",
        "The distance between the flow of a single edge eigenvalue and gradient descent at the "
        "smallest ηλ, over the distance moved.",
        unit="1",
        dims=("tau",),
        reference="relative_error",
        scale="linear",
    ),
    Quantity(
        "edge_covariance",
        "covariance M at the edge",
        "The matrix M of the flow, the covariance of the oscillation in the edge space over ηλ.",
        unit="1",
        dims=("tau", "eigenvalue", "other_eigenvalue"),
    ),
    Quantity(
        "trajectory",
        "directions θₜ",
        "The direction wₜ/‖wₜ‖ of gradient descent with weight decay at every step, a point of the "
        "unit sphere.",
        unit="1",
        dims=("step", "axis"),
    ),
    Quantity(
        "flow",
        "flow ζ(τ)",
        "The predicted flow, a point of the unit sphere at each flow time.",
        unit="1",
        dims=("tau", "axis"),
    ),
    Quantity(
        "manifold",
        "minimizers Γ",
        "Points of the minimizer manifold Γ, the half great circle of solutions.",
        unit="1",
        dims=("point", "axis"),
    ),
)


def write_numbers(
    linear: LinearResult,
    completion: CompletionResult,
    digits: DigitsResult,
    circle: CircleResult,
    made: dict[str, Any],
    path: Path,
) -> Path:
    """Write what the demo measured to a netCDF file, and return its path.

    Variables and dimensions carry the name of their part: ``linear_*`` over
    ``linear_tau``, ``completion_*`` over ``completion_tau`` and ``completion_step``,
    ``digits_*`` over ``digits_tau`` and ``digits_intrinsic_rate``, ``circle_*`` over
    ``circle_step``, ``circle_tau`` and ``circle_point``, with the entries in ``circle_axis``.
    """
    rates = xarray.DataArray(digits.intrinsic_rates, dims="intrinsic_rate", name="intrinsic_rate")
    ladder = xarray.concat(
        [comparison.drop_vars("step") for comparison in digits.comparisons], dim=rates
    )
    ladder["error"] = ("intrinsic_rate", digits.errors)
    ladder["single_edge_error"] = ("tau", digits.single_edge_error)
    ladder["edge_covariance"] = (
        ("tau", "eigenvalue", "other_eigenvalue"),
        np.asarray(digits.flow.edge_covariance),
    )
    compared = completion.comparison.drop_vars("step")
    compared["predicted_test_error"] = ("tau", completion.predicted_error)
    parts = {
        "linear": xarray.Dataset(
            {
                "exact_angle": ("tau", linear.exact_angle),
                "flow_angle": ("tau", linear.flow_angle),
                "gd_angle": ("tau", linear.gd_angle),
            },
            {"tau": linear.tau},
        ),
        "completion": compared,
        "completion_run": _columns(completion.trajectory.to_dataset()),
        "completion_without_decay": _columns(completion.without_decay.to_dataset()),
        "digits": ladder,
        "circle": xarray.Dataset(
            {
                "trajectory": (("step", "axis"), circle.trajectory),
                "flow": (("tau", "axis"), circle.flow),
                "manifold": (("point", "axis"), circle.manifold),
            },
            {"step": np.arange(len(circle.trajectory)), "tau": circle.tau},
        ),
    }
    merged = xarray.merge(
        [
            renamed(
                described(part, DEMO),
                {str(key): f"{name}_{key}" for key in (*part.dims, *part.data_vars)},
            )
            for name, part in parts.items()
        ],
        combine_attrs="override",
    )
    merged.attrs = made
    # By name, because xarray would take whichever library it finds first, and files would differ.
    merged.to_netcdf(path, engine="h5netcdf")
    return path


def _columns(run: xarray.Dataset) -> xarray.Dataset:
    """The recorded columns over steps, without the snapshots of the params."""
    kept = run.drop_dims("snapshot")
    return kept.drop_vars("tau", errors="ignore")
