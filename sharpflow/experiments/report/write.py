"""The report of a folder: what kind it is, and where its page goes."""

from pathlib import Path

from sharpflow.experiments.report.checked import checked_page
from sharpflow.experiments.report.page import Page
from sharpflow.experiments.report.render import render
from sharpflow.experiments.report.run import run_page
from sharpflow.experiments.report.size import fitted
from sharpflow.models.arguments import FLAG, INTEGER, PATH, checked, optional
from sharpflow.models.files import write_atomically
from sharpflow.models.paths import user_path

NAME = "report.html"


@checked(
    folder=PATH,
    out=optional(PATH),
    predictions=optional(INTEGER),
    progress=optional(FLAG),
    trust=FLAG,
)
def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    predictions: int | None = None,
    progress: bool | None = None,
    trust: bool = False,
) -> Path:
    """Write one HTML page that holds all of a run, and needs nothing beside it.

    A page of more than 8 MB has curves of fewer values, or of fewer points, and says so.

    Args:
      folder: what ``sharpflow run``, ``demo`` or ``validate`` wrote; a run need not be finished.
      out: the file; by default ``report.html`` in the folder. One of that name is replaced.
      predictions: of how many points of a run the flow is integrated, where snapshots of their
        params were recorded; by default one of each combination of the axes but the seed, twelve
        at most. The problem is made anew for it.
      progress: whether to show a bar; by default on a terminal.
      trust: whether the functions that the config of the run names are imported for that, from
        the working directory or from what is installed, and called. By default those of
        sharpflow's own presets alone are: the page of a folder that somebody sent runs no code
        of theirs, and says what it left out.

    Returns:
      The path of the page.

    Raises:
      ValueError: a folder that holds none of the three, or whose files are damaged; an ``out``
        that is a folder; ``predictions`` below 0. A RunError is one of these. A ConfigError
        or RuntimeError of a flow is not raised: the page says why the flow is not there.
      OSError: the file cannot be written.
    """
    folder = user_path(folder)
    if predictions is not None and predictions < 0:
        raise ValueError(f"predictions must be at least 0, got {predictions}")
    path = folder / NAME if out is None else user_path(out)
    if path.is_dir():
        raise ValueError(f"out must name a file, got the folder {path}")
    page = _page(folder, predictions, progress, trust)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = render(page).encode()
    smaller = fitted(page, len(content))
    if smaller is not page:
        content = render(smaller).encode()
    write_atomically(path, lambda file: file.write(content))
    return path


def _page(folder: Path, predictions: int | None, progress: bool | None, trust: bool) -> Page:
    if (folder / "run.json").is_file():
        return run_page(folder, predictions, progress, trust=trust)
    if (folder / "checks.json").is_file():
        return checked_page(folder)
    raise ValueError(
        f"{folder} holds nothing to report: name the folder of a run (run.json), of a demo or of "
        "a validation (checks.json)"
    )
