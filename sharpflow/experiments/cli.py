"""The command line. Only here is process-wide jax configuration touched."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Gradient descent with weight decay on scale-invariant losses, beside its predicted flow.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


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
        raise typer.Exit(2)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for figures and numbers.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Smaller problems, a short run.")] = False,
    progress: Annotated[
        bool | None, typer.Option(help="Show progress bars; by default on a terminal.")
    ] = None,
) -> None:
    """Run the main job: GD+WD trajectories set against the flow that predicts them."""
    configure_jax()
    from sharpflow.experiments.demo.run import run_demo

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"--out {out}: {error.strerror}; choose a folder") from error
    failed = run_demo(out, quick=quick, progress=progress)
    if failed:
        typer.echo(f"{failed} of the statements fail: see {out / 'checks.json'}", err=True)
        raise typer.Exit(1)


def configure_jax() -> None:
    """Enable x64, single-threaded LAPACK and, on accelerators, a compilation cache.

    The threads of LAPACK wait for each other busily; beside those of jax they slow a
    small eigendecomposition down many times on a loaded machine. The cache lies in
    ``$SHARPFLOW_CACHE``, by default ``~/.cache/sharpflow/jax``. On a CPU jax prints
    pages of warnings about machine features whenever it reads one, so there is none.
    """
    import jax
    import matplotlib
    import scipy.linalg  # noqa: F401  its LAPACK must be loaded to be limited
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")
    matplotlib.use("agg")

    jax.config.update("jax_enable_x64", True)
    if jax.default_backend() == "cpu":
        return
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = os.environ.get("SHARPFLOW_CACHE") or str(Path(base) / "sharpflow" / "jax")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def main() -> None:
    """Entry point of the command ``sharpflow``."""
    sys.exit(app())
