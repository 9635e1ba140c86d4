"""The numbers of the accelerator beside those of the CPU, both from one code and one machine.

A process on the CPU computes the same quantities meanwhile; then they are compared.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.accelerator.device_numbers import (
    EIGENVALUE_TOLERANCE,
    Numbers,
    computed,
    quantities,
)
from benchmarks.accelerator.record import Record, Values, read
from benchmarks.accelerator.sections import Settings
from sharpflow.experiments.checks import Check

# Of the first losses, relative: a hundred times the unit of rounding of float32. With sums in
# another order, which is what devices differ in, small convolutional networks came to a tenth of
# it at the start, and ten steps later beyond it: their first steps are steep and amplify rounding.
FIRST_STEPS = 4
SAME_STEPS = {"float32": 1e-5, "float64": 1e-9}
# Of the average of all losses. Rounding grows along a trajectory even below the edge.
SAME_AVERAGE = {"float32": 1e-2, "float64": 1e-6}
# Devices that take the same steps differ by rounding, a thousandth of the flow's own rtol at most
# where rounding is a thousand times that of one product.
SAME_FLOW = 1e-6
# A retraction ends within eps^(3/4), times the 30 that one stopped by rounding may keep.
RESIDUAL = {dtype: 30 * np.finfo(dtype).eps ** 0.75 for dtype in ("float32", "float64")}
SAME_POINT = 1e-9
EXACT_ANGLE = 1e-4  # rad, as of the demo, at the same rtol
SEPARATE_FLOW = 1e-3  # as tests/theory/test_flow_reference.py states it
PATIENCE = 10.0  # seconds that are kept for comparing


def measure(record: Record, settings: Settings) -> bool:
    """Compute everything here and on the CPU, and compare."""
    reference = settings.data.parent / "reference" / "multi_edge_flow.npz"
    names = [n for n in quantities(settings.size, reference) if not record.has(n)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cpu.json"
        command = [sys.executable, "-m", "benchmarks.accelerator.device_numbers", settings.size,
                   str(path), str(reference), *names]  # fmt: skip
        # a CPU compiles these programs for longer than it runs them, if it is to make them fast
        quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        process = subprocess.Popen(command, env=os.environ | quick)
        try:
            for name, numbers in computed(settings.size, reference, names):
                compared = partial(_compared, name, numbers, path, process, record)
                record.measure(name, compared)
        finally:
            process.kill()
            process.wait()
    return False


def _compared(
    name: str, numbers: Numbers | Exception, path: Path, process: subprocess.Popen, record: Record
) -> tuple[Values, list[Check]]:
    """What this device found, beside what the CPU does as soon as it is there.

    Raises:
      Exception: this device, or the CPU, could not compute it.
      TimeoutError: the CPU was too slow.
    """
    if isinstance(numbers, Exception):
        raise numbers
    while name not in (others := read(path) or {}):
        ended = process.poll() is not None
        if ended and name not in (read(path) or {}):
            raise RuntimeError(f"the process on the CPU ended with {process.returncode}")
        if record.remaining < PATIENCE:
            raise TimeoutError(f"the CPU has not computed {name!r} in time")
        time.sleep(0.05)
    of_cpu = others[name]
    if "error" in of_cpu:
        raise RuntimeError(f"on the CPU: {of_cpu['error']}")
    checks = _checks(name, numbers, of_cpu)
    return {check.statement: check.measured for check in checks}, checks


def _checks(name: str, here: Numbers, cpu: Numbers) -> list[Check]:
    """The statements of a quantity."""
    dtype = "float32" if name.endswith("float32") else "float64"
    if name == "regression":
        return [
            Check(name, "flow − exact angle, largest, rad", *here["largest error"],
                  high=EXACT_ANGLE),
            _difference(name, "angle", here, cpu, SAME_FLOW),
        ]  # fmt: skip
    if name.startswith("manifold"):
        exact_enough = SAME_POINT if dtype == "float64" else math.inf
        return [
            Check(name, "status of the retraction", *here["status"], low=0.0, high=0.0),
            Check(name, "‖r‖ after the retraction", *here["residual"], high=RESIDUAL[dtype]),
            _difference(name, "theta", here, cpu, exact_enough),
        ]
    if name == "flow":
        alike = [_difference(name, key, here, cpu, SAME_FLOW) for key in ("threshold", "λ₁")]
        status = Check(name, "status of the flow", *here["status"], low=0.0, high=0.0)
        return [status, *alike, _difference(name, "theta", here, cpu, SAME_FLOW)]
    if name == "flow, separate program":
        return [Check(name, "distance from it, largest", *here["largest error"],
                      high=SEPARATE_FLOW)]  # fmt: skip
    return _of_network(name, dtype, here, cpu)


def _of_network(name: str, dtype: str, here: Numbers, cpu: Numbers) -> list[Check]:
    changed = "change of the loss with the scale"
    # the tolerance of check_scale_invariance, which raises above it
    allowed = float(np.sqrt(np.finfo(dtype).eps))
    first = {"loss": here["loss"][:FIRST_STEPS]}, {"loss": cpu["loss"][:FIRST_STEPS]}
    average = [float(np.mean(numbers["loss"])) for numbers in (here, cpu)]
    checks = [
        Check(name, changed, *here[changed], high=allowed),
        _difference(name, "loss", *first, SAME_STEPS[dtype], of=f"the first {FIRST_STEPS} losses"),
        Check(name, f"mean of {len(here['loss'])} losses, difference from the CPU, relative",
              abs(average[0] / average[1] - 1.0), high=SAME_AVERAGE[dtype]),
    ]  # fmt: skip
    if "λ₁" in here:
        # both are within the tolerance of an eigenvalue
        checks.append(_difference(name, "λ₁", here, cpu, 2.0 * EIGENVALUE_TOLERANCE[dtype]))
    for precision in ("high", "default"):
        if f"loss at {precision}" in here:
            change = abs(here[f"loss at {precision}"][0] / here["loss"][0] - 1.0)
            checks.append(Check(name, f"first loss at {precision}, change, relative", change))
    return checks


def _difference(
    name: str, key: str, here: Numbers, cpu: Numbers, high: float, of: str | None = None
) -> Check:
    """Norm of the difference over the norm."""
    ours, theirs = (np.array(numbers[key]) for numbers in (here, cpu))
    difference = _norm(ours - theirs) / _norm(theirs)
    return Check(name, f"{of or key}, difference from the CPU, relative", difference, high=high)


def _norm(values: Sequence[float] | np.ndarray) -> float:
    return float(np.linalg.norm(values))
