"""Flax modules, with their data, as Problems."""

from sharpflow.models.flax_adapter.adapter import LOSSES, from_flax

__all__ = ["LOSSES", "from_flax"]
