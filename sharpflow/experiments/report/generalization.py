"""What test metrics do after the training data are fitted: the part of a page that comes first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sharpflow.experiments.grid_summary import with_point_axes
from sharpflow.experiments.late_generalization import (
    curves,
    generalization,
    left_out_in_words,
    tells_of_generalization,
)
from sharpflow.experiments.late_predictions import Comparison, late_comparisons
from sharpflow.experiments.report.figures import is_of_generalization
from sharpflow.experiments.report.page import Cell, Figure, Generalization, Table, number, words
from sharpflow.simulator.quantities import quantity_of

if TYPE_CHECKING:
    import xarray

_HEADS = (
    "network",
    "quantity",
    "at the fit",
    "at the end",
    "change",
    "95 % interval from",
    "to",
    "excludes 0",
    "seeds",
)
_PREDICTED_HEADS = (
    "network",
    "quantity",
    "measured at the end",
    "band from",
    "to",
    "predicted",
    "records inside",
    "leaves at τ",
    "until τ",
    "seeds",
)
_READING = (
    "The fit is the first record with training accuracy 1, and the end is the mean over the last "
    "tenth of the records. Numbers are means over seeds, and the interval is Student's for the "
    "mean change. A change counts where the interval excludes 0."
)
_BESIDE = (
    "Beside the prediction: the band is Student's 95 % interval for the mean over seeds of what "
    "was measured, and the prediction is the mean over the same seeds. The records are those from "
    "the fit on. Leaves at τ is the first of them at which the prediction lies outside the band, "
    "with a dash where it stays inside. The numbers at the end are means over the last tenth."
)
_OF_SHARPNESS = (
    "The sharpness is that of the direction of the weights, and says something of networks with "
    "normalization alone."
)


def generalization_part(
    dataset: "xarray.Dataset", figures: Sequence[Figure]
) -> Generalization | None:
    """The changes after the fit, with the figures that show them; None where there are none.

    Args:
      dataset: of the run.
      figures: all that were drawn of it.
    """
    dataset = with_point_axes(dataset)
    if not tells_of_generalization(dataset):
        return None
    changes = generalization(dataset)
    combinations = curves(dataset)
    rows = []
    for curve in combinations:
        for name in changes["quantity"].values:
            # an axis without normalization has no sharpness on the sphere
            if not curve.is_normalized and not str(name).startswith("test_"):
                continue
            change = changes.sel(quantity=name).isel(curve.place)
            label = quantity_of(str(name), dataset[str(name)].attrs).label
            rows.append([words(curve.words, "statement"), words(label), *_numbers(change)])
    beside = [_beside_prediction(each, dataset) for each in late_comparisons(dataset)]
    notes = [_READING, f"Left out of the means: {left_out_in_words(changes)}."]
    if not all(curve.is_normalized for curve in combinations):
        notes.append(_OF_SHARPNESS)
    if beside:
        notes.append(_BESIDE)
    return Generalization(
        [figure for figure in figures if is_of_generalization(figure.name)],
        Table("generalization-table", _HEADS, rows),
        notes,
        Table("late-predictions", _PREDICTED_HEADS, beside) if beside else None,
    )


def _beside_prediction(compared: Comparison, dataset: "xarray.Dataset") -> list[Cell]:
    label = quantity_of(compared.name, dataset[compared.name].attrs).label
    return [
        words(compared.curve.words, "statement"),
        words(label),
        *map(number, (compared.measured, compared.low, compared.high, compared.predicted)),
        number(compared.inside),
        number(compared.leaves_at),
        number(compared.ends_at),
        number(compared.num_seeds),
    ]


def _numbers(change: "xarray.Dataset") -> list[Cell]:
    names = ("mean_at_fit", "mean_at_end", "mean_change", "change_low", "change_high")
    if int(change["num_seeds"]) < 2:
        verdict = words("–")
    elif bool(change["excludes_zero"]):
        verdict = Cell("yes", "yes", "holds")
    else:
        verdict = words("no")
    return [
        *(number(float(change[name])) for name in names),
        verdict,
        number(int(change["num_seeds"])),
    ]
