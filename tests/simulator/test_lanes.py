"""Points side by side, as an accelerator runs them, against the same points in turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stopped import stop_after

import sharpflow as sf
from sharpflow.simulator import hessian_sharpness, sharpness
from sharpflow.simulator.grid import engine
from sharpflow.simulator.interrupt import Interrupted
from sharpflow.simulator.store.folder import RunFolder

# below the edge, where rounding does not grow
AXES = {"seeds": (0, 1, 2), "learning_rates": (0.02, 0.05), "weight_decays": (0.01, 0.1)}
EVERY_OBSERVABLE = (
    "loss",
    "norm_squared",
    "gradient_norm",
    "effective_learning_rate",
    "threshold",
    "metrics",
    "loss_mean",
    "loss_rises",
    "sharpness_iterate",
    "sharpness_midpoint",
    "sharpness_manifold",
    hessian_sharpness(2, every=2),
)


@pytest.fixture(scope="module")
def network():
    """With d = 420 parameters, more than those whose Hessian is formed."""
    x, y = sf.models.digits(16, classes=(0, 1))
    return sf.models.mlp(x, y, widths=(6, 6), test=(x[:4], y[:4]), dtype=np.float64)


def _grid(problem, lanes, **changes):
    keywords = {"num_steps": 40, "record_every": 5, "observables": EVERY_OBSERVABLE, **AXES}
    width = 12 if lanes == "side_by_side" else None
    return sf.simulate_grid(problem, lanes=lanes, **{"group_width": width, **keywords, **changes})


def _assert_close(found, expected, rtol=1e-9):
    assert set(found.data_vars) == set(expected.data_vars)
    for name, column in expected.data_vars.items():
        if column.dtype.kind == "f":
            # eigenvalues are known to their tolerance, and a loss near zero to its rounding
            atol = 1e-12 * np.nanmax(np.abs(column), initial=0.0)
            tolerance = 1e-7 if "sharpness" in name or "edge" in name else rtol
            np.testing.assert_allclose(found[name], column, tolerance, atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], column, err_msg=name)


def test_every_observable_is_the_same_side_by_side_and_in_turn(network):
    in_turn, side_by_side = (_grid(network, lanes) for lanes in ("in_turn", "side_by_side"))
    assert np.all(np.isfinite(in_turn.hessian_sharpness[..., ::2, :]))
    assert np.all(np.isnan(side_by_side.hessian_sharpness[..., 1::2, :]))
    _assert_close(side_by_side, in_turn)


def test_points_that_leave_at_times_of_their_own_make_room_for_others(network):
    """With τ each pair of rates has a number of steps of its own; 4 lanes serve 12 points."""
    keywords = {"num_steps": None, "tau": 0.02, "group_width": 4}
    keywords["observables"] = ("loss", "sharpness_iterate", "loss_mean")
    side_by_side = _grid(network, "side_by_side", **keywords)
    in_turn = _grid(network, "in_turn", **keywords | {"group_width": None})
    assert len(np.unique(in_turn.final_step)) > 2
    _assert_close(side_by_side, in_turn)


@pytest.mark.usefixtures("optimized")
def test_a_lane_that_diverges_is_frozen_and_changes_no_bit_of_the_others():
    def residual(w):
        return jnp.stack([w[0] ** 2 - 1.0, w[1] - w[0]])

    problem = sf.Problem(
        init=lambda key: jax.random.uniform(key, (2,), minval=0.5), residual=residual,
        scale_invariant=False,
    )  # fmt: skip
    keywords = {"observables": ("loss", sharpness(1)), "weight_decays": (0.0,), "num_steps": 60}
    tame = {"seeds": (0, 1, 2, 3), "learning_rates": (0.1, 0.05), "group_width": 8}
    wild = tame | {"learning_rates": (0.1, 50.0)}
    calm, mixed = (_grid(problem, "side_by_side", **keywords | rates) for rates in (tame, wild))
    assert np.all(mixed.status.sel(learning_rate=50.0) == sf.Status.DIVERGED)
    assert np.all(mixed.status.sel(learning_rate=0.1) == sf.Status.SUCCESS)
    for name in ("loss", "sharpness_iterate"):
        expected, found = (run[name].sel(learning_rate=0.1) for run in (calm, mixed))
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.usefixtures("optimized")
def test_a_run_goes_on_with_the_lanes_that_it_was_begun_with(network, tmp_path, monkeypatch):
    keywords = {"num_steps": 400, "record_every": 10, "observables": ("loss", "sharpness_iterate")}
    keywords["group_width"] = 4
    whole = _grid(network, "side_by_side", **keywords)
    monkeypatch.setattr(engine, "_CHUNK_SECONDS", 1e-3)  # many chunks
    with stop_after(5), pytest.raises(Interrupted):
        _grid(network, "side_by_side", **keywords, out=tmp_path / "run")
    assert RunFolder(tmp_path / "run").layout(0)["lanes"] == "side_by_side"
    resumed = _grid(network, None, **keywords, out=tmp_path / "run", resume=True)
    for name in ("loss", "sharpness_iterate"):
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)


@pytest.mark.filterwarnings("error")
def test_a_run_goes_on_with_other_lanes_where_they_are_asked_for(network, tmp_path, monkeypatch):
    """As one that was begun on a GPU goes on on a CPU; checkpoints count rows of three pieces."""
    keywords = {"num_steps": 40, "record_every": 10, "observables": ("loss",), "seeds": (0, 1)}
    whole = _grid(network, "in_turn", **keywords, group_width=1)
    run, stopped = tmp_path / "run", RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch, stop_after(2), pytest.raises(Interrupted):
        patch.setattr(engine, "num_pieces", lambda *_: 3)
        patch.setattr(engine, "chunk_rows", lambda *_: 4)
        _grid(network, "side_by_side", **keywords, group_width=2, out=run)
    assert stopped.read_checkpoints(0)[0].positions
    with pytest.warns(UserWarning, match="side_by_side before, and go on in_turn from here"):
        resumed = _grid(network, "in_turn", **keywords, group_width=1, out=run, resume=True)
    layout = stopped.layout(0)
    assert (layout["lanes"], layout["width"], layout["pieces"]) == ("in_turn", 1, 3)
    np.testing.assert_allclose(resumed.loss, whole.loss, rtol=1e-6)
    assert np.all(resumed.status == sf.Status.SUCCESS)
    first, second = stopped.launches()
    assert "lanes_before" not in first
    assert (second["lanes_before"], second["lanes"]) == ("side_by_side", "in_turn")
    _grid(network, None, **keywords, out=run, resume=True)  # no warning
    assert stopped.layout(0) == layout and "lanes_before" not in stopped.launches()[2]


def test_lanes_that_are_no_way_are_refused(network):
    with pytest.raises(ValueError, match=r"lanes must be None or one of .*, got 'sideways'"):
        _grid(network, "sideways")
