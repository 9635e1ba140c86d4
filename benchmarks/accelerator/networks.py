"""Training steps of a network at full width on all images of CIFAR-10 there are.

The most memory that a device has held only grows in a process, so each network is a section, and
its first measurement, at full precision, tells its own; the later ones tell the most so far.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

import sharpflow as sf
from benchmarks.accelerator.images import cifar10_folder
from benchmarks.accelerator.operations import product_operations, share_of_peak
from benchmarks.accelerator.record import Record, Values
from benchmarks.accelerator.sections import Settings
from sharpflow.experiments.checks import Check
from sharpflow.experiments.problems import resnet20_cifar10, vgg11_cifar10

NETWORKS = {"vgg11": vgg11_cifar10, "resnet20": resnet20_cifar10}
PRECISIONS = ("highest", "default", "high")
# of a GPU, where "high" is the same as "default"
PRECISIONS_OF_GPU = PRECISIONS[:2]
LEARNING_RATE, WEIGHT_DECAY = 0.01, 5e-4
TOLERANCE = 1e-3  # of λ₁, as of the grids
EVERY = 100  # steps from one λ₁ to the next in the presets
RECORDS = 4  # the first starts from nothing, the others from the last
TIMED = {"full": 3.0, "toy": 0.3}  # seconds of steps, where one step does not take them
MICRO_BATCHES = (None, 1000, 250)  # the first that fits into memory
ENOUGH = 15.0  # seconds: compiling takes most of them
TOY = {"num_images": 10, "num_test_images": 10}
TOY_WIDTH = {"vgg11": 0.0625, "resnet20": 0.25}


def measure(record: Record, settings: Settings) -> bool:
    """Steps at full precision, with λ₁, and with less precision."""
    root, images = cifar10_folder(settings.data, settings.out)
    record.note("images", images)
    name, toy = settings.section, settings.toy
    options: dict[str, Any] = TOY | {"width": TOY_WIDTH[name]} if toy else {}
    make = partial(NETWORKS[name], str(root), dtype="float32", **options)
    several = PRECISIONS_OF_GPU if jax.default_backend() == "gpu" else PRECISIONS
    precisions = PRECISIONS[:1] if toy else several
    steps = partial(_steps, make, name, TIMED[settings.size])
    record.measure(f"steps at {precisions[0]}", partial(steps, precisions[0]))
    full = record.values(f"steps at {precisions[0]}")
    if full and not toy:
        with_curvature = partial(_curvature, make, name, full)
        record.measure(f"λ₁ every {EVERY}", with_curvature, seconds=ENOUGH)
    for precision in precisions[1:]:
        record.measure(f"steps at {precision}", partial(steps, precision), seconds=ENOUGH)
    return False


def _steps(make: Any, name: str, timed: float, precision: str) -> tuple[Values, list[Check]]:
    """Time and memory of a step."""
    problem = make(micro_batch=None)
    # of the undivided batch: a divided one makes its statistics in passes of their own
    operations = product_operations(
        jax.grad(problem.loss_value), jax.eval_shape(problem.init, jax.random.key(0))
    )
    for micro_batch in MICRO_BATCHES:
        if micro_batch is not None:
            problem = make(micro_batch=micro_batch)
        try:
            values = _timed_steps(problem, timed, precision, operations)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or micro_batch == MICRO_BATCHES[-1]:
                raise
        else:
            values["micro_batch"] = micro_batch
            return values, _told(name, precision, values)
    raise AssertionError("the last one returns or raises")


def _timed_steps(problem: sf.Problem, timed: float, precision: str, operations: int) -> Values:
    params = problem.init(jax.random.key(0))
    run = partial(_seconds, problem, params, precision, ["loss"])
    compiling = run(1, 1)
    one = run(1, 1)
    number = 1 + max(int(timed / one), 1)
    several = run(number, number)
    # without what a call takes beside its steps, unless another process slowed the shorter call
    step = (several - one) / (number - 1) if several > one else several / number
    device = jax.local_devices()[0]
    return {
        "images": _num_images(problem),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "seconds a step": step,
        "steps timed": number - 1,
        "seconds of the first step": compiling,
        "operations of a step": operations,
        "peak memory, bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "share of peak": share_of_peak(device, operations / step, precision),
    }


def _told(name: str, precision: str, values: Values) -> list[Check]:
    """The statements of a precision."""
    part = f"{name}, {values['images']} images, {precision}"
    divided = values["micro_batch"]
    note = "" if divided is None else f"micro_batch={divided}"
    checks = [
        Check(part, "seconds a step", values["seconds a step"], note=note),
        Check(
            part, "seconds of the first step, which compiles", values["seconds of the first step"]
        ),
    ]
    memory, share = values["peak memory, bytes"], values["share of peak"]
    if memory is not None:
        checks.append(Check(part, "most memory so far, GiB", memory / 2**30))
    if share is not None:
        checks.append(Check(part, "share of the card's peak", share))
    return checks


def _curvature(make: Any, name: str, full: Values) -> tuple[Values, list[Check]]:
    """What λ₁ every hundred steps adds to their time."""
    problem = make(micro_batch=full["micro_batch"])
    params = problem.init(jax.random.key(0))
    observables = [sf.simulator.hessian_sharpness(tolerance=TOLERANCE)]
    run = partial(_seconds, problem, params, "highest", observables, RECORDS, 1)
    run()  # compiles
    record = max(run() / RECORDS - full["seconds a step"], 0.0)
    part = f"{name}, {full['images']} images, λ₁ to {TOLERANCE:g} every {EVERY}"
    added = record / (EVERY * full["seconds a step"])
    memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    checks = [
        Check(part, f"seconds for λ₁, mean of the first {RECORDS}", record),
        Check(part, f"time of λ₁ over that of {EVERY} steps", added),
    ]
    if memory is not None:
        checks.append(Check(part, "most memory so far, GiB", memory / 2**30))
    return {"seconds for λ₁": record, "time added": added, "peak memory, bytes": memory}, checks


def _seconds(
    problem: sf.Problem,
    params: sf.models.Params,
    precision: str,
    observables: Sequence[Any],
    num_steps: int,
    record_every: int,
) -> float:
    """Of a simulation, whose program is compiled by the first call of these shapes."""
    began = time.perf_counter()
    run = sf.simulate(
        problem,
        params,
        sf.gdwd(LEARNING_RATE, WEIGHT_DECAY),
        num_steps,
        record_every=record_every,
        observables=observables,
        matmul_precision=precision,
        progress=False,
    )
    jax.block_until_ready(run.final_params)
    if run.status != sf.Status.SUCCESS:
        raise RuntimeError(f"steps that are timed must not diverge: {run.status!r}")
    return time.perf_counter() - began


def _num_images(problem: sf.Problem) -> int:
    """That the network is trained on: the first axis of its outputs."""
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    if problem.outputs is not None:
        return jax.eval_shape(problem.outputs, shapes).shape[0]
    residuals = jax.eval_shape(problem.residual, shapes).shape[0]
    return residuals // 10  # one for each class of CIFAR-10
