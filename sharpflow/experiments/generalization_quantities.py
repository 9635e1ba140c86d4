"""What the arrays are that tell of test metrics after the fit."""

from sharpflow.simulator.quantity import Quantity, by_name

# The unit of numbers that are of several columns, each with a unit of its own.
_OF_QUANTITY = "that of the quantity"

GENERALIZATION = by_name(
    Quantity(
        "quantity",
        "quantity",
        "The name of the column that the numbers are of: each metric whose name begins with test_, "
        "the threshold, and the sharpness nearest to theory.",
        unit="1",
    ),
    Quantity(
        "fit_step",
        "step of the fit",
        "The first recorded step at which the training accuracy is at the level, which is 1 by "
        "default; NaN where it never is.",
        unit="step",
        scale="linear",
    ),
    Quantity(
        "exclusion",
        "why left out",
        "Why a trajectory is left out of all means over seeds: diverged, not finished, never "
        "fitted, or fitted too late, in the last tenth of its records; empty where it counts.",
        unit="1",
    ),
    Quantity(
        "at_fit",
        "value at the fit",
        "The value at the step of the fit, or at the first record after it that has one.",
        unit=_OF_QUANTITY,
        dims=("quantity",),
    ),
    Quantity(
        "at_end",
        "value at the end",
        "The mean over the last tenth of the records that have a value.",
        unit=_OF_QUANTITY,
        dims=("quantity",),
    ),
    Quantity(
        "change",
        "change from the fit to the end",
        "The value at the end minus the value at the fit.",
        unit=_OF_QUANTITY,
        dims=("quantity",),
        reference=0.0,
    ),
    Quantity(
        "mean_at_fit",
        "mean value at the fit",
        "The mean of at_fit over the seeds that count.",
        unit=_OF_QUANTITY,
        dims=("quantity",),
    ),
    Quantity(
        "mean_at_end",
        "mean value at the end",
        "The mean of at_end over the seeds that count.",
        unit=_OF_QUANTITY,
        dims=("quantity",),
    ),
    Quantity(
        "mean_change",
        "mean change from the fit to the end",
        "The mean of the change over the seeds that count.",
        unit=_OF_QUANTITY,
        dims=("quantity",),
        reference=0.0,
    ),
    Quantity(
        "change_low",
        "lower end of the interval",
        "The lower end of Student's 95 % interval for the mean change over seeds.",
        unit=_OF_QUANTITY,
        dims=("quantity",),
        reference=0.0,
    ),
    Quantity(
        "change_high",
        "upper end of the interval",
        "The upper end of Student's 95 % interval for the mean change over seeds.",
        unit=_OF_QUANTITY,
        dims=("quantity",),
        reference=0.0,
    ),
    Quantity(
        "num_seeds",
        "seeds that count",
        "The number of seeds that the means are over: trajectories that ended well, fitted the "
        "training data before the last tenth of their records, and have the quantity at both ends.",
        unit="1",
        dims=("quantity",),
        scale="linear",
    ),
    Quantity(
        "excludes_zero",
        "whether the interval excludes 0",
        "Whether 0 lies outside the 95 % interval of the mean change; False where there is no "
        "interval, as of a single seed.",
        unit="1",
        dims=("quantity",),
    ),
)
