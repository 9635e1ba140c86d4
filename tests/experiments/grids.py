"""Datasets as simulate_grid makes them, for the tests of what is made of them."""

import numpy as np
import xarray

from sharpflow.simulator.comparison_quantities import COMPARISON, COMPARISON_NUMBERS
from sharpflow.theory.status import Status

POINT = ("seed", "learning_rate", "weight_decay")
PENDING, SUCCESS, DIVERGED = -1, int(Status.SUCCESS), int(Status.DIVERGED)


def grid(shape=(3, 4, 2), rows=30, *, rates=None, decays=None, axes=None, seed=0):
    """A dataset as simulate_grid makes it, filled with noise; ``shape`` without further axes."""
    rng = np.random.default_rng(seed)
    axes = axes or {}
    rates = np.geomspace(0.01, 1.0, shape[1]) if rates is None else np.array(rates)
    decays = np.geomspace(1e-4, 1e-2, shape[2]) if decays is None else np.array(decays)
    sizes = (shape[0], len(rates), len(decays), *map(len, axes.values()))
    dims = (*POINT, *axes)
    noise = rng.lognormal(size=(4, *sizes, rows))
    ratio = rng.uniform(0.0, 1.6, size=(*sizes, rows))
    sharpness = np.stack([noise[2], 0.5 * noise[2]], axis=-1)
    intrinsic = np.multiply.outer(rates, decays).reshape(*sizes[1:3], *(1 for _ in axes))
    step = 10 * np.arange(rows)
    time = (*dims, "step")
    variables = {
        "loss": (time, noise[0]),
        "loss_mean": (time, noise[1]),
        "threshold": (time, 2.0 * noise[3]),
        "sharpness_iterate": ((*time, "sharpness_iterate_0"), sharpness),
        "edge_ratio_iterate": (time, ratio),
        "test_accuracy": (time, rng.uniform(0.5, 1.0, size=(*sizes, rows))),
        "status": (dims, np.full(sizes, SUCCESS, np.int8)),
        "num_steps": (dims, np.full(sizes, 10 * rows)),
    }
    tau = np.broadcast_to(intrinsic, sizes[1:])[..., None] * step
    coords = {
        "seed": np.arange(shape[0]),
        "learning_rate": rates,
        "weight_decay": decays,
        "step": step,
        "tau": ((*dims[1:], "step"), tau),
        **axes,
    }
    return xarray.Dataset(variables, coords)


def ended(dataset, status, *, at=0, **where):
    """The dataset in which the points at these places ended at a row, NaN from there on."""
    dataset = dataset.copy(deep=True)
    dataset["status"][where] = status
    for name, values in dataset.data_vars.items():
        if "step" in values.dims:
            dataset[name][where | {"step": slice(at, None)}] = np.nan
    return dataset


def predictions(dataset, outputs=4, *, seed=0):
    """Predictions of all points as predict_grid makes them, filled with noise; each is of the
    steps from the second record on, those of later seeds from one record later each.
    """
    rng = np.random.default_rng(seed)
    dims, sizes = dataset["status"].dims, dataset["status"].shape
    along = (*dims, "output")
    every = np.diff(dataset["step"].values[:2])[0]
    steps = np.linspace(1.0, dataset.sizes["step"] - 1.0, outputs)
    later = np.arange(sizes[0]).reshape(-1, *(1 for _ in sizes))
    step = every * (np.broadcast_to(steps, (*sizes, outputs)) + later)
    made = xarray.Dataset(
        {
            "prediction_kind": (dims, np.full(sizes, "sharpness_flow")),
            "prediction_status": (dims, np.zeros(sizes, np.int64)),
            "prediction_reason": (dims, np.full(sizes, "", "U80")),
            "prediction_steps": (dims, dataset["num_steps"].values),
            "prediction_tau": (along, 1e-3 * step),
            "prediction_step": (along, step),
            "threshold_ratio": (along, rng.uniform(0.7, 1.2, size=step.shape)),
            "predicted_threshold": (along, rng.lognormal(size=step.shape)),
            "predicted_loss": (along, rng.lognormal(size=step.shape)),
            "predicted_test_accuracy": (along, rng.uniform(0.5, 1.0, size=step.shape)),
            "final_relative_error": (dims, rng.uniform(0.01, 0.1, size=sizes)),
        },
        {name: dataset[name] for name in dims},
    )
    for name in made:
        known = COMPARISON.get(name) or COMPARISON_NUMBERS.get(name)
        made[name].attrs = {} if known is None else known.attributes
    return made


def predicted(shape=(3, 4, 2), **given):
    """A grid with predictions."""
    dataset = grid(shape, **given)
    return dataset.merge(predictions(dataset))
