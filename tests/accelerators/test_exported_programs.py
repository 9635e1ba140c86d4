"""What accelerators compile has precise products, and takes its data as arguments."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache

import jax
import numpy as np
import pytest
from compiled_functions import Call, calls, compiled_functions
from exported_programs import LARGEST_CONSTANT, shortcomings, shortcomings_of

import sharpflow as sf

RANDOM = np.random.default_rng(0)
SINGLE = np.float32
INPUTS = RANDOM.normal(size=(24, 1024)).astype(SINGLE)
CLASSES = np.arange(24) % 3
IMAGES = RANDOM.normal(size=(100, 32, 32, 3)).astype(SINGLE)
KINDS = np.arange(100) % 4

FUNCTIONS = compiled_functions()


@pytest.fixture(autouse=True, scope="module")
def _convolutions_of_accelerators() -> Iterator[None]:
    """A convolution is traced for the default device, which is a CPU here."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharpflow.models.convolution.default_device_is_cpu", lambda: False)
        yield
    jax.clear_caches()


def _mlp(**options) -> sf.Problem:
    return sf.models.mlp(INPUTS, CLASSES, widths=(4, 4), dtype=SINGLE, **options)


@cache
def _calls() -> dict[str, dict[str, Call]]:
    problem = _mlp(test=(INPUTS[::-1], CLASSES[::-1]))
    return calls(problem, problem.init(jax.random.key(0)))


def _require_none(reports: Iterable[str]) -> None:
    found = list(reports)
    if found:
        pytest.fail("\n".join([f"{len(found)} shortcomings, the first of them", *found[:5]]))


def test_every_compiled_function_of_the_package_is_looked_at():
    assert set(FUNCTIONS) == set(_calls())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_compiled_function_is_precise_and_holds_no_data(name):
    _require_none(
        f"{case or name}: {report}"
        for case, call in _calls().get(name, {}).items()
        for report in shortcomings(FUNCTIONS[name], *call.args, **call.kwargs)
    )


def test_the_programs_of_a_grid_are_precise_and_hold_no_data(monkeypatch):
    """They are compiled ahead of time, for the devices that there are."""
    lowered = []

    class Lowered(Exception):
        """Ends the grid before it compiles."""

    def keep(self, *args, **kwargs):
        lowered.append(self.compiler_ir("stablehlo"))
        raise Lowered

    monkeypatch.setattr(jax.stages.Lowered, "compile", keep)
    with pytest.raises(Lowered):
        sf.simulate_grid(
            _mlp(),
            seeds=[0],
            learning_rates=[0.1, 0.2],
            weight_decays=[0.01, 0.02],
            num_steps=4,
            observables=["loss", "sharpness_iterate", "metrics"],
            group_width=4,
        )
    (module,) = lowered
    _require_none(shortcomings_of(module))


PROBLEMS: dict[str, Callable[[], sf.Problem]] = {
    "mlp": _mlp,
    "mlp with a cross-entropy": lambda: _mlp(loss="smoothed_cross_entropy", label_smoothing=0.3),
    "mlp in micro-batches": lambda: _mlp(micro_batch=8),
    "mlp with a fixed head": lambda: _mlp(normalization="layer"),
    "vgg11": lambda: sf.models.vgg11(IMAGES, KINDS, 1 / 32, dtype=SINGLE),
    "resnet20": lambda: sf.models.resnet20(IMAGES, KINDS, 1 / 8, dtype=SINGLE),
    "transformer": lambda: sf.models.transformer(IMAGES, KINDS, 8, num_heads=2, dtype=SINGLE),
    "vit small": lambda: sf.models.vit_small(IMAGES, KINDS, 1 / 32, depth=1, dtype=SINGLE),
    "linear regression": lambda: sf.models.linear_regression(
        INPUTS, RANDOM.normal(size=24).astype(SINGLE), dtype=SINGLE
    ),
    "matrix completion": lambda: sf.models.matrix_completion(
        shape=(200, 200), width=3, dtype=SINGLE
    ),
    "random network": lambda: sf.models.random_network(INPUTS, (8, 8), 3, dtype=SINGLE),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_and_metrics_of_a_problem_are_precise_and_hold_no_data(name):
    problem = PROBLEMS[name]()
    params = jax.eval_shape(problem.init, jax.random.key(0))

    def numbers(problem, params):
        loss, gradient = jax.value_and_grad(problem.loss_value)(params)
        return loss, gradient, {key: metric(params) for key, metric in problem.metrics.items()}

    _require_none(shortcomings(jax.jit(numbers), problem, params))


def test_the_data_of_these_problems_would_be_large_constants():
    assert min(INPUTS.nbytes, IMAGES.nbytes) > LARGEST_CONSTANT
    assert 200 * 200 // 2 * SINGLE(0).nbytes > LARGEST_CONSTANT  # targets of matrix completion
