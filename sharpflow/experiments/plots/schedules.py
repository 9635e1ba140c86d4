"""Sharpness and threshold under schedules, measured and predicted."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sharpflow.experiments.plots import drawing

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_COLUMNS = 4


def schedules(courses: "xarray.Dataset", words: Mapping[str, str]) -> "Figure":
    """Draw one panel for each schedule.

    Args:
      courses: ``sharpness``, ``threshold``, and ``predicted_`` both, over (schedule, tau).
      words: of each schedule, for its title.

    Returns:
      The figure.
    """
    from matplotlib import pyplot

    count = len(words)
    rows = -(-count // _COLUMNS)
    with drawing.in_force():
        figure, axes = pyplot.subplots(
            rows, _COLUMNS, figsize=(7.4, 2.3 * rows), sharex=True, layout="constrained"
        )
        for ax in axes.flat[count:]:
            ax.set_axis_off()
        entries = {}
        for ax, (name, title) in zip(axes.flat, words.items(), strict=False):
            one = courses.sel(schedule=name)
            tau = one["tau"].values
            (entries["threshold, measured"],) = ax.plot(tau, one["threshold"], **drawing.BESIDE)
            (entries["sharpness on Γ, measured"],) = ax.plot(tau, one["sharpness"], **drawing.SOLID)
            for column in ("predicted_threshold", "predicted_sharpness"):
                (entries["predicted"],) = ax.plot(tau, one[column], **drawing.DASHED)
            ax.set_title(title)
            drawing.log_axis(ax, "y")
        for ax in axes.flat[max(count - _COLUMNS, 0) : count]:
            drawing.time_axis(ax)
            ax.tick_params(labelbottom=True)
        for ax in axes.flat[:count]:
            drawing.keep_tick_fonts(ax)
        drawing.legend_over(figure, entries)
    return figure
