"""The sections, what each may take, and what they are told."""

import dataclasses
import importlib
import sys
from pathlib import Path

from benchmarks.accelerator.record import Record, code_digest

FULL, TOY = "full", "toy"
SIZES = (FULL, TOY)


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the measurements that runs in a process of its own.

    Attributes:
      name: of it, and of its file.
      subject: in words.
      budget: seconds.
      module: in this package, with a function ``measure(record, settings)``.
    """

    name: str
    subject: str
    budget: float
    module: str


# The most important first; 465 seconds, which leaves 15 of eight minutes for the runner itself.
# Most of what a convolutional network takes is compiling: XLA tries several kernels of each
# convolution on the card. What a section has no time for, a second call adds.
SECTIONS = (
    Section("numbers", "the numbers of the CPU again", 88.0, "numbers"),
    Section("grid", "grids of small networks, beside PyTorch", 100.0, "grid"),
    Section("vgg11", "VGG-11 at full width", 105.0, "networks"),
    Section("resnet20", "ResNet-20 at full width", 30.0, "networks"),
    Section("poster", "the presets on CIFAR-10", 82.0, "poster"),
    Section("resume", "a run that is killed, and the flow", 60.0, "resume"),
)
NAMES = tuple(section.name for section in SECTIONS)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a section is told.

    Attributes:
      section: its name.
      size: ``"full"`` or ``"toy"``.
      out: folder of the results.
      data: folder with the images of CIFAR-10, as ``vgg11_cifar10`` takes it.
      peers: Python that has PyTorch, or may have it.
    """

    section: str
    size: str
    out: Path
    data: Path = Path("data")
    peers: Path = Path(sys.executable)

    @property
    def toy(self) -> bool:
        """Whether this is the rehearsal."""
        return self.size == TOY


def run_section(settings: Settings, budget: float) -> str:
    """Run a section in this process; how it ended.

    Everything of jax is imported here: the runner itself must not take the device.
    """
    from sharpflow.experiments.environment import configure_jax, start_cache
    from sharpflow.simulator.provenance import launch_provenance

    configure_jax()
    start_cache()
    section = SECTIONS[NAMES.index(settings.section)]
    made = launch_provenance() | {"code": code_digest(Path(__file__).parents[2])}
    path = settings.out / f"{section.name}.json"
    record = Record(path, section.name, settings.size, made, budget)
    measure = importlib.import_module(f"benchmarks.accelerator.{section.module}").measure
    record.close(unfinished=bool(measure(record, settings)))
    return record.state
