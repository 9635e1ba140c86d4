"""A folder that somebody sent is read without importing or calling what it names."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import reports

import sharpflow as sf
from sharpflow.experiments.config import load
from sharpflow.experiments.plots.run import plot_run
from sharpflow.experiments.report import write_report
from sharpflow.experiments.run import run_config
from sharpflow.models.files import digest
from sharpflow.simulator.store.description import read_description, write_description

CONFIG = """
problem = "sharpflow.models:matrix_completion"
seed = [0]
learning_rate = 0.5
weight_decay = 0.01
num_steps = 60
record_every = 10
snapshot_every = 2
dtype = "float64"
observables = ["loss", "threshold", "sharpness_iterate"]

[problem_options]
shape = [4, 3]
rank = 1
"""
CANARY = """
from pathlib import Path

import sharpflow as sf

(Path({place!r}) / "imported").touch()


def problem(**options):
    (Path({place!r}) / "called").touch()
    return sf.models.matrix_completion(shape=(4, 3), rank=1)


def start(key, learning_rate, weight_decay):
    (Path({place!r}) / "called").touch()
    return problem().init(key)


def optimizer(learning_rate, weight_decay):
    (Path({place!r}) / "called").touch()
    return sf.gdwd(learning_rate, weight_decay)
"""
MINE = """
import sharpflow as sf


def problem():
    return sf.models.matrix_completion(shape=(4, 3), rank=1)
"""
NAMED = {
    "a module in the folder": ("problem", '"canary:problem"'),
    "anything installed": ("problem", '"subprocess:run"'),
    "a start": ("start", '"canary:start"'),
    "an optimizer": ("optimizer", '"canary:optimizer"'),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of a preset's function, with snapshots."""
    base = tmp_path_factory.mktemp("sent")
    (base / "small.toml").write_text(CONFIG)
    run_config(load(base / "small.toml"), base / "run", resume=False, progress=False)
    return base / "run"


@pytest.fixture
def sent(whole, tmp_path, monkeypatch):
    """A copy of the run that is the working directory and holds a module that tells of itself."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "canary.py").write_text(CANARY.format(place=str(tmp_path)))
    monkeypatch.chdir(folder)
    for module in ("plots", "plots.run"):
        place = f"sharpflow.experiments.{module}.plot_grid"
        monkeypatch.setattr(place, lambda *arguments, **options: [])
    return folder


def _told(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir() if path.is_file())


def _with_config(folder: Path, text: str) -> None:
    """The folder with another config and seals that fit it, as its sender can make them."""
    (folder / "config.toml").write_text(text)
    described = read_description(folder / "run.json")
    write_description(
        folder / "run.json", described.grid, described.arrays, digest(folder / "config.toml")
    )


@pytest.mark.parametrize("what", NAMED)
def test_a_report_or_a_plot_imports_and_calls_nothing_that_a_config_names(sent, what):
    key, value = NAMED[what]
    kept = [line for line in CONFIG.splitlines() if not line.startswith(f"{key} =")]
    args = f'args = ["touch", "{sent.parent / "called"}"]' if "subprocess" in value else ""
    _with_config(sent, "\n".join([f"{key} = {value}", *kept, args]))
    page = reports.Page(write_report(sent))
    plot_run(sent)
    assert _told(sent) == []
    assert value.strip('"') in page.text and "was left alone" in page.text
    assert "--trust" in page.text
    # what was measured is there all the same
    assert page.column("grid-table", "status") == ["converged"]
    assert len(page.json("curves")["points"][0]["step"]) == 6


def test_a_reader_who_trusts_a_folder_gets_its_predictions(sent, monkeypatch):
    kept = CONFIG.replace("sharpflow.models:matrix_completion", "canary:problem")
    _with_config(sent, kept)
    monkeypatch.delitem(__import__("sys").modules, "canary", raising=False)
    page = reports.Page(write_report(sent, trust=True))
    assert _told(sent) == ["called", "imported"] and "was left alone" not in page.text
    assert "functions of canary, and a run keeps no modules: where it is made again" in page.text


def test_without_snapshots_trust_makes_the_problem_for_the_infimum_of_its_loss(
    tmp_path, monkeypatch
):
    text = CONFIG.replace("snapshot_every = 2\n", "")
    text = text.replace("sharpflow.models:matrix_completion", "of_the_sender:problem")
    text = text.partition("[problem_options]")[0].replace('"loss"', '"loss", "loss_mean"')
    (tmp_path / "of_the_sender.py").write_text(MINE)
    (tmp_path / "of_the_sender.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharpflow.experiments.plots.plot_grid", lambda *arguments, **options: [])
    run_config(load("of_the_sender.toml"), tmp_path / "run", resume=False, progress=False)
    unknown = "the problem was not made anew, so that its infimum is not known"
    left_alone, trusted = (
        reports.Page(write_report(tmp_path / "run", trust=trust)).text for trust in (False, True)
    )
    assert unknown in left_alone and "The infimum of the loss is not known, since" in left_alone
    assert "--trust" in left_alone and "No snapshots of the parameters" in left_alone
    assert unknown not in trusted
    assert "trusted and made again. No snapshots of the parameters were recorded" in trusted


def test_functions_of_presets_are_called_but_take_no_module_from_the_folder(sent):
    for name in ("rich", "sklearn", "optax"):
        (sent / f"{name}.py").write_text("raise SystemExit('taken from the folder')")
    page = reports.Page(write_report(sent))
    assert "The flow was integrated for" in page.text
    assert "left alone" not in page.text and "keeps no modules" not in page.text


def test_a_function_of_a_preset_fetches_nothing(sent):
    options = 'root = "."\ndownload = true\n'
    text = CONFIG.replace("sharpflow.models:matrix_completion",
                          "sharpflow.experiments.problems:vgg11_cifar10")  # fmt: skip
    _with_config(sent, text.partition("[problem_options]")[0] + f"[problem_options]\n{options}")
    page = reports.Page(write_report(sent))
    assert "problem_options.download = True" in page.text and "was left alone" in page.text


def test_a_config_that_is_not_that_of_the_run_is_left_out_and_not_called(sent):
    (sent / "config.toml").write_text(CONFIG.replace("0.01", "0.02"))
    page = reports.Page(write_report(sent, trust=True))
    assert "The config is left out" in page.text
    assert "not the one that the run was begun with" in page.text
    assert "weight_decay = 0.02" not in page.text and "No flow could be integrated" in page.text


def test_of_an_earlier_version_a_config_that_contradicts_the_run_is_left_out(sent):
    grid = read_description(sent / "run.json").grid
    (sent / "run.json").write_text(json.dumps({"format": 1, "grid": grid}))
    assert "The flow was integrated" in reports.Page(write_report(sent)).text
    stored = (sent / "config.toml").read_text().replace("0.01", "0.02").replace("60", "70")
    (sent / "config.toml").write_text(stored)
    page = reports.Page(write_report(sent))
    assert "which has another weight_decay, num_steps" in page.text


class _Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def _second_format(folder: Path) -> None:
    """Arrays in the second format of Zarr, one of which names a codec that unpickles."""
    shutil.rmtree(folder / "data.zarr")
    array = folder / "data.zarr" / "status"
    array.mkdir(parents=True)
    (folder / "data.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    metadata = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None,
                "fill_value": 0, "order": "C", "filters": [{"id": "pickle"}]}  # fmt: skip
    (array / ".zarray").write_text(json.dumps(metadata))
    (array / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["seed"]}')
    (array / "0").write_bytes(pickle.dumps([_Touch(folder.parent / "called"), [1]]))


def _metadata(change):
    def changed(folder: Path) -> None:
        path = folder / "data.zarr" / "zarr.json"
        root = json.loads(path.read_text())
        change(root["consolidated_metadata"]["metadata"])
        path.write_text(json.dumps(root))

    return changed


def _another_codec(arrays):
    arrays["loss"]["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})


def _another_place(arrays):
    arrays["../../../elsewhere"] = arrays["loss"]


def _another_grid(arrays):
    arrays["loss"]["chunk_grid"]["configuration"]["chunk_shape"] = [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_second_format, "zarr.json"),
        (_metadata(_another_codec), "numcodecs.pickle"),
        (_metadata(_another_place), "leads elsewhere"),
        (_metadata(_another_grid), "in chunks of"),
        (lambda folder: (folder / "data.zarr/zarr.json").write_text("[" * 100_000), "data.zarr"),
        (lambda folder: (folder / "run.json").write_text("[" * 100_000), "nested too deeply"),
    ],
)
def test_arrays_that_we_would_not_have_written_are_not_opened(sent, change, message):
    change(sent)
    if "run.json" not in message and (sent / "run.json").read_text()[0] == "{":
        grid = read_description(sent / "run.json").grid
        (sent / "run.json").write_text(json.dumps({"format": 1, "grid": grid}))
    for read in (sf.open_run, plot_run, write_report):
        with pytest.raises(sf.simulator.RunError, match=message):
            read(sent)
    assert _told(sent) == []
