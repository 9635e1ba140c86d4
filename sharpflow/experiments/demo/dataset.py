"""The numbers of the demo as one labelled dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray

from sharpflow.experiments.demo.circle import CircleResult
from sharpflow.experiments.demo.completion import CompletionResult
from sharpflow.experiments.demo.digits import DigitsResult
from sharpflow.experiments.demo.linear import LinearResult


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
    ).drop_attrs()
    ladder["error"] = ("intrinsic_rate", digits.errors)
    ladder["single_edge_error"] = ("tau", digits.single_edge_error)
    ladder["edge_covariance"] = (
        ("tau", "eigenvalue", "other_eigenvalue"),
        np.asarray(digits.flow.edge_covariance),
    )
    compared = completion.comparison.drop_vars("step").drop_attrs()
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
            part.rename({key: f"{name}_{key}" for key in (*part.dims, *part.data_vars)})
            for name, part in parts.items()
        ]
    )
    merged.attrs = made
    merged.to_netcdf(path, engine="h5netcdf")
    return path


def _columns(run: xarray.Dataset) -> xarray.Dataset:
    """The recorded columns over steps, without the snapshots of the params."""
    kept = run.drop_dims("snapshot").drop_attrs()
    return kept.drop_vars("tau", errors="ignore")
