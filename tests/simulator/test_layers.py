"""Layers against their params, dense Hessians, and steps that are looked at one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from described import undescribed
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.models.invariance import depends_on_scale
from sharpflow.models.parameter_groups import parameter_groups

ETA, RATE = 0.1, 1e-4


@pytest.fixture(scope="module")
def network():
    """A batch-normed network on Γ, at the edge, where the flow keeps two eigenvalues."""
    x, labels = sf.models.digits(16, classes=(0, 1, 2))
    problem = sf.models.mlp(x, labels, widths=(6, 5))
    rule = sf.gdwd(0.02, 0.0)
    trained = sf.simulate(
        problem, problem.init(jax.random.key(0)), rule, 20_000, record_every=20_000
    )
    return problem, sf.theory.retract(problem, trained.final_params)


@pytest.fixture(scope="module")
def run(network):
    problem, theta = network
    start = sf.theory.start_at_edge(problem, theta, ETA, RATE / ETA)
    return sf.simulate(
        problem,
        start,
        sf.gdwd(ETA, RATE / ETA),
        10_000,
        record_every=200,
        snapshot_every=1,
        observables=["threshold", "loss_mean"],
    )


@pytest.fixture(scope="module")
def flow(network, run):
    return sf.predict(network[0], run, max_edge=6)


def _snapshot(run, row):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[row]), run.params)


def test_norms_gradients_and_eigenvectors_are_shared_out_among_the_layers(network, run):
    problem, _ = network
    layers = sf.simulator.measure_layers(run, problem, k=2)
    assert undescribed(layers) == []
    assert layers["layer"].values.tolist() == [f"Dense_{i}.kernel" for i in range(3)]
    params = _snapshot(run, 7)
    gradient = jax.grad(problem.loss_value)(params)
    flat, unravel = ravel_pytree(params)
    theta = flat / jnp.linalg.norm(flat)
    hessian = jax.jit(jax.hessian(lambda w: problem.loss_value(unravel(w))))(theta)
    vectors = np.linalg.eigh(hessian)[1][:, ::-1]
    rate = ETA / (1.0 - RATE)
    for index in range(3):
        kernel = params[f"Dense_{index}"]["kernel"]
        row = layers.isel(step=7, layer=index)
        np.testing.assert_allclose(row["norm"], jnp.linalg.norm(kernel), rtol=1e-12)
        ratio = jnp.linalg.norm(gradient[f"Dense_{index}"]["kernel"]) / jnp.linalg.norm(kernel)
        np.testing.assert_allclose(row["gradient_ratio"], ratio, rtol=1e-9)
        np.testing.assert_allclose(
            row["effective_learning_rate"], rate / jnp.sum(kernel**2), rtol=1e-9
        )
        for which in range(2):
            part = unravel(vectors[:, which])[f"Dense_{index}"]["kernel"]
            np.testing.assert_allclose(
                row["eigenvector_share"][which], jnp.sum(part**2), rtol=1e-4, atol=1e-6
            )


def test_the_angle_from_the_norms_is_that_of_all_steps_between_two_snapshots(network, run):
    problem, _ = network
    layers = sf.simulator.measure_layers(run, problem, k=0)
    gradient = jax.jit(jax.grad(problem.loss_value))
    params, squares = _snapshot(run, 3), []
    for _ in range(200):
        after = jax.tree.map(lambda w, g: (1.0 - RATE) * w - ETA * g, params, gradient(params))
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(after), strict=True)
        squares.append([_angle(w, following) ** 2 for w, following in pairs])
        params = after
    expected = np.sqrt(np.mean(squares, axis=0))
    # the means of φ² and of log(1/cos²φ) differ by φ⁴/6
    np.testing.assert_allclose(layers["step_angle"][3], expected, rtol=1e-3)
    assert np.isnan(layers["step_angle"][-1]).all()


def _angle(before, after):
    chord = after / jnp.linalg.norm(after) - before / jnp.linalg.norm(before)
    return float(2.0 * jnp.arcsin(0.5 * jnp.linalg.norm(chord)))


def test_each_layer_turns_by_its_part_of_the_predicted_oscillation(network, run, flow):
    problem, _ = network
    layers = sf.simulator.measure_layers(run, problem, flow, k=0)
    late = layers.isel(step=slice(20, -1))
    measured, predicted = (
        np.sqrt(np.mean(late[name].values ** 2, axis=0))
        for name in ("step_angle", "predicted_step_angle")
    )
    # of relative order √(ηλ) = 0.01, over a stretch of some ten bursts
    np.testing.assert_allclose(measured, predicted, rtol=0.03)
    np.testing.assert_allclose(late["norm"], late["predicted_norm"], rtol=0.01)
    # while the flow drifts no layer has come to the rotational equilibrium
    assert measured.max() < 0.9 * layers.attrs["equilibrium_angle"]


def test_the_parts_of_the_prediction_make_the_whole(network, run, flow):
    """All arrays as one layer turn by 2√(ηλ tr M), and have the norm that the threshold tells."""
    layers = sf.simulator.measure_layers(run, network[0], flow, groups={"all": "*"}, k=0)
    trace = np.interp(run.snapshot_tau, flow.tau, flow.edge_trace)
    middle = 0.5 * (trace[1:] + trace[:-1])
    expected = 2.0 * np.sqrt(RATE * middle[10:])
    # tr M bends between outputs, and the threshold tells its mean
    np.testing.assert_allclose(layers["predicted_step_angle"][10:-1, 0], expected, rtol=0.02)
    np.testing.assert_allclose(
        layers["predicted_norm"][:, 0],
        np.sqrt(0.5 * ETA * np.interp(run.snapshot_tau, flow.tau, flow.threshold) / (1.0 - RATE)),
        rtol=1e-9,
    )


def test_a_central_flow_predicts_the_same_of_the_layers(network, run, flow):
    problem, _ = network
    average = sf.predict(problem, run, kind="central_flow", num_outputs=12)
    by_both = [
        sf.simulator.measure_layers(run, problem, each, k=0)["predicted_step_angle"][25:-5]
        for each in (flow, average)
    ]
    rms = [np.sqrt(np.mean(each.values**2, axis=0)) for each in by_both]
    np.testing.assert_allclose(*rms, rtol=0.05)


def test_the_figure_has_a_line_for_each_layer_and_its_prediction(network, run, flow):
    layers = sf.simulator.measure_layers(run, network[0], flow, k=0)
    ax = sf.plots.layer_angles(layers, window=10)
    first, predicted = ax.lines[:2]
    for line, name in ((first, "step_angle"), (predicted, "predicted_step_angle")):
        squares = layers[name].values[:40, 0].reshape(4, 10) ** 2
        np.testing.assert_allclose(line.get_ydata()[:4], np.sqrt(squares.mean(axis=1)))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[:3] == ["Dense_0", "Dense_1", "Dense_2"] and "predicted" in labels
    with pytest.raises(ValueError, match="as measure_layers returns it"):
        sf.plots.layer_angles(run.to_dataset())


def test_a_layer_on_whose_scale_the_loss_depends_has_no_angle_from_norms():
    problem = sf.models.mlp(
        *sf.models.digits(16, classes=(0, 1)), widths=(6,), normalization="none"
    )
    run = sf.simulate(
        problem, problem.init(jax.random.key(0)), sf.gdwd(0.01, 0.1), 20, snapshot_every=5
    )
    layers = sf.simulator.measure_layers(run, problem)
    assert np.isnan(layers["step_angle"]).all()
    assert np.isfinite(layers["norm"]).all() and "effective_learning_rate" not in layers
    np.testing.assert_array_less(layers["eigenvector_share"].sum("layer"), 1.0 + 1e-12)


def test_on_the_manifold_itself_a_layer_is_told_from_one_that_the_loss_depends_on(network):
    """There L is rounding, of which a relative change would say nothing."""
    problem, theta = network
    assert float(problem.loss_value(theta)) < 1e-20
    assert not any(depends_on_scale(problem, theta, [index]) for index in range(3))
    plain = sf.Problem(
        init=lambda key: jax.random.normal(key, (3,)), residual=lambda w: w - jnp.ones(3)
    )
    assert depends_on_scale(plain, jnp.ones(3), [0])


def test_groups_are_named_by_patterns_of_paths():
    params = {"first": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}, "last": np.ones((2, 1))}
    assert parameter_groups(params) == {"first.kernel": (1,), "last": (2,)}
    assert parameter_groups(params, {"a": "first.*", "b": ["last", "*.bias"]}) == {
        "a": (0, 1),
        "b": (0, 2),
    }
    assert parameter_groups(np.ones(3)) == {"params": (0,)}
    with pytest.raises(ValueError, match=r"groups\['a'\] must be a pattern that fits one of the"):
        parameter_groups(params, {"a": "second.*"})
