"""A process that runs a scenario in a folder, as a user's script does; the tests kill it."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

PHASES = {
    "RunFolder.create": "creating",
    "CompiledChunk.__init__": "compiling",
    "engine.time_chunk": "timing",
    "RunFolder.save_checkpoint": "writing a checkpoint",
    "RunFolder.finish": "ending",
}
EVENTS = {"chunk": "computing", "computed": "writing records", "written": "between"}


def main(
    scenario: str,
    out: str,
    *,
    resume: bool = True,
    rows: int = 4,
    pieces: int = 2,
    slow: float = 0.0,
    gate: str | None = None,
    gate_at: int = 2,
    phases: str | None = None,
    join: list | None = None,
) -> None:
    """Run or resume a scenario.

    Args:
      scenario: name of it.
      out: the folder.
      resume: as in ``simulate_grid``.
      rows, pieces: of a chunk, and of a record.
      slow: seconds that each chunk takes longer.
      gate: file that is written at chunk ``gate_at``; the chunk runs once
        ``<gate>.open`` is there.
      phases: file that takes what the process is at, a line each.
      join: arguments of ``join_processes``, if there are several processes.
    """
    note = _noter(phases)
    note("importing")
    import jax

    jax.config.update("jax_enable_x64", True)
    import sharpflow as sf

    sys.path.insert(0, str(Path(__file__).parent))
    from scenarios import SCENARIOS, cut_short

    processes = None if join is None else sf.simulator.join_processes(*join)
    note("preparing")
    cut_short(setattr, rows=rows, pieces=pieces)
    _tell_phases(note)
    from sharpflow.simulator.host import watched

    delays = _delays(slow, None if gate is None else Path(gate), gate_at)
    with watched(delays), watched(lambda event, host: note(EVENTS.get(event, "between"))):
        sf.simulate_grid(**SCENARIOS[scenario](), out=out, resume=resume, processes=processes)
    note("over")


def _noter(path: str | None) -> Any:
    if path is None:
        return lambda phase: None
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda phase: os.write(file, phase.encode() + b"\n")


def _tell_phases(note: Any) -> None:
    from sharpflow.simulator.chunk import CompiledChunk
    from sharpflow.simulator.grid import engine
    from sharpflow.simulator.store.folder import RunFolder

    owners = {owner.__name__: owner for owner in (CompiledChunk, RunFolder)}
    owners["engine"] = engine
    entered = ["between"]
    for path, phase in PHASES.items():
        owner, _, name = path.partition(".")
        _wrap(owners[owner], name, phase, entered, note)


def _wrap(owner: Any, name: str, phase: str, entered: list[str], note: Any) -> None:
    function = getattr(owner, name)

    def noted(*arguments: Any, **keywords: Any) -> Any:
        entered.append(phase)
        note(phase)
        try:
            return function(*arguments, **keywords)
        finally:
            entered.pop()
            note(entered[-1])

    setattr(owner, name, noted)


def _delays(seconds: float, gate: Path | None, gate_at: int) -> Any:
    """What makes each chunk slower, and waits at the gate."""
    chunks, handler = 0, signal.getsignal(signal.SIGINT)

    def wait(event: str, host: Any) -> None:
        nonlocal chunks
        if event == "computed":
            time.sleep(seconds)
        if event != "saved":
            return
        if gate is not None and chunks == gate_at:
            gate.touch()
            while not gate.with_suffix(".open").exists():
                if signal.getsignal(signal.SIGINT) is handler:
                    gate.with_suffix(".asked").touch()  # a first signal was noted
                time.sleep(0.01)
        chunks += 1

    return wait


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    try:
        main(**arguments)
    except BaseException as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        raise
