"""A progress bar that stays away where nobody watches."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(
    total: int, show: bool | None, description: str = "simulating"
) -> Iterator[Callable[[int], None]]:
    """Show how far a loop is; yields a function that advances it.

    Args:
      total: number of units of work.
      show: True or False, or None for a terminal only.
      description: what is going on.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    watched = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=watched) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
