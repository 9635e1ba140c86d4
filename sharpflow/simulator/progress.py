"""Progress: a bar on a terminal, lines in a log, nothing where nobody asked."""

import contextlib
import datetime
import sys
import time
from collections.abc import Iterator
from typing import Protocol


class Advance(Protocol):
    """Tells of new units of work, and of anything else worth saying."""

    def __call__(self, count: int, note: str = "") -> None: ...


@contextlib.contextmanager
def progress_bar(
    total: int, show: bool | None, description: str = "simulating", *, done: int = 0
) -> Iterator[Advance]:
    """Show how far a loop is, with its rate and the time left.

    Args:
      total: updates to make, of all trajectories.
      show: True for a bar on a terminal and a line for every advance elsewhere, False for
        nothing, None for a bar on a terminal only.
      description: what is going on.
      done: updates made before.

    Yields:
      A function that advances it.
    """
    watched = sys.stderr.isatty()
    if not (watched if show is None else show):
        yield lambda count, note="": None
        return
    if not watched:
        yield _lines(total, description, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done, state="")
        clock = _Clock(total, done)

        def advance(count: int, note: str = "") -> None:
            bar.update(task, advance=count, state=clock.advance(count) + note)

        yield advance


class _Clock:
    """How fast it goes and how long it takes; what comes before the first advance, which
    compiling is part of, does not count."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.new = total, done, 0
        self.began: tuple[float, int] | None = None

    def advance(self, count: int) -> str:
        self.new += count
        now = time.monotonic()
        if self.began is None:
            self.began = now, self.new
            return ""
        seconds, before = now - self.began[0], self.began[1]
        rate = (self.new - before) / max(seconds, 1e-9)
        left = round((self.total - self.done - self.new) / max(rate, 1e-9))
        return f"{rate:,.0f} steps/s, {datetime.timedelta(seconds=left)} left"


def _lines(total: int, description: str, done: int) -> Advance:
    clock = _Clock(total, done)

    def advance(count: int, note: str = "") -> None:
        state = clock.advance(count)
        share = (clock.done + clock.new) / max(total, 1)
        now = datetime.datetime.now().strftime("%H:%M:%S")
        words = ", ".join(part for part in (f"{share:.0%} of {total:,} steps", state) if part)
        line = f"{now} {description}: {words}{note}"
        print(line, file=sys.stderr, flush=True)

    return advance
