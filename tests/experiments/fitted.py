"""Grids of classifiers as simulate_grid makes them: fitted early, with known ends."""

import grids
import numpy as np

ROWS, FIT_ROW = 40, 4
DECAY = 0.01


def fitted(
    *, seeds=5, decays=(DECAY, 0.0), normalizations=("batch", "none"), rows=ROWS, spread=0.01,
    sharpness=True, predicted=False, noise=0.0, seed=0,
):  # fmt: skip
    """A grid that fits at a row; its accuracy rises with normalization and decay alone.

    Returns:
      With them test accuracy rises by 0.05 and test error falls by 0.1 from the fit to the last
      tenth of the records, up to the deviations of the seeds, normal with this spread.
    """
    rng = np.random.default_rng(seed)
    axes = {}
    if normalizations is not None:  # of the type that a run from a folder has
        kinds = np.array(normalizations, np.dtypes.StringDType())
        axes = {"normalization": kinds}
    made = grids.grid((seeds, 1, len(decays)), rows, rates=[0.1], decays=decays, axes=axes)
    made = made.drop_vars(["loss", "edge_ratio_iterate", "sharpness_iterate"])
    like = made["loss_mean"]
    row = np.broadcast_to(np.arange(rows), like.shape)
    learned = np.clip((row - FIT_ROW) / (0.9 * rows - FIT_ROW), 0.0, 1.0)
    before = np.clip(row / FIT_ROW, 0.0, 1.0)
    with_decay = np.array(decays).reshape(-1, *(1 for _ in axes), 1) > 0
    normalized = np.array([kind != "none" for kind in axes.get("normalization", ["batch"])])
    moves = with_decay & (normalized[:, None] if axes else True)
    base = rng.normal(scale=spread, size=(*like.shape[:-1], 1))
    own = rng.normal(scale=spread, size=(*like.shape[:-1], 1))
    shaken = noise * rng.normal(size=like.shape) * (row > FIT_ROW)
    share = learned * moves
    lift = 0.05 * share + own * learned + shaken
    made["train_accuracy"] = like.copy(data=0.1 + 0.9 * before)
    made["test_accuracy"] = like.copy(data=(0.1 + 0.3 * before) + base + lift)
    made["test_error"] = like.copy(data=3.0 - 1.9 * before - 2.0 * (base + lift))
    made["threshold"] = like.copy(data=7000.0 * np.exp(-2.0 * share) * (1.0 + base))
    made["loss_mean"] = like.copy(data=np.exp(-3.0 * before))
    if sharpness:
        measured = made["threshold"] * (0.3 + 0.7 * before) * np.where(moves, 1.0, 0.4)
        rarely = np.where(row % 3 == 0, measured, np.nan)
        made["sharpness_iterate"] = (
            (*like.dims, "sharpness_iterate_0"), np.stack([rarely, 0.5 * rarely], axis=-1),
        )  # fmt: skip
    return made.merge(_predictions(made)) if predicted else made


def _predictions(made):
    """Of the points with normalization and decay: what was measured, a little beside it."""
    predictions = grids.predictions(made, outputs=12)[
        ["prediction_status", "prediction_step", "prediction_kind"]
    ]
    step = predictions["prediction_step"]
    at = np.linspace(FIT_ROW, made.sizes["step"] - 1, step.sizes["output"]).astype(int)
    every = float(made["step"][1])
    predictions["prediction_step"] = step.copy(data=np.broadcast_to(every * at, step.shape))
    has = made["weight_decay"] > 0
    if "normalization" in made.dims:
        has = has & (made["normalization"] != "none")
    values = made["test_error"].isel(step=at).rename(step="output").drop_vars(["output", "tau"])
    predictions["predicted_test_error"] = (values * 0.98).where(has)
    predictions["prediction_status"] = predictions["prediction_status"].where(has, -1)
    return predictions
