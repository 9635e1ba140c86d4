"""What the presets record beside the columns that have a name."""

from sharpflow.simulator import Observable, sharpness

# A sharpness takes as long as some ten to fifty steps: at every fifth record it is a small part of
# a run, and twenty values draw a smooth line.
_EVERY = 5
# Relative: less than what a line in a figure is wide.
_TOLERANCE = 1e-2


def sharpness_at_times() -> Observable:
    """The column ``sharpness_iterate`` at every fifth record, to one part in a hundred."""
    return sharpness(every=_EVERY, tolerance=_TOLERANCE)


def midpoint_sharpness_at_times() -> Observable:
    """The column ``sharpness_midpoint`` at every fifth record, to one part in a hundred.

    Without most of the oscillation it is what a prediction of the average is to be set beside.
    """
    return sharpness(at="midpoint", every=_EVERY, tolerance=_TOLERANCE)
