"""The predictions of the points of a grid as one dataset, and as a file beside the run."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.simulator.comparison_quantities import COMPARISON_NUMBERS
from sharpflow.simulator.grid.point_prediction import PointPrediction, PredictionOptions
from sharpflow.simulator.grid.prediction_quantities import NONE, NUMBERS, OUTPUT, PREDICTION
from sharpflow.simulator.quantities import described
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.predictions import (
    predictions_path,
    read_predictions,
    write_predictions,
)

if TYPE_CHECKING:
    import xarray


def predictions_dataset(
    made: Mapping[int, PointPrediction], grid: "xarray.Dataset"
) -> "xarray.Dataset":
    """The predictions of points as arrays over the axes of their grid.

    Args:
      made: by the number of the point.
      grid: its dataset.
    """
    import xarray

    axes = [str(name) for name in grid["status"].dims]
    shape = grid["status"].shape
    count = int(np.prod(shape))
    length = max((len(one.columns["prediction_tau"]) for one in made.values() if one.columns),
                 default=0)  # fmt: skip
    names = sorted({name for one in made.values() for name in one.columns})
    columns = {name: np.full((count, length), np.nan) for name in names}
    numbers = {name: np.full(count, np.nan) for name in NUMBERS}
    kinds = np.full(count, NONE, dtype=object)
    reasons = np.full(count, "", dtype=object)
    status, steps = np.full(count, -1, np.int64), np.zeros(count, np.int64)
    quantities: dict[str, Mapping[str, Any]] = {}
    for point, one in made.items():
        kinds[point], reasons[point] = one.kind, one.reason
        status[point], steps[point] = one.status, one.steps
        for name, values in one.columns.items():
            columns[name][point, : len(values)] = values
        for name, value in one.numbers.items():
            numbers[name][point] = value
        quantities = {**one.quantities, **quantities}
    over = {
        "prediction_kind": kinds.astype(str),
        "prediction_reason": reasons.astype(str),
        "prediction_status": status,
        "prediction_steps": steps,
    } | numbers
    variables: dict[str, Any] = {
        name: (axes, values.reshape(shape)) for name, values in over.items()
    }
    variables |= {
        name: ((*axes, OUTPUT), values.reshape(*shape, length)) for name, values in columns.items()
    }
    dataset = xarray.Dataset(variables, {name: grid[name] for name in axes})
    for name, attributes in quantities.items():
        dataset[name].attrs = dict(attributes)
    own = {name: PREDICTION[name] for name in PREDICTION if name in dataset.variables}
    return described(dataset, own | {name: COMPARISON_NUMBERS[name] for name in NUMBERS})


class KeptPredictions:
    """The predictions in the folder of a run.

    Args:
      run: the folder.
      grid: its dataset.
      asked: the options that are asked for.

    Attributes:
      known: the points that are predicted there as far as the run goes now.
    """

    def __init__(self, run: RunFolder, grid: "xarray.Dataset", asked: PredictionOptions) -> None:
        self._run, self._asked = run, json.dumps(asked, sort_keys=True)
        self.known: dict[int, PointPrediction] = {}
        stored = read_predictions(run)
        if stored is None:
            return
        before = str(stored.attrs.get("options", "{}"))
        if before != self._asked:
            raise ValueError(
                f"the options differ from those of the predictions in {run.path}: those have "
                f"{before}, asked for is {self._asked}; give the same, or remove "
                f"{predictions_path(run).name} there"
            )
        self.known = _points(stored, grid)

    def write(self, dataset: "xarray.Dataset") -> None:
        """Replace the file by all that is known now."""
        write_predictions(self._run, dataset.assign_attrs(options=self._asked))


def _points(stored: "xarray.Dataset", grid: "xarray.Dataset") -> dict[int, PointPrediction]:
    """The points of a file that are predicted as far as the run goes now.

    Raises:
      ValueError: the file is of another grid.
    """
    axes = grid["status"].dims
    if stored["prediction_steps"].shape != grid["status"].shape:
        raise ValueError(
            f"the predictions are of a grid of {stored['prediction_steps'].shape} points, the run "
            f"has {grid['status'].shape}: remove them"
        )
    final = grid["final_step"].values.reshape(-1)
    flat = {
        str(name): values.values.reshape(len(final), *values.shape[len(axes) :])
        for name, values in stored.data_vars.items()
    }
    lengths = np.isfinite(flat.get("prediction_tau", np.full((len(final), 0), np.nan))).sum(axis=1)
    columns = [str(name) for name in stored.data_vars if OUTPUT in stored[name].dims]
    # 0 where a point was not predicted, or could not: then it is tried again, which is quick
    done = np.flatnonzero((flat["prediction_steps"] > 0) & (flat["prediction_steps"] == final))
    return {
        int(point): PointPrediction(
            kind=str(flat["prediction_kind"][point]),
            status=int(flat["prediction_status"][point]),
            reason=str(flat["prediction_reason"][point]),
            steps=int(flat["prediction_steps"][point]),
            columns={name: flat[name][point, : lengths[point]] for name in columns}
            if lengths[point]
            else {},
            numbers={name: float(flat[name][point]) for name in NUMBERS if name in flat},
            quantities={
                name: dict(stored[name].attrs) for name in columns if name not in PREDICTION
            },
        )
        for point in done
    }
