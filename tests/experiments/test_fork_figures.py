"""Figures of a fork, whose steps and flow time are in another ratio than those of its rule."""

import jax
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.experiments.plots.record import record_of


@pytest.fixture(scope="module")
def fork():
    problem = sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)
    kept = {"snapshot_every": 1, "observables": ["loss", "threshold"]}
    run = sf.simulate(problem, problem.init(jax.random.key(0)), sf.gdwd(1.0, 0.01), 20, **kept)
    return sf.simulate(problem, run.snapshot(10), sf.gdwd(0.5, 0.01), 20, **kept)


def test_flow_times_lie_at_the_steps_that_have_them(fork):
    np.testing.assert_allclose(record_of("trajectory", fork, "step").on_clock(fork.tau), fork.step)


def test_the_predicted_entry_is_marked_at_its_flow_time(fork):
    compared = fork.to_dataset()[["threshold"]].swap_dims(step="tau")
    compared = compared.assign(sharpness=compared.threshold)
    compared.attrs |= {"predicted_entry_step": 14.0, "intrinsic_rate": fork.intrinsic_rate}
    axes = sf.plots.panel(fork, comparison=compared)
    places = [line.get_xdata()[0] for ax in axes for line in ax.lines if len(line.get_xdata()) == 2]
    assert places and set(np.round(places, 12)) == {float(np.round(fork.tau_at(14), 12))}
    assert fork.tau_at(14) != pytest.approx(14 * fork.intrinsic_rate)
