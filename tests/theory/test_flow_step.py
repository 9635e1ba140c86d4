"""One step of the flow, of batch-norm linear regression, whose eigenvalue stays at the edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpflow.theory.edge_geometry import edge_response, edge_space
from sharpflow.theory.flow_step import Settings, Trend, attempt
from sharpflow.theory.linearization import linearize
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import residual_tolerance
from sharpflow.theory.status import Status


@pytest.fixture(scope="module")
def third_step(regression):
    """(the third of three steps of a length, the same without the trend of the second).

    The trend of the first step was measured with a predictor that had none.
    """
    theta0 = regression.at(1.2)
    residual = residual_form(regression.problem, theta0)
    unknown = Trend.unknown(1, theta0)

    def edge(theta):
        return edge_space(linearize(residual, theta, "dense"), 1)

    def after(step):
        return edge_response(edge(step.theta), step.log_threshold)

    @jax.jit
    def run(step, norm):
        settings = Settings(
            b=jnp.asarray(2.0),
            kappa=jnp.asarray(0.0),
            rtol=jnp.asarray(1e-7),
            on_sphere=True,
            tolerance=residual_tolerance(residual, theta0),
            norm=norm,
        )
        space = edge(theta0)
        start = edge_response(space, jnp.log(space.eigenvalues[0]))
        last = attempt(start, unknown, step, settings)
        last = attempt(after(last), last.trend, step, settings)
        return tuple(attempt(after(last), trend, step, settings) for trend in (last.trend, unknown))

    return lambda step, norm=1.0: run(jnp.asarray(step), jnp.asarray(norm))


def test_a_trend_makes_the_predictor_one_of_second_order(third_step) -> None:
    """Half the step leaves an eighth of what its point is off the edge, and without one a quarter.

    The corrector leads to the same point from either.
    """
    off = {}
    for step in (0.02, 0.01):
        known, unknown = third_step(step)
        assert [int(each.status) for each in (known, unknown)] == [Status.SUCCESS] * 2
        np.testing.assert_allclose(known.theta, unknown.theta, atol=0.1 * step**2)
        off[step] = [abs(float(each.trend.ratios[0]) - 1.0) for each in (known, unknown)]
    falls = np.asarray(off[0.02]) / np.asarray(off[0.01])
    np.testing.assert_allclose(falls, [8.0, 4.0], rtol=0.15)
    assert off[0.02][0] <= 0.1 * off[0.02][1]


def test_an_error_is_relative_to_the_longer_of_two_norms(third_step) -> None:
    """Of that of the point, which is 1 here, and that of the point where the flow began."""
    errors = [float(third_step(1e-3, norm)[0].error) for norm in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(errors, [errors[0], errors[0], errors[0] / 2.0], rtol=1e-4)
