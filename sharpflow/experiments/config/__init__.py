"""The configuration of a grid run, from a file, a preset and the command line."""

from sharpflow.experiments.config.loading import load
from sharpflow.experiments.config.mistakes import ConfigError
from sharpflow.experiments.config.published import Published
from sharpflow.experiments.config.resolved import Config, differences
from sharpflow.experiments.config.sources import presets

__all__ = ["Config", "ConfigError", "Published", "differences", "load", "presets"]
