"""Which images of CIFAR-10 the problems of the presets are made of."""

from typing import Any, Literal, get_args

import numpy as np

from sharpflow.models import data
from sharpflow.models.arguments import choice
from sharpflow.models.data import Images

HeldOut = Literal["test", "validation"]
HELD_OUT = choice(get_args(HeldOut))


def chosen_images(
    root: str,
    num_images: int | None,
    num_test_images: int | None,
    held_out: HeldOut,
    seed: int,
    download: bool,
) -> tuple[Images, Images]:
    """Images to train on and those held out, as many of each class as were asked for."""
    images, test = data.cifar10(root, download=download)
    train = _balanced(images, "num_images", num_images, seed)
    if held_out == "validation":
        test = images.without(train)
    # One seed for both sets is enough: no image is in both.
    return train, _balanced(test, "num_test_images", num_test_images, seed)


def image_record(train: Images, test: Images, held_out: HeldOut) -> dict[str, Any]:
    """Where the images of a problem come from and what was taken of them."""
    return {"train": train.source, held_out: test.source}


def pooled(x: np.ndarray, side: int) -> np.ndarray:
    """Images of means over squares, shape (n, h / side, w / side, c), of shape (n, h, w, c)."""
    num_images, height, width, channels = x.shape
    if height % side or width % side:
        raise ValueError(f"pool must divide {height} and {width}, got {side}")
    squares = x.reshape(num_images, height // side, side, width // side, side, channels)
    return squares.mean(axis=(2, 4))


def _balanced(images: Images, name: str, number: int | None, seed: int) -> Images:
    if not len(images.labels):
        raise ValueError(f"none of the images of {name} is there: {images!r}")
    if number is None:
        return images
    # A multiple of the number of classes, so that all are equally frequent: batch-normed logits
    # reach no other smoothed targets, and accuracies are then shares of one kind.
    classes = len(images.classes)
    if number < classes or number % classes:
        raise ValueError(f"{name} must be a positive multiple of {classes} classes, got {number}")
    return images.sample(number // classes, seed=seed, per_class=True)
