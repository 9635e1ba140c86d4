"""Runs that are stopped between two chunks, as if by a signal."""

from contextlib import AbstractContextManager
from typing import Any

from sharpflow.simulator.host import watched
from sharpflow.simulator.interrupt import Interrupted


def stop_after(calls: int) -> AbstractContextManager[None]:
    """A context in which runs are stopped after so many chunks."""
    chunks = []

    def stop(event: str, host: Any) -> None:
        if event == "chunk":
            chunks.append(host)
            if len(chunks) > calls:
                raise Interrupted("as if by a signal", 15)

    return watched(stop)
