"""Fisher information of wide random networks: which normalization takes the sharpness away."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.experiments.checks import Check, exponent_check
from sharpflow.experiments.plots.fisher import fisher_panels
from sharpflow.experiments.power_law import fit_power_law
from sharpflow.experiments.validate.findings import Findings
from sharpflow.models.networks import RandomNetwork
from sharpflow.models.progress import progress_bar
from sharpflow.simulator.quantities import RESULT, described
from sharpflow.simulator.quantity import Quantity, by_name
from sharpflow.theory.fisher import FisherSpectrum, fisher_spectrum
from sharpflow.theory.mean_field import fisher_prediction
from sharpflow.theory.status import Status

if TYPE_CHECKING:
    import xarray

TITLE = "Fisher information of wide random networks"

MODES: dict[str, dict[str, Any]] = {
    "none": {},
    "layer norm": {"normalization": "layer"},
    "batch norm, hidden layers": {"normalization": "batch"},
    "mean subtraction, last layer": {"output_normalization": "mean"},
    "batch norm, last layer": {"output_normalization": "batch"},
}
SHARP, FLAT = list(MODES)[:3], list(MODES)[3:]
# Factors of two over more than a decade, for the exponent. At 2048 the matrix of samples alone is
# four times as large, and one seed takes as long as all of these.
WIDTHS = (64, 128, 256, 512, 1024)
# On both sides of T = M, where the bounds cross over.
RATIOS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# The second largest, so that eight samples for each unit still fit: 4,096.
RATIO_WIDTH = 512
# As many as the narrowest network has units. The theory of few samples holds where the layers are
# at least four times as wide.
FEW_SAMPLES = 64
# Few, because each is one more row of the Jacobian for every sample.
NUM_OUTPUTS = 2
# As in the ladders: whether an exponent depends on the seed.
NUM_SEEDS = 3

# An eigenvalue lies within its residual, and seeds differ by more. A tenth would take more products
# for digits that no statement reads.
_TOLERANCE = 5e-3  # of a residual, in float32; the value itself is nearer
# Where no eigenvalue stands out, tr F² is a sum of very many like terms, which one random vector
# averages by itself. Where some do, ten times as many would not do, and the bound is left out.
_NUM_PROBES = 2
_PART = "Fisher spectrum"

_SERIES = {
    "equal": ("width", "at as many samples as the layers are wide, T = M"),
    "few": ("width", f"at {FEW_SAMPLES} samples"),
    "ratio": ("ratio", f"at the width M = {RATIO_WIDTH}"),
}
FISHER = by_name(
    RESULT["seed"],
    Quantity("mode", "normalization", "Which layers are normalized, and how.", unit="1"),
    Quantity("width", "width M", "The width M of the layers.", unit="1", symbol="M", scale="log"),
    Quantity(
        "ratio",
        "samples per width T/M",
        "The number of samples over the width, T/M.",
        unit="1",
        symbol="T/M",
        scale="log",
    ),
    *(
        Quantity(
            f"{kind}_{series}",
            label,
            f"{definition}, {where}.",
            unit="1",
            dims=("mode", along, *(() if kind == "predicted" else ("seed",))),
            reference=f"predicted_{series}" if kind == "largest" else None,
            scale="log",
        )
        for series, (along, where) in _SERIES.items()
        for kind, label, definition in (
            (
                "largest",
                "largest eigenvalue of F",
                "The largest eigenvalue of the Fisher information matrix F",
            ),
            (
                "upper_bound",
                "upper bound of the largest eigenvalue",
                "The square root of tr F², NaN where eigenvalues stand out",
            ),
            (
                "predicted",
                "predicted largest eigenvalue",
                "The largest eigenvalue of F, or its lower bound, by mean-field theory",
            ),
        )
    ),
    Quantity(
        "disagreement",
        "|Lanczos / dense − 1|",
        "The relative difference of the largest eigenvalue by Lanczos' method and from the dense "
        "matrix.",
        unit="1",
        dims=("mode",),
        reference=0.0,
        scale="log",
    ),
)


def run(progress: bool | None = None) -> Findings:
    """Measure λ_max of networks of depth 3 with ReLU, in five modes, against M and T.

    Args:
      progress: as in ``simulate``.

    Returns:
      The checks, the figure and the numbers.
    """
    equal = [(width, width) for width in WIDTHS]
    few = [(width, FEW_SAMPLES) for width in WIDTHS]
    ratios = [(RATIO_WIDTH, round(ratio * RATIO_WIDTH)) for ratio in RATIOS]
    # Each size once, although two series share some; from small to large, so that the progress
    # tells early whether all goes well.
    sizes = sorted({*equal, *few, *ratios}, key=lambda size: size[0] * size[1])
    spectra = {}
    with progress_bar(len(sizes) + 1, progress, "Fisher spectra") as display:
        for width, num_samples in sizes:
            spectra[width, num_samples] = _spectra(width, num_samples)
            display.advance(1, f", M = {width}, T = {num_samples}")
        disagreement = _lanczos_against_dense(128)
        display.advance(1, ", Lanczos against dense")
    numbers = _dataset(
        spectra, {"equal": (equal, WIDTHS), "few": (few, WIDTHS), "ratio": (ratios, RATIOS)}
    )
    numbers["disagreement"] = ("mode", disagreement)
    numbers = described(numbers, FISHER)
    return Findings(
        checks=_checks(numbers),
        figures={"fisher-largest-eigenvalue": fisher_panels(numbers)},
        numbers=numbers,
    )


def _spectra(width: int, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """λ_max and √tr F² of every mode and seed, shape (modes, seeds) each.

    The second is NaN where eigenvalues stand out, which a few probes cannot sum.
    """
    networks = _networks(width)

    @jax.jit
    def spectrum(key: jax.Array, mode: jax.Array) -> FisherSpectrum:
        weights_key, x_key = jax.random.split(key)
        params = networks[0].init(weights_key, jnp.float32)
        x = jax.random.normal(x_key, (num_samples, width), jnp.float32)
        # one program for all modes: compiling takes longer than running
        branches = [lambda p, network=network: network(p, x) for network in networks]
        return fisher_spectrum(
            lambda p: jax.lax.switch(mode, branches, p),
            params,
            method="iterative",
            tolerance=_TOLERANCE,
            num_probes=_NUM_PROBES,
        )

    largest, norms = np.empty((2, len(MODES), NUM_SEEDS))
    num_params = width * (width + 1) * 2 + (width + 1) * NUM_OUTPUTS
    for mode, seed in np.ndindex(largest.shape):
        result = spectrum(jax.random.key(seed), jnp.asarray(mode, jnp.int32))
        if int(result.status) != Status.SUCCESS:
            raise RuntimeError(
                f"M = {width}, T = {num_samples}, {list(MODES)[mode]}: "
                f"{Status(int(result.status)).message}"
            )
        largest[mode, seed] = result.values[0]
        norms[mode, seed] = np.sqrt(num_params * float(result.second_moment))
    norms[: len(SHARP)] = np.nan
    return largest, norms


def _networks(width: int) -> list[RandomNetwork]:
    return [RandomNetwork((width, width, width, NUM_OUTPUTS), **mode) for mode in MODES.values()]


def _lanczos_against_dense(width: int) -> np.ndarray:
    """Relative difference of λ_max by Lanczos' method and by J formed, in float64, T = M."""
    networks = _networks(width)
    params = networks[0].init(jax.random.key(0), jnp.float64)
    x = jax.random.normal(jax.random.key(1), (width, width), jnp.float64)

    @jax.jit
    def largest(mode: jax.Array) -> tuple[jax.Array, jax.Array]:
        branches = [lambda p, network=network: network(p, x) for network in networks]

        def outputs(p: Any) -> jax.Array:
            return jax.lax.switch(mode, branches, p)

        dense = fisher_spectrum(outputs, params, method="dense")
        iterative = fisher_spectrum(outputs, params, method="iterative")
        return dense.values[0], iterative.values[0]

    pairs = np.array([largest(jnp.asarray(mode, jnp.int32)) for mode in range(len(MODES))])
    return np.abs(pairs[:, 1] / pairs[:, 0] - 1.0)


def _dataset(spectra: dict, series: dict) -> "xarray.Dataset":
    """Measured and predicted λ_max of each series of sizes, along its own coordinate."""
    import xarray

    data: dict[str, Any] = {}
    for name, (sizes, _) in series.items():
        along = "ratio" if name == "ratio" else "width"
        for index, quantity in enumerate(("largest", "upper_bound")):
            values = np.stack([spectra[size][index] for size in sizes], axis=1)
            data[f"{quantity}_{name}"] = (("mode", along, "seed"), values)
        predicted = np.full((len(MODES), len(sizes)), np.nan)
        for index, options in enumerate(MODES.values()):
            for place, (width, num_samples) in enumerate(sizes):
                network = RandomNetwork((width, width, width, NUM_OUTPUTS), **options)
                prediction = fisher_prediction(network, num_samples)
                predicted[index, place] = prediction.lower_bound
        data[f"predicted_{name}"] = (("mode", along), predicted)
    return xarray.Dataset(
        data,
        coords={
            "mode": list(MODES),
            "width": np.array(WIDTHS),
            "ratio": np.array(RATIOS),
            "seed": np.arange(NUM_SEEDS),
        },
        attrs={
            "depth": 3,
            "activation": "relu",
            "num_outputs": NUM_OUTPUTS,
            "ratio_width": RATIO_WIDTH,
            "few_samples": FEW_SAMPLES,
        },
    )


def _checks(numbers: "xarray.Dataset") -> list[Check]:
    checks = [_exponent(numbers, "equal", "T = M", mode, low=0.7) for mode in SHARP]
    checks += [_exponent(numbers, "equal", "T = M", mode, high=0.2) for mode in FLAT]
    many = numbers.sel(width=numbers["width"] >= 4 * FEW_SAMPLES)
    checks += [_exponent(many, "few", f"T = {FEW_SAMPLES} ≤ M/4", mode, low=0.7) for mode in FLAT]
    for mode in SHARP:
        widest = numbers.sel(mode=mode).isel(width=-1)
        ratio = widest["largest_equal"] / widest["predicted_equal"]
        spread = f"{float(ratio.min()):.3f} to {float(ratio.max()):.3f}"
        statement = f"λ_max over prediction, M = T = {WIDTHS[-1]}: {mode}"
        checks.append(Check(_PART, statement, float(ratio.mean()), 0.9, 1.1, spread))
    for mode in FLAT:
        one = numbers.sel(mode=mode)
        low = float((one["largest_ratio"] / one["predicted_ratio"]).min())
        high = float((one["largest_ratio"] / one["upper_bound_ratio"]).max())
        checks.append(Check(_PART, f"λ_max over lower bound, least: {mode}", low, low=1.0))
        checks.append(Check(_PART, f"λ_max over upper bound, most: {mode}", high, high=1.0))
    worst = float(numbers["disagreement"].max())
    checks.append(Check(_PART, "Lanczos against dense, M = T = 128", worst, high=1e-6))
    return checks


def _exponent(
    numbers: "xarray.Dataset", series: str, samples: str, mode: str, **bounds: float
) -> Check:
    """The exponent of λ_max in M over all seeds."""
    largest = numbers[f"largest_{series}"].sel(mode=mode)
    widths = numbers["width"].broadcast_like(largest)
    fit = fit_power_law(widths.values.ravel(), largest.values.ravel())
    return exponent_check(_PART, f"exponent in M, {samples}: {mode}", fit, **bounds)
