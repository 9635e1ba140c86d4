"""Runs kept in folders."""

from sharpflow.simulator.store.errors import RunError, RunLockedError, StorageError
from sharpflow.simulator.store.reading import open_run

__all__ = ["RunError", "RunLockedError", "StorageError", "open_run"]
