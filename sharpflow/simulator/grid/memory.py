"""The memory of devices that a launch predicts and measures, noted with the run."""

from collections.abc import Sequence

import jax

from sharpflow.simulator.grid.compiled import CompiledChunk
from sharpflow.simulator.grid.layout import peak_memory
from sharpflow.simulator.store.folder import RunFolder


class Memory:
    """What the compiler foresees that a device holds, and the most that one has held.

    In a folder both are noted beside how the launch was made: once a batch is compiled, so that a
    launch that is killed leaves what was predicted, and when the launch ends, in whatever way.

    Args:
      devices: of this process.
      run: where it is noted; None keeps it here.

    Attributes:
      predicted: bytes of the largest batch, as of ``CompiledChunk.memory_bytes``.
    """

    def __init__(self, devices: Sequence[jax.Device], run: RunFolder | None = None) -> None:
        self.predicted = 0
        self._devices, self._run = devices, run

    def predict(self, chunk: CompiledChunk) -> None:
        """Count a batch that is about to run."""
        self.predicted = max(self.predicted, chunk.memory_bytes)
        self._note()

    @property
    def facts(self) -> dict[str, int]:
        """Both by their names; nothing measured where the devices do not tell it, as a CPU."""
        peak = peak_memory(self._devices)
        measured = {} if peak is None else {"peak_memory_bytes": peak}
        return {"predicted_memory_bytes": self.predicted} | measured

    def __enter__(self) -> None:
        """Nothing is known before a batch is compiled."""

    def __exit__(self, *error: object) -> None:
        if self.predicted:  # a launch that found nothing to do measured nothing
            self._note()

    def _note(self) -> None:
        if self._run is not None:
            self._run.add_to_launch(self.facts)
