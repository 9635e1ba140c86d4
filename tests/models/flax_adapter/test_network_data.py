"""A network problem with other data is the problem that would be built of them."""

import dataclasses

import jax
import numpy as np
import pytest

import sharpflow as sf

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=(6, 1))
CLASSES = np.arange(6) % 3


def _loss(params, x, targets):
    outputs = x @ np.asarray(params["Dense_0"]["kernel"])
    outputs = (outputs - outputs.mean(axis=0)) / outputs.std(axis=0)
    return 0.5 * np.mean((outputs - targets) ** 2)


def test_fewer_and_more_rows_are_counted_anew():
    problem = sf.models.mlp(X, Y[:, 0], ())
    params = problem.init(jax.random.key(0))
    targets = np.asarray(problem.data.targets)
    more = RANDOM.normal(size=(9, 4)), RANDOM.normal(size=(9, 1))
    for x, y in ((X, targets), (X[:3], targets[:3]), (-2 * X, -targets), more):
        other = problem.with_data(dataclasses.replace(problem.data, inputs=x, targets=y))
        np.testing.assert_allclose(other.loss_value(params), _loss(params, x, y), rtol=1e-10)


CROSS_ENTROPY = {"loss": "smoothed_cross_entropy", "label_smoothing": 0.2, "logit_scale": 2.0}


@pytest.mark.parametrize("options", [{}, CROSS_ENTROPY])
def test_with_the_data_of_another_problem_it_is_that_problem(options):
    test = X[:3] + 1.0, CLASSES[:3]
    one = sf.models.mlp(X, CLASSES, (3,), test=test, **options)
    two = sf.models.mlp(2 * X + X**2, (CLASSES + 1) % 3, (3,), test=test, **options)
    params = one.init(jax.random.key(0))
    changed = one.with_data(two.data)
    assert float(one.loss_value(params)) != float(two.loss_value(params))
    assert float(changed.loss_value(params)) == float(two.loss_value(params))
    assert changed.loss_infimum == two.loss_infimum
    for name, metric in changed.metrics.items():
        assert float(metric(params)) == float(two.metrics[name](params))


def test_the_criterion_of_a_network_has_the_targets_of_its_data():
    problem = sf.models.mlp(X, CLASSES, (3,), **CROSS_ENTROPY)
    expected = np.full((6, 3), 0.2 / 3) + 0.8 * np.eye(3)[CLASSES]
    np.testing.assert_allclose(problem.criterion.targets, expected, rtol=1e-12)
    other = expected[::-1].copy()
    changed = problem.with_data(dataclasses.replace(problem.data, targets=other))
    np.testing.assert_array_equal(changed.criterion.targets, other)
    params = problem.init(jax.random.key(0))
    logits = np.asarray(problem.outputs(params))
    log_p = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    found = changed.loss_value(params)
    np.testing.assert_allclose(found, -np.mean(np.sum(other * log_p, axis=1)), rtol=1e-12)


MISMATCHED = [
    ({"inputs": X[:3]}, {}, "6 rows of targets inputs has 3 rows instead of 6"),
    ({"inputs": np.concatenate([X, X])}, {}, "inputs has 12 rows instead of 6"),
    ({"targets": np.zeros((4, 3))}, {}, "4 rows of targets inputs has 6 rows"),
    ({"test_inputs": X[:2]}, {"test": (X[:3], CLASSES[:3])}, "test_inputs has 2 rows instead of 3"),
    ({"targets": np.zeros((4, 3))}, {"micro_batch": 3}, "inputs has 6 rows instead of 4"),
]


@pytest.mark.parametrize(("change", "options", "message"), MISMATCHED)
def test_rows_that_do_not_match_are_refused(change, options, message):
    problem = sf.models.mlp(X, CLASSES, (2,), **options)
    with pytest.raises(ValueError, match=message):
        problem.with_data(dataclasses.replace(problem.data, **change))


def test_targets_that_would_be_broadcast_are_refused():
    problem = sf.models.mlp(X, CLASSES, (2,))
    changed = problem.with_data(dataclasses.replace(problem.data, targets=np.zeros((6, 1))))
    params = problem.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"targets must have the shape .*\(6, 3\), got \(6, 1\)"):
        changed.loss_value(params)


def test_a_network_is_built_and_its_parameters_are_drawn_by_one_program():
    compiled = []

    def note(event, duration, **told):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(told.get("fun_name"))

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        problem = sf.models.mlp(X, CLASSES, (5,), test=(X[:3] + 1.0, CLASSES[:3]))
        problem.init(jax.random.key(0))
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert compiled.count("jit(init)") == 1
    assert "jit(_truncated_normal)" not in compiled  # not one layer after the other either
