"""Ctrl-C and termination that wait for the end of a chunk."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run that stopped between two chunks because it was asked to.

    Attributes:
      signal_number: of the signal that asked.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Stop:
    """Whether someone asked to stop.

    Attributes:
      signal_number: of the first signal that did, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None


@contextlib.contextmanager
def stop_between_chunks() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a request; a second one acts at once.

    A signal that the process was told to ignore stays ignored. Outside the main thread,
    where Python sets no handlers, signals act as they did.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        # The handlers go back at once, so that a second signal ends the program even where a chunk
        # hangs.
        stop.signal_number = number
        for kind, handler in before.items():
            signal.signal(kind, handler)

    handlers = {kind: signal.getsignal(kind) for kind in _SIGNALS}
    before = {kind: h for kind, h in handlers.items() if h not in (None, signal.SIG_IGN)}
    for kind in before:
        signal.signal(kind, ask)
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
