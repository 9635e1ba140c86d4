"""The page of a run: its grid, its curves, and what theory says of its points."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.config import load
from sharpflow.experiments.config.trust import modules_of_user
from sharpflow.experiments.grid_summary import time_dimension
from sharpflow.experiments.kept_figures import drawn_from
from sharpflow.experiments.plots.before import grid_before
from sharpflow.experiments.remade import Remade, remake
from sharpflow.experiments.report.before import records_before
from sharpflow.experiments.report.curves import all_curves
from sharpflow.experiments.report.figures import drawn
from sharpflow.experiments.report.generalization import generalization_part
from sharpflow.experiments.report.grid_table import grid_table
from sharpflow.experiments.report.kept_predictions import (
    kept_predictions,
    reasons_in_words,
    said_of_kept,
)
from sharpflow.experiments.report.measured import Measures, measure, remarks
from sharpflow.experiments.report.page import Figure, Page, Sphere, Table
from sharpflow.experiments.report.points import Records, records
from sharpflow.experiments.report.predicted import MOST, Prediction, chosen, predict_points
from sharpflow.experiments.report.published import published_table
from sharpflow.experiments.report.spheres import predicted_sphere, recorded_sphere
from sharpflow.experiments.report.statements import SETTLED, statement_table
from sharpflow.experiments.run import kinds_in_words, own_config
from sharpflow.models.files import read_json
from sharpflow.models.representation import size_in_words
from sharpflow.simulator import RunError, open_run
from sharpflow.simulator.store.folder import CONFIG_FILE, RunFolder
from sharpflow.simulator.store.reading import noted_memory

if TYPE_CHECKING:
    import xarray

_GDWD = "sharpflow.simulator.rules.gdwd:gdwd"
_MOST_SPHERES = 12


def run_page(folder: Path, predictions: int | None, progress: bool | None, *, trust: bool) -> Page:
    """The page of a folder that ``sharpflow run`` or ``simulate_grid(out=...)`` wrote.

    Args:
      folder: of the run, finished or not.
      predictions, progress, trust: as in ``write_report``.

    Raises:
      ValueError: the run is damaged.
    """
    run = RunFolder(folder)
    data = drawn_from(run)
    asked, dataset = run.description, open_run(run)
    time = time_dimension(dataset)
    points = records(dataset, time, asked.get("axes", {}))
    predicted, infimum, notes = _predictions(run, dataset, points, predictions, progress, trust)
    measures = _measures(points, asked, infimum)
    config, left_out = _config(run)
    described = _first_line(config)
    before, unknown = records_before(run, points)
    shown_curves, curve_note = all_curves(dataset, time, points, measures, predicted, before)
    earlier = grid_before(before, dataset)
    figures, figure_note = _figures(dataset, folder / "figures", data, earlier)
    generalization = generalization_part(dataset, figures)
    told = [] if generalization is None else generalization.figures
    published = published_table(dataset, config)
    return Page(
        title=f"sharpflow run: {folder.absolute().name}",
        sentence=described or _sentence(points, asked),
        facts=_facts(points, asked) | _ancestry(asked) | _memory(run),
        command=f"sharpflow run {CONFIG_FILE} --out NEW-FOLDER"
        if config is not None
        else "unknown: the config is left out"
        if left_out
        else "made from Python, by sharpflow.simulate_grid(..., out=...): there is no config",
        command_note=_importable(run) if config is not None else "",
        config=config,
        published=published,
        statements=_statements(measures, predicted, published),
        notes=[
            SETTLED,
            *remarks(dataset, measures, infimum, of_gdwd=_of_gdwd(asked)),
            *left_out,
            *unknown,
            *notes,
        ],
        grid=grid_table(dataset, points, predicted, curves=len(shown_curves["points"])),
        curves=shown_curves,
        curve_note=curve_note,
        spheres=_spheres(dataset, points, predicted),
        generalization=generalization,
        figures=[figure for figure in figures if figure not in told],
        figure_note=figure_note,
        provenance=_provenance(folder, dataset),
        reading="import sharpflow as sf\n\n"
        f"run = sf.open_run({run.path.name!r})\n"
        "print(run)\n\n"
        "# or, without this package:\n"
        "import xarray\n\n"
        f"run = xarray.open_zarr({run.path.name + '/data.zarr'!r}, chunks=None)",
    )


def _statements(
    measures: Sequence[Measures], predicted: Mapping[int, Prediction], published: Table | None
) -> Table | None:
    """The table of statements; none of a published setting of which they say nothing."""
    measured = any(np.isfinite(value) for point in measures for value in point.values())
    if published is not None and not measured and not predicted:
        return None
    return statement_table(measures, predicted)


def _predictions(
    run: RunFolder,
    dataset: "xarray.Dataset",
    points: Records,
    most: int | None,
    progress: bool | None,
    trust: bool,
) -> tuple[dict[int, Prediction], float | None, list[str]]:
    """The flows of some points, inf L where the problem is known, and what to say of both."""
    kept = kept_predictions(dataset, points, time_dimension(dataset))
    notes = said_of_kept(dataset, points, kept)
    if most == 0:
        without = "No flow was integrated: the report was made without predictions."
        return {}, None, [*notes, without]
    if kept:
        notes.append("The predictions are those of the folder, and no flow was integrated anew.")
    has_snapshots = "snapshot" in dataset.dims
    nothing = (
        "No snapshots of the parameters were recorded (snapshot_every): there is no predicted "
        "flow, and no trajectory on the sphere."
    )
    try:
        remade = remake(run, trust=trust)
        infimum = _infimum(remade, points)
    except ValueError as error:
        said = f"the problem was not made: {' '.join(str(error).split())}"
        unknown = f"The infimum of the loss is not known, since {said}"
        if kept:
            return kept, None, [*notes, unknown]
        if has_snapshots:
            return {}, None, [*notes, f"No flow could be integrated, since {said}"]
        return {}, None, [*notes, nothing, unknown]
    if kept:
        return kept, infimum, notes
    if not has_snapshots:
        # the infimum tells losses, for which no snapshot is needed
        made = "The problem was trusted and made again. " if trust else ""
        return {}, infimum, [*notes, f"{made}{nothing}"]
    usable = (points.status == 0) & (points.intrinsic_rate > 0)
    picked = {point: points.title(point) for point in chosen(usable.reshape(points.shape), most)}
    predicted, reasons = predict_points(remade, dataset, picked, progress)
    by = kinds_in_words(each.kind for each in predicted.values())
    which = (
        f"one seed of each combination of the other axes, {MOST} at most" if most is None else ""
    )
    notes.append(
        f"The flow was integrated for {len(predicted)} of {points.count} points"
        f"{': ' if which else ''}{which}{'; ' if by else ''}{', '.join(by)}."
    )
    if not usable.all():
        notes.append(
            "A point has no flow where it has not ended well, or its rule tells no flow time: "
            "gradient descent without weight decay has none."
        )
    notes += reasons_in_words(points, predicted, reasons)
    return predicted, infimum, notes


def _infimum(remade: Remade, points: Records) -> float:
    return float(remade.make(remade.axes.at(0)).loss_infimum)


def _measures(points: Records, asked: dict[str, Any], infimum: float | None) -> list[Measures]:
    of_gdwd = _of_gdwd(asked)
    return [
        measure(
            points.measured(point),
            points.step[point],
            (points.values["learning_rate"][point], points.values["weight_decay"][point])
            if of_gdwd
            else None,
            float(points.intrinsic_rate[point]),
            int(points.made[point]),
            infimum or 0.0,
        )
        for point in range(points.count)
    ]


def _of_gdwd(asked: dict[str, Any]) -> bool:
    """Whether the rule is GD+WD with constant rates; one with a schedule is another."""
    return bool(asked.get("optimizer") == _GDWD)


def _spheres(
    dataset: "xarray.Dataset", points: Records, predicted: dict[int, Prediction]
) -> list[Sphere]:
    if "snapshot" not in dataset.dims:
        return []
    if any(each.flow is not None for each in predicted.values()):
        made = [predicted_sphere(points.title(point), each) for point, each in predicted.items()]
    else:  # the folder of a run keeps what its flows say, and not their points
        picked = chosen((points.status == 0).reshape(points.shape), None)
        places = [dict(zip(points.axes, points.place(point), strict=True)) for point in picked]
        made = [
            recorded_sphere(points.title(point), dataset, place)
            for point, place in zip(picked, places, strict=True)
        ]
    return [sphere for sphere in made if sphere is not None][:_MOST_SPHERES]


def _figures(
    dataset: "xarray.Dataset", folder: Path, data: str, before: "xarray.Dataset | None"
) -> tuple[list[Figure], str]:
    try:
        return drawn(dataset, folder, data, before), ""
    except ValueError as error:
        return [], f"There are no figures: {error}"


def _facts(points: Records, asked: dict[str, Any]) -> dict[str, str]:
    pending = int((points.status == -1).sum())
    ended = int((points.status == 0).sum())
    first = points.step[:, 0]  # a fork counts the steps of the runs before it
    shape = " × ".join(
        f"{size} {name.replace('_', ' ')}"
        for name, size in zip(points.axes, points.shape, strict=True)
    )
    facts = {
        "points": f"{points.count}: {shape}",
        "status": f"{ended} success, {points.count - pending - ended} diverged, {pending} pending",
        "updates": f"{int((points.made - first).sum()):,} of {int((points.asked - first).sum()):,}",
        "optimizer": str(asked.get("optimizer", "?")).split(":")[-1],
        "parameters": f"{asked['num_parameters']:,}" if "num_parameters" in asked else "?",
    }
    if pending:
        facts["unfinished"] = (
            "This run has not ended. The report shows it as far as it is; sharpflow run --resume "
            "goes on with it."
        )
    return facts


def _ancestry(asked: dict[str, Any]) -> dict[str, str]:
    """The runs before a fork, the first one first."""
    fork = asked.get("fork")
    return {"goes on from": "; then ".join(fork["ancestry"])} if fork else {}


def _memory(run: RunFolder) -> dict[str, str]:
    """What a device was predicted to hold, and the most that one held; what is known of both."""
    noted = noted_memory(run)
    words = {"predicted_memory_bytes": "predicted", "peak_memory_bytes": "measured"}
    known = [
        f"{size_in_words(noted[name])} {word}" for name, word in words.items() if name in noted
    ]
    return {"memory of a device": ", ".join(known)} if known else {}


def _sentence(points: Records, asked: dict[str, Any]) -> str:
    return f"A grid of {points.count} trajectories of {asked.get('dtype', '')} parameters."


def _config(run: RunFolder) -> tuple[str | None, list[str]]:
    """The text of the config of the run, and why it is left out where it is not shown."""
    try:
        return own_config(run), []
    except RunError as error:
        return None, [f"The config is left out: {error}"]


def _importable(run: RunFolder) -> str:
    """What must be there for the command, where the config names modules of the user's."""
    try:
        modules = modules_of_user(load(str(run.path / CONFIG_FILE), check_functions=False))
    except ValueError:  # what is wrong with it is told where the problem is to be made
        return ""
    if not modules:
        return ""
    return (
        f"The config names functions of {', '.join(modules)}, and a run keeps no modules: where it "
        "is made again, these must lie in the folder of the config or in the working directory, "
        "or be installed."
    )


def _first_line(config: str | None) -> str:
    """The description in the config of the run."""
    import tomllib

    return "" if config is None else str(tomllib.loads(config).get("description", ""))


def _provenance(folder: Path, dataset: "xarray.Dataset") -> dict[str, dict[str, str]]:
    """How each launch was made; of a run whose launches are unknown what its arrays say."""
    path = folder / "provenance.json"
    try:
        launches = read_json(path)["launches"] if path.is_file() else []
        made = {
            f"Launch {number} of {len(launches)}": {name: str(v) for name, v in launch.items()}
            for number, launch in enumerate(launches, start=1)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    return made or {"The arrays": {str(name): str(value) for name, value in dataset.attrs.items()}}
