"""``python -m sharpflow`` is the command line."""

from sharpflow.experiments.cli import main

main()
