"""What recording λ₁ every hundred steps adds to a simulation at the edge."""

import time

import sharpflow as sf
from benchmarks.edge import NETWORK, at_edge, network
from sharpflow.experiments.checks import Check
from sharpflow.simulator.observables import DEFAULT

PART = f"recording λ₁, {NETWORK}"
STEPS = 3000
RECORD_EVERY = 100


def measure(repetitions: int = 8) -> list[Check]:
    """Time of a simulation that records λ₁, over that of one that does not, less 1."""
    start, rule, _ = at_edge(seed=0)
    tracked = sf.sharpness(tolerance=1e-4)
    kinds = {"without": DEFAULT, "with": (*DEFAULT, tracked)}

    def seconds(kind: str, every: int = RECORD_EVERY) -> float:
        began = time.perf_counter()
        sf.simulate(
            network(),
            start,
            rule,
            every * (STEPS // RECORD_EVERY),
            record_every=every,
            observables=kinds[kind],
            progress=False,
        )
        return time.perf_counter() - began

    for kind in kinds:
        seconds(kind, every=1)  # compiles: as many records, fewer steps
    # in turns, so that what else the machine does falls on both
    pairs = [(seconds("without"), seconds("with")) for _ in range(repetitions)]
    without, recorded = (min(column) for column in zip(*pairs, strict=True))
    added = recorded / without - 1.0
    spread = ", ".join(f"{b / a - 1.0:.2f}" for a, b in pairs)
    return [
        Check(PART, f"time added by λ₁ every {RECORD_EVERY} steps, of that without, best of each",
              added, high=0.35, note=f"in turns {spread}"),
        Check(PART, "ms per step without", 1e3 * without / STEPS),
        Check(PART, "ms per record of λ₁", 1e3 * (recorded - without) * RECORD_EVERY / STEPS),
    ]  # fmt: skip
