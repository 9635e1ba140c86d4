"""M(τ) of a flow, against the threshold that it moves."""

import numpy as np
import pytest

import sharpflow as sf

FINE = np.linspace(0.0, 1.0, 201)


@pytest.mark.parametrize("b", [0.5, 2.0, 4.0])
def test_the_trace_of_m_is_the_rate_of_the_threshold(tiny_mlp, b) -> None:
    """ds/dτ = b (2 tr M − 1), s = log λ* of a fine flow by central differences.

    Times at which tr M changes by a share of more than 5 per unit of τ, as it does near
    a crossing, are left out: a difference quotient does not resolve them.
    """
    fine = sf.sharpness_flow(*tiny_mlp, FINE, b=b, max_edge=4, rtol=1e-5)
    log_threshold = np.log(np.asarray(fine.threshold))
    trace = 0.5 * (np.gradient(log_threshold, FINE) / b + 1.0)
    drift = np.abs(np.gradient(np.log(trace), FINE))
    slow = np.array([drift[i - 4 : i + 5].max() < 5.0 for i in range(10, 200, 10)])
    assert slow.sum() >= 12
    for rtol in (1e-3, 2e-4):
        flow = sf.sharpness_flow(*tiny_mlp, FINE[::10], b=b, max_edge=4, rtol=rtol)
        found = np.asarray(flow.edge_trace)[1:-1]
        # an eigenvalue within max(3 rtol, 1e-3) of the edge counts as on it
        np.testing.assert_allclose(found[slow], trace[10:200:10][slow], rtol=3e-2)
