"""The flow with a schedule of the learning rate, against its closed form on linear regression.

There tan α falls with u(τ) = τ + ½ log(η(τ)/η(0)) while u rises, and rests until u is back where
it was: tan α(τ) = tan α(0) exp(−max u) (docs/theory.md, section 6).
"""

import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf

START = 1.2
TAU = np.linspace(0.0, 2.0, 21)
FINE = np.linspace(0.0, 2.0, 2001)
JUMPS = (0.5, 1.2)


def _down(factor):
    """The rate times a factor at two of the output times."""
    times = np.repeat(JUMPS, 2)
    return np.array([0.0, *times, 2.0]), np.log(factor) * np.array([0.0, 0, 1, 1, 2, 2])


SCHEDULES = {
    "growing": (FINE, FINE),
    "shrinking": (FINE, -FINE),
    "shrinking faster than the threshold": (FINE, -2.5 * FINE),
    "half a cosine": (FINE, np.log(0.55 + 0.45 * np.cos(0.5 * np.pi * FINE))),
    "halved twice": _down(0.5),
    "to a tenth, twice": _down(0.1),
    "a line up, of few knots": (np.array([0.3, 0.9]), np.array([0.0, 1.5])),
}


def _flow(regression, log_rate, tau=TAU, **options) -> sf.FlowSolution:
    options = {"max_edge": 1, "rtol": 2e-4} | options
    return sf.sharpness_flow(
        regression.problem, regression.at(START), tau, log_rate=log_rate, **options
    )


def _angles(regression, flow: sf.FlowSolution) -> np.ndarray:
    return np.arcsin(np.linalg.norm(np.asarray(flow.theta) @ regression.null.T, axis=1))


def _at(log_rate, tau) -> np.ndarray:
    """log η, after a jump at its time."""
    times, values = map(np.asarray, log_rate)
    later = np.maximum.accumulate(times + 1e-12 * np.arange(len(times)))
    return np.interp(tau + 1e-9, later, values)


def _clock(log_rate, tau, b=2.0) -> np.ndarray:
    """max u up to each time."""
    fine = np.union1d(np.linspace(tau[0], tau[-1], 20_001), tau)
    highest = np.maximum.accumulate(fine - tau[0] + _at(log_rate, fine) / b)
    # a jump down ends what u had risen to just before it
    return highest[np.searchsorted(fine, tau)]


@pytest.mark.parametrize("log_rate", SCHEDULES.values(), ids=SCHEDULES)
def test_angle_and_threshold_follow_their_closed_forms(regression, log_rate) -> None:
    """λ*(τ) = λ_1 exp(2 (max u − u)): at rest it falls at the rate 2 + h, and a jump lifts it."""
    flow = _flow(regression, log_rate)
    highest = _clock(log_rate, TAU)
    expected = np.arctan(np.tan(START) * np.exp(-highest))
    np.testing.assert_allclose(_angles(regression, flow), expected, rtol=0, atol=2e-4)
    lead = highest - TAU - 0.5 * (_at(log_rate, TAU) - _at(log_rate, np.zeros(1)))
    threshold = np.asarray(flow.eigenvalues[:, 0]) * np.exp(2.0 * np.maximum(lead, 0.0))
    np.testing.assert_allclose(flow.threshold, threshold, rtol=1e-3)


@pytest.mark.parametrize("factor", [0.5, 0.1])
def test_the_drift_pauses_for_half_the_logarithm_of_a_jump(regression, factor) -> None:
    pause = -0.5 * np.log(factor)
    edges = 0.5 + np.array([-0.1, 0.0, 0.02, pause - 0.02, pause + 0.1])
    tau = np.array([0.0, *edges])
    flow = _flow(regression, ([0.0, 0.5, 0.5], [0.0, 0.0, np.log(factor)]), tau)
    angles = _angles(regression, flow)
    assert angles[1] - angles[2] > 1e-2  # 0.1 of flow time before the jump
    np.testing.assert_allclose(angles[2:5], angles[2], rtol=0, atol=1e-6)
    assert angles[4] - angles[5] > 1e-2
    trace = np.asarray(flow.edge_trace)
    assert trace[1] > 0.1 and trace[5] > 0.1 and abs(trace[3]) < 1e-6


def test_a_constant_rate_leaves_the_flow_as_it_is(regression) -> None:
    """But for rounding: a program with a schedule is another one."""
    plain = _flow(regression, None)
    constant = _flow(regression, ([0.0, 1.0], [0.3, 0.3]))
    np.testing.assert_allclose(constant.theta, plain.theta, rtol=0, atol=1e-10)
    np.testing.assert_allclose(constant.threshold, plain.threshold, rtol=1e-10)
    assert int(constant.num_steps) == int(plain.num_steps)


@pytest.mark.parametrize(("b", "kappa"), [(0.5, 0.0), (4.0, 1.0)])
def test_other_responses_have_the_clock_of_theirs(regression, b, kappa) -> None:
    """u = τ + log η/b, in which the angle follows the form without a schedule."""
    log_rate = (FINE, 0.4 * FINE)
    flow = _flow(regression, log_rate, b=b, kappa=kappa)
    expected = sf.theory.exact.linear_regression_angle(
        START, _clock(log_rate, TAU, b), b=b, kappa=kappa
    )
    np.testing.assert_allclose(_angles(regression, flow), expected, rtol=0, atol=4e-4)


def test_below_the_edge_the_rate_brings_the_threshold_down(regression) -> None:
    sharpness = float(
        sf.theory.spherical_sharpness(regression.problem, jnp.asarray(regression.at(START)))[0][0]
    )
    tau = np.linspace(0.0, 0.3, 4)
    flow = _flow(regression, (tau, tau), tau, threshold0=3.0 * sharpness)  # log(3)/3 = 0.37
    np.testing.assert_allclose(np.log(flow.threshold / sharpness), np.log(3.0) - 3.0 * tau)


def test_single_precision_pauses_too(regression) -> None:
    problem = sf.models.linear_regression(
        np.asarray(regression.x, np.float32), np.asarray(regression.y, np.float32)
    )
    log_rate = _down(0.5)
    flow = sf.sharpness_flow(
        problem, regression.at(START).astype(jnp.float32), TAU, log_rate=log_rate, max_edge=1
    )
    expected = np.arctan(np.tan(START) * np.exp(-_clock(log_rate, TAU)))
    np.testing.assert_allclose(_angles(regression, flow), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("tau", [[0.0, 2.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
def test_times_that_tell_no_schedule_are_refused(regression, tau) -> None:
    with pytest.raises(ValueError, match="log_rate must be flow times that do not decrease"):
        _flow(regression, (tau, np.zeros(len(tau))))
