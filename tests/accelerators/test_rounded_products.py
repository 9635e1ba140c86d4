"""Results do not depend on how a device rounds products that ask for no precision."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from rounded_products import BFLOAT16, TF32, rounded_products

import sharpflow as sf

SINGLE = np.float32
# of a point, whatever step is made from there
AT_A_POINT = ("sharpness_iterate", "sharpness_manifold", "hessian_sharpness")
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(12, 6)).astype(SINGLE), np.arange(12) % 3
IMAGES, KINDS = RANDOM.normal(size=(6, 32, 32, 3)).astype(SINGLE), np.arange(6) % 2
FEATURES, TARGETS = RANDOM.normal(size=(2, 8, 8)).astype(SINGLE)
LEARNING_RATE, WEIGHT_DECAY = 0.05, 0.01
RATE = LEARNING_RATE * WEIGHT_DECAY  # flow time of an update
OPTIMIZER = sf.gdwd(LEARNING_RATE, WEIGHT_DECAY)


class LinenNet(nn.Module):
    """As users write one, without what breaks scale invariance."""

    @nn.compact
    def __call__(self, x, train):
        for width in (8, 3):
            x = nn.Dense(width, use_bias=False)(x)
            x = nn.BatchNorm(
                use_running_average=not train, epsilon=0.0, use_bias=False, use_scale=False
            )(x)
            x = nn.softplus(x) if width == 8 else x
        return x


class NnxNet(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs):
        def norm(width):
            return nnx.BatchNorm(width, epsilon=0.0, use_bias=False, use_scale=False, rngs=rngs)

        self.first = nnx.Linear(6, 8, use_bias=False, rngs=rngs)
        self.second = nnx.Linear(8, 3, use_bias=False, rngs=rngs)
        self.first_norm, self.second_norm = norm(8), norm(3)

    def __call__(self, x):
        hidden = nnx.softplus(self.first_norm(self.first(x)))
        return self.second_norm(self.second(hidden))


def _residual(params):
    """A user's own: the outputs of two layers, less the targets."""
    return (jnp.tanh(FEATURES @ params["first"]) @ params["second"] - TARGETS).ravel()


def _of_user(key: jax.Array) -> dict[str, jax.Array]:
    first, second = jax.random.normal(key, (2, 8, 8), SINGLE)
    return {"first": first, "second": second}


@pytest.fixture(autouse=True)
def _promotion_that_flax_needs():
    """Flax's own layers mix ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _equal_programs_are_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Those that rounding leaves alone, where all is well: two of three compilations."""
    folder = str(tmp_path_factory.mktemp("programs"))
    options = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: jax.config.values[name] for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


_BUILDERS: dict[str, Callable[[], sf.Problem]] = {
    "mlp": lambda: sf.models.mlp(
        *sf.models.digits(24, classes=(0, 1, 2)), widths=(16, 16), dtype=SINGLE
    ),
    "a linen module": lambda: sf.models.from_flax(
        LinenNet(), X, Y, apply_kwargs={"train": True}, dtype=SINGLE
    ),
    "an nnx module": lambda: sf.models.from_flax(lambda rngs: NnxNet(rngs), X, Y, dtype=SINGLE),
    "a residual of the user's": lambda: sf.Problem(
        init=_of_user, residual=_residual, scale_invariant=False
    ),
    "vgg11": lambda: sf.models.vgg11(IMAGES, KINDS, 1 / 32, dtype=SINGLE),
}


class _Setting(NamedTuple):
    """A problem, where it starts, and a point of its Γ where one is needed."""

    problem: sf.Problem
    params: sf.models.Params
    theta: sf.models.Params | None = None


@cache
def _setting(name: str) -> _Setting:
    problem = _BUILDERS[name]()
    params = problem.init(jax.random.key(0))
    if name != "mlp":
        return _Setting(problem, params)
    trained = sf.simulate(problem, params, OPTIMIZER, 1000, record_every=1000).final_params
    return _Setting(problem, params, sf.theory.retract(problem, trained))


def _steps(problem: sf.Problem, params: sf.models.Params, *observables: str, **options: Any) -> Any:
    """Twenty updates, recorded four times."""
    trajectory = sf.simulate(
        problem,
        params,
        OPTIMIZER,
        20,
        record_every=5,
        observables=["loss", "loss_mean", "gradient_norm", *observables],
        **options,
    )
    return trajectory.columns, trajectory.final_params


def _of_mlp(compute: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: compute(*_setting("mlp"))


def _of_network(name: str) -> Callable[[], Any]:
    def results() -> Any:
        problem, params, _ = _setting(name)
        gradient = jax.jit(jax.value_and_grad(problem.loss_value))(params)
        pairs = sf.theory.top_eigenpairs(problem, params, 2)  # a dense Hessian where it is small
        return gradient, pairs, None if name == "vgg11" else _steps(problem, params, "metrics")

    return results


_RESULTS: dict[str, Callable[[], Any]] = {
    "scale invariance": _of_mlp(lambda p, w, _: sf.models.check_scale_invariance(p, w)),
    "eigenpairs": _of_mlp(lambda p, w, _: sf.theory.top_eigenpairs(p, w, 3, method="lanczos")),
    "a retraction": _of_mlp(lambda p, _, theta: sf.theory.retract(p, _aside(theta))),
    "the flow": _of_mlp(
        lambda p, _, theta: sf.sharpness_flow(p, theta, [0.0, 1e-3, 2e-3], max_edge=2)
    ),
    "the central flow": _of_mlp(
        lambda p, w, _: sf.central_flow(
            p, w, LEARNING_RATE, WEIGHT_DECAY, [0.0, RATE, 5 * RATE], max_edge=2, rtol=1e-2
        )
    ),
    "a trajectory": _of_mlp(
        lambda p, w, _: _steps(p, w, *AT_A_POINT, "sharpness_midpoint", "metrics")
    ),
} | {name: _of_network(name) for name in _BUILDERS if name != "mlp"}

_exact = cache(lambda name: _RESULTS[name]())


def _aside(theta: sf.models.Params) -> sf.models.Params:
    """A point near Γ, and not on it."""
    return jax.tree.map(
        lambda leaf: leaf + 0.01 * jnp.sin(jnp.arange(leaf.size, dtype=SINGLE)).reshape(leaf.shape),
        theta,
    )


@pytest.mark.parametrize("name", _RESULTS)
@pytest.mark.parametrize("bits", [TF32, BFLOAT16])
def test_results_have_the_same_bits_where_a_device_rounds_products(name, bits):
    exact = _exact(name)
    with rounded_products(bits):
        rounded = _RESULTS[name]()
    jax.tree.map(np.testing.assert_array_equal, rounded, exact)


def test_a_trajectory_may_take_rounded_products_and_keeps_the_curvature_of_its_points():
    """Where it starts, that is: later it goes through other points."""
    problem, params, _ = _setting("mlp")

    def steps() -> Any:
        return _steps(problem, params, *AT_A_POINT, matmul_precision="default")

    exact, last = steps()
    with rounded_products(TF32):
        rounded, rounded_last = steps()
    for name in AT_A_POINT:
        np.testing.assert_array_equal(rounded[name][0], exact[name][0])
        assert np.all(rounded[name][1:] != exact[name][1:])
    assert np.all(rounded["loss"] != exact["loss"])
    changes = jax.tree.map(lambda one, other: jnp.max(jnp.abs(one - other)), last, rounded_last)
    assert min(jax.tree.leaves(changes)) > 0.0


class _ImpreciseNet(nn.Module):
    """Its layers ask for the default precision themselves."""

    biased: bool = False

    @nn.compact
    def __call__(self, x):
        for width in (8, 3):
            x = nn.Dense(width, use_bias=False, precision="default")(x)
            x = nn.BatchNorm(
                use_running_average=False, epsilon=0.0, use_bias=self.biased, use_scale=False
            )(x)
            x = nn.softplus(x) if width == 8 else x
        return x


def _check(problem: sf.Problem) -> float:
    params = problem.init(jax.random.key(0))
    return sf.models.check_scale_invariance(problem, params, tolerance=1e-5)


@pytest.mark.parametrize("bits", [TF32, BFLOAT16])
def test_scale_invariance_that_precision_breaks_is_told_as_that(bits):
    module = sf.models.from_flax(_ImpreciseNet(), X, Y, dtype=SINGLE)
    lowered = sf.models.mlp(X, Y, (8,), dtype=SINGLE).at_precision("default")
    assert max(_check(module), _check(lowered)) < 1e-5  # a CPU makes them all in float32
    with rounded_products(bits):
        with pytest.raises(ValueError, match=r"precision is the cause: .*layers: leave"):
            _check(module)
        with pytest.raises(ValueError, match=r"precision is the cause: .*at_precision\('default'"):
            _check(lowered)


def test_another_cause_is_told_whatever_the_precision():
    biased = sf.models.from_flax(_ImpreciseNet(biased=True), X, Y, dtype=SINGLE)
    params = jax.tree.map(lambda leaf: leaf + 0.5, biased.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"scale of BatchNorm_0/bias, BatchNorm_1/bias\. Hold"):
        sf.models.check_scale_invariance(biased, params)
