"""The numbers that two devices must agree on, as one of them computes them.

``python -m benchmarks.accelerator.device_numbers SIZE FILE REFERENCE NAME...`` writes those of some
names from the device that jax finds, each as soon as it is there.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from benchmarks.accelerator.record import read, write
from benchmarks.accelerator.sections import FULL
from sharpflow.experiments.starts import point_at_angle, trained_to_manifold
from sharpflow.theory import exact

Numbers = dict[str, list[float]]

NUM_STEPS = 200
LEARNING_RATE, WEIGHT_DECAY = 0.01, 1e-3  # below the edge, where rounding does not grow
EIGENVALUE_TOLERANCE = {"float32": 1e-4, "float64": 5e-10}  # relative to λ₁
ANGLE = 1.2
THREADS = 6  # a compiler leaves most cores of a machine with an accelerator idle


def quantities(size: str, reference: Path) -> dict[str, Callable[[], Numbers]]:
    """What is computed, by name, the most important first.

    Args:
      size: ``"full"``, or ``"toy"`` for fewer and smaller networks.
      reference: npz with a flow by a separate program; left out where it is missing.
    """
    full = size == FULL
    found: dict[str, Callable[[], Numbers]] = {
        "regression": _regression,
        "mlp, float32": partial(_network, _mlp, size, "float32", "mlp"),
    }
    if not full:  # the others take a minute to compile on a CPU
        return found
    for dtype in ("float32", "float64"):
        found[f"manifold, {dtype}"] = partial(_manifold, dtype)
    found["flow"] = _flow
    if reference.exists():
        found["flow, separate program"] = partial(_reference_flow, reference)
    for dtype in ("float32", "float64"):
        for name, make in (("mlp", _mlp), ("vgg11", _vgg11), ("resnet20", _resnet20)):
            found[f"{name}, {dtype}"] = partial(_network, make, size, dtype, name)
    return found


def computed(
    size: str, reference: Path, names: Collection[str]
) -> Iterator[tuple[str, Numbers | Exception]]:
    """Quantities, each when it is there, from threads that compile side by side."""
    with ThreadPoolExecutor(THREADS) as pool:
        all_of_them = quantities(size, reference)
        futures = {pool.submit(all_of_them[name]): name for name in all_of_them if name in names}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield futures[future], error if error is not None else future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _regression() -> Numbers:
    """The flow of batch-norm linear regression, beside its closed form."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(12, 30)), random.normal(size=12)
    problem = sf.models.linear_regression(x, y)
    theta0 = point_at_angle(problem, x, y, ANGLE)
    tau = np.linspace(0.0, 2.0, 21)
    flow = sf.sharpness_flow(problem, theta0, tau, rtol=2e-4)
    angle = exact.angle_to_span(np.asarray(flow.theta), x)
    error = np.abs(angle - np.asarray(exact.linear_regression_angle(ANGLE, tau)))
    return {"angle": angle.tolist(), "largest error": [float(error.max())]}


def _manifold(dtype: str) -> Numbers:
    """A point near Γ, and its retraction."""
    problem = _tiny_network(dtype)
    start = trained_to_manifold(_tiny_network("float64"))
    random = np.random.default_rng(1)
    near = jax.tree.map(
        lambda leaf: np.asarray(leaf + 1e-3 * random.normal(size=leaf.shape), dtype), start
    )
    theta, status = sf.theory.retract_with_status(problem, near)
    residual = problem.residual(theta)
    return {
        "theta": np.asarray(ravel_pytree(theta)[0], np.float64).tolist(),
        "residual": [float(np.linalg.norm(residual))],
        "status": [float(status)],
    }


def _flow() -> Numbers:
    """The flow of a tiny network from a point of Γ, through the first crossings."""
    problem = _tiny_network("float64")
    solution = sf.sharpness_flow(
        problem, trained_to_manifold(problem), np.linspace(0.0, 2.0, 11), max_edge=4
    )
    solution_at_end = jax.tree.map(lambda leaf: leaf[-1], solution.theta)
    return {
        "threshold": np.asarray(solution.threshold).tolist(),
        "λ₁": np.asarray(solution.eigenvalues[:, 0]).tolist(),
        "theta": np.asarray(ravel_pytree(solution_at_end)[0]).tolist(),
        "status": [float(solution.status)],
    }


def _reference_flow(path: Path) -> Numbers:
    """How far our flow is from one that a separate program integrated."""
    with np.load(path) as stored:
        numbers = {name: stored[name] for name in stored.files}
    problem = sf.models.mlp(numbers["X"], numbers["Y"], widths=(12, 12))
    _, unravel = ravel_pytree(problem.init(jax.random.key(0)))
    flow = sf.sharpness_flow(problem, unravel(numbers["theta0"]), numbers["tau"])
    theta = np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(flow.theta))
    return {"largest error": [float(np.linalg.norm(theta - numbers["theta"], axis=1).max())]}


def _network(make: Callable, size: str, dtype: str, name: str) -> Numbers:
    """Scale invariance and λ₁ at the start, and a few steps of gradient descent."""
    problem = make(size, np.dtype(dtype))
    params = problem.init(jax.random.key(0))
    num_steps = NUM_STEPS if size == FULL else 20
    # observables that need a Hessian would make the loop take many times as long to compile
    run = sf.simulate(
        problem,
        params,
        sf.gdwd(LEARNING_RATE, WEIGHT_DECAY),
        num_steps,
        observables=["loss", "norm_squared"],
        progress=False,
    )
    found = {
        "change of the loss with the scale": [
            sf.models.check_scale_invariance(problem, params, num_scales=2)
        ],
        "loss": np.asarray(run["loss"], np.float64).tolist(),
        "norm squared": np.asarray(run["norm_squared"], np.float64).tolist(),
    }
    if name == "mlp" or (dtype == "float32" and size == FULL):
        # of the convolutional networks in float32 alone, in which a product may be less than that
        pairs = sf.theory.top_eigenpairs(
            problem, params, 1, tolerance=EIGENVALUE_TOLERANCE[dtype], method="lanczos"
        )
        found["λ₁"] = [float(pairs.values[0])]
    if name == "mlp" and dtype == "float32":
        for precision in ("high", "default"):
            loss = jax.jit(problem.at_precision(precision).loss_value)(params)
            found[f"loss at {precision}"] = [float(loss)]
    return found


def _tiny_network(dtype: str) -> sf.Problem:
    """A 6-6-3 network on eight random vectors."""
    x = np.random.default_rng(2).normal(size=(9, 20))
    return sf.models.mlp(x, np.arange(9) % 3, widths=(6, 6), dtype=np.dtype(dtype))


def _mlp(size: str, dtype: np.dtype) -> sf.Problem:
    number, widths = (128, (64, 64)) if size == FULL else (20, (8, 8))
    x = np.random.default_rng(3).normal(size=(number, 64))
    return sf.models.mlp(x, np.arange(number) % 10, widths=widths, dtype=dtype)


def _vgg11(size: str, dtype: np.dtype) -> sf.Problem:
    return sf.models.vgg11(*_images(size), 0.0625, dtype=dtype)


def _resnet20(size: str, dtype: np.dtype) -> sf.Problem:
    return sf.models.resnet20(*_images(size), 0.25, dtype=dtype)


def _images(size: str) -> tuple[np.ndarray, np.ndarray]:
    number = 20 if size == FULL else 10
    random = np.random.default_rng(4)
    return random.normal(size=(number, 32, 32, 3)), np.arange(number) % 10


def main(size: str, path: Path, reference: Path, names: Collection[str]) -> None:
    """Write the numbers of this process's device."""
    content = read(path) or {}
    for name, numbers in computed(size, reference, names):
        if isinstance(numbers, Exception):
            content[name] = {"error": f"{type(numbers).__name__}: {numbers}"}
        else:
            content[name] = numbers
        write(path, content)


if __name__ == "__main__":
    from sharpflow.experiments.environment import configure_jax

    configure_jax()
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
