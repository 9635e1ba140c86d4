"""The presets on CIFAR-10 for as long as the budget lasts, in folders for later calls.

It uses the command line alone, as a user does: ``sharpflow run --resume``, a signal when the
time is over, and ``sharpflow plot``.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import sharpflow as sf
from benchmarks.accelerator.images import cifar10_folder
from benchmarks.accelerator.record import Record, Values
from benchmarks.accelerator.sections import Settings
from sharpflow.experiments.checks import Check
from sharpflow.simulator.store.folder import RunFolder

PRESETS = ("vgg11-cifar10", "vgg11-cifar10-no-decay", "vgg11-cifar10-no-normalization")
# A small network in place of the presets: those take a minute to compile on a CPU.
TOY = ("mlp-digits-small",)
TOY_KEYS = (
    "num_steps=100",
    "record_every=25",
    "seed=[0]",
    "learning_rate=[0.3]",
    "weight_decay=[0.001]",
    'observables=["loss", "threshold"]',
    "problem_options.widths=[8]",
    "problem_options.num_images=20",
)
# Seconds for a preset, of which compiling may take half: in less nothing would be recorded. So a
# call of the usual budget goes on with one preset, that with the fewest steps.
LEAST = 45.0
DRAWING = 12.0  # seconds kept for the figures
PATIENCE = 8.0  # seconds from the signal to the end of a chunk, of about two, and its checkpoint
STOPPED = 128 + signal.SIGTERM


def measure(record: Record, settings: Settings) -> bool:
    """Go on with every preset; whether one of them has not ended."""
    toy = settings.toy
    keys: Sequence[str] = TOY_KEYS
    if not toy:
        root, images = cifar10_folder(settings.data, settings.out)
        record.note("images", images)
        keys = (f'problem_options.root="{root}"',)
    presets = TOY if toy else PRESETS
    pending = [preset for preset in presets if not record.values(preset).get("ended")]
    pending.sort(key=lambda preset: record.values(preset).get("step", -1))  # stable
    for number, preset in enumerate(pending):
        remaining = record.remaining - DRAWING
        seconds = remaining / max(min(len(pending) - number, int(remaining // LEAST)), 1)

        def measurement(preset: str = preset, seconds: float = seconds) -> tuple:
            return _gone_on(preset, keys, _folder(settings, preset), seconds - PATIENCE)

        record.measure(preset, measurement, seconds=LEAST + DRAWING, again=True)
    folders = {preset: _folder(settings, preset) for preset in presets}
    drawn = {p: f for p, f in folders.items() if record.values(p).get("records")}
    figures = settings.out / "figures"
    record.measure("figures", lambda: _drawn(drawn, figures, record), again=True)
    return not all(record.values(preset).get("ended") for preset in presets)


def _folder(settings: Settings, preset: str) -> Path:
    """Of the run of a preset; git ignores everything below ``runs``."""
    return settings.out / "runs" / preset


def _gone_on(
    preset: str, keys: Sequence[str], folder: Path, seconds: float
) -> tuple[Values, list[Check]]:
    """Run or resume a preset for some time; what its records say."""
    options = [word for key in keys for word in ("--set", key)]
    process = subprocess.Popen(
        [sys.executable, "-m", "sharpflow", "run", preset, "--out", str(folder), "--resume",
         "--no-progress", *options],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        _, errors = process.communicate(timeout=max(seconds, 0.0))
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            _, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:  # while it compiles it cannot stop
            process.kill()
            _, errors = process.communicate()
    if process.returncode not in (0, STOPPED, -signal.SIGKILL, -signal.SIGTERM):
        lines = errors.strip().splitlines() or [f"exit status {process.returncode}"]
        raise RuntimeError(f"sharpflow run {preset}: {lines[-1]}")
    values = {"ended": process.returncode == 0} | _last_record(folder)
    part, by = f"preset {preset}", _by_several(folder)
    checks = [
        Check(part, name, values[name], note=by)
        for name in ("step", "loss", "sharpness_iterate", "threshold", "train_accuracy",
                     "test_accuracy")
        if name in values
    ]  # fmt: skip
    return values, checks


def _by_several(folder: Path) -> str:
    """The commits whose launches made a run, where they are several; nothing for one."""
    launches = RunFolder(folder).launches()
    commits = dict.fromkeys(str(launch.get("git_revision")) for launch in launches)
    return f"by commits {', '.join(c[:12] for c in commits)}" if len(commits) > 1 else ""


def _last_record(folder: Path) -> Values:
    """Of the first point of a run; nothing but a count where it has none."""
    try:
        data = sf.open_run(folder)
    except ValueError:  # it was stopped while it compiled
        return {"records": 0}
    point = {name: 0 for name in data["loss"].dims if name != "step"}
    records = int(np.isfinite(data["loss"].isel(point)).sum())
    if not records:
        return {"records": 0}
    last = data.isel(point | {"step": records - 1})
    names = ("loss", "norm_squared", "threshold", "sharpness_iterate", "train_accuracy",
             "test_accuracy")  # fmt: skip
    found = {name: float(np.ravel(last[name])[0]) for name in names if name in last}
    return {"records": records, "step": int(last["step"])} | found


def _drawn(folders: dict[str, Path], figures: Path, record: Record) -> tuple[Values, list[Check]]:
    """Figures of every run, made side by side on the CPU; the accelerator has nothing to do."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = {
        preset: subprocess.Popen(
            [sys.executable, "-m", "sharpflow", "plot", str(folder), "--out",
             str(figures / preset)],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for preset, folder in folders.items()
    }  # fmt: skip
    for preset, process in processes.items():
        if process.wait(max(record.remaining, 0.0)) != 0:
            raise RuntimeError(f"sharpflow plot {preset}: exit status {process.returncode}")
    paths = sorted(str(path.relative_to(figures)) for path in figures.rglob("*.png"))
    return {"figures": paths}, [Check("figures", "number of them", len(paths))]
