"""A flow, its comparison, trajectories and a circle, made up for the tests of the figures."""

from types import SimpleNamespace

import numpy as np
import xarray

import sharpflow as sf

TAU = np.linspace(0.2, 2.0, 10)
FIT = SimpleNamespace(exponent=0.5, interval=(0.4, 0.6), prefactor=2.0)
RATES = np.array([1e-4, 4e-4, 1.6e-3])
ERRORS = 2.0 * np.sqrt(RATES)


def _flow():
    threshold = 10.0 * np.exp(-TAU)
    return sf.FlowSolution(
        tau=TAU,
        theta=np.ones((10, 3)),
        threshold=threshold,
        eigenvalues=threshold[:, None] * np.array([1.0, 0.8, 0.3]),
        edge_covariance=np.zeros((10, 3, 3)),
        status=0,
        num_steps=1,
        num_rejected=0,
        b=2.0,
        on_sphere=True,
    )


def _comparison():
    values = {
        "sharpness": 9.0 * np.exp(-TAU),
        "predicted_sharpness": 9.1 * np.exp(-TAU),
        "threshold": 9.2 * np.exp(-TAU),
        "predicted_threshold": 9.3 * np.exp(-TAU),
        "loss_mean": np.where(TAU > 0.5, 1e-3 * TAU, np.nan),
        "predicted_loss": np.where(TAU > 0.5, 1.1e-3 * TAU, np.nan),
    }
    return xarray.Dataset(
        {name: ("tau", value) for name, value in values.items()},
        {"tau": TAU},
        {"predicted_entry_step": 400.0, "intrinsic_rate": 1e-3},
    )


def record(intrinsic_rate=1e-3):
    step = np.arange(0, 2000, 100)
    values = {
        "threshold": ("step", 20.0 * np.exp(-1e-3 * step)),
        "stability_line": ("step", np.full(20, 4.0)),
        "hessian_sharpness": (("step", "k"), np.outer(1.0 + 1e-3 * step, [1.0, 0.5])),
        "sharpness_manifold": (("step", "k"), np.outer(np.exp(-1e-3 * step), [20.0, 12.0])),
        "test_error": ("step", 1.0 / (1.0 + step + intrinsic_rate)),
    }
    return xarray.Dataset(values, {"step": step, "tau": ("step", intrinsic_rate * step)})


def circle(angles):
    return np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=-1)


FLOW, COMPARISON, RECORD, RESTING = _flow(), _comparison(), record(), record(0.0)
PREDICTED = (TAU, 1.0 / TAU)
GAMMA = circle(np.linspace(-0.5 * np.pi, 0.5 * np.pi, 91))
POINTS, FLOW_POINTS = circle(np.linspace(-1.2, 0.0, 40)), circle(np.linspace(-1.2, 0.0, 9))
