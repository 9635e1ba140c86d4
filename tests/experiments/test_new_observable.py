"""An observable from outside the package is one entry, whose words are shown everywhere."""

import jax.numpy as jnp
import numpy as np
import reports

import sharpflow as sf
from sharpflow.experiments import plots
from sharpflow.experiments.report import write_report

# all that somebody writes who records something new
TILT = sf.simulator.Observable(
    "tilt",
    lambda moment: jnp.abs(moment.params[1] / moment.params[0]),
    quantities=[
        sf.simulator.Quantity(
            "tilt",
            "tilt |w₁/w₀| of κ",
            "The absolute ratio of the first two parameters, |w₁/w₀|.",
            unit="1",
            reference=0.75,
            scale="linear",
        )
    ],
)


def test_its_label_is_in_the_dataset_on_figures_and_in_the_report(tmp_path, monkeypatch):
    problem = sf.Problem(
        init=lambda key: jnp.array([1.0, 3.0]),
        residual=lambda w: w / jnp.linalg.norm(w) - jnp.array([0.8, 0.6]),
    )
    grid = sf.simulate_grid(
        problem,
        seeds=[0],
        learning_rates=[0.1, 0.2],
        weight_decays=[0.01],
        num_steps=8,
        observables=["loss", TILT],
        out=tmp_path / "run",
    )
    (told,) = TILT.quantities
    assert grid["tilt"].attrs == told.attributes
    ax = plots.seed_bands(grid, "tilt")
    assert ax.get_ylabel() == r"tilt |w₁/w₀| of $\kappa$".replace("|w₁/w₀|", "$|w_1/w_0|$")
    assert 0.75 in [line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1]
    mesh, bar = plots.heat_map(grid, "tilt").figure.axes
    assert bar.get_ylabel() == ax.get_ylabel()
    norm = mesh.collections[0].norm
    np.testing.assert_allclose(norm.vmin + norm.vmax, 2 * 0.75)

    # the folder alone knows of it now
    monkeypatch.setattr("sharpflow.experiments.plots.plot_grid", lambda *_, **__: [])
    page = reports.Page(write_report(tmp_path / "run"))
    assert page.column("grid-table", f"last {told.label}")
    shown = page.json("curves")
    assert shown["labels"]["tilt"] == told.label
    (panel,) = [panel for panel in shown["panels"] if panel["columns"] == ["tilt"]]
    assert panel == {"title": told.label, "columns": ["tilt"], "log": False, "line": 0.75}
