"""The command line."""

import contextlib
import errno
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sharpflow.experiments.environment import (
    DEVICES,
    configure_jax,
    missing_platform,
    num_cores,
    printable_streams,
    start_cache,
    utf8_text,
)
from sharpflow.models.paths import user_path

# The status with which click, and most commands of Unix, refuse their arguments. 1 is left for a
# statement that fails and for a disk that does.
BAD_INPUT = 2
# What no other argument would mend: no room, no quota, a broken or a read-only disk. Any other
# error of the system comes from a path that was given, and counts as bad input.
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
# As a shell reports a program that a signal ended: 130 for Ctrl-C, 143 for SIGTERM.
STOPPED = 128  # plus the number of the signal

# Without typer's own tracebacks, which may print the values of local variables, here whole arrays.
app = typer.Typer(
    help="Gradient descent with weight decay on scale-invariant losses, beside its predicted flow.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

Progress = Annotated[
    bool | None,
    typer.Option(help="Show progress; by default on a terminal; run, predict and report always."),
]
Device = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(DEVICES)}; the best there is.")
]
CPUDevices = Annotated[
    int | None, typer.Option(min=1, help="jax devices to split a CPU into; one for each core.")
]


def _folder(meaning: str) -> Any:
    """A path as an option; no shell expands the ~ in ``--out=~/runs``."""
    return typer.Option(help=meaning, parser=user_path, metavar="PATH")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from sharpflow import __version__

        typer.echo(f"sharpflow {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(BAD_INPUT)


@app.command()
def demo(
    out: Annotated[Path, _folder("Folder for figures and numbers.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Smaller problems, a short run.")] = False,
    progress: Progress = None,
) -> None:
    """Run the main job: GD+WD trajectories set against the flow that predicts them."""
    _require_folder(out)
    configure_jax()
    with _failures():
        start_cache()
        # Imported here, so that --help and the other commands do not load what this one draws and
        # measures with.
        from sharpflow.experiments.demo.run import run_demo

        out.mkdir(parents=True, exist_ok=True)
        failed = run_demo(out, quick=quick, progress=progress)
    _judge(failed, out)


@app.command()
def validate(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="Which parts, or module:function; by default those of --list with *."),
    ] = None,
    out: Annotated[Path, _folder("Folder for figures and numbers.")] = Path("runs/validate"),
    list_: Annotated[bool, typer.Option("--list", help="List the parts and exit.")] = False,
    cpu_devices: CPUDevices = None,
    progress: Progress = None,
) -> None:
    """Measure what theory states, over ladders of ηλ; status 1 where a statement fails."""
    _require_folder(out)
    configure_jax(cpu_devices=num_cores() if cpu_devices is None else cpu_devices)
    with _failures():
        from sharpflow.experiments.validate.parts import PARTS
        from sharpflow.experiments.validate.run import run_validation

        if list_:
            rows = {f"{name}{' *' * part.default}": part.title for name, part in PARTS.items()}
            _print_list("part", "what it measures (* by default)", rows)
            return
        start_cache()
        checks = run_validation(parts or [], out, progress=progress)
    _judge(sum(check.holds is False for check in checks), out)


@app.command()
def run(
    config: Annotated[
        str | None, typer.Argument(help="TOML file or preset; a resume or a fork needs none.")
    ] = None,
    out: Annotated[Path | None, _folder("Folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as learning_rate=[0.1]."),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Go on from the points of this run.", parser=user_path, metavar="RUN"
        ),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option("--at", min=0, metavar="STEP", help="From this snapshot; else from the end."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the grid, its memory and its time.")
    ] = False,
    device: Device = None,
    cpu_devices: CPUDevices = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Share the grid among the cluster's processes.")
    ] = False,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Process 0, where no cluster tells.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, help="How many there are.")] = None,
    process_id: Annotated[int | None, typer.Option(min=0, help="Which of them this is.")] = None,
    progress: Progress = True,
) -> None:
    """Run a grid of seeds, learning rates and weight decays into a folder."""
    if device is not None and device not in DEVICES:
        _refuse(f"--device: got {device}; allowed are {', '.join(DEVICES)}")
    if out is None and not dry_run:
        _refuse("--out: name the folder of the run, as in --out runs/mine")
    if at is not None and from_ is None:
        _refuse(
            f"--at {at}: allowed beside --from RUN; --set fork.at={at} changes that of a config"
        )
    configure_jax(device, num_cores() if cpu_devices is None else cpu_devices)
    with _failures():
        from sharpflow.experiments.published import HEADS
        from sharpflow.experiments.run import describe, plan_config, resolved_config, run_config
        from sharpflow.simulator import join_processes

        named = (coordinator, num_processes, process_id)
        processes = None
        if distributed or any(value is not None for value in named):
            processes = join_processes(*named)
        folder = Path("runs") if out is None else out
        overrides = [utf8_text(override) for override in set_ or []]
        # Before the device is started: a config with mistakes is refused without waiting for a GPU,
        # and on a machine that has none.
        fork = {} if from_ is None else {"run": str(from_)} | ({} if at is None else {"at": at})
        resolved = resolved_config(config, overrides, folder, resume, fork)
        start_cache(device)
        if dry_run:
            typer.echo("\n".join(describe(resolved, plan_config(resolved))))
            return
        ended = run_config(
            resolved, folder, resume=resume, processes=processes, progress=bool(progress)
        )
    if ended.beside:
        _print_table(
            HEADS,
            [each.row for each in ended.beside],
        )
    typer.echo(f"{folder}: {ended.words}")


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="Of a run with snapshots.", parser=user_path)],
    kind: Annotated[
        str | None,
        typer.Option(help="sharpness_flow or central_flow; by default what applies to each point."),
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Of the prediction of one point.")
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Import and call the functions that the run's config names."),
    ] = False,
    device: Device = None,
    cpu_devices: CPUDevices = None,
    progress: Progress = True,
) -> None:
    """Predict every point of a run, and keep the predictions in its folder."""
    if device is not None and device not in DEVICES:
        _refuse(f"--device: got {device}; allowed are {', '.join(DEVICES)}")
    configure_jax(device, num_cores() if cpu_devices is None else cpu_devices)
    with _failures("by the same command"):
        from sharpflow.experiments.predict import predict_run

        given = {"kind": kind, "max_seconds": max_seconds}
        options = {name: value for name, value in given.items() if value is not None}
        start_cache(device)
        said = predict_run(folder, options, trust=trust, progress=bool(progress))
    typer.echo(f"{folder}: {said}")


@app.command("list")
def list_presets() -> None:
    """List the presets that `run` takes by name."""
    from sharpflow.experiments.config import presets

    _print_list("preset", "what one sees", presets())


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="Of a run, finished or not.", parser=user_path)],
    out: Annotated[Path | None, _folder("Folder for the figures; by default DIR/figures.")] = None,
    suffix: Annotated[str, typer.Option(help=".png, .pdf or .svg")] = ".png",
) -> None:
    """Draw heat maps over the grid of a run, and its seeds as bands."""
    configure_jax()
    with _failures():
        from sharpflow.experiments.plots.run import plot_run

        for path in plot_run(folder, out, suffix=suffix):
            typer.echo(path)


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="Of a run, a demo or a validation.", parser=user_path)
    ],
    out: Annotated[Path | None, _folder("File for the page; by default DIR/report.html.")] = None,
    predictions: Annotated[
        int | None,
        typer.Option(
            min=0, help="Points whose flow is integrated; by default one seed of each, 12 at most."
        ),
    ] = None,
    no_predictions: Annotated[
        bool, typer.Option("--no-predictions", help="Integrate no flow.")
    ] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Import and call the functions that the run's config names."),
    ] = False,
    progress: Progress = True,
) -> None:
    """Write one HTML page of a run: tables, figures, trajectories, provenance."""
    if no_predictions and predictions:
        _refuse(f"--predictions {predictions} and --no-predictions: allowed is one of them")
    configure_jax()
    with _failures():
        from sharpflow.experiments.report import write_report

        path = write_report(
            folder,
            out,
            predictions=0 if no_predictions else predictions,
            progress=progress,
            trust=trust,
        )
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _require_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        _refuse(f"--out: got the file {out}; allowed is a folder, made where it is missing")


def _judge(failed: int, out: Path) -> None:
    """Status 1 where statements fail."""
    if failed:
        said = "1 statement fails" if failed == 1 else f"{failed} statements fail"
        typer.echo(f"{said}: see {out / 'checks.json'}", err=True)
        raise typer.Exit(1)


def _print_list(name: str, meaning: str, rows: Mapping[str, str]) -> None:
    _print_table((name, meaning), list(rows.items()))


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*heads, box=box.HORIZONTALS, pad_edge=False)
    for row in rows:
        # what a column or an axis of somebody's is called is no markup
        table.add_row(*map(escape, row))
    Console().print(table)


@contextlib.contextmanager
def _failures(again: str = "with --resume") -> Iterator[None]:
    """Bad input exits with 2, a disk that fails with 1, a signal with 128 and its number.

    Functions of the user's that fail are bad input.

    Args:
      again: how what was stopped goes on.
    """
    from sharpflow.simulator import Interrupted, RunLockedError, StorageError

    try:
        yield
    except Interrupted as stopped:
        typer.echo(f"stopped; what was done is kept: go on {again}", err=True)
        raise typer.Exit(STOPPED + stopped.signal_number) from None
    except StorageError as error:
        typer.echo(f"error: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        said = error.strerror or str(error)
        message = said if error.filename is None else f"{error.filename}: {said}"
        if error.errno not in _OF_THE_DISK:
            _refuse(message)
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(1) from None
    except (ValueError, RunLockedError) as error:
        _refuse(_in_function_of_user(error) or str(error))
    # Bad input is any error in a function that the config names, and a device that was asked for
    # and is missing: where a backend does not start, jax raises RuntimeError or AssertionError in
    # words of its own. Anything else is a fault of ours and keeps its traceback.
    except Exception as error:
        told = _in_function_of_user(error)
        if told is None and isinstance(error, (RuntimeError, AssertionError)):
            told = missing_platform()
        if told is None:
            raise
        _refuse(told)


def _in_function_of_user(error: Exception) -> str | None:
    from sharpflow.experiments.config.mistakes import fault_of_user

    return fault_of_user(error)


def _refuse(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(BAD_INPUT)


def main() -> None:
    """Entry point of the command ``sharpflow``."""
    printable_streams()
    sys.exit(app())
