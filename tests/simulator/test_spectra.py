"""Spectra at the snapshots of a trajectory against dense Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from described import undescribed
from jax.flatten_util import ravel_pytree
from matplotlib import pyplot
from scipy.stats import norm

import sharpflow as sf
from sharpflow.simulator import layers
from sharpflow.theory import block_eigenpairs

K = 2


@pytest.fixture(scope="module")
def run():
    problem = sf.models.matrix_completion(shape=(5, 5), init_scale=2.0, seed=1)
    params = problem.init(jax.random.key(1))
    return problem, sf.simulate(
        problem, params, sf.gdwd(0.5, 1e-3), 40, record_every=10, snapshot_every=2
    )


@pytest.fixture(scope="module")
def spectra(run):
    problem, trajectory = run
    return sf.simulator.measure_spectra(
        trajectory, problem, k=K, degree=30, num_vectors=10, num_products=1000
    )


def _dense(problem, trajectory, row):
    """The Hessian at θ, and which of its rows belong to the first layer."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[row]), trajectory.params)
    flat, unravel = ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda w: problem.loss_value(unravel(w))))
    theta = flat / jnp.linalg.norm(flat) if problem.scale_invariant else flat
    return np.asarray(hessian(theta)), jax.tree.leaves(params)[0].size


def test_columns_are_those_of_the_dense_hessian_of_each_snapshot(run, spectra):
    assert undescribed(spectra) == []
    assert np.all(spectra["spectrum_status"] == 0) and np.all(spectra["block_status"] == 0)
    held = []
    for row in range(spectra.sizes["step"]):
        dense, first = _dense(*run, row)
        values = np.linalg.eigvalsh(dense)
        one = spectra.isel(step=row)
        np.testing.assert_allclose(one["largest_eigenvalue"], values[::-1][:K], rtol=1e-7)
        for index, block in enumerate((dense[:first, :first], dense[first:, first:])):
            top = np.linalg.eigvalsh(block)[::-1][:K]
            np.testing.assert_allclose(one["block_eigenvalue"][index], top, rtol=1e-7, atol=1e-9)
        assert float(one["trace"]) == pytest.approx(np.trace(dense), rel=1e-10)
        scaled = (values - one["curvature"].values[:, None]) / spectra.attrs["width"]
        density = norm.pdf(scaled).mean(axis=1) / spectra.attrs["width"]
        held.append(
            (one["density_low"] <= density + 1e-9) & (density <= one["density_high"] + 1e-9)
        )
    # of a few spectra points beside each other err together
    assert np.mean(held) > 0.8


def test_a_block_that_does_not_converge_is_told_at_its_layer_and_its_step(run, monkeypatch):
    problem, trajectory = run
    calls = []

    def failing(*arguments, **options):
        pairs = block_eigenpairs(*arguments, **options)
        calls.append(None)
        name = list(pairs)[1]
        lost = pairs[name].replace(status=jnp.asarray(sf.Status.NOT_CONVERGED, jnp.int32))
        return pairs | {name: lost} if len(calls) == 2 else pairs

    monkeypatch.setattr(layers, "block_eigenpairs", failing)
    found = sf.simulator.measure_spectra(
        trajectory, problem, k=1, degree=30, num_vectors=10, num_products=1000
    )
    expected = np.zeros(found["block_status"].shape)
    expected[1, 1] = sf.Status.NOT_CONVERGED
    np.testing.assert_array_equal(found["block_status"], expected)
    np.testing.assert_array_equal(found["spectrum_status"], expected.max(axis=1))


def test_sharpness_of_a_layer_is_that_of_its_block(run, spectra):
    problem, trajectory = run
    measured = sf.simulator.measure_layers(trajectory, problem, k=0, blocks=True)
    assert undescribed(measured) == []
    first = spectra["block_eigenvalue"].isel(eigenvalue=0)
    np.testing.assert_allclose(measured["block_sharpness"], first, rtol=1e-7)


def test_spectrum_of_zeros_is_one_gaussian_of_width_1():
    problem = sf.Problem(init=jnp.ones, loss=jnp.sum, scale_invariant=False)
    params = jnp.ones(4, jnp.float32)
    trajectory = sf.simulate(problem, params, sf.gdwd(0.1, 0.0), 2, snapshot_every=1)
    found = sf.simulator.measure_spectra(trajectory, problem, groups={"all": "*"}, num_vectors=2)
    assert np.all(found["spectrum_status"] == 0) and found.attrs["width"] == 1.0
    for row in found["density"].values:
        np.testing.assert_allclose(row, norm.pdf(found["curvature"]), rtol=1e-5)
    assert np.all(found["trace"] == 0.0) and np.all(found["largest_eigenvalue"] == 0.0)


def test_snapshots_after_a_divergence_are_told_and_spoil_no_other():
    problem = sf.Problem(init=jnp.ones, loss=lambda w: jnp.sum(w**4), scale_invariant=False)
    params = jnp.ones(4, jnp.float32)
    options = {"k": 0, "num_vectors": 2, "degree": 4}
    diverged = sf.simulate(problem, params, sf.gdwd(1.0, 0.0), 8, snapshot_every=1)
    found = sf.simulator.measure_spectra(diverged, problem, **options)
    finite = np.all(np.abs(np.asarray(diverged.params)) < 1e15, axis=1)
    assert finite[0] and not finite[-1]
    assert np.array_equal(found["spectrum_status"] == 0, finite)
    assert np.all(np.isfinite(found["density"][finite]))
    lost = sf.simulate(problem, 1e30 * params, sf.gdwd(1.0, 0.0), 2, snapshot_every=1)
    nothing = sf.simulator.measure_spectra(lost, problem, **options)
    assert np.all(nothing["spectrum_status"] == sf.Status.NOT_FINITE)
    with pytest.raises(ValueError, match="must be of snapshots with a finite density"):
        sf.plots.spectral_densities(nothing)


def test_figure_has_an_interval_and_a_threshold_for_each_step(run, spectra):
    _, ax = pyplot.subplots()
    chosen = spectra.isel(step=[0, -1])
    sf.plots.spectral_densities(chosen, ax)
    assert ax.get_yscale() == "log"
    lines = [line for line in ax.lines if len(line.get_xdata()) == chosen.sizes["curvature"]]
    assert [line.get_label() for line in lines] == [f"step {int(s)}" for s in chosen["step"]]
    scale = chosen.attrs["dimension"] * chosen.attrs["width"]
    np.testing.assert_allclose(lines[0].get_ydata(), scale * chosen["density"][0])
    drawn = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    assert set(chosen["threshold"].values) <= set(drawn)
    pyplot.close(ax.figure)


def test_a_dataset_of_something_else_is_refused(run):
    _, trajectory = run
    with pytest.raises(ValueError, match="as measure_spectra returns it"):
        sf.plots.spectral_densities(trajectory.to_dataset())


def test_a_trajectory_without_snapshots_is_refused(run):
    problem, trajectory = run
    bare = sf.simulate(problem, trajectory.final_params, sf.gdwd(0.5, 1e-3), 2)
    with pytest.raises(ValueError, match="no snapshots"):
        sf.simulator.measure_spectra(bare, problem)
