"""Forks of batch-norm networks in float32, where one bit more or less is another trajectory."""

import numpy as np
import pytest

import sharpflow as sf
from sharpflow.simulator import Fork

STEPS = 30  # of each of the three parts
SEEN = ["loss", "threshold", "sharpness_iterate", "loss_mean"]


@pytest.fixture(scope="module")
def networks():
    pixels, labels = sf.models.digits(40)
    images = pixels.reshape(-1, 8, 8, 1)
    return {
        "mlp": sf.models.mlp(pixels, labels, (16,), dtype="float32"),
        "vgg": sf.models.vgg(images, labels, (4, 0, 8, 0), dtype="float32"),
    }


def _quasi_rmsprop(learning_rate, weight_decay):
    return sf.quasi_rmsprop(learning_rate)


@pytest.mark.parametrize(
    ("rule", "network", "rates", "decay"),
    [
        (sf.gdwd, "vgg", [0.1, 0.2], 0.01),
        (sf.simulator.momentum, "mlp", [0.1, 0.2], 0.01),
        (_quasi_rmsprop, "mlp", [0.01, 0.02], 0.0),
    ],
    ids=["gdwd", "momentum", "quasi_rmsprop"],
)
def test_a_fork_of_a_fork_of_a_network_has_the_bits_of_the_run_in_one_piece(
    networks, tmp_path, rule, network, rates, decay
):
    def grid(parts, **given):
        return sf.simulate_grid(
            networks[network], seeds=[0], learning_rates=rates, weight_decays=decay,
            num_steps=parts * STEPS, record_every=10, snapshot_every=2, observables=SEEN,
            optimizer=rule, progress=False, **given,
        )  # fmt: skip

    kept = {"final_state": True}
    grid(1, out=tmp_path / "first", **kept)
    grid(1, out=tmp_path / "second", fork=Fork(tmp_path / "first"), **kept)
    third = grid(1, fork=Fork(tmp_path / "second"))
    whole = grid(3)
    assert third["loss"].dtype == np.float32
    later = whole.sel(step=slice(2 * STEPS, None))
    for name in ("step", "tau", *SEEN):
        np.testing.assert_array_equal(third[name], later[name])
    for name in (str(n) for n in third if str(n).startswith("params.")):
        snapshots = whole[name].sel(snapshot=third["snapshot"])
        assert np.any(snapshots.isel(snapshot=0) != snapshots.isel(snapshot=-1))
        np.testing.assert_array_equal(third[name], snapshots)
