"""A run to be killed: ``python -m benchmarks.accelerator.killed_run SIZE FOLDER [wait]``.

With ``wait`` it stays in its middle until it is killed, so that it cannot end before.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray

import sharpflow as sf
from benchmarks.accelerator.sections import FULL
from sharpflow.simulator.grid import engine
from sharpflow.simulator.host import Host, watched

WAIT = "wait"
TOLERANCE = 1e-3  # of λ₁
# With the two seconds that the package takes, a run of seconds would end in its first chunk, and
# nothing would be left to resume.
CHUNK_SECONDS = 0.25


def simulated(size: str, folder: Path | None) -> xarray.Dataset:
    """The run, in memory or in a folder where it may have begun."""
    engine._CHUNK_SECONDS = CHUNK_SECONDS
    full = size == FULL
    images, widths = (128, (64, 64)) if full else (20, (8,))
    problem = sf.models.mlp(*sf.models.digits(images), widths=widths, dtype=np.float32)
    observables: list = ["loss", "loss_mean"]
    if full:  # the eigenvalue's program takes seconds to compile
        observables.append(sf.simulator.hessian_sharpness(tolerance=TOLERANCE))
    return sf.simulate_grid(
        problem,
        seeds=range(8 if full else 2),
        learning_rates=[0.02, 0.05, 0.1, 0.2] if full else [0.05],
        weight_decays=[1e-3, 3e-3] if full else [1e-3],
        num_steps=6000 if full else 3000,
        record_every=50,
        observables=observables,
        out=folder,
        resume=folder is not None,
        progress=False,
    )


def _staying() -> Callable[[str, Host], None]:
    """What waits for the kill at the first checkpoint that has records before it."""
    written = False

    def stay(event: str, host: Host) -> None:
        nonlocal written
        written = written or event == "written"
        while written and event == "saved":
            time.sleep(1.0)

    return stay


if __name__ == "__main__":
    from sharpflow.experiments.environment import configure_jax, start_cache

    configure_jax()
    start_cache()
    with watched(_staying()) if WAIT in sys.argv[3:] else contextlib.nullcontext():
        simulated(sys.argv[1], Path(sys.argv[2]))
