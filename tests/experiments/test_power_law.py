"""The power-law fit against data made to be one."""

import numpy as np
import pytest

from sharpflow.experiments.power_law import fit_power_law


def test_an_exact_power_law_is_recovered():
    x = np.geomspace(1e-5, 1e-2, 7)
    fit = fit_power_law(x, 3.0 * x**0.5)
    np.testing.assert_allclose(fit.exponent, 0.5, rtol=1e-12)
    np.testing.assert_allclose(fit.prefactor, 3.0, rtol=1e-11)
    np.testing.assert_allclose(fit.interval, (0.5, 0.5), atol=1e-10)


def test_the_interval_covers_the_exponent_as_often_as_it_says():
    random, x, covered = np.random.default_rng(0), np.geomspace(1e-4, 1e-2, 6), 0
    for _ in range(1000):
        low, high = fit_power_law(x, x**0.7 * np.exp(0.2 * random.normal(size=6))).interval
        covered += low <= 0.7 <= high
    # binomial with p = 0.95: four standard deviations are 0.028
    assert 0.95 - 0.028 <= covered / 1000 <= 0.95 + 0.028


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [([1, 1, 2], [1, 2, 3], "three different"), ([1, 2, -3], [1, 2, 3], "positive")],
)
def test_data_without_a_power_law_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(np.array(x), np.array(y))
