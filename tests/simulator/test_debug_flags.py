"""jax's flags that look for NaN and infinite values change no number and end nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf

FLAGS = {"nans": jax.debug_nans, "infs": jax.debug_infs}


@pytest.fixture(scope="module")
def problem():
    return sf.models.matrix_completion(shape=(4, 4), rank=1)


def _quartic(w):
    return jnp.sum(w**4)


def _run(problem, params):
    """NaN at every second record of the sharpness, an intrinsic rate that is none, a prediction."""
    run = sf.simulate(
        problem, params, sf.gdwd(0.5, 1e-2), 1200, record_every=20, snapshot_every=4,
        observables=["loss", "threshold", "loss_rises", sf.sharpness(every=2)],
    )  # fmt: skip
    flow = sf.predict(problem, run, max_edge=1, throw=False)  # NaN after tau = 1.2
    compared = sf.compare(run, flow, problem)
    _, status = sf.theory.retract_with_status(problem, params)
    return {
        **run.columns,
        "flow": flow.eigenvalues,
        "slope": flow.descent_squared,
        "error": compared.attrs["final_relative_error"],
        "retracted": status,
        "sam": sf.simulate(problem, params, sf.simulator.sam(0.1), 3, observables=["loss"])["loss"],
    }


def _lost():
    """One that diverges alone, and beside another in a grid, whose rows end in NaN."""
    problem = sf.Problem(init=lambda key: jnp.ones(2), loss=_quartic, scale_invariant=False)
    run = sf.simulate(problem, jnp.array([3.0, 2.0]), optax.sgd(1.0), 50, observables=["loss"])
    grid = sf.simulate_grid(
        problem, seeds=0, learning_rates=[0.01, 3.0], weight_decays=0.1, num_steps=20,
        record_every=5, observables=["loss"], group_width=2,
    )  # fmt: skip
    return {"alone": run["loss"], "step": run.final_step, "grid": grid.loss.values,
            "status": grid.status.values}  # fmt: skip


@pytest.fixture(scope="module")
def expected(problem):
    return _run(problem, problem.init(jax.random.key(0))) | _lost()


@pytest.mark.parametrize("flag", FLAGS)
def test_the_numbers_are_those_without_the_flag(problem, expected, flag):
    assert np.isnan(expected["sharpness_iterate"]).any() and np.isnan(expected["grid"]).any()
    params = problem.init(jax.random.key(0))
    with FLAGS[flag](True):
        found = _run(problem, params) | _lost()
        with pytest.raises(FloatingPointError):  # elsewhere the flag goes on to work
            (jnp.zeros(2) if flag == "nans" else jnp.ones(2)) / 0.0
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
