"""``python -m benchmarks.accelerator``: measure on an accelerator, or rehearse that on a CPU.

It needs no network, and of packages those that a machine with jax for CUDA commonly has (flax,
optax, chex, xarray, h5py, typer, rich, matplotlib, scikit-learn, jinja2; torch for the comparison),
and beside them zarr, numcodecs, donfig, google-crc32c and h5netcdf, which can be carried as wheels.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.accelerator.record import RecordError, code_digest
from benchmarks.accelerator.runner import ROOT, Ending, run_sections
from benchmarks.accelerator.sections import (
    FULL,
    NAMES,
    SECTIONS,
    SIZES,
    TOY,
    Section,
    Settings,
    run_section,
)
from benchmarks.accelerator.table import RESULTS, publish
from sharpflow.experiments.checks import Check, print_table

BAD_INPUT = 2
PATIENCE = 120.0  # seconds that a driver may take to answer
PATIENCE_OF_TOY = 300.0  # seconds: what a busy machine may take for ten
_DEVICE = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep=chr(9))"


def main() -> int:
    """Run the sections that are asked for, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = "one to run in this process; by default all, each in its own"
    parser.add_argument("section", nargs="?", choices=NAMES, help=which)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="some of them")
    size = "toy rehearses everything on a CPU"
    parser.add_argument("--size", choices=SIZES, default=FULL, help=size)
    out = "folder of the results; where a call was cut short, the next goes on there"
    parser.add_argument("--out", type=Path, help=out)
    data = "folder with the images of CIFAR-10; random ones take their place"
    parser.add_argument("--data", type=Path, default=_usual_data(), help=data)
    of = "Python of an environment with torch; by default this one"
    parser.add_argument("--peers", type=Path, metavar="PYTHON", default=sys.executable, help=of)
    again = "run sections again that are done"
    parser.add_argument("--again", action="store_true", help=again)
    into = "put the ratios into docs/howto-gpu.md"
    parser.add_argument("--publish", action="store_true", help=into)
    parser.add_argument("--budget", type=float, help="seconds for the section in this process")
    until = "when its budget ends, in seconds of the epoch: imports take a part of it"
    parser.add_argument("--until", type=float, help=until)
    asked = parser.parse_args()
    if asked.publish and (asked.size == TOY or set(asked.only) != set(NAMES) or asked.section):
        parser.error("--publish goes with all sections at full size")
    if asked.section is not None and asked.out is None:
        parser.error("a section by itself needs --out")
    try:
        return _all(asked) if asked.section is None else _one(asked)
    except RecordError as error:
        return _refuse(str(error))


def _one(asked: argparse.Namespace) -> int:
    """Run a section in this process."""
    settings = Settings(asked.section, asked.size, asked.out, asked.data, asked.peers)
    run_section(settings, _budget(asked))
    return 0


def _all(asked: argparse.Namespace) -> int:
    """Run the sections that are asked for, each in its own process."""
    sections = [section for section in SECTIONS if section.name in asked.only]
    if asked.size == TOY:
        with tempfile.TemporaryDirectory() as folder:
            return _judge(_run(sections, asked, Path(folder) if asked.out is None else asked.out))
    kind = accelerator()
    if kind is None:
        return _refuse("jax finds no accelerator here; make rehearsal runs all of it on a CPU")
    minute = time.strftime("%Y-%m-%dT%H%M", time.gmtime())
    folder = RESULTS / f"{minute}-{kind}" if asked.out is None else asked.out
    status = _judge(_run(sections, asked, folder))
    print(f"written: {folder}")
    if asked.publish:
        publish(folder)
    return status


def accelerator() -> str | None:
    """What kind of accelerator jax finds, in letters, digits and hyphens; None without one.

    It is asked in a process of its own, which gives the device back.
    """
    command = [sys.executable, "-c", _DEVICE]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    platform, kind = run.stdout.splitlines()[-1].split("\t")
    words = "".join(letter if letter.isalnum() else " " for letter in kind).split()
    return None if platform == "cpu" else "-".join(words)


def _run(sections: list[Section], asked: argparse.Namespace, out: Path) -> list[Ending]:
    out = out.absolute()
    # a runner that is asked to end takes the section with it
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    def command(section: Section) -> list[object]:
        options = ["--size", asked.size, "--out", out, "--data", asked.data.absolute()]
        return [sys.executable, "-m", "benchmarks.accelerator", section.name, *options,
                "--peers", asked.peers, "--until", time.time() + section.budget]  # fmt: skip

    environment = {"OPENBLAS_NUM_THREADS": "1"} | os.environ | {"PYTHONUNBUFFERED": "1"}
    if asked.size == TOY:
        # what a rehearsal shows is that everything runs, for which code need not be fast
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0"}  # fmt: skip
    else:
        # torch and a run that is killed share the card with the section, but need little of it
        environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.85"}  # fmt: skip
    # in a rehearsal no time is measured, so two sections may go on at once, and take long
    toy = asked.size == TOY
    if toy:
        sections = [replace(section, budget=PATIENCE_OF_TOY) for section in sections]
    return run_sections(
        sections,
        command,
        out,
        again=asked.again,
        code=code_digest(ROOT),
        together=2 if toy else 1,
        environment=environment,
    )


def _budget(asked: argparse.Namespace) -> float:
    """Seconds that a section in this process may still take."""
    if asked.until is not None:
        return asked.until - time.time()
    usual = SECTIONS[NAMES.index(asked.section)].budget
    return usual if asked.budget is None else asked.budget


def _judge(endings: list[Ending]) -> int:
    """Print how the sections ended; status 1 where one failed, or what it states does."""
    statements = [
        Check(
            "sections",
            f"{ending.section.name}, seconds",
            ending.seconds,
            note=f"{ending.state}, {sum(check.holds is True for check in ending.checks)} hold, "
            f"{sum(check.holds is False for check in ending.checks)} fail",
        )
        for ending in endings
    ]
    print_table(statements, "how the sections ended")
    return 0 if all(ending.holds for ending in endings) else 1


def _usual_data() -> Path:
    """Below the folder that the tests read, where it is named."""
    return Path(os.environ.get("SHARPFLOW_DATA", ".")) / "data"


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
