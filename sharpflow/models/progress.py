"""Progress: a bar on a terminal, lines in a log, nothing where nobody asked."""

import collections
import contextlib
import datetime
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

# Between two lines in a log at least. The chunks of a simulation take about two seconds, and each
# has its line; shorter ones, as those at its end, and the pieces of a flow share one. A third of it
# would fill the log of a flow that takes an hour with a line for every half second.
_LINE_SECONDS = 1.5
# Times as long as by the mean rate since the beginning that the time left may be by the latter one.
# Work that slows down by more, as a flow that is about to give up, has no steady rate: its time
# left would be days in one line and nothing in the next. A third of it would leave out what is
# known of a flow that takes ever more eigenvalues.
_STEADY = 4.0

_COMPILING = "compiling"


class Display(Protocol):
    """What a loop tells whoever watches it."""

    def advance(self, count: float, note: str = "") -> None:
        """Tell of new work, and of anything else worth saying.

        Args:
          count: of units of work since the last call.
          note: appended as it is.
        """
        ...

    def say(self, words: str) -> None:
        """Tell what goes on until the next advance, which no signal stops.

        Args:
          words: such as ``"compiling"``, which every display begins with.
        """
        ...


class _Unseen:
    """A display that shows nothing."""

    def advance(self, count: float, note: str = "") -> None:
        """Nothing is shown."""

    def say(self, words: str) -> None:
        """Nothing is shown."""


UNSEEN: Display = _Unseen()


@contextlib.contextmanager
def progress_bar(
    total: float,
    show: bool | None,
    description: str = "simulating",
    *,
    done: float = 0,
    whole: str | None = None,
) -> Iterator[Display]:
    """Show how far a loop is, with its rate and the time left; and answer the first Ctrl-C.

    Python hears of a signal when compiled code, or the compiler, returns to it. A thread hears of
    it at once, and says what will happen. What does happen is for the handlers of the signal.

    Args:
      total: units of work to do, such as updates of all trajectories.
      show: True for a bar on a terminal and a line about every two seconds elsewhere, False for
        nothing, None for a bar on a terminal only.
      description: what is going on.
      done: units done before.
      whole: words for all of the work; by default its number of steps, which has a rate too.

    Yields:
      What shows it.
    """
    watched = sys.stderr.isatty()
    if not (watched if show is None else show):
        yield UNSEEN
        return
    clock = _Clock(total, done, rated=whole is None)
    if not watched:
        lines = _Lines(clock, description, f"{total:,} steps" if whole is None else whole)
        with answered_signals(lambda: lines.tell(_answer(clock))):
            yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = _Bar(shown, clock, description)
        with answered_signals(lambda: shown.console.print(_answer(clock))):
            yield bar


class _Clock:
    """How fast it goes and how long it takes.

    What comes before the first advance, which compiling is part of, does not count. The rate is
    that of the latter half of the time since then: work that gets slower, as a flow does where it
    is stiff, does not promise an early end for long. Where it gets much slower no time is told.

    Args:
      total, done: as of ``progress_bar``.
      rated: whether units are steps, whose rate means something.

    Attributes:
      doing: what goes on without an advance, in words; empty while pieces of work do.
    """

    def __init__(self, total: float, done: float, *, rated: bool) -> None:
        self.total, self.done, self.new, self.rated = total, done, 0.0, rated
        self.doing = ""
        self._marks: collections.deque[tuple[float, float]] = collections.deque()
        self._began = self._begun_with = 0.0

    def say(self, words: str) -> str:
        """Note what goes on; the same with what it has led to."""
        self.doing = words
        return words if self.new else f"{words} ..., nothing new is done yet"

    @property
    def share(self) -> float:
        """Of the whole."""
        return (self.done + self.new) / max(self.total, 1e-300)

    def advance(self, count: float) -> str:
        """Count new work; the rate and the time left in words, where they are known."""
        self.new += count
        self.doing = ""
        now = time.monotonic()
        marks = self._marks
        marks.append((now, self.new))
        if len(marks) == 1:
            self._began, self._begun_with = now, self.new
            return ""
        while len(marks) > 2 and now - marks[1][0] >= 0.5 * (now - self._began):
            marks.popleft()
        rate = (self.new - marks[0][1]) / max(now - marks[0][0], 1e-9)
        mean_rate = (self.new - self._begun_with) / max(now - self._began, 1e-9)
        left = (self.total - self.done - self.new) / max(rate, 1e-300)
        words = _duration_left(left) if mean_rate <= _STEADY * rate else "slowing down"
        return f"{rate:,.0f} steps/s, {words}" if self.rated else words


def _duration_left(seconds: float) -> str:
    """Seconds in words; what stands still has no number for them."""
    try:
        return f"{datetime.timedelta(seconds=round(seconds))} left"
    except OverflowError:
        return "no end in sight"


class _Bar:
    """A bar of rich's."""

    def __init__(self, shown: "object", clock: _Clock, description: str) -> None:
        self._shown, self._clock = shown, clock
        self._task = shown.add_task(  # type: ignore[attr-defined]
            description, total=clock.total, completed=clock.done, state=clock.say(_COMPILING)
        )

    def advance(self, count: float, note: str = "") -> None:
        self._shown.update(  # type: ignore[attr-defined]
            self._task, advance=count, state=self._clock.advance(count) + note
        )

    def say(self, words: str) -> None:
        state = self._clock.say(words)
        self._shown.update(self._task, state=state)  # type: ignore[attr-defined]


class _Lines:
    """Lines with the time of day."""

    def __init__(self, clock: _Clock, description: str, whole: str) -> None:
        self._clock, self._description, self._whole = clock, description, whole
        self._printed_at, self._told_end = time.monotonic(), False
        self.say(_COMPILING)

    def advance(self, count: float, note: str = "") -> None:
        state = self._clock.advance(count)
        now, ended = time.monotonic(), self._clock.share >= 1 and not self._told_end
        if not ended and now - self._printed_at < _LINE_SECONDS:
            return
        self._printed_at, self._told_end = now, self._told_end or ended
        share = self._clock.share
        words = ", ".join(part for part in (f"{share:.0%} of {self._whole}", state) if part)
        self.tell(words + note)

    def say(self, words: str) -> None:
        if words != self._clock.doing:
            self.tell(self._clock.say(words))

    def tell(self, words: str) -> None:
        _print_line(self._description, words)


def _print_line(description: str, words: str) -> None:
    now = datetime.datetime.now().strftime("%H:%M:%S")
    print(f"{now} {description}: {words}", file=sys.stderr, flush=True)


def told(words: str, show: bool | None, description: str) -> bool:
    """Tell something once where progress is shown; whether it is.

    Args:
      words: what is told, in a line of its own that stays.
      show, description: as of ``progress_bar``.
    """
    shown = sys.stderr.isatty() if show is None else show
    if shown:
        _print_line(description, words)
    return shown


def _answer(clock: _Clock) -> str:
    """What whoever sends the first signal is told."""
    if not clock.doing:
        return "asked to stop: the piece of work that runs ends first"
    done = "" if clock.new else "; nothing new is done yet"
    return f"asked to stop: {clock.doing} cannot be interrupted and ends first{done}"


@contextlib.contextmanager
def answered_signals(answer: Callable[[], None]) -> Iterator[None]:
    """Call a function in a thread of its own as soon as the first signal arrives.

    It changes no handler. The C library's handler writes the number of a signal that Python
    handles into a socket, also while the main thread is in compiled code, and a thread waits at
    its other end. Where another program listens in the same way, as the event loop of a notebook
    does, and outside the main thread, nothing is answered.

    Args:
      answer: called once at most.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            yield
            return

        def listen() -> None:
            # the end of the context writes a zero, which no signal has for its number
            if ours.recv(1) != b"\0":
                answer()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            with contextlib.suppress(BlockingIOError):
                theirs.send(b"\0")
            listener.join()
