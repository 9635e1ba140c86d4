"""The record of what was read: which files, how much of them, of how much there is."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class FileRead:
    """A file and how many records of it were there.

    Attributes:
      name: of the file, without its folder, which differs between machines.
      found: records in it; 0 for a file that is not there.
      official: records of the complete file; None where there is no official number.
    """

    name: str
    found: int
    official: int | None = None


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where images come from.

    Attributes:
      dataset: its name.
      split: ``"train"``, ``"test"``, or empty where there is no such thing.
      files: what was read, in the order of the images.
      options: what else was asked for, such as which labels.
    """

    dataset: str
    split: str = ""
    files: tuple[FileRead, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def found(self) -> int:
        """Records in all files."""
        return sum(file.found for file in self.files)

    @property
    def official(self) -> int | None:
        """Records of the complete data set, where there is an official number."""
        numbers = [file.official for file in self.files if file.official is not None]
        return sum(numbers) if numbers else None

    def record(self) -> dict[str, Any]:
        """As dictionaries and lists, fit for JSON."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            **dict(self.options),
            "files": [dataclasses.asdict(file) for file in self.files],
            "found": self.found,
            "official": self.official,
        }

    def sentence(self) -> str:
        """One line: complete data in short, partial data file by file."""
        name = " ".join(part for part in (self.dataset, self.split) if part)
        if not self.files:
            return name
        if self.found == self.official:
            return f"{name}: all {self.official}"
        files = ", ".join(
            f"{file.name} {file.found}" + ("" if file.official is None else f" of {file.official}")
            for file in self.files
        )
        if self.official is None or len(self.files) == 1:
            return f"{name}: {files}"
        return f"{name}: {self.found} of {self.official}, {files}"
