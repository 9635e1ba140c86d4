"""Flax modules, with their data, as Problems."""

from sharpflow.models.flax_adapter.adapter import LOSS, from_flax

__all__ = ["LOSS", "from_flax"]
