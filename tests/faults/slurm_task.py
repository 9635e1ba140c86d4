"""A task of a Slurm job: the command line, with chunks so short that a tiny run has many.

Started with the arguments of ``sharpflow``. Where the environment names a ``GATE``, the task makes
that file after its first chunk, and goes on once it was asked to stop.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from scenarios import cut_short

from sharpflow.experiments.cli import app
from sharpflow.simulator.host import watched


def wait_for_a_signal(event: str, host: Any) -> None:
    """After a chunk, until the first signal was noted: then signals act as they did before."""
    del host
    if event == "written":
        Path(f"{os.environ['GATE']}.{os.environ['SLURM_PROCID']}").touch()
        while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            time.sleep(0.01)


if __name__ == "__main__":
    cut_short(setattr)
    if "GATE" in os.environ:
        with watched(wait_for_a_signal):
            app(sys.argv[1:])
    app(sys.argv[1:])
