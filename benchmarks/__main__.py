"""``python -m benchmarks``: run all benchmarks, print their tables, write JSON."""

import argparse
import json
from pathlib import Path

from benchmarks.ratios import ratio_table
from benchmarks.tables import DOCS, put_table
from sharpflow.experiments.checks import print_table, write_json
from sharpflow.experiments.environment import configure_jax, num_cores, start_cache
from sharpflow.simulator.provenance import launch_provenance

NAMES = (
    "cold_start",
    "data",
    "flow",
    "tracking",
    "recording",
    "convolution",
    "grid",
    "grid_arithmetic",
    "grid_memory",
    "lanes",
    "scale",
    "central_flow",
)


def main() -> None:
    """Run the benchmarks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    which = "which ones; all by default"
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help=which)
    of = "Python of an environment with benchmarks/peers/requirements.txt"
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help=of)
    into = "put the ratios into docs/benchmarks.md: of all benchmarks, beside the peers"
    parser.add_argument("--publish", action="store_true", help=into)
    arguments = parser.parse_args()
    if arguments.publish and (arguments.peers is None or set(arguments.only) != set(NAMES)):
        parser.error("--publish needs --peers, and goes without --only")
    configure_jax()
    start_cache()
    from benchmarks import (
        central_flow,
        cold_start,
        convolution,
        data,
        flow,
        grid,
        grid_arithmetic,
        grid_memory,
        lanes,
        recording,
        scale,
        tracking,
    )

    measures = {
        "cold_start": cold_start.measure,
        "data": data.measure,
        "flow": flow.measure,
        "tracking": lambda: tracking.measure(arguments.peers),
        "recording": recording.measure,
        "convolution": convolution.measure,
        "grid": lambda: grid.measure(arguments.peers),
        "grid_arithmetic": grid_arithmetic.measure,
        "grid_memory": grid_memory.measure,
        "lanes": lanes.measure,
        "scale": scale.measure,
        "central_flow": lambda: central_flow.measure(arguments.out),
    }
    made = launch_provenance() | {"cores": num_cores()}
    checks = []
    for name in NAMES:
        if name in arguments.only:
            found = measures[name]()
            print_table(found, f"{name} on {made['device']}, jax {made['jax_version']}")
            checks += found
    arguments.out.mkdir(parents=True, exist_ok=True)
    kind = str(made["device"]).split(":")[0]
    minute = str(made["created"])[:16].replace(":", "")
    path = arguments.out / f"{minute}-{kind}.json"
    write_json(checks, path, made)
    if arguments.publish:
        put_table(DOCS / "benchmarks.md", ratio_table(path), "the benchmarks")
    print(json.dumps({"written": str(path)}))


main()
