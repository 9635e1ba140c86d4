"""Labelled images that know where they come from, and subsets of them."""

import dataclasses
import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sharpflow.models.arguments import INTEGER, shown
from sharpflow.models.caller import warn_caller
from sharpflow.models.data.labels import require_labels
from sharpflow.models.data.origin import Origin
from sharpflow.models.data.standardization import Standardization, standardized


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Labelled images, standardised when asked for; unpacks as ``x, y = images``.

    What is kept are the pixels as they were read, hence a subset of a large set is
    taken before anything is converted. Like the pair (x, y), it takes ``[0]`` and ``[1]``;
    how many images there are, ``num_images`` says.

    Attributes:
      pixels: as read, uint8 or floating point, shape (n, h, w, c), or (n, d) for flat
        data.
      labels: integer classes, shape (n,), int64, keys of ``classes``.
      classes: label to name, of every class that may occur.
      origin: the files or arrays that were read.
      standardization: the constants of ``images``; None for pixels as they are.
      dtype: of ``images``, float32 or float64.
      indices: where each image stood in what was read, shape (n,).
      subsets: the subsets taken, in order, each as its rule with its arguments.

    Raises:
      ValueError: a label that is not among ``classes``.
    """

    pixels: np.ndarray
    labels: np.ndarray
    classes: Mapping[int, str]
    origin: Origin
    standardization: Standardization | None
    dtype: np.dtype
    indices: np.ndarray
    subsets: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        require_labels(self.labels, self.classes, "labels")
        for name in ("pixels", "labels", "indices"):
            # What a digest was taken of must not change under it.
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    @cached_property
    def images(self) -> np.ndarray:
        """Standardised images, shape of ``pixels``, of ``dtype``; read-only, kept."""
        images = standardized(self.pixels, self.standardization, self.dtype)
        images.flags.writeable = False
        return images

    @property
    def num_images(self) -> int:
        """n; there is no length, which of a pair would be 2."""
        return int(self.labels.size)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.images, self.labels))

    def __getitem__(self, part: int) -> np.ndarray:
        return (self.images, self.labels)[part]

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Images":
        """The images of these indices, in their order.

        Args:
          indices: distinct, from 0 to n − 1.

        Raises:
          ValueError: no index, one out of range, one twice, or not integers.
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or not chosen.size or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(
                "indices must be a sequence of integers, at least one, "
                f"got shape {chosen.shape} of dtype {chosen.dtype}"
            )
        outside = chosen[(chosen < 0) | (chosen >= self.num_images)]
        if outside.size:
            raise ValueError(
                f"indices must be within 0 and {self.num_images - 1}, got {outside[0]}"
            )
        values, counts = np.unique(chosen, return_counts=True)
        if values.size < chosen.size:
            raise ValueError(f"indices must be distinct, got {values[counts > 1][0]} twice")
        return self._taken(chosen, {"rule": "indices", "indices": chosen.tolist()})

    def first(self, n: int) -> "Images":
        """The first n images, with a warning where a class is then left without any.

        A network has an output for each class among the labels that it is trained on, so that one
        that is missing changes what is trained.

        Args:
          n: how many.

        Raises:
          ValueError: fewer than one, or more than there are.
        """
        n = _require_count(n, self.num_images, "there are")
        taken = self._taken(np.arange(n), {"rule": "first", "n": n})
        missing = [
            f"{self._called(label)} of {number}"
            for label, number in self.class_counts.items()
            if number and not taken.class_counts[label]
        ]
        if missing:
            warn_caller(
                f"the first {n} of {self.num_images} images have none of class "
                f"{', '.join(missing)}; sample(n, per_class=True) takes equally many of each class"
            )
        return taken

    def sample(self, n: int, *, seed: int = 0, per_class: bool = False) -> "Images":
        """Images drawn without replacement, in the order in which they stood.

        A smaller n with the same seed draws a part of the same images.

        Args:
          n: how many in all, or of each class.
          seed: the key of the random numbers, from 0 to 2⁶⁴ − 1.
          per_class: n of each of ``classes``, as normalized outputs want them.

        Raises:
          ValueError: n less than one or more than there are, of some class, or a seed
            out of range.
        """
        if not 0 <= operator.index(seed) < 2**64:
            raise ValueError(f"seed must be from 0 to 2**64 - 1, got {seed}")
        # Raw words of Philox, of which the n smallest win: NumPy keeps the bits of a
        # generator through all versions (NEP 19), but not what choice() makes of them.
        # One word for every image, in the order in which it stands. That is why a smaller n draws a
        # part of the same images, and a class keeps its images whichever others are there.
        words = np.random.Philox(key=operator.index(seed)).random_raw(self.num_images)
        chosen = []
        for positions, what in self._groups(per_class):
            n = _require_count(n, positions.size, what)
            chosen.append(positions[np.argsort(words[positions], kind="stable")[:n]])
        rule = {"rule": "sample", "n": n, "seed": operator.index(seed), "per_class": per_class}
        # In the order of the files, and not of the draw: batch norm does not see the order, and a
        # subset of a subset can be found again by its indices.
        return self._taken(np.sort(np.concatenate(chosen)), rule)

    def without(self, others: "Images") -> "Images":
        """The images that are not among others of the same source, such as those trained on.

        Args:
          others: a part of what this is a part of.

        Raises:
          ValueError: of another source, or no image is left.
        """
        if others.origin != self.origin:
            raise ValueError(
                f"others must come from what these images come from, got {others!r} beside {self!r}"
            )
        left = np.flatnonzero(~np.isin(self.indices, others.indices))
        if not left.size:
            raise ValueError(f"others must leave an image, and are all of {self!r}")
        # Which they are, their digest says: their indices may be many thousands.
        rule = {"rule": "without", "n": self.num_images - left.size, "sha256": others._sha256}
        return self._taken(left, rule)

    def keep(self, classes: Sequence[int]) -> "Images":
        """The images of some classes; labels stay what they are.

        Args:
          classes: labels, distinct, keys of ``classes``.

        Raises:
          ValueError: no class, an unknown one, one twice, or one without images.
        """
        kept = [operator.index(label) for label in classes]
        unknown = [label for label in kept if label not in self.classes]
        if unknown:
            raise ValueError(f"classes must be among {sorted(self.classes)}, got {unknown[0]}")
        if not kept or len(set(kept)) < len(kept):
            raise ValueError(f"classes must be distinct and at least one, got {kept}")
        counts = self.class_counts
        for label in kept:
            _require_count(1, counts[label], f"class {self._called(label)} has")
        chosen = np.flatnonzero(np.isin(self.labels, kept))
        names = {label: self.classes[label] for label in sorted(kept)}
        rule = {"rule": "keep", "classes": sorted(kept)}
        return dataclasses.replace(self._taken(chosen, rule), classes=names)

    @property
    def class_counts(self) -> dict[int, int]:
        """How many images each class has, of all that may occur."""
        return {label: int(np.sum(self.labels == label)) for label in self.classes}

    @property
    def source(self) -> dict[str, Any]:
        """Where the images come from and what was made of them, fit for JSON.

        What was found in the files and how much there officially is, the subsets, the
        constants of the standardisation, and ``sha256``: of shape and dtype, the
        pixels as read and the labels.
        """
        constants = self.standardization
        return {
            **self.origin.record(),
            "num_images": self.num_images,
            "subsets": [dict(rule) for rule in self.subsets],
            "standardization": None
            if constants is None
            else {"mean": list(constants.mean), "deviation": list(constants.deviation)},
            "dtype": str(self.dtype),
            "sha256": self._sha256,
        }

    def __repr__(self) -> str:
        shape = "x".join(str(length) for length in self.pixels.shape[1:])
        taken = "".join(f", {_sentence(rule)}" for rule in self.subsets)
        return (
            f"Images(n={self.num_images}, {shape}, {len(self.classes)} classes, "
            f"{self.origin.sentence()}{taken})"
        )

    @cached_property
    def _sha256(self) -> str:
        # In one byte order, so that the same images have the same digest on every machine.
        little = self.pixels.dtype.newbyteorder("<")
        digest = hashlib.sha256(f"{self.pixels.shape} {little.str}".encode())
        digest.update(np.ascontiguousarray(self.pixels, little).data)
        digest.update(np.ascontiguousarray(self.labels, "<i8").data)
        return digest.hexdigest()

    def _taken(self, chosen: np.ndarray, rule: dict[str, Any]) -> "Images":
        return dataclasses.replace(
            self,
            pixels=self.pixels[chosen],
            labels=self.labels[chosen],
            indices=self.indices[chosen],
            subsets=(*self.subsets, rule),
        )

    def _groups(self, per_class: bool) -> list[tuple[np.ndarray, str]]:
        """Positions to draw from, and how an error begins that says how many."""
        if not per_class:
            return [(np.arange(self.num_images), "there are")]
        return [
            (np.flatnonzero(self.labels == label), f"class {self._called(label)} has")
            for label in self.classes
        ]

    def _called(self, label: int) -> str:
        name = self.classes[label]
        return name if name == str(label) else f"{label} ({name})"


def _require_count(n: int, available: int, what: str) -> int:
    if not available:
        raise ValueError(f"{what} no images")
    if not INTEGER.fits(n) or not 1 <= n <= available:
        raise ValueError(
            f"n must be from 1 to {available}: {what} {available} images, got n={shown(n)}"
        )
    return operator.index(n)


def _sentence(rule: Mapping[str, Any]) -> str:
    if rule["rule"] == "indices":
        return f"{len(rule['indices'])} by index"
    if rule["rule"] == "first":
        return f"first {rule['n']}"
    if rule["rule"] == "keep":
        return f"classes {rule['classes']}"
    if rule["rule"] == "without":
        return f"without {rule['n']} others"
    return f"{rule['n']} {'of each class ' if rule['per_class'] else ''}by seed {rule['seed']}"
