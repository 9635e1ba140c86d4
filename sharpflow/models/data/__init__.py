"""Images and labels to train on."""

from sharpflow.models.data.digits import digits

__all__ = ["digits"]
