"""Every public function with a call that it takes, and what its arguments must not be."""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from matplotlib.figure import Figure

import sharpflow as sf
from sharpflow import experiments, models, simulator, theory
from sharpflow.experiments import config, plots, problems, report

NAN, INFINITY, HUGE = float("nan"), float("inf"), 10**400


@dataclasses.dataclass(frozen=True)
class Bad:
    """What an argument must not be.

    Attributes:
      values: each of which must be refused.
    """

    values: tuple

    def also(self, *values: Any) -> "Bad":
        """With more values."""
        return Bad((*self.values, *values))

    @property
    def or_none(self) -> "Bad":
        """Of an argument that may be None."""
        return Bad(tuple(value for value in self.values if value is not None))


class _Stranger:
    """An object that nothing knows."""


NOTHING = (None, _Stranger())
SPAN = np.timedelta64(3, "s")  # an integer to numpy
MASKED = np.ma.MaskedArray([1.0, 2.0, 3.0], [False, True, False])
REAL = Bad((NAN, INFINITY, -INFINITY, 1j, "1", (1.0, 2.0), np.ones(2), HUGE, True, *NOTHING))
REAL = REAL.also(2**63, Fraction(1, 2), SPAN)
NOT_NEGATIVE = REAL.also(-1.0, -1e-300)
POSITIVE = NOT_NEGATIVE.also(0.0, 0, np.float32(0.0))
KAPPA = REAL.also(-1.0, -2.0)
SHARE = NOT_NEGATIVE.also(1.0, 2)
SINGLE = POSITIVE.also(1e300, 1e-300)  # where it becomes single precision
INTEGER = Bad((1.5, NAN, "2", 1j, (1,), HUGE, 10**30, SPAN, np.ones(2, int), *NOTHING))
COUNT = INTEGER.also(0, -1, 2**31)
SEED = INTEGER.also(-1, 2**40)
FLAG = Bad(("yes", 2, NAN, np.ones(2), *NOTHING))
CHOICE = Bad(("other", "", 3, ["dense"], {}, np.ones(2), *NOTHING))
TEXT = Bad((3, b"a", ["a"], *NOTHING))
FUNCTION = Bad((3, "f", {}, *NOTHING))
OBJECT = Bad((3, "x", {}, [], np.ones(2), *NOTHING))
PROBLEM = OBJECT.also(lambda w: w, sf.Problem)
PARAMS = Bad(
    (None, {}, [], {"w": None}, "w", b"w", 3, jnp.arange(3), jnp.ones(3, complex), object())
)
VALID_PARAMS = PARAMS.also(
    np.full(3, NAN),
    np.array([1.0, INFINITY, 0.0]),
    np.zeros(3),
    np.ones(7),
    {"other": np.ones(3)},
    np.array(["a"]),
    [np.ones(3), np.ones(3, np.float32)],
)
VECTOR = Bad((None, "x", 1.0, [], {}, [NAN], [[1.0]], [1j], [1.0, "2"], [1.0, [2.0]], [HUGE]))
TIMES = VECTOR.also([1.0, 1.0], [1.0, 0.5], [0.0, INFINITY], MASKED)
ARRAY = Bad(([NAN], INFINITY, 1j, "1", None, [1.0, [2.0]], [HUGE], object(), [True]))
DATA = Bad((None, "x", [[1.0], [2.0, 3.0]], [["a"]], object(), 3.0, [HUGE], MASKED))
INPUTS = DATA.also(np.full((4, 3), NAN), np.ones(4), np.ones((4, 3), complex), np.ones((1, 3)))
TARGETS = DATA.also(np.full(4, NAN), np.zeros(4), np.ones((2, 2, 2)), np.ones(4, complex))
DTYPE = Bad(("float16", int, complex, "x", 3, np.ones(2), _Stranger()))
PATH = Bad((3, b"run", ["run"], *NOTHING))
AX = Bad((3, "ax", [1], _Stranger()))
SIZES = Bad((None, "ab", b"x", 3, (0,), (1.5,), (-1, 2), (10**30,), [[1]], _Stranger()))
LAYERS = Bad((None, "ab", b"x", 3, (1.5,), (-1, 2), (10**30,), [[1]], _Stranger()))
GROUPS = Bad((3, "x", [], {}, {"": "*"}, {"a": 3}, {"a": []}, {"a": "nothing"}))
OBSERVABLES = Bad((3, ["other"], [3], [["loss"]], ["loss", "loss"], [None], *NOTHING))


@cache
def problem() -> sf.Problem:
    """Batch-norm linear regression with three parameters."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 3)) @ np.diag([1.0, 1.0, 0.0]) + 0.0
    return models.linear_regression(x, x @ np.array([1.0, -2.0, 0.0]))


def _solution() -> np.ndarray:
    return np.array([1.0, -2.0, 0.0]) / np.sqrt(5.0)


START = np.array([0.3, 0.5, 0.8])


@cache
def flow() -> theory.FlowSolution:
    """Two rows of a flow, as they might be."""
    return theory.FlowSolution(
        tau=jnp.array([0.0, 0.1]),
        theta=jnp.stack([jnp.asarray(_solution())] * 2),
        threshold=jnp.ones(2),
        eigenvalues=jnp.ones((2, 1)),
        edge_covariance=jnp.ones((2, 1, 1)),
        status=jnp.zeros((), jnp.int32),
        num_steps=jnp.ones((), jnp.int32),
        num_rejected=jnp.zeros((), jnp.int32),
        b=2.0,
        on_sphere=True,
    )


@cache
def trajectory() -> simulator.Trajectory:
    """Four steps with a snapshot of each."""
    return sf.simulate(problem(), START, sf.gdwd(0.1, 0.1), 4, snapshot_every=1)


@cache
def dataset() -> xarray.Dataset:
    """A grid of two points."""
    grid = {"seeds": 0, "learning_rates": [0.1, 0.2], "weight_decays": 0.1, "num_steps": 2}
    return sf.simulate_grid(problem(), **grid)


@cache
def fitted() -> xarray.Dataset:
    """A grid of two weight decays that fits its training data at its second record."""
    dims = ("seed", "learning_rate", "weight_decay", "step")
    columns = {
        name: (dims, np.broadcast_to([0.5, last, last], (1, 1, 2, 3)))
        for name, last in {"train_accuracy": 1.0, "test_accuracy": 0.6, "threshold": 2.0}.items()
    }
    status = {"status": (dims[:3], np.zeros((1, 1, 2), int))}
    values = {"seed": [0], "learning_rate": [0.1], "weight_decay": [0.0, 0.1], "step": range(3)}
    return xarray.Dataset(columns | status, values)


@cache
def comparison() -> xarray.Dataset:
    """What compare returns, as far as figures need it."""
    names = ("sharpness", "threshold", "predicted_sharpness", "predicted_threshold")
    columns = dict.fromkeys((*names, "loss_mean", "predicted_loss"), ("tau", np.ones(2)))
    attributes = {"predicted_entry_step": 1.0, "intrinsic_rate": 0.1}
    return xarray.Dataset(columns, {"tau": [0.0, 0.1]}, attributes)


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a public function.

    Attributes:
      good: makes arguments that it takes, by name.
      bad: what each argument must not be.
      free: arguments that may be anything, or that are looked at by others.
    """

    good: Callable[[], Mapping[str, Any]]
    bad: Mapping[str, Bad]
    free: tuple[str, ...] = ()


X = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
Y = np.array([0, 1, 0, 1])
IMAGES = np.random.default_rng(2).normal(size=(4, 32, 32, 1))
RATES = {"learning_rate": POSITIVE, "weight_decay": NOT_NEGATIVE.also(20.0)}
METHOD = {"method": CHOICE}
# of a rate over flow time
BAD_COURSES = (
    ([0.0, 1.0], [0.1]),
    ([0.0, 1.0], [0.1, 0.0]),
    ([0.0, 1.0], [0.1, NAN]),
    ([1.0, 0.0], [0.1, 0.1]),
    [[0.0, 1.0]],
)
_MATRIX = {
    "matrix": CHOICE,
    "preconditioner": PARAMS.or_none.also(np.ones(4), -START, {"w": START}),
}
GRID = {"seeds": 0, "learning_rates": 0.1, "weight_decays": 0.1, "num_steps": 4}
SMALL_PLOT = {"dataset": dataset, "name": lambda: "loss"}


def _grid(**more: Any) -> dict[str, Any]:
    return {"problem": problem(), **GRID, **more}


def _images() -> dict[str, Any]:
    return {"x": IMAGES, "y": Y}


def _flow_arguments() -> dict[str, Any]:
    return {"problem": problem(), "theta0": _solution(), "tau": [0.0, 0.1]}


_NETWORK = {
    "x": INPUTS,
    "y": TARGETS,
    "normalization": CHOICE,
    "activation": CHOICE,
}
_OPTIONS = {
    "head": CHOICE.or_none,
    "num_groups": COUNT,
    "loss": CHOICE,
    "logit_scale": POSITIVE.also(2.0),
    "test": Bad((3, "xy", (X,), (X, Y, X))),
    "micro_batch": COUNT.or_none,
    "devices": Bad((3, "cpu", [1], [])),
    "fixed_seed": SEED,
    "dtype": DTYPE,
}
_FLOW = {
    "problem": PROBLEM,
    "theta0": VALID_PARAMS.also(2.0 * START),
    "tau": TIMES,
    "b": POSITIVE,
    "kappa": KAPPA,
}
_STEPS = {
    "max_edge": COUNT,
    "rtol": POSITIVE,
    "step_size": POSITIVE.or_none,
    "max_steps": COUNT,
    "throw": FLAG,
}
_WATCHED = {"max_seconds": POSITIVE.or_none, "progress": FLAG.or_none}
_TRACKED = {"k": COUNT, "every": COUNT, "tolerance": POSITIVE.or_none}
_SIMULATED = {
    "observables": OBSERVABLES,
    "snapshot_every": COUNT.or_none,
    "effective_learning_rate": FUNCTION.or_none,
    "matmul_precision": CHOICE,
    "record_at": Bad((3, "x", [], [1.5], [3, 1], [-1], [99], [[1]], [NAN])),
}
_AXIS = Bad((NAN, -1.0, 1j, "x", [], [NAN], ["a"], [0.1, 0.1], [None], [HUGE], None, INFINITY))
_GRID = {
    **_SIMULATED,
    "problem": PROBLEM,
    "seeds": Bad((-1, 1.5, "0", [], [0, 0], [NAN], None, 10**30, 1j)),
    "learning_rates": _AXIS.also(0.0, [0.1, 0.0]),
    "weight_decays": _AXIS,
    "num_steps": COUNT,
    "tau": POSITIVE.or_none,
    "record_every": COUNT.or_none,
    "num_records": COUNT.or_none.also(99),
    "final_params": FLAG,
    "final_state": FLAG,
    "fork": OBJECT.or_none.also("runs/a"),
    "optimizer": FUNCTION,
    "start": FUNCTION.or_none,
    "axes": Bad((3, "a", [1], {"a b": [1]}, {"step": [1]}, {3: [1]}, {"u": 3}, {"u": []})),
    "devices": Bad((3, "cpu", [1], [])),
    "group_width": COUNT.or_none,
    "lanes": CHOICE.or_none,
}
_PLOTTED = {
    "dataset": OBJECT.also(
        xarray.Dataset(),
    ),
    "name": TEXT,
}
_RECORD = OBJECT.also(
    xarray.Dataset(),
)
_BANDS = {
    **_PLOTTED,
    "over": CHOICE,
    "against": CHOICE.or_none,
    "title": TEXT,
    "most_lines": COUNT,
    "before": _RECORD.or_none,
}
_LEVEL = POSITIVE.also(1.5)
_SPHERE = Bad(("x", 3.0, np.ones(3), np.ones((2, 2)), np.ones((0, 3)), np.full((2, 3), INFINITY)))
_POINTS = np.eye(3)
_SAME_LENGTH = Bad((*VECTOR.values[:3], [1j, 1j], [[1.0], [2.0]], [1.0], [INFINITY, 1.0]))
_CIFAR = {
    "root": PATH,
    "num_images": COUNT.or_none,
    "num_test_images": COUNT.or_none,
    "held_out": CHOICE,
    "sample_seed": SEED,
    "download": FLAG,
}
_DENSE = {
    "root": PATH,
    "num_images": COUNT,
    "download": FLAG,
    "pool": COUNT,
    "activation": CHOICE,
}
# Handed on to ``models.vgg11`` and ``models.resnet20``, once there are data.
_HANDED_ON = (
    *("width", "normalization", "activation", "pooling", "head", "num_groups", "loss"),
    *("label_smoothing", "logit_scale", "micro_batch", "dtype"),
)
_STANDARDIZE = Bad((3, "x", (1,), ([1j], [1.0]), ([NAN], [1.0]), ([0.0], [0.0])))
NETWORK = partial(models.RandomNetwork, (3, 4, 2))

CALLS: dict[str, Call] = {
    # theory
    "sharpflow.theory.effective_learning_rate": Call(
        lambda: {"norm_squared": 1.0, "learning_rate": 0.1, "weight_decay": 0.1},
        {
            "norm_squared": Bad((0.0, -1.0, INFINITY, 1j, "1", None, [1.0, -1.0], HUGE, True)),
            "learning_rate": Bad((0.0, -1.0, INFINITY, 1j, "1", None, HUGE)),
            "weight_decay": Bad((-1.0, INFINITY, 1j, "1", None, HUGE, 10.0)),
        },
    ),
    "sharpflow.theory.threshold": Call(
        lambda: {"effective_rate": 0.1},
        {"effective_rate": Bad((-1.0, INFINITY, 1j, "1", None, [-1.0], HUGE, True))},
    ),
    "sharpflow.theory.edge_ratio": Call(
        lambda: {"effective_rate": 0.1, "sharpness": 1.0},
        {
            "effective_rate": Bad((-1.0, INFINITY, 1j, "1", None, [-1.0], HUGE)),
            "sharpness": Bad((INFINITY, 1j, "1", None, HUGE)),
        },
    ),
    "sharpflow.theory.edge_entry_step": Call(
        lambda: {"norm_squared": 1.0, "sharpness": 1.0, "learning_rate": 0.1, "weight_decay": 0.1},
        {"norm_squared": POSITIVE, "sharpness": POSITIVE, **RATES, "step": REAL},
    ),
    "sharpflow.theory.entry_delay": Call(
        lambda: {"intrinsic_rate": 1e-3, "amplitude": 0.1, "equilibrium_amplitude": 0.2},
        {
            "intrinsic_rate": POSITIVE,
            "amplitude": POSITIVE.also(0.3),
            "equilibrium_amplitude": POSITIVE.also(0.1),
            "b": POSITIVE.also(1e-321),
        },
    ),
    "sharpflow.theory.predicted_loss": Call(
        lambda: {"flow": flow(), "intrinsic_rate": 0.1},
        {"flow": OBJECT, "intrinsic_rate": POSITIVE},
    ),
    "sharpflow.theory.predicted_step_angle": Call(
        lambda: {"flow": flow(), "intrinsic_rate": 0.1},
        {"flow": OBJECT, "intrinsic_rate": POSITIVE},
    ),
    "sharpflow.theory.start_at_edge": Call(
        lambda: {
            "problem": problem(),
            "theta0": _solution(),
            "learning_rate": 0.1,
            "weight_decay": 0.1,
        },
        {
            "problem": PROBLEM,
            "theta0": VALID_PARAMS.also(2.0 * START),
            **RATES,
            "perturbation": NOT_NEGATIVE,
        },
    ),
    "sharpflow.theory.solve_edge_program": Call(
        lambda: {"gradient_gram": np.ones((1, 1)), "drive": np.ones((1, 1))},
        {
            "gradient_gram": ARRAY.also(np.ones((2, 2)), [[NAN]], [[-1.0]], [1.0], [[INFINITY]]),
            "drive": ARRAY.also(np.ones((2, 1)), [[NAN]], [1.0], np.ones((0, 0)), [[INFINITY]]),
            "b": NOT_NEGATIVE,
            "tolerance": NOT_NEGATIVE,
        },
    ),
    "sharpflow.theory.sharpness_flow": Call(
        _flow_arguments,
        {
            **_FLOW,
            **_STEPS,
            **METHOD,
            "threshold0": POSITIVE.or_none,
            "edge_dimension": COUNT.or_none.also(99),
            "on_sphere": FLAG,
            "log_rate": Bad(
                (3, "x", [], [[0.0, 1.0]], ([0.0], [1.0]), ([0.0, 1.0], [0.0]), _Stranger())
            ).also(
                ([1.0, 0.0], [0.0, 0.0]), ([0.0, 0.0, 0.0], [0.0, 1.0, 2.0]), ([0.0, NAN], [0.0, 0])
            ),
            **_WATCHED,
        },
    ),
    "sharpflow.theory.central_flow": Call(
        lambda: {
            "problem": problem(),
            "params": START,
            "learning_rate": 0.1,
            "weight_decay": 0.1,
            "tau": [0.0, 0.1],
        },
        {
            "problem": PROBLEM,
            "params": VALID_PARAMS,
            "learning_rate": POSITIVE.also(*BAD_COURSES),
            "weight_decay": NOT_NEGATIVE.also(20.0, *BAD_COURSES),
            "tau": TIMES,
            **_STEPS,
            "max_edge": COUNT.or_none,
            "edge": FLAG,
            "keep_eigenvectors": FLAG,
            "intrinsic_rate": POSITIVE.or_none,
            "step_correction": FLAG,
            **_WATCHED,
        },
    ),
    "sharpflow.theory.single_edge_flow": Call(
        _flow_arguments, {**_FLOW, "max_step": POSITIVE.also(1e-300, 1e-12)}
    ),
    "sharpflow.theory.single_edge_velocity": Call(
        lambda: {"problem": problem(), "theta": _solution()},
        {"problem": PROBLEM, "theta": PARAMS, "b": POSITIVE, "kappa": KAPPA},
    ),
    "sharpflow.theory.period_two": Call(
        lambda: {"problem": problem(), "theta": _solution()},
        {"problem": PROBLEM, "theta": VALID_PARAMS},
    ),
    "sharpflow.theory.settled_excess": Call(
        lambda: {"excess": 0.1, "damping": 1.0, "drift": 1.0},
        dict.fromkeys(("excess", "damping", "drift"), POSITIVE),
    ),
    "sharpflow.theory.retract": Call(
        lambda: {"problem": problem(), "params": START},
        {
            "problem": PROBLEM,
            "params": VALID_PARAMS,
            "on_sphere": FLAG,
            **METHOD,
            "progress": FLAG.or_none,
        },
    ),
    "sharpflow.theory.retract_with_status": Call(
        lambda: {"problem": problem(), "params": START},
        {"problem": PROBLEM, "params": PARAMS, "on_sphere": FLAG, **METHOD},
    ),
    "sharpflow.theory.tangent_projection": Call(
        lambda: {"problem": problem(), "theta": _solution(), "vector": START},
        {
            "problem": PROBLEM,
            "theta": PARAMS,
            "vector": PARAMS.also(np.ones(4), {"w": START}),
            "on_sphere": FLAG,
            **METHOD,
        },
    ),
    "sharpflow.theory.linearize": Call(
        lambda: {"residual": problem().residual, "theta": START},
        {"residual": FUNCTION, "theta": VECTOR, **METHOD},
    ),
    "sharpflow.theory.spherical_sharpness": Call(
        lambda: {"problem": problem(), "params": START},
        {"problem": PROBLEM, "params": VALID_PARAMS, "k": COUNT.also(4), **METHOD},
    ),
    "sharpflow.theory.top_eigenpairs": Call(
        lambda: {"problem": problem(), "params": START},
        {
            "problem": PROBLEM,
            "params": PARAMS,
            "k": COUNT.also(4),
            "tolerance": POSITIVE.or_none.also(1e-30),
            "stop": CHOICE,
            **METHOD,
            "start": PARAMS.or_none.also(np.ones(4), {"w": START}),
            "basis_size": COUNT.or_none,
            "wanted": FLAG.or_none,
            "seed": INTEGER,
            **_MATRIX,
        },
    ),
    "sharpflow.theory.block_eigenpairs": Call(
        lambda: {"problem": problem(), "params": START},
        {
            "problem": PROBLEM,
            "params": PARAMS,
            "k": COUNT.also(4),
            "groups": GROUPS,
            **_MATRIX,
            "tolerance": POSITIVE.or_none.also(1e-30),
            "start": Bad((3, "x", [START], {"w": START}, {"w": None})),
            "seed": INTEGER,
        },
    ),
    "sharpflow.theory.spectral_density": Call(
        lambda: {"problem": problem(), "params": START},
        {
            "problem": PROBLEM,
            "params": PARAMS,
            **_MATRIX,
            "num_vectors": COUNT,
            "degree": COUNT.also(1),
            "width": POSITIVE.or_none,
            "points": Bad((3.0, "x", [NAN], [INFINITY], [[1.0]], [1j], {}, _Stranger())),
            "seed": INTEGER,
        },
    ),
    "sharpflow.theory.trace": Call(
        lambda: {"problem": problem(), "params": START},
        {
            "problem": PROBLEM,
            "params": PARAMS,
            **_MATRIX,
            "num_products": COUNT.also(11),
            "seed": INTEGER,
        },
    ),
    "sharpflow.theory.fisher_spectrum": Call(
        lambda: {"outputs": problem().residual, "params": START},
        {
            "outputs": FUNCTION,
            "params": PARAMS,
            "k": COUNT.also(9),
            **METHOD,
            "tolerance": POSITIVE.or_none.also(1e-30),
            "basis_size": COUNT.or_none,
            "num_probes": INTEGER.also(-1),
        },
    ),
    "sharpflow.theory.fisher_prediction": Call(
        lambda: {"network": NETWORK(), "num_samples": 4},
        {"network": OBJECT, "num_samples": COUNT.also(1)},
    ),
    "sharpflow.theory.order_parameters": Call(lambda: {"network": NETWORK()}, {"network": OBJECT}),
    "sharpflow.theory.exact.minimum_norm_direction": Call(
        lambda: {"x": X, "y": X[:, 0]},
        {
            "x": ARRAY.also(np.full((4, 3), NAN), np.ones(4)),
            "y": VECTOR.also(np.ones(4), np.ones(3)),
        },
    ),
    "sharpflow.theory.exact.angle_to_span": Call(
        lambda: {"theta": START, "x": X},
        {
            "theta": ARRAY.also(1.0, np.ones(2), np.full(3, NAN)),
            "x": ARRAY.also(
                np.ones(3),
            ),
        },
    ),
    "sharpflow.theory.exact.linear_regression_angle": Call(
        lambda: {"angle0": 0.5, "tau": 1.0},
        {"angle0": ARRAY.also(-0.1, 1.6), "tau": ARRAY, "b": POSITIVE, "kappa": KAPPA},
    ),
    "sharpflow.theory.exact.linear_regression_sharpness": Call(
        lambda: {"sharpness0": 1.0, "angle0": 0.5, "tau": 1.0},
        {
            "sharpness0": ARRAY.also(0.0, -1.0),
            "angle0": ARRAY.also(-0.1, 1.6),
            "tau": ARRAY,
            "b": POSITIVE,
            "kappa": KAPPA,
        },
    ),
    "sharpflow.theory.exact.time_to_lower": Call(
        lambda: {"fall": 0.1, "inverse_squares": 0.1},
        {"fall": ARRAY, "inverse_squares": ARRAY.also(-1.0), "b": POSITIVE, "kappa": KAPPA},
    ),
    # models
    "sharpflow.models.batch_normalize": Call(
        lambda: {"x": X},
        {"x": Bad((None, "x", object(), 3.0, [], [["a"]])), "epsilon": NOT_NEGATIVE},
    ),
    "sharpflow.models.check_scale_invariance": Call(
        lambda: {"problem": problem(), "params": START},
        {
            "problem": PROBLEM,
            "params": VALID_PARAMS,
            "num_scales": COUNT,
            "max_scale": REAL.also(1.0, 0.0),
            "tolerance": POSITIVE.or_none,
            "seed": SEED,
        },
    ),
    # as ``jax.lax.conv_general_dilated``, which says what it does not take
    "sharpflow.models.conv_general_dilated": Call(
        dict, {}, free=("lhs", "rhs", "window_strides", "padding", "args", "kwargs")
    ),
    "sharpflow.models.data.digits": Call(
        dict,
        {
            "num_images": COUNT.or_none.also(10**6),
            "offset": INTEGER.also(-1, 10**6),
            "classes": Bad((None, 3, "12", (), (10,), (1, 1), (1.5,), ("1",))),
        },
    ),
    "sharpflow.models.from_flax": Call(
        lambda: {"module": nn.Dense(1), "x": X, "y": X[:, 0], "scale_invariant": False},
        {
            "module": OBJECT,
            "x": INPUTS,
            "y": TARGETS,
            "loss": CHOICE,
            "test": Bad((3, "xyz", (X,), (X, Y, X))),
            "apply_kwargs": Bad((3, "x", [1])),
            "fixed": Bad((None, 3, "other", [3], ["other"])),
            "fixed_seed": SEED,
            "micro_batch": COUNT.or_none,
            "devices": Bad((3, "cpu", [1], [])),
            "dtype": DTYPE,
            "scale_invariant": FLAG.or_none,
            "label_smoothing": REAL,
            "metrics": Bad((3, [np.sum], {"mine": 3}, {"loss": np.sum}, {3: np.sum})),
        },
    ),
    "sharpflow.models.linear_regression": Call(
        lambda: {"x": X, "y": X[:, 0]},
        {
            "x": INPUTS,
            "y": TARGETS.also(
                np.ones(3),
            ),
            "dtype": DTYPE,
        },
    ),
    "sharpflow.models.matrix_completion": Call(
        lambda: {"shape": (4, 4), "rank": 1},
        {
            "matrix": DATA.or_none.also(np.full((3, 3), NAN), np.ones((3, 3)), np.ones(3)),
            "observed": DATA.or_none.also(np.ones((4, 4)), np.ones((4, 4), bool), np.ones(3, bool)),
            "shape": SIZES.also((1, 4), (4, 4, 4)),
            "rank": COUNT,
            "width": COUNT.or_none,
            "observed_fraction": REAL.also(0.0, 1.0),
            "seed": SEED,
            "init_scale": POSITIVE,
            "dtype": DTYPE,
        },
    ),
    "sharpflow.models.mlp": Call(
        lambda: {"x": X, "y": Y, "widths": (4,)},
        {**_NETWORK, **_OPTIONS, "widths": SIZES, "label_smoothing": REAL},
    ),
    "sharpflow.models.normalized": Call(
        lambda: {"layer": nn.Dense(2), "kind": "batch"},
        {"layer": FUNCTION, "kind": CHOICE, "epsilon": NOT_NEGATIVE, "num_groups": COUNT},
    ),
    "sharpflow.models.random_network": Call(
        lambda: {"x": X, "widths": (4,), "num_outputs": 2},
        {
            "x": INPUTS,
            "widths": SIZES,
            "num_outputs": COUNT,
            "y": Bad(("x", 3.0, np.ones((4, 3)), np.full((4, 2), NAN))),
            "normalization": CHOICE,
            "output_normalization": CHOICE,
            "activation": CHOICE,
            "weight_variance": POSITIVE,
            "bias_variance": NOT_NEGATIVE,
            "dtype": DTYPE,
        },
    ),
    "sharpflow.models.resnet20": Call(_images, {**_NETWORK, "width": POSITIVE}, free=("options",)),
    "sharpflow.models.vgg11": Call(
        _images, {**_NETWORK, "width": POSITIVE, "pooling": CHOICE}, free=("options",)
    ),
    "sharpflow.models.vgg": Call(
        _images, {**_NETWORK, "channels": LAYERS, "pooling": CHOICE}, free=("options",)
    ),
    "sharpflow.models.transformer": Call(
        _images,
        {
            **_NETWORK,
            "width": COUNT.also(6),
            "depth": COUNT,
            "num_heads": COUNT,
            "hidden_ratio": COUNT,
            "patch": COUNT,
        },
        free=("options",),
    ),
    "sharpflow.models.vit_small": Call(
        _images,
        {**_NETWORK, "width": POSITIVE, "depth": COUNT, "patch": COUNT},
        free=("options",),
    ),
    "sharpflow.models.smallest_label_smoothing": Call(
        lambda: {"num_classes": 10},
        {"num_classes": COUNT.also(1), "logit_scale": POSITIVE},
    ),
    "sharpflow.models.smallest_logit_scale": Call(
        lambda: {"num_classes": 10, "label_smoothing": 0.1},
        {"num_classes": COUNT.also(1), "label_smoothing": SHARE.also(0.0)},
    ),
    "sharpflow.models.smoothed_targets": Call(
        lambda: {"y": Y, "label_smoothing": 0.1, "dtype": np.dtype(np.float64)},
        {
            "y": DATA.also(np.ones(4), np.zeros(4, int)),
            "label_smoothing": SHARE.also(0.0),
            "dtype": DTYPE,
            "name": TEXT,
        },
        free=("classes",),
    ),
    "sharpflow.models.standardized_targets": Call(
        lambda: {"y": Y, "dtype": np.dtype(np.float64)},
        {
            "y": TARGETS.also(
                np.full(4, 1e200) * [1, 2, 3, 4],
            ),
            "dtype": DTYPE,
            "name": TEXT,
        },
    ),
    "sharpflow.models.validate_params": Call(
        lambda: {"problem": problem(), "params": START},
        {"problem": PROBLEM, "params": VALID_PARAMS},
        free=("name",),
    ),
    "sharpflow.models.data.arrays": Call(
        lambda: {"images": IMAGES, "labels": Y},
        {
            "images": DATA.also(np.full((4, 3), NAN), np.ones((4, 3), int), np.ones((0, 3))),
            "labels": DATA.also(np.ones(4), -np.ones(4, int), np.ones(3, int)),
            "classes": Bad((0, -1, "ab", (), 1.5, NAN)),
            "standardize": _STANDARDIZE,
            "dtype": DTYPE,
            "name": TEXT,
        },
    ),
    "sharpflow.models.data.cifar10": Call(
        lambda: {"root": "nowhere"},
        {"root": PATH, "download": FLAG},
        free=("standardize", "dtype"),  # of the images, once there are files
    ),
    "sharpflow.models.data.cifar100": Call(
        lambda: {"root": "nowhere"},
        {"root": PATH, "labels": CHOICE, "download": FLAG},
        free=("standardize", "dtype"),
    ),
    "sharpflow.models.data.fashion_mnist": Call(
        lambda: {"root": "nowhere"},
        {"root": PATH, "download": FLAG},
        free=("standardize", "dtype"),
    ),
    "sharpflow.models.data.npz": Call(
        lambda: {"path": "nowhere.npz"},
        {"path": PATH},
        free=("train", "test", "classes", "standardize", "dtype"),
    ),
    # simulator
    "sharpflow.simulator.gdwd": Call(lambda: {"learning_rate": 0.1, "weight_decay": 0.1}, RATES),
    "sharpflow.simulator.momentum": Call(
        lambda: {"learning_rate": 0.1, "weight_decay": 0.1}, {**RATES, "beta": SHARE}
    ),
    "sharpflow.simulator.step_decay": Call(
        lambda: {"rate": 0.1, "at": [3, 6], "factor": 0.5},
        {
            "rate": POSITIVE,
            "at": Bad((None, 3, "3", [], [0], [3, 3], [1.5], [NAN], np.ones(2), _Stranger())),
            "factor": POSITIVE,
        },
    ),
    "sharpflow.simulator.linear_decay": Call(
        lambda: {"rate": 0.1, "num_steps": 10},
        {"rate": POSITIVE, "num_steps": COUNT, "final_share": NOT_NEGATIVE.also(1.5)},
    ),
    "sharpflow.simulator.cosine_decay": Call(
        lambda: {"rate": 0.1, "num_steps": 10},
        {"rate": POSITIVE, "num_steps": COUNT, "final_share": NOT_NEGATIVE.also(1.5)},
    ),
    "sharpflow.simulator.warmup": Call(
        lambda: {"rate": 0.1, "num_steps": 10}, {"rate": POSITIVE, "num_steps": COUNT}
    ),
    "sharpflow.simulator.warmup_stable_decay": Call(
        lambda: {"rate": 0.1, "num_steps": 10, "warmup_steps": 3, "decay_steps": 3},
        {
            "rate": POSITIVE,
            "num_steps": COUNT.also(5),
            "warmup_steps": COUNT.also(8),
            "decay_steps": COUNT.also(8),
            "final_share": NOT_NEGATIVE.also(1.5),
        },
    ),
    "sharpflow.simulator.sam": Call(
        lambda: {"learning_rate": 0.1, "weight_decay": 0.1}, {**RATES, "rho": POSITIVE}
    ),
    "sharpflow.simulator.quasi_rmsprop": Call(
        lambda: {"learning_rate": 0.1},
        {
            "learning_rate": POSITIVE.also(1.0, 1e308),
            "b": POSITIVE.also(100.0),
            "v0": POSITIVE.or_none,
            "on_sphere": FLAG,
        },
    ),
    "sharpflow.simulator.rmsprop": Call(
        lambda: {"learning_rate": 0.1},
        {
            "learning_rate": POSITIVE,
            "decay": SHARE,
            "epsilon": POSITIVE,
            "initial_scale": NOT_NEGATIVE,
        },
    ),
    "sharpflow.simulator.projected_gd": Call(
        lambda: {"effective_learning_rate": 0.1}, {"effective_learning_rate": POSITIVE}
    ),
    "sharpflow.simulator.ire": Call(
        lambda: {
            "base": sf.gdwd(0.1, 0.1),
            "kappa": 1.0,
            "projection": simulator.tangent_at_manifold(problem()),
        },
        {"base": OBJECT, "kappa": NOT_NEGATIVE, "projection": OBJECT},
    ),
    "sharpflow.simulator.tangent_at_manifold": Call(
        lambda: {"problem": problem()},
        {"problem": PROBLEM, "on_sphere": FLAG.or_none, **METHOD},
    ),
    "sharpflow.simulator.outside_edge_space": Call(
        lambda: {"problem": problem(), "k": 1},
        {"problem": PROBLEM, "k": COUNT, "on_sphere": FLAG.or_none, **METHOD},
    ),
    "sharpflow.simulator.flattest_coordinates": Call(
        lambda: {"problem": problem()},
        {
            "problem": PROBLEM,
            "share": POSITIVE.also(1.5),
            "refresh_every": COUNT,
            "decay": SHARE,
            "num_probes": COUNT,
            "radial": FLAG,
            "seed": SEED,
        },
    ),
    "sharpflow.simulator.sharpness": Call(dict, {**_TRACKED, "at": CHOICE}),
    "sharpflow.simulator.hessian_sharpness": Call(dict, _TRACKED),
    "sharpflow.simulator.preconditioned_sharpness": Call(dict, _TRACKED),
    "sharpflow.simulator.log_spaced": Call(
        lambda: {"num_steps": 10, "count": 3}, {"num_steps": COUNT, "count": COUNT}
    ),
    "sharpflow.simulator.simulate": Call(
        lambda: {
            "problem": problem(),
            "params": START,
            "optimizer": sf.gdwd(0.1, 0.1),
            "num_steps": 4,
        },
        {
            **_SIMULATED,
            "problem": PROBLEM,
            "params": VALID_PARAMS,
            "optimizer": OBJECT.also(optax.sgd, sf.gdwd),
            "num_steps": COUNT,
            "record_every": COUNT,
            "progress": FLAG.or_none,
        },
    ),
    "sharpflow.simulator.simulate_grid": Call(
        _grid,
        {
            **_GRID,
            "out": PATH.or_none,
            "resume": FLAG,
            "predict": FLAG.also({"rtol": 0.0}, {"x": 1}),
            "processes": OBJECT.or_none,
            "progress": FLAG.or_none,
        },
    ),
    "sharpflow.simulator.plan_grid": Call(_grid, _GRID),
    "sharpflow.simulator.grid_point": Call(
        lambda: {"grid": dataset(), "problem": problem(), "learning_rate": 0.1},
        {"grid": _RECORD, "problem": PROBLEM, "optimizer": FUNCTION},
        free=("point",),
    ),
    "sharpflow.simulator.open_run": Call(
        lambda: {"folder": "nowhere"}, {"folder": PATH, "verify": FLAG}
    ),
    "sharpflow.simulator.load": Call(
        lambda: {"path": "nowhere"}, {"path": PATH.also("nowhere.nc"), "like": PARAMS.or_none}
    ),
    "sharpflow.simulator.join_processes": Call(
        lambda: {"coordinator": "localhost:1", "num_processes": 1, "process_id": 0},
        {
            "coordinator": TEXT,
            "num_processes": COUNT,
            "process_id": INTEGER.also(-1, 1),
        },
    ),
    "sharpflow.simulator.concatenate": Call(
        lambda: {"first": trajectory(), "second": trajectory()},
        {"first": OBJECT, "second": OBJECT},
    ),
    "sharpflow.simulator.project_snapshots": Call(
        lambda: {"problem": problem(), "params": START[None]},
        {
            "problem": PROBLEM,
            "params": PARAMS,
            "k": COUNT,
            "on_sphere": FLAG,
            "progress": FLAG.or_none,
        },
    ),
    "sharpflow.simulator.predict": Call(
        lambda: {"problem": problem(), "trajectory": trajectory()},
        {
            "problem": PROBLEM,
            "trajectory": OBJECT,
            "kind": CHOICE.or_none,
            "arrival_step": INTEGER.or_none.also(99),
            "arrival_distance": POSITIVE,
            "num_outputs": COUNT,
            "max_edge": COUNT,
            "rtol": POSITIVE,
            "max_steps": COUNT,
            **METHOD,
            "throw": FLAG,
            **_WATCHED,
        },
    ),
    "sharpflow.simulator.predict_grid": Call(
        lambda: {"problem": problem(), "grid": dataset()},
        {
            "problem": PROBLEM,
            "grid": _RECORD,
            "optimizer": FUNCTION,
            "out": PATH.or_none,
            "kind": CHOICE.or_none,
            "arrival_distance": POSITIVE,
            "num_outputs": COUNT,
            "max_edge": COUNT,
            "rtol": POSITIVE,
            "max_steps": COUNT,
            **METHOD,
            "workers": COUNT.or_none,
            **_WATCHED,
        },
    ),
    "sharpflow.simulator.compare": Call(
        lambda: {"trajectory": trajectory(), "flow": flow(), "problem": problem()},
        {
            "trajectory": OBJECT,
            "flow": OBJECT,
            "problem": PROBLEM,
            "settle_tau": NOT_NEGATIVE,
            "progress": FLAG.or_none,
        },
    ),
    "sharpflow.simulator.comparison_summary": Call(
        lambda: {"comparison": sf.compare(trajectory(), flow(), problem())},
        {"comparison": OBJECT},
    ),
    "sharpflow.simulator.measure_layers": Call(
        lambda: {"trajectory": trajectory(), "problem": problem(), "flow": flow()},
        {
            "trajectory": OBJECT,
            "problem": PROBLEM,
            "flow": OBJECT.or_none,
            "groups": GROUPS,
            "k": Bad((-1, 0.5, None, "x", 10**9)),
            "blocks": FLAG,
        },
    ),
    "sharpflow.simulator.measure_spectra": Call(
        lambda: {
            "trajectory": trajectory(),
            "problem": problem(),
            "num_vectors": 2,
            "num_products": 12,
        },
        {
            "trajectory": OBJECT,
            "problem": PROBLEM,
            "k": Bad((-1, 0.5, None, "x", 10**9)),
            "groups": GROUPS,
            "matrix": CHOICE,
            "num_vectors": COUNT,
            "degree": COUNT.also(1),
            "width": POSITIVE.or_none,
            "points": Bad((3.0, "x", [NAN], [INFINITY], [[1.0]], [1j], {}, _Stranger())),
            "num_products": COUNT.also(11),
            "seed": INTEGER,
        },
    ),
    "sharpflow.simulator.measure_oscillation": Call(
        lambda: {
            "trajectory": trajectory(),
            "flow": flow(),
            "problem": problem(),
            "windows": [(0.0, 0.05)],
        },
        {
            "trajectory": OBJECT,
            "flow": OBJECT,
            "problem": PROBLEM,
            "windows": Bad(
                (None, [], 3, "x", [(0.1, 0.0)], [(NAN, 1.0)], [(0.0, 1.0, 2.0)], [(8.0, 9.0)])
            ),
        },
    ),
    # experiments
    "sharpflow.experiments.generalization": Call(
        lambda: {"dataset": fitted()}, {"dataset": _RECORD, "level": _LEVEL}
    ),
    "sharpflow.experiments.generalization_summary": Call(
        lambda: {"dataset": fitted()}, {"dataset": _RECORD, "level": _LEVEL}
    ),
    "sharpflow.experiments.plots.angle": Call(
        lambda: dict.fromkeys(("tau", "exact", "flow", "measured"), np.arange(2.0)),
        {"ax": AX} | dict.fromkeys(("tau", "exact", "flow", "measured"), _SAME_LENGTH),
    ),
    "sharpflow.experiments.plots.basis_from": Call(
        lambda: {"flow_points": _POINTS},
        {
            "flow_points": PARAMS.also(
                np.ones((2, 2)),
            )
        },
    ),
    "sharpflow.experiments.plots.edge_eigenvalues": Call(
        lambda: {"flow": flow()},
        {"flow": OBJECT, "measured": _RECORD.or_none, "ax": AX},
    ),
    "sharpflow.experiments.plots.edge_of_stability": Call(
        lambda: {"trajectory": trajectory()},
        {
            "trajectory": _RECORD.also(
                trajectory(),
            ),
            "ax": AX,
            "entry_step": REAL.or_none,
        },
    ),
    "sharpflow.experiments.plots.generalization_panel": Call(
        lambda: {"dataset": fitted()},
        {
            "dataset": _RECORD,
            "axes": Bad((3, [1, 2], "ab", [], [None], np.ones(2), [Figure().add_subplot()])),
            "level": _LEVEL,
        },
    ),
    "sharpflow.experiments.plots.heat_map": Call(
        lambda: {"dataset": dataset(), "name": "loss"}, {**_PLOTTED, "ax": AX}
    ),
    "sharpflow.experiments.plots.heat_maps": Call(
        lambda: {"dataset": dataset(), "name": "loss"}, _PLOTTED
    ),
    "sharpflow.experiments.plots.layer_angles": Call(
        lambda: {"layers": sf.simulator.measure_layers(trajectory(), problem())},
        {"layers": _RECORD, "ax": AX, "window": COUNT},
    ),
    "sharpflow.experiments.plots.mean_loss": Call(
        lambda: {"comparison": comparison()}, {"comparison": _RECORD, "ax": AX}
    ),
    "sharpflow.experiments.plots.metric": Call(
        lambda: {"trajectory": trajectory(), "name": "loss"},
        {
            "trajectory": _RECORD,
            "name": TEXT,
            "predicted": Bad((3, "xy", (1.0, 2.0), ([1.0], [1.0, 2.0]))),
            "ax": AX,
            "other": _RECORD.or_none,
            "clock": POSITIVE.or_none,
            "log": FLAG,
            "label": TEXT.or_none,
            "other_label": TEXT.or_none,
        },
    ),
    "sharpflow.experiments.plots.outcome_map": Call(
        lambda: {"dataset": dataset()}, {"dataset": _RECORD, "ax": AX}
    ),
    "sharpflow.experiments.plots.outcome_maps": Call(
        lambda: {"dataset": dataset()}, {"dataset": _RECORD}
    ),
    "sharpflow.experiments.plots.panel": Call(
        lambda: {"trajectory": trajectory(), "flow": flow()},
        {
            "trajectory": _RECORD,
            "flow": OBJECT.or_none,
            "axes": Bad((3, [1, 2], "ab", [], [None], np.ones(2))),
            "comparison": _RECORD.or_none,
            "problem": OBJECT.or_none,
            "columns": Bad((3, "loss", [], [1], [[]], [["loss", 1]], ["none of these"])),
            "against": CHOICE.or_none,
        },
    ),
    "sharpflow.experiments.plots.plot_grid": Call(
        lambda: {"dataset": dataset(), "folder": "figures"},
        {"dataset": _RECORD, "folder": PATH, "suffix": CHOICE, "before": _RECORD.or_none},
    ),
    "sharpflow.experiments.plots.prediction_panel": Call(
        lambda: {
            "comparison": comparison(),
            "flow": flow(),
            "trajectory": trajectory(),
            "without_decay": trajectory(),
            "predicted": ([0.0], [1.0]),
            "name": "loss",
        },
        {
            "comparison": _RECORD,
            "flow": OBJECT.or_none,
            "trajectory": _RECORD,
            "without_decay": _RECORD,
            "predicted": Bad((3, "xy", (1.0, 2.0), ([1.0], [1.0, 2.0]), None)),
            "name": TEXT,
            "log": FLAG,
            "axes": Bad((3, [1, 2], "ab", [None, None])),
        },
    ),
    "sharpflow.experiments.plots.save": Call(
        lambda: {"figure": Figure(), "path": "a.png"},
        {"figure": OBJECT, "path": PATH.also("a.gif"), "title": TEXT.or_none},
    ),
    "sharpflow.experiments.plots.seed_bands": Call(
        lambda: {"dataset": dataset(), "name": "loss"}, {**_BANDS, "ax": AX}
    ),
    "sharpflow.experiments.plots.seed_band_panels": Call(
        lambda: {"dataset": dataset(), "name": "loss"}, {**_BANDS, "most_panels": COUNT}
    ),
    "sharpflow.experiments.plots.sharpness_and_threshold": Call(
        lambda: {"comparison": comparison()},
        {
            "comparison": _RECORD,
            "flow": OBJECT.or_none,
            "ax": AX,
            "trajectory": _RECORD.or_none,
            "single_edge": Bad((3, "xy", (1.0, 2.0), ([1.0], [1.0, 2.0]))),
        },
    ),
    "sharpflow.experiments.plots.sharpness_against_error": Call(
        lambda: {"dataset": fitted()},
        {"dataset": _RECORD, "name": TEXT.or_none, "ax": AX, "sharpness": TEXT.or_none},
    ),
    "sharpflow.experiments.plots.single_edge_failure": Call(
        lambda: dict.fromkeys(("tau", "flow_error", "single_error"), np.arange(2.0)),
        dict.fromkeys(("tau", "flow_error", "single_error"), _SAME_LENGTH)
        | {"ax": AX, "crossing": REAL.or_none},
    ),
    "sharpflow.experiments.plots.spectral_densities": Call(
        lambda: {
            "spectra": sf.simulator.measure_spectra(
                trajectory(), problem(), k=0, num_vectors=2, num_products=12
            )
        },
        {"spectra": _RECORD, "ax": AX, "least": POSITIVE},
    ),
    "sharpflow.experiments.plots.sphere": Call(
        lambda: {"points": _POINTS},
        {
            "points": _SPHERE.also(None),
            "flow_points": _SPHERE,
            "manifold_points": _SPHERE,
            "ax": AX,
            "cloud": FLAG,
        },
    ),
    "sharpflow.experiments.plots.sphere_coordinates": Call(
        lambda: {"theta": _POINTS, "basis": _POINTS},
        {"theta": PARAMS, "basis": ARRAY.also(np.ones((2, 3)), np.ones(3))},
    ),
    "sharpflow.experiments.plots.style": Call(dict, {}),
    "sharpflow.experiments.plots.tracking_error": Call(
        lambda: {"intrinsic_rates": [0.1, 0.2], "errors": [1.0, 2.0]},
        {
            "intrinsic_rates": _SAME_LENGTH.also([0.0, 1.0]),
            "errors": Bad((None, "x", 1.0, [1.0], [1j, 1j], np.ones((2, 2, 2)))),
            "fit": OBJECT.or_none,
            "ax": AX,
        },
    ),
    "sharpflow.experiments.config.differences": Call(dict, {"old": OBJECT, "new": OBJECT}),
    "sharpflow.experiments.config.load": Call(
        lambda: {"source": "matrix-completion"},
        {
            "source": PATH,
            "overrides": Bad((3, "seed=1", [3], None)),
            "check_functions": FLAG,
        },
    ),
    "sharpflow.experiments.config.presets": Call(dict, {}),
    "sharpflow.experiments.problems.chebyshev_regression": Call(
        dict,
        {
            "degree": INTEGER.also(-1),
            "num_points": COUNT.also(1),
            "width": COUNT,
            "dtype": DTYPE,
        },
    ),
    "sharpflow.experiments.problems.dense_cifar10": Call(dict, _DENSE, free=("widths", "dtype")),
    "sharpflow.experiments.problems.dense_cifar10_classes": Call(
        dict, _DENSE | {"num_classes": COUNT}, free=("widths", "dtype")
    ),
    "sharpflow.experiments.problems.diagonal_network": Call(
        dict,
        {
            "scale": POSITIVE,
            "num_points": COUNT,
            "dimension": COUNT.also(2),
            "sparsity": COUNT.also(31),
            "seed": SEED,
            "dtype": DTYPE,
        },
    ),
    "sharpflow.experiments.problems.matrix_factorization": Call(
        dict,
        {
            "depth": COUNT.also(1),
            "scales": Bad((None, 1.0, "ab", (1.0,), (1.0, 0.0), (1.0, NAN), (1.0, 2.0, 3.0))),
            "shape": Bad((None, 3, "ab", (1,), (1, 0), (1.5, 2), (1, 2, 3))),
            "singular_values": Bad((None, 1.0, "a", (), (0.0,), (NAN,), (1.0, 1.0))),
            "width": COUNT,
            "seed": SEED,
            "dtype": DTYPE,
        },
    ),
    "sharpflow.experiments.problems.scale_invariant_groups": Call(
        dict,
        {
            "weights": Bad((None, 1.0, "ab", (), (1.0,), (1.0, 0.0), (1.0, NAN))),
            "dtype": DTYPE,
        },
    ),
    "sharpflow.experiments.problems.sorting": Call(
        dict,
        {
            "num_sequences": COUNT,
            "length": COUNT,
            "vocabulary": COUNT.also(1),
            "num_layers": COUNT,
            "width": COUNT.also(6, 33),
            "num_heads": COUNT.also(5),
            "seed": SEED,
            "dtype": DTYPE,
        },
    ),
    "sharpflow.experiments.problems.linear_regression_digits": Call(
        dict, {"num_images": COUNT.also(10**6), "dtype": DTYPE}
    ),
    "sharpflow.experiments.problems.mlp_digits": Call(
        dict,
        {
            "num_images": COUNT.also(10**6),
            "num_test_images": COUNT,
            "widths": SIZES,
            "normalization": CHOICE,
            "activation": CHOICE,
            "loss": CHOICE,
            "label_smoothing": REAL,
            "logit_scale": POSITIVE,
            "dtype": DTYPE,
        },
    ),
    "sharpflow.experiments.problems.mlp_cifar10": Call(
        dict,
        {**_CIFAR, "pool": COUNT},
        free=(*(name for name in _HANDED_ON if name not in ("pooling", "width")), "widths"),
    ),
    "sharpflow.experiments.problems.resnet20_cifar10": Call(
        dict, _CIFAR, free=tuple(name for name in _HANDED_ON if name != "pooling")
    ),
    "sharpflow.experiments.problems.vgg11_cifar10": Call(dict, _CIFAR, free=_HANDED_ON),
    "sharpflow.experiments.problems.vgg_cifar10": Call(
        dict,
        {**_CIFAR, "pool": COUNT},
        free=(*(name for name in _HANDED_ON if name != "width"), "channels"),
    ),
    "sharpflow.experiments.problems.vit_small_cifar10": Call(
        dict,
        {**_CIFAR, "pool": COUNT},
        free=(*(name for name in _HANDED_ON if name != "pooling"), "depth", "patch"),
    ),
    "sharpflow.experiments.problems.start_at_angle": Call(
        lambda: {"key": jax.random.key(0), "learning_rate": 0.1, "weight_decay": 0.1},
        {
            **RATES,
            "key": OBJECT,
            "angle": NOT_NEGATIVE.also(1.6),
            "num_images": COUNT.also(10**6),
            "perturbation": REAL,
            "dtype": DTYPE,
        },
    ),
    "sharpflow.experiments.report.write_report": Call(
        lambda: {"folder": str(Path(__file__).parent)},
        {
            "folder": PATH,
            "out": PATH.or_none,
            "predictions": INTEGER.or_none.also(-1),
            "progress": FLAG.or_none,
            "trust": FLAG,
        },
    ),
}
FACES = (sf, theory, models, simulator, experiments, plots, config, problems, report)
