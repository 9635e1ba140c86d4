"""The compiled functions of the package, and how each is called."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.models.flax_adapter.micro_batch import split
from sharpflow.simulator.loop import ChunkRows, _step_shapes, padded_rows
from sharpflow.simulator.program import LoopState, Program
from sharpflow.theory import central_integration, flow_integration
from sharpflow.theory.linearization.protocol import METHODS
from sharpflow.theory.log_rate import LogRate
from sharpflow.theory.manifold import _begin
from sharpflow.theory.matrices import problem_of_matrix
from sharpflow.theory.quadrature import Tridiagonal
from sharpflow.theory.rates import Course, Rates

ROOMS = ("models", "theory", "simulator")
SHARPNESSES = (
    "sharpness_iterate",
    "sharpness_midpoint",
    "sharpness_manifold",
    "hessian_sharpness",
)
NUM_LANES = 4
# Traced within others alone, which say how precise their products are: those of a problem, whose
# gradients and metrics are looked at.
INNER = {
    "models.flax_adapter.network._outputs",
    "models.flax_adapter.network._test_outputs",
    "models.flax_adapter.network._score",
}

_COUNT = jnp.asarray(10, jnp.int32)


class Call(NamedTuple):
    """Arguments of a compiled function."""

    args: tuple
    kwargs: Mapping[str, Any] = {}


def compiled_functions() -> dict[str, Any]:
    """All that modules of the package hold, by the module that made it and its name there."""
    found: dict[int, tuple[str, Any]] = {}
    for module_name in _modules():
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            if not _is_compiled(value):
                continue
            own = getattr(value, "__module__", None) == module_name
            if own or id(value) not in found:
                found[id(value)] = (f"{module_name.removeprefix('sharpflow.')}.{name}", value)
    return {name: value for name, value in found.values() if name not in INNER}


def _modules() -> Iterator[str]:
    for room in ROOMS:
        package = importlib.import_module(f"sharpflow.{room}")
        yield package.__name__
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield module.name


def _is_compiled(value: Any) -> bool:
    """Whether something can be traced and lowered, as what ``jax.jit`` returns."""
    steps = all(hasattr(value, step) for step in ("trace", "lower"))
    return callable(value) and steps and not isinstance(value, type)


def calls(problem: sf.Problem, params: sf.models.Params) -> dict[str, dict[str, Call]]:
    """For each compiled function calls with this problem, by what is special about them."""
    flat, _ = ravel_pytree(params)
    one, k, wanted = jnp.ones((), flat.dtype), 2, jnp.asarray(True)
    times = jnp.arange(3, dtype=flat.dtype)
    path = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), params)
    paths = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), path)
    pairs = {"k": k, "tolerance": 1e-4, "stop": "residual", "dense": False, "basis_size": None}
    room = {"num_times": 3, "num_eigenvalues": k + 1, "edge_dimension": k}
    start, rows = flow_integration.begin(flat, one, one, one, **room)
    flow = {
        "tau": times,
        "b": one,
        "kappa": one,
        "rtol": one,
        "step_size": one,
        "num_eigenvalues": k + 1,
        "on_sphere": True,
        "max_steps": _COUNT,
    }
    course = Course(first=one, log=LogRate(tau=times, values=times))
    rates = Rates(learning_rate=course, weight_decay=one)
    equation = {"rates": rates, "rtol": one, "step_correction": True}
    central = equation | {
        "times": times,
        "step_size": one,
        "num_edge": k,
        "keep_eigenvectors": True,
    }
    begun, central_path = central_integration.begin(problem, params, **central)
    limits = {"max_steps": _COUNT, "edge": wanted}
    retraction, tolerance = _begin(problem, params, on_sphere=True)
    projected = {"k": k, "on_sphere": True}
    oscillation = Call(
        (problem, path, times, one, one, paths, jnp.ones((3, 3), flat.dtype), jnp.asarray(1)),
        {"k": k, "on_sphere": True},
    )
    in_turn = captured_chunk(problem, params, sf.gdwd(0.1, 0.01), SHARPNESSES)
    preconditioned = captured_chunk(
        problem, params, sf.simulator.rmsprop(0.1, 0.9), ("preconditioned_sharpness", "metrics")
    )

    (lane,) = (given for given in in_turn.args if isinstance(given, LoopState))

    def of_each_method(*args: Any, **kwargs: Any) -> dict[str, Call]:
        return {method: Call(args, kwargs | {"method": method}) for method in METHODS}

    network = problem.metrics["train_accuracy"].function.network
    halves = dataclasses.replace(
        problem.data, inputs=split(np.asarray(problem.data.inputs), 12, dtype=flat.dtype)
    )
    of_vectors = Tridiagonal(*(jnp.ones((2, *shape), flat.dtype) for shape in ((4,), (3,), ())))
    in_halves = dataclasses.replace(network, num_batch_norms=3)
    return {
        "models.flax_adapter.network._mixing": {"": Call((network, params, problem.data))},
        "models.flax_adapter.network._splitting": {
            "": Call((in_halves, params, halves, problem.data))
        },
        "theory.residuals._newton": {"": Call((_cosh,), {"shape": (24, 3), "dtype": flat.dtype})},
        "models.invariance._relative_change": {"": Call((problem.loss, params, flat, flat))},
        "theory.curvature._eigenpairs": {
            "lanczos": Call((problem, params, None, wanted, jnp.asarray(0)), pairs),
            "lanczos from a start": Call(
                (problem, params, path, wanted, jnp.asarray(0)), pairs | {"stop": "estimate"}
            ),
            "dense": Call((problem, params, None, wanted, jnp.asarray(0)), pairs | {"dense": True}),
        },
        "theory.curvature._spherical": {"": Call((problem, params), {"k": k, "method": "lanczos"})},
        "theory.spectral_density._tridiagonals": {
            "": Call((problem, params, _COUNT), {"num_vectors": 2, "degree": 4}),
            "of another matrix": Call(
                (*problem_of_matrix(problem, params, "gauss_newton", None), _COUNT),
                {"num_vectors": 2, "degree": 4},
            ),
        },
        "theory.spectral_density.density_of": {
            "": Call((of_vectors, None, None), {"dimension": 9})
        },
        "theory.trace._trace": {"": Call((problem, params, _COUNT), {"num_products": 12})},
        "theory.manifold._begin": {"": Call((problem, params), {"on_sphere": True})},
        "theory.manifold._go_on": of_each_method(
            problem, params, retraction, tolerance, _COUNT, on_sphere=True
        ),
        "theory.manifold._residual_norm": {"": Call((problem, params))},
        "theory.manifold._tangent_projection": of_each_method(
            problem, params, params, on_sphere=True
        ),
        "theory.flow._spectrum": of_each_method(problem, params, k=k),
        "theory.flow._unpadded": {"": Call((params, rows), {"num_times": 2})},
        "theory.flow_integration.begin": {"": Call((flat, one, one, one), room)},
        "theory.flow_integration.integrate": of_each_method(
            problem, params, start, rows, _COUNT, **flow
        ),
        "theory.central_integration.begin": {"": Call((problem, params), central)},
        "theory.central_integration.integrate": {
            "": Call((problem, params, begun, central_path, _COUNT), central | limits)
        },
        "theory.central_integration.with_room": {
            "": Call((problem, params, begun, central_path), equation | {"num_edge": k + 1})
        },
        "theory.central_integration.finished_rows": {
            "": Call((problem, params, begun.point, central_path))
        },
        "theory.single_edge._integrate": {"": Call((problem, params, times, one, one, one))},
        "theory.period_two._period_two": {"": Call((problem, params))},
        "simulator.grid.point_prediction.metric_along": {
            "": Call((problem, path), {"name": "train_accuracy"})
        },
        "simulator.oscillation._coordinates": {"": oscillation},
        "simulator.layers._parts": {"": Call((problem, params), {"k": k})},
        "simulator.layers._trace_of_arrays": {
            "": Call((problem, path, jnp.log(times), one, one), {"k": k, "on_sphere": True})
        },
        "simulator.prediction._projected": {"": Call((problem, params), projected)},
        "simulator.loop.run_chunk": {
            "one lane": in_turn,
            "lanes in turn": _of_lanes(in_turn, in_turn=True),
            "lanes side by side": _of_lanes(in_turn, in_turn=False),
            "preconditioned": preconditioned,
        },
        "simulator.loop._one_record": {"": _of_a_record(in_turn)},
        "simulator.host._as_placed_lane": {
            "": Call(((jax.tree.map(lambda leaf: leaf[0], lane), {}),))
        },
        "simulator.host._of_lane": {"": Call((lane,))},
        "simulator.premises._effective_rate": {
            "": Call((sf.gdwd(0.1, 0.01).init(params), params)),
        },
        "simulator.grid.points._loss_value": {"": Call((problem, params))},
    }


@jax.tree_util.Partial
def _cosh(outputs: jax.Array) -> jax.Array:
    return jnp.sum(jnp.cosh(outputs @ outputs.T) - 1.0)


class _Captured(Exception):
    """Ends a simulation before its first chunk."""


def captured_chunk(
    problem: sf.Problem,
    params: sf.models.Params,
    optimizer: Any,
    observables: tuple[str, ...],
    **options: Any,
) -> Call:
    """How ``simulate`` would call its first chunk."""
    found = []

    def capture(*args: Any, **kwargs: Any) -> None:
        found.append(Call(args, kwargs))
        raise _Captured

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Captured):
        patch.setattr("sharpflow.simulator.chunk.run_chunk", capture)
        sf.simulate(problem, params, optimizer, 4, observables=observables, **options)
    return found[0]


def _of_a_record(call: Call) -> Call:
    """A record of the first lane of a chunk."""
    program, lanes, *_ = call.args
    lane = jax.tree.map(lambda leaf: leaf[0], lanes)
    return Call((program, lane, _step_shapes(lane)))


def _of_lanes(call: Call, *, in_turn: bool) -> Call:
    """The same chunk with several lanes."""

    def widened(given: Any) -> Any:
        if isinstance(given, Program):
            return dataclasses.replace(given, in_turn=in_turn)
        if isinstance(given, LoopState):
            return jax.tree.map(lambda leaf: jnp.concatenate([leaf] * NUM_LANES), given)
        if isinstance(given, ChunkRows):
            gaps = np.ones((len(given.gaps), NUM_LANES), np.int32)
            return padded_rows(gaps, True, gaps > 1, len(gaps))
        return given

    return Call(
        tuple(map(widened, call.args)),
        {name: widened(given) for name, given in call.kwargs.items()},
    )
