"""Runs kept in folders."""

from sharpflow.simulator.store.folder import RunError, StorageError, open_run
from sharpflow.simulator.store.lock import RunLockedError

__all__ = ["RunError", "RunLockedError", "StorageError", "open_run"]
