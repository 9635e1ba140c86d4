"""The part on Fisher information: what it makes of eigenvalues that are known power laws."""

import numpy as np
import pytest
from described import undescribed

from sharpflow.experiments.plots.fisher import fisher_panels
from sharpflow.experiments.validate import fisher
from sharpflow.simulator.quantities import described


def _numbers(exponents):
    """The part's numbers if λ_max were 20 (M/64)^exponent for every mode and T."""
    equal = [(width, width) for width in fisher.WIDTHS]
    few = [(width, fisher.FEW_SAMPLES) for width in fisher.WIDTHS]
    ratios = [(fisher.RATIO_WIDTH, round(r * fisher.RATIO_WIDTH)) for r in fisher.RATIOS]
    found = {}
    for width, num_samples in {*equal, *few, *ratios}:
        rows = 20.0 * (width / 64.0) ** np.array(exponents)
        values = np.tile(rows[:, None], (1, fisher.NUM_SEEDS))
        found[width, num_samples] = (values, 4.0 * values)
    series = {
        "equal": (equal, fisher.WIDTHS),
        "few": (few, fisher.WIDTHS),
        "ratio": (ratios, fisher.RATIOS),
    }
    numbers = fisher._dataset(found, series)
    numbers["disagreement"] = ("mode", np.full(len(fisher.MODES), 1e-9))
    numbers = described(numbers, fisher.FISHER)
    assert undescribed(numbers) == []
    return numbers


def test_exponents_are_those_of_the_eigenvalues_and_judged_by_them():
    exponents = [1.0, 0.8, 0.5, 0.1, 0.3]
    checks = {check.statement: check for check in fisher._checks(_numbers(exponents))}
    holds = [True, True, False, True, False]  # sharp above 0.7, flat below 0.2
    for mode, exponent, expected in zip(fisher.MODES, exponents, holds, strict=True):
        check = checks[f"exponent in M, T = M: {mode}"]
        np.testing.assert_allclose(check.measured, exponent, rtol=1e-12)
        assert check.holds is expected
    assert checks["Lanczos against dense, M = T = 128"].holds
    upper = checks["λ_max over upper bound, most: mean subtraction, last layer"]
    np.testing.assert_allclose(upper.measured, 0.25, rtol=1e-12)


def test_every_mode_is_drawn_in_every_panel_with_what_is_predicted():
    numbers = _numbers([1.0, 0.8, 0.5, 0.1, 0.3])
    figure = fisher_panels(numbers)
    for ax, name in zip(figure.axes, ("equal", "few", "ratio"), strict=True):
        lines = {line.get_label(): line for line in ax.get_lines()}
        for mode in fisher.MODES:
            expected = numbers[f"largest_{name}"].sel(mode=mode).isel(seed=0)
            np.testing.assert_allclose(lines[mode].get_ydata(), expected, rtol=1e-12)
        predicted = numbers[f"predicted_{name}"].sel(mode="none")
        np.testing.assert_array_equal(lines["predicted"].get_ydata(), predicted)


@pytest.mark.parametrize("mode", fisher.SHARP)
def test_predictions_of_the_sharp_modes_grow_with_the_width(mode):
    predicted = _numbers([1.0] * 5)["predicted_equal"].sel(mode=mode).values
    np.testing.assert_allclose(predicted[-1] / predicted[-2], 2.0, rtol=0.01)
