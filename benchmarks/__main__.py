"""``python -m benchmarks``: run all benchmarks, print a table, write JSON."""

import argparse
import json
from pathlib import Path

from sharpflow.experiments.checks import print_table, write_json
from sharpflow.experiments.cli import configure_jax
from sharpflow.simulator.provenance import provenance


def main() -> None:
    """Run the benchmarks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    configure_jax()
    from benchmarks import cold_start, flow

    checks = [*cold_start.measure(), *flow.measure()]
    made = provenance()
    print_table(checks, f"benchmarks on {made['device']}, jax {made['jax_version']}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    kind = str(made["device"]).split(":")[0]
    path = arguments.out / f"{str(made['created'])[:10]}-{kind}.json"
    write_json(checks, path, made)
    print(json.dumps({"written": str(path)}))


main()
